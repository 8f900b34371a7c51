//! `layerpull logout`: forgets the credentials for a registry.

use super::login::place_of;
use crate::cli::Context;
use crate::cli::config::{RegistryFlags, values};
use crate::cli::output::{note, print};
use crate::cli::place::registry;
use crate::oci::reference::DOCKER_HUB;

/// Where.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Registry [default: docker.io]
    #[arg(value_name = "REGISTRY", value_parser = values::registry, default_value = DOCKER_HUB, hide_default_value = true)]
    host: String,
    /// Which credential file.
    #[command(flatten)]
    pub registry: RegistryFlags,
}

/// Forgets them, wherever they are kept.
///
/// # Errors
/// `Store` when a file cannot be changed.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let forgotten = registry(&context.settings, context.notices()).logout(&args.host).await?;
    for kept in &forgotten {
        note(&format!("credentials removed that were kept {}", place_of(kept)));
    }
    let text = match forgotten.is_empty() {
        true => format!("Not logged in to {}\n", args.host),
        false => format!("Removed login credentials for {}\n", args.host),
    };
    Ok(print(&text)?)
}
