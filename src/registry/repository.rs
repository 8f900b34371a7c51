//! One repository of a registry as a place to read from (distribution-spec, "Pull"). `sink` writes to it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use reqwest::Method;

use super::answer::Answer;
use super::auth::Access;
use super::fresh::Freshness;
use super::lists;
use super::origin::{BlobOrigin, ForeignOrigin};
use super::reader::{self, Reader};
use super::session::{Ask, Session};
use crate::content::{Address, Origin, Source};
use crate::error::{Error, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, InvalidManifest, MediaType, RawManifest, Reference};
use crate::state::State;

/// Every kind of manifest, in one header, because some servers read only the first. Schema 1 is asked for in order to
/// be refused with advice instead of a 404.
pub(super) const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1";

/// How many bytes of manifests that `resolve` had to read are kept for `manifest`.
const MAX_RECENT: usize = 2 * MAX_MANIFEST_SIZE as usize;
/// More addresses of a foreign layer are not tried.
const MAX_FOREIGN_URLS: usize = 8;

/// One repository of a registry.
pub struct Repository {
    /// The registry that the name says: what is written goes there.
    pub(super) session: Arc<Session>,
    pub(super) repository: String,
    registry: String,
    /// Who is asked, in this order; the last is the registry, or what the configuration puts in the place of it.
    readers: Vec<Reader>,
    /// What requests for manifests and lists ask for.
    pub(super) access: Access,
    pub(super) fresh: Freshness,
    recent: Mutex<VecDeque<RawManifest>>,
    /// Manifests that were put and wait for their tag.
    pub(super) waiting: Mutex<Vec<RawManifest>>,
    /// Held while a list of referrers is changed.
    pub(super) attaching: tokio::sync::Mutex<()>,
    pub(super) state: Arc<State>,
    /// Bytes of a chunk of an upload.
    pub(super) chunk: u64,
}

impl Repository {
    pub(super) fn new(name: &Reference, itself: Reader, access: Access, state: Arc<State>) -> Repository {
        Repository {
            session: itself.session.clone(),
            repository: name.repository().to_owned(),
            registry: name.registry().to_owned(),
            readers: vec![itself],
            access,
            fresh: Freshness::default(),
            recent: Mutex::default(),
            waiting: Mutex::default(),
            attaching: tokio::sync::Mutex::default(),
            state,
            chunk: super::CHUNK,
        }
    }

    /// The same, read from these hosts; the last of them is the registry.
    pub(super) fn read_from(self, readers: Vec<Reader>) -> Repository {
        Repository { readers, ..self }
    }

    /// The same with another size of the chunks of uploads, in bytes.
    pub(super) fn in_chunks(self, chunk: u64) -> Repository {
        Repository { chunk, ..self }
    }

    fn readers_that(&self, may: impl Fn(&Reader) -> bool) -> Vec<&Reader> {
        self.readers.iter().filter(|reader| may(reader)).collect()
    }

    /// The registry among those that are read from.
    fn own(&self) -> &Reader {
        self.readers.last().expect("the registry is the last of the hosts")
    }

    /// Registry and repository.
    pub(super) fn address(&self) -> Address {
        Address { registry: self.registry.clone(), repository: self.repository.clone() }
    }

    /// The name without tag and digest.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    pub(super) fn ask(&self, method: Method, selector: &str) -> Ask {
        let path = format!("/v2/{}/manifests/{selector}", self.repository);
        let what = format!("manifest {}", self.named(selector));
        Ask { method, accept: Some(MANIFEST_TYPES), ..Ask::get(path, self.access.clone(), what) }
    }

    /// The repository with a tag or digest, for messages.
    pub(super) fn named(&self, selector: &str) -> String {
        let parting = if selector.contains(':') { '@' } else { ':' };
        format!("{}/{}{parting}{selector}", self.registry, self.repository)
    }

    /// The same of a host that is read from.
    fn ask_reader(&self, reader: &Reader, method: Method, selector: &str) -> Ask {
        let path = format!("/v2/{}/manifests/{selector}", reader.repository);
        // Who writes reads with what the writing needs: one token for both.
        let access = if reader.repository == self.repository { self.access.clone() } else { reader.access() };
        let what = format!("manifest {}", self.named(selector));
        Ask { method, accept: Some(MANIFEST_TYPES), ..Ask::get(path, access, what) }
    }

    /// What a HEAD tells, if it tells everything.
    async fn head(&self, reader: &Reader, selector: &str) -> Result<Option<Descriptor>> {
        let answer = reader.session.send(&self.ask_reader(reader, Method::HEAD, selector)).await?;
        match answer.status().as_u16() {
            200..=299 => self.described(&answer),
            403 | 408 | 429 | 500 | 502..=599 => Err(reader.session.failure(answer).await),
            // Some registries know HEAD only for what they hold already, some not at all.
            _ => Ok(None),
        }
    }

    pub(super) fn described(&self, answer: &Answer) -> Result<Option<Descriptor>> {
        let digest = answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let media_type = answer.header("content-type").map(MediaType::new);
        let (Some(digest), Some(media_type), Some(size)) = (digest, media_type, answer.length()) else {
            return Ok(None);
        };
        if media_type.is_schema1() {
            return Err(Error::manifest(&answer.place, &answer.what, InvalidManifest::Schema1));
        }
        if size > MAX_MANIFEST_SIZE {
            return Err(Error::manifest(&answer.place, &answer.what, InvalidManifest::TooLarge(size)));
        }
        Ok((media_type.is_manifest() && size > 0).then(|| Descriptor::new(media_type.as_str(), digest, size)))
    }

    /// Reads a manifest of the registry whose digest is `expected`; without one the server's own claim is checked.
    pub(super) async fn get(
        &self,
        selector: &str,
        expected: Option<&Digest>,
        known: Option<&MediaType>,
    ) -> Result<RawManifest> {
        self.get_from(self.own(), selector, expected, known).await
    }

    async fn get_from(
        &self,
        reader: &Reader,
        selector: &str,
        expected: Option<&Digest>,
        known: Option<&MediaType>,
    ) -> Result<RawManifest> {
        let answer = reader.session.send(&self.ask_reader(reader, Method::GET, selector)).await?;
        if !answer.status().is_success() {
            return Err(reader.session.failure(answer).await);
        }
        let (place, what) = (answer.place.clone(), answer.what.clone());
        let length = answer.length().filter(|length| *length > MAX_MANIFEST_SIZE);
        if let Some(length) = length {
            return Err(Error::manifest(place, what, InvalidManifest::TooLarge(length)));
        }
        let said = answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let claimed = answer.header("content-type").map(MediaType::new);
        let bytes = answer.bytes(MAX_MANIFEST_SIZE as usize).await?;
        let known = known.filter(|t| t.is_manifest()).or(claimed.as_ref());
        let raw = match expected.or(said.as_ref()) {
            Some(digest) => RawManifest::verified(digest, known, bytes),
            None => RawManifest::new(known, bytes),
        };
        raw.map_err(|e| Error::manifest(place, what, e))
    }

    async fn resolve_at(&self, reader: &Reader, name: &Reference) -> Result<Descriptor> {
        let selector = name.selector();
        if name.digest().is_none()
            && let Some(descriptor) = self.head(reader, &selector).await?
        {
            return Ok(descriptor);
        }
        self.read_at(reader, name).await
    }

    async fn read_at(&self, reader: &Reader, name: &Reference) -> Result<Descriptor> {
        let raw = self.get_from(reader, &name.selector(), name.digest(), None).await?;
        self.keep(&raw);
        Ok(raw.descriptor())
    }

    pub(super) fn keep(&self, raw: &RawManifest) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(raw.clone());
        while recent.iter().map(|kept| kept.bytes.len()).sum::<usize>() > MAX_RECENT {
            recent.pop_front();
        }
    }

    pub(super) fn kept(&self, digest: &Digest) -> Option<RawManifest> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|kept| kept.digest == *digest).cloned()
    }
}

#[async_trait]
impl Source for Repository {
    fn place(&self) -> String {
        self.name()
    }

    fn repository(&self) -> Option<Address> {
        Some(self.address())
    }

    /// A tag costs a HEAD, or a GET where HEAD does not tell the digest. A digest costs the GET that [`Source::manifest`]
    /// would cost anyway. A tag is looked up only where the configuration trusts a host to know it.
    async fn resolve(&self, name: &Reference) -> Result<Descriptor> {
        let may = |reader: &Reader| if name.digest().is_some() { reader.may.pull } else { reader.may.resolve };
        reader::first(self.readers_that(may), |reader| self.resolve_at(reader, name)).await
    }

    async fn resolve_to_read(&self, name: &Reference) -> Result<Descriptor> {
        let may = |reader: &Reader| if name.digest().is_some() { reader.may.pull } else { reader.may.resolve };
        reader::first(self.readers_that(may), |reader| self.read_at(reader, name)).await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        let what = || self.named(&descriptor.digest.to_string());
        if descriptor.size > MAX_MANIFEST_SIZE {
            return Err(Error::manifest(&self.registry, what(), InvalidManifest::TooLarge(descriptor.size)));
        }
        let raw = match self.kept(&descriptor.digest) {
            Some(raw) => raw,
            None => {
                let (digest, selector) = (&descriptor.digest, descriptor.digest.to_string());
                let get = |reader| self.get_from(reader, &selector, Some(digest), Some(&descriptor.media_type));
                reader::first(self.readers_that(|reader| reader.may.pull), get).await?
            }
        };
        if raw.bytes.len() as u64 != descriptor.size {
            let why = format!("it has {} bytes, its descriptor says {}", raw.bytes.len(), descriptor.size);
            return Err(Error::Verification { what: what(), place: self.registry.clone(), why });
        }
        Ok(raw)
    }

    /// The addresses of a descriptor count only for layers that registries may not hold: a manifest must not make us ask
    /// any host for any layer.
    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        let usable = self.readers.iter().filter(|reader| reader.may.pull && !reader.is_left());
        let own = usable.map(|reader| Arc::new(BlobOrigin::new(reader, blob)) as Arc<dyn Origin>);
        let http = self.session.http();
        let urls = blob.urls.iter().take(if blob.media_type.is_foreign() { MAX_FOREIGN_URLS } else { 0 });
        let foreign = urls.filter_map(|url| ForeignOrigin::new(http.clone(), url, blob));
        own.chain(foreign.map(|origin| Arc::new(origin) as Arc<dyn Origin>)).collect()
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let own = self.own();
        if let Some(found) = lists::referrers(&own.session, &own.repository, subject).await? {
            return Ok(found);
        }
        let tag = lists::fallback_tag(subject);
        match self.get(&tag, None, None).await {
            Ok(raw) => lists::children(&raw, &self.name()),
            Err(Error::NotFound { .. }) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }
}
