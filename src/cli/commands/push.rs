//! `layerpull push`: images of the store to registries, moving only what is missing there.

use std::sync::Arc;

use crate::cli::Context;
use crate::cli::attached::{self, Along};
use crate::cli::config::{Flags, RegistryFlags, TransferFlags};
use crate::cli::ending::OutputFlags;
use crate::cli::foresight::{Foresight, ForesightFlags, Work};
use crate::cli::place::{self, registry};
use crate::cli::progress::Progress;
use crate::cli::results::{Direction, Pulled};
use crate::content::Source;
use crate::error::{Error, Result};
use crate::oci::{Platform, Reference};
use crate::store::Store;
use crate::transfer::{Job, Platforms, Report, Transfer};

/// Which images, and where to.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names to push to. Of several the first only names the image of the store: SRC IMAGE…
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Platform to push of an index, as OS/ARCH[/VARIANT] (repeatable): of one its manifest, of several a new index
    /// [default: the whole index]
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<Platform>,
    /// Push signatures, SBOMs and attestations that the store has, too: what names the image, or something of it, as its
    /// subject, and cosign's tags
    #[arg(long)]
    referrers: bool,
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
        Flags { registry: self.registry.clone(), transfer: self.transfer.clone(), ..flags }
    }

    /// The same, only planned.
    pub fn planned(self) -> Args {
        Args { foresight: self.foresight.planned(), ..self }
    }

    /// Whether nothing is moved.
    pub fn is_dry(&self) -> bool {
        self.foresight.is_dry()
    }
}

/// Pushes.
///
/// # Errors
/// Those of the only image; `Told` when some of several failed; `Store`, `Interrupted`.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    if args.foresight.check()? {
        return foresee(&args, context).await;
    }
    let digests = args.output.digests()?;
    let progress = Progress::start(args.output.mode(context));
    let ended = push(&args, context, &progress).await;
    progress.finish();
    args.output.conclude(context, Direction::There, ended?, digests)
}

async fn push(args: &Args, context: &Context, progress: &Progress) -> Result<(Vec<Pulled>, Report)> {
    let transfer = context.transfer(progress.events());
    let store = place::store(context, transfer.events.clone())?;
    let _shared = store.share().await?;
    let images = images(args, context, &store, &transfer).await?;
    match args.referrers {
        true => attached::along(&transfer, &images).await,
        false => attached::alone(&transfer, images.into_iter().map(|image| image.job).collect()).await,
    }
}

/// Says what a push would do.
async fn foresee(args: &Args, context: &Context) -> anyhow::Result<()> {
    let transfer = context.transfer(context.notices());
    let store = place::store(context, transfer.events.clone())?.untouched();
    let _shared = store.share().await?;
    let images = images(args, context, &store, &transfer).await?;
    let plan = match args.referrers {
        true => attached::plan(&transfer, &images).await?,
        false => transfer.plan(images.into_iter().map(|image| image.job).collect()).await?,
    };
    let foresight = Foresight { plan, kept: Vec::new(), direction: Direction::There, disk: None };
    foresight.conclude(context, &args.output, args.foresight, Work::None)
}

async fn images(args: &Args, context: &Context, store: &Store, transfer: &Transfer) -> Result<Vec<Along>> {
    let registry = registry(&context.settings, transfer.events.clone());
    let source: Arc<dyn Source> = Arc::new(store.clone());
    let targets = if args.images.len() > 1 { &args.images[1..] } else { &args.images[..] };
    let name = context.reference(&args.images[0])?;
    let platforms = held(store, &name, &args.platform).await?;
    let tags = if args.referrers { place::tags_in(store, &name).await? } else { Vec::new() };
    let mut pushed = Vec::new();
    for text in targets {
        let target = context.reference(text)?;
        let there = Arc::new(registry.repository_to_write(&target));
        let (name, source, platforms) = (name.clone(), Arc::clone(&source), platforms.clone());
        let job = Job { name, target, source, sink: there.clone(), platforms };
        pushed.push(Along { job, there, tags: tags.clone() });
    }
    Ok(pushed)
}

/// What of the image is pushed. Of an index of which the store holds some platforms nothing else can be.
async fn held(store: &Store, name: &Reference, wanted: &[Platform]) -> Result<Platforms> {
    use crate::content::Sink as _;
    let held = store.tagged(name).await?.and_then(|root| root.platforms);
    match (held, wanted) {
        (None, []) => Ok(Platforms::All),
        (Some(held), []) => {
            let list = held.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ");
            Err(Error::Usage(format!(
                "{name}: of this index the store holds {list} alone: push that with --platform, or bring the others \
                 here first with `layerpull pull --all-platforms {name}`"
            )))
        }
        (_, wanted) => Ok(Platforms::Only(wanted.to_vec())),
    }
}
