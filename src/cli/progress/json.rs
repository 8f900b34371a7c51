//! Progress as JSON: one object a line, with the kind of the event under `event`.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Display, Snapshot};
use crate::cli::output::json_line;
use crate::content::Holding;
use crate::event::{Arrival, Cause, Event};

/// Bytes are summed up over this time.
const INTERVAL: Duration = Duration::from_millis(500);

/// Writes objects to `to`.
pub(super) struct Json<W> {
    to: W,
    last: Duration,
}

impl<W: Write + Send> Json<W> {
    pub(super) fn new(to: W) -> Json<W> {
        Json { to, last: Duration::ZERO }
    }

    fn line(&mut self, value: &Value) {
        if let Ok(line) = json_line(value) {
            let _ = self.to.write_all(line.as_bytes());
        }
    }
}

impl<W: Write + Send> Display for Json<W> {
    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn event(&mut self, event: &Event, _: &Snapshot) {
        if let Some(value) = object(event) {
            self.line(&value);
        }
    }

    fn tick(&mut self, snapshot: &Snapshot) {
        if snapshot.elapsed >= self.last + INTERVAL && !snapshot.flights.is_empty() {
            self.last = snapshot.elapsed;
            self.line(&progress(snapshot));
        }
    }

    fn finish(&mut self, snapshot: &Snapshot) {
        self.line(&done(snapshot));
    }
}

/// The last line, however it ended. What a former run had left of a blob did not have to move either.
fn done(snapshot: &Snapshot) -> Value {
    let held = snapshot.held.saturating_add(snapshot.resumed);
    json!({
        "event": "done",
        "moved": snapshot.network,
        "held": held,
        "local": snapshot.local,
        "places": snapshot.places,
        "saved": held.saturating_add(snapshot.local),
        "causes": causes(&snapshot.lost),
        "elapsed_ms": snapshot.elapsed.as_millis() as u64,
    })
}

/// Bytes that travelled twice, by the stable name of the cause, as in results and events.
pub(crate) fn causes(lost: &BTreeMap<Cause, u64>) -> BTreeMap<&'static str, u64> {
    lost.iter().map(|(cause, count)| (cause_name(*cause), *count)).collect()
}

fn progress(snapshot: &Snapshot) -> Value {
    let flight = |flight: &super::Flight| json!({"digest": flight.digest, "size": flight.size, "done": flight.done});
    json!({
        "event": "progress",
        "size": snapshot.size,
        "done": snapshot.done,
        "held": snapshot.held,
        "resumed": snapshot.resumed,
        "moved": snapshot.network,
        "local": snapshot.local,
        "rate": snapshot.rate.round() as u64,
        "seconds_left": snapshot.left().map(|left| left.as_secs()),
        "blobs": snapshot.flights.iter().map(flight).collect::<Vec<_>>(),
    })
}

/// The object for an event; bytes have none of their own.
fn object(event: &Event) -> Option<Value> {
    Some(match event {
        Event::Resolved { name, digest } => json!({"event": "resolved", "name": name.to_string(), "digest": digest}),
        Event::Planned { blobs } => {
            let blob = |(descriptor, holding): &(crate::oci::Descriptor, Holding)| json!({"digest": descriptor.digest, "size": descriptor.size, "held": held(descriptor.size, *holding)});
            json!({"event": "planned", "blobs": blobs.iter().map(blob).collect::<Vec<_>>()})
        }
        Event::Started { blob, resumed } => json!({"event": "started", "blob": blob, "resumed": resumed}),
        Event::Reused { blob, place } => json!({"event": "reused", "blob": blob, "place": place}),
        Event::Discarded { blob, count } => json!({"event": "discarded", "blob": blob, "count": count}),
        Event::Lost { blob, count, cause } => {
            json!({"event": "lost", "blob": blob, "count": count, "cause": cause_name(*cause)})
        }
        Event::Retried { what, why, wait } => {
            json!({"event": "retried", "what": what, "why": why, "wait_ms": wait.as_millis() as u64})
        }
        Event::Waiting { what } => json!({"event": "waiting", "what": what}),
        Event::Connections { host, allowed } => json!({"event": "connections", "host": host, "allowed": allowed}),
        Event::Left { host, why } => json!({"event": "left", "host": host, "why": why}),
        Event::Finished { blob, how } => json!({"event": "finished", "blob": blob, "how": arrival(how)}),
        Event::Warning { text } => json!({"event": "warning", "text": text}),
        Event::Failed { name, why } => json!({"event": "failed", "name": name, "why": why}),
        Event::Checking { blobs, bytes } => json!({"event": "checking", "blobs": blobs, "bytes": bytes}),
        Event::Checked { blob, size } => json!({"event": "checked", "blob": blob, "size": size}),
        Event::Bytes { .. } => return None,
    })
}

fn held(size: u64, holding: Holding) -> u64 {
    match holding {
        Holding::Missing => 0,
        Holding::Partial(bytes) => bytes,
        Holding::Whole => size,
    }
}

fn arrival(how: &Arrival) -> &'static str {
    match how {
        Arrival::Transferred => "transferred",
        Arrival::Held => "held",
        Arrival::Mounted => "mounted",
    }
}

/// The stable name of a cause, as in results and events.
fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Spoiled => "spoiled",
        Cause::RangeIgnored => "range-ignored",
        Cause::MountRefused => "mount-refused",
        Cause::Overlap => "overlap",
        Cause::SessionLost => "session-lost",
        Cause::LocalSpoiled => "local-spoiled",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::{Tally, samples::*};
    use super::*;

    #[test]
    fn each_event_is_one_line_of_json_with_its_kind() {
        let events = [
            planned(&[("a", 10, Holding::Partial(4))]),
            started("a", 4),
            bytes("a", 4),
            Event::Lost { blob: digest("a"), count: 2, cause: Cause::Overlap },
            Event::Warning { text: "a\nb\u{9b}".into() },
            finished("a", Arrival::Transferred),
        ];
        let mut tally = Tally::default();
        let mut json = Json::new(Vec::new());
        for event in &events {
            tally.apply(event);
            json.event(event, &tally.snapshot(Duration::ZERO));
        }
        json.finish(&tally.snapshot(Duration::from_secs(1)));
        let text = String::from_utf8(json.to).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["planned", "started", "lost", "warning", "finished", "done"]);
        assert_eq!(lines[0]["blobs"][0]["held"], 4);
        assert_eq!(lines[3]["text"], "a\nb\u{9b}");
        let done = json!({
            "event": "done", "moved": 6, "held": 4, "local": 0, "places": {}, "saved": 4, "causes": {"overlap": 2},
            "elapsed_ms": 1000,
        });
        assert_eq!(lines[5], done);
        assert!(!text.contains('\u{9b}'));
    }
}
