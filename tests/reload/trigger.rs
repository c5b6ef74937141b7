//! A file that is written anew for a watcher.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::Path;
use std::sync::mpsc;

use certkeep::config::Reload;
use certkeep::failure::Step;
use notify::{RecursiveMode, Watcher as _};

use crate::support::{PATIENCE, folder, read, write};
use crate::{Deployed, reload, remedy};

async fn pull(path: &Path, deployed: &[&Deployed]) -> Result<(), certkeep::failure::Failure> {
    reload(&Reload::Trigger(path.to_owned()), deployed).await
}

#[tokio::test]
async fn a_watcher_sees_each_trigger_with_what_was_deployed() {
    let folder = folder();
    let path = folder.path().join("reload-nginx");
    let (a, b) = (Deployed::new("a.test", &[]), Deployed::new("b.test", &[]));
    let (seen, sees) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(move |event| drop(seen.send(event))).unwrap();
    watcher.watch(folder.path(), RecursiveMode::NonRecursive).unwrap();
    let mut inodes = Vec::new();
    for _ in 0..2 {
        pull(&path, &[&a, &b]).await.unwrap();
        crate::support::wait_until("the watcher sees it", PATIENCE, || {
            let event = sees.try_recv().ok()?.unwrap();
            event.paths.contains(&path).then_some(())
        });
        assert_eq!(read(&path), "a.test default 7\nb.test default 7\n");
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o644, "a watcher may be another user");
        inodes.push((metadata.ino(), metadata.mtime_nsec()));
    }
    assert_ne!(inodes[0], inodes[1], "the same content must be seen too");
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "something is left beside it");
}

#[tokio::test]
async fn a_trigger_is_not_written_where_others_could_lead_it_elsewhere() {
    let folder = folder();
    let open = folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    for (mode, expected) in [(0o777, "chmod go-w"), (0o1777, "only root can write")] {
        std::fs::set_permissions(&open, PermissionsExt::from_mode(mode)).unwrap();
        let failure = pull(&open.join("reload"), &[]).await.unwrap_err();
        assert_eq!(failure.step, Step::Reload);
        assert!(remedy(&failure).contains(expected), "{failure}");
    }
    let failure = pull(&folder.path().join("none/reload"), &[]).await.unwrap_err();
    assert!(remedy(&failure).contains("mkdir"), "{failure}");
}

#[tokio::test]
async fn a_trigger_replaces_a_link_and_writes_through_none() {
    let folder = folder();
    let (precious, path) = (folder.path().join("precious"), folder.path().join("reload"));
    write(&precious, "untouched");
    symlink(&precious, &path).unwrap();
    pull(&path, &[&Deployed::new("a.test", &[])]).await.unwrap();
    assert_eq!(read(&precious), "untouched");
    assert_eq!(read(&path), "a.test default 7\n");
    let directory = folder.path().join("directory");
    std::fs::create_dir(&directory).unwrap();
    let failure = pull(&directory, &[]).await.unwrap_err();
    assert!(remedy(&failure).contains("name a file"), "{failure}");
}
