//! Reading what the configuration names.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use tokio::task::spawn_blocking;

/// A regular file that is no longer than that
pub(super) async fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    spawn_blocking(move || {
        // Without NONBLOCK, a FIFO would hold us.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(open(&path, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        // Of its full size from the start: it may be a key, and a copy would be left behind.
        let size = usize::try_from(metadata.len().min(limit)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(size.saturating_add(1));
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::other(format!("it is longer than {limit} bytes")));
        }
        Ok(bytes)
    })
    .await
    .map_err(io::Error::other)?
}
