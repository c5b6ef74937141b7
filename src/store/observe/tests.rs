//! What is seen, and what is said about it.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::config::Layout;
use crate::store::fixture::{self, Place, now};

fn observe(store: &Store, certificate: &Certificate) -> Observed {
    store.observe_one(certificate, &mut |event| panic!("reported {event}"))
}

fn outputs(store: &Store, certificate: &Certificate) -> OutputState {
    observe(store, certificate).targets[&certificate.targets[0].name].outputs.clone()
}

fn installed(place: &Place, layout: Layout) -> (Store, Certificate) {
    let store = place.store();
    let certificate = fixture::certificate(layout, &place.outputs());
    let generation = fixture::stage(&store);
    store.install(&certificate, &certificate.targets[0], &generation).unwrap();
    (store, certificate)
}

#[test]
fn before_anything_happened_everything_is_missing() {
    let place = fixture::place();
    let certificate = fixture::certificate(Layout::Links, &place.path().join("nowhere"));
    let store = Store::open_read_only(&place.config(&[]));
    let observed = observe(&store, &certificate);
    assert_eq!(observed.held, None);
    assert_eq!(observed.attempts, no_attempts());
    let target = &observed.targets[&certificate.targets[0].name];
    assert_eq!(target.outputs, OutputState::Missing);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "something was written");
}

#[test]
fn what_is_installed_is_current_until_somebody_changes_it() {
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 7] = [
        ("mode", |path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
        }),
        ("content", |path| std::fs::write(path, "x").unwrap()),
        ("empty", |path| std::fs::write(path, "").unwrap()),
        ("gone", |path| std::fs::remove_file(path).unwrap()),
        ("directory", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir(path).unwrap();
        }),
        ("link", |path| {
            std::fs::rename(path, path.with_extension("x")).unwrap();
            symlink(path.with_extension("x"), path).unwrap();
        }),
        ("fifo", |path| {
            std::fs::remove_file(path).unwrap();
            let mode = Mode::RUSR | Mode::WUSR;
            fs::mknodat(fs::CWD, path, FileType::Fifo, mode, 0).unwrap();
        }),
    ];
    for layout in ["dir", "links", "copy"] {
        for (what, change) in changes {
            let place = fixture::place();
            let kind = match layout {
                "dir" => Layout::Dir(place.outputs()),
                "links" => Layout::Links,
                _ => Layout::Copy,
            };
            let (store, certificate) = installed(&place, kind);
            assert_eq!(outputs(&store, &certificate), OutputState::Current, "{layout}");
            let path = &certificate.targets[0].outputs[1].path;
            change(path);
            let state = outputs(&store, &certificate);
            assert!(
                matches!(&state, OutputState::Differs { path: p, .. } if p == path),
                "{layout} {what}: {state:?}"
            );
        }
    }
}

#[test]
fn a_damaged_generation_gives_way_to_the_one_before_and_is_named() {
    let place = fixture::place();
    let (store, certificate) = installed(&place, Layout::Links);
    let newest = fixture::stage(&store);
    let dir = store.certificate_path(&certificate.name).join(GENERATIONS);
    assert_eq!(observe(&store, &certificate).held.unwrap().meta, newest.meta);
    std::fs::write(dir.join("000002/key.pem"), "").unwrap();
    let observed = observe(&store, &certificate);
    assert_eq!(observed.held.unwrap().meta.number, 1);
    let damaged = observed.damaged.unwrap().to_string();
    assert!(damaged.contains("generation 2") && damaged.contains("key.pem"), "{damaged}");
    std::fs::remove_dir_all(dir.join("000001")).unwrap();
    assert_eq!(observe(&store, &certificate).held, None);
}

#[test]
fn outputs_are_compared_with_the_generation_that_is_installed_and_not_with_the_newest() {
    let place = fixture::place();
    let (store, certificate) = installed(&place, Layout::Copy);
    let target = certificate.targets[0].name.clone();
    fixture::stage(&store);
    let records = [
        (TargetRecord::default(), false),
        (TargetRecord { generation: 1, installed_at: Some(now()), ..Default::default() }, true),
        (TargetRecord { generation: 2, installed_at: Some(now()), ..Default::default() }, false),
        // Undone: the previous pair is back.
        (TargetRecord { generation: 2, previous: Some(1), ..Default::default() }, true),
        (TargetRecord { generation: 9, installed_at: Some(now()), ..Default::default() }, false),
    ];
    for (record, current) in records {
        let mut deploy = no_deploy();
        deploy.targets.insert(target.clone(), record.clone());
        store.write_deploy(&certificate.name, &deploy).unwrap();
        let state = outputs(&store, &certificate);
        assert_eq!(state == OutputState::Current, current, "{record:?}: {state:?}");
    }
}

#[test]
fn a_pair_in_the_outputs_is_found_and_can_be_adopted() {
    let place = fixture::place();
    let store = place.store();
    let certificate = fixture::certificate(Layout::Links, &place.outputs());
    let pair = fixture::pair("a.test");
    let [chain, key] = [0, 1].map(|i| certificate.targets[0].outputs[i].path.clone());
    std::fs::write(&chain, pair.chain.replace('\n', "\r\n")).unwrap();
    assert_eq!(observe(&store, &certificate).found, None);
    std::fs::write(&key, fixture::pair("a.test").key).unwrap();
    assert_eq!(observe(&store, &certificate).found, None, "foreign key");
    std::fs::write(&key, &pair.key).unwrap();
    let found = observe(&store, &certificate).found.unwrap();
    let adopted = store.adopt(&certificate, now()).unwrap().unwrap();
    assert_eq!((adopted.meta.origin, adopted.meta.number), (None, 1));
    assert_eq!(adopted.meta.fingerprint, found.fingerprint);
    let observed = observe(&store, &certificate);
    assert_eq!((observed.held.unwrap().leaf, observed.found), (*found, None));
}

#[test]
fn a_placeholder_that_signed_itself_is_not_found() {
    let place = fixture::place();
    let store = place.store();
    let certificate = fixture::certificate(Layout::Links, &place.outputs());
    let own = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let [chain, key] = [0, 1].map(|i| certificate.targets[0].outputs[i].path.clone());
    std::fs::write(&chain, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    assert_eq!(observe(&store, &certificate).found, None);
    assert_eq!(store.adopt(&certificate, now()).unwrap(), None);
}

#[test]
fn attempts_that_cannot_be_known_allow_none() {
    let place = fixture::place();
    let (store, certificate) = installed(&place, Layout::Links);
    for file in [ATTEMPTS, ORDER] {
        let path = store.certificate_path(&certificate.name).join(file);
        std::fs::write(&path, r#"{"version": 2}"#).unwrap();
        let observed = observe(&store, &certificate);
        assert_eq!(observed.attempts.not_before, Some(NEVER), "{file}");
        assert!(observed.held.is_some());
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn many_certificates_are_each_seen_once() {
    let place = fixture::place();
    let (_, template) = installed(&place, Layout::Links);
    let certificates: Vec<_> = (0..200)
        .map(|i| Certificate { name: fixture::name(&format!("c{i}")), ..template.clone() })
        .chain([template.clone()])
        .collect();
    let config = place.config(&certificates);
    let store = Store::open(&config).unwrap();
    let broken = store.ensure_certificate_dir(&fixture::name("c150")).unwrap();
    std::fs::write(broken.join(DEPLOY), "{").unwrap();
    let mut events = Vec::new();
    let snapshot = store.first_look(&config, now(), false, &mut |event| events.push(event)).0;
    assert_eq!(snapshot.certificates.len(), 201);
    assert!(snapshot.certificates[&template.name].held.is_some());
    assert!(matches!(events.as_slice(), [Event::Quarantined { .. }]), "{events:?}");
}

#[test]
fn a_generation_that_cannot_be_read_is_neither_replaced_nor_fallen_back_from() {
    let place = fixture::place();
    let (store, certificate) = installed(&place, Layout::Links);
    fixture::stage(&store);
    let meta = store.certificate_path(&certificate.name).join("generations/000002/meta.json");
    let text = std::fs::read_to_string(&meta).unwrap();
    std::fs::write(&meta, text.replace("\"version\": 1", "\"version\": 99")).unwrap();
    let observed = observe(&store, &certificate);
    assert_eq!((observed.held, observed.found), (None, None));
    assert!(observed.damaged.unwrap().as_str().contains("newer certkeep"));
    assert_eq!(observed.attempts.not_before, Some(NEVER));
}
