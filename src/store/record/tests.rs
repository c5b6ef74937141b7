//! Records that are sound, corrupt and from elsewhere.

use super::*;
use crate::cert::Fingerprint;
use crate::config::KeyType;
use crate::name::{Identifier, IssuerName};
use crate::secret::Secret;
use crate::store::fixture::{self, Place, name, now};

fn order() -> OrderRecord {
    OrderRecord {
        version: VERSION,
        issuer: IssuerName::parse("ca").unwrap(),
        directory: "https://ca.test/dir".to_owned(),
        account: "https://ca.test/acct/1".to_owned(),
        url: "https://ca.test/order/1".to_owned(),
        identifiers: vec![Identifier::parse("a.test").unwrap()],
        key_type: KeyType::EcdsaP256,
        profile: None,
        refused_profile: None,
        key: Secret::new(fixture::pair("a.test").key),
        created_at: now(),
    }
}

fn account(key: &str) -> AccountRecord {
    AccountRecord {
        version: VERSION,
        directory: "https://ca.test:14000/dir".to_owned(),
        eab_key_id: Some("kid".to_owned()),
        url: Some("https://ca.test/acct/1".to_owned()),
        key: Secret::new(key.to_owned()),
        next_key: None,
        contact: vec!["mailto:ops@a.test".to_owned()],
        created_at: now(),
        deactivated_at: None,
    }
}

fn none(event: Event) {
    panic!("reported {event}");
}

#[test]
fn records_come_back_as_they_were() {
    let place = fixture::place();
    let store = place.store();
    let name = name("a.test");
    assert_eq!(store.attempts(&name, &mut none).unwrap(), no_attempts());
    assert_eq!(store.deploy(&name, &mut none).unwrap(), no_deploy());
    assert_eq!(store.order(&name, &mut none).unwrap(), None);
    let attempts = Attempts { failures: 3, not_before: Some(now()), ..no_attempts() };
    store.write_attempts(&name, &Attempts { version: 0, ..attempts.clone() }).unwrap();
    assert_eq!(store.attempts(&name, &mut none).unwrap(), attempts);
    let revoked = Attempts { revoked: [Fingerprint([7; 32])].into(), ..attempts };
    store.write_attempts(&name, &revoked).unwrap();
    assert_eq!(store.attempts(&name, &mut none).unwrap(), revoked);
    store.write_deploy(&name, &DeployRecord::default()).unwrap();
    assert_eq!(store.deploy(&name, &mut none).unwrap(), no_deploy());
    store.write_order(&name, &order()).unwrap();
    assert!(store.order(&name, &mut none).unwrap().is_some());
    let mut held =
        std::fs::File::open(place.path().join("state/certificates/a.test/order.json")).unwrap();
    store.remove_order(&name).unwrap();
    let mut left = Vec::new();
    std::io::Read::read_to_end(&mut held, &mut left).unwrap();
    assert!(!left.is_empty() && left.iter().all(|byte| *byte == 0), "its key is still there");
    store.remove_order(&name).unwrap();
    assert_eq!(store.order(&name, &mut none).unwrap(), None);
}

#[test]
fn an_account_belongs_to_its_directory_and_external_account() {
    let place = fixture::place();
    let store = place.store();
    let account = account(&fixture::pair("a.test").key);
    store.write_account(&account).unwrap();
    let read = |directory: &str, eab| store.account(directory, eab, &mut none).unwrap();
    assert_eq!(read(&account.directory, Some("kid")), Some(account.clone()));
    assert_eq!(read(&account.directory, None), None);
    assert_eq!(read("https://ca.test:14000/other", Some("kid")), None);
    let id = account_id(&account.directory, Some("kid"));
    assert!(id.starts_with("ca.test-") && id.len() == "ca.test-".len() + 8, "{id}");
    for hostile in ["https://[::1]:1/", "https://../../x", "", "https://a%2f..%2fb/"] {
        let id = account_id(hostile, None);
        assert!(!id.contains('/') && !id.starts_with('.'), "{hostile} {id}");
    }
}

/// Damage a record in each way, and say what happened when it was read
fn damaged(place: &Place, file: &str, text: &str) -> (Store, std::path::PathBuf) {
    let store = place.store();
    store.write_order(&name("a.test"), &order()).unwrap();
    let path = store.certificate_path(&name("a.test")).join(file);
    std::fs::write(&path, text).unwrap();
    (store, path)
}

const DAMAGE: [&str; 6] = ["", "{", "null", "[]", "\0\0\0\0", r#"{"version":"one"}"#];

#[test]
fn a_corrupt_record_is_set_aside_reported_and_absent() {
    for text in DAMAGE {
        for file in [ATTEMPTS, DEPLOY, ORDER] {
            let place = fixture::place();
            let (store, path) = damaged(&place, file, text);
            let mut events = Vec::new();
            let mut report = |event| events.push(event);
            let name = name("a.test");
            match file {
                ATTEMPTS => {
                    assert_eq!(store.attempts(&name, &mut report).unwrap(), no_attempts());
                }
                DEPLOY => assert_eq!(store.deploy(&name, &mut report).unwrap(), no_deploy()),
                _ => assert_eq!(store.order(&name, &mut report).unwrap(), None),
            }
            let [Event::Quarantined { path: reported, kept, .. }] = events.as_slice() else {
                panic!("{file} {text:?}: {events:?}");
            };
            assert_eq!(*reported, path);
            let kept_name = kept.file_name().unwrap().to_str().unwrap();
            assert!(kept_name.starts_with(&format!("{file}.corrupt-1")), "{kept_name}");
            assert_eq!(std::fs::read_to_string(kept).unwrap(), text);
            assert!(!path.exists());
        }
    }
}

#[test]
fn reading_only_changes_no_corrupt_record() {
    for text in DAMAGE {
        let place = fixture::place();
        let (_, path) = damaged(&place, ATTEMPTS, text);
        let store = Store::open_read_only(&place.config(&[]));
        let mut events = Vec::new();
        let read = store.attempts(&name("a.test"), &mut |event| events.push(event));
        assert_eq!(read.unwrap(), no_attempts());
        assert!(matches!(events.as_slice(), [Event::Warned { .. }]), "{text:?} {events:?}");
        assert_eq!(std::fs::read_to_string(path).unwrap(), text);
    }
}

#[test]
fn a_record_of_a_newer_certkeep_is_left_alone() {
    for text in [r#"{"version":2}"#, r#"{"version":99,"failures":{"other":"shape"}}"#] {
        let place = fixture::place();
        let (store, path) = damaged(&place, ATTEMPTS, text);
        let error = store.attempts(&name("a.test"), &mut none).unwrap_err();
        assert!(error.needs_operator() && error.to_string().contains("newer"), "{error}");
        assert_eq!(std::fs::read_to_string(path).unwrap(), text);
    }
}

#[test]
fn the_key_of_a_damaged_account_is_saved() {
    let place = fixture::place();
    let store = place.store();
    let key = fixture::pair("a.test").key;
    let sound = account(&key);
    store.write_account(&sound).unwrap();
    let id = account_id(&sound.directory, Some("kid"));
    let path = store.path().join(ACCOUNTS).join(id).join(ACCOUNT);
    let text = std::fs::read_to_string(&path).unwrap();
    for damage in [
        text.replace("\"version\": 1", "\"version\": null"),
        text[..text.len() / 2 + 200].to_owned(),
    ] {
        assert!(damage.contains("END PRIVATE KEY"), "{damage}");
        std::fs::write(&path, &damage).unwrap();
        let mut events = Vec::new();
        let mut report = |event| events.push(event);
        let saved = store.account(&sound.directory, Some("kid"), &mut report).unwrap().unwrap();
        assert_eq!((saved.key.expose(), &saved.url), (&key, &None));
        assert!(matches!(events.as_slice(), [Event::Quarantined { .. }]));
        let again = store.account(&sound.directory, Some("kid"), &mut none).unwrap();
        assert_eq!(again, Some(saved));
    }
    std::fs::write(&path, "{}").unwrap();
    let lost = store.account(&sound.directory, Some("kid"), &mut |_| {}).unwrap();
    assert_eq!(lost, None);
}
