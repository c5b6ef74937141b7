//! What the end-to-end tests share: real peers, and the compiled binary.
//!
//! A peer that is missing fails the test that needs it; `tests/peers` puts it there. Every peer
//! ends with the value that stands for it. Nothing here sleeps and hopes: [`wait_until`] looks
//! again until a deadline.
#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails the test")]

pub(crate) mod client;
pub(crate) mod haproxy;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod mounts;
pub(crate) mod nginx;
pub(crate) mod pair;
pub(crate) mod pebble;
pub(crate) mod podman;
pub(crate) mod process;
pub(crate) mod site;
pub(crate) mod world;

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long something may take that usually takes a moment, on a machine that is busy
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of this test's own, on a real disk, gone with the value
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().prefix("certkeep-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A loopback address that nothing else uses
///
/// Peers and certkeep listen on it. Connections leave from 127.0.0.1, so none of them can take a
/// port here between the moment that it is chosen and the moment that it is bound.
pub(crate) fn loopback() -> IpAddr {
    let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254)).into()
}

/// A port that is free at this address now, and that no other call gave
///
/// Below those that the kernel gives to clients: one of them could have it before it is bound.
pub(crate) fn free_port(address: IpAddr) -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let random = RandomState::new().build_hasher().finish().to_le_bytes();
        let port = 10_000 + u16::from_le_bytes([random[0], random[1]]) % 22_000;
        if TcpListener::bind((address, port)).is_ok() && GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// Look until there is something to see
///
/// # Panics
///
/// When there is nothing within this time, naming `what`.
#[track_caller]
pub(crate) fn wait_until<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What is at a path: its mode, whose it is, its inode, when it was last written, and what it holds
pub(crate) type Entry = (u32, (u32, u32), u64, i64, Vec<u8>);

/// Everything below a directory that is no directory, as it is to the last byte
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                folders.push(path);
                continue;
            }
            let content = match std::fs::read_link(&path) {
                Ok(text) => text.into_os_string().into_encoded_bytes(),
                Err(_) => std::fs::read(&path).unwrap(),
            };
            let owner = (metadata.uid(), metadata.gid());
            let written = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
            all.insert(path, (metadata.mode(), owner, metadata.ino(), written, content));
        }
    }
    all
}

/// Where a program is that the tests need
pub(crate) fn program(name: &str) -> PathBuf {
    let unpacked = ["pebble", "caddy"].map(|name| target().join(name).join("usr/bin"));
    let installed = ["/usr/bin", "/usr/sbin", "/bin", "/usr/lib/postgresql/15/bin"];
    (unpacked.into_iter().chain(installed.map(PathBuf::from)))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: run tests/peers"))
}

/// Cargo's target directory, where `tests/peers` leaves what it fetched
pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned()
}

/// Say something also where the test passes, whose captured output is not shown
pub(crate) fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
}

/// Text without its line breaks and indents
pub(crate) fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Write a file as it is
#[expect(clippy::disallowed_methods, reason = "no power fails in a test's own directory")]
pub(crate) fn write(path: impl AsRef<Path>, text: impl AsRef<[u8]>) {
    std::fs::write(path.as_ref(), text)
        .unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()));
}

/// Read a file whole
#[track_caller]
pub(crate) fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path.as_ref())
        .unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}
