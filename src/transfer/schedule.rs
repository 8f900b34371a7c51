//! Who gets the next connection, and for how much.
//!
//! The biggest blobs start first. While blobs wait, each gets one connection; when none waits, free connections share
//! the blobs that are on their way, and when nothing is left to claim, they take half of the largest remaining range.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::active::Active;
use super::blob::Stage;
use super::fetch::{Fetch, Gauge};
use super::run::{Done, Run};
use super::segments::ClaimId;
use super::stream::Stream;
use super::verify::lock;

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
        wanting.into_iter().find_map(|(_, i)| {
            let connections = self.blobs[i].connections;
            let mut usable = self.blobs[i].usable();
            let place = self.blobs[i].streams_to();
            let free = usable.find(|(_, origin)| {
                self.pace.may_share(origin.host(), connections)
                    && self.pace.take_both(origin.host(), place.as_deref(), now)
            });
            free.map(|(origin, _)| (i, origin))
        })
    }

    fn need(&self, i: usize, now: Instant) -> Option<Need> {
        match (self.blobs[i].unclaimed(), self.blobs[i].connections as u64) {
            (0, 0) => None,
            (0, _) => self.slowest(i, now).map(|(_, left)| Need::Late(left)),
            (left, 0) => Some(Need::Unserved(left)),
            (left, connections) => Some(Need::Served(left / connections)),
        }
    }

    /// The connection of a blob that will end last, if taking half of its range away from it pays.
    fn slowest(&self, i: usize, now: Instant) -> Option<(ClaimId, Duration)> {
        let Stage::Active(active) = &self.blobs[i].stage else { return None };
        let segments = lock(&active.segments);
        let connections = self.open.iter().filter(|((blob, _), _)| *blob == i);
        let late = connections.filter_map(|((_, claim), (_, gauge))| {
            let awaited = segments.awaited(*claim);
            let left = awaited.end - awaited.start;
            let rate = gauge.rate(now);
            let is_known = now.saturating_duration_since(gauge.since) >= WORTH_SPLITTING / 2;
            let time = Duration::try_from_secs_f64(left as f64 / rate).unwrap_or(Duration::MAX);
            (left >= 2 * LEAST_RANGE && is_known && time >= WORTH_SPLITTING).then_some((*claim, time))
        });
        late.max_by_key(|(_, time)| *time)
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
        let limit = self.range_limit(i, from.host());
        let slowest = self.slowest(i, now);
        let claimed = {
            let mut segments = lock(&active.segments);
            segments.claim(limit).or_else(|| segments.split(slowest?.0, LEAST_RANGE))
        };
        // The slow connection may have caught up since it was looked at.
        let Some((claim, _)) = claimed else { return self.pace.give_back(from.host()) };
        self.blobs[i].connections += 1;
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
        self.blobs[i].connections += 1;
        let meters = [self.pace.meter(from.host()), self.pace.meter(&self.blobs[i].plan.sink.place())];
        self.tasks.spawn(async move {
            Done::Streamed { blob: i, origin, attempt: stream.attempt(from.as_ref(), &meters).await }
        });
    }

    /// How much one connection asks for: a share small enough that all connections of the blob end together, and
    /// never so much that nothing is left to share should more connections pay.
    fn range_limit(&mut self, i: usize, host: &str) -> u64 {
        if self.blobs[i].ignores_ranges() {
            return u64::MAX;
        }
        let left = self.blobs[i].unclaimed();
        match self.pace.streams(host) as u64 {
            1 => MOST_RANGE,
            several => (left / (2 * several)).clamp(LEAST_RANGE, MOST_RANGE),
        }
    }
}
