//! A tar that is made as it is read: its entries lie nowhere together.

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tar::{EntryType, Header};

use crate::error::Result;

/// Every entry, and the whole, fill blocks of so many bytes.
const BLOCK: u64 = 512;

/// A regular file.
pub(super) struct Entry {
    /// At most 100 bytes.
    pub path: String,
    /// How many bytes come, at least.
    pub size: u64,
    /// The bytes.
    pub bytes: BoxStream<'static, Result<Bytes>>,
}

impl Entry {
    /// A file of bytes in memory.
    pub fn of(path: impl Into<String>, bytes: impl Into<Bytes>) -> Entry {
        let bytes = bytes.into();
        Entry { path: path.into(), size: bytes.len() as u64, bytes: stream::iter([Ok(bytes)]).boxed() }
    }

    fn framed(self) -> BoxStream<'static, Result<Bytes>> {
        let head = Bytes::copy_from_slice(header(&self.path, self.size).as_bytes());
        let padding = vec![0; (self.size.next_multiple_of(BLOCK) - self.size) as usize];
        stream::iter([Ok(head)]).chain(self.bytes).chain(stream::iter([Ok(padding.into())])).boxed()
    }
}

/// The bytes of a tar of `entries`. It ends early with the first error.
pub(super) fn stream(entries: Vec<Entry>) -> BoxStream<'static, Result<Bytes>> {
    let end = stream::iter([Ok(Bytes::from(vec![0; 2 * BLOCK as usize]))]);
    let pieces = stream::iter(entries).flat_map(Entry::framed).chain(end);
    pieces.filter(|piece| std::future::ready(!matches!(piece, Ok(bytes) if bytes.is_empty()))).boxed()
}

/// Owned by root, of mode 0644, at time 0: the same in every run.
fn header(path: &str, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_path(path).expect("paths are of digests and constants, shorter than a header takes");
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use std::io::Read;

    #[tokio::test]
    async fn what_is_streamed_is_read_as_a_tar() {
        let files = [("a", vec![]), ("b/c", vec![7; 512]), ("d", vec![8; 1000])];
        let entries = files.iter().map(|(path, bytes)| Entry::of(*path, bytes.clone())).collect();
        let pieces: Vec<Bytes> = stream(entries).try_collect().await.unwrap();
        let bytes = pieces.concat();
        assert_eq!(bytes.len() as u64 % BLOCK, 0);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            found.push((entry.path().unwrap().to_str().unwrap().to_owned(), content));
        }
        assert_eq!(found, files.map(|(path, bytes)| (path.to_owned(), bytes)));
    }

    #[test]
    fn a_layer_of_more_than_eight_gigabytes_has_its_size_in_the_header() {
        let size = 20 * 1024 * 1024 * 1024;
        assert_eq!(header("blobs/sha256/x", size).size().unwrap(), size);
    }
}
