//! Looking again without reading what nobody touched.
//!
//! The agent that stays looks every minute. What is on disk is the truth, and reading 9 files for
//! each of 1,000 certificates costs a tenth of a second. The kernel changes a file's ctime with
//! every change of its content, mode or owner, and nobody can set it back; so between two full
//! looks, which come every hour, what has the same inode, size and times counts as read.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{self, AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::record::{ATTEMPTS, DEPLOY, ORDER};
use super::{GENERATIONS, Store, generation};
use crate::config::{Certificate, Config};
use crate::event::Event;
use crate::name::CertName;
use crate::plan::{Observed, OutputState, Snapshot};
use crate::time::Timestamp;

/// What the files of each certificate looked like from outside when they were last read
#[derive(Debug, Default)]
pub struct Stamps {
    by_certificate: BTreeMap<CertName, u64>,
    read_all_at: Option<Timestamp>,
}

impl Store {
    /// Look at every certificate of the configuration, reading only what was touched since `before`
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
        let is_fresh = |at: Timestamp| at <= now && now.since(at) < READ_ALL_EVERY;
        if !stamps.read_all_at.is_some_and(is_fresh) {
            *stamps = Stamps { read_all_at: Some(now), ..Stamps::default() };
        }
        let mut seen_again = Vec::new();
        let mut touched = Vec::new();
        for (name, certificate) in &config.certificates {
            let known = before.certificates.remove(name).zip(stamps.by_certificate.get(name));
            match known {
                Some((seen, stamp)) if self.stamp(certificate, &seen, now) == Some(*stamp) => {
                    seen_again.push((name.clone(), seen));
                }
                _ => touched.push(certificate),
            }
        }
        let read = self.observe_these(&touched, report);
        for certificate in touched {
            let seen = read.certificates.get(&certificate.name);
            let stamp = seen.and_then(|seen| self.stamp(certificate, seen, now));
            match stamp {
                Some(stamp) => stamps.by_certificate.insert(certificate.name.clone(), stamp),
                None => stamps.by_certificate.remove(&certificate.name),
            };
        }
        // Collected and not inserted: a map that is built at once has no half-empty nodes.
        Snapshot { certificates: seen_again.into_iter().chain(read.certificates).collect() }
    }

    /// One number for the inodes, sizes and times of all that a calm observation was made of
    ///
    /// `None` unless everything was in place and nothing has changed since shortly before `now`,
    /// when the look began.
    fn stamp(&self, certificate: &Certificate, seen: &Observed, now: Timestamp) -> Option<u64> {
        let held = seen.held.as_ref()?;
        if seen.damaged.is_some() || seen.order.is_some() {
            return None;
        }
        let mut seal = Seal { hasher: DefaultHasher::new(), before: now.as_seconds() - SETTLED };
        // Relative to open directories: the walk along a long path costs more than the look.
        let home = open(&self.certificate_path(&certificate.name))?;
        for file in [ATTEMPTS, ORDER, DEPLOY] {
            seal.record(&home, file)?;
        }
        seal.add(&lstat(&home, GENERATIONS)?)?;
        let mut numbers = vec![held.meta.number];
        for target in &certificate.targets {
            let found = seen.targets.get(&target.name)?;
            if found.outputs != OutputState::Current {
                return None;
            }
            let installed = found.record.installed_at.map(|_| found.record.generation);
            numbers.extend(installed.or(found.record.previous));
            let mut parent: Option<(&Path, OwnedFd)> = None;
            for output in &target.outputs {
                let (path, name) = (output.path.parent()?, output.path.file_name()?);
                let dir = match parent.take() {
                    Some((known, dir)) if known == path => dir,
                    _ => open(path)?,
                };
                let link = lstat(&dir, name)?;
                seal.add(&link)?;
                if fs::FileType::from_raw_mode(link.st_mode).is_symlink() {
                    seal.add(&fs::statat(&dir, name, AtFlags::empty()).ok()?)?;
                }
                parent = Some((path, dir));
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            let folder = format!("{GENERATIONS}/{}", generation::directory_name(number));
            for file in generation::FILES {
                seal.add(&lstat(&home, format!("{folder}/{file}"))?)?;
            }
        }
        Some(seal.hasher.finish())
    }
}

struct Seal {
    hasher: DefaultHasher,
    /// What changed at this second or later may change again unseen: a clock has its grain
    before: i64,
}

impl Seal {
    fn add(&mut self, stat: &Stat) -> Option<()> {
        let identity = (stat.st_dev, stat.st_ino, stat.st_size);
        let times = (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        (identity, times).hash(&mut self.hasher);
        (stat.st_ctime < self.before).then_some(())
    }

    /// A file that need not be there
    fn record(&mut self, home: &OwnedFd, file: &str) -> Option<()> {
        match fs::statat(home, file, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.add(&stat),
            Err(Errno::NOENT) => {
                0.hash(&mut self.hasher);
                Some(())
            }
            Err(_) => None,
        }
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
