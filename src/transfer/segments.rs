//! The ranges of one blob: which are missing, which are claimed by a connection, which are there.

use std::collections::BTreeMap;
use std::ops::Range;

/// Names a claim.
pub(super) type ClaimId = u64;

/// The ranges of one blob. Whatever is neither missing nor claimed is there.
#[derive(Debug)]
pub(super) struct Segments {
    size: u64,
    /// Start to end of the ranges that nobody fetches; sorted, apart, never empty.
    missing: BTreeMap<u64, u64>,
    claims: BTreeMap<ClaimId, Range<u64>>,
    next_id: ClaimId,
}

impl Segments {
    /// All of `size` bytes but the `held` ranges is missing.
    pub(super) fn new(size: u64, held: impl IntoIterator<Item = Range<u64>>) -> Segments {
        let mut segments = Segments { size, missing: BTreeMap::new(), claims: BTreeMap::new(), next_id: 0 };
        if size > 0 {
            segments.missing.insert(0, size);
        }
        for range in held {
            segments.remove(range);
        }
        segments
    }

    /// Gives the lowest missing bytes, at most `limit` of them, to a connection.
    pub(super) fn claim(&mut self, limit: u64) -> Option<(ClaimId, Range<u64>)> {
        let (start, end) = self.missing.pop_first()?;
        let cut = start.saturating_add(limit.max(1)).min(end);
        if cut < end {
            self.missing.insert(cut, end);
        }
        Some((self.register(start..cut), start..cut))
    }

    /// Takes the second half of a claim away from its connection, if each half has at least `least` bytes.
    pub(super) fn split(&mut self, id: ClaimId, least: u64) -> Option<(ClaimId, Range<u64>)> {
        let victim = self.claims.get_mut(&id)?;
        let half = (victim.end - victim.start) / 2;
        if half < least.max(1) {
            return None;
        }
        let taken = victim.end - half..victim.end;
        victim.end = taken.start;
        Some((self.register(taken.clone()), taken))
    }

    /// The server sends everything although a range was asked for: the next missing bytes come with it too.
    ///
    /// Returns whether the claim awaits anything now.
    pub(super) fn extend(&mut self, id: ClaimId) -> bool {
        let Some(claim) = self.claims.get_mut(&id) else { return false };
        let Some((start, end)) = self.missing.range(claim.end..).next().map(|(start, end)| (*start, *end)) else {
            return !claim.is_empty();
        };
        if claim.is_empty() {
            claim.start = start;
        }
        if claim.end == start || claim.start == start {
            self.missing.remove(&start);
            claim.end = end;
        }
        true
    }

    /// The bytes that the claim still waits for. Empty when it is done, or all was taken away.
    pub(super) fn awaited(&self, id: ClaimId) -> Range<u64> {
        self.claims.get(&id).cloned().unwrap_or(0..0)
    }

    /// The first `count` awaited bytes of the claim are there now.
    pub(super) fn landed(&mut self, id: ClaimId, count: u64) {
        if let Some(claim) = self.claims.get_mut(&id) {
            claim.start = (claim.start + count).min(claim.end);
        }
    }

    /// The connection is done: what it did not bring is missing again.
    pub(super) fn release(&mut self, id: ClaimId) {
        if let Some(rest) = self.claims.remove(&id) {
            self.add_missing(rest);
        }
    }

    /// Bytes that were there turned out to be wrong.
    pub(super) fn lose(&mut self, range: Range<u64>) {
        self.add_missing(range.start..range.end.min(self.size));
    }

    /// The end of the run of bytes from zero that are all there.
    pub(super) fn frontier(&self) -> u64 {
        let missing = self.missing.keys().next().copied();
        let claimed = self.claims.values().filter(|range| !range.is_empty()).map(|range| range.start).min();
        missing.into_iter().chain(claimed).min().unwrap_or(self.size)
    }

    /// How many bytes nobody fetches.
    pub(super) fn unclaimed(&self) -> u64 {
        self.missing.iter().map(|(start, end)| end - start).sum()
    }

    /// How many connections are at work.
    pub(super) fn claims(&self) -> usize {
        self.claims.len()
    }

    fn register(&mut self, range: Range<u64>) -> ClaimId {
        self.next_id += 1;
        self.claims.insert(self.next_id, range);
        self.next_id
    }

    fn add_missing(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let touching = self.missing.range(..=range.end).filter(|(_, end)| **end >= range.start);
        let touching: Vec<Range<u64>> = touching.map(|(start, end)| *start..*end).collect();
        let mut joined = range;
        for old in touching {
            self.missing.remove(&old.start);
            joined = joined.start.min(old.start)..joined.end.max(old.end);
        }
        self.missing.insert(joined.start, joined.end);
    }

    fn remove(&mut self, range: Range<u64>) {
        let touched = self.missing.range(..range.end).filter(|(_, end)| **end > range.start);
        let touched: Vec<Range<u64>> = touched.map(|(start, end)| *start..*end).collect();
        for old in touched {
            self.missing.remove(&old.start);
            self.add_missing(old.start..range.start.min(old.end));
            self.add_missing(range.end.max(old.start)..old.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_held_is_not_claimed() {
        let mut segments = Segments::new(100, [10..20, 50..100]);
        assert_eq!(segments.unclaimed(), 40);
        assert_eq!(segments.claim(1000).unwrap().1, 0..10);
        assert_eq!(segments.claim(5).unwrap().1, 20..25);
        assert_eq!(segments.claim(1000).unwrap().1, 25..50);
        assert_eq!(segments.claim(1), None);
    }

    #[test]
    fn a_released_claim_leaves_only_what_it_did_not_bring() {
        let mut segments = Segments::new(100, []);
        let (id, _) = segments.claim(100).unwrap();
        segments.landed(id, 60);
        assert_eq!(segments.frontier(), 60);
        segments.release(id);
        assert_eq!(segments.claim(100).unwrap().1, 60..100);
    }

    #[test]
    fn a_claim_is_split_and_its_connection_sees_a_nearer_end() {
        let mut segments = Segments::new(100, []);
        let (id, _) = segments.claim(100).unwrap();
        segments.landed(id, 20);
        assert_eq!(segments.split(id, 41), None);
        let (_, taken) = segments.split(id, 40).unwrap();
        assert_eq!(taken, 60..100);
        assert_eq!(segments.awaited(id), 20..60);
    }

    #[test]
    fn a_server_that_sends_everything_serves_one_gap_after_the_other() {
        let mut segments = Segments::new(100, std::iter::once(40..60));
        let (id, _) = segments.claim(10).unwrap();
        assert!(segments.extend(id));
        assert_eq!(segments.awaited(id), 0..40);
        segments.landed(id, 40);
        assert!(segments.extend(id));
        assert_eq!(segments.awaited(id), 60..100);
        segments.landed(id, 40);
        assert!(!segments.extend(id));
    }

    #[test]
    fn an_empty_blob_is_complete_at_once() {
        assert_eq!(Segments::new(0, []).claim(1), None);
        assert_eq!(Segments::new(0, []).frontier(), 0);
    }

    proptest! {
        #[test]
        fn every_byte_is_fetched_exactly_once(
            size in 1u64..2000,
            held in proptest::collection::vec((0u64..2000, 0u64..300), 0..5),
            steps in proptest::collection::vec((0u8..4, 1u64..200), 0..200),
        ) {
            let held: Vec<_> = held.into_iter().map(|(a, n)| a.min(size)..(a + n).min(size)).collect();
            let mut times = vec![0u32; size as usize];
            for range in &held {
                for byte in range.clone() { times[byte as usize] = 1; }
            }
            let mut segments = Segments::new(size, held);
            let mut open = Vec::new();
            let mut land = |segments: &mut Segments, id: ClaimId, count: u64| {
                let awaited = segments.awaited(id);
                let count = count.min(awaited.end - awaited.start);
                for byte in awaited.start..awaited.start + count { times[byte as usize] += 1; }
                segments.landed(id, count);
            };
            for (step, n) in steps {
                match step {
                    0 => open.extend(segments.claim(n).map(|(id, _)| id)),
                    1 => if let Some(&id) = open.get(n as usize % open.len().max(1)) {
                        open.extend(segments.split(id, n).map(|(id, _)| id));
                    },
                    2 => if let Some(&id) = open.get(n as usize % open.len().max(1)) { land(&mut segments, id, n) },
                    _ => if !open.is_empty() {
                        let id = open.swap_remove(n as usize % open.len());
                        segments.release(id);
                    },
                }
            }
            for id in open { segments.release(id); }
            while let Some((id, _)) = segments.claim(100) {
                land(&mut segments, id, 100);
                segments.release(id);
            }
            prop_assert_eq!(segments.frontier(), size);
            prop_assert!(times.iter().all(|&n| n == 1));
        }
    }
}
