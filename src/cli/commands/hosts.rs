//! `layerpull hosts`: which hosts would be asked for an image, in which order, and who says so.

use serde::Serialize;

use crate::cli::config::RegistryFlags;
use crate::cli::output::{escape, json, print, table};
use crate::cli::place::registry;
use crate::cli::{Context, Format};
use crate::oci::Reference;
use crate::registry::{Configured, Endpoint, Role};

/// Which image.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image that would be asked for
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Which registry and how.
    #[command(flatten)]
    pub registry: RegistryFlags,
}

/// One host, with stable names.
#[derive(Serialize)]
struct Row {
    /// Below which its manifests and blobs are.
    url: String,
    /// `registry` or `mirror`.
    role: &'static str,
    /// Of `pull`, `resolve` and `push`.
    capabilities: Vec<&'static str>,
    /// The registry that it is told to stand for.
    #[serde(skip_serializing_if = "Option::is_none")]
    ns: Option<String>,
    /// Names of the headers that it is sent besides the usual ones; their values may be secret.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<String>,
    /// A flag, a variable, a file, or `default`.
    configured: String,
    /// The line in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
}

/// Prints the hosts. Asks none of them.
///
/// # Errors
/// `Refused` when the registry is blocked; `Usage` with file and line when a file makes no sense.
pub fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let name: Reference = context.reference(&args.image)?;
    let endpoints = registry(&context.settings, context.notices()).hosts(&name)?;
    let rows: Vec<Row> = endpoints.iter().map(row).collect();
    let text = match args.format {
        Format::Text => format!("{name}\n{}", table(&rows.iter().enumerate().map(cells).collect::<Vec<_>>())),
        Format::Json => json(&serde_json::json!({"reference": name.to_string(), "hosts": rows}))?,
    };
    Ok(print(&text)?)
}

fn row(endpoint: &Endpoint) -> Row {
    let may = endpoint.may;
    let capabilities = [("pull", may.pull), ("resolve", may.resolve), ("push", may.push)];
    let (configured, line) = match &endpoint.configured {
        Configured::File(path, line) => (path.display().to_string(), Some(*line)),
        other => (other.to_string(), None),
    };
    Row {
        url: endpoint.url(),
        role: if endpoint.role == Role::Mirror { "mirror" } else { "registry" },
        capabilities: capabilities.into_iter().filter(|(_, may)| *may).map(|(name, _)| name).collect(),
        ns: endpoint.namespace().map(str::to_owned),
        headers: endpoint.headers().into_iter().map(str::to_owned).collect(),
        configured,
        line,
    }
}

fn cells((at, row): (usize, &Row)) -> Vec<String> {
    let ns = row.ns.iter().map(|ns| format!("ns={}", escape(ns)));
    let headers = row.headers.iter().map(|name| format!("header {name}"));
    let more: Vec<String> = ns.chain(headers).collect();
    let line = row.line.map(|line| format!(":{line}")).unwrap_or_default();
    vec![
        (at + 1).to_string(),
        row.role.into(),
        escape(&row.url),
        row.capabilities.join(","),
        more.join(", "),
        format!("{}{line}", escape(&row.configured)),
    ]
}
