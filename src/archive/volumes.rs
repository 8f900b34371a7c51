//! The bytes of an archive on disk: one file, or the volumes of one, read as if they were one.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use crate::content::file::PIECE;
use crate::content::{Body, Extent, Origin, Provenance};
use crate::error::{Error, Result};
use crate::oci::Descriptor;

/// The bytes of one or several files, one behind the other.
#[derive(Debug)]
pub struct Volumes {
    parts: Vec<Part>,
    len: u64,
    place: String,
}

#[derive(Debug)]
struct Part {
    file: File,
    path: PathBuf,
    start: u64,
    len: u64,
}

/// Opens a file for reading; never waits for the other end of a pipe.
///
/// # Errors
/// `NotFound`, `Store`.
pub fn open(path: &Path) -> Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path);
    file.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            let why = "there is no such file".into();
            Error::NotFound { what: "archive".into(), place: path.display().to_string(), why }
        }
        _ => Error::store("open", path)(e),
    })
}

impl Volumes {
    /// The files at `paths`, in this order. At least one.
    ///
    /// # Errors
    /// `Store` when one cannot be opened, `Invalid` when one is no regular file.
    pub fn open(paths: &[PathBuf]) -> Result<Volumes> {
        let mut parts: Vec<Part> = Vec::new();
        let mut len: u64 = 0;
        for path in paths {
            let file = open(path)?;
            let meta = file.metadata().map_err(Error::store("examine", path))?;
            if !meta.is_file() {
                let (what, place) = ("archive".into(), path.display().to_string());
                return Err(Error::Invalid { what, place, why: "it is no regular file".into() });
            }
            parts.push(Part { file, path: path.clone(), start: len, len: meta.len() });
            len = len.saturating_add(meta.len());
        }
        let place = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        let place = if parts.len() > 1 { format!("{place} and {} more", parts.len() - 1) } else { place };
        Ok(Volumes { parts, len, place })
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How it is named in messages: the first file.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Reads bytes at `offset`, as many as one volume has there.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(part) = self.parts.iter().find(|part| offset < part.start + part.len) else { return Ok(0) };
        let within = offset - part.start;
        let count = buffer.len().min(usize::try_from(part.len - within).unwrap_or(usize::MAX));
        part.file.read_at(&mut buffer[..count], within)
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when there are fewer bytes; those of the system.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Where `offset` is, for messages about bytes that are damaged.
    fn path_at(&self, offset: u64) -> &Path {
        let part = self.parts.iter().find(|part| offset < part.start + part.len);
        part.or(self.parts.last()).map_or(Path::new(""), |part| &part.path)
    }
}

/// Reads a [`Volumes`] from the beginning, and passes over bytes without reading them.
pub struct Cursor<'a> {
    /// What is read.
    pub volumes: &'a Volumes,
    /// Where it stands.
    pub at: u64,
}

impl Cursor<'_> {
    /// Passes over `count` bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` when there are fewer.
    pub fn pass(&mut self, count: u64) -> io::Result<()> {
        match self.at.checked_add(count).filter(|end| *end <= self.volumes.len) {
            Some(end) => self.at = end,
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }
}

impl Read for Cursor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.volumes.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// A blob that is a range of an archive.
#[derive(Debug)]
pub struct Slice {
    /// The archive.
    pub volumes: Arc<Volumes>,
    /// Where the blob begins.
    pub offset: u64,
    /// How many bytes the archive has of it.
    pub len: u64,
    /// What it should be.
    pub blob: Descriptor,
}

#[async_trait]
impl Origin for Slice {
    fn host(&self) -> &str {
        self.volumes.place()
    }

    fn provenance(&self) -> Provenance {
        Provenance::Local
    }

    async fn open(&self, range: Range<u64>) -> Result<Body> {
        if self.len != self.blob.size {
            return Err(Error::file_size(self.volumes.path_at(self.offset).display(), &self.blob, self.len));
        }
        let range = range.start..range.end.min(self.blob.size);
        let absolute = self.offset + range.start..self.offset + range.end;
        let bytes = pieces(self.volumes.clone(), absolute);
        Ok(Body { start: range.start, end: Some(range.end), extent: Extent::Range, bytes })
    }
}

fn pieces(volumes: Arc<Volumes>, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    stream::try_unfold(range, move |range| {
        let volumes = volumes.clone();
        async move {
            if range.is_empty() {
                return Ok(None);
            }
            let end = range.end.min(range.start + PIECE as u64);
            let piece = read_off(volumes, range.start..end).await?;
            Ok(Some((piece, end..range.end)))
        }
    })
    .boxed()
}

async fn read_off(volumes: Arc<Volumes>, range: Range<u64>) -> Result<Bytes> {
    let read = move || {
        let mut buffer = vec![0; (range.end - range.start) as usize];
        let read = volumes.read_exact_at(&mut buffer, range.start);
        read.map_err(|e| Error::store("read", volumes.path_at(range.start))(e))?;
        Ok(Bytes::from(buffer))
    };
    // A task that is not run any more belongs to a runtime that ends.
    tokio::task::spawn_blocking(read).await.unwrap_or(Err(Error::Interrupted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;
    use futures::TryStreamExt;

    #[tokio::test]
    async fn a_blob_across_volumes_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let texts = ["01234", "", "5678", "9"];
        let paths: Vec<PathBuf> = (0..texts.len()).map(|n| dir.path().join(n.to_string())).collect();
        paths.iter().zip(texts).for_each(|(path, text)| std::fs::write(path, text).unwrap());
        let volumes = Arc::new(Volumes::open(&paths).unwrap());
        let blob = Descriptor::new("x", Digest::of(b"234567"), 6);
        let slice = Slice { volumes: volumes.clone(), offset: 2, len: 6, blob: blob.clone() };
        let read: Vec<Bytes> = slice.open(1..6).await.unwrap().bytes.try_collect().await.unwrap();
        assert_eq!(read.concat(), b"34567");
        let short = Slice { volumes: volumes.clone(), offset: 2, len: 5, blob };
        assert!(matches!(short.open(0..6).await, Err(Error::Verification { .. })));
        let mut cursor = Cursor { volumes: &volumes, at: 8 };
        let mut rest = String::new();
        cursor.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "89");
        assert!(cursor.pass(1).is_err());
    }
}
