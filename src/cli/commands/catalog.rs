//! `layerpull catalog`: the repositories of a registry.

use super::tags::lines;
use crate::cli::config::RegistryFlags;
use crate::cli::output::{json, print};
use crate::cli::place::registry;
use crate::cli::{Context, Format};

/// Which registry.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Registry, as HOST or HOST:PORT
    #[arg(value_name = "REGISTRY", value_parser = host)]
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

/// A registry as people name it: with or without scheme and path.
pub(super) fn host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let bare = bare.split('/').next().unwrap_or_default();
    // Any repository will do: what is asked is whether a reference may name this host.
    let name = format!("{bare}/x").parse::<crate::oci::Reference>();
    match name {
        Ok(name) if name.registry() == bare || bare == "index.docker.io" => Ok(name.registry().into()),
        _ => Err("expected a registry such as registry.example or 127.0.0.1:5000".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_with_or_without_scheme() {
        assert_eq!(host("https://h.example:5000/v2/"), Ok("h.example:5000".into()));
        assert_eq!(host("index.docker.io"), Ok("docker.io".into()));
        assert_eq!(host("localhost"), Ok("localhost".into()));
        for bad in ["", "mysql", "a b.c", "user@h.example", "../x"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
