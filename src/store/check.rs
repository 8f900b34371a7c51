//! Whether a blob in its place is what its digest names: by its record if nobody wrote to it since, else by hashing.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use super::lock::Passing;
use super::verified::Identity;
use super::{Disk, Store, Touch, off};
use crate::content::file::PIECE;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::oci::{Descriptor, Digest, Hasher};

impl Store {
    /// Whether the blob is here and verified. One that is damaged is removed, so that it is fetched again.
    ///
    /// # Errors
    /// `Invalid` when the blob is good but `blob` states another size: then the descriptor lies, not the disk.
    pub(super) async fn whole(&self, blob: &Descriptor) -> Result<bool> {
        let Some((file, identity)) = self.disk.look(&blob.digest)? else { return Ok(false) };
        if !self.disk.verified.agrees(&blob.digest, &identity) {
            let (disk, digest, cancel) = (self.disk.clone(), blob.digest.clone(), self.cancel.clone());
            let found = match self.touch {
                Touch::Records => off(move || disk.hash(&digest, file, identity, &cancel)).await?,
                Touch::Nothing => off(move || disk.read_digest(&digest, file, &cancel)).await?,
            };
            if found != blob.digest {
                let text = format!("the blob {} in {} is damaged", blob.digest, self.root().display());
                self.events.on(&Event::Warning { text });
                if self.touch == Touch::Records {
                    self.disk.discard(&blob.digest, &identity)?;
                }
                return Ok(false);
            }
        }
        match identity.size() == blob.size {
            true => Ok(true),
            false => Err(self.wrong_size(blob, identity.size())),
        }
    }

    fn wrong_size(&self, blob: &Descriptor, found: u64) -> Error {
        let why = format!("the descriptor states {} bytes, but the blob of this digest has {found}", blob.size);
        Error::Invalid { what: blob.digest.to_string(), place: self.root().display().to_string(), why }
    }
}

impl Disk {
    /// Opens the file of a blob, if there is one.
    pub(super) fn look(&self, digest: &Digest) -> Result<Option<(File, Identity)>> {
        let Some(folder) = self.folder()? else { return Ok(None) };
        let look = || -> io::Result<_> {
            let file = folder.blob(digest)?;
            let identity = Identity::of(&file.metadata()?);
            Ok((file, identity))
        };
        match look() {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::store("open the blob", self.paths.blob(digest))(e)),
        }
    }

    /// The digest of a file; recorded if it is `expected` and nobody wrote meanwhile.
    ///
    /// # Errors
    /// `Store` when it cannot be read; `Interrupted`.
    pub(super) fn hash(
        &self,
        expected: &Digest,
        file: File,
        as_found: Identity,
        cancel: &CancellationToken,
    ) -> Result<Digest> {
        let racy = as_found.is_racy(SystemTime::now());
        let path = self.paths.blob(expected);
        let again = file.try_clone().map_err(Error::store("examine", &path))?;
        let found = self.read_digest(expected, file, cancel)?;
        let unchanged = Identity::of(&again.metadata().map_err(Error::store("examine", &path))?) == as_found;
        if found == *expected && unchanged && !racy {
            self.verified.remember(expected, as_found);
        }
        Ok(found)
    }

    /// The digest of a file that should be `expected`.
    fn read_digest(&self, expected: &Digest, mut file: File, cancel: &CancellationToken) -> Result<Digest> {
        let path = self.paths.blob(expected);
        let mut hasher = Hasher::new(expected.algorithm());
        let mut buffer = vec![0; PIECE];
        loop {
            match file.read(&mut buffer).map_err(Error::store("read", &path))? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
            if cancel.is_cancelled() {
                return Err(Error::Interrupted);
            }
        }
        Ok(hasher.finish())
    }

    /// Removes the file of a blob if it is still the one that was found damaged, and nobody is replacing it.
    pub(super) fn discard(self: &Arc<Self>, digest: &Digest, damaged: &Identity) -> Result<()> {
        self.create()?;
        let (path, lock) = (self.paths.blob(digest), self.paths.partial_lock(digest));
        let Some(_lock) = Passing::take(lock.clone()).map_err(Error::store("lock", lock))? else { return Ok(()) };
        let same = std::fs::symlink_metadata(&path).is_ok_and(|meta| Identity::of(&meta) == *damaged);
        match same {
            true => super::layout::remove(&path).map_err(Error::store("remove the damaged blob", &path)),
            false => Ok(()),
        }
    }
}
