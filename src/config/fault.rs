//! Mistakes and where they are.

use std::fmt::{self, Write as _};

/// A place in the configuration, on the way down to it
///
/// Borrowed links, so that a sound configuration never builds a path.
#[derive(Clone, Copy, Debug)]
pub(super) enum At<'a> {
    Root,
    Key(&'a Self, &'a str),
    Index(&'a Self, usize),
}

impl<'a> At<'a> {
    pub(super) fn key(&'a self, key: &'a str) -> Self {
        At::Key(self, key)
    }

    pub(super) fn index(&'a self, index: usize) -> Self {
        At::Index(self, index)
    }

    pub(super) fn path(&self) -> KeyPath {
        let (mut path, step) = match self {
            At::Root => return KeyPath::default(),
            At::Key(parent, key) => (parent.path(), Step::Key((*key).to_owned())),
            At::Index(parent, index) => (parent.path(), Step::Index(*index)),
        };
        path.0.push(step);
        path
    }
}

/// A place in the configuration, such as `certificates.example.com.names[1]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyPath(pub(super) Vec<Step>);

impl KeyPath {
    pub(super) fn child(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Key(key.to_owned()));
        path
    }

    /// Whether one is the other or leads to it
    fn on_one_way(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(ours, theirs)| ours == theirs)
    }

    fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

/// Keys that are more than letters, digits, `.`, `_`, `-` and `*` are quoted
impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if position > 0 {
                        f.write_char('.')?;
                    }
                    let plain = |c: char| c.is_ascii_alphanumeric() || "._-*".contains(c);
                    if !key.is_empty() && key.chars().all(plain) {
                        f.write_str(key)?;
                    } else {
                        write!(f, "\"{}\"", key.escape_debug())?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// One step of a [`KeyPath`]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// One mistake, before its line and column are known
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) path: KeyPath,
    pub(super) spot: Spot,
    pub(super) message: String,
    pub(super) remedy: String,
    /// Other places that explain it away when something is wrong there
    because: Vec<KeyPath>,
}

impl Fault {
    pub(super) fn new(path: KeyPath, spot: Spot, message: String, remedy: String) -> Self {
        Self { path, spot, message, remedy, because: Vec::new() }
    }

    /// The same mistake at another path
    pub(super) fn moved(self, path: impl FnOnce(KeyPath) -> KeyPath) -> Self {
        Self { path: path(self.path), ..self }
    }

    /// Whether it is only a consequence of what was left out at `damaged`
    pub(super) fn follows_from(&self, damaged: &KeyPath) -> bool {
        let own = match self.spot {
            Spot::Key => self.path.starts_with(damaged),
            Spot::Value => self.path.on_one_way(damaged),
        };
        own || self.because.iter().any(|path| path.on_one_way(damaged))
    }
}

/// What of a key and its value is wrong
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    Key,
    Value,
}

/// Proof that a mistake was recorded: the only way to one is through [`Faults`]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(());

/// The mistakes found so far
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    /// The value here is wrong
    pub(super) fn value(
        &mut self,
        at: &At<'_>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Refused {
        self.push(Fault::new(at.path(), Spot::Value, message.into(), remedy.into()))
    }

    /// The key here is wrong, whatever its value
    pub(super) fn key(
        &mut self,
        at: &At<'_>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Refused {
        self.push(Fault::new(at.path(), Spot::Key, message.into(), remedy.into()))
    }

    /// None of these keys is here, and one must be
    pub(super) fn missing(
        &mut self,
        parent: &At<'_>,
        keys: &[&str],
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Refused {
        let parent = parent.path();
        let because: Vec<_> = keys.iter().map(|key| parent.child(key)).collect();
        let path = because.first().cloned().unwrap_or(parent);
        let fault = Fault::new(path, Spot::Value, message.into(), remedy.into());
        self.push(Fault { because, ..fault })
    }

    /// The value here names something that is not at `target`
    pub(super) fn dangling(
        &mut self,
        at: &At<'_>,
        target: &At<'_>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Refused {
        let fault = Fault::new(at.path(), Spot::Value, message.into(), remedy.into());
        self.push(Fault { because: vec![target.path()], ..fault })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_vec(self) -> Vec<Fault> {
        self.0
    }

    fn push(&mut self, fault: Fault) -> Refused {
        self.0.push(fault);
        Refused(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_the_file() {
        let (root, odd) = (At::Root, "a b\u{1b}");
        let certificates = root.key("certificates");
        let certificate = certificates.key("example.com");
        let files = certificate.key("files");
        let file = files.index(0);
        assert_eq!(file.key("path").path().to_string(), "certificates.example.com.files[0].path");
        assert_eq!(certificates.key(odd).path().to_string(), r#"certificates."a b\u{1b}""#);
    }

    #[test]
    fn what_follows_from_a_damaged_place_is_told_apart() {
        let root = At::Root;
        let (a, b) = (root.key("a"), root.key("b"));
        let (deep, other) = (a.key("x"), a.key("y"));
        let mut faults = Faults::default();
        faults.value(&a, "", "");
        faults.key(&a, "", "");
        faults.missing(&a, &["x", "z"], "", "");
        faults.dangling(&b, &deep, "", "");
        let follows = |damaged: &At<'_>| -> Vec<bool> {
            faults.0.iter().map(|fault| fault.follows_from(&damaged.path())).collect()
        };
        assert_eq!(follows(&deep), [true, false, true, true]);
        assert_eq!(follows(&other), [true, false, false, false]);
        assert_eq!(follows(&a), [true, true, true, true]);
        assert_eq!(follows(&b), [false, false, false, true]);
    }
}
