//! `layerpull version`.

use crate::cli::Format;
use crate::cli::output::{json, print};

/// How it is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Prints the version.
///
/// # Errors
/// When standard output does not take it.
pub fn run(args: Args) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    match args.format {
        Format::Text => print(&format!("layerpull {version}\n"))?,
        Format::Json => print(&json(&serde_json::json!({"version": version}))?)?,
    }
    Ok(())
}
