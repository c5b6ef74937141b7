//! Disks and directories that are against it: full, read-only, mounted over, somebody else's.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::os::unix::fs::{MetadataExt as _, chown, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use support::host::{Host, Layout, OUTPUTS, Output};
use support::mounts::{Mount, inside};
use support::pair::Pair;
use support::pebble::pebble;
use support::process::Daemon;
use support::site::Site;
use support::{PATIENCE, program, wait_until, write};

const LAYOUTS: [Layout; 3] = [Layout::Links, Layout::Copies, Layout::Folder];

/// Spoil a host, and see that a renewal says why it cannot be, orders nothing and touches nothing;
/// and that the next one succeeds once it is mended
fn refuses<T>(host: &Host, case: &str, words: &[&str], spoil: impl FnOnce() -> T) {
    let before = contents(host);
    let (orders, issued) = (host.ca.orders(), host.ca.issued());
    let spoilt = spoil();
    let output = host.site.certkeep(&["renew", "--force"]).run();
    let story = format!("{case}: {output}");
    assert_eq!(output.code, Some(1), "{story}");
    for word in words {
        assert!(output.stderr.contains(word), "{word:?} in {story}");
    }
    assert_eq!((host.ca.orders(), host.ca.issued()), (orders, issued), "{story}");
    assert_eq!(contents(host), before, "{story}");
    drop(spoilt);
    host.site.certkeep(&["renew", "--force"]).succeeds();
    host.assert_sound(false, &story);
    host.assert_tidy(&story);
    assert_eq!(host.site.state_of("site"), "live", "{story}");
    assert_eq!(host.ca.issued(), issued + 1, "{story}");
}

fn contents(host: &Host) -> Vec<(PathBuf, Vec<u8>)> {
    let outputs = host.layouts.iter().flat_map(|layout| host.outputs(*layout));
    outputs.map(|(_, path)| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Where the regular files of a layout are
fn disk_of(host: &Host, layout: Layout) -> PathBuf {
    host.site.tls().join(layout.name())
}

#[test]
fn a_disk_of_64_kib_orders_nothing_and_keeps_the_pair() {
    if !inside("a_disk_of_64_kib_orders_nothing_and_keeps_the_pair") {
        return;
    }
    let host = Host::new(&LAYOUTS);
    for layout in [Layout::Copies, Layout::Folder] {
        let disk = disk_of(&host, layout);
        let words = ["KiB of free space", disk.to_str().unwrap(), "free some space"];
        refuses(&host, layout.name(), &words, || {
            let mount = Mount::memory(&disk);
            mount.remount("size=64k");
            mount
        });
    }
}

#[test]
fn a_disk_without_inodes_orders_nothing_and_keeps_the_pair() {
    if !inside("a_disk_without_inodes_orders_nothing_and_keeps_the_pair") {
        return;
    }
    let host = Host::new(&LAYOUTS);
    for layout in LAYOUTS {
        let disk = disk_of(&host, layout);
        let words = ["0 free inodes", disk.to_str().unwrap(), "free some space or inodes"];
        refuses(&host, layout.name(), &words, || {
            let mount = Mount::memory(&disk);
            let used = rustix::fs::statvfs(&disk).unwrap();
            mount.remount(&format!("nr_inodes={}", used.f_files - used.f_ffree));
            mount
        });
    }
}

#[test]
fn a_disk_that_is_read_only_orders_nothing_and_keeps_the_pair() {
    if !inside("a_disk_that_is_read_only_orders_nothing_and_keeps_the_pair") {
        return;
    }
    let host = Host::new(&LAYOUTS);
    for layout in LAYOUTS {
        let disk = disk_of(&host, layout);
        let words = ["Read-only file system", disk.to_str().unwrap(), "mount it read-write"];
        refuses(&host, layout.name(), &words, || {
            // What is left of a switch cannot be swept up either, which is no reason to say less.
            if layout == Layout::Folder {
                std::fs::create_dir(disk.join("..000001-0123456789abcdef")).unwrap();
            }
            let mount = Mount::bind(&disk, &disk);
            mount.remount("ro,bind");
            mount
        });
    }
}

#[test]
fn a_file_mounted_by_itself_orders_nothing_and_keeps_the_pair() {
    if !inside("a_file_mounted_by_itself_orders_nothing_and_keeps_the_pair") {
        return;
    }
    let host = Host::new(&LAYOUTS);
    let (_, file) = &host.outputs(Layout::Copies)[0];
    let words = [file.to_str().unwrap(), "is a mount point", "mount the directory that it is in"];
    refuses(&host, "copies", &words, || Mount::bind(file, file));
}

/// A directory that belongs to somebody else, until the value is dropped
struct GivenAway(PathBuf);

impl GivenAway {
    fn to(uid: u32, path: &Path) -> Self {
        chown(path, Some(uid), Some(uid)).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for GivenAway {
    fn drop(&mut self) {
        chown(&self.0, Some(0), Some(0)).unwrap();
    }
}

#[test]
fn a_directory_of_somebody_else_orders_nothing_and_keeps_the_pair() {
    let host = Host::new(&LAYOUTS);
    for layout in LAYOUTS {
        let disk = disk_of(&host, layout);
        let words = ["belongs to user 4711", disk.to_str().unwrap(), "give the directory to root"];
        refuses(&host, layout.name(), &words, || GivenAway::to(4711, &disk));
    }
}

/// The user that attacks
const NOBODY: u32 = 65534;

/// The attacker's process: it puts a trap in an entry's place and takes it back, without pause,
/// and says how often it did
#[test]
fn attacker() {
    let Some(words) = std::env::var_os("CERTKEEP_TEST_ATTACK") else { return };
    let words = words.into_string().unwrap();
    let [entry, trap, victim] = words.split(':').collect::<Vec<_>>().try_into().unwrap();
    let tally = format!("{trap}.tally");
    // Where the entry is gone for a moment, it will be back.
    let exchange = || {
        while renameat_with(CWD, entry, CWD, trap, RenameFlags::EXCHANGE).is_err() {}
    };
    for swaps in (2_u64..).step_by(2) {
        if !is_trap(Path::new(trap), Path::new(victim)) {
            // What we took away was replaced meanwhile.
            std::fs::remove_file(trap).ok();
            std::os::unix::fs::symlink(victim, trap).unwrap();
        }
        exchange();
        // The trap is there for short moments, or nothing would ever get as far as a commit.
        pause(swaps * 7919 % 40);
        exchange();
        if swaps.is_multiple_of(100) {
            write(&tally, swaps.to_string());
        }
        pause(swaps * 7919 % 400);
    }
}

fn pause(microseconds: u64) {
    let end = Instant::now() + Duration::from_micros(microseconds);
    while Instant::now() < end {}
}

fn is_trap(path: &Path, victim: &Path) -> bool {
    std::fs::read_link(path).is_ok_and(|text| text == victim)
}

/// Everything that can be told of what is behind a path, without having looked changing it
fn traces(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let meta = entry.metadata().unwrap();
        let (mode, nanoseconds) = (meta.mode(), meta.ctime_nsec());
        let content = std::fs::read_to_string(entry.path()).unwrap();
        found.push(format!(
            "{:?} {} {mode:o} {} {}.{nanoseconds} {content}",
            entry.path(),
            meta.ino(),
            meta.nlink(),
            meta.ctime()
        ));
    }
    let meta = std::fs::metadata(folder).unwrap();
    found.push(format!("{:o} {}.{}", meta.mode(), meta.ctime(), meta.ctime_nsec()));
    found.sort();
    found
}

#[test]
fn swapped_symlinks_lead_no_write_outside() {
    let host = Host::new(&LAYOUTS);
    let victim = host.site.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    for Output { file, in_folder, .. } in OUTPUTS {
        for path in [Some(file), in_folder].into_iter().flatten() {
            write(victim.join(Path::new(path).file_name().unwrap()), "of root");
        }
    }
    // Outside of what certkeep clears up.
    let lair = host.site.path().join("lair");
    std::fs::create_dir(&lair).unwrap();
    chown(&lair, Some(NOBODY), None).unwrap();
    give_away(&host);
    host.site.certkeep(&["renew", "--force"]).succeeds();
    let before = traces(&victim);
    let mut all = (0, 0);
    for layout in LAYOUTS {
        let disk = disk_of(&host, layout);
        let file = host.outputs(layout)[0].1.clone();
        let mut entries = vec![(file.clone(), victim.join(file.file_name().unwrap()))];
        match layout {
            Layout::Folder => entries.push((disk.join("..data"), victim.clone())),
            Layout::Links | Layout::Copies => entries.push((disk.join("certs"), victim.clone())),
        }
        for (entry, victim_of_it) in entries {
            let (runs, refused) = attack(&host, &entry, &lair.join("trap"), &victim_of_it);
            all = (all.0 + runs, all.1 + refused);
            let story = format!("{} after {runs} renewals", entry.display());
            assert_eq!(traces(&victim), before, "{story}");
            // The last exchange may have left the trap where the entry was.
            if is_trap(&entry, &victim_of_it) {
                std::fs::remove_file(&entry).unwrap();
                std::fs::rename(lair.join("trap"), &entry).unwrap();
            }
            let rest = host.site.certkeep(&["renew", "--force"]).run();
            assert_eq!(rest.code, Some(0), "{story}: {rest}");
            host.assert_sound(false, &story);
            assert_eq!(traces(&victim), before, "{story}");
        }
    }
    let (runs, refused) = all;
    assert!(0 < refused && refused < runs, "{refused} of {runs} renewals saw a trap");
}

#[test]
fn a_key_behind_somebody_elses_symlink_is_not_taken_over() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    site.configure("other: { names: [a.test], dir: TLS/other }");
    site.renew();
    let (other, folder) = (Pair::in_dir(&site.tls().join("other")), site.tls().join("site"));
    std::fs::create_dir(&folder).unwrap();
    chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    let pair = site.pair();
    let lead = |owner| {
        for (from, to) in [(&pair.fullchain, &other.fullchain), (&pair.key, &other.key)] {
            std::fs::remove_file(from).ok();
            std::os::unix::fs::symlink(to, from).unwrap();
            lchown(from, Some(owner), Some(owner)).unwrap();
        }
    };
    site.configure(&format!(
        "site: {{ names: [a.test], dir: {{ path: TLS/site, owner: \"{NOBODY}\" }} }}"
    ));
    lead(NOBODY);
    let output = site.certkeep(&["renew"]).run();
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.stderr.contains(&format!("is a symlink of user {NOBODY}")), "{output}");
    assert!(!site.state().join("certificates/site/generations/000001").exists(), "{output}");
    // What root leads there is meant.
    lead(0);
    site.certkeep(&["renew"]).succeeds();
    assert_eq!(ca.issued(), 1);
    assert_eq!(std::fs::metadata(&pair.key).unwrap().uid(), NOBODY);
}

/// Let the outputs and their directories be the attacker's
fn give_away(host: &Host) {
    host.configure(NOBODY);
    for layout in LAYOUTS {
        // Not the symlinks: those of others are followed nowhere.
        let status = Command::new(program("find"))
            .arg(disk_of(host, layout))
            .args(["!", "-type", "l", "-exec", "chown", &NOBODY.to_string(), "{}", "+"])
            .status()
            .unwrap();
        assert!(status.success());
    }
}

/// Renew under attack until there were 10,000 swaps; how many renewals that were, and how many of
/// them saw the trap
fn attack(host: &Host, entry: &Path, trap: &Path, victim: &Path) -> (usize, usize) {
    let mut command = Command::new(program("setpriv"));
    command
        .args(["--reuid", &NOBODY.to_string(), "--clear-groups"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "attacker", "--nocapture"])
        .env(
            "CERTKEEP_TEST_ATTACK",
            format!("{}:{}:{}", entry.display(), trap.display(), victim.display()),
        );
    let tally = PathBuf::from(format!("{}.tally", trap.display()));
    let mut attacker = Daemon::start(&mut command, &host.site.path().join("attacker.log")).unwrap();
    let swaps = || support::read(&tally).parse::<u64>().unwrap_or(0);
    wait_until("the attack has begun", PATIENCE, || tally.exists().then_some(()));
    let (mut runs, mut refused) = (0, 0);
    let begun = Instant::now();
    while swaps() < 10_000 || runs < 5 {
        assert!(begun.elapsed() < 2 * PATIENCE, "{} swaps in {runs} renewals", swaps());
        assert!(attacker.ended().is_none(), "{}", attacker.log());
        let output = host.site.certkeep(&["renew", "--force"]).run();
        assert!(matches!(output.code, Some(0 | 1)), "{output}");
        assert!(!output.stderr.contains("panicked"), "{output}");
        refused += usize::from(output.code == Some(1));
        runs += 1;
    }
    attacker.kill();
    std::fs::remove_file(tally).unwrap();
    (runs, refused)
}

#[test]
fn a_command_ends_although_the_resolver_hangs() {
    if !inside("a_command_ends_although_the_resolver_hangs") {
        return;
    }
    let folder = support::folder();
    let (hosts, config) = (folder.path().join("hosts"), folder.path().join("certkeep.yaml"));
    // The resolver waits there for somebody who writes.
    assert!(Command::new(program("mkfifo")).arg(&hosts).status().unwrap().success());
    std::mem::forget(Mount::bind(&hosts, "/etc/hosts".as_ref()));
    let text = "state_dir: HOME/state\n\
         issuers: { ca: { directory: \"https://ca.test/dir\", accept_terms: true } }\n\
         defaults: { challenge: { http-01: { webroot: HOME } } }\n\
         certificates: { a: { names: [a.test], dir: HOME/tls } }\n";
    write(&config, text.replace("HOME", folder.path().to_str().unwrap()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_certkeep"));
    command.arg("--config").arg(&config).arg("renew");
    let mut renewal = Daemon::start(&mut command, &folder.path().join("log")).unwrap();
    let ended = renewal.wait(PATIENCE);
    assert!(renewal.log().contains("0 of 1 certificates live"), "{ended:?}: {}", renewal.log());
}
