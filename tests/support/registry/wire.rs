//! HTTP/1.1 at the level of bytes, so that any misbehaviour is possible.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Framing};
use super::fault::{Cut, Rules};
use super::record::{Kind, Log, Request};

const MAX_HEAD: usize = 64 << 10;
const MAX_BODY: usize = 64 << 20;
const PIECE: u64 = 64 << 10;

pub(super) type Handler = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

/// A listener on a free port of 127.0.0.1 with its own thread, so that it also serves tests whose clock stands still.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) log: Arc<Log>,
    pub(super) rules: Arc<Mutex<Rules>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    handler: Handler,
    log: Arc<Log>,
    rules: Arc<Mutex<Rules>>,
}

impl Server {
    pub(super) fn bind() -> TcpListener {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
        listener.set_nonblocking(true).expect("a listener that does not block");
        listener
    }

    pub(super) fn start(listener: TcpListener, tls: Option<TlsAcceptor>, handler: Handler) -> Server {
        let address = listener.local_addr().expect("the listener's address");
        let (log, rules) = (Arc::new(Log::default()), Arc::new(Mutex::new(Rules::default())));
        let shared = Arc::new(Shared { handler, log: log.clone(), rules: rules.clone() });
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = accept(listener, tls, shared) => {}
                }
            });
        });
        Server { address, log, rules, stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread was printed; the test fails by its own assertions.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener on loopback");
    for connection in 0.. {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Bytes shall be on the wire when they are counted.
        let _ = stream.set_nodelay(true);
        let (tls, shared) = (tls.clone(), shared.clone());
        tokio::spawn(async move {
            // A client that goes away is no fault of the server.
            let _ = match tls {
                None => converse(stream, connection, &shared).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => converse(stream, connection, &shared).await,
                    Err(error) => Err(error),
                },
            };
        });
    }
}

/// A stream that can be reset.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

async fn converse(mut stream: impl Stream, connection: usize, shared: &Shared) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(mut request) = read_request(&mut stream, &mut buffer).await? {
        request.connection = connection;
        let request = shared.log.begin(request);
        let answer = answer(&request, shared);
        let wanted = request.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
        let closes = wanted || answer.framing == Framing::Close;
        let number = request.number;
        let sent = send(&mut stream, &request, answer, closes, &shared.log).await;
        shared.log.update(number, |r| r.ended = true);
        match sent? {
            Some(Cut::Rst) => return stream.tcp().set_zero_linger(),
            Some(Cut::Fin) => return stream.shutdown().await,
            None if closes => return stream.shutdown().await,
            None => {}
        }
    }
    Ok(())
}

fn answer(request: &Request, shared: &Shared) -> Answer {
    let answer = (shared.handler)(request);
    let fault = shared.rules.lock().expect("no test panics while it holds the rules").fault(request);
    match fault {
        Some(fault) => fault.apply(request, answer),
        None => answer,
    }
}

async fn send(
    stream: &mut impl Stream,
    request: &Request,
    answer: Answer,
    closes: bool,
    log: &Log,
) -> io::Result<Option<Cut>> {
    if let Some(stall) = &answer.stall_head {
        stall.wait().await;
    }
    if answer.cut_head.is_some() {
        return Ok(answer.cut_head);
    }
    log.update(request.number, |r| r.status = answer.status);
    stream.write_all(answer.head(closes).as_bytes()).await?;
    // TLS may keep back what the socket did not take at once.
    stream.flush().await?;
    if request.method == "HEAD" || answer.status == 304 {
        return Ok(None);
    }
    send_body(stream, request.number, &answer, log).await
}

async fn send_body(stream: &mut impl Stream, number: usize, answer: &Answer, log: &Log) -> io::Result<Option<Cut>> {
    let (mut at, length) = (0, answer.length());
    loop {
        if let Some((after, cut)) = answer.cut
            && at >= after
        {
            return Ok(Some(cut));
        }
        if let Some((after, stall)) = &answer.stall
            && at == *after
        {
            stall.wait().await;
        }
        if at >= length {
            break;
        }
        let piece = answer.read(at, piece(answer, at));
        // Counted before the client can see them, so that whoever has received all finds all counted.
        let sent = at + piece.len() as u64;
        log.update(number, |r| r.sent = sent);
        if let Err(error) = send_piece(stream, &piece, answer.framing).await {
            log.update(number, |r| r.sent = at);
            return Err(error);
        }
        at = sent;
        if let Some(rate) = answer.rate {
            tokio::time::sleep(Duration::from_secs_f64(piece.len() as f64 / rate as f64)).await;
        }
    }
    if answer.framing == Framing::Chunked {
        stream.write_all(b"0\r\n\r\n").await?;
        stream.flush().await?;
    }
    Ok(None)
}

/// How many bytes go at once: up to the next event.
fn piece(answer: &Answer, at: u64) -> u64 {
    let cut = answer.cut.as_ref().map(|(after, _)| *after);
    let stall = answer.stall.as_ref().map(|(after, _)| *after);
    let next = [cut, stall].into_iter().flatten().filter(|event| *event > at).map(|event| event - at);
    // A slow answer trickles: ten pieces a second, or one byte at a time.
    let drip = answer.rate.map(|rate| (rate / 10).max(1));
    next.chain(drip).fold(PIECE, u64::min)
}

async fn send_piece(stream: &mut impl Stream, piece: &[u8], framing: Framing) -> io::Result<()> {
    if framing != Framing::Chunked {
        stream.write_all(piece).await?;
        return stream.flush().await;
    }
    stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
    stream.write_all(piece).await?;
    stream.write_all(b"\r\n").await?;
    stream.flush().await
}

async fn read_request(stream: &mut impl Stream, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        if let Some((request, used)) = parse(buffer)? {
            buffer.drain(..used);
            return read_body(stream, buffer, request).await.map(Some);
        }
        let mut piece = [0; 8192];
        match stream.read(&mut piece).await? {
            0 => return Ok(None),
            count if buffer.len() + count <= MAX_HEAD => buffer.extend_from_slice(&piece[..count]),
            _ => return Err(io::Error::other("the request's head is too large")),
        }
    }
}

async fn read_body(stream: &mut impl Stream, buffer: &mut Vec<u8>, mut request: Request) -> io::Result<Request> {
    let length: usize = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    if length > MAX_BODY {
        return Err(io::Error::other("the request's body is too large"));
    }
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    request.body = buffer.drain(..length).collect::<Vec<u8>>().into();
    Ok(request)
}

fn parse(bytes: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(used) = head.parse(bytes).map_err(io::Error::other)? else { return Ok(None) };
    let target = head.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = |h: &httparse::Header| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned());
    let request = Request {
        number: 0,
        connection: 0,
        method: head.method.unwrap_or_default().into(),
        path: path.into(),
        query: query.into(),
        headers: head.headers.iter().map(header).collect(),
        body: Bytes::new(),
        kind: Kind::of(path),
        at: Instant::now(),
        status: 0,
        sent: 0,
        ended: false,
    };
    Ok(Some((request, used)))
}
