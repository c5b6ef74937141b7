//! Looking again without reading what nobody touched.
//!
//! What is on disk is the truth, and reading 9 files for each of 1,000 certificates costs a tenth
//! of a second of CPU. The kernel changes a file's ctime with every change of its content, mode or
//! owner, a directory's with every entry that comes, goes or is replaced, and nobody can set it
//! back. So between two full looks, which come every hour, what has the same inode, size and times
//! counts as read: to the agent, which looks every minute, and to the next process, since what was
//! seen is kept in `seen.cache`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, Stat};

use super::dir::DATA;
use super::observe::{NEVER, in_shares};
use super::recall::Kept;
use super::{CERTIFICATES, GENERATIONS, Store};
use crate::config::{Certificate, Config, Layout, SecretSource};
use crate::event::Event;
use crate::name::CertName;
use crate::plan::{Observed, ObservedTarget, OutputState, Snapshot};
use crate::time::Timestamp;

/// What the files of each certificate looked like from outside when they were last read
#[derive(Debug, Default)]
pub struct Stamps {
    by_certificate: BTreeMap<CertName, Known>,
    /// Made for the second look of a process: many processes look but once
    routes: Option<Routes>,
    pub(super) read_all_at: Option<Timestamp>,
    /// Whether `seen.cache` has other ones
    pub(super) are_news: bool,
}

impl Store {
    /// Look at every certificate for the first time in this process
    ///
    /// What a process before it saw, and nobody touched since, is not read again. With
    /// `alone`, which takes the exclusive lock, what an interrupted process left of the others is
    /// put right first.
    pub fn first_look(
        &self,
        config: &Config,
        now: Timestamp,
        alone: bool,
        report: &mut dyn FnMut(Event),
    ) -> (Snapshot, Stamps) {
        let kept = self.recall().filter(|kept| is_recent(kept.read_all_at(), now));
        let read_all_at = kept.as_ref().map_or(now, Kept::read_all_at);
        let lines = kept.as_ref().map(Kept::lines).unwrap_or_default();
        let certificates: Vec<_> = config.certificates.values().collect();
        let look = self.look_from_outside(now);
        let shares = in_shares(&certificates, |certificates| {
            let mut routes = Routes::default();
            let mut seen = |certificate: &&Certificate| {
                let line = lines.get(certificate.name.as_str())?;
                let same = look.stamp_once(certificate, &mut routes) == Some(line.stamp);
                same.then(|| line.seen()).flatten().map(|seen| (line.stamp, seen))
            };
            certificates.iter().map(&mut seen).collect::<Vec<_>>()
        });
        let mut by_certificate = Vec::with_capacity(certificates.len());
        let mut same = Vec::with_capacity(certificates.len());
        let mut touched = Vec::new();
        for (certificate, seen) in certificates.into_iter().zip(shares.into_iter().flatten()) {
            let (stamp, seen) = seen.unzip();
            by_certificate.push((certificate.name.clone(), Known { stamp, route: None }));
            match seen {
                Some(seen) => same.push((certificate.name.clone(), seen)),
                None => touched.push(certificate),
            }
        }
        let mut stamps = Stamps {
            by_certificate: by_certificate.into_iter().collect(),
            routes: None,
            read_all_at: Some(read_all_at),
            are_news: kept.is_none(),
        };
        if alone {
            self.recover(&touched, report);
        }
        let read = self.read_touched(&touched, &mut stamps, now, report);
        // Collected and not inserted: a map that is built at once has no half-empty nodes.
        let certificates = same.into_iter().chain(read.certificates).collect();
        (Snapshot { certificates }, stamps)
    }

    /// Look at every certificate again, reading only what was touched since `seen`; which that were
    ///
    /// `seen` must come from the same configuration and with these stamps, or they be new. Every
    /// hour, and when the clock went back, everything is read.
    pub fn observe_again(
        &self,
        config: &Config,
        seen: &mut Snapshot,
        stamps: &mut Stamps,
        now: Timestamp,
        report: &mut dyn FnMut(Event),
    ) -> Vec<CertName> {
        if !stamps.read_all_at.is_some_and(|at| is_recent(at, now)) {
            *stamps = Stamps::new(config, now);
            seen.certificates.clear();
        }
        let look = self.look_from_outside(now);
        let routes = stamps.routes.get_or_insert_with(|| {
            let mut routes = Routes::default();
            for (name, known) in &mut stamps.by_certificate {
                let certificate = config.certificates.get(name);
                known.route = certificate.and_then(|certificate| routes.add(certificate));
            }
            routes.paths.shrink_to_fit();
            routes.stops.shrink_to_fit();
            routes
        });
        let is_same = |known: &Known| {
            let route = known.route.as_ref().filter(|_| known.stamp.is_some());
            route.is_some_and(|route| look.stamp(routes, route) == known.stamp)
        };
        let touched = stamps.by_certificate.iter().filter(|(_, known)| !is_same(known));
        let touched: Vec<_> =
            touched.filter_map(|(name, _)| config.certificates.get(name)).collect();
        let read = self.read_touched(&touched, stamps, now, report);
        if seen.certificates.is_empty() {
            *seen = read;
        } else {
            seen.certificates.extend(read.certificates);
        }
        touched.into_iter().map(|certificate| certificate.name.clone()).collect()
    }

    fn read_touched(
        &self,
        touched: &[&Certificate],
        stamps: &mut Stamps,
        now: Timestamp,
        report: &mut dyn FnMut(Event),
    ) -> Snapshot {
        let read = self.observe_these(touched, report);
        let look = self.look_from_outside(now);
        let mut routes = Routes::default();
        for certificate in touched {
            let seen = read.certificates.get(&certificate.name).filter(|seen| is_calm(seen));
            if let Some(known) = stamps.by_certificate.get_mut(&certificate.name) {
                let stamp = seen.and_then(|_| look.stamp_once(certificate, &mut routes));
                stamps.are_news |= known.stamp != stamp;
                known.stamp = stamp;
            }
        }
        read
    }

    fn look_from_outside(&self, now: Timestamp) -> Look {
        let home = open(CWD, self.0.root.join(CERTIFICATES).as_os_str());
        Look { home, before: now.as_seconds() - SETTLED }
    }
}

impl Stamps {
    /// None yet, for a look that reads everything now
    fn new(config: &Config, now: Timestamp) -> Self {
        let names = config.certificates.keys().cloned();
        let by_certificate = names.map(|name| (name, Known::default())).collect();
        Self { by_certificate, routes: None, read_all_at: Some(now), are_news: true }
    }

    /// That of a certificate that was read and is calm
    pub(super) fn get(&self, certificate: &CertName) -> Option<u64> {
        self.by_certificate.get(certificate)?.stamp
    }
}

fn is_recent(read_all_at: Timestamp, now: Timestamp) -> bool {
    read_all_at <= now && now.since(read_all_at) < READ_ALL_EVERY
}

/// Whether everything is whole and in its place, so that only a change from outside can matter
fn is_calm(seen: &Observed) -> bool {
    let current = |target: &ObservedTarget| target.outputs == OutputState::Current;
    // What could not be read once is read again.
    let readable = seen.attempts.not_before != Some(NEVER);
    readable
        && seen.held.is_some()
        && seen.damaged.is_none()
        && seen.order.is_none()
        && seen.targets.values().all(|target| current(target))
}

/// How a certificate looked
#[derive(Debug, Default)]
struct Known {
    /// `None` unless it was read and is calm
    stamp: Option<u64>,
    /// `None` as long as there are no routes, and if its files may be wrong though none was touched
    route: Option<Route>,
}

/// What is looked at of each certificate
///
/// All in two pieces: after a minute's sleep most of a look's time goes to memory that has become
/// cold, page by page.
#[derive(Debug, Default)]
struct Routes {
    /// What is done with each of the paths, and how long that is
    stops: Vec<(Stop, u32)>,
    /// One after the other
    paths: Vec<u8>,
}

/// The part of one certificate
#[derive(Debug)]
struct Route {
    stops: Range<usize>,
    /// Where the first path begins
    paths: usize,
    /// What the configuration wants of the files
    wanted: u64,
}

#[derive(Clone, Copy, Debug)]
enum Stop {
    /// Look at something below the directories of all certificates
    Kept,
    /// Go on in this directory
    Enter,
    /// The same, and look at it: it tells of every symlink in it
    Visit,
    /// Go on below the directory
    Descend,
    /// Look at an entry of the directory
    Entry,
    /// Look at the file that an entry leads to
    File,
    /// Look at a file elsewhere
    Elsewhere,
}

impl Routes {
    fn add(&mut self, certificate: &Certificate) -> Option<Route> {
        let (begin, paths) = (self.stops.len(), self.paths.len());
        let mut stop = |stop, path: &OsStr| {
            self.stops.push((stop, u32::try_from(path.len()).ok()?));
            self.paths.extend_from_slice(path.as_encoded_bytes());
            Some(())
        };
        let mut wanted = DefaultHasher::new();
        let name = certificate.name.as_str();
        // Only certkeep writes records and generations, and it replaces and never rewrites.
        stop(Stop::Kept, name.as_ref())?;
        stop(Stop::Kept, format!("{name}/{GENERATIONS}").as_ref())?;
        for target in &certificate.targets {
            (&target.name, &target.layout, &target.outputs).hash(&mut wanted);
            let mut here = None;
            for output in &target.outputs {
                match output.password() {
                    Some(SecretSource::File(file)) => stop(Stop::Elsewhere, file.as_os_str())?,
                    // The next process may be started with another one.
                    Some(SecretSource::Credential(_) | SecretSource::Environment(_)) => {
                        return None;
                    }
                    None => {}
                }
                let (parent, name) = (output.path.parent()?, output.path.file_name()?);
                let is_new = here.replace(parent) != Some(parent);
                // Relative to open directories: the walk along a long path costs more than the
                // look. Nor is each symlink of an atomic directory walked: it tells of them.
                match (&target.layout, is_new) {
                    (Layout::Dir(_), true) => {
                        stop(Stop::Visit, parent.as_os_str())?;
                        stop(Stop::Descend, DATA.as_ref())?;
                    }
                    (_, true) => stop(Stop::Enter, parent.as_os_str())?,
                    (_, false) => {}
                }
                match target.layout {
                    Layout::Dir(_) => stop(Stop::File, name)?,
                    Layout::Links => {
                        stop(Stop::Entry, name)?;
                        stop(Stop::File, name)?;
                    }
                    Layout::Copy => stop(Stop::Entry, name)?,
                }
            }
        }
        Some(Route { stops: begin..self.stops.len(), paths, wanted: wanted.finish() })
    }

    fn of(&self, route: &Route) -> impl Iterator<Item = (Stop, &OsStr)> {
        let stops = self.stops.get(route.stops.clone()).unwrap_or_default();
        let mut rest = self.paths.get(route.paths..).unwrap_or_default();
        stops.iter().map_while(move |(stop, length)| {
            let (path, more) = rest.split_at_checked(usize::try_from(*length).ok()?)?;
            rest = more;
            Some((*stop, OsStr::from_bytes(path)))
        })
    }
}

/// A look at inodes, sizes and times that reads nothing
struct Look {
    /// The directories of all certificates
    home: Option<OwnedFd>,
    /// What changed at this second or later may change again unseen: a clock has its grain
    before: i64,
}

impl Look {
    /// One number for all that an observation of a certificate is made of
    ///
    /// `None` unless nothing has changed since shortly before the look began.
    fn stamp(&self, routes: &Routes, route: &Route) -> Option<u64> {
        let home = self.home.as_ref()?;
        let mut seal = Seal { gathered: Gathered(Vec::with_capacity(1024)), before: self.before };
        route.wanted.hash(&mut seal.gathered);
        let mut here = None;
        for (stop, path) in routes.of(route) {
            match stop {
                Stop::Kept => seal.add(&lstat(home, path)?)?,
                Stop::Enter => here = Some(open(CWD, path)?),
                Stop::Visit => seal.add(&fs::fstat(here.insert(open(CWD, path)?)).ok()?)?,
                Stop::Descend => here = Some(open(here.as_ref()?, path)?),
                Stop::Entry => seal.add(&lstat(here.as_ref()?, path)?)?,
                Stop::File => {
                    let found = fs::statat(here.as_ref()?, path, AtFlags::empty()).ok()?;
                    seal.add(&found)?;
                    FileType::from_raw_mode(found.st_mode).is_file().then_some(())?;
                }
                Stop::Elsewhere => seal.add(&fs::stat(path).ok()?)?,
            }
        }
        Some(seal.gathered.finish())
    }

    /// The same by a route that is used but once, in place of others of that kind
    fn stamp_once(&self, certificate: &Certificate, routes: &mut Routes) -> Option<u64> {
        routes.stops.clear();
        routes.paths.clear();
        let route = routes.add(certificate)?;
        self.stamp(routes, &route)
    }
}

/// Hashes all at once what it is given: a hundred small numbers one by one take five times as long
struct Gathered(Vec<u8>);

impl Hasher for Gathered {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.0);
        hasher.finish()
    }
}

struct Seal {
    gathered: Gathered,
    before: i64,
}

impl Seal {
    fn add(&mut self, stat: &Stat) -> Option<()> {
        let identity = (stat.st_dev, stat.st_ino, stat.st_size);
        let times = (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        (identity, times).hash(&mut self.gathered);
        (stat.st_ctime < self.before).then_some(())
    }
}

fn open(at: impl AsFd, directory: &OsStr) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::openat(at, directory, flags, Mode::empty()).ok()
}

fn lstat(dir: &OwnedFd, path: impl rustix::path::Arg) -> Option<Stat> {
    fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW).ok()
}

/// How often everything is read whatever the times of the files say
const READ_ALL_EVERY: Duration = Duration::from_secs(3600);

/// Seconds: coarser than the times of any file system that keeps ctime
const SETTLED: i64 = 3;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "damage is done on purpose")]
mod tests;
