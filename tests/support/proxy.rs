//! A forward proxy: tunnels (`CONNECT`), and plain requests that name a whole address (RFC 9110, 9.3.6; RFC 9112, 3.2.2).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Listens on 127.0.0.1. Ends with the process.
pub struct Proxy {
    address: SocketAddr,
    certificate: Option<String>,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
}

struct State {
    target: SocketAddr,
    /// Hosts that lead elsewhere.
    ways: HashMap<String, SocketAddr>,
    heads: Vec<String>,
    brought: u64,
}

impl Proxy {
    /// A proxy that knows but one way: whatever host it is asked for, it leads to `target`.
    pub fn to(target: SocketAddr) -> Proxy {
        Proxy::launch(target, None)
    }

    /// The same, spoken to over TLS, with a certificate of its own for 127.0.0.1.
    pub fn tls_to(target: SocketAddr) -> Proxy {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("the certificate fits its key");
        let proxy = Proxy::launch(target, Some(TlsAcceptor::from(Arc::new(config))));
        Proxy { certificate: Some(made.cert.pem()), ..proxy }
    }

    fn launch(target: SocketAddr, tls: Option<TlsAcceptor>) -> Proxy {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("it is bound");
        let state = State { target, ways: HashMap::new(), heads: Vec::new(), brought: 0 };
        let shared = Arc::new(Shared { state: Mutex::new(state) });
        let serving = shared.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serving.accept(listener, tls));
        });
        Proxy { address, certificate: None, shared }
    }

    /// From now on this host leads to `target`.
    pub fn lead(&self, host: &str, target: SocketAddr) {
        self.shared.state().ways.insert(host.to_owned(), target);
    }

    /// Its address, with `user:password` for who uses it.
    pub fn url(&self, credentials: &str) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{credentials}@{}", self.address)
    }

    /// The certificate as PEM. Only with TLS.
    pub fn certificate(&self) -> &str {
        self.certificate.as_deref().expect("started with TLS")
    }

    /// The heads of what it was asked, each to its empty line.
    pub fn heads(&self) -> Vec<String> {
        self.shared.state().heads.clone()
    }

    /// Their first lines.
    pub fn asked(&self) -> Vec<String> {
        self.heads().iter().map(|head| head.lines().next().unwrap_or_default().to_owned()).collect()
    }

    /// Forgets what it was asked.
    pub fn forget(&self) {
        self.shared.state().heads.clear();
    }

    /// Bytes that went back to those who asked.
    pub fn brought(&self) -> u64 {
        self.shared.state().brought
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it looks")
    }

    async fn accept(self: Arc<Self>, listener: std::net::TcpListener, tls: Option<TlsAcceptor>) {
        let listener = TcpListener::from_std(listener).expect("a listener on loopback");
        loop {
            let Ok((client, _)) = listener.accept().await else { continue };
            let (shared, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move {
                // A client that goes away is no fault of the proxy.
                let _ = match tls {
                    None => shared.serve(client).await,
                    Some(tls) => match tls.accept(client).await {
                        Ok(client) => shared.serve(client).await,
                        Err(error) => Err(error),
                    },
                };
            });
        }
    }

    async fn serve(&self, mut client: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let (host, onward) = lead_on(&head).ok_or(io::ErrorKind::InvalidInput)?;
        let target = {
            let mut state = self.state();
            state.heads.push(head);
            *state.ways.get(&host).unwrap_or(&state.target)
        };
        let mut server = TcpStream::connect(target).await?;
        match onward {
            None => client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?,
            Some(head) => server.write_all(head.as_bytes()).await?,
        }
        let ((mut asking, mut asked), (mut answering, mut told)) = (split(client), split(server));
        let there = async {
            copy(&mut asking, &mut told).await?;
            told.shutdown().await
        };
        tokio::try_join!(there, self.bring(&mut answering, &mut asked)).map(|_| ())
    }

    /// Brings answers back, each part counted before anybody has it.
    async fn bring(&self, from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return to.shutdown().await;
            }
            self.state().brought += count as u64;
            to.write_all(&buffer[..count]).await?;
        }
    }
}

/// The host that is asked for, and what it is sent: nothing for a tunnel, else the request as it would come without a
/// proxy. One request a connection is enough here.
fn lead_on(head: &str) -> Option<(String, Option<String>)> {
    let (first, rest) = head.split_once("\r\n")?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    if method == "CONNECT" {
        return Some((target.rsplit_once(':')?.0.to_owned(), None));
    }
    let url = url::Url::parse(target).ok()?;
    let path = &url[url::Position::BeforePath..];
    let kept = rest.lines().filter(|line| !line.is_empty() && !line.to_ascii_lowercase().starts_with("proxy-"));
    let kept: String = kept.map(|line| format!("{line}\r\n")).collect();
    let onward = format!("{method} {path} HTTP/1.1\r\n{kept}Connection: close\r\n\r\n");
    Some((url.host_str()?.to_owned(), Some(onward)))
}
