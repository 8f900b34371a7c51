//! Stepping back for others: less is moved while packets wait in a queue on the way (as LEDBAT, RFC 6817).
//!
//! The time there and back, above the shortest that was ever seen of a host, is what packets wait in queues. Where it
//! grows beyond a target, or packets are lost, somebody wants more than the way can carry, and we take less. Others,
//! who only notice losses, take what we leave.
//!
//! Some queues are too short to be seen. So it is also remembered how much the way has carried: where clearly less comes
//! than that, and than was allowed, others have the rest, and we pause.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::clock::Direction;
use super::others::{Fare, Others};
use super::rate::Rate;
use super::socket::Observed;

/// What is taken at first, and never less than, in bytes a second.
const FIRST: f64 = 256_000.0;
const LEAST: f64 = 32_000.0;
/// Nothing is held back beyond this.
const MOST: f64 = 10e9;
/// How long packets may wait because of us.
const TARGET: Duration = Duration::from_millis(15);
/// How often the rate is chosen anew; less often where the way is longer.
const WINDOW: Duration = Duration::from_millis(100);
/// Growth in a window: until a queue is met, and for a while after it.
const START: f64 = 1.5;
const GROWTH: f64 = 1.03;
/// So many windows without a queue or a loss, and the way is found out anew: one lost packet tells little of it.
const CAREFUL: u32 = 50;
/// What is left of the rate after a window with a queue of twice the target, and after one with a loss.
const YIELD: f64 = 0.8;
const LOSS: f64 = 0.5;
/// A loss is more than this part of what moved in a window, in packets of so many bytes.
const LOSSES: f64 = 0.01;
const PACKET: u64 = 1500;
/// No growth for so long after a loss: those who lost packets, too, take as long to come back.
const CALM: Duration = Duration::from_millis(1500);
/// Less than this part of what was allowed came in so many windows one after the other: the way carries no more.
const SHORT: f64 = 0.9;
const SHORT_WINDOWS: u32 = 5;
/// A window in which nothing came for so long shows a server that thinks, not a way that is full.
const GAP: Duration = Duration::from_millis(30);
/// When less than this part of what the way has carried is left for us, others are there.
const SHARE: f64 = 0.8;
/// What is left after a window of what is known of the way: half after two minutes.
const FORGET: f64 = 0.9995;
/// Pauses for others; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// Hosts whose shortest way is remembered.
const MOST_HOSTS: usize = 256;

/// How much is taken in each direction.
#[derive(Default)]
pub(super) struct Background([Mutex<Lane>; 2]);

/// What one connection saw since it last told.
pub(super) struct Seen {
    pub(super) observed: Observed,
    /// Bytes that it moved since.
    pub(super) moved: u64,
    /// Packets that it lost since.
    pub(super) lost: u64,
}

struct Lane {
    rate: f64,
    /// How many more windows with room for more it grows slowly, because the end of the way was met.
    careful: u32,
    shortest: HashMap<IpAddr, Duration>,
    window: Window,
    calm_until: Option<Instant>,
    /// What the way has carried for us, in bytes a second.
    carried: f64,
    /// Windows one after the other in which less came than was allowed: how many, what came, and in what time.
    short: (u32, u64, Duration),
    pause: Duration,
    paused_until: Option<Instant>,
    others: Others,
}

/// What was seen since the rate was last chosen.
#[derive(Default)]
struct Window {
    began: Option<Instant>,
    /// The least that packets waited, and the way there and back with it.
    waited: Option<(Duration, Duration)>,
    moved: u64,
    lost: u64,
    /// When something came last, and the longest time before.
    last: Option<Instant>,
    gap: Duration,
}

impl Window {
    /// Whether packets were lost, and not only overtaken by others: what follows a lost one comes out of its order, too,
    /// until that was sent again.
    fn has_losses(&self) -> bool {
        (self.lost * PACKET) as f64 > LOSSES * self.moved as f64
    }
}

impl Default for Lane {
    fn default() -> Lane {
        Lane {
            rate: FIRST,
            careful: 0,
            shortest: HashMap::new(),
            window: Window::default(),
            calm_until: None,
            carried: 0.0,
            short: Default::default(),
            pause: FIRST_PAUSE,
            paused_until: None,
            others: Others::default(),
        }
    }
}

impl Background {
    pub(super) fn rate(&self, direction: Direction) -> Rate {
        Rate::new(self.lane(direction).rate as u64)
    }

    /// Takes in what a connection saw.
    pub(super) fn learn(&self, direction: Direction, seen: &Seen) {
        let (mut lane, now) = (self.lane(direction), Instant::now());
        lane.learn(direction, seen, now);
        if let Some(count) = lane.others.count(direction, now) {
            lane.look(count, now);
        }
    }

    fn lane(&self, direction: Direction) -> std::sync::MutexGuard<'_, Lane> {
        self.0[direction as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn learn(&mut self, direction: Direction, seen: &Seen, now: Instant) {
        let observed = &seen.observed;
        let way = if direction == Direction::Down { observed.receiving } else { observed.sending };
        if let (Some(way), Some(peer)) = (way, observed.peer) {
            let waited = self.waited(peer, way);
            let least = self.window.waited.is_none_or(|(least, _)| waited < least);
            if least {
                self.window.waited = Some((waited, way));
            }
        }
        if let Some(local) = observed.local {
            self.others.ours(local, seen.moved);
        }
        self.window.moved += seen.moved;
        self.window.lost += seen.lost;
        let gap = now - self.window.last.replace(now).unwrap_or(now);
        self.window.gap = self.window.gap.max(gap);
        let length = now - *self.window.began.get_or_insert(now);
        if length >= WINDOW.max(self.window.waited.map_or(WINDOW, |(_, way)| way)) {
            let window =
                std::mem::replace(&mut self.window, Window { began: Some(now), last: Some(now), ..Window::default() });
            self.choose(&window, length, now);
        }
    }

    /// How long packets waited on the way to and from `peer`.
    fn waited(&mut self, peer: IpAddr, way: Duration) -> Duration {
        if self.shortest.len() >= MOST_HOSTS && !self.shortest.contains_key(&peer) {
            self.shortest.clear();
        }
        let shortest = self.shortest.entry(peer).or_insert(way);
        *shortest = way.min(*shortest);
        way - *shortest
    }

    fn choose(&mut self, window: &Window, length: Duration, now: Instant) {
        let waited = window.waited.map_or(Duration::ZERO, |(waited, _)| waited);
        let is_calm = self.calm_until.is_some_and(|until| now < until);
        self.carried *= FORGET;
        self.count_short(window, length);
        if self.is_paused(now) {
            self.rate = LEAST;
        } else if window.has_losses() && !is_calm {
            // What is lost at the very first is lost in a burst at the beginning.
            self.careful = if self.rate > FIRST { CAREFUL } else { 0 };
            self.rate *= LOSS;
            self.calm_until = Some(now + CALM);
        } else if waited > TARGET {
            self.careful = CAREFUL;
            let excess = (waited - TARGET).as_secs_f64() / TARGET.as_secs_f64();
            self.rate *= 1.0 - (1.0 - YIELD) * excess.min(1.0);
        } else if self.short.0 >= SHORT_WINDOWS {
            self.meet_the_end(now);
        } else if !is_calm && window.moved as f64 >= 0.7 * self.rate * length.as_secs_f64() {
            // What is not used now does not show what the way could carry.
            self.rate *= if self.careful > 0 { GROWTH } else { START };
            self.careful = self.careful.saturating_sub(1);
        }
        self.rate = self.rate.clamp(LEAST, MOST);
        let way = window.waited.map(|(_, way)| way);
        tracing::trace!(rate = self.rate, ?way, ?waited, lost = window.lost, moved = window.moved, "background");
    }
}

impl Lane {
    fn count_short(&mut self, window: &Window, length: Duration) {
        let is_short = window.gap < GAP && (window.moved as f64) < SHORT * self.rate * length.as_secs_f64();
        let (count, moved, time) = self.short;
        self.short = if is_short { (count + 1, moved + window.moved, time + length) } else { Default::default() };
    }

    /// The way carries no more: because that is all, or because others have the rest.
    fn meet_the_end(&mut self, now: Instant) {
        let (_, moved, time) = std::mem::take(&mut self.short);
        let left = moved as f64 / time.as_secs_f64();
        if left < SHARE * self.carried {
            self.make_way(now);
        } else {
            self.rate = left;
            self.carried = left.max(self.carried);
            self.pause = FIRST_PAUSE;
            self.careful = CAREFUL;
        }
    }
}

impl Lane {
    /// Looks how others on this machine fare, by what their interface and ours has moved.
    fn look(&mut self, count: u64, now: Instant) {
        let is_paused = self.is_paused(now);
        match self.others.look(count, now) {
            Fare::Displaced if !is_paused => self.make_way(now),
            Fare::Gone => {
                self.paused_until = None;
                self.pause = FIRST_PAUSE;
            }
            Fare::Displaced | Fare::Well => {}
        }
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// Leaves all to others for a while.
    fn make_way(&mut self, now: Instant) {
        self.rate = LEAST;
        self.short = Default::default();
        self.paused_until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        // The way back is tried at once, not step by step.
        self.careful = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of 6.25 MB/s with a way of 20 ms and a queue in front.
    struct Link {
        lane: Lane,
        queue: f64,
        now: Instant,
    }

    const CAPACITY: f64 = 6_250_000.0;
    const STEP: Duration = Duration::from_millis(10);

    impl Link {
        fn new() -> Link {
            Link { lane: Lane::default(), queue: 0.0, now: Instant::now() }
        }

        /// Lets `time` go by while others keep at least `held` bytes in the queue. Returns what we moved, in bytes a second.
        fn run(&mut self, time: Duration, held: f64) -> f64 {
            let (mut ours, end) = (0.0, self.now + time);
            while self.now < end {
                let step = STEP.as_secs_f64();
                let moved = self.lane.rate.min(CAPACITY * 1.5) * step;
                self.queue = (self.queue + moved - CAPACITY * step).max(held);
                ours += moved.min(CAPACITY * step);
                self.now += STEP;
                let way = Duration::from_millis(20) + Duration::from_secs_f64(self.queue / CAPACITY);
                let peer = Some(IpAddr::from([10, 0, 0, 1]));
                let observed = Observed { receiving: Some(way), peer, ..Observed::default() };
                let seen = Seen { observed, moved: moved as u64, lost: 0 };
                self.lane.learn(Direction::Down, &seen, self.now);
            }
            ours / time.as_secs_f64()
        }
    }

    #[test]
    fn alone_it_takes_what_there_is() {
        let mut link = Link::new();
        link.run(Duration::from_secs(5), 0.0);
        let taken = link.run(Duration::from_secs(20), 0.0);
        assert!(taken >= 0.85 * CAPACITY, "{taken}");
        assert!(link.queue / CAPACITY < 0.1, "{}", link.queue);
    }

    #[test]
    fn it_leaves_the_link_to_others_and_comes_back() {
        let mut link = Link::new();
        link.run(Duration::from_secs(10), 0.0);
        // Others hold 60 ms of the queue.
        link.run(Duration::from_secs(3), CAPACITY * 0.06);
        let taken = link.run(Duration::from_secs(10), CAPACITY * 0.06);
        assert!(taken <= 0.02 * CAPACITY, "{taken}");
        link.run(Duration::from_secs(15), 0.0);
        let taken = link.run(Duration::from_secs(10), 0.0);
        assert!(taken >= 0.8 * CAPACITY, "{taken}");
    }

    #[test]
    fn others_without_a_queue_are_known_by_what_they_leave() {
        let (mut lane, mut now) = (Lane::default(), Instant::now());
        let mut run = |seconds: u32, share: f64| {
            let mut ours = 0.0;
            for _ in 0..seconds * 100 {
                let moved = lane.rate.min(CAPACITY * share) * STEP.as_secs_f64();
                now += STEP;
                ours += moved;
                lane.learn(Direction::Down, &Seen { observed: Observed::default(), moved: moved as u64, lost: 0 }, now);
            }
            ours / f64::from(seconds)
        };
        run(5, 1.0);
        assert!(run(20, 1.0) >= 0.85 * CAPACITY);
        let taken = run(30, 0.6);
        assert!(taken <= 0.15 * CAPACITY, "{taken}");
        run(20, 1.0);
        assert!(run(10, 1.0) >= 0.85 * CAPACITY);
    }

    #[test]
    fn a_loss_is_forgotten() {
        let mut link = Link::new();
        link.run(Duration::from_millis(500), 0.0);
        let seen = Seen { observed: Observed::default(), moved: 0, lost: 20 };
        link.lane.learn(Direction::Down, &seen, link.now);
        link.run(Duration::from_secs(14), 0.0);
        let taken = link.run(Duration::from_secs(20), 0.0);
        assert!(taken >= 0.8 * CAPACITY, "{taken}");
    }

    #[test]
    fn a_packet_that_was_overtaken_changes_nothing() {
        let mut link = Link::new();
        link.run(Duration::from_secs(20), 0.0);
        let before = link.lane.rate;
        link.now += Duration::from_millis(20);
        let seen = Seen { observed: Observed::default(), moved: 600_000, lost: 2 };
        link.lane.learn(Direction::Down, &seen, link.now);
        link.run(Duration::from_secs(1), 0.0);
        assert!(link.lane.rate > before * 0.7, "{before} {}", link.lane.rate);
    }

    #[test]
    fn a_loss_halves_the_rate_once() {
        let mut link = Link::new();
        link.run(Duration::from_secs(2), 0.0);
        let before = link.lane.rate;
        let mut lose = |milliseconds| {
            link.now += Duration::from_millis(milliseconds);
            let seen = Seen { observed: Observed::default(), moved: 0, lost: 30 };
            link.lane.learn(Direction::Down, &seen, link.now);
            link.lane.rate
        };
        let halved = lose(200);
        assert!(halved < before * 0.55);
        assert_eq!(lose(200), halved);
    }
}
