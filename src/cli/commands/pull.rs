//! `layerpull pull`: images into the store, moving only what is missing.

use std::sync::Arc;

use crate::cli::Context;
use crate::cli::config::{Flags, RegistryFlags, TransferFlags};
use crate::cli::ending::OutputFlags;
use crate::cli::foresight::{Disk, Foresight, ForesightFlags, Work};
use crate::cli::place::{self, locals, registry, with_local};
use crate::cli::progress::Progress;
use crate::cli::results::{self, Direction, Pulled};
use crate::content::Sink;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::oci::{Platform, Reference};
use crate::registry::Registry;
use crate::store::Store;
use crate::transfer::{Job, Plan, Platforms, Report, Transfer};

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
    platform: Vec<Platform>,
    /// Everything below an index
    #[arg(long)]
    all_platforms: bool,
    /// Whether it is only planned.
    #[command(flatten)]
    foresight: ForesightFlags,
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

impl Args {
    /// Everything that is a setting too.
    pub fn flags(&self, flags: Flags) -> Flags {
        Flags {
            registry: self.registry.clone(),
            transfer: self.transfer.clone(),
            platform: self.platform.clone(),
            ..flags
        }
    }

    /// The same, only planned.
    pub fn planned(self) -> Args {
        Args { foresight: self.foresight.planned(), ..self }
    }

    fn platforms(&self, context: &Context) -> Platforms {
        match self.all_platforms {
            true => Platforms::All,
            false => Platforms::Only(context.settings.platform.value.clone()),
        }
    }

    /// Whether nothing is moved.
    pub fn is_dry(&self) -> bool {
        self.foresight.is_dry()
    }
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
    if args.foresight.check()? {
        return foresee(&args, names, context).await;
    }
    let digests = args.output.digests()?;
    let progress = Progress::start(args.output.mode(context));
    let ended = pull(&args, names, context, &progress).await;
    progress.finish();
    args.output.conclude(context, Direction::Here, ended?, digests)
}

async fn pull(
    args: &Args,
    names: Vec<Reference>,
    context: &Context,
    progress: &Progress,
) -> Result<(Vec<Pulled>, Report)> {
    let events = progress.events();
    let store = place::store(context, events.clone())?;
    let _shared = store.share_to_write().await?;
    let transfer = context.transfer(events);
    let plan = plan(args, names, context, &store, &transfer).await?;
    let sizes = results::sizes(&plan);
    let report = transfer.run(plan).await?;
    Ok((results::pulled(&report, &sizes), report))
}

/// Says what a pull would do. A store that is not there is not made.
async fn foresee(args: &Args, names: Vec<Reference>, context: &Context) -> anyhow::Result<()> {
    let events = context.notices();
    let store = place::store(context, events.clone())?.untouched();
    let _shared = store.share().await?;
    let plan = plan(args, names, context, &store, &context.transfer(events)).await?;
    let disk = Some(Disk::of(&store, &plan)?);
    let foresight = Foresight { plan, kept: Vec::new(), direction: Direction::Here, disk };
    foresight.conclude(context, &args.output, args.foresight, Work::None)
}

async fn plan(
    args: &Args,
    names: Vec<Reference>,
    context: &Context,
    store: &Store,
    transfer: &Transfer,
) -> Result<Plan> {
    let registry = registry(&context.settings, transfer.events.clone());
    let places = locals(&context.settings, Some(store.root()))?;
    let sink: Arc<dyn Sink> = Arc::new(store.clone());
    let mut failed = Vec::new();
    let names = match args.all_tags {
        true => all_tags(&registry, transfer, names, &mut failed).await?,
        false => names,
    };
    let mut jobs = Vec::new();
    for name in names {
        match registry.repository(&name) {
            Ok(repository) => {
                let source = with_local(Arc::new(repository), &places);
                let (target, sink) = (name.clone(), Arc::clone(&sink));
                jobs.push(Job { name, target, source, sink, platforms: args.platforms(context) });
            }
            // The trust policy refuses this one; the others are pulled.
            Err(error @ Error::Refused { .. }) => failed.push((name, error)),
            Err(error) => return Err(error),
        }
    }
    let mut plan = transfer.plan(jobs).await?;
    plan.failed.extend(failed.into_iter().map(|(name, error)| (name, Arc::new(error))));
    Ok(plan)
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
