//! `layerpull sync`: the images that a file names, from registries to registries, in one plan.

use std::collections::{BTreeMap, HashSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use crate::cli::Context;
use crate::cli::config::{Flags, Origin, RegistryFlags, Settings, TransferFlags};
use crate::cli::ending::OutputFlags;
use crate::cli::exit::{self, Told};
use crate::cli::foresight::{self, Foresight, ForesightFlags, Tell, Work};
use crate::cli::output::{escape, note, print};
use crate::cli::place::{self, Side, locals, with_local};
use crate::cli::progress::Progress;
use crate::cli::results::{self, Direction, Done, Pulled, Size};
use crate::content::{Sink, Source};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::local::Local;
use crate::oci::Reference;
use crate::registry::{Credential, Deletion, Registry};
use crate::sync;
use crate::sync::delete::Why;
use crate::sync::remove::{Fate, Removal, Remover};
use crate::sync::run::{Deleted, Existing, Images, Lists, Places, Run};
use crate::sync::{Destination, Mirror, RegistryOptions, Scope, Tls};
use crate::transfer::Report;

/// Which file, and what to do.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File that names the images: ours (TOML), skopeo's or regsync's YAML; see docs/sync.md
    #[arg(short = 'c', long, value_name = "FILE")]
    file: PathBuf,
    /// Where the images of skopeo's form go: a registry, with or without the beginning of a path
    #[arg(value_name = "DEST")]
    destination: Option<String>,
    /// Keep the whole name of the source behind DEST
    #[arg(long, requires = "destination")]
    scoped: bool,
    /// Leave tags that are at the target as they are
    #[arg(long)]
    keep_existing: bool,
    /// Remove tags from the targets that their sources have no more
    #[arg(long)]
    delete: bool,
    /// Remove nothing from a repository that would lose more of its tags, in percent [default: 10]
    #[arg(long, value_name = "SHARE", requires = "delete", value_parser = clap::value_parser!(u8).range(0..=100))]
    max_delete: Option<u8>,
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

/// The largest share of tags that may go, in percent.
const MAX_DELETE: u8 = 10;

/// Mirrors.
///
/// # Errors
/// `Usage` for the file; `Told` when images failed, or tags could not be removed; `Interrupted`.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let mirror = read(&args)?;
    for told in &mirror.notes {
        note(&format!("note: {}:{}: {}", args.file.display(), told.line, escape(&told.text)));
    }
    if args.foresight.check()? {
        return foresee(&args, &mirror, context).await;
    }
    let digests = args.output.digests()?;
    let progress = Progress::start(args.output.mode(context));
    let ended = copy(&args, &mirror, context, progress.events()).await;
    progress.finish();
    let Ended { images, report, removals } = ended?;
    let concluded = args.output.conclude(context, Direction::There, (images, report), digests);
    let removed = tell_removals(&args, &removals, Tell::Changes, context);
    concluded.and(removed)
}

fn read(args: &Args) -> Result<Mirror> {
    let bytes = read_bounded(&args.file)?;
    let scope = if args.scoped { Scope::Whole } else { Scope::LastComponent };
    let prefix = args.destination.as_deref().map(place::of_registry).transpose()?;
    let destination = prefix.map(|prefix| Destination { prefix: prefix.into(), scope });
    let environment = |name: &str| std::env::var(name).ok();
    sync::read(&args.file, &bytes, &sync::Context { destination, environment: &environment })
}

/// No more than one byte too many, whatever the file is.
fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |e: std::io::Error| Error::Usage(format!("{}: cannot be read: {e}", path.display()));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(sync::MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// How a mirror ended.
struct Ended {
    images: Vec<Pulled>,
    report: Report,
    removals: Vec<Removal>,
}

async fn copy(args: &Args, mirror: &Mirror, context: &Context, events: Events) -> Result<Ended> {
    let hosts = Hosts::new(mirror, &context.settings, &events)?;
    let transfer = context.transfer(events);
    let run = args.run(mirror, &hosts, &transfer);
    let mut images = run.choose().await?;
    let plan = transfer.plan(std::mem::take(&mut images.jobs)).await?;
    let sizes = results::sizes(&plan);
    let report = transfer.run(plan).await?;
    let mut pulled = results::pulled(&report, &sizes);
    pulled.extend(unplanned(&images));
    let mut removals = Vec::new();
    if args.delete {
        removals = args.remover(&run, &images, images.there(&report)).remove().await?;
    }
    Ok(Ended { images: pulled, report, removals })
}

/// Images that came into no plan.
fn unplanned(images: &Images) -> impl Iterator<Item = Pulled> {
    let kept = images.kept.iter().map(|(name, digest)| (name, Ok(digest.clone()), Done::Kept));
    let failed = images.failed.iter().map(|(name, error)| (name, Err(Arc::clone(error)), Done::Nothing));
    let all = kept.chain(failed);
    all.map(|(name, result, done)| Pulled { name: name.clone(), result, done, size: Size::default(), referrers: None })
}

async fn foresee(args: &Args, mirror: &Mirror, context: &Context) -> anyhow::Result<()> {
    let events = context.notices();
    let hosts = Hosts::new(mirror, &context.settings, &events)?;
    let transfer = context.transfer(events);
    let run = args.run(mirror, &hosts, &transfer);
    let mut images = run.choose().await?;
    let mut plan = transfer.plan(std::mem::take(&mut images.jobs)).await?;
    let mut removals = Vec::new();
    if args.delete {
        let planned = plan.images.iter().map(|image| image.target.to_string());
        let there: HashSet<String> = planned.chain(images.kept.iter().map(|(name, _)| name.to_string())).collect();
        removals = args.remover(&run, &images, there).foresee(&plan).await?;
    }
    plan.failed.splice(..0, std::mem::take(&mut images.failed));
    let work = removals.iter().any(|removal| matches!(removal.fate, Fate::Goes | Fate::GoesByTag(_)));
    let kept = std::mem::take(&mut images.kept);
    let foresight = Foresight { plan, kept, direction: Direction::There, disk: None };
    let work = if work { Work::Some } else { Work::None };
    let told = foresight.conclude(context, &args.output, args.foresight, work);
    tell_removals(args, &removals, Tell::All, context)?;
    told
}

fn tell_removals(args: &Args, removals: &[Removal], tell: Tell, context: &Context) -> anyhow::Result<()> {
    if let Some(format) = args.output.format() {
        print(&foresight::removals(removals, format, tell)?)?;
    }
    let refused = removals.iter().filter_map(|removal| match &removal.fate {
        Fate::Left(why @ Why::TooMany { .. }) => Some(format!("{}: nothing is removed: {why}", removal.name.name())),
        _ => None,
    });
    refused.collect::<std::collections::BTreeSet<_>>().iter().for_each(|line| note(&format!("warning: {line}")));
    let failures: Vec<&Error> = removals
        .iter()
        .filter_map(|removal| match &removal.fate {
            Fate::Failed(error) => Some(error.as_ref()),
            _ => None,
        })
        .collect();
    failures.iter().for_each(|error| exit::tell(error, &context.ground));
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Told(exit::SEVERAL).into()),
    }
}

impl Args {
    fn run<'a>(&'a self, mirror: &'a Mirror, places: &'a Hosts, transfer: &'a crate::transfer::Transfer) -> Run<'a> {
        Run {
            file: &self.file,
            mirror,
            places,
            transfer,
            existing: if self.keep_existing { Existing::Kept } else { Existing::Updated },
            lists: if self.delete { Lists::All } else { Lists::WhereNeeded },
        }
    }

    fn remover<'a>(&self, run: &'a Run<'a>, images: &'a Images, there: HashSet<String>) -> Remover<'a> {
        Remover { run, images, there, max_share: self.max_delete.unwrap_or(MAX_DELETE) }
    }
}

/// Registries, each as the file says.
struct Hosts {
    /// Places on this machine that have blobs, too.
    places: Arc<[Local]>,
    usual: Registry,
    own: BTreeMap<String, Registry>,
}

impl Hosts {
    fn new(mirror: &Mirror, settings: &Settings, events: &Events) -> Result<Hosts> {
        let own = |(name, options): (&String, &RegistryOptions)| {
            (name.clone(), place::registry_of(settings, &side(options, settings), events.clone()))
        };
        Ok(Hosts {
            places: locals(settings, None)?,
            usual: place::registry(settings, events.clone()),
            own: mirror.registries.iter().map(own).collect(),
        })
    }

    fn of(&self, name: &Reference) -> &Registry {
        self.own.get(name.registry()).unwrap_or(&self.usual)
    }
}

/// What the file says of a registry, where nobody who ran this says otherwise.
fn side(options: &RegistryOptions, settings: &Settings) -> Side {
    let credentials = options.credentials.as_ref().filter(|_| settings.creds.value.is_none());
    let tls = options.tls.filter(|_| settings.tls_verify.origin == Origin::Default);
    Side {
        creds: credentials.map(|given| Credential::password(&given.username, given.password.as_str())),
        authfile: None,
        tls_verify: tls.map(|tls| tls == Tls::Verified),
        cert_dir: options.cert_dir.clone().filter(|_| settings.cert_dir.value.is_none()),
    }
}

#[async_trait]
impl Places for Hosts {
    fn source(&self, repository: &Reference) -> Result<Arc<dyn Source>> {
        Ok(with_local(Arc::new(self.of(repository).repository(repository)?), &self.places))
    }

    fn sink(&self, repository: &Reference) -> Arc<dyn Sink> {
        Arc::new(self.of(repository).repository_to_write(repository))
    }

    async fn tags(&self, repository: &Reference) -> Result<Vec<String>> {
        self.of(repository).tags(repository).await
    }

    async fn delete(&self, name: &Reference) -> Result<Deleted> {
        Ok(match self.of(name).delete(name).await? {
            Deletion::Done => Deleted::Done,
            Deletion::Unsupported => Deleted::Unsupported,
        })
    }
}
