//! What was seen, kept for the next process.
//!
//! Nothing is in `seen.cache` that is not elsewhere on the disk: where it is missing, damaged or of
//! another version, everything is read. A line holds what a calm look at a certificate gave, and
//! the stamp by which the next look finds out whether it may be believed.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::dir::{Attributes, Dir};
use super::error::StoreError;
use super::label::Labels;
use super::stamp::Stamps;
use super::{CERTIFICATES, OWN, Store};
use crate::cert::Leaf;
use crate::name::{CertName, TargetName};
use crate::plan::{Held, Observed, ObservedTarget, OutputState, Snapshot};
use crate::record::{Attempts, TargetRecord, VERSION};
use crate::time::Timestamp;

/// The first line
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    version: u32,
    /// What made the stamps: another program may make others
    program: String,
    read_all_at: Timestamp,
}

/// Each other line, after the stamp and the name
#[derive(Serialize, Deserialize)]
struct Seen<'a> {
    held: Cow<'a, Held>,
    attempts: Cow<'a, Attempts>,
    targets: BTreeMap<Cow<'a, TargetName>, SeenTarget<'a>>,
}

#[derive(Serialize, Deserialize)]
struct SeenTarget<'a> {
    record: Cow<'a, TargetRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pinned: Option<Cow<'a, Leaf>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    in_force: Option<Cow<'a, Leaf>>,
}

/// What an earlier process saw
pub(super) struct Kept {
    read_all_at: Timestamp,
    text: String,
}

/// What it saw of one certificate, not looked into yet
pub(super) struct Line<'a> {
    pub(super) stamp: u64,
    json: &'a str,
}

impl Kept {
    pub(super) const fn read_all_at(&self) -> Timestamp {
        self.read_all_at
    }

    /// The lines by the names of their certificates
    pub(super) fn lines(&self) -> HashMap<&str, Line<'_>> {
        self.text.lines().skip(1).filter_map(Line::parse).collect()
    }
}

impl<'a> Line<'a> {
    /// A name, a stamp, and JSON, with a space between
    fn parse(line: &'a str) -> Option<(&'a str, Self)> {
        let (name, rest) = line.split_once(' ')?;
        let (stamp, json) = rest.split_once(' ')?;
        Some((name, Self { stamp: u64::from_str_radix(stamp, 16).ok()?, json }))
    }

    /// As it was seen: only what is whole and in its place has a stamp
    pub(super) fn seen(&self) -> Option<Box<Observed>> {
        let seen: Seen<'_> = serde_json::from_str(self.json).ok()?;
        let targets = seen.targets.into_iter().map(|(name, target)| {
            let seen = ObservedTarget {
                record: target.record.into_owned(),
                outputs: OutputState::Current,
                pinned: target.pinned.map(|leaf| Box::new(leaf.into_owned())),
                in_force: target.in_force.map(|leaf| Box::new(leaf.into_owned())),
            };
            (name.into_owned(), Box::new(seen))
        });
        Some(Box::new(Observed {
            held: Some(seen.held.into_owned()),
            attempts: seen.attempts.into_owned(),
            targets: targets.collect(),
            ..Observed::default()
        }))
    }
}

impl Store {
    /// What an earlier process kept, if this one can use it
    pub(super) fn recall(&self) -> Option<Kept> {
        let (bytes, _) = Dir::find(&self.0.root).ok()??.read_up_to(SEEN, LIMIT).ok()??;
        let text = String::from_utf8(bytes).ok()?;
        let head: Head = serde_json::from_str(text.lines().next()?).ok()?;
        let ours = head.version == VERSION && head.program == env!("CARGO_PKG_VERSION");
        ours.then_some(Kept { read_all_at: head.read_all_at, text })
    }

    /// Keep what was seen, if it is not what is kept already
    ///
    /// # Errors
    /// When it cannot be written; then the next process reads everything.
    pub fn remember(&self, snapshot: &Snapshot, stamps: &mut Stamps) -> Result<(), StoreError> {
        self.writable()?;
        let Some(read_all_at) = stamps.read_all_at.filter(|_| stamps.are_news) else {
            return Ok(());
        };
        let program = env!("CARGO_PKG_VERSION").to_owned();
        let mut text = Vec::new();
        push(&mut text, "", &Head { version: VERSION, program, read_all_at });
        for (name, seen) in &snapshot.certificates {
            if let (Some(stamp), Some(seen)) = (stamps.get(name), Seen::new(seen)) {
                push(&mut text, &format!("{name} {stamp:x} "), &seen);
            }
        }
        let root = Dir::find(&self.0.root)?
            .ok_or_else(|| StoreError::system("open", &self.0.root, rustix::io::Errno::NOENT))?;
        // Whoever looked at a few only does not forget the others.
        let kept = self.recall();
        for (name, Line { stamp, json }) in kept.as_ref().map(Kept::lines).unwrap_or_default() {
            if let Ok(name) = CertName::parse(name)
                && !snapshot.certificates.contains_key(&name)
                && root.stat(format!("{CERTIFICATES}/{name}"))?.is_some()
            {
                text.extend_from_slice(format!("{name} {stamp:x} {json}\n").as_bytes());
            }
        }
        root.replace(SEEN, OWN, &[&text], Attributes::private(), &Labels::default())?;
        stamps.are_news = false;
        Ok(())
    }
}

impl<'a> Seen<'a> {
    fn new(seen: &'a Observed) -> Option<Self> {
        let targets = seen.targets.iter().map(|(name, target)| {
            let record = Cow::Borrowed(&target.record);
            let pinned = target.pinned.as_deref().map(Cow::Borrowed);
            let in_force = target.in_force.as_deref().map(Cow::Borrowed);
            (Cow::Borrowed(name), SeenTarget { record, pinned, in_force })
        });
        Some(Self {
            held: Cow::Borrowed(seen.held.as_ref()?),
            attempts: Cow::Borrowed(&seen.attempts),
            targets: targets.collect(),
        })
    }
}

fn push(text: &mut Vec<u8>, label: &str, line: &impl Serialize) {
    let before = text.len();
    text.extend_from_slice(label.as_bytes());
    match serde_json::to_writer(&mut *text, line) {
        Ok(()) => text.push(b'\n'),
        // What is not kept is read.
        Err(_) => text.truncate(before),
    }
}

const SEEN: &str = "seen.cache";

/// Some 2 KiB for each of 30,000 certificates
const LIMIT: usize = 64 << 20;
