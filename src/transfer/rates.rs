//! How fast each host was in this run, for the next one to know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::pace::Pace;
use super::run::Run;
use crate::content::Provenance;
use crate::state::{Flow, HostRun};

/// Spans that are compared with a new one; older ones cannot overlap it but for a connection of many minutes.
const MAX_SPANS: usize = 64;

/// The hosts of one run.
#[derive(Debug, Default)]
pub(super) struct Rates {
    hosts: BTreeMap<String, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    down: Busy,
    up: Busy,
    connections: usize,
    round_trip: Option<Duration>,
}

/// Bytes, and the time in which any connection was at work: several at once count once.
#[derive(Debug, Default)]
struct Busy {
    bytes: u64,
    /// Of spans that are not kept any more.
    before: Duration,
    /// Apart from each other, in order.
    spans: Vec<(Instant, Instant)>,
}

impl Busy {
    fn add(&mut self, since: Instant, bytes: u64) {
        self.bytes += bytes;
        let mut start = since;
        // Connections are told of when they end, so a new span overlaps the last ones or none.
        while let Some((former, _)) = self.spans.pop_if(|(_, end)| *end >= start) {
            start = start.min(former);
        }
        self.spans.push((start, Instant::now()));
        if self.spans.len() > MAX_SPANS {
            let (start, end) = self.spans.remove(0);
            self.before += end - start;
        }
    }

    fn flow(&self) -> Flow {
        let time = self.spans.iter().map(|(start, end)| *end - *start).sum::<Duration>() + self.before;
        Flow { bytes: self.bytes, time }
    }
}

impl Rates {
    /// A connection ended, which began at `since` and brought so many bytes from `host`.
    pub(super) fn came(&mut self, host: &str, since: Instant, bytes: u64) {
        self.seen(host).down.add(since, bytes);
    }

    /// A connection ended, which began at `since` and took so many bytes to `host`.
    pub(super) fn went(&mut self, host: &str, since: Instant, bytes: u64) {
        self.seen(host).up.add(since, bytes);
    }

    /// So many connections were at work at once, and an answer took so long.
    pub(super) fn served(&mut self, host: &str, connections: usize, round_trip: Option<Duration>) {
        let seen = self.seen(host);
        seen.connections = seen.connections.max(connections);
        seen.round_trip = [seen.round_trip, round_trip].into_iter().flatten().min();
    }

    fn seen(&mut self, host: &str) -> &mut Seen {
        self.hosts.entry(host.to_owned()).or_default()
    }

    fn runs(&self, pace: &Pace) -> Vec<HostRun> {
        let run = |(host, seen): (&String, &Seen)| HostRun {
            host: host.clone(),
            down: seen.down.flow(),
            up: seen.up.flow(),
            connections: seen.connections,
            round_trip: seen.round_trip,
            ceiling: pace.ceiling(host),
        };
        self.hosts.iter().map(run).collect()
    }
}

impl Run<'_> {
    /// Has the next run know how fast the hosts of this one were, also if this one was interrupted.
    pub(super) async fn remember_rates(&mut self) {
        // Under a limit the rate says nothing of the host.
        if self.transfer.settings.limiter.is_set() {
            return;
        }
        for ((blob, _), (origin, gauge)) in &self.open {
            let origin = &self.blobs[*blob].origins[*origin].origin;
            if origin.provenance() != Provenance::Local {
                self.rates.came(origin.host(), gauge.since, gauge.moved.load(Ordering::Relaxed));
            }
        }
        let (state, runs) = (Arc::clone(&self.transfer.state), self.rates.runs(&self.pace));
        // A hint only: one that is lost costs nothing but a guess.
        let _ = tokio::task::spawn_blocking(move || state.learn_hosts(&runs)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_in_which_several_connections_work_counts_once_and_pauses_do_not_count() {
        let second = Duration::from_secs(1);
        let mut rates = Rates::default();
        let began = Instant::now();
        tokio::time::advance(2 * second).await;
        rates.came("h", began + second, 10);
        rates.came("h", began, 10);
        tokio::time::advance(5 * second).await;
        rates.came("h", began + 6 * second, 10);
        assert_eq!(rates.runs(&Pace::new(1))[0].down, Flow { bytes: 30, time: 3 * second });
        rates.came("h", began, 1);
        assert_eq!(rates.runs(&Pace::new(1))[0].down, Flow { bytes: 31, time: 7 * second });
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_connections_one_after_the_other_take_little_memory() {
        let mut busy = Busy::default();
        for _ in 0..1000 {
            let since = Instant::now();
            tokio::time::advance(Duration::from_millis(1)).await;
            busy.add(since, 1);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(busy.spans.len() <= MAX_SPANS);
        assert_eq!(busy.flow(), Flow { bytes: 1000, time: Duration::from_secs(1) });
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_connections_and_the_shortest_round_trip_are_kept() {
        let mut rates = Rates::default();
        let trip = |ms| Some(Duration::from_millis(ms));
        [(2, trip(9)), (8, trip(5)), (4, None)].into_iter().for_each(|(n, trip)| rates.served("h", n, trip));
        let run = &rates.runs(&Pace::new(1))[0];
        assert_eq!((run.connections, run.round_trip), (8, trip(5)));
    }
}
