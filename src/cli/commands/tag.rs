//! `layerpull tag`: another name for an image of the store, or of a repository at its registry.

use crate::cli::Context;
use crate::cli::config::RegistryFlags;
use crate::cli::place::{self, registry};
use crate::content::{Root, Sink, Source};
use crate::error::{Error, Result};
use crate::oci::Reference;
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
    /// Tag at the registry instead of in the store: both names are of one repository, and no blob moves
    #[arg(long)]
    remote: bool,
    /// Which registry and how, with --remote.
    #[command(flatten)]
    pub registry: RegistryFlags,
}

/// Gives the image the name.
///
/// # Errors
/// `NotFound` when the image is not there; `Usage` for names of several repositories with `--remote`.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let target = context.reference(&args.target)?;
    if target.digest().is_some() {
        return Err(Error::Usage(format!(
            "{target}: a name with a digest cannot be given; leave out what follows the @"
        ))
        .into());
    }
    if args.remote {
        return Ok(at_registry(context.reference(&args.source)?, target, context).await?);
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
        why: "`layerpull images` lists what is there; --remote tags at the registry".into(),
    })
}

/// The manifest of one tag is put under another.
async fn at_registry(source: Reference, target: Reference, context: &Context) -> Result<()> {
    if source.name() != target.name() {
        return Err(Error::Usage(format!(
            "{target}: not the repository of {source}, and a tag is given within one: `layerpull copy {source} {target}`, \
             which moves no blob that is there or can be mounted"
        )));
    }
    let repository = registry(&context.settings, context.notices()).repository_to_write(&target);
    let transfer = context.transfer(context.notices());
    let descriptor = transfer.persist(&source.to_string(), || repository.resolve(&source)).await?;
    let root = Root { descriptor, platforms: None };
    transfer.persist(&target.to_string(), || repository.tag(&target, &root)).await
}
