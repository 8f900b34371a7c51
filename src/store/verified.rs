//! Which files were verified, as they were then: a file that is still the same needs no second hashing.
//!
//! One line a blob, appended in one write. The records are hints that cost a hashing when they are lost.

use std::collections::HashMap;
use std::fs::{Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::content::file::read_bounded;
use crate::oci::Digest;

/// The largest file of records that is read, in bytes; a larger one is ignored, and `gc` shortens it.
const MAX_RECORDS: u64 = 64 * 1024 * 1024;

/// What changes with every write through the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub fn of(meta: &Metadata) -> Identity {
        Identity {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// The size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether a write now might leave the time of modification as it is: clocks of file systems tick coarsely.
    pub fn is_racy(&self, now: std::time::SystemTime) -> bool {
        let now = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        now.saturating_sub(self.modified.0) < 3
    }
}

/// The records of a store.
#[derive(Debug)]
pub(super) struct Verified {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    records: HashMap<Digest, Identity>,
    /// The file as it was read last.
    read: Option<(u64, u64)>,
}

impl Verified {
    pub fn new(path: PathBuf) -> Verified {
        Verified { path, known: Mutex::default() }
    }

    /// Whether the file that `found` describes was verified as `digest`, and nobody wrote to it since.
    pub fn agrees(&self, digest: &Digest, found: &Identity) -> bool {
        let mut known = self.lock();
        if known.records.get(digest) == Some(found) {
            return true;
        }
        self.reload(&mut known);
        known.records.get(digest) == Some(found)
    }

    /// Remembers that the file which `identity` describes is `digest`. A failure costs a hashing later, nothing else.
    pub fn remember(&self, digest: &Digest, identity: Identity) {
        self.lock().records.insert(digest.clone(), identity);
        let write = || {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o644);
            options.open(&self.path)?.write_all(line(digest, &identity).as_bytes())
        };
        if let Err(error) = write() {
            tracing::debug!(path = %self.path.display(), %error, "a verified blob is not recorded");
        }
    }

    /// Removes what is not in `kept`, and every line that another one replaces.
    pub fn shorten(&self, paths: &super::layout::Paths, kept: impl Fn(&Digest) -> bool) -> crate::error::Result<()> {
        let mut known = self.lock();
        known.read = None;
        self.reload(&mut known);
        known.records.retain(|digest, _| kept(digest));
        let text: String = known.records.iter().map(|(digest, identity)| line(digest, identity)).collect();
        paths.write_durably(&self.path, text.as_bytes())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // The table is whole at every moment, also when its last user panicked.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reload(&self, known: &mut Known) {
        let version = std::fs::metadata(&self.path).map(|m| (m.ino(), m.size())).ok();
        if version.is_none() || version == known.read {
            return;
        }
        match read_bounded(&self.path, MAX_RECORDS) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                known.records = text.lines().filter_map(parse).collect();
                known.read = version;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "records of verified blobs are not read"),
        }
    }
}

fn line(digest: &Digest, identity: &Identity) -> String {
    let Identity { device, inode, size, modified: (ms, mn), changed: (cs, cn) } = identity;
    let body = format!("{digest} {device} {inode} {size} {ms} {mn} {cs} {cn}");
    let sum = crc32fast::hash(body.as_bytes());
    format!("{body} {sum:08x}\n")
}

fn parse(line: &str) -> Option<(Digest, Identity)> {
    let (body, sum) = line.rsplit_once(' ')?;
    if u32::from_str_radix(sum, 16).ok()? != crc32fast::hash(body.as_bytes()) {
        return None;
    }
    let mut fields = body.split(' ');
    let digest = fields.next()?.parse().ok()?;
    let identity = Identity {
        device: fields.next()?.parse().ok()?,
        inode: fields.next()?.parse().ok()?,
        size: fields.next()?.parse().ok()?,
        modified: (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?),
        changed: (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?),
    };
    Some((digest, identity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_agrees_until_the_file_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (records, file) = (dir.path().join("verified"), dir.path().join("blob"));
        std::fs::write(&file, b"hello").unwrap();
        let identity = |file: &PathBuf| Identity::of(&std::fs::metadata(file).unwrap());
        let digest = Digest::of(b"hello");
        let (ours, theirs) = (Verified::new(records.clone()), Verified::new(records.clone()));
        assert!(!theirs.agrees(&digest, &identity(&file)));
        ours.remember(&digest, identity(&file));
        assert!(theirs.agrees(&digest, &identity(&file)));
        std::fs::write(&file, b"hullo!").unwrap();
        assert!(!theirs.agrees(&digest, &identity(&file)));
    }

    #[test]
    fn damaged_lines_count_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (records, file) = (dir.path().join("verified"), dir.path().join("blob"));
        std::fs::write(&file, b"hello").unwrap();
        let (digest, identity) = (Digest::of(b"hello"), Identity::of(&std::fs::metadata(&file).unwrap()));
        let good = line(&digest, &identity);
        std::fs::write(&records, good.replace(" 5 ", " 6 ")).unwrap();
        assert!(!Verified::new(records.clone()).agrees(&digest, &identity));
        std::fs::write(&records, format!("\u{0}garbage\n{}\n{good}", &good[..40])).unwrap();
        assert!(Verified::new(records).agrees(&digest, &identity));
    }
}
