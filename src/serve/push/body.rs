//! Bodies of requests: bounded, and given up when nothing comes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::content::file::PIECE;
use crate::serve::failure::Failure;

/// How long nothing of a body may come.
const STALL: Duration = Duration::from_secs(60);
/// What is read of a body that nobody wants, so that a client which sends before it listens sees the answer.
const DRAIN: usize = 8 << 20;
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// The next bytes; `None` at the end.
pub(super) async fn next(body: &mut (impl Body<Data = Bytes> + Unpin)) -> Result<Option<Bytes>, Failure> {
    loop {
        let Ok(frame) = tokio::time::timeout(STALL, body.frame()).await else { return Err(Failure::stalled()) };
        match frame.transpose().map_err(|_| Failure::cut())? {
            None => return Ok(None),
            // Trailers say nothing here.
            Some(frame) => match frame.into_data() {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(_) => continue,
            },
        }
    }
}

/// A body of at most `limit` bytes.
pub(super) async fn whole(body: &mut Incoming, limit: u64) -> Result<Bytes, Failure> {
    let mut bytes = BytesMut::new();
    if body.size_hint().lower() > limit {
        return Err(Failure::too_large(limit));
    }
    while let Some(piece) = next(body).await? {
        if (bytes.len() + piece.len()) as u64 > limit {
            return Err(Failure::too_large(limit));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// Bytes gathered into pieces that are worth a write.
#[derive(Default)]
pub(super) struct Gathered(BytesMut);

impl Gathered {
    /// Takes bytes; gives a piece when there is one.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Option<Bytes> {
        self.0.extend_from_slice(bytes);
        (self.0.len() >= PIECE).then(|| self.0.split().freeze())
    }

    /// What is left.
    pub(super) fn rest(self) -> Bytes {
        self.0.freeze()
    }
}

/// Reads a little of what nobody wants.
pub(super) async fn drain(mut body: Incoming) {
    let rest = async {
        let mut seen = 0;
        while seen < DRAIN
            && let Ok(Some(piece)) = next(&mut body).await
        {
            seen += piece.len();
        }
    };
    // Longer than that nobody is waited for: then the connection ends.
    let _ = tokio::time::timeout(DRAIN_PATIENCE, rest).await;
}

/// Where a chunk belongs (distribution-spec, "Pushing a blob in chunks"): `Content-Range: FIRST-LAST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Offset of its first byte.
    pub(super) start: u64,
    /// How many bytes it has.
    pub(super) len: u64,
}

impl Chunk {
    /// `None` where the request does not say it: then the chunk belongs at the end of what is there.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Chunk>, Failure> {
        let Some(value) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
        let chunk = value.to_str().ok().and_then(Chunk::parse).ok_or_else(Failure::content_range)?;
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        match length.is_none_or(|length| length == chunk.len) {
            true => Ok(Some(chunk)),
            false => Err(Failure::content_range()),
        }
    }

    /// `FIRST-LAST`, and what HTTP writes where a client means that: `bytes FIRST-LAST/SIZE`.
    fn parse(text: &str) -> Option<Chunk> {
        let text = text.strip_prefix("bytes ").unwrap_or(text);
        let (first, last) = text.split('/').next()?.split_once('-')?;
        let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?;
        let (start, last) = (number(first)?, number(last)?);
        Some(Chunk { start, len: last.checked_sub(start)?.checked_add(1)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_body_of_which_nothing_comes_is_given_up() {
        let mut body =
            http_body_util::StreamBody::new(futures::stream::pending::<Result<hyper::body::Frame<_>, String>>());
        let before = Instant::now();
        assert_eq!(next(&mut body).await.unwrap_err().status(), 408);
        assert_eq!(before.elapsed(), STALL);
    }

    #[test]
    fn only_a_range_that_makes_sense_is_one() {
        assert_eq!(Chunk::parse("0-0"), Some(Chunk { start: 0, len: 1 }));
        assert_eq!(Chunk::parse("bytes 5-9/*"), Some(Chunk { start: 5, len: 5 }));
        for text in
            ["", "-", "1", "5-4", "+1-2", "a-b", "-5", "0-18446744073709551615", "0-99999999999999999999", " 0-1"]
        {
            assert_eq!(Chunk::parse(text), None, "{text}");
        }
    }
}
