//! A repository as a place to write to (distribution-spec, "Push").

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use reqwest::{Method, StatusCode};

use super::Repository;
use super::session::Content;
use super::upload::target::{Mount, Target};
use super::upload::{BlobUpload, key};
use crate::content::{Address, Begun, Holding, Root, Sink};
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Reference};
use crate::state::OpenUpload;

/// More mount candidates are not tried: each costs a request.
const MAX_MOUNTS: usize = 4;
/// Manifests that wait for their tag; the oldest go by digest when there are more.
const MAX_WAITING: usize = 64;

/// Manifests without a subject are not sent at once: the last of an image, which its tag names, goes under its tag only,
/// and no manifest travels twice. A manifest that waits goes by its digest as soon as an index that lists it comes, so
/// children are before parents all the same. What nobody tags or lists is never sent: nothing would lead to it.
#[async_trait]
impl Sink for Repository {
    fn place(&self) -> String {
        self.name()
    }

    fn repository(&self) -> Option<Address> {
        Some(self.address())
    }

    fn mounts(&self, blob: &Digest) -> Vec<String> {
        let mut holders = self.state.holders(self.session.registry(), blob);
        holders.retain(|name| *name != self.repository);
        holders
    }

    async fn holds(&self, blob: &Descriptor) -> Result<Holding> {
        let target = self.target(blob);
        if !self.is_new().await && target.holds().await? == Holding::Whole {
            self.noted(blob);
            return Ok(Holding::Whole);
        }
        let left = self.left(&target).await;
        Ok(left.map_or(Holding::Missing, |left| Holding::Partial(left.offset)))
    }

    async fn held_manifest(&self, _: &Digest) -> Result<Option<RawManifest>> {
        // Reading it here costs as much as reading it at the source.
        Ok(None)
    }

    async fn tagged(&self, name: &Reference) -> Result<Option<Root>> {
        if self.is_uncatalogued() {
            return Ok(None);
        }
        let selector = name.selector();
        let answer = self.session.send(&self.ask(Method::HEAD, &selector)).await?;
        self.fresh.looked(answer.status() != StatusCode::NOT_FOUND);
        let described = match answer.status().as_u16() {
            200..=299 => self.described(&answer)?,
            404 => return Ok(None),
            401 | 403 | 408 | 429 | 500 | 502..=599 => return Err(self.session.failure(answer).await),
            _ => None,
        };
        let descriptor = match described {
            Some(descriptor) => descriptor,
            None => match self.get(&selector, name.digest(), None).await {
                Ok(raw) => raw.descriptor(),
                Err(Error::NotFound { .. }) => return Ok(None),
                Err(e) => return Err(e),
            },
        };
        Ok(Some(Root { descriptor, platforms: None }))
    }

    async fn begin(&self, blob: &Descriptor, mounts: &[String]) -> Result<Begun> {
        let target = self.target(blob);
        let mut opened = None;
        for from in mounts.iter().filter(|from| **from != self.repository).take(MAX_MOUNTS) {
            let former = match target.mount(from).await? {
                Mount::Done => {
                    self.noted(blob);
                    cancel(&target, opened.take()).await;
                    return Ok(Begun::Mounted { from: from.clone() });
                }
                Mount::Session(next) => opened.replace(next),
                Mount::Refused => None,
            };
            self.state.refused(self.session.registry(), from, &blob.digest);
            cancel(&target, former).await;
        }
        let is_new = self.fresh.assumed.load(Ordering::Relaxed);
        if !mounts.is_empty() && !is_new && target.holds().await? == Holding::Whole {
            self.noted(blob);
            cancel(&target, opened).await;
            return Ok(Begun::Held);
        }
        if let Some(left) = self.left(&target).await
            && let Some(upload) = BlobUpload::take_up(target.clone(), left, self.state.clone(), self.chunk).await?
        {
            cancel(&target, opened).await;
            return Ok(Begun::Upload(Box::new(upload)));
        }
        let opened = match opened {
            Some(opened) => opened,
            None if is_new => match target.mount_here().await? {
                Mount::Done => {
                    self.noted(blob);
                    return Ok(Begun::Held);
                }
                Mount::Session(opened) => opened,
                Mount::Refused => {
                    self.fresh.assumed.store(false, Ordering::Relaxed);
                    target.open().await?
                }
            },
            None => target.open().await?,
        };
        Ok(Begun::Upload(Box::new(BlobUpload::begin(target, opened, self.state.clone(), self.chunk))))
    }

    async fn put_manifest(&self, manifest: &RawManifest) -> Result<()> {
        if !manifest.digest.matches(&manifest.bytes) {
            let found = Digest::of(&manifest.bytes);
            return Err(Error::digest_mismatch(self.name(), &manifest.descriptor(), &found));
        }
        let invalid = |e| Error::manifest(self.name(), &manifest.digest, e);
        let (children, subject) = match manifest.parse().map_err(invalid)? {
            Manifest::Index(index) => (index.manifests, index.subject),
            Manifest::Image(image) => (Vec::new(), image.subject),
        };
        for child in &children {
            self.send_waiting(&child.digest).await?;
        }
        if subject.is_some() {
            return self.put(&manifest.digest.to_string(), manifest).await;
        }
        if let Some(oldest) = self.wait(manifest) {
            self.send_waiting(&oldest).await?;
        }
        Ok(())
    }

    async fn tag(&self, name: &Reference, root: &Root) -> Result<()> {
        let digest = &root.descriptor.digest;
        match name.tag() {
            Some(tag) => {
                let raw = match self.waiting(digest).or_else(|| self.kept(digest)) {
                    Some(raw) => raw,
                    None => self.get(&digest.to_string(), Some(digest), Some(&root.descriptor.media_type)).await?,
                };
                self.put(tag, &raw).await?;
            }
            None => self.send_waiting(digest).await?,
        }
        let state = self.state.clone();
        // Hints only: a failure loses some.
        let _ = tokio::task::spawn_blocking(move || state.save()).await;
        Ok(())
    }
}

async fn cancel(target: &Target, opened: Option<super::upload::target::Opened>) {
    if let Some(opened) = opened {
        target.cancel(&opened).await;
    }
}

impl Repository {
    fn target(&self, blob: &Descriptor) -> Target {
        Target { session: self.session.clone(), repository: self.repository.clone(), blob: blob.clone() }
    }

    /// What a former process left of an upload.
    async fn left(&self, target: &Target) -> Option<OpenUpload> {
        let (state, key) = (self.state.clone(), key(target));
        let left = tokio::task::spawn_blocking(move || state.upload(&key)).await.ok()??;
        (left.offset <= target.blob.size).then_some(left)
    }

    fn noted(&self, blob: &Descriptor) {
        self.state.held(self.session.registry(), &self.repository, &blob.digest);
    }

    /// Sends a manifest under a tag or its digest.
    pub(super) async fn put(&self, selector: &str, raw: &RawManifest) -> Result<()> {
        let mut ask = self.ask(Method::PUT, selector);
        ask.accept = None;
        ask.body = Some(Content { kind: raw.media_type.to_string(), bytes: raw.bytes.clone() });
        let answer = self.session.send(&ask).await?;
        if !answer.status().is_success() {
            return Err(self.session.failure(answer).await);
        }
        let said = answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        if let Some(said) = said.filter(|said| !said.matches(&raw.bytes)) {
            let why = format!("the registry took it as {said}");
            return Err(Error::Verification { what: answer.what, place: answer.place, why });
        }
        self.sent(raw);
        match answer.header("oci-subject") {
            Some(_) => Ok(()),
            None => self.attach(raw).await,
        }
    }

    /// Sends a manifest by its digest if it waits.
    async fn send_waiting(&self, digest: &Digest) -> Result<()> {
        match self.waiting(digest) {
            Some(raw) => self.put(&digest.to_string(), &raw).await,
            None => Ok(()),
        }
    }

    /// Lets a manifest wait. Returns which must go instead, if there are too many.
    fn wait(&self, raw: &RawManifest) -> Option<Digest> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.iter().all(|known| known.digest != raw.digest) {
            waiting.push(raw.clone());
        }
        (waiting.len() > MAX_WAITING).then(|| waiting[0].digest.clone())
    }

    fn waiting(&self, digest: &Digest) -> Option<RawManifest> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.iter().find(|raw| raw.digest == *digest).cloned()
    }

    /// The registry has a manifest: it waits no more, but another tag may want it.
    fn sent(&self, raw: &RawManifest) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| known.digest != raw.digest);
        if self.kept(&raw.digest).is_none() {
            self.keep(raw);
        }
    }
}
