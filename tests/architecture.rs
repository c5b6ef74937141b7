//! The rooms of the house, and what may be named in each; `ARCHITECTURE.md` draws the map.
//!
//! These tests read `src/` as text. Comments and test modules are left out.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

/// The pure rooms: what they decide, they decide from their arguments alone
const CORE: [&str; 14] = [
    "cert", "config", "event", "failure", "gate", "name", "pem", "plan", "record", "report",
    "secret", "text", "time", "token",
];

/// One room for each outside world; none knows another
const SHELL: [&str; 14] = [
    "acme",
    "challenge",
    "clock",
    "deploy",
    "dev_ca",
    "discover",
    "log",
    "probe",
    "signal",
    "store",
    "systemd",
    "watch",
    "alert",
    "serve",
];

/// What more than one room of the shell needs on the way to its world, and what knows none of them
const SHARED: [&str; 1] = ["resolver"];

/// Where the rooms are wired together
const WIRING: [&str; 4] = ["agent", "cli", "lib", "main"];

/// What a pure room names none of, each with a sample of what it would look like
const IMPURE: [&str; 22] = [
    "async ",
    ".await",
    "tokio",
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "OffsetDateTime::now",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "UnixStream",
    "reqwest",
    "instant_acme",
    "rustix",
    "hyper",
];

/// Crates that one room alone uses, so that replacing one is the work of one room
const ONE_ROOM: [(&str, &[&str]); 9] = [
    ("instant_acme", &["acme"]),
    ("reqwest", &["acme"]),
    ("serde_yaml", &["config"]),
    ("schemars", &["config"]),
    ("serde_path_to_error", &["config"]),
    ("axum", &["dev_ca"]),
    ("notify", &["watch"]),
    ("sd_notify", &["systemd"]),
    ("clap", &["cli", "main"]),
];

#[test]
fn every_room_is_on_the_map() {
    for file in source() {
        let room = file.room.as_str();
        let known = [&CORE[..], &SHELL, &SHARED, &WIRING].iter().any(|kind| kind.contains(&room));
        assert!(known, "{}: which kind of room is `{room}`?", file.path.display());
    }
}

#[test]
fn the_core_touches_nothing_outside() {
    for file in source().iter().filter(|file| CORE.contains(&file.room.as_str())) {
        for word in IMPURE {
            file.must_not_have(word, "the core has no input, no output, no clock and no waiting");
        }
    }
}

#[test]
fn the_core_knows_no_shell() {
    for file in source().iter().filter(|file| CORE.contains(&file.room.as_str())) {
        for room in SHELL.iter().chain(&SHARED).chain(&WIRING) {
            file.must_not_import(room, "the core is imported and imports nothing but the core");
        }
    }
}

#[test]
fn a_room_of_the_shell_knows_no_other() {
    let is_shell = |room: &str| SHELL.contains(&room) || SHARED.contains(&room);
    for file in source().iter().filter(|file| is_shell(&file.room)) {
        for room in SHELL.iter().chain(&WIRING).filter(|room| **room != file.room) {
            file.must_not_import(room, "rooms of the shell meet in the agent only");
        }
    }
}

#[test]
fn the_agent_knows_no_command_line() {
    for file in source().iter().filter(|file| file.room == "agent") {
        file.must_not_import("cli", "imports lead from the command line to the agent");
    }
}

#[test]
fn some_crates_belong_to_one_room() {
    for (name, rooms) in ONE_ROOM {
        for file in source().iter().filter(|file| !rooms.contains(&file.room.as_str())) {
            file.must_not_have(&format!("{name}::"), &format!("only {rooms:?} may use it"));
        }
    }
}

#[test]
fn a_module_with_children_is_a_file_beside_its_folder() {
    for file in source() {
        assert_ne!(file.path.file_name().unwrap(), "mod.rs", "{}", file.path.display());
    }
}

#[test]
fn the_rules_notice_what_they_forbid() {
    let file = |room: &str, text: &str| Source {
        path: PathBuf::from("src/sample.rs"),
        room: room.to_owned(),
        code: code(text),
    };
    let has = |text: &str, word: &str| file("plan", text).has(word).is_some();
    assert!(has("use std::fs::File;", "std::fs"));
    assert!(has("use std::{collections::BTreeMap, fs};", "std::fs"));
    assert!(has("use std::{\n    env,\n    fmt,\n};", "std::env"));
    assert!(!has("// std::fs is for others\n/// [`std::fs`]", "std::fs"));
    assert!(!has("#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n", "std::fs"));
    assert!(has("#[cfg(test)]\nmod tests;\nuse std::fs;\n", "std::fs"));
    let imports = |text: &str, room: &str| file("acme", text).imports(room).is_some();
    assert!(imports("use crate::store::Store;", "store"));
    assert!(imports("use crate::{cert::Leaf, store};", "store"));
    assert!(imports("    crate::store::open()", "store"));
    assert!(!imports("use crate::storehouse::Store;", "store"));
}

/// A file below `src/`
#[derive(Debug)]
struct Source {
    path: PathBuf,
    room: String,
    /// Its lines, without comments and test modules, groups of imports spelled out
    code: Vec<(usize, String)>,
}

impl Source {
    fn has(&self, word: &str) -> Option<&(usize, String)> {
        self.code.iter().find(|(_, line)| contains_word(line, word))
    }

    fn imports(&self, room: &str) -> Option<&(usize, String)> {
        ["crate", "certkeep"].iter().find_map(|root| self.has(&format!("{root}::{room}")))
    }

    #[track_caller]
    fn must_not_have(&self, word: &str, why: &str) {
        if let Some((number, line)) = self.has(word) {
            panic!("{}:{number}: {line}\nnames `{word}`: {why}", self.path.display());
        }
    }

    #[track_caller]
    fn must_not_import(&self, room: &str, why: &str) {
        if let Some((number, line)) = self.imports(room) {
            panic!("{}:{number}: {line}\nimports `{room}`: {why}", self.path.display());
        }
    }
}

/// Whether the word stands there, and not as a part of a longer name
fn contains_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part);
        let after = line[at + word.len()..].chars().next().is_some_and(part);
        let (first, last) = (word.chars().next().unwrap(), word.chars().next_back().unwrap());
        !(part(first) && before || part(last) && after)
    })
}

fn source() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let inside = path.strip_prefix(&root).unwrap();
                let first = inside.components().next().unwrap().as_os_str();
                let room = Path::new(first).file_stem().unwrap().to_str().unwrap().to_owned();
                let code = code(&std::fs::read_to_string(&path).unwrap());
                files.push(Source { path, room, code });
            }
        }
    }
    assert!(files.len() > 10, "{} holds too little to judge", root.display());
    files
}

/// The lines that are code and not a test; `use a::{b, c};` becomes `use a::b; use a::c;`
fn code(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open_use: Option<(usize, String)> = None;
    let mut all = text.lines().enumerate();
    while let Some((index, line)) = all.next() {
        if line.starts_with("#[cfg(test)]") {
            match all.next() {
                Some((_, block)) if block.ends_with('{') => break,
                _ => continue,
            }
        }
        let line = line.trim();
        if line.starts_with("//") {
            continue;
        }
        let begins_use = line.starts_with("use ") || line.starts_with("pub use ");
        if begins_use && open_use.is_none() {
            open_use = Some((index + 1, String::new()));
        }
        match &mut open_use {
            None => lines.push((index + 1, line.to_owned())),
            Some((number, statement)) => {
                statement.push_str(line);
                if line.ends_with(';') {
                    let paths = spell_out(statement.trim_end_matches(';'));
                    lines.extend(paths.into_iter().map(|path| (*number, path)));
                    open_use = None;
                }
            }
        }
    }
    lines
}

/// Every path of an import, braces resolved
fn spell_out(statement: &str) -> Vec<String> {
    let Some((head, rest)) = statement.split_once('{') else {
        return vec![statement.to_owned()];
    };
    let Some((inner, _)) = rest.rsplit_once('}') else {
        return vec![statement.to_owned()];
    };
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for c in inner.chars() {
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                parts.last_mut().unwrap().push(c);
            }
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(|part| spell_out(&format!("{head}{part}"))).collect()
}
