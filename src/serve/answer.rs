//! From a request to its answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::Access;
use super::body::{Body, full, pieces};
use super::failure::Failure;
use super::graph::Graphs;
use super::names::{Names, Repository, page};
use super::push::Pushes;
use super::range::{Wanted, wanted};
use super::routes::{self, Endpoint, Mount, Page, Request, Selector};
use crate::content::{Source, verified};
use crate::error::Result;
use crate::oci::{Descriptor, Digest, MediaType};
use crate::store::{Shared, Store};

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// How long a request waits for a `gc`, before the client is told to come again.
pub(super) const GC_PATIENCE: Duration = Duration::from_secs(20);

/// Answers requests.
pub(super) struct Answers {
    pub(super) store: Store,
    pub(super) access: Access,
    pub(super) graphs: Graphs,
    /// `None`: the store is only read.
    pub(super) pushes: Option<Arc<Pushes>>,
}

/// The repository that a request is about, and what it calls it.
#[derive(Clone, Copy)]
struct Asked<'a> {
    name: &'a str,
    repository: &'a Repository,
}

/// What was pushed into it has no name yet.
static UNNAMED: Repository = Repository { tags: BTreeMap::new(), roots: Vec::new() };

impl Answers {
    pub(super) async fn answer(&self, request: http::Request<Incoming>) -> Response<Body> {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let mut response = match self.try_answer(request).await {
            Ok(response) => response,
            Err(failure) => failure.into_response(),
        };
        tracing::debug!(status = response.status().as_u16(), "{method} {uri}");
        response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        response
    }

    async fn try_answer(&self, request: http::Request<Incoming>) -> Result<Response<Body>, Failure> {
        if !self.access.is_meant_by(request.uri(), request.headers()) {
            return Err(Failure::misdirected());
        }
        if !self.access.admits(request.headers()) {
            return Err(Failure::unauthorized());
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match &self.pushes {
            None if !reads => Err(Failure::read_only()),
            Some(pushes) => {
                let wanted = routes::parse(request.uri())?;
                match reads && !matches!(wanted.endpoint, Endpoint::Upload { .. }) {
                    true => self.read(wanted, &request).await,
                    false => self.push(pushes, wanted.endpoint, request).await,
                }
            }
            None => self.read(routes::parse(request.uri())?, &request).await,
        }
    }

    async fn push(
        &self,
        pushes: &Arc<Pushes>,
        endpoint: Endpoint,
        request: http::Request<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        let mounted = match &endpoint {
            Endpoint::Upload { session: None, mount: Some(mount), .. } => self.mountable(mount).await?,
            _ => None,
        };
        pushes.answer(request, endpoint, mounted).await
    }

    /// The blob, if the client can read it in the repository that it says.
    async fn mountable(&self, mount: &Mount) -> Result<Option<Descriptor>, Failure> {
        let _shared = self.share().await?;
        let names = self.names().await?;
        match self.find(&names, &mount.from, None) {
            Ok(asked) => self.below(asked, &mount.digest).await,
            Err(_) => Ok(None),
        }
    }

    async fn read(&self, wanted: Request, request: &http::Request<Incoming>) -> Result<Response<Body>, Failure> {
        let Request { endpoint, namespace } = wanted;
        if endpoint == Endpoint::Ping {
            return Ok(json_answer(json!({}), "application/json"));
        }
        let _shared = self.share().await?;
        let names = self.names().await?;
        let namespace = namespace.as_deref();
        match &endpoint {
            Endpoint::Ping | Endpoint::Upload { .. } => Err(Failure::not_found("no such endpoint")),
            Endpoint::Catalog(page) => Ok(catalog(&names, page)),
            Endpoint::Tags { name, page } => Ok(tags(self.find(&names, name, namespace)?, page)),
            Endpoint::Manifest { name, selector } => {
                self.manifest(self.find(&names, name, namespace)?, selector, request).await
            }
            Endpoint::Blob { name, digest } => self.blob(self.find(&names, name, namespace)?, digest, request).await,
            Endpoint::Referrers { name, digest, artifact_type, page } => {
                self.find(&names, name, namespace)?;
                self.referrers(name, digest, artifact_type.as_deref(), page).await
            }
        }
    }

    fn find<'a>(&self, names: &'a Names, name: &'a str, namespace: Option<&str>) -> Result<Asked<'a>, Failure> {
        let found = names.find(name, namespace);
        let knows = || self.pushes.as_ref().is_some_and(|pushes| pushes.knows(name));
        match found {
            Err(_) if namespace.is_none() && knows() => Ok(Asked { name, repository: &UNNAMED }),
            found => found.map(|repository| Asked { name, repository }),
        }
    }

    /// Held until the answer begins, so that what it reads is not collected meanwhile. Bodies on their way need none,
    /// because their files are open: a slow client keeps no `gc` waiting.
    async fn share(&self) -> Result<Shared, Failure> {
        match tokio::time::timeout(GC_PATIENCE, self.store.share()).await {
            Ok(shared) => shared.map_err(|error| Failure::from_store(error, Failure::store())),
            Err(_) => Err(Failure::busy()),
        }
    }

    /// Asked at every request, so that what was pulled a moment ago is served.
    async fn names(&self) -> Result<Names, Failure> {
        let listed = self.store.names().await;
        let own = self.pushes.as_ref().map(|pushes| pushes.host());
        listed.map(|listed| Names::of(listed, own)).map_err(|error| Failure::from_store(error, Failure::store()))
    }

    async fn manifest(
        &self,
        asked: Asked<'_>,
        selector: &Selector,
        request: &http::Request<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        let found = match selector {
            Selector::Tag(tag) => asked.repository.tags.get(tag).cloned(),
            Selector::Digest(digest) => self.below(asked, digest).await?,
        };
        let descriptor = found.ok_or_else(|| Failure::manifest_unknown(selector))?;
        let unknown = || Failure::manifest_unknown(&descriptor.digest);
        if !descriptor.media_type.is_manifest() {
            return Err(unknown());
        }
        if is_held(request, &descriptor.digest) {
            return Ok(not_modified(&descriptor.digest));
        }
        let read = self.store.manifest(&descriptor).await;
        let manifest = read.map_err(|error| Failure::from_store(error, unknown()))?;
        let length = manifest.bytes.len() as u64;
        let mut response = Response::new(full(manifest.bytes));
        describe(&mut response, &manifest.digest, manifest.media_type.as_str(), length);
        Ok(response)
    }

    /// The descriptor of what `digest` names below the repository's images, or of what was pushed into it.
    async fn below(&self, asked: Asked<'_>, digest: &Digest) -> Result<Option<Descriptor>, Failure> {
        if let Some(arrived) = self.pushes.as_ref().and_then(|pushes| pushes.arrived(asked.name, digest)) {
            return Ok(Some(arrived));
        }
        let found = self.graphs.find(&self.store, &asked.repository.roots, digest).await;
        found.map_err(|error| Failure::from_store(error, Failure::store()))
    }

    async fn blob(
        &self,
        asked: Asked<'_>,
        digest: &Digest,
        request: &http::Request<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        let blob = self.below(asked, digest).await?.ok_or_else(|| Failure::blob_unknown(digest))?;
        if is_held(request, digest) {
            return Ok(not_modified(digest));
        }
        let range = request.headers().get(header::RANGE).filter(|_| if_range_holds(request, digest));
        let wanted = wanted(range.and_then(|value| value.to_str().ok()), blob.size);
        if wanted == Wanted::Outside {
            return Ok(unsatisfiable(blob.size));
        }
        let range = match &wanted {
            Wanted::Part(range) => range.clone(),
            _ => 0..blob.size,
        };
        // Read before the head goes out, so that a blob that is not there is a 404; also for HEAD.
        let mut response = Response::new(self.bytes(&blob, range.clone()).await?);
        describe(&mut response, digest, "application/octet-stream", range.end - range.start);
        response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if wanted != Wanted::Whole {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let part = format!("bytes {}-{}/{}", range.start, range.end - 1, blob.size);
            response.headers_mut().insert(header::CONTENT_RANGE, value(part));
        }
        Ok(response)
    }

    async fn bytes(&self, blob: &Descriptor, range: std::ops::Range<u64>) -> Result<Body, Failure> {
        let unknown = || Failure::blob_unknown(&blob.digest);
        let origin = self.store.origins(blob).into_iter().next().ok_or_else(unknown)?;
        if range.is_empty() {
            return Ok(full(""));
        }
        let opened = origin.open(range.clone()).await.map_err(|error| Failure::from_store(error, unknown()))?;
        match opened.start == range.start {
            false => Err(Failure::store()),
            true if range == (0..blob.size) => Ok(pieces(verified(opened.bytes, blob.clone(), self.store.place()))),
            // The digest of the whole says nothing about a part.
            true => Ok(pieces(opened.bytes)),
        }
    }

    async fn referrers(
        &self,
        name: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
        wanted: &Page,
    ) -> Result<Response<Body>, Failure> {
        let found = self.store.referrers(subject).await;
        let mut found = found.map_err(|error| Failure::from_store(error, Failure::store()))?;
        found.retain(|d| artifact_type.is_none_or(|wanted| d.artifact_type.as_deref() == Some(wanted)));
        let by_digest: BTreeMap<_, _> = found.into_iter().map(|d| (d.digest.to_string(), d)).collect();
        let (taken, more) = page(by_digest.keys(), wanted);
        let manifests: Vec<_> = taken.iter().map(|digest| &by_digest[*digest]).collect();
        let index = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": manifests});
        let filter = artifact_type.map(|t| ("artifactType", t));
        let next = next(&format!("{name}/referrers/{subject}"), &taken, more.then_some(wanted), filter);
        let mut response = json_answer(index, MediaType::OCI_INDEX);
        link(&mut response, next);
        if artifact_type.is_some() {
            response.headers_mut().insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
        }
        Ok(response)
    }
}

fn catalog(names: &Names, wanted: &Page) -> Response<Body> {
    let all = names.paths();
    let (taken, more) = page(all.iter(), wanted);
    let mut response = json_answer(json!({"repositories": taken}), "application/json");
    link(&mut response, next("_catalog", &taken, more.then_some(wanted), None));
    response
}

fn tags(Asked { name, repository }: Asked<'_>, wanted: &Page) -> Response<Body> {
    let (taken, more) = page(repository.tags.keys(), wanted);
    let mut response = json_answer(json!({"name": name, "tags": taken}), "application/json");
    link(&mut response, next(&format!("{name}/tags/list"), &taken, more.then_some(wanted), None));
    response
}

/// The address of the page behind `taken`, if there is one.
fn next(path: &str, taken: &[&String], page: Option<&Page>, filter: Option<(&str, &str)>) -> Option<String> {
    let (page, last) = (page?, taken.last()?);
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(filter).append_pair("n", &page.count.to_string()).append_pair("last", last);
    Some(format!("</v2/{path}?{}>; rel=\"next\"", query.finish()))
}

fn link(response: &mut Response<Body>, next: Option<String>) {
    if let Some(next) = next {
        response.headers_mut().insert(header::LINK, value(next));
    }
}

fn json_answer(json: serde_json::Value, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(full(json.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn describe(response: &mut Response<Body>, digest: &Digest, media_type: &str, length: u64) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value(media_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CONTENT_DIGEST, value(digest));
    headers.insert(header::ETAG, value(etag(digest)));
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// A header's value; what a store says, but no header can hold, is left out.
pub(super) fn value(text: impl ToString) -> HeaderValue {
    HeaderValue::from_str(&text.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The client has these bytes already (RFC 9110, section 13.1.2).
fn is_held(request: &http::Request<Incoming>, digest: &Digest) -> bool {
    let tags = request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let is_ours = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag(digest);
    tags.is_some_and(|tags| tags.split(',').map(str::trim).any(is_ours))
}

/// A range is meant only if the client's part is of the same bytes (RFC 9110, section 13.1.5).
fn if_range_holds(request: &http::Request<Incoming>, digest: &Digest) -> bool {
    request.headers().get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag(digest).as_bytes())
}

fn not_modified(digest: &Digest) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(header::ETAG, value(etag(digest)));
    response
}

fn unsatisfiable(size: u64) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    response.headers_mut().insert(header::CONTENT_RANGE, value(format!("bytes */{size}")));
    response
}
