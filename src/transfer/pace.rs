//! How many connections a host gets: more while that brings more, fewer when it does not or when the host says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Connections to a host that nothing is known about.
const FIRST: usize = 8;
/// More than this no host gets.
const CEILING: usize = 32;
/// Shortest time over which a rate is measured. Also the longest round trip's stand-in where none was measured.
const SHORTEST_WINDOW: Duration = Duration::from_millis(100);
/// A larger number is kept if the rate grew by this factor.
const GAIN: f64 = 1.10;
/// Windows without a further try after one that brought nothing.
const REST: u32 = 20;

/// The hosts of one transfer.
#[derive(Debug, Default)]
pub(super) struct Pace {
    hosts: HashMap<String, Host>,
}

#[derive(Debug)]
struct Host {
    allowed: usize,
    active: usize,
    not_before: Option<Instant>,
    /// Never more than this: set when the host answers that it is too much.
    ceiling: usize,
    round_trip: Duration,
    window: Window,
    moved: Arc<AtomicU64>,
    /// What one connection usually brings, in bytes a second.
    typical: f64,
    /// The number before the last growth and the rate that it had.
    before: Option<(usize, f64)>,
    rest: u32,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    /// Every allowed connection was in use, all the time.
    full: bool,
}

impl Host {
    fn new(now: Instant) -> Host {
        Host {
            allowed: FIRST,
            active: 0,
            not_before: None,
            ceiling: CEILING,
            round_trip: Duration::ZERO,
            window: Window { since: now, full: true },
            moved: Arc::default(),
            typical: 0.0,
            before: None,
            rest: 0,
        }
    }

    fn tick(&mut self, now: Instant) -> bool {
        let length = now.saturating_duration_since(self.window.since);
        if length < SHORTEST_WINDOW.max(2 * self.round_trip) {
            return false;
        }
        let rate = self.moved.swap(0, Ordering::Relaxed) as f64 / length.as_secs_f64();
        let full = std::mem::replace(&mut self.window, Window { since: now, full: true }).full;
        if !full || rate == 0.0 {
            return false;
        }
        let old = self.allowed;
        self.allowed = self.decide(rate);
        self.allowed != old
    }

    fn decide(&mut self, rate: f64) -> usize {
        if let Some((fewer, former)) = self.before.take()
            && rate < former * GAIN
        {
            self.rest = REST;
            return fewer;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return self.allowed;
        }
        let more = (self.allowed * 2).min(self.ceiling);
        if more > self.allowed {
            self.before = Some((self.allowed, rate));
        }
        more
    }
}

impl Pace {
    /// Takes a connection to `host` if one is free.
    pub(super) fn take(&mut self, host: &str, now: Instant) -> bool {
        let entry = self.host(host, now);
        let free = entry.active < entry.allowed && entry.not_before.is_none_or(|at| at <= now);
        entry.active += usize::from(free);
        free
    }

    /// A connection ended.
    pub(super) fn give_back(&mut self, host: &str, now: Instant) {
        let entry = self.host(host, now);
        entry.active = entry.active.saturating_sub(1);
    }

    /// Nothing was left to do for a free connection: the rate of this window says nothing about the number.
    pub(super) fn idle(&mut self) {
        for host in self.hosts.values_mut() {
            host.window.full &= host.active >= host.allowed;
        }
    }

    /// Where a connection to `host` counts the bytes that come.
    pub(super) fn meter(&mut self, host: &str, now: Instant) -> Arc<AtomicU64> {
        Arc::clone(&self.host(host, now).moved)
    }

    /// A connection ended that brought so many bytes a second.
    pub(super) fn learn(&mut self, host: &str, rate: f64, now: Instant) {
        let entry = self.host(host, now);
        entry.typical = if entry.typical == 0.0 { rate } else { 0.7 * entry.typical + 0.3 * rate };
    }

    /// What one connection to `host` usually brings, in bytes a second; 0 if unknown.
    pub(super) fn typical(&self, host: &str) -> f64 {
        self.hosts.get(host).map_or(0.0, |entry| entry.typical)
    }

    /// An answer's head took this long.
    pub(super) fn answered(&mut self, host: &str, round_trip: Duration, now: Instant) {
        let entry = self.host(host, now);
        let first = entry.round_trip.is_zero();
        entry.round_trip = if first { round_trip } else { entry.round_trip.min(round_trip) };
    }

    /// The host said that it is too much: half the connections, and none before the pause is over.
    pub(super) fn busy(&mut self, host: &str, pause: Duration, now: Instant) -> usize {
        let entry = self.host(host, now);
        let is_news = entry.not_before.is_none_or(|at| at <= now);
        entry.not_before = entry.not_before.max(Some(now + pause));
        entry.before = None;
        // Connections that were opened together are refused together: that is one piece of news.
        if is_news {
            entry.allowed = (entry.allowed / 2).max(1);
            entry.ceiling = entry.allowed.max(2);
        }
        entry.allowed
    }

    /// Looks at the rates; returns the hosts whose number changed, and the number.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<(String, usize)> {
        let changed =
            self.hosts.iter_mut().filter_map(|(name, host)| host.tick(now).then(|| (name.clone(), host.allowed)));
        changed.collect()
    }

    /// How many connections a host may have now.
    pub(super) fn allowed(&mut self, host: &str, now: Instant) -> usize {
        self.host(host, now).allowed
    }

    fn host(&mut self, name: &str, now: Instant) -> &mut Host {
        if !self.hosts.contains_key(name) {
            self.hosts.insert(name.to_owned(), Host::new(now));
        }
        self.hosts.get_mut(name).expect("the host was just inserted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(pace: &mut Pace, now: Instant) -> usize {
        (0..100).filter(|_| pace.take("h", now)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_doubles_while_the_rate_grows_and_falls_back_when_it_does_not() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        assert_eq!(take_all(&mut pace, now), FIRST);
        for (bytes, expected) in [(800, 16), (1600, 32), (1610, 16), (1600, 16)] {
            pace.meter("h", now).fetch_add(bytes, Ordering::Relaxed);
            now += SHORTEST_WINDOW;
            pace.tick(now);
            assert_eq!(pace.allowed("h", now), expected, "{bytes}");
            take_all(&mut pace, now);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_with_idle_connections_changes_nothing() {
        let mut pace = Pace::default();
        let now = Instant::now();
        assert!(pace.take("h", now));
        pace.idle();
        pace.meter("h", now).fetch_add(1000, Ordering::Relaxed);
        assert!(pace.tick(now + SHORTEST_WINDOW).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_host_gets_half_and_is_left_alone_as_long_as_it_asked() {
        let mut pace = Pace::default();
        let now = Instant::now();
        assert_eq!(pace.busy("h", Duration::from_secs(3), now), FIRST / 2);
        assert!(!pace.take("h", now + Duration::from_secs(2)));
        assert_eq!(take_all(&mut pace, now + Duration::from_secs(3)), FIRST / 2);
    }
}
