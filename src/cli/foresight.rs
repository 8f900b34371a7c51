//! What a mirror would do, and what became of the tags that `--delete` is about.

use std::collections::HashSet;

use serde::Serialize;

use super::Format;
use super::output::{escape, json_line, size, table};
use crate::oci::{Digest, Reference};
use crate::sync::remove::{Fate, Removal};
use crate::transfer::{ImagePlan, Plan};

/// What would happen to one image. A blob that several images share counts for the first of them. Bytes of blobs.
#[derive(Debug, Serialize)]
struct Foreseen {
    reference: String,
    digest: String,
    status: &'static str,
    /// What would travel.
    moved: u64,
    /// What the registry would take from another repository.
    mounted: u64,
    /// What is there.
    held: u64,
}

/// The images of `plan` and those that are `kept`, with sums.
///
/// # Errors
/// None that is known: everything here has a form in JSON.
pub fn images(plan: &Plan, kept: &[(Reference, Digest)], format: Format) -> serde_json::Result<String> {
    let mut counted = HashSet::new();
    let planned = plan.images.iter().map(|image| foreseen(plan, image, &mut counted));
    let kept = kept.iter().map(|(name, digest)| Foreseen {
        reference: name.to_string(),
        digest: digest.to_string(),
        status: "kept",
        moved: 0,
        mounted: 0,
        held: 0,
    });
    let images: Vec<Foreseen> = planned.chain(kept).collect();
    match format {
        Format::Json => images.iter().map(json_line).collect(),
        Format::Text => Ok(text(&images, plan)),
    }
}

fn foreseen(plan: &Plan, image: &ImagePlan, counted: &mut HashSet<usize>) -> Foreseen {
    let mut foreseen = Foreseen {
        reference: image.target.to_string(),
        digest: image.root.descriptor.digest.to_string(),
        status: if image.up_to_date { "up-to-date" } else { "would-send" },
        moved: 0,
        mounted: 0,
        held: 0,
    };
    for &number in image.blobs.iter().filter(|number| counted.insert(**number)) {
        let blob = &plan.blobs[number];
        foreseen.moved = foreseen.moved.saturating_add(blob.planned());
        foreseen.mounted = foreseen.mounted.saturating_add(blob.missing() - blob.planned());
        foreseen.held = foreseen.held.saturating_add(blob.descriptor.size - blob.missing());
    }
    foreseen
}

fn text(images: &[Foreseen], plan: &Plan) -> String {
    let mut rows = vec![["MOVE", "MOUNT", "THERE", "STATUS", "IMAGE"].map(str::to_owned).to_vec()];
    rows.extend(images.iter().map(|image| {
        let bytes = [image.moved, image.mounted, image.held].map(|bytes| bytes.to_string());
        bytes.into_iter().chain([image.status.to_owned(), image.reference.clone()]).collect()
    }));
    let totals = plan.totals();
    let held = totals.size - totals.planned - totals.mountable;
    let sum = |what, bytes| format!("{bytes} bytes ({}) {what}", size(bytes));
    let sums = [sum("would move", totals.planned), sum("would be mounted", totals.mountable), sum("are there", held)];
    format!("{}{}\n", table(&rows), sums.join(", "))
}

/// One tag.
#[derive(Serialize)]
struct Tag {
    reference: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Whether tags that stay are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    /// All.
    All,
    /// Only what is gone, or failed.
    Changes,
}

/// The fates of tags.
///
/// # Errors
/// None that is known: everything here has a form in JSON.
pub fn removals(removals: &[Removal], format: Format, tell: Tell) -> serde_json::Result<String> {
    let told = removals.iter().filter(|removal| tell == Tell::All || !matches!(removal.fate, Fate::Left(_)));
    told.map(tag).map(|tag| if format == Format::Json { json_line(&tag) } else { Ok(line(&tag)) }).collect()
}

fn tag(removal: &Removal) -> Tag {
    let (status, why) = match &removal.fate {
        Fate::Deleted => ("deleted", None),
        Fate::Goes => ("would-delete", None),
        Fate::GoesByTag(why) => ("would-delete", Some(format!("unless the registry deletes manifests only: {why}"))),
        Fate::Left(why) => ("left", Some(why.to_string())),
        Fate::Failed(error) => ("not-deleted", Some(error.to_string())),
    };
    Tag { reference: removal.name.to_string(), status, why }
}

fn line(tag: &Tag) -> String {
    let status = match tag.status {
        "deleted" => "Deleted",
        "would-delete" => "Would delete",
        "left" => "Left",
        _ => "Not deleted",
    };
    let why = tag.why.as_ref().map(|why| format!(": {}", escape(why))).unwrap_or_default();
    format!("{status} {}{why}\n", tag.reference)
}
