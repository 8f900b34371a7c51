//! `layerpull pull`: images into the store, moving only what is missing.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cli::config::{Origin, RegistryFlags, TransferFlags};
use crate::cli::digestfile::Digestfile;
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
    /// Write the digests into this file, one a line; the line of an image that failed is empty
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
    if let Some(text) = args.images.iter().find(|text| args.all_tags && is_pinned(text)) {
        return Err(Error::Usage(format!("--all-tags takes every tag: leave out which one in {text}")).into());
    }
    // A file that cannot be written is no reason to pull first.
    let digests = args.digestfile.as_deref().map(Digestfile::open).transpose()?;
    let progress = Progress::start(mode(&args, context));
    let ended = pull(&args, names, context, &progress).await;
    progress.finish();
    let (pulled, report) = ended?;
    conclude(&args, context, &pulled, &report)?;
    if let Some(digests) = digests {
        digests.write(&pulled)?;
    }
    match exit::of_several(failures(&pulled), pulled.len()) {
        0 => Ok(()),
        code => Err(Told(code).into()),
    }
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
    let mut failed = Vec::new();
    let names = match args.all_tags {
        true => all_tags(&registry, &transfer, names, &mut failed).await?,
        false => names,
    };
    let mut jobs = Vec::new();
    for name in names {
        match job(args, &name, &registry, &sink, context) {
            Ok(job) => jobs.push(job),
            // The trust policy refuses this one; the others are pulled.
            Err(error @ Error::Refused { .. }) => failed.push((name, error)),
            Err(error) => return Err(error),
        }
    }
    let mut plan = transfer.plan(jobs).await?;
    plan.failed.extend(failed.into_iter().map(|(name, error)| (name, Arc::new(error))));
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

async fn all_tags(
    registry: &Registry,
    transfer: &Transfer,
    names: Vec<Reference>,
    failed: &mut Vec<(Reference, Error)>,
) -> Result<Vec<Reference>> {
    let mut all = Vec::new();
    for name in names {
        let tags = match transfer.persist(&name.name(), || registry.tags(&name)).await {
            Ok(tags) => tags,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                failed.push((name, error));
                continue;
            }
        };
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

/// Whether a name says which image of its repository is meant: a tag is `latest` only where none was given.
fn is_pinned(text: &str) -> bool {
    text.contains('@') || text.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

/// Results on standard output, the summary and failures on standard error.
fn conclude(args: &Args, context: &Context, pulled: &[Pulled], report: &Report) -> anyhow::Result<()> {
    let failures = failures(pulled);
    for error in &failures {
        exit::tell(error, &context.ground);
    }
    hint(context, &failures);
    // The last event says the same to a program.
    if !args.quiet && mode(args, context) != Mode::Json && failures.len() < pulled.len() {
        note(&results::summary(report));
    }
    print(&match (args.quiet, args.format) {
        (true, _) => results::quiet(pulled),
        (false, Format::Text) => results::text(pulled),
        (false, Format::Json) => results::json(pulled, report)?,
    })?;
    Ok(())
}

fn failures(pulled: &[Pulled]) -> Vec<&Error> {
    pulled.iter().filter_map(|image| image.result.as_ref().err().map(Arc::as_ref)).collect()
}

/// A word that is no image may have meant a command.
fn hint(context: &Context, failures: &[&Error]) {
    let Some(word) = &context.guess else { return };
    if let Some(command) = args::meant(word).filter(|_| !failures.is_empty()) {
        note(&format!("hint: {word:?} was taken for an image; did you mean `layerpull {command}`?"));
    }
}
