//! Connections through proxies: HTTP ones, tunnels through them, SOCKS.

use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use http::Uri;
use http::header::HeaderValue;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5, Tunnel};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use tower_service::Service;

use super::connect::{Direct, Socket};
use crate::registry::proxy::Proxies;

type Cause = Box<dyn std::error::Error + Send + Sync>;
/// The proxy itself may speak TLS.
type Stream = MaybeHttpsStream<TokioIo<Socket>>;

/// Connects to the host of an address, or to the proxy on the way there.
#[derive(Clone)]
pub(super) struct Ways {
    direct: Direct,
    /// Whom proxies are trusted by.
    tls: Arc<rustls::ClientConfig>,
    proxies: Arc<Proxies>,
}

impl Ways {
    pub(super) fn new(direct: Direct, tls: Arc<rustls::ClientConfig>, proxies: Arc<Proxies>) -> Ways {
        Ways { direct, tls, proxies }
    }

    async fn connect(mut self, host: Uri) -> Result<Stream, Cause> {
        let url = Url::parse(&host.to_string())?;
        let Some(proxy) = self.proxies.for_url(&url).cloned() else {
            return Ok(MaybeHttpsStream::Http(self.direct.call(host).await?));
        };
        let address: Uri = bare(&proxy).parse()?;
        let over = |direct: Direct| HttpsConnector::from((direct, self.tls.clone()));
        match proxy.scheme() {
            "socks4" => Ok(SocksV4::new(address, over(self.direct)).call(resolved(host).await?).await?),
            "socks4a" => Ok(SocksV4::new(address, over(self.direct)).call(host).await?),
            "socks5" => Ok(socks5(&proxy, address, over(self.direct)).call(resolved(host).await?).await?),
            "socks5h" => Ok(socks5(&proxy, address, over(self.direct)).call(host).await?),
            _ if url.scheme() == "http" => over(self.direct.to_proxy()).call(address).await,
            _ => {
                let tunnel = Tunnel::new(address, over(self.direct));
                let mut tunnel = match authorization(&proxy) {
                    Some(authorization) => tunnel.with_auth(authorization),
                    None => tunnel,
                };
                Ok(tunnel.call(host).await?)
            }
        }
    }
}

impl Service<Uri> for Ways {
    type Response = Stream;
    type Error = Cause;
    type Future = BoxFuture<'static, Result<Stream, Cause>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.direct.poll_ready(cx)
    }

    fn call(&mut self, host: Uri) -> Self::Future {
        Box::pin(self.clone().connect(host))
    }
}

fn socks5<C>(proxy: &Url, address: Uri, connector: C) -> SocksV5<C> {
    let socks = SocksV5::new(address, connector);
    match credentials(proxy) {
        Some((user, password)) => socks.with_auth(user, password),
        None => socks,
    }
}

/// The address of a proxy without credentials; of SOCKS, with its usual port and a scheme that means no TLS.
fn bare(proxy: &Url) -> String {
    let host = proxy.host_str().unwrap_or_default();
    match proxy.scheme() {
        socks if socks.starts_with("socks") => format!("http://{host}:{}/", proxy.port().unwrap_or(1080)),
        scheme => match proxy.port() {
            Some(port) => format!("{scheme}://{host}:{port}/"),
            None => format!("{scheme}://{host}/"),
        },
    }
}

/// What a proxy is told of who asks (RFC 9110, 11.7.2).
pub(super) fn authorization(proxy: &Url) -> Option<HeaderValue> {
    let (user, password) = credentials(proxy)?;
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn credentials(proxy: &Url) -> Option<(String, String)> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let password = proxy.password().unwrap_or_default();
    (!proxy.username().is_empty() || !password.is_empty()).then(|| (decode(proxy.username()), decode(password)))
}

/// The same address by number: these proxies look up no names.
async fn resolved(host: Uri) -> Result<Uri, Cause> {
    let url = Url::parse(&host.to_string())?;
    let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let mut found: Vec<_> = tokio::net::lookup_host((name, port)).await?.collect();
    found.sort_by_key(|address| address.is_ipv6());
    let address = found.first().ok_or("the name of the host has no address")?;
    Ok(format!("{}://{address}/", url.scheme()).parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_told_its_credentials_and_nobody_else_is() {
        let proxy: Url = "http://us%40er:p%3Aw@proxy.example:3128/".parse().unwrap();
        assert_eq!(bare(&proxy), "http://proxy.example:3128/");
        assert_eq!(authorization(&proxy).unwrap(), "Basic dXNAZXI6cDp3");
        assert_eq!(authorization(&"http://proxy.example".parse().unwrap()), None);
        assert_eq!(bare(&"socks5h://[::1]".parse().unwrap()), "http://[::1]:1080/");
        assert_eq!(bare(&"https://proxy.example".parse().unwrap()), "https://proxy.example/");
    }

    #[tokio::test]
    async fn a_name_that_the_proxy_does_not_look_up_is_looked_up_here() {
        let found = resolved("https://127.0.0.1:5000".parse().unwrap()).await.unwrap();
        assert_eq!(found.to_string(), "https://127.0.0.1:5000/");
        let found = resolved("https://[::1]".parse().unwrap()).await.unwrap();
        assert_eq!(found.to_string(), "https://[::1]:443/");
    }
}
