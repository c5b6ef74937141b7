//! Secrets: where they are, never what they are.

use std::path::Path;

use crate::config::SecretSource;
use crate::config::fault::{At, Faults, Refused};
use crate::config::lower::path;
use crate::config::raw::Text;

/// The three keys of a map that can say where a secret is, and what they say
pub(super) struct Places<'a> {
    /// What it is, such as `the MAC key`
    pub(super) what: &'static str,
    pub(super) file: (&'static str, Option<&'a Text>),
    pub(super) credential: (&'static str, Option<&'a Text>),
    pub(super) environment: (&'static str, Option<&'a Text>),
}

impl Places<'_> {
    /// Where it is; `None` when none of the keys is there
    pub(super) fn source(
        &self,
        base: &Path,
        at: &At<'_>,
        faults: &mut Faults,
    ) -> Result<Option<SecretSource>, Refused> {
        let Self { what, file, credential, environment } = *self;
        let source = match (file.1, credential.1, environment.1) {
            (Some(text), None, None) => {
                path::file(text, base, &at.key(file.0), faults).map(SecretSource::File)
            }
            (None, Some(text), None) => {
                credential_name(text, &at.key(credential.0), faults).map(SecretSource::Credential)
            }
            (None, None, Some(text)) => variable_name(text, what, &at.key(environment.0), faults)
                .map(SecretSource::Environment),
            (None, None, None) => return Ok(None),
            _ => Err(faults.value(
                at,
                format!("says more than once where {what} is"),
                format!("keep one of `{}`, `{}` and `{}`", file.0, credential.0, environment.0),
            )),
        };
        source.map(Some)
    }
}

/// A file name, since systemd makes one of it
fn credential_name(text: &Text, at: &At<'_>, faults: &mut Faults) -> Result<String, Refused> {
    let sound = (1..=255).contains(&text.len())
        && !matches!(&**text, "." | "..")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@:+".contains(&b));
    // Neither here nor below is the text repeated: it may be the secret, put in the wrong place.
    if sound {
        return Ok(text.0.clone());
    }
    Err(faults.value(
        at,
        "is no name of a systemd credential",
        "give the name that `LoadCredential=` of the unit has",
    ))
}

fn variable_name(
    text: &Text,
    what: &str,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<String, Refused> {
    let sound = !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if sound {
        return Ok(text.0.clone());
    }
    Err(faults.value(
        at,
        "is no name of an environment variable",
        format!("give the variable's name, not {what}"),
    ))
}
