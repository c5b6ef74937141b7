//! What certkeep is built from; `deny.toml` has the same rules for `cargo deny`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Crates that are not to be linked, with the reason
const BANNED: [(&str, &str); 8] = [
    ("ring", "one implementation of cryptography is enough, and that is aws-lc-rs"),
    ("openssl", "certkeep must not depend on the host's libraries"),
    ("openssl-sys", "certkeep must not depend on the host's libraries"),
    ("native-tls", "TLS is rustls"),
    ("rustls-pemfile", "unmaintained; rustls-pki-types reads PEM"),
    ("serde_yaml", "unmaintained; yaml_serde carries it on"),
    ("serde_yml", "unsound"),
    ("async-std", "unmaintained; the runtime is tokio"),
];

/// Licences under which a crate may be used, any one of those it offers
const LICENCES: [&str; 10] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "ISC",
    "BSD-3-Clause",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
];

#[test]
fn no_banned_crate_is_linked() {
    let packages = linked();
    for (banned, why) in BANNED {
        let found = packages.iter().find(|package| package["name"] == banned);
        assert!(found.is_none(), "{banned} is in the tree: {why}");
    }
}

#[test]
fn every_licence_is_on_the_list() {
    for package in linked() {
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(licence), "{}: {licence}", package["name"]);
    }
}

#[test]
fn every_crate_is_from_one_source() {
    let sources: BTreeSet<_> = linked()
        .iter()
        .filter(|package| package["name"] != env!("CARGO_PKG_NAME"))
        .map(|package| package["source"].to_string())
        .collect();
    assert_eq!(sources.len(), 1, "{sources:?}");
    assert!(sources.iter().all(|source| source.starts_with("\"registry+")), "{sources:?}");
}

#[test]
fn deny_toml_has_the_same_rules() {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    for (banned, _) in BANNED {
        assert!(text.contains(&format!("name = \"{banned}\"")), "{banned}");
    }
    for licence in LICENCES {
        assert!(text.contains(&format!("\"{licence}\"")), "{licence}");
    }
}

#[test]
fn a_choice_of_licences_needs_one_that_is_allowed() {
    for (expression, allowed) in [
        ("MIT OR Apache-2.0", true),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0", false),
        ("MIT AND GPL-3.0", false),
        ("Apache-2.0 AND (MIT OR GPL-3.0)", true),
        ("ISC AND (Apache-2.0 OR ISC)", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("none", false),
    ] {
        assert_eq!(is_allowed(expression), allowed, "{expression}");
    }
}

/// What the build for Linux resolves to, tests and build scripts included
///
/// `cargo metadata` knows licences and sources, but keeps optional dependencies that only a
/// weak feature (`ring?/std`) names; `cargo tree` knows what is built.
fn linked() -> Vec<Value> {
    let metadata = cargo(&["metadata", "--format-version=1"], "--filter-platform");
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let tree =
        cargo(&["tree", "--edges=normal,build,dev", "--prefix=none", "--format={p}"], "--target");
    let built: BTreeSet<_> = tree.lines().map(name_and_version).collect();
    let packages = metadata["packages"].as_array().unwrap().iter().filter(|package| {
        let text = |field: &str| package[field].as_str().unwrap();
        built.contains(&(text("name"), text("version")))
    });
    let packages: Vec<_> = packages.cloned().collect();
    assert!(packages.len() > 50, "too few packages to judge");
    packages
}

fn cargo(arguments: &[&str], platform: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--locked", "--offline", platform, "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Of a line such as `rustls v0.23.0 (*)`
fn name_and_version(line: &str) -> (&str, &str) {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    (name, words.next().unwrap_or_default().trim_start_matches('v'))
}

/// Whether the expression can be satisfied from the list
///
/// <https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/>
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let allowed = any(&mut rest);
    allowed && rest.is_empty()
}

fn any(words: &mut &[&str]) -> bool {
    let mut allowed = all(words);
    while let ["OR", rest @ ..] = words {
        *words = rest;
        allowed |= all(words);
    }
    allowed
}

fn all(words: &mut &[&str]) -> bool {
    let mut allowed = one(words);
    while let ["AND", rest @ ..] = words {
        *words = rest;
        allowed &= one(words);
    }
    allowed
}

fn one(words: &mut &[&str]) -> bool {
    match words {
        ["(", rest @ ..] => {
            *words = rest;
            let allowed = any(words);
            if let [")", rest @ ..] = words {
                *words = rest;
            }
            allowed
        }
        // An exception only ever permits more.
        [name, "WITH", _, rest @ ..] | [name, rest @ ..] => {
            *words = rest;
            LICENCES.contains(name)
        }
        [] => false,
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
