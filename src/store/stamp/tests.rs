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
                let certificate = fixture::certificate(layout(&place.outputs()), &place.outputs());
                let store = place.store();
                let host = Host::with(place, store, certificate);
                let mut stamps = Stamps::default();
                let now = host.settled();
                let first = host.look(Snapshot::default(), &mut stamps, now);
                assert!(host.is_kept(&first, &mut stamps, now), "{what}: {file}");
                damage(&host.place.outputs().join(file));
                let second = host.look(first, &mut stamps, now);
                let seen = host.outputs(&second);
                assert!(matches!(seen, OutputState::Differs { .. }), "{what}: {file}: {seen:?}");
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
    let attempts = crate::record::Attempts { failures: 3, ..crate::record::Attempts::default() };
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
