//! `layerpull catalog`: the repositories of a registry.

use crate::cli::config::{RegistryFlags, values};
use crate::cli::output::{json, lines, print};
use crate::cli::place::registry;
use crate::cli::{Context, Format};

/// Which registry.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Registry, as HOST or HOST:PORT
    #[arg(value_name = "REGISTRY", value_parser = values::registry)]
    host: String,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// How it is reached.
    #[command(flatten)]
    pub registry: RegistryFlags,
}

/// Prints the repositories, one a line.
///
/// # Errors
/// Those of the registry; many refuse this to everybody.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let registry = registry(&context.settings, context.notices());
    let patience = context.transfer(context.notices());
    let repositories = patience.persist(&args.host, || registry.catalog(&args.host)).await?;
    match args.format {
        Format::Text => print(&lines(&repositories))?,
        Format::Json => print(&json(&serde_json::json!({"repositories": repositories}))?)?,
    }
    Ok(())
}
