//! `layerpull export`: images in one file or folder, for places without a network.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::archive::{Archiving, Checksum, Contents, Flavour, FolderFrames, Output, Saved, TarFrames, Wanted, pack};
use crate::cli::config::{Flags, RegistryFlags, TransferFlags, values};
use crate::cli::ending::OutputFlags;
use crate::cli::output::{self, json_line, percent, print, size};
use crate::cli::packing::{Has, Layers, OtherSide, PackedImage, Packing, Referrers, warn_of_zstd};
use crate::cli::place;
use crate::cli::progress::{Mode, Progress};
use crate::cli::{Context, Format};
use crate::error::{Error, Result};
use crate::oci::{Digest, Platform, Reference};

/// What is written beside the blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Type {
    /// An OCI layout that is a docker-archive, too: what docker, podman, containerd and skopeo all load
    Hybrid,
    /// An OCI layout in a tar
    Oci,
    /// A docker-archive
    Docker,
    /// An OCI layout in a folder
    Dir,
}

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Compress {
    /// As they are
    Keep,
    /// With gzip, also those that are compressed with zstd: old engines load no other
    Gzip,
}

/// Which images, and where to.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Images to export; what the store lacks is pulled first
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Archive to write; - for standard output, a folder for an OCI layout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Format of the archive
    #[arg(long = "type", value_enum, default_value_t = Type::Hybrid)]
    kind: Type,
    /// Platform to take of an index, as OS/ARCH[/VARIANT] (repeatable): of one its manifest, of several a new index
    /// [default: this machine's]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    pub platform: Vec<Platform>,
    /// Whole indexes
    #[arg(long)]
    all_platforms: bool,
    /// Signatures, SBOMs and attestations, too
    #[arg(long)]
    referrers: bool,
    /// How layers are compressed; what changes gets a new digest
    #[arg(long, value_enum, value_name = "COMPRESSION", default_value_t = Compress::Keep)]
    layers: Compress,
    /// Leave out what this inventory lists (repeatable: inventories of one site)
    #[arg(long, value_name = "FILE")]
    have: Vec<PathBuf>,
    /// Leave out what every one of these inventories lists (repeatable: one of each site)
    #[arg(long, value_name = "FILE")]
    have_each: Vec<PathBuf>,
    /// Leave out what is in this earlier archive, or was left out of it (repeatable)
    #[arg(long, value_name = "ARCHIVE")]
    base: Vec<PathBuf>,
    /// Write volumes of at most this size, FILE.001 and so on, and FILE.volumes.json that names them: 4G, 650MiB
    #[arg(long, value_name = "SIZE", value_parser = values::volume_size)]
    split: Option<u64>,
    /// Write FILE.sha256, too
    #[arg(long)]
    checksum: bool,
    /// What is printed.
    #[command(flatten)]
    result: OutputFlags,
    /// Which registry and how.
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// How blobs are moved.
    #[command(flatten)]
    pub transfer: TransferFlags,
}

impl Args {
    /// What of them counts among the settings.
    pub fn flags(&self, flags: Flags) -> Flags {
        Flags {
            registry: self.registry.clone(),
            transfer: self.transfer.clone(),
            platform: self.platform.clone(),
            ..flags
        }
    }
}

/// Where the archive goes.
enum Target {
    Stdout(File),
    File(PathBuf),
    Folder(PathBuf),
}

/// Exports.
///
/// # Errors
/// Those of the images and of the store; `Usage` when the archive would go to a terminal.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let names: Vec<Reference> = args.images.iter().map(|text| context.reference(text)).collect::<Result<_>>()?;
    let target = args.target()?;
    let has = OtherSide { have: &args.have, have_each: &args.have_each, base: &args.base }.has()?;
    let mtime = mtime()?;
    let digests = args.result.digests()?;
    let progress = Progress::start(args.result.mode(context));
    let export = Export { args: &args, context, target: &target, mtime };
    let ended = export.run(&names, has, &progress).await;
    progress.finish();
    let (images, written) = ended?;
    if let Some(digests) = digests {
        digests.write(&images.iter().map(PackedImage::ended).collect::<Vec<_>>())?;
    }
    args.tell(context, &target, &images, &written)
}

/// What was written.
struct Written {
    /// The files; none for standard output.
    files: Vec<PathBuf>,
    /// Bytes of what is in it.
    held: u64,
    /// Bytes of what was left out.
    left_out: u64,
    /// How many blobs and manifests are in it, and how many were left out.
    counts: (usize, usize),
}

impl Args {
    fn target(&self) -> Result<Target> {
        let is_folder = self.kind == Type::Dir || self.output.is_dir();
        let usage = |text: &str| Err(Error::Usage(text.into()));
        if self.output == Path::new("-") {
            if std::io::stdout().is_terminal() {
                return usage("an archive is nothing for a terminal: name a file with -o, or pipe it on");
            }
            if self.split.is_some() || self.checksum || is_folder {
                return usage("--split, --checksum and --type dir need a file or folder: name it with -o");
            }
            let stdout = std::io::stdout().as_fd().try_clone_to_owned();
            return Ok(Target::Stdout(stdout.map_err(Error::store("write", "-"))?.into()));
        }
        match is_folder {
            true if self.split.is_some() || self.checksum => {
                usage("--split and --checksum are for archives in one file, not for folders")
            }
            true => Ok(Target::Folder(self.output.clone())),
            false => Ok(Target::File(self.output.clone())),
        }
    }

    fn packing<'a>(&self, names: &'a [Reference], context: &Context) -> Packing<'a> {
        Packing {
            names,
            wanted: match self.all_platforms {
                true => Wanted::All,
                false => Wanted::Only(context.settings.platform.value.clone()),
            },
            referrers: if self.referrers { Referrers::Taken } else { Referrers::Left },
            layers: if self.layers == Compress::Gzip { Layers::Gzip } else { Layers::Kept },
        }
    }

    fn flavour(&self) -> Flavour {
        match self.kind {
            Type::Hybrid => Flavour::Hybrid,
            Type::Oci | Type::Dir => Flavour::Oci,
            Type::Docker => Flavour::Docker,
        }
    }

    fn tell(
        &self,
        context: &Context,
        target: &Target,
        images: &[PackedImage],
        written: &Written,
    ) -> anyhow::Result<()> {
        if self.result.format().is_some() && self.result.mode(context) != Mode::Json {
            output::note(&summary(target, written));
        }
        let text = match self.result.format() {
            None => images.iter().map(pinned).collect(),
            Some(Format::Text) => images.iter().map(line).collect(),
            Some(Format::Json) => json_line(&object(target, images, written))?,
        };
        match target {
            // Standard output is the archive.
            Target::Stdout(_) => output::note(text.trim_end()),
            _ => print(&text)?,
        }
        Ok(())
    }
}

/// The time of all entries: `SOURCE_DATE_EPOCH`, else 0.
fn mtime() -> Result<u64> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(0) };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    seconds.ok_or_else(|| Error::Usage("SOURCE_DATE_EPOCH is no number of seconds since 1970".into()))
}

/// An export under way.
struct Export<'a> {
    args: &'a Args,
    context: &'a Context,
    target: &'a Target,
    mtime: u64,
}

impl Export<'_> {
    async fn run(
        &self,
        names: &[Reference],
        has: Has,
        progress: &Progress,
    ) -> anyhow::Result<(Vec<PackedImage>, Written)> {
        let events = progress.events();
        let store = place::store(self.context, events.clone())?;
        let _shared = store.share_to_write().await?;
        let packing = self.args.packing(names, self.context);
        let (contents, images) = packing.gather(self.context, &store, events.clone()).await?;
        if self.args.flavour() != Flavour::Oci {
            warn_of_zstd(&contents, &events);
        }
        let left_out = has.of(&contents, &store).await?;
        let archiving = Archiving {
            contents: &contents,
            source: &store,
            flavour: self.args.flavour(),
            left_out: &left_out,
            events,
            cancel: self.context.cancel.clone(),
        };
        let files = self.write(archiving).await?;
        Ok((images, Written::of(&contents, &left_out, files)))
    }

    async fn write(&self, archiving: Archiving<'_>) -> Result<Vec<PathBuf>> {
        match self.target {
            Target::Stdout(file) => {
                let file = file.try_clone().map_err(Error::store("write", "-"))?;
                pack(archiving, TarFrames::new(file, self.mtime), Path::new("-")).await?;
                Ok(Vec::new())
            }
            Target::Folder(path) => {
                pack(archiving, FolderFrames::new(path)?, path).await?;
                Ok(vec![path.clone()])
            }
            Target::File(path) => {
                let checksum = if self.args.checksum { Checksum::Beside } else { Checksum::None };
                let output = Output::create(path, self.args.split, checksum)?;
                let written = pack(archiving, TarFrames::new(output, self.mtime), path).await?;
                // A slow stick takes its time: signals are heard meanwhile.
                let finish = move || written.into_inner().finish();
                let Saved { files, .. } =
                    tokio::task::spawn_blocking(finish).await.unwrap_or(Err(Error::Interrupted))?;
                Ok(files)
            }
        }
    }
}

impl Written {
    fn of(contents: &Contents, left_out: &BTreeSet<Digest>, files: Vec<PathBuf>) -> Written {
        let mut written = Written { files, held: 0, left_out: 0, counts: (0, 0) };
        for (digest, size) in contents.sizes() {
            match left_out.contains(digest) {
                true => (written.left_out, written.counts.1) = (written.left_out + size, written.counts.1 + 1),
                false => (written.held, written.counts.0) = (written.held + size, written.counts.0 + 1),
            }
        }
        written
    }
}

fn pinned(image: &PackedImage) -> String {
    match image.name.digest() {
        Some(_) => format!("{}\n", image.name),
        None => format!("{}@{}\n", image.name, image.root.digest),
    }
}

fn line(image: &PackedImage) -> String {
    let changed = match &image.was {
        None => String::new(),
        Some(was) => format!("Status: a part, or another form, of {was}\n"),
    };
    format!("Digest: {}\n{changed}{}\n", image.root.digest, image.name)
}

fn summary(target: &Target, written: &Written) -> String {
    let place = match (target, &written.files[..]) {
        (Target::Stdout(_), _) => "standard output".into(),
        (_, [first, .., last]) => format!("{} to {}", first.display(), last.display()),
        (_, files) => files.iter().map(|file| file.display().to_string()).collect(),
    };
    let mut text =
        format!("wrote {}: {} in {} blobs and manifests", output::escape(&place), size(written.held), written.counts.0);
    if written.counts.1 > 0 {
        let saved = percent(written.left_out, written.held + written.left_out);
        text.push_str(&format!(
            "; {} in {} left out ({saved} % saved): import it where they are",
            size(written.left_out),
            written.counts.1
        ));
    }
    text
}

/// What was written, with stable names.
#[derive(Serialize)]
struct Object {
    files: Vec<String>,
    images: Vec<Image>,
    bytes: u64,
    blobs: usize,
    left_out_bytes: u64,
    left_out_blobs: usize,
}

#[derive(Serialize)]
struct Image {
    reference: String,
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    was: Option<String>,
}

fn object(target: &Target, images: &[PackedImage], written: &Written) -> Object {
    let image = |image: &PackedImage| Image {
        reference: image.name.to_string(),
        digest: image.root.digest.to_string(),
        was: image.was.as_ref().map(Digest::to_string),
    };
    let files = match target {
        Target::Stdout(_) => vec!["-".into()],
        _ => written.files.iter().map(|file| file.display().to_string()).collect(),
    };
    Object {
        files,
        images: images.iter().map(image).collect(),
        bytes: written.held,
        blobs: written.counts.0,
        left_out_bytes: written.left_out,
        left_out_blobs: written.counts.1,
    }
}
