#![expect(clippy::disallowed_methods, reason = "files change as anybody changes them")]

use std::fs;
use std::os::unix::fs::symlink;

use notify::event::{CreateKind, DataChange, Flag, RemoveKind};
use tokio::time::timeout;

use super::*;

/// A folder without symlinks on the way
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    (folder, path)
}

async fn hint(watch: &mut Watch, after: &str) {
    let hint = timeout(Duration::from_secs(10), watch.changed()).await;
    assert_eq!(hint.unwrap_or_else(|_| panic!("no hint after {after}")), Hint::Look, "{after}");
}

/// Lets a burst end, so that the next hint belongs to what comes next
async fn settle(watch: &mut Watch) {
    while timeout(DEBOUNCE * 3 / 2, watch.changed()).await.is_ok() {}
}

#[tokio::test]
async fn a_file_that_is_written_replaced_or_removed_gives_a_hint() {
    let (_folder, root) = folder();
    let file = root.join("config.yaml");
    let mut watch = Watch::new([file.clone()]);
    let steps: [(&str, &dyn Fn()); 6] = [
        ("created", &|| fs::write(&file, "1").unwrap()),
        ("written", &|| fs::write(&file, "2").unwrap()),
        ("replaced", &|| {
            fs::write(root.join("new"), "3").unwrap();
            fs::rename(root.join("new"), &file).unwrap();
        }),
        ("its mode changed", &|| {
            let mut permissions = fs::metadata(&file).unwrap().permissions();
            permissions.set_readonly(true);
            fs::set_permissions(&file, permissions).unwrap();
        }),
        ("moved away", &|| fs::rename(&file, root.join("old")).unwrap()),
        ("moved back", &|| fs::rename(root.join("old"), &file).unwrap()),
    ];
    for (what, step) in steps {
        step();
        hint(&mut watch, what).await;
        settle(&mut watch).await;
    }
    fs::remove_file(&file).unwrap();
    hint(&mut watch, "removed").await;
}

#[tokio::test]
async fn a_swap_of_kubernetes_gives_a_hint_each_time() {
    let (_folder, root) = folder();
    let publish = |version: u32| {
        let data = root.join(format!("..{version}"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("tls.crt"), version.to_string()).unwrap();
        symlink(data.file_name().unwrap(), root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        if version > 1 {
            fs::remove_dir_all(root.join(format!("..{}", version - 1))).unwrap();
        }
    };
    publish(1);
    symlink("..data/tls.crt", root.join("tls.crt")).unwrap();
    let mut watch = Watch::new([root.join("tls.crt")]);
    for version in 2..5 {
        publish(version);
        hint(&mut watch, &format!("version {version}")).await;
        settle(&mut watch).await;
        fs::write(root.join("tls.crt"), "in place").unwrap();
        hint(&mut watch, &format!("a write to version {version}")).await;
        settle(&mut watch).await;
    }
}

#[tokio::test]
async fn every_link_of_a_chain_is_watched() {
    let (_folder, root) = folder();
    for name in ["a", "b", "c", "d"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("file"), name).unwrap();
    }
    let relink = |target: &str, link: &str| {
        symlink(target, root.join("new")).unwrap();
        fs::rename(root.join("new"), root.join(link)).unwrap();
    };
    relink("../b/link", "a/link");
    relink("../c/file", "b/link");
    let mut watch = Watch::new([root.join("a/link")]);
    fs::write(root.join("c/file"), "changed").unwrap();
    hint(&mut watch, "the file at the end changed").await;
    settle(&mut watch).await;
    relink("../d/file", "b/link");
    hint(&mut watch, "the link in the middle changed").await;
    settle(&mut watch).await;
    fs::write(root.join("d/file"), "changed").unwrap();
    hint(&mut watch, "the file at the new end changed").await;
    settle(&mut watch).await;
    relink("../c/file", "a/link");
    hint(&mut watch, "the first link changed").await;
}

#[tokio::test]
async fn a_directory_that_comes_back_is_watched_again() {
    let (_folder, root) = folder();
    let directory = root.join("tls");
    let file = directory.join("cert.pem");
    fs::create_dir(&directory).unwrap();
    // With a file beside it, the directory's own parent is watched too.
    for paths in [vec![file.clone()], vec![file.clone(), root.join("beside")]] {
        comes_back(Watch::new(paths), &directory, &file).await;
    }
}

async fn comes_back(mut watch: Watch, directory: &Path, file: &Path) {
    let aside = directory.with_extension("aside");
    // More than once: a new directory may get the inode of the old one.
    for round in 0..3 {
        fs::remove_dir_all(directory).unwrap();
        hint(&mut watch, &format!("{round}: the directory went")).await;
        settle(&mut watch).await;
        fs::create_dir(directory).unwrap();
        hint(&mut watch, &format!("{round}: the directory came")).await;
        settle(&mut watch).await;
        fs::write(file, "1").unwrap();
        hint(&mut watch, &format!("{round}: the file came")).await;
        settle(&mut watch).await;
    }
    fs::rename(directory, &aside).unwrap();
    fs::create_dir(directory).unwrap();
    fs::remove_dir_all(&aside).unwrap();
    hint(&mut watch, "another directory took its place").await;
    settle(&mut watch).await;
    fs::write(file, "2").unwrap();
    hint(&mut watch, "a file came in that one").await;
    settle(&mut watch).await;
    fs::rename(directory, &aside).unwrap();
    fs::rename(&aside, directory).unwrap();
    hint(&mut watch, "away and back").await;
    settle(&mut watch).await;
    fs::write(file, "3").unwrap();
    hint(&mut watch, "the file changed after that").await;
}

#[tokio::test]
async fn a_path_that_is_made_step_by_step_is_followed() {
    let (_folder, root) = folder();
    let file = root.join("a/b/file");
    let mut watch = Watch::new([file.clone()]);
    fs::create_dir(root.join("a")).unwrap();
    hint(&mut watch, "the first directory").await;
    fs::create_dir(root.join("a/b")).unwrap();
    hint(&mut watch, "the second directory").await;
    settle(&mut watch).await;
    fs::write(&file, "").unwrap();
    hint(&mut watch, "the file").await;
}

#[tokio::test]
async fn a_wait_that_is_dropped_loses_no_hint() {
    let (_folder, root) = folder();
    let file = root.join("file");
    let mut watch = Watch::new([file.clone()]);
    fs::write(&file, "").unwrap();
    let begun = Instant::now();
    while timeout(DEBOUNCE / 10, watch.changed()).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no hint");
    }
}

#[tokio::test]
async fn other_paths_can_take_the_place_of_the_first() {
    let (_folder, root) = folder();
    for name in ["a", "b"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    let mut watch = Watch::new([root.join("a/file")]);
    assert_eq!(watch.directories.keys().collect::<Vec<_>>(), [&root.join("a")]);
    watch.retarget([root.join("b/file"), root.join("b/other")]);
    assert_eq!(watch.directories.keys().collect::<Vec<_>>(), [&root.join("b")]);
    fs::write(root.join("b/file"), "").unwrap();
    hint(&mut watch, "a new path").await;
}

#[test]
fn only_what_matters_concerns_us() {
    let directory = Path::new("/etc/tls");
    let shared = Shared::default();
    shared.lock().matters = [directory, &directory.join("cert.pem")].map(key).into();
    let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    let read = EventKind::Access(AccessKind::Open(AccessMode::Any));
    let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
    let cases = [
        (written, "/etc/tls/cert.pem", true),
        (closed, "/etc/tls/cert.pem", true),
        (read, "/etc/tls/cert.pem", false),
        (EventKind::Create(CreateKind::File), "/etc/tls/cert.pem", true),
        (written, "/etc/tls/other.pem", false),
        (written, "/etc/other/cert.pem", false),
        (EventKind::Remove(RemoveKind::Folder), "/etc/tls", true),
    ];
    for (kind, path, expected) in cases {
        let event = Ok(Event::new(kind).add_path(path.into()));
        assert_eq!(shared.concerns(&event), expected, "{event:?}");
    }
    let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
    assert!(shared.concerns(&Ok(overflow)));
    assert!(shared.concerns(&Err(notify::Error::generic("broken"))));
}

/// In a user namespace of its own, where the limit is ours to set
#[test]
fn a_limit_is_told_once_and_ends_nothing() {
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg("echo 1 >/proc/sys/user/max_inotify_watches && exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "watch::tests::at_the_limit"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown} {output:?}");
}

#[tokio::test]
#[ignore = "run by the test above, with a limit of one watch"]
async fn at_the_limit() {
    let (_folder, root) = folder();
    let names = ["a", "b", "c", "d"];
    for name in names {
        fs::create_dir(root.join(name)).unwrap();
    }
    let mut watch = Watch::new(names.map(|name| root.join(name).join("file")));
    let Hint::Degraded(why) = watch.changed().await else { panic!("nothing is wrong") };
    assert!(why.as_str().contains("max_user_watches"), "{why}");
    for _ in 0..20 {
        watch.refresh();
        assert_eq!(watch.trouble, None, "told twice");
    }
    for name in names {
        fs::write(root.join(name).join("file"), "").unwrap();
    }
    hint(&mut watch, "a change in the watched one of them").await;
}
