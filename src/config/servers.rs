//! Servers that have a name: how each is usually checked and reloaded.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Signal;

/// A server that `preset:` knows
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Preset")]
pub(super) enum Server {
    Apache,
    Caddy,
    Dovecot,
    Haproxy,
    Nginx,
    Postfix,
    Postgresql,
}

/// How a server is checked and reloaded where its package put everything
#[derive(Clone, Copy, Debug)]
pub(super) struct Preset {
    /// The check, where the server has one
    pub(super) check: Option<&'static [&'static str]>,
    /// The reload
    pub(super) reload: Usual,
}

/// The usual way to reload a server
#[derive(Clone, Copy, Debug)]
pub(super) enum Usual {
    Command(&'static [&'static str]),
    Signal { signal: Signal, process: &'static str, user: &'static str },
    Systemd(&'static str),
}

impl Server {
    pub(super) const fn preset(self) -> Preset {
        match self {
            Self::Apache => Preset {
                check: Some(&["apachectl", "configtest"]),
                reload: Usual::Command(&["apachectl", "graceful"]),
            },
            Self::Caddy => Preset {
                check: Some(&["caddy", "validate", "--config", "/etc/caddy/Caddyfile"]),
                // Without `--force`, an unchanged configuration is not loaded again, nor its files.
                reload: Usual::Command(&[
                    "caddy",
                    "reload",
                    "--force",
                    "--config",
                    "/etc/caddy/Caddyfile",
                ]),
            },
            Self::Dovecot => Preset {
                // Only with `-x` does it open the files, and one setting is all that it then prints.
                check: Some(&["doveconf", "-x", "protocols"]),
                reload: Usual::Command(&["doveadm", "reload"]),
            },
            Self::Haproxy => Preset {
                check: Some(&["haproxy", "-c", "-q", "-f", "/etc/haproxy/haproxy.cfg"]),
                // USR2 ends a HAProxy that is no master; the unit knows which it is.
                reload: Usual::Systemd("haproxy.service"),
            },
            Self::Nginx => Preset {
                check: Some(&["nginx", "-t"]),
                reload: Usual::Command(&["nginx", "-s", "reload"]),
            },
            Self::Postfix => Preset {
                check: Some(&["postfix", "check"]),
                reload: Usual::Command(&["postfix", "reload"]),
            },
            // It keeps the old certificate, and says so in its log alone, when it dislikes the new.
            Self::Postgresql => Preset {
                check: None,
                reload: Usual::Signal {
                    signal: Signal::Hup,
                    process: "postgres",
                    user: "postgres",
                },
            },
        }
    }
}
