//! `layerpull import`: archives into the store.

use serde::Serialize;

use crate::cli::config::TransferFlags;
use crate::cli::ending::OutputFlags;
use crate::cli::output::{escape, json_line, print, table};
use crate::cli::progress::Progress;
use crate::cli::results::{Direction, Pulled};
use crate::cli::unpacking::{Choice, Opened, Unpacking, named, opened};
use crate::cli::{Context, Format, place, spool};
use crate::error::Result;
use crate::oci::Reference;
use crate::transfer::Report;

/// Which archives.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Archives: tar files of docker, podman, skopeo or layerpull, also compressed with gzip, xz or zstd; volumes in any
    /// order; folders with an OCI layout; - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// How they are read.
    #[command(flatten)]
    pub how: How,
}

/// What of archives is read.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Only show what is in them
    #[arg(long)]
    list: bool,
    /// Take this image only (repeatable)
    #[arg(long, value_name = "IMAGE")]
    image: Vec<String>,
    /// Name that the image gets, where it is the only one
    #[arg(long, value_name = "IMAGE")]
    name: Option<String>,
    /// What is printed.
    #[command(flatten)]
    output: OutputFlags,
    /// How blobs are moved.
    #[command(flatten)]
    pub transfer: TransferFlags,
}

/// Imports.
///
/// # Errors
/// Those of archives and of the store.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    load(&args.files, &args.how, context).await
}

/// Brings `files` into the store, or shows what is in them.
///
/// # Errors
/// Those of archives and of the store.
pub async fn load(files: &[String], how: &How, context: &Context) -> anyhow::Result<()> {
    let reference = |text: &String| context.reference(text);
    let only = how.image.iter().map(reference).collect::<Result<Vec<_>>>()?;
    let choice = Choice { only, name: how.name.as_ref().map(reference).transpose()? };
    let archives = tokio::task::block_in_place(|| opened(files))?;
    if how.list {
        return list(archives, how).await;
    }
    let digests = how.output.digests()?;
    let progress = Progress::start(how.output.mode(context));
    let ended = import(archives, &choice, context, &progress).await;
    progress.finish();
    how.output.conclude(context, Direction::Unpacked, ended?, digests)
}

async fn import(
    archives: Vec<Opened>,
    choice: &Choice,
    context: &Context,
    progress: &Progress,
) -> Result<(Vec<Pulled>, Report)> {
    let events = progress.events();
    let store = place::store(context, events.clone())?;
    let _shared = store.share_to_write().await?;
    let transfer = context.transfer(events);
    let unpacking = Unpacking { store: &store, transfer: &transfer, choice };
    unpacking.all(archives).await
}

/// One image of an archive, with stable names.
#[derive(Serialize)]
struct Row {
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    digest: Option<String>,
    leaves_out: usize,
}

async fn list(archives: Vec<Opened>, how: &How) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for opened in archives {
        match opened {
            Opened::Disk(archive) => {
                rows.extend(archive.images().iter().map(|image| Row {
                    name: image.name.clone(),
                    reference: named(&archive, image).ok().as_ref().map(Reference::to_string),
                    digest: Some(image.root.digest.to_string()),
                    leaves_out: archive.presumed().len(),
                }));
            }
            Opened::Stream(from) => {
                let names = spool::names(from).await?;
                rows.extend(names.into_iter().map(|(name, digest)| Row {
                    reference: None,
                    digest: digest.map(|digest| digest.to_string()),
                    name,
                    leaves_out: 0,
                }));
            }
        }
    }
    Ok(print(&match how.output.format() {
        Some(Format::Json) => rows.iter().map(json_line).collect::<serde_json::Result<String>>()?,
        _ => listed(&rows),
    })?)
}

fn listed(rows: &[Row]) -> String {
    let head = vec!["NAME".to_owned(), "DIGEST".to_owned()];
    let shown = |text: &Option<String>| text.as_deref().map_or_else(|| "-".into(), escape);
    let row = |row: &Row| {
        let name = if row.reference.is_some() { &row.reference } else { &row.name };
        vec![shown(name), shown(&row.digest)]
    };
    table(&std::iter::once(head).chain(rows.iter().map(row)).collect::<Vec<_>>())
}
