#![expect(clippy::disallowed_methods, reason = "foreign files are made as anybody makes them")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{RenameFlags, renameat_with};
use tempfile::TempDir;

use super::*;
use crate::failure::FailureClass;
use crate::name::Identifier;

const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
const OTHER: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A journal in memory: what is recorded at this moment, and whether the file was there before
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Vec<Artefact>>>);

impl Memory {
    fn artefacts(&self) -> Vec<Artefact> {
        self.0.lock().unwrap().clone()
    }
}

impl Journal for Memory {
    fn record(&self, artefact: &Artefact) -> io::Result<Box<dyn Entry>> {
        let Artefact::WebrootFile { path, .. } = artefact;
        assert!(!path.exists(), "recorded too late");
        self.0.lock().unwrap().push(artefact.clone());
        Ok(Box::new(self.clone()))
    }
}

impl Entry for Memory {
    fn amend(&self, artefact: &Artefact) -> io::Result<()> {
        *self.0.lock().unwrap().last_mut().unwrap() = artefact.clone();
        Ok(())
    }

    fn forget(self: Box<Self>) -> io::Result<()> {
        self.0.lock().unwrap().pop();
        Ok(())
    }
}

/// A journal that keeps nothing
#[derive(Debug)]
struct Indifferent;

impl Journal for Indifferent {
    fn record(&self, _: &Artefact) -> io::Result<Box<dyn Entry>> {
        Ok(Box::new(Self))
    }
}

impl Entry for Indifferent {
    fn amend(&self, _: &Artefact) -> io::Result<()> {
        Ok(())
    }

    fn forget(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

fn challenge(token: &str) -> Challenge {
    Challenge {
        identifier: Identifier::parse("example.com").unwrap(),
        token: Token::parse(token).unwrap(),
        key_authorization: format!("{token}.thumbprint"),
    }
}

#[test]
fn a_directory_that_a_crash_left_closed_is_open_to_the_server_again() {
    let webroot = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let path = challenges(webroot.path());
    let parent = path.parent().unwrap();
    for closed in [parent, &path] {
        fs::create_dir_all(closed).unwrap();
        fs::set_permissions(closed, fs::Permissions::from_mode(0o2700)).unwrap();
        put(&webroot, TOKEN, &Arc::default()).unwrap().withdraw().unwrap();
        assert_eq!(mode(closed), 0o2755);
    }
    let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    set(0o700);
    trial(webroot.path().to_owned(), Arc::default()).unwrap();
    assert_eq!(mode(&path), 0o700, "who only tries changes nothing");
    for (theirs, kept) in [(false, 0o750), (true, 0o700)] {
        if theirs {
            fs::write(path.join("theirs"), "").unwrap();
        }
        set(kept);
        put(&webroot, TOKEN, &Arc::default()).unwrap().withdraw().unwrap();
        assert_eq!(mode(&path), kept, "it is somebody's own affair");
    }
}

fn put(webroot: &TempDir, token: &str, made: &Arc<Directories>) -> Result<Placed, Failure> {
    place(webroot.path().to_owned(), &challenge(token), &Indifferent, Arc::clone(made))
}

fn file(webroot: &TempDir, token: &str) -> PathBuf {
    challenges(webroot.path()).join(token)
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn everybody_can_read_the_challenge_until_it_is_withdrawn() {
    let webroot = tempfile::tempdir().unwrap();
    let journal = Memory::default();
    let placed =
        place(webroot.path().to_owned(), &challenge(TOKEN), &journal, Arc::default()).unwrap();
    let path = file(&webroot, TOKEN);
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{TOKEN}.thumbprint"));
    assert_eq!(mode(&path), 0o644);
    assert_eq!(mode(path.parent().unwrap()), 0o755);
    assert_eq!(mode(webroot.path().join(".well-known")), 0o755);
    let there = fs::metadata(&path).unwrap();
    let inode = Some((there.dev(), there.ino()));
    assert_eq!(journal.artefacts(), [Artefact::WebrootFile { path, inode }]);

    placed.withdraw().unwrap();
    assert_eq!(fs::read_dir(webroot.path()).unwrap().count(), 0, "something stayed");
    assert_eq!(journal.artefacts(), []);
}

/// In a process of its own, since the umask belongs to the process
#[test]
fn the_umask_does_not_hide_the_challenge() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "challenge::webroot::tests::under_a_tight_umask"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown}");
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn under_a_tight_umask() {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    everybody_can_read_the_challenge_until_it_is_withdrawn();
}

/// What a process leaves that dies before its file is whole, and told nobody which file it is
#[test]
fn an_unfinished_challenge_of_ours_is_written_anew() {
    let webroot = tempfile::tempdir().unwrap();
    let path = file(&webroot, TOKEN);
    let whole = challenge(TOKEN).key_authorization;
    for left in ["", &whole[..20], &whole] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, left).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let placed = put(&webroot, TOKEN, &Arc::default()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        assert_eq!(mode(&path), 0o644);
        placed.withdraw().unwrap();
        assert!(!path.exists(), "{left:?}");
    }
}

/// Without /proc, a file without a name cannot be given one: it is created under its name
#[test]
fn a_system_without_unnamed_files_will_do() {
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs none /proc && exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "challenge::webroot::tests::everybody_can_read_the_challenge_until_it_is_withdrawn",
            "challenge::webroot::tests::an_unfinished_challenge_of_ours_is_written_anew",
        ])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("2 passed"), "{shown} {output:?}");
}

#[test]
fn directories_go_with_the_last_challenge_and_only_when_they_are_ours() {
    let webroot = tempfile::tempdir().unwrap();
    let made = Arc::default();
    let first = put(&webroot, TOKEN, &made).unwrap();
    let second = put(&webroot, OTHER, &made).unwrap();
    first.withdraw().unwrap();
    assert!(file(&webroot, OTHER).exists());
    drop(second);
    assert!(!webroot.path().join(".well-known").exists());

    fs::create_dir(webroot.path().join(".well-known")).unwrap();
    put(&webroot, TOKEN, &made).unwrap().withdraw().unwrap();
    assert!(webroot.path().join(".well-known").exists(), "it was there before");
    assert!(!challenges(webroot.path()).exists());

    let placed = put(&webroot, TOKEN, &made).unwrap();
    fs::write(challenges(webroot.path()).join("theirs"), "").unwrap();
    placed.withdraw().unwrap();
    assert!(challenges(webroot.path()).join("theirs").exists());
}

#[test]
fn a_symlink_below_the_webroot_is_refused() {
    for linked in [".well-known", ".well-known/acme-challenge"] {
        let (webroot, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let link = webroot.path().join(linked);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(outside.path(), &link).unwrap();
        let failure = put(&webroot, TOKEN, &Arc::default()).unwrap_err();
        assert!(matches!(failure.class, FailureClass::NeedsOperator { .. }), "{failure}");
        assert!(failure.summary.as_str().contains(linked), "{failure}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{linked}");
    }
}

#[test]
fn a_link_with_the_name_of_the_token_is_neither_followed_nor_removed() {
    let webroot = tempfile::tempdir().unwrap();
    let victim = webroot.path().join("victim");
    fs::write(&victim, "theirs").unwrap();
    fs::create_dir_all(challenges(webroot.path())).unwrap();
    symlink(&victim, file(&webroot, TOKEN)).unwrap();
    let failure = put(&webroot, TOKEN, &Arc::default()).unwrap_err();
    assert_eq!(failure.class, FailureClass::Retry, "{failure}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "theirs");
    assert!(file(&webroot, TOKEN).is_symlink());
}

#[test]
fn a_foreign_file_under_our_name_is_not_touched() {
    let webroot = tempfile::tempdir().unwrap();
    let path = file(&webroot, TOKEN);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "theirs").unwrap();
    let failure = put(&webroot, TOKEN, &Arc::default()).unwrap_err();
    assert!(failure.summary.as_str().contains(path.to_str().unwrap()), "{failure}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");

    // Closed to others like an unfinished one of ours, which has no other name, and no other owner.
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let second = path.with_extension("second");
    fs::hard_link(&path, &second).unwrap();
    put(&webroot, TOKEN, &Arc::default()).unwrap_err();
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    fs::remove_file(second).unwrap();
    if std::os::unix::fs::chown(&path, Some(4711), None).is_ok() {
        put(&webroot, TOKEN, &Arc::default()).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    }

    // The same answer under the same name serves, and stays.
    fs::remove_file(&path).unwrap();
    let first = put(&webroot, TOKEN, &Arc::default()).unwrap();
    put(&webroot, TOKEN, &Arc::default()).unwrap().withdraw().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), challenge(TOKEN).key_authorization);

    // Replaced meanwhile: the new one is not ours.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "theirs").unwrap();
    first.withdraw().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
}

#[test]
fn a_journal_that_refuses_leaves_nothing_visible() {
    #[derive(Debug)]
    struct Full;
    impl Journal for Full {
        fn record(&self, _: &Artefact) -> io::Result<Box<dyn Entry>> {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
    }
    let webroot = tempfile::tempdir().unwrap();
    let failure =
        place(webroot.path().to_owned(), &challenge(TOKEN), &Full, Arc::default()).unwrap_err();
    assert_eq!(failure.class, FailureClass::Retry, "{failure}");
    assert_eq!(fs::read_dir(webroot.path()).unwrap().count(), 0);
}

#[test]
fn an_absent_webroot_is_for_the_operator() {
    let webroot = tempfile::tempdir().unwrap();
    let absent = webroot.path().join("absent");
    let journal = Memory::default();
    let failure = place(absent, &challenge(TOKEN), &journal, Arc::default()).unwrap_err();
    assert!(matches!(failure.class, FailureClass::NeedsOperator { .. }), "{failure}");
}

#[test]
fn a_sweep_removes_the_recorded_file_and_no_other() {
    let webroot = tempfile::tempdir().unwrap();
    let journal = Memory::default();
    let placed =
        place(webroot.path().to_owned(), &challenge(TOKEN), &journal, Arc::default()).unwrap();
    let [artefact] = journal.artefacts().try_into().unwrap();
    std::mem::forget(placed);
    sweep(&artefact).unwrap();
    assert!(!file(&webroot, TOKEN).exists());
    sweep(&artefact).unwrap();

    // Another file of that name has another inode as long as the first is kept open.
    let path = file(&webroot, TOKEN);
    fs::write(&path, "theirs").unwrap();
    let there = fs::metadata(&path).unwrap();
    for inode in [None, Some((there.dev(), there.ino() + 1))] {
        sweep(&Artefact::WebrootFile { path: path.clone(), inode }).unwrap();
        assert!(path.exists(), "{inode:?}");
    }
}

#[test]
fn a_sweep_looks_nowhere_but_below_a_webroot() {
    let folder = tempfile::tempdir().unwrap();
    for place in
        [TOKEN, "acme-challenge/x", "a/.well-known/other/x", ".well-known/acme-challenge/x"]
    {
        let path = folder.path().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        let there = fs::metadata(&path).unwrap();
        let inode = Some((there.dev(), there.ino()));
        let swept = sweep(&Artefact::WebrootFile { path: path.clone(), inode });
        assert!(swept.is_err(), "{}", path.display());
        assert!(path.exists(), "{}", path.display());
    }
}

/// A directory that turns into a symlink and back all the while never leads a file outside
#[test]
fn a_swapped_symlink_never_wins_the_race() {
    for swapped in [".well-known", ".well-known/acme-challenge"] {
        let (webroot, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(outside.path().join("acme-challenge")).unwrap();
        fs::create_dir_all(challenges(webroot.path())).unwrap();
        let name = webroot.path().join(swapped);
        let trap = webroot.path().join("trap");
        symlink(outside.path(), &trap).unwrap();
        let done = AtomicBool::new(false);
        let (mut placed, mut refused) = (0, 0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    renameat_with(CWD, &name, CWD, &trap, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let made = Arc::default();
            // A busy machine may let one of the two run alone for long.
            let enough = |placed, refused| placed + refused >= 3000 && placed > 0 && refused > 0;
            while !enough(placed, refused) && placed + refused < 1_000_000 {
                match put(&webroot, TOKEN, &made) {
                    Ok(file) => {
                        placed += 1;
                        drop(file);
                    }
                    Err(_) => refused += 1,
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        let strays: Vec<_> = fs::read_dir(outside.path().join("acme-challenge"))
            .unwrap()
            .chain(fs::read_dir(outside.path()).unwrap())
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != "acme-challenge")
            .collect();
        assert_eq!(strays, [""; 0], "{swapped}, {placed} placed, {refused} refused");
        assert!(placed > 0 && refused > 0, "no race: {placed} placed, {refused} refused");
    }
}

#[test]
fn a_trial_leaves_a_webroot_as_it_was_and_names_one_that_is_not_there() {
    let webroot = TempDir::new().unwrap();
    let path = webroot.path().to_owned();
    trial(path.clone(), Arc::default()).unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    let made = challenges(&path);
    fs::create_dir_all(&made).unwrap();
    trial(path.clone(), Arc::default()).unwrap();
    assert!(made.is_dir() && fs::read_dir(&made).unwrap().count() == 0);
    let failure = trial(path.join("none"), Arc::default()).unwrap_err();
    assert!(matches!(failure.class, FailureClass::NeedsOperator { .. }), "{failure}");
}
