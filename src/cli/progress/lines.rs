//! Progress as whole lines, a few seconds apart: for logs and pipes.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use super::{Check, Display, Snapshot};
use crate::cli::output::{duration, escape, percent, rate, size};
use crate::content::Holding;
use crate::event::Event;
use crate::oci::Descriptor;

/// Time between two lines of progress.
const INTERVAL: Duration = Duration::from_secs(3);

/// Writes lines to `to`.
pub(super) struct Lines<W> {
    to: W,
    last: Duration,
}

impl<W: Write + Send> Lines<W> {
    pub(super) fn new(to: W) -> Lines<W> {
        Lines { to, last: Duration::ZERO }
    }

    fn line(&mut self, line: &str) {
        // Nobody can be told when standard error is gone.
        let _ = writeln!(self.to, "{line}");
    }
}

impl<W: Write + Send> Display for Lines<W> {
    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn event(&mut self, event: &Event, _: &Snapshot) {
        for line in intention(event).into_iter().chain(remark(event)) {
            self.line(&line);
        }
    }

    fn tick(&mut self, snapshot: &Snapshot) {
        if snapshot.elapsed < self.last + INTERVAL {
            return;
        }
        let line = match snapshot.check {
            Some(check) => (check.size > check.done).then(|| checking(&check, snapshot)),
            None => (snapshot.size > snapshot.done).then(|| progress(snapshot)),
        };
        if let Some(line) = line {
            self.last = snapshot.elapsed;
            self.line(&line);
        }
    }

    fn finish(&mut self, _: &Snapshot) {}
}

/// What will be done, before it is.
pub(super) fn intention(event: &Event) -> Option<String> {
    match event {
        Event::Planned { blobs } if !blobs.is_empty() => Some(plan(blobs)),
        Event::Checking { blobs, bytes } if *blobs > 0 => Some(format!("{blobs} blobs to check, {}", size(*bytes))),
        _ => None,
    }
}

/// One plan of perhaps several: an export pulls first, then writes. A blob that goes to several repositories counts once.
fn plan(blobs: &[(Descriptor, Holding)]) -> String {
    let (mut count, mut missing, mut resumed, mut held) = (0, 0_u64, 0_u64, 0_u64);
    let mut moved = BTreeSet::new();
    for (blob, holding) in blobs {
        let here = match holding {
            Holding::Whole => {
                held = held.saturating_add(blob.size);
                continue;
            }
            Holding::Partial(bytes) => (*bytes).min(blob.size),
            Holding::Missing => 0,
        };
        if moved.insert(&blob.digest) {
            count += 1;
            resumed = resumed.saturating_add(here);
            missing = missing.saturating_add(blob.size - here);
        }
    }
    let mut line = match count {
        0 => "nothing to move".into(),
        1 => format!("1 blob to move, {}", size(missing)),
        n => format!("{n} blobs to move, {}", size(missing)),
    };
    if resumed > 0 {
        line.push_str(&format!("; {} resumed", size(resumed)));
    }
    if held > 0 {
        line.push_str(&format!("; {} already here", size(held)));
    }
    line
}

fn left(snapshot: &Snapshot) -> String {
    snapshot.left().map_or_else(|| "standing still".into(), |left| format!("{} left", duration(left)))
}

fn checking(check: &Check, snapshot: &Snapshot) -> String {
    format!(
        "{} of {} checked ({} %), {}, {}, {} of {} blobs done",
        size(check.done),
        size(check.size),
        percent(check.done, check.size),
        rate(snapshot.rate),
        left(snapshot),
        check.read,
        check.blobs,
    )
}

fn progress(snapshot: &Snapshot) -> String {
    format!(
        "{} of {} ({} %), {}, {}, {} of {} blobs done{}",
        size(snapshot.done),
        size(snapshot.size),
        percent(snapshot.done, snapshot.size),
        rate(snapshot.rate),
        left(snapshot),
        snapshot.finished,
        snapshot.blobs,
        from_here(snapshot),
    )
}

/// What came from elsewhere on this machine, by place.
pub(super) fn from_here(snapshot: &Snapshot) -> String {
    let part = |(place, count): (&String, &u64)| format!(", {} from {}", size(*count), escape(place));
    snapshot.places.iter().map(part).collect()
}

/// What a person should know at once, as a line that is safe for a terminal.
pub(super) fn remark(event: &Event) -> Option<String> {
    match event {
        Event::Retried { what, why, wait } => {
            let pause = if wait.is_zero() { "at once".into() } else { format!("in {}", duration(*wait)) };
            // Most causes name what they are about.
            let what = if why.contains(what.as_str()) { String::new() } else { escape(what) + ": " };
            Some(format!("retry {pause}: {what}{}", escape(why)))
        }
        Event::Waiting { what } => Some(format!("waiting for {}", escape(what))),
        Event::Left { host, why } => Some(format!("{} is not asked any more: {}", escape(host), escape(why))),
        _ => serious(event),
    }
}

/// What a person should know even when nothing else is shown.
pub(super) fn serious(event: &Event) -> Option<String> {
    match event {
        Event::Warning { text } => Some(format!("warning: {}", escape(text))),
        Event::Failed { name, why } => Some(format!("failed: {}: {}", escape(name), escape(why))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::{Tally, samples::*};
    use super::*;
    use crate::event::Arrival;

    fn shown(steps: &[(u64, Event)]) -> String {
        let mut tally = Tally::default();
        let mut lines = Lines::new(Vec::new());
        for (second, event) in steps {
            tally.apply(event);
            let snapshot = tally.snapshot(Duration::from_secs(*second));
            lines.event(event, &snapshot);
            lines.tick(&snapshot);
        }
        String::from_utf8(lines.to).unwrap()
    }

    #[test]
    fn lines_are_whole_and_seconds_apart() {
        const MB: u64 = 1_000_000;
        let plan = planned(&[
            ("a", 100 * MB, Holding::Missing),
            ("b", 50 * MB, Holding::Partial(20 * MB)),
            ("c", 30 * MB, Holding::Whole),
        ]);
        let mut steps = vec![(0, plan), (0, started("a", 0)), (0, started("b", 20 * MB))];
        steps.extend((1..=7).map(|second| (second, bytes("a", 10 * MB))));
        insta::assert_snapshot!(shown(&steps), @r"
        2 blobs to move, 130 MB; 20.0 MB resumed; 30.0 MB already here
        50.0 MB of 150 MB (33 %), 10.0 MB/s, 10.0 s left, 0 of 2 blobs done
        80.0 MB of 150 MB (53 %), 10.0 MB/s, 7.0 s left, 0 of 2 blobs done
        ");
    }

    #[test]
    fn a_check_is_announced_and_followed() {
        let checked = || Event::Checked { blob: digest("a"), size: 100 };
        let steps = [(0, Event::Checking { blobs: 3, bytes: 300 }), (2, checked()), (4, checked()), (9, checked())];
        insta::assert_snapshot!(shown(&steps), @r"
        3 blobs to check, 300 B
        200 B of 300 B checked (66 %), 50 B/s, 2.0 s left, 2 of 3 blobs done
        ");
    }

    #[test]
    fn what_a_cause_names_is_not_said_twice() {
        let why = "h.example: manifest x:1: cannot connect";
        let retried = Event::Retried { what: "x:1".into(), why: why.into(), wait: Duration::ZERO };
        assert_eq!(remark(&retried).unwrap(), format!("retry at once: {why}"));
    }

    #[test]
    fn text_of_a_server_stays_on_its_line() {
        let retried =
            Event::Retried { what: "sha256:0".into(), why: "HTTP 500\r\u{1b}[A".into(), wait: Duration::from_secs(2) };
        assert_eq!(shown(&[(0, retried)]), "retry in 2.0 s: sha256:0: HTTP 500\\r\\u{1b}[A\n");
    }

    #[test]
    fn what_an_export_writes_is_told_apart_from_what_it_pulled_before() {
        let pulled = planned(&[("a", 1000, Holding::Missing), ("b", 500, Holding::Whole)]);
        let packed = planned(&[("a", 1000, Holding::Missing), ("b", 500, Holding::Missing)]);
        let told = "1 blob to move, 1.00 kB; 500 B already here\n2 blobs to move, 1.50 kB\n";
        assert_eq!(shown(&[(0, pulled), (1, finished("a", Arrival::Transferred)), (2, packed)]), told);
    }

    #[test]
    fn a_blob_that_goes_to_two_repositories_is_told_once() {
        let plan = planned(&[("a", 1000, Holding::Missing), ("a", 1000, Holding::Missing)]);
        assert_eq!(shown(&[(0, plan)]), "1 blob to move, 1.00 kB\n");
    }

    #[test]
    fn nothing_to_move_is_said_in_one_line() {
        let plan = planned(&[("a", 4200, Holding::Whole)]);
        assert_eq!(shown(&[(0, plan)]), "nothing to move; 4.20 kB already here\n");
    }
}
