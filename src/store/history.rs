//! The history of events, in two files of bounded size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::Store;

/// `events.jsonl`, to which lines are added; when it is full it becomes `events.jsonl.1`
///
/// Several processes may add to it. Lines are not synced: a history is worth no wait.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    file: Option<File>,
}

impl Store {
    /// The history of this state directory
    pub fn history(&self) -> History {
        History { path: self.path().join("events.jsonl"), file: None }
    }
}

impl History {
    /// The file that has this name now, which another process may have changed
    fn current(&mut self) -> io::Result<&mut File> {
        let named = std::fs::symlink_metadata(&self.path).ok();
        let open = self.file.take().filter(|file| {
            let (ours, named) = (file.metadata().ok(), named.as_ref());
            ours.zip(named).is_some_and(|(a, b)| (a.dev(), a.ino()) == (b.dev(), b.ino()))
        });
        let full = named.is_some_and(|named| named.len() >= LIMIT);
        if full {
            std::fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
        }
        let file = match open.filter(|_| !full) {
            Some(file) => file,
            None => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
                .open(&self.path)?,
        };
        Ok(self.file.insert(file))
    }
}

impl Write for History {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.current()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Some twenty thousand events
const LIMIT: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture;

    #[test]
    fn a_full_history_makes_room_and_keeps_its_last_part() {
        let place = fixture::place();
        let store = place.store();
        let (mut ours, mut theirs) = (store.history(), store.history());
        let line = [vec![b'x'; 1 << 20], vec![b'\n']].concat();
        for _ in 0..6 {
            ours.write_all(&line).unwrap();
            theirs.write_all(b"{}\n").unwrap();
        }
        let size = |name: &str| std::fs::metadata(store.path().join(name)).unwrap();
        assert_eq!(size("events.jsonl.1").len(), 4 * (line.len() as u64) + 3 * 3);
        assert_eq!(size("events.jsonl").len(), 2 * (line.len() as u64) + 3 * 3);
        assert_eq!(size("events.jsonl").mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let place = fixture::place();
        let store = place.store();
        let elsewhere = store.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, store.path().join("events.jsonl")).unwrap();
        assert!(store.history().write_all(b"{}\n").is_err());
        assert!(!elsewhere.exists());
    }
}
