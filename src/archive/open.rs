//! An archive on disk: what is in it, and where each blob lies. Nothing is unpacked.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::compression::{Compression, MAGIC};
use super::docker::{self, DockerImage, LayerFile};
use super::frame::{Fault, Headers, Kind, padding};
use super::presumed::{self, PRESUMED, Presumed};
use super::volumes::{Cursor, Slice, Volumes};
use super::{Seen, layout};
use crate::content::file::{FileOrigin, Folder, PIECE, blob_path, read_all};
use crate::content::{Origin, Source};
use crate::error::{Error, Result};
use crate::oci::config::MAX_CONFIG_SIZE;
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Algorithm, Descriptor, Digest, Hasher, Platform, RawManifest, Reference};

/// Most steps from a link to what it means.
const MAX_LINKS: usize = 8;

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

/// Where an entry lies in a tar.
#[derive(Debug, Clone, Copy)]
struct Slot {
    offset: u64,
    size: u64,
}

/// The entries of an archive, by name.
pub(super) trait Lookup {
    /// The bytes of a small file, of at most `limit`; `None` when it is not there.
    fn small(&self, name: &str, limit: u64) -> Result<Option<Bytes>, Fault>;
    /// What lies under the path of a layer whose uncompressed bytes should have the digest `diff_id`.
    fn layer(&self, name: &str, diff_id: &Digest) -> Result<Option<LayerFile>, Fault>;
}

/// What the entries mean.
pub(super) struct Meaning {
    form: Form,
    images: Vec<Packed>,
    presumed: Vec<Presumed>,
    made: HashMap<Digest, Bytes>,
    layers: Vec<(Digest, String)>,
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
        match &self.holder {
            Holder::Passed => Vec::new(),
            Holder::Folder(folder) => vec![Arc::new(FileOrigin::new(folder, blob))],
            Holder::Tar { volumes, slots } => {
                let slice = |slot: &Slot| -> Arc<dyn Origin> {
                    let (volumes, blob) = (volumes.clone(), blob.clone());
                    Arc::new(Slice { volumes, offset: slot.offset, len: slot.size, blob })
                };
                slots.get(&blob.digest).map(slice).into_iter().collect()
            }
        }
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

/// The entries of a tar on disk.
struct Listed<'a> {
    volumes: &'a Volumes,
    files: HashMap<String, Slot>,
    links: HashMap<String, String>,
}

impl<'a> Listed<'a> {
    /// Reads the headers, and passes over the bytes between them.
    fn read(volumes: &'a Volumes) -> Result<Listed<'a>, Fault> {
        let mut listed = Listed { volumes, files: HashMap::new(), links: HashMap::new() };
        let (mut cursor, mut headers) = (Cursor { volumes, at: 0 }, Headers::default());
        while let Some(entry) = headers.next(&mut cursor)? {
            let slot = Slot { offset: cursor.at, size: entry.size };
            cursor.pass(entry.size)?;
            cursor.pass(padding(entry.size))?;
            let former = match entry.kind {
                Kind::Folder => continue,
                Kind::File => listed.files.insert(entry.name.clone(), slot).is_some(),
                Kind::Link(target) => listed.links.insert(entry.name.clone(), target).is_some(),
            };
            if former || (listed.files.contains_key(&entry.name) && listed.links.contains_key(&entry.name)) {
                return Err(twice(&entry.name));
            }
        }
        Ok(listed)
    }

    fn file(&self, name: &str) -> Result<Option<Slot>, Fault> {
        Ok(self.files.get(followed(&self.links, name)?).copied())
    }
}

/// Two entries of one name: two readers could see two different things.
pub(super) fn twice(name: &str) -> Fault {
    Fault::invalid(name, "it stands in the archive twice")
}

/// What `name` means when it is a link.
pub(super) fn followed<'l>(links: &'l HashMap<String, String>, name: &'l str) -> Result<&'l str, Fault> {
    let mut at = name;
    for _ in 0..MAX_LINKS {
        match links.get(at) {
            None => return Ok(at),
            // A blob of a layout is a file; only the layers of docker's own format are links now and then.
            Some(_) if layout::blob(at).is_some() => return Err(Fault::invalid(at, "a link where a blob should be")),
            Some(target) => at = target,
        }
    }
    Err(Fault::invalid(name, format!("more than {MAX_LINKS} links behind each other")))
}

impl Slot {
    fn read(&self, volumes: &Volumes, name: &str, limit: u64) -> Result<Bytes, Fault> {
        if self.size > limit {
            return Err(Fault::invalid(name, format!("it has {} bytes, more than {limit}", self.size)));
        }
        let mut bytes = vec![0; self.size as usize];
        volumes.read_exact_at(&mut bytes, self.offset)?;
        Ok(bytes.into())
    }

    fn hash(&self, volumes: &Volumes) -> Result<Digest, Fault> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0; PIECE];
        let mut at = 0;
        while at < self.size {
            let count = buffer.len().min(usize::try_from(self.size - at).unwrap_or(usize::MAX));
            volumes.read_exact_at(&mut buffer[..count], self.offset + at)?;
            hasher.update(&buffer[..count]);
            at += count as u64;
        }
        Ok(hasher.finish())
    }
}

impl Lookup for Listed<'_> {
    fn small(&self, name: &str, limit: u64) -> Result<Option<Bytes>, Fault> {
        self.file(name)?.map(|slot| slot.read(self.volumes, name, limit)).transpose()
    }

    fn layer(&self, name: &str, diff_id: &Digest) -> Result<Option<LayerFile>, Fault> {
        let Some(slot) = self.file(name)? else { return Ok(None) };
        let mut magic = vec![0; MAGIC.min(slot.size as usize)];
        self.volumes.read_exact_at(&mut magic, slot.offset)?;
        let compression = Compression::of(&magic);
        let digest = match compression {
            // Whoever takes the layer finds out whether it is what the configuration says.
            Compression::None => diff_id.clone(),
            _ => slot.hash(self.volumes)?,
        };
        Ok(Some(LayerFile { digest, size: slot.size, compression }))
    }
}

impl Lookup for Folder {
    fn small(&self, name: &str, limit: u64) -> Result<Option<Bytes>, Fault> {
        match self.file(Path::new(name)).and_then(|file| read_all(file, limit)) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Fault::invalid(name, e)),
        }
    }

    fn layer(&self, _: &str, _: &Digest) -> Result<Option<LayerFile>, Fault> {
        Ok(None)
    }
}

/// What the entries of an archive mean.
fn meaning(entries: &impl Lookup) -> Result<Meaning, Fault> {
    let presumed = entries.small(PRESUMED, MAX_MANIFEST_SIZE)?.map(|bytes| presumed::read(&bytes)).transpose()?;
    let marker = entries.small(layout::MARKER, MAX_MANIFEST_SIZE)?;
    let index = entries.small(layout::INDEX, MAX_MANIFEST_SIZE)?;
    let mut meaning = match (marker, index, entries.small(docker::MANIFEST, MAX_MANIFEST_SIZE)?) {
        (Some(marker), Some(index), _) => {
            layout::check(&marker)?;
            let images = layout::images(&index)?;
            Meaning { form: Form::Layout, images, presumed: vec![], made: HashMap::new(), layers: vec![] }
        }
        (_, _, Some(manifest)) => Meaning::of_docker(&docker::parse(&manifest)?, entries)?,
        _ => {
            let why = "neither an OCI layout nor a docker-archive: it has no index.json and no manifest.json";
            return Err(Fault::invalid("archive", why));
        }
    };
    meaning.presumed = presumed.unwrap_or_default();
    Ok(meaning)
}

impl Meaning {
    fn of_docker(images: &[DockerImage], entries: &impl Lookup) -> Result<Meaning, Fault> {
        let mut meaning =
            Meaning { form: Form::Docker, images: vec![], presumed: vec![], made: HashMap::new(), layers: vec![] };
        for image in images {
            let manifest = meaning.manifest(image, entries)?;
            let tags = image.repo_tags.clone().unwrap_or_default();
            let packed = |name: Option<String>| {
                let reference = name.as_deref().and_then(layout::qualified);
                Packed { name, reference, root: manifest.descriptor(), platforms: None }
            };
            match tags.is_empty() {
                true => meaning.images.push(packed(None)),
                false => meaning.images.extend(tags.into_iter().map(|tag| packed(Some(tag)))),
            }
            meaning.made.insert(manifest.digest.clone(), manifest.bytes.clone());
        }
        Ok(meaning)
    }

    fn manifest(&mut self, image: &DockerImage, entries: &impl Lookup) -> Result<RawManifest, Fault> {
        let absent = |path: &str| Fault::invalid(path, "manifest.json names it, and it is not in the archive");
        let config = entries.small(&image.config, MAX_CONFIG_SIZE)?.ok_or_else(|| absent(&image.config))?;
        let diff_ids = docker::diff_ids(&config, &image.config)?;
        let mut layers = Vec::new();
        for (path, diff_id) in image.layers.iter().flatten().zip(&diff_ids) {
            let layer = entries.layer(path, diff_id)?.ok_or_else(|| absent(path))?;
            self.layers.push((layer.digest.clone(), path.clone()));
            layers.push(layer);
        }
        // One too many is told as well.
        let paths = image.layers.as_ref().map_or(0, Vec::len);
        if paths > diff_ids.len() {
            let why = format!("it has {} layers, the archive {paths} for it", diff_ids.len());
            return Err(Fault::invalid(&image.config, why));
        }
        let manifest = docker::assemble(&image.config, &config, layers)?;
        self.made.insert(Digest::of(&config), config);
        Ok(manifest)
    }
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("place", &self.place).field("images", &self.images).finish_non_exhaustive()
    }
}
