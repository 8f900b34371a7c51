//! One file of hints: read whole, changed under a lock, replaced atomically.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Files of other versions count as empty.
const VERSION: u32 = 1;
/// A larger file is not read.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// How long somebody else may hold the lock: for one change, which a busy disk may hold up. Then there is a hint less. It
/// is less than what a run has for saving after a signal.
const LOCK_TIME: Duration = Duration::from_millis(1500);
const LOCK_POLL: Duration = Duration::from_millis(1);

/// A file of hints.
pub(super) struct StateFile {
    folder: PathBuf,
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Content<T> {
    version: u32,
    entries: Vec<T>,
}

impl StateFile {
    pub(super) fn new(folder: &Path, name: &str) -> StateFile {
        StateFile { folder: folder.into(), path: folder.join(name) }
    }

    /// What it holds; nothing when it cannot be read.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Vec<T> {
        match self.try_read() {
            Ok(content) if content.version == VERSION => content.entries,
            Ok(_) => Vec::new(),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::debug!(path = %self.path.display(), %error, "hints are ignored");
                }
                Vec::new()
            }
        }
    }

    /// Changes what it holds now, which another process may have written since it was read here.
    pub(super) fn change<T: Serialize + DeserializeOwned>(&self, change: impl FnOnce(&mut Vec<T>)) {
        if let Err(error) = self.try_change(change) {
            tracing::debug!(path = %self.path.display(), %error, "a hint is lost");
        }
    }

    fn try_read<T: DeserializeOwned>(&self) -> io::Result<Content<T>> {
        let mut bytes = Vec::new();
        let got = File::open(&self.path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if got as u64 > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(serde_json::from_slice(&bytes)?)
    }

    fn try_change<T: Serialize + DeserializeOwned>(&self, change: impl FnOnce(&mut Vec<T>)) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let _lock = self.lock()?;
        let mut entries = self.read();
        change(&mut entries);
        let bytes = serde_json::to_vec(&Content { version: VERSION, entries })?;
        // Temporary files are their owner's alone from the beginning. Not synced: hints may be lost with the power.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&bytes)?;
        file.persist(&self.path)?;
        Ok(())
    }

    fn lock(&self) -> io::Result<File> {
        let path = self.path.with_extension("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::Error(e)) => return Err(e),
                Err(_) if began.elapsed() >= LOCK_TIME => return Err(io::ErrorKind::TimedOut.into()),
                Err(_) => thread::sleep(LOCK_POLL),
            }
        }
    }
}
