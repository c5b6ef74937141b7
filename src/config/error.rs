//! What is wrong with a configuration, for people and for programs.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::collect::Collected;
use crate::config::fault::{Fault, KeyPath, Spot};
use crate::config::tree::{Place, Tree};
use crate::text::External;

/// Every mistake of one configuration file, in the order of their places
///
/// Shown as one paragraph each: `FILE:LINE:COLUMN: KEY: what is wrong`, then, indented, what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigErrors {
    /// The file, as it was named
    pub file: PathBuf,
    /// The mistakes, never empty
    pub errors: Vec<ConfigError>,
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.errors.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{error}", self.file.display())?;
        }
        Ok(())
    }
}

/// One mistake
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// The line, from 1
    pub line: usize,
    /// The column, from 1, in characters
    pub column: usize,
    /// The key, such as `certificates.example.com.files[0].path`; empty for the file as a whole
    pub key: String,
    /// What is wrong
    pub message: String,
    /// What to do about it
    pub remedy: String,
}

/// `LINE:COLUMN: KEY: what is wrong`, then, on an indented line, what to do
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}\n    {}", self.message, self.remedy)
    }
}

impl ConfigErrors {
    /// The file as a whole cannot be read
    pub(super) fn whole(file: &Path, place: Place, message: String, remedy: String) -> Self {
        let fault = Fault::new(KeyPath::default(), Spot::Value, message, remedy);
        Self { file: file.to_owned(), errors: vec![located(fault, place)] }
    }

    /// The mistakes of form, and those of meaning that do not merely follow from them
    ///
    /// `None` when nothing is left, so the text was good after all.
    pub(super) fn of(
        file: &Path,
        tree: &Tree,
        form: Collected,
        meaning: Vec<Fault>,
    ) -> Option<Self> {
        let mut errors: Vec<_> =
            tree.repeated.iter().map(|(path, place)| repeated(path, *place)).collect();
        errors.extend(form.faults.into_iter().map(|fault| {
            let place = tree.root.place(&fault.path, fault.spot);
            located(fault, place)
        }));
        errors.extend(meaning.into_iter().filter_map(|fault| {
            let fault = fault.moved(|path| tree.root.original(path));
            if form.damaged.iter().any(|damaged| fault.follows_from(damaged)) {
                return None;
            }
            let place = tree.root.place(&fault.path, fault.spot);
            Some(located(fault, place))
        }));
        errors.sort_by(|a, b| {
            (a.line, a.column, &a.key, &a.message).cmp(&(b.line, b.column, &b.key, &b.message))
        });
        (!errors.is_empty()).then(|| Self { file: file.to_owned(), errors })
    }
}

fn located(fault: Fault, Place { line, column }: Place) -> ConfigError {
    // What is quoted from the file may have been made to hide something on a terminal.
    let safe = |text| External::new(text).to_string();
    let (message, remedy) = (safe(fault.message), safe(fault.remedy));
    ConfigError { line, column, key: fault.path.to_string(), message, remedy }
}

fn repeated(path: &KeyPath, place: Place) -> ConfigError {
    let fault = Fault::new(
        path.clone(),
        Spot::Key,
        "comes a second time".to_owned(),
        "take one of the two out, or give it another name".to_owned(),
    );
    located(fault, place)
}
