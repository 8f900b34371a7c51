//! `layerpull pull`: images into the store, moving only what is missing.

use std::sync::Arc;

use crate::cli::Context;
use crate::cli::config::{RegistryFlags, TransferFlags};
use crate::cli::ending::OutputFlags;
use crate::cli::engine::{self, EngineName};
use crate::cli::place::{self, registry, with_local};
use crate::cli::progress::Progress;
use crate::cli::results::{self, Direction, Pulled};
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
    /// Load them into an engine, too, which gets the layers that it lacks: docker, podman or containerd[:NAMESPACE]
    #[arg(long, value_name = "ENGINE")]
    to: Option<EngineName>,
    /// What is printed.
    #[command(flatten)]
    output: OutputFlags,
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
    let digests = args.output.digests()?;
    let progress = Progress::start(args.output.mode(context));
    let ended = pull(&args, names, context, &progress).await;
    progress.finish();
    match &args.to {
        None => args.output.conclude(context, Direction::Here, ended?, digests),
        Some(engine) => engine::hand_on(&args.output, engine, (Direction::Here, ended?), context, digests).await,
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
