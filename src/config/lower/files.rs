//! Outputs: which files, what is in them, and who may read them.

use std::path::{Path, PathBuf};

use crate::config::fault::{At, Faults, Refused};
use crate::config::lower::{format, path};
use crate::config::nearest::one_of;
use crate::config::raw::{OneOrMany, RawDir, RawFile, RawFormat, TextOr, TextOrNumber};
use crate::config::{Content, Format, Layout, Output};

/// How the files are switched, and the files
pub(super) type Files = (Layout, Vec<Output>);

/// Where files go, as written
pub(super) struct Placement<'a> {
    pub(super) dir: Option<&'a TextOr<RawDir>>,
    pub(super) files: Option<&'a [RawFile]>,
    pub(super) copy: Option<bool>,
}

/// `name` is what the file calls the certificate
pub(super) fn files(
    name: &str,
    raw: &Placement<'_>,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Files, Refused> {
    let copy = raw.copy.unwrap_or_default();
    match (raw.dir, raw.files) {
        (None, None) => Err(faults.missing(
            at,
            &["dir", "files"],
            "it is not said where the certificate goes",
            "add `dir: PATH` for a directory of its own, or `files` for single paths",
        )),
        (Some(_), Some(_)) => Err(faults.value(
            &at.key("files"),
            "cannot be beside `dir`",
            "keep `dir` for a directory of its own, or `files` for single paths",
        )),
        (Some(_), None) if copy => Err(faults.value(
            &at.key("copy"),
            "is possible with `files` only: a `dir` is switched as a whole",
            "leave `copy` out, or list the files under `files`",
        )),
        (Some(raw), None) => dir(raw, base, &at.key("dir"), faults),
        (None, Some(raw)) => {
            let layout = if copy { Layout::Copy } else { Layout::Links };
            list(name, raw, base, &at.key("files"), faults).map(|outputs| (layout, outputs))
        }
    }
}

fn dir(
    raw: &TextOr<RawDir>,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Files, Refused> {
    let short;
    let field = at.key("path");
    let (text, at_path, raw) = match raw {
        TextOr::Text(text) => {
            short = RawDir::default();
            (Some(text), at, &short)
        }
        TextOr::Full(raw) => (raw.path.as_ref(), &field, raw),
    };
    let path = match text {
        Some(text) => path::directory(text, base, at_path, faults),
        None => Err(faults.missing(at, &["path"], "is missing", "add the directory's path")),
    };
    let contents = contents(raw.contents.as_deref(), at, faults);
    let access =
        Access { mode: raw.mode.as_ref(), owner: raw.owner.as_ref(), group: raw.group.as_ref() };
    let secret = raw.contents.as_deref().unwrap_or(&DIR).iter().any(|content| content.is_secret());
    let mode = access.mode(secret, at, faults);
    let (owner, group) = access.who(at, faults);
    let (path, contents, mode, owner, group) = (path?, contents?, mode?, owner?, group?);
    let outputs = contents.iter().map(|content| Output {
        path: path.join(content.file_name()),
        content: vec![*content],
        format: Format::default(),
        mode: mode.unwrap_or_else(|| default_mode(content.is_secret())),
        owner: owner.clone(),
        group: group.clone(),
    });
    let outputs = outputs.collect();
    Ok((Layout::Dir(path), outputs))
}

fn contents<'a>(
    raw: Option<&'a [Content]>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<&'a [Content], Refused> {
    let Some(contents) = raw else { return Ok(&DIR) };
    let at = at.key("contents");
    let mut outcome = complete(contents.iter().copied(), &at, faults);
    for (index, content) in contents.iter().enumerate() {
        if contents.iter().take(index).any(|earlier| earlier == content) {
            let message = format!("`{}` would be written twice", content.file_name());
            outcome = Err(faults.value(&at.index(index), message, "take it out here"));
        }
    }
    outcome.map(|()| contents)
}

fn list(
    name: &str,
    raw: &[RawFile],
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Vec<Output>, Refused> {
    let mut outcome = Ok(());
    let mut outputs = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        match file(name, raw, base, &at.index(index), faults) {
            Ok(output) => outputs.push(output),
            Err(refused) => outcome = Err(refused),
        }
    }
    // Whose content is not known may be the one that is missed.
    let contents: Option<Vec<_>> = raw.iter().map(written).collect();
    if let Some(contents) = contents {
        outcome = complete(contents.concat().iter().copied(), at, faults).and(outcome);
    }
    outcome.map(|()| outputs)
}

/// Whether a server finds both its key and its certificate among the files
fn complete(
    contents: impl Iterator<Item = Content> + Clone,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<(), Refused> {
    if contents.clone().next().is_none() {
        return Err(faults.value(at, "is empty", "add the key and the chain at least"));
    }
    let has = |wanted: &[Content]| contents.clone().any(|content| wanted.contains(&content));
    let mut outcome = Ok(());
    if !has(&[Content::Key, Content::Combined]) {
        outcome = Err(faults.value(
            at,
            "none of them has the key, and without it no server can use the certificate",
            "add one with the content `key` (or `combined`, for key and chain together)",
        ));
    }
    if !has(&[Content::Cert, Content::Fullchain, Content::Combined]) {
        outcome = Err(faults.value(
            at,
            "none of them has the certificate",
            "add one with the content `fullchain` (or `combined`, for key and chain together)",
        ));
    }
    outcome
}

fn file(
    name: &str,
    raw: &RawFile,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Output, Refused> {
    let path: Result<PathBuf, Refused> = match &raw.path {
        Some(text) => path::file(text, base, &at.key("path"), faults),
        None => Err(faults.missing(at, &["path"], "is missing", "add the file's path")),
    };
    let content = content(raw, at, faults);
    let format = match &content {
        Ok(content) => format::format(name, raw, content, base, at, faults),
        Err(refused) => Err(*refused),
    };
    let access =
        Access { mode: raw.mode.as_ref(), owner: raw.owner.as_ref(), group: raw.group.as_ref() };
    let secret = content.iter().flatten().any(|content| content.is_secret());
    let mode = access.mode(secret, at, faults);
    let (owner, group) = access.who(at, faults);
    Ok(Output {
        path: path?,
        content: content?,
        format: format?,
        mode: mode?.unwrap_or_else(|| default_mode(secret)),
        owner: owner?,
        group: group?,
    })
}

/// What is to be in a file, as written; `None` when it is not said
fn written(raw: &RawFile) -> Option<Vec<Content>> {
    match &raw.content {
        Some(OneOrMany::One(content)) => Some(vec![*content]),
        Some(OneOrMany::Many(contents)) => Some(contents.clone()),
        None if raw.format == Some(RawFormat::Pkcs12) => Some(vec![Content::Combined]),
        None => None,
    }
}

fn content(raw: &RawFile, at: &At<'_>, faults: &mut Faults) -> Result<Vec<Content>, Refused> {
    let Some(contents) = written(raw) else {
        let known = one_of(["fullchain", "chain", "cert", "key", "combined"]);
        let remedy = format!("add what it holds: {known}");
        return Err(faults.missing(at, &["content"], "is missing", remedy));
    };
    let at = at.key("content");
    if contents.is_empty() {
        return Err(faults.value(&at, "is empty", "add what it holds, such as `[key, fullchain]`"));
    }
    let mut outcome = Ok(());
    for (index, content) in contents.iter().enumerate() {
        let refused = if contents.iter().take(index).any(|earlier| earlier == content) {
            faults.value(&at.index(index), "is there already", "take it out here")
        } else if *content == Content::Combined && contents.len() > 1 {
            faults.value(
                &at.index(index),
                "`combined` is key and chain in an order of its own",
                "write `key` and `fullchain` in the order that is wanted",
            )
        } else {
            continue;
        };
        outcome = Err(refused);
    }
    outcome.map(|()| contents)
}

/// Who may read a file, as written
struct Access<'a> {
    mode: Option<&'a TextOrNumber>,
    owner: Option<&'a TextOrNumber>,
    group: Option<&'a TextOrNumber>,
}

impl Access<'_> {
    fn mode(&self, secret: bool, at: &At<'_>, faults: &mut Faults) -> Result<Option<u32>, Refused> {
        let at = at.key("mode");
        let text = match self.mode {
            None => return Ok(None),
            Some(TextOrNumber::Text(text)) => text,
            Some(TextOrNumber::Number(_)) => {
                return Err(faults.value(
                    &at,
                    "is a number, which YAML readers take for decimal or octal as they like",
                    "put it in quotes: `\"0640\"`",
                ));
            }
        };
        let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
        let octal = digits.len() == 3 && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
        let Some(mode) = u32::from_str_radix(digits, 8).ok().filter(|_| octal) else {
            let message = format!("`{}` is no file mode", text.escape_debug());
            return Err(faults.value(&at, message, "write three octal digits: `\"0640\"`"));
        };
        if secret && mode & 0o007 != 0 {
            return Err(faults.value(
                &at,
                format!("`{}` opens the key to every user of the host", text.escape_debug()),
                "end it with 0, such as `\"0640\"`, and let the server in by `group`",
            ));
        }
        if mode & 0o002 != 0 {
            return Err(faults.value(
                &at,
                format!("`{}` lets every user of the host change it", text.escape_debug()),
                "use `\"0644\"`",
            ));
        }
        if mode & 0o400 == 0 {
            return Err(faults.value(
                &at,
                format!("`{}` does not let the owner read it", text.escape_debug()),
                "begin it with 6 or 4, such as `\"0640\"`",
            ));
        }
        Ok(Some(mode))
    }

    fn who(&self, at: &At<'_>, faults: &mut Faults) -> (Who, Who) {
        (
            account(self.owner, &at.key("owner"), faults),
            account(self.group, &at.key("group"), faults),
        )
    }
}

type Who = Result<Option<String>, Refused>;

fn account(raw: Option<&TextOrNumber>, at: &At<'_>, faults: &mut Faults) -> Who {
    let text = match raw {
        None => return Ok(None),
        // The largest number means "leave it" to chown(2).
        Some(TextOrNumber::Number(number)) if *number < u64::from(u32::MAX) => {
            return Ok(Some(number.to_string()));
        }
        Some(TextOrNumber::Number(_)) => {
            return Err(faults.value(at, "is too large a number", "give a name or a number"));
        }
        Some(TextOrNumber::Text(text)) => text,
    };
    let sound = !text.is_empty()
        && text.len() <= 256
        && !text.starts_with(['-', '+'])
        && !text.chars().any(|c| c.is_control() || c.is_whitespace() || ":/,".contains(c));
    if sound {
        return Ok(Some(text.0.clone()));
    }
    let message = format!("`{}` can be no name of an account", text.escape_debug());
    Err(faults.value(at, message, "give a name or a number"))
}

const fn default_mode(secret: bool) -> u32 {
    if secret { 0o600 } else { 0o644 }
}

/// What a directory holds when it is not said
const DIR: [Content; 4] = [Content::Cert, Content::Chain, Content::Fullchain, Content::Key];
