//! Small hints between runs: uploads that are open, repositories that hold a blob, how fast hosts were.
//!
//! Everything here may be lost, old or wrong: it only saves requests and bytes. A file that is broken, of another version
//! or too large counts as empty. The addresses of open uploads may carry signatures, so the files are their owner's alone.

mod file;
mod hosts;
mod mounts;
mod uploads;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use file::StateFile;
use mounts::Known;

pub use hosts::{Flow, HostRecord, HostRun};
pub use uploads::{OpenUpload, UploadKey};

/// Hints of former runs and of this one. What cannot be read or written is no error: there is a hint less.
pub struct State {
    uploads: Option<StateFile>,
    holders: Option<StateFile>,
    hosts: Option<StateFile>,
    /// What this process knows of repositories; read from the file when it is first asked.
    known: OnceLock<Mutex<Known>>,
    /// What is known of hosts; read when it is first asked.
    rates: OnceLock<Mutex<Vec<HostRecord>>>,
    /// The open uploads where no folder keeps them.
    open: Mutex<Vec<OpenUpload>>,
}

impl State {
    /// Hints that are kept in `folder`, which is made when there is something to keep; without one they end with the
    /// process. Reads nothing.
    pub fn new(folder: Option<PathBuf>) -> State {
        let file = |name: &str| folder.as_ref().map(|folder| StateFile::new(folder, name));
        State {
            uploads: file("uploads.json"),
            holders: file("mounts.json"),
            hosts: file("hosts.json"),
            known: OnceLock::new(),
            rates: OnceLock::new(),
            open: Mutex::default(),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
