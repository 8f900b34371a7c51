//! `layerpull load`: images of the store into an engine of this machine.

use crate::cli::Context;
use crate::cli::ending::OutputFlags;
use crate::cli::engine::{self, EngineName};
use crate::cli::progress::Progress;
use crate::cli::results::Direction;
use crate::oci::Platform;

/// Which images, and where to.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Images of the store
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The engine: docker, podman or containerd[:NAMESPACE]. It gets the layers that it lacks
    #[arg(long, value_name = "ENGINE")]
    to: EngineName,
    /// Platform to take of an index, as OS/ARCH[/VARIANT] [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,
    /// What is printed.
    #[command(flatten)]
    output: OutputFlags,
}

/// Loads.
///
/// # Errors
/// Those of the only image; `Told` when some of several failed; `NotFound` when the engine is not running; `Store`,
/// `Interrupted`.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let digests = args.output.digests()?;
    let progress = Progress::start(args.output.mode(context));
    let ended = engine::load(&args.images, &args.to, context, progress.events()).await;
    progress.finish();
    args.output.conclude(context, Direction::Engine, ended?, digests)
}
