//! What a command is told: its environment and its standard input.

use std::ffi::OsString;

use serde::{Serialize, Serializer};

use super::command::SEARCH_PATH;
use crate::cert::Fingerprint;
use crate::config::{Content, Format, KeyFormat, Output};
use crate::name::{CertName, Identifier, TargetName};
use crate::text::External;
use crate::time::Timestamp;

/// What is being deployed where, for the commands of the deployment
///
/// Paths and facts only: a command that wants the key reads the file.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HookContext<'a> {
    /// The certificate's name in the configuration
    pub certificate: &'a CertName,
    /// The target's name in the configuration
    pub target: &'a TargetName,
    /// The number of the generation that is in the files now
    pub generation: u32,
    /// What it vouches for
    pub identifiers: &'a [Identifier],
    /// The files of the target
    #[serde(rename = "files", serialize_with = "files")]
    pub outputs: &'a [Output],
    /// SHA-256 of the leaf's DER
    pub fingerprint: Fingerprint,
    /// When it expires
    pub not_after: Timestamp,
    /// Why it was renewed or is deployed, a sentence
    #[serde(serialize_with = "harmless")]
    pub reason: &'a str,
}

fn files<S: Serializer>(outputs: &&[Output], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct File<'a> {
        path: std::borrow::Cow<'a, str>,
        content: Contents<'a>,
        format: &'static str,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Contents<'a> {
        One(Content),
        Several(&'a [Content]),
    }
    serializer.collect_seq(outputs.iter().map(|output| File {
        path: output.path.to_string_lossy(),
        content: match output.content.as_slice() {
            [content] => Contents::One(*content),
            several => Contents::Several(several),
        },
        format: output.format.as_str(),
    }))
}

fn harmless<S: Serializer>(reason: &&str, serializer: S) -> Result<S::Ok, S::Error> {
    External::new(reason).serialize(serializer)
}

/// What a command is run for
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HookEvent {
    Check,
    Reload,
}

impl HookEvent {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Reload => "reload",
        }
    }
}

/// The whole environment of a command
pub(super) fn environment(
    event: HookEvent,
    contexts: &[HookContext<'_>],
) -> Vec<(&'static str, OsString)> {
    let mut variables: Vec<(&'static str, OsString)> = vec![
        ("PATH", SEARCH_PATH.into()),
        ("LANG", "C.UTF-8".into()),
        ("CERTKEEP_VERSION", VERSION.to_string().into()),
        ("CERTKEEP_EVENT", event.as_str().into()),
        ("CERTKEEP_CERTIFICATES", join(contexts.iter().map(|c| c.certificate)).into()),
    ];
    if let (HookEvent::Check, [context]) = (event, contexts) {
        variables.push(("CERTKEEP_CERTIFICATE", context.certificate.as_str().into()));
        variables.push(("CERTKEEP_TARGET", context.target.as_str().into()));
        variables.push(("CERTKEEP_GENERATION", context.generation.to_string().into()));
        variables.push(("CERTKEEP_IDENTIFIERS", join(context.identifiers).into()));
        variables.push(("CERTKEEP_FINGERPRINT", context.fingerprint.to_string().into()));
        variables.push(("CERTKEEP_NOT_AFTER", context.not_after.to_string().into()));
        variables.push(("CERTKEEP_REASON", External::new(context.reason).as_str().into()));
        for output in context.outputs {
            let Some(name) = path_variable(output) else { continue };
            if variables.iter().all(|(taken, _)| *taken != name) {
                variables.push((name, output.path.clone().into()));
            }
        }
    }
    // The kernel refuses to run anything with a single value of more than 128 KiB.
    variables.retain(|(_, value)| value.len() <= MAX_VALUE);
    variables
}

fn join<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

/// For a file that every reader of PEM can read, and for PKCS#12
fn path_variable(output: &Output) -> Option<&'static str> {
    match (&output.format, output.content.as_slice()) {
        (Format::Pkcs12 { .. }, _) => Some("CERTKEEP_FILE_PKCS12"),
        (Format::Pem(KeyFormat::Pkcs8 | KeyFormat::Traditional), [content]) => {
            Some(match content {
                Content::Cert => "CERTKEEP_FILE_CERT",
                Content::Chain => "CERTKEEP_FILE_CHAIN",
                Content::Combined => "CERTKEEP_FILE_COMBINED",
                Content::Fullchain => "CERTKEEP_FILE_FULLCHAIN",
                Content::Key => "CERTKEEP_FILE_KEY",
            })
        }
        (Format::Pem(_) | Format::Der(_), _) => None,
    }
}

/// The standard input of a command
pub(super) fn input(
    event: HookEvent,
    contexts: &[HookContext<'_>],
) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(Serialize)]
    struct Input<'a> {
        version: u32,
        event: &'static str,
        deployments: &'a [HookContext<'a>],
    }
    let input = Input { version: VERSION, event: event.as_str(), deployments: contexts };
    let mut json = serde_json::to_vec(&input)?;
    json.push(b'\n');
    Ok(json)
}

/// The version of the environment and of the standard input
const VERSION: u32 = 1;

/// The longest value that a variable is given, in bytes
const MAX_VALUE: usize = 96 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretSource;

    struct Owned {
        certificate: CertName,
        target: TargetName,
        identifiers: Vec<Identifier>,
        outputs: Vec<Output>,
    }

    impl Owned {
        fn new(certificate: &str) -> Self {
            let output = |path: &str, content| Output {
                path: path.into(),
                content: vec![content],
                format: Format::default(),
                mode: 0o600,
                owner: None,
                group: None,
            };
            Self {
                certificate: CertName::parse(certificate).unwrap(),
                target: TargetName::parse("default").unwrap(),
                identifiers: ["a.test", "192.0.2.1"].map(|n| Identifier::parse(n).unwrap()).into(),
                outputs: vec![
                    output("/tls/a.pem", Content::Fullchain),
                    output("/tls/b.pem", Content::Fullchain),
                    output("/tls/a.key", Content::Key),
                    Output {
                        content: vec![Content::Key, Content::Cert, Content::Chain],
                        ..output("/tls/a.all", Content::Key)
                    },
                    Output {
                        format: Format::Pkcs12 {
                            password: SecretSource::File("/password".into()),
                            alias: "a".to_owned(),
                        },
                        ..output("/tls/a.p12", Content::Combined)
                    },
                ],
            }
        }

        fn context(&self) -> HookContext<'_> {
            HookContext {
                certificate: &self.certificate,
                target: &self.target,
                generation: 7,
                identifiers: &self.identifiers,
                outputs: &self.outputs,
                fingerprint: Fingerprint([0xab; 32]),
                not_after: "2026-12-31T23:59:59Z".parse().unwrap(),
                reason: "two\nlines",
            }
        }
    }

    fn value<'a>(variables: &'a [(&str, OsString)], name: &str) -> Option<&'a str> {
        let found = variables.iter().find(|(candidate, _)| *candidate == name);
        found.map(|(_, value)| value.to_str().unwrap())
    }

    #[test]
    fn a_check_is_told_about_its_one_deployment() {
        let owned = Owned::new("example.com");
        let variables = environment(HookEvent::Check, &[owned.context()]);
        let fingerprint = "ab".repeat(32);
        let expected = [
            ("CERTKEEP_VERSION", "1"),
            ("CERTKEEP_EVENT", "check"),
            ("CERTKEEP_CERTIFICATES", "example.com"),
            ("CERTKEEP_CERTIFICATE", "example.com"),
            ("CERTKEEP_TARGET", "default"),
            ("CERTKEEP_GENERATION", "7"),
            ("CERTKEEP_IDENTIFIERS", "a.test 192.0.2.1"),
            ("CERTKEEP_FINGERPRINT", &fingerprint),
            ("CERTKEEP_NOT_AFTER", "2026-12-31T23:59:59Z"),
            ("CERTKEEP_REASON", r"two\u{a}lines"),
            ("CERTKEEP_FILE_FULLCHAIN", "/tls/a.pem"),
            ("CERTKEEP_FILE_KEY", "/tls/a.key"),
            ("CERTKEEP_FILE_PKCS12", "/tls/a.p12"),
            ("LANG", "C.UTF-8"),
            ("PATH", SEARCH_PATH),
        ];
        for (name, text) in expected {
            assert_eq!(value(&variables, name), Some(text), "{name}");
        }
        assert_eq!(variables.len(), expected.len(), "{variables:?}");
    }

    #[test]
    fn a_reload_has_the_same_variables_for_one_certificate_as_for_many() {
        let (a, b) = (Owned::new("a"), Owned::new("b"));
        let names = |variables: &[(&'static str, OsString)]| {
            variables.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        };
        let one = environment(HookEvent::Reload, &[a.context()]);
        let two = environment(HookEvent::Reload, &[a.context(), b.context()]);
        assert_eq!(names(&one), names(&two));
        assert_eq!(value(&two, "CERTKEEP_CERTIFICATES"), Some("a b"));
        assert_eq!(value(&two, "CERTKEEP_CERTIFICATE"), None);
    }

    #[test]
    fn a_value_that_the_kernel_would_refuse_is_left_to_the_standard_input() {
        let mut owned = Owned::new("a");
        owned.identifiers = vec![Identifier::parse(&"a.".repeat(100)[..199]).unwrap(); 1000];
        let variables = environment(HookEvent::Check, &[owned.context()]);
        assert_eq!(value(&variables, "CERTKEEP_IDENTIFIERS"), None);
        let json = input(HookEvent::Check, &[owned.context()]).unwrap();
        assert!(json.len() > 100_000);
    }

    #[test]
    fn the_standard_input_is_as_documented() {
        let owned = Owned::new("example.com");
        let json = input(HookEvent::Reload, &[owned.context()]).unwrap();
        assert_eq!(json.iter().filter(|byte| **byte == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let expected = serde_json::json!({
            "version": 1,
            "event": "reload",
            "deployments": [{
                "certificate": "example.com",
                "target": "default",
                "generation": 7,
                "identifiers": ["a.test", "192.0.2.1"],
                "files": [
                    { "path": "/tls/a.pem", "content": "fullchain", "format": "pem" },
                    { "path": "/tls/b.pem", "content": "fullchain", "format": "pem" },
                    { "path": "/tls/a.key", "content": "key", "format": "pem" },
                    {
                        "path": "/tls/a.all",
                        "content": ["key", "cert", "chain"],
                        "format": "pem",
                    },
                    { "path": "/tls/a.p12", "content": "combined", "format": "pkcs12" },
                ],
                "fingerprint": "ab".repeat(32),
                "not_after": "2026-12-31T23:59:59Z",
                "reason": r"two\u{a}lines",
            }],
        });
        assert_eq!(value, expected);
    }
}
