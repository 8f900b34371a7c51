//! The files of a store and how they get to the disk (OCI image-spec, `image-layout.md`).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::content::file::{Folder, blob_path, layout_version};
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Descriptor, Digest};

/// The folder inside the layout that is ours alone; other tools must not mind it ("Extra files").
pub(super) const OWN: &str = ".layerpull";
const VERSION: &str = "1.0.0";
const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Where everything of a store is. File names come from digests and constants alone.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub root: PathBuf,
}

impl Paths {
    /// The folder that is ours alone.
    pub fn own(&self) -> PathBuf {
        self.root.join(OWN)
    }

    pub fn marker(&self) -> PathBuf {
        self.root.join("oci-layout")
    }

    pub fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join(blob_path(digest))
    }

    pub fn partials(&self) -> PathBuf {
        self.root.join(OWN).join("partial")
    }

    /// The `data` or the `journal` of a partial blob. The size is a part of the name: a manifest that states another one
    /// must not spoil what a true one began.
    pub fn partial(&self, blob: &Descriptor, kind: &str) -> PathBuf {
        let (algorithm, hex) = (blob.digest.algorithm().as_str(), blob.digest.hex());
        self.partials().join(format!("{algorithm}-{hex}-{}.{kind}", blob.size))
    }

    /// The lock of all that is done to the blob of `digest`.
    pub fn partial_lock(&self, digest: &Digest) -> PathBuf {
        self.partials().join(format!("{}-{}.lock", digest.algorithm().as_str(), digest.hex()))
    }

    pub fn uploads(&self) -> PathBuf {
        self.root.join(OWN).join("uploads")
    }

    /// The `data` or the `lock` of an upload.
    pub fn upload(&self, id: &str, kind: &str) -> PathBuf {
        self.uploads().join(format!("{id}.{kind}"))
    }

    pub fn lock(&self, name: &str) -> PathBuf {
        self.root.join(OWN).join("locks").join(name)
    }

    pub fn verified(&self) -> PathBuf {
        self.root.join(OWN).join("verified")
    }

    pub fn temporary(&self) -> PathBuf {
        self.root.join(OWN).join("tmp")
    }

    /// The layout as an open folder; `None` while it does not exist.
    pub fn folder(&self) -> Result<Option<Folder>> {
        match Folder::open(&self.root) {
            Ok(folder) => Ok(Some(folder)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::store("open the store", &self.root)(e)),
        }
    }

    /// Refuses what is no layout of a version that we know. A folder that is not there, or empty, will become one.
    pub fn check(&self) -> Result<()> {
        if self.is_layout()? || self.is_vacant()? {
            return Ok(());
        }
        // What is there may have been put there, behind the marker, by another process that is just making this store.
        match self.is_layout()? {
            true => Ok(()),
            false => Err(self.foreign("the folder holds other things and no oci-layout; name an empty or new one")),
        }
    }

    /// Whether the marker is there; one of another version is refused.
    fn is_layout(&self) -> Result<bool> {
        match layout_version(&self.root) {
            Ok(version) if version == VERSION => Ok(true),
            Ok(version) => Err(self.foreign(&format!(
                "it is an image layout of version {version:?}, and only {VERSION} is known; name another folder"
            ))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(self.foreign(&format!(
                "its file oci-layout is damaged ({e}); it should read {}",
                String::from_utf8_lossy(MARKER)
            ))),
            Err(e) => Err(Error::store("read", self.marker())(e)),
        }
    }

    /// Whether nothing is there but what a store begins with.
    fn is_vacant(&self) -> Result<bool> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(Error::store("use as a store", &self.root)(e)),
        };
        for entry in entries {
            let name = entry.map_err(Error::store("list", &self.root))?.file_name();
            if name != OWN && name != "lost+found" {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn foreign(&self, why: &str) -> Error {
        Error::Invalid { what: "store".into(), place: self.root.display().to_string(), why: why.into() }
    }

    /// Makes the layout if it is not there. The marker comes first: without it, a second start would see a foreign folder.
    pub fn create(&self) -> Result<()> {
        self.check()?;
        for folder in [self.partials(), self.root.join(OWN).join("locks"), self.temporary()] {
            fs::create_dir_all(&folder).map_err(Error::store("create", &folder))?;
        }
        if !self.marker().exists() {
            self.write_durably(&self.marker(), MARKER)?;
            // The folder itself is to survive, too.
            let above = self.root.parent().unwrap_or(&self.root);
            match sync_folder(above) {
                // A folder that we may pass through but not read.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced.map_err(Error::store("sync", above))?,
            }
        }
        self.create_blobs(Algorithm::Sha256).map(drop)
    }

    /// The folder of the blobs of one algorithm. It is made if it is not there, durably: a blob in it may have a name
    /// before the system writes the folder on its own account.
    pub fn create_blobs(&self, algorithm: Algorithm) -> Result<PathBuf> {
        let folder = self.blobs().join(algorithm.as_str());
        if !folder.is_dir() {
            fs::create_dir_all(&folder).map_err(Error::store("create", &folder))?;
            self.sync_above_blobs()?;
        }
        Ok(folder)
    }

    /// Makes the names of the folders durable that blobs are in.
    pub fn sync_above_blobs(&self) -> Result<()> {
        [self.blobs(), self.root.clone()].iter().try_for_each(|above| match sync_folder(above) {
            // Without a blob there is nothing to make durable.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced.map_err(Error::store("sync", above)),
        })
    }

    /// Puts `bytes` at `target` so that a reader, and the disk after a crash, has the old or the new file and nothing else.
    pub fn write_durably(&self, target: &Path, bytes: &[u8]) -> Result<()> {
        let folder = self.temporary();
        let write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new().prefix("new-").tempfile_in(&folder)?;
            file.write_all(bytes)?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            file.as_file().set_permissions(mode)?;
            file.as_file().sync_all()?;
            file.persist(target).map_err(|e| e.error)?;
            sync_folder(target.parent().unwrap_or(&self.root))
        };
        write().map_err(Error::store("write", target))
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Asks for the space now, so that a full disk is noticed before bytes travel, and the file lies in one piece.
pub(super) fn reserve(file: &File, size: u64) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
