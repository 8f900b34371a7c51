//! `layerpull plan`: what another command would do, without doing it.

use super::{copy, pull, push, sync};
use crate::cli::Context;
use crate::cli::config::Flags;

const AFTER_HELP: &str = "\
`layerpull plan IMAGE…` is `layerpull plan pull IMAGE…`. Flags are those of the
command; no blob is moved, and nothing is changed.";

/// Which command.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// What a pull would bring into the store
    Pull(pull::Args),
    /// What a push would send
    Push(push::Args),
    /// What a copy would move
    #[command(visible_alias = "cp")]
    Copy(Box<copy::Args>),
    /// What a mirror would move, and remove
    Sync(sync::Args),
}

impl Args {
    /// Everything that is a setting too.
    pub fn flags(&self, flags: Flags) -> Flags {
        match &self.what {
            What::Pull(args) => args.flags(flags),
            What::Push(args) => args.flags(flags),
            What::Copy(args) => args.flags(flags),
            What::Sync(args) => args.flags(flags),
        }
    }
}

/// Plans.
///
/// # Errors
/// Those of the command; [`Told`](crate::cli::exit::Told) when there is something to do and the exit code was asked for.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    match args.what {
        What::Pull(args) => pull::run(args.planned(), context).await,
        What::Push(args) => push::run(args.planned(), context).await,
        What::Copy(args) => copy::run((*args).planned(), context).await,
        What::Sync(args) => sync::run(args.planned(), context).await,
    }
}
