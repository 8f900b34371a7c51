//! What a pull, a push or a copy says when it is over.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::output::{duration, escape, json_line, percent, rate, size};
use super::progress::causes;
use crate::error::Error;
use crate::event::Cause;
use crate::oci::{Digest, Reference};
use crate::transfer::{Plan, Report};

/// Which way the images went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Into the store.
    Here,
    /// To a registry, or another place.
    There,
    /// Into an engine.
    Engine,
    /// Out of an archive into the store.
    Unpacked,
}

impl Direction {
    /// Where the images are afterwards, as people say it.
    pub fn here(self) -> &'static str {
        match self {
            Direction::Here | Direction::Unpacked => "here",
            Direction::There | Direction::Engine => "there",
        }
    }
}

/// The blobs of an image, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// All of them, each once.
    pub whole: u64,
    /// Those, or parts of those, that had to travel.
    pub missing: u64,
}

/// One image that was asked for.
#[derive(Debug)]
pub struct Pulled {
    /// Its full name.
    pub name: Reference,
    /// Where it went, in skopeo's syntax, if that is no registry.
    pub place: Option<String>,
    /// What it points to, or why it is not here.
    pub result: Result<Digest, Arc<Error>>,
    /// What was done for it.
    pub done: Done,
    /// Its blobs.
    pub size: Size,
    /// How many signatures, SBOMs and the like hang on it and are there, too; `None` where nobody asked for them.
    pub referrers: Option<usize>,
}

/// What was done for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// What was missing moved.
    Moved,
    /// Nothing had to be done.
    Nothing,
    /// Its name was there, and stays what it was, whatever the source has.
    Kept,
}

/// The sizes of the images of a plan, by the names that they get.
pub fn sizes(plan: &Plan) -> BTreeMap<String, Size> {
    let size = |blobs: &[usize]| {
        blobs.iter().map(|&i| &plan.blobs[i]).fold(Size::default(), |sum, blob| Size {
            whole: sum.whole.saturating_add(blob.descriptor.size),
            missing: sum.missing.saturating_add(blob.planned()),
        })
    };
    plan.images.iter().map(|image| (image.target.to_string(), size(&image.blobs))).collect()
}

/// How the images of `report` ended.
pub fn pulled(report: &Report, sizes: &BTreeMap<String, Size>) -> Vec<Pulled> {
    let image = |outcome: &crate::transfer::Outcome| Pulled {
        name: outcome.name.clone(),
        place: None,
        result: outcome.result.clone(),
        done: if outcome.up_to_date { Done::Nothing } else { Done::Moved },
        size: sizes.get(&outcome.name.to_string()).copied().unwrap_or_default(),
        referrers: None,
    };
    report.images.iter().map(image).collect()
}

impl Pulled {
    /// The name as it is shown: whole, or short as docker does.
    fn title(&self, length: Length) -> String {
        match (&self.place, length) {
            (Some(place), _) => escape(place),
            (None, Length::Whole) => self.name.to_string(),
            (None, Length::Short) => self.name.familiar(),
        }
    }

    /// The full name with its digest.
    fn pinned(&self, digest: &Digest) -> String {
        match self.name.digest() {
            Some(_) if self.place.is_none() => self.title(Length::Whole),
            _ => format!("{}@{digest}", self.title(Length::Whole)),
        }
    }
}

/// How much of a name is shown.
#[derive(Debug, Clone, Copy)]
enum Length {
    Whole,
    Short,
}

/// The end as docker writes it for a pull: digest, status, full name.
pub fn text(pulled: &[Pulled], direction: Direction) -> String {
    let image = |image: &Pulled| {
        let digest = image.result.as_ref().ok()?;
        let status = match (image.done, direction) {
            (Done::Nothing, _) => "Image is up to date for",
            (Done::Kept, _) => "Image is kept as it was for",
            (Done::Moved, Direction::Here) => "Downloaded newer image for",
            (Done::Moved, Direction::There) => "Sent newer image for",
            (Done::Moved, Direction::Unpacked | Direction::Engine) => "Loaded image",
        };
        let referrers = image.referrers.map_or_else(String::new, |count| format!("Referrers: {count}\n"));
        let (short, whole) = (image.title(Length::Short), image.title(Length::Whole));
        Some(format!("Digest: {digest}\n{referrers}Status: {status} {short}\n{whole}\n"))
    };
    pulled.iter().filter_map(image).collect()
}

/// One line an image: its full name, pinned.
pub fn quiet(pulled: &[Pulled]) -> String {
    let line = |image: &Pulled| Some(image.pinned(image.result.as_ref().ok()?) + "\n");
    pulled.iter().filter_map(line).collect()
}

/// One object an image, with stable names.
#[derive(Serialize)]
struct Object {
    reference: String,
    digest: Option<String>,
    status: &'static str,
    size: u64,
    missing: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    referrers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    run: Run,
}

/// What the whole run took: the images share it, as they share blobs. Bytes, and milliseconds.
#[derive(Serialize)]
struct Run {
    planned: u64,
    moved: u64,
    held: u64,
    local: u64,
    places: BTreeMap<String, u64>,
    brought: u64,
    mounted: u64,
    saved: u64,
    /// What each host sent, of `moved`.
    hosts: BTreeMap<String, u64>,
    /// Mirrors that were left, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    left: BTreeMap<String, String>,
    causes: BTreeMap<&'static str, u64>,
    elapsed_ms: u64,
    syncing_ms: u64,
}

impl Run {
    fn of(report: &Report) -> Run {
        Run {
            planned: report.planned,
            moved: report.moved,
            held: report.held,
            local: report.local,
            places: report.places.clone(),
            brought: report.brought,
            mounted: report.mounted,
            saved: saved(report),
            hosts: report.hosts.clone(),
            left: report.left.clone(),
            causes: causes(&report.causes),
            elapsed_ms: report.elapsed.as_millis() as u64,
            syncing_ms: report.syncing.as_millis() as u64,
        }
    }
}

/// Bytes that did not have to come over a network.
fn saved(report: &Report) -> u64 {
    let local = report.local.saturating_sub(report.local_spoiled);
    [report.brought, local, report.mounted].into_iter().fold(report.held, u64::saturating_add)
}

/// One object an image, each on its line.
///
/// # Errors
/// None that is known: everything here has a form in JSON.
pub fn json(pulled: &[Pulled], report: &Report, direction: Direction) -> serde_json::Result<String> {
    pulled.iter().map(|image| json_line(&object(image, report, direction))).collect()
}

fn object(image: &Pulled, report: &Report, direction: Direction) -> Object {
    let status = match (&image.result, image.done) {
        (Err(_), _) => "failed",
        (Ok(_), Done::Nothing) => "up-to-date",
        (Ok(_), Done::Kept) => "kept",
        (Ok(_), Done::Moved) if direction == Direction::There => "sent",
        (Ok(_), Done::Moved) if matches!(direction, Direction::Unpacked | Direction::Engine) => "loaded",
        (Ok(_), Done::Moved) => "downloaded",
    };
    Object {
        reference: image.place.clone().unwrap_or_else(|| image.name.to_string()),
        digest: image.result.as_ref().ok().map(Digest::to_string),
        status,
        size: image.size.whole,
        missing: image.size.missing,
        referrers: image.referrers,
        error: image.result.as_ref().err().map(|error| error.to_string()),
        run: Run::of(report),
    }
}

/// What moved and what did not have to, in one line.
pub fn summary(report: &Report, direction: Direction) -> String {
    let saved = saved(report);
    let all = saved.saturating_add(report.moved);
    let mut parts = match direction {
        Direction::Unpacked => vec![format!("loaded {}", size(report.local))],
        _ => vec![format!("moved {}{}{}", size(report.moved), by_host(report), beyond(report))],
    };
    match (direction, all) {
        (_, 0) => {}
        (Direction::Unpacked, _) => parts.push(format!("{} already here", size(report.held))),
        _ => {
            let place = direction.here();
            parts.push(format!("{} already {place} ({} % saved)", size(report.held), percent(saved, all)));
        }
    }
    if report.mounted > 0 {
        parts.push(format!("{} mounted from other repositories", size(report.mounted)));
    }
    if direction != Direction::Unpacked {
        parts.extend(report.places.iter().map(|(place, bytes)| format!("{} from {}", size(*bytes), escape(place))));
    }
    if report.brought > 0 {
        parts.push(format!("{} brought by another process", size(report.brought)));
    }
    if !report.left.is_empty() {
        parts.push(format!("without {}", names(report.left.keys())));
    }
    parts.push(duration(report.elapsed));
    let seconds = report.elapsed.as_secs_f64();
    if report.moved > 0 && seconds > 0.0 {
        parts.push(rate(report.moved as f64 / seconds));
    }
    parts.join(", ")
}

/// Who sent it, where it was more than one, or not all of those that were asked.
fn by_host(report: &Report) -> String {
    if report.hosts.len() < 2 && report.left.is_empty() {
        return String::new();
    }
    let host = |(host, bytes): (&String, &u64)| format!("{} from {}", size(*bytes), escape(host));
    let hosts: Vec<String> = report.hosts.iter().map(host).collect();
    if hosts.is_empty() { String::new() } else { format!(" ({})", hosts.join(", ")) }
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| escape(name)).collect::<Vec<_>>().join(" and ")
}

/// Why more moved than was planned.
fn beyond(report: &Report) -> String {
    if report.causes.values().all(|bytes| *bytes == 0) {
        return String::new();
    }
    let cause = |(cause, bytes): (&Cause, &u64)| format!("; {} {}", size(*bytes), in_words(*cause));
    let causes: String = report.causes.iter().filter(|(_, bytes)| **bytes > 0).map(cause).collect();
    format!(" ({} planned{causes})", size(report.planned))
}

fn in_words(cause: Cause) -> &'static str {
    match cause {
        Cause::Spoiled => "again because bytes were not those of their digest",
        Cause::RangeIgnored => "again because a server ignored the range",
        Cause::MountRefused => "because a mount was refused",
        Cause::Overlap => "twice where a connection took over from another",
        Cause::SessionLost => "again because an upload was lost",
        Cause::LocalSpoiled => "because a copy on this machine was spoiled",
        Cause::LayerGone => "because the engine had lost a layer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn image(name: &str, result: Result<(), &str>, done: Done) -> Pulled {
        let result = match result {
            Ok(()) => Ok(Digest::of(b"")),
            Err(why) => Err(Arc::new(Error::Limit(why.into()))),
        };
        Pulled {
            name: name.parse().unwrap(),
            place: None,
            result,
            done,
            size: Size { whole: 100, missing: 40 },
            referrers: None,
        }
    }

    #[test]
    fn a_pull_ends_as_docker_ends_it() {
        let images = [image("mysql:8", Ok(()), Done::Moved), image("h.example/a", Ok(()), Done::Nothing)];
        insta::assert_snapshot!(text(&images, Direction::Here), @r"
        Digest: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
        Status: Downloaded newer image for mysql:8
        docker.io/library/mysql:8
        Digest: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
        Status: Image is up to date for h.example/a:latest
        h.example/a:latest
        ");
    }

    #[test]
    fn quiet_is_one_pinned_line_an_image() {
        let empty = Digest::of(b"");
        let pinned = format!("h.example/a@{empty}");
        let images = [
            image("mysql:8", Ok(()), Done::Moved),
            image(&pinned, Ok(()), Done::Nothing),
            image("x", Err("1 GB"), Done::Moved),
        ];
        assert_eq!(quiet(&images), format!("docker.io/library/mysql:8@{empty}\n{pinned}\n"));
    }

    #[test]
    fn json_has_one_object_an_image_also_for_those_that_failed() {
        let images = [image("mysql:8", Ok(()), Done::Moved), image("x", Err("1 GB\u{1b}"), Done::Moved)];
        let report =
            Report { planned: 40, moved: 40, held: 60, syncing: Duration::from_millis(7), ..Report::default() };
        insta::assert_snapshot!(json(&images, &report, Direction::Here).unwrap(), @r#"
        {"reference":"docker.io/library/mysql:8","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","status":"downloaded","size":100,"missing":40,"run":{"planned":40,"moved":40,"held":60,"local":0,"places":{},"brought":0,"mounted":0,"saved":60,"hosts":{},"causes":{},"elapsed_ms":0,"syncing_ms":7}}
        {"reference":"docker.io/library/x:latest","digest":null,"status":"failed","size":100,"missing":40,"error":"limit reached: 1 GB\u001b","run":{"planned":40,"moved":40,"held":60,"local":0,"places":{},"brought":0,"mounted":0,"saved":60,"hosts":{},"causes":{},"elapsed_ms":0,"syncing_ms":7}}
        "#);
    }

    #[test]
    fn what_was_sent_is_told_from_the_other_end() {
        let report = Report { held: 75, mounted: 25, ..Report::default() };
        let said = summary(&report, Direction::There);
        assert_eq!(said, "moved 0 B, 75 B already there (100 % saved), 25 B mounted from other repositories, 0.0 s");
        assert!(
            text(&[image("mysql:8", Ok(()), Done::Moved)], Direction::There).contains("Sent newer image for mysql:8")
        );
    }

    #[test]
    fn what_moved_beyond_the_plan_is_said_with_its_causes() {
        let report = Report {
            planned: 10,
            moved: 75,
            local: 80,
            local_spoiled: 60,
            places: BTreeMap::from([("containerd".into(), 80)]),
            causes: BTreeMap::from([(Cause::LocalSpoiled, 60), (Cause::Overlap, 5)]),
            ..Report::default()
        };
        assert_eq!(
            summary(&report, Direction::Here),
            "moved 75 B (10 B planned; 5 B twice where a connection took over from another; 60 B because a copy on this \
             machine was spoiled), 0 B already here (21 % saved), 80 B from containerd, 0.0 s"
        );
    }

    #[test]
    fn the_summary_names_the_hosts_where_there_are_several_and_those_that_were_left() {
        let hosts = [("a:5000", 9_000_000), ("r.example", 3_300_000)].map(|(host, bytes)| (host.to_owned(), bytes));
        let left = [("b\u{1b}".to_owned(), "it lied".to_owned())].into();
        let report = Report { moved: 12_300_000, hosts: hosts.into(), left, ..Report::default() };
        assert_eq!(
            summary(&report, Direction::Here),
            "moved 12.3 MB (9.00 MB from a:5000, 3.30 MB from r.example), 0 B already here (0 % saved), \
             without b\\u{1b}, 0.0 s"
        );
    }

    #[test]
    fn the_summary_says_what_was_saved() {
        let report =
            Report { moved: 12_300_000, held: 45_600_000, elapsed: Duration::from_millis(1200), ..Report::default() };
        assert_eq!(
            summary(&report, Direction::Here),
            "moved 12.3 MB, 45.6 MB already here (78 % saved), 1.2 s, 10.2 MB/s"
        );
        assert_eq!(summary(&Report::default(), Direction::Here), "moved 0 B, 0.0 s");
    }
}
