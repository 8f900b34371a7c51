//! `layerpull copy`: an image from one place to another, between registries with no disk between.

use std::path::PathBuf;

use crate::cli::Context;
use crate::cli::attached::{self, Along};
use crate::cli::config::{RegistryFlags, TransferFlags, values};
use crate::cli::ending::OutputFlags;
use crate::cli::place::{self, Side};
use crate::cli::progress::Progress;
use crate::cli::results::{Direction, Pulled};
use crate::cli::transport::{self, Reading, Spot, Writing};
use crate::error::{Error, Result};
use crate::oci::Platform;
use crate::registry::Credential;
use crate::transfer::{Job, Platforms, Report};

/// From where to where.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image to copy: a name at a registry, or oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME],
    /// dir:DIR, docker-daemon:NAME
    #[arg(value_name = "SRC")]
    source: String,
    /// Name that it gets, or one of these places
    #[arg(value_name = "DST")]
    target: String,
    /// Platform to copy of an index, as OS/ARCH[/VARIANT] (repeatable): of one its manifest, of several a new index
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    platform: Vec<Platform>,
    /// What the name points to, whole [default]
    #[arg(long)]
    all_platforms: bool,
    /// Copy signatures, SBOMs and attestations, too: what names the image, or something of it, as its subject, and
    /// cosign's tags
    #[arg(long)]
    referrers: bool,
    /// What is printed.
    #[command(flatten)]
    output: OutputFlags,
    /// What holds for one side.
    #[command(flatten)]
    sides: SideFlags,
    /// Which registry and how.
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// How blobs are moved.
    #[command(flatten)]
    pub transfer: TransferFlags,
}

/// What holds for one side alone.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of one side")]
struct SideFlags {
    /// Credentials for the source
    #[arg(long, value_name = "USER:PASSWORD", value_parser = values::credentials)]
    src_creds: Option<Credential>,
    /// Credentials for the target
    #[arg(long, value_name = "USER:PASSWORD", value_parser = values::credentials)]
    dest_creds: Option<Credential>,
    /// The only credential file for the source
    #[arg(long, value_name = "FILE")]
    src_authfile: Option<PathBuf>,
    /// The only credential file for the target
    #[arg(long, value_name = "FILE")]
    dest_authfile: Option<PathBuf>,
    /// Verify certificates of the source
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_parser = values::switch)]
    src_tls_verify: Option<bool>,
    /// Verify certificates of the target
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_parser = values::switch)]
    dest_tls_verify: Option<bool>,
    /// Folder with *.crt, *.cert and *.key for the source
    #[arg(long, value_name = "DIR")]
    src_cert_dir: Option<PathBuf>,
    /// Folder with *.crt, *.cert and *.key for the target
    #[arg(long, value_name = "DIR")]
    dest_cert_dir: Option<PathBuf>,
}

impl SideFlags {
    fn source(&self) -> Side {
        Side {
            creds: self.src_creds.clone(),
            authfile: self.src_authfile.clone(),
            tls_verify: self.src_tls_verify,
            cert_dir: self.src_cert_dir.clone(),
        }
    }

    fn target(&self) -> Side {
        Side {
            creds: self.dest_creds.clone(),
            authfile: self.dest_authfile.clone(),
            tls_verify: self.dest_tls_verify,
            cert_dir: self.dest_cert_dir.clone(),
        }
    }
}

/// Copies.
///
/// # Errors
/// Those of the image; `Interrupted`.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let ends = (Spot::parse(&args.source)?, Spot::parse(&args.target)?);
    let digests = args.output.digests()?;
    let progress = Progress::start(args.output.mode(context));
    let ended = copy(&args, ends, context, &progress).await;
    progress.finish();
    args.output.conclude(context, Direction::There, ended?, digests)
}

async fn copy(
    args: &Args,
    (from, to): (Spot, Spot),
    context: &Context,
    progress: &Progress,
) -> Result<(Vec<Pulled>, Report)> {
    let events = progress.events();
    let registry = place::registry_of(&context.settings, &args.sides.source(), events.clone());
    let reading = Reading::open(&from, &registry, context, events.clone()).await?;
    let far = place::registry_of(&context.settings, &args.sides.target(), events.clone());
    let writing = Writing::open(&to, &far, context, events.clone()).await?;
    if args.all_platforms && to.takes_one_platform() {
        return Err(Error::Usage(format!("{to}: it takes one platform: leave out --all-platforms")));
    }
    let platforms = match to.takes_one_platform() && args.platform.is_empty() {
        true => Platforms::Only(vec![context.platform()]),
        false => reading.platforms(&args.platform),
    };
    let transfer = context.transfer(events.clone());
    let (name, target) = transport::names(&from, &to);
    let job = Job { name, target, source: reading.source.clone(), sink: writing.sink.clone(), platforms };
    if !args.referrers {
        let (mut pulled, report) = attached::alone(&transfer, vec![job]).await?;
        writing.deliver(&mut pulled, context, &events).await;
        return Ok((pulled, report));
    }
    let there = writing.listing()?;
    let tags = match from.is_registry() {
        true => transfer.persist(&job.name.name(), || registry.tags(&job.name)).await?,
        false => Vec::new(),
    };
    attached::along(&transfer, &[Along { job, there, tags }]).await
}
