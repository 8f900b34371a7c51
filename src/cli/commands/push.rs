//! `layerpull push`: images of the store to registries, moving only what is missing there.

use std::sync::Arc;

use crate::cli::Context;
use crate::cli::attached::{self, Along, Hanging};
use crate::cli::config::{Flags, RegistryFlags, TransferFlags};
use crate::cli::ending::OutputFlags;
use crate::cli::foresight::{Foresight, ForesightFlags, Work};
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

    /// Where it goes.
    fn targets(&self) -> Result<Vec<Spot>> {
        let words = if self.images.len() > 1 { &self.images[1..] } else { &self.images[..] };
        words.iter().map(|text| Spot::parse(text)).collect()
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
    let registry = place::registry(&context.settings, transfer.events.clone());
    let mut open = Vec::new();
    for to in args.targets()? {
        let writing = Writing::open(&to, &registry, context, transfer.events.clone()).await?;
        open.push((to, writing));
    }
    let from = From::open(args, &registry, context, transfer.events.clone()).await?;
    let images = from.images(args, &open, context)?;
    let (mut pulled, report) = attached::along(&transfer, &images).await?;
    for (_, writing) in &open {
        writing.deliver(&mut pulled, context, &transfer.events).await;
    }
    Ok((pulled, report))
}

/// Says what a push would do.
async fn foresee(args: &Args, context: &Context) -> anyhow::Result<()> {
    let transfer = context.transfer(context.notices());
    let registry = place::registry(&context.settings, transfer.events.clone());
    let opened = |to: Spot| {
        let writing = Writing::foreseen(&to, &registry, context, transfer.events.clone())?;
        Ok((to, writing))
    };
    let open = args.targets()?.into_iter().map(opened).collect::<Result<Vec<_>>>()?;
    let from = From::open(args, &registry, context, transfer.events.clone()).await?;
    let plan = attached::foreseen(&transfer, &from.images(args, &open, context)?).await?;
    let foresight = Foresight { plan, kept: Vec::new(), direction: Direction::There, disk: None };
    foresight.conclude(context, &args.output, args.foresight, Work::None)
}

/// What is pushed.
struct From {
    spot: Spot,
    source: Arc<dyn Source>,
    platforms: Platforms,
    /// The tags beside it, where referrers are wanted.
    tags: Arc<[String]>,
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
                Ok(From { spot, source, platforms, tags: Arc::default(), _held: Held::Other { _reading: reading } })
            }
        }
    }

    async fn store(args: &Args, name: Reference, context: &Context, events: Events) -> Result<From> {
        let store = match args.is_dry() {
            true => place::store(context, events)?.untouched(),
            false => place::store(context, events)?,
        };
        let shared = store.share().await?;
        let takes_one =
            args.platform.is_empty() && args.images.len() > 1 && args.targets()?.iter().all(Spot::takes_one_platform);
        let platforms = match takes_one {
            true => Platforms::Only(vec![context.platform()]),
            false => held(&store, &name, &args.platform).await?,
        };
        let tags = if args.referrers { place::tags_in(&store, &name).await?.into() } else { Arc::default() };
        let source = Arc::new(store);
        Ok(From { spot: Spot::Registry(name), source, platforms, tags, _held: Held::Store { _shared: shared } })
    }

    /// The same image for each of the places that it goes to.
    fn images(&self, args: &Args, open: &[(Spot, Writing)], context: &Context) -> Result<Vec<Along>> {
        let along = open.iter().map(|(to, writing)| {
            let (name, target) = transport::names(&self.spot, to);
            let platforms = match to.takes_one_platform() && args.platform.is_empty() {
                true => Platforms::Only(vec![context.platform()]),
                false => self.platforms.clone(),
            };
            let job = Job { name, target, source: self.source.clone(), sink: writing.sink.clone(), platforms };
            let hanging = match args.referrers {
                true => Some(Hanging { there: Some(writing.listing()?), tags: self.tags.clone() }),
                false => None,
            };
            Ok(Along { job, hanging })
        });
        along.collect()
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
