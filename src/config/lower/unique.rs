//! What only all certificates together can get wrong.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;

use crate::config::fault::{At, Faults};
use crate::config::{Certificate, Layout};
use crate::name::CertName;

/// No two outputs at one path, none where another needs a directory, none in the state directory
pub(super) fn outputs(
    certificates: &BTreeMap<CertName, Certificate>,
    state_dir: &Path,
    faults: &mut Faults,
) {
    let outputs = || certificates.values().flat_map(Placed::of);
    let mut owners: HashMap<&OsStr, &CertName> = HashMap::with_capacity(certificates.len() * 4);
    let mut clashes = Clashes { in_dirs: HashSet::new(), faults };
    for output in outputs() {
        if output.path.starts_with(state_dir) {
            let path = output.path.display();
            let message =
                format!("`{path}` is in the state directory, which certkeep keeps for itself");
            clashes.add(&output, message, "choose a path outside `state_dir`");
        }
        if let Some(owner) = owners.insert(output.path.as_os_str(), &output.certificate.name) {
            let message = format!("`{}` is an output of `{owner}` already", output.path.display());
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
    certificate: &'a Certificate,
    in_dir: bool,
    index: usize,
    path: &'a Path,
}

impl<'a> Placed<'a> {
    fn of(certificate: &'a Certificate) -> impl Iterator<Item = Self> {
        certificate.targets.iter().flat_map(move |target| {
            let in_dir = matches!(target.layout, Layout::Dir(_));
            let outputs = target.outputs.iter().enumerate();
            outputs.map(move |(index, output)| Self {
                certificate,
                in_dir,
                index,
                path: &output.path,
            })
        })
    }
}

struct Clashes<'a, 'f> {
    /// Certificates whose directory was refused: one path, one mistake, however many files
    in_dirs: HashSet<&'a CertName>,
    faults: &'f mut Faults,
}

impl<'a> Clashes<'a, '_> {
    fn add(&mut self, output: &Placed<'a>, message: String, remedy: &str) {
        let root = At::Root;
        let under = root.key("certificates");
        let name = &output.certificate.name;
        let at = under.key(name.as_str());
        if !output.in_dir {
            let files = at.key("files");
            let file = files.index(output.index);
            self.faults.value(&file.key("path"), message, remedy);
        } else if self.in_dirs.insert(name) {
            self.faults.value(&at.key("dir"), message, remedy);
        }
    }
}
