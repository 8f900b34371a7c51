//! Blobs that are files in an image layout on this machine, as origins.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;

use super::{Body, Extent, Origin, Provenance};
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest};

/// How many bytes are read from a file at once.
pub const PIECE: usize = 512 * 1024;

/// The largest `oci-layout` file that is read, in bytes.
const MAX_MARKER: u64 = 4096;

/// An open folder, below which files are opened without following any link.
#[derive(Debug, Clone)]
pub struct Folder {
    path: Arc<Path>,
    host: Arc<str>,
    handle: Arc<OwnedFd>,
}

impl Folder {
    /// Opens the folder at `path`; links on the way to it are followed.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(path: &Path) -> io::Result<Folder> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty())?;
        let host = path.display().to_string().into();
        Ok(Folder { path: path.into(), host, handle: Arc::new(handle) })
    }

    /// The same folder, whose origins go by `name` instead of its path.
    pub fn named(self, name: &str) -> Folder {
        Folder { host: name.into(), ..self }
    }

    /// How its origins are named.
    pub fn name(&self) -> &str {
        &self.host
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the regular file at `relative` for reading. Never blocks on a pipe, never leaves the folder.
    ///
    /// # Errors
    /// Those of the system; `InvalidInput` when it is no regular file.
    pub fn file(&self, relative: &Path) -> io::Result<File> {
        let file = File::from(open_beneath(self.handle.as_fd(), relative)?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    /// Opens the blob that an image layout keeps under `digest`.
    ///
    /// # Errors
    /// As [`Folder::file`].
    pub fn blob(&self, digest: &Digest) -> io::Result<File> {
        self.file(&blob_path(digest))
    }
}

/// Where an image layout keeps the blob of `digest` (OCI image-spec, `image-layout.md`, "Blobs").
pub fn blob_path(digest: &Digest) -> PathBuf {
    Path::new("blobs").join(digest.algorithm().as_str()).join(digest.hex())
}

/// The version of the image layout in `dir`, as its marker `oci-layout` states it (OCI image-spec, `image-layout.md`).
///
/// # Errors
/// Those of the system: `NotFound` when there is no marker; `InvalidData` when it is damaged.
pub fn layout_version(dir: &Path) -> io::Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let text = read_bounded(&dir.join("oci-layout"), MAX_MARKER)?;
    let marker: Marker = serde_json::from_slice(&text)?;
    Ok(marker.image_layout_version)
}

/// Larger files of configuration are not read, in bytes.
const MAX_CONFIGURATION: u64 = 1024 * 1024;

/// The text of a file of configuration or credentials, of at most 1 MiB. A pipe will do, as a shell makes them.
///
/// # Errors
/// Those of the system; `FileTooLarge`, `InvalidData` when it is not UTF-8.
pub fn read_configuration(path: &Path) -> io::Result<String> {
    let bytes = read_all(File::open(path)?, MAX_CONFIGURATION)?;
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.utf8_error()))
}

/// The bytes of the file at `path`, of at most `limit` bytes. Never waits for the other end of a pipe.
///
/// # Errors
/// Those of the system; `InvalidInput` when it is no regular file, `FileTooLarge` when it has more bytes.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => read_all(file, limit),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// The bytes of an open file, of at most `limit` bytes.
///
/// # Errors
/// Those of the system; `FileTooLarge` when it has more bytes.
pub fn read_all(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes"))),
        false => Ok(bytes),
    }
}

/// After so many bytes whoever writes a file calls [`start_write_back`].
pub const WRITE_BACK: u64 = 8 << 20;

/// Starts to write what is dirty to the disk, and does not wait for it: so the last sync finds little to do.
///
/// # Errors
/// Those of the system, but for where it does not know the call.
#[cfg(target_os = "linux")]
pub fn start_write_back(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the call takes numbers alone, and the descriptor is open as long as `file` lives.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // File systems and sandboxes without it: the last sync does the work.
            e if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::ESPIPE)) => Ok(()),
            e => Err(e),
        },
    }
}

/// Nothing: the last sync does the work.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn start_write_back(_: &File) -> io::Result<()> {
    Ok(())
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW);

#[cfg(target_os = "linux")]
fn open_beneath(folder: rustix::fd::BorrowedFd<'_>, relative: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(folder, relative, READ, Mode::empty(), resolve) {
        // Older kernels, and sandboxes that do not know the call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => open_stepwise(folder, relative),
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
fn open_beneath(folder: rustix::fd::BorrowedFd<'_>, relative: &Path) -> io::Result<OwnedFd> {
    open_stepwise(folder, relative)
}

/// Opens component by component, none of which may be a link.
fn open_stepwise(folder: rustix::fd::BorrowedFd<'_>, relative: &Path) -> io::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    for component in relative.components() {
        let Component::Normal(name) = component else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain path"));
        };
        let parent = at.as_ref().map_or(folder, AsFd::as_fd);
        at = Some(rustix::fs::openat(parent, name, READ, Mode::empty())?);
    }
    at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an empty path"))
}

/// A blob that is a file below a [`Folder`].
#[derive(Debug, Clone)]
pub struct FileOrigin {
    folder: Folder,
    blob: Descriptor,
    /// Where it is in the folder.
    path: PathBuf,
}

impl FileOrigin {
    /// The file of `blob` in an image layout, which need not be there before it is opened.
    pub fn new(folder: &Folder, blob: &Descriptor) -> FileOrigin {
        FileOrigin::at(folder, blob, blob_path(&blob.digest))
    }

    /// The file at `path` in `folder`, which need not be there before it is opened.
    pub fn at(folder: &Folder, blob: &Descriptor, path: impl Into<PathBuf>) -> FileOrigin {
        FileOrigin { folder: folder.clone(), blob: blob.clone(), path: path.into() }
    }

    fn open_checked(&self) -> Result<File> {
        let path = || self.folder.path.join(&self.path);
        let file = self.folder.file(&self.path).map_err(|e| Error::store("open the blob", path())(e))?;
        let found = file.metadata().map_err(|e| Error::store("examine the blob", path())(e))?.len();
        match found == self.blob.size {
            true => Ok(file),
            false => Err(Error::file_size(&self.folder.host, &self.blob, found)),
        }
    }
}

#[async_trait]
impl Origin for FileOrigin {
    fn host(&self) -> &str {
        &self.folder.host
    }

    fn provenance(&self) -> Provenance {
        Provenance::Local
    }

    fn path(&self) -> Option<PathBuf> {
        Some(self.folder.path.join(&self.path))
    }

    fn file(&self) -> Option<File> {
        self.open_checked().ok()
    }

    async fn open(&self, range: Range<u64>) -> Result<Body> {
        let file = self.open_checked()?;
        let end = range.end.min(self.blob.size);
        let path = self.folder.path.join(&self.path);
        Ok(Body {
            start: range.start,
            end: Some(end),
            extent: Extent::Range,
            bytes: pieces(file, path, range.start..end),
        })
    }
}

/// The bytes of `range` of `file`, in pieces of at most [`PIECE`] bytes, read off the async threads.
pub fn pieces(file: File, path: PathBuf, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    let file = Arc::new(file);
    stream::try_unfold(range, move |range| {
        let (file, path) = (file.clone(), path.clone());
        async move {
            if range.is_empty() {
                return Ok(None);
            }
            let end = range.end.min(range.start + PIECE as u64);
            let piece = read_off(file, range.start..end).await.map_err(Error::store("read", path))?;
            Ok(Some((piece, end..range.end)))
        }
    })
    .boxed()
}

async fn read_off(file: Arc<File>, range: Range<u64>) -> io::Result<Bytes> {
    let read = move || {
        let mut buffer = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut buffer, range.start)?;
        Ok(Bytes::from(buffer))
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;

    fn layout_with(bytes: &[u8]) -> (tempfile::TempDir, Descriptor, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let blob = Descriptor::new("application/octet-stream", Digest::of(bytes), bytes.len() as u64);
        let path = dir.path().join(blob_path(&blob.digest));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        (dir, blob, path)
    }

    async fn read(origin: &FileOrigin, range: Range<u64>) -> Result<Vec<u8>> {
        let pieces: Vec<Bytes> = origin.open(range).await?.bytes.try_collect().await?;
        Ok(pieces.concat())
    }

    #[tokio::test]
    async fn a_range_of_a_file_is_read_in_bounded_pieces() {
        let bytes: Vec<u8> = (0..PIECE * 2 + 7).map(|i| i as u8).collect();
        let (dir, blob, _) = layout_with(&bytes);
        let origin = FileOrigin::new(&Folder::open(dir.path()).unwrap(), &blob);
        assert_eq!(read(&origin, 5..bytes.len() as u64).await.unwrap(), bytes[5..]);
        assert_eq!(read(&origin, 5..9).await.unwrap(), bytes[5..9]);
    }

    #[tokio::test]
    async fn links_pipes_and_truncated_files_are_refused() {
        let (dir, blob, path) = layout_with(b"hello");
        let origin = FileOrigin::new(&Folder::open(dir.path()).unwrap(), &blob);
        std::fs::write(&path, b"hell").unwrap();
        assert!(matches!(read(&origin, 0..5).await, Err(Error::Verification { .. })));
        let elsewhere = dir.path().join("elsewhere");
        std::fs::write(&elsewhere, b"hello").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(matches!(read(&origin, 0..5).await, Err(Error::Store { .. })));
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(matches!(read(&origin, 0..5).await, Err(Error::Store { .. })));
    }

    #[test]
    fn the_stepwise_way_follows_no_link_either() {
        let (dir, blob, _) = layout_with(b"hello");
        let folder = Folder::open(dir.path()).unwrap();
        assert!(open_stepwise(folder.handle.as_fd(), &blob_path(&blob.digest)).is_ok());
        std::os::unix::fs::symlink(dir.path().join("blobs"), dir.path().join("link")).unwrap();
        assert!(open_stepwise(folder.handle.as_fd(), Path::new("link/sha256")).is_err());
        assert!(open_stepwise(folder.handle.as_fd(), Path::new("../x")).is_err());
    }

    #[test]
    fn a_pipe_in_the_way_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.json");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(read_bounded(&path, 10).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
