//! `layerpull load`: an archive into the store, as `docker load` reads it.

use super::import::{How, load};
use crate::cli::Context;

/// Which archive.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Archive to read [default: standard input]
    #[arg(short, long, value_name = "FILE", default_value = "-", hide_default_value = true)]
    input: String,
    /// How it is read.
    #[command(flatten)]
    pub how: How,
}

/// Loads.
///
/// # Errors
/// As [`super::import::run`].
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    load(&[args.input], &args.how, context).await
}
