//! A plan for people: a block for each image, and the sums below.

use std::time::Duration;

use super::forecast::{Forecast, Heading, Leg, Time};
use super::{Foresight, Listed};
use crate::cli::output::{duration, escape, percent, rate, size, table};
use crate::cli::results::Direction;
use crate::content::Holding;
use crate::oci::{Digest, Reference};
use crate::transfer::{BlobPlan, ImagePlan, Way};

/// Blocks and sums.
pub(super) fn page(foresight: &Foresight, forecast: &Forecast) -> String {
    let mut text = String::new();
    let mut rows = Vec::new();
    let mut heads = Vec::new();
    for (image, blobs) in foresight.images() {
        heads.push((head(foresight, image), if image.up_to_date { 0 } else { blobs.len() }));
        if !image.up_to_date {
            rows.extend(blobs.iter().map(|listed| row(foresight, listed)));
        }
    }
    // All images share the widths of the columns.
    let lines = table(&rows);
    let mut lines = lines.lines();
    for (head, count) in heads {
        text.push_str(&head);
        lines.by_ref().take(count).for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text.extend(foresight.kept.iter().map(|(name, digest)| title(name, digest, "kept as it is")));
    text + "\n" + &table(&sums(foresight, forecast))
}

fn head(foresight: &Foresight, image: &ImagePlan) -> String {
    let status = match (image.up_to_date, foresight.direction) {
        (true, _) => "up to date",
        (false, Direction::Here | Direction::Unpacked) => "would be downloaded",
        (false, Direction::There | Direction::Engine) => "would be sent",
    };
    title(&image.target, &image.root.descriptor.digest, status)
}

fn title(name: &Reference, digest: &Digest, status: &str) -> String {
    // A name that holds its digest says it already.
    match name.digest() {
        Some(_) => format!("{}  {status}\n", name.familiar()),
        None => format!("{}  {}  {status}\n", name.familiar(), digest.short()),
    }
}

fn row(foresight: &Foresight, listed: &Listed<'_>) -> Vec<String> {
    let blob = &foresight.plan.blobs[listed.number];
    let (state, from) = match (listed.owner, blob.holding) {
        (Some(owner), _) => ("shared", format!("with {}", owner.target.familiar())),
        (None, Holding::Whole) => (foresight.direction.here(), String::new()),
        (None, Holding::Partial(held)) => {
            let parts = format!("{} {}, {}", size(held), foresight.direction.here(), size(blob.missing()));
            ("partial", format!("{parts} {}", source(blob)))
        }
        (None, Holding::Missing) => (verb(foresight.direction, blob.way()), source(blob)),
    };
    vec![blob.descriptor.digest.short().into(), size(blob.descriptor.size), state.into(), from]
}

/// What happens to what is missing.
fn verb(direction: Direction, way: Way<'_>) -> &'static str {
    match (way, direction) {
        (Way::There, _) => direction.here(),
        (Way::Mount(_), _) => "mount",
        (Way::Copy(_), _) => "reuse",
        (Way::Network, Direction::Here | Direction::Unpacked) => "fetch",
        (Way::Network, Direction::There | Direction::Engine) => "send",
    }
}

/// Where what is missing comes from.
fn source(blob: &BlobPlan) -> String {
    let serving = blob.serving();
    let network = || serving.first().copied().unwrap_or_default();
    let text = match blob.way() {
        Way::There => return String::new(),
        Way::Mount(from) => from,
        Way::Copy(origin) => origin.host(),
        Way::Network => network(),
    };
    let others = if matches!(blob.way(), Way::Network) { serving.len().saturating_sub(1) } else { 0 };
    match others {
        0 => format!("from {}", escape(text)),
        1 => format!("from {} and another", escape(text)),
        _ => format!("from {} and {others} others", escape(text)),
    }
}

fn sums(foresight: &Foresight, forecast: &Forecast) -> Vec<Vec<String>> {
    let totals = foresight.plan.totals();
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut line = |what: &str, text: String| rows.push(vec![what.into(), text]);
    for leg in &forecast.hosts {
        line(if leg.way == Heading::Down { "fetch" } else { "send" }, moved(leg));
    }
    if forecast.hosts.is_empty() {
        line(verb(foresight.direction, Way::Network), "nothing".into());
    }
    for ((name, path), bytes) in &forecast.places {
        let path = if path == name { String::new() } else { format!(", {}", escape(path)) };
        line("reuse", format!("{} from {}{path}", size(*bytes), escape(name)));
    }
    if totals.mountable > 0 {
        line("mount", format!("{} from other repositories", size(totals.mountable)));
    }
    let saved = totals.size - totals.planned;
    let share = if totals.size == 0 { 100 } else { percent(saved, totals.size) };
    line(foresight.direction.here(), format!("{} of {}", size(totals.held()), size(totals.size)));
    line("saved", format!("{} ({share} %)", size(saved)));
    if let Some(disk) = &foresight.disk {
        let short = if disk.space.needed > disk.space.free { ": TOO LITTLE" } else { "" };
        let (needed, free) = (size(disk.space.needed), size(disk.space.free));
        line("disk", format!("{needed} needed, {free} free{short} in {}", escape(&disk.path.display().to_string())));
    }
    line("time", time(forecast));
    rows
}

fn moved(leg: &Leg) -> String {
    let way = if leg.way == Heading::Down { "from" } else { "to" };
    let blobs = if leg.blobs == 1 { "1 blob".into() } else { format!("{} blobs", leg.blobs) };
    format!("{} ({} bytes) {way} {}, {blobs}", size(leg.bytes), leg.bytes, escape(&leg.hosts.join(" and ")))
}

fn time(forecast: &Forecast) -> String {
    let about = |time: Duration| match time < Duration::from_millis(100) {
        true => "less than 0.1 s".into(),
        false => format!("about {}", duration(time)),
    };
    match forecast.time {
        Time::None => "none on the network".into(),
        Time::Limited(time, limit) => format!("{} at the limit of {}", about(time), rate(limit as f64)),
        Time::Remembered(time, of) => format!("{} at {}, as the last runs were", about(time), rate(of as f64)),
        Time::Unknown => "unknown: no run with this host has moved enough yet".into(),
    }
}
