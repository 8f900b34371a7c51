//! What a caller wrote of a blob: its hash, and the last bytes, which may have to be sent again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::oci::{Algorithm, Digest, Hasher};

/// Bytes that are kept to be sent again: more than a connection and the system have on their way.
pub(super) const TAIL: u64 = 4 * 1024 * 1024;

/// The bytes of a blob so far.
pub(super) struct Written {
    algorithm: Algorithm,
    hasher: Hasher,
    offset: Arc<AtomicU64>,
    tail: VecDeque<Bytes>,
    tail_length: u64,
    mark: Mark,
}

/// A place from which the hash can go on.
#[derive(Clone)]
pub(super) struct Mark {
    pub(super) offset: u64,
    pub(super) hasher: Hasher,
}

impl Written {
    /// Nothing yet. `offset` will say how much is written.
    pub(super) fn new(algorithm: Algorithm, offset: Arc<AtomicU64>) -> Written {
        let mark = Mark { offset: 0, hasher: Hasher::new(algorithm) };
        Written::from(algorithm, mark, offset)
    }

    /// What a former process wrote.
    pub(super) fn from(algorithm: Algorithm, mark: Mark, offset: Arc<AtomicU64>) -> Written {
        offset.store(mark.offset, Ordering::Relaxed);
        Written { algorithm, hasher: mark.hasher.clone(), offset, tail: VecDeque::new(), tail_length: 0, mark }
    }

    /// How many bytes are written.
    pub(super) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// Takes the next bytes.
    pub(super) fn take(&mut self, bytes: Bytes) {
        self.hasher.update(&bytes);
        let length = bytes.len() as u64;
        self.tail.push_back(bytes);
        self.tail_length += length;
        while let Some(first) = self.tail.front().map(|first| first.len() as u64)
            && self.tail_length - first >= TAIL
        {
            self.tail.pop_front();
            self.tail_length -= first;
        }
        self.offset.fetch_add(length, Ordering::Relaxed);
    }

    /// At most `limit` bytes from `offset` on, if they are still there.
    pub(super) fn again(&self, offset: u64, limit: u64) -> Option<Bytes> {
        let into = |n: u64| usize::try_from(n).ok();
        let mut end = self.offset();
        // Nearly always it is the last piece.
        for piece in self.tail.iter().rev() {
            let start = end - piece.len() as u64;
            if (start..end).contains(&offset) {
                return Some(piece.slice(into(offset - start)?..into(end.min(offset.saturating_add(limit)) - start)?));
            }
            end = start;
        }
        None
    }

    /// Another process may go on from here.
    pub(super) fn mark(&mut self) {
        self.mark = Mark { offset: self.offset(), hasher: self.hasher.clone() };
    }

    /// The last place that was marked.
    pub(super) fn marked(&self) -> &Mark {
        &self.mark
    }

    /// Steps back until the bytes from `to` on can be sent: not at all where the tail reaches, else to the mark, else to
    /// the beginning. So every byte that is sent was hashed, and every byte before it.
    pub(super) fn rewind(&mut self, to: u64) {
        if to >= self.offset() - self.tail_length {
            return;
        }
        let offset = self.offset.clone();
        *self = match self.mark.offset <= to {
            true => Written::from(self.algorithm, self.mark.clone(), offset),
            false => Written::new(self.algorithm, offset),
        };
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Written::new(self.algorithm, self.offset.clone());
    }

    /// The digest of all bytes.
    pub(super) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn written(mib: u64) -> Written {
        let mut written = Written::new(Algorithm::Sha256, Arc::default());
        (0..mib).for_each(|i| written.take(Bytes::from(vec![i as u8; MIB as usize])));
        written
    }

    #[test]
    fn the_tail_is_bounded_and_gives_bytes_again() {
        let written = written(9);
        assert_eq!(written.offset(), 9 * MIB);
        assert_eq!(written.tail_length, TAIL);
        assert_eq!(written.again(5 * MIB - 1, 8), None);
        assert_eq!(written.again(5 * MIB, 8).unwrap(), vec![5; 8]);
        assert_eq!(written.again(6 * MIB - 3, 8).unwrap(), vec![5; 3]);
        assert_eq!(written.again(9 * MIB, 8), None);
    }

    #[test]
    fn it_steps_back_to_the_tail_to_the_mark_or_to_the_beginning() {
        for (mark, to, expected) in [(2, 9, 9), (2, 5, 9), (2, 4, 2), (2, 2, 2), (2, 1, 0), (0, 4, 0), (2, 12, 9)] {
            let mut written = written(mark);
            written.mark();
            (mark..9).for_each(|i| written.take(Bytes::from(vec![i as u8; MIB as usize])));
            written.rewind(to * MIB);
            assert_eq!(written.offset(), expected * MIB, "{mark} {to}");
            (expected..9).for_each(|i| written.take(Bytes::from(vec![i as u8; MIB as usize])));
            assert_eq!(written.digest(), self::written(9).digest());
        }
    }
}
