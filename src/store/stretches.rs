//! What a partial blob holds: a table of stretches, kept in step with the journal on disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::journal::{Journal, MAX_SLOTS, Slot};
use crate::content::{Provenance, Stretch};

/// The least that a stretch may grow to, in bytes: a finer one costs slots, a coarser one makes more bytes suspect at once.
const MIN_CAP: u64 = 16 * 1024 * 1024;

/// The stretches of one blob, sorted and without overlap.
#[derive(Debug)]
pub(super) struct Stretches {
    table: BTreeMap<u64, Kept>,
    journal: Journal,
    free: Vec<u32>,
    next: u32,
    cap: u64,
    boot: u64,
}

#[derive(Debug, Clone)]
struct Kept {
    /// Where the journal keeps it; `None` when the journal is full, and then it does not outlive the process.
    index: Option<u32>,
    slot: Slot,
}

impl Kept {
    fn end(&self) -> u64 {
        self.slot.start + self.slot.len
    }
}

/// A stretch with its checksum at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sum {
    pub start: u64,
    pub len: u64,
    pub crc: u32,
    pub provenance: Provenance,
}

impl Sum {
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + self.len
    }
}

/// The slots that count, sorted; of two that overlap the longer one.
pub(super) fn without_overlap(mut slots: Vec<(u32, Slot)>) -> Vec<(u32, Slot)> {
    slots.sort_by_key(|(_, slot)| (std::cmp::Reverse(slot.len), slot.start));
    let mut kept: BTreeMap<u64, (u32, Slot)> = BTreeMap::new();
    for (index, slot) in slots {
        let before = kept.range(..slot.start + slot.len).next_back();
        if before.is_none_or(|(_, (_, other))| other.start + other.len <= slot.start) {
            kept.insert(slot.start, (index, slot));
        }
    }
    kept.into_values().collect()
}

impl Stretches {
    /// Takes up what a former process left in `slots`, of a data file of `file_len` bytes.
    pub fn load(
        journal: Journal,
        slots: Vec<(u32, Slot)>,
        boot: u64,
        file_len: u64,
        size: u64,
    ) -> io::Result<Stretches> {
        let next = slots.iter().map(|(index, _)| index + 1).max().unwrap_or(0);
        let used: std::collections::BTreeSet<u32> = slots.iter().map(|(index, _)| *index).collect();
        let surviving = slots.into_iter().filter_map(|(i, slot)| Some((i, slot.surviving(boot, file_len, size)?)));
        let kept = without_overlap(surviving.collect());
        let cap = MIN_CAP.max(size / 1024);
        let mut stretches = Stretches { table: BTreeMap::new(), journal, free: Vec::new(), next, cap, boot };
        for (index, slot) in kept {
            stretches.journal.put(index, &Slot { boot, ..slot.clone() })?;
            stretches.table.insert(slot.start, Kept { index: Some(index), slot: Slot { boot, ..slot } });
        }
        let kept: std::collections::BTreeSet<u32> = stretches.table.values().filter_map(|k| k.index).collect();
        for index in (0..next).filter(|index| !kept.contains(index)) {
            if used.contains(&index) {
                stretches.journal.free(index)?;
            }
            stretches.free.push(index);
        }
        Ok(stretches)
    }

    /// What is there, for the engine.
    pub fn list(&self) -> Vec<Stretch> {
        let stretch = |sum: Sum| Stretch { range: sum.range(), provenance: sum.provenance };
        self.sums().into_iter().map(stretch).collect()
    }

    /// What is there, with checksums.
    pub fn sums(&self) -> Vec<Sum> {
        self.table.values().map(|Kept { slot, .. }| sum_of(slot)).collect()
    }

    /// Takes out the stretches that touch `range`.
    pub fn take(&mut self, range: &Range<u64>) -> io::Result<Vec<Sum>> {
        let first = self.table.range(..=range.start).next_back().filter(|(_, kept)| kept.end() > range.start);
        let from = first.map_or(range.start, |(&start, _)| start);
        let touched: Vec<u64> = self.table.range(from..range.end.max(from)).map(|(&start, _)| start).collect();
        touched.into_iter().filter_map(|start| self.remove(start).transpose()).collect()
    }

    fn remove(&mut self, start: u64) -> io::Result<Option<Sum>> {
        let Some(kept) = self.table.remove(&start) else { return Ok(None) };
        if let Some(index) = kept.index {
            self.journal.free(index)?;
            self.free.push(index);
        }
        Ok(Some(sum_of(&kept.slot)))
    }

    /// Notes bytes that are in the data file now. They touch no other stretch but at its ends.
    pub fn add(&mut self, sum: Sum) -> io::Result<()> {
        let before = self.table.range_mut(..sum.start).next_back().map(|(_, kept)| kept);
        let grown = before.filter(|kept| {
            kept.end() == sum.start && kept.slot.provenance == sum.provenance && kept.slot.len + sum.len <= self.cap
        });
        if let Some(kept) = grown {
            kept.slot.crc = joined(kept.slot.crc, sum.crc, sum.len);
            kept.slot.len += sum.len;
            return kept.index.map_or(Ok(()), |index| self.journal.put(index, &kept.slot));
        }
        let index = self.claim()?;
        let slot = Slot {
            start: sum.start,
            len: sum.len,
            crc: sum.crc,
            provenance: sum.provenance,
            durable_len: 0,
            durable_crc: 0,
            boot: self.boot,
        };
        if let Some(index) = index {
            self.journal.put(index, &slot)?;
        }
        self.table.insert(sum.start, Kept { index, slot });
        Ok(())
    }

    fn claim(&mut self) -> io::Result<Option<u32>> {
        if self.free.is_empty() && self.next == MAX_SLOTS {
            self.merge()?;
        }
        if let Some(index) = self.free.pop() {
            return Ok(Some(index));
        }
        let index = (self.next < MAX_SLOTS).then_some(self.next);
        self.next += u32::from(index.is_some());
        Ok(index)
    }

    /// Joins neighbours of one provenance, whatever their size, to get slots back.
    fn merge(&mut self) -> io::Result<()> {
        let starts: Vec<u64> = self.table.keys().copied().collect();
        let mut into: Option<u64> = None;
        for start in starts {
            match into.and_then(|into| self.joint(into, start)) {
                Some((index, slot)) => {
                    // The longer one first: a crash between the two leaves an overlap, which loading resolves.
                    self.journal.put(index, &slot)?;
                    self.remove(start)?;
                    self.table.insert(slot.start, Kept { index: Some(index), slot });
                }
                None => into = Some(start),
            }
        }
        Ok(())
    }

    fn joint(&self, left: u64, right: u64) -> Option<(u32, Slot)> {
        let (left, right) = (self.table.get(&left)?, self.table.get(&right)?);
        let index = left.index?;
        if left.end() != right.slot.start || left.slot.provenance != right.slot.provenance {
            return None;
        }
        let mut slot = left.slot.clone();
        if slot.durable_len == slot.len && right.slot.durable_len > 0 {
            slot.durable_crc = joined(slot.crc, right.slot.durable_crc, right.slot.durable_len);
            slot.durable_len += right.slot.durable_len;
        }
        slot.crc = joined(slot.crc, right.slot.crc, right.slot.len);
        slot.len += right.slot.len;
        Some((index, slot))
    }

    /// Notes that the bytes which were there when `synced` was taken are on the disk.
    ///
    /// Returns the journal, which is to be synced then.
    pub fn mark_durable(&mut self, synced: &[Sum]) -> io::Result<Arc<File>> {
        for sum in synced {
            let Some(kept) = self.table.get_mut(&sum.start) else { continue };
            if kept.slot.len < sum.len || kept.slot.durable_len >= sum.len {
                continue;
            }
            kept.slot.durable_len = sum.len;
            kept.slot.durable_crc = sum.crc;
            if let Some(index) = kept.index {
                self.journal.put(index, &kept.slot)?;
            }
        }
        Ok(self.journal.handle())
    }

    /// Forgets all: nobody knows what the disk has.
    pub fn clear(&mut self) -> io::Result<()> {
        self.table.clear();
        self.free.clear();
        self.next = 0;
        self.journal.clear()
    }
}

fn sum_of(slot: &Slot) -> Sum {
    Sum { start: slot.start, len: slot.len, crc: slot.crc, provenance: slot.provenance }
}

/// The checksum of two runs of bytes, the second of `len` bytes.
pub(super) fn joined(first: u32, second: u32, len: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(first);
    hasher.combine(&crc32fast::Hasher::new_with_initial_len(second, len));
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &[u8] = b"the quick brown fox jumps over the lazy dog";

    fn sum(range: Range<usize>, provenance: Provenance) -> Sum {
        let bytes = &BYTES[range.clone()];
        Sum { start: range.start as u64, len: bytes.len() as u64, crc: crc32fast::hash(bytes), provenance }
    }

    fn empty(dir: &tempfile::TempDir) -> Stretches {
        let (journal, slots) = Journal::open(&dir.path().join("journal"), 1 << 40).unwrap();
        Stretches::load(journal, slots, 1, 1 << 40, 1 << 40).unwrap()
    }

    #[test]
    fn neighbours_of_one_provenance_are_one_stretch_with_one_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let mut stretches = empty(&dir);
        stretches.add(sum(0..4, Provenance::Registry)).unwrap();
        stretches.add(sum(4..20, Provenance::Registry)).unwrap();
        stretches.add(sum(20..30, Provenance::Mirror)).unwrap();
        stretches.add(sum(40..43, Provenance::Mirror)).unwrap();
        let expected =
            vec![sum(0..20, Provenance::Registry), sum(20..30, Provenance::Mirror), sum(40..43, Provenance::Mirror)];
        assert_eq!(stretches.sums(), expected);
        drop(stretches);
        assert_eq!(empty(&dir).sums(), expected);
    }

    #[test]
    fn what_touches_a_range_is_taken_out_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut stretches = empty(&dir);
        for range in [0..10, 12..20, 20..25, 30..40] {
            let odd = if range.start == 20 { Provenance::Local } else { Provenance::Registry };
            stretches.add(sum(range, odd)).unwrap();
        }
        let taken: Vec<_> = stretches.take(&(19..30)).unwrap().iter().map(Sum::range).collect();
        assert_eq!(taken, vec![12..20, 20..25]);
        assert!(stretches.take(&(10..12)).unwrap().is_empty());
        assert_eq!(stretches.list().len(), 2);
    }

    #[test]
    fn only_what_was_synced_survives_a_reboot() {
        let dir = tempfile::tempdir().unwrap();
        let mut stretches = empty(&dir);
        stretches.add(sum(0..10, Provenance::Registry)).unwrap();
        let synced = stretches.sums();
        stretches.add(sum(10..20, Provenance::Registry)).unwrap();
        stretches.mark_durable(&synced).unwrap();
        drop(stretches);
        let (journal, slots) = Journal::open(&dir.path().join("journal"), 1 << 40).unwrap();
        let rebooted = Stretches::load(journal, slots, 2, 1 << 40, 1 << 40).unwrap();
        assert_eq!(rebooted.sums(), vec![sum(0..10, Provenance::Registry)]);
    }

    #[test]
    fn a_full_journal_merges_and_forgets_nothing_that_it_can_hold() {
        let dir = tempfile::tempdir().unwrap();
        let mut stretches = empty(&dir);
        stretches.cap = 1;
        let ones = |start| Sum { start, len: 1, crc: crc32fast::hash(b"x"), provenance: Provenance::Registry };
        for start in 0..u64::from(MAX_SLOTS) + 10 {
            stretches.add(ones(start)).unwrap();
        }
        drop(stretches);
        let all: u64 = empty(&dir).sums().iter().map(|s| s.len).sum();
        assert_eq!(all, u64::from(MAX_SLOTS) + 10);
        let first = empty(&dir).sums().remove(0);
        assert_eq!(first.crc, crc32fast::hash(&vec![b'x'; first.len as usize]));
    }

    #[test]
    fn of_two_slots_that_overlap_the_longer_counts() {
        let slot = |start, len| Slot {
            start,
            len,
            crc: 0,
            provenance: Provenance::Registry,
            durable_len: 0,
            durable_crc: 0,
            boot: 1,
        };
        let kept = without_overlap(vec![(0, slot(0, 10)), (1, slot(10, 5)), (2, slot(0, 15)), (3, slot(15, 1))]);
        assert_eq!(kept.iter().map(|(i, _)| *i).collect::<Vec<_>>(), vec![2, 3]);
    }
}
