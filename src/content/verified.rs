//! A whole blob on its way out: hashed as it passes, so that damaged bytes never arrive as if they were good.

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use crate::error::{Error, Result};
use crate::oci::{Descriptor, Hasher};

/// The bytes of all of `blob`, which come from `place`. The last piece comes only when size and digest agree; else the
/// stream ends with `Verification`, and whoever reads it has less than the whole.
pub fn verified(
    bytes: BoxStream<'static, Result<Bytes>>,
    blob: Descriptor,
    place: String,
) -> BoxStream<'static, Result<Bytes>> {
    let check = Check { hasher: Hasher::new(blob.digest.algorithm()), bytes, seen: 0, blob, place };
    stream::try_unfold(Some(check), |check| async move {
        match check {
            Some(check) => check.next().await,
            None => Ok(None),
        }
    })
    .boxed()
}

struct Check {
    bytes: BoxStream<'static, Result<Bytes>>,
    hasher: Hasher,
    seen: u64,
    blob: Descriptor,
    place: String,
}

impl Check {
    /// The next piece, and what checks those behind it; nothing when it was the last one.
    async fn next(mut self) -> Result<Option<(Bytes, Option<Check>)>> {
        let Some(piece) = self.bytes.next().await.transpose()? else {
            // Only an empty blob ends without a last piece.
            return self.agree().map(|()| None);
        };
        self.hasher.update(&piece);
        self.seen += piece.len() as u64;
        if self.seen < self.blob.size {
            return Ok(Some((piece, Some(self))));
        }
        self.agree()?;
        Ok(Some((piece, None)))
    }

    fn agree(&self) -> Result<()> {
        if self.seen != self.blob.size {
            return Err(self.spoiled(format!("it has {} bytes or more instead of {}", self.seen, self.blob.size)));
        }
        let found = self.hasher.clone().finish();
        match found == self.blob.digest {
            true => Ok(()),
            false => Err(self.spoiled(format!("its bytes have digest {found}"))),
        }
    }

    fn spoiled(&self, why: String) -> Error {
        let why = format!("{why}; `layerpull verify --repair` fetches it again");
        Error::Verification { what: self.blob.digest.to_string(), place: self.place.clone(), why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    /// How many bytes come, and whether they end well.
    async fn read(pieces: &[&'static [u8]], size: u64, digest: Digest) -> (usize, bool) {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect();
        let blob = Descriptor::new("application/octet-stream", digest, size);
        let mut bytes = verified(stream::iter(pieces).boxed(), blob, "a store".into());
        let mut count = 0;
        while let Some(piece) = bytes.next().await {
            match piece {
                Ok(piece) => count += piece.len(),
                Err(error) => {
                    assert!(matches!(error, Error::Verification { .. }), "{error}");
                    return (count, false);
                }
            }
        }
        (count, true)
    }

    #[tokio::test]
    async fn a_whole_blob_passes() {
        assert_eq!(read(&[b"ab", b"", b"cd"], 4, Digest::of(b"abcd")).await, (4, true));
        assert_eq!(read(&[], 0, Digest::of(b"")).await, (0, true));
    }

    #[tokio::test]
    async fn the_last_piece_of_a_spoiled_blob_does_not_come() {
        assert_eq!(read(&[b"ab", b"cX"], 4, Digest::of(b"abcd")).await, (2, false));
        assert_eq!(read(&[b"ab"], 4, Digest::of(b"abcd")).await, (2, false));
        assert_eq!(read(&[b"ab", b"cde"], 4, Digest::of(b"abcd")).await, (2, false));
        assert_eq!(read(&[], 0, Digest::of(b"abcd")).await, (0, false));
    }
}
