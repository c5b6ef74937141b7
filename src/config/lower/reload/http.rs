//! Requests over HTTP.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use url::Url;

use crate::config::fault::{At, Faults, Refused};
use crate::config::lower::path;
use crate::config::lower::url::{is_loopback, url};
use crate::config::raw::{RawHttpCall, TextOrNumber};
use crate::config::{HeaderSource, HttpBody, HttpCall};

pub(super) fn call(
    raw: &RawHttpCall,
    timeout: Result<Duration, Refused>,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<HttpCall, Refused> {
    let field = at.key("unix_socket");
    let unix_socket = raw.unix_socket.as_ref().map(|text| path::file(text, base, &field, faults));
    let field = at.key("ca_file");
    let ca_file = raw.ca_file.as_ref().map(|text| path::file(text, base, &field, faults));
    let url = destination(raw, at, faults);
    let headers = headers(raw, base, at, faults);
    let body = match (&raw.body, &raw.body_file) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(HttpBody::Text(text.0.clone()))),
        (None, Some(text)) => path::file(text, base, &at.key("body_file"), faults)
            .map(|path| Some(HttpBody::File(path))),
        (Some(_), Some(_)) => {
            let message = "has both `body` and `body_file`";
            Err(faults.value(at, message, "keep one of the two"))
        }
    };
    let expect = expect(raw.expect.as_deref(), &at.key("expect"), faults);
    Ok(HttpCall {
        method: raw.method.unwrap_or_default(),
        url: url?,
        unix_socket: unix_socket.transpose()?,
        ca_file: ca_file.transpose()?,
        headers: headers?,
        body: body?,
        expect: expect?,
        timeout: timeout?,
    })
}

fn destination(raw: &RawHttpCall, at: &At<'_>, faults: &mut Faults) -> Result<Url, Refused> {
    let Some(text) = &raw.url else {
        let remedy = format!("add `url`, such as `{EXAMPLE}`");
        return Err(faults.missing(at, &["url"], "is missing", remedy));
    };
    let field = at.key("url");
    let url = url(text, EXAMPLE, &field, faults)?;
    match (url.scheme(), &raw.unix_socket, &raw.ca_file) {
        ("http", None, _) if !is_loopback(&url) => Err(faults.value(
            &field,
            "is plain http to another host, where anyone between could reload for you, or not",
            "use https, a loopback address, or `unix_socket`",
        )),
        ("http", _, Some(_)) => {
            let message = "means nothing for plain http";
            Err(faults.value(&at.key("ca_file"), message, "take it out, or use https"))
        }
        ("http", _, None) | ("https", None, _) => Ok(url),
        ("https", Some(_), _) => {
            let message = "is https, which is not spoken over a socket of this host";
            Err(faults.value(&field, message, "use http with `unix_socket`"))
        }
        (scheme, ..) => {
            let message = format!("has the scheme `{scheme}`");
            Err(faults.value(&field, message, "give an `http://` or `https://` URL"))
        }
    }
}

fn headers(
    raw: &RawHttpCall,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<BTreeMap<String, HeaderSource>, Refused> {
    let mut headers = BTreeMap::new();
    let mut outcome = Ok(());
    for (field, named) in [(TEXTS, &raw.headers), (FILES, &raw.header_files)] {
        let under = at.key(field);
        for (key, text) in named.iter().flat_map(|named| &named.0) {
            let at = under.key(key);
            let name = header_name(key, &at, faults);
            let value = match &name {
                _ if field == FILES => path::file(text, base, &at, faults).map(HeaderSource::File),
                Ok(name) if SECRET.contains(&name.as_str()) => Err(faults.value(
                    &at,
                    "is a secret, and secrets are not written in this file",
                    "put the value in a file of mode 0600 and name it under `header_files`",
                )),
                _ if HeaderValue::from_str(text).is_err() => Err(faults.value(
                    &at,
                    "has characters that no header field can have",
                    "use printable ASCII on one line",
                )),
                _ => Ok(HeaderSource::Text(text.0.clone())),
            };
            let kept = name.and_then(|name| {
                if headers.insert(name.as_str().to_owned(), value?).is_none() {
                    return Ok(());
                }
                let message = "comes a second time; upper and lower case are the same";
                Err(faults.key(&at, message, "take one of the two out"))
            });
            outcome = outcome.and(kept);
        }
    }
    outcome.map(|()| headers)
}

fn header_name(key: &str, at: &At<'_>, faults: &mut Faults) -> Result<HeaderName, Refused> {
    match HeaderName::from_bytes(key.as_bytes()) {
        Ok(name) if OURS.contains(&name.as_str()) => {
            Err(faults.key(at, "is set by certkeep itself", "take it out"))
        }
        Ok(name) => Ok(name),
        Err(_) => Err(faults.key(
            at,
            "is no name of a header field",
            "use letters, digits and `-`, such as `Content-Type`",
        )),
    }
}

fn expect(
    raw: Option<&[TextOrNumber]>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Vec<u16>, Refused> {
    let Some(raw) = raw else { return Ok(Vec::new()) };
    if raw.is_empty() {
        return Err(faults.value(at, "is empty", "list status codes, such as `[200, 204]`"));
    }
    let outcomes: Vec<_> = raw
        .iter()
        .enumerate()
        .map(|(index, raw)| match raw.text().parse::<u16>() {
            Ok(code) if (200..=599).contains(&code) => Ok(code),
            _ => {
                let message = format!("`{}` is no status code", raw.text().escape_debug());
                Err(faults.value(&at.index(index), message, "give a number from 200 to 599"))
            }
        })
        .collect();
    outcomes.into_iter().collect()
}

const TEXTS: &str = "headers";

const FILES: &str = "header_files";

const EXAMPLE: &str = "http://127.0.0.1:2019/load";

/// What frames a message, and so must fit it
const OURS: [&str; 6] =
    ["connection", "content-length", "expect", "te", "transfer-encoding", "upgrade"];

const SECRET: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];
