//! What the entries of an archive mean: which images it has, by either of the formats.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::docker::{self, DockerImage, LayerFile};
use super::frame::Fault;
use super::presumed::{self, PRESUMED, Presumed};
use super::{Form, Packed, layout};
use crate::content::file::{Folder, read_all};
use crate::oci::config::MAX_CONFIG_SIZE;
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Digest, RawManifest};

/// The entries of an archive, by name.
pub(super) trait Lookup {
    /// The bytes of a small file, of at most `limit`; `None` when it is not there.
    fn small(&self, name: &str, limit: u64) -> Result<Option<Bytes>, Fault>;
    /// What lies under the path of a layer whose uncompressed bytes should have the digest `diff_id`.
    fn layer(&self, name: &str, diff_id: &Digest) -> Result<Option<LayerFile>, Fault>;
}

/// What the entries mean.
pub(super) struct Meaning {
    pub form: Form,
    pub images: Vec<Packed>,
    pub presumed: Vec<Presumed>,
    /// Manifests that were made, and their configurations.
    pub made: HashMap<Digest, Bytes>,
    /// Under which paths the layers of a docker-archive lie.
    pub layers: Vec<(Digest, String)>,
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
pub(super) fn meaning(entries: &impl Lookup) -> Result<Meaning, Fault> {
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
