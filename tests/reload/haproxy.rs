//! HAProxy's runtime API.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use certkeep::cert::{Fingerprint, Leaf};
use certkeep::config::{Content, Reload, Socket};
use certkeep::failure::FailureClass;
use tempfile::TempDir;

use crate::support::client::Load;
use crate::support::haproxy::{Haproxy, haproxy};
use crate::support::pebble::pebble;
use crate::support::site::Site;
use crate::support::{folder, read, write};
use crate::{Deployed, LIMIT, reload, remedy};

/// Files as certkeep leaves them
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(folder())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file with key and certificate, of a certificate that is new each time
    fn combined(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        combine(&path);
        path
    }
}

fn combine(path: &Path) {
    let (key, leaf) = pair();
    write(path, key + &leaf);
}

fn pair() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    (key.serialize_pem(), leaf.self_signed(&key).unwrap().pem())
}

fn leaf(path: &Path) -> Fingerprint {
    Leaf::from_pem(read(path).as_bytes()).unwrap().fingerprint
}

fn over(socket: Socket, certificate: Option<&str>) -> Reload {
    Reload::Haproxy { socket, certificate: certificate.map(str::to_owned), timeout: LIMIT }
}

fn at(server: &Haproxy) -> Reload {
    over(Socket::Unix(server.socket()), None)
}

fn shop(path: &Path) -> Deployed {
    Deployed::new("shop", &[(path, Content::Combined)])
}

#[tokio::test]
async fn haproxy_serves_the_new_certificate_from_the_same_process() {
    let files = Files::new();
    let path = files.combined("site.pem");
    let server = haproxy(&[&path]).start();
    let (worker, old) = (server.worker(), server.serves(0));
    for socket in [Socket::Unix(server.socket()), Socket::Tcp(server.api())] {
        files.combined("site.pem");
        reload(&over(socket, None), &[&shop(&path)]).await.unwrap();
        assert_eq!(server.serves(0), leaf(&path));
    }
    assert_ne!(server.serves(0), old);
    assert_eq!(server.worker(), worker, "it was replaced");
    server.reload_by_hand();
    assert_eq!(server.serves(0), leaf(&path), "its next start agrees");
}

#[tokio::test]
async fn a_pair_of_files_becomes_one_certificate_under_the_name_that_haproxy_has() {
    let files = Files::new();
    let known = files.combined("known.pem");
    let server = haproxy(&[&known]).start();
    let (chain, key) = (files.path("fullchain.pem"), files.path("privkey.pem"));
    let (private, public) = pair();
    // An empty line would end what HAProxy is given.
    write(&chain, format!("\n{public}\n\r\n{public}\n"));
    write(&key, format!("{private}\n\n"));
    let deployed = [(&*chain, Content::Fullchain), (&*key, Content::Key)];
    let name = known.to_str().unwrap();
    let named = over(Socket::Unix(server.socket()), Some(name));
    reload(&named, &[&Deployed::new("shop", &deployed)]).await.unwrap();
    assert_eq!(server.serves(0), leaf(&chain));
    let shown = server.ask(&format!("show ssl cert {name}"));
    assert!(shown.contains("Chain Subject"), "the intermediates are lost: {shown}");
}

#[tokio::test]
async fn each_certificate_of_a_batch_is_exchanged() {
    let files = Files::new();
    let paths = ["a.pem", "b.pem", "c.pem"].map(|name| files.combined(name));
    let server = haproxy(&[&paths[0], &paths[1], &paths[2]]).start();
    for path in &paths[..2] {
        files.combined(path.file_name().unwrap().to_str().unwrap());
    }
    let kept = server.serves(2);
    reload(&at(&server), &[&shop(&paths[0]), &shop(&paths[1])]).await.unwrap();
    assert_eq!([0, 1].map(|site| server.serves(site)), [0, 1].map(|site| leaf(&paths[site])));
    assert_eq!(server.serves(2), kept);
}

/// It has one transaction at a time, whatever the certificates are called
#[test]
fn certificates_with_names_of_their_own_are_exchanged_one_after_the_other() {
    let files = Files::new();
    let names = ["a", "b", "c", "d"];
    let known = names.map(|name| files.combined(name));
    let paths: Vec<&Path> = known.iter().map(PathBuf::as_path).collect();
    let server = haproxy(&paths).start();
    let ca = pebble().start();
    let site = Site::new(&ca);
    let one = |(place, name): (usize, &&str)| {
        format!(
            "{name}:\n  names: [a.test]\n  files: [{{ path: TLS/{name}.pem, content: combined }}]\n  \
             deploy:\n    reload: {{ haproxy: {{ socket: {}, certificate: {} }} }}\n    \
             verify: [{{ endpoint: \"a.test:443\", connect: \"{}\", within: 10s }}]\n",
            server.socket().display(),
            known[place].display(),
            server.address(place)
        )
    };
    site.configure(&names.iter().enumerate().map(one).collect::<String>());
    let said = site.renew();
    said.keeps_quiet_about(&["is back at", "transaction"]);
    for (place, name) in names.iter().enumerate() {
        assert_eq!(server.serves(place), leaf(&site.tls().join(format!("{name}.pem"))));
    }
}

#[tokio::test]
async fn a_certificate_that_haproxy_does_not_have_is_named_with_those_that_it_has() {
    let files = Files::new();
    let (known, unknown) = (files.combined("known.pem"), files.combined("unknown.pem"));
    let server = haproxy(&[&known]).start();
    let failure = reload(&at(&server), &[&shop(&unknown)]).await.unwrap_err();
    let said = failure.to_string();
    assert!(said.contains(unknown.to_str().unwrap()), "{said}");
    assert!(said.contains(&format!("it has {}", known.display())), "{said}");
    assert!(remedy(&failure).contains("crt-list"), "{said}");
}

#[test]
fn a_certificate_that_haproxy_does_not_have_keeps_no_other_from_being_live() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    let names = ["a", "b", "c", "d"];
    let paths = names.map(|name| site.tls().join(format!("{name}.pem")));
    paths.iter().for_each(|path| combine(path));
    let server = haproxy(&[&paths[0], &paths[2], &paths[3]]).start();
    let one = |name: &str| {
        format!(
            "{name}:\n  names: [a.test]\n  files: [{{ path: TLS/{name}.pem, content: combined }}]\n  \
             deploy: {{ reload: {{ haproxy: {{ socket: {} }} }} }}\n",
            server.socket().display(),
        )
    };
    site.configure(&names.map(one).concat());
    let before = leaf(&paths[1]);
    let said = site.certkeep(&["renew"]).exits(1);
    said.says(&["HAProxy has no certificate", "b.pem", "one half is tried after the other"]);
    let states = names.map(|name| site.state_of(name));
    assert_eq!(states, ["live", "needs-operator", "live", "live"], "{said}");
    assert_eq!(leaf(&paths[1]), before, "{said}");
    for (place, path) in [(0, &paths[0]), (1, &paths[2]), (2, &paths[3])] {
        assert_eq!(server.serves(place), leaf(path));
    }
}

#[tokio::test]
async fn an_api_that_may_only_look_is_for_the_operator() {
    let files = Files::new();
    let path = files.combined("site.pem");
    let server = haproxy(&[&path]).for_operators().start();
    let failure = reload(&at(&server), &[&shop(&path)]).await.unwrap_err();
    assert!(remedy(&failure).contains("level admin"), "{failure}");
}

#[test]
fn an_api_that_may_only_look_is_not_asked_about_one_certificate_after_the_other() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    let names = ["a", "b", "c", "d"];
    let paths = names.map(|name| site.tls().join(format!("{name}.pem")));
    paths.iter().for_each(|path| combine(path));
    let paths = paths.each_ref().map(PathBuf::as_path);
    let server = haproxy(&paths).for_operators().start();
    let one = |name: &str| {
        format!(
            "{name}:\n  names: [a.test]\n  files: [{{ path: TLS/{name}.pem, content: combined }}]\n  \
             deploy: {{ reload: {{ haproxy: {{ socket: {} }} }} }}\n",
            server.socket().display(),
        )
    };
    site.configure(&names.map(one).concat());
    let before = paths.map(leaf);
    let said = site.certkeep(&["renew"]).exits(1);
    said.says(&["level admin"]).keeps_quiet_about(&["one half is tried"]);
    assert_eq!(paths.map(leaf), before, "{said}");
    assert_eq!(names.map(|name| site.state_of(name)), ["needs-operator"; 4], "{said}");
}

#[tokio::test]
async fn what_haproxy_refuses_leaves_the_old_certificate_and_no_transaction() {
    let files = Files::new();
    let path = files.combined("site.pem");
    let server = haproxy(&[&path]).start();
    let old = server.serves(0);
    write(&path, pair().0 + &pair().1);
    let failure = reload(&at(&server), &[&shop(&path)]).await.unwrap_err();
    assert!(failure.summary.as_str().contains("inconsistencies between private key"), "{failure}");
    assert_eq!(server.serves(0), old);
    assert!(!server.ask("show ssl cert").contains('*'), "a transaction is left open");
}

#[tokio::test]
async fn a_chain_that_is_too_long_for_haproxy_names_the_setting() {
    let files = Files::new();
    let path = files.combined("site.pem");
    let server = haproxy(&[&path]).start();
    let old = server.serves(0);
    write(&path, read(&path) + &pair().1.repeat(60));
    let failure = reload(&at(&server), &[&shop(&path)]).await.unwrap_err();
    assert!(failure.summary.as_str().contains("tune.bufsize"), "{failure}");
    assert_eq!(server.serves(0), old);
}

#[tokio::test]
async fn our_own_transaction_that_was_left_open_is_given_up_and_another_s_is_not() {
    let files = Files::new();
    let (one, two) = (files.combined("one.pem"), files.combined("two.pem"));
    let server = haproxy(&[&one, &two]).start();
    server.ask(&format!("set ssl cert {} <<\n{}", two.display(), read(&two)));
    files.combined("one.pem");
    let failure = reload(&at(&server), &[&shop(&one)]).await.unwrap_err();
    assert!(failure.summary.as_str().contains("ongoing transaction"), "{failure}");
    assert_eq!(failure.class, FailureClass::Retry);
    assert!(server.ask("show ssl cert").contains('*'), "it was not ours to give up");
    reload(&at(&server), &[&shop(&one), &shop(&two)]).await.unwrap();
    assert_eq!(server.serves(0), leaf(&one));
}

#[tokio::test]
async fn a_key_is_not_given_to_somebody_who_listens_in_its_place() {
    let files = Files::new();
    let path = files.combined("site.pem");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(files.0.path(), open).unwrap();
    let nobody = Command::new("chown").arg("65534").arg(&path).status().unwrap();
    assert!(nobody.success());
    let server = haproxy(&[&path]).run_by_nobody().start();
    let failure = reload(&at(&server), &[&shop(&path)]).await.unwrap_err();
    assert!(failure.summary.as_str().contains("user 65534"), "{failure}");
    assert!(remedy(&failure).contains("below /run"), "{failure}");
}

#[test]
fn renewals_by_the_runtime_api_fail_no_handshake_and_replace_no_process() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    let path = site.tls().join("shop.pem");
    combine(&path);
    let server = haproxy(&[&path]).start();
    let (worker, before) = (server.worker(), server.serves(0));
    site.configure(&format!(
        "shop:\n  names: [a.test]\n  files: [{{ path: TLS/shop.pem, content: combined }}]\n  \
         deploy:\n    check: {}\n    reload: {{ haproxy: {{ socket: {} }} }}\n    \
         verify: [{{ endpoint: \"a.test:443\", connect: \"{}\", within: 10s }}]\n",
        server.check(),
        server.socket().display(),
        server.address(0)
    ));
    site.certkeep(&["check", "--offline"]).succeeds();
    let load = Load::start(2, server.address(0), "a.test");
    let mut live = Instant::now();
    for _ in 0..3 {
        site.certkeep(&["renew", "--force"]).succeeds();
        live = Instant::now();
        assert_eq!(server.serves(0), leaf(&path));
    }
    crate::support::wait_until("the clients go on", LIMIT, || {
        (live.elapsed().as_millis() > 300).then_some(())
    });
    let seen = load.stop();
    assert!(seen.failures.is_empty(), "{} failed: {:?}", seen.failures.len(), seen.failures[0]);
    assert!(seen.leaves.iter().any(|(_, leaf)| *leaf == before));
    assert_eq!(seen.after(live), [leaf(&path)]);
    assert_eq!(server.worker(), worker, "it was replaced");
    assert_eq!(site.state_of("shop"), "live");
    server.reload_by_hand();
    assert_eq!(server.serves(0), leaf(&path), "its next start agrees");
}
