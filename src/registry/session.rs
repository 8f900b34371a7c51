//! A session with one host: requests that carry what it demands, and redirects that lead away from it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Method, StatusCode, Url};
use tokio_util::task::AbortOnDropHandle;

use super::answer::Answer;
use super::auth::{Access, Authenticator, Authorization, Peer};
use super::credentials::SharedCredentials;
use super::host::Host;
use super::hosts::{Approach, Manners, marked};
use super::http::{Http, Request};
use super::upload::supply::{Framing, Supply};
use crate::error::{Error, Result};

const MAX_HOPS: usize = 5;

/// Where a request goes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// A path with its query, from the root of the host.
    Path(String),
    /// An address that the registry named. It gets no credentials when it is at another origin.
    Address(Url),
}

/// What is asked of a registry.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) accept: Option<&'static str>,
    /// Value of a `Range` header.
    pub(super) range: Option<String>,
    pub(super) body: Option<Content>,
    pub(super) access: Access,
    /// In messages.
    pub(super) what: String,
}

/// A small body, which can be sent again.
#[derive(Clone)]
pub(super) struct Content {
    /// Its `Content-Type`.
    pub(super) kind: String,
    pub(super) bytes: Bytes,
}

impl Ask {
    /// A GET of `path`.
    pub(super) fn get(path: impl Into<String>, access: Access, what: impl Into<String>) -> Ask {
        let target = Target::Path(path.into());
        Ask { method: Method::GET, target, accept: None, range: None, body: None, access, what: what.into() }
    }

    /// The same at an address that the registry named.
    pub(super) fn at(self, address: Url) -> Ask {
        Ask { target: Target::Address(address), ..self }
    }

    /// The same with another method.
    pub(super) fn by(self, method: Method) -> Ask {
        Ask { method, ..self }
    }

    fn request(&self, base: &Url, approach: &Approach, authorization: Option<&Authorization>) -> Request {
        let url = self.url(base, approach);
        let mut headers = HeaderMap::new();
        if same_origin(&url, base) {
            headers.extend(approach.headers.iter().filter_map(|(name, text)| Some((name.clone(), marked(text)?))));
        }
        if let Some(accept) = self.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        set(&mut headers, RANGE, self.range.as_deref());
        set(&mut headers, CONTENT_TYPE, self.body.as_ref().map(|body| body.kind.as_str()));
        if let Some(authorization) = authorization.filter(|_| same_origin(&url, base)) {
            headers.insert(AUTHORIZATION, authorization.header().clone());
        }
        let body = self.body.as_ref().map(|body| body.bytes.clone());
        if self.method == Method::POST && body.is_none() {
            // Some servers want a length also where there is nothing.
            headers.insert(CONTENT_LENGTH, 0.into());
        }
        Request { method: self.method.clone(), url, headers, body, what: self.what.clone() }
    }

    /// A path is not joined: `//other/x` would then lead to another host, and a list could name it.
    fn url(&self, base: &Url, approach: &Approach) -> Url {
        let path = match &self.target {
            Target::Path(path) => path,
            Target::Address(url) => return url.clone(),
        };
        let mut url = base.clone();
        let (path, query) = path.split_once('?').map_or((path.as_str(), None), |(p, q)| (p, Some(q)));
        match path.strip_prefix("/v2/") {
            Some(rest) => url.set_path(&format!("{}/{rest}", approach.api)),
            None => url.set_path(path),
        }
        url.set_query(query);
        if let Some(namespace) = &approach.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }
}

/// One host and what it demands. Shared by every repository of it.
pub(super) struct Session {
    http: Arc<Http>,
    host: Host,
    auth: Arc<Authenticator>,
    /// How often it failed where another host could be asked; more than [`MAX_FAILURES`] once it is left.
    failures: AtomicUsize,
    /// All repositories of the host, if it was asked and told all.
    pub(super) repositories: OnceLock<HashSet<String>>,
}

/// Failures of a mirror that may pass, before it is left.
const MAX_FAILURES: usize = 2;

impl Session {
    /// `manners`: what is said of other hosts that this one may lead to.
    pub(super) fn new(http: &Http, host: Host, mut manners: Manners, credentials: SharedCredentials) -> Session {
        let approach = host.approach();
        // One file may name a host twice, by different paths.
        manners.insert(approach.authority.clone(), approach.manner.clone());
        let http = Arc::new(http.knowing(manners));
        let auth = Arc::new(Authenticator::new(host.registry(), http.clone(), credentials));
        Session { http, host, auth, failures: AtomicUsize::new(0), repositories: OnceLock::new() }
    }

    /// Whether it is not to be asked any more where another host can be.
    pub(super) fn is_left(&self) -> bool {
        self.failures.load(Ordering::Relaxed) > MAX_FAILURES
    }

    /// It failed in a way that may pass. Returns whether it is left now, and was not before.
    pub(super) fn failed(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed) == MAX_FAILURES
    }

    /// It is not to be asked any more. Returns whether that is news.
    pub(super) fn leave(&self) -> bool {
        self.failures.fetch_max(MAX_FAILURES + 1, Ordering::Relaxed) <= MAX_FAILURES
    }

    /// It answered.
    pub(super) fn served(&self) {
        let _ = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n <= MAX_FAILURES).then_some(0));
    }

    /// The name that references use.
    pub(super) fn registry(&self) -> &str {
        self.host.registry()
    }

    pub(super) fn http(&self) -> &Arc<Http> {
        &self.http
    }

    /// The address of the host.
    pub(super) async fn base(&self) -> Result<&Url> {
        self.host.base(&self.http).await
    }

    /// Asks, answers a challenge, and follows redirects. The status of what comes back is not judged, but for a 401 that
    /// stays one.
    ///
    /// A token that others share may have ended, or been used up, before it got here: where tokens have opened the way
    /// before, the last attempt is made with one that nobody else has.
    ///
    /// # Errors
    /// `Unauthorized`, `Network`, `Refused`, and what the token service failed with.
    pub(super) async fn send(&self, ask: &Ask) -> Result<Answer> {
        let (base, early) = self.begin(ask).await?;
        let peer = Peer { base: base.clone(), insecure: self.host.is_insecure() };
        let (first, answer) = match early {
            Some(answer) => (None, answer),
            None => {
                let first = self.auth.authorization(&ask.access, &peer).await?;
                let answer = self.exchange(ask, base, first.as_ref()).await?;
                (first, answer)
            }
        };
        if !self.is_challenge(&answer, base) {
            self.auth.opened(&ask.access, first.as_ref());
            return Ok(answer);
        }
        let place = answer.place.clone();
        self.auth.learn(&ask.access, first.as_ref(), answer).await?;
        let second = self.auth.authorization(&ask.access, &peer).await?.ok_or_else(|| self.login_wanted(ask, place))?;
        let mut answer = self.exchange(ask, base, Some(&second)).await?;
        if !self.is_challenge(&answer, base) {
            self.auth.opened(&ask.access, Some(&second));
            return Ok(answer);
        }
        if let Some(own) = self.auth.unshared(&ask.access, &peer).await? {
            answer = self.exchange(ask, base, Some(&own)).await?;
        }
        match self.is_challenge(&answer, base) {
            true => Err(self.auth.refused(answer).await),
            false => Ok(answer),
        }
    }

    /// The address of the host, and the answer to `ask` if it was sent while that was found out: without credentials, and
    /// it counts only if the host is the one that it went to.
    async fn begin(&self, ask: &Ask) -> Result<(&Url, Option<Answer>)> {
        let may_go = ask.method.is_safe() && matches!(ask.target, Target::Path(_));
        let Some(guess) = self.host.guess(&self.http).filter(|_| may_go) else {
            return Ok((self.base().await?, None));
        };
        let (http, request) = (self.http.clone(), ask.request(&guess, self.host.approach(), None));
        let sent = request.clone();
        let early = AbortOnDropHandle::new(tokio::spawn(async move { http.send(sent).await }));
        let base = self.base().await?;
        if *base != guess {
            return Ok((base, None));
        }
        let Ok(answer) = early.await else { return Ok((base, None)) };
        Ok((base, Some(follow_on(&self.http, request, answer?).await?)))
    }

    /// Sends a request with a body that cannot be sent again: once, so a 401 is an answer as any other, from which the
    /// next request learns. A redirect is followed only while nothing of the body has gone.
    ///
    /// # Errors
    /// Those of [`Session::send`], and `Invalid` for a redirect that came too late.
    pub(super) async fn stream(&self, ask: &Ask, framing: &Framing, body: Supply) -> Result<Answer> {
        let base = self.base().await?;
        let peer = Peer { base: base.clone(), insecure: self.host.is_insecure() };
        let authorization = self.auth.authorization(&ask.access, &peer).await?;
        let mut request = ask.request(base, self.host.approach(), authorization.as_ref());
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        framing.describe(&mut request.headers);
        for _ in 0..=MAX_HOPS {
            let answer = self.http.send_stream(request.clone(), body.body()).await?;
            if leads_on(answer.status()) && body.is_untouched() {
                redirect(&mut request, &answer)?;
                continue;
            }
            if self.is_challenge(&answer, base) {
                return Err(self.ended(&ask.access, authorization.as_ref(), answer).await);
            }
            return Ok(answer);
        }
        Err(too_many_hops(&request))
    }

    /// A token that ended on the way: the next request has another.
    async fn ended(&self, access: &Access, used: Option<&Authorization>, answer: Answer) -> Error {
        let broken = answer.protocol("HTTP 401: the token ended on the way");
        match self.auth.learn(access, used, answer).await {
            Ok(()) => broken,
            Err(e) => e,
        }
    }

    /// Names the failure of an answer; a refusal comes with advice when it is the registry's own.
    pub(super) async fn failure(&self, answer: Answer) -> Error {
        self.auth.refused(answer).await
    }

    fn is_challenge(&self, answer: &Answer, base: &Url) -> bool {
        answer.status() == StatusCode::UNAUTHORIZED && same_origin(&answer.url, base)
    }

    fn login_wanted(&self, ask: &Ask, place: String) -> Error {
        let why = format!("unauthorized: authentication required: log in with `layerpull login {}`", self.registry());
        Error::Unauthorized { what: ask.what.clone(), place, why }
    }

    async fn exchange(&self, ask: &Ask, base: &Url, authorization: Option<&Authorization>) -> Result<Answer> {
        follow(&self.http, ask.request(base, self.host.approach(), authorization)).await
    }
}

/// Sends a request and follows redirects: never to another scheme than `http` and `https`, never from TLS to plain
/// text, and without credentials as soon as they lead to another origin. Every other header is kept.
///
/// # Errors
/// `Invalid` when a redirect cannot be followed, `Network` when no answer comes.
pub(super) async fn follow(http: &Http, request: Request) -> Result<Answer> {
    let answer = http.send(request.clone()).await?;
    follow_on(http, request, answer).await
}

async fn follow_on(http: &Http, mut request: Request, mut answer: Answer) -> Result<Answer> {
    for _ in 0..MAX_HOPS {
        if !leads_on(answer.status()) {
            return Ok(answer);
        }
        redirect(&mut request, &answer)?;
        answer = http.send(request.clone()).await?;
    }
    match leads_on(answer.status()) {
        true => Err(too_many_hops(&request)),
        false => Ok(answer),
    }
}

/// Turns a request to where an answer leads.
fn redirect(request: &mut Request, answer: &Answer) -> Result<()> {
    let next = location(answer)?;
    if !same_origin(&answer.url, &next) {
        let secret = request.headers.iter().filter(|(_, value)| value.is_sensitive()).map(|(name, _)| name.clone());
        let secret: Vec<HeaderName> = secret.chain([AUTHORIZATION]).collect();
        secret.into_iter().for_each(|name| _ = request.headers.remove(name));
    }
    request.url = next;
    Ok(())
}

/// Where the `Location` of an answer leads: any host, but never from TLS to plain text.
///
/// # Errors
/// `Invalid` when there is none, or it cannot be followed.
pub(super) fn location(answer: &Answer) -> Result<Url> {
    let refuse = |why: String| Error::Invalid { what: answer.what.clone(), place: answer.place.clone(), why };
    let text = answer.header(LOCATION.as_str()).ok_or_else(|| refuse("a redirect without an address".into()))?;
    let next = answer.url.join(text).map_err(|e| refuse(format!("a redirect to no address: {e}")))?;
    check_redirect(&answer.url, &next).map_err(refuse)?;
    Ok(next)
}

fn too_many_hops(request: &Request) -> Error {
    let why = format!("more than {MAX_HOPS} redirects");
    Error::Invalid { what: request.what.clone(), place: super::http::authority(&request.url), why }
}

fn leads_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn check_redirect(from: &Url, to: &Url) -> Result<(), String> {
    match (from.scheme(), to.scheme()) {
        _ if !to.username().is_empty() || to.password().is_some() => {
            Err("a redirect to an address with a password".into())
        }
        ("https", "http") => Err("a redirect from TLS to plain HTTP".into()),
        (_, "http" | "https") => Ok(()),
        (_, scheme) => Err(format!("a redirect to the scheme {scheme:?}")),
    }
}

/// Whether two addresses have the same scheme, host and port: only then may credentials go from one to the other.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    if let Some(value) = value.and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_only_where_they_may() {
        let check = |from: &str, to: &str| check_redirect(&from.parse().unwrap(), &to.parse().unwrap());
        assert!(check("http://h/", "https://cdn/").is_ok());
        assert!(check("http://h/", "http://cdn/").is_ok());
        assert!(check("https://h/", "http://h/").is_err());
        assert!(check("http://h/", "file:///etc/passwd").is_err());
        assert!(check("https://h/", "https://u:p@cdn/").is_err());
    }

    #[test]
    fn no_path_leads_to_another_host() {
        let base: Url = "https://h:5000/".parse().unwrap();
        let host = Approach::of_registry("h:5000");
        let url = |path: &str| Ask::get(path, Access::default(), "x").url(&base, &host).to_string();
        assert_eq!(url("/v2/a/tags/list?n=1&last=a%2Fb"), "https://h:5000/v2/a/tags/list?n=1&last=a%2Fb");
        for path in ["//other/x", "https://other/x", "/\\other/x", "@other/x", "?x=//other/"] {
            assert!(url(path).starts_with("https://h:5000/"), "{path}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://h/a", "https://h:443/b?c"));
        assert!(!same("https://h/", "http://h/"));
        assert!(!same("http://h:5000/", "http://h:5001/"));
        assert!(!same("http://h/", "http://x.h/"));
    }
}
