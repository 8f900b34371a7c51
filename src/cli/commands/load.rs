//! `layerpull load`: images of the store into an engine of this machine; an archive into the store, as `docker load` reads
//! it, or into an engine.

use super::import::{How, load};
use crate::cli::Context;
use crate::cli::engine;
use crate::cli::progress::Progress;
use crate::cli::results::Direction;
use crate::error::Error;
use crate::oci::Platform;

/// Which images, or which archive.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Images of the store that --to gets
    #[arg(value_name = "IMAGE", conflicts_with_all = ["input", "list", "image", "name"])]
    images: Vec<String>,
    /// Archive to read [default: standard input]
    #[arg(short, long, value_name = "FILE", default_value = "-", hide_default_value = true)]
    input: String,
    /// Platform that an engine gets of an index, as OS/ARCH[/VARIANT] [default: this machine's]
    #[arg(long, value_name = "PLATFORM", requires = "to")]
    pub platform: Option<Platform>,
    /// How it is read.
    #[command(flatten)]
    pub how: How,
}

/// Loads.
///
/// # Errors
/// `Usage` for images without an engine; those of the only image; `Told` when some of several failed; `NotFound` when the
/// engine is not running; `Store`, `Interrupted`; for an archive as [`super::import::run`].
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let Some(first) = args.images.first() else { return load(&[args.input], &args.how, context).await };
    let Some(engine) = &args.how.to else {
        let why = "say which engine gets the images: --to docker, podman or containerd; an archive is read with -i";
        return Err(Error::Usage(format!("{first}: {why}")).into());
    };
    let output = &args.how.output;
    let digests = output.digests()?;
    let progress = Progress::start(output.mode(context));
    let ended = engine::load(&args.images, engine, context, progress.events()).await;
    progress.finish();
    output.conclude(context, Direction::Engine, ended?, digests)
}
