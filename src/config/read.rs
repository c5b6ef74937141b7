//! From the text to the configuration, or to every mistake in it.

use std::path::Path;

use crate::config::collect::{Collected, collect};
use crate::config::fault::Faults;
use crate::config::lower::lower;
use crate::config::raw::{self, RawConfig};
use crate::config::tree::{Place, Tree, TreeError, yaml_error};
use crate::config::{Config, ConfigErrors};

pub(super) fn parse(text: &str, file: &Path) -> Result<Config, ConfigErrors> {
    if text.len() > LIMIT {
        return Err(ConfigErrors::whole(
            file,
            Place::START,
            format!("is {} bytes long; a configuration has at most {LIMIT}", text.len()),
            "check that it is the right file".to_owned(),
        ));
    }
    // Editors put a byte order mark first, and the YAML reader takes it for a document.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(line) = too_deep(text) {
        return Err(ConfigErrors::whole(
            file,
            Place { line, column: 1 },
            format!("is nested too deep: more than {DEPTH} brackets are open at once"),
            "close every `[` and `{`, and check that it is the right file".to_owned(),
        ));
    }
    // Aliases can blow a small text up. Counting costs time, and hardly any text has an anchor.
    if text.contains('&') {
        Tree::read(text).map_err(|error| unreadable(text, file, error))?;
    }
    let mut faults = Faults::default();
    let mut form = None;
    match raw::read(text) {
        Ok(raw) => {
            if let Some(config) = checked(&raw, file, &mut faults) {
                return Ok(config);
            }
        }
        Err(error) => form = Some(error),
    }
    let mut tree = Tree::read(text).map_err(|error| unreadable(text, file, error))?;
    let Some(error) = form else {
        return errors_or(file, &tree, Collected::default(), faults, None);
    };
    let collected = collect(&mut tree);
    let config = checked(&collected.raw, file, &mut faults);
    // Reading the tree is a little more lenient than reading the text. What only the text's reader
    // objects to is told in its own words.
    if config.is_none() && faults.is_empty() && collected.faults.is_empty() {
        return Err(unreadable(text, file, yaml_error(&error)));
    }
    errors_or(file, &tree, collected, faults, config)
}

/// The line where more brackets are open than the YAML reader has time for
///
/// It takes each further one with a look at all that are open. Those in quotes and comments count
/// too, which no sound file has so many of without the other half.
fn too_deep(text: &str) -> Option<usize> {
    let (mut line, mut open) = (1_usize, 0_usize);
    for byte in text.bytes() {
        match byte {
            b'\n' => line = line.saturating_add(1),
            b'[' | b'{' => open = open.saturating_add(1),
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > DEPTH {
            return Some(line);
        }
    }
    None
}

fn checked(raw: &RawConfig, file: &Path, faults: &mut Faults) -> Option<Config> {
    let base = file.parent().unwrap_or_else(|| Path::new(""));
    let config = lower(raw, base, faults).ok()?;
    faults.is_empty().then_some(config)
}

fn errors_or(
    file: &Path,
    tree: &Tree,
    form: Collected,
    meaning: Faults,
    config: Option<Config>,
) -> Result<Config, ConfigErrors> {
    match (ConfigErrors::of(file, tree, form, meaning.into_vec()), config) {
        (Some(errors), _) => Err(errors),
        (None, Some(config)) => Ok(config),
        (None, None) => Err(ConfigErrors::whole(
            file,
            Place::START,
            "cannot be read".to_owned(),
            "report this, with the file, as a bug of certkeep".to_owned(),
        )),
    }
}

fn unreadable(text: &str, file: &Path, error: TreeError) -> ConfigErrors {
    let (place, message, remedy) = match error {
        TreeError::TooMany => (
            Place::START,
            "has aliases (`*name`) that stand for too many values".to_owned(),
            "put what certificates share under `defaults`".to_owned(),
        ),
        TreeError::Yaml { message, .. } if message.contains("more than one document") => (
            Place::START,
            "holds more than one YAML document".to_owned(),
            "leave out the line `---` between the documents".to_owned(),
        ),
        TreeError::Yaml { place, message } => {
            let remedy = yaml_remedy(text, place, &message);
            (place, format!("is not YAML that can be read: {message}"), remedy)
        }
    };
    ConfigErrors::whole(file, place, message, remedy)
}

fn yaml_remedy(text: &str, place: Place, message: &str) -> String {
    let line = text.lines().nth(place.line.saturating_sub(1)).unwrap_or_default();
    let before: String = line.chars().take(place.column).collect();
    let remedy = if before.ends_with('\t') || line.trim_start_matches(' ').starts_with('\t') {
        "indent with spaces; YAML takes no tabs"
    } else if message.contains("alias") || message.contains("anchor") {
        "put text that begins with `*` or `&` in quotes, such as `\"*.example.com\"`"
    } else if before.ends_with(['@', '`', '%', '[', ']', '{', '}', '|', '>']) {
        "put text that begins with a sign in quotes"
    } else {
        "check the indentation, and that every bracket and quote is closed"
    };
    remedy.to_owned()
}

/// The longest text that is read, in bytes
const LIMIT: usize = 1 << 20;

/// The most brackets that may be open at once; the YAML reader itself stops at 128, but late
const DEPTH: usize = 1000;
