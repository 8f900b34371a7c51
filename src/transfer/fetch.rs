//! One connection: opens a range of one origin and writes what comes, until its claim is done or something breaks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::active::{Active, Promise};
use super::segments::ClaimId;
use super::verify::lock;
use crate::content::{Body, Extent, Origin, Provenance};
use crate::error::{Error, Fault, Result};
use crate::event::{Cause, Event, Events};

/// A connection that brings less than this, in bytes a second over a whole stall time, stands as good as still.
const CRAWL: f64 = 1024.0;

/// Progress that makes former failures count no more, in bytes.
pub(super) const PROGRESS: u64 = 16 * 1024;

/// Shorter times tell more about buffers than about the line.
const SHORTEST_SAMPLE: Duration = Duration::from_millis(40);

/// How fast the rate of late forgets.
const MEMORY: Duration = Duration::from_millis(700);

/// What one connection is to do.
pub(super) struct Fetch {
    pub(super) blob: Arc<Active>,
    pub(super) claim: ClaimId,
    pub(super) origin: Arc<dyn Origin>,
    pub(super) stall: Duration,
    pub(super) events: Events,
    /// Counts the host's bytes.
    pub(super) meter: Arc<AtomicU64>,
    pub(super) gauge: Arc<Gauge>,
}

/// How one connection does, for whoever compares it with others.
pub(super) struct Gauge {
    /// When it began.
    pub(super) since: Instant,
    /// When its answer came: how long a server thinks tells nothing about how fast it sends.
    answered: OnceLock<Instant>,
    /// Bytes that it brought, and nobody had.
    pub(super) moved: AtomicU64,
    /// Bytes that came, also in vain: a server that ignores ranges is not slow.
    came: AtomicU64,
    /// How it does of late.
    recent: Mutex<Recent>,
    /// Ends it: what it has not brought is for others to fetch.
    pub(super) cut: CancellationToken,
}

/// A rate that forgets what was long ago.
#[derive(Default)]
struct Recent {
    at: Option<Instant>,
    came: u64,
    rate: f64,
}

impl Gauge {
    /// A connection that begins now.
    pub(super) fn new() -> Arc<Gauge> {
        Arc::new(Gauge {
            since: Instant::now(),
            answered: OnceLock::new(),
            moved: AtomicU64::new(0),
            came: AtomicU64::new(0),
            recent: Mutex::default(),
            cut: CancellationToken::new(),
        })
    }

    /// How long bytes could come by now; zero before the answer.
    pub(super) fn flowing(&self, now: Instant) -> Duration {
        self.answered.get().map_or(Duration::ZERO, |since| now.saturating_duration_since(*since))
    }

    /// Bytes a second since its answer came.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        self.came.load(Ordering::Relaxed) as f64 / self.flowing(now).as_secs_f64().max(0.001)
    }
}

impl Gauge {
    /// Bytes a second of late; to be asked now and then. Zero before the answer.
    pub(super) fn recent(&self, now: Instant) -> f64 {
        let Some(answered) = self.answered.get() else { return 0.0 };
        let mut recent = lock(&self.recent);
        let length = now.saturating_duration_since(recent.at.unwrap_or(*answered)).as_secs_f64();
        if length < SHORTEST_SAMPLE.as_secs_f64() {
            return recent.rate;
        }
        let came = self.came.load(Ordering::Relaxed);
        let sample = (came - recent.came) as f64 / length;
        let keep = if recent.at.is_some() { (-length / MEMORY.as_secs_f64()).exp() } else { 0.0 };
        *recent = Recent { at: Some(now), came, rate: recent.rate * keep + sample * (1.0 - keep) };
        recent.rate
    }
}

/// How one connection ended.
pub(super) enum End {
    /// It brought all that it was asked for.
    Complete,
    /// The server does not honour ranges, and this connection would bring what others bring.
    NoRanges,
    /// It brought something, but so much less than others that it is made anew.
    Cut,
    /// Something broke.
    Broken(Error),
}

/// What a connection leaves behind.
pub(super) struct Fetched {
    pub(super) end: End,
    /// From the request to the answer's head, if it came.
    pub(super) round_trip: Option<Duration>,
}

impl Fetch {
    /// Runs the connection. The claim stays with the caller, who releases it.
    pub(super) async fn run(self) -> Fetched {
        let mut fetched = Fetched { end: End::Complete, round_trip: None };
        let end = tokio::select! {
            result = self.transfer(&mut fetched.round_trip) => Some(result),
            () = self.gauge.cut.cancelled() => None,
        };
        fetched.end = match end {
            Some(result) => result.unwrap_or_else(End::Broken),
            None if self.gauge.rate(Instant::now()) >= CRAWL => End::Cut,
            None => End::Broken(self.fault(Fault::Broken("far slower than others".into()))),
        };
        fetched
    }

    async fn transfer(&self, round_trip: &mut Option<Duration>) -> Result<End> {
        let wanted = lock(&self.blob.segments).awaited(self.claim);
        let asked = Instant::now();
        let body = self.in_time(self.stall, self.origin.open(wanted.clone())).await??;
        *round_trip = Some(asked.elapsed());
        // Opened once, so it is not set yet.
        let _ = self.gauge.answered.set(Instant::now());
        if body.start > wanted.start {
            let why = format!("asked for bytes from {}, got them from {}", wanted.start, body.start);
            return Err(self.fault(Fault::Protocol(why)));
        }
        if !self.takes(&body) {
            return Ok(End::NoRanges);
        }
        self.receive(body).await
    }

    /// Whether this connection shall bring what its answer holds: of those that hold everything one is enough.
    fn takes(&self, body: &Body) -> bool {
        let mut segments = lock(&self.blob.segments);
        segments.answered(self.claim);
        body.extent == Extent::Range || segments.take_whole(self.claim)
    }

    async fn receive(&self, mut body: Body) -> Result<End> {
        let (extent, mut offset) = (body.extent, body.start);
        let mut window = (Instant::now(), 0);
        while self.awaits_more(extent, offset) {
            let awaited = lock(&self.blob.segments).awaited(self.claim);
            let Some(piece) = self.in_time(self.stall, body.bytes.next()).await? else {
                // A server may give less than was asked for, as long as it says so: the rest is asked for at once.
                if body.end == Some(offset) && offset - body.start >= PROGRESS {
                    return Ok(End::Complete);
                }
                return Err(self.fault(Fault::Length { got: offset, expected: awaited.end }));
            };
            let piece = piece?;
            window.1 += piece.len() as u64;
            let length = piece.len() as u64;
            self.gauge.came.fetch_add(length, Ordering::Relaxed);
            self.take(extent, offset, piece).await?;
            offset += length;
            self.check_crawl(&mut window)?;
        }
        Ok(End::Complete)
    }

    fn awaits_more(&self, extent: Extent, offset: u64) -> bool {
        let mut segments = lock(&self.blob.segments);
        match extent {
            Extent::Everything => segments.extend(self.claim, offset),
            Extent::Range => !segments.awaited(self.claim).is_empty(),
        }
    }

    /// Writes what of a piece is awaited, and counts what is not.
    async fn take(&self, extent: Extent, mut offset: u64, mut piece: Bytes) -> Result<()> {
        while !piece.is_empty() {
            if !self.awaits_more(extent, offset) {
                let cause = if extent == Extent::Everything { Cause::RangeIgnored } else { Cause::Overlap };
                self.lost(cause, piece.len() as u64);
                return Ok(());
            }
            let awaited = lock(&self.blob.segments).awaited(self.claim);
            if awaited.start < offset {
                let why = format!("bytes from {} are awaited, byte {offset} came", awaited.start);
                return Err(self.fault(Fault::Protocol(why)));
            }
            let before = piece.split_to((awaited.start - offset).min(piece.len() as u64) as usize).len() as u64;
            self.lost(Cause::RangeIgnored, before);
            let part = piece.split_to((awaited.end - awaited.start).min(piece.len() as u64) as usize);
            offset += before + part.len() as u64;
            if !part.is_empty() {
                self.write(awaited.start, part).await?;
            }
        }
        Ok(())
    }

    async fn write(&self, offset: u64, part: Bytes) -> Result<()> {
        let count = part.len() as u64;
        self.blob.ingest.write_at(offset, part.clone(), self.origin.provenance()).await?;
        // Before the hasher may see the last byte, so that a finished blob is counted whole.
        self.count(count);
        self.blob.verifier.hand(offset, part);
        lock(&self.blob.segments).landed(self.claim, count);
        self.blob.verifier.wake();
        self.meter.fetch_add(count, Ordering::Relaxed);
        self.gauge.moved.fetch_add(count, Ordering::Relaxed);
        self.events.on(&Event::Bytes {
            blob: self.blob.descriptor.digest.clone(),
            count,
            provenance: self.origin.provenance(),
        });
        Ok(())
    }

    /// Bytes came that were awaited.
    fn count(&self, count: u64) {
        self.blob.traffic.count(self.origin.as_ref(), count);
        if self.origin.provenance() != Provenance::Local && self.blob.promise == Promise::Local {
            self.blob.traffic.lose(Cause::LocalSpoiled, count);
            let blob = self.blob.descriptor.digest.clone();
            self.events.on(&Event::Lost { blob, count, cause: Cause::LocalSpoiled });
        }
    }

    /// Bytes came that nobody awaits.
    fn lost(&self, cause: Cause, count: u64) {
        if count == 0 {
            return;
        }
        self.blob.traffic.count(self.origin.as_ref(), count);
        self.blob.traffic.lose(cause, count);
        let blob = self.blob.descriptor.digest.clone();
        self.events.on(&Event::Lost { blob, count, cause });
    }

    /// A server that sends a byte now and then never stalls, and never ends either.
    fn check_crawl(&self, window: &mut (Instant, u64)) -> Result<()> {
        let length = window.0.elapsed();
        if length < self.stall {
            return Ok(());
        }
        if (window.1 as f64) < CRAWL * length.as_secs_f64() {
            let why = format!("only {} bytes in {:.1} s", window.1, length.as_secs_f64());
            return Err(self.fault(Fault::Broken(why)));
        }
        *window = (Instant::now(), 0);
        Ok(())
    }

    async fn in_time<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Result<T> {
        timeout(limit, work).await.map_err(|_| self.fault(Fault::Stalled(limit)))
    }

    fn fault(&self, fault: Fault) -> Error {
        Error::network(self.origin.host(), &self.blob.descriptor.digest, fault)
    }
}
