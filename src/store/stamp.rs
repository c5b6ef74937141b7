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
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;
    use crate::record::{DeployRecord, TargetRecord, VERSION};
    use crate::store::fixture::{self, Place};

    #[test]
    fn what_nobody_touched_is_read_once_an_hour() {
        let host = Host::new();
        let mut stamps = Stamps::default();
        let now = host.settled();
        let first = host.look(Snapshot::default(), &mut stamps, now);
        assert_eq!(host.outputs(&first), &OutputState::Current);
        let minute = now.after(Duration::from_secs(60));
        assert!(host.is_kept(&first, &mut stamps, minute));
        let hour = now.after(READ_ALL_EVERY);
        assert!(!host.is_kept(&first, &mut stamps, hour));
        assert!(host.is_kept(&first, &mut stamps, hour));
        assert!(!host.is_kept(&first, &mut stamps, now), "the clock went back");
    }

    #[test]
    fn each_change_of_an_output_is_seen() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 5] = [
            ("another byte in place", |path| {
                let mut bytes = std::fs::read(path).unwrap();
                bytes[40] ^= 1;
                std::fs::write(path, bytes).unwrap();
            }),
            ("another mode", |path| {
                std::fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap();
            }),
            ("another file behind it", |path| {
                let real = path.canonicalize().unwrap();
                fixture::write(&real.with_extension("new"), "something else");
                std::fs::rename(real.with_extension("new"), real).unwrap();
            }),
            ("another file in its place", |path| {
                std::fs::remove_file(path).unwrap();
                fixture::write(path, "something else");
            }),
            ("a symlink to elsewhere", |path| {
                std::fs::copy(path, path.with_extension("old")).unwrap();
                std::fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink(path.with_extension("old"), path).unwrap();
            }),
        ];
        let layouts: [fn(&Path) -> Layout; 3] =
            [|path| Layout::Dir(path.to_owned()), |_| Layout::Links, |_| Layout::Copy];
        for layout in layouts {
            for (what, damage) in damages {
                for file in ["fullchain.pem", "privkey.pem"] {
                    let place = fixture::place();
                    let certificate =
                        fixture::certificate(layout(&place.outputs()), &place.outputs());
                    let store = place.store();
                    let host = Host::with(place, store, certificate);
                    let mut stamps = Stamps::default();
                    let now = host.settled();
                    let first = host.look(Snapshot::default(), &mut stamps, now);
                    assert!(host.is_kept(&first, &mut stamps, now), "{what}: {file}");
                    damage(&host.place.outputs().join(file));
                    let second = host.look(first, &mut stamps, now);
                    let seen = host.outputs(&second);
                    assert!(
                        matches!(seen, OutputState::Differs { .. }),
                        "{what}: {file}: {seen:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn other_files_switched_in_are_seen() {
        let place = fixture::place();
        let (outputs, store) = (place.outputs(), place.store());
        let certificate = fixture::certificate(Layout::Dir(outputs.clone()), &outputs);
        let host = Host::with(place, store, certificate);
        let mut stamps = Stamps::default();
        let now = host.settled();
        let first = host.look(Snapshot::default(), &mut stamps, now);
        std::fs::create_dir(outputs.join("others")).unwrap();
        for file in ["fullchain.pem", "privkey.pem"] {
            fixture::write(&outputs.join("others").join(file), "something else");
        }
        std::os::unix::fs::symlink("others", outputs.join("new")).unwrap();
        std::fs::rename(outputs.join("new"), outputs.join(DATA)).unwrap();
        let second = host.look(first, &mut stamps, now);
        let seen = host.outputs(&second);
        assert!(matches!(seen, OutputState::Differs { .. }), "{seen:?}");
    }

    #[test]
    fn what_has_just_changed_is_read_again() {
        let host = Host::new();
        let mut stamps = Stamps::default();
        let now = host.settled().before(Duration::from_secs(100));
        let first = host.look(Snapshot::default(), &mut stamps, now);
        assert!(!host.is_kept(&first, &mut stamps, now));
    }

    #[test]
    fn a_new_record_is_read() {
        let host = Host::new();
        let mut stamps = Stamps::default();
        let now = host.settled();
        let first = host.look(Snapshot::default(), &mut stamps, now);
        let attempts =
            crate::record::Attempts { failures: 3, ..crate::record::Attempts::default() };
        host.store.write_attempts(&host.certificate.name, &attempts).unwrap();
        let second = host.look(first, &mut stamps, now);
        assert_eq!(second.certificates[&host.certificate.name].attempts.failures, 3);
    }

    #[test]
    fn the_next_process_reads_only_what_was_touched_since() {
        let host = Host::new();
        let now = host.settled();
        host.keep_marked(now);
        assert_eq!(host.recalled(now).attempts.failures, 77, "not read again");
        let record = TargetRecord { generation: 1, ..TargetRecord::default() };
        let targets = [(host.certificate.targets[0].name.clone(), record)].into();
        let name = &host.certificate.name;
        host.store.write_deploy(name, &DeployRecord { version: VERSION, targets }).unwrap();
        assert_eq!(host.recalled(now).attempts.failures, 0, "read again");
    }

    #[test]
    fn what_is_kept_for_the_next_process_may_be_lost_damaged_or_of_another_version() {
        let host = Host::new();
        let now = host.settled();
        host.keep_marked(now);
        let path = host.store.path().join("seen.cache");
        let kept = std::fs::read_to_string(&path).unwrap();
        let (head, line) = kept.split_once('\n').unwrap();
        for damaged in [
            String::new(),
            "junk".to_owned(),
            head.to_owned(),
            format!("{head}\n{}", &line[..line.len() / 2]),
            kept.replace("\"program\":\"", "\"program\":\"9."),
            kept.replace("\"version\":1", "\"version\":2"),
        ] {
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(host.recalled(now).attempts.failures, 0, "{damaged}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(host.recalled(now).attempts.failures, 0);
    }

    #[test]
    fn whoever_looks_at_a_few_does_not_forget_the_others() {
        let host = Host::new();
        let now = host.settled();
        host.keep_marked(now);
        let nobody = host.place.config(&[]);
        let (snapshot, mut stamps) = host.store.first_look(&nobody, now, true, &mut |_| ());
        stamps.are_news = true;
        host.store.remember(&snapshot, &mut stamps).unwrap();
        assert_eq!(host.recalled(now).attempts.failures, 77);
    }

    #[test]
    fn a_changed_wish_for_the_files_is_not_taken_for_seen() {
        let mut host = Host::new();
        let now = host.settled();
        host.keep_marked(now);
        host.certificate.targets[0].outputs[0].mode = 0o600;
        host.config = host.place.config(std::slice::from_ref(&host.certificate));
        let seen = host.recalled(now);
        let state = &seen.targets[&host.certificate.targets[0].name].outputs;
        assert!(matches!(state, OutputState::Differs { .. }), "{state:?}");
    }

    #[test]
    fn a_changed_password_is_seen_at_the_next_look() {
        let place = fixture::place();
        let store = fixture::store_with_passwords(&place);
        let certificate = fixture::pkcs12(Layout::Links, &place.outputs());
        let host = Host::with(place, store, certificate);
        let mut stamps = Stamps::default();
        let now = host.settled();
        let first = host.look(Snapshot::default(), &mut stamps, now);
        assert!(host.is_kept(&first, &mut stamps, now));
        fixture::write(&host.place.outputs().join("password"), "another");
        let second = host.look(first, &mut stamps, now);
        let seen = host.outputs(&second);
        assert!(matches!(seen, OutputState::Differs { .. }), "{seen:?}");
    }

    struct Host {
        place: Place,
        store: Store,
        certificate: Certificate,
        config: Config,
    }

    impl Host {
        fn new() -> Self {
            let place = fixture::place();
            let store = place.store();
            let certificate = fixture::certificate(Layout::Links, &place.outputs());
            Self::with(place, store, certificate)
        }

        fn with(place: Place, store: Store, certificate: Certificate) -> Self {
            let generation = fixture::stage(&store);
            store.install(&certificate, &certificate.targets[0], &generation).unwrap();
            let config = place.config(std::slice::from_ref(&certificate));
            Self { place, store, certificate, config }
        }

        /// A moment at which all that was written has been there for long
        fn settled(&self) -> Timestamp {
            let stat = fs::stat(self.store.path()).unwrap();
            Timestamp::from_seconds(stat.st_ctime + 90)
        }

        fn look(&self, mut seen: Snapshot, stamps: &mut Stamps, now: Timestamp) -> Snapshot {
            self.store.observe_again(&self.config, &mut seen, stamps, now, &mut |_| ());
            seen
        }

        /// Keep what is seen for the next process, with a mark that is not on the disk
        fn keep_marked(&self, now: Timestamp) {
            let (mut snapshot, mut stamps) =
                self.store.first_look(&self.config, now, true, &mut |_| ());
            let seen = snapshot.certificates.get_mut(&self.certificate.name).unwrap();
            seen.attempts.failures = 77;
            self.store.remember(&snapshot, &mut stamps).unwrap();
        }

        /// What the next process sees
        fn recalled(&self, now: Timestamp) -> Observed {
            let (mut snapshot, _) = self.store.first_look(&self.config, now, true, &mut |_| ());
            *snapshot.certificates.remove(&self.certificate.name).unwrap()
        }

        fn outputs<'a>(&self, snapshot: &'a Snapshot) -> &'a OutputState {
            let targets = &snapshot.certificates[&self.certificate.name].targets;
            &targets.values().next().unwrap().outputs
        }

        /// Whether a look takes what was seen before without reading it again
        fn is_kept(&self, before: &Snapshot, stamps: &mut Stamps, now: Timestamp) -> bool {
            let mut marked = before.clone();
            let seen = marked.certificates.get_mut(&self.certificate.name).unwrap();
            seen.attempts.failures = 77;
            let after = self.look(marked, stamps, now);
            after.certificates[&self.certificate.name].attempts.failures == 77
        }
    }
}
