//! An archive on disk: what is in it, and where each blob lies. Nothing is unpacked.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::listed::{Listed, Slot};
use super::meaning::{Meaning, meaning};
use super::presumed::Presumed;
use super::volumes::{Slice, Volumes};
use super::{Seen, layout};
use crate::content::file::{FileOrigin, Folder, blob_path, read_all};
use crate::content::{Body, Origin, Provenance, Source};
use crate::error::{Error, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Platform, RawManifest, Reference};

/// Images in a tar, in the volumes of one, or in a folder. A cheap clone over shared state.
#[derive(Clone)]
pub struct Archive {
    place: Arc<str>,
    form: Form,
    images: Arc<[Packed]>,
    presumed: Arc<[Presumed]>,
    holder: Holder,
    /// What the archive does not have as a file of its own: manifests over a docker-archive, their configurations.
    made: Arc<HashMap<Digest, Bytes>>,
}

/// What an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// An OCI layout: its manifests are those of the registry.
    Layout,
    /// A docker-archive: manifests were made over its layers as they lie.
    Docker,
}

/// One image of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Its name as the archive has it.
    pub name: Option<String>,
    /// The name as a reference; `None` for a tag alone, or no name.
    pub reference: Option<Reference>,
    /// What it points to.
    pub root: Descriptor,
    /// The platforms of an index that whoever wrote the archive took; `None`: nobody said.
    pub platforms: Option<Vec<Platform>>,
}

/// Where the bytes are.
#[derive(Clone)]
enum Holder {
    /// In a tar.
    Tar { volumes: Arc<Volumes>, slots: Arc<HashMap<Digest, Slot>> },
    /// In a folder.
    Folder(Folder),
    /// Where they went when they came by, in order.
    Passed,
}

impl Archive {
    /// Opens a tar without compression around it, the volumes of one in their order, or a folder that is a layout. Reads
    /// headers and what names the images; of a docker-archive with compressed layers these, too. Waits for the disk.
    ///
    /// # Errors
    /// `Invalid` when it is no image archive, damaged or hostile; `NotFound`, `Store`.
    pub fn open(paths: &[PathBuf]) -> Result<Archive> {
        match paths {
            [folder] if folder.is_dir() => Archive::folder(folder),
            _ => Archive::tar(Volumes::open(paths)?),
        }
    }

    fn folder(path: &Path) -> Result<Archive> {
        let place = path.display().to_string();
        let folder = Folder::open(path).map_err(Error::store("open", path))?;
        let meaning = meaning(&folder).map_err(|fault| fault.at(&place))?;
        Ok(Archive::of(&place, meaning, Holder::Folder(folder)))
    }

    fn tar(volumes: Volumes) -> Result<Archive> {
        let place = volumes.place().to_owned();
        let listed = Listed::read(&volumes).map_err(|fault| fault.at(&place))?;
        let mut meaning = meaning(&listed).map_err(|fault| fault.at(&place))?;
        let mut slots: HashMap<Digest, Slot> = HashMap::new();
        for (name, slot) in &listed.files {
            if let Some(digest) = layout::blob(name) {
                slots.insert(digest, *slot);
            }
        }
        for (digest, name) in std::mem::take(&mut meaning.layers) {
            if let Some(slot) = listed.file(&name).map_err(|fault| fault.at(&place))? {
                slots.insert(digest, slot);
            }
        }
        let holder = Holder::Tar { volumes: Arc::new(volumes), slots: Arc::new(slots) };
        Ok(Archive::of(&place, meaning, holder))
    }

    /// An archive of which every blob came by already, and went to a place that keeps it.
    ///
    /// # Errors
    /// `Invalid` when it is no image archive, or damaged.
    pub fn passed(place: &str, seen: &Seen) -> Result<Archive> {
        let meaning = meaning(seen).map_err(|fault| fault.at(place))?;
        Ok(Archive::of(place, meaning, Holder::Passed))
    }

    fn of(place: &str, meaning: Meaning, holder: Holder) -> Archive {
        Archive {
            place: place.into(),
            form: meaning.form,
            images: meaning.images.into(),
            presumed: meaning.presumed.into(),
            holder,
            made: Arc::new(meaning.made),
        }
    }

    /// What it is.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The images, in the order of the archive.
    pub fn images(&self) -> &[Packed] {
        &self.images
    }

    /// What it needs and leaves out. Empty for archives that are whole, and for those of others.
    pub fn presumed(&self) -> &[Presumed] {
        &self.presumed
    }

    /// Whether it has these bytes, by its own account.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.made.contains_key(digest)
            || match &self.holder {
                Holder::Tar { slots, .. } => slots.contains_key(digest),
                Holder::Folder(folder) => folder.blob(digest).is_ok(),
                Holder::Passed => false,
            }
    }

    /// Every blob that it has, by its own account.
    ///
    /// # Errors
    /// `Store` when its folder cannot be read.
    pub fn held(&self) -> Result<BTreeSet<Digest>> {
        let mut held: BTreeSet<Digest> = self.made.keys().cloned().collect();
        match &self.holder {
            Holder::Tar { slots, .. } => held.extend(slots.keys().cloned()),
            Holder::Folder(folder) => {
                let below = folder.path().join("blobs/sha256");
                let entries = std::fs::read_dir(&below).map_err(Error::store("read", &below))?;
                let name = |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
                held.extend(entries.filter_map(name).filter_map(|hex| format!("sha256:{hex}").parse().ok()));
            }
            Holder::Passed => {}
        }
        Ok(held)
    }

    fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>> {
        if let Some(bytes) = self.made.get(digest) {
            return Ok(Some(bytes.clone()));
        }
        match &self.holder {
            Holder::Passed => Ok(None),
            Holder::Folder(folder) => match folder.blob(digest).and_then(|file| read_all(file, limit)) {
                Ok(bytes) => Ok(Some(bytes.into())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(Error::store("read", folder.path().join(blob_path(digest)))(e)),
            },
            Holder::Tar { volumes, slots } => {
                let Some(slot) = slots.get(digest) else { return Ok(None) };
                slot.read(volumes, &digest.to_string(), limit).map(Some).map_err(|fault| fault.at(&self.place))
            }
        }
    }

    fn not_found(&self, what: impl ToString) -> Error {
        let why = match self.presumed.is_empty() {
            true => "the archive is not whole".into(),
            false => "it is made for a place that has it already".into(),
        };
        Error::NotFound { what: what.to_string(), place: self.place.to_string(), why }
    }
}

#[async_trait]
impl Source for Archive {
    fn place(&self) -> String {
        self.place.to_string()
    }

    async fn resolve(&self, name: &Reference) -> Result<Descriptor> {
        let is_named = |image: &&Packed| match name.digest() {
            Some(digest) => image.root.digest == *digest,
            None => image.reference.as_ref() == Some(name),
        };
        let found = self.images.iter().find(is_named).map(|image| image.root.clone());
        found.ok_or_else(|| Error::NotFound {
            what: name.to_string(),
            place: self.place.to_string(),
            why: "`layerpull import --list` shows what is in it".into(),
        })
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        let digest = &descriptor.digest;
        let bytes = self.read(digest, MAX_MANIFEST_SIZE)?.ok_or_else(|| self.not_found(digest))?;
        RawManifest::verified(digest, Some(&descriptor.media_type), bytes)
            .map_err(|e| Error::manifest(&self.place, digest, e))
    }

    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        if let Some(bytes) = self.made.get(&blob.digest) {
            return vec![Arc::new(super::seen::InMemory { place: self.place.clone(), bytes: bytes.clone() })];
        }
        let slot = match &self.holder {
            Holder::Folder(folder) => return vec![Arc::new(FileOrigin::new(folder, blob))],
            Holder::Tar { volumes, slots } => slots.get(&blob.digest).map(|slot| (volumes.clone(), *slot)),
            Holder::Passed => None,
        };
        vec![match slot {
            Some((volumes, slot)) => {
                Arc::new(Slice { volumes, offset: slot.offset, len: slot.size, blob: blob.clone() })
            }
            None => Arc::new(Absent { archive: self.clone(), blob: blob.digest.clone() }),
        }]
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        for image in self.images.iter() {
            let Ok(raw) = self.manifest(&image.root).await else { continue };
            let names = raw.parse().ok().and_then(|manifest| Some(manifest.subject()?.digest == *subject));
            if names == Some(true) {
                found.push(image.root.clone());
            }
        }
        Ok(found)
    }
}

/// A blob that an archive names and does not have: whoever wants its bytes is told.
#[derive(Debug)]
struct Absent {
    archive: Archive,
    blob: Digest,
}

#[async_trait]
impl Origin for Absent {
    fn host(&self) -> &str {
        &self.archive.place
    }

    fn provenance(&self) -> Provenance {
        Provenance::Local
    }

    async fn open(&self, _: Range<u64>) -> Result<Body> {
        Err(self.archive.not_found(&self.blob))
    }
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("place", &self.place).field("images", &self.images).finish_non_exhaustive()
    }
}
