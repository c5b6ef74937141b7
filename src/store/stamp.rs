//! Looking again without reading what nobody touched.
//!
//! What is on disk is the truth, and reading 9 files for each of 1,000 certificates costs a tenth
//! of a second of CPU. The kernel changes a file's ctime with every change of its content, mode or
//! owner, a directory's with every entry that comes, goes or is replaced, and nobody can set it
//! back. So between two full looks, which come every hour, what has the same inode, size and times
//! counts as read: to the agent, which looks every minute, and to the next process, since what was
//! seen is kept in `seen.cache`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};

use super::observe::{NEVER, in_shares};
use super::recall::Kept;
use super::{CERTIFICATES, GENERATIONS, Store};
use crate::config::{Certificate, Config, Layout, SecretSource, Target};
use crate::event::Event;
use crate::name::CertName;
use crate::plan::{Observed, ObservedTarget, OutputState, Snapshot};
use crate::time::Timestamp;

/// What the files of each certificate looked like from outside when they were last read
#[derive(Debug, Default)]
pub struct Stamps {
    pub(super) by_certificate: BTreeMap<CertName, u64>,
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
        let mut stamps = match &kept {
            Some(kept) => Stamps { read_all_at: Some(kept.read_all_at()), ..Stamps::default() },
            None => Stamps::new(now),
        };
        let lines = kept.as_ref().map(Kept::lines).unwrap_or_default();
        let certificates: Vec<_> = config.certificates.values().collect();
        let look = self.look_from_outside(now);
        let seen = in_shares(&certificates, |certificates| {
            let seen = |certificate: &&Certificate| {
                let line = lines.get(certificate.name.as_str())?;
                let same = look.stamp(certificate) == Some(line.stamp);
                same.then(|| line.seen()).flatten().map(|seen| (line.stamp, seen))
            };
            certificates.iter().map(seen).collect::<Vec<_>>()
        });
        let mut same = Vec::with_capacity(certificates.len());
        let mut touched = Vec::new();
        for (certificate, seen) in certificates.into_iter().zip(seen.into_iter().flatten()) {
            match seen {
                Some((stamp, seen)) => {
                    stamps.by_certificate.insert(certificate.name.clone(), stamp);
                    same.push((certificate.name.clone(), seen));
                }
                None => touched.push(certificate),
            }
        }
        if alone {
            self.recover(&touched, report);
        }
        let snapshot = self.read_touched(same, touched, &mut stamps, now, report);
        (snapshot, stamps)
    }

    /// Look at every certificate again, reading only what was touched since `before`
    ///
    /// `before` must come from the same configuration, or `stamps` be new. Every hour, and when
    /// the clock went back, everything is read.
    pub fn observe_again(
        &self,
        config: &Config,
        mut before: Snapshot,
        stamps: &mut Stamps,
        now: Timestamp,
        report: &mut dyn FnMut(Event),
    ) -> Snapshot {
        if !stamps.read_all_at.is_some_and(|at| is_recent(at, now)) {
            *stamps = Stamps::new(now);
        }
        let look = self.look_from_outside(now);
        let mut same = Vec::with_capacity(config.certificates.len());
        let mut touched = Vec::new();
        for (name, certificate) in &config.certificates {
            let known = before.certificates.remove(name).zip(stamps.by_certificate.get(name));
            match known {
                Some((seen, stamp)) if look.stamp(certificate) == Some(*stamp) => {
                    same.push((name.clone(), seen));
                }
                _ => touched.push(certificate),
            }
        }
        self.read_touched(same, touched, stamps, now, report)
    }

    fn read_touched(
        &self,
        same: Vec<(CertName, Box<Observed>)>,
        touched: Vec<&Certificate>,
        stamps: &mut Stamps,
        now: Timestamp,
        report: &mut dyn FnMut(Event),
    ) -> Snapshot {
        let read = self.observe_these(&touched, report);
        let look = self.look_from_outside(now);
        for certificate in touched {
            let seen = read.certificates.get(&certificate.name).filter(|seen| is_calm(seen));
            let stamp = seen.and_then(|_| look.stamp(certificate));
            let before = match stamp {
                Some(stamp) => stamps.by_certificate.insert(certificate.name.clone(), stamp),
                None => stamps.by_certificate.remove(&certificate.name),
            };
            stamps.are_news |= before != stamp;
        }
        // Collected and not inserted: a map that is built at once has no half-empty nodes.
        Snapshot { certificates: same.into_iter().chain(read.certificates).collect() }
    }

    fn look_from_outside(&self, now: Timestamp) -> Look {
        let home = open(&self.0.root.join(CERTIFICATES));
        Look { home, before: now.as_seconds() - SETTLED }
    }
}

impl Stamps {
    /// None yet, for a look that reads everything now
    fn new(now: Timestamp) -> Self {
        Self { read_all_at: Some(now), are_news: true, by_certificate: BTreeMap::new() }
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
    /// `None` unless nothing has changed since shortly before the look began. Records and
    /// generations are looked at by their directories: only certkeep writes them, and it replaces
    /// and never rewrites.
    fn stamp(&self, certificate: &Certificate) -> Option<u64> {
        let home = self.home.as_ref()?;
        let mut seal = Seal { gathered: Gathered(Vec::with_capacity(1024)), before: self.before };
        let name = certificate.name.as_str();
        seal.add(&lstat(home, name)?)?;
        seal.add(&lstat(home, format!("{name}/{GENERATIONS}"))?)?;
        for target in &certificate.targets {
            seal.outputs(target)?;
        }
        Some(seal.gathered.finish())
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

    /// The files of a target, and what the configuration wants of them
    fn outputs(&mut self, target: &Target) -> Option<()> {
        (&target.name, &target.layout, &target.outputs).hash(&mut self.gathered);
        // Relative to open directories: the walk along a long path costs more than the look.
        let mut parent: Option<(&Path, OwnedFd)> = None;
        for output in &target.outputs {
            match output.password() {
                Some(SecretSource::File(password)) => self.add(&fs::stat(password).ok()?)?,
                // The next process may be started with another one.
                Some(SecretSource::Credential(_) | SecretSource::Environment(_)) => return None,
                None => {}
            }
            let (path, name) = (output.path.parent()?, output.path.file_name()?);
            let dir = match parent.take() {
                Some((known, dir)) if known == path => dir,
                _ => {
                    let dir = open(path)?;
                    // Tells of every symlink in it, of which others may have many here.
                    if let Layout::Dir(_) = target.layout {
                        self.add(&fs::fstat(&dir).ok()?)?;
                    }
                    dir
                }
            };
            if !matches!(target.layout, Layout::Dir(_)) {
                self.add(&lstat(&dir, name)?)?;
            }
            if target.layout != Layout::Copy {
                let behind = fs::statat(&dir, name, AtFlags::empty()).ok()?;
                self.add(&behind)?;
                FileType::from_raw_mode(behind.st_mode).is_file().then_some(())?;
            }
            parent = Some((path, dir));
        }
        Some(())
    }
}

fn open(directory: &Path) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(directory, flags, Mode::empty()).ok()
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
    use super::*;
    use crate::config::Layout;
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
    fn a_change_in_place_of_the_same_size_is_seen() {
        for file in ["fullchain.pem", "privkey.pem"] {
            let host = Host::new();
            let mut stamps = Stamps::default();
            let now = host.settled();
            let first = host.look(Snapshot::default(), &mut stamps, now);
            let path = host.place.outputs().join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[40] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let second = host.look(first, &mut stamps, now);
            let seen = host.outputs(&second);
            assert!(matches!(seen, OutputState::Differs { .. }), "{file}: {seen:?}");
        }
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

        fn look(&self, before: Snapshot, stamps: &mut Stamps, now: Timestamp) -> Snapshot {
            self.store.observe_again(&self.config, before, stamps, now, &mut |_| ())
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
