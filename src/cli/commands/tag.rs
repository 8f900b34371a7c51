//! `layerpull tag`: another name for an image of the store.

use crate::cli::Context;
use crate::cli::place;
use crate::content::{Root, Sink};
use crate::error::{Error, Result};
use crate::store::Store;

/// Which image, and its new name.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image of the store
    #[arg(value_name = "IMAGE")]
    source: String,
    /// Its other name
    #[arg(value_name = "NAME")]
    target: String,
}

/// Gives the image the name.
///
/// # Errors
/// `NotFound` when the image is not in the store.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let target = context.reference(&args.target)?;
    if target.digest().is_some() {
        return Err(Error::Usage(format!(
            "{target}: a name with a digest cannot be given; leave out what follows the @"
        ))
        .into());
    }
    let store = place::store(context, context.notices())?;
    let _shared = store.share_to_write().await?;
    let root = root(&store, &args.source, context).await?;
    store.tag(&target, &root).await?;
    Ok(())
}

/// What `images` shows as `text` points to, else what goes by that reference.
async fn root(store: &Store, text: &str, context: &Context) -> Result<Root> {
    if let Some(entered) = store.entered(text).await?.into_iter().next() {
        return Ok(entered.root);
    }
    let name = context.reference(text)?;
    store.tagged(&name).await?.ok_or_else(|| Error::NotFound {
        what: name.to_string(),
        place: store.root().display().to_string(),
        why: "`layerpull images` lists what is there".into(),
    })
}
