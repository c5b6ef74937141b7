//! User and group names as numbers.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::dir::{Attributes, SETGID, ourselves};
use super::error::StoreError;
use crate::config::{Layout, Output};

/// Looks up users and groups, each name once
///
/// Made anew for each round, so that a changed `/etc/passwd` is seen.
#[derive(Debug)]
pub(super) struct Owners {
    /// Whose an output is that the configuration gives to nobody
    unnamed: (u32, u32),
    known: Mutex<BTreeMap<(Database, String), Option<u32>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Database {
    Passwd,
    Group,
}

impl Database {
    const fn name(self) -> &'static str {
        match self {
            Self::Passwd => "passwd",
            Self::Group => "group",
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Passwd => "/etc/passwd",
            Self::Group => "/etc/group",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Passwd => "user",
            Self::Group => "group",
        }
    }
}

impl Default for Owners {
    fn default() -> Self {
        Self::with_unnamed(ourselves())
    }
}

impl Owners {
    /// Give what the configuration gives to nobody to this user and group
    pub(super) fn with_unnamed(unnamed: (u32, u32)) -> Self {
        Self { unnamed, known: Mutex::default() }
    }

    /// The mode and ownership that an output is to have, with the group that its directory hands on
    ///
    /// # Errors
    /// When there is no such user or group.
    pub(super) fn attributes(
        &self,
        output: &Output,
        handed_on: Option<u32>,
    ) -> Result<Attributes, StoreError> {
        let (uid, gid) = self.unnamed;
        let id = |database, name: &Option<String>, default| match name {
            Some(name) => self.id(database, name).ok_or_else(|| {
                let what = database.what();
                StoreError::refused(
                    &output.path,
                    format!("is to belong to the {what} `{name}`, which does not exist"),
                    format!("create the {what}, or name another in the configuration"),
                )
            }),
            None => Ok(default),
        };
        Ok(Attributes {
            mode: output.mode & 0o7777,
            uid: id(Database::Passwd, &output.owner, uid)?,
            gid: id(Database::Group, &output.group, handed_on.unwrap_or(gid))?,
        })
    }

    fn id(&self, database: Database, name: &str) -> Option<u32> {
        if let Ok(number) = name.parse() {
            return Some(number);
        }
        let key = (database, name.to_owned());
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *known.entry(key).or_insert_with(|| in_file(database, name).or_else(|| ask(database, name)))
    }
}

/// The group that an output's directory hands on to what is made in it, if it does
///
/// A `dir:` that is yet to be made gets it from the directory that it goes into. One that we made
/// there has it still where a sandbox took the bit from it.
pub(super) fn handed_on(layout: &Layout, directory: &Path) -> Option<u32> {
    let look = |path: &Path| {
        let stat = rustix::fs::stat(path).ok()?;
        Some((stat.st_gid, stat.st_mode & SETGID != 0))
    };
    let group = |path: &Path| look(path).filter(|(_, hands_on)| *hands_on).map(|(gid, _)| gid);
    let here = look(directory);
    match (layout, here) {
        (_, Some((gid, true))) => Some(gid),
        (Layout::Dir(_), None) => group(directory.parent()?),
        (Layout::Dir(_), Some((gid, false))) => {
            group(directory.parent()?).filter(|theirs| *theirs == gid)
        }
        (Layout::Copy | Layout::Links, _) => None,
    }
}

fn in_file(database: Database, name: &str) -> Option<u32> {
    let text = std::fs::read(database.file()).ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| number(line, name))
}

/// The number in a line of passwd(5) or group(5), if it is about this name
fn number(line: &str, name: &str) -> Option<u32> {
    let mut fields = line.split(':');
    if fields.next()? != name {
        return None;
    }
    fields.nth(1)?.parse().ok()
}

/// Ask the system's other databases (LDAP, systemd-userdb)
fn ask(database: Database, name: &str) -> Option<u32> {
    if name.starts_with('-') {
        return None;
    }
    let mut child = Command::new("/usr/bin/getent")
        .args([database.name(), name])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // A group may have more members than a pipe has room for, and the number is before them.
    let mut pipe = child.stdout.take()?;
    let (send, received) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut begin = Vec::new();
        let read = (&mut pipe).take(LINE).read_to_end(&mut begin);
        // Nobody waits any more where this fails.
        drop(send.send(read.is_ok().then_some(begin)));
    });
    let begin = received.recv_timeout(PATIENCE).ok().flatten();
    // It may have ended by itself in between.
    drop(child.kill());
    drop(child.wait());
    let begin = begin?;
    number(String::from_utf8_lossy(&begin).lines().next()?, name)
}

/// How much of what `getent` says is read: the number comes third
const LINE: u64 = 4096;

/// How long `getent` may take
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Content, Format};

    fn output(owner: Option<&str>, group: Option<&str>) -> Output {
        Output {
            path: "/x".into(),
            content: vec![Content::Key],
            format: Format::default(),
            mode: 0o640,
            owner: owner.map(str::to_owned),
            group: group.map(str::to_owned),
        }
    }

    #[test]
    fn names_and_numbers_become_ids() {
        let owners = Owners::default();
        let (uid, gid) = ourselves();
        let cases = [
            (None, None, Some((uid, gid))),
            (Some("root"), Some("root"), Some((0, 0))),
            (Some("4711"), Some("0"), Some((4711, 0))),
            (Some("no-such-user"), None, None),
            (None, Some("-x"), None),
            (Some(""), None, None),
        ];
        for (owner, group, expected) in cases {
            let found = owners.attributes(&output(owner, group), None).map(|a| (a.uid, a.gid)).ok();
            assert_eq!(found, expected, "{owner:?} {group:?}");
        }
    }

    #[test]
    fn a_line_is_only_about_its_own_name() {
        assert_eq!(number("www-data:x:33:33:www-data:/var/www:/bin/sh", "www-data"), Some(33));
        assert_eq!(number("www-data:x:33:a", "www"), None);
        assert_eq!(number("www-data", "www-data"), None);
    }
}
