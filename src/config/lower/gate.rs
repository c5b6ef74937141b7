//! The gate: what a new certificate must be before it takes the place of one that works.

use std::path::Path;

use crate::config::fault::{At, Faults, Refused};
use crate::config::lower::{path, span};
use crate::config::raw::{RawGate, RawRequire};
use crate::config::{ChangeKind, Gate, Require};

pub(super) fn gate(
    raw: Option<&RawGate>,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Gate, Refused> {
    let none = RawGate::default();
    let raw = raw.unwrap_or(&none);
    let roots =
        raw.roots.as_ref().map(|text| path::file(text, base, &at.key("roots"), faults)).transpose();
    let require = raw.require.as_ref().map(|raw| require(raw, &at.key("require"), faults));
    Ok(Gate {
        roots: roots?,
        require: require.transpose()?.unwrap_or_default(),
        forbid: raw.forbid.as_deref().unwrap_or(&FORBIDDEN).iter().copied().collect(),
        hard: raw.hard.unwrap_or_default(),
    })
}

fn require(raw: &RawRequire, at: &At<'_>, faults: &mut Faults) -> Result<Require, Refused> {
    let usage = raw.usage.as_deref().unwrap_or_default().iter().copied().collect();
    let lifetime = raw.lifetime.as_ref().map(|text| span(text, &at.key("lifetime"), faults));
    Ok(Require { usage, lifetime: lifetime.transpose()? })
}

/// What is forbidden when it is not said
const FORBIDDEN: [ChangeKind; 1] = [ChangeKind::LostNames];
