//! The peers and the tests' own instruments, without certkeep: an instrument that cannot show a
//! failure proves nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::client::Load;
use support::host::{PASSWORD, invariants};
use support::nginx::nginx;
use support::pair::Pair;
use support::pebble::pebble;
use support::{PATIENCE, folder, program, wait_until, write};

fn placeholders(folder: &Path, name: &str) -> Pair {
    std::fs::create_dir_all(folder).unwrap();
    let pair = Pair::in_dir(folder);
    pair.placeholder(name);
    pair
}

#[test]
fn pebble_starts_and_forgets_everything_when_restarted() {
    let mut ca = pebble().with_intermediates(3).start();
    let before = ca.root();
    assert!(ca.requests().is_empty(), "{:?}", ca.requests());
    ca.restart();
    assert_ne!(before, ca.root());
    assert_eq!((ca.requests().len(), ca.orders(), ca.issued()), (0, 0, 0));
}

#[test]
fn two_pebbles_do_not_disturb_each_other() {
    let (one, other) = (pebble().start(), pebble().start());
    assert_ne!(one.directory(), other.directory());
    assert_ne!(one.root(), other.root());
}

#[test]
fn a_reload_under_load_fails_no_handshake_and_is_seen() {
    let folder = folder();
    let pair = placeholders(folder.path(), "a.test");
    let server = nginx(&pair.fullchain, &pair.key).start();
    let old = pair.leaf().fingerprint;
    assert_eq!(server.serves(), old);
    let load = Load::start(2, server.address(), "a.test");
    pair.placeholder("a.test");
    let new = pair.leaf().fingerprint;
    server.reload_by_hand();
    wait_until("nginx serves the new leaf", PATIENCE, || (server.serves() == new).then_some(()));
    let switched = Instant::now();
    wait_until("the clients go on", PATIENCE, || {
        (switched.elapsed().as_millis() > 300).then_some(())
    });
    let seen = load.stop();
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    assert!(seen.leaves.iter().any(|(_, leaf)| *leaf == old));
    assert!(seen.after(switched).contains(&new));
}

#[test]
fn the_clients_notice_a_server_that_is_gone() {
    let folder = folder();
    let pair = placeholders(folder.path(), "a.test");
    let server = nginx(&pair.fullchain, &pair.key).start();
    let load = Load::start(1, server.address(), "a.test");
    drop(server);
    wait_until("time passes", PATIENCE, {
        let begun = Instant::now();
        move || (begun.elapsed().as_millis() > 200).then_some(())
    });
    assert!(!load.stop().failures.is_empty());
}

#[test]
fn nginx_does_not_load_what_is_broken() {
    let folder = folder();
    let pair = placeholders(folder.path(), "a.test");
    let server = nginx(&pair.fullchain, &pair.key).start();
    server.break_settings();
    server.reload_by_hand();
    wait_until("nginx refuses", PATIENCE, || {
        server.error_log().contains("this_is_no_directive").then_some(())
    });
    server.repair_settings();
    pair.assert_sound();
}

#[test]
#[should_panic(expected = "do not match")]
fn openssl_notices_a_key_of_another_certificate() {
    let folder = folder();
    let pair = placeholders(&folder.path().join("one"), "a.test");
    let other = placeholders(&folder.path().join("other"), "a.test");
    Pair { key: other.key, ..pair }.assert_sound();
}

/// Every kind of content that the checker knows
const CONTENTS: [&str; 6] = ["fullchain", "key", "combined", "der-cert", "der-key", "pkcs12"];

/// An authority of a root and an intermediate, and what it issued to a target
struct Issued {
    folder: tempfile::TempDir,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl Issued {
    fn new() -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            (params, KeyPair::generate().unwrap())
        };
        let folder = folder();
        let (params, key) = authority("root");
        let root = CertifiedIssuer::self_signed(params, key).unwrap();
        write(folder.path().join("root.pem"), root.pem());
        let (params, key) = authority("intermediate");
        let intermediate = CertifiedIssuer::signed_by(params, key, &root).unwrap();
        let issued = Self { folder, intermediate };
        issued.lay_down(&KeyPair::generate().unwrap());
        issued
    }

    fn lay_down(&self, key: &KeyPair) {
        let leaf = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let leaf = leaf.signed_by(key, &self.intermediate).unwrap();
        let chain = leaf.pem() + &self.intermediate.pem();
        write(self.path("fullchain"), &chain);
        write(self.path("key"), key.serialize_pem());
        write(self.path("combined"), key.serialize_pem() + &chain);
        for content in ["key", "combined"] {
            self.close(content, 0o600);
        }
        let password = format!("pass:{PASSWORD}");
        let [fullchain, key] = ["fullchain", "key"].map(|content| self.path(content));
        for (content, words) in [
            ("der-cert", &["x509", "-outform", "DER", "-in"][..]),
            ("der-key", &["pkey", "-outform", "DER", "-in"]),
            ("pkcs12", &["pkcs12", "-export", "-passout", &password, "-inkey"]),
        ] {
            let mut openssl = Command::new(program("openssl"));
            openssl.args(words);
            match content {
                "der-cert" => openssl.arg(&fullchain),
                "der-key" => openssl.arg(&key),
                _ => openssl.arg(&key).arg("-in").arg(&fullchain),
            };
            let status = openssl.arg("-out").arg(self.path(content)).status().unwrap();
            assert!(status.success(), "{content}");
            self.close(content, 0o600);
        }
    }

    fn path(&self, content: &str) -> PathBuf {
        self.folder.path().join(content)
    }

    fn close(&self, content: &str, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.path(content), mode).unwrap();
    }

    fn judged(&self, journal: &Path) -> Result<(), String> {
        let outputs = CONTENTS.map(|content| (content, self.path(content)));
        invariants(&self.path("root.pem"), journal, &outputs)
    }

    #[track_caller]
    fn is_refused(&self, expected: &str) {
        let judged = self.judged(Path::new(""));
        assert!(judged.as_ref().is_err_and(|said| said.contains(expected)), "{judged:?}");
    }
}

#[test]
fn the_invariant_checker_notices_a_mixed_pair() {
    let issued = Issued::new();
    assert_eq!(issued.judged(Path::new("")), Ok(()));
    for content in CONTENTS {
        let old = std::fs::read(issued.path(content)).unwrap();
        issued.lay_down(&KeyPair::generate().unwrap());
        write(issued.path(content), old);
        issued.is_refused("is of another certificate");
        let journal = issued.path("root.pem");
        assert_eq!(issued.judged(&journal), Ok(()), "a journal excuses it");
        issued.lay_down(&KeyPair::generate().unwrap());
    }
    let key = KeyPair::generate().unwrap();
    issued.lay_down(&key);
    for content in ["combined", "der-cert", "pkcs12"] {
        let old = std::fs::read(issued.path(content)).unwrap();
        issued.lay_down(&key);
        write(issued.path(content), old);
        issued.is_refused("has another leaf");
        issued.lay_down(&key);
    }
}

#[test]
fn the_invariant_checker_notices_a_file_that_is_not_whole() {
    for content in CONTENTS {
        let issued = Issued::new();
        let whole = std::fs::read(issued.path(content)).unwrap();
        let mut cuts = vec![0, whole.len() / 2, whole.len() - 27];
        // After a whole certificate.
        if let Some(at) = String::from_utf8_lossy(&whole).find("-----END CERT") {
            cuts.push(at + "-----END CERTIFICATE-----".len());
        }
        for cut in cuts {
            write(issued.path(content), &whole[..cut]);
            let journal = issued.path("root.pem");
            assert!(issued.judged(&journal).is_err(), "{cut} bytes of {content}");
        }
        std::fs::remove_file(issued.path(content)).unwrap();
        issued.is_refused("gives no file");
    }
}

#[test]
fn the_invariant_checker_notices_a_key_that_others_can_read() {
    for content in ["key", "combined", "der-key", "pkcs12"] {
        for mode in [0o640, 0o604, 0o602] {
            let issued = Issued::new();
            issued.close(content, mode);
            issued.is_refused("is open to others");
        }
    }
}

#[test]
fn the_invariant_checker_notices_a_chain_to_nowhere() {
    let (issued, other) = (Issued::new(), Issued::new());
    std::fs::copy(other.path("root.pem"), issued.path("root.pem")).unwrap();
    issued.is_refused("holds no chain to the root");
}
