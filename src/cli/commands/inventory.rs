//! `layerpull inventory`: what the store or an engine has, as a file for whoever packs something for it.

use std::fs;
use std::path::PathBuf;

use crate::cli::Context;
use crate::cli::engine::EngineName;
use crate::cli::output::{note, print};
use crate::cli::place;
use crate::error::{Error, Result};
use crate::oci::Inventory;

/// What is listed, and where that goes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An engine: docker, podman or containerd[:NAMESPACE] [default: the store]
    #[arg(value_name = "ENGINE")]
    engine: Option<EngineName>,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Lists digests.
///
/// # Errors
/// When the store is damaged; `NotFound` when an engine is not there or not running; `Store`.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let inventory = match &args.engine {
        None => of_store(context).await?,
        Some(engine) => of_engine(engine).await?,
    };
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

async fn of_store(context: &Context) -> Result<Inventory> {
    let store = place::store(context, context.notices())?;
    let _shared = store.share().await?;
    store.inventory().await
}

async fn of_engine(engine: &EngineName) -> Result<Inventory> {
    let holdings = engine.open()?.holdings().await?;
    let chains = holdings.chains();
    if holdings.blobs.is_empty() && chains.is_empty() && !holdings.diff_ids.is_empty() {
        note(&format!(
            "{engine} says nothing that an archive could leave out; import it there with `layerpull import --to {engine}`, \
             which leaves out what the store there has"
        ));
    }
    Ok(Inventory { blobs: holdings.blobs, diff_ids: holdings.diff_ids, chains })
}
