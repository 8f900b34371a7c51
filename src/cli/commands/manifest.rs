//! `layerpull manifest`: the bytes of a manifest as they are.

use crate::cli::Context;
use crate::cli::image::{ImageFlags, manifest_for};
use crate::cli::output::print_verbatim;
use crate::cli::place::Place;
use crate::oci::Reference;

/// Which image.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image whose manifest or index is printed; with --platform, the manifest for that platform
    #[arg(value_name = "IMAGE")]
    name: String,
    /// Which platform, and where to look.
    #[command(flatten)]
    pub image: ImageFlags,
}

/// Prints the manifest.
///
/// # Errors
/// Those of the place.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let name: Reference = context.reference(&args.name)?;
    let place = Place::of(&args.image, context, context.notices()).await?;
    let source = place.source(&name)?;
    let root = source.resolve(&name).await?;
    let manifest = match &args.image.platform {
        Some(platform) => manifest_for(source.as_ref(), &root, platform).await?,
        None => source.manifest(&root).await?,
    };
    Ok(print_verbatim(&manifest.bytes)?)
}
