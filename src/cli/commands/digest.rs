//! `layerpull digest`: the digest that a name points to.

use crate::cli::Context;
use crate::cli::image::{ImageFlags, manifest_for};
use crate::cli::output::print;
use crate::cli::place::Place;
use crate::content::Source;
use crate::error::Result;
use crate::oci::{Digest, Platform, Reference};

/// Which image.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image to look up: the digest of its index where it has one, unless --platform is given
    #[arg(value_name = "IMAGE")]
    name: String,
    /// Print the full reference with the digest
    #[arg(long)]
    full_ref: bool,
    /// Which platform, and where to look.
    #[command(flatten)]
    pub image: ImageFlags,
}

/// Prints the digest.
///
/// # Errors
/// Those of the place.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let name: Reference = context.reference(&args.name)?;
    let place = Place::of(&args.image, context, context.notices()).await?;
    let source = place.source(&name)?;
    let digest = digest_of(source.as_ref(), &name, args.image.platform.as_ref()).await?;
    match args.full_ref {
        true => print(&format!("{}\n", name.at(digest)))?,
        false => print(&format!("{digest}\n"))?,
    }
    Ok(())
}

async fn digest_of(source: &dyn Source, name: &Reference, platform: Option<&Platform>) -> Result<Digest> {
    let root = source.resolve(name).await?;
    match platform {
        Some(platform) => Ok(manifest_for(source, &root, platform).await?.digest),
        None => Ok(root.digest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::image::samples::{Shelf, image};

    #[tokio::test]
    async fn the_digest_is_that_of_the_index_unless_a_platform_is_named() {
        let mut shelf = Shelf::default();
        let arm = shelf.image(image("arm64", &[]));
        let root = shelf.index(vec![("linux/arm64", image("arm64", &[]))]);
        let name = shelf.name("h.example/x:1", root.clone());
        assert_eq!(digest_of(&shelf, &name, None).await.unwrap(), root.digest);
        let platform = "linux/arm64".parse().unwrap();
        assert_eq!(digest_of(&shelf, &name, Some(&platform)).await.unwrap(), arm.digest);
    }
}
