//! `layerpull push`: images of the store to registries, moving only what is missing there.

use std::sync::Arc;

use crate::cli::Context;
use crate::cli::attached::{self, Along};
use crate::cli::config::{RegistryFlags, TransferFlags};
use crate::cli::ending::OutputFlags;
use crate::cli::place;
use crate::cli::progress::Progress;
use crate::cli::results::{Direction, Pulled};
use crate::cli::transport::{self, Reading, Spot, Writing};
use crate::content::Source;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::oci::{Platform, Reference};
use crate::registry::Registry;
use crate::store::{Shared, Store};
use crate::transfer::{Job, Platforms, Report};

/// Which images, and where to.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names to push to, or places as those of `copy`. Of several the first only names the image of the store, or a place: SRC
    /// IMAGE…
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

/// Pushes.
///
/// # Errors
/// Those of the only image; `Told` when some of several failed; `Store`, `Interrupted`.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let digests = args.output.digests()?;
    let progress = Progress::start(args.output.mode(context));
    let ended = push(&args, context, &progress).await;
    progress.finish();
    args.output.conclude(context, Direction::There, ended?, digests)
}

async fn push(args: &Args, context: &Context, progress: &Progress) -> Result<(Vec<Pulled>, Report)> {
    let events = progress.events();
    let registry = place::registry(&context.settings, events.clone());
    let from = From::open(args, &registry, context, events.clone()).await?;
    let targets = if args.images.len() > 1 { &args.images[1..] } else { &args.images[..] };
    let (mut pushed, mut open) = (Vec::new(), Vec::new());
    for text in targets {
        let to = Spot::parse(text)?;
        let writing = Writing::open(&to, &registry, context, events.clone()).await?;
        let (name, target) = transport::names(&from.spot, &to);
        let source = Arc::clone(&from.source);
        let platforms = match to.takes_one_platform() && args.platform.is_empty() {
            true => Platforms::Only(vec![context.platform()]),
            false => from.platforms.clone(),
        };
        pushed.push(Job { name, target, source, sink: writing.sink.clone(), platforms });
        open.push(writing);
    }
    let transfer = context.transfer(events.clone());
    if !args.referrers {
        let (mut pulled, report) = attached::alone(&transfer, pushed).await?;
        for writing in &open {
            writing.deliver(&mut pulled, context, &events).await;
        }
        return Ok((pulled, report));
    }
    let along = pushed.into_iter().zip(&open);
    let along = along.map(|(job, to)| Ok(Along { job, there: to.listing()?, tags: from.tags.clone() }));
    attached::along(&transfer, &along.collect::<Result<Vec<_>>>()?).await
}

/// What is pushed.
struct From {
    spot: Spot,
    source: Arc<dyn Source>,
    platforms: Platforms,
    /// The tags beside it, where referrers are wanted.
    tags: Vec<String>,
    /// Nothing is collected meanwhile.
    _held: Held,
}

/// What keeps the place as it is.
enum Held {
    Store { _shared: Shared },
    Other { _reading: Reading },
}

impl From {
    async fn open(args: &Args, registry: &Registry, context: &Context, events: Events) -> Result<From> {
        let text = &args.images[0];
        match Spot::parse(text)? {
            Spot::Registry(name) => From::store(args, name, context, events).await,
            _ if args.images.len() == 1 => {
                Err(Error::Usage(format!("{text}: say where it goes, too: layerpull push {text} REGISTRY/NAME")))
            }
            spot => {
                let reading = Reading::open(&spot, registry, context, events).await?;
                let platforms = reading.platforms(&args.platform);
                let source = reading.source.clone();
                Ok(From { spot, source, platforms, tags: Vec::new(), _held: Held::Other { _reading: reading } })
            }
        }
    }

    async fn store(args: &Args, name: Reference, context: &Context, events: Events) -> Result<From> {
        let store = place::store(context, events)?;
        let shared = store.share().await?;
        let mut to = args.images[1..].iter().map(|text| Spot::parse(text));
        let platforms = match args.images.len() > 1 && to.all(|to| to.is_ok_and(|to| to.takes_one_platform())) {
            true => Platforms::Only(vec![context.platform()]),
            false => held(&store, &name, &args.platform).await?,
        };
        let tags = if args.referrers { place::tags_in(&store, &name).await? } else { Vec::new() };
        let source = Arc::new(store);
        Ok(From { spot: Spot::Registry(name), source, platforms, tags, _held: Held::Store { _shared: shared } })
    }
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
