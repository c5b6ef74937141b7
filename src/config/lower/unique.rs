//! What only all certificates together can get wrong.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::config::fault::{At, Faults};
use crate::config::lower::files::Files;
use crate::config::{Layout, Reload, Socket, Target};

/// The outputs and the reload of one target of a certificate, whatever else is wrong with it
pub(super) struct Claim<'a> {
    /// The certificate, as the file calls it
    certificate: &'a str,
    /// Which of its `targets` it is, if it has such
    target: Option<usize>,
    dir: Option<PathBuf>,
    paths: Vec<PathBuf>,
    /// Unknown where something is wrong with the target
    reload: Option<Reload>,
}

impl<'a> Claim<'a> {
    pub(super) fn new(
        certificate: &'a str,
        target: Option<usize>,
        (layout, outputs): &Files,
    ) -> Self {
        let dir = match layout {
            Layout::Dir(path) => Some(path.clone()),
            Layout::Copy | Layout::Links => None,
        };
        let paths = outputs.iter().map(|output| output.path.clone()).collect();
        Self { certificate, target, dir, paths, reload: None }
    }

    pub(super) fn reloaded_as(self, target: Option<&Target>) -> Self {
        Self { reload: target.and_then(|target| target.reload.clone()), ..self }
    }

    /// With the place of the target in the file
    fn located<T>(&self, then: impl FnOnce(&At<'_>) -> T) -> T {
        let root = At::Root;
        let under = root.key("certificates");
        let certificate = under.key(self.certificate);
        let targets = certificate.key("targets");
        let target = self.target.map(|index| targets.index(index));
        then(target.as_ref().unwrap_or(&certificate))
    }

    fn outputs(&self) -> impl Iterator<Item = Placed<'_>> {
        let paths = self.paths.iter().enumerate();
        paths.map(move |(index, path)| Placed { claim: self, index, path })
    }
}

/// No two outputs at one path, none where another needs a directory, none in the state directory
pub(super) fn outputs(claims: &[Claim<'_>], state_dir: Option<&Path>, faults: &mut Faults) {
    let outputs = || claims.iter().flat_map(Claim::outputs);
    let mut owners: HashMap<&OsStr, &str> = HashMap::with_capacity(claims.len() * 4);
    let mut clashes = Clashes { in_dirs: HashSet::new(), faults };
    for output in outputs() {
        let path = output.path.display();
        if state_dir.is_some_and(|state_dir| is_within(output.path, state_dir)) {
            clashes.add(&output, format!("`{path}` {IN_STATE_DIR}"), OUTSIDE);
        }
        if let Some(owner) = owners.insert(output.path.as_os_str(), output.claim.certificate) {
            let message = format!("`{path}` is an output of `{owner}` already");
            clashes.add(&output, message, "give each output a path of its own");
        }
    }
    // One rename switches all of a directory, so it has one owner.
    let mut dirs: HashMap<&OsStr, &str> = HashMap::with_capacity(claims.len());
    for claim in claims {
        let (Some(dir), Some(path)) = (&claim.dir, claim.paths.first()) else { continue };
        if let Some(owner) = dirs.insert(dir.as_os_str(), claim.certificate) {
            let message = format!("`{}` is the directory of `{owner}` already", dir.display());
            let first = Placed { claim, index: 0, path };
            clashes.add(&first, message, "give each a directory of its own");
        }
    }
    let mut looked_up: (Option<&Path>, Option<(&Path, &str)>) = (None, None);
    for output in outputs() {
        // The files of a certificate are often in one directory.
        let parent = output.path.parent();
        if looked_up.0.map(Path::as_os_str) != parent.map(Path::as_os_str) {
            let above = parent.into_iter().flat_map(Path::ancestors);
            // As plain strings: comparing paths would take each apart again.
            let mut owned = above.filter_map(|p| owners.get(p.as_os_str()).map(|o| (p, *o)));
            looked_up = (parent, owned.next());
        }
        if let Some((above, owner)) = looked_up.1 {
            let (path, above) = (output.path.display(), above.display());
            let message = format!("`{path}` is below `{above}`, which is a file of `{owner}`");
            clashes.add(&output, message, "move one of the two");
        }
    }
}

/// No trigger where an output or the state is, which it would replace
pub(super) fn triggers(claims: &[Claim<'_>], state_dir: Option<&Path>, faults: &mut Faults) {
    let mut owners: HashMap<&OsStr, &str> = HashMap::with_capacity(claims.len() * 5);
    for claim in claims {
        let paths = claim.paths.iter().chain(&claim.dir);
        owners.extend(paths.map(|path| (path.as_os_str(), claim.certificate)));
    }
    for claim in claims {
        let Some(Reload::Trigger(trigger)) = &claim.reload else { continue };
        let path = trigger.display();
        let (message, remedy) = if state_dir.is_some_and(|dir| is_within(trigger, dir)) {
            (format!("`{path}` {IN_STATE_DIR}"), OUTSIDE)
        } else if let Some(owner) = owners.get(trigger.as_os_str()) {
            let message =
                format!("`{path}` is an output of `{owner}`, which the trigger would replace");
            (message, "give the trigger a path of its own")
        } else {
            continue;
        };
        claim.located(|at| {
            let deploy = at.key("deploy");
            let reload = deploy.key("reload");
            faults.value(&reload.key("trigger"), message, remedy)
        });
    }
}

/// As [`Path::starts_with`], of two paths in the form that `lower` gives them
fn is_within(path: &Path, directory: &Path) -> bool {
    let rest = path.as_os_str().as_bytes().strip_prefix(directory.as_os_str().as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// No two certificates under one name in one HAProxy, where the last would replace the others
pub(super) fn in_haproxy(claims: &[Claim<'_>], faults: &mut Faults) {
    let mut owners: HashMap<(&Socket, &str), &str> = HashMap::new();
    for claim in claims {
        let Some(Reload::Haproxy { socket, certificate: Some(known), .. }) = &claim.reload else {
            continue;
        };
        let owner = *owners.entry((socket, known)).or_insert(claim.certificate);
        if owner == claim.certificate {
            continue;
        }
        claim.located(|at| {
            let deploy = at.key("deploy");
            let reload = deploy.key("reload");
            let haproxy = reload.key("haproxy");
            let message = format!("`{known}` is the certificate of `{owner}` already");
            let remedy = "give each the name that HAProxy has for it, or leave the key out";
            faults.value(&haproxy.key("certificate"), message, remedy)
        });
    }
}

/// An output, and how it is found in the file
struct Placed<'a> {
    claim: &'a Claim<'a>,
    index: usize,
    path: &'a Path,
}

struct Clashes<'a, 'f> {
    /// Directories that were refused: one path, one mistake, however many files
    in_dirs: HashSet<(&'a str, Option<usize>)>,
    faults: &'f mut Faults,
}

impl<'a> Clashes<'a, '_> {
    fn add(&mut self, output: &Placed<'a>, message: String, remedy: &str) {
        output.claim.located(|at| {
            if output.claim.dir.is_none() {
                let files = at.key("files");
                let file = files.index(output.index);
                self.faults.value(&file.key("path"), message, remedy);
            } else if self.in_dirs.insert((output.claim.certificate, output.claim.target)) {
                self.faults.value(&at.key("dir"), message, remedy);
            }
        });
    }
}

const IN_STATE_DIR: &str = "is in the state directory, which certkeep keeps for itself";

const OUTSIDE: &str = "choose a path outside `state_dir`";
