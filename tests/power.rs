//! The power is cut at any moment of a renewal, on a file system that keeps no more than it must.
//!
//! One renewal is recorded by strace, and played back on [`model`], which says what it takes for
//! granted. After each call, of everything that may be left, the outputs of each target are all
//! old or all new; those of `copy: true` may be mixed while their journal is there. A part of it
//! is laid down for real, and the next renewal has to bring it to its end: live, without another
//! order, and with the new certificate if its order was on disk.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

#[path = "power/model.rs"]
mod model;
#[path = "power/trace.rs"]
mod trace;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use model::{Cut, Model};
use support::host::{Host, Layout};
use support::{program, read, tell};

#[test]
fn a_power_cut_at_any_moment_leaves_all_old_or_all_new() {
    let host = Host::new(&[Layout::Links, Layout::Copies, Layout::Folder]);
    let old = Sets::of(&host);
    let mut model = Model::of(host.site.path());
    let calls = record(&host);
    let new = Sets::of(&host);
    assert_ne!(old, new);
    host.assert_sound(false, &"the recorded renewal");
    let (mut moments, mut states, mut laid_down, mut mended) = (0, 0, 0, 0);
    let order = host.site.state().join("certificates/site/order.json");
    let mut ordered = false;
    for call in &calls {
        if !model.take(call) {
            continue;
        }
        moments += 1;
        let cuts = model.cuts();
        ordered |= cuts.iter().all(|cut| holds(cut, &order));
        let mut mixed = None;
        for cut in &cuts {
            let mixes = mixed_targets(&host, cut, &old, &new);
            assert!(
                mixes.iter().all(|layout| {
                    *layout == Layout::Copies && holds(cut, &host.journal(*layout))
                }),
                "mixed after {call:?}: {mixes:?} {:?}",
                cut.unsynced
            );
            if !mixes.is_empty() {
                mixed = mixed.or(Some(cut));
            }
        }
        states += cuts.len();
        mended += usize::from(mixed.is_some());
        // What is overwritten must not come back under its name: each such moment counts.
        let is_overwritten =
            matches!(call, trace::Call::Write { bytes, .. } if bytes.iter().all(|byte| *byte == 0));
        let chosen = moments % every() == 0 || is_overwritten;
        let chosen = [cuts.first(), cuts.last()].into_iter().flatten().filter(|_| chosen);
        for cut in chosen.chain(mixed) {
            laid_down += 1;
            let story = format!("{call:?}, {:?}", cut.unsynced);
            go_on(&host, cut, ordered.then_some(&new), &story);
        }
    }
    assert!(moments > 100 && states > 1000 && mended > 2, "{moments} {states} {mended}");
    tell(&format!(
        "power cut: {states} states at {moments} moments, {laid_down} of them brought to their end"
    ));
}

/// At which of the moments what is left is laid down for real
fn every() -> usize {
    if std::env::var_os("CERTKEEP_TESTS").is_some() { 1 } else { 20 }
}

/// What every path of every target gives its readers
#[derive(Debug, PartialEq, Eq)]
struct Sets(Vec<(Layout, PathBuf, Vec<u8>)>);

impl Sets {
    fn of(host: &Host) -> Self {
        let paths = host
            .layouts
            .iter()
            .flat_map(|layout| host.outputs(*layout).into_iter().map(|out| (*layout, out.1)));
        Self(
            paths
                .map(|(layout, path)| (layout, path.clone(), std::fs::read(path).unwrap()))
                .collect(),
        )
    }

    /// Whether what is left after a power cut gives all of this for a target
    fn is_given(&self, layout: Layout, cut: &Cut<'_>) -> bool {
        let mut of_target = self.0.iter().filter(|(other, ..)| *other == layout);
        of_target.all(|(_, path, bytes)| cut.read(path).is_some_and(|read| *read == **bytes))
    }
}

fn record(host: &Host) -> Vec<trace::Call> {
    let trace = host.site.path().join("trace");
    let mut words = vec![OsString::from(program("strace"))];
    words.extend(trace::STRACE.map(OsString::from));
    words.push(trace.clone().into());
    host.site.certkeep_under(words, &["renew", "--force"]).succeeds();
    trace::read(&read(trace))
}

/// Targets whose outputs are neither all old nor all new
fn mixed_targets(host: &Host, cut: &Cut<'_>, old: &Sets, new: &Sets) -> Vec<Layout> {
    let is_whole = |layout: Layout| old.is_given(layout, cut) || new.is_given(layout, cut);
    host.layouts.iter().copied().filter(|layout| !is_whole(*layout)).collect()
}

/// Whether a record of the state directory is left, and whole
fn holds(cut: &Cut<'_>, record: &Path) -> bool {
    let record = cut.read(record);
    record.is_some_and(|record| serde_json::from_slice::<serde_json::Value>(&record).is_ok())
}

/// Let the next renewal find what is left
fn go_on(host: &Host, cut: &Cut<'_>, expected: Option<&Sets>, story: &str) {
    cut.lay_down(&["state", "tls"]);
    let issued = host.ca.issued();
    let output = host.site.certkeep(&["renew"]).run();
    let story = format!("{story}: {output}");
    assert_eq!(output.code, Some(0), "{story}");
    host.assert_sound(false, &story);
    host.assert_tidy(&story);
    assert_eq!(host.site.state_of("site"), "live", "{story}");
    assert_eq!(host.ca.issued(), issued, "{story}");
    if let Some(expected) = expected {
        assert_eq!(Sets::of(host), *expected, "the new certificate was lost: {story}");
    }
}
