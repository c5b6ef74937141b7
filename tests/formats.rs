//! Outputs in every format, as OpenSSL and Java read them; and what files keep when replaced.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::pebble::pebble;
use support::program;
use support::site::Site;

const PASSWORD: &str = "correct horse battery";

/// A host with a password file and one certificate in every format
struct Host {
    site: Site,
    key: &'static str,
}

impl Host {
    fn new(site: Site, key: &'static str) -> Self {
        support::write(site.path().join("password"), format!("{PASSWORD}\n"));
        Self { site, key }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.tls().join(name)
    }

    fn password(&self) -> PathBuf {
        self.site.path().join("password")
    }

    /// Configure every format; `copy` is whether they are regular files
    fn configure(&self, copy: bool) {
        let password = self.password().display().to_string();
        self.configure_files(
            copy,
            &format!(
                "- {{ path: TLS/chain.pem, content: fullchain }}\n\
                 - {{ path: TLS/key.pem, content: key }}\n\
                 - {{ path: TLS/own.pem, content: [chain, cert, key] }}\n\
                 - {{ path: TLS/old.pem, content: [key, fullchain], key_format: traditional }}\n\
                 - {{ path: TLS/cert.der, content: cert, format: der }}\n\
                 - {{ path: TLS/key.der, content: key, format: der }}\n\
                 - {{ path: TLS/old.der, content: key, format: der, key_format: traditional }}\n\
                 - {{ path: TLS/sealed.pem, content: key, password_file: {password} }}\n\
                 - {{ path: TLS/sealed.der, content: key, format: der, password_file: {password} }}\n\
                 - {{ path: TLS/site.p12, format: pkcs12, password_file: {password} }}"
            ),
        );
    }

    fn configure_files(&self, copy: bool, files: &str) {
        let files: String = files.lines().map(|line| format!("  {line}\n")).collect();
        self.site.configure(&format!(
            "site:\n  names: [a.test]\n  key: {}\n  copy: {copy}\n  files:\n{files}",
            self.key
        ));
    }

    /// What OpenSSL says about the leaf in each file that has one
    fn leaves(&self) -> Vec<String> {
        let bundle = self.site.path().join("bundle.pem");
        let fingerprint = |arguments: &[&str], file: &Path| {
            let all = [&["x509", "-noout", "-fingerprint", "-sha256"], arguments].concat();
            openssl(&[&all[..], &["-in", text(file)]].concat())
        };
        support::write(&bundle, self.pkcs12(&["-clcerts", "-nokeys"]));
        vec![
            fingerprint(&[], &self.path("chain.pem")),
            fingerprint(&[], &self.path("old.pem")),
            fingerprint(&["-inform", "der"], &self.path("cert.der")),
            fingerprint(&[], &bundle),
        ]
    }

    /// What OpenSSL says about the public key of every key
    fn keys(&self) -> Vec<String> {
        let password = format!("file:{}", self.password().display());
        let public = |arguments: &[&str], file: &Path| {
            openssl(&[&["pkey", "-pubout"], arguments, &["-in", text(file)]].concat())
        };
        let bundle = self.site.path().join("bundle.key");
        support::write(&bundle, self.pkcs12(&["-nocerts", "-noenc"]));
        vec![
            openssl(&["x509", "-noout", "-pubkey", "-in", text(&self.path("chain.pem"))]),
            public(&[], &self.path("key.pem")),
            public(&[], &self.path("own.pem")),
            public(&[], &self.path("old.pem")),
            public(&["-inform", "der"], &self.path("key.der")),
            public(&["-inform", "der"], &self.path("old.der")),
            public(&["-passin", &password], &self.path("sealed.pem")),
            public(&["-inform", "der", "-passin", &password], &self.path("sealed.der")),
            public(&[], &bundle),
        ]
    }

    fn pkcs12(&self, arguments: &[&str]) -> String {
        let password = format!("file:{}", self.password().display());
        let file = self.path("site.p12");
        let fixed = ["pkcs12", "-in", text(&file), "-passin", &password];
        openssl(&[&fixed[..], arguments].concat())
    }

    #[track_caller]
    fn assert_all_of_one_generation(&self) {
        for same in [self.leaves(), self.keys()] {
            assert!(same.iter().all(|one| *one == same[0] && !one.is_empty()), "{same:#?}");
        }
    }

    fn generation(&self) -> u64 {
        self.site.status("site")["generation"].as_u64().unwrap()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn ran(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C.UTF-8").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(format!("{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr))),
    }
}

#[track_caller]
fn openssl(arguments: &[&str]) -> String {
    ran(&program("openssl"), arguments).unwrap()
}

fn keytool(arguments: &[&str]) -> Result<String, String> {
    ran(&program("keytool"), arguments)
}

#[test]
fn every_format_holds_the_same_pair_for_every_kind_of_key() {
    let ca = pebble().with_intermediates(2).start();
    for key in ["ecdsa-p256", "ecdsa-p384", "rsa-2048"] {
        let host = Host::new(Site::new(&ca), key);
        host.configure(key == "rsa-2048");
        host.site.renew();
        host.assert_all_of_one_generation();
        assert_eq!(host.site.state_of("site"), "live");

        let old = support::read(host.path("old.pem"));
        let label = if key == "rsa-2048" { "RSA PRIVATE KEY" } else { "EC PRIVATE KEY" };
        assert!(old.starts_with(&format!("-----BEGIN {label}-----")), "{old}");
        let sealed = support::read(host.path("sealed.pem"));
        assert!(sealed.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{sealed}");
        let own = support::read(host.path("own.pem"));
        let chain = support::read(host.path("chain.pem"));
        let end = chain.find("-----END CERTIFICATE-----\n").unwrap() + 26;
        let (leaf, rest) = chain.split_at(end);
        assert_eq!(own, format!("{rest}{leaf}{}", support::read(host.path("key.pem"))));
        for (name, mode) in [("cert.der", 0o644), ("site.p12", 0o600), ("sealed.pem", 0o600)] {
            let found = std::fs::metadata(host.path(name)).unwrap().mode() & 0o7777;
            assert_eq!(found, mode, "{name}");
        }
    }
}

#[test]
fn openssl_and_java_read_the_pkcs12_file_and_refuse_a_wrong_password() {
    let ca = pebble().with_intermediates(2).start();
    let host = Host::new(Site::new(&ca), "ecdsa-p256");
    host.configure(false);
    host.site.renew();
    let file = host.path("site.p12");
    let all = host.pkcs12(&["-noenc"]);
    assert_eq!(all.matches("friendlyName: site").count(), 2, "{all}");
    let certificates = all.matches("BEGIN CERTIFICATE").count();
    let wrong = ["pkcs12", "-in", text(&file), "-passin", "pass:wrong", "-noenc"];
    let refused = ran(&program("openssl"), &wrong).unwrap_err();
    assert!(refused.contains("invalid password"), "{refused}");
    let sealed = host.path("sealed.pem");
    let wrong = ["pkey", "-in", text(&sealed), "-passin", "pass:wrong"];
    assert!(ran(&program("openssl"), &wrong).is_err());

    let store = ["-keystore", text(&file), "-storepass"];
    let with = |password: &str, arguments: &[&str]| {
        keytool(&[arguments, &store[..], &[password]].concat())
    };
    let listed = with(PASSWORD, &["-list", "-v"]).unwrap();
    let length = format!("Certificate chain length: {certificates}");
    for words in ["Keystore type: PKCS12", "Alias name: site", "PrivateKeyEntry", &length] {
        assert!(listed.contains(words), "{words}? {listed}");
    }
    let leaf = with(PASSWORD, &["-exportcert", "-rfc", "-alias", "site"]).unwrap();
    let end = leaf.find("-----END").unwrap();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let chain = lines(&support::read(host.path("chain.pem")));
    let exported = lines(&leaf[..end]);
    assert_eq!(chain[..exported.len()], exported);
    // Java takes the key out with the password that opened the file.
    let request = with(PASSWORD, &["-certreq", "-alias", "site"]).unwrap();
    assert!(request.contains("BEGIN NEW CERTIFICATE REQUEST"), "{request}");
    let refused = with("wrong password", &["-list"]).unwrap_err();
    assert!(refused.contains("password was incorrect"), "{refused}");
}

#[test]
fn a_password_beyond_ascii_opens_the_file_too() {
    let ca = pebble().start();
    let host = Host::new(Site::new(&ca), "ecdsa-p256");
    support::write(host.password(), "pässwörd 🔑\r\n");
    host.configure(false);
    host.site.renew();
    // OpenSSL takes the carriage return for a part of the password.
    support::write(host.password(), "pässwörd 🔑\n");
    host.assert_all_of_one_generation();
}

#[test]
fn another_format_order_alias_or_password_is_put_right_without_an_order() {
    let ca = pebble().start();
    let host = Host::new(Site::new(&ca), "ecdsa-p256");
    let (one, two) = (host.password().display().to_string(), host.site.path().join("two"));
    support::write(&two, "another password");
    let file = host.path("out");
    let from = |more: &str| {
        host.configure_files(
            false,
            &format!("- {{ path: TLS/out, {more} }}\n- {{ path: TLS/all, content: combined }}"),
        );
    };
    from("content: fullchain");
    host.site.renew();
    let mut seen = vec![std::fs::read(&file).unwrap()];
    let forms = [
        "content: [cert, chain, key]".to_owned(),
        "content: [key, cert, chain]".to_owned(),
        "content: [key, cert, chain], key_format: traditional".to_owned(),
        "content: cert, format: der".to_owned(),
        format!("content: key, password_file: {one}"),
        format!("format: pkcs12, password_file: {one}"),
        format!("format: pkcs12, password_file: {one}, alias: other"),
        format!("format: pkcs12, alias: other, password_file: {}", two.display()),
    ];
    for form in forms {
        from(&form);
        host.site.renew();
        let bytes = std::fs::read(&file).unwrap();
        assert!(!seen.contains(&bytes), "{form}");
        seen.push(bytes);
    }
    support::write(&two, "yet another");
    host.site.renew();
    let bytes = std::fs::read(&file).unwrap();
    assert!(!seen.contains(&bytes), "the changed password");
    let inode = || std::fs::metadata(&file).unwrap().ino();
    let before = inode();
    host.site.renew().keeps_quiet_about(&["put right", "installed"]);
    assert_eq!(inode(), before);
    assert_eq!((ca.issued(), host.generation()), (1, 1));
    // Going back gives the very file that it was.
    support::write(&two, "another password");
    host.site.renew();
    assert_eq!(&std::fs::read(&file).unwrap(), seen.last().unwrap());
}

#[test]
fn a_damaged_encrypted_file_is_put_right() {
    let ca = pebble().start();
    let host = Host::new(Site::new(&ca), "ecdsa-p256");
    host.configure(true);
    host.site.renew();
    for name in ["site.p12", "sealed.pem", "key.der"] {
        let whole = std::fs::read(host.path(name)).unwrap();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        support::write(host.path(name), bytes);
        host.site.renew().says(&["put right", name]);
        assert_eq!(std::fs::read(host.path(name)).unwrap(), whole, "{name}");
    }
    assert_eq!(ca.issued(), 1);
}

#[test]
fn a_password_that_cannot_be_read_is_named_before_an_order() {
    let ca = pebble().start();
    let host = Host::new(Site::new(&ca), "ecdsa-p256");
    host.configure(false);
    let password = host.password();
    std::fs::remove_file(&password).unwrap();
    let named = ["sealed.pem", "cannot read the secret", text(&password)];
    host.site.certkeep(&["check", "--offline"]).exits(1).says(&named);
    host.site.certkeep(&["renew"]).exits(1).says(&named);
    host.site.certkeep(&["renew"]).exits(1);
    support::write(host.password(), "\n");
    host.site.certkeep(&["renew", "--force"]).exits(1).says(&["sealed.pem", "it is empty"]);
    assert_eq!((ca.orders(), host.site.state_of("site").as_str()), (0, "needs-operator"));

    support::write(host.password(), PASSWORD);
    host.site.certkeep(&["renew", "--force"]).succeeds();
    let before = host.leaves();
    let orders = ca.orders();
    std::fs::remove_file(host.password()).unwrap();
    // What is there is right, as far as anybody can see without the password.
    host.site.renew();
    assert_eq!(host.site.state_of("site"), "live");
    host.site.certkeep(&["renew", "--force"]).exits(1).says(&named);
    assert_eq!(ca.orders(), orders);
    support::write(host.password(), PASSWORD);
    assert_eq!(host.leaves(), before);
}

#[test]
fn the_password_may_be_in_a_variable_or_a_credential() {
    let ca = pebble().start();
    let host = Host::new(Site::new(&ca), "ecdsa-p256");
    let folder = host.site.path().join("credentials");
    std::fs::create_dir(&folder).unwrap();
    support::write(folder.join("p12"), PASSWORD);
    for source in ["password_env: P12_PASSWORD", "password_credential: p12"] {
        host.configure_files(
            false,
            &format!(
                "- {{ path: TLS/chain.pem, content: fullchain }}\n\
                 - {{ path: TLS/site.p12, format: pkcs12, alias: 'Für Java', {source} }}"
            ),
        );
        host.site
            .certkeep(&["renew", "--force"])
            .env("P12_PASSWORD", PASSWORD)
            .env("CREDENTIALS_DIRECTORY", text(&folder))
            .succeeds();
        let file = host.path("site.p12");
        let listed = ["-list", "-v", "-keystore", text(&file), "-storepass", PASSWORD];
        let listed = keytool(&listed).unwrap();
        assert!(listed.contains("Alias name: für java"), "{listed}");
        // Who looks from a shell has neither.
        assert_eq!(host.site.state_of("site"), "live", "{source}");
    }
}

#[test]
fn after_a_kill_at_any_step_every_format_holds_the_same_leaf() {
    const CHANGES: &str = "renameat,renameat2,symlinkat,unlinkat,mkdirat,linkat";
    let ca = pebble().start();
    for copy in [false, true] {
        let host = Host::new(Site::new(&ca), "ecdsa-p256");
        host.configure(copy);
        host.site.renew();
        host.site.certkeep(&["renew", "--force"]).succeeds();
        let leaf = |generation: &str| {
            host.site.certkeep(&["rollback", "site", "--to", generation]).succeeds();
            host.leaves()
        };
        let both = [leaf("1"), leaf("2")];
        let mut points = 0;
        for when in 1.. {
            let to = if when % 2 == 0 { "2" } else { "1" };
            let killed = format!("signal=KILL:when={when}");
            let back = ["rollback", "site", "--to", to];
            if under(&killed, CHANGES, &host.site, &back).status.success() {
                break;
            }
            points += 1;
            if !copy {
                assert!(both.contains(&host.leaves()), "killed at {when}: {:#?}", host.leaves());
            }
            host.site.certkeep(&["rollback", "site", "--to", to]).succeeds();
            host.assert_all_of_one_generation();
            assert!(both.contains(&host.leaves()), "after {when}");
        }
        assert!(points >= 8, "only {points} points, copy: {copy}");
    }
}

/// What a user and a path are to have in common: read, whatever the mask
#[track_caller]
fn assert_let_in(path: &Path) {
    let acl = ran(&program("getfacl"), &["-pE", text(path)]).unwrap();
    let effective = ran(&program("getfacl"), &["-pe", text(path)]).unwrap();
    assert!(acl.contains("user:nobody:r--"), "{acl}");
    assert!(effective.contains("#effective:r--"), "{effective}");
}

#[test]
fn a_user_let_in_by_an_acl_still_is_after_two_renewals() {
    let ca = pebble().start();
    for layout in ["links", "copy", "dir"] {
        let site = Site::new(&ca);
        let key = site.tls().join(if layout == "dir" { "site/privkey.pem" } else { "site.key" });
        let outputs = format!(
            "[{{ path: TLS/site.pem, content: fullchain }}, \
             {{ path: TLS/site.key, content: key, mode: \"0640\" }}], copy: {}",
            layout == "copy"
        );
        let outputs = match layout {
            "dir" => "dir: TLS/site".to_owned(),
            _ => format!("files: {outputs}"),
        };
        site.configure(&format!("site: {{ names: [a.test], {outputs} }}"));
        // Also before certkeep came, where there is a file that it replaces.
        if layout == "dir" {
            site.renew();
        } else {
            support::write(&key, "old");
            support::write(site.tls().join("site.pem"), "old");
        }
        ran(&program("setfacl"), &["-m", "u:nobody:r", text(&key)]).unwrap();
        for _ in 0..2 {
            site.certkeep(&["renew", "--force"]).succeeds();
            assert_let_in(&key);
        }
        assert_eq!(site.state_of("site"), "live", "{layout}");
        site.renew().keeps_quiet_about(&["put right"]);
        // The mode means owner, group and others, and is put right without the mask.
        ran(&program("setfacl"), &["-m", "o::r", text(&key)]).unwrap();
        site.renew().says(&["put right"]);
        assert_let_in(&key);
        let acl = ran(&program("getfacl"), &["-pE", text(&key)]).unwrap();
        assert!(acl.contains("other::---"), "{acl}");
    }
}

/// certkeep on a host, with this done to some system calls
fn under(inject: &str, calls: &str, site: &Site, arguments: &[&str]) -> std::process::Output {
    Command::new(program("strace"))
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
        .arg(format!("--inject={calls}:{inject}"))
        .arg(env!("CARGO_BIN_EXE_certkeep"))
        .arg("--config")
        .arg(site.config())
        .args(arguments)
        .output()
        .unwrap()
}

const LABEL: [&str; 5] =
    ["setfattr", "-n", "security.selinux", "-v", "system_u:object_r:cert_t:s0"];

fn attributes(path: &Path) -> String {
    ran(&program("getfattr"), &["--absolute-names", "-d", "-m", "-", text(path)]).unwrap()
}

#[test]
fn a_label_or_acl_that_cannot_be_set_leaves_the_old_files_in_place() {
    let ca = pebble().start();
    for copy in [false, true] {
        let site = Site::new(&ca);
        let (chain, key) = (site.tls().join("site.pem"), site.tls().join("site.key"));
        site.configure(&format!(
            "site: {{ names: [a.test], copy: {copy}, files: [\
             {{ path: TLS/site.pem, content: fullchain }}, \
             {{ path: TLS/site.key, content: key }}] }}"
        ));
        site.renew();
        site.certkeep(&["renew", "--force"]).succeeds();
        for (set, name) in [
            (["setfacl", "-m", "u:nobody:r"].as_slice(), "posix_acl_access"),
            (&LABEL, "security.selinux"),
        ] {
            ran(&program("setfacl"), &["-b", text(&key)]).unwrap();
            ran(&program(set[0]), &[&set[1..], &[text(&key)]].concat()).unwrap();
            let before = (support::read(&chain), support::read(&key));
            let orders = ca.orders();
            for command in [["rollback", "site"], ["renew", "--force"]] {
                let refused = under("error=EACCES", "fsetxattr", &site, &command);
                let said = String::from_utf8_lossy(&refused.stderr).into_owned();
                assert!(!refused.status.success() && said.contains("cannot set the "), "{said}");
                assert_eq!((support::read(&chain), support::read(&key)), before, "{name}");
            }
            assert_eq!(ca.orders(), orders, "{name}: an order in vain");
            for generation in ["1", "2"] {
                site.certkeep(&["rollback", "site", "--to", generation]).succeeds();
                assert!(attributes(&key).contains(name), "{name}: {}", attributes(&key));
            }
            assert_eq!((support::read(&chain), support::read(&key)), before, "{name}");
        }
    }
}

#[test]
fn a_label_that_means_nothing_keeps_no_user_from_renewing() {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        // Here every label means something.
        return;
    }
    let ca = pebble().start();
    let site = Site::new(&ca);
    site.configure_one(&["a.test"]);
    site.renew();
    site.certkeep(&["renew", "--force"]).succeeds();
    let key = site.pair().key;
    ran(&program(LABEL[0]), &[&LABEL[1..], &[text(&key)]].concat()).unwrap();
    let done = under("error=EPERM", "fsetxattr", &site, &["rollback", "site"]);
    assert!(done.status.success(), "{done:?}");
}
