//! No secret appears in anything that certkeep says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::Path;

use support::pebble::pebble;
use support::site::Site;

const KEY_ID: &str = "kid-of-the-canary";
const MAC_KEY: &str = "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5LWNhbmFyeSE";
const PASSWORD: &str = "password-of-the-canary";
const OTHER_PASSWORD: &str = "other-password-of-the-canary";
const CREDENTIAL: &str = "credential-of-the-canary";
const HEADER: &str = "Bearer header-of-the-canary";

#[test]
fn no_secret_is_in_any_log_error_status_or_json() {
    let ca = pebble().binding_accounts(KEY_ID, MAC_KEY).start();
    ca.break_lookup("dead.test");
    let hmac = ca.ca_file().with_file_name("canary.hmac");
    support::write(&hmac, MAC_KEY);
    let eab = format!("eab: {{ key_id: {KEY_ID}, hmac_key_file: {} }}", hmac.display());
    let site = Site::with_issuer(&ca, &eab);
    let password = site.path().join("password");
    support::write(&password, PASSWORD);
    let (credentials, header) = (site.path().join("credentials"), site.path().join("header"));
    std::fs::create_dir(&credentials).unwrap();
    support::write(credentials.join("password"), CREDENTIAL);
    support::write(&header, HEADER);
    let closed = support::free_port(ca.ip());
    site.configure(&format!(
        "site: {{ names: [a.test], dir: TLS/site }}\n\
         dead: {{ names: [dead.test], dir: TLS/dead }}\n\
         sealed: {{ names: [b.test], files: [\
         {{ path: TLS/b.p12, format: pkcs12, password_file: {} }}, \
         {{ path: TLS/b.key, content: key, password_env: OTHER_PASSWORD }}, \
         {{ path: TLS/c.p12, format: pkcs12, password_credential: password }}] }}\n\
         told: {{ names: [c.test], dir: TLS/told, deploy: {{ reload: {{ http: {{ \
         url: \"http://{}:{closed}/\", header_files: {{ Authorization: {} }} }} }} }} }}",
        password.display(),
        ca.ip(),
        header.display()
    ));
    let mut said = Vec::new();
    for format in ["text", "journal", "json"] {
        let log = ["--log-format", format, "--log-level", "debug"];
        for command in COMMANDS {
            let invocation = site.certkeep(&[&log[..], command].concat());
            let invocation = invocation.env("OTHER_PASSWORD", OTHER_PASSWORD);
            let output = invocation.env("CREDENTIALS_DIRECTORY", text(&credentials)).run();
            said.push((format!("{format} {command:?}"), output.stdout));
            said.push((format!("{format} {command:?}"), output.stderr));
        }
    }
    each_file(&site.state(), &mut |path, text| {
        for password in [PASSWORD, OTHER_PASSWORD, CREDENTIAL] {
            assert!(!text.contains(password), "{} holds a password", path.display());
        }
    });
    assert!(site.tls().join("b.p12").exists() && site.tls().join("b.key").exists());
    assert!(site.tls().join("c.p12").exists());
    let mut secrets = [MAC_KEY, PASSWORD, OTHER_PASSWORD, CREDENTIAL].map(str::to_owned).to_vec();
    secrets.push(HEADER.trim_start_matches("Bearer ").to_owned());
    gather(&site.state(), &mut secrets);
    gather(&site.tls(), &mut secrets);
    assert!(secrets.len() > 6, "only {} secrets to look for", secrets.len());
    assert!(said.iter().any(|(_, text)| text.contains("a.test") || text.contains("site")));
    for (command, text) in said {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{command} shows a secret:\n{text}");
        }
    }
    let events = site.state().join("events.jsonl");
    if events.exists() {
        let text = support::read(events);
        assert!(!secrets.iter().any(|secret| text.contains(secret.as_str())), "{text}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn nobody_else_may_read_a_secret() {
    use std::os::unix::fs::PermissionsExt;
    let ca = pebble().start();
    let site = Site::new(&ca);
    site.configure_one(&["a.test"]);
    site.renew();
    let mut found = 0;
    each_file(&site.path().join("."), &mut |path, text| {
        if text.contains("PRIVATE KEY") {
            found += 1;
            let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{} has mode {mode:o}", path.display());
        }
    });
    assert!(found >= 3, "an account, a generation and an output hold keys; {found} seen");
}

/// Commands that handle a secret or report on what did
const COMMANDS: [&[&str]; 18] = [
    &["check"],
    &["renew"],
    &["renew", "--force"],
    &["deploy"],
    &["rollback", "site"],
    &["account", "rollover"],
    &["revoke", "site", "--reason", "superseded"],
    &["renew", "--rehearse"],
    &["plan"],
    &["status"],
    &["--json", "plan"],
    &["--json", "status"],
    &["deploy", "--test"],
    &["generations", "site"],
    &["--json", "generations", "site"],
    &["verify-backup"],
    &["account", "show"],
    &["--json", "account", "show"],
];

/// The lines of every private key below a directory
fn gather(folder: &Path, secrets: &mut Vec<String>) {
    each_file(folder, &mut |_, text| {
        // In a record the lines of a key are escaped.
        let text = text.replace("\\n", "\n");
        for key in text.split("PRIVATE KEY-----\n").skip(1).step_by(2) {
            // The first line of a key names its type and nothing more; the others are secret.
            let lines = key.lines().take_while(|line| !line.starts_with('-')).skip(1);
            secrets.extend(lines.filter(|line| line.len() > 20).map(ToOwned::to_owned));
        }
    });
}

fn each_file(folder: &Path, see: &mut impl FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each_file(&path, see);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            see(&path, &text);
        }
    }
}
