//! One blob on its way into a repository (distribution-spec, "Pushing blobs").
//!
//! A small blob is kept in memory until its digest agreed, and travels in one PUT. One that is no longer than a chunk
//! travels in one PUT, too, as it comes; its last byte waits until our own hash agreed. A larger one, and whatever is taken
//! up again after a failure, goes in chunks, each a PATCH whose end the registry confirms; what it confirmed is remembered
//! for another process. Chunks grow with what is confirmed. An empty PUT, sent only when our own hash agreed, makes it visible.
//!
//! A chunk has no stated length, as docker sends it, so that an interrupt can end it cleanly at any byte: registries such
//! as docker-registry 2.8.2 lose the whole session when the body of a PATCH is cut, whether its length was stated or not.
//! Where the registry names a least length of chunks (`OCI-Chunk-Min-Length`), or wants a length (411), chunks have one,
//! and an interrupt cuts the one on its way.
//!
//! - `chunks`: what is written becomes requests; `target`: the requests beside them; `supply`: a body on its way;
//!   `written`: hash, and what can be sent again.

mod chunks;
pub(super) mod supply;
pub(super) mod target;
mod written;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Url;
use supply::Flow;
use target::{Opened, Target};
use tokio::sync::Mutex;
use written::{Mark, Written};

use crate::content::{Holding, Standing, Upload};
use crate::error::{Error, Result};
use crate::oci::Hasher;
use crate::state::{OpenUpload, State, UploadKey};

/// Chunks do not grow beyond this: what a registry that keeps only whole chunks may lose.
const MAX_CHUNK: u64 = 512 * 1024 * 1024;

/// A blob on its way. See [`Upload`].
///
/// A cancelled `write` may have taken some of its bytes: [`Upload::offset`] says how many.
pub(super) struct BlobUpload {
    offset: Arc<AtomicU64>,
    inner: Mutex<Inner>,
}

struct Inner {
    target: Target,
    state: Arc<State>,
    /// The length of the first chunk, unless the registry wants longer ones.
    chunk: u64,
    /// The length that chunks may grow to.
    longest: u64,
    chunks: Chunks,
    /// `None`: a new session is to be opened.
    opened: Option<Opened>,
    flow: Option<Flow>,
    /// Where the chunk that is on its way, or comes next, begins: the registry has everything before.
    confirmed: u64,
    /// Where the next byte that is sent belongs. What was written before it is only hashed.
    sent: u64,
    written: Written,
    trust: Trust,
}

/// How the bytes of a blob that is not small are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunks {
    /// Not: they are the body of the PUT that ends the blob.
    None,
    /// Into chunks that state no length.
    Open,
    /// Into chunks that state theirs.
    Stated,
}

/// Whether the registry is known to stand where we think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Known,
    /// After a failure: it must be asked.
    Unknown,
}

/// The key under which an upload is remembered.
pub(super) fn key(target: &Target) -> UploadKey {
    UploadKey {
        registry: target.session.registry().to_owned(),
        repository: target.repository.clone(),
        digest: target.blob.digest.clone(),
    }
}

impl BlobUpload {
    /// Begins in a session that has nothing yet.
    pub(super) fn begin(target: Target, opened: Opened, state: Arc<State>, chunk: u64) -> BlobUpload {
        let offset = Arc::default();
        let written = Written::new(target.blob.digest.algorithm(), Arc::clone(&offset));
        BlobUpload::new(target, opened, state, chunk, (offset, written))
    }

    /// Goes on with what a former process sent. `None` where the registry does not know of it any more.
    ///
    /// # Errors
    /// Transient ones: then it may still be there.
    pub(super) async fn take_up(
        target: Target,
        left: OpenUpload,
        state: Arc<State>,
        chunk: u64,
    ) -> Result<Option<BlobUpload>> {
        let algorithm = target.blob.digest.algorithm();
        let base = target.session.base().await?;
        let location = Url::parse(&left.location).ok().filter(|url| url.scheme() == "https" || base.scheme() == "http");
        let (Some(location), Some(hasher)) = (location, Hasher::restore(algorithm, &left.hash)) else {
            return Ok(None);
        };
        let Some((opened, stands)) = target.settled(&Opened { location, minimum: left.minimum }).await? else {
            return Ok(None);
        };
        if stands == 0 {
            // Or one byte, which looks the same.
            target.cancel(&opened).await;
            return Ok(None);
        }
        let offset = Arc::default();
        let written = Written::from(algorithm, Mark { offset: left.offset, hasher }, Arc::clone(&offset));
        let mut upload = BlobUpload::new(target, opened, state, chunk, (offset, written));
        upload.inner.get_mut().go_to(stands);
        Ok(Some(upload))
    }

    fn new(
        target: Target,
        opened: Opened,
        state: Arc<State>,
        chunk: u64,
        (offset, written): (Arc<AtomicU64>, Written),
    ) -> BlobUpload {
        let chunk = chunk.max(1);
        let chunks = match opened.minimum {
            0 if target.blob.size <= chunk => Chunks::None,
            0 => Chunks::Open,
            _ => Chunks::Stated,
        };
        let inner = Inner {
            target,
            state,
            chunk,
            longest: chunk.max(MAX_CHUNK),
            chunks,
            opened: Some(opened),
            flow: None,
            confirmed: 0,
            sent: 0,
            written,
            trust: Trust::Known,
        };
        BlobUpload { offset, inner: Mutex::new(inner) }
    }
}

#[async_trait]
impl Upload for BlobUpload {
    fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    async fn write(&self, bytes: Bytes) -> Result<()> {
        self.inner.lock().await.write(bytes).await
    }

    async fn resume(&self) -> Result<Standing> {
        self.inner.lock().await.resume().await
    }

    async fn save(&self) -> Result<()> {
        self.inner.lock().await.save().await
    }

    async fn commit(&self) -> Result<()> {
        self.inner.lock().await.commit().await
    }
}

impl Inner {
    async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        let size = self.target.blob.size;
        if self.written.offset().saturating_add(bytes.len() as u64) > size {
            return Err(self.disagrees(format!("more than the {size} bytes that its descriptor names")));
        }
        // What a resume left in memory goes first: so what is not sent yet never leaves it.
        self.pump().await?;
        while !bytes.is_empty() {
            let step = self.step().min(bytes.len() as u64) as usize;
            self.written.take(bytes.split_to(step));
            self.pump().await?;
        }
        Ok(())
    }

    fn disagrees(&self, why: String) -> Error {
        let (what, place) = (self.target.blob.digest.to_string(), self.target.session.registry().to_owned());
        Error::Verification { what, place, why }
    }

    async fn resume(&mut self) -> Result<Standing> {
        self.flow = None;
        if let Some(opened) = self.opened.clone() {
            match self.target.settled(&opened).await? {
                // Nothing and one byte look the same: only where nothing was sent is it nothing.
                Some((opened, stands)) if stands > 0 || self.sent == 0 => {
                    self.opened = Some(opened);
                    self.go_to(stands);
                    return Ok(Standing::Open);
                }
                Some((opened, _)) => self.target.cancel(&opened).await,
                None => {}
            }
            // A session is also gone when its end was reached and only the answer lost.
            if self.target.holds().await? == Holding::Whole {
                self.ended().await;
                return Ok(Standing::Held);
            }
            self.opened = None;
        }
        self.opened = Some(self.target.open().await?);
        self.go_to(0);
        Ok(Standing::Open)
    }

    /// Goes on where the registry stands.
    fn go_to(&mut self, stands: u64) {
        self.written.rewind(stands);
        if self.chunks == Chunks::None {
            self.chunks = Chunks::Open;
        }
        (self.confirmed, self.sent, self.trust) = (stands, stands, Trust::Known);
    }

    async fn save(&mut self) -> Result<()> {
        if self.trust == Trust::Known && self.chunks == Chunks::Open {
            self.pump().await?;
            self.end_chunk().await?;
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<()> {
        let (size, digest) = (self.target.blob.size, self.target.blob.digest.clone());
        let written = self.written.offset();
        if written != size {
            return Err(self.lost(&format!("{written} of {size} bytes were written")));
        }
        self.pump().await?;
        let found = self.written.digest();
        if found != digest {
            self.cancel().await;
            return Err(self.disagrees(format!("the bytes written have digest {found}")));
        }
        let answer = self.put().await?;
        let kept = answer.header("docker-content-digest").is_none_or(|said| said == digest.to_string());
        // Some registries keep a blob under another algorithm's digest than the one that was asked for.
        if !kept && self.target.holds().await? != Holding::Whole {
            let why = "the registry keeps it under another digest only".to_owned();
            return Err(Error::Invalid { what: answer.what, place: answer.place, why });
        }
        self.ended().await;
        Ok(())
    }

    /// Ends the session, whose bytes are wrong, and begins anew with the next resume.
    async fn cancel(&mut self) {
        self.flow = None;
        self.written.clear();
        (self.confirmed, self.sent, self.trust) = (0, 0, Trust::Unknown);
        if let Some(opened) = self.opened.take() {
            self.target.cancel(&opened).await;
        }
        self.forget().await;
    }

    /// The blob is there.
    async fn ended(&mut self) {
        self.flow = None;
        self.opened = None;
        let UploadKey { registry, repository, digest } = key(&self.target);
        self.off(move |state| state.held(&registry, &repository, &digest)).await;
        self.forget().await;
    }

    /// Remembers what another process needs to go on.
    async fn remember(&self) {
        let Some(opened) = &self.opened else { return };
        let mark = self.written.marked();
        let upload = OpenUpload::new(key(&self.target), opened.location.to_string(), mark.offset, mark.hasher.save());
        let upload = OpenUpload { minimum: opened.minimum, ..upload };
        self.off(move |state| state.keep_upload(upload)).await;
    }

    async fn forget(&self) {
        let key = key(&self.target);
        if !self.is_small() {
            self.off(move |state| state.forget_upload(&key)).await;
        }
    }

    /// Does `work` where it may wait for the disk. A failure is a hint less.
    async fn off(&self, work: impl FnOnce(&State) + Send + 'static) {
        let state = self.state.clone();
        let _ = tokio::task::spawn_blocking(move || work(&state)).await;
    }
}
