//! `layerpull inventory`: what the store has, as a file for whoever packs something for it.

use std::fs;
use std::path::PathBuf;

use crate::cli::Context;
use crate::cli::output::{note, print};
use crate::cli::place;
use crate::error::Error;

/// Where it goes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Lists digests.
///
/// # Errors
/// When the store is damaged; `Store`.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let store = place::store(context, context.notices())?;
    let _shared = store.share().await?;
    let inventory = store.inventory().await?;
    let text = inventory.to_json();
    match args.output.filter(|path| path.as_os_str() != "-") {
        None => print(&text)?,
        Some(path) => {
            fs::write(&path, text).map_err(Error::store("write the inventory to", &path))?;
            let (blobs, layers) = (inventory.blobs.len(), inventory.diff_ids.len());
            note(&format!(
                "{blobs} blobs and manifests, {layers} layers; carry it to where images come from, and export with --have"
            ));
        }
    }
    Ok(())
}
