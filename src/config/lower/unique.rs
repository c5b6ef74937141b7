//! What only all certificates together can get wrong.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::config::fault::{At, Faults};
use crate::config::{Layout, Output};

/// The outputs of one certificate, whatever else is wrong with it
pub(super) struct Claim<'a> {
    /// The certificate, as the file calls it
    certificate: &'a str,
    in_dir: bool,
    paths: Vec<PathBuf>,
}

impl<'a> Claim<'a> {
    pub(super) fn new(certificate: &'a str, layout: &Layout, outputs: &[Output]) -> Self {
        let in_dir = matches!(layout, Layout::Dir(_));
        let paths = outputs.iter().map(|output| output.path.clone()).collect();
        Self { certificate, in_dir, paths }
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
        if state_dir.is_some_and(|state_dir| output.path.starts_with(state_dir)) {
            let message =
                format!("`{path}` is in the state directory, which certkeep keeps for itself");
            clashes.add(&output, message, "choose a path outside `state_dir`");
        }
        if let Some(owner) = owners.insert(output.path.as_os_str(), output.claim.certificate) {
            let message = format!("`{path}` is an output of `{owner}` already");
            clashes.add(&output, message, "give each output a path of its own");
        }
    }
    for output in outputs() {
        // As plain strings: comparing paths would take each apart again.
        let above =
            output.path.ancestors().skip(1).find_map(|above| {
                owners.get(above.as_os_str()).map(|owner| (above.display(), owner))
            });
        if let Some((above, owner)) = above {
            let path = output.path.display();
            let message = format!("`{path}` is below `{above}`, which is a file of `{owner}`");
            clashes.add(&output, message, "move one of the two");
        }
    }
}

/// An output, and how it is found in the file
struct Placed<'a> {
    claim: &'a Claim<'a>,
    index: usize,
    path: &'a Path,
}

struct Clashes<'a, 'f> {
    /// Certificates whose directory was refused: one path, one mistake, however many files
    in_dirs: HashSet<&'a str>,
    faults: &'f mut Faults,
}

impl<'a> Clashes<'a, '_> {
    fn add(&mut self, output: &Placed<'a>, message: String, remedy: &str) {
        let root = At::Root;
        let under = root.key("certificates");
        let at = under.key(output.claim.certificate);
        if !output.claim.in_dir {
            let files = at.key("files");
            let file = files.index(output.index);
            self.faults.value(&file.key("path"), message, remedy);
        } else if self.in_dirs.insert(output.claim.certificate) {
            self.faults.value(&at.key("dir"), message, remedy);
        }
    }
}
