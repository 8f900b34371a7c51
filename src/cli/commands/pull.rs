//! `layerpull pull`: images into the store, moving only what is missing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::config::{Origin, RegistryFlags, TransferFlags};
use crate::cli::exit::{self, Told};
use crate::cli::output::{note, print};
use crate::cli::place::{self, registry, with_local};
use crate::cli::progress::{Mode, Progress};
use crate::cli::results::{self, Pulled};
use crate::cli::{Context, Format, args};
use crate::content::Sink;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::oci::{Platform, Reference};
use crate::registry::Registry;
use crate::transfer::{Job, Platforms, Report, Transfer};

/// Which images, and what of them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Images to bring here
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// All tags of the repositories
    #[arg(short, long)]
    all_tags: bool,
    /// Platform to take of an index, as OS/ARCH[/VARIANT] (repeatable) [default: this machine's]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    pub platform: Vec<Platform>,
    /// Everything below an index
    #[arg(long)]
    all_platforms: bool,
    /// Print only one line an image: the reference with its digest
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write the digests into this file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
    /// Which registry and how.
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// How blobs are moved.
    #[command(flatten)]
    pub transfer: TransferFlags,
}

/// Pulls.
///
/// # Errors
/// Those of the only image; [`Told`] when some of several failed; `Store`, `Interrupted`.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let names: Vec<Reference> = args.images.iter().map(|text| context.reference(text)).collect::<Result<_>>()?;
    let progress = Progress::start(mode(&args, context));
    let ended = pull(&args, names, context, &progress).await;
    progress.finish();
    let (pulled, report) = ended?;
    conclude(&args, context, &pulled, &report)
}

/// Somebody who asked for one line gets no progress, unless they asked for that, too.
fn mode(args: &Args, context: &Context) -> Mode {
    match (args.quiet, &context.settings.progress.origin) {
        (true, Origin::Default) => Mode::None,
        _ => context.settings.progress.value,
    }
}

async fn pull(
    args: &Args,
    names: Vec<Reference>,
    context: &Context,
    progress: &Progress,
) -> Result<(Vec<Pulled>, Report)> {
    let (settings, events) = (&context.settings, progress.events());
    let registry = registry(settings, events.clone());
    let store = place::store(context, events.clone())?;
    let _shared = store.share_to_write().await?;
    let sink: Arc<dyn Sink> = Arc::new(store);
    let transfer = context.transfer(events);
    let names = match args.all_tags {
        true => all_tags(&registry, &transfer, &names).await?,
        false => names,
    };
    let jobs = names.iter().map(|name| job(args, name, &registry, &sink, context)).collect::<Result<_>>()?;
    let plan = transfer.plan(jobs).await?;
    let sizes = results::sizes(&plan);
    let report = transfer.run(plan).await?;
    Ok((results::pulled(&report, &sizes), report))
}

fn job(args: &Args, name: &Reference, registry: &Registry, sink: &Arc<dyn Sink>, context: &Context) -> Result<Job> {
    let source = with_local(Arc::new(registry.repository(name)?), &context.settings)?;
    let platforms = match args.all_platforms {
        true => Platforms::All,
        false => Platforms::Only(context.settings.platform.value.clone()),
    };
    Ok(Job { name: name.clone(), target: name.clone(), source, sink: Arc::clone(sink), platforms })
}

async fn all_tags(registry: &Registry, transfer: &Transfer, names: &[Reference]) -> Result<Vec<Reference>> {
    let mut all = Vec::new();
    for name in names {
        let tags = transfer.persist(&name.name(), || registry.tags(name)).await?;
        for tag in tags {
            match name.tagged(&tag) {
                Ok(tagged) => all.push(tagged),
                Err(error) => {
                    let text = format!("{}: the registry lists a tag that cannot be one: {error}", name.name());
                    transfer.events.on(&Event::Warning { text });
                }
            }
        }
    }
    Ok(all)
}

/// Results on standard output, the summary and failures on standard error.
fn conclude(args: &Args, context: &Context, pulled: &[Pulled], report: &Report) -> anyhow::Result<()> {
    let failures: Vec<&Error> =
        pulled.iter().filter_map(|image| image.result.as_ref().err().map(Arc::as_ref)).collect();
    for error in &failures {
        exit::tell(error);
    }
    hint(context, &failures);
    // The last event says the same to a program.
    if !args.quiet && mode(args, context) != Mode::Json && failures.len() < pulled.len() {
        note(&results::summary(report));
    }
    if let Some(file) = &args.digestfile {
        write_digests(file, pulled)?;
    }
    print(&match (args.quiet, args.format) {
        (true, _) => results::quiet(pulled),
        (false, Format::Text) => results::text(pulled),
        (false, Format::Json) => results::json(pulled)?,
    })?;
    match exit::of_several(failures, pulled.len()) {
        0 => Ok(()),
        code => Err(Told(code).into()),
    }
}

/// A word that is no image may have meant a command.
fn hint(context: &Context, failures: &[&Error]) {
    let Some(word) = &context.guess else { return };
    if let Some(command) = args::meant(word).filter(|_| !failures.is_empty()) {
        note(&format!("hint: {word:?} was taken for an image; did you mean `layerpull {command}`?"));
    }
}

/// As skopeo does: without a line break at the end.
fn write_digests(file: &Path, pulled: &[Pulled]) -> Result<()> {
    let digests = pulled.iter().filter_map(|image| image.result.as_ref().ok());
    let text = digests.map(ToString::to_string).collect::<Vec<_>>().join("\n");
    std::fs::write(file, text).map_err(Error::store("write the digests to", file))
}
