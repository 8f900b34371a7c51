//! A blob on its way into a place that takes bytes in order: one connection brings them, an upload takes them.
//!
//! The upload hashes what it takes, and is taken up again where its place stands; the source is asked for what is missing
//! from there. So a cut on either side is mended on that side alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::active::Traffic;
use super::fetch::PROGRESS;
use super::gauge::{Gauge, Window};
use crate::content::{Body, Extent, Origin, Provenance, Standing, Upload};
use crate::error::{Error, Fault, Result};
use crate::event::{Cause, Event, Events};
use crate::oci::Descriptor;

/// A blob that is sent in order.
pub(super) struct Stream {
    pub(super) descriptor: Descriptor,
    pub(super) upload: Box<dyn Upload>,
    pub(super) resumed: u64,
    /// Where it goes, if that is over a network.
    pub(super) registry: Option<String>,
    traffic: Arc<Traffic>,
    events: Events,
    stall: Duration,
    /// The upload failed, and must be taken up again before it takes more.
    is_broken: AtomicBool,
    /// Everything before this was sent once.
    reached: AtomicU64,
    /// The place found other bytes than those of the digest: what is sent again is so for that.
    is_spoiled: AtomicBool,
    /// Ends it between two pieces.
    pub(super) stop: CancellationToken,
}

/// What one attempt came to.
pub(super) enum Streamed {
    /// The blob is in its place.
    Complete,
    /// It was told to stop.
    Stopped,
    /// Another origin is to go on.
    Cut,
    /// The source failed.
    Source(Error),
    /// The sink failed.
    Sink(Error),
}

/// Where an attempt takes bytes from, and what counts them.
pub(super) struct Feed {
    pub(super) origin: Arc<dyn Origin>,
    /// Count the bytes of the hosts on both sides.
    pub(super) meters: [Arc<AtomicU64>; 2],
    pub(super) gauge: Arc<Gauge>,
}

/// One attempt.
pub(super) struct Attempt {
    pub(super) began: Instant,
    pub(super) streamed: Streamed,
    /// Bytes that the upload took.
    pub(super) moved: u64,
    /// From the request to the answer's head, and from there to its end.
    pub(super) answered: Option<(Duration, Duration)>,
}

impl Stream {
    pub(super) fn new(
        descriptor: Descriptor,
        upload: Box<dyn Upload>,
        traffic: Arc<Traffic>,
        events: Events,
        stall: Duration,
    ) -> Stream {
        let resumed = upload.offset().min(descriptor.size);
        Stream {
            descriptor,
            upload,
            resumed,
            registry: None,
            traffic,
            events,
            stall,
            is_broken: AtomicBool::new(false),
            reached: AtomicU64::new(resumed),
            is_spoiled: AtomicBool::new(false),
            stop: CancellationToken::new(),
        }
    }

    /// Bytes that the upload wants still.
    pub(super) fn left(&self) -> u64 {
        self.descriptor.size.saturating_sub(self.upload.offset())
    }

    /// Goes on until the blob is in its place or something fails.
    pub(super) async fn attempt(&self, feed: &Feed) -> Attempt {
        let mut attempt = Attempt { began: Instant::now(), streamed: Streamed::Complete, moved: 0, answered: None };
        if let Err(streamed) = self.go(feed, &mut attempt).await {
            attempt.streamed = streamed;
        }
        attempt
    }

    async fn go(&self, feed: &Feed, attempt: &mut Attempt) -> Result<(), Streamed> {
        if self.is_broken.load(Ordering::Relaxed) {
            let standing = self.upload.resume().await.map_err(Streamed::Sink)?;
            self.is_broken.store(false, Ordering::Relaxed);
            if standing == Standing::Held {
                return Ok(());
            }
        }
        if self.left() > 0 {
            self.bring(feed, attempt).await?;
        }
        self.upload.commit().await.map_err(|error| self.broken(error))
    }

    /// Brings what the upload wants.
    async fn bring(&self, feed: &Feed, attempt: &mut Attempt) -> Result<(), Streamed> {
        let (origin, wanted) = (feed.origin.as_ref(), self.upload.offset()..self.descriptor.size);
        self.count_again(wanted.start);
        let asked = Instant::now();
        let mut body: Body = self.hear(feed, origin.open(wanted.clone())).await?.map_err(Streamed::Source)?;
        let (answered, mut window) = (Instant::now(), Window::default());
        feed.gauge.answer();
        if body.start > wanted.start || (body.extent == Extent::Range && body.start < wanted.start) {
            let why = format!("asked for bytes from {}, got them from {}", wanted.start, body.start);
            return Err(Streamed::Source(self.fault(origin, Fault::Protocol(why))));
        }
        let mut offset = body.start;
        while self.upload.offset() < wanted.end {
            let Some(piece) = self.hear(feed, body.bytes.next()).await? else {
                return Err(Streamed::Source(self.ended_early(origin, &body, offset)));
            };
            let piece = piece.map_err(Streamed::Source)?;
            let length = piece.len() as u64;
            feed.meters.iter().for_each(|meter| _ = meter.fetch_add(length, Ordering::Relaxed));
            feed.gauge.count(length);
            attempt.moved += feed.gauge.resting(self.take(origin, offset, piece)).await?;
            offset += length;
            attempt.answered = Some((answered - asked, answered.elapsed()));
            let checked = feed.gauge.check(&mut window, self.stall);
            checked.map_err(|fault| Streamed::Source(self.fault(origin, fault)))?;
        }
        Ok(())
    }

    /// Waits for the source, but not for ever, and not when something else is to be done.
    async fn hear<T>(&self, feed: &Feed, work: impl Future<Output = T>) -> Result<T, Streamed> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Streamed::Stopped),
            () = feed.gauge.cut.cancelled() => Err(Streamed::Cut),
            heard = self.in_time(feed.origin.as_ref(), work) => heard.map_err(Streamed::Source),
        }
    }

    /// A server may give less than was asked for, as long as it says so.
    fn ended_early(&self, origin: &dyn Origin, body: &Body, offset: u64) -> Error {
        let is_whole = body.end == Some(offset) && offset - body.start >= PROGRESS;
        self.fault(
            origin,
            match is_whole {
                true => Fault::Broken("the answer held a part of what was asked for".into()),
                false => Fault::Length { got: offset, expected: self.descriptor.size },
            },
        )
    }

    /// Gives the upload what it wants of a piece that begins at `offset`.
    async fn take(&self, origin: &dyn Origin, offset: u64, mut piece: Bytes) -> Result<u64, Streamed> {
        let at = self.upload.offset();
        let before = piece.split_to(at.saturating_sub(offset).min(piece.len() as u64) as usize).len() as u64;
        self.lost(origin, Cause::RangeIgnored, before);
        piece.truncate((self.descriptor.size - at).min(piece.len() as u64) as usize);
        let count = piece.len() as u64;
        if count == 0 {
            return Ok(0);
        }
        self.upload.write(piece).await.map_err(|error| self.broken(error))?;
        self.count(origin, count);
        self.reached.fetch_max(at + count, Ordering::Relaxed);
        let blob = self.descriptor.digest.clone();
        self.events.on(&Event::Bytes { blob, count, provenance: self.provenance(origin) });
        Ok(count)
    }

    /// What was sent before and is wanted once more travels in vain.
    fn count_again(&self, from: u64) {
        let again = self.reached.swap(from, Ordering::Relaxed).saturating_sub(from);
        let is_spoiled = self.is_spoiled.swap(false, Ordering::Relaxed);
        if again > 0 {
            let cause = if is_spoiled { Cause::Spoiled } else { Cause::SessionLost };
            self.traffic.lose(cause, again);
            let blob = self.descriptor.digest.clone();
            self.events.on(&Event::Discarded { blob: blob.clone(), count: again });
            self.events.on(&Event::Lost { blob, count: again, cause });
        }
    }

    /// What goes to a registry travels, also from a file of this machine.
    fn count(&self, origin: &dyn Origin, count: u64) {
        match (&self.registry, origin.provenance()) {
            (Some(registry), Provenance::Local) => self.traffic.count_moved(registry, count),
            _ => self.traffic.count(origin, count),
        }
    }

    fn provenance(&self, origin: &dyn Origin) -> Provenance {
        match (&self.registry, origin.provenance()) {
            (Some(_), Provenance::Local) => Provenance::Registry,
            (_, provenance) => provenance,
        }
    }

    fn lost(&self, origin: &dyn Origin, cause: Cause, count: u64) {
        if count > 0 {
            self.count(origin, count);
            self.traffic.lose(cause, count);
            self.events.on(&Event::Lost { blob: self.descriptor.digest.clone(), count, cause });
        }
    }

    fn broken(&self, error: Error) -> Streamed {
        self.is_broken.store(true, Ordering::Relaxed);
        if matches!(error, Error::Verification { .. }) {
            self.is_spoiled.store(true, Ordering::Relaxed);
        }
        Streamed::Sink(error)
    }

    async fn in_time<T>(&self, origin: &dyn Origin, work: impl Future<Output = T>) -> Result<T> {
        timeout(self.stall, work).await.map_err(|_| self.fault(origin, Fault::Stalled(self.stall)))
    }

    fn fault(&self, origin: &dyn Origin, fault: Fault) -> Error {
        Error::network(origin.host(), &self.descriptor.digest, fault)
    }
}
