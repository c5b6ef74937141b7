//! After a crash: finish or undo what was under way, and sweep up what was unfinished.

use std::ffi::OsString;

use super::dir::{Dir, is_temporary};
use super::error::StoreError;
use super::install::common_owner;
use super::observe::in_shares;
use super::owner::Owners;
use super::walk::{self, Reached};
use super::{ACCOUNTS, GENERATIONS, OWN, PUBLISHED, Store, atomic, copy, generation};
use crate::config::{Certificate, Layout};
use crate::event::Event;
use crate::name::CertName;
use crate::text::External;

impl Store {
    /// Recover these certificates, and the state directory itself
    ///
    /// For a start under the exclusive lock; whoever shares it recovers one certificate at a
    /// time. What cannot be recovered is reported, and the others are.
    pub(super) fn recover(&self, certificates: &[&Certificate], report: &mut dyn FnMut(Event)) {
        let accounts = self.0.root.join(ACCOUNTS);
        let mut own = vec![self.0.root.clone(), self.0.root.join(PUBLISHED)];
        if let Ok(Some(dir)) = Dir::find(&accounts) {
            own.extend(dir.names().unwrap_or_default().iter().map(|name| accounts.join(name)));
        }
        for path in own {
            let swept = Dir::find(&path).and_then(|dir| dir.map_or(Ok(()), |dir| sweep(&dir, OWN)));
            if let Err(error) = swept {
                report(Event::Warned {
                    certificate: None,
                    message: External::new(error.to_string()),
                });
            }
        }
        let troubles = in_shares(certificates, |certificates| {
            let mut troubles = Vec::new();
            for certificate in certificates {
                let done = self.recover_one(certificate, &mut |event| troubles.push(event));
                troubles.extend(done.err().map(|error| trouble(certificate, &error)));
            }
            troubles
        });
        troubles.into_iter().flatten().for_each(report);
    }

    /// Finish or undo what a crash left of one certificate; the caller holds its lock
    ///
    /// What cannot be swept up is reported, and hinders nothing.
    ///
    /// # Errors
    /// When a journal cannot be played.
    pub fn recover_one(
        &self,
        certificate: &Certificate,
        report: &mut dyn FnMut(Event),
    ) -> Result<(), StoreError> {
        self.writable()?;
        // Without its directory nothing was ever begun.
        let Some(home) = self.certificate_dir(&certificate.name)? else { return Ok(()) };
        let names = home.names()?;
        for name in names.iter().filter(|name| copy::is_journal(name)) {
            copy::recover(&home, &name.to_string_lossy())?;
        }
        let mut note = |swept: Result<(), StoreError>| {
            if let Err(error) = swept {
                report(trouble(certificate, &error));
            }
        };
        note(sweep_home(&home, &names));
        let tag = self.tag(&certificate.name);
        let owners = Owners::default();
        for target in &certificate.targets {
            if let Layout::Links = target.layout {
                let deployed = Dir::find(&self.deployed_path(&certificate.name, &target.name));
                note(deployed.and_then(|found| match found {
                    Some(_) => {
                        let dir = self.ensure_deployed(&certificate.name, &target.name)?;
                        atomic::sweep(&dir, None, &tag)
                    }
                    None => Ok(()),
                }));
            }
            // What is refused here was never written to either.
            let Ok(placed) = self.place(certificate, target, &owners) else { continue };
            for directory in target.directories() {
                let owner = common_owner(&placed, directory);
                let is_atomic = matches!(target.layout, Layout::Dir(_));
                note(match walk::approach(directory, owner) {
                    Ok(Reached::Directory(dir)) if is_atomic => atomic::sweep(&dir, None, &tag),
                    Ok(Reached::Directory(dir)) => sweep(&dir, &tag),
                    Ok(Reached::Nothing { parent }) if is_atomic => parent.sweep_unborn(&tag),
                    Ok(Reached::Nothing { .. }) | Err(_) => Ok(()),
                });
            }
        }
        Ok(())
    }

    /// Take care that no switch of a certificate's files is halfway
    ///
    /// # Errors
    /// When a crash left one so, or when nobody can tell.
    pub fn refuse_halfway(&self, name: &CertName) -> Result<(), StoreError> {
        let Some(home) = self.certificate_dir(name)? else { return Ok(()) };
        match home.names()?.into_iter().find(copy::is_journal) {
            None => Ok(()),
            Some(journal) => Err(StoreError::refused(
                home.join(journal),
                "is what a switch of files left that was interrupted",
                format!("certkeep deploy {name} finishes or undoes it"),
            )),
        }
    }
}

fn trouble(certificate: &Certificate, error: &StoreError) -> Event {
    let message = External::new(error.to_string());
    Event::Warned { certificate: Some(certificate.name.clone()), message }
}

/// Sweep a certificate's own directory, of which these are the names
fn sweep_home(home: &Dir, names: &[OsString]) -> Result<(), StoreError> {
    for name in ours(home, names)? {
        home.discard(name)?;
    }
    if let Some(generations) = home.child(GENERATIONS)? {
        for name in ours(&generations, &generations.names()?)? {
            generation::discard(&generations, name)?;
        }
    }
    Ok(())
}

/// What may be overwritten: a power cut gives none of it the name back that it had before
fn ours<'a>(dir: &Dir, names: &'a [OsString]) -> Result<Vec<&'a OsString>, StoreError> {
    let ours: Vec<_> = names.iter().filter(|name| is_temporary(name, OWN)).collect();
    if !ours.is_empty() {
        dir.sync()?;
    }
    Ok(ours)
}

fn sweep(dir: &Dir, tag: &str) -> Result<(), StoreError> {
    for name in dir.names()? {
        if is_temporary(&name, tag) {
            dir.remove_tree(&name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "what a crash leaves is made by hand")]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;
    use crate::store::dir::{ourselves, temporary_name};
    use crate::store::fixture;

    #[test]
    fn what_was_unfinished_is_swept_and_nothing_of_others() {
        let place = fixture::place();
        let certificate = fixture::certificate(Layout::Links, &place.outputs());
        let config = place.config(std::slice::from_ref(&certificate));
        let store = Store::open(&config).unwrap();
        let generation = fixture::stage(&store);
        store.install(&certificate, &certificate.targets[0], &generation).unwrap();
        let home = store.certificate_path(&certificate.name);
        let deployed = store.deployed_path(&certificate.name, &certificate.targets[0].name);
        let tag = store.tag(&certificate.name);
        let file = |path: std::path::PathBuf| {
            std::fs::write(&path, "x").unwrap();
            path
        };
        let directory = |path: std::path::PathBuf| {
            std::fs::create_dir(&path).unwrap();
            file(path.join("key.pem"));
            path
        };
        let ours = [
            file(store.path().join(temporary_name(OWN))),
            file(home.join(temporary_name(OWN))),
            directory(home.join(GENERATIONS).join(temporary_name(OWN))),
            directory(deployed.join("..000009-0123456789abcdef")),
            file(deployed.join(temporary_name(&tag))),
            file(place.outputs().join(temporary_name(&tag))),
        ];
        let foreign = [
            file(place.outputs().join(temporary_name("00000000"))),
            file(place.outputs().join("notes.txt")),
            directory(deployed.join("..2026_11_23")),
        ];
        store.recover(&[&certificate], &mut |event| panic!("reported {event}"));
        for path in ours {
            assert!(!path.exists(), "{path:?}");
        }
        for path in foreign {
            assert!(path.exists(), "{path:?}");
        }
        let target = &certificate.targets[0];
        let reconciled = store.reconcile(&certificate, target, &generation).unwrap();
        assert_eq!(reconciled, crate::store::Reconciled::Nothing);
    }

    #[test]
    fn a_directory_that_somebody_else_gave_one_of_our_names_keeps_its_files() {
        if ourselves().0 != 0 {
            // Only root can give a directory away.
            return;
        }
        for which in 0..3 {
            for (owner, mode, is_emptied) in
                [(0, 0o755, true), (4711, 0o755, false), (0, 0o775, false)]
            {
                let place = fixture::place();
                let out = place.outputs();
                let layout = [Layout::Dir(out.clone()), Layout::Links, Layout::Copy][which].clone();
                let mut certificate = fixture::certificate(layout.clone(), &out);
                for output in &mut certificate.targets[0].outputs {
                    output.owner = Some(owner.to_string());
                }
                let store = place.store();
                let target = &certificate.targets[0];
                store.install(&certificate, target, &fixture::stage(&store)).unwrap();
                chown(&out, Some(owner), None).unwrap();
                std::fs::set_permissions(&out, Permissions::from_mode(mode)).unwrap();
                let tag = store.tag(&certificate.name);
                let names = [temporary_name(&tag), "..000001-0123456789abcdef".to_owned()];
                let backups = names.map(|name| out.join(name));
                for backup in &backups {
                    std::fs::create_dir(backup).unwrap();
                    // As in a copy of everything that certkeep wrote.
                    std::fs::write(backup.join("privkey.pem"), "of root").unwrap();
                }
                let case = format!("{layout:?} of {owner}, {mode:o}");
                store.recover_one(&certificate, &mut |event| panic!("{event}")).unwrap();
                store.install(&certificate, target, &fixture::stage(&store)).unwrap();
                let [temporary, content] = backups.map(|b| b.join("privkey.pem").exists());
                assert_eq!(temporary, !is_emptied, "{case}");
                let is_swept = is_emptied && matches!(layout, Layout::Dir(_));
                assert_eq!(content, !is_swept, "{case}");

                // What is certkeep's own goes, also there.
                for _ in 0..3 {
                    store.install(&certificate, target, &fixture::stage(&store)).unwrap();
                }
                store.recover_one(&certificate, &mut |event| panic!("{event}")).unwrap();
                let expected = match layout {
                    // The links, `..data`, and what it leads to.
                    Layout::Dir(_) => 4 + if is_emptied { 0 } else { 2 },
                    Layout::Links | Layout::Copy => 3 + usize::from(!is_emptied),
                };
                let left = std::fs::read_dir(&out).unwrap().count();
                assert_eq!(left, expected, "{case}");
            }
        }
    }
}
