//! What clients may write (distribution-spec, "Push" and "Content Management").
//!
//! A push is stored under the address of the listener, whatever host the client says it addresses: no `Host` makes it an
//! image of another registry. Every request writes in a task of its own, so that what came of a body is kept when the
//! connection breaks.
//!
//! - `upload`: blobs, by sessions. `body`: what a request carries. `sessions`: who writes which.
//! - `manifest`: manifests and tags.
//! - `arrivals`: what came and may have no name yet.

mod arrivals;
mod body;
mod manifest;
mod sessions;
mod upload;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::{Method, Response, StatusCode};
use hyper::body::Incoming;

use super::answer::GC_PATIENCE;
use super::body::{Body, full};
use super::failure::Failure;
use super::routes::Endpoint;
use crate::oci::{Descriptor, Digest, Reference};
use crate::store::{Shared, Store};
use arrivals::Arrivals;
use sessions::Sessions;

/// Takes what clients push into a store.
pub(in crate::serve) struct Pushes {
    store: Store,
    /// The registry of everything that is pushed: `ADDRESS:PORT`.
    host: String,
    sessions: Sessions,
    arrivals: Arrivals,
}

impl Pushes {
    /// For the listener at `address`; one that listens everywhere goes by loopback.
    pub(in crate::serve) fn new(store: &Store, address: SocketAddr) -> Pushes {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let host = SocketAddr::new(ip, address.port()).to_string();
        Pushes { store: store.clone(), host, sessions: Sessions::default(), arrivals: Arrivals::default() }
    }

    /// The registry of everything that is pushed.
    pub(in crate::serve) fn host(&self) -> &str {
        &self.host
    }

    /// What was pushed into this repository and may have no name yet.
    pub(in crate::serve) fn arrived(&self, name: &str, digest: &Digest) -> Option<Descriptor> {
        self.arrivals.get(name, digest)
    }

    /// Whether anything was pushed into this repository.
    pub(in crate::serve) fn knows(&self, name: &str) -> bool {
        self.arrivals.knows(name)
    }

    /// Answers a request that writes, or asks about an upload. `mounted` is the blob that it wants to mount, if the client
    /// may read it where it says.
    pub(in crate::serve) async fn answer(
        self: &Arc<Self>,
        request: http::Request<Incoming>,
        endpoint: Endpoint,
        mounted: Option<Descriptor>,
    ) -> Result<Response<Body>, Failure> {
        if request.headers().contains_key(http::header::ORIGIN) {
            return Err(Failure::cross_site());
        }
        let pushes = self.clone();
        let work = tokio::spawn(async move { pushes.write(request, endpoint, mounted).await });
        match work.await {
            Ok(answer) => answer,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => Err(Failure::store()),
        }
    }

    async fn write(
        &self,
        request: http::Request<Incoming>,
        endpoint: Endpoint,
        mounted: Option<Descriptor>,
    ) -> Result<Response<Body>, Failure> {
        let (head, mut body) = request.into_parts();
        let answer = match (&head.method, endpoint) {
            (&Method::POST, Endpoint::Upload { name, session: None, digest, .. }) => {
                let repository = self.repository(&name)?;
                match (mounted, digest) {
                    (Some(blob), _) => self.mount(&repository, blob).await,
                    (None, Some(digest)) => self.upload_at_once(&repository, &digest, &mut body).await,
                    (None, None) => self.begin_upload(&repository).await,
                }
            }
            (method, Endpoint::Upload { name, session: Some(session), digest, .. }) => {
                let session = upload::Session::open(&self.repository(&name)?, &session)?;
                match *method {
                    Method::GET | Method::HEAD => self.upload_status(&session).await,
                    Method::DELETE => self.end_upload(&session).await,
                    Method::PATCH => self.append(&session, &head.headers, &mut body).await,
                    Method::PUT => self.close_upload(&session, digest, &head.headers, &mut body).await,
                    _ => Err(Failure::not_allowed("GET, HEAD, PATCH, PUT, DELETE")),
                }
            }
            (&Method::PUT, Endpoint::Manifest { name, selector }) => {
                self.put_manifest(&self.repository(&name)?, selector, &head.headers, &mut body).await
            }
            (&Method::DELETE, Endpoint::Manifest { name, selector }) => {
                self.delete(&self.repository(&name)?, selector).await
            }
            (_, Endpoint::Upload { .. }) => Err(Failure::not_allowed("POST")),
            (_, Endpoint::Manifest { .. }) => Err(Failure::not_allowed("GET, HEAD, PUT, DELETE")),
            _ => Err(Failure::not_allowed("GET, HEAD")),
        };
        if answer.is_err() {
            body::drain(body).await;
        }
        answer
    }

    /// The repository that is pushed to, as it is stored.
    fn repository(&self, name: &str) -> Result<Reference, Failure> {
        let parsed = format!("{}/{name}", self.host).parse::<Reference>();
        let fits = |reference: &Reference| reference.repository() == name && reference.digest().is_none();
        parsed.ok().filter(fits).ok_or_else(|| Failure::name_invalid("the name of the repository is invalid"))
    }

    /// Keeps a `gc` away while something is put in its place.
    async fn guard(&self) -> Result<Shared, Failure> {
        match tokio::time::timeout(GC_PATIENCE, self.store.share_to_write()).await {
            Ok(shared) => shared.map_err(Failure::from_write),
            Err(_) => Err(Failure::busy()),
        }
    }
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = status;
    response
}
