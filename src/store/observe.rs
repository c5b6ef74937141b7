//! Looking at everything, changing nothing but the name of a corrupt record.
//!
//! With 1,000 certificates this is most of what `plan` does, so each file costs an open, a stat,
//! a read and a close, and no path is resolved twice.

use std::ffi::OsStr;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::thread;

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::dir::{Attributes, Dir, LIMIT, kind_words};
use super::error::StoreError;
use super::generation::{load, numbers};
use super::label::Acl;
use super::made::{Made, Wanted};
use super::owner::Owners;
use super::record::{ATTEMPTS, DEPLOY, ORDER, no_attempts, no_deploy};
use super::{CERTIFICATES, GENERATIONS, Store, pair};
use crate::cert::{Fingerprint, Leaf};
use crate::config::{Certificate, Output, Target};
use crate::event::Event;
use crate::failure::Step;
use crate::plan::{Held, Observed, ObservedTarget, OrderInFlight, OutputState, Snapshot};
use crate::record::{Attempts, DeployRecord, Generation, OrderRecord, TargetRecord};
use crate::text::External;
use crate::time::Timestamp;

impl Store {
    pub(super) fn observe_these(
        &self,
        certificates: &[&Certificate],
        report: &mut dyn FnMut(Event),
    ) -> Snapshot {
        let owners = self.owners();
        let shares = in_shares(certificates, |certificates| {
            let mut events = Vec::new();
            let mut observed = Vec::with_capacity(certificates.len());
            for certificate in certificates {
                let found = self.look(certificate, &owners, &mut |event| events.push(event));
                observed.push((certificate.name.clone(), Box::new(found)));
            }
            (observed, events)
        });
        let mut all = Vec::with_capacity(certificates.len());
        for (observed, events) in shares {
            all.extend(observed);
            events.into_iter().for_each(&mut *report);
        }
        // Collected and not inserted: a map that is built at once has no half-empty nodes.
        Snapshot { certificates: all.into_iter().collect() }
    }

    /// Look at one certificate
    pub fn observe_one(
        &self,
        certificate: &Certificate,
        report: &mut dyn FnMut(Event),
    ) -> Observed {
        self.look(certificate, &self.owners(), report)
    }

    /// Who looks without writing may be another user than the one that the agent runs as
    fn owners(&self) -> Owners {
        if !self.is_read_only() {
            return Owners::default();
        }
        let kept = Dir::find(&self.0.root.join(CERTIFICATES)).ok().flatten();
        let kept = kept.and_then(|dir| dir.attributes().ok());
        kept.map_or_else(Owners::default, |agent| Owners::with_unnamed((agent.uid, agent.gid)))
    }

    fn look(
        &self,
        certificate: &Certificate,
        owners: &Owners,
        report: &mut dyn FnMut(Event),
    ) -> Observed {
        match self.certificate_dir(&certificate.name) {
            Ok(home) => self.look_in(home.as_ref(), certificate, owners, report),
            Err(error) => Observed {
                damaged: Some(External::new(error.to_string())),
                attempts: blocked(&error),
                ..self.look_in(None, certificate, owners, report)
            },
        }
    }

    fn look_in(
        &self,
        home: Option<&Dir>,
        certificate: &Certificate,
        owners: &Owners,
        report: &mut dyn FnMut(Event),
    ) -> Observed {
        let mut observed = Observed { attempts: no_attempts(), ..Observed::default() };
        let mut deploy = no_deploy();
        let mut generations = None;
        let mut newest = None;
        let mut unread = false;
        if let Some(home) = home {
            match self.read_or_quarantine::<Attempts>(home, ATTEMPTS, report) {
                Ok(attempts) => observed.attempts = attempts.unwrap_or(observed.attempts),
                Err(error) => observed.attempts = blocked(&error),
            }
            match self.read_or_quarantine::<OrderRecord>(home, ORDER, report) {
                Ok(order) => observed.order = order.map(in_flight),
                // An order that cannot be read must not be ordered again.
                Err(error) => observed.attempts = blocked(&error),
            }
            match self.read_or_quarantine::<DeployRecord>(home, DEPLOY, report) {
                Ok(record) => deploy = record.unwrap_or(deploy),
                Err(error) => warn(certificate, &error.to_string(), report),
            }
            let found = home.child(GENERATIONS).and_then(|dir| {
                generations = dir;
                generations.as_ref().map_or(Ok((None, None)), newest_whole)
            });
            match found {
                Ok((found, damaged)) => {
                    observed.damaged = damaged.map(External::new);
                    newest = found;
                }
                // What may well be whole is neither replaced nor fallen back from.
                Err(error) => {
                    observed.damaged = Some(External::new(error.to_string()));
                    observed.attempts = blocked(&error);
                    unread = true;
                }
            }
        }
        let mut known =
            Known { generations, newest: newest.as_ref().map(|(it, _)| it), older: None };
        for target in &certificate.targets {
            let record = deploy.targets.get(&target.name).cloned().unwrap_or_default();
            let outputs =
                self.look_at_target(home, certificate, target, &record, &mut known, owners);
            let pinned =
                record.pinned_over.and_then(|_| known.leaf(record.generation)).map(Box::new);
            let number = record.in_force();
            let newest = known.newest.map(|newest| newest.meta.number);
            let in_force =
                number.filter(|_| number != newest).and_then(|n| known.leaf(n)).map(Box::new);
            let seen = Box::new(ObservedTarget { record, outputs, pinned, in_force });
            observed.targets.insert(target.name.clone(), seen);
        }
        match newest {
            Some((generation, leaf)) => {
                observed.held = Some(Held { meta: generation.meta, leaf });
            }
            None if unread => {}
            // Where no output is, no pair is either.
            None if observed.targets.values().all(|it| it.outputs == OutputState::Missing) => {}
            None => {
                let pair = self.pair_in_outputs(certificate, owners);
                observed.found = pair.map(|pair| Box::new(pair.leaf));
            }
        }
        observed
    }

    fn look_at_target(
        &self,
        home: Option<&Dir>,
        certificate: &Certificate,
        target: &Target,
        record: &TargetRecord,
        known: &mut Known<'_>,
        owners: &Owners,
    ) -> OutputState {
        let Some(first) = target.outputs.first() else { return OutputState::Missing };
        let placed = match self.place(certificate, target, owners) {
            Ok(placed) => placed,
            Err(error) => {
                let problem = External::new(error.to_string());
                return OutputState::Unreadable { path: first.path.clone(), problem };
            }
        };
        let number = record.in_force().or_else(|| known.newest.map(|newest| newest.meta.number));
        let generation = number.and_then(|number| known.get(number));
        let made = Made::load(home, target);
        let mut problem = None;
        let mut missing = None;
        let mut there = false;
        for place in &placed {
            let path = || place.output.path.clone();
            let holds = |file: &File<'_>| match generation {
                Some(generation) => match made.wanted(self, place.output, generation) {
                    Ok(Wanted::Bytes(bytes)) => file.holds(&bytes.parts()),
                    Ok(Wanted::Digest(digest)) => file.has_digest(digest),
                    Err(error) => Err(error.to_string()),
                },
                None => file.holds(&[]),
            };
            match verdict(place.output, place.link.as_deref(), place.attributes, holds) {
                Verdict::Current => there = true,
                Verdict::Missing => missing = missing.or_else(|| Some(path())),
                Verdict::Unreadable(problem) => {
                    let problem = External::new(problem);
                    return OutputState::Unreadable { path: path(), problem };
                }
                Verdict::Attributes(text) | Verdict::Content(text) => {
                    there = true;
                    problem = problem.or_else(|| Some((path(), text)));
                }
            }
        }
        if !there {
            return OutputState::Missing;
        }
        let differs = |(path, problem): (_, String)| OutputState::Differs {
            path,
            problem: External::new(problem),
        };
        match (generation, problem, missing) {
            (None, _, _) => {
                let problem = match number {
                    Some(number) => format!("should hold generation {number}, which is gone"),
                    None => "holds something that certkeep did not put there".to_owned(),
                };
                differs((first.path.clone(), problem))
            }
            (Some(_), Some(problem), _) => differs(problem),
            (Some(_), None, Some(path)) => differs((path, "is missing".to_owned())),
            (Some(_), None, None) => OutputState::Current,
        }
    }
}

/// The generations of one certificate, as far as they were needed
struct Known<'a> {
    generations: Option<Dir>,
    newest: Option<&'a Generation>,
    older: Option<Generation>,
}

impl Known<'_> {
    fn get(&mut self, number: u32) -> Option<&Generation> {
        if let Some(newest) = self.newest.filter(|newest| newest.meta.number == number) {
            return Some(newest);
        }
        if self.older.as_ref().is_none_or(|older| older.meta.number != number) {
            let dir = self.generations.as_ref()?;
            self.older = load(dir, number).ok().flatten();
        }
        self.older.as_ref()
    }
}

impl Known<'_> {
    fn leaf(&mut self, number: u32) -> Option<Leaf> {
        Leaf::from_pem(pair::leaf(self.get(number)?)).ok()
    }
}

/// A generation whose files are what was staged, and its leaf
type Whole = (Generation, Leaf);

/// The newest generation that is whole, and what is wrong with newer ones
///
/// Fails when one of them cannot be read at this moment, or not by this user or version.
fn newest_whole(generations: &Dir) -> Result<(Option<Whole>, Option<String>), StoreError> {
    let mut damaged = None;
    for number in numbers(generations)?.into_iter().rev() {
        let problem = match load(generations, number) {
            Ok(Some(generation)) => match Leaf::from_pem(pair::leaf(&generation)) {
                Ok(leaf) if leaf.fingerprint == generation.meta.fingerprint => {
                    return Ok((Some((generation, leaf)), damaged));
                }
                Ok(_) => "holds another certificate than was staged".to_owned(),
                Err(error) => error.to_string(),
            },
            // Pruned in between.
            Ok(None) => continue,
            Err(error) if error.is_damage() || error.errno() == Some(Errno::IO) => {
                error.to_string()
            }
            Err(error) => return Err(error),
        };
        damaged = damaged.or_else(|| Some(format!("generation {number}: {problem}")));
    }
    Ok((None, damaged))
}

/// Attempts that allow none: what was tried is not known, so nothing may be
fn blocked(error: &StoreError) -> Attempts {
    Attempts {
        failures: 1,
        last_failure: Some(Box::new(error.failure(Step::Prepare))),
        not_before: Some(NEVER),
        ..no_attempts()
    }
}

fn in_flight(order: OrderRecord) -> OrderInFlight {
    OrderInFlight {
        url: External::new(order.url),
        issuer: order.issuer,
        directory: order.directory,
        identifiers: order.identifiers.into_iter().collect(),
        created_at: order.created_at,
    }
}

fn warn(certificate: &Certificate, message: &str, report: &mut dyn FnMut(Event)) {
    let certificate = Some(certificate.name.clone());
    report(Event::Warned { certificate, message: External::new(message) });
}

/// Work on many things with a thread for each share of them; the results in their order
pub(super) fn in_shares<I: Sync, T: Send>(items: &[I], work: impl Fn(&[I]) -> T + Sync) -> Vec<T> {
    // Finding out takes a look at control groups, which is no less than looking at some files.
    static THREADS: OnceLock<usize> = OnceLock::new();
    let threads =
        *THREADS.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get).min(8));
    let share = items.len().div_ceil(threads).max(SHARE);
    let (first, rest) = items.split_at(share.min(items.len()));
    let work = &work;
    thread::scope(|scope| {
        let spawn = |chunk| thread::Builder::new().spawn_scoped(scope, move || work(chunk));
        let threads: Vec<_> = rest.chunks(share).map(|chunk| (chunk, spawn(chunk))).collect();
        let mut shares = vec![work(first)];
        for (chunk, thread) in threads {
            // There may be too few threads; one that panicked is a defect. Its share is worked on
            // here.
            let done = thread.ok().and_then(|thread| thread.join().ok());
            shares.push(done.unwrap_or_else(|| work(chunk)));
        }
        shares
    })
}

/// How one output compares with what it should be
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be
    Current,
    /// The content is right, the mode or owner is not
    Attributes(String),
    /// Something else is there
    Content(String),
    /// Nothing is there
    Missing,
    /// It cannot be looked at
    Unreadable(String),
}

/// Compare one output; `link` is the text of the symlink that it must be, if it must be one, and
/// `holds` says whether the file is the right one
pub(super) fn verdict(
    output: &Output,
    link: Option<&OsStr>,
    wanted: Attributes,
    holds: impl FnOnce(&File<'_>) -> Result<bool, String>,
) -> Verdict {
    let path = output.path.as_path();
    if let Some(link) = link {
        match fs::readlink(path, Vec::new()) {
            Ok(text) if text.as_bytes() == link.as_encoded_bytes() => {}
            Ok(_) => return Verdict::Content("is a symlink to something else".to_owned()),
            Err(Errno::INVAL) => {
                return Verdict::Content("is not the symlink that certkeep switches".to_owned());
            }
            Err(Errno::NOENT | Errno::NOTDIR) => return Verdict::Missing,
            Err(errno) => return Verdict::Unreadable(errno.to_string()),
        }
    }
    let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    if link.is_none() {
        flags |= OFlags::NOFOLLOW;
    }
    let fd = match fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Verdict::Missing,
        Err(Errno::LOOP) => {
            return Verdict::Content("is a symlink, not a regular file".to_owned());
        }
        // What opening a socket gives.
        Err(Errno::NXIO) => return Verdict::Content("is not a regular file".to_owned()),
        Err(errno) => return Verdict::Unreadable(errno.to_string()),
    };
    let stat = match fs::fstat(&fd) {
        Ok(stat) => stat,
        Err(errno) => return Verdict::Unreadable(errno.to_string()),
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Verdict::Content(format!("is {}, not a regular file", kind_words(kind)));
    }
    match holds(&File { fd: &fd, size: stat.st_size }) {
        Ok(true) => {}
        Ok(false) => return Verdict::Content("holds something else".to_owned()),
        Err(problem) => return Verdict::Unreadable(problem),
    }
    let mut found = Attributes::of(&stat);
    if found.mode != wanted.mode
        && let Ok(Some(acl)) = Acl::of(&fd)
    {
        found.mode = acl.mode();
    }
    if found.mode != wanted.mode {
        let text = format!("has mode {:04o} instead of {:04o}", found.mode, wanted.mode);
        return Verdict::Attributes(text);
    }
    if (found.uid, found.gid) != (wanted.uid, wanted.gid) {
        return Verdict::Attributes(format!(
            "belongs to {}:{} instead of {}:{}",
            found.uid, found.gid, wanted.uid, wanted.gid
        ));
    }
    Verdict::Current
}

/// An open file that is compared
pub(super) struct File<'a> {
    fd: &'a OwnedFd,
    size: i64,
}

impl<'a> File<'a> {
    /// An open file with what was seen of it, if it is a regular one
    pub(super) fn of(fd: &'a OwnedFd, stat: &Stat) -> Option<Self> {
        let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        is_regular.then_some(Self { fd, size: stat.st_size })
    }

    /// Whether it holds exactly these parts
    pub(super) fn holds(&self, parts: &[&[u8]]) -> Result<bool, String> {
        let length = parts.iter().map(|part| part.len()).sum();
        if usize::try_from(self.size) != Ok(length) {
            return Ok(false);
        }
        let Some(bytes) = self.read(length)? else { return Ok(false) };
        let mut rest = bytes.as_slice();
        let same = parts.iter().all(|part| match rest.strip_prefix(*part) {
            Some(tail) => {
                rest = tail;
                true
            }
            None => false,
        });
        Ok(same)
    }

    /// Whether this is the SHA-256 of what it holds
    pub(super) fn has_digest(&self, digest: Fingerprint) -> Result<bool, String> {
        let length = usize::try_from(self.size).ok().filter(|length| *length <= LIMIT);
        let Some(length) = length else { return Ok(false) };
        Ok(self.read(length)?.is_some_and(|bytes| pair::digest(&bytes) == digest))
    }

    /// So many bytes in one piece; `None` when there are fewer
    fn read(&self, length: usize) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        let mut bytes = Zeroizing::new(vec![0; length]);
        let mut filled = 0;
        while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
            match rustix::io::read(self.fd, room) {
                Ok(0) => return Ok(None),
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.to_string()),
            }
        }
        Ok(Some(bytes))
    }
}

/// The end of the year 9999, the last that RFC 3339 can write
pub(super) const NEVER: Timestamp = Timestamp::from_seconds(253_402_300_799);

/// The fewest things that are worth a thread
const SHARE: usize = 32;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "damage is done on purpose")]
mod tests;
