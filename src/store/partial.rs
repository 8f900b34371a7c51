//! A blob on its way into the store: a file written at offsets, and a journal of what it holds.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use super::Disk;
use super::journal::Journal;
use super::layout::{remove, reserve, sync_folder};
use super::lock::Passing;
use super::stretches::{Stretches, Sum, joined};
use crate::content::file::{PIECE, start_write_back};
use crate::content::{Ingest, Provenance, Stretch};
use crate::error::{Error, Result};
use crate::oci::Descriptor;

/// After so many bytes their writing to the disk is started, so that the last sync finds little to do.
const WRITE_BACK: u64 = 8 * 1024 * 1024;
/// After so many bytes, or so long, what is written is made to survive a reboot.
const DURABLE_BYTES: u64 = 64 * 1024 * 1024;
const DURABLE_AFTER: Duration = Duration::from_secs(5);
const DURABLE_PAUSE: Duration = Duration::from_secs(2);
/// How far the time of modification of a committed blob is set back, so that any later write changes it.
const SET_BACK: Duration = Duration::from_secs(60);

/// An [`Ingest`] whose bytes stay on the disk when it is dropped.
pub(super) struct Partial {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<Disk>,
    blob: Descriptor,
    path: PathBuf,
    data: File,
    stretches: Mutex<Stretches>,
    pace: Mutex<Pace>,
    /// A task is making bytes durable or starts their write-back.
    syncing: AtomicBool,
    /// The disk refused a sync: what it has is unknown.
    failed: AtomicBool,
    /// Held from a sync until `failed` tells how it ended: of several that sync the system tells a refusal to one alone.
    turn: Mutex<()>,
    /// Held until the last task that may write is done.
    _lock: Passing,
}

/// What was written since something was done about it.
struct Pace {
    unwritten: u64,
    undurable: u64,
    durable: Instant,
}

enum Chore {
    WriteBack,
    MakeDurable,
}

impl Pace {
    fn add(&mut self, count: u64) -> Option<Chore> {
        self.unwritten += count;
        self.undurable += count;
        let since = self.durable.elapsed();
        let due = since >= DURABLE_AFTER || since >= DURABLE_PAUSE && self.undurable >= DURABLE_BYTES;
        match due {
            true => Some(Chore::MakeDurable),
            false => (self.unwritten >= WRITE_BACK).then_some(Chore::WriteBack),
        }
    }

    fn done(&mut self, chore: &Chore) {
        self.unwritten = 0;
        if let Chore::MakeDurable = chore {
            self.undurable = 0;
            self.durable = Instant::now();
        }
    }
}

impl Partial {
    /// Opens or makes the partial blob, which `lock` keeps others away from. Space for all of it is reserved.
    pub fn open(disk: &Arc<Disk>, blob: &Descriptor, lock: Passing) -> Result<Partial> {
        let path = disk.paths.partial(blob, "data");
        let (data, kept) = open_data(&path, blob.size)?;
        let journal = disk.paths.partial(blob, "journal");
        let load = || {
            let (file, slots) = Journal::open(&journal, blob.size)?;
            Stretches::load(file, slots, disk.boot, kept, blob.size)
        };
        let stretches = load().map_err(Error::store("open the journal", &journal))?;
        let inner = Inner {
            disk: disk.clone(),
            blob: blob.clone(),
            path,
            data,
            stretches: Mutex::new(stretches),
            pace: Mutex::new(Pace { unwritten: 0, undurable: 0, durable: Instant::now() }),
            syncing: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            turn: Mutex::new(()),
            _lock: lock,
        };
        Ok(Partial { inner: Arc::new(inner) })
    }

    async fn off<T: Send + 'static>(&self, work: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = self.inner.clone();
        super::off(move || work(&inner)).await
    }
}

/// The data file, and how many bytes of it were there.
fn open_data(path: &PathBuf, size: u64) -> Result<(File, u64)> {
    let open = || {
        make_writable(path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32).open(path)?;
        let len = file.metadata()?.len();
        Ok((file, len))
    };
    let (file, len) = open().map_err(Error::store("write the partial blob", path))?;
    if len > size {
        file.set_len(size).map_err(Error::store("shorten", path))?;
    }
    if len < size {
        reserve(&file, size).map_err(|e| {
            let _ = if len == 0 { remove(path) } else { file.set_len(len) };
            Error::store("reserve space for the blob", path)(e)
        })?;
    }
    Ok((file, len.min(size)))
}

/// A process that ended between sealing the file and putting it in its place left it read-only.
fn make_writable(path: &PathBuf) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() && meta.permissions().readonly() => {
            fs::set_permissions(path, Permissions::from_mode(0o600))
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

impl Inner {
    fn stretches(&self) -> MutexGuard<'_, Stretches> {
        // Each change of the table is whole before anything can panic.
        self.stretches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, action: &'static str) -> impl FnOnce(io::Error) -> Error {
        Error::store(action, &self.path)
    }

    fn write(&self, offset: u64, bytes: &[u8], provenance: Provenance) -> Result<()> {
        let len = bytes.len() as u64;
        let end =
            offset.checked_add(len).filter(|&end| end <= self.blob.size).ok_or_else(|| self.too_long(offset, len))?;
        self.carve(&(offset..end)).map_err(self.store("write"))?;
        self.data.write_all_at(bytes, offset).map_err(self.store("write"))?;
        let sum = Sum { start: offset, len, crc: crc32fast::hash(bytes), provenance };
        let mut stretches = self.stretches();
        // A sync that failed since forgot all stretches, and may have lost these bytes, too.
        self.check_disk()?;
        stretches.add(sum).map_err(self.store("write the journal of"))
    }

    /// Takes the bytes of `file` by sharing its extents, where the file system can. From now on a write to either file
    /// changes that one alone; what was read for the checksum is our own.
    fn share(&self, file: &File) -> Result<bool> {
        let is_fresh = self.stretches().list().is_empty();
        if !is_fresh || !cfg!(target_os = "linux") || rustix::fs::ioctl_ficlone(&self.data, file).is_err() {
            return Ok(false);
        }
        let found = self.data.metadata().map_err(self.store("examine"))?.len();
        // The other file was changed since it was looked at.
        if found != self.blob.size {
            self.data.set_len(self.blob.size).map_err(self.store("shorten"))?;
            return Ok(false);
        }
        let crc = self.checksum(&(0..found)).map_err(self.store("read"))?;
        let sum = Sum { start: 0, len: found, crc, provenance: Provenance::Local };
        let mut stretches = self.stretches();
        self.check_disk()?;
        stretches.add(sum).map_err(self.store("write the journal of"))?;
        Ok(true)
    }

    fn too_long(&self, offset: u64, len: u64) -> Error {
        let why = format!("{len} bytes at {offset} end behind its size of {}", self.blob.size);
        Error::Verification { what: self.blob.digest.to_string(), place: self.path.display().to_string(), why }
    }

    fn check_disk(&self) -> Result<()> {
        self.sound().map_err(self.store("sync"))
    }

    fn sound(&self) -> io::Result<()> {
        match self.failed.load(Ordering::Acquire) {
            true => Err(io::Error::other("an earlier sync failed; the bytes are fetched again")),
            false => Ok(()),
        }
    }

    /// Forgets the bytes of `range`; what else their stretches hold is checked and kept.
    fn carve(&self, range: &Range<u64>) -> io::Result<()> {
        let touched = self.stretches().take(range)?;
        for sum in touched {
            for rest in self.outside(&sum, range)? {
                self.stretches().add(rest)?;
            }
        }
        Ok(())
    }

    /// The parts of a stretch before and behind `range`; nothing if its bytes are not what they were.
    fn outside(&self, sum: &Sum, range: &Range<u64>) -> io::Result<Vec<Sum>> {
        let whole = sum.range();
        let (cut, rest) = (range.start.clamp(whole.start, whole.end), range.end.clamp(whole.start, whole.end));
        let part = |range: Range<u64>| {
            let crc = self.checksum(&range)?;
            Ok::<_, io::Error>(Sum {
                start: range.start,
                len: range.end - range.start,
                crc,
                provenance: sum.provenance,
            })
        };
        let parts = [part(whole.start..cut)?, part(cut..rest)?, part(rest..whole.end)?];
        let all = parts.iter().fold(0, |crc, part| joined(crc, part.crc, part.len));
        let [before, _, behind] = parts;
        let kept = if all == sum.crc { vec![before, behind] } else { Vec::new() };
        Ok(kept.into_iter().filter(|part| part.len > 0).collect())
    }

    fn checksum(&self, range: &Range<u64>) -> io::Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let mut buffer = vec![0; PIECE.min((range.end - range.start) as usize)];
        let mut at = range.start;
        while at < range.end {
            let count = buffer.len().min((range.end - at) as usize);
            self.data.read_exact_at(&mut buffer[..count], at)?;
            hasher.update(&buffer[..count]);
            at += count as u64;
        }
        Ok(hasher.finalize())
    }

    fn spoiled(&self) -> Vec<Range<u64>> {
        let sums = self.stretches().sums();
        let differs = |sum: &Sum| self.checksum(&sum.range()).is_ok_and(|crc| crc == sum.crc);
        sums.into_iter().filter(|sum| !differs(sum)).map(|sum| sum.range()).collect()
    }

    /// Has the disk keep up with what is written, on another thread.
    fn keep_up(self: &Arc<Self>, count: u64) {
        let Some(chore) = self.pace().add(count) else { return };
        if self.syncing.swap(true, Ordering::AcqRel) {
            return;
        }
        self.pace().done(&chore);
        let inner = self.clone();
        tokio::task::spawn_blocking(move || {
            let done = match chore {
                Chore::WriteBack => start_write_back(&inner.data),
                Chore::MakeDurable => inner.make_durable(),
            };
            if let Err(error) = done {
                tracing::warn!(path = %inner.path.display(), %error, "bytes could not be synced");
            }
            inner.syncing.store(false, Ordering::Release);
        });
    }

    fn make_durable(&self) -> io::Result<()> {
        let sums = self.stretches().sums();
        self.sync(File::sync_data)?;
        let journal = self.stretches().mark_durable(&sums)?;
        journal.sync_data()?;
        sync_folder(&self.disk.paths.partials())
    }

    fn sync(&self, sync: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.sound()?;
        sync(&self.data).inspect_err(|_| {
            // The kernel reports a failed write-back once and may drop the bytes: none of them can be trusted now.
            self.failed.store(true, Ordering::Release);
            let _ = self.stretches().clear();
        })
    }

    fn commit(&self) -> Result<()> {
        self.check_disk()?;
        let found = self.data.metadata().map_err(self.store("examine"))?.len();
        if found != self.blob.size {
            return Err(Error::file_size(self.path.display(), &self.blob, found));
        }
        self.disk.put_in_place(&self.data, &self.path, &self.blob.digest, |data| self.sync(|_| data.sync_all()))?;
        let journal = self.disk.paths.partial(&self.blob, "journal");
        remove(&journal).map_err(Error::store("remove", &journal))
    }
}

/// Read-only, and set back in time so that any later write changes it.
pub(super) fn seal(data: &File) -> io::Result<()> {
    data.set_modified(SystemTime::now() - SET_BACK)?;
    data.set_permissions(Permissions::from_mode(0o444))
}

#[async_trait]
impl Ingest for Partial {
    fn stretches(&self) -> Vec<Stretch> {
        self.inner.stretches().list()
    }

    async fn write_at(&self, offset: u64, bytes: Bytes, provenance: Provenance) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.inner.write(offset, &bytes, provenance)?;
        self.inner.keep_up(bytes.len() as u64);
        Ok(())
    }

    async fn share(&self, file: File) -> Result<bool> {
        self.off(move |inner| inner.share(&file)).await
    }

    async fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.inner.data.read_at(buffer, offset).map_err(self.inner.store("read"))
    }

    async fn spoiled(&self) -> Result<Vec<Range<u64>>> {
        self.off(|inner| Ok(inner.spoiled())).await
    }

    async fn discard(&self, ranges: &[Range<u64>]) -> Result<()> {
        let ranges = ranges.to_vec();
        self.off(move |inner| ranges.iter().try_for_each(|range| inner.carve(range)).map_err(inner.store("discard")))
            .await
    }

    async fn save(&self) -> Result<()> {
        self.off(|inner| inner.make_durable().map_err(inner.store("sync"))).await
    }

    async fn commit(&self) -> Result<()> {
        self.off(|inner| inner.commit()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::oci::Digest;
    use crate::store::Store;

    #[test]
    fn a_blob_is_not_committed_when_another_sync_was_told_that_the_disk_refused_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Store::open(dir.path()).unwrap().disk;
        disk.create().unwrap();
        let blob = Descriptor::new("application/octet-stream", Digest::of(b"bytes"), 5);
        let lock = Passing::take(disk.paths.partial_lock(&blob.digest)).unwrap().unwrap();
        let inner = Partial::open(&disk, &blob, lock).unwrap().inner;
        inner.write(0, b"bytes", Provenance::Registry).unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            // Of both only this one is told, and it has not said so when the blob is committed.
            inner
                .sync(|_| {
                    let inner = &inner;
                    scope.spawn(move || tell.send(inner.commit()).unwrap());
                    let early = told.recv_timeout(Duration::from_millis(200));
                    assert!(early.is_err(), "committed while another sync was under way");
                    Err(io::Error::other("no such bytes"))
                })
                .unwrap_err();
        });
        assert!(matches!(told.recv().unwrap(), Err(Error::Store { .. })));
        assert!(!disk.paths.blob(&blob.digest).exists());
        assert!(inner.stretches().list().is_empty());
        assert!(matches!(inner.write(0, b"bytes", Provenance::Registry), Err(Error::Store { .. })));
    }
}
