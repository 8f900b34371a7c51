//! A host that is asked: its address, and whether it speaks TLS (as docker does, loopback may speak plain HTTP).

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, Url};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use super::hosts::Approach;
use super::http::{Http, Request};
use super::proxy::is_loopback;
use super::tls::{self, Trust};
use super::{Options, Verify};
use crate::error::{Error, Fault, Result};
use crate::limit::Metered;
use crate::limit::socket::observe;

/// How long a host may think before it answers the beginning of a TLS handshake.
const PROBE_TIME: Duration = Duration::from_secs(10);

/// One host of a registry.
#[derive(Debug)]
pub(super) struct Host {
    approach: Approach,
    plain: Plain,
    base: OnceCell<Url>,
}

/// Whether plain HTTP may be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plain {
    Never,
    /// When the host does not speak TLS.
    Fallback,
    /// Without a look whether it does.
    Always,
}

impl Host {
    /// The host that is reached like this.
    pub(super) fn new(approach: Approach, options: &Options) -> Host {
        let Approach { registry, authority, .. } = &approach;
        let named = options.insecure.covers(registry) || options.insecure.covers(authority);
        let configured = approach.manner.insecure || approach.scheme == Some("http");
        let insecure = named || configured || options.verify == Verify::Never || is_loopback(name_of(authority));
        let plain = match options.verify {
            Verify::Plain => Plain::Always,
            _ if insecure => Plain::Fallback,
            _ => Plain::Never,
        };
        Host { approach, plain, base: OnceCell::new() }
    }

    /// The name under which credentials are kept: that of references, for a registry.
    pub(super) fn registry(&self) -> &str {
        &self.approach.registry
    }

    /// How it is reached.
    pub(super) fn approach(&self) -> &Approach {
        &self.approach
    }

    /// Whether the user, or loopback, allows less than verified TLS.
    pub(super) fn is_insecure(&self) -> bool {
        self.plain != Plain::Never
    }

    /// The address of the host. Found out once: a host that spoke TLS is never asked without.
    pub(super) async fn base(&self, http: &Http) -> Result<&Url> {
        self.base.get_or_try_init(|| self.find(http)).await
    }

    /// The address without TLS, as long as it is not known whether the host speaks TLS and it is this machine's own.
    ///
    /// A port of this machine is often the near end of a tunnel: what is sent there before the answer is known saves
    /// two round trips. Whoever may listen to it could do so anyway; a host of a network is never asked like this.
    pub(super) fn guess(&self, http: &Http) -> Option<Url> {
        let Approach { authority, scheme, headers, .. } = &self.approach;
        let is_own = self.plain == Plain::Fallback && is_loopback(name_of(authority));
        let is_open = !self.base.initialized() && scheme.is_none() && headers.is_empty();
        self.url("http").ok().filter(|url| is_own && is_open && !http.is_proxied(url))
    }

    async fn find(&self, http: &Http) -> Result<Url> {
        if let Some(scheme) = self.approach.scheme {
            return self.url(scheme);
        }
        let secure = self.url("https")?;
        let speaks_tls = match self.plain {
            Plain::Never => true,
            Plain::Always => false,
            Plain::Fallback if http.is_proxied(&secure) => self.answers_tls(http, &secure).await?,
            // The connection keeps to that time, and knows what is only the limit.
            Plain::Fallback => {
                tokio::time::timeout(http.limiter().patience(PROBE_TIME), self.greets_tls(http, &secure))
                    .await
                    .unwrap_or(Err(self.fault(Fault::Stalled(PROBE_TIME))))?
            }
        };
        tracing::debug!(host = %self.approach.authority, speaks_tls, "host");
        if speaks_tls { Ok(secure) } else { self.url("http") }
    }

    fn url(&self, scheme: &str) -> Result<Url> {
        let authority = &self.approach.authority;
        let text = format!("{scheme}://{authority}/");
        Url::parse(&text).map_err(|e| Error::Usage(format!("{authority:?} is no host of a registry: {e}")))
    }

    fn fault(&self, fault: Fault) -> Error {
        Error::network(self.registry(), "the registry", fault)
    }

    /// Sends the beginning of a handshake and looks at the first byte that comes back.
    ///
    /// This costs a connection but no request. Our side of it is closed at once, so that a server that waits for the
    /// rest of what it takes for a request line gives up too.
    async fn greets_tls(&self, http: &Http, url: &Url) -> Result<bool> {
        let hello = client_hello(name_of(&self.approach.authority)).map_err(|e| self.fault(Fault::Tls(e)))?;
        // `https://host/` without a port means 443, but plain HTTP would be at 80.
        let port = url.port_or_known_default().unwrap_or(443);
        let connected = TcpStream::connect((name_of(&self.approach.authority), port)).await;
        let mut stream = match connected {
            Ok(stream) => Metered::new(stream, observe, http.limiter().clone(), Some(PROBE_TIME)),
            Err(_) if url.port().is_none() => return Ok(false),
            Err(e) => return Err(self.fault(Fault::Connect(e.to_string()))),
        };
        let mut first = [0];
        let exchanged = async {
            stream.write_all(&hello).await?;
            stream.shutdown().await?;
            stream.read(&mut first).await
        };
        const HANDSHAKE: u8 = 22;
        const ALERT: u8 = 21;
        match exchanged.await {
            Err(error) if error.kind() == ErrorKind::TimedOut => Err(self.fault(Fault::Stalled(PROBE_TIME))),
            read => Ok(matches!(read, Ok(1) if matches!(first[0], HANDSHAKE | ALERT))),
        }
    }

    /// Behind a proxy the only way is to ask.
    async fn answers_tls(&self, http: &Http, secure: &Url) -> Result<bool> {
        let url = secure.join("/v2/").map_err(|e| self.fault(Fault::Protocol(e.to_string())))?;
        let what = "the registry".to_owned();
        let request = Request { method: Method::GET, url, headers: Default::default(), body: None, what };
        match http.send(request).await {
            Ok(_) => Ok(true),
            Err(Error::Network { fault: Fault::Connect(_) | Fault::Tls(_), .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The host without port and brackets.
fn name_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    }
}

fn client_hello(host: &str) -> Result<Vec<u8>, String> {
    let config = tls::client_config(&Trust::Nothing).map_err(|e| e.to_string())?;
    let name = rustls_pki_types::ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).map_err(|e| e.to_string())?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).map_err(|e| e.to_string())?;
    Ok(hello)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Insecure;

    #[test]
    fn only_loopback_and_named_hosts_may_speak_plain_http() {
        let options = Options { insecure: Insecure::Hosts(vec!["h.example:5000".into()]), ..Options::default() };
        for name in ["localhost:5000", "127.0.0.1", "127.9.9.9:1", "[::1]:5000", "h.example:5000"] {
            assert!(Host::new(Approach::of_registry(name), &options).is_insecure(), "{name}");
        }
        for name in ["docker.io", "h.example", "localhost.example", "10.0.0.1", "127.0.0.1.example:5000"] {
            assert!(!Host::new(Approach::of_registry(name), &options).is_insecure(), "{name}");
        }
    }

    #[test]
    fn docker_hub_has_another_host_than_its_name() {
        let host = Host::new(Approach::of_registry("docker.io"), &Options::default());
        assert_eq!(host.url("https").unwrap().as_str(), "https://registry-1.docker.io/");
        assert_eq!(host.registry(), "docker.io");
    }
}
