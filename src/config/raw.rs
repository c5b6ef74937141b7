//! The file as it is written: a mirror of the YAML, from which its JSON Schema is made.
//!
//! Nothing here is required and nothing has a default, so that one missing key hides no other
//! mistake; `lower` knows both. The doc comments are what an editor shows beside each key.

mod shape;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::servers::Server;
use crate::config::{ChangeKind, Content, HttpMethod, KeyType, Signal, StartTls, Usage};

pub(super) use shape::{ArgvOr, Named, Number, OneOrMany, Text, TextOr, TextOrNumber};

// A span of time is text, but a number without a unit gets a better answer than "put it in quotes",
// and so does a mode.

/// Read a text whose every value has the right form; [`super::collect`] finds out why not
pub(super) fn read(text: &str) -> Result<RawConfig, serde_yaml::Error> {
    serde_yaml::from_str(text)
}

/// What certkeep keeps: the CAs to ask, and the certificates that this host needs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "certkeep configuration")]
pub(super) struct RawConfig {
    /// Directory for accounts, keys and records. It must survive a reboot.
    #[schemars(extend("default" = "/var/lib/certkeep"))]
    pub(super) state_dir: Option<Text>,
    /// Accept a state directory that a reboot empties, such as one on tmpfs.
    #[schemars(extend("default" = false))]
    pub(super) allow_volatile_state: Option<bool>,
    /// Accept a configuration without any certificate, which otherwise is an error.
    #[schemars(extend("default" = false))]
    pub(super) allow_empty: Option<bool>,
    /// The CAs, by names of your choice.
    pub(super) issuers: Option<Named<RawIssuer>>,
    /// What holds for every certificate that does not say otherwise.
    pub(super) defaults: Option<RawDefaults>,
    /// The certificates, by names of your choice. A name appears in logs, metrics and commands.
    pub(super) certificates: Option<Named<RawCertificate>>,
}

/// A CA and the account to use there.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Issuer")]
pub(super) struct RawIssuer {
    /// The CA: `letsencrypt`, `letsencrypt-staging`, `zerossl`, `google`, `google-staging`,
    /// `sslcom` (its directory for ECDSA keys), `actalis`, or the https URL of any ACME directory.
    #[schemars(
        required,
        extend("examples" = [
            "letsencrypt", "letsencrypt-staging", "zerossl", "google", "google-staging", "sslcom",
            "actalis", "https://ca.internal:9000/acme/acme/directory"
        ])
    )]
    pub(super) directory: Option<Text>,
    /// The CA's directory for tests, which `renew --rehearse` asks: a name, a URL, or a map.
    /// `letsencrypt` and `google` know theirs.
    #[schemars(extend("examples" = ["letsencrypt-staging"]))]
    pub(super) staging: Option<TextOr<RawStaging>>,
    /// That you have read the CA's terms of service and agree to them. Must be `true`.
    #[schemars(required, extend("const" = true))]
    pub(super) accept_terms: Option<bool>,
    /// E-mail addresses that the CA may write to.
    pub(super) contact: Option<Vec<Text>>,
    /// PEM file with the roots that vouch for the CA's own HTTPS, and for that of the `proxy`, in
    /// place of the system's.
    pub(super) ca_file: Option<Text>,
    /// Accept plain http, to a loopback address only: for a CA in a test.
    #[schemars(extend("default" = false))]
    pub(super) insecure_loopback: Option<bool>,
    /// Other hosts that the CA's URLs may lead to, beside the directory's own.
    pub(super) allowed_hosts: Option<Vec<Text>>,
    /// External account binding: what the CA gave you to tie the account to you.
    pub(super) eab: Option<RawEab>,
    /// The certificate profile to ask for: its name, or a map with `name` and `required`.
    pub(super) profile: Option<TextOr<RawProfile>>,
    /// URL of the HTTP proxy for this CA. Without it the proxy of the environment is used, whose
    /// URL may hold a password.
    pub(super) proxy: Option<Text>,
}

/// A CA's directory for tests, where it wants to be spoken to in another way than the real one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Staging")]
pub(super) struct RawStaging {
    /// The directory: a name, or an https URL.
    #[schemars(required, extend("examples" = ["google-staging"]))]
    pub(super) directory: Option<Text>,
    /// PEM file with the roots that vouch for its HTTPS. Without it the issuer's own is used.
    pub(super) ca_file: Option<Text>,
    /// External account binding there. Without it the issuer's own is used where the issuer has this
    /// very directory.
    pub(super) eab: Option<RawEab>,
}

/// What a CA gave out to bind an account. The key itself is never written in this file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Eab", extend("oneOf" = [
    { "required": ["hmac_key_file"] },
    { "required": ["hmac_key_credential"] },
    { "required": ["hmac_key_env"] }
]))]
pub(super) struct RawEab {
    /// The key identifier.
    #[schemars(required)]
    pub(super) key_id: Option<Text>,
    /// File that holds the MAC key, in base64url as the CA shows it.
    pub(super) hmac_key_file: Option<Text>,
    /// Name of the systemd credential that holds the MAC key.
    pub(super) hmac_key_credential: Option<Text>,
    /// Name of the environment variable that holds the MAC key.
    pub(super) hmac_key_env: Option<Text>,
}

/// A certificate profile of the CA.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Profile")]
pub(super) struct RawProfile {
    /// The profile's name at the CA, such as `tlsserver`.
    #[schemars(required)]
    pub(super) name: Option<Text>,
    /// Pass over a CA that does not have it, instead of leaving the choice to the CA.
    #[schemars(extend("default" = false))]
    pub(super) required: Option<bool>,
}

/// What holds for every certificate that does not say otherwise.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Defaults")]
pub(super) struct RawDefaults {
    /// The issuer to ask, or several in order.
    pub(super) issuer: Option<OneOrMany>,
    /// The kind of key.
    #[schemars(extend("default" = "ecdsa-p256"))]
    pub(super) key: Option<KeyType>,
    /// How control over the names is proven.
    pub(super) challenge: Option<RawChallenge>,
    /// The certificate profile to ask for, before the issuer's own.
    pub(super) profile: Option<TextOr<RawProfile>>,
    /// When certificates are due.
    pub(super) renew: Option<RawRenew>,
    /// Which old generations are kept, for a way back.
    pub(super) keep: Option<RawKeep>,
    /// How long the steps of a deployment may take.
    pub(super) deploy: Option<RawDeployDefaults>,
}

/// How long the steps of a deployment may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "DeployDefaults")]
pub(super) struct RawDeployDefaults {
    /// How long a check or a reload may run, such as `30s`.
    #[schemars(with = "Option<Text>", extend("default" = "60s"))]
    pub(super) timeout: Option<TextOrNumber>,
    /// How long after the reload an endpoint may still serve the old certificate.
    #[schemars(with = "Option<Text>", extend("default" = "60s"))]
    pub(super) within: Option<TextOrNumber>,
}

/// One certificate: what it is for, where it goes, and what must load it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Certificate", extend("oneOf" = [
    { "required": ["dir"] },
    { "required": ["files"] },
    { "required": ["targets"] }
]))]
pub(super) struct RawCertificate {
    /// The DNS names and IP addresses that it vouches for. IDN may be written as they are spoken.
    #[schemars(required, extend("minItems" = 1))]
    pub(super) names: Option<Vec<Text>>,
    /// The kind of key. A fresh one is made for each renewal.
    #[schemars(extend("default" = "ecdsa-p256"))]
    pub(super) key: Option<KeyType>,
    /// The issuer to ask, or several in order. May be left out when there is only one.
    pub(super) issuer: Option<OneOrMany>,
    /// The certificate profile to ask for: its name, or a map with `name` and `required`.
    pub(super) profile: Option<TextOr<RawProfile>>,
    /// How control over the names is proven.
    pub(super) challenge: Option<RawChallenge>,
    /// When it is due. Without it: when the CA suggests, at the latest with a third of its
    /// lifetime left.
    pub(super) renew: Option<RawRenew>,
    /// Which old generations are kept, for a way back.
    pub(super) keep: Option<RawKeep>,
    /// A directory that certkeep fills and switches as a whole: its path, or a map. By default it
    /// holds `cert.pem`, `chain.pem`, `fullchain.pem` and `privkey.pem`.
    pub(super) dir: Option<TextOr<RawDir>>,
    /// Files at any paths. Each becomes a symlink; all are switched at once.
    #[schemars(extend("minItems" = 1))]
    pub(super) files: Option<Vec<RawFile>>,
    /// Keep regular files at the paths of `files` instead of symlinks, replaced one after the
    /// other: for chroots, bind mounts and the like.
    #[schemars(extend("default" = false))]
    pub(super) copy: Option<bool>,
    /// What makes servers use the files, and where that is seen.
    pub(super) deploy: Option<RawDeploy>,
    /// Several places in place of one `dir` or `files`, each with its own deployment.
    #[schemars(extend("minItems" = 1))]
    pub(super) targets: Option<Vec<RawTarget>>,
    /// Deploy to the `targets` one after the other: the next only after the previous one is live.
    #[schemars(extend("default" = false))]
    pub(super) serial: Option<bool>,
    /// What a new certificate must be before it takes the place of one that works.
    pub(super) gate: Option<RawGate>,
}

/// One of several places where a certificate goes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Target", extend("oneOf" = [
    { "required": ["dir"] },
    { "required": ["files"] }
]))]
pub(super) struct RawTarget {
    /// A name of your choice, which appears in logs and commands.
    #[schemars(required, extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"))]
    pub(super) name: Option<Text>,
    /// A directory that certkeep fills and switches as a whole, as in a certificate.
    pub(super) dir: Option<TextOr<RawDir>>,
    /// Files at any paths, switched together, as in a certificate.
    #[schemars(extend("minItems" = 1))]
    pub(super) files: Option<Vec<RawFile>>,
    /// Keep regular files at the paths of `files` instead of symlinks.
    #[schemars(extend("default" = false))]
    pub(super) copy: Option<bool>,
    /// What makes this place's servers use the files, and where that is seen.
    pub(super) deploy: Option<RawDeploy>,
}

/// What a new certificate must be before it takes the place of one that works.
///
/// What is required or forbidden holds a deployment back until a twelfth of the life of the
/// certificate in place is left.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Gate")]
pub(super) struct RawGate {
    /// PEM file with the roots that its chain must lead to. Without it any root will do.
    pub(super) roots: Option<Text>,
    /// What it must be.
    pub(super) require: Option<RawRequire>,
    /// How it must not differ from the one in place.
    #[schemars(extend("default" = ["lost-names"]))]
    pub(super) forbid: Option<Vec<ChangeKind>>,
    /// Hold it back even when the one in place is about to expire.
    #[schemars(extend("default" = false))]
    pub(super) hard: Option<bool>,
}

/// What a certificate must be.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Require")]
pub(super) struct RawRequire {
    /// Purposes that it must be good for (extended key usage).
    #[schemars(extend("minItems" = 1))]
    pub(super) usage: Option<Vec<Usage>>,
    /// How long it must be good for in all, such as `30d`.
    #[schemars(with = "Option<Text>", extend("examples" = ["30d"]))]
    pub(super) lifetime: Option<TextOrNumber>,
}

/// How control over the names is proven.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Challenge")]
pub(super) struct RawChallenge {
    /// A file that the CA fetches over HTTP from port 80 of every name.
    #[serde(rename = "http-01")]
    #[schemars(required)]
    pub(super) http_01: Option<RawHttp01>,
}

/// Who answers the CA: certkeep's own listener, or a web server that serves `webroot`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Http01", extend("maxProperties" = 1))]
pub(super) struct RawHttp01 {
    /// Address and port of certkeep's own listener, open only while a challenge is pending.
    #[schemars(extend("default" = "[::]:80"))]
    pub(super) listen: Option<Text>,
    /// Directory from which a web server answers `/.well-known/acme-challenge/` of every name.
    pub(super) webroot: Option<Text>,
}

/// When a certificate is due, apart from what the CA suggests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Renew")]
pub(super) struct RawRenew {
    /// How much life is left when it is due: `30d`, `6h`, or a share of its lifetime such as
    /// `33%`. A span of more than three quarters of it is passed over.
    #[schemars(with = "Option<Text>", extend("examples" = ["33%", "30d", "6h"]))]
    pub(super) before: Option<TextOrNumber>,
    /// How old a key may become, such as `90d`.
    #[schemars(with = "Option<Text>", extend("examples" = ["90d"]))]
    pub(super) key_max_age: Option<TextOrNumber>,
}

/// Which old generations are kept: one goes when both allow it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Keep")]
pub(super) struct RawKeep {
    /// How many at least, beside those in use.
    #[schemars(extend("default" = 5, "minimum" = 1, "maximum" = 1000))]
    pub(super) generations: Option<Number>,
    /// How long each at least, such as `90d`. Without it their number alone counts.
    #[serde(rename = "for")]
    #[schemars(with = "Option<Text>", extend("examples" = ["90d"]))]
    pub(super) at_least: Option<TextOrNumber>,
}

/// A directory that certkeep fills and switches as a whole.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Dir")]
pub(super) struct RawDir {
    /// The directory.
    #[schemars(required)]
    pub(super) path: Option<Text>,
    /// What it holds. By default `cert`, `chain`, `fullchain` and `key`.
    #[schemars(extend("minItems" = 1))]
    pub(super) contents: Option<Vec<Content>>,
    /// Permission bits of every file, in quotes, such as `"0640"`. By default `"0600"` for files
    /// with the key and `"0644"` for the others.
    #[schemars(with = "Option<Text>", extend("pattern" = "^0?[0-7]{3}$"))]
    pub(super) mode: Option<TextOrNumber>,
    /// Owner of every file, by name or number.
    pub(super) owner: Option<TextOrNumber>,
    /// Group of every file, by name or number.
    pub(super) group: Option<TextOrNumber>,
}

/// One file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "File", extend("anyOf" = [
    { "required": ["content"] },
    { "required": ["format"], "properties": { "format": { "const": "pkcs12" } } }
]))]
pub(super) struct RawFile {
    /// Where it is.
    #[schemars(required)]
    pub(super) path: Option<Text>,
    /// What is in it: one word, or `key`, `cert`, `chain` and `fullchain` in a list of any order.
    /// May be left out for `pkcs12`.
    pub(super) content: Option<OneOrMany<Content>>,
    /// How it is written. `der` is for `cert` or `key` alone, `pkcs12` for key and chain in one
    /// encrypted file.
    #[schemars(extend("default" = "pem"))]
    pub(super) format: Option<RawFormat>,
    /// How a private key that is not encrypted is written: `pkcs8`, or `traditional` (SEC1 or
    /// PKCS#1) for servers that know nothing newer.
    #[schemars(extend("default" = "pkcs8"))]
    pub(super) key_format: Option<RawKeyFormat>,
    /// File with the password, which `pkcs12` must have and with which `content: key` is encrypted.
    pub(super) password_file: Option<Text>,
    /// Name of the systemd credential that holds the password.
    pub(super) password_credential: Option<Text>,
    /// Name of the environment variable that holds the password.
    pub(super) password_env: Option<Text>,
    /// What the entry of a `pkcs12` file is called. By default the certificate's name.
    pub(super) alias: Option<Text>,
    /// Permission bits in quotes, such as `"0640"`. By default `"0600"` for a file with the key
    /// and `"0644"` for any other.
    #[schemars(with = "Option<Text>", extend("pattern" = "^0?[0-7]{3}$"))]
    pub(super) mode: Option<TextOrNumber>,
    /// Owner, by name or number.
    pub(super) owner: Option<TextOrNumber>,
    /// Group, by name or number.
    pub(super) group: Option<TextOrNumber>,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Format")]
pub(super) enum RawFormat {
    #[default]
    Pem,
    Der,
    Pkcs12,
}

/// How a private key is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "KeyFormat")]
pub(super) enum RawKeyFormat {
    Pkcs8,
    Traditional,
}

/// What makes servers use the files, and where that is seen.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Deploy")]
pub(super) struct RawDeploy {
    /// Command that says whether the server would accept the new files, such as `[nginx, -t]`.
    pub(super) check: Option<ArgvOr<RawHook>>,
    /// What makes the server load the new files: a command such as `[nginx, -s, reload]`, or a map
    /// with `preset` or another way.
    pub(super) reload: Option<ArgvOr<RawReload>>,
    /// Where the new certificate must be seen, such as `["example.com:443"]`.
    pub(super) verify: Option<Vec<TextOr<RawEndpoint>>>,
    /// How often the server may be reloaded for this certificate within an hour. Without it there
    /// is no limit.
    #[schemars(range(min = 1, max = 3600))]
    pub(super) max_reloads_per_hour: Option<Number>,
}

/// A command, run without a shell.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Hook")]
pub(super) struct RawHook {
    /// The program and its arguments, such as `[nginx, -t]`.
    #[schemars(required, extend("minItems" = 1))]
    pub(super) command: Option<Vec<Text>>,
    /// How long it may run.
    #[schemars(with = "Option<Text>", extend("default" = "60s"))]
    pub(super) timeout: Option<TextOrNumber>,
}

/// What makes a server load its files again: exactly one way.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Reload", extend("oneOf" = [
    { "required": ["command"] },
    { "required": ["systemd"] },
    { "required": ["signal"] },
    { "required": ["haproxy"] },
    { "required": ["http"] },
    { "required": ["container"] },
    { "required": ["trigger"] },
    { "required": ["preset"] }
]))]
pub(super) struct RawReload {
    /// The program and its arguments, such as `[nginx, -s, reload]`.
    #[schemars(extend("minItems" = 1))]
    pub(super) command: Option<Vec<Text>>,
    /// The systemd unit to reload, or to restart if it cannot reload, such as `nginx.service`.
    pub(super) systemd: Option<Text>,
    /// A signal to a process.
    pub(super) signal: Option<RawSignal>,
    /// HAProxy's runtime API: the certificate is exchanged in memory, without a reload.
    pub(super) haproxy: Option<RawHaproxy>,
    /// A request over HTTP, such as to the admin interface of Caddy or Envoy.
    pub(super) http: Option<RawHttpCall>,
    /// A signal to a container, or a command in it, through the socket of Docker or Podman. Who
    /// may use that socket is root on this host.
    pub(super) container: Option<RawContainer>,
    /// File that certkeep writes anew for a watcher, such as a systemd path unit.
    pub(super) trigger: Option<Text>,
    /// The server: its usual reload and, where no `check` is given, its usual check.
    pub(super) preset: Option<Server>,
    /// How long it may take. Neither a signal nor a trigger takes time.
    #[schemars(with = "Option<Text>", extend("default" = "60s"))]
    pub(super) timeout: Option<TextOrNumber>,
}

/// A signal, and the process that gets it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SignalTo", extend("anyOf" = [
    { "required": ["pid_file"] },
    { "required": ["process"] }
]))]
pub(super) struct RawSignal {
    /// Which signal, without `SIG`.
    #[schemars(required)]
    pub(super) name: Option<Signal>,
    /// File with the number of the process.
    pub(super) pid_file: Option<Text>,
    /// Name of the process, at most 15 characters, as `ps -o comm` shows it. Beside `pid_file`, no
    /// process of another name gets the signal.
    pub(super) process: Option<Text>,
    /// The user that `process` runs as, by name or number, where several have the name.
    pub(super) user: Option<TextOrNumber>,
    /// The beginning or the end of the control group of `process` in whole components, as
    /// `/proc/PID/cgroup` shows it, such as `system.slice/nginx.service`.
    pub(super) cgroup: Option<Text>,
}

/// HAProxy's runtime API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Haproxy")]
pub(super) struct RawHaproxy {
    /// The stats socket of `level admin`: a path such as `/run/haproxy/admin.sock`, or a loopback
    /// address and port.
    #[schemars(required)]
    pub(super) socket: Option<Text>,
    /// What HAProxy calls the certificate, as `show ssl cert` lists it. By default the path of the
    /// `combined` file, else that of the `fullchain` file.
    pub(super) certificate: Option<Text>,
}

/// A request over HTTP. Redirects are not followed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HttpCall")]
pub(super) struct RawHttpCall {
    /// The URL: https, or http to a loopback address or over `unix_socket`.
    #[schemars(required)]
    pub(super) url: Option<Text>,
    /// The method.
    #[schemars(extend("default" = "POST"))]
    pub(super) method: Option<HttpMethod>,
    /// Header fields, such as `Content-Type: application/json`.
    pub(super) headers: Option<Named<Text>>,
    /// Header fields whose values are secret: each with the file that has the value.
    pub(super) header_files: Option<Named<Text>>,
    /// What is sent along.
    pub(super) body: Option<Text>,
    /// File that is sent along.
    pub(super) body_file: Option<Text>,
    /// Socket to connect to, in place of the URL's host and port.
    pub(super) unix_socket: Option<Text>,
    /// Status codes that mean success, by default 200 to 299.
    #[schemars(with = "Option<Vec<u16>>", extend("minItems" = 1))]
    pub(super) expect: Option<Vec<TextOrNumber>>,
    /// PEM file with the roots that vouch for the server, in place of the system's.
    pub(super) ca_file: Option<Text>,
}

/// A container, and what is done with it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Container", extend("oneOf" = [
    { "required": ["signal"] },
    { "required": ["exec"] }
]))]
pub(super) struct RawContainer {
    /// The engine's socket, which speaks Docker's API: Docker's or Podman's.
    #[schemars(extend("default" = "/run/docker.sock"))]
    pub(super) engine: Option<Text>,
    /// The container's name.
    #[schemars(required, extend("pattern" = "^[a-zA-Z0-9][a-zA-Z0-9_.-]*$"))]
    pub(super) name: Option<Text>,
    /// Signal for its first process, without `SIG`.
    pub(super) signal: Option<Signal>,
    /// Command to run in it, such as `[nginx, -s, reload]`.
    #[schemars(extend("minItems" = 1))]
    pub(super) exec: Option<Vec<Text>>,
}

/// A TLS endpoint that must serve the new certificate.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Endpoint")]
pub(super) struct RawEndpoint {
    /// Host and port, such as `example.com:443` or `"[2001:db8::1]:443"`. The host is resolved and
    /// asked for by SNI.
    #[schemars(required)]
    pub(super) endpoint: Option<Text>,
    /// The one address and port to connect to, instead of every address of the host, such as
    /// `127.0.0.1:443`, or a Unix socket, such as `unix:/run/app.sock`.
    pub(super) connect: Option<Text>,
    /// The protocol in which the server is asked for TLS. Without it TLS begins with the first
    /// byte.
    pub(super) starttls: Option<StartTls>,
    /// How many handshakes in a row must show the new certificate, each on a new connection. More
    /// than 2 are for servers whose old processes go on for a while beside the new ones.
    #[schemars(range(min = 1, max = 100), extend("default" = 2))]
    pub(super) samples: Option<Number>,
    /// How long after the reload the old certificate may still be served.
    #[schemars(with = "Option<Text>", extend("default" = "60s"))]
    pub(super) within: Option<TextOrNumber>,
}
