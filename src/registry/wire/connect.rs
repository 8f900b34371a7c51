//! Connections whose bytes are counted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::limit::socket::observe;
use crate::limit::{Direction, Limiter, Metered};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Connects to the host of an address, whatever its scheme.
#[derive(Clone)]
pub(super) struct Direct {
    tcp: HttpConnector,
    limiter: Limiter,
    stall: Option<Duration>,
    /// Whether this leads to a proxy, which wants whole addresses.
    is_proxy: bool,
}

/// A TCP connection whose bytes count.
pub(super) struct Socket {
    metered: Metered<TcpStream>,
    is_proxy: bool,
}

impl Direct {
    pub(super) fn new(limiter: Limiter, connect_timeout: Duration, stall: Option<Duration>) -> Direct {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect_timeout));
        tcp.set_recv_buffer_size(limiter.buffer(Direction::Down));
        tcp.set_send_buffer_size(limiter.buffer(Direction::Up));
        Direct { tcp, limiter, stall, is_proxy: false }
    }

    /// The same for a proxy that is sent requests for other hosts.
    pub(super) fn to_proxy(&self) -> Direct {
        Direct { is_proxy: true, ..self.clone() }
    }
}

impl Service<Uri> for Direct {
    type Response = TokioIo<Socket>;
    type Error = Cause;
    type Future = BoxFuture<'static, Result<TokioIo<Socket>, Cause>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, host: Uri) -> Self::Future {
        let connecting = self.tcp.call(host);
        let (limiter, stall, is_proxy) = (self.limiter.clone(), self.stall, self.is_proxy);
        Box::pin(async move {
            let tcp = connecting.await?.into_inner();
            let metered = Metered::new(tcp, observe, limiter, stall);
            Ok(TokioIo::new(Socket { metered, is_proxy }))
        })
    }
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxy)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().metered).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().metered).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().metered).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().metered).poll_shutdown(cx)
    }
}
