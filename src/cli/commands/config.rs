//! `layerpull config`: every setting and where it came from.

use std::net::SocketAddr;

use crate::cli::config::{Flags, RegistryFlags, Row, TransferFlags, socket};
use crate::cli::output::{escape, json, print, table};
use crate::cli::{Context, Format};
use crate::oci::Platform;

/// Flags, so that their effect can be seen.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Platform to take of an index (repeatable)
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<Platform>,
    /// Address that `serve` listens on
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket)]
    listen: Option<SocketAddr>,
    /// How registries are reached.
    #[command(flatten)]
    registry: RegistryFlags,
    /// How blobs are moved.
    #[command(flatten)]
    transfer: TransferFlags,
}

impl Args {
    /// Adds these to `flags`.
    pub fn flags(&self, flags: Flags) -> Flags {
        let (registry, transfer) = (self.registry.clone(), self.transfer.clone());
        Flags { registry, transfer, platform: self.platform.clone(), listen: self.listen, ..flags }
    }
}

/// Prints the settings.
///
/// # Errors
/// When standard output does not take them.
pub fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let rows = context.settings.rows();
    let text = match args.format {
        Format::Text => table(&rows.iter().map(cells).collect::<Vec<_>>()),
        Format::Json => json(&rows)?,
    };
    Ok(print(&text)?)
}

fn cells(row: &Row) -> Vec<String> {
    vec![row.name.into(), escape(&row.value), escape(&row.origin)]
}
