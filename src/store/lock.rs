//! Locks between processes, and between the tasks of one: they end with the process that holds them.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::event::{Event, Events};

/// How often a lock that somebody else holds is tried.
const POLL: Duration = Duration::from_millis(25);
/// A wait that is shorter is nobody's concern: most locks are held for one change of a small file.
const QUIET: Duration = Duration::from_millis(500);

/// Who else may hold the lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// A lock that is held. Dropping it lets go.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// A wait for a lock: it ends on the token or the limit.
pub(super) struct Wait<'a> {
    pub events: &'a Events,
    pub cancel: &'a CancellationToken,
    pub limit: Duration,
    /// What is waited for, for people.
    pub what: &'a str,
}

/// Takes the lock unless somebody holds it. The file is made if it is not there.
pub(super) fn try_lock(path: &Path, mode: Mode) -> io::Result<Option<Lock>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = match file {
        // A store that we may only read can still be locked against its owner's gc.
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            // Without a file there is nothing to lock, and the first refusal says why.
            File::open(path).map_err(|_| e)?
        }
        other => other?,
    };
    let locked = match mode {
        Mode::Shared => file.try_lock_shared(),
        Mode::Exclusive => file.try_lock(),
    };
    match locked {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Takes the lock, waiting visibly.
pub(super) async fn lock(path: &Path, mode: Mode, wait: Wait<'_>) -> Result<Lock> {
    let began = Instant::now();
    let mut told = false;
    loop {
        if let Some(lock) = try_lock(path, mode).map_err(Error::store("lock", path))? {
            return Ok(lock);
        }
        if !told && began.elapsed() >= QUIET {
            wait.events.on(&Event::Waiting { what: wait.what.into() });
            told = true;
        }
        if began.elapsed() >= wait.limit {
            let why = format!("another process has held it for {} s", wait.limit.as_secs());
            return Err(Error::store("lock", path)(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        tokio::select! {
            () = wait.cancel.cancelled() => return Err(Error::Interrupted),
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// A lock whose file lives only while somebody holds it, so that a store does not collect a file for each blob it ever had.
#[derive(Debug)]
pub(super) struct Passing {
    path: PathBuf,
    _lock: Lock,
}

impl Passing {
    /// Takes the lock unless somebody holds it.
    pub fn take(path: PathBuf) -> io::Result<Option<Passing>> {
        loop {
            let Some(lock) = try_lock(&path, Mode::Exclusive)? else { return Ok(None) };
            // The former holder may have removed the file between our opening and locking it: then it guards nothing.
            let ours = lock._file.metadata()?;
            match std::fs::symlink_metadata(&path) {
                Ok(there) if there.ino() == ours.ino() && there.dev() == ours.dev() => {
                    return Ok(Some(Passing { path, _lock: lock }));
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // Still locked here, so nobody else can hold this file.
        if let Err(error) = super::layout::remove(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a lock file stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Silent;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_lock_ends_on_its_limit_and_on_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = try_lock(&path, Mode::Shared).unwrap().unwrap();
        assert!(try_lock(&path, Mode::Shared).unwrap().is_some());
        let (events, cancel): (Events, _) = (Arc::new(Silent), CancellationToken::new());
        let wait = || Wait { events: &events, cancel: &cancel, limit: Duration::from_secs(9), what: "a lock" };
        let error = lock(&path, Mode::Exclusive, wait()).await.unwrap_err();
        assert!(error.to_string().contains("for 9 s"), "{error}");
        cancel.cancel();
        assert!(matches!(lock(&path, Mode::Exclusive, wait()).await, Err(Error::Interrupted)));
        drop(held);
        assert!(lock(&path, Mode::Exclusive, wait()).await.is_ok());
    }

    #[test]
    fn only_one_holds_a_passing_lock_and_its_file_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Passing::take(path.clone()).unwrap().unwrap();
        assert!(Passing::take(path.clone()).unwrap().is_none());
        drop(held);
        assert!(!path.exists());
        let counter = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let Some(held) = Passing::take(path.clone()).unwrap() else { continue };
                        assert_eq!(counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        counter.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
    }
}
