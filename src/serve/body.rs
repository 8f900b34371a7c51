//! Bodies of answers. A blob that is read whole is hashed on its way out.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use crate::content;
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Hasher};

pub(super) type Body = UnsyncBoxBody<Bytes, Error>;

/// A body that is in memory.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A part of a blob, as it lies in the store: the digest of the whole says nothing about it.
pub(super) fn part(body: content::Body) -> Body {
    stream(body.bytes)
}

/// A whole blob. Its last piece is sent only when size and digest agree: else the connection ends, and the client has
/// a body that is too short.
pub(super) fn verified(body: content::Body, blob: Descriptor, place: String) -> Body {
    let check = Check { hasher: Hasher::new(blob.digest.algorithm()), bytes: body.bytes, seen: 0, blob, place };
    stream(futures::stream::try_unfold(Some(check), |check| async move {
        match check {
            Some(check) => check.next().await,
            None => Ok(None),
        }
    }))
}

fn stream(bytes: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Body {
    let bytes = bytes.inspect_err(|error| tracing::error!("a blob cannot be sent: {error}"));
    StreamBody::new(bytes.map_ok(Frame::data)).boxed_unsync()
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
            return Err(self.spoiled(format!("it has {} bytes instead of {}", self.seen, self.blob.size)));
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
        let found = self.hasher.clone().finish();
        if self.seen > self.blob.size {
            return Err(self.spoiled(format!("it has more than {} bytes", self.blob.size)));
        }
        match found == self.blob.digest {
            true => Ok(()),
            false => Err(self.spoiled(format!("its bytes have digest {found}"))),
        }
    }

    fn spoiled(&self, why: String) -> Error {
        let what = self.blob.digest.to_string();
        Error::Verification {
            what,
            place: self.place.clone(),
            why: format!("{why}; `layerpull verify --repair` fetches it again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    async fn sent(pieces: &[&'static [u8]], size: u64, digest: Digest) -> (usize, bool) {
        let bytes = futures::stream::iter(pieces.iter().map(|p| Ok(Bytes::from_static(p))).collect::<Vec<_>>()).boxed();
        let body = content::Body { start: 0, end: None, extent: content::Extent::Range, bytes };
        let blob = Descriptor::new("application/octet-stream", digest, size);
        let mut body = verified(body, blob, "a store".into());
        let mut count = 0;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => count += frame.into_data().unwrap().len(),
                Err(_) => return (count, false),
            }
        }
        (count, true)
    }

    #[tokio::test]
    async fn a_whole_blob_passes() {
        assert_eq!(sent(&[b"ab", b"", b"cd"], 4, Digest::of(b"abcd")).await, (4, true));
    }

    #[tokio::test]
    async fn the_last_piece_of_a_spoiled_blob_is_not_sent() {
        assert_eq!(sent(&[b"ab", b"cX"], 4, Digest::of(b"abcd")).await, (2, false));
        assert_eq!(sent(&[b"ab"], 4, Digest::of(b"abcd")).await, (2, false));
        assert_eq!(sent(&[b"ab", b"cde"], 4, Digest::of(b"abcd")).await, (2, false));
    }
}
