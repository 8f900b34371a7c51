//! A clock that all processes share that name the same file.
//!
//! The file is mapped into memory and only ever changed by atomic additions of bounded size, without any lock: a
//! process that is stopped or killed holds up nobody, and what it leaves behind is bounded by [`super::clock`].

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use super::clock::{Clock, Direction};

/// What the file begins with: its kind and version.
const MARK: [u8; 16] = *b"layerpull-limit1";
/// One page: the mark, then the virtual time of each direction.
const SIZE: usize = 4096;
const TIMES: usize = 64;

/// How long another process may hold the lock. It holds it to look at the file once, but a busy disk may let it wait when
/// it makes the file; and whoever gives up has a limit of its own.
const LOCK_TIME: Duration = Duration::from_secs(3);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// A clock in a file.
pub(super) struct Shared {
    map: MmapMut,
}

impl Shared {
    /// Opens or makes the file, for this user alone.
    ///
    /// # Errors
    /// When it cannot be opened, is no regular file, is another user's, or holds something else.
    pub(super) fn open(path: &Path) -> io::Result<Shared> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it is no file of this user"));
        }
        lock(&file)?;
        prepare(&file)?;
        // SAFETY: the file is this user's own, has its full size, and nobody makes it shorter: those who open it only
        // ever make it longer. It is read and written through atomics alone.
        let map = unsafe { MmapMut::map_mut(&file) }?;
        file.unlock()?;
        Ok(Shared { map })
    }
}

/// Locks the file, unless another program keeps it.
fn lock(file: &File) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if began.elapsed() >= LOCK_TIME => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another program keeps it locked"));
            }
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_POLL),
        }
    }
}

/// Gives a new file its mark and its whole size, all of it on the disk, so that no write through the map can fail. So it
/// does with one that a full disk or a loss of power has left with a part of that, or with zeros.
fn prepare(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut held = Vec::new();
    file.take(SIZE as u64).read_to_end(&mut held)?;
    let (is_marked, is_whole) = (held.starts_with(&MARK), length >= SIZE as u64);
    let is_torn = MARK.starts_with(&held) || (is_marked && !is_whole);
    let is_empty = held.iter().all(|byte| *byte == 0) && length <= SIZE as u64;
    if is_torn || is_empty {
        let mut page = vec![0; SIZE];
        page[..MARK.len()].copy_from_slice(&MARK);
        return file.write_all_at(&page, 0);
    }
    match is_marked {
        true => Ok(()),
        false => Err(io::Error::other("it holds something else: name another file")),
    }
}

impl Clock for Shared {
    fn time(&self, direction: Direction) -> &AtomicU64 {
        let at = TIMES + direction as usize * 64;
        // SAFETY: the map is page-aligned, at least SIZE bytes long and lives as long as the reference; every access
        // to these bytes, in any process, is atomic.
        unsafe { AtomicU64::from_ptr(self.map.as_ptr().add(at).cast::<u64>().cast_mut()) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const ONE: i64 = SECOND.cast_signed();

    #[test]
    fn all_who_open_the_file_queue_up_on_one_clock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limit");
        let (one, other) = (Shared::open(&path).unwrap(), Shared::open(&path).unwrap());
        let now = 100 * SECOND;
        let first = one.book(Direction::Down, now, SECOND);
        assert_eq!(other.book(Direction::Down, now, SECOND), first + ONE);
        assert_eq!(one.book(Direction::Down, now, SECOND), first + 2 * ONE);
        assert_eq!(other.book(Direction::Up, now, SECOND), first);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_something_else_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        std::fs::write(&path, "mine").unwrap();
        assert!(Shared::open(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
        assert!(Shared::open(&folder.path().join("link")).is_err());
    }

    #[test]
    fn a_program_that_keeps_the_file_locked_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limit");
        drop(Shared::open(&path).unwrap());
        let other = File::open(&path).unwrap();
        other.lock().unwrap();
        let error = Shared::open(&path).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        other.unlock().unwrap();
        assert!(Shared::open(&path).is_ok());
    }

    #[test]
    fn a_file_that_was_not_written_to_its_end_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limit");
        for torn in [&MARK[..5], &MARK, &[MARK.as_slice(), &[0; 100]].concat(), &[0; SIZE]] {
            std::fs::write(&path, torn).unwrap();
            assert_eq!(Shared::open(&path).unwrap().book(Direction::Down, SECOND, 0), -120_000_000);
            let held = std::fs::read(&path).unwrap();
            assert!(held.starts_with(&MARK) && held.len() == SIZE);
        }
    }
}
