//! Writes an archive: what names the images first, then every blob once, in the order of the digests.
//!
//! Three things happen at once: the next bytes are read, those before are hashed, and those before them are written.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frame::{header, padding};
use super::gather::Contents;
use super::presumed::{self, PRESUMED};
use super::{docker, layout};
use crate::content::file::{PIECE, blob_path};
use crate::content::{Holding, Provenance, Source, verified};
use crate::error::{Error, Result};
use crate::event::{Arrival, Event, Events};
use crate::oci::{Descriptor, Digest};

/// How many pieces wait between two of the three, at most.
const AHEAD: usize = 4;

/// What is written beside the blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// `index.json` alone: an OCI layout.
    Oci,
    /// `manifest.json` alone: a docker-archive.
    Docker,
    /// Both.
    Hybrid,
}

/// What is written, and where it is read.
pub struct Archiving<'a> {
    /// What.
    pub contents: &'a Contents,
    /// Where the blobs are read.
    pub source: &'a dyn Source,
    /// What is beside the blobs.
    pub flavour: Flavour,
    /// What the other side has: it is not written, and the archive says so first.
    pub left_out: &'a BTreeSet<Digest>,
    /// Who is told.
    pub events: Events,
    /// Ends it.
    pub cancel: CancellationToken,
}

/// A file in the making, one behind the other.
pub trait Frames: Send {
    /// Begins a file of `size` bytes, or a folder where the name ends with `/`.
    fn begin(&mut self, name: &str, size: u64) -> io::Result<()>;
    /// Takes the next bytes of it.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Ends it.
    fn end(&mut self) -> io::Result<()>;
    /// Ends everything.
    fn finish(&mut self) -> io::Result<()>;
}

enum Frame {
    Begin(String, u64),
    Bytes(Bytes),
    End,
    Finish,
}

/// Writes the archive into `frames`, which names itself `place` in errors, and gives them back. Every blob is verified on
/// its way; nothing is finished when one is not what its digest names.
///
/// # Errors
/// `Verification` when a blob is damaged, `NotFound` when it is not there; `Store`, `Interrupted`.
pub async fn pack<F: Frames + 'static>(archiving: Archiving<'_>, frames: F, place: &Path) -> Result<F> {
    let (to, parts) = mpsc::channel(AHEAD);
    let writer = tokio::task::spawn_blocking(move || write(frames, parts));
    let produced = archiving.produce(&Writer { to }).await;
    let written = match writer.await {
        Ok(written) => written.map_err(Error::store("write", place)),
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(Error::Interrupted),
    };
    // Whoever produces only knows that nobody takes anything any more.
    match (produced, written) {
        (Ok(()) | Err(Error::Interrupted), Err(error)) => Err(error),
        (Err(error), _) => Err(error),
        (Ok(()), Ok(frames)) => Ok(frames),
    }
}

fn write<F: Frames>(mut frames: F, mut parts: mpsc::Receiver<Frame>) -> io::Result<F> {
    while let Some(part) = parts.blocking_recv() {
        match part {
            Frame::Begin(name, size) => frames.begin(&name, size)?,
            Frame::Bytes(bytes) => frames.bytes(&bytes)?,
            Frame::End => frames.end()?,
            Frame::Finish => frames.finish()?,
        }
    }
    Ok(frames)
}

/// The way to the writer.
struct Writer {
    to: mpsc::Sender<Frame>,
}

impl Writer {
    async fn send(&self, frame: Frame) -> Result<()> {
        self.to.send(frame).await.map_err(|_| Error::Interrupted)
    }

    async fn file(&self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes = bytes.into();
        self.send(Frame::Begin(name.into(), bytes.len() as u64)).await?;
        self.send(Frame::Bytes(bytes)).await?;
        self.send(Frame::End).await
    }
}

impl Archiving<'_> {
    async fn produce(&self, to: &Writer) -> Result<()> {
        let presumed = self.contents.presumed(self.left_out);
        if !presumed.is_empty() {
            to.file(PRESUMED, presumed::write(&presumed)).await?;
        }
        if self.flavour != Flavour::Docker {
            to.file(layout::MARKER, r#"{"imageLayoutVersion":"1.0.0"}"#).await?;
            to.file(layout::INDEX, self.contents.index()).await?;
        }
        if self.flavour != Flavour::Oci {
            to.file(docker::MANIFEST, self.contents.docker()).await?;
        }
        self.blobs(to).await?;
        to.send(Frame::Finish).await
    }

    async fn blobs(&self, to: &Writer) -> Result<()> {
        let sizes = self.contents.sizes();
        let written = || sizes.keys().filter(|digest| !self.left_out.contains(digest));
        self.announce(written());
        let mut folders = BTreeSet::new();
        for digest in written() {
            let folder = format!("blobs/{}/", digest.algorithm().as_str());
            for folder in ["blobs/".to_owned(), folder] {
                if folders.insert(folder.clone()) {
                    to.send(Frame::Begin(folder, 0)).await?;
                    to.send(Frame::End).await?;
                }
            }
            match self.contents.manifest(digest) {
                Some(raw) => to.file(&name(digest), raw.bytes.clone()).await?,
                None => self.blob(digest, to).await?,
            }
        }
        Ok(())
    }

    fn announce<'d>(&self, written: impl Iterator<Item = &'d &'d Digest>) {
        let written: BTreeSet<_> = written.copied().collect();
        let blobs = self.contents.blobs().filter(|blob| written.contains(&blob.digest));
        let blobs = blobs.map(|blob| (blob.clone(), Holding::Missing)).collect();
        self.events.on(&Event::Planned { blobs });
    }

    async fn blob(&self, digest: &Digest, to: &Writer) -> Result<()> {
        let blob = self.contents.blob(digest).expect("what is no manifest of the contents is a blob of them");
        let mut bytes = self.read(blob).await?;
        self.events.on(&Event::Started { blob: digest.clone(), resumed: 0 });
        to.send(Frame::Begin(name(digest), blob.size)).await?;
        while let Some(piece) = bytes.next().await.transpose()? {
            if self.cancel.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let (blob, count) = (digest.clone(), piece.len() as u64);
            to.send(Frame::Bytes(piece)).await?;
            self.events.on(&Event::Bytes { blob, count, provenance: Provenance::Local });
        }
        to.send(Frame::End).await?;
        self.events.on(&Event::Finished { blob: digest.clone(), how: Arrival::Transferred });
        Ok(())
    }

    /// The bytes of a blob, of which the last come only when all are what the digest names.
    async fn read(&self, blob: &Descriptor) -> Result<BoxStream<'static, Result<Bytes>>> {
        let place = self.source.place();
        if blob.size == 0 {
            return Ok(verified(stream::empty().boxed(), blob.clone(), place));
        }
        let origin = self.source.origins(blob).into_iter().next();
        let origin = origin.ok_or_else(|| self.not_found(blob))?;
        let body = match origin.open(0..blob.size).await {
            Err(Error::Store { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(self.not_found(blob));
            }
            other => other?,
        };
        Ok(verified(ahead(body.bytes), blob.clone(), place))
    }

    fn not_found(&self, blob: &Descriptor) -> Error {
        let why = "`layerpull verify --repair` fetches it again".into();
        Error::NotFound { what: blob.digest.to_string(), place: self.source.place(), why }
    }
}

/// The same bytes, read while those before are looked at.
fn ahead(mut bytes: BoxStream<'static, Result<Bytes>>) -> BoxStream<'static, Result<Bytes>> {
    let (to, from) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        while let Some(piece) = bytes.next().await {
            if to.send(piece).await.is_err() {
                return;
            }
        }
    });
    stream::unfold(from, |mut from| async move { Some((from.recv().await?, from)) }).boxed()
}

fn name(digest: &Digest) -> String {
    blob_path(digest).to_string_lossy().into_owned()
}

/// Writes a tar: files and folders of root, all of one time, in seconds since 1970.
pub struct TarFrames<W> {
    to: W,
    mtime: u64,
    padding: u64,
}

impl<W: Write + Send> TarFrames<W> {
    /// Writes to `to`.
    pub fn new(to: W, mtime: u64) -> TarFrames<W> {
        TarFrames { to, mtime, padding: 0 }
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.to
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        const ZEROS: [u8; 1024] = [0; 1024];
        self.to.write_all(&ZEROS[..count as usize])
    }
}

impl<W: Write + Send> Frames for TarFrames<W> {
    fn begin(&mut self, name: &str, size: u64) -> io::Result<()> {
        self.padding = padding(size);
        self.to.write_all(&header(name, size, self.mtime))
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)
    }

    fn end(&mut self) -> io::Result<()> {
        self.zeros(self.padding)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.zeros(1024)?;
        self.to.flush()
    }
}

/// Writes files into a folder: blobs at once, what names them at the end.
pub struct FolderFrames {
    root: PathBuf,
    open: Option<(File, PathBuf)>,
    last: Vec<PathBuf>,
}

impl FolderFrames {
    /// Writes into `root`, which is made if it is not there.
    ///
    /// # Errors
    /// `Usage` when it holds something else than a layout, or is a store; `Store`.
    pub fn new(root: &Path) -> Result<FolderFrames> {
        fs::create_dir_all(root).map_err(Error::store("create", root))?;
        let mut entries = fs::read_dir(root).map_err(Error::store("read", root))?;
        // One that was killed has the marker under its first name.
        let marker = root.join(layout::MARKER);
        let is_layout = (marker.exists() || part(&marker).exists()) && !root.join(".layerpull").exists();
        match entries.next().is_some() && !is_layout {
            true => Err(Error::Usage(format!("{}: give an empty folder, or a layout written before", root.display()))),
            false => Ok(FolderFrames { root: root.into(), open: None, last: Vec::new() }),
        }
    }
}

/// Where the bytes of `path` go until they are all there.
fn part(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

impl Frames for FolderFrames {
    fn begin(&mut self, name: &str, _: u64) -> io::Result<()> {
        let path = self.root.join(name);
        if name.ends_with('/') {
            return fs::create_dir_all(path);
        }
        self.open = Some((File::create(part(&path))?, path));
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some((file, _)) = &mut self.open else { return Ok(()) };
        bytes.chunks(PIECE).try_for_each(|piece| file.write_all(piece))
    }

    fn end(&mut self) -> io::Result<()> {
        let Some((file, path)) = self.open.take() else { return Ok(()) };
        if !path.starts_with(self.root.join("blobs")) {
            self.last.push(path);
            return Ok(());
        }
        rustix::fs::fdatasync(&file)?;
        fs::rename(part(&path), path)
    }

    fn finish(&mut self) -> io::Result<()> {
        rustix::fs::syncfs(File::open(&self.root)?)?;
        self.last.iter().try_for_each(|path| fs::rename(part(path), path))?;
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }
}
