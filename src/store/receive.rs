//! Bytes whose digest is said when they have all come: uploads, and blobs out of a pipe.
//!
//! What was written stays in `.layerpull/uploads/` when the process ends, and another one can go on with it. It is no
//! blob before [`Receiving::commit`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::layout::start_write_back;
use super::lock::Passing;
use super::{Disk, Store, layout, off};
use crate::content::file::PIECE;
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Descriptor, Digest, Hasher};

/// Bytes that are left free on the disk, for the rest of the machine.
const KEEP_FREE: u64 = 64 << 20;
/// How long somebody else may hold one that is to go on.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often that is tried.
const POLL: Duration = Duration::from_millis(20);
/// After so many bytes their writing to the disk is started, so that the last sync finds little to do.
const WRITE_BACK: u64 = 8 << 20;
/// Hexadecimal digits of an identifier.
const ID_LEN: usize = 32;

/// One that nobody writes: its name, and what of it is hashed.
#[derive(Clone)]
pub struct Pending {
    id: String,
    hasher: Hasher,
    hashed: u64,
}

impl Pending {
    /// The one that goes by `id`, as a former process gave it; nothing if no process ever gives such identifiers.
    pub fn named(id: &str) -> Option<Pending> {
        let is_id = id.len() == ID_LEN && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_id.then(|| Pending { id: id.into(), hasher: Hasher::new(Algorithm::Sha256), hashed: 0 })
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// With a name that nobody can guess.
    fn new() -> io::Result<Pending> {
        let mut random = [0; ID_LEN / 2];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Pending { id, hasher: Hasher::new(Algorithm::Sha256), hashed: 0 })
    }
}

/// A blob on its way in, written in order and hashed on the way. Dropping it keeps what was written.
pub struct Receiving {
    inner: Arc<Mutex<Inner>>,
}

/// In the hands of whoever writes, also when the task that wanted it was given up.
struct Inner {
    disk: Arc<Disk>,
    pending: Pending,
    path: PathBuf,
    data: File,
    len: u64,
    unwritten: u64,
    cancel: CancellationToken,
    _lock: Passing,
}

impl Store {
    /// Begins a blob of unknown digest and size.
    ///
    /// # Errors
    /// `Limit` when 1024 are begun and not ended; those that did not grow for a day are removed and do not count.
    pub async fn receive(&self) -> Result<Receiving> {
        let (disk, cancel) = (self.disk.clone(), self.cancel.clone());
        off(move || {
            disk.create()?;
            let folder = disk.paths.uploads();
            fs::create_dir_all(&folder).map_err(Error::store("create", &folder))?;
            disk.make_room()?;
            let pending = Pending::new().map_err(Error::store("name an upload in", &folder))?;
            let lock = disk.paths.upload(&pending.id, "lock");
            let taken = Passing::take(lock.clone()).map_err(Error::store("lock", &lock))?;
            let taken = taken.ok_or_else(|| disk.held(&pending.id))?;
            Receiving::open(&disk, pending, taken, cancel, OpenOptions::new().create_new(true))
        })
        .await
    }

    /// Goes on with one that nobody writes. Waits a few seconds for somebody who does.
    ///
    /// # Errors
    /// `NotFound` when it was ended or removed; `Busy` when somebody goes on writing it.
    pub async fn resume(&self, pending: Pending) -> Result<Receiving> {
        let path = self.disk.paths.upload(&pending.id, "lock");
        let began = Instant::now();
        loop {
            self.received(&pending).await?;
            if let Some(lock) = Passing::take(path.clone()).map_err(Error::store("lock", &path))? {
                let (disk, cancel) = (self.disk.clone(), self.cancel.clone());
                return off(move || Receiving::open(&disk, pending, lock, cancel, &mut OpenOptions::new())).await;
            }
            if began.elapsed() >= PATIENCE {
                return Err(self.disk.held(&pending.id));
            }
            tokio::select! {
                () = self.cancel.cancelled() => return Err(Error::Interrupted),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// How many bytes of it are here, also while somebody writes it.
    ///
    /// # Errors
    /// `NotFound` when it was ended or removed.
    pub async fn received(&self, pending: &Pending) -> Result<u64> {
        let path = self.disk.paths.upload(&pending.id, "data");
        let (disk, id) = (self.disk.clone(), pending.id.clone());
        off(move || match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(meta.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(disk.no_upload(&id)),
            Err(e) => Err(Error::store("examine", &path)(e)),
        })
        .await
    }
}

impl Receiving {
    fn open(
        disk: &Arc<Disk>,
        mut pending: Pending,
        lock: Passing,
        cancel: CancellationToken,
        options: &mut OpenOptions,
    ) -> Result<Receiving> {
        let path = disk.paths.upload(&pending.id, "data");
        let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let data = options.read(true).write(true).mode(0o600).custom_flags(no_follow).open(&path);
        let data = data.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => disk.no_upload(&pending.id),
            _ => Error::store("write the upload", &path)(e),
        })?;
        let len = data.metadata().map_err(Error::store("examine", &path))?.len();
        if pending.hashed > len {
            (pending.hasher, pending.hashed) = (Hasher::new(Algorithm::Sha256), 0);
        }
        let inner = Inner { disk: disk.clone(), pending, path, data, len, unwritten: 0, cancel, _lock: lock };
        Ok(Receiving { inner: Arc::new(Mutex::new(inner)) })
    }

    /// How many bytes it has: the offset of the next one.
    pub fn offset(&self) -> u64 {
        lock(&self.inner).len
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// `Store` when the disk is full but for 64 MiB, or refuses.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.off(move |inner| inner.write(&bytes)).await
    }

    /// Lets go of it. Whoever has the result can go on.
    pub fn pause(self) -> Pending {
        lock(&self.inner).pending.clone()
    }

    /// Removes it.
    ///
    /// # Errors
    /// `Store`.
    pub async fn discard(self) -> Result<()> {
        self.off(|inner| layout::remove(&inner.path).map_err(Error::store("remove", &inner.path))).await
    }

    /// Makes the bytes a blob: durable and visible under `expected`, or under their SHA-256 where nobody knows it before.
    ///
    /// # Errors
    /// `Verification` when they have another digest; they are kept then.
    pub async fn commit(self, expected: Option<&Digest>) -> Result<Descriptor> {
        let expected = expected.cloned();
        self.off(move |inner| inner.commit(expected)).await
    }

    /// As [`Receiving::commit`], but bytes of another digest than `expected` are removed: whoever sends them again begins anew.
    ///
    /// # Errors
    /// `Verification` when they have another digest.
    pub async fn settle(self, expected: &Digest) -> Result<Descriptor> {
        let expected = expected.clone();
        self.off(move |inner| {
            let committed = inner.commit(Some(expected));
            if matches!(committed, Err(Error::Verification { .. })) {
                layout::remove(&inner.path).map_err(Error::store("remove", &inner.path))?;
            }
            committed
        })
        .await
    }

    async fn off<T: Send + 'static>(&self, work: impl FnOnce(&mut Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = self.inner.clone();
        off(move || work(&mut lock(&inner))).await
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    // Offset and hash change together after the bytes were written; a panic between them costs a hashing.
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let action = "write the upload";
        let space = rustix::fs::fstatvfs(&self.data).map_err(|e| Error::store(action, &self.path)(e.into()))?;
        if space.f_bavail.saturating_mul(space.f_frsize) < KEEP_FREE + bytes.len() as u64 {
            let full = io::Error::new(io::ErrorKind::StorageFull, "the disk is full but for 64 MiB");
            return Err(Error::store(action, &self.path)(full));
        }
        self.data.write_all_at(bytes, self.len).map_err(Error::store(action, &self.path))?;
        if self.pending.hashed == self.len {
            self.pending.hasher.update(bytes);
            self.pending.hashed += bytes.len() as u64;
        }
        self.len += bytes.len() as u64;
        self.unwritten += bytes.len() as u64;
        if self.unwritten >= WRITE_BACK {
            self.unwritten = 0;
            start_write_back(&self.data).map_err(Error::store(action, &self.path))?;
        }
        Ok(())
    }

    fn commit(&mut self, expected: Option<Digest>) -> Result<Descriptor> {
        let found = self.hash(expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm))?;
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            let why = format!("the {} bytes received have digest {found}", self.len);
            let place = self.disk.paths.root.display().to_string();
            return Err(Error::Verification { what: expected.to_string(), place, why });
        }
        self.disk.paths.create_blobs(found.algorithm())?;
        match self.disk.look(&found)? {
            // Somebody else brought the same bytes, and nobody wrote to them since.
            Some((_, there)) if self.disk.verified.agrees(&found, &there) => {
                layout::remove(&self.path).map_err(Error::store("remove", &self.path))?;
            }
            _ => self.disk.put_in_place(&self.data, &self.path, &found, File::sync_all)?,
        }
        Ok(Descriptor::new("application/octet-stream", found, self.len))
    }

    /// The digest of all bytes. Those that this process did not write are read back, and all where the algorithm is
    /// another one than the usual.
    fn hash(&mut self, algorithm: Algorithm) -> Result<Digest> {
        if algorithm != Algorithm::Sha256 {
            let mut hasher = Hasher::new(algorithm);
            self.hash_from(0, &mut hasher)?;
            return Ok(hasher.finish());
        }
        let mut hasher = self.pending.hasher.clone();
        self.hash_from(self.pending.hashed, &mut hasher)?;
        (self.pending.hasher, self.pending.hashed) = (hasher.clone(), self.len);
        Ok(hasher.finish())
    }

    fn hash_from(&self, start: u64, hasher: &mut Hasher) -> Result<()> {
        let mut buffer = vec![0; PIECE.min((self.len - start) as usize)];
        let mut at = start;
        while at < self.len {
            if self.cancel.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let count = buffer.len().min((self.len - at) as usize);
            self.data.read_exact_at(&mut buffer[..count], at).map_err(Error::store("read", &self.path))?;
            hasher.update(&buffer[..count]);
            at += count as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_blob_that_nobody_named_before_is_named_by_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut receiving = store.receive().await.unwrap();
        receiving.write(Bytes::from_static(b"0123")).await.unwrap();
        receiving.write(Bytes::from_static(b"456789")).await.unwrap();
        assert_eq!(receiving.offset(), 10);
        let blob = receiving.commit(None).await.unwrap();
        assert_eq!((&blob.digest, blob.size), (&Digest::of(b"0123456789"), 10));
        assert!(store.whole(&blob).await.unwrap());
    }

    #[tokio::test]
    async fn another_process_goes_on_and_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut receiving = store.receive().await.unwrap();
        receiving.write(Bytes::from_static(b"01234")).await.unwrap();
        let id = receiving.pause().id().to_owned();

        let store = Store::open(dir.path()).unwrap();
        let pending = Pending::named(&id).unwrap();
        let mut receiving = store.resume(pending.clone()).await.unwrap();
        tokio::time::pause();
        assert!(matches!(store.resume(pending.clone()).await, Err(Error::Busy { .. })));
        assert_eq!(store.received(&pending).await.unwrap(), 5);
        receiving.write(Bytes::from_static(b"56789")).await.unwrap();
        let wrong = receiving.commit(Some(&Digest::of(b"other"))).await;
        assert!(matches!(wrong, Err(Error::Verification { .. })));
        let receiving = store.resume(pending.clone()).await.unwrap();
        let blob = receiving.commit(Some(&Digest::of(b"0123456789"))).await.unwrap();
        assert!(store.whole(&blob).await.unwrap());
        assert!(matches!(store.resume(pending).await, Err(Error::NotFound { .. })));
    }

    #[tokio::test]
    async fn bytes_of_another_digest_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut receiving = store.receive().await.unwrap();
        receiving.write(Bytes::from_static(b"x")).await.unwrap();
        let wrong = receiving.settle(&Digest::of(b"y")).await;
        assert!(matches!(wrong, Err(Error::Verification { .. })));
        let left = fs::read_dir(store.disk.paths.uploads()).unwrap();
        assert!(left.map(|entry| entry.unwrap().path()).all(|path| path.extension() != Some("data".as_ref())));
    }

    #[test]
    fn only_what_a_store_gave_is_a_name() {
        for id in
            ["", "..", "0123", &"g".repeat(32), &"A".repeat(32), &"0".repeat(33), "../../../../../../../../etc/passwd"]
        {
            assert!(Pending::named(id).is_none(), "{id}");
        }
        assert!(Pending::named(Pending::new().unwrap().id()).is_some());
    }
}
