//! The numbers behind every way of showing progress.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::content::{Holding, Provenance};
use crate::event::{Arrival, Cause, Event};
use crate::oci::Digest;

/// Time over which a rate is smoothed.
const SMOOTHING: f64 = 3.0;

/// What is known of one blob.
#[derive(Debug, Clone)]
struct Blob {
    size: u64,
    resumed: u64,
    done: u64,
    stage: Stage,
}

/// How far a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It has not begun.
    Waiting,
    /// Bytes arrive.
    Moving,
    /// It is verified and in its place.
    Finished,
}

/// Adds up events.
#[derive(Debug, Default)]
pub struct Tally {
    blobs: BTreeMap<Digest, Blob>,
    held: u64,
    resumed: u64,
    network: u64,
    local: u64,
    /// Bytes from this machine, by place.
    places: BTreeMap<String, u64>,
    /// The places of blobs that are copied.
    reused: BTreeMap<Digest, String>,
    lost: BTreeMap<Cause, u64>,
    check: Option<Check>,
    checked: u64,
    meter: Meter,
}

/// A blob in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes that are here.
    pub done: u64,
    /// Of these, bytes that a former run left.
    pub resumed: u64,
}

/// How far a check of the blobs that are here has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Check {
    /// Blobs to read.
    pub blobs: usize,
    /// Of these, how many were read.
    pub read: usize,
    /// Their sizes in bytes.
    pub size: u64,
    /// Of these, bytes that were read.
    pub done: u64,
}

/// The state at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Bytes of the blobs that had to travel, whole.
    pub size: u64,
    /// Of these, bytes that are here.
    pub done: u64,
    /// Bytes of blobs that were here already.
    pub held: u64,
    /// Bytes that a former run left of blobs that had to travel.
    pub resumed: u64,
    /// Bytes that came over a network.
    pub network: u64,
    /// Bytes that came from elsewhere on this machine.
    pub local: u64,
    /// Of these, how many from which place.
    pub places: BTreeMap<String, u64>,
    /// Bytes that came in vain, by cause.
    pub lost: BTreeMap<Cause, u64>,
    /// Blobs that had to travel.
    pub blobs: usize,
    /// Of these, how many are here.
    pub finished: usize,
    /// Blobs in flight, in the order of their digests.
    pub flights: Vec<Flight>,
    /// What is checked instead, when nothing travels.
    pub check: Option<Check>,
    /// Bytes a second, moved or checked, smoothed.
    pub rate: f64,
    /// Since the beginning.
    pub elapsed: Duration,
}

impl Snapshot {
    /// How long the rest takes at this rate. `None` while nothing moves.
    pub fn left(&self) -> Option<Duration> {
        let (size, done) = self.check.map_or((self.size, self.done), |check| (check.size, check.done));
        let seconds = size.saturating_sub(done) as f64 / self.rate;
        (self.rate >= 1.0).then(|| Duration::from_secs_f64(seconds.min(1e9)))
    }
}

impl Tally {
    /// Takes an event in.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Planned { blobs } => {
                self.check = None;
                for (descriptor, holding) in blobs {
                    self.plan(descriptor.digest.clone(), descriptor.size, *holding);
                }
            }
            Event::Started { blob, resumed } => self.change(blob, |blob| {
                blob.stage = Stage::Moving;
                blob.resumed = *resumed;
                blob.done = *resumed;
            }),
            Event::Bytes { blob, count, provenance } => self.came(blob, *count, *provenance),
            Event::Lost { count, cause, .. } => self.lose(*count, *cause),
            Event::Discarded { blob, count } => self.change(blob, |blob| {
                blob.done = blob.done.saturating_sub(*count);
                blob.resumed = blob.resumed.min(blob.done);
            }),
            Event::Reused { blob, place } => _ = self.reused.insert(blob.clone(), place.clone()),
            Event::Finished { blob, how } => self.finish(blob, how),
            Event::Checking { blobs, bytes } => {
                self.check = Some(Check { blobs: *blobs, size: *bytes, ..Check::default() });
            }
            Event::Checked { size, .. } => self.check(*size),
            _ => {}
        }
    }

    fn lose(&mut self, count: u64, cause: Cause) {
        *self.lost.entry(cause).or_default() += count;
        // These came in vain, and were never counted as bytes of a blob.
        if matches!(cause, Cause::RangeIgnored | Cause::Overlap) {
            self.network += count;
        }
    }

    fn came(&mut self, digest: &Digest, count: u64, provenance: Provenance) {
        match (provenance, self.reused.get(digest)) {
            (Provenance::Local, place) => {
                self.local += count;
                let place = place.map_or("this machine", String::as_str);
                match self.places.get_mut(place) {
                    Some(sum) => *sum += count,
                    None => _ = self.places.insert(place.to_owned(), count),
                }
            }
            _ => self.network += count,
        }
        self.change(digest, |blob| blob.done = blob.done.saturating_add(count));
    }

    fn check(&mut self, bytes: u64) {
        self.checked += bytes;
        if let Some(check) = &mut self.check {
            check.read += 1;
            check.done = check.done.saturating_add(bytes).min(check.size);
        }
    }

    fn plan(&mut self, digest: Digest, size: u64, holding: Holding) {
        let resumed = match holding {
            Holding::Whole => {
                self.held += size;
                return;
            }
            Holding::Partial(bytes) => bytes.min(size),
            Holding::Missing => 0,
        };
        self.resumed += resumed;
        self.blobs.insert(digest, Blob { size, resumed, done: resumed, stage: Stage::Waiting });
    }

    fn finish(&mut self, digest: &Digest, how: &Arrival) {
        let Some(blob) = self.blobs.get_mut(digest) else { return };
        if matches!(how, Arrival::Held | Arrival::Mounted) && blob.done == 0 {
            self.held += blob.size;
            self.blobs.remove(digest);
            return;
        }
        blob.done = blob.size;
        blob.stage = Stage::Finished;
    }

    fn change(&mut self, digest: &Digest, change: impl FnOnce(&mut Blob)) {
        if let Some(blob) = self.blobs.get_mut(digest) {
            change(blob);
        }
    }

    /// The state, `elapsed` after the beginning. Measures the rate since the last call.
    pub fn snapshot(&mut self, elapsed: Duration) -> Snapshot {
        let rate = self.meter.measure(self.network + self.local + self.checked, elapsed);
        let blobs = self.blobs.values();
        let sum = |of: fn(&Blob) -> u64| blobs.clone().map(of).fold(0, u64::saturating_add);
        let flying = self.blobs.iter().filter(|(_, blob)| blob.stage == Stage::Moving);
        Snapshot {
            size: sum(|blob| blob.size),
            done: sum(|blob| blob.done.min(blob.size)),
            held: self.held,
            resumed: self.resumed,
            network: self.network,
            local: self.local,
            places: self.places.clone(),
            lost: self.lost.clone(),
            blobs: self.blobs.len(),
            finished: blobs.clone().filter(|blob| blob.stage == Stage::Finished).count(),
            flights: flying.map(|(digest, blob)| blob.flight(digest)).collect(),
            check: self.check,
            rate,
            elapsed,
        }
    }
}

impl Blob {
    fn flight(&self, digest: &Digest) -> Flight {
        Flight { digest: digest.clone(), size: self.size, done: self.done.min(self.size), resumed: self.resumed }
    }
}

/// A rate that forgets: an exponential average whose weight depends on the time that has passed.
#[derive(Debug, Default)]
struct Meter {
    bytes: u64,
    at: Duration,
    rate: f64,
    /// Below one at the beginning, when the average still leans on the zero that it began with.
    weight: f64,
}

impl Meter {
    fn measure(&mut self, bytes: u64, at: Duration) -> f64 {
        let seconds = at.saturating_sub(self.at).as_secs_f64();
        // Shorter intervals say more about buffers than about the link.
        if seconds >= 0.05 {
            let now = bytes.saturating_sub(self.bytes) as f64 / seconds;
            let keep = (-seconds / SMOOTHING).exp();
            self.rate = self.rate * keep + now * (1.0 - keep);
            self.weight = self.weight * keep + (1.0 - keep);
            (self.bytes, self.at) = (bytes, at);
        }
        if self.weight > 0.0 { self.rate / self.weight } else { 0.0 }
    }
}

/// What the tests of the displays share.
#[cfg(test)]
pub(super) mod samples {
    use super::*;
    use crate::oci::Descriptor;

    /// The digest of a blob named `name`.
    pub fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    /// The plan of blobs by name, size and holding.
    pub fn planned(blobs: &[(&str, u64, Holding)]) -> Event {
        let blob = |&(name, size, holding): &(&str, u64, Holding)| {
            (Descriptor::new("application/octet-stream", digest(name), size), holding)
        };
        Event::Planned { blobs: blobs.iter().map(blob).collect() }
    }

    /// A blob begins.
    pub fn started(name: &str, resumed: u64) -> Event {
        Event::Started { blob: digest(name), resumed }
    }

    /// Bytes of a blob arrive.
    pub fn bytes(name: &str, count: u64) -> Event {
        Event::Bytes { blob: digest(name), count, provenance: Provenance::Registry }
    }

    /// A blob ends.
    pub fn finished(name: &str, how: Arrival) -> Event {
        Event::Finished { blob: digest(name), how }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::*;
    use super::*;

    fn tally(events: &[Event]) -> Tally {
        let mut tally = Tally::default();
        events.iter().for_each(|event| tally.apply(event));
        tally
    }

    fn snapshot(events: &[Event]) -> Snapshot {
        tally(events).snapshot(Duration::from_secs(1))
    }

    #[test]
    fn resumed_bytes_are_done_before_anything_moves() {
        let plan = planned(&[("a", 100, Holding::Missing), ("b", 80, Holding::Partial(30)), ("c", 7, Holding::Whole)]);
        let seen = snapshot(&[plan, started("b", 30)]);
        assert_eq!((seen.size, seen.done, seen.resumed, seen.held, seen.network), (180, 30, 30, 7, 0));
        assert_eq!((seen.blobs, seen.flights.len()), (2, 1));
    }

    #[test]
    fn lost_bytes_are_not_done_and_never_more_than_the_size_is() {
        let lost = Event::Discarded { blob: digest("a"), count: 60 };
        let plan = planned(&[("a", 100, Holding::Missing)]);
        let seen = snapshot(&[plan, started("a", 0), bytes("a", 100), lost, bytes("a", 70)]);
        assert_eq!((seen.done, seen.network), (100, 170));
    }

    #[test]
    fn bytes_of_this_machine_are_told_by_their_place_and_are_no_traffic() {
        let reused = Event::Reused { blob: digest("a"), place: "containerd".into() };
        let local = Event::Bytes { blob: digest("a"), count: 60, provenance: Provenance::Local };
        let cause = Event::Lost { blob: digest("a"), count: 40, cause: Cause::LocalSpoiled };
        let plan = planned(&[("a", 100, Holding::Missing)]);
        let seen = snapshot(&[plan, started("a", 0), reused, local, bytes("a", 40), cause]);
        assert_eq!((seen.done, seen.network, seen.local), (100, 40, 60));
        assert_eq!(seen.places, BTreeMap::from([("containerd".into(), 60)]));
        assert_eq!(seen.lost, BTreeMap::from([(Cause::LocalSpoiled, 40)]));
    }

    #[test]
    fn what_another_process_brought_counts_as_held() {
        let plan = planned(&[("a", 100, Holding::Missing), ("b", 50, Holding::Missing)]);
        let seen =
            snapshot(&[plan, finished("a", Arrival::Held), started("b", 0), finished("b", Arrival::Transferred)]);
        assert_eq!((seen.size, seen.done, seen.held, seen.finished), (50, 50, 100, 1));
    }

    #[test]
    fn a_blob_that_nobody_planned_harms_nothing() {
        let seen = snapshot(&[started("x", 5), bytes("x", 5), finished("x", Arrival::Transferred)]);
        assert_eq!((seen.size, seen.done, seen.network), (0, 0, 5));
    }

    #[test]
    fn a_steady_link_shows_its_rate_at_once_and_a_dead_one_fades() {
        let mut tally = tally(&[planned(&[("a", 10_000_000, Holding::Missing)]), started("a", 0)]);
        let mut rate = 0.0;
        for tenth in 1..=20 {
            tally.apply(&bytes("a", 100_000));
            rate = tally.snapshot(Duration::from_millis(tenth * 100)).rate;
            assert!((rate - 1_000_000.0).abs() < 1.0, "{rate}");
        }
        let later = tally.snapshot(Duration::from_secs(12));
        assert!(later.rate < rate / 20.0, "{}", later.rate);
        assert!(later.left() > Some(Duration::from_secs(100)));
    }

    #[test]
    fn a_check_has_a_rate_and_an_end_of_its_own() {
        let checked = |name: &str, size| Event::Checked { blob: digest(name), size };
        let mut tally = tally(&[Event::Checking { blobs: 3, bytes: 100 }, checked("a", 30), checked("b", 20)]);
        let seen = tally.snapshot(Duration::from_secs(5));
        assert_eq!(seen.check, Some(Check { blobs: 3, read: 2, size: 100, done: 50 }));
        assert_eq!(seen.left(), Some(Duration::from_secs(5)));
        tally.apply(&planned(&[("a", 30, Holding::Missing)]));
        assert_eq!(tally.snapshot(Duration::from_secs(6)).check, None);
    }

    #[test]
    fn the_time_left_is_unknown_while_nothing_moves() {
        assert_eq!(snapshot(&[planned(&[("a", 100, Holding::Missing)])]).left(), None);
    }
}
