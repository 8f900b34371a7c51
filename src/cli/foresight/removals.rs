//! What became, or would become, of the tags that `--delete` is about.

use serde::Serialize;

use crate::cli::Format;
use crate::cli::output::{escape, json_line};
use crate::sync::remove::{Fate, Removal};

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
