//! The store against what a real disk does: readers at the same time, other processes, full and
//! read-only file systems, mounts, missing rights.

#![expect(clippy::unwrap_used, reason = "a test says so by panicking")]
#![expect(clippy::disallowed_methods, reason = "what others do to files is no store's work")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use certkeep::config::{
    Certificate, ChallengeMethod, Config, Content, Format, Gate, Http01, Keep, KeyType, Layout,
    Output, Renew, Target,
};
use certkeep::failure::Step;
use certkeep::name::{CertName, Identifier, IssuerName, TargetName};
use certkeep::plan::OutputState;
use certkeep::record::{Attempts, Generation};
use certkeep::secret::Secret;
use certkeep::store::{LockMode, NewGeneration, Reconciled, Store};
use certkeep::time::Timestamp;

use support::mounts::{inside, inside_of};

fn now() -> Timestamp {
    "2026-11-23T00:00:00Z".parse().unwrap()
}

fn name() -> CertName {
    CertName::parse("a.test").unwrap()
}

fn config(state: &Path) -> Config {
    Config {
        state_dir: state.to_owned(),
        allow_volatile_state: true,
        allow_empty: true,
        issuers: BTreeMap::new(),
        certificates: BTreeMap::new(),
    }
}

fn output(path: PathBuf, content: Content) -> Output {
    let mode = if content.is_secret() { 0o600 } else { 0o644 };
    let format = Format::default();
    Output { path, content: vec![content], format, mode, owner: None, group: None }
}

fn certificate(layout: Layout, dir: &Path) -> Certificate {
    Certificate {
        name: name(),
        identifiers: vec![Identifier::parse("a.test").unwrap()],
        key: KeyType::EcdsaP256,
        issuers: vec![IssuerName::parse("ca").unwrap()],
        profile: None,
        challenge: ChallengeMethod::Http01(Http01::Webroot("/srv".into())),
        renew: Renew::default(),
        targets: vec![Target {
            name: TargetName::parse("default").unwrap(),
            layout,
            outputs: vec![
                output(dir.join("cert.pem"), Content::Fullchain),
                output(dir.join("key.pem"), Content::Key),
            ],
            check: None,
            reload: None,
            verify: Vec::new(),
            max_reloads_per_hour: None,
        }],
        gate: Gate::default(),
        keep: Keep::default(),
        serial: false,
    }
}

fn stage(store: &Store) -> Generation {
    try_stage(store).unwrap()
}

fn try_stage(store: &Store) -> Result<Generation, certkeep::store::StoreError> {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let cert = cert.self_signed(&key).unwrap();
    let new = NewGeneration { certificate: name(), origin: None, staged_at: now() };
    store.stage(&new, &Secret::new(key.serialize_pem()), &cert.pem())
}

fn layouts(dir: &Path) -> [Layout; 3] {
    [Layout::Dir(dir.to_owned()), Layout::Links, Layout::Copy]
}

/// A place with a state directory and an empty directory for outputs
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.out()).unwrap();
        place
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn store(&self) -> Store {
        Store::open(&config(&self.state())).unwrap()
    }
}

fn contents(certificate: &Certificate) -> Vec<Option<Vec<u8>>> {
    certificate.targets[0].outputs.iter().map(|o| std::fs::read(&o.path).ok()).collect()
}

fn state_of(store: &Store, certificate: &Certificate) -> OutputState {
    let observed = store.observe_one(certificate, &mut |event| panic!("reported {event}"));
    observed.targets[&certificate.targets[0].name].outputs.clone()
}

fn mount(arguments: &[&str], at: &Path) {
    let status = Command::new("mount").args(arguments).arg(at).status().unwrap();
    assert!(status.success(), "mount {arguments:?} {at:?}");
}

#[test]
fn readers_only_ever_see_pairs_that_match() {
    for which in 0..2 {
        let place = Place::new();
        let store = place.store();
        let certificate = certificate(layouts(&place.out())[which].clone(), &place.out());
        let target = &certificate.targets[0];
        let generations: Vec<_> = (0..8).map(|_| stage(&store)).collect();
        let pair = |g: &Generation| (g.chain.clone(), g.key.expose().clone());
        let pairs: BTreeMap<_, _> = generations.iter().map(pair).collect();
        store.install(&certificate, target, &generations[0]).unwrap();

        let (stop, unchanged) = (AtomicBool::new(false), AtomicUsize::new(0));
        let rounds = [AtomicUsize::new(0), AtomicUsize::new(0)];
        let data = std::fs::canonicalize(&target.outputs[0].path).unwrap();
        let data = data.parent().unwrap().parent().unwrap().join("..data");
        // Reads the certificate again after the key: an unchanged one means no switch between.
        let by_path = || {
            let [chain, key, again] =
                [0, 1, 0].map(|i: usize| std::fs::read_to_string(&target.outputs[i].path).unwrap());
            if chain == again {
                assert_eq!(pairs[&chain], key);
                unchanged.fetch_add(1, Ordering::Relaxed);
            }
        };
        // Opens the directory once, as careful readers do.
        let by_directory = || {
            let dir = std::fs::File::open(&data).unwrap();
            let dir = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&dir));
            let mut texts: Vec<_> = std::fs::read_dir(dir)
                .unwrap()
                .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
                .collect();
            texts.sort_by_key(|text| text.contains("PRIVATE KEY"));
            assert_eq!(pairs[&texts[0]], texts[1]);
        };
        let keep_on = |round: &dyn Fn(), count: &AtomicUsize| {
            while !stop.load(Ordering::Relaxed) {
                round();
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            let readers = [
                scope.spawn(|| keep_on(&by_path, &rounds[0])),
                scope.spawn(|| keep_on(&by_directory, &rounds[1])),
            ];
            for i in 0..300 {
                store.install(&certificate, target, &generations[i % generations.len()]).unwrap();
                // Whoever was reading may finish: the files before are kept until the next switch.
                let after = rounds.each_ref().map(|count| count.load(Ordering::Relaxed));
                for ((reader, count), after) in readers.iter().zip(&rounds).zip(after) {
                    while count.load(Ordering::Relaxed) == after && !reader.is_finished() {
                        std::thread::yield_now();
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(unchanged.into_inner() > 10);
    }
}

#[test]
fn a_lock_keeps_other_processes_out_and_ends_with_its_process() {
    let place = Place::new();
    let store = place.store();
    let free = |file: &Path| {
        Command::new("flock").args(["-n"]).arg(file).arg("true").status().unwrap().success()
    };
    let agent = store.lock_store(LockMode::Exclusive).unwrap().unwrap();
    let held = store.lock_certificate(&name()).unwrap().unwrap();
    let files = [place.state().join("lock"), place.state().join("certificates/a.test/lock")];
    assert_eq!(files.each_ref().map(|file| free(file)), [false, false]);
    drop((agent, held));
    assert_eq!(files.each_ref().map(|file| free(file)), [true, true]);

    for file in &files {
        let mut other = Command::new("flock")
            .args(["--no-fork", "-n"])
            .arg(file)
            .args(["sh", "-c", "echo held; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 5];
        other.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        let take = || match file == &files[0] {
            true => store.lock_store(LockMode::Shared).unwrap(),
            false => store.lock_certificate(&name()).unwrap(),
        };
        assert!(take().is_none(), "{file:?}");
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(take().is_some(), "{file:?}");
    }
}

#[test]
fn a_full_disk_leaves_the_old_pair_in_place() {
    if !inside("a_full_disk_leaves_the_old_pair_in_place") {
        return;
    }
    let mut refused = [0; 3];
    for (which, refused) in refused.iter_mut().enumerate() {
        // Each amount of room lets it come one write further.
        for room in 0..12 {
            let place = Place::new();
            mount(&["-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs"], &place.out());
            let store = place.store();
            let certificate = certificate(layouts(&place.out())[which].clone(), &place.out());
            let target = &certificate.targets[0];
            let old = stage(&store);
            store.install(&certificate, target, &old).unwrap();
            let before = contents(&certificate);
            let new = stage(&store);
            fill(&place.out(), room);
            let result = store.install(&certificate, target, &new);
            let case = format!("layout {which}, room {room}: {result:?}");
            match &result {
                Ok(()) => {
                    assert_eq!(state_of(&store, &certificate), OutputState::Current, "{case}")
                }
                Err(error) => {
                    *refused += 1;
                    assert!(error.is_no_space() && error.needs_operator(), "{case}");
                    assert_eq!(contents(&certificate), before, "{case}");
                }
            }
            std::fs::remove_file(place.out().join("filler")).unwrap();
            store.recover_one(&certificate, &mut |event| panic!("{event}")).unwrap();
            store.install(&certificate, target, &new).unwrap();
            assert_eq!(state_of(&store, &certificate), OutputState::Current, "{case}");
            let status = Command::new("umount").arg(place.out()).status().unwrap();
            assert!(status.success());
        }
    }
    // Symlinks switch in the state directory, which has room.
    assert!(refused[0] > 1 && refused[1] == 0 && refused[2] > 1, "{refused:?}");
}

#[test]
fn a_full_state_directory_loses_nothing_and_forbids_an_order() {
    if !inside("a_full_state_directory_loses_nothing_and_forbids_an_order") {
        return;
    }
    let place = Place::new();
    std::fs::create_dir(place.state()).unwrap();
    mount(&["-t", "tmpfs", "-o", "size=512k,mode=711", "tmpfs"], &place.state());
    let store = place.store();
    let certificate = certificate(Layout::Links, &place.out());
    let old = stage(&store);
    store.install(&certificate, &certificate.targets[0], &old).unwrap();
    store.prepare(&certificate).unwrap();
    let attempts = Attempts { failures: 1, ..store.attempts(&name(), &mut |_| {}).unwrap() };
    store.write_attempts(&name(), &attempts).unwrap();
    let before = contents(&certificate);
    let mut refused = 0;
    for room in 0..8 {
        fill(&place.state(), room);
        if let Err(error) = try_stage(&store) {
            assert!(error.is_no_space(), "{room}: {error}");
        }
        if let Err(error) =
            store.write_attempts(&name(), &Attempts { failures: 2, ..attempts.clone() })
        {
            assert!(error.is_no_space(), "{room}: {error}");
            let read = store.attempts(&name(), &mut |event| panic!("{event}")).unwrap();
            assert_eq!(read.failures, 1);
            let home = std::fs::read_dir(place.state().join("certificates/a.test")).unwrap();
            let left = home.map(|entry| entry.unwrap().file_name());
            let left = left.filter(|name| name.to_str().unwrap().starts_with(".certkeep-"));
            assert_eq!(left.count(), 0, "{room}");
            refused += 1;
        }
        let error = store.prepare(&certificate).unwrap_err();
        assert!(error.needs_operator(), "{error}");
        assert_eq!(contents(&certificate), before);
        let observed = store.observe_one(&certificate, &mut |event| panic!("{event}"));
        assert_eq!(observed.damaged, None);
        std::fs::remove_file(place.state().join("filler")).unwrap();
        store.write_attempts(&name(), &attempts).unwrap();
        store.recover_one(&certificate, &mut |event| panic!("{event}")).unwrap();
        let keep = Keep { generations: 0, ..Keep::default() };
        store.prune(&name(), keep, &[1], now()).unwrap();
    }
    assert!(refused > 0);
}

/// Fill a file system until this many blocks of 4 KiB are left
fn fill(dir: &Path, room: u64) {
    let mut filler = std::fs::File::create(dir.join("filler")).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
    let length = filler.metadata().unwrap().len();
    filler.set_len(length.saturating_sub(room * 4096)).unwrap();
}

#[test]
fn a_file_that_is_mounted_by_itself_is_refused_before_anything() {
    if !inside("a_file_that_is_mounted_by_itself_is_refused_before_anything") {
        return;
    }
    for which in 0..3 {
        let place = Place::new();
        let store = place.store();
        let certificate = certificate(layouts(&place.out())[which].clone(), &place.out());
        let generation = stage(&store);
        // On the same file system, so that the device number says nothing.
        std::fs::write(place.dir.path().join("source"), "old").unwrap();
        let path = &certificate.targets[0].outputs[0].path;
        std::fs::write(path, "").unwrap();
        mount(&["--bind", place.dir.path().join("source").to_str().unwrap()], path);
        let prepared = store.prepare(&certificate).unwrap_err();
        let installed =
            store.install(&certificate, &certificate.targets[0], &generation).unwrap_err();
        for error in [prepared, installed] {
            let text = error.failure(Step::Install).to_string();
            assert!(text.contains("mount point") && text.contains("mount the directory"), "{text}");
            assert!(error.needs_operator());
        }
        let status = Command::new("umount").arg(path).status().unwrap();
        assert!(status.success());
        assert_eq!(std::fs::read_dir(place.out()).unwrap().count(), 1, "something was left");
    }
}

#[test]
fn on_a_read_only_file_system_looking_works_and_writing_names_the_remedy() {
    if !inside("on_a_read_only_file_system_looking_works_and_writing_names_the_remedy") {
        return;
    }
    let place = Place::new();
    let store = place.store();
    let certificate = certificate(Layout::Copy, &place.out());
    let target = &certificate.targets[0];
    let generation = stage(&store);
    store.install(&certificate, target, &generation).unwrap();
    std::fs::write(place.state().join("certificates/a.test/deploy.json"), "{").unwrap();
    let next = stage(&store);
    for dir in [place.out(), place.state()] {
        mount(&["--bind", dir.to_str().unwrap()], &dir);
        mount(&["-o", "remount,ro,bind"], &dir);
        let before = contents(&certificate);
        let error = store.install(&certificate, target, &next).unwrap_err();
        let failure = error.failure(Step::Install).to_string();
        assert!(failure.contains("Read-only") && failure.contains("ReadWritePaths"), "{failure}");
        assert!(store.prepare(&certificate).unwrap_err().needs_operator());
        assert_eq!(contents(&certificate), before);
    }
    let looking = Store::open_read_only(&config(&place.state()));
    let mut warned = 0;
    let observed = looking.observe_one(&certificate, &mut |_| warned += 1);
    assert_eq!((observed.held.unwrap().meta, warned), (next.meta, 1));
    assert!(looking.write_attempts(&name(), &observed.attempts).is_err());
}

#[test]
fn a_state_directory_in_memory_must_be_asked_for() {
    if !inside("a_state_directory_in_memory_must_be_asked_for") {
        return;
    }
    let place = Place::new();
    mount(&["-t", "tmpfs", "tmpfs"], &place.out());
    std::fs::set_permissions(place.out(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut config = config(&place.out().join("state"));
    assert!(Store::open(&config).is_ok());
    config.allow_volatile_state = false;
    let error = Store::open(&config).unwrap_err();
    let text = error.failure(Step::Prepare).to_string();
    assert!(text.contains("in memory") && text.contains("allow_volatile_state"), "{text}");
}

#[test]
fn who_may_not_give_files_away_fails_before_an_order_and_keeps_the_old_pair() {
    let test = "who_may_not_give_files_away_fails_before_an_order_and_keeps_the_old_pair";
    if !inside_of(test, "setpriv", &["--bounding-set", "-chown", "--inh-caps", "-chown"]) {
        return;
    }
    for which in 0..3 {
        let place = Place::new();
        let store = place.store();
        let mut certificate = certificate(layouts(&place.out())[which].clone(), &place.out());
        let generation = stage(&store);
        store.install(&certificate, &certificate.targets[0], &generation).unwrap();
        let before = contents(&certificate);
        let entries = std::fs::read_dir(place.out()).unwrap().count();
        certificate.targets[0].outputs[1].owner = Some("4711".to_owned());
        let next = stage(&store);
        assert!(store.prepare(&certificate).unwrap_err().needs_operator());
        let error = store.install(&certificate, &certificate.targets[0], &next).unwrap_err();
        assert!(error.to_string().contains("cannot set the owner of"), "{error}");
        assert!(error.needs_operator());
        assert_eq!(contents(&certificate), before);
        assert_eq!(std::fs::read_dir(place.out()).unwrap().count(), entries, "left over");
    }
}

#[test]
fn what_cannot_be_an_output_is_refused_before_anything() {
    type Obstacle = fn(&Path);
    let obstacles: [(&str, Obstacle); 5] = [
        ("a directory", |path| std::fs::create_dir(path).unwrap()),
        ("a FIFO", |path| {
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
        ("a socket", |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap())),
        ("may be written by everybody", |path| {
            let parent = path.parent().unwrap();
            std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o777)).unwrap();
        }),
        ("longer than 1 MiB", |path| std::fs::write(path, vec![b'x'; (1 << 20) + 1]).unwrap()),
    ];
    for (what, obstacle) in obstacles {
        for which in 0..3 {
            let place = Place::new();
            let store = place.store();
            let certificate = certificate(layouts(&place.out())[which].clone(), &place.out());
            let generation = stage(&store);
            std::fs::write(&certificate.targets[0].outputs[0].path, "old").unwrap();
            obstacle(&certificate.targets[0].outputs[1].path);
            let entries = std::fs::read_dir(place.out()).unwrap().count();
            let target = &certificate.targets[0];
            let error = store.install(&certificate, target, &generation).unwrap_err();
            assert!(error.to_string().contains(what) && error.needs_operator(), "{what}: {error}");
            if what != "longer than 1 MiB" {
                assert_eq!(store.prepare(&certificate).unwrap_err(), error, "{what}");
            }
            assert_eq!(std::fs::read_to_string(&target.outputs[0].path).unwrap(), "old");
            assert_eq!(std::fs::read_dir(place.out()).unwrap().count(), entries, "{what}");
            // And a look at it neither waits nor stumbles.
            assert_ne!(state_of(&store, &certificate), OutputState::Current, "{what}");
        }
    }
}

#[test]
fn a_missing_directory_is_named_and_only_that_of_dir_is_made() {
    let place = Place::new();
    let store = place.store();
    let dir = place.out().join("new");
    let generation = stage(&store);
    for which in [1, 2] {
        let certificate = certificate(layouts(&dir)[which].clone(), &dir);
        for error in [
            store.prepare(&certificate).unwrap_err(),
            store.install(&certificate, &certificate.targets[0], &generation).unwrap_err(),
        ] {
            let text = error.failure(Step::Install).to_string();
            assert!(text.contains("create the directory") && error.path() == dir, "{text}");
        }
    }
    let certificate = certificate(Layout::Dir(dir.clone()), &dir);
    store.prepare(&certificate).unwrap();
    assert!(!dir.exists(), "a check made it");
    store.install(&certificate, &certificate.targets[0], &generation).unwrap();
    assert_eq!(std::fs::metadata(dir).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_directory_that_is_yet_to_be_made_behind_a_symlink_of_root_keeps_back_no_order() {
    let place = Place::new();
    let store = place.store();
    let way = place.dir.path().join("way");
    std::os::unix::fs::symlink(place.out(), &way).unwrap();
    let dir = way.join("new");
    let certificate = certificate(Layout::Dir(dir.clone()), &dir);
    // A symlink that leads to nothing is in the way of the directory.
    std::os::unix::fs::symlink("nowhere", place.out().join("new")).unwrap();
    let error = store.prepare(&certificate).unwrap_err();
    assert!(error.needs_operator() && error.path().ends_with("nowhere"), "{error}");
    std::fs::remove_file(place.out().join("new")).unwrap();

    store.prepare(&certificate).unwrap();
    let generation = stage(&store);
    store.install(&certificate, &certificate.targets[0], &generation).unwrap();
    assert_eq!(state_of(&store, &certificate), OutputState::Current);

    let beyond = way.join("missing/new");
    let certificate = self::certificate(Layout::Dir(beyond.clone()), &beyond);
    let error = store.prepare(&certificate).unwrap_err();
    let text = error.failure(Step::Prepare).to_string();
    assert!(text.contains("create the directory; certkeep makes no directories"), "{text}");
}

#[test]
fn modes_and_owners_are_put_right_without_new_content() {
    for which in 0..3 {
        let place = Place::new();
        let store = place.store();
        let mut certificate = certificate(layouts(&place.out())[which].clone(), &place.out());
        let generation = stage(&store);
        certificate.targets[0].outputs[1].mode = 0o640;
        certificate.targets[0].outputs[1].group = Some("4711".to_owned());
        let target = &certificate.targets[0];
        let key = &target.outputs[1].path;
        store.install(&certificate, target, &generation).unwrap();
        let reconcile = || store.reconcile(&certificate, target, &generation).unwrap();
        assert_eq!(reconcile(), Reconciled::Nothing);

        let before = std::fs::metadata(key).unwrap();
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o666)).unwrap();
        std::os::unix::fs::chown(key, Some(4712), Some(4712)).unwrap();
        assert!(matches!(state_of(&store, &certificate), OutputState::Differs { .. }));
        assert_eq!(reconcile(), Reconciled::Attributes);
        let after = std::fs::metadata(key).unwrap();
        assert_eq!((after.mode() & 0o7777, after.uid(), after.gid()), (0o640, 0, 4711));
        // A file at a path of others may have other names: it is replaced, never given away.
        assert_eq!(after.ino() == before.ino(), which != 2, "layout {which}");
        assert_eq!(state_of(&store, &certificate), OutputState::Current);

        std::fs::write(key, "x").unwrap();
        assert_eq!(reconcile(), Reconciled::Content);
        std::fs::remove_file(key).unwrap();
        assert_eq!(reconcile(), Reconciled::Content);
        assert_eq!(reconcile(), Reconciled::Nothing);
    }
}

#[test]
fn a_tree_whose_symlinks_were_flattened_takes_the_next_generation() {
    for which in 0..3 {
        let place = Place::new();
        let store = place.store();
        let certificate = certificate(layouts(&place.out())[which].clone(), &place.out());
        let target = &certificate.targets[0];
        store.install(&certificate, target, &stage(&store)).unwrap();
        let before = contents(&certificate);
        for dir in [place.out(), place.state()] {
            let copy = dir.with_extension("flat");
            let run = |program: &str, arguments: &[&Path]| {
                assert!(Command::new(program).args(arguments).status().unwrap().success());
            };
            run("cp", &["-rL".as_ref(), "--preserve=all".as_ref(), &dir, &copy]);
            run("rm", &["-r".as_ref(), &dir]);
            run("mv", &[&copy, &dir]);
        }
        assert_eq!(contents(&certificate), before);
        let store = place.store();
        store.recover_one(&certificate, &mut |event| panic!("{event}")).unwrap();
        assert_eq!(contents(&certificate), before);
        let next = stage(&store);
        store.install(&certificate, target, &next).unwrap();
        assert_eq!(std::fs::read_to_string(&target.outputs[0].path).unwrap(), next.chain);
        assert_eq!(&std::fs::read_to_string(&target.outputs[1].path).unwrap(), next.key.expose());
    }
}

#[test]
fn the_key_is_never_readable_by_others_on_its_way() {
    let place = Place::new();
    let store = place.store();
    for which in 0..3 {
        let out = place.out().join(which.to_string());
        std::fs::create_dir(&out).unwrap();
        let certificate = certificate(layouts(&out)[which].clone(), &out);
        store.install(&certificate, &certificate.targets[0], &stage(&store)).unwrap();
    }
    let mut found = 0;
    let mut ahead = vec![place.dir.path().to_owned()];
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                ahead.push(path);
            } else if meta.is_file() && std::fs::read_to_string(&path).unwrap().contains("PRIVATE")
            {
                assert_eq!(meta.mode() & 0o077, 0, "{path:?}");
                found += 1;
            }
        }
    }
    assert!(found >= 6, "{found}");
    assert_eq!(std::fs::metadata(place.state()).unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn a_state_directory_that_others_may_write_is_refused() {
    let place = Place::new();
    place.store();
    for mode in [0o777, 0o775, 0o1777] {
        std::fs::set_permissions(place.state(), std::fs::Permissions::from_mode(mode)).unwrap();
        let error = Store::open(&config(&place.state())).unwrap_err();
        assert!(error.needs_operator() && error.path() == place.state(), "{mode:o}: {error}");
    }
}

/// Give the key an ACL that lets nobody in, and a label
fn let_nobody_in(path: &Path) {
    for command in [
        ["setfacl", "-m", "u:65534:r"].as_slice(),
        &["setfattr", "-n", "security.selinux", "-v", "system_u:object_r:cert_t:s0"],
    ] {
        let status = Command::new(command[0]).args(&command[1..]).arg(path).status().unwrap();
        assert!(status.success(), "{command:?} {path:?}: run tests/peers");
    }
}

/// What the user nobody reads there, and the label
fn read_by_nobody(path: &Path) -> (String, String) {
    let said = |arguments: &[&str]| {
        let output = Command::new(arguments[0]).args(&arguments[1..]).arg(path).output().unwrap();
        assert!(output.status.success(), "{arguments:?} {path:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat"];
    let label = ["getfattr", "--absolute-names", "--only-values", "-n", "security.selinux"];
    (said(&nobody), said(&label))
}

#[test]
fn whom_an_acl_lets_in_reads_every_generation_and_the_original() {
    assert!(rustix::process::geteuid().is_root(), "this test drops rights: run as root");
    for which in 0..3 {
        let place = Place::new();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(place.dir.path(), open).unwrap();
        let store = place.store();
        let certificate = certificate(layouts(&place.out())[which].clone(), &place.out());
        let target = &certificate.targets[0];
        let key = &target.outputs[1].path;
        for (output, text) in target.outputs.iter().zip(["old chain", "old key"]) {
            std::fs::write(&output.path, text).unwrap();
        }
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let_nobody_in(key);
        let expected = |text: &str| (text.to_owned(), "system_u:object_r:cert_t:s0".to_owned());
        assert_eq!(read_by_nobody(key), expected("old key"));
        for _ in 0..3 {
            let generation = stage(&store);
            store.prepare(&certificate).unwrap();
            store.install(&certificate, target, &generation).unwrap();
            assert_eq!(read_by_nobody(key), expected(generation.key.expose()), "{which}");
            assert_eq!(state_of(&store, &certificate), OutputState::Current, "{which}");
        }
        // Modes are put right in place, and by new files.
        let generation = stage(&store);
        store.install(&certificate, target, &generation).unwrap();
        Command::new("setfacl").args(["-m", "o::r"]).arg(key).status().unwrap();
        assert!(matches!(state_of(&store, &certificate), OutputState::Differs { .. }), "{which}");
        let done = store.reconcile(&certificate, target, &generation).unwrap();
        assert_eq!(done, Reconciled::Attributes, "{which}");
        assert_eq!(state_of(&store, &certificate), OutputState::Current, "{which}");
        assert_eq!(read_by_nobody(key), expected(generation.key.expose()), "{which}");

        store.restore_original(&certificate, target).unwrap();
        assert_eq!(read_by_nobody(key), expected("old key"), "{which}");
    }
}
