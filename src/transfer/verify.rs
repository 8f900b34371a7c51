//! The hasher of one blob, which follows the frontier: the end of the bytes from zero that are all there.
//!
//! Bytes that land at the frontier are hashed from the buffer in hand. What landed ahead of it, what came faster than
//! it could be hashed, and what a former process wrote, is read back.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::segments::Segments;
use crate::content::Ingest;
use crate::error::{Error, Fault, Result};
use crate::oci::{Descriptor, Digest, Hasher};

/// Bytes of one blob that may wait in memory to be hashed.
const IN_HAND: usize = 512 * 1024;
/// Bytes that are read back at once.
const READ_BACK: usize = 256 * 1024;

/// Where connections hand over what they have written.
#[derive(Default)]
pub(super) struct Verifier {
    queue: Mutex<Queue>,
    landed: Notify,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// Everything before this offset is hashed, in `pieces`, or about to be read back.
    end: u64,
}

impl Verifier {
    /// Bytes at `offset` are written. They are kept for hashing only if they continue what is in hand.
    pub(super) fn hand(&self, offset: u64, bytes: Bytes) {
        let mut queue = self.queue();
        if offset == queue.end && queue.bytes + bytes.len() <= IN_HAND {
            queue.end += bytes.len() as u64;
            queue.bytes += bytes.len();
            queue.pieces.push_back(bytes);
        }
    }

    /// The frontier may have moved.
    pub(super) fn wake(&self) {
        self.landed.notify_one();
    }

    /// Hashes the blob as it grows and returns its digest once every byte is there.
    pub(super) async fn follow(
        &self,
        blob: &Descriptor,
        segments: &Mutex<Segments>,
        ingest: &dyn Ingest,
    ) -> Result<Digest> {
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let mut position = 0;
        let mut buffer = Vec::new();
        *self.queue() = Queue::default();
        while position < blob.size {
            if let Some(piece) = self.pop() {
                hasher.update(&piece);
                position += piece.len() as u64;
                tokio::task::yield_now().await;
                continue;
            }
            let there = lock(segments).frontier();
            let count = self.reserve(position, there);
            if count == 0 {
                self.landed.notified().await;
                continue;
            }
            buffer.resize(READ_BACK, 0);
            read_exactly(ingest, blob, position, &mut buffer[..count]).await?;
            hasher.update(&buffer[..count]);
            position += count as u64;
        }
        Ok(hasher.finish())
    }

    fn pop(&self) -> Option<Bytes> {
        let mut queue = self.queue();
        let piece = queue.pieces.pop_front()?;
        queue.bytes -= piece.len();
        Some(piece)
    }

    /// Decides how many bytes at `position` are read back: none if the next ones are in hand.
    fn reserve(&self, position: u64, there: u64) -> usize {
        let mut queue = self.queue();
        if !queue.pieces.is_empty() {
            // Wake at once: they came between the two looks.
            self.landed.notify_one();
            return 0;
        }
        let count = there.saturating_sub(position).min(READ_BACK as u64);
        queue.end = position + count;
        count as usize
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

/// Locks whatever happened to the last holder: the data behind these locks is valid at every point.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read_exactly(ingest: &dyn Ingest, blob: &Descriptor, offset: u64, buffer: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match ingest.read_at(offset + filled as u64, &mut buffer[filled..]).await? {
            0 => {
                let fault = Fault::Length { got: offset + filled as u64, expected: blob.size };
                return Err(Error::network("partial blob", &blob.digest, fault));
            }
            count => filled += count,
        }
    }
    Ok(())
}
