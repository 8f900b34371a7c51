//! What is known of an archive that came in order, and whose blobs went on to somewhere else.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::compression::Compression;
use super::docker::{self, LayerFile};
use super::frame::{Entry, Fault, Kind};
use super::listed::{followed, twice};
use super::meaning::Lookup;
use super::presumed::PRESUMED;
use super::{layout, presumed};
use crate::content::file::PIECE;
use crate::content::{Body, Extent, Origin, Provenance};
use crate::error::{Error, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Digest, Reference};

/// Files of at most this many bytes are kept when they may be configurations of a docker-archive.
const MAX_SMALL: u64 = MAX_MANIFEST_SIZE;
/// Bytes of all files that are kept.
const MAX_KEPT: u64 = 32 * 1024 * 1024;

/// What to do with an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Read it, and give it to [`Seen::keep`].
    Keep,
    /// It should be the bytes of this digest.
    Blob(Digest),
    /// It may be a layer, whose digest nobody knows before it is read.
    Layer,
    /// Nobody needs it.
    Pass,
}

/// The entries that came by so far.
#[derive(Debug, Default)]
pub struct Seen {
    small: HashMap<String, Bytes>,
    kept: u64,
    files: HashMap<String, LayerFile>,
    links: HashMap<String, String>,
}

impl Seen {
    /// Says what to do with an entry that comes now.
    ///
    /// # Errors
    /// `Invalid` when it stands in the archive twice, or is a link where a blob should be, or is too large.
    pub fn fate(&mut self, entry: &Entry, place: &str) -> Result<Fate> {
        self.judge(entry).map_err(|fault| fault.at(place))
    }

    fn judge(&mut self, entry: &Entry) -> Result<Fate, Fault> {
        let name = entry.name.as_str();
        if self.small.contains_key(name) || self.files.contains_key(name) || self.links.contains_key(name) {
            return Err(twice(name));
        }
        match &entry.kind {
            Kind::Folder => Ok(Fate::Pass),
            Kind::Link(_) if layout::blob(name).is_some() => Err(Fault::invalid(name, "a link where a blob should be")),
            Kind::Link(target) => {
                self.links.insert(name.into(), target.clone());
                Ok(Fate::Pass)
            }
            Kind::File => self.judge_file(name, entry.size),
        }
    }

    fn judge_file(&mut self, name: &str, size: u64) -> Result<Fate, Fault> {
        let names_images = [layout::MARKER, layout::INDEX, docker::MANIFEST, PRESUMED].contains(&name);
        if names_images && size > MAX_SMALL {
            return Err(Fault::invalid(name, format!("it has {size} bytes, more than {MAX_SMALL}")));
        }
        if names_images || (name.ends_with(".json") && !name.contains('/') && size <= MAX_SMALL) {
            self.kept += size;
            return match self.kept <= MAX_KEPT {
                true => Ok(Fate::Keep),
                false => Err(Fault::invalid(name, format!("the archive has more than {MAX_KEPT} bytes of JSON"))),
            };
        }
        Ok(match layout::blob(name) {
            Some(digest) => Fate::Blob(digest),
            // What docker writes beside each layer, for versions before 1.10.
            None if ["VERSION", "json", "repositories"].contains(&name.rsplit('/').next().unwrap_or(name)) => {
                Fate::Pass
            }
            None if self.small.contains_key(layout::MARKER) => Fate::Pass,
            None => Fate::Layer,
        })
    }

    /// Takes the bytes of an entry to keep. Says what the archive leaves out, where that is the entry.
    ///
    /// # Errors
    /// `Invalid` when that is damaged.
    pub fn keep(&mut self, name: &str, bytes: Bytes, place: &str) -> Result<Vec<presumed::Presumed>> {
        let presumed = match name == PRESUMED {
            true => presumed::read(&bytes).map_err(|fault| fault.at(place))?,
            false => Vec::new(),
        };
        self.small.insert(name.into(), bytes);
        Ok(presumed)
    }

    /// Takes note of a file that went on: what it is, and the first bytes of it.
    pub fn went_on(&mut self, name: &str, digest: Digest, size: u64, magic: &[u8]) {
        let compression = Compression::of(magic);
        self.files.insert(name.into(), LayerFile { digest, size, compression });
    }

    /// Configurations that went on as if they were layers, by path and digest: give their bytes to [`Seen::give`].
    ///
    /// # Errors
    /// `Invalid` when `manifest.json` is damaged.
    pub fn strayed(&self, place: &str) -> Result<Vec<(String, Digest)>> {
        let Some(manifest) = self.small.get(docker::MANIFEST) else { return Ok(Vec::new()) };
        let images = docker::parse(manifest).map_err(|fault| fault.at(place))?;
        let strayed = |image: docker::DockerImage| Some((image.config.clone(), self.files.get(&image.config)?));
        Ok(images.into_iter().filter_map(strayed).map(|(path, file)| (path, file.digest.clone())).collect())
    }

    /// Takes the bytes of a configuration.
    pub fn give(&mut self, path: &str, bytes: Bytes) {
        self.small.insert(path.into(), bytes);
    }

    /// The names that the archive gives, and what they point to where it says so: without reading any blob.
    ///
    /// # Errors
    /// `Invalid` when it is no image archive.
    pub fn names(&self, place: &str) -> Result<Vec<(Option<String>, Option<Digest>)>> {
        if let Some(index) = self.small.get(layout::INDEX) {
            let images = layout::images(index).map_err(|fault| fault.at(place))?;
            return Ok(images.into_iter().map(|image| (image.name, Some(image.root.digest))).collect());
        }
        let manifest = self
            .small
            .get(docker::MANIFEST)
            .ok_or_else(|| Fault::invalid("archive", "neither an OCI layout nor a docker-archive").at(place))?;
        let images = docker::parse(manifest).map_err(|fault| fault.at(place))?;
        let names = |image: docker::DockerImage| match image.repo_tags.filter(|tags| !tags.is_empty()) {
            Some(tags) => tags.into_iter().map(Some).collect(),
            None => vec![None],
        };
        Ok(images.into_iter().flat_map(names).map(|name| (name, None)).collect())
    }
}

impl Lookup for Seen {
    fn small(&self, name: &str, _: u64) -> Result<Option<Bytes>, Fault> {
        Ok(self.small.get(followed(&self.links, name)?).cloned())
    }

    fn layer(&self, name: &str, _: &Digest) -> Result<Option<LayerFile>, Fault> {
        Ok(self.files.get(followed(&self.links, name)?).cloned())
    }
}

/// A small blob that is in memory.
#[derive(Debug)]
pub(super) struct InMemory {
    pub place: Arc<str>,
    pub bytes: Bytes,
}

#[async_trait]
impl Origin for InMemory {
    fn host(&self) -> &str {
        &self.place
    }

    fn provenance(&self) -> Provenance {
        Provenance::Local
    }

    async fn open(&self, range: Range<u64>) -> Result<Body> {
        let end = range.end.min(self.bytes.len() as u64);
        let bytes = self.bytes.slice(range.start as usize..end as usize);
        let pieces: Vec<Result<Bytes, Error>> = bytes.chunks(PIECE).map(|piece| Ok(bytes.slice_ref(piece))).collect();
        Ok(Body { start: range.start, end: Some(end), extent: Extent::Range, bytes: stream::iter(pieces).boxed() })
    }
}

/// A name for an image of an archive that gives none, or only a tag: `localhost/STEM`.
pub fn fallback(stem: &str, tag: Option<&str>, digest: &Digest) -> Option<Reference> {
    let plain: String = stem.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let parts: Vec<&str> = plain.split('-').filter(|part| !part.is_empty()).collect();
    let repository = if parts.is_empty() { "archive".to_owned() } else { parts.join("-") };
    match tag.filter(|tag| crate::oci::is_tag(tag)) {
        Some(tag) => format!("localhost/{repository}:{tag}").parse().ok(),
        None => format!("localhost/{repository}@{digest}").parse().ok(),
    }
}
