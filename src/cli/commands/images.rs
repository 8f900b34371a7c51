//! `layerpull images`: what is in the store.

use serde::Serialize;

use crate::cli::output::{escape, json, print, size, table};
use crate::cli::place;
use crate::cli::{Context, Format};
use crate::oci::Platform;
use crate::store::StoredImage;

/// How it is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Print only the names
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
    /// Print whole digests
    #[arg(long)]
    no_trunc: bool,
}

/// Lists the images.
///
/// # Errors
/// When the store is damaged.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let store = place::store(context, context.notices())?;
    let _shared = store.share().await?;
    let mut images: Vec<Row> = store.images().await?.iter().map(Row::of).collect();
    images.sort_by(|a, b| a.name.cmp(&b.name));
    let text = match (args.quiet, args.format) {
        (true, _) => images.iter().map(|image| escape(&image.name) + "\n").collect(),
        (false, Format::Json) => json(&images)?,
        (false, Format::Text) => listed(&images, if args.no_trunc { usize::MAX } else { "sha256:".len() + 12 }),
    };
    Ok(print(&text)?)
}

/// One image, with stable names.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    digest: String,
    platforms: Vec<String>,
    size: u64,
    shared: u64,
    own: u64,
    complete: bool,
}

impl Row {
    fn of(image: &StoredImage) -> Row {
        let digest = image.root.digest.to_string();
        let named = image.reference.as_ref().map(|reference| reference.familiar()).or_else(|| image.name.clone());
        Row {
            name: named.unwrap_or_else(|| digest.clone()),
            digest,
            platforms: image.platforms.iter().map(Platform::to_string).collect(),
            size: image.size,
            shared: image.shared(),
            own: image.own,
            complete: image.missing.is_empty(),
        }
    }
}

/// A table; digests are cut to `digest` characters.
fn listed(images: &[Row], digest: usize) -> String {
    let head = ["NAME", "DIGEST", "PLATFORM", "SIZE", "SHARED", "OWN"].map(str::to_owned).to_vec();
    let row = |image: &Row| {
        let platforms = escape(&image.platforms.join(","));
        let damage = if image.complete { "" } else { " (incomplete)" };
        vec![
            escape(&image.name),
            image.digest.chars().take(digest).collect(),
            if platforms.is_empty() { "-".into() } else { platforms },
            size(image.size) + damage,
            size(image.shared),
            size(image.own),
        ]
    };
    table(&std::iter::once(head).chain(images.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn row(name: &str, complete: bool) -> Row {
        Row {
            name: name.into(),
            digest: Digest::of(name.as_bytes()).to_string(),
            platforms: vec!["linux/amd64".into()],
            size: 71_200_000,
            shared: 29_700_000,
            own: 41_500_000,
            complete,
        }
    }

    #[test]
    fn images_are_listed_with_what_they_share() {
        insta::assert_snapshot!(listed(&[row("nginx:1", true), row("h.example/a\u{7}:1", false)], 19), @r"
        NAME                DIGEST               PLATFORM     SIZE                  SHARED   OWN
        nginx:1             sha256:ea996a051ac1  linux/amd64  71.2 MB               29.7 MB  41.5 MB
        h.example/a\u{7}:1  sha256:6d95e98e2ab6  linux/amd64  71.2 MB (incomplete)  29.7 MB  41.5 MB
        ");
    }
}
