//! The clock that bookings are made on: one virtual time a direction.
//!
//! A booking moves the virtual time ahead by as long as its bytes take at the limit, and whoever made it waits until
//! the real time has caught up. A virtual time far behind the real one would be a saved-up burst, one far ahead a debt:
//! both are bounded, so whatever a process that was killed or a damaged file leaves behind is over within seconds.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was not used can be made up for within this time, in nanoseconds: a busy machine wakes us late.
const SLACK: u64 = 120_000_000;
/// The virtual time is never taken to be further ahead than this, in nanoseconds.
pub(super) const FURTHEST: u64 = 2_000_000_000;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To this machine.
    Down,
    /// Away from it.
    Up,
}

/// Virtual times, in nanoseconds of the system's monotonic clock.
pub(super) trait Clock: Send + Sync {
    /// The virtual time of a direction.
    fn time(&self, direction: Direction) -> &AtomicU64;

    /// Forgets what was not used until `now`.
    fn begin(&self, now: u64) {
        for direction in [Direction::Down, Direction::Up] {
            self.time(direction).fetch_max(now, Ordering::AcqRel);
        }
    }

    /// Books what takes `cost` nanoseconds, at the time `now`. Returns how many nanoseconds the virtual time is ahead
    /// then; behind, where negative.
    fn book(&self, direction: Direction, now: u64, cost: u64) -> i64 {
        let time = self.time(direction);
        let after = |held: u64| held.clamp(now.saturating_sub(SLACK), now + FURTHEST) + cost;
        let held = time.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| Some(after(held)));
        after(held.unwrap_or(now)).cast_signed().saturating_sub(now.cast_signed())
    }
}

/// The clock of one process alone.
#[derive(Default)]
pub(super) struct Own([AtomicU64; 2]);

impl Clock for Own {
    fn time(&self, direction: Direction) -> &AtomicU64 {
        &self.0[direction as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const AFTER_SLACK: i64 = (SECOND - SLACK).cast_signed();

    #[test]
    fn bookings_queue_up_behind_each_other() {
        let clock = Own::default();
        let now = 100 * SECOND;
        assert_eq!(clock.book(Direction::Down, now, SECOND), AFTER_SLACK);
        assert_eq!(clock.book(Direction::Down, now, SECOND), SECOND.cast_signed() + AFTER_SLACK);
        assert_eq!(clock.book(Direction::Up, now, SECOND), AFTER_SLACK);
        assert_eq!(clock.book(Direction::Down, now + 2 * SECOND, SECOND), AFTER_SLACK);
    }

    #[test]
    fn neither_rest_nor_debt_is_saved_up() {
        let clock = Own::default();
        clock.book(Direction::Down, SECOND, SECOND);
        assert_eq!(clock.book(Direction::Down, 1000 * SECOND, SECOND), AFTER_SLACK);
        clock.begin(2000 * SECOND);
        assert_eq!(clock.book(Direction::Down, 2000 * SECOND, 0), 0);
        clock.time(Direction::Down).store(u64::MAX, Ordering::Relaxed);
        assert_eq!(clock.book(Direction::Down, 1000 * SECOND, 0), FURTHEST.cast_signed());
    }
}
