//! Archives into the store: which images of them, under which names, in which order.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::attached::add;
use super::results::{self, Pulled};
use super::spool::{require, spool};
use crate::archive::{Archive, Compression, Form, Packed, Sequential, fallback, open_file, volumes_of};
use crate::content::{Sink, Source};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::oci::{Descriptor, Digest, Manifest, Platform, Reference};
use crate::store::Store;
use crate::transfer::{Job, Platforms, Report, Transfer};

/// Which images of archives, and under which names.
#[derive(Debug, Default)]
pub struct Choice {
    /// Names of the images that are taken; none: all.
    pub only: Vec<Reference>,
    /// The name of the only image that is taken.
    pub name: Option<Reference>,
}

/// An archive that can be read.
pub enum Opened {
    /// On disk, without compression: what is in it is known.
    Disk(Archive),
    /// In order.
    Stream(Sequential),
}

/// Opens archives by what the command line says: files, volumes in any order, folders, `-` for standard input.
///
/// # Errors
/// `NotFound`, `Store`; `Invalid` for what is no archive; `Usage` when standard input is a terminal.
pub fn opened(files: &[String]) -> Result<Vec<Opened>> {
    let mut opened = Vec::new();
    let mut paths = Vec::new();
    for file in files {
        match file.as_str() {
            "-" if std::io::stdin().is_terminal() => {
                return Err(Error::Usage("standard input is a terminal: name an archive, or pipe one in".into()));
            }
            "-" => opened.push(Opened::Stream(Sequential::start(std::io::stdin(), "standard input")?)),
            path => paths.push(PathBuf::from(path)),
        }
    }
    for volumes in volumes_of(&paths)? {
        opened.push(one(&volumes)?);
    }
    Ok(opened)
}

fn one(volumes: &[PathBuf]) -> Result<Opened> {
    let [path] = volumes else { return Archive::open(volumes).map(Opened::Disk) };
    if path.is_dir() {
        return Archive::open(volumes).map(Opened::Disk);
    }
    let place = path.display().to_string();
    // A named pipe is opened once: whoever writes it would see the end of the first reader.
    let is_pipe = std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
    let file = if is_pipe { File::open(path).map_err(Error::store("open", path))? } else { open_file(path)? };
    match is_pipe || Compression::of_file(&file).map_err(Error::store("read", path))? != Compression::None {
        true => Ok(Opened::Stream(Sequential::start(file, &place)?)),
        false => Archive::open(volumes).map(Opened::Disk),
    }
}

/// Brings archives into a store.
pub struct Unpacking<'a> {
    /// Where to.
    pub store: &'a Store,
    /// How.
    pub transfer: &'a Transfer,
    /// Which images.
    pub choice: &'a Choice,
}

impl Unpacking<'_> {
    /// Brings all archives in; those that leave out what another one has come after it.
    ///
    /// # Errors
    /// Those of an archive that cannot be read, or leaves out what nobody has.
    pub async fn all(&self, archives: Vec<Opened>) -> Result<(Vec<Pulled>, Report)> {
        let mut ended = (Vec::new(), Report::default());
        let mut waiting = Vec::new();
        for opened in archives {
            match opened {
                Opened::Disk(archive) => waiting.push(archive),
                Opened::Stream(from) => {
                    let spooled = spool(from, self.store, self.transfer).await?;
                    let (images, mut report) = self.archive(&spooled.archive).await?;
                    report.local += spooled.written;
                    report.held = report.held.saturating_sub(spooled.written);
                    join(&mut ended, (images, report));
                }
            }
        }
        while let Some(at) = self.next(&waiting).await? {
            let archive = waiting.remove(at);
            join(&mut ended, self.archive(&archive).await?);
        }
        self.see_all_found(&ended.0)?;
        Ok(ended)
    }

    /// The first archive of which nothing is missing here.
    async fn next(&self, waiting: &[Archive]) -> Result<Option<usize>> {
        let mut first = None;
        for (at, archive) in waiting.iter().enumerate() {
            match require(self.store, archive.presumed(), &archive.place()).await {
                Ok(()) => return Ok(Some(at)),
                Err(error @ Error::NotFound { .. }) => first = first.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        first.map_or(Ok(None), Err)
    }

    async fn archive(&self, archive: &Archive) -> Result<(Vec<Pulled>, Report)> {
        let jobs = self.jobs(archive).await?;
        let plan = self.transfer.plan(jobs).await?;
        let sizes = results::sizes(&plan);
        let mut report = self.transfer.run(plan).await?;
        let mut images = results::pulled(&report, &sizes);
        report.images.clear();
        if archive.form() == Form::Docker {
            self.tell_of_docker(&images);
        }
        images.sort_by_key(|image| image.name.to_string());
        Ok((images, report))
    }

    /// The digest of what comes out of a docker-archive is of our making.
    fn tell_of_docker(&self, images: &[Pulled]) {
        for image in images {
            let Ok(digest) = &image.result else { continue };
            let text = format!(
                "{}: a docker-archive has no manifest; one was made over its layers as they lie, {digest}, which is not \
                 that of the registry",
                image.name
            );
            self.transfer.events.on(&Event::Warning { text });
        }
    }

    async fn jobs(&self, archive: &Archive) -> Result<Vec<Job>> {
        let sink: Arc<dyn Sink> = Arc::new(self.store.clone());
        let source: Arc<dyn Source> = Arc::new(archive.clone());
        let mut jobs = Vec::new();
        for image in archive.images() {
            let target = self.target(archive, image).await?;
            let is_wanted = self.choice.only.is_empty() || self.choice.only.contains(&target);
            if !is_wanted {
                continue;
            }
            let name = target.pinned(image.root.digest.clone());
            let platforms = self.platforms(archive, image).await?;
            jobs.push(Job { name, target, source: source.clone(), sink: sink.clone(), platforms });
        }
        match (&self.choice.name, &mut jobs[..]) {
            (None, _) => {}
            (Some(name), [only]) => only.target = name.clone(),
            (Some(_), jobs) => {
                return Err(Error::Usage(format!("--name names one image, and there are {} here", jobs.len())));
            }
        }
        Ok(jobs)
    }

    /// The name that an image gets. One without a name that belongs to another one is kept beside it, by its digest.
    async fn target(&self, archive: &Archive, image: &Packed) -> Result<Reference> {
        if image.name.is_some() {
            return named(archive, image);
        }
        let manifest = self.manifest(archive, &image.root).await?;
        let subject = manifest.as_ref().and_then(Manifest::subject).map(|subject| &subject.digest);
        let Some(subject) = subject else { return named(archive, image) };
        let mut beside = None;
        for other in archive.images() {
            let Some(name) = &other.reference else { continue };
            let is_child = match self.manifest(archive, &other.root).await? {
                Some(Manifest::Index(index)) => index.manifests.iter().any(|child| child.digest == *subject),
                _ => false,
            };
            if is_child || other.root.digest == *subject {
                return Ok(name.at(image.root.digest.clone()));
            }
            beside = beside.or(Some(name));
        }
        // It hangs on what hangs on one of them.
        beside.map_or_else(|| named(archive, image), |name| Ok(name.at(image.root.digest.clone())))
    }

    /// A manifest of the archive, wherever it is by now; `None` where it is no manifest, or nowhere.
    async fn manifest(&self, archive: &Archive, descriptor: &Descriptor) -> Result<Option<Manifest>> {
        let raw = match archive.holds(&descriptor.digest) {
            true => Some(archive.manifest(descriptor).await?),
            false => self.store.held_manifest(&descriptor.digest).await?,
        };
        Ok(raw.and_then(|raw| raw.parse().ok()))
    }

    /// What of an index is taken: what there is of it, in the archive or here.
    async fn platforms(&self, archive: &Archive, image: &Packed) -> Result<Platforms> {
        if let Some(platforms) = &image.platforms {
            return Ok(Platforms::Only(platforms.clone()));
        }
        let Some(Manifest::Index(index)) = self.manifest(archive, &image.root).await? else {
            return Ok(Platforms::All);
        };
        let mut present: BTreeSet<Platform> = BTreeSet::new();
        let mut absent = 0;
        for child in &index.manifests {
            match (self.is_here(archive, child).await?, &child.platform) {
                (false, _) => absent += 1,
                (true, Some(platform)) if platform.os != "unknown" => {
                    present.insert(platform.bare());
                }
                _ => {}
            }
        }
        match absent == 0 || present.is_empty() {
            true => Ok(Platforms::All),
            false => Ok(Platforms::Only(present.into_iter().collect())),
        }
    }

    async fn is_here(&self, archive: &Archive, manifest: &Descriptor) -> Result<bool> {
        Ok(archive.holds(&manifest.digest) || self.store.held_manifest(&manifest.digest).await?.is_some())
    }

    fn see_all_found(&self, images: &[Pulled]) -> Result<()> {
        let is_found =
            |name: &&Reference| images.iter().any(|image| image.name == **name) || self.choice.name.is_some();
        match self.choice.only.iter().find(|name| !is_found(name)) {
            None => Ok(()),
            Some(name) => Err(Error::NotFound {
                what: name.to_string(),
                place: "the archive".into(),
                why: "`layerpull import --list` shows what is in it".into(),
            }),
        }
    }
}

fn join(all: &mut (Vec<Pulled>, Report), (images, report): (Vec<Pulled>, Report)) {
    all.0.extend(images);
    add(&mut all.1, report);
}

/// The name that an image gets: its own; else one of the file, with its tag or its digest.
///
/// # Errors
/// `Invalid` when there is none.
pub fn named(archive: &Archive, image: &Packed) -> Result<Reference> {
    if let Some(reference) = &image.reference {
        return Ok(reference.clone());
    }
    let place = archive.place();
    stand_in(&place, image.name.as_deref(), &image.root.digest).ok_or_else(|| Error::Invalid {
        what: image.root.digest.to_string(),
        place,
        why: "it has no name: give one with --name".into(),
    })
}

/// The name of an image in the archive at `place` that has only a tag, or none.
pub fn stand_in(place: &str, tag: Option<&str>, digest: &Digest) -> Option<Reference> {
    let file = Path::new(place).file_name().unwrap_or_default().to_string_lossy();
    fallback(file.split('.').next().unwrap_or_default(), tag, digest)
}
