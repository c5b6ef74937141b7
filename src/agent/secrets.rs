//! Secrets, read from where the configuration says at each use.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::config::SecretSource;
use crate::failure::{Failure, Step};
use crate::secret::Secret;
use crate::store::Passwords;

/// Looks a variable of the environment up
pub type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Where secrets are read
#[derive(Clone)]
pub struct Secrets {
    variables: Variables,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// Read secrets with this environment
    pub fn new(variables: Variables) -> Self {
        Self { variables }
    }

    /// These secrets as the passwords of outputs
    pub fn passwords(&self) -> Passwords {
        let secrets = self.clone();
        Passwords::new(move |source| secrets.read(source))
    }

    /// Read one secret; a trailing line end is not part of it
    ///
    /// # Errors
    /// Names the source and what a human must do; never what was read.
    pub fn read(&self, source: &SecretSource) -> Result<Secret<String>, Failure> {
        let refuse =
            |what: String, remedy: &str| Failure::needs_operator(Step::Prepare, what, remedy);
        let path = match source {
            SecretSource::Environment(name) => {
                let value = (self.variables)(name).ok_or_else(|| {
                    refuse(format!("the environment has no `{name}`"), "set the variable")
                })?;
                return Ok(Secret::new(value.trim_end_matches(['\n', '\r']).to_owned()));
            }
            SecretSource::Credential(name) => {
                let directory = (self.variables)("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    refuse(
                        format!("there is no systemd credential `{name}`: CREDENTIALS_DIRECTORY is not set"),
                        "add LoadCredential= to the unit",
                    )
                })?;
                PathBuf::from(directory).join(name)
            }
            SecretSource::File(path) => path.clone(),
        };
        let text = read_whole(&path).map_err(|error| {
            refuse(
                format!("cannot read the secret {}: {error}", path.display()),
                "make the file readable for certkeep",
            )
        })?;
        let text = Secret::new(text);
        match std::str::from_utf8(text.expose()) {
            Ok(value) => Ok(Secret::new(value.trim_end_matches(['\n', '\r']).to_owned())),
            Err(_) => Err(refuse(
                format!("the secret {} is not text", path.display()),
                "put nothing but the secret there, as text",
            )),
        }
    }
}

/// What a regular file holds, of 1 MiB at most: a FIFO or a device would hold everything else up
pub(super) fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    let read = file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    match u64::try_from(read).is_ok_and(|read| read <= LARGEST) {
        true => Ok(bytes),
        false => Err(io::Error::other("it has more than 1 MiB")),
    }
}

/// The largest file that is read, in bytes
const LARGEST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for path in [&fifo, Path::new("/dev/zero"), folder.path()] {
            let error = read_whole(path).unwrap_err();
            assert_eq!(error.to_string(), "it is no regular file");
        }
        let large = folder.path().join("large");
        File::create(&large).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(read_whole(&large).is_err());
    }
}
