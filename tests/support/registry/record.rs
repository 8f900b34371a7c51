//! What was asked and what was sent: for asserting what was *not* fetched.

use std::ops::Deref;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use layerpull::oci::Digest;

/// Longest wait for something that a test expects to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Ping,
    Manifest { repository: String, selector: String },
    Blob { repository: String, digest: String },
    Tags { repository: String },
    Referrers { repository: String, digest: String },
    Catalog,
    Token,
    Other,
}

impl Kind {
    /// Reads a path.
    pub fn of(path: &str) -> Kind {
        let Some(rest) = path.strip_prefix("/v2/") else {
            return match path {
                "/v2" => Kind::Ping,
                _ if path.starts_with("/token") => Kind::Token,
                _ => Kind::Other,
            };
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let Some((last, repository)) = parts.split_last().filter(|_| parts.len() >= 3) else {
            return match rest {
                "" => Kind::Ping,
                "_catalog" => Kind::Catalog,
                _ => Kind::Other,
            };
        };
        let (kind, repository) = repository.split_last().expect("two parts at least");
        let (repository, last) = (repository.join("/"), last.to_string());
        match *kind {
            "manifests" => Kind::Manifest { repository, selector: last },
            "blobs" => Kind::Blob { repository, digest: last },
            "referrers" => Kind::Referrers { repository, digest: last },
            "tags" => Kind::Tags { repository },
            _ => Kind::Other,
        }
    }

    /// The repository in the path.
    pub fn repository(&self) -> Option<&str> {
        match self {
            Kind::Manifest { repository, .. }
            | Kind::Blob { repository, .. }
            | Kind::Tags { repository }
            | Kind::Referrers { repository, .. } => Some(repository),
            _ => None,
        }
    }
}

/// One request, and how its answer went.
#[derive(Debug, Clone)]
pub struct Request {
    /// In which order it came, from 0.
    pub number: usize,
    /// On which connection, from 0.
    pub connection: usize,
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub kind: Kind,
    /// When its head had come.
    pub at: Instant,
    /// The status of the answer; 0 while there is none.
    pub status: u16,
    /// Bytes of the answer's body that went into the socket.
    pub sent: u64,
    /// The answer has ended, whole or not.
    pub ended: bool,
}

impl Request {
    /// The first header of that name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The value of a query parameter, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.into_iter().find(|(n, _)| n == name).map(|(_, value)| value.into_owned())
    }

    /// User and password of Basic authentication.
    pub fn basic(&self) -> Option<(String, String)> {
        let encoded = self.header("authorization")?.strip_prefix("Basic ")?;
        let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        text.split_once(':').map(|(user, password)| (user.into(), password.into()))
    }

    /// The bearer token.
    pub fn bearer(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    /// Whether `secret` is anywhere in it, also inside base64.
    pub fn carries(&self, secret: &str) -> bool {
        let basic = self.basic().is_some_and(|(user, password)| user.contains(secret) || password.contains(secret));
        let decoded =
            url::form_urlencoded::parse(self.query.as_bytes()).any(|(n, v)| n.contains(secret) || v.contains(secret));
        let headers = self.headers.iter().any(|(_, value)| value.contains(secret));
        let body = String::from_utf8_lossy(&self.body).contains(secret);
        basic || decoded || headers || body || self.path.contains(secret) || self.query.contains(secret)
    }

    fn is_blob(&self, digest: &Digest) -> bool {
        matches!(&self.kind, Kind::Blob { digest: d, .. } if *d == digest.to_string())
    }
}

/// The requests so far, in their order. Derefs to a slice.
#[derive(Debug, Clone)]
pub struct Requests(Vec<Request>);

impl Deref for Requests {
    type Target = [Request];

    fn deref(&self) -> &[Request] {
        &self.0
    }
}

impl Requests {
    /// How many have this method and a path that contains `part`.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.iter().filter(|r| r.method == method && r.path.contains(part)).count()
    }

    /// Those for which `condition` holds.
    pub fn such(&self, condition: impl Fn(&Request) -> bool) -> Requests {
        Requests(self.iter().filter(|r| condition(r)).cloned().collect())
    }

    /// GETs of a blob.
    pub fn blob_gets(&self, digest: &Digest) -> Requests {
        self.such(|r| r.method == "GET" && r.is_blob(digest))
    }

    /// GETs of any blob.
    pub fn all_blob_gets(&self) -> Requests {
        self.such(|r| r.method == "GET" && matches!(r.kind, Kind::Blob { .. }))
    }

    /// GETs of a manifest by a tag or digest.
    pub fn manifest_gets(&self, selector: impl ToString) -> Requests {
        let wanted = selector.to_string();
        self.such(|r| r.method == "GET" && matches!(&r.kind, Kind::Manifest { selector, .. } if *selector == wanted))
    }

    /// Requests for a token.
    pub fn tokens(&self) -> Requests {
        self.such(|r| r.kind == Kind::Token)
    }

    /// Bytes of bodies of a blob that were sent, summed over all requests for it.
    pub fn bytes_sent_for(&self, digest: &Digest) -> u64 {
        self.iter().filter(|r| r.is_blob(digest)).map(|r| r.sent).sum()
    }

    /// Bytes of bodies of all blobs that were sent.
    pub fn blob_bytes(&self) -> u64 {
        self.all_blob_gets().iter().map(|r| r.sent).sum()
    }

    /// The `Range` headers of the requests for a blob, in order; `None` where there was none.
    pub fn ranges(&self, digest: &Digest) -> Vec<Option<String>> {
        self.blob_gets(digest).iter().map(|r| r.header("range").map(str::to_owned)).collect()
    }

    /// How many connections they came on.
    pub fn connections(&self) -> usize {
        self.iter().map(|r| r.connection).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Those that carry `secret` anywhere: header, path, query, body, also in base64.
    pub fn carrying(&self, secret: &str) -> Requests {
        self.such(|r| r.carries(secret))
    }
}

/// The record of one listener.
#[derive(Default)]
pub(super) struct Log {
    requests: Mutex<Vec<Request>>,
    changed: Condvar,
}

impl Log {
    pub(super) fn begin(&self, mut request: Request) -> Request {
        let mut requests = self.requests.lock().expect("no test panics while it holds the log");
        request.number = requests.len();
        requests.push(request.clone());
        self.changed.notify_all();
        request
    }

    pub(super) fn update(&self, number: usize, change: impl FnOnce(&mut Request)) {
        let mut requests = self.requests.lock().expect("no test panics while it holds the log");
        // A request that was forgotten in the meantime needs no record.
        if let Some(request) = requests.get_mut(number) {
            change(request);
        }
        self.changed.notify_all();
    }

    pub(super) fn snapshot(&self) -> Requests {
        Requests(self.requests.lock().expect("no test panics while it holds the log").clone())
    }

    pub(super) fn wait(&self, what: &str, condition: impl Fn(&Requests) -> bool) -> Requests {
        let deadline = Instant::now() + PATIENCE;
        let mut requests = self.requests.lock().expect("no test panics while it holds the log");
        loop {
            let now = Requests(requests.clone());
            if condition(&now) {
                return now;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "never happened: {what}; requests so far: {now:#?}");
            requests = self.changed.wait_timeout(requests, left).expect("no test panics while it holds the log").0;
        }
    }
}
