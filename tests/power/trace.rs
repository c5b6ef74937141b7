//! What strace saw of a process and its threads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A call that changed something, or made a change last
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Create { path: PathBuf, mode: u32 },
    Directory { path: PathBuf, mode: u32 },
    Link { from: PathBuf, to: PathBuf },
    Mode { path: PathBuf, mode: u32 },
    Rename { from: PathBuf, to: PathBuf },
    Symlink { text: PathBuf, path: PathBuf },
    Sync { path: PathBuf },
    Unlink { path: PathBuf },
    Write { path: PathBuf, bytes: Vec<u8> },
}

/// How strace has to be asked for what [`read`] reads
pub(crate) const STRACE: [&str; 9] = [
    "-f",
    "-qq",
    "-y",
    "-xx",
    "-s",
    "1000000",
    "-e",
    "trace=open,openat,write,writev,pwrite64,ftruncate,fchmod,fsync,fdatasync,rename,renameat,renameat2,\
     link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,truncate,fallocate",
    "-o",
];

/// Every call that ended well, in the order in which they ended
pub(crate) fn read(trace: &str) -> Vec<Call> {
    let mut begun = BTreeMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        // Another thread's line came in between.
        if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, first);
            continue;
        }
        let whole = match rest.strip_prefix("<... ") {
            Some(end) => {
                let end = end.split_once(" resumed>").unwrap().1;
                format!("{}{end}", begun.remove(thread).unwrap())
            }
            None => rest.to_owned(),
        };
        calls.extend(call(&whole));
    }
    calls
}

fn call(line: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let words: Vec<_> = arguments.split(", ").collect();
    let mode = |word: &str| u32::from_str_radix(word, 8).unwrap();
    Some(match (name, words.as_slice()) {
        ("openat", [at, name, flags, bits]) if flags.contains("O_CREAT") => {
            Call::Create { path: entry(at, name), mode: mode(bits) }
        }
        ("open", [_, flags, ..]) | ("openat", [_, _, flags, ..])
            if !flags.contains("O_TRUNC") && !flags.contains("O_CREAT") =>
        {
            return None;
        }
        ("write", [fd, bytes, _]) => {
            let file = place(fd);
            if !file.is_absolute() {
                return None;
            }
            Call::Write { path: file, bytes: text(bytes) }
        }
        ("fchmod", [fd, bits]) => Call::Mode { path: place(fd), mode: mode(bits) },
        ("fsync" | "fdatasync", [fd]) => Call::Sync { path: place(fd) },
        ("renameat" | "renameat2", [from, old, to, new, flags @ ..]) => {
            assert!(flags.iter().all(|flag| !flag.contains("EXCHANGE")), "{line}");
            Call::Rename { from: entry(from, old), to: entry(to, new) }
        }
        ("linkat", [from, old, to, new, _]) => {
            Call::Link { from: entry(from, old), to: entry(to, new) }
        }
        ("symlinkat", [content, at, name]) => {
            Call::Symlink { text: path(&text(content)), path: entry(at, name) }
        }
        ("unlinkat", [at, name, _]) => Call::Unlink { path: entry(at, name) },
        ("mkdirat", [at, name, bits]) => {
            Call::Directory { path: entry(at, name), mode: mode(bits) }
        }
        // Sockets and pipes are written to in parts.
        ("writev", [fd, ..]) if !place(fd).is_absolute() => return None,
        _ => panic!("the model does not know this call: {line}"),
    })
}

/// What `7</a/path>` says a descriptor leads to
fn place(fd: &str) -> PathBuf {
    let shown = fd.split_once('<').map_or("", |(_, rest)| rest.trim_end_matches('>'));
    path(&text(shown))
}

fn entry(at: &str, name: &str) -> PathBuf {
    place(at).join(path(&text(name)))
}

fn path(bytes: &[u8]) -> PathBuf {
    Path::new(std::str::from_utf8(bytes).unwrap()).to_owned()
}

/// The bytes of `"\x61\x62"`; of what is not written so, none
fn text(quoted: &str) -> Vec<u8> {
    assert!(!quoted.ends_with("..."), "cut off: {quoted}");
    let digits = quoted.trim_matches('"').split("\\x").skip(1);
    digits.map(|digits| u8::from_str_radix(&digits[..2], 16).unwrap()).collect()
}
