//! The generations of one certificate: where each came from, and what it is of use for.

use serde::Serialize;

use crate::cert::Leaf;
use crate::config::KeyType;
use crate::name::{CertName, Identifier, TargetName};
use crate::record::{GenerationMeta, Origin, TargetRecord};
use crate::text::{Count, External, fitting};
use crate::time::{Rough, Timestamp};

/// What `generations` prints with `--json`
#[derive(Debug, Serialize)]
pub struct Generations {
    /// [`VERSION`](super::VERSION)
    pub version: u32,
    /// When it was made
    pub now: Timestamp,
    /// The certificate's name in the configuration
    pub certificate: CertName,
    /// Those that are held, newest first
    pub generations: Vec<GenerationReport>,
    /// Targets whose files from before certkeep are kept
    pub originals: Vec<TargetName>,
}

/// One generation of [`Generations`]
#[derive(Debug, Serialize)]
pub struct GenerationReport {
    /// Its number
    pub number: u32,
    /// Why it cannot be used; then nothing more is known
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<External>,
    /// Whether it was revoked
    pub revoked: bool,
    /// What it vouches for
    pub names: Vec<Identifier>,
    /// Its leaf's SHA-256
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Its leaf's serial number
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Who signed it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<External>,
    /// When it begins
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// When it expires
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// The kind of its key
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_type: Option<KeyType>,
    /// When it was staged
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged_at: Option<Timestamp>,
    /// The order that it came from; none for one that was found in the files
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The targets that it is of use for
    pub targets: Vec<Use>,
}

/// What a generation is to one target
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Use {
    /// The target's name in the configuration
    pub name: TargetName,
    /// What it is there
    pub state: UseState,
    /// The generation that the operator went back from, until there is a newer one
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_from: Option<u32>,
}

/// What a generation is to a target, as one word
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UseState {
    /// It is being deployed, and its files are not there yet
    Begun,
    /// Its files are there, since a newer one is not or not any more
    InForce,
    /// Its files are there
    Installed,
    /// Its files are there, and every endpoint was seen to serve it
    Live,
    /// What was there before; a deployment that fails goes back to it
    Previous,
    /// It failed to be deployed
    Refused,
}

impl UseState {
    const fn sentence(self) -> &'static str {
        match self {
            Self::Begun => "on its way",
            Self::InForce => "in force, since a newer one is not",
            Self::Installed => "installed, and not seen from every endpoint yet",
            Self::Live => "live",
            Self::Previous => "the previous one",
            Self::Refused => "refused",
        }
    }
}

impl Use {
    /// What a generation is to a target with this record; `None`: nothing
    pub fn of(number: u32, name: &TargetName, record: &TargetRecord) -> Option<Self> {
        let is_current = record.generation == number;
        let state = match (is_current, record.installed_at, record.live_at) {
            (true, Some(_), Some(_)) => UseState::Live,
            (true, Some(_), None) => UseState::Installed,
            (true, None, _) if record.failures == 0 => UseState::Begun,
            (true, None, _) => UseState::Refused,
            (false, Some(_), _) if record.previous == Some(number) => UseState::Previous,
            (false, None, _) if record.previous == Some(number) => UseState::InForce,
            (false, _, _) => return None,
        };
        let back_from = record.pinned_over.filter(|_| is_current);
        Some(Self { name: name.clone(), state, back_from })
    }
}

impl GenerationReport {
    /// One that is whole
    pub fn new(meta: &GenerationMeta, leaf: &Leaf, revoked: bool, targets: Vec<Use>) -> Self {
        Self {
            number: meta.number,
            problem: None,
            revoked,
            names: leaf.identifiers.iter().cloned().collect(),
            fingerprint: Some(leaf.fingerprint.to_string()),
            serial: Some(leaf.serial.clone()),
            issuer: Some(leaf.issuer.clone()),
            not_before: Some(leaf.not_before),
            not_after: Some(leaf.not_after),
            key_type: Some(meta.key_type),
            staged_at: Some(meta.staged_at),
            origin: meta.origin.clone(),
            targets,
        }
    }

    /// One that cannot be used
    pub fn damaged(number: u32, problem: External, targets: Vec<Use>) -> Self {
        Self {
            number,
            problem: Some(problem),
            revoked: false,
            names: Vec::new(),
            fingerprint: None,
            serial: None,
            issuer: None,
            not_before: None,
            not_after: None,
            key_type: None,
            staged_at: None,
            origin: None,
            targets,
        }
    }

    fn left(&self, now: Timestamp) -> String {
        match self.not_after {
            Some(end) if end <= now => "expired".to_owned(),
            Some(end) => Rough(end.since(now)).to_string(),
            None => "-".to_owned(),
        }
    }

    fn details(&self, text: &mut String) {
        if let Some(problem) = &self.problem {
            line(text, &format!("    cannot be used: {problem}"));
        }
        if self.revoked {
            line(text, "    revoked");
        }
        for target in &self.targets {
            let (name, state) = (&target.name, target.state.sentence());
            line(text, &format!("    target `{name}`: {state}"));
            if let Some(newest) = target.back_from {
                line(text, &format!("        until there is a newer one than {newest}"));
            }
        }
        if let (Some(begin), Some(end)) = (self.not_before, self.not_after) {
            line(text, &format!("    good from {begin} to {end}"));
        }
        if let Some(issuer) = &self.issuer {
            line(text, &format!("    signed by {issuer}"));
        }
        if let Some(staged) = self.staged_at {
            line(text, &format!("    staged at {staged}"));
        }
        if let Some(origin) = &self.origin {
            line(text, &format!("    ordered as {}", External::new(&origin.order)));
        }
    }
}

impl Generations {
    /// As a table with details, for people
    pub fn text(&self) -> String {
        let mut text = String::new();
        let name = &self.certificate;
        if self.generations.is_empty() {
            line(&mut text, &format!("{name}: no generation is held"));
        } else {
            let (number, left, key, print) = ("NUMBER", "LEFT", "KEY", "FINGERPRINT");
            line(&mut text, &format!("{number}  {left:<8}  {key:<10}  {print:<16}  FROM"));
        }
        for generation in &self.generations {
            let (number, left) = (generation.number, generation.left(self.now));
            let key = generation.key_type.map_or("-", KeyType::as_str);
            let print = generation.fingerprint.as_deref().and_then(|print| print.get(..16));
            let from = match (&generation.origin, &generation.problem) {
                (Some(origin), _) => origin.issuer.as_str(),
                (None, Some(_)) => "-",
                (None, None) => "found in the files",
            };
            let print = print.unwrap_or("-");
            let row = format!("{number:>6}  {left:<8}  {key:<10}  {print:<16}  {from}");
            line(&mut text, &row);
            generation.details(&mut text);
        }
        for target in &self.originals {
            let kept = format!("the files from before certkeep are kept for target `{target}`");
            line(&mut text, &kept);
        }
        let count = Count(self.generations.len(), "generation");
        if !self.generations.is_empty() {
            line(&mut text, &format!("{count} of {name}; `rollback` goes back to one of them"));
        }
        text
    }
}

/// Add a line, broken where a terminal ends
fn line(text: &mut String, content: &str) {
    fitting(text, 8, content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::VERSION;

    #[test]
    fn what_a_generation_is_to_a_target_is_told_by_its_record() {
        let at = Some(Timestamp::from_seconds(0));
        let name = TargetName::default();
        let record = |installed_at, live_at, failures| TargetRecord {
            generation: 7,
            installed_at,
            live_at,
            failures,
            previous: Some(5),
            ..TargetRecord::default()
        };
        let cases = [
            (record(at, at, 0), Some(UseState::Live), Some(UseState::Previous)),
            (record(at, None, 1), Some(UseState::Installed), Some(UseState::Previous)),
            (record(None, None, 0), Some(UseState::Begun), Some(UseState::InForce)),
            (record(None, None, 2), Some(UseState::Refused), Some(UseState::InForce)),
            (TargetRecord::default(), None, None),
        ];
        for (record, seven, five) in cases {
            let state = |number| Use::of(number, &name, &record).map(|used| used.state);
            assert_eq!((state(7), state(5), state(6)), (seven, five, None), "{record:?}");
        }
    }

    #[test]
    fn no_line_is_longer_than_a_terminal_is_wide_but_for_one_word() {
        let problem = External::new("/very/long".repeat(40));
        let all = Generations {
            version: VERSION,
            now: Timestamp::from_seconds(0),
            certificate: CertName::parse(&"a".repeat(100)).unwrap(),
            generations: vec![GenerationReport::damaged(1, problem, Vec::new())],
            originals: vec![TargetName::parse(&"t".repeat(100)).unwrap()],
        };
        let text = all.text();
        let fits = |line: &str| line.chars().count() < 80 || !line.trim().contains(' ');
        assert!(text.lines().all(fits), "{text}");
        assert!(text.contains(&"/very/long".repeat(40)), "{text}");
        assert!(text.contains(&"t".repeat(100)), "{text}");
    }
}
