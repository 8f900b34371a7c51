//! Reading a blob out: whatever leaves the store whole is hashed on its way.

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::Store;
use crate::content::file::pieces;
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, Hasher};

struct Reading {
    pieces: BoxStream<'static, Result<Bytes>>,
    /// The piece that is not given out before it is known to be followed by another, or the digest agrees.
    last: Option<Bytes>,
    hasher: Option<Hasher>,
    blob: Descriptor,
    place: String,
}

impl Store {
    /// The bytes of a blob. The last piece comes only when the digest of all agrees; else the stream ends with `Verification`.
    ///
    /// # Errors
    /// `NotFound` when the blob is not here, `Verification` when its file has another size.
    pub fn read(&self, blob: &Descriptor) -> Result<BoxStream<'static, Result<Bytes>>> {
        let (file, identity) = self.disk.look(&blob.digest)?.ok_or_else(|| self.not_found(&blob.digest))?;
        let place = self.root().display().to_string();
        if identity.size() != blob.size {
            let why = format!("the file has {} bytes instead of {}", identity.size(), blob.size);
            return Err(Error::Verification { what: blob.digest.to_string(), place, why });
        }
        let reading = Reading {
            pieces: pieces(file, self.disk.paths.blob(&blob.digest), 0..blob.size),
            last: None,
            hasher: Some(Hasher::new(blob.digest.algorithm())),
            blob: blob.clone(),
            place,
        };
        Ok(stream::try_unfold(reading, Reading::next).boxed())
    }
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Reading)>> {
        while let Some(piece) = self.pieces.try_next().await? {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&piece);
            }
            if let Some(ready) = self.last.replace(piece) {
                return Ok(Some((ready, self)));
            }
        }
        if let Some(hasher) = self.hasher.take() {
            self.check(hasher.finish())?;
        }
        Ok(self.last.take().map(|last| (last, self)))
    }

    fn check(&self, found: Digest) -> Result<()> {
        match found == self.blob.digest {
            true => Ok(()),
            false => Err(Error::digest_mismatch(&self.place, &self.blob, &found)),
        }
    }
}
