//! `layerpull tag`: another name for an image of the store.

use crate::cli::Context;
use crate::cli::place;
use crate::content::Sink;
use crate::error::Error;
use crate::oci::Reference;

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
    let (source, target): (Reference, Reference) =
        (context.reference(&args.source)?, args.target.parse::<Reference>().map_err(Error::from)?);
    if target.digest().is_some() {
        return Err(Error::Usage(format!(
            "{target}: a name with a digest cannot be given; leave out what follows the @"
        ))
        .into());
    }
    let store = place::store(context, context.notices())?;
    let _shared = store.share_to_write().await?;
    let root = store.tagged(&source).await?.ok_or_else(|| Error::NotFound {
        what: source.to_string(),
        place: store.root().display().to_string(),
        why: "`layerpull images` lists what is there".into(),
    })?;
    store.tag(&target, &root).await?;
    Ok(())
}
