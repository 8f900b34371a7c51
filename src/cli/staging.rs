//! Images on their way into places that are written in one go, and out of those that are read in one go: through a layout
//! in a folder of its own, which goes afterwards.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use tempfile::TempDir;

use super::Context;
use super::engine::EngineName;
use super::image::config_of;
use super::transport::Spot;
use super::unpacking::{Choice, Opened, Unpacking};
use crate::archive::{Archiving, Checksum, Contents, Flavour, Frames, Output, Sequential, TarFrames, pack};
use crate::content::Source;
use crate::content::file::PIECE;
use crate::engines::{Image, Loading};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::local::directory::MANIFEST;
use crate::oci::{Descriptor, Manifest, RawManifest, Reference};
use crate::store::{LayoutImage, Store};

/// What `version` says in a folder of skopeo's `dir:`.
const VERSION: &str = "Directory Transport Version: 1.1\n";

/// What the names of stages begin with.
const PREFIX: &str = ".layerpull-";
/// The file in a stage that is locked as long as it is used.
const LOCK: &str = "lock";

/// A layout that lives as long as this.
pub struct Stage {
    store: Store,
    dir: TempDir,
    _lock: File,
}

impl Stage {
    /// In the folder of `path`, or in `path` where that is one, so that what is staged can be moved to it; else where
    /// temporary files go. Stages there that a process left when it was killed go.
    ///
    /// # Errors
    /// `Store` when it cannot be made.
    pub fn near(path: Option<&Path>, context: &Context, events: Events) -> Result<Stage> {
        let temporary = std::env::temp_dir();
        let folder = match path {
            Some(path) if path.is_dir() => path,
            Some(path) => path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
            None => &temporary,
        };
        sweep(folder);
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(folder);
        let dir = dir.map_err(Error::store("make a folder in", folder))?;
        let lock = claim(dir.path()).map_err(Error::store("lock", dir.path()))?;
        let store = Store::open(&dir.path().join("layout"))?.observed(events, context.cancel.clone());
        Ok(Stage { store, dir, _lock: lock })
    }

    /// The image that is staged, under `name`, kept as it is; shown as `place`.
    pub fn image(&self, name: Option<String>, place: &str) -> LayoutImage {
        LayoutImage::new(self.store.clone(), name).shown_as(place)
    }

    /// Takes the only image of an archive that comes in order, or the one of this name.
    ///
    /// # Errors
    /// Those of the archive; `Usage` when it has several.
    pub async fn take(&self, archive: Sequential, choice: Choice, context: &Context, events: Events) -> Result<String> {
        let (transfer, place) = (context.transfer(events), archive.place().to_owned());
        let unpacking = Unpacking { store: &self.store, transfer: &transfer, choice: &choice };
        let (images, _) = unpacking.all(vec![Opened::Stream(archive)]).await?;
        match images.as_slice() {
            [only] => match &only.result {
                Ok(_) => Ok(only.name.to_string()),
                Err(error) => {
                    Err(Error::Invalid { what: only.name.to_string(), place: place.clone(), why: error.to_string() })
                }
            },
            several => {
                let names: Vec<String> = several.iter().map(|image| image.name.to_string()).collect();
                Err(Error::Usage(format!("{place}: say which image as …:NAME; it has {}", names.join(", "))))
            }
        }
    }

    /// Brings what was staged to where it belongs.
    ///
    /// # Errors
    /// Those of the place.
    pub async fn deliver(&self, to: &Spot, name: &Reference, context: &Context, events: Events) -> Result<()> {
        let image = self.image(None, "");
        let root = image.resolve(name).await?;
        let raw = image.manifest(&root).await?;
        match to {
            Spot::OciArchive(file, _) => {
                let (layout, file) = (self.dir.path().join("layout"), file.clone());
                let write = move || tar(&layout, &file);
                let written = tokio::task::spawn_blocking(write);
                context.cancel.run_until_cancelled(written).await.ok_or(Error::Interrupted)?.map_err(broken)?
            }
            Spot::DockerArchive(file, _) => {
                let mut contents = Contents::default();
                contents.add_manifest(&self.store, Some(name), raw).await?;
                self.pack(&contents, file, context, events).await
            }
            Spot::Daemon(_) => self.load(name, raw, context, events).await,
            Spot::Directory(dir) => {
                let parts = self.parts(raw).await?;
                let (blobs, dir) = (self.dir.path().join("layout/blobs"), dir.clone());
                tokio::task::spawn_blocking(move || arrange(&blobs, &parts, &dir)).await.map_err(broken)?
            }
            Spot::Registry(_) | Spot::Layout(..) => Ok(()),
        }
    }

    async fn pack(&self, contents: &Contents, file: &Path, context: &Context, events: Events) -> Result<()> {
        let (left_out, cancel) = (Default::default(), context.cancel.clone());
        let archiving =
            Archiving { contents, source: &self.store, flavour: Flavour::Docker, left_out: &left_out, events, cancel };
        let output = Output::create(file, None, Checksum::None)?;
        let written = pack(archiving, TarFrames::new(output, 0), file).await?;
        tokio::task::block_in_place(|| written.into_inner().finish()).map(drop)
    }

    async fn load(&self, name: &Reference, raw: RawManifest, context: &Context, events: Events) -> Result<()> {
        let engine = EngineName::Docker.open()?;
        let config = match raw.parse() {
            Ok(Manifest::Image(image)) => config_of(&self.store, &image).await?,
            // What no engine can run is told with the rest.
            _ => bytes::Bytes::new(),
        };
        let image = Image::new(name, raw, config)?;
        let loading = Loading { engine: engine.as_ref(), source: Arc::new(self.store.clone()), events };
        let loaded = context.cancel.run_until_cancelled(loading.load(&[image])).await.ok_or(Error::Interrupted)??;
        loaded.into_iter().try_for_each(|loaded| loaded.map(drop))
    }

    /// The files of a folder of `dir:`.
    async fn parts(&self, root: RawManifest) -> Result<Parts> {
        let mut parts = Parts { root: root.bytes.to_vec(), children: Vec::new(), blobs: Vec::new() };
        let (mut level, mut seen) = (vec![root], HashSet::new());
        while let Some(raw) = level.pop() {
            let place = Source::place(&self.store);
            match raw.parse().map_err(|why| Error::manifest(place, &raw.digest, why))? {
                Manifest::Image(image) => parts.blobs.extend(image.blobs().cloned()),
                Manifest::Index(index) => {
                    let manifests = index.manifests.iter().filter(|child| child.media_type.is_manifest());
                    for child in manifests.filter(|child| seen.insert(child.digest.clone())) {
                        let raw = self.store.manifest(child).await?;
                        parts.children.push((format!("{}.{MANIFEST}", raw.digest.hex()), raw.bytes.to_vec()));
                        level.push(raw);
                    }
                }
            }
        }
        Ok(parts)
    }
}

/// Marks the stage in `dir` as used. The lock has its name only when it is held.
fn claim(dir: &Path) -> std::io::Result<File> {
    let new = dir.join("lock.new");
    let file = File::create_new(&new)?;
    file.try_lock()?;
    fs::rename(new, dir.join(LOCK))?;
    Ok(file)
}

/// Removes the stages in `folder` that nobody uses any more.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_stage = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_stage && entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_abandoned(&entry.path()) {
            // It may be on its way out already.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(stage: &Path) -> bool {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let Ok(lock) = File::options().read(true).custom_flags(flags).open(stage.join(LOCK)) else { return false };
    let us = rustix::process::geteuid().as_raw();
    lock.metadata().is_ok_and(|meta| meta.is_file() && meta.uid() == us) && lock.try_lock().is_ok()
}

/// What a folder of `dir:` holds.
struct Parts {
    root: Vec<u8>,
    children: Vec<(String, Vec<u8>)>,
    blobs: Vec<Descriptor>,
}

fn broken(error: tokio::task::JoinError) -> Error {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // The runtime is shutting down.
        Err(_) => Error::Interrupted,
    }
}

/// Writes the layout in `folder` into `file`: what names the image first, then the blobs in the order of their digests.
fn tar(folder: &Path, file: &Path) -> Result<()> {
    let write = || -> std::io::Result<TarFrames<Output>> {
        let output = Output::create(file, None, Checksum::None).map_err(std::io::Error::other)?;
        let mut frames = TarFrames::new(output, 0);
        for name in ["oci-layout", "index.json"].map(PathBuf::from).into_iter().chain(blobs(folder)?) {
            pass(&folder.join(&name), &name.to_string_lossy(), &mut frames)?;
        }
        frames.finish()?;
        Ok(frames)
    };
    write().map_err(Error::store("write", file))?.into_inner().finish().map(drop)
}

/// The blobs of a layout, as paths in it.
fn blobs(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut blobs = Vec::new();
    for algorithm in fs::read_dir(folder.join("blobs"))? {
        let algorithm = algorithm?.file_name();
        for blob in fs::read_dir(folder.join("blobs").join(&algorithm))? {
            blobs.push(Path::new("blobs").join(&algorithm).join(blob?.file_name()));
        }
    }
    blobs.sort();
    Ok(blobs)
}

fn pass(path: &Path, name: &str, frames: &mut impl Frames) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    frames.begin(name, file.metadata()?.len())?;
    let mut buffer = vec![0; PIECE];
    while let count @ 1.. = file.read(&mut buffer)? {
        frames.bytes(&buffer[..count])?;
    }
    frames.end()
}

/// Moves `parts` into the folder `dir`; its manifest last. What a former image there had goes.
fn arrange(blobs: &Path, parts: &Parts, dir: &Path) -> Result<()> {
    check(dir)?;
    let arrange = || -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("version"), VERSION)?;
        for blob in &parts.blobs {
            let target = dir.join(blob.digest.hex());
            match fs::rename(blobs.join(blob.digest.algorithm().as_str()).join(blob.digest.hex()), &target) {
                // Another layer with the same bytes.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && target.exists() => {}
                moved => moved?,
            }
        }
        for (name, bytes) in &parts.children {
            fs::write(dir.join(name), bytes)?;
        }
        let new = dir.join(format!("{MANIFEST}.new"));
        fs::write(&new, &parts.root)?;
        File::open(&new)?.sync_all()?;
        fs::rename(new, dir.join(MANIFEST))?;
        clear(dir, parts)
    };
    arrange().map_err(Error::store("write", dir))
}

/// Refuses a folder with other things.
fn check(dir: &Path) -> Result<()> {
    let is_vacant = match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().all(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
        Err(e) => return Err(Error::store("use", dir)(e)),
    };
    let is_ours = fs::read_to_string(dir.join("version")).is_ok_and(|text| text.starts_with("Directory Transport"));
    match is_vacant || is_ours {
        true => Ok(()),
        false => Err(Error::Invalid {
            what: "dir:".into(),
            place: dir.display().to_string(),
            why: "the folder holds other things than an image; name an empty or new one".into(),
        }),
    }
}

/// Removes blobs and manifests that `parts` has not.
fn clear(dir: &Path, parts: &Parts) -> std::io::Result<()> {
    let is_digest = |stem: &str| stem.len() >= 64 && stem.bytes().all(|b| b.is_ascii_hexdigit());
    for entry in fs::read_dir(dir)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let stem = name.strip_suffix(&format!(".{MANIFEST}")).unwrap_or(&name);
        let is_named = parts.blobs.iter().any(|blob| blob.digest.hex() == name)
            || parts.children.iter().any(|(child, _)| *child == name);
        if is_digest(stem) && !is_named {
            fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stages_that_nobody_uses_any_more_go() {
        let dir = tempfile::tempdir().unwrap();
        let stage = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (killed, used) = (stage(".layerpull-killed"), stage(".layerpull-used"));
        let (young, other) = (stage(".layerpull-young"), stage("other"));
        drop(claim(&killed).unwrap());
        drop(claim(&other).unwrap());
        let _lock = claim(&used).unwrap();
        sweep(dir.path());
        assert!(!killed.exists() && used.exists() && young.exists() && other.exists());
    }
}
