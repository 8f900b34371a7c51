//! Bytes by host, and how long they take.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::content::Provenance;
use crate::content::file::blob_path;
use crate::limit::{Direction, Limiter};
use crate::state::State;
use crate::transfer::{BlobPlan, Plan, Way};

/// What a plan moves, by where it comes from and goes to.
#[derive(Debug, Default)]
pub struct Forecast {
    /// Over a network.
    pub hosts: Vec<Leg>,
    /// From elsewhere on this machine, in bytes: the name and the folder of each place.
    pub places: BTreeMap<(String, String), u64>,
    /// How long it takes.
    pub time: Time,
}

/// What moves between this machine and one host, or several that serve the same blobs, in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// The hosts, the preferred one first; one at least.
    pub hosts: Vec<String>,
    /// Which way.
    pub way: Heading,
    /// How much, in bytes.
    pub bytes: u64,
    /// In how many blobs.
    pub blobs: usize,
    /// What former runs found, in bytes a second, of all hosts that will be at work at once.
    pub rate: Option<u64>,
}

/// Blobs that go one way between the same hosts.
#[derive(Debug, Default)]
struct Load {
    bytes: u64,
    blobs: usize,
    /// Hosts that can be at work at once.
    at_once: usize,
}

impl Load {
    fn add(&mut self, blob: &BlobPlan, hosts: usize) {
        self.bytes = self.bytes.saturating_add(blob.planned());
        self.blobs += 1;
        // Several hosts bring one blob here; one that goes on to a registry comes from one of them.
        let streams = blob.sink.repository().is_some();
        self.at_once = if streams { hosts.min(self.at_once + 1) } else { hosts };
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heading {
    /// From the host.
    Down,
    /// To the host.
    Up,
}

/// How long it takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Time {
    /// Nothing moves over a network.
    #[default]
    None,
    /// At the limit that is in force, in bytes a second.
    Limited(Duration, u64),
    /// At the rate of former runs, in bytes a second, of the host that takes longest.
    Remembered(Duration, u64),
    /// There were no former runs with a host.
    Unknown,
}

impl Forecast {
    /// What `plan` moves, at the rates that `state` remembers and no faster than `limiter` allows now.
    pub fn of(plan: &Plan, state: &State, limiter: &Limiter) -> Forecast {
        let mut legs: BTreeMap<(Heading, Vec<String>), Load> = BTreeMap::new();
        let mut places: BTreeMap<(String, String), u64> = BTreeMap::new();
        for blob in &plan.blobs {
            for (way, hosts) in headings(blob) {
                let count = hosts.len();
                legs.entry((way, hosts)).or_default().add(blob, count);
            }
            if let Some(place) = place(blob) {
                let bytes = places.entry(place).or_default();
                *bytes = bytes.saturating_add(blob.missing());
            }
        }
        let leg = |((way, hosts), load): ((Heading, Vec<String>), Load)| {
            let known = |host: &String| state.host(host).and_then(|h| if way == Heading::Down { h.down } else { h.up });
            let rates = hosts.iter().filter_map(known).filter(|rate| *rate > 0).take(load.at_once);
            let rate = rates.reduce(u64::saturating_add);
            Leg { hosts, way, bytes: load.bytes, blobs: load.blobs, rate }
        };
        let hosts: Vec<Leg> = legs.into_iter().map(leg).collect();
        let allowed = |direction| limiter.rate(direction).map(|rate| rate.bytes());
        let time = time(&hosts, &Limits { down: allowed(Direction::Down), up: allowed(Direction::Up) });
        Forecast { hosts, places, time }
    }
}

/// The ways over a network that a blob goes.
fn headings(blob: &BlobPlan) -> Vec<(Heading, Vec<String>)> {
    if blob.planned() == 0 {
        return Vec::new();
    }
    let is_here = blob.origins.iter().any(|origin| origin.provenance() == Provenance::Local);
    let serving: Vec<String> = blob.serving().into_iter().map(str::to_owned).collect();
    let from = (!is_here && !serving.is_empty()).then_some((Heading::Down, serving));
    let to = blob.sink.repository().map(|to| (Heading::Up, vec![to.registry]));
    from.into_iter().chain(to).collect()
}

/// The name and the folder of the place on this machine that a blob is copied from.
fn place(blob: &BlobPlan) -> Option<(String, String)> {
    let Way::Copy(origin) = blob.way() else { return None };
    let folder = origin.path().and_then(|path| Some(folder(&path, blob)?.display().to_string()));
    Some((origin.host().to_owned(), folder.unwrap_or_default()))
}

/// What is above `blobs/ALGORITHM/HEX`, or above a file in a folder of files.
fn folder<'p>(path: &'p Path, blob: &BlobPlan) -> Option<&'p Path> {
    let levels = if path.ends_with(blob_path(&blob.descriptor.digest)) { 3 } else { 1 };
    path.ancestors().nth(levels)
}

/// What all hosts of a direction share, in bytes a second.
struct Limits {
    down: Option<u64>,
    up: Option<u64>,
}

/// Hosts are used at the same time, and both directions: the slowest decides, but all of one direction share the limit.
fn time(legs: &[Leg], limits: &Limits) -> Time {
    let total = |way| legs.iter().filter(|leg| leg.way == way).map(|leg| leg.bytes).fold(0, u64::saturating_add);
    let limited = |way, limit: Option<u64>| limit.map(|limit| (takes(total(way), limit), limit));
    let limited = limited(Heading::Down, limits.down).max(limited(Heading::Up, limits.up));
    let is_known = legs.iter().all(|leg| leg.rate.is_some());
    let hosts = legs.iter().flat_map(|leg| leg.hosts.iter().map(|host| (host, leg.way)));
    let slowest = hosts.filter(|_| is_known).map(|(host, way)| busy(host, way, legs)).max();
    match (legs.is_empty(), limited, slowest) {
        (true, ..) => Time::None,
        (_, Some((time, limit)), slowest) if slowest.is_none_or(|(other, _)| time >= other) => {
            Time::Limited(time, limit)
        }
        (_, _, Some((time, rate))) => Time::Remembered(time, rate),
        (_, _, None) => Time::Unknown,
    }
}

/// How long a host is at work, alone for some blobs and beside others for others, and at which rate.
fn busy(host: &str, way: Heading, legs: &[Leg]) -> (Duration, u64) {
    let own: Vec<&Leg> = legs.iter().filter(|leg| leg.way == way && leg.hosts.iter().any(|of| of == host)).collect();
    let time =
        own.iter().map(|leg| takes(leg.bytes, leg.rate.unwrap_or(1))).fold(Duration::ZERO, Duration::saturating_add);
    let bytes = own.iter().map(|leg| leg.bytes).fold(0, u64::saturating_add);
    match own[..] {
        [only] => (time, only.rate.unwrap_or(1)),
        _ => (time, (bytes as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)) as u64),
    }
}

fn takes(bytes: u64, rate: u64) -> Duration {
    Duration::try_from_secs_f64(bytes as f64 / rate.max(1) as f64).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(way: Heading, bytes: u64, rate: Option<u64>) -> Leg {
        // Apart from the others unless they are named.
        Leg { hosts: vec![format!("{way:?} {bytes}")], way, bytes, blobs: 1, rate }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_slowest_host_decides_and_one_of_which_nothing_is_known_leaves_the_time_open() {
        let (fast, slow) = (leg(Heading::Down, 100, Some(50)), leg(Heading::Up, 100, Some(10)));
        let none = Limits { down: None, up: None };
        assert_eq!(time(&[fast.clone(), slow], &none), Time::Remembered(10 * SECOND, 10));
        assert_eq!(time(&[fast, leg(Heading::Up, 1, None)], &none), Time::Unknown);
        assert_eq!(time(&[], &none), Time::None);
    }

    #[test]
    fn a_host_that_serves_some_blobs_alone_and_some_beside_another_does_one_after_the_other() {
        let none = Limits { down: None, up: None };
        let named = |hosts: &[&str], rate| {
            let hosts = hosts.iter().map(ToString::to_string).collect();
            Leg { hosts, ..leg(Heading::Down, 100, Some(rate)) }
        };
        assert_eq!(time(&[named(&["a", "b"], 20), named(&["c"], 25)], &none), Time::Remembered(5 * SECOND, 20));
        assert_eq!(time(&[named(&["a", "b"], 20), named(&["c", "b"], 10)], &none), Time::Remembered(15 * SECOND, 13));
    }

    #[test]
    fn a_limit_holds_for_all_hosts_of_a_direction_together() {
        let hosts = [leg(Heading::Down, 60, Some(60)), leg(Heading::Down, 40, None)];
        let limits = |down, up| Limits { down, up };
        assert_eq!(time(&hosts, &limits(Some(10), None)), Time::Limited(10 * SECOND, 10));
        assert_eq!(time(&hosts[..1], &limits(Some(1000), None)), Time::Remembered(SECOND, 60));
        // A limit of the other direction says nothing of the time.
        assert_eq!(time(&hosts[..1], &limits(None, Some(1))), Time::Remembered(SECOND, 60));
        let both = [hosts[0].clone(), leg(Heading::Up, 60, Some(60))];
        assert_eq!(time(&both, &limits(Some(30), Some(2))), Time::Limited(30 * SECOND, 2));
    }
}
