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
    claims: BTreeMap<ClaimId, Claim>,
    next_id: ClaimId,
    /// The connection that brings everything, whatever range it asked for.
    whole: Option<ClaimId>,
    ignores_ranges: bool,
}

#[derive(Debug)]
struct Claim {
    /// What is still awaited.
    range: Range<u64>,
    /// The head of the answer has come: bytes may land at any moment.
    answered: bool,
}

impl Segments {
    /// All of `size` bytes but the `held` ranges is missing.
    pub(super) fn new(size: u64, held: impl IntoIterator<Item = Range<u64>>) -> Segments {
        let (missing, claims) = (BTreeMap::new(), BTreeMap::new());
        let mut segments = Segments { size, missing, claims, next_id: 0, whole: None, ignores_ranges: false };
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

    /// Takes the end of a claim away from its connection, a `part` of it but at least `least` bytes, and leaves as many.
    pub(super) fn split(&mut self, id: ClaimId, part: f64, least: u64) -> Option<(ClaimId, Range<u64>)> {
        let victim = &mut self.claims.get_mut(&id)?.range;
        let (length, least) = (victim.end - victim.start, least.max(1));
        if length / 2 < least {
            return None;
        }
        let count = ((length as f64 * part) as u64).clamp(least, length - least);
        let taken = victim.end - count..victim.end;
        victim.end = taken.start;
        Some((self.register(taken.clone()), taken))
    }

    /// The answer to a claim has begun.
    pub(super) fn answered(&mut self, id: ClaimId) {
        if let Some(claim) = self.claims.get_mut(&id) {
            claim.answered = true;
        }
    }

    /// The server sends everything from byte 0, although a range was asked for. One connection shall bring all of it:
    /// what is missing, and what others have asked for and got no answer to. Returns whether it is this one.
    pub(super) fn take_whole(&mut self, id: ClaimId) -> bool {
        self.ignores_ranges = true;
        if self.whole.is_some_and(|other| other != id) || !self.claims.contains_key(&id) {
            return false;
        }
        self.whole = Some(id);
        let mut open = Vec::new();
        for (_, claim) in self.claims.iter_mut().filter(|(other, claim)| **other == id || !claim.answered) {
            open.push(claim.range.clone());
            claim.range.end = claim.range.start;
        }
        open.into_iter().for_each(|range| self.add_missing(range));
        self.extend(id, 0)
    }

    /// The connection that brings everything is at offset `at`: what is missing behind that comes with it too.
    ///
    /// Returns whether the claim awaits anything now.
    pub(super) fn extend(&mut self, id: ClaimId, at: u64) -> bool {
        let Some(claim) = self.claims.get_mut(&id) else { return false };
        let is_done = claim.range.is_empty();
        let from = if is_done { at } else { claim.range.end };
        let next = self.missing.iter().map(|(start, end)| *start..*end).find(|run| run.end > from);
        let Some(run) = next.filter(|run| is_done || run.start == from) else { return !is_done };
        self.missing.remove(&run.start);
        let start = run.start.max(from);
        if run.start < start {
            self.missing.insert(run.start, start);
        }
        claim.range = if is_done { start..run.end } else { claim.range.start..run.end };
        true
    }

    /// Whether the server has sent everything where a range was asked for.
    pub(super) fn ignores_ranges(&self) -> bool {
        self.ignores_ranges
    }

    /// The bytes that the claim still waits for. Empty when it is done, or all was taken away.
    pub(super) fn awaited(&self, id: ClaimId) -> Range<u64> {
        self.claims.get(&id).map_or(0..0, |claim| claim.range.clone())
    }

    /// The first `count` awaited bytes of the claim are there now.
    pub(super) fn landed(&mut self, id: ClaimId, count: u64) {
        if let Some(claim) = self.claims.get_mut(&id) {
            claim.range.start = (claim.range.start + count).min(claim.range.end);
        }
    }

    /// The connection is done: what it did not bring is missing again.
    pub(super) fn release(&mut self, id: ClaimId) {
        if let Some(claim) = self.claims.remove(&id) {
            self.add_missing(claim.range);
        }
        if self.whole == Some(id) {
            self.whole = None;
        }
    }

    /// Bytes that were there turned out to be wrong.
    pub(super) fn lose(&mut self, range: Range<u64>) {
        self.add_missing(range.start..range.end.min(self.size));
    }

    /// The end of the run of bytes from zero that are all there.
    pub(super) fn frontier(&self) -> u64 {
        let missing = self.missing.keys().next().copied();
        let claimed = self.claims.values().map(|claim| &claim.range).filter(|range| !range.is_empty());
        let claimed = claimed.map(|range| range.start).min();
        missing.into_iter().chain(claimed).min().unwrap_or(self.size)
    }

    /// How many bytes nobody fetches.
    pub(super) fn unclaimed(&self) -> u64 {
        self.missing.iter().map(|(start, end)| end - start).sum()
    }

    fn register(&mut self, range: Range<u64>) -> ClaimId {
        self.next_id += 1;
        self.claims.insert(self.next_id, Claim { range, answered: false });
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
        assert_eq!(segments.split(id, 0.5, 41), None);
        let (_, taken) = segments.split(id, 0.5, 40).unwrap();
        assert_eq!(taken, 60..100);
        assert_eq!(segments.awaited(id), 20..60);
    }

    #[test]
    fn a_server_that_sends_everything_serves_one_gap_after_the_other() {
        let mut segments = Segments::new(100, std::iter::once(40..60));
        let (id, _) = segments.claim(10).unwrap();
        assert!(segments.take_whole(id));
        assert_eq!(segments.awaited(id), 0..40);
        segments.landed(id, 40);
        assert!(segments.extend(id, 40));
        assert_eq!(segments.awaited(id), 60..100);
        segments.landed(id, 40);
        assert!(!segments.extend(id, 100));
    }

    #[test]
    fn one_connection_brings_everything_and_takes_what_got_no_answer() {
        let mut segments = Segments::new(100, []);
        let ids: Vec<ClaimId> = (0..4).map(|_| segments.claim(25).unwrap().0).collect();
        segments.answered(ids[1]);
        segments.landed(ids[1], 5);
        segments.answered(ids[3]);
        assert!(segments.take_whole(ids[3]));
        assert_eq!(segments.awaited(ids[3]), 0..25);
        assert!(segments.awaited(ids[0]).is_empty() && segments.awaited(ids[2]).is_empty());
        assert!(!segments.take_whole(ids[0]));
        // The one that had its answer goes on; when it breaks behind the other's back, its rest is missing.
        segments.landed(ids[3], 25);
        assert!(segments.extend(ids[3], 25));
        assert_eq!(segments.awaited(ids[3]), 50..100);
        segments.landed(ids[3], 50);
        segments.release(ids[1]);
        assert!(!segments.extend(ids[3], 100));
        assert_eq!(segments.claim(100).unwrap().1, 30..50);
    }

    #[test]
    fn what_is_missing_behind_a_connection_is_not_taken_for_what_comes_next() {
        let mut segments = Segments::new(100, []);
        let (first, _) = segments.claim(50).unwrap();
        segments.answered(first);
        let (whole, _) = segments.claim(10).unwrap();
        assert!(segments.take_whole(whole));
        assert_eq!(segments.awaited(whole), 50..100);
        segments.landed(whole, 50);
        segments.release(first);
        assert!(segments.extend(whole, 20));
        assert_eq!(segments.awaited(whole), 20..50);
        assert_eq!(segments.unclaimed(), 20);
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
                        open.extend(segments.split(id, 0.5, n).map(|(id, _)| id));
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
