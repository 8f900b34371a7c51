//! How many connections a host gets: more while that brings more, fewer when it does not or when the host says so.
//!
//! Two numbers are climbed one after the other: how many connections in all, which serves many small blobs, and how
//! many of them one blob may have, which serves a large one over a link that limits each connection. The second starts
//! at one: a single connection that the line does not slow down is the cheapest, because its bytes are hashed as they
//! come.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::state::{HostRecord, State};

/// Connections to a host that nothing is known about. More only pay where there are many small blobs, and there the
/// first round trips count.
const FIRST: usize = 16;
/// More than this no host gets.
const CEILING: usize = 32;
/// Shortest time over which a rate is measured; else it is one round trip.
const SHORTEST_WINDOW: Duration = Duration::from_millis(60);
/// A larger number is kept if the rate grew by this factor.
const GAIN: f64 = 1.10;
/// Waits for an answer that are too short to be worth another connection.
const SHORT_WAIT: Duration = Duration::from_millis(10);
/// Windows without a further try after one that brought nothing.
const REST: u32 = 30;

/// The hosts of one transfer.
pub(super) struct Pace {
    hosts: HashMap<String, Host>,
    /// Connections that one blob may have at most.
    streams: usize,
    /// What former runs found out.
    state: Arc<State>,
}

#[derive(Debug)]
struct Host {
    connections: Ladder,
    streams: Ladder,
    active: usize,
    not_before: Option<Instant>,
    round_trip: Duration,
    window: Instant,
    moved: Arc<AtomicU64>,
    /// What one connection usually brings, in bytes a second.
    typical: f64,
    /// It complained.
    is_limited: bool,
    /// The numbers that were told last.
    told: (usize, usize),
}

/// A number that doubles while that makes the rate grow.
#[derive(Debug)]
struct Ladder {
    value: usize,
    ceiling: usize,
    /// More was wanted than the number allows, since the last look.
    wanted: bool,
    trial: Option<Trial>,
    rest: u32,
}

/// The number was raised to see whether the rate grows.
#[derive(Debug)]
struct Trial {
    former: usize,
    rate: f64,
    /// The new connections had a window's time to get going.
    settled: bool,
}

impl Ladder {
    fn new(value: usize, ceiling: usize) -> Ladder {
        Ladder { value: value.min(ceiling), ceiling, wanted: false, trial: None, rest: 0 }
    }

    /// Looks at the rate of one window.
    fn step(&mut self, rate: f64) {
        let wanted = std::mem::take(&mut self.wanted);
        match &mut self.trial {
            Some(trial) if !trial.settled => {
                trial.settled = true;
                return;
            }
            Some(trial) if rate < trial.rate * GAIN => {
                self.value = trial.former;
                self.rest = REST;
            }
            _ => {}
        }
        self.trial = None;
        if self.rest > 0 {
            self.rest -= 1;
        } else if wanted && self.value < self.ceiling {
            self.trial = Some(Trial { former: self.value, rate, settled: false });
            self.value = (self.value * 2).min(self.ceiling);
        }
    }

    fn climb(&mut self) {
        self.value = (self.value + 1).min(self.ceiling);
        self.trial = None;
    }

    fn is_in_use(&self) -> bool {
        self.wanted || self.trial.is_some()
    }
}

impl Host {
    /// A host with so many connections, of which one blob may have `streams`. One that complained in the last run gets no
    /// more than it bore then.
    fn new(known: Option<&HostRecord>, streams: usize) -> Host {
        let connections = match known {
            Some(known) if known.ceiling > 0 => Ladder::new(known.ceiling, known.ceiling.min(CEILING)),
            known => Ladder::new(known.map_or(FIRST, |known| known.connections.max(FIRST)), CEILING),
        };
        Host {
            connections,
            streams: Ladder::new(1, streams),
            active: 0,
            not_before: None,
            round_trip: Duration::ZERO,
            window: Instant::now(),
            moved: Arc::default(),
            typical: 0.0,
            is_limited: false,
            told: (0, 0),
        }
    }

    /// Looks at the rate. Returns whether the numbers are others than those that were told.
    fn tick(&mut self, now: Instant) -> bool {
        self.look(now);
        let numbers = (self.connections.value, self.streams.value);
        std::mem::replace(&mut self.told, numbers) != numbers
    }

    fn look(&mut self, now: Instant) {
        let length = now.saturating_duration_since(self.window);
        if length < SHORTEST_WINDOW.max(self.round_trip) {
            return;
        }
        self.window = now;
        let rate = self.moved.swap(0, Ordering::Relaxed) as f64 / length.as_secs_f64();
        if rate == 0.0 {
            return;
        }
        if self.connections.is_in_use() {
            self.connections.step(rate);
        } else if self.streams.is_in_use() {
            self.streams.step(rate);
        }
    }
}

impl Pace {
    /// Hosts of which nothing is known, for blobs of at most `streams` connections each.
    pub(super) fn new(streams: usize) -> Pace {
        Pace { hosts: HashMap::new(), streams: streams.max(1), state: Arc::new(State::new(None)) }
    }

    /// The same, with what former runs found out.
    pub(super) fn remembering(self, state: &Arc<State>) -> Pace {
        Pace { state: Arc::clone(state), ..self }
    }

    /// How many connections a host was left with that complained in this run.
    pub(super) fn ceiling(&self, host: &str) -> Option<usize> {
        self.hosts.get(host).filter(|entry| entry.is_limited).map(|entry| entry.connections.value)
    }

    /// Takes a connection to `host` if one is free.
    pub(super) fn take(&mut self, host: &str, now: Instant) -> bool {
        let entry = self.host(host);
        if entry.not_before.is_some_and(|at| at > now) {
            return false;
        }
        let free = entry.active < entry.connections.value;
        entry.active += usize::from(free);
        entry.connections.wanted |= !free;
        free
    }

    /// Takes a connection to `host`, and one to the place that its bytes go on to, if both are free.
    pub(super) fn take_both(&mut self, host: &str, place: Option<&str>, now: Instant) -> bool {
        if !self.take(host, now) {
            return false;
        }
        let free = place.is_none_or(|place| self.take(place, now));
        if !free {
            self.give_back(host);
        }
        free
    }

    /// Whether a blob that has `connections` to `host` may have one more.
    pub(super) fn may_share(&mut self, host: &str, connections: usize) -> bool {
        let streams = &mut self.host(host).streams;
        let free = connections < streams.value;
        streams.wanted |= !free;
        free
    }

    /// A connection ended.
    pub(super) fn give_back(&mut self, host: &str) {
        let entry = self.host(host);
        entry.active = entry.active.saturating_sub(1);
    }

    /// How many connections to `host` are at work and allowed.
    pub(super) fn in_use(&self, host: &str) -> usize {
        self.hosts.get(host).map_or(0, |entry| entry.active.min(entry.connections.value))
    }

    /// Connections to `host` that are at work.
    pub(super) fn active(&self, host: &str) -> usize {
        self.hosts.get(host).map_or(0, |entry| entry.active)
    }

    /// Whether `host` asked to be left alone for some time.
    pub(super) fn is_resting(&self, host: &str, now: Instant) -> bool {
        self.hosts.get(host).is_some_and(|entry| entry.not_before.is_some_and(|at| at > now))
    }

    /// Where a connection to `host` counts the bytes that come.
    pub(super) fn meter(&mut self, host: &str) -> Arc<AtomicU64> {
        Arc::clone(&self.host(host).moved)
    }

    /// A connection ended that brought so many bytes a second.
    pub(super) fn learn(&mut self, host: &str, rate: f64) {
        let entry = self.host(host);
        entry.typical = if entry.typical == 0.0 { rate } else { 0.7 * entry.typical + 0.3 * rate };
    }

    /// What one connection to `host` usually brings, in bytes a second; 0 if unknown.
    pub(super) fn typical(&self, host: &str) -> f64 {
        self.hosts.get(host).map_or(0.0, |entry| entry.typical)
    }

    /// An answer's head took `round_trip`, and its body `flow`.
    ///
    /// While waiting takes longer than the bytes, the line is not what holds them up: each such answer adds a
    /// connection, so that their number doubles each round trip, without a look at the rate.
    pub(super) fn answered(&mut self, host: &str, round_trip: Duration, flow: Duration) {
        let entry = self.host(host);
        let first = entry.round_trip.is_zero();
        entry.round_trip = if first { round_trip } else { entry.round_trip.min(round_trip) };
        if round_trip > SHORT_WAIT.max(flow) && entry.connections.wanted {
            entry.connections.climb();
        }
    }

    /// The host said that it is too much: half the connections, and none before the pause is over.
    pub(super) fn busy(&mut self, host: &str, pause: Duration, now: Instant) -> usize {
        let entry = self.host(host);
        let is_news = entry.not_before.is_none_or(|at| at <= now);
        entry.not_before = entry.not_before.max(Some(now + pause));
        // Connections that were opened together are refused together: that is one piece of news.
        if is_news {
            let half = (entry.connections.value / 2).max(1);
            entry.connections = Ladder::new(half, half.max(2));
            entry.is_limited = true;
            entry.told.0 = half;
        }
        entry.connections.value
    }

    /// Looks at the rates; returns the hosts whose numbers changed, and the connections they may have.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<(String, usize)> {
        let changed = self
            .hosts
            .iter_mut()
            .filter_map(|(name, host)| host.tick(now).then(|| (name.clone(), host.connections.value)));
        changed.collect()
    }

    /// How many connections one blob may have to a host now.
    pub(super) fn streams(&mut self, host: &str) -> usize {
        self.host(host).streams.value
    }

    fn host(&mut self, name: &str) -> &mut Host {
        if !self.hosts.contains_key(name) {
            let known = self.state.host(name);
            self.hosts.insert(name.to_owned(), Host::new(known.as_ref(), self.streams));
        }
        self.hosts.get_mut(name).expect("the host was just inserted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Flow, HostRun};

    fn take_all(pace: &mut Pace, now: Instant) -> usize {
        (0..100).filter(|_| pace.take("h", now)).count()
    }

    fn window(pace: &mut Pace, now: &mut Instant, bytes: u64) {
        pace.meter("h").fetch_add(bytes, Ordering::Relaxed);
        *now += SHORTEST_WINDOW;
        pace.tick(*now);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_doubles_while_the_rate_grows_and_falls_back_when_it_does_not() {
        let (mut pace, mut now) = (Pace::new(16), Instant::now());
        let mut active = take_all(&mut pace, now);
        assert_eq!(active, FIRST);
        for (bytes, expected) in [(800, 32), (900, 32), (1600, 32), (1600, 32)] {
            window(&mut pace, &mut now, bytes);
            assert_eq!(pace.hosts["h"].connections.value, expected, "{bytes}");
            active += take_all(&mut pace, now);
        }
        assert_eq!(active, 32);
        let (mut pace, mut now) = (Pace::new(16), Instant::now());
        for (bytes, expected) in [(800, 32), (900, 32), (810, 16), (800, 16)] {
            take_all(&mut pace, now);
            window(&mut pace, &mut now, bytes);
            assert_eq!(pace.hosts["h"].connections.value, expected, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_blob_gets_more_connections_only_while_that_makes_it_faster() {
        let (mut pace, mut now) = (Pace::new(16), Instant::now());
        assert!(pace.may_share("h", 0));
        for (bytes, expected) in [(100, 2), (150, 2), (200, 4), (300, 4), (210, 2), (200, 2)] {
            assert!(!pace.may_share("h", pace.hosts["h"].streams.value));
            window(&mut pace, &mut now, bytes);
            assert_eq!(pace.streams("h"), expected, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_that_nobody_reaches_stays() {
        let (mut pace, mut now) = (Pace::new(16), Instant::now());
        assert!(pace.take("h", now) && pace.may_share("h", 0));
        window(&mut pace, &mut now, 1000);
        assert_eq!((pace.hosts["h"].connections.value, pace.streams("h")), (FIRST, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_doubles_each_round_trip_while_waiting_takes_longer_than_the_bytes() {
        let (mut pace, now, wait) = (Pace::new(16), Instant::now(), Duration::from_millis(50));
        let mut active = take_all(&mut pace, now);
        for expected in [32, 32] {
            for _ in 0..active {
                pace.answered("h", wait, wait / 2);
            }
            active += take_all(&mut pace, now);
            assert_eq!(active, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_take_longer_than_waiting_add_no_connection() {
        let (mut pace, now, wait) = (Pace::new(16), Instant::now(), Duration::from_millis(50));
        take_all(&mut pace, now);
        pace.answered("h", wait, wait * 2);
        pace.answered("h", SHORT_WAIT, Duration::ZERO);
        assert_eq!(pace.hosts["h"].connections.value, FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_host_gets_half_and_is_left_alone_as_long_as_it_asked() {
        let (mut pace, now) = (Pace::new(16), Instant::now());
        assert_eq!(pace.busy("h", Duration::from_secs(3), now), FIRST / 2);
        assert!(!pace.take("h", now + Duration::from_secs(2)));
        assert_eq!(take_all(&mut pace, now + Duration::from_secs(3)), FIRST / 2);
        assert_eq!(pace.ceiling("h"), Some(FIRST / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_begins_with_what_the_last_one_found_out() {
        let state = Arc::new(State::new(None));
        let (flow, round_trip) = (Flow { bytes: 10_000_000, time: Duration::from_secs(1) }, None);
        let run = |connections, ceiling| {
            let host = "h".to_owned();
            HostRun { host, down: flow, up: Flow::default(), connections, round_trip, ceiling }
        };
        let begins_with = |state: &Arc<State>| {
            let mut pace = Pace::new(16).remembering(state);
            let taken = take_all(&mut pace, Instant::now());
            (taken, pace.tick(Instant::now()))
        };
        assert_eq!(begins_with(&state), (FIRST, vec![("h".into(), FIRST)]));
        // Few blobs need few connections: that says nothing about what the host bears.
        for (run, expected) in [(run(2, None), FIRST), (run(28, None), 28), (run(28, Some(4)), 4), (run(4, None), 8)] {
            state.learn_hosts(&[run]);
            assert_eq!(begins_with(&state), (expected, vec![("h".into(), expected)]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn numbers_are_told_when_they_change() {
        let (mut pace, now) = (Pace::new(16), Instant::now());
        take_all(&mut pace, now);
        assert_eq!(pace.tick(now), [("h".to_owned(), FIRST)]);
        assert_eq!(pace.tick(now), []);
        pace.busy("h", Duration::ZERO, now);
        assert_eq!(pace.tick(now), [], "who halved it has told it");
    }
}
