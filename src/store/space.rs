//! Room on the disk of a store.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Store;
use crate::content::Holding;
use crate::error::{Error, Result};
use crate::oci::Descriptor;

/// Bytes of a block, as `stat` counts them whatever the file system has (stat(2), `st_blocks`).
const BLOCK: u64 = 512;

/// Room on a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What is needed.
    pub needed: u64,
    /// What this user may take.
    pub free: u64,
}

impl Store {
    /// What is needed for `blobs`, besides what is here or reserved for them, and what is free. Makes nothing.
    ///
    /// # Errors
    /// `Store` when the system does not say.
    pub fn space<'a>(&self, blobs: impl Iterator<Item = (&'a Descriptor, Holding)>) -> Result<Space> {
        let reserved = |blob: &Descriptor| {
            let meta = fs::symlink_metadata(self.disk.paths.partial(blob, "data"));
            meta.map_or(0, |meta| meta.blocks().saturating_mul(BLOCK))
        };
        let missing = blobs.filter(|(_, holding)| *holding != Holding::Whole);
        let needed = missing.map(|(blob, _)| blob.size.saturating_sub(reserved(blob))).fold(0, u64::saturating_add);
        let free = free(self.root()).map_err(Error::store("ask how much is free for", self.root()))?;
        Ok(Space { needed, free })
    }
}

/// What is free where `path` is, or will be made.
fn free(path: &Path) -> io::Result<u64> {
    let mut last = io::ErrorKind::NotFound.into();
    for folder in path.ancestors() {
        match rustix::fs::statvfs(folder) {
            Ok(system) => return Ok(system.f_bavail.saturating_mul(system.f_frsize)),
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::content::{Begun, Provenance, Sink};
    use crate::oci::Digest;

    #[tokio::test]
    async fn what_is_reserved_for_a_partial_blob_is_not_needed_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("new/store")).unwrap();
        let blob = |name: &str| Descriptor::new("application/octet-stream", Digest::of(name.as_bytes()), 1 << 20);
        let (missing, begun) = (blob("missing"), blob("begun"));
        let space = |holding| store.space([(&missing, Holding::Missing), (&begun, holding)].into_iter()).unwrap();
        assert_eq!(space(Holding::Missing).needed, 2 << 20);
        assert_eq!(space(Holding::Whole).needed, 1 << 20);
        assert!(space(Holding::Whole).free > 0 && !dir.path().join("new").exists());
        let Begun::Ingest(ingest) = store.begin(&begun, &[]).await.unwrap() else { panic!("not begun") };
        ingest.write_at(0, Bytes::from_static(b"x"), Provenance::Registry).await.unwrap();
        assert!(space(Holding::Partial(1)).needed < 2 << 20);
    }
}
