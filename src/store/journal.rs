//! The journal of a partial blob: which bytes of its data file were written, one slot of 64 bytes a stretch.
//!
//! Slots are overwritten in place after each write of data, so that a killed process loses nothing that the kernel
//! has. What a crash of the machine may lose is told apart by the boot that a slot was written in.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use crate::content::Provenance;

const MAGIC: &[u8; 8] = b"LPJRNL01";
const SLOT: usize = 64;
/// How many stretches a journal can hold.
pub(super) const MAX_SLOTS: u32 = 4096;

/// One stretch of bytes as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub start: u64,
    pub len: u64,
    /// CRC-32 of these bytes.
    pub crc: u32,
    pub provenance: Provenance,
    /// So many of the first bytes are synced to the disk,
    pub durable_len: u64,
    /// and this is their CRC-32.
    pub durable_crc: u32,
    /// The boot of the machine in which the slot was written; 0 if unknown.
    pub boot: u64,
}

impl Slot {
    /// What of the slot counts during `boot`, in a data file of `file_len` bytes for a blob of `size`.
    pub fn surviving(self, boot: u64, file_len: u64, size: u64) -> Option<Slot> {
        let slot = match boot != 0 && self.boot == boot {
            true => self,
            false => Slot { len: self.durable_len, crc: self.durable_crc, ..self },
        };
        let end = slot.start.checked_add(slot.len)?;
        (slot.len > 0 && end <= file_len && end <= size).then_some(slot)
    }

    fn encode(&self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        bytes[4] = 1;
        bytes[5] = provenance_code(self.provenance);
        bytes[8..16].copy_from_slice(&self.start.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.len.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.crc.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.durable_crc.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.durable_len.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.boot.to_le_bytes());
        let sum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` for a free slot, and for one that was torn.
    fn decode(bytes: &[u8; SLOT]) -> Option<Slot> {
        if u32_at(bytes, 0) != crc32fast::hash(&bytes[4..]) || bytes[4] != 1 {
            return None;
        }
        Some(Slot {
            start: u64_at(bytes, 8),
            len: u64_at(bytes, 16),
            crc: u32_at(bytes, 24),
            provenance: provenance_of(bytes[5])?,
            durable_len: u64_at(bytes, 32),
            durable_crc: u32_at(bytes, 28),
            boot: u64_at(bytes, 40),
        })
    }
}

fn provenance_code(provenance: Provenance) -> u8 {
    match provenance {
        Provenance::Registry => 0,
        Provenance::Mirror => 1,
        Provenance::Foreign => 2,
        Provenance::Local => 3,
    }
}

fn provenance_of(code: u8) -> Option<Provenance> {
    [Provenance::Registry, Provenance::Mirror, Provenance::Foreign, Provenance::Local].get(code as usize).copied()
}

fn u64_at(bytes: &[u8; SLOT], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u32_at(bytes: &[u8; SLOT], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: Arc<File>,
}

impl Journal {
    /// Opens or makes the journal of a blob of `size` bytes. One of another blob, or of another version, is emptied.
    pub fn open(path: &Path, size: u64) -> io::Result<(Journal, Vec<(u32, Slot)>)> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32).open(path)?;
        let slots = match read(&mut file, size)? {
            Some(slots) => slots,
            None => {
                file.set_len(0)?;
                file.write_all_at(&header(size), 0)?;
                Vec::new()
            }
        };
        Ok((Journal { file: Arc::new(file) }, slots))
    }

    pub fn put(&self, index: u32, slot: &Slot) -> io::Result<()> {
        self.file.write_all_at(&slot.encode(), position(index))
    }

    pub fn free(&self, index: u32) -> io::Result<()> {
        self.file.write_all_at(&[0; SLOT], position(index))
    }

    /// Forgets all.
    pub fn clear(&self) -> io::Result<()> {
        self.file.set_len(SLOT as u64)
    }

    /// The file, to sync it without holding up those who write.
    pub fn handle(&self) -> Arc<File> {
        self.file.clone()
    }
}

/// The slots of the journal at `path`, without touching it. None if it is missing or belongs to another size.
pub(super) fn peek(path: &Path, size: u64) -> io::Result<Vec<Slot>> {
    match File::open(path) {
        Ok(mut file) => Ok(read(&mut file, size)?.unwrap_or_default().into_iter().map(|(_, slot)| slot).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn read(file: &mut File, size: u64) -> io::Result<Option<Vec<(u32, Slot)>>> {
    let mut bytes = Vec::new();
    file.take(position(MAX_SLOTS)).read_to_end(&mut bytes)?;
    let (found, slots) = bytes.as_chunks::<SLOT>().0.split_first().map_or((None, [].as_slice()), |(h, s)| (Some(h), s));
    if found != Some(&header(size)) {
        return Ok(None);
    }
    Ok(Some((0..).zip(slots).filter_map(|(i, bytes)| Some((i, Slot::decode(bytes)?))).collect()))
}

fn header(size: u64) -> [u8; SLOT] {
    let mut bytes = [0; SLOT];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&size.to_le_bytes());
    bytes
}

fn position(index: u32) -> u64 {
    (u64::from(index) + 1) * SLOT as u64
}

/// A number for this boot of the machine, never 0; 0 where the system does not tell.
pub(super) fn boot() -> u64 {
    match std::fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(id) => {
            let digest = crate::oci::Digest::of(&id);
            u64::from_str_radix(&digest.hex()[..16], 16).unwrap_or(0).max(1)
        }
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(start: u64, len: u64) -> Slot {
        Slot { start, len, crc: 7, provenance: Provenance::Mirror, durable_len: len / 2, durable_crc: 8, boot: 9 }
    }

    #[test]
    fn a_torn_slot_is_free_and_its_neighbours_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (journal, slots) = Journal::open(&path, 1000).unwrap();
        assert!(slots.is_empty());
        for index in 0..3 {
            journal.put(index, &slot(u64::from(index) * 100, 100)).unwrap();
        }
        journal.file.write_all_at(b"torn", position(1) + 20).unwrap();
        let (_, slots) = Journal::open(&path, 1000).unwrap();
        assert_eq!(slots, vec![(0, slot(0, 100)), (2, slot(200, 100))]);
        assert_eq!(peek(&path, 1000).unwrap().len(), 2);
    }

    #[test]
    fn a_journal_of_another_size_or_version_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        Journal::open(&path, 1000).unwrap().0.put(0, &slot(0, 100)).unwrap();
        assert!(peek(&path, 999).unwrap().is_empty());
        assert!(Journal::open(&path, 999).unwrap().1.is_empty());
        std::fs::write(&path, b"something else entirely, and rather long at that, more than one slot").unwrap();
        assert!(Journal::open(&path, 1000).unwrap().1.is_empty());
    }

    #[test]
    fn after_a_reboot_only_durable_bytes_count() {
        let (written, size) = (slot(100, 100), 1000);
        assert_eq!(written.clone().surviving(9, size, size).unwrap().len, 100);
        let after = written.clone().surviving(10, size, size).unwrap();
        assert_eq!((after.len, after.crc), (50, 8));
        assert_eq!(written.clone().surviving(0, size, size).unwrap().len, 50);
        assert_eq!(written.clone().surviving(9, 199, size), None);
        assert_eq!(Slot { start: u64::MAX, ..written }.surviving(9, size, size), None);
    }
}
