//! Misbehaviour as data.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::Compression;
use layerpull::oci::Digest;
use tokio_util::sync::CancellationToken;

use super::Elsewhere;
use super::answer::{Answer, Framing};
use super::record::{Kind, Request};
use crate::images::Content;

/// Which requests a rule is for.
#[derive(Debug, Clone, Default)]
pub struct When {
    what: What,
    method: Option<&'static str>,
    skip: usize,
    ranged: Option<bool>,
}

#[derive(Debug, Clone, Default)]
enum What {
    #[default]
    Any,
    Ping,
    Tokens,
    Blobs,
    Blob(String),
    Manifests,
    Manifest(String),
    Path(String),
}

impl When {
    fn what(what: What) -> When {
        When { what, ..When::default() }
    }

    /// Every request.
    pub fn any() -> When {
        When::what(What::Any)
    }

    /// `/v2/`.
    pub fn ping() -> When {
        When::what(What::Ping)
    }

    /// The token endpoint.
    pub fn tokens() -> When {
        When::what(What::Tokens)
    }

    /// Any blob.
    pub fn blobs() -> When {
        When::what(What::Blobs)
    }

    /// This blob.
    pub fn blob(digest: &Digest) -> When {
        When::what(What::Blob(digest.to_string()))
    }

    /// Any manifest.
    pub fn manifests() -> When {
        When::what(What::Manifests)
    }

    /// The manifest by this tag or digest.
    pub fn manifest(selector: impl ToString) -> When {
        When::what(What::Manifest(selector.to_string()))
    }

    /// Any path that contains `part`.
    pub fn path(part: &str) -> When {
        When::what(What::Path(part.into()))
    }

    /// Only GET.
    pub fn get(mut self) -> When {
        self.method = Some("GET");
        self
    }

    /// Only HEAD.
    pub fn head(mut self) -> When {
        self.method = Some("HEAD");
        self
    }

    /// Only POST.
    pub fn post(mut self) -> When {
        self.method = Some("POST");
        self
    }

    /// Not the first `count` that match.
    pub fn after(mut self, count: usize) -> When {
        self.skip = count;
        self
    }

    /// Only with a `Range` that begins behind 0.
    pub fn resumed(mut self) -> When {
        self.ranged = Some(true);
        self
    }

    /// Only without a `Range`, or with one that begins at 0.
    pub fn from_start(mut self) -> When {
        self.ranged = Some(false);
        self
    }

    fn matches(&self, request: &Request) -> bool {
        let what = match (&self.what, &request.kind) {
            (What::Any, _) => true,
            (What::Ping, kind) => *kind == Kind::Ping,
            (What::Tokens, kind) => *kind == Kind::Token,
            (What::Blobs, kind) => matches!(kind, Kind::Blob { .. }),
            (What::Manifests, kind) => matches!(kind, Kind::Manifest { .. }),
            (What::Blob(wanted), Kind::Blob { digest, .. }) => wanted == digest,
            (What::Manifest(wanted), Kind::Manifest { selector, .. }) => wanted == selector,
            (What::Path(part), _) => request.path.contains(part),
            _ => false,
        };
        let resumed = request.header("range").is_some_and(|range| !range.starts_with("bytes=0-"));
        what && self.method.is_none_or(|m| m == request.method) && self.ranged.is_none_or(|r| r == resumed)
    }
}

/// How often a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    Once,
    Count(usize),
    Always,
}

/// How a connection ends in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// An orderly end: the client reads the end of the stream.
    Fin,
    /// A reset; what the client has not read yet is lost.
    Rst,
}

/// How long nothing comes.
#[derive(Debug, Clone)]
pub enum Stall {
    For(Duration),
    Ever,
    /// Until the test opens the gate.
    Until(Gate),
}

impl Stall {
    pub(super) async fn wait(&self) {
        match self {
            Stall::For(duration) => tokio::time::sleep(*duration).await,
            Stall::Ever => std::future::pending().await,
            Stall::Until(gate) => gate.0.cancelled().await,
        }
    }
}

/// Something that answers wait at until the test opens it.
#[derive(Debug, Clone, Default)]
pub struct Gate(CancellationToken);

impl Gate {
    pub fn open(&self) {
        self.0.cancel();
    }
}

/// Where a redirect leads.
#[derive(Debug, Clone)]
pub enum Redirect {
    /// This address: another host, `file:///etc/passwd`, …
    To(String),
    /// The address that was asked for.
    Loop,
    /// A signed address at another origin, made anew for each request, that answers this many GETs and then 403.
    Signed(Arc<Elsewhere>, usize),
}

/// An answer out of nothing.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Content,
}

impl Reply {
    /// A status with an empty body.
    pub fn status(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Content::Bytes(Bytes::new()) }
    }

    /// An error in the envelope of the specification.
    pub fn error(status: u16, code: &str, message: &str) -> Reply {
        let body = serde_json::json!({"errors": [{"code": code, "message": message}]});
        Reply::status(status).header("content-type", "application/json").body(body.to_string())
    }

    /// An error whose text would recolour, retitle and clear a terminal.
    pub fn escape_sequences(status: u16) -> Reply {
        Reply::error(status, "UNKNOWN", "\u{1b}[31mred\u{1b}]0;title\u{7}\u{1b}[2J\r\u{9b}31m\u{202e}gnp")
    }

    /// An error with a body of `size` bytes.
    pub fn huge(status: u16, size: u64) -> Reply {
        Reply { body: Content::Fill { byte: b'x', size }, ..Reply::status(status) }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Reply {
        self.body = Content::Bytes(body.into());
        self
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer { headers: reply.headers, ..Answer::new(reply.status, reply.body) }
    }
}

/// What goes wrong with an answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends before anything of the answer was sent.
    CutBeforeHead(Cut),
    /// The head, this many bytes of the body, then the end. With [`Times::Always`]: every so many bytes.
    CutAfter(u64, Cut),
    StallBeforeHead(Stall),
    StallAfter(u64, Stall),
    /// Bytes per second.
    Drip(u64),
    /// This instead of the answer.
    Reply(Reply),
    /// A redirect instead of the answer, 307.
    Redirect(Redirect),
    /// The whole with 200, whatever range was asked for.
    IgnoreRange,
    /// A 206 that names another range than it holds.
    ContentRange(String),
    /// The byte at this offset of the blob is wrong whenever it is sent.
    Flip(u64),
    /// The first byte of a body that does not begin at 0 is wrong.
    FlipOnResume,
    /// A clean answer of only the first so many bytes, which also says so.
    Short(u64),
    /// So many bytes more than there are, stated.
    Long(u64),
    /// No stated length, and no end.
    Endless,
    /// No stated length; the end of the connection ends the body.
    NoLength,
    /// No stated length; chunks.
    Chunked,
    /// HTTP/1.0 without length.
    Http10,
    /// The body as gzip, with `Content-Encoding`, though nobody asked for it.
    Gzip,
    /// `Content-Encoding: …` over bytes that are not encoded.
    ContentEncoding(&'static str),
    /// Without this header.
    Without(&'static str),
    /// With this header instead of one of the same name.
    Header(&'static str, String),
    /// This body instead, with the same status and headers but the length.
    Body(Content),
    /// `Retry-After` with the date that is so far ahead when the answer is made; its fractions of a second are lost.
    RetryAfterDate(Duration),
    /// Several at once, in this order.
    All(Vec<Fault>),
}

impl Fault {
    pub(super) fn apply(&self, request: &Request, mut answer: Answer) -> Answer {
        match self {
            Fault::CutBeforeHead(cut) => answer.cut_head = Some(*cut),
            Fault::CutAfter(bytes, cut) => answer.cut = Some((*bytes, *cut)),
            Fault::StallBeforeHead(stall) => answer.stall_head = Some(stall.clone()),
            Fault::StallAfter(bytes, stall) => answer.stall = Some((*bytes, stall.clone())),
            Fault::Drip(rate) => answer.rate = Some(*rate),
            Fault::Reply(reply) => return reply.clone().into(),
            // Nobody signs an address for somebody whom the registry refuses.
            Fault::Redirect(Redirect::Signed(..)) if answer.status >= 400 => {}
            Fault::Redirect(redirect) => return redirected(redirect, request, &answer),
            Fault::IgnoreRange => return answer.whole(),
            Fault::ContentRange(value) => answer.set("content-range", value),
            Fault::Flip(offset) => answer.flips.push(*offset),
            Fault::FlipOnResume if answer.range.start > 0 => answer.flips.push(answer.range.start),
            Fault::FlipOnResume => {}
            Fault::Short(bytes) => answer.range.end = answer.range.end.min(answer.range.start + bytes),
            Fault::Long(bytes) => answer.extra = *bytes,
            Fault::Endless => (answer.framing, answer.extra) = (Framing::Chunked, u64::MAX),
            Fault::NoLength => answer.framing = Framing::Close,
            Fault::Chunked => answer.framing = Framing::Chunked,
            Fault::Http10 => (answer.framing, answer.version) = (Framing::Close, "HTTP/1.0"),
            Fault::Gzip => return gzipped(answer),
            Fault::ContentEncoding(name) => answer.set("content-encoding", name),
            Fault::Without(name) => answer.remove(name),
            Fault::Header(name, value) => answer.set(name, value),
            Fault::RetryAfterDate(ahead) => {
                answer.set("retry-after", &httpdate::fmt_http_date(SystemTime::now() + *ahead));
            }
            Fault::Body(content) => {
                (answer.range, answer.content) = (0..content.size(), content.clone());
            }
            Fault::All(faults) => return faults.iter().fold(answer, |answer, fault| fault.apply(request, answer)),
        }
        answer
    }
}

fn redirected(redirect: &Redirect, request: &Request, answer: &Answer) -> Answer {
    let location = match redirect {
        Redirect::To(url) => url.clone(),
        Redirect::Loop => request.path.clone(),
        Redirect::Signed(elsewhere, uses) => elsewhere.sign(request, answer.content.clone(), *uses),
    };
    Reply::status(307).header("location", location).into()
}

fn gzipped(mut answer: Answer) -> Answer {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
    let body = answer.content.read(answer.range.clone());
    std::io::Write::write_all(&mut encoder, &body).expect("gzip in memory");
    answer.content = Content::Bytes(encoder.finish().expect("gzip in memory").into());
    answer.range = 0..answer.content.size();
    answer.set("content-encoding", "gzip");
    answer
}

/// The rules of one listener. The first that matches and has uses left is applied.
#[derive(Default)]
pub(super) struct Rules(Vec<Rule>);

struct Rule {
    when: When,
    times: Times,
    fault: Fault,
    seen: usize,
}

impl Rules {
    pub(super) fn push(&mut self, when: When, times: Times, fault: Fault) {
        self.0.push(Rule { when, times, fault, seen: 0 });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn fault(&mut self, request: &Request) -> Option<Fault> {
        self.0.iter_mut().find_map(|rule| rule.take(request))
    }
}

impl Rule {
    fn take(&mut self, request: &Request) -> Option<Fault> {
        if !self.when.matches(request) {
            return None;
        }
        self.seen += 1;
        let nth = self.seen.checked_sub(self.when.skip + 1)?;
        let applies = match self.times {
            Times::Once => nth < 1,
            Times::Count(count) => nth < count,
            Times::Always => true,
        };
        applies.then(|| self.fault.clone())
    }
}
