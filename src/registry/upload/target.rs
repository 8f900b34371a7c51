//! One blob at one repository: the requests of its way there (distribution-spec, "Pushing blobs").

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, Url};

use crate::content::Holding;
use crate::error::{Error, Fault, Result};
use crate::oci::Descriptor;
use crate::registry::answer::Answer;
use crate::registry::auth::Access;
use crate::registry::session::{Ask, Session, location};

/// Between two looks at a session that was cut. Where both say the same, nothing comes in any more.
const SETTLING: Duration = Duration::from_millis(100);
const MAX_LOOKS: usize = 20;

/// Which blob goes where.
#[derive(Clone)]
pub(in crate::registry) struct Target {
    pub(in crate::registry) session: Arc<Session>,
    pub(in crate::registry) repository: String,
    pub(in crate::registry) blob: Descriptor,
}

/// An upload session that the registry has open.
#[derive(Clone)]
pub(in crate::registry) struct Opened {
    /// The newest address; any host.
    pub(super) location: Url,
    /// Every chunk but the last must be as long (`OCI-Chunk-Min-Length`); 0 where nothing was said.
    pub(super) minimum: u64,
}

/// What a mount came to.
pub(in crate::registry) enum Mount {
    /// The blob is there now.
    Done,
    /// It is not, but may be sent.
    Session(Opened),
    /// Neither; so without this candidate.
    Refused,
}

impl Target {
    fn ask(&self, method: Method, path: impl Into<String>) -> Ask {
        let what = format!("blob {} of {}/{}", self.blob.digest, self.session.registry(), self.repository);
        Ask::get(path, Access::push(&self.repository), what).by(method)
    }

    /// A request to the session itself.
    pub(super) fn ask_session(&self, method: Method, opened: &Opened) -> Ask {
        self.ask(method, "").at(opened.location.clone())
    }

    /// The PUT that ends the session.
    pub(super) fn ask_end(&self, opened: &Opened) -> Ask {
        let mut url = opened.location.clone();
        url.query_pairs_mut().append_pair("digest", &self.blob.digest.to_string());
        self.ask(Method::PUT, "").at(url)
    }

    /// Opens a session.
    pub(in crate::registry) async fn open(&self) -> Result<Opened> {
        let answer = self.session.send(&self.ask(Method::POST, self.uploads(""))).await?;
        match answer.status().is_success() {
            true => opened(&answer),
            false => Err(self.session.failure(answer).await),
        }
    }

    /// Asks the registry to take the blob from another of its repositories, with a token for both.
    ///
    /// # Errors
    /// Transient ones; a denial is [`Mount::Refused`].
    pub(in crate::registry) async fn mount(&self, from: &str) -> Result<Mount> {
        self.mount_with(from, Access::mount(&self.repository, from)).await
    }

    /// Opens a session, unless the blob is in this very repository: a registry that mounts looks for it there, and says so
    /// in the same answer.
    ///
    /// # Errors
    /// Those of [`mount`](Target::mount).
    pub(in crate::registry) async fn mount_here(&self) -> Result<Mount> {
        self.mount_with(&self.repository, Access::push(&self.repository)).await
    }

    async fn mount_with(&self, from: &str, access: Access) -> Result<Mount> {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("mount", &self.blob.digest.to_string())
            .append_pair("from", from)
            .finish();
        let mut ask = self.ask(Method::POST, self.uploads(&format!("?{query}")));
        ask.access = access;
        let answer = match self.session.send(&ask).await {
            Err(e) if e.is_transient() => return Err(e),
            Err(error) => {
                tracing::debug!(%error, from, "no mount");
                return Ok(Mount::Refused);
            }
            Ok(answer) => answer,
        };
        match answer.status().as_u16() {
            201 => Ok(Mount::Done),
            202 => Ok(Mount::Session(opened(&answer)?)),
            408 | 429 | 500..=599 => Err(answer.into_error().await),
            _ => Ok(Mount::Refused),
        }
    }

    /// What the registry has under the digest: all or nothing.
    pub(in crate::registry) async fn holds(&self) -> Result<Holding> {
        let path = format!("/v2/{}/blobs/{}", self.repository, self.blob.digest);
        let head = self.session.send(&self.ask(Method::HEAD, path.as_str())).await?;
        match head.status().as_u16() {
            200..=299 => return Ok(self.held(head.length())),
            404 => return Ok(Holding::Missing),
            408 | 429 | 500 | 502..=599 => return Err(self.session.failure(head).await),
            // Some registries do not know HEAD, and some storage refuses it.
            _ => {}
        }
        let mut get = self.ask(Method::GET, path);
        get.range = Some("bytes=0-0".into());
        let answer = self.session.send(&get).await?;
        match answer.status().as_u16() {
            200 => Ok(self.held(answer.length())),
            // 416: it is there, and empty.
            206 | 416 => Ok(Holding::Whole),
            404 => Ok(Holding::Missing),
            _ => Err(self.session.failure(answer).await),
        }
    }

    fn held(&self, length: Option<u64>) -> Holding {
        match length {
            Some(length) if length != self.blob.size => Holding::Missing,
            _ => Holding::Whole,
        }
    }

    /// Where a session stands once nothing comes in any more: a registry may still read what a connection that was cut had
    /// brought, and what is sent meanwhile would end up behind it.
    pub(super) async fn settled(&self, opened: &Opened) -> Result<Option<(Opened, u64)>> {
        let mut last = self.stands(opened).await?;
        for _ in 0..MAX_LOOKS {
            let Some((opened, stands)) = &last else { return Ok(None) };
            if *stands == self.blob.size {
                return Ok(last);
            }
            tokio::time::sleep(SETTLING).await;
            let next = self.stands(opened).await?;
            if next.as_ref().is_some_and(|(_, now)| now == stands) {
                return Ok(next);
            }
            last = next;
        }
        Ok(None)
    }

    /// Where a session stands. `None`: it is lost, or the registry cannot tell.
    pub(super) async fn stands(&self, opened: &Opened) -> Result<Option<(Opened, u64)>> {
        let answer = self.session.send(&self.ask_session(Method::GET, opened)).await?;
        match answer.status().as_u16() {
            200..=299 => {
                let stands = received(&answer);
                let opened = moved(&answer, opened)?;
                Ok(stands.filter(|stands| *stands <= self.blob.size).map(|stands| (opened, stands)))
            }
            408 | 429 | 500 | 502..=599 => Err(self.session.failure(answer).await),
            _ => Ok(None),
        }
    }

    /// Ends a session that nobody goes on with. The registry would forget it itself some day: a failure costs nothing.
    pub(in crate::registry) async fn cancel(&self, opened: &Opened) {
        if let Err(error) = self.session.send(&self.ask_session(Method::DELETE, opened)).await {
            tracing::debug!(%error, "a session stays behind");
        }
    }

    /// Names a failure in mid-upload. Whatever another session, another token or another offset can mend is transient:
    /// `resume` finds out which.
    pub(super) async fn refusal(&self, answer: Answer) -> Error {
        let status = answer.status().as_u16();
        let (place, what) = (answer.place.clone(), answer.what.clone());
        if (300..400).contains(&status) {
            let why = format!("HTTP {status}: a redirect that came when a part of the body had gone already");
            return Error::Invalid { what, place, why };
        }
        match (status, self.session.failure(answer).await) {
            (404 | 410 | 411 | 416, Error::NotFound { why, .. } | Error::Invalid { why, .. }) => {
                Error::network(place, what, Fault::Protocol(format!("HTTP {status} {why}")))
            }
            (400, Error::Invalid { why, .. }) if why.contains("BLOB_UPLOAD_") => {
                Error::network(place, what, Fault::Protocol(why))
            }
            (400, Error::Invalid { why, .. }) if why.contains("DIGEST_INVALID") => {
                Error::Verification { what, place, why }
            }
            (_, error) => error,
        }
    }

    fn uploads(&self, query: &str) -> String {
        format!("/v2/{}/blobs/uploads/{query}", self.repository)
    }
}

fn opened(answer: &Answer) -> Result<Opened> {
    let minimum = answer.header("oci-chunk-min-length").and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Ok(Opened { location: location(answer)?, minimum })
}

/// The session under the address that an answer names; under the old one when it names none.
pub(super) fn moved(answer: &Answer, opened: &Opened) -> Result<Opened> {
    let location = match answer.header("location") {
        Some(_) => location(answer)?,
        None => opened.location.clone(),
    };
    Ok(Opened { location, ..opened.clone() })
}

/// How many bytes the registry says to have: `Range: 0-<last>`. `0-0` is nothing, though one byte looks the same: such
/// a session ends with a digest that does not agree, and then begins anew.
pub(super) fn received(answer: &Answer) -> Option<u64> {
    let text = answer.header("range")?;
    let text = text.trim().strip_prefix("bytes=").unwrap_or(text.trim());
    match text.strip_prefix("0-")?.parse::<u64>().ok()? {
        0 => Some(0),
        last => last.checked_add(1),
    }
}
