//! What goes into an archive: images with everything below them, each blob once.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::docker::DockerImage;
use super::layout;
use super::presumed::Presumed;
use crate::content::Source;
use crate::content::file::blob_path;
use crate::error::{Error, Result};
use crate::oci::annotation::{IMAGE_NAME, MEDIA_TYPE, REF_NAME, oci_type};
use crate::oci::manifest::{MAX_BLOBS, MAX_DEPTH, MAX_MANIFESTS};
use crate::oci::{Descriptor, Digest, Image, Manifest, MediaType, Platform, RawManifest, Reference};

/// Bytes of all manifests of one archive.
const MAX_MANIFEST_BYTES: usize = 256 * 1024 * 1024;

/// What of an index is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everything: the index stays what it is.
    All,
    /// The best child for each of these: of one its manifest, of several a new index, with another digest.
    Only(Vec<Platform>),
}

/// What goes into an archive. The same whatever the order in which it was gathered.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Names, and what they point to. One without a name belongs to another one, as a signature does.
    images: BTreeSet<(Option<String>, Digest)>,
    manifests: BTreeMap<Digest, RawManifest>,
    blobs: BTreeMap<Digest, Descriptor>,
}

impl Contents {
    /// Adds the image that `name` is at `source`, or what is wanted of it, and says what its name points to.
    ///
    /// # Errors
    /// `NotFound` when a platform or manifest is not there; `Invalid` when it is larger than any image.
    pub async fn add(&mut self, source: &dyn Source, name: &Reference, wanted: &Wanted) -> Result<Descriptor> {
        let root = source.resolve(name).await?;
        let raw = chosen(source, name, source.manifest(&root).await?, wanted).await?;
        self.add_manifest(source, Some(name), raw).await
    }

    /// Adds a manifest with everything below it, under a name or without one.
    ///
    /// # Errors
    /// As [`Contents::add`].
    pub async fn add_manifest(
        &mut self,
        source: &dyn Source,
        name: Option<&Reference>,
        raw: RawManifest,
    ) -> Result<Descriptor> {
        let root = raw.descriptor();
        let mut level = vec![raw];
        for _ in 0..MAX_DEPTH {
            let mut below = Vec::new();
            let mut once = HashSet::new();
            for raw in level {
                // Indexes that name the same children would multiply with each level.
                let children = self.take(source, raw)?;
                below.extend(children.into_iter().filter(|child| once.insert(child.digest.clone())));
            }
            if below.is_empty() {
                self.images.insert((name.map(kept_name), root.digest.clone()));
                return Ok(root);
            }
            level = Vec::new();
            for child in below {
                level.push(source.manifest(&child).await?);
            }
        }
        Err(self.too_much(source, &root.digest))
    }

    /// Takes a manifest in, and returns those below it that are new.
    fn take(&mut self, source: &dyn Source, raw: RawManifest) -> Result<Vec<Descriptor>> {
        let manifest = parsed(source, &raw)?;
        let digest = raw.digest.clone();
        self.manifests.insert(digest.clone(), raw);
        let mut below = Vec::new();
        match &manifest {
            Manifest::Image(image) => self.take_blobs(image.blobs()),
            Manifest::Index(index) => {
                let (manifests, blobs): (Vec<_>, Vec<_>) =
                    index.manifests.iter().partition(|child| child.media_type.is_manifest());
                self.take_blobs(blobs.into_iter());
                let mut once = HashSet::new();
                let is_new = |child: &&Descriptor| !self.manifests.contains_key(&child.digest);
                below.extend(manifests.into_iter().filter(is_new).filter(|c| once.insert(&c.digest)).cloned());
            }
        }
        let bytes: usize = self.manifests.values().map(|raw| raw.bytes.len()).sum();
        match self.manifests.len() > MAX_MANIFESTS || self.blobs.len() > MAX_BLOBS || bytes > MAX_MANIFEST_BYTES {
            true => Err(self.too_much(source, &digest)),
            false => Ok(below),
        }
    }

    fn take_blobs<'d>(&mut self, blobs: impl Iterator<Item = &'d Descriptor>) {
        for blob in blobs {
            self.blobs
                .entry(blob.digest.clone())
                .or_insert_with(|| Descriptor::new(blob.media_type.as_str(), blob.digest.clone(), blob.size));
        }
    }

    fn too_much(&self, source: &dyn Source, digest: &Digest) -> Error {
        let why = format!("more than {MAX_DEPTH} levels, {MAX_MANIFESTS} manifests or {MAX_BLOBS} blobs");
        Error::Invalid { what: digest.to_string(), place: source.place(), why }
    }

    /// Every manifest.
    pub fn manifests(&self) -> impl Iterator<Item = &RawManifest> {
        self.manifests.values()
    }

    /// Every configuration and layer, in the order of their digests.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.blobs.values()
    }

    /// The configuration or layer of this digest.
    pub fn blob(&self, digest: &Digest) -> Option<&Descriptor> {
        self.blobs.get(digest)
    }

    /// The manifest of this digest.
    pub fn manifest(&self, digest: &Digest) -> Option<&RawManifest> {
        self.manifests.get(digest)
    }

    /// Everything with its size in bytes, in the order of the digests: manifests are blobs, too.
    pub fn sizes(&self) -> BTreeMap<&Digest, u64> {
        let blobs = self.blobs.iter().map(|(digest, blob)| (digest, blob.size));
        blobs.chain(self.manifests.iter().map(|(digest, raw)| (digest, raw.bytes.len() as u64))).collect()
    }

    /// What of it is in `left_out`.
    pub fn presumed(&self, left_out: &BTreeSet<Digest>) -> Vec<Presumed> {
        let left = self.sizes().into_iter().filter(|(digest, _)| left_out.contains(digest));
        left.map(|(digest, size)| Presumed { digest: digest.clone(), size }).collect()
    }

    /// Layers that are compressed with zstd, by what they state.
    pub fn zstd_layers(&self) -> usize {
        self.blobs.values().filter(|blob| blob.media_type.as_str().ends_with("+zstd")).count()
    }

    /// `index.json` (OCI image-spec, `image-layout.md`).
    pub(super) fn index(&self) -> String {
        let entries: Vec<_> =
            self.images.iter().filter_map(|(name, digest)| self.entry(name.as_deref(), digest)).collect();
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries});
        index.to_string()
    }

    fn entry(&self, name: Option<&str>, digest: &Digest) -> Option<Descriptor> {
        let raw = self.manifests.get(digest)?;
        let mut entry = Descriptor::new(oci_type(&raw.media_type), digest.clone(), raw.bytes.len() as u64);
        if entry.media_type != raw.media_type {
            entry.annotations.insert(MEDIA_TYPE.into(), raw.media_type.to_string());
        }
        if let Some(name) = name {
            entry.annotations.insert(IMAGE_NAME.into(), name.into());
            // The tag alone says which image is meant where there is no other.
            let tag = layout::qualified(name).and_then(|name| name.tag().map(str::to_owned));
            let is_alone = self.images.iter().filter(|(name, _)| name.is_some()).count() == 1;
            let short = tag.filter(|_| is_alone).unwrap_or_else(|| name.into());
            entry.annotations.insert(REF_NAME.into(), short);
        }
        Some(entry)
    }

    /// `manifest.json`, as `docker save` writes it: of an index the image for this machine, else the first.
    pub(super) fn docker(&self) -> String {
        let mut images: BTreeMap<&Digest, (DockerImage, Vec<String>)> = BTreeMap::new();
        for (name, digest) in &self.images {
            let Some((digest, image)) = self.runnable(digest, 0, &mut HashSet::new()) else { continue };
            let path = |blob: &Descriptor| blob_path(&blob.digest).to_string_lossy().into_owned();
            let entry = || DockerImage {
                config: path(&image.config),
                repo_tags: None,
                layers: Some(image.layers.iter().map(path).collect()),
            };
            let (_, tags) = images.entry(digest).or_insert_with(|| (entry(), Vec::new()));
            // Docker takes no names with digests.
            tags.extend(name.iter().filter(|name| !name.contains('@')).cloned());
        }
        let tagged = |(image, tags): (DockerImage, Vec<String>)| DockerImage {
            repo_tags: (!tags.is_empty()).then_some(tags),
            ..image
        };
        let images: Vec<DockerImage> = images.into_values().map(tagged).collect();
        serde_json::to_string(&images).expect("paths and names are JSON")
    }

    /// The image below `digest` that an engine can run here.
    fn runnable<'s>(
        &'s self,
        digest: &Digest,
        depth: usize,
        seen: &mut HashSet<&'s Digest>,
    ) -> Option<(&'s Digest, Image)> {
        let (digest, raw) = self.manifests.get_key_value(digest).filter(|_| depth < MAX_DEPTH)?;
        if !seen.insert(digest) {
            return None;
        }
        match raw.parse().ok()? {
            Manifest::Image(image) => image.config.media_type.is_config().then_some((digest, *image)),
            Manifest::Index(index) => {
                let best = index.best(&Platform::host()).map(|child| &child.digest);
                let all = best.into_iter().chain(index.manifests.iter().map(|child| &child.digest));
                all.filter_map(|child| self.runnable(child, depth + 1, seen)).next()
            }
        }
    }
}

fn parsed(source: &dyn Source, raw: &RawManifest) -> Result<Manifest> {
    raw.parse().map_err(|e| Error::manifest(source.place(), &raw.digest, e))
}

/// The name that an archive gives: with its tag if it has one, else with its digest.
fn kept_name(name: &Reference) -> String {
    match name.tag() {
        Some(tag) => format!("{}:{tag}", name.name()),
        None => name.to_string(),
    }
}

/// What `wanted` means of `root`.
async fn chosen(source: &dyn Source, name: &Reference, root: RawManifest, wanted: &Wanted) -> Result<RawManifest> {
    let Wanted::Only(platforms) = wanted else { return Ok(root) };
    let mut at = root;
    for _ in 0..MAX_DEPTH {
        let Manifest::Index(index) = parsed(source, &at)? else { return Ok(at) };
        let mut best = Vec::new();
        for platform in platforms {
            let none = || Error::no_platform(source.place(), name, platform, &index);
            best.push(index.best(platform).ok_or_else(none)?.clone());
        }
        best.dedup_by(|a, b| a.digest == b.digest);
        match &best[..] {
            [only] => at = source.manifest(only).await?,
            several => {
                let is_kept = |child: &Descriptor| several.iter().any(|kept| kept.digest == child.digest);
                return at.narrowed(is_kept).map_err(|e| Error::manifest(source.place(), name, e));
            }
        }
    }
    let why = format!("more than {MAX_DEPTH} indexes inside of each other");
    Err(Error::Invalid { what: name.to_string(), place: source.place(), why })
}
