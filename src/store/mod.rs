//! An OCI image layout on disk, as source and as sink.
//!
//! The layout is the one that skopeo and podman read (OCI image-spec, `image-layout.md`): `oci-layout`, `index.json`
//! and `blobs/`. What only we need is in `.layerpull/`: partial blobs with their journals, locks, and records of what
//! was verified.
//!
//! - `layout`: the files, and how they get to the disk; `lock`: who may use them.
//! - `partial`, `stretches`, `journal`: a blob on its way in.
//! - `receive`, `uploads`: a blob on its way in whose digest is not known yet.
//! - `check`, `verified`: whether a blob in its place is good, and which need no second hashing.
//! - `index`, `entered`: the names.
//! - `graph`: what a name needs; `scan`: what lies here, named or not.
//! - `source`, `sink`: the store as a place; `space`: room for what it will take.
//! - `images`: what is here, for people.
//! - `collect` removes what nobody needs, `verify` finds what is damaged.

mod check;
mod collect;
mod entered;
mod graph;
mod images;
mod index;
mod journal;
mod layout;
mod lock;
mod partial;
mod receive;
mod scan;
mod sink;
mod source;
mod space;
mod stretches;
mod uploads;
mod verified;
mod verify;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::content::file::Folder;
use crate::error::{Error, Result};
use crate::event::{Events, Silent};
use crate::oci::{Algorithm, Descriptor, Digest, Reference};

pub use collect::{Collect, Collected, Effect, Spare};
pub use entered::Entered;
pub use images::StoredImage;
pub use index::{IMAGE_NAME, MEDIA_TYPE, PLATFORMS, REF_NAME};
pub use receive::{Pending, Receiving};
pub use space::Space;
pub use verify::{Broken, Damage};

use index::{IndexFile, Written};
use layout::Paths;
use lock::{Lock, Mode, Wait};
use verified::{Identity, Verified};

/// How long the index may be locked by others; they hold it for one write.
const INDEX_PATIENCE: Duration = Duration::from_secs(60);
/// How long a `gc` of another process is waited for.
const SHARE_PATIENCE: Duration = Duration::from_secs(600);
/// How often an index is read again because a foreign tool wrote it.
const MAX_OUTRUN: usize = 100;

/// An image layout on disk. A cheap clone over shared state; several processes may use one layout at the same time.
#[derive(Clone)]
pub struct Store {
    disk: Arc<Disk>,
    touch: Touch,
    events: Events,
    cancel: CancellationToken,
}

/// What looking for a blob may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    /// A damaged blob goes, and what was hashed is recorded.
    Records,
    /// Nothing.
    Nothing,
}

/// What the clones of a store share.
#[derive(Debug)]
struct Disk {
    paths: Paths,
    verified: Verified,
    boot: u64,
    created: AtomicBool,
    folders: [FolderSync; 3],
}

/// One sync of a folder serves everybody who changed the folder before it began.
#[derive(Debug, Default)]
struct FolderSync {
    changed: AtomicU64,
    synced: Mutex<u64>,
}

/// The right to plan against a store and read from it: while it is held, nothing is collected.
#[derive(Debug)]
#[must_use = "the store is shared only while this is held"]
pub struct Shared {
    _lock: Option<Lock>,
}

impl Store {
    /// Opens the layout at `root`. One that is not there is made by the first write.
    ///
    /// # Errors
    /// `Invalid` when the folder holds something else, or a layout of an unknown version; `Store` when it cannot be read.
    pub fn open(root: &Path) -> Result<Store> {
        let root = std::path::absolute(root).map_err(Error::store("find", root))?;
        let paths = Paths { root };
        paths.check()?;
        let disk = Disk {
            verified: Verified::new(paths.verified()),
            paths,
            boot: journal::boot(),
            created: AtomicBool::new(false),
            folders: Default::default(),
        };
        let (events, cancel) = (Arc::new(Silent), CancellationToken::new());
        Ok(Store { disk: Arc::new(disk), touch: Touch::Records, events, cancel })
    }

    /// The same store, which tells `events` what it waits for and ends its waits on `cancel`.
    pub fn observed(&self, events: Events, cancel: CancellationToken) -> Store {
        Store { disk: self.disk.clone(), touch: self.touch, events, cancel }
    }

    /// The same store, for making plans: looking for a blob changes nothing in it, also when it is damaged.
    pub fn untouched(&self) -> Store {
        Store { touch: Touch::Nothing, ..self.clone() }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.disk.paths.root
    }

    /// Keeps others from collecting while something is read. Makes no store that is not there.
    ///
    /// # Errors
    /// `Store` when a `gc` holds the store for more than ten minutes, `Interrupted`.
    pub async fn share(&self) -> Result<Shared> {
        match self.share_lock().await {
            Ok(lock) => Ok(Shared { _lock: Some(lock) }),
            // A store that is not there, or a layout of others that we may only read: nothing to guard.
            Err(Error::Store { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                Ok(Shared { _lock: None })
            }
            Err(e) => Err(e),
        }
    }

    /// Keeps others from collecting from the plan to the tag. Makes the store if it is not there.
    ///
    /// # Errors
    /// As [`Store::share`], and when the store cannot be made.
    pub async fn share_to_write(&self) -> Result<Shared> {
        self.disk.create()?;
        Ok(Shared { _lock: Some(self.share_lock().await?) })
    }

    async fn share_lock(&self) -> Result<Lock> {
        let wait = self.waiting("the store, which is being collected", SHARE_PATIENCE);
        lock::lock(&self.disk.paths.lock("store"), Mode::Shared, wait).await
    }

    fn waiting<'a>(&'a self, what: &'a str, limit: Duration) -> Wait<'a> {
        Wait { events: &self.events, cancel: &self.cancel, limit, what }
    }

    /// Removes a name. Its blobs stay until [`Store::collect`].
    ///
    /// # Errors
    /// `NotFound` when nothing goes by this name.
    pub async fn remove(&self, name: &Reference) -> Result<Descriptor> {
        let found = self.find(name)?;
        let text = index::kept_name(name);
        let digest = found.digest.clone();
        let gone = move |entry: &index::Entry| entry.is_named(&text) && entry.descriptor.digest == digest;
        self.change_index(move |index| {
            let gone: Vec<_> = index.entries().into_iter().filter(&gone).collect();
            index.drop_entries(&gone);
        })
        .await?;
        Ok(found)
    }

    /// The entry of this name.
    fn find(&self, name: &Reference) -> Result<Descriptor> {
        let named = IndexFile::read(&self.disk.paths)?.named(&index::kept_name(name));
        let fits = |entry: &&index::Entry| name.digest().is_none_or(|digest| entry.descriptor.digest == *digest);
        match named.iter().find(fits) {
            Some(entry) => Ok(entry.descriptor.clone()),
            None => Err(self.not_found(name)),
        }
    }

    fn not_found(&self, what: impl ToString) -> Error {
        Error::NotFound { what: what.to_string(), place: self.root().display().to_string(), why: String::new() }
    }

    /// Changes the index under its lock: read, changed, written, and again if a foreign tool was faster.
    async fn change_index<T: Send + 'static>(
        &self,
        change: impl Fn(&mut IndexFile) -> T + Send + 'static,
    ) -> Result<T> {
        self.disk.create()?;
        let wait = self.waiting("the index of the store", INDEX_PATIENCE);
        let lock = lock::lock(&self.disk.paths.lock("index"), Mode::Exclusive, wait).await?;
        let disk = self.disk.clone();
        off(move || {
            let _lock = lock;
            for _ in 0..MAX_OUTRUN {
                let mut index = IndexFile::read(&disk.paths)?;
                let changed = change(&mut index);
                if index.write(&disk.paths)? == Written::Done {
                    return Ok(changed);
                }
            }
            Err(disk.outrun())
        })
        .await
    }
}

impl Disk {
    /// Makes the layout, once a process.
    fn create(&self) -> Result<()> {
        if self.created.load(Ordering::Acquire) && self.paths.marker().exists() {
            return Ok(());
        }
        self.paths.create()?;
        self.created.store(true, Ordering::Release);
        Ok(())
    }

    fn folder(&self) -> Result<Option<Folder>> {
        self.paths.folder()
    }

    fn outrun(&self) -> Error {
        let busy = io::Error::other("another program writes it all the time");
        Error::store("write", self.paths.index())(busy)
    }

    /// Makes the names of blobs durable that were put in place before.
    fn sync_blobs(&self, algorithm: Algorithm) -> Result<()> {
        let sync = &self.folders[algorithm as usize];
        let ours = sync.changed.fetch_add(1, Ordering::AcqRel) + 1;
        let mut synced = sync.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if *synced >= ours {
            return Ok(());
        }
        let covered = sync.changed.load(Ordering::Acquire);
        let folder = self.paths.blobs().join(algorithm.as_str());
        match layout::sync_folder(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::store("sync", &folder)(e)),
            _ => {}
        }
        *synced = covered;
        Ok(())
    }

    /// Makes a file whose bytes were found to be `digest` the blob of that name: read-only, set back in time, durable.
    fn put_in_place(
        &self,
        data: &File,
        from: &Path,
        digest: &Digest,
        sync: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<()> {
        partial::seal(data).and_then(|()| sync(data)).map_err(Error::store("sync", from))?;
        let target = self.paths.blob(digest);
        std::fs::rename(from, &target).map_err(Error::store("put the blob in place at", &target))?;
        self.sync_blobs(digest.algorithm())?;
        let meta = data.metadata().map_err(Error::store("examine", &target))?;
        self.verified.remember(digest, Identity::of(&meta));
        Ok(())
    }
}

/// Runs work that waits for the disk off the async threads.
async fn off<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(Error::Interrupted),
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.disk.paths.root).finish_non_exhaustive()
    }
}
