//! The compiled binary as a user without privileges, among directories that hand their group on.
//!
//! Only root can set that up.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use support::pair::Pair;
use support::pebble::{Pebble, pebble};
use support::process::Daemon;
use support::site::{Invocation, Site};
use support::{PATIENCE, program, read, wait_until, write};

/// The user, and its own group
const USER: u32 = 4711;

/// The group of those who read keys
const READERS: u32 = 4712;

/// A CA, and a host on which the user has a state directory, and the readers' directory `TLS`
/// may be written by their group
fn host(certificates: &str) -> (Pebble, Site) {
    let ca = pebble().start();
    let site = Site::new(&ca);
    for folder in [site.path(), ca.ca_file().parent().unwrap()] {
        mode(folder, 0o755);
    }
    std::fs::create_dir(site.state()).unwrap();
    chown(site.state(), Some(USER), Some(USER)).unwrap();
    chown(site.tls(), None, Some(READERS)).unwrap();
    mode(&site.tls(), 0o2775);
    site.configure(certificates);
    (ca, site)
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn member(site: &Site, arguments: &[&str]) -> Invocation {
    site.certkeep_as(USER, &[READERS], arguments)
}

/// Who owns what a path leads to, and its mode
fn access(site: &Site, path: &str) -> (u32, u32, u32) {
    let metadata = std::fs::metadata(site.tls().join(path)).unwrap();
    (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
}

const THREE: &str = "site:
  names: [a.test]
  targets:
    - { name: dir, dir: { path: TLS/dir, mode: \"0640\" } }
    - name: links
      files:
        - { path: TLS/links.pem, content: fullchain }
        - { path: TLS/links.key, content: key, mode: \"0640\" }
    - name: copies
      copy: true
      files:
        - { path: TLS/copy.pem, content: combined, mode: \"0640\" }
        - { path: TLS/own.pem, content: combined, group: 4711 }";

#[test]
fn a_user_renews_into_directories_that_hand_their_group_on() {
    let (ca, site) = host(THREE);
    let checked = member(&site, &["check"]).succeeds();
    checked.keeps_quiet_about(&["error:"]);
    for arguments in [&["renew"][..], &["renew", "--force"], &["rollback", "site"]] {
        member(&site, arguments).succeeds();
        let readable = (USER, READERS, 0o640);
        for path in ["dir/privkey.pem", "dir/fullchain.pem", "links.key", "copy.pem"] {
            assert_eq!(access(&site, path), readable, "{path} after {arguments:?}");
        }
        assert_eq!(access(&site, "links.pem"), (USER, READERS, 0o644));
        assert_eq!(access(&site, "own.pem"), (USER, USER, 0o600));
        Pair::in_dir(&site.tls().join("dir")).assert_sound();
        let links = ["links.pem", "links.key"].map(|name| site.tls().join(name));
        let [fullchain, key] = links;
        Pair { fullchain, key }.assert_sound();
        member(&site, &["status"]).succeeds();
    }
    member(&site, &["deploy", "--test"]).succeeds();
    member(&site, &["verify-backup"]).succeeds();
    assert_eq!((ca.orders(), ca.issued()), (2, 2));
    // Nothing drifts, whoever looks.
    let before = ca.requests();
    member(&site, &["renew"]).succeeds().keeps_quiet_about(&["put right"]);
    assert_eq!((site.state_of("site"), ca.requests()), ("live".to_owned(), before));
}

#[test]
fn a_directory_that_certkeep_makes_hands_the_group_on_under_any_mask() {
    let (_ca, site) = host("site: { names: [a.test], dir: { path: TLS/site, mode: \"0640\" } }");
    for _ in 0..2 {
        member(&site, &["renew", "--force"]).masked().succeeds();
        assert_eq!(access(&site, "site"), (USER, READERS, 0o2755));
        assert_eq!(access(&site, "site/privkey.pem"), (USER, READERS, 0o640));
    }
    // Where the bit was lost, the files have the group still.
    mode(&site.tls().join("site"), 0o755);
    member(&site, &["renew", "--force"]).masked().succeeds();
    assert_eq!(access(&site, "site/privkey.pem"), (USER, READERS, 0o640));
}

#[test]
fn a_user_who_owns_the_directory_need_not_be_in_its_group() {
    let (_ca, site) = host("site: { names: [a.test], dir: { path: TLS/site, mode: \"0640\" } }");
    chown(site.tls(), Some(USER), None).unwrap();
    mode(&site.tls(), 0o2755);
    for _ in 0..2 {
        site.certkeep_as(USER, &[], &["renew", "--force"]).succeeds();
        assert_eq!(access(&site, "site/privkey.pem"), (USER, READERS, 0o640));
        site.certkeep_as(USER, &[], &["status"]).succeeds();
    }
}

#[test]
fn root_has_the_group_handed_on_too_and_everywhere_else_its_own() {
    let (_ca, site) = host(THREE);
    chown(site.state(), Some(0), Some(0)).unwrap();
    site.renew();
    assert_eq!(access(&site, "copy.pem"), (0, READERS, 0o640));
    assert_eq!(access(&site, "dir/privkey.pem"), (0, READERS, 0o640));
    mode(&site.tls(), 0o775);
    std::fs::remove_dir_all(site.tls().join("dir")).unwrap();
    site.certkeep(&["renew", "--force"]).succeeds();
    assert_eq!(access(&site, "copy.pem"), (0, 0, 0o640));
    assert_eq!(access(&site, "dir/privkey.pem"), (0, 0, 0o640));
}

#[test]
fn files_of_others_are_taken_over_and_come_back_as_near_as_can_be() {
    let (_ca, site) = host(THREE);
    let paths = ["links.pem", "links.key", "copy.pem", "own.pem"];
    let pair = Pair { fullchain: site.tls().join("links.pem"), key: site.tls().join("links.key") };
    pair.placeholder("a.test");
    for path in ["copy.pem", "own.pem"] {
        write(site.tls().join(path), read(&pair.fullchain) + &read(&pair.key));
    }
    for path in paths {
        chown(site.tls().join(path), Some(0), Some(READERS)).unwrap();
        mode(&site.tls().join(path), 0o640);
    }
    let before = paths.map(|path| read(site.tls().join(path)));
    member(&site, &["renew"]).succeeds();
    pair.assert_sound();
    assert_eq!(access(&site, "links.key"), (USER, READERS, 0o640));
    for target in ["links", "copies"] {
        let back = ["rollback", "site", "--to", "original", "--target", target];
        member(&site, &back).succeeds();
    }
    assert_eq!(paths.map(|path| read(site.tls().join(path))), before);
    for path in paths {
        assert_eq!(access(&site, path), (USER, READERS, 0o640), "{path}");
    }
}

#[test]
fn a_check_names_all_that_the_user_may_not_do() {
    let server = program("sleep");
    let folder = support::folder();
    let log = folder.path().join("log");
    let server = Daemon::start(std::process::Command::new(server).arg("1000000"), &log).unwrap();
    let (ca, site) = host("");
    let pid_file = site.path().join("server.pid");
    write(&pid_file, format!("{}\n", server.pid().as_raw_nonzero()));
    for (folder, owner) in [("closed", 0), ("strange", 4713)] {
        std::fs::create_dir(site.path().join(folder)).unwrap();
        mode(&site.path().join(folder), 0o755);
        chown(site.path().join(folder), Some(owner), None).unwrap();
    }
    write(site.tls().join("secret.key"), "a key of root's");
    mode(&site.tls().join("secret.key"), 0o600);
    symlink("/etc", site.path().join("link")).unwrap();
    let home = site.path().display();
    site.configure(&format!(
        "owner:
  names: [a.test]
  copy: true
  challenge: {{ http-01: {{ listen: \"[::]:80\" }} }}
  files: [{{ path: TLS/owner.pem, content: combined, owner: 33 }}]
group:
  names: [b.test]
  challenge: {{ http-01: {{ webroot: {home}/closed }} }}
  files: [{{ path: TLS/group.pem, content: combined, group: 4713 }}]
closed:
  names: [c.test]
  files: [{{ path: {home}/closed/c.pem, content: combined }}]
  deploy: {{ reload: {{ signal: {{ name: HUP, pid_file: {} }} }} }}
strange:
  names: [d.test]
  dir: {home}/strange/tls
  deploy: {{ reload: {{ systemd: nginx.service }} }}
secret:
  names: [e.test]
  files: [{{ path: TLS/secret.key, content: combined }}]",
        pid_file.display()
    ));
    let said = member(&site, &["check", "--offline"]).alone().exits(1);
    let pid = server.pid().as_raw_nonzero();
    said.says(&[
        "certificates.owner.challenge: not allowed to listen on [::]:80",
        "needs a file that belongs to 33:4712, which user 4711 cannot make",
        "certificates.group.challenge: cannot make a directory below",
        "needs a file that belongs to 4711:4713, which user 4711 cannot make",
        "error: certificates.closed: cannot write in",
        &format!("process {pid} belongs to user 0, and user 4711 may not signal it"),
        "belongs to user 4713, who could put anything in its place",
        match Path::new(POLKIT).exists() {
            true => "user 4711 may reload nginx.service only if a rule of polkit allows it",
            false => "user 4711 may not reload nginx.service: there is no polkit",
        },
        "error: certificates.secret: cannot read",
        "secret.key: Permission denied",
    ]);
    assert_eq!(said.stdout.matches("hint: ").count(), said.stdout.matches("error: ").count());
    // None of them costs an order.
    member(&site, &["renew"]).exits(1);
    assert_eq!(ca.orders(), 0);
}

const POLKIT: &str = "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service";

#[test]
fn a_check_names_a_state_directory_that_the_user_cannot_use() {
    let (_ca, site) = host(THREE);
    chown(site.state(), Some(0), Some(0)).unwrap();
    let said = member(&site, &["check", "--offline"]).exits(1);
    said.says(&["error: state_dir: ", "Permission denied"]);
    std::fs::remove_dir_all(site.state()).unwrap();
    let said = member(&site, &["check", "--offline"]).exits(1);
    said.says(&["error: state_dir: cannot create ", "Permission denied"]);
}

#[test]
fn a_port_that_is_held_is_a_finding_unless_it_is_held_for_us() {
    let (ca, site) = host(THREE);
    let server = TcpListener::bind(ca.http01()).unwrap();
    // Whose it is another user cannot see.
    let said = member(&site, &["check", "--offline"]).succeeds();
    said.says(&["info: certificates.site.challenge: port", "right if it is systemd's"]);
    let said = member(&site, &["renew"]).exits(1);
    said.says(&["a process that certkeep may not look at", "`systemctl list-sockets` tells"]);
    site.lose_state();
    let check = || site.certkeep(&["check", "--offline"]);
    check().exits(1).says(&["certificates.site.challenge: port", "is held by"]);
    drop(server);
    check().succeeds();
    let _certkeep = site.start(&["dev-ca", "--listen", &ca.http01().to_string()]);
    wait_until("it listens", PATIENCE, || TcpStream::connect(ca.http01()).ok());
    check().succeeds().keeps_quiet_about(&["challenge"]);
}
