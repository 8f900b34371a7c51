//! Who gets the next connection, and for how much.
//!
//! The biggest blobs start first. While blobs wait, each gets one connection; when none waits, free connections share
//! the blobs that are on their way, and when nothing is left to claim, they take half of the largest remaining range.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::active::Active;
use super::blob::Stage;
use super::fetch::Fetch;
use super::gauge::Gauge;
use super::mirrors::LEAST_SHARED;
use super::run::{Done, Run};
use super::segments::ClaimId;
use super::stream::{Feed, Stream};
use super::verify::lock;
use crate::limit::Direction;

/// Smallest range that one of several connections claims.
const LEAST_RANGE: u64 = 8 * 1024 * 1024;
/// Largest range that is asked for at once: what is not asked for can still be shared.
const MOST_RANGE: u64 = 64 * 1024 * 1024;
/// Time that a connection must have left before half of its range is given to another one.
const WORTH_SPLITTING: Duration = Duration::from_secs(2);

/// Why a blob wants one more connection; the greater, the more urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// All is claimed, but one connection will take this long.
    Late(Duration),
    /// Bytes that nobody fetches, for each of its connections.
    Served(u64),
    /// Bytes that nobody fetches, and no connection at all.
    Unserved(u64),
}

/// A connection that will take long to its end.
struct Late {
    claim: ClaimId,
    /// In bytes a second.
    rate: f64,
    left: Duration,
    /// The fewest bytes that are worth a request.
    least: u64,
}

impl Run<'_> {
    /// The blob that needs a connection most, and the origin to open: blobs without any first, then the one with the
    /// most left for each of its connections, then the one whose slowest connection has the longest way to go.
    pub(super) fn next_fetch(&mut self, now: Instant) -> Option<(usize, usize)> {
        let mut wanting: Vec<(Need, usize)> = Vec::new();
        for &i in &self.under_way {
            if self.blobs[i].may_connect(now, self.transfer.settings.streams)
                && let Some(need) = self.need(i, now)
            {
                wanting.push((need, i));
            }
        }
        wanting.sort_by_key(|(need, _)| std::cmp::Reverse(*need));
        wanting.into_iter().find_map(|(need, i)| Some((i, self.free_origin(i, need, now)?)))
    }

    /// An origin of a blob that has room for one more connection; takes it.
    fn free_origin(&mut self, i: usize, need: Need, now: Instant) -> Option<usize> {
        let mut choices = self.choices(i, now);
        if matches!(need, Need::Late(_)) {
            let rate = self.slowest(i, now)?.rate;
            choices.retain(|&origin| self.may_relieve(i, origin, rate));
        }
        let place = self.blobs[i].streams_to();
        choices.into_iter().find(|&origin| {
            let candidate = &self.blobs[i].origins[origin];
            let (host, connections) = (candidate.origin.host(), candidate.connections);
            self.pace.may_share(host, connections) && self.pace.take_both(host, place.as_deref(), now)
        })
    }

    fn need(&self, i: usize, now: Instant) -> Option<Need> {
        match (self.blobs[i].unclaimed(), self.blobs[i].connections as u64) {
            (0, 0) => None,
            (0, _) => self.slowest(i, now).map(|late| Need::Late(late.left)),
            (left, 0) => Some(Need::Unserved(left)),
            (left, connections) => Some(Need::Served(left / connections)),
        }
    }

    /// The connection of a blob that will end last, if taking half of its range away from it pays.
    ///
    /// Under a limit, one more connection to the same host would only bring once more what is on its way already.
    fn slowest(&self, i: usize, now: Instant) -> Option<Late> {
        if self.transfer.settings.limiter.rate(Direction::Down).is_some() && !self.is_shared(i) {
            return None;
        }
        let Stage::Active(active) = &self.blobs[i].stage else { return None };
        let (least, worth) = match self.is_shared(i) {
            true => (LEAST_SHARED, WORTH_SPLITTING / 2),
            false => (LEAST_RANGE, WORTH_SPLITTING),
        };
        let segments = lock(&active.segments);
        let connections = self.open.iter().filter(|((blob, _), _)| *blob == i);
        let late = connections.filter_map(|((_, claim), (_, gauge))| {
            let awaited = segments.awaited(*claim);
            let left = awaited.end - awaited.start;
            let rate = gauge.rate(now);
            let is_known = now.saturating_duration_since(gauge.since) >= WORTH_SPLITTING / 2;
            let time = Duration::try_from_secs_f64(left as f64 / rate).unwrap_or(Duration::MAX);
            let pays = left >= 2 * least && is_known && time >= worth;
            pays.then_some(Late { claim: *claim, rate, left: time, least })
        });
        late.max_by_key(|late| late.left)
    }

    /// Opens a connection for which there is a free place.
    pub(super) fn fetch(&mut self, i: usize, origin: usize, now: Instant) {
        match &self.blobs[i].stage {
            Stage::Active(active) => self.fetch_range(i, origin, Arc::clone(active), now),
            Stage::Streaming(stream) => self.stream(i, origin, Arc::clone(stream)),
            _ => {}
        }
    }

    fn fetch_range(&mut self, i: usize, origin: usize, active: Arc<Active>, now: Instant) {
        let from = Arc::clone(&self.blobs[i].origins[origin].origin);
        let limit = self.range_limit(i, origin, now);
        let relief = self.slowest(i, now).map(|late| (self.relief(i, origin, late.rate), late));
        let claimed = {
            let mut segments = lock(&active.segments);
            segments
                .claim(limit)
                .or_else(|| relief.and_then(|(part, late)| segments.split(late.claim, part, late.least)))
        };
        // The slow connection may have caught up since it was looked at.
        let Some((claim, _)) = claimed else { return self.pace.give_back(from.host()) };
        self.blobs[i].connected(origin);
        let gauge = Gauge::new();
        self.open.insert((i, claim), (origin, Arc::clone(&gauge)));
        let fetch = Fetch {
            blob: active,
            claim,
            stall: self.transfer.settings.stall,
            events: Arc::clone(&self.transfer.events),
            meter: self.pace.meter(from.host()),
            gauge: Arc::clone(&gauge),
            origin: from,
        };
        self.tasks.spawn(async move { Done::Fetched { blob: i, origin, claim, gauge, fetched: fetch.run().await } });
    }

    fn stream(&mut self, i: usize, origin: usize, stream: Arc<Stream>) {
        let from = Arc::clone(&self.blobs[i].origins[origin].origin);
        self.blobs[i].connected(origin);
        let meters = [self.pace.meter(from.host()), self.pace.meter(&self.blobs[i].plan.sink.place())];
        let gauge = Gauge::new();
        self.streams.insert(i, (origin, Arc::clone(&gauge)));
        let feed = Feed { origin: from, meters, gauge };
        self.tasks.spawn(async move { Done::Streamed { blob: i, origin, attempt: stream.attempt(&feed).await } });
    }

    /// How much one connection asks for: a share small enough that all connections of the blob end together, and
    /// never so much that nothing is left to share should more connections pay.
    fn range_limit(&mut self, i: usize, origin: usize, now: Instant) -> u64 {
        if self.blobs[i].ignores_ranges() {
            return u64::MAX;
        }
        let choices = self.choices(i, now);
        if choices.len() > 1 {
            return self.share(i, origin, &choices).min(MOST_RANGE);
        }
        let left = self.blobs[i].unclaimed();
        match self.pace.streams(self.blobs[i].host(origin)) as u64 {
            1 => MOST_RANGE,
            several => (left / (2 * several)).clamp(LEAST_RANGE, MOST_RANGE),
        }
    }
}
