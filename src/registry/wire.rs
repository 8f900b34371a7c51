//! The request path under a limit: the same requests and answers as those of reqwest, over connections of our own. Also
//! without a limit where a proxy speaks TLS: reqwest would trust it as it trusts the host behind it.
//!
//! reqwest shows nobody its sockets, but a limit is only true where bytes enter and leave them: so here hyper's client
//! gets connections whose bytes are counted and whose buffers are small. Handshakes, headers, tunnels through proxies
//! and tokens pass the same place.

mod connect;
mod proxied;

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use reqwest::{Request, Response};

use super::http::{IDLE_CONNECTIONS, IDLE_TIME};
use super::proxy::Proxies;
use crate::limit::{Direction, Limiter};
use connect::Direct;
use proxied::{Ways, authorization};

/// Bytes that hyper may gather, at least: the head of an answer must fit.
const LEAST_GATHERED: usize = 32 * 1024;

/// Connections whose bytes count.
#[derive(Clone)]
pub(super) struct Wire {
    client: Client<HttpsConnector<Ways>, reqwest::Body>,
    proxies: Arc<Proxies>,
    user_agent: HeaderValue,
}

/// How connections are made.
pub(super) struct Wiring {
    /// Whom they trust.
    pub tls: rustls::ClientConfig,
    /// Whom they trust to be a proxy, where one speaks TLS.
    pub tls_to_proxy: Option<rustls::ClientConfig>,
    /// Which proxies they take.
    pub proxies: Arc<Proxies>,
    /// What they may use.
    pub limiter: Limiter,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long the other side may be silent; `None`: the caller watches.
    pub stall: Option<Duration>,
    /// `User-Agent`.
    pub user_agent: HeaderValue,
}

impl Wire {
    pub(super) fn new(wiring: Wiring) -> Wire {
        let Wiring { tls, tls_to_proxy, proxies, limiter, connect_timeout, stall, user_agent } = wiring;
        let tls = Arc::new(tls);
        let tls_to_proxy = tls_to_proxy.map_or_else(|| tls.clone(), Arc::new);
        let gathered = limiter.buffer(Direction::Up).map(|size| size.max(LEAST_GATHERED));
        let ways = Ways::new(Direct::new(limiter, connect_timeout, stall), tls_to_proxy, proxies.clone());
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS);
        if let Some(gathered) = gathered {
            builder.http1_max_buf_size(gathered);
        }
        Wire { client: builder.build(HttpsConnector::from((ways, tls))), proxies, user_agent }
    }

    /// Sends one request. The answer's head has come when this returns.
    ///
    /// # Errors
    /// What hyper says; nothing in it names the path or query.
    pub(super) async fn send(&self, mut request: Request) -> Result<Response, Error> {
        let (url, body) = (request.url().clone(), request.body_mut().take());
        let mut outgoing = http::Request::new(body.unwrap_or_default());
        *outgoing.method_mut() = request.method().clone();
        // Whatever is an address to a URL is one to HTTP; if ever not, no connection can be made to nowhere.
        *outgoing.uri_mut() = url.as_str().parse().unwrap_or_default();
        *outgoing.headers_mut() = std::mem::take(request.headers_mut());
        let headers = outgoing.headers_mut();
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        headers.entry(USER_AGENT).or_insert_with(|| self.user_agent.clone());
        // Through a tunnel the request is not the proxy's business.
        let proxy = self.proxies.for_url(&url).filter(|_| url.scheme() == "http");
        if let Some(authorization) = proxy.filter(|proxy| proxy.scheme().starts_with("http")).and_then(authorization) {
            headers.insert(PROXY_AUTHORIZATION, authorization);
        }
        let answer = self.client.request(outgoing).await?;
        Ok(Response::from(answer.map(reqwest::Body::wrap)))
    }
}

#[cfg(test)]
mod tests {
    use reqwest::Method;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::http::{Http, Request};
    use super::super::{Environment, Options};
    use crate::error::{Error, Fault};
    use crate::event::Silent;
    use crate::limit::{Limiter, Precedence, Timetable};
    use std::sync::Arc;
    use std::time::Duration;

    async fn take_request(connection: &mut TcpStream) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(connection.read_u8().await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_kept_connection_that_falls_silent_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: reqwest::Url = format!("http://{}/v2/", listener.local_addr().unwrap()).parse().unwrap();
        let server = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            take_request(&mut connection).await;
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            take_request(&mut connection).await;
            connection
        });
        let limiter = Limiter::new(Timetable::parse("1M").unwrap(), Precedence::Equal);
        let environment = Environment::empty();
        let options = Options { limiter, environment, stall: Duration::from_secs(2), ..Options::default() };
        let http = Http::new(Arc::new(options), Arc::new(Silent));
        let request =
            Request { method: Method::GET, url, headers: Default::default(), body: None, what: "x".to_owned() };
        assert!(http.send(request.clone()).await.unwrap().status().is_success());
        let silent = tokio::time::timeout(Duration::from_secs(60), http.send(request)).await.expect("it is given up");
        assert!(matches!(silent, Err(Error::Network { fault: Fault::Stalled(_), .. })));
        server.await.unwrap();
    }
}
