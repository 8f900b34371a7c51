//! `layerpull copy`: an image from one registry to another, with no disk between.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cli::Context;
use crate::cli::attached::{self, Along};
use crate::cli::config::{Flags, RegistryFlags, TransferFlags, values};
use crate::cli::ending::OutputFlags;
use crate::cli::foresight::{Foresight, ForesightFlags, Work};
use crate::cli::place::{self, Side, locals, with_local};
use crate::cli::progress::Progress;
use crate::cli::results::{Direction, Pulled};
use crate::error::Result;
use crate::oci::{Platform, Reference};
use crate::registry::Credential;
use crate::transfer::{Job, Platforms, Report, Transfer};

/// From where to where.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image to copy
    #[arg(value_name = "SRC")]
    source: String,
    /// Name that it gets
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
    /// Whether it is only planned.
    #[command(flatten)]
    foresight: ForesightFlags,
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

/// Copies.
///
/// # Errors
/// Those of the image; `Interrupted`.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let names = (context.reference(&args.source)?, context.reference(&args.target)?);
    if args.foresight.check()? {
        return foresee(&args, names, context).await;
    }
    let digests = args.output.digests()?;
    let progress = Progress::start(args.output.mode(context));
    let ended = copy(&args, names, context, &progress).await;
    progress.finish();
    args.output.conclude(context, Direction::There, ended?, digests)
}

async fn copy(
    args: &Args,
    names: (Reference, Reference),
    context: &Context,
    progress: &Progress,
) -> Result<(Vec<Pulled>, Report)> {
    let transfer = context.transfer(progress.events());
    let image = image(args, names, context, &transfer).await?;
    match args.referrers {
        true => attached::along(&transfer, &[image]).await,
        false => attached::alone(&transfer, vec![image.job]).await,
    }
}

/// Says what a copy would do.
async fn foresee(args: &Args, names: (Reference, Reference), context: &Context) -> anyhow::Result<()> {
    let transfer = context.transfer(context.notices());
    let image = image(args, names, context, &transfer).await?;
    let plan = match args.referrers {
        true => attached::plan(&transfer, &[image]).await?,
        false => transfer.plan(vec![image.job]).await?,
    };
    let foresight = Foresight { plan, kept: Vec::new(), direction: Direction::There, disk: None };
    foresight.conclude(context, &args.output, args.foresight, Work::None)
}

async fn image(
    args: &Args,
    (name, target): (Reference, Reference),
    context: &Context,
    transfer: &Transfer,
) -> Result<Along> {
    let events = &transfer.events;
    let from = place::registry_of(&context.settings, &args.sides.source(), events.clone());
    let to = place::registry_of(&context.settings, &args.sides.target(), events.clone());
    let source = with_local(Arc::new(from.repository(&name)?), &locals(&context.settings, None)?);
    let there = Arc::new(to.repository_to_write(&target));
    let platforms = match args.platform.is_empty() {
        true => Platforms::All,
        false => Platforms::Only(args.platform.clone()),
    };
    let job = Job { name, target, source, sink: there.clone(), platforms };
    let tags = match args.referrers {
        true => transfer.persist(&job.name.name(), || from.tags(&job.name)).await?,
        false => Vec::new(),
    };
    Ok(Along { job, there, tags })
}
