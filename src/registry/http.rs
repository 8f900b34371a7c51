//! The request path: one request in, one answer with its body out. No redirects, no repetition, no credentials of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Method, Response, Url};

use super::answer::{Answer, Notices};
use super::failed::{Failed, causes};
use super::hosts::{Manner, Manners};
use super::proxy::{Proxies, is_loopback};
use super::secret::Told;
use super::tls::{self, Trust, certs_folder};
use super::wire::{Wire, Wiring};
use super::{Insecure, Options, Verify};
use crate::error::{Error, Fault, Result};
use crate::event::Events;
use crate::limit::{Direction, Limiter};

/// How many idle connections to a host are kept, and for how long: as many as a transfer may use at once.
pub(super) const IDLE_CONNECTIONS: usize = 64;
pub(super) const IDLE_TIME: Duration = Duration::from_secs(60);

/// One request.
#[derive(Clone)]
pub(super) struct Request {
    /// The method.
    pub method: Method,
    /// The address, `http` or `https`.
    pub url: Url,
    /// Headers; those that carry credentials are marked sensitive.
    pub headers: HeaderMap,
    /// The body.
    pub body: Option<Bytes>,
    /// What is asked for, in messages.
    pub what: String,
}

/// Who watches that something comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Watch {
    /// The connection itself: nothing may be silent for longer than [`Options::stall`].
    Connection,
    /// The caller: while a body is on its way, nothing comes back, however fast it moves.
    Caller,
}

/// Sends requests over kept connections. A cheap clone of shared ones.
#[derive(Clone)]
pub(super) struct Http {
    options: Arc<Options>,
    proxies: Arc<Proxies>,
    notices: Arc<Notices>,
    clients: Arc<Mutex<HashMap<Kind, Client>>>,
    /// What the configuration says of hosts to whoever sends these requests.
    manners: Arc<Manners>,
}

/// What connections have in common that serve the same requests. Buffers are chosen when a connection is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    trust: Trust,
    watch: Watch,
    /// How long connecting may take.
    timeout: Duration,
    buffers: [Option<usize>; 2],
}

/// Kept connections of one kind.
#[derive(Clone)]
enum Client {
    /// Where nothing is counted.
    Free(reqwest::Client),
    /// Over connections of our own.
    Metered(Box<Wire>),
}

impl Client {
    /// Sends a request; its failure as `fault` names it.
    async fn execute(&self, request: reqwest::Request, fault: impl Fn(Failed<'_>) -> Error) -> Result<Response> {
        match self {
            Client::Free(client) => client.execute(request).await.map_err(|error| fault(Failed::of_reqwest(&error))),
            Client::Metered(wire) => wire.send(request).await.map_err(|error| fault(Failed::of_hyper(&error))),
        }
    }
}

impl Http {
    pub(super) fn new(options: Arc<Options>, events: Events) -> Http {
        let proxies = Arc::new(Proxies::from_environment(&options.environment));
        let notices = Arc::new(Notices::new(events));
        Http { options, proxies, notices, clients: Arc::default(), manners: Arc::default() }
    }

    /// The same, by which connections to these hosts are made as is said here, and to all others as the settings say.
    pub(super) fn knowing(&self, manners: Manners) -> Http {
        Http { manners: Arc::new(manners), ..self.clone() }
    }

    /// The name by which the configuration knows the host of `url`: unlike an address, it may spell out the usual port.
    fn configured_name(&self, url: &Url) -> String {
        let host = url.host_str().unwrap_or_default();
        let spelled = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        spelled.filter(|name| self.manners.contains_key(name)).unwrap_or_else(|| authority(url))
    }

    fn manner(&self, authority: &str) -> Manner {
        self.manners.get(authority).cloned().unwrap_or_default()
    }

    /// Sends one request. The answer's head has come when this returns; its status is not judged.
    ///
    /// # Errors
    /// `Network` when no answer came or it is encoded; `Store` or `Usage` when certificates cannot be read.
    pub(super) async fn send(&self, mut request: Request) -> Result<Answer> {
        let body = request.body.take();
        let told = Told::by(&request.headers, body.as_deref());
        self.exchange(request, body.map(reqwest::Body::from), told, Watch::Connection).await
    }

    /// Sends one request whose body comes piece by piece. No time is bounded here: the caller sees the body move.
    ///
    /// # Errors
    /// Those of [`Http::send`].
    pub(super) async fn send_stream(&self, request: Request, body: reqwest::Body) -> Result<Answer> {
        let told = Told::by(&request.headers, None);
        self.exchange(request, Some(body), told, Watch::Caller).await
    }

    async fn exchange(
        &self,
        mut request: Request,
        body: Option<reqwest::Body>,
        told: Told,
        watch: Watch,
    ) -> Result<Answer> {
        let place = place(&request.url);
        let client = self.client(self.kind(&request.url, watch)).await?;
        request.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut outgoing = reqwest::Request::new(request.method.clone(), request.url.clone());
        *outgoing.headers_mut() = request.headers;
        *outgoing.body_mut() = body;
        tracing::trace!(method = %request.method, host = %place, path = request.url.path(), "request");
        let stall = self.options.stall;
        let named = |failed: Failed<'_>| failed.named(&place, &request.what, stall);
        let response = client.execute(outgoing, named).await?;
        tracing::trace!(status = response.status().as_u16(), host = %place, path = request.url.path(), "answer");
        self.notices.read(&place, response.headers(), &told);
        // The body of a failure only decorates a message.
        let encoding = foreign_encoding(response.headers()).filter(|_| response.status().is_success());
        if let Some(encoding) = encoding {
            let why = format!("the body is encoded as {encoding:?}, though none was asked for");
            return Err(Error::network(place, request.what, Fault::Protocol(why)));
        }
        Ok(Answer { response, url: request.url, place, what: request.what, stall, told })
    }

    /// How long nothing may seem to come to those who cannot tell a silent server from a limit.
    pub(super) fn patience(&self) -> Duration {
        self.options.limiter.patience(self.options.stall)
    }

    /// What connections may use.
    pub(super) fn limiter(&self) -> &Limiter {
        &self.options.limiter
    }

    /// What answers said beside their content.
    pub(super) fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Whether requests to `url` go through a proxy.
    pub(super) fn is_proxied(&self, url: &Url) -> bool {
        self.proxies.for_url(url).is_some()
    }

    fn kind(&self, url: &Url, watch: Watch) -> Kind {
        // What cannot even connect shall say so, not that nothing was received.
        let usual = self.options.connect_timeout.min(self.options.stall / 2);
        let timeout = self.manner(&self.configured_name(url)).dial_timeout.map_or(usual, |own| own.min(usual));
        let buffers = [Direction::Down, Direction::Up].map(|direction| self.options.limiter.buffer(direction));
        Kind { trust: self.trust(url), watch, timeout, buffers }
    }

    /// Whom a connection to the host of `url` trusts.
    ///
    /// A host on loopback is trusted as docker does: it may as well speak plain HTTP. Certificates that are given
    /// for it are obeyed.
    pub(super) fn trust(&self, url: &Url) -> Trust {
        if url.scheme() != "https" {
            return Trust::Nothing;
        }
        let authority = self.configured_name(url);
        let folder = match &self.options.cert_dir {
            Some(folder) => Some(folder.clone()),
            None => certs_folder(&self.options.environment, &authority),
        };
        let Manner { insecure, authorities, identities, .. } = self.manner(&authority);
        let files = [self.options.ca_files.clone(), authorities].concat();
        let configured = folder.is_some() || !files.is_empty();
        let loopback = url.host_str().is_some_and(|h| is_loopback(h.trim_matches(['[', ']'])));
        let anyone = match self.options.verify {
            Verify::Never => true,
            Verify::Usual | Verify::Plain => {
                insecure || self.options.insecure.covers(&authority) || (loopback && !configured)
            }
        };
        match anyone {
            true => Trust::Anyone { folder, identities },
            false => Trust::Authorities { files, folder, identities },
        }
    }

    /// Whom a proxy that speaks TLS is trusted by: not as the host behind it, which may show any certificate, and with no
    /// certificate that identifies us to that host.
    fn trust_in_proxies(&self) -> Option<Trust> {
        let verified =
            Trust::Authorities { files: self.options.ca_files.clone(), folder: None, identities: Vec::new() };
        let trust = match self.options.verify {
            Verify::Never => Trust::Anyone { folder: None, identities: Vec::new() },
            Verify::Usual | Verify::Plain => verified,
        };
        self.proxies.speak_tls().then_some(trust)
    }

    /// The connections for one kind of trust. Certificates are first read when they are first needed.
    async fn client(&self, kind: Kind) -> Result<Client> {
        if let Some(client) = self.clients().get(&kind) {
            return Ok(client.clone());
        }
        let trusts = (kind.trust.clone(), self.trust_in_proxies());
        let built = match trusts {
            (Trust::Nothing, None) => self.build(Certificates::load(&Trust::Nothing, None)?, &kind)?,
            (trust, proxies) => {
                let loaded = tokio::task::spawn_blocking(move || Certificates::load(&trust, proxies.as_ref())).await;
                self.build(loaded.map_err(|e| Error::Usage(format!("cannot read certificates: {e}")))??, &kind)?
            }
        };
        Ok(self.clients().entry(kind).or_insert(built).clone())
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, HashMap<Kind, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build(&self, certificates: Certificates, kind: &Kind) -> Result<Client> {
        let (Certificates { tls, tls_to_proxy }, options) = (certificates, &self.options);
        let stall = (kind.watch == Watch::Connection).then_some(options.stall);
        let connect_timeout = kind.timeout;
        let user_agent = HeaderValue::from_str(&options.user_agent)
            .map_err(|_| Error::Usage(format!("{:?} is no name of a program", options.user_agent)))?;
        if options.limiter.is_set() || tls_to_proxy.is_some() {
            let (proxies, limiter) = (self.proxies.clone(), options.limiter.clone());
            let wiring = Wiring { tls, tls_to_proxy, proxies, limiter, connect_timeout, stall, user_agent };
            return Ok(Client::Metered(Box::new(Wire::new(wiring))));
        }
        let proxies = self.proxies.clone();
        let builder = match stall {
            Some(stall) => reqwest::Client::builder().read_timeout(stall),
            None => reqwest::Client::builder(),
        };
        builder
            .tls_backend_preconfigured(tls)
            .proxy(reqwest::Proxy::custom(move |url| proxies.for_url(url).cloned()))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .tcp_nodelay(true)
            .user_agent(user_agent)
            .connect_timeout(connect_timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIME)
            .build()
            .map(Client::Free)
            .map_err(|e| {
                Error::Usage(format!(
                    "cannot make connections with these settings: {}",
                    causes(std::error::Error::source(&e))
                ))
            })
    }
}

/// How both sides of TLS are known.
struct Certificates {
    tls: rustls::ClientConfig,
    tls_to_proxy: Option<rustls::ClientConfig>,
}

impl Certificates {
    /// Reads files.
    fn load(trust: &Trust, in_proxies: Option<&Trust>) -> Result<Certificates> {
        let tls_to_proxy = in_proxies.map(tls::client_config).transpose()?;
        Ok(Certificates { tls: tls::client_config(trust)?, tls_to_proxy })
    }
}

impl Insecure {
    /// Whether `authority` (`host` or `host:port`) may speak plain HTTP or show any certificate.
    pub(super) fn covers(&self, authority: &str) -> bool {
        match self {
            Insecure::None => false,
            Insecure::Hosts(hosts) => hosts.iter().any(|host| host == authority),
            Insecure::All => true,
        }
    }
}

/// `host`, with its port where that is not the usual one.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// How a host is named in messages: never with a path or query, which may hold a signature.
fn place(url: &Url) -> String {
    authority(url)
}

fn foreign_encoding(headers: &HeaderMap) -> Option<String> {
    let encoding = headers.get(CONTENT_ENCODING)?;
    let text = String::from_utf8_lossy(encoding.as_bytes()).trim().to_ascii_lowercase();
    (!text.is_empty() && text != "identity").then_some(text)
}
