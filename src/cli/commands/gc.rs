//! `layerpull gc`: frees the space of what no image of the store needs.

use crate::cli::output::{json, print, size};
use crate::cli::place;
use crate::cli::{Context, Format};
use crate::store::{Collect, Collected, Effect, Spare};

/// What is removed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove young blobs and half-fetched ones too, which a later pull might use
    #[arg(long)]
    all: bool,
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Collects.
///
/// # Errors
/// `Store` when other processes use the store for too long.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let defaults = Collect::default();
    let how = Collect {
        spare: if args.all { Spare::Nothing } else { defaults.spare },
        effect: if args.dry_run { Effect::Preview } else { Effect::Remove },
        ..defaults
    };
    let collected = place::store(context, context.notices())?.collect(how).await?;
    match args.format {
        Format::Text => print(&told(&collected, how.effect))?,
        Format::Json => print(&json(&described(&collected))?)?,
    }
    Ok(())
}

fn told(collected: &Collected, effect: Effect) -> String {
    let verb = match effect {
        Effect::Remove => "Removed",
        Effect::Preview => "Would remove",
    };
    let mut text = format!(
        "{verb} {} and {}, {}\n",
        plural(collected.blobs.len(), "blob"),
        plural(collected.partials.len() + collected.uploads.len(), "half-fetched one"),
        size(collected.freed)
    );
    if collected.spared > 0 {
        text.push_str(&format!(
            "Kept {} that no image needs but that are young; --all removes them\n",
            size(collected.spared)
        ));
    }
    text
}

fn plural(count: usize, noun: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{end}")
}

fn described(collected: &Collected) -> serde_json::Value {
    let digests = |blobs: &[(crate::oci::Digest, u64)]| -> Vec<_> {
        blobs.iter().map(|(digest, size)| serde_json::json!({"digest": digest, "size": size})).collect()
    };
    serde_json::json!({
        "blobs": digests(&collected.blobs),
        "partials": digests(&collected.partials),
        "uploads": collected.uploads.len(),
        "freed": collected.freed,
        "spared": collected.spared,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn what_was_removed_and_what_was_kept_is_told() {
        let blobs = vec![(Digest::of(b"a"), 1_000_000)];
        let collected = Collected { blobs, freed: 1_000_000, spared: 2000, ..Collected::default() };
        let text = told(&collected, Effect::Preview);
        assert!(text.starts_with("Would remove 1 blob and 0 half-fetched ones, 1.00 MB\nKept 2.00 kB"), "{text}");
        assert_eq!(described(&collected)["blobs"][0]["size"], 1_000_000);
    }
}
