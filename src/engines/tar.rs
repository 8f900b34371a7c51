//! A tar that is made as it is read: its entries lie nowhere together.

use std::io;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tar::{EntryType, Header};

use crate::error::Result;

/// Every entry, and the whole, fill blocks of so many bytes.
const BLOCK: u64 = 512;

/// A regular file.
pub(super) struct Entry {
    /// At most 1000 bytes.
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
        let head = Bytes::from(head(&self.path, self.size));
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

/// What stands before the bytes of a file. The path of a blob of SHA-512 is too long for an old header: a pax record says
/// it (POSIX.1-2017, `pax`, "pax Interchange Format").
fn head(path: &str, size: u64) -> Vec<u8> {
    if let Ok(header) = header(path, EntryType::Regular, size) {
        return header.as_bytes().to_vec();
    }
    let plain = |path, kind, size| header(path, kind, size).expect("a short path fits into a header");
    let record = pax_path(path);
    let mut blocks = plain("PaxHeaders/path", EntryType::XHeader, record.len() as u64).as_bytes().to_vec();
    blocks.extend(record);
    blocks.resize(blocks.len().next_multiple_of(BLOCK as usize), 0);
    blocks.extend_from_slice(plain("long", EntryType::Regular, size).as_bytes());
    blocks
}

/// `LENGTH path=PATH\n`, whose length counts its own digits.
fn pax_path(path: &str) -> Vec<u8> {
    let rest = " path=\n".len() + path.len();
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len += 1;
    }
    format!("{len} path={path}\n").into_bytes()
}

/// Owned by root, of mode 0644, at time 0: the same in every run.
///
/// # Errors
/// When the path is too long.
fn header(path: &str, kind: EntryType, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use std::io::Read;

    #[tokio::test]
    async fn what_is_streamed_is_read_as_a_tar() {
        let of_sha512 = format!("blobs/sha512/{}", "a".repeat(128));
        let files = [("a", vec![]), ("b/c", vec![7; 512]), (of_sha512.as_str(), vec![9; 3]), ("d", vec![8; 1000])];
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
        assert_eq!(header("blobs/sha256/x", EntryType::Regular, size).unwrap().size().unwrap(), size);
    }
}
