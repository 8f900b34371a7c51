//! One connection: opens a range of one origin and writes what comes, until its claim is done or something breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, timeout};

use super::active::{Active, Promise};
use super::gauge::{Gauge, Window};
use super::segments::ClaimId;
use super::verify::lock;
use crate::content::{Body, Extent, Origin, Provenance};
use crate::error::{Error, Fault, Result};
use crate::event::{Cause, Event, Events};

/// Progress that makes former failures count no more, in bytes.
pub(super) const PROGRESS: u64 = 16 * 1024;

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
            None if !self.gauge.is_still(Instant::now()) => End::Cut,
            None => End::Broken(self.fault(Fault::Broken("far slower than others".into()))),
        };
        fetched
    }

    async fn transfer(&self, round_trip: &mut Option<Duration>) -> Result<End> {
        let wanted = lock(&self.blob.segments).awaited(self.claim);
        let asked = Instant::now();
        let body = self.in_time(self.stall, self.origin.open(wanted.clone())).await??;
        *round_trip = Some(asked.elapsed());
        self.gauge.answer();
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
        let mut window = Window::default();
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
            let length = piece.len() as u64;
            self.gauge.count(length);
            self.take(extent, offset, piece).await?;
            offset += length;
            self.gauge.check(&mut window, self.stall).map_err(|fault| self.fault(fault))?;
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

    async fn in_time<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Result<T> {
        timeout(limit, work).await.map_err(|_| self.fault(Fault::Stalled(limit)))
    }

    fn fault(&self, fault: Fault) -> Error {
        Error::network(self.origin.host(), &self.blob.descriptor.digest, fault)
    }
}
