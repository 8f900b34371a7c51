//! `layerpull tags`: the tags of a repository.

use crate::cli::config::RegistryFlags;
use crate::cli::output::{json, lines, print};
use crate::cli::place::registry;
use crate::cli::{Context, Format};
use crate::oci::Reference;

/// Which repository.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Repository whose tags are listed
    #[arg(value_name = "REPOSITORY")]
    repository: String,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Which registry and how.
    #[command(flatten)]
    pub registry: RegistryFlags,
}

/// Prints the tags, one a line.
///
/// # Errors
/// Those of the registry.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let name: Reference = context.reference(&args.repository)?;
    let registry = registry(&context.settings, context.notices());
    let tags = context.transfer(context.notices()).persist(&name.name(), || registry.tags(&name)).await?;
    match args.format {
        Format::Text => print(&lines(&tags))?,
        // The form of `skopeo list-tags`.
        Format::Json => print(&json(&serde_json::json!({"Repository": name.name(), "Tags": tags}))?)?,
    }
    Ok(())
}
