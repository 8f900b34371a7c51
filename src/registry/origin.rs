//! A blob at a registry, and at the addresses that its descriptor names.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use reqwest::header::{HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::answer::Answer;
use super::auth::Access;
use super::failed::fault;
use super::http::{Http, Request, authority};
use super::reader::Reader;
use super::session::{Ask, Session, follow, same_origin};
use crate::content::{Body, Extent, Origin, Provenance};
use crate::error::{Error, Fault, Result};
use crate::oci::{Descriptor, Digest};

/// A blob at a registry. Where that leads to a signed address, the address is kept for the other ranges.
pub(super) struct BlobOrigin {
    session: Arc<Session>,
    repository: String,
    provenance: Provenance,
    digest: Digest,
    size: u64,
    address: Mutex<Address>,
}

/// The signed address that the registry led to last.
enum Address {
    /// None is known: ask the registry.
    Unknown,
    /// This one answered.
    Kept {
        url: Url,
        /// It answered more than once.
        reusable: bool,
    },
    /// Addresses of this blob answer once: keep none.
    OneShot,
}

impl BlobOrigin {
    pub(super) fn new(reader: &Reader, blob: &Descriptor) -> BlobOrigin {
        BlobOrigin {
            session: reader.session.clone(),
            repository: reader.repository.clone(),
            provenance: reader.role.provenance(),
            digest: blob.digest.clone(),
            size: blob.size,
            address: Mutex::new(Address::Unknown),
        }
    }

    fn address(&self) -> MutexGuard<'_, Address> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> Option<Url> {
        match &*self.address() {
            Address::Kept { url, .. } => Some(url.clone()),
            _ => None,
        }
    }

    /// Asks the registry, and keeps the address that it leads to.
    async fn ask(&self, wanted: &Wanted) -> Result<Body> {
        let path = format!("/v2/{}/blobs/{}", self.repository, self.digest);
        let mut ask = Ask::get(path, Access::pull(&self.repository), wanted.what.clone());
        ask.range = wanted.header();
        let answer = self.session.send(&ask).await?;
        let base = self.session.base().await?;
        if same_origin(&answer.url, base) {
            return match wanted.is_answered_by(answer.status()) {
                true => wanted.body(answer),
                false => Err(self.session.failure(answer).await),
            };
        }
        let url = answer.url.clone();
        let body = signed_body(wanted, answer).await?;
        let mut address = self.address();
        if matches!(*address, Address::Unknown) {
            *address = Address::Kept { url, reusable: false };
        }
        Ok(body)
    }

    async fn ask_kept(&self, url: Url, wanted: &Wanted) -> Result<Body> {
        let opened = match follow(self.session.http(), wanted.request(url.clone())).await {
            Ok(answer) => signed_body(wanted, answer).await,
            Err(e) => Err(e),
        };
        match &opened {
            Ok(_) => self.confirm(&url),
            Err(Error::Network { fault: Fault::Expired(_) | Fault::Connect(_) | Fault::Tls(_), .. }) => {
                self.forget(&url)
            }
            Err(_) => {}
        }
        opened
    }

    fn confirm(&self, used: &Url) {
        if let Address::Kept { url, reusable } = &mut *self.address()
            && url == used
        {
            *reusable = true;
        }
    }

    /// An address that answered once and never again shows that the registry gives such addresses.
    fn forget(&self, used: &Url) {
        let mut address = self.address();
        *address = match &*address {
            Address::Kept { url, reusable: true } if url == used => Address::Unknown,
            Address::Kept { url, reusable: false } if url == used => Address::OneShot,
            _ => return,
        };
    }
}

/// Without the address, which may hold a signature.
impl fmt::Debug for BlobOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.session.registry(), self.repository, self.digest)
    }
}

#[async_trait]
impl Origin for BlobOrigin {
    fn host(&self) -> &str {
        self.session.registry()
    }

    fn provenance(&self) -> Provenance {
        self.provenance
    }

    fn leave(&self) {
        self.session.leave();
    }

    async fn open(&self, range: Range<u64>) -> Result<Body> {
        let wanted = Wanted::new(&self.digest, self.size, range, self.host())?;
        match self.kept() {
            Some(url) => self.ask_kept(url, &wanted).await,
            None => self.ask(&wanted).await,
        }
    }
}

/// A blob at an address out of its descriptor. No credentials go there.
pub(super) struct ForeignOrigin {
    http: Arc<Http>,
    url: Url,
    host: String,
    digest: Digest,
    size: u64,
}

impl ForeignOrigin {
    /// `None` when the address is none that is followed: only `http` and `https` without a password in it are.
    pub(super) fn new(http: Arc<Http>, address: &str, blob: &Descriptor) -> Option<ForeignOrigin> {
        let url = Url::parse(address).ok()?;
        let usable = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
        let host = authority(&url);
        usable.then(|| ForeignOrigin { http, url, host, digest: blob.digest.clone(), size: blob.size })
    }
}

impl fmt::Debug for ForeignOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.host, self.digest)
    }
}

#[async_trait]
impl Origin for ForeignOrigin {
    fn host(&self) -> &str {
        &self.host
    }

    fn provenance(&self) -> Provenance {
        Provenance::Foreign
    }

    async fn open(&self, range: Range<u64>) -> Result<Body> {
        let wanted = Wanted::new(&self.digest, self.size, range, &self.host)?;
        let answer = follow(&self.http, wanted.request(self.url.clone())).await?;
        match wanted.is_answered_by(answer.status()) {
            true => wanted.body(answer),
            false => Err(answer.into_error().await),
        }
    }
}

/// The body from a signed address; a refusal means that the registry must be asked for another.
async fn signed_body(wanted: &Wanted, answer: Answer) -> Result<Body> {
    let status = answer.status();
    if wanted.is_answered_by(status) {
        return wanted.body(answer);
    }
    match status.as_u16() {
        408 | 429 => Err(answer.into_error().await),
        code @ 400..=499 => Err(answer.fault(Fault::Expired(code))),
        _ => Err(answer.into_error().await),
    }
}

/// A range of a blob that is asked for.
struct Wanted {
    range: Range<u64>,
    size: u64,
    what: String,
}

impl Wanted {
    fn new(digest: &Digest, size: u64, range: Range<u64>, host: &str) -> Result<Wanted> {
        let what = format!("blob {digest}");
        if range.is_empty() || range.end > size {
            let why = format!("bytes {}-{} of {size} were asked for", range.start, range.end);
            return Err(Error::Invalid { what, place: host.into(), why });
        }
        Ok(Wanted { range, size, what })
    }

    fn is_whole(&self) -> bool {
        self.range == (0..self.size)
    }

    /// Nothing for the whole blob: every server can answer that.
    fn header(&self) -> Option<String> {
        (!self.is_whole()).then(|| format!("bytes={}-{}", self.range.start, self.range.end - 1))
    }

    fn request(&self, url: Url) -> Request {
        let mut headers = HeaderMap::new();
        if let Some(range) = self.header().and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(RANGE, range);
        }
        Request { method: Method::GET, url, headers, body: None, what: self.what.clone() }
    }

    /// Whether the status is one that [`Wanted::body`] judges.
    fn is_answered_by(&self, status: StatusCode) -> bool {
        matches!(status.as_u16(), 200 | 206 | 416)
    }

    /// Takes the body of an answer after checking which bytes it says to hold.
    fn body(&self, answer: Answer) -> Result<Body> {
        let (part, extent) = match answer.status().as_u16() {
            206 if self.is_whole() => return Err(answer.protocol("a part, though the whole was asked for")),
            206 => (self.part(&answer)?, Extent::Range),
            200 if self.is_whole() => (0..self.size, Extent::Range),
            200 => (0..self.size, Extent::Everything),
            _ => return Err(self.out_of_reach(&answer)),
        };
        let expected = part.end - part.start;
        if let Some(got) = answer.length().filter(|length| *length != expected) {
            let is_whole = answer.status() == StatusCode::OK;
            return Err(answer.fault(if is_whole {
                Fault::Size { got, expected }
            } else {
                Fault::Length { got, expected }
            }));
        }
        Ok(Body { start: part.start, end: Some(part.end), extent, bytes: measured(answer, expected).boxed() })
    }

    /// A 416, which tells the size if it is polite.
    fn out_of_reach(&self, answer: &Answer) -> Error {
        let told = answer.header("content-range").unwrap_or("no size");
        let size = told.trim().strip_prefix("bytes */").and_then(|size| size.parse().ok());
        match size.filter(|size| *size != self.size) {
            Some(got) => answer.fault(Fault::Size { got, expected: self.size }),
            None => answer.protocol(format!("HTTP 416: bytes {:?} cannot be had ({told})", self.range)),
        }
    }

    /// The part that a 206 says to hold.
    fn part(&self, answer: &Answer) -> Result<Range<u64>> {
        if answer.header("content-type").is_some_and(|t| t.to_ascii_lowercase().starts_with("multipart/")) {
            return Err(answer.protocol("several parts, though one was asked for"));
        }
        let text = answer.header("content-range").unwrap_or_default();
        let (part, total) = content_range(text)
            .ok_or_else(|| answer.protocol(format!("a part without a usable Content-Range ({text:?})")))?;
        if part.start != self.range.start || part.end > self.range.end {
            return Err(answer.protocol(format!("bytes {:?} were asked for, Content-Range is {text:?}", self.range)));
        }
        match total {
            Some(total) if total != self.size => Err(answer.fault(Fault::Size { got: total, expected: self.size })),
            _ => Ok(part),
        }
    }
}

/// `bytes 0-99/1000` or `bytes 0-99/*` (RFC 9110, 14.4).
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = if total.trim() == "*" { None } else { Some(total.trim().parse().ok()?) };
    let end = last.checked_add(1)?;
    (first < end && total.is_none_or(|total| end <= total)).then_some((first..end, total))
}

/// The pieces as they came, and an error when they end early. What comes beyond is not read.
fn measured(answer: Answer, expected: u64) -> impl futures::Stream<Item = Result<bytes::Bytes>> + Send {
    let Answer { response, place, what, stall, .. } = answer;
    let state = Some((response.bytes_stream(), 0u64));
    stream::unfold((state, place, what), move |(state, place, what)| async move {
        let (mut pieces, got) = state?;
        let (piece, next) = match pieces.next().await {
            Some(Ok(piece)) if got + piece.len() as u64 <= expected => {
                let got = got + piece.len() as u64;
                (Ok(piece), Some((pieces, got)))
            }
            Some(Ok(mut piece)) => {
                piece.truncate((expected - got) as usize);
                (Ok(piece), None)
            }
            Some(Err(e)) => (Err(fault(&place, &what, e, stall)), None),
            None if got == expected => return None,
            None => (Err(Error::network(&place, &what, Fault::Length { got, expected })), None),
        };
        Some((piece, (next, place, what)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_must_make_sense() {
        assert_eq!(content_range("bytes 0-99/1000"), Some((0..100, Some(1000))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5..6, None)));
        for bad in
            ["", "bytes */100", "bytes 9-5/100", "bytes 0-100/100", "items 0-1/2", "bytes 0-18446744073709551615/*"]
        {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
