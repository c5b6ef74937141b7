//! Every step of a switch, and what the paths give after it.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

use super::*;
use crate::config::{Content, Output};
use crate::record::Generation;
use crate::store::dir::{ourselves, temporary_name};
use crate::store::fixture::{self, Place};
use crate::store::pair;

#[expect(clippy::disallowed_methods, reason = "a file that was there before certkeep")]
fn put(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// What each output path gives
fn given(certificate: &Certificate) -> Vec<Option<String>> {
    certificate.targets[0].outputs.iter().map(|output| read(&output.path)).collect()
}

fn wanted(certificate: &Certificate, generation: &Generation) -> Vec<Option<String>> {
    let text = |output: &Output| {
        let bytes = pair::parts(&output.content, generation).concat();
        Some(String::from_utf8(bytes).unwrap())
    };
    certificate.targets[0].outputs.iter().map(text).collect()
}

fn commit(store: &Store, certificate: &Certificate, generation: &Generation) -> Commit {
    let target = &certificate.targets[0];
    let placed = store.place(certificate, target, &Owners::default()).unwrap();
    let contents = fixture::rendered(store, certificate, generation);
    prepare(store, certificate, target, &placed, &contents, generation.meta.number).unwrap()
}

fn layouts(place: &Place) -> [(Layout, PathBuf); 2] {
    let out = place.outputs();
    [(Layout::Dir(out.join("dir")), out.join("dir")), (Layout::Links, out)]
}

/// Take every prefix of the steps in a place of its own, as if the power went then
fn at_every_step(
    before: impl Fn(&Store, &Certificate),
    check: impl Fn(&Certificate, &[Option<String>], &[Option<String>]),
) {
    for which in 0..2 {
        for steps in 0.. {
            let place = fixture::place();
            let store = place.store();
            let (layout, dir) = layouts(&place)[which].clone();
            let certificate = fixture::certificate(layout, &dir);
            std::fs::create_dir_all(&dir).unwrap();
            before(&store, &certificate);
            let old = given(&certificate);
            let generation = fixture::stage(&store);
            let new = wanted(&certificate, &generation);
            let commit = commit(&store, &certificate, &generation);
            assert_eq!(given(&certificate), old, "before the first step");
            if steps > commit.steps.len() {
                break;
            }
            for step in &commit.steps[..steps] {
                commit.take(step).unwrap();
            }
            check(&certificate, &old, &new);
            drop(commit);
            // The start after it, and the attempt after that.
            store.recover_one(&certificate, &mut |event| panic!("{event}")).unwrap();
            check(&certificate, &old, &new);
            store.install(&certificate, &certificate.targets[0], &generation).unwrap();
            assert_eq!(given(&certificate), new, "{which} {steps}");
        }
    }
}

fn all_or_nothing(certificate: &Certificate, old: &[Option<String>], new: &[Option<String>]) {
    let now = given(certificate);
    assert!(now == old || now == new, "{now:?}");
}

#[test]
fn after_a_crash_at_any_step_of_a_first_install_all_files_are_there_or_none() {
    at_every_step(|_, _| {}, all_or_nothing);
}

#[test]
fn after_a_crash_at_any_step_of_a_renewal_all_files_are_old_or_all_new() {
    let before = |store: &Store, certificate: &Certificate| {
        let old = fixture::stage(store);
        store.install(certificate, &certificate.targets[0], &old).unwrap();
    };
    at_every_step(before, all_or_nothing);
}

#[test]
fn taking_over_regular_files_changes_no_byte_before_the_switch() {
    let before = |_: &Store, certificate: &Certificate| {
        for output in &certificate.targets[0].outputs {
            put(&output.path, &format!("old {:?}", output.content));
        }
    };
    at_every_step(before, all_or_nothing);
}

#[test]
fn taking_over_somebody_elses_symlinks_changes_no_byte_before_the_switch() {
    let before = |_: &Store, certificate: &Certificate| {
        for output in &certificate.targets[0].outputs {
            let live = output.path.with_extension("live");
            put(&live, &format!("live {:?}", output.content));
            symlink(&live, &output.path).unwrap();
        }
    };
    at_every_step(before, all_or_nothing);
}

#[test]
fn flattened_symlinks_are_taken_over_again() {
    let before = |store: &Store, certificate: &Certificate| {
        let old = fixture::stage(store);
        let target = &certificate.targets[0];
        store.install(certificate, target, &old).unwrap();
        // What `cp -rL` makes of everything.
        let atomic = store.atomic_path(&certificate.name, target).unwrap();
        let files: Vec<_> = std::fs::read_dir(atomic.join(DATA))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .map(|name| (read(&atomic.join(DATA).join(&name)).unwrap(), name))
            .collect();
        let contents: Vec<_> =
            target.outputs.iter().map(|o| (o.path.clone(), read(&o.path).unwrap())).collect();
        std::fs::remove_file(atomic.join(DATA)).unwrap();
        std::fs::create_dir(atomic.join(DATA)).unwrap();
        for (text, name) in &files {
            put(&atomic.join(DATA).join(name), text);
        }
        for (path, text) in &contents {
            std::fs::remove_file(path).unwrap();
            put(path, text);
        }
    };
    at_every_step(before, all_or_nothing);
}

#[test]
fn one_path_that_somebody_replaced_is_taken_over_beside_one_that_is_ours() {
    for which in 0..2 {
        let before = |store: &Store, certificate: &Certificate| {
            let target = &certificate.targets[0];
            store.install(certificate, target, &fixture::stage(store)).unwrap();
            let path = &target.outputs[which].path;
            std::fs::remove_file(path).unwrap();
            put(path, "by hand");
        };
        at_every_step(before, all_or_nothing);
    }
}

/// What the path of a key gives, which leads through a `..data` of this text, or a directory in its
/// place, once that is taken over beside a file
fn key_taken_over(text: Option<&str>, owner: u32, change: impl Fn(&Path)) -> Option<String> {
    let place = fixture::place();
    let store = place.store();
    let dir = place.outputs().join("dir");
    let mut certificate = fixture::certificate(Layout::Dir(dir.clone()), &dir);
    for output in &mut certificate.targets[0].outputs {
        output.owner = (owner != ourselves().0).then(|| owner.to_string());
    }
    store.install(&certificate, &certificate.targets[0], &fixture::stage(&store)).unwrap();
    for name in ["fullchain.pem", DATA] {
        std::fs::remove_file(dir.join(name)).unwrap();
    }
    put(&dir.join("fullchain.pem"), "by hand");
    let data = dir.join(text.unwrap_or(DATA));
    std::fs::create_dir_all(&data).unwrap();
    put(&data.join("privkey.pem"), "found");
    if let Some(text) = text {
        symlink(text, dir.join(DATA)).unwrap();
    }
    chown(&dir, Some(owner), None).unwrap();
    change(&data);
    let commit = commit(&store, &certificate, &fixture::stage(&store));
    commit.take(&commit.steps[0]).unwrap();
    let [chain, key] = given(&certificate).try_into().unwrap();
    assert_eq!(chain.as_deref(), Some("by hand"));
    key
}

#[test]
fn only_a_directory_beside_the_data_link_is_taken_over() {
    let own = ourselves().0;
    for text in [None, Some("..2026_11_23"), Some("..2026_11_23/")] {
        assert_eq!(key_taken_over(text, own, |_| {}).as_deref(), Some("found"), "{text:?}");
    }
    for text in ["../elsewhere", "..2026_11_23/inner", "..2026_11_23/../../elsewhere"] {
        let big = |data: &Path| put(&data.join("big"), &"x".repeat(2 << 20));
        assert_eq!(key_taken_over(Some(text), own, big), None, "{text}");
    }
    let led_on = |data: &Path| {
        std::fs::rename(data, data.with_file_name("..2")).unwrap();
        symlink("..2", data).unwrap();
    };
    assert_eq!(key_taken_over(Some("..1"), own, led_on), None);
    let lost = |data: &Path| std::fs::remove_dir_all(data).unwrap();
    assert_eq!(key_taken_over(Some("..1"), own, lost), None);
}

#[test]
fn a_closed_directory_of_root_is_not_opened_to_the_owner_of_the_one_around_it() {
    if ourselves().0 != 0 {
        // Only root can give a directory away.
        return;
    }
    for (owner, mode, is_taken) in
        [(0, 0o700, false), (0, 0o750, false), (0, 0o711, true), (4711, 0o700, true)]
    {
        for text in [None, Some("..backup")] {
            let give = |data: &Path| {
                chown(data, Some(owner), None).unwrap();
                std::fs::set_permissions(data, Permissions::from_mode(mode)).unwrap();
            };
            let key = key_taken_over(text, 4711, give);
            assert_eq!(key.is_some(), is_taken, "{text:?} of {owner}, {mode:o}");
        }
    }
}

#[test]
fn nothing_of_a_diverted_directory_is_there_when_the_original_is_back() {
    let place = fixture::place();
    let store = place.store();
    let (dir, elsewhere) = (place.outputs().join("dir"), place.outputs().join("elsewhere"));
    for dir in [&dir, &elsewhere] {
        std::fs::create_dir(dir).unwrap();
    }
    put(&dir.join("privkey.pem"), "original");
    put(&elsewhere.join("other.pem"), "of root");
    let certificate = fixture::certificate(Layout::Dir(dir.clone()), &dir);
    let target = &certificate.targets[0];
    store.install(&certificate, target, &fixture::stage(&store)).unwrap();
    std::fs::remove_file(dir.join(DATA)).unwrap();
    symlink(&elsewhere, dir.join(DATA)).unwrap();
    store.restore_original(&certificate, target).unwrap();
    assert_eq!(read(&dir.join("privkey.pem")).as_deref(), Some("original"));
    assert_eq!(read(&dir.join(DATA).join("other.pem")), None);
}

#[test]
fn the_layout_is_the_one_of_kubernetes() {
    let place = fixture::place();
    let store = place.store();
    let dir = place.outputs().join("dir");
    let certificate = fixture::certificate(Layout::Dir(dir.clone()), &dir);
    for _ in 0..3 {
        let generation = fixture::stage(&store);
        store.install(&certificate, &certificate.targets[0], &generation).unwrap();
    }
    let link = std::fs::read_link(dir.join("privkey.pem")).unwrap();
    assert_eq!(link, Path::new("..data/privkey.pem"));
    let data = std::fs::read_link(dir.join("..data")).unwrap();
    assert!(data.to_str().unwrap().starts_with("..000003-"), "{data:?}");
    assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::metadata(dir.join("privkey.pem")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(dir.join("fullchain.pem")).unwrap().mode() & 0o777, 0o644);
    // The one in force, and the one before for who is still in it.
    let kept = Dir::find(&dir).unwrap().unwrap().names().unwrap();
    assert_eq!(kept.iter().filter(|name| is_content_directory(name)).count(), 2);
    store.recover_one(&certificate, &mut |event| panic!("{event}")).unwrap();
    let kept = Dir::find(&dir).unwrap().unwrap().names().unwrap();
    assert_eq!(kept.len(), 4, "{kept:?}");
}

#[test]
fn a_way_that_a_crash_left_closed_is_open_again_after_the_next_start_or_switch() {
    let place = fixture::place();
    let certificate = fixture::certificate(Layout::Links, &place.outputs());
    let target = &certificate.targets[0];
    let atomic = place.store().deployed_path(&certificate.name, &target.name);
    let way: Vec<_> = atomic.ancestors().take(3).collect();
    let set_all = |mode| {
        for dir in &way {
            std::fs::set_permissions(dir, Permissions::from_mode(mode)).unwrap();
        }
    };
    let modes = || -> Vec<_> {
        way.iter().map(|dir| std::fs::metadata(dir).unwrap().mode() & 0o7777).collect()
    };
    let generation = fixture::stage(&place.store());
    std::fs::create_dir_all(&atomic).unwrap();
    for (closed, open) in [(0o700, 0o711), (0o750, 0o751)] {
        set_all(closed);
        place.store().install(&certificate, target, &generation).unwrap();
        assert_eq!(modes(), [open; 3]);

        set_all(closed);
        place.store().recover_one(&certificate, &mut |event| panic!("{event}")).unwrap();
        assert_eq!(modes(), [open; 3]);
        std::fs::remove_file(&target.outputs[0].path).unwrap();
    }
}

#[test]
fn a_directory_is_made_open_and_what_a_crash_left_of_it_goes() {
    let place = fixture::place();
    let store = place.store();
    let dir = place.outputs().join("dir");
    let certificate = fixture::certificate(Layout::Dir(dir.clone()), &dir);
    let unfinished = |tag: &str| place.outputs().join(temporary_name(tag));
    let tag = store.tag(&certificate.name);
    let (left, foreign) = (unfinished(&tag), unfinished("00000000"));
    for dir in [&left, &foreign] {
        std::fs::create_dir(dir).unwrap();
    }
    // Of a target of regular files, whose journal speaks of it.
    let staged = unfinished(&tag);
    put(&staged, "staged");
    let generation = fixture::stage(&store);
    store.recover_one(&certificate, &mut |event| panic!("{event}")).unwrap();
    store.install(&certificate, &certificate.targets[0], &generation).unwrap();
    assert_eq!(given(&certificate), wanted(&certificate, &generation));
    assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o7777, 0o755);
    assert!(!left.exists() && foreign.exists() && staged.exists());
    // Somebody else was faster.
    let parent = Dir::find(&place.outputs()).unwrap().unwrap();
    std::fs::remove_dir(foreign).unwrap();
    std::fs::remove_file(staged).unwrap();
    drop(parent.put_child("dir", "0", 0o700).unwrap());
    assert_eq!(parent.names().unwrap(), ["dir"]);
    assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn directories_of_one_certificate_are_made_beside_each_other() {
    let place = fixture::place();
    let (parent, here) = (place.outputs(), std::thread::available_parallelism().unwrap().get());
    std::thread::scope(|scope| {
        for thread in 0..here.max(4) {
            let parent = Dir::find(&parent).unwrap().unwrap();
            scope.spawn(move || {
                for number in 0..50 {
                    parent.put_child(&format!("{thread}-{number}"), "0", 0o755).unwrap();
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(&parent).unwrap().count(), here.max(4) * 50);
}

#[test]
fn an_output_that_is_renamed_added_or_dropped_leaves_no_link_behind() {
    for which in 0..2 {
        let place = fixture::place();
        let store = place.store();
        let (layout, dir) = layouts(&place)[which].clone();
        let mut certificate = fixture::certificate(layout, &dir);
        let first = fixture::stage(&store);
        store.install(&certificate, &certificate.targets[0], &first).unwrap();

        let outputs = &mut certificate.targets[0].outputs;
        let dropped = outputs.remove(0).path;
        outputs.push(fixture::output(dir.join("haproxy.pem"), Content::Combined));
        store.install(&certificate, &certificate.targets[0], &first).unwrap();
        assert_eq!(given(&certificate), wanted(&certificate, &first));
        assert!(dropped.symlink_metadata().is_err(), "{dropped:?}");
    }
}

#[test]
fn what_was_there_before_certkeep_comes_back() {
    for which in 0..2 {
        let place = fixture::place();
        let store = place.store();
        let (layout, dir) = layouts(&place)[which].clone();
        let mut certificate = fixture::certificate(layout, &dir);
        std::fs::create_dir_all(&dir).unwrap();
        let (file, link, absent) =
            (dir.join("fullchain.pem"), dir.join("privkey.pem"), dir.join("cert.pem"));
        certificate.targets[0].outputs.push(fixture::output(absent.clone(), Content::Cert));
        put(&file, "old chain");
        std::fs::set_permissions(&file, Permissions::from_mode(0o604)).unwrap();
        put(&dir.join("live.key"), "old key");
        symlink("live.key", &link).unwrap();

        let target = &certificate.targets[0];
        assert!(store.restore_original(&certificate, target).is_err());
        for _ in 0..2 {
            let generation = fixture::stage(&store);
            store.install(&certificate, target, &generation).unwrap();
        }
        store.restore_original(&certificate, target).unwrap();
        assert_eq!(read(&file).unwrap(), "old chain");
        let meta = std::fs::symlink_metadata(&file).unwrap();
        assert!(meta.is_file() && meta.mode() & 0o7777 == 0o604);
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("live.key"));
        assert!(absent.symlink_metadata().is_err());

        let generation = fixture::stage(&store);
        store.install(&certificate, target, &generation).unwrap();
        assert_eq!(given(&certificate), wanted(&certificate, &generation));
    }
}

#[test]
fn without_an_original_nothing_is_put_back() {
    let place = fixture::place();
    let store = place.store();
    let certificate = fixture::certificate(Layout::Links, &place.outputs());
    let generation = fixture::stage(&store);
    let target = &certificate.targets[0];
    store.install(&certificate, target, &generation).unwrap();
    assert!(store.restore_original(&certificate, target).unwrap_err().needs_operator());
    assert_eq!(given(&certificate), wanted(&certificate, &generation));
}
