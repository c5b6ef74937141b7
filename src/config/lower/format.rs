//! Formats: how the content of a file is written, and what it is encrypted with.

use std::path::Path;

use crate::config::fault::{At, Faults, Refused};
use crate::config::lower::secret::Places;
use crate::config::raw::{RawFile, RawFormat, RawKeyFormat};
use crate::config::{Content, Format, KeyFormat};

/// `name` is what the file calls the certificate
pub(super) fn format(
    name: &str,
    raw: &RawFile,
    content: &[Content],
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Format, Refused> {
    let places = Places {
        what: "the password",
        file: ("password_file", raw.password_file.as_ref()),
        credential: ("password_credential", raw.password_credential.as_ref()),
        environment: ("password_env", raw.password_env.as_ref()),
    };
    let password = places.source(base, at, faults);
    let format = raw.format.unwrap_or_default();
    let alias = alias(name, raw, format, at, faults);
    let fits = fits(format, content, at, faults);
    if format == RawFormat::Pkcs12 {
        let stray = key_format(raw, content, true, at, faults);
        let password = password?.ok_or_else(|| {
            faults.missing(
                at,
                &["password_file", "password_credential", "password_env"],
                "is missing: a PKCS#12 file has a password",
                "put one in a file of mode 0600 and name it as `password_file`",
            )
        });
        fits?;
        stray?;
        return Ok(Format::Pkcs12 { password: password?, alias: alias? });
    }
    let password = password.and_then(|source| match source {
        Some(_) if content != [Content::Key] => Err(faults.value(
            &at.key(password_key(raw)),
            "means nothing here: only a key alone and a PKCS#12 file are encrypted",
            "take it out, or use `content: key` or `format: pkcs12`",
        )),
        source => Ok(source),
    });
    let encrypted = matches!(password, Ok(Some(_)));
    let key = key_format(raw, content, encrypted, at, faults);
    fits?;
    alias?;
    let key = match (password?, key?) {
        (Some(password), _) => KeyFormat::Encrypted(password),
        (None, RawKeyFormat::Pkcs8) => KeyFormat::Pkcs8,
        (None, RawKeyFormat::Traditional) => KeyFormat::Traditional,
    };
    Ok(if format == RawFormat::Der { Format::Der(key) } else { Format::Pem(key) })
}

/// Whether the format has room for the content
fn fits(
    format: RawFormat,
    content: &[Content],
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<(), Refused> {
    match (format, content) {
        (RawFormat::Pem, _)
        | (RawFormat::Der, [Content::Cert | Content::Key])
        | (RawFormat::Pkcs12, [Content::Combined]) => Ok(()),
        (RawFormat::Der, _) => Err(faults.value(
            &at.key("format"),
            "`der` has room for one object only",
            "use it with `content: cert` or `content: key`, or leave it out",
        )),
        (RawFormat::Pkcs12, _) => Err(faults.value(
            &at.key("content"),
            "does not fit: a PKCS#12 file holds the key and the whole chain",
            "leave `content` out, or write `combined`",
        )),
    }
}

/// How a key is written that is not `encrypted`
fn key_format(
    raw: &RawFile,
    content: &[Content],
    encrypted: bool,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<RawKeyFormat, Refused> {
    let Some(format) = raw.key_format else { return Ok(RawKeyFormat::Pkcs8) };
    let at = at.key("key_format");
    if !content.iter().any(|content| content.is_secret()) {
        return Err(faults.value(&at, "means nothing in a file without the key", "take it out"));
    }
    if encrypted {
        return Err(faults.value(
            &at,
            "cannot be chosen: encrypted keys are PKCS#8",
            "take it out",
        ));
    }
    Ok(format)
}

fn alias(
    name: &str,
    raw: &RawFile,
    format: RawFormat,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<String, Refused> {
    let Some(text) = &raw.alias else { return Ok(name.to_owned()) };
    let at = at.key("alias");
    if format != RawFormat::Pkcs12 {
        let message = "means nothing here: only a PKCS#12 file has names in it";
        return Err(faults.value(&at, message, "take it out"));
    }
    if text.is_empty() || text.chars().count() > 100 || text.chars().any(char::is_control) {
        let message = format!("`{}` can be no name of an entry", text.escape_debug());
        return Err(faults.value(&at, message, "give 1 to 100 characters"));
    }
    Ok(text.0.clone())
}

/// The key that says where the password is
fn password_key(raw: &RawFile) -> &'static str {
    match (&raw.password_file, &raw.password_credential) {
        (Some(_), _) => "password_file",
        (None, Some(_)) => "password_credential",
        (None, None) => "password_env",
    }
}
