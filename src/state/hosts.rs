//! How fast hosts were.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::file::StateFile;
use super::{State, lock, now};

/// Hosts that are remembered; the oldest go first.
const MAX_HOSTS: usize = 256;
/// A run that moved less to or from a host tells nothing of its rate, in bytes.
const TELLING: u64 = 1024 * 1024;
/// A host that bears so many connections again is asked like any other.
const FORGIVEN: usize = 16;
/// Longer names of hosts are not remembered.
const MAX_NAME: usize = 512;

/// What one run saw of a host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostRun {
    /// The host, as [`Origin::host`](crate::content::Origin::host) names it.
    pub host: String,
    /// What came from it.
    pub down: Flow,
    /// What went to it.
    pub up: Flow,
    /// How many connections it served at once without complaint.
    pub connections: usize,
    /// From a request to the head of its answer, the shortest that was seen.
    pub round_trip: Option<Duration>,
    /// It complained of too many requests, and was left with so many connections.
    pub ceiling: Option<usize>,
}

/// Bytes that moved one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// How many.
    pub bytes: u64,
    /// How long at least one connection was at work.
    pub time: Duration,
}

impl Flow {
    /// In bytes a second; `None` if too little moved to tell.
    fn rate(self) -> Option<u64> {
        let is_telling = self.bytes >= TELLING && !self.time.is_zero();
        is_telling.then(|| (self.bytes as f64 / self.time.as_secs_f64()) as u64)
    }
}

/// What former runs found out about a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// The host.
    pub host: String,
    /// Bytes a second that came from it, the newest run counting half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<u64>,
    /// Bytes a second that went to it, the newest run counting half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<u64>,
    /// How many connections it served at once in the last run that told a rate.
    #[serde(default)]
    pub connections: usize,
    /// From a request to the head of its answer, in microseconds, as the last run saw it; 0 if unknown.
    #[serde(default)]
    pub round_trip: u64,
    /// More connections it did not bear; 0 if it never complained, or not for some runs.
    #[serde(default)]
    pub ceiling: usize,
    /// When it was last used, in seconds since 1970.
    pub time: u64,
}

impl HostRecord {
    fn new(host: &str) -> HostRecord {
        HostRecord { host: host.to_owned(), down: None, up: None, connections: 0, round_trip: 0, ceiling: 0, time: 0 }
    }

    fn learn(&mut self, run: &HostRun) {
        let (down, up) = (run.down.rate(), run.up.rate());
        self.down = weighted(self.down, down);
        self.up = weighted(self.up, up);
        if down.or(up).is_some() {
            self.connections = run.connections;
        }
        if let Some(round_trip) = run.round_trip {
            self.round_trip = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        }
        self.ceiling = match run.ceiling {
            Some(ceiling) => ceiling,
            // It may bear more than it did: twice as much is tried, until nothing holds it back.
            None if self.ceiling < FORGIVEN => self.ceiling * 2,
            None => 0,
        };
        self.time = now();
    }
}

/// The newest counts half, so that a few runs forget a line that has changed.
fn weighted(former: Option<u64>, newest: Option<u64>) -> Option<u64> {
    match (former, newest) {
        (Some(former), Some(newest)) => Some(former / 2 + newest / 2),
        (former, newest) => newest.or(former),
    }
}

impl State {
    /// What former runs found out about `host`.
    pub fn host(&self, host: &str) -> Option<HostRecord> {
        self.rates().iter().find(|record| record.host == host).cloned()
    }

    /// Remembers what a run saw of the hosts that it used, beside what other processes wrote. Writes the file, once, if
    /// one of them told something.
    pub fn learn_hosts(&self, runs: &[HostRun]) {
        let moved = |run: &HostRun| run.down.rate().or(run.up.rate()).is_some();
        let tells = |run: &&HostRun| run.host.len() <= MAX_NAME && (moved(run) || run.ceiling.is_some());
        let runs: Vec<&HostRun> = runs.iter().filter(tells).collect();
        if runs.is_empty() {
            return;
        }
        learn(&mut self.rates(), &runs);
        if let Some(file) = &self.hosts {
            file.change(|records| learn(records, &runs));
        }
    }

    fn rates(&self) -> MutexGuard<'_, Vec<HostRecord>> {
        let read = || {
            let mut records = self.hosts.as_ref().map(StateFile::read::<HostRecord>).unwrap_or_default();
            records.truncate(MAX_HOSTS);
            Mutex::new(records)
        };
        lock(self.rates.get_or_init(read))
    }
}

fn learn(records: &mut Vec<HostRecord>, runs: &[&HostRun]) {
    for run in runs {
        match records.iter_mut().find(|record| record.host == run.host) {
            Some(record) => record.learn(run),
            None => {
                let mut record = HostRecord::new(&run.host);
                record.learn(run);
                records.push(record);
            }
        }
    }
    records.sort_by_key(|record| std::cmp::Reverse(record.time));
    records.truncate(MAX_HOSTS);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn run(host: &str, bytes: u64, seconds: u64) -> HostRun {
        let down = Flow { bytes, time: Duration::from_secs(seconds) };
        let round_trip = Some(Duration::from_millis(20));
        HostRun { host: host.into(), down, up: Flow::default(), connections: 8, round_trip, ceiling: None }
    }

    #[test]
    fn the_next_run_knows_the_rate_and_the_newest_counts_half() {
        let dir = tempfile::tempdir().unwrap();
        let state = || State::new(Some(dir.path().into()));
        assert_eq!(state().host("h"), None);
        state().learn_hosts(&[run("h", 8 * MIB, 2)]);
        let record = state().host("h").unwrap();
        assert_eq!((record.down, record.up), (Some(4 * MIB), None));
        assert_eq!((record.connections, record.round_trip), (8, 20_000));
        let one = state();
        one.learn_hosts(&[run("h", 2 * MIB, 1)]);
        assert_eq!(one.host("h").unwrap().down, Some(3 * MIB));
        assert_eq!(state().host("h").unwrap().down, Some(3 * MIB));
    }

    #[test]
    fn a_run_that_moved_little_tells_no_rate_and_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(Some(dir.path().join("state")));
        state.learn_hosts(&[run("h", MIB - 1, 1), run("i", 8 * MIB, 0)]);
        assert_eq!(state.host("h"), None);
        assert!(!dir.path().join("state").exists());
    }

    #[test]
    fn the_way_up_is_remembered_beside_the_way_down() {
        let state = State::new(None);
        state.learn_hosts(&[run("h", 8 * MIB, 2)]);
        let down = run("h", 4 * MIB, 4);
        state.learn_hosts(&[HostRun { up: down.down, down: Flow::default(), ..down }]);
        let record = state.host("h").unwrap();
        assert_eq!((record.down, record.up), (Some(4 * MIB), Some(MIB)));
    }

    #[test]
    fn a_host_that_complained_is_asked_for_less_until_it_bears_more() {
        let state = State::new(None);
        let complained = HostRun { ceiling: Some(4), ..run("h", 0, 0) };
        state.learn_hosts(&[complained]);
        for expected in [4, 8, 16, 0, 0] {
            assert_eq!(state.host("h").unwrap().ceiling, expected);
            state.learn_hosts(&[run("h", 8 * MIB, 2)]);
        }
    }

    #[test]
    fn the_oldest_hosts_go_first() {
        let mut records: Vec<HostRecord> =
            (0..MAX_HOSTS as u64).map(|time| HostRecord { time, ..HostRecord::new(&format!("h{time}")) }).collect();
        learn(&mut records, &[&run("new", MIB, 1)]);
        assert_eq!(records.len(), MAX_HOSTS);
        assert!(records.iter().any(|record| record.host == "new"));
        assert!(records.iter().all(|record| record.host != "h0"));
    }
}
