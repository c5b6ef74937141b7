//! What must not stand in any committed file.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Hosts of package registries and mirrors: which of them a machine uses is the machine's affair
///
/// In two halves each, because this file is committed too.
const REGISTRIES: [(&str, &str); 12] = [
    ("crates", ".io"),
    ("static.rust", "-lang.org"),
    ("py", "pi.org"),
    ("files.python", "hosted.org"),
    ("registry.npm", "js.org"),
    ("deb.deb", "ian.org"),
    ("security.deb", "ian.org"),
    ("snapshot.deb", "ian.org"),
    ("ftp.deb", "ian.org"),
    ("archive.ubu", "ntu.com"),
    ("proxy.go", "lang.org"),
    ("repo.maven", ".apache.org"),
];

/// Written by cargo, which names the source of every crate there
const EXEMPT: [&str; 1] = ["Cargo.lock"];

#[test]
fn no_committed_text_names_a_registry() {
    for path in committed() {
        if EXEMPT.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for (one, two) in REGISTRIES {
                let host = format!("{one}{two}");
                assert!(!line.contains(&host), "{}:{}: {host}", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn no_private_key_is_committed() {
    let begin = format!("-----BEGIN {}PRIVATE KEY-----", "");
    for path in committed() {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let real = text.split(&begin).skip(1).any(|after| after.trim_start().starts_with("MI"));
        assert!(!real, "{}", path.display());
    }
}

fn committed() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    let files: Vec<_> = names.split_terminator('\0').map(|name| root.join(name)).collect();
    assert!(files.len() > 10, "too few files to judge");
    files
}
