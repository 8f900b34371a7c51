//! What else moves over the interface that our bytes use: the one thing that tells of others who make no queue.
//!
//! The counters of the interface, less what is ours, are others on this machine. Where they lose as much as we gain, we
//! are in their way.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::clock::Direction;

/// How often the counters are looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Less, in bytes a second, is nobody: look-ups, headers that were counted otherwise.
const NOBODY: f64 = 50_000.0;
/// Less than this part of what we move is nobody, either: acknowledgements of it, which end when we pause.
const BESIDE_OURS: f64 = 0.1;
/// Less than this part of what others had is left to them: they have finished, and were not driven away.
const FINISHED: f64 = 0.05;
/// What others lose that is in our way: so much of what they had, and of what we have, and no more than this.
const OF_THEIRS: f64 = 0.15;
const OF_OURS: f64 = 0.3;
const AT_MOST: f64 = 3.0;
/// What is left after a look of what is known of others: half after six seconds.
const FORGET: f64 = 0.966;

/// Addresses of this machine that are told apart.
const MOST_ADDRESSES: usize = 64;

/// What others move in one direction, beside ourselves.
#[derive(Default)]
pub(super) struct Others {
    /// The interface that is watched: the first that we use.
    name: Option<String>,
    /// The interfaces of our addresses, as far as they are known.
    names: HashMap<IpAddr, Option<String>>,
    /// When it is time to look again.
    due: Option<Instant>,
    /// When it was last looked, and at what count.
    last: Option<(Instant, u64)>,
    /// What we moved since.
    ours: u64,
    /// The most that others moved lately, in bytes a second, and the most that we did.
    most: f64,
    own: f64,
}

/// How others fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fare {
    /// They have what they had, or nothing is known of them.
    Well,
    /// They lose what we take.
    Displaced,
    /// There were some, and they have finished.
    Gone,
}

impl Others {
    /// Counts what we moved ourselves, from or to the address `local` of this machine.
    pub(super) fn ours(&mut self, local: IpAddr, bytes: u64) {
        if self.names.len() >= MOST_ADDRESSES && !self.names.contains_key(&local) {
            return;
        }
        let name = self.names.entry(local).or_insert_with(|| name_of(local).filter(|_| !local.is_loopback()));
        if self.name.is_none() {
            self.name.clone_from(name);
        }
        if self.name == *name {
            self.ours += bytes;
        }
    }

    /// What the interface has moved so far, when it is time to look. One that is gone is looked for no more often.
    pub(super) fn count(&mut self, direction: Direction, now: Instant) -> Option<u64> {
        let name = self.name.as_deref().filter(|_| self.due.is_none_or(|due| due <= now))?;
        self.due = Some(now + LOOK);
        counted(&fs::read_to_string("/proc/self/net/dev").ok()?, name, direction)
    }

    /// Takes in what the interface has moved so far.
    pub(super) fn look(&mut self, count: u64, now: Instant) -> Fare {
        let ours = std::mem::take(&mut self.ours);
        let Some((at, before)) = self.last.replace((now, count)) else { return Fare::Well };
        let time = (now - at).as_secs_f64();
        let theirs = count.saturating_sub(before).saturating_sub(ours) as f64 / time;
        let had = self.most;
        self.most = theirs.max(had * FORGET);
        let (lost, ours) = (had - theirs, ours as f64 / time);
        self.own = ours.max(self.own * FORGET);
        tracing::trace!(theirs, had, ours, "others");
        if had < NOBODY.max(BESIDE_OURS * self.own) {
            Fare::Well
        } else if theirs < FINISHED * had {
            self.most = theirs;
            Fare::Gone
        } else if lost > OF_THEIRS * had && lost > OF_OURS * ours && lost < AT_MOST * ours {
            Fare::Displaced
        } else {
            Fare::Well
        }
    }
}

/// The interface that has this address.
fn name_of(local: IpAddr) -> Option<String> {
    let interfaces = if_addrs::get_if_addrs().ok()?;
    let found = interfaces.into_iter().find(|interface| interface.ip() == local.to_canonical())?;
    Some(without_label(&found.name).to_owned())
}

/// An address may have a label (`eth0:1`): then the system gives that for the name, in which there is never a colon.
fn without_label(name: &str) -> &str {
    name.split_once(':').map_or(name, |(interface, _)| interface)
}

/// The bytes of one interface in the text of /proc/net/dev (proc(5)): the first number behind its name came, the ninth
/// went.
fn counted(text: &str, name: &str, direction: Direction) -> Option<u64> {
    let numbers = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    let column = if direction == Direction::Down { 0 } else { 8 };
    numbers.split_ascii_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    /// Looks once a second; gives how others fare with these amounts of ours and theirs.
    fn fares(seconds: &[(u64, u64)]) -> Vec<Fare> {
        let (local, name) = (IpAddr::from([192, 0, 2, 1]), Some("eth0".to_owned()));
        let mut others = Others { name: name.clone(), names: HashMap::from([(local, name)]), ..Others::default() };
        let (mut count, mut now) = (0, Instant::now());
        others.look(count, now);
        let look = |(ours, theirs): &(u64, u64)| {
            others.ours(local, *ours);
            count += ours + theirs;
            now += Duration::from_secs(1);
            others.look(count, now)
        };
        seconds.iter().map(look).collect()
    }

    #[test]
    fn others_who_lose_what_we_gain_are_displaced() {
        let seen = fares(&[(0, 6 * MB), (MB / 2, 6 * MB), (2 * MB, 4 * MB)]);
        assert_eq!(seen, [Fare::Well, Fare::Well, Fare::Displaced]);
    }

    #[test]
    fn others_who_finish_are_gone() {
        assert_eq!(fares(&[(MB, 6 * MB), (MB, 0), (6 * MB, 0)]), [Fare::Well, Fare::Gone, Fare::Well]);
    }

    #[test]
    fn what_we_cannot_have_taken_says_nothing() {
        // A copy within the house that slows down, and headers that are counted otherwise.
        assert_eq!(fares(&[(MB, 100 * MB), (MB, 70 * MB)]), [Fare::Well; 2]);
        assert_eq!(fares(&[(MB, MB / 2), (6 * MB, MB / 5)]), [Fare::Well; 2]);
        assert_eq!(fares(&[(6 * MB, 0), (6 * MB, 0)]), [Fare::Well; 2]);
        // Acknowledgements of what we send, which end when we pause.
        assert_eq!(fares(&[(9 * MB, MB / 4), (MB / 32, 0), (MB / 32, 0)]), [Fare::Well; 3]);
    }

    #[test]
    fn the_system_counts_each_interface_by_its_name() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets |bytes\n    lo:  10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0\n\
                    eth0: 123 4 0 0 0 0 0 0 567 8 0 0 0 0 0 0\n  eth01:1 2 3 4 5 6 7 8 9\n";
        assert_eq!(counted(text, "eth0", Direction::Down), Some(123));
        assert_eq!(counted(text, "eth0", Direction::Up), Some(567));
        assert_eq!(counted(text, "eth01", Direction::Up), Some(9));
        assert_eq!(counted(text, "wlan0", Direction::Up), None);
        assert_eq!(name_of(IpAddr::from([127, 0, 0, 1])).as_deref(), Some("lo"));
        assert_eq!(["eth0", "eth0.5", "eth0:1"].map(without_label), ["eth0", "eth0.5", "eth0"]);
    }

    #[test]
    fn an_interface_that_is_gone_is_looked_for_no_more_often_than_one_that_is_there() {
        for name in ["lo", "none-such"] {
            let (mut others, now) = (Others { name: Some(name.into()), ..Others::default() }, Instant::now());
            assert_eq!(others.count(Direction::Down, now).is_some(), name == "lo");
            let next = [LOOK / 2, LOOK].map(|later| (others.count(Direction::Down, now + later).is_some(), others.due));
            assert_eq!(next, [(false, Some(now + LOOK)), (name == "lo", Some(now + 2 * LOOK))]);
        }
    }
}
