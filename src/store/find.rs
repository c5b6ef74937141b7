//! Where on this host a certificate is that somebody serves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::dir::Dir;
use super::{CERTIFICATES, Store};
use crate::cert::Fingerprint;
use crate::config::Certificate;
use crate::pem;

impl Store {
    /// A file whose first certificate is this one
    ///
    /// Looked for beside the outputs of the certificate, in the state directory, and where other
    /// clients and servers keep theirs; at most some thousand files.
    pub fn find_file(&self, certificate: &Certificate, leaf: Fingerprint) -> Option<PathBuf> {
        let outputs = certificate.targets.iter().flat_map(|target| target.directories());
        let state = self.0.root.join(CERTIFICATES);
        let places = outputs.chain([state.as_path()]).chain(PLACES.iter().map(Path::new));
        let mut search = Search { leaf, left: MOST_FILES, been: BTreeSet::new() };
        places.into_iter().find_map(|place| search.below(place, DEPTH))
    }
}

struct Search {
    leaf: Fingerprint,
    /// How many entries may still be looked at
    left: usize,
    been: BTreeSet<(u64, u64)>,
}

impl Search {
    fn below(&mut self, path: &Path, depth: usize) -> Option<PathBuf> {
        let dir = Dir::find(path).ok()??;
        let stat = rustix::fs::fstat(dir.fd()).ok()?;
        if !self.been.insert((stat.st_dev, stat.st_ino)) {
            return None;
        }
        let mut folders = Vec::new();
        for name in dir.names().ok()? {
            self.left = self.left.checked_sub(1)?;
            let Ok(Some(stat)) = dir.stat(&name) else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => folders.push(name),
                FileType::RegularFile | FileType::Symlink => {
                    let found = dir.read_through_up_to(&name, LARGEST).ok().flatten();
                    if found.is_some_and(|(bytes, _)| self.holds(&bytes)) {
                        return Some(path.join(name));
                    }
                }
                _ => {}
            }
        }
        let deeper = depth.checked_sub(1)?;
        folders.into_iter().find_map(|name| self.below(&path.join(name), deeper))
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        let first = pem::certificates(bytes).ok().and_then(|all| all.into_iter().next());
        first.is_some_and(|der| Fingerprint::of(&der) == self.leaf)
    }
}

/// Where clients and servers keep certificates
const PLACES: [&str; 9] = [
    "/etc/letsencrypt/live",
    "/etc/ssl",
    "/etc/pki/tls",
    "/etc/nginx",
    "/etc/apache2",
    "/etc/haproxy",
    "/etc/postfix",
    "/etc/dovecot",
    "/var/lib/caddy",
];

const DEPTH: usize = 4;
const MOST_FILES: usize = 4000;

/// Bytes: chains are shorter
const LARGEST: usize = 64 << 10;
