//! Upload sessions (distribution-spec, "Pushing a blob in chunks" and "Pushing a blob monolithically").

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use super::body::{Chunk, Gathered, next};
use super::{Pushes, empty};
use crate::content::{Holding, Sink};
use crate::error::Error;
use crate::oci::{Descriptor, Digest, Reference};
use crate::serve::answer::{CONTENT_DIGEST, value};
use crate::serve::body::Body;
use crate::serve::failure::Failure;
use crate::store::{Pending, Receiving};

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// Hexadecimal digits of the repository's hash in the name of a session.
const BOUND_LEN: usize = 16;

/// One upload, of one repository.
pub(super) struct Session {
    pending: Pending,
    repository: Reference,
}

impl Session {
    /// The session that a client names. Its name holds the repository's hash, so that no other repository has it, also
    /// after a restart.
    pub(super) fn open(repository: &Reference, name: &str) -> Result<Session, Failure> {
        let pending = name.split_once('-').and_then(|(id, bound)| {
            let pending = Pending::named(id)?;
            (bound == bind(id, repository)).then_some(pending)
        });
        let pending = pending.ok_or_else(Failure::upload_unknown)?;
        Ok(Session { pending, repository: repository.clone() })
    }

    fn name(&self) -> String {
        format!("{}-{}", self.pending.id(), bind(self.pending.id(), &self.repository))
    }

    fn path(&self) -> String {
        format!("/v2/{}/blobs/uploads/{}", self.repository.repository(), self.name())
    }

    /// An answer that tells where the session is, and how many bytes it has. `0-0` is also what an empty one says.
    fn answer(&self, status: StatusCode, len: u64) -> Response<Body> {
        let mut response = empty(status);
        for (name, value) in self.headers(len) {
            response.headers_mut().insert(name, value);
        }
        response
    }

    fn headers(&self, len: u64) -> [(HeaderName, HeaderValue); 3] {
        let range = format!("0-{}", len.saturating_sub(1));
        [(header::LOCATION, value(self.path())), (header::RANGE, value(range)), (UPLOAD_UUID, value(self.name()))]
    }
}

fn bind(id: &str, repository: &Reference) -> String {
    let mut hash = Digest::of(format!("{id} {}", repository.repository()).as_bytes()).hex().to_owned();
    hash.truncate(BOUND_LEN);
    hash
}

impl Pushes {
    pub(super) async fn mount(&self, repository: &Reference, blob: Descriptor) -> Result<Response<Body>, Failure> {
        let guard = self.guard().await?;
        if self.store.holds(&blob).await.map_err(Failure::from_write)? != Holding::Whole {
            drop(guard);
            return self.begin_upload(repository).await;
        }
        Ok(self.arrive(repository, blob))
    }

    pub(super) async fn begin_upload(&self, repository: &Reference) -> Result<Response<Body>, Failure> {
        let pending = self.store.receive().await.map_err(Failure::from_write)?.pause();
        Ok(Session { pending, repository: repository.clone() }.answer(StatusCode::ACCEPTED, 0))
    }

    /// A blob in one request. Nobody knows its session, so nothing stays when it fails.
    pub(super) async fn upload_at_once(
        &self,
        repository: &Reference,
        digest: &Digest,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Failure> {
        let mut receiving = self.store.receive().await.map_err(Failure::from_write)?;
        if let Err(failure) = take(&mut receiving, body, None, &CancellationToken::new()).await {
            receiving.discard().await.map_err(Failure::from_write)?;
            return Err(failure);
        }
        let pending = receiving.pause();
        match self.commit(repository, pending.clone(), digest).await {
            Err(failure) => {
                let receiving = self.store.resume(pending).await.map_err(Failure::from_write)?;
                receiving.discard().await.map_err(Failure::from_write)?;
                Err(failure)
            }
            committed => committed,
        }
    }

    pub(super) async fn upload_status(&self, session: &Session) -> Result<Response<Body>, Failure> {
        let len = self.store.received(&session.pending).await.map_err(Failure::from_write)?;
        Ok(session.answer(StatusCode::NO_CONTENT, len))
    }

    pub(super) async fn end_upload(&self, session: &Session) -> Result<Response<Body>, Failure> {
        let (receiving, _) = self.take_over(session).await?;
        receiving.discard().await.map_err(Failure::from_write)?;
        self.sessions.forget(&session.pending);
        Ok(empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn append(
        &self,
        session: &Session,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Failure> {
        let receiving = self.extend(session, headers, body).await?;
        let len = receiving.offset();
        self.sessions.keep(receiving.pause());
        Ok(session.answer(StatusCode::ACCEPTED, len))
    }

    pub(super) async fn close_upload(
        &self,
        session: &Session,
        digest: Option<Digest>,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Failure> {
        let digest = digest.ok_or_else(Failure::digest_missing)?;
        let pending = self.extend(session, headers, body).await?.pause();
        self.sessions.keep(pending.clone());
        let created = self.commit(&session.repository, pending, &digest).await?;
        self.sessions.forget(&session.pending);
        Ok(created)
    }

    /// Takes a chunk into a session. Of one that is cut, what came is kept.
    async fn extend(&self, session: &Session, headers: &HeaderMap, body: &mut Incoming) -> Result<Receiving, Failure> {
        let chunk = Chunk::of(headers)?;
        let (mut receiving, newer) = self.take_over(session).await?;
        let offset = receiving.offset();
        if chunk.is_some_and(|chunk| chunk.start != offset) {
            self.sessions.keep(receiving.pause());
            return Err(Failure::out_of_order(session.headers(offset)));
        }
        let taken = take(&mut receiving, body, chunk.map(|chunk| chunk.len), &newer).await;
        match taken {
            Ok(()) => Ok(receiving),
            Err(failure) => {
                self.sessions.keep(receiving.pause());
                Err(failure)
            }
        }
    }

    async fn take_over(&self, session: &Session) -> Result<(Receiving, CancellationToken), Failure> {
        // What is no session is not remembered.
        self.store.received(&session.pending).await.map_err(Failure::from_write)?;
        let (pending, newer) = self.sessions.take_over(&session.pending);
        let receiving = self.store.resume(pending).await.map_err(Failure::from_write)?;
        Ok((receiving, newer))
    }

    async fn commit(
        &self,
        repository: &Reference,
        pending: Pending,
        digest: &Digest,
    ) -> Result<Response<Body>, Failure> {
        let _guard = self.guard().await?;
        let receiving = self.store.resume(pending).await.map_err(Failure::from_write)?;
        match receiving.commit(Some(digest)).await {
            Ok(blob) => Ok(self.arrive(repository, blob)),
            Err(Error::Verification { why, .. }) => Err(Failure::other_bytes(&why)),
            Err(error) => Err(Failure::from_write(error)),
        }
    }

    fn arrive(&self, repository: &Reference, blob: Descriptor) -> Response<Body> {
        let mut response = empty(StatusCode::CREATED);
        let path = format!("/v2/{}/blobs/{}", repository.repository(), blob.digest);
        response.headers_mut().insert(header::LOCATION, value(path));
        response.headers_mut().insert(CONTENT_DIGEST, value(&blob.digest));
        self.arrivals.add(repository.repository(), blob);
        response
    }
}

/// Writes a body until its end, or until somebody newer writes. What came before a failure is written, too.
async fn take(
    receiving: &mut Receiving,
    body: &mut Incoming,
    expected: Option<u64>,
    newer: &CancellationToken,
) -> Result<(), Failure> {
    let mut gathered = Gathered::default();
    let mut left = expected.unwrap_or(u64::MAX);
    let ended = loop {
        let piece = tokio::select! {
            biased;
            () = newer.cancelled() => break Err(Failure::taken_over()),
            piece = next(body) => piece,
        };
        let mut piece = match piece {
            Ok(Some(piece)) => piece,
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        };
        let is_more = piece.len() as u64 > left;
        piece.truncate(left.min(piece.len() as u64) as usize);
        left -= piece.len() as u64;
        if let Some(ready) = gathered.add(&piece) {
            receiving.write(ready).await.map_err(Failure::from_write)?;
        }
        if is_more {
            break Err(Failure::content_range());
        }
    };
    receiving.write(gathered.rest()).await.map_err(Failure::from_write)?;
    ended
}
