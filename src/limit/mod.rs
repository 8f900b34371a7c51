//! Limits of bandwidth and of bytes.
//!
//! - `rate`: rates and amounts as text; `timetable`: rates by the time of day and week.
//! - [`Limiter`]: what holds now, and who may move bytes next; `clock`: the time that it books on; `shared`: the same
//!   for several processes.
//! - [`Metered`]: a connection whose bytes are counted where they enter and leave the system; `socket`: what the system
//!   knows of it.
//! - `background`: stepping back for others; `others`: what they move over our interface.
//! - [`Budget`]: how many bytes a run may move.

mod background;
mod budget;
mod clock;
mod others;
pub mod rate;
mod shared;
pub mod socket;
mod stream;
mod timetable;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Zoned;
use tokio::time::{Instant, sleep};

use background::{Background, Seen};
pub use budget::Budget;
pub use clock::Direction;
use clock::{Clock, Own};
pub use rate::{Rate, Rates};
use shared::Shared;
pub use stream::Metered;
pub use timetable::Timetable;

/// A connection pays for its bytes in pieces of this time, but of no fewer and no more bytes than these.
const PIECES_A_SECOND: u64 = 200;
const LEAST_PIECE: u64 = 1024;
const LARGEST_PIECE: u64 = 256 * 1024;
/// How many connections are of use: one below the first rate, then one for each of these many bytes a second up to the
/// number that a long way needs, and more only as one for each of the last. What many of them have in their buffers is
/// more than a low limit can give back.
const RATE_OF_TWO: u64 = 128 * 1000;
const RATE_A_CONNECTION: u64 = 256 * 1000;
const ENOUGH_CONNECTIONS: u64 = 8;
const RATE_OF_MORE: u64 = 2500 * 1000;
/// What a connection may have in a buffer of the system, as a part of a second at the limit.
const BUFFERED: u64 = 12;
/// Buffers in bytes: less than the least is no use to TCP; the largest is what systems allow where nobody changed it
/// (`net.core.rmem_max`).
const LEAST_BUFFER: u64 = 6 * 1024;
const LARGEST_BUFFER: u64 = 208 * 1024;
/// Connections and their buffers where others go first: the fewer, the sooner we have stepped back.
const CONNECTIONS_BEHIND: usize = 2;
const BUFFER_BEHIND: usize = LARGEST_BUFFER as usize;
/// How much more patience there is above the connection, which knows whether it waits for the limit or for the server.
const PATIENCE: u32 = 8;
/// How often a timetable is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Who goes first where the way is too narrow for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precedence {
    /// Nobody: TCP shares as it does.
    #[default]
    Equal,
    /// Others.
    Others,
}

/// Bounds what all connections of a process move, or those of all processes that share a file. A cheap clone of one
/// state.
#[derive(Clone, Default)]
pub struct Limiter(Option<Arc<Limits>>);

struct Limits {
    timetable: Timetable,
    background: Option<Background>,
    today: fn() -> Zoned,
    /// What the limit of the timetable is booked on.
    clock: Box<dyn Clock>,
    /// What stepping back is booked on: those who share a limit get what is left to others.
    own: Own,
    /// One connection of the process at a time books and waits, in the order in which they came: so processes take
    /// turns, and none leaves more than one piece behind.
    turns: [tokio::sync::Mutex<()>; 2],
    current: Mutex<Current>,
    /// The system's monotonic clock in nanoseconds, and when it was read.
    began: (u64, Instant),
}

/// What the timetable said when it was looked at.
struct Current {
    rates: Rates,
    until: Option<Instant>,
}

impl Limiter {
    /// Limits nothing.
    pub fn none() -> Limiter {
        Limiter(None)
    }

    /// Limits this process.
    pub fn new(timetable: Timetable, precedence: Precedence) -> Limiter {
        Limiter::on(timetable, precedence, Box::new(Own::default()), Zoned::now)
    }

    /// Limits all processes together that name the same file.
    ///
    /// # Errors
    /// When the file cannot be opened or made, or holds something else.
    pub fn shared(timetable: Timetable, precedence: Precedence, file: &Path) -> io::Result<Limiter> {
        Ok(Limiter::on(timetable, precedence, Box::new(Shared::open(file)?), Zoned::now))
    }

    fn on(timetable: Timetable, precedence: Precedence, clock: Box<dyn Clock>, today: fn() -> Zoned) -> Limiter {
        if timetable.is_off() && precedence == Precedence::Equal {
            return Limiter::none();
        }
        let current = Current { rates: timetable.at(&today()), until: None };
        let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let began = Duration::new(monotonic.tv_sec.unsigned_abs(), u32::try_from(monotonic.tv_nsec).unwrap_or(0));
        let limits = Limits {
            timetable,
            background: (precedence == Precedence::Others).then(Background::default),
            today,
            clock,
            own: Own::default(),
            turns: Default::default(),
            current: Mutex::new(current),
            began: (u64::try_from(began.as_nanos()).unwrap_or(u64::MAX / 4), Instant::now()),
        };
        limits.clock.begin(limits.now());
        limits.own.begin(limits.now());
        Limiter(Some(Arc::new(limits)))
    }

    /// Whether there is a limit at some time of the week.
    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// What holds now in one direction.
    pub fn rate(&self, direction: Direction) -> Option<Rate> {
        self.0.as_ref()?.rate(direction)
    }

    /// Whether others go first.
    fn steps_back(&self) -> bool {
        self.0.as_ref().is_some_and(|limits| limits.background.is_some())
    }

    /// Takes in what a connection saw of its way.
    fn learn(&self, direction: Direction, seen: &Seen) {
        if let Some(background) = self.0.as_ref().and_then(|limits| limits.background.as_ref()) {
            background.learn(direction, seen);
        }
    }

    /// How many connections can be useful now in one direction.
    pub fn connections(&self, direction: Direction) -> usize {
        if self.steps_back() {
            return CONNECTIONS_BEHIND;
        }
        let most = |rate| usize::try_from(useful(rate)).unwrap_or(usize::MAX);
        self.rate(direction).map_or(usize::MAX, most)
    }

    /// What a buffer of the system may hold of one connection, in bytes; `None` where there is no limit.
    pub fn buffer(&self, direction: Direction) -> Option<usize> {
        if self.steps_back() {
            return Some(BUFFER_BEHIND);
        }
        let rate = self.rate(direction)?;
        let each = rate.bytes() / useful(rate) / BUFFERED;
        usize::try_from(each.clamp(LEAST_BUFFER, LARGEST_BUFFER)).ok()
    }

    /// How long nothing may come to those who cannot tell whether that is because of the limit: the connection below
    /// them can, and keeps to `stall`.
    pub fn patience(&self, stall: Duration) -> Duration {
        if self.is_set() { stall.saturating_mul(PATIENCE) } else { stall }
    }

    /// How many bytes a connection may move before it pays for them.
    fn piece(&self, direction: Direction) -> u64 {
        let piece = |rate: Rate| (rate.bytes() / PIECES_A_SECOND).clamp(LEAST_PIECE, LARGEST_PIECE);
        self.rate(direction).map_or(LARGEST_PIECE, piece)
    }

    /// Waits until bytes may have moved that cost so many nanoseconds. Returns how many more could have by then: who is woken
    /// late makes up for it.
    async fn pay(&self, direction: Direction, cost: u64) -> u64 {
        let Some(limits) = &self.0 else { return 0 };
        let _turn = limits.turns[direction as usize].lock().await;
        let ahead = limits.book(direction, cost);
        if let Ok(wait @ 1..) = u64::try_from(ahead) {
            sleep(Duration::from_nanos(wait)).await;
            return 0;
        }
        let behind = u128::from(ahead.unsigned_abs());
        let missed = self.rate(direction).map_or(0, |rate| behind * u128::from(rate.bytes()) / 1_000_000_000);
        u64::try_from(missed).unwrap_or(0)
    }

    /// Counts the cost, in nanoseconds, of bytes for which nobody waits any more.
    fn charge(&self, direction: Direction, cost: u64) {
        if let Some(limits) = &self.0 {
            limits.book(direction, cost);
        }
    }
}

/// How many connections are of use at this rate.
fn useful(rate: Rate) -> u64 {
    match rate.bytes() {
        ..RATE_OF_TWO => 1,
        bytes => (bytes / RATE_A_CONNECTION).clamp(2, ENOUGH_CONNECTIONS).max(bytes / RATE_OF_MORE),
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("off"),
            Some(limits) => write!(f, "{}", limits.timetable),
        }
    }
}

impl Limits {
    fn rate(&self, direction: Direction) -> Option<Rate> {
        let left = self.background.as_ref().map(|background| background.rate(direction));
        self.limit(direction).into_iter().chain(left).min()
    }

    /// What the timetable allows now.
    fn limit(&self, direction: Direction) -> Option<Rate> {
        let rates = self.rates();
        if direction == Direction::Down { rates.down } else { rates.up }
    }

    fn rates(&self) -> Rates {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if self.timetable.changes() {
            let now = Instant::now();
            if current.until.is_none_or(|until| until <= now) {
                *current = Current { rates: self.timetable.at(&(self.today)()), until: Some(now + LOOK) };
            }
        }
        current.rates
    }

    /// How many nanoseconds ahead the virtual time is behind this booking. Where there is no limit now, nothing is booked.
    fn book(&self, direction: Direction, cost: u64) -> i64 {
        let (now, limit) = (self.now(), self.limit(direction));
        let Some(background) = &self.background else {
            return limit.map_or(0, |_| self.clock.book(direction, now, cost));
        };
        let left = background.rate(direction);
        let of_limit = limit.map(|limit| self.clock.book(direction, now, left.min(limit).cost_at(cost, limit)));
        of_limit.into_iter().chain([self.own.book(direction, now, cost)]).max().unwrap_or(0)
    }

    /// The system's monotonic clock, in nanoseconds.
    fn now(&self) -> u64 {
        let (began, at) = self.began;
        began.saturating_add(u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX / 4))
    }
}

#[cfg(test)]
mod tests;
