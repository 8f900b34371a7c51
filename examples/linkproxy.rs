//! A link between a client and a registry, for measurements: a TCP proxy on loopback with a rate for the whole link, a
//! rate for each connection, and a delay. It counts what passes.
//!
//! ```text
//! linkproxy --listen 127.0.0.1:7000 --to 127.0.0.1:5055 --total-rate 125000000 --connection-rate 25000000 --delay-ms 25
//! ```
//!
//! Rates are bytes a second and hold for the way down (from the registry), the way that is slow in a pull. The delay
//! is that of one way; setting up a connection costs one round trip, as it does on a real link.
//!
//! Who connects to the address of `--control` is sent one line, `connections requests up down`, and hung up on.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use clap::Parser;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// The most that one read takes: half a millisecond at 125 MB/s.
const CHUNK: usize = 64 * 1024;

/// How many chunks may be under way in one direction of a connection; bounds memory and, with a delay, its rate.
const IN_FLIGHT: usize = 512;

/// How far behind its schedule a pace may be and still catch up. Timers fire a millisecond late, and a pace that
/// forgot it would be slower than its name.
const LATENESS: Duration = Duration::from_millis(10);

/// How a request's first line ends.
const REQUEST_END: &[u8] = b" HTTP/1.1\r\n";

#[derive(Parser, Clone)]
#[command(about = "A link with a rate and a delay, for measurements")]
struct Link {
    /// Where clients connect.
    #[arg(long)]
    listen: SocketAddr,
    /// The registry.
    #[arg(long)]
    to: SocketAddr,
    /// Bytes a second of all connections together.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    total_rate: Option<u64>,
    /// After so many bytes in all the rate of the whole link drops to that of `--drop-to`.
    #[arg(long, requires_all = ["drop_to", "total_rate"])]
    drop_after: Option<u64>,
    /// Bytes a second of all connections together from then on.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    drop_to: Option<u64>,
    /// Bytes a second of each connection.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    connection_rate: Option<u64>,
    /// Milliseconds that a byte takes from one end to the other.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Where the counters are told.
    #[arg(long)]
    control: Option<SocketAddr>,
}

/// What passed, since the start.
#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    requests: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl Counters {
    fn line(&self) -> String {
        let [connections, requests, up, down] =
            [&self.connections, &self.requests, &self.up, &self.down].map(|counter| counter.load(Ordering::Relaxed));
        format!("{connections} {requests} {up} {down}\n")
    }
}

/// A rate as a virtual clock: the time at which the next byte may go.
struct Pace {
    rate: AtomicU64,
    next: Mutex<Instant>,
}

impl Pace {
    fn new(rate: u64) -> Arc<Self> {
        Arc::new(Pace { rate: AtomicU64::new(rate), next: Mutex::new(Instant::now()) })
    }

    /// Holds this rate from now on.
    fn hold(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Waits until `count` bytes may go.
    async fn pass(&self, count: usize) {
        let taken = Duration::from_secs_f64(count as f64 / self.rate.load(Ordering::Relaxed) as f64);
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = Instant::now().checked_sub(LATENESS);
            let turn = earliest.map_or(*next, |earliest| earliest.max(*next));
            *next = turn + taken;
            turn + taken
        };
        // A timer is a millisecond coarse: what is due sooner goes at once and is made up for by the next wait.
        if turn > Instant::now() + Duration::from_millis(1) {
            sleep_until(turn).await;
        }
    }
}

/// One direction of a connection.
struct Direction {
    /// The paces that it keeps, the narrowest first.
    paces: Vec<Arc<Pace>>,
    delay: Duration,
    /// Nothing enters before.
    opened: Instant,
}

/// Moves bytes one way until one end closes. `count` is told what has left.
async fn carry<R, W>(from: R, mut to: W, direction: Direction, mut count: impl FnMut(&[u8])) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (sender, mut due) = mpsc::channel::<(Instant, Bytes)>(IN_FLIGHT);
    let leave = async {
        while let Some((when, chunk)) = due.recv().await {
            sleep_until(when).await;
            to.write_all(&chunk).await?;
            count(&chunk);
        }
        to.shutdown().await
    };
    // An end that fails ends the other at once: nobody reads on for a client that is gone.
    tokio::try_join!(enter(from, sender, direction), leave).map(|_| ())
}

/// Reads, keeps the paces, and says when each chunk is due at the other end.
async fn enter<R>(mut from: R, sender: mpsc::Sender<(Instant, Bytes)>, direction: Direction) -> io::Result<()>
where
    R: AsyncRead + Unpin,
{
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        let read = from.read_buf(&mut (&mut buffer).limit(CHUNK)).await?;
        if read == 0 {
            return Ok(());
        }
        for pace in &direction.paces {
            pace.pass(read).await;
        }
        let when = Instant::now().max(direction.opened) + direction.delay;
        if sender.send((when, buffer.split().freeze())).await.is_err() {
            return Ok(());
        }
    }
}

/// Counts the first lines of requests, also of those that a read cuts in two.
#[derive(Default)]
struct Requests {
    matched: usize,
}

impl Requests {
    fn count(&mut self, bytes: &[u8]) -> u64 {
        let mut found = 0;
        for &byte in bytes {
            self.matched = match byte {
                _ if byte == REQUEST_END[self.matched] => self.matched + 1,
                b' ' => 1,
                _ => 0,
            };
            if self.matched == REQUEST_END.len() {
                self.matched = 0;
                found += 1;
            }
        }
        found
    }
}

/// Serves one connection.
async fn connection(
    client: TcpStream,
    link: Arc<Link>,
    total: Option<Arc<Pace>>,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let delay = Duration::from_millis(link.delay_ms);
    let opened = Instant::now() + 2 * delay;
    counters.connections.fetch_add(1, Ordering::Relaxed);
    let server = TcpStream::connect(link.to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let drop = total.clone().zip(link.drop_after.zip(link.drop_to));
    let paces = link.connection_rate.map(Pace::new).into_iter().chain(total).collect();
    let mut requests = Requests::default();
    let up = carry(client_reads, server_writes, Direction { paces: Vec::new(), delay, opened }, |bytes| {
        counters.up.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        counters.requests.fetch_add(requests.count(bytes), Ordering::Relaxed);
    });
    let down = carry(server_reads, client_writes, Direction { paces, delay, opened }, |bytes| {
        let down = counters.down.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
        if let Some((total, (_, rate))) = drop.as_ref().filter(|(_, (after, _))| down >= *after) {
            total.hold(*rate);
        }
    });
    tokio::try_join!(up, down).map(|_| ())
}

/// Tells the counters to everybody who connects.
async fn control(listener: TcpListener, counters: Arc<Counters>) -> io::Result<()> {
    loop {
        let (mut asker, _) = listener.accept().await?;
        // Who asks and hangs up at once loses nothing but the answer.
        let _ = asker.write_all(counters.line().as_bytes()).await;
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let link = Arc::new(Link::parse());
    let counters = Arc::new(Counters::default());
    let total = link.total_rate.map(Pace::new);
    if let Some(address) = link.control {
        tokio::spawn(control(TcpListener::bind(address).await?, counters.clone()));
    }
    let listener = TcpListener::bind(link.listen).await?;
    loop {
        let (client, _) = listener.accept().await?;
        let (link, total, counters) = (link.clone(), total.clone(), counters.clone());
        tokio::spawn(async move {
            // An end that goes away is what half of the measurements are about; the client sees it too.
            let _ = connection(client, link, total, counters).await;
        });
    }
}
