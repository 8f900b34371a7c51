//! What a pull says when it is over.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::output::{duration, json_line, percent, rate, size};
use crate::error::Error;
use crate::oci::{Digest, Reference};
use crate::transfer::{Plan, Report};

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
    /// What it points to, or why it is not here.
    pub result: Result<Digest, Arc<Error>>,
    /// Nothing had to be done.
    pub up_to_date: bool,
    /// Its blobs.
    pub size: Size,
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
        result: outcome.result.clone(),
        up_to_date: outcome.up_to_date,
        size: sizes.get(&outcome.name.to_string()).copied().unwrap_or_default(),
    };
    report.images.iter().map(image).collect()
}

/// The end of a pull as docker writes it: digest, status, full name.
pub fn text(pulled: &[Pulled]) -> String {
    let image = |image: &Pulled| {
        let digest = image.result.as_ref().ok()?;
        let status = match image.up_to_date {
            true => "Image is up to date for",
            false => "Downloaded newer image for",
        };
        Some(format!("Digest: {digest}\nStatus: {status} {}\n{}\n", image.name.familiar(), image.name))
    };
    pulled.iter().filter_map(image).collect()
}

/// One line an image: its full name, pinned.
pub fn quiet(pulled: &[Pulled]) -> String {
    let line = |image: &Pulled| {
        let digest = image.result.as_ref().ok()?;
        Some(match image.name.digest() {
            Some(_) => format!("{}\n", image.name),
            None => format!("{}@{digest}\n", image.name),
        })
    };
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
    error: Option<String>,
}

/// One object an image, each on its line.
///
/// # Errors
/// None that is known: everything here has a form in JSON.
pub fn json(pulled: &[Pulled]) -> serde_json::Result<String> {
    pulled.iter().map(|image| json_line(&object(image))).collect()
}

fn object(image: &Pulled) -> Object {
    let status = match (&image.result, image.up_to_date) {
        (Err(_), _) => "failed",
        (Ok(_), true) => "up-to-date",
        (Ok(_), false) => "downloaded",
    };
    Object {
        reference: image.name.to_string(),
        digest: image.result.as_ref().ok().map(Digest::to_string),
        status,
        size: image.size.whole,
        missing: image.size.missing,
        error: image.result.as_ref().err().map(|error| error.to_string()),
    }
}

/// What moved and what did not have to, in one line.
pub fn summary(report: &Report) -> String {
    let saved = report.held.saturating_add(report.brought).saturating_add(report.local);
    let all = saved.saturating_add(report.moved);
    let mut parts = vec![format!("moved {}", size(report.moved))];
    match (report.held, all) {
        (_, 0) => {}
        _ => parts.push(format!("{} already here ({} % saved)", size(report.held), percent(saved, all))),
    }
    if report.local > 0 {
        parts.push(format!("{} from this machine", size(report.local)));
    }
    if report.brought > 0 {
        parts.push(format!("{} brought by another process", size(report.brought)));
    }
    let again: u64 = report.causes.values().sum();
    if again > 0 {
        parts.push(format!("{} of it twice", size(again)));
    }
    parts.push(duration(report.elapsed));
    let seconds = report.elapsed.as_secs_f64();
    if report.moved > 0 && seconds > 0.0 {
        parts.push(rate(report.moved as f64 / seconds));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn image(name: &str, result: Result<(), &str>, up_to_date: bool) -> Pulled {
        let result = match result {
            Ok(()) => Ok(Digest::of(b"")),
            Err(why) => Err(Arc::new(Error::Limit(why.into()))),
        };
        Pulled { name: name.parse().unwrap(), result, up_to_date, size: Size { whole: 100, missing: 40 } }
    }

    #[test]
    fn a_pull_ends_as_docker_ends_it() {
        let images = [image("mysql:8", Ok(()), false), image("h.example/a", Ok(()), true)];
        insta::assert_snapshot!(text(&images), @r"
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
        let images = [image("mysql:8", Ok(()), false), image(&pinned, Ok(()), true), image("x", Err("1 GB"), false)];
        assert_eq!(quiet(&images), format!("docker.io/library/mysql:8@{empty}\n{pinned}\n"));
    }

    #[test]
    fn json_has_one_object_an_image_also_for_those_that_failed() {
        let images = [image("mysql:8", Ok(()), false), image("x", Err("1 GB\u{1b}"), false)];
        insta::assert_snapshot!(json(&images).unwrap(), @r#"
        {"reference":"docker.io/library/mysql:8","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","status":"downloaded","size":100,"missing":40}
        {"reference":"docker.io/library/x:latest","digest":null,"status":"failed","size":100,"missing":40,"error":"limit reached: 1 GB\u001b"}
        "#);
    }

    #[test]
    fn the_summary_says_what_was_saved() {
        let report =
            Report { moved: 12_300_000, held: 45_600_000, elapsed: Duration::from_millis(1200), ..Report::default() };
        assert_eq!(summary(&report), "moved 12.3 MB, 45.6 MB already here (78 % saved), 1.2 s, 10.2 MB/s");
        assert_eq!(summary(&Report::default()), "moved 0 B, 0.0 s");
    }
}
