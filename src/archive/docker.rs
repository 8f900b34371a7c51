//! A docker-archive, as `docker save` writes it: `manifest.json` names configurations and layers by their paths.
//!
//! It has no manifests. One of OCI is made over the layers as they lie in the archive: the same in every run, and not the
//! one that a registry has.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::compression::Compression;
use super::frame::Fault;
use crate::oci::{Descriptor, Digest, MediaType, RawManifest, config};

/// The entry that names the images.
pub const MANIFEST: &str = "manifest.json";
/// Most images in one archive.
const MAX_IMAGES: usize = 10_000;
/// Most layers of one image.
const MAX_LAYERS: usize = 10_000;
/// A layer of OCI; `+gzip` and `+zstd` say how it is compressed.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// One image of a docker-archive.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    /// Path of the configuration.
    pub config: String,
    /// Its names; none or null for an image without.
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    /// Paths of the layers, the lowest first.
    #[serde(default)]
    pub layers: Option<Vec<String>>,
}

/// What lies under the path of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// The digest of the bytes as they lie.
    pub digest: Digest,
    /// How many.
    pub size: u64,
    /// How they are compressed.
    pub compression: Compression,
}

/// The images that `manifest.json` names.
///
/// # Errors
/// `Invalid` when it is damaged, or names more than any archive has.
pub fn parse(manifest: &[u8]) -> Result<Vec<DockerImage>, Fault> {
    let images: Vec<DockerImage> = serde_json::from_slice(manifest).map_err(|e| Fault::invalid(MANIFEST, e))?;
    let layers = |image: &DockerImage| image.layers.as_ref().map_or(0, Vec::len);
    if images.len() > MAX_IMAGES || images.iter().any(|image| layers(image) > MAX_LAYERS) {
        return Err(Fault::invalid(MANIFEST, format!("more than {MAX_IMAGES} images, or layers of one")));
    }
    Ok(images)
}

/// The uncompressed layers that the configuration under `path` names, the lowest first.
///
/// # Errors
/// `Invalid` when it does not.
pub fn diff_ids(config: &[u8], path: &str) -> Result<Vec<Digest>, Fault> {
    config::diff_ids(config).map_err(|e| Fault::invalid(path, e))
}

/// The manifest over `layers`, which are those of `config`.
///
/// # Errors
/// `Invalid` when their number or the digest of an uncompressed one is not what the configuration says, or when one is
/// compressed as no layer may be.
pub fn assemble(path: &str, config: &Bytes, layers: Vec<LayerFile>) -> Result<RawManifest, Fault> {
    let diff_ids = diff_ids(config, path)?;
    if diff_ids.len() != layers.len() {
        let why = format!("it has {} layers, the archive {} for it", diff_ids.len(), layers.len());
        return Err(Fault::invalid(path, why));
    }
    let mut descriptors = Vec::new();
    for (layer, diff_id) in layers.into_iter().zip(diff_ids) {
        if layer.compression == Compression::None && layer.digest != diff_id {
            let why = format!("a layer of the archive is {}, where {diff_id} should be", layer.digest);
            return Err(Fault::invalid(path, why));
        }
        descriptors.push(layer.descriptor()?);
    }
    let config = Descriptor::new(MediaType::OCI_CONFIG, Digest::of(config), config.len() as u64);
    let manifest = Made { schema_version: 2, media_type: MediaType::OCI_MANIFEST, config, layers: descriptors };
    let text = serde_json::to_string(&manifest).expect("descriptors are JSON");
    RawManifest::new(None, text.into()).map_err(|e| Fault::invalid(path, e))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    schema_version: u64,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl LayerFile {
    fn descriptor(self) -> Result<Descriptor, Fault> {
        let kind = match self.compression {
            Compression::None => LAYER.to_owned(),
            Compression::Gzip => format!("{LAYER}+gzip"),
            Compression::Zstd => format!("{LAYER}+zstd"),
            Compression::Xz | Compression::Bzip2 => {
                let why = "a layer compressed with xz or bzip2: no current engine takes that";
                return Err(Fault::invalid(self.digest, why));
            }
        };
        Ok(Descriptor::new(kind.as_str(), self.digest, self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(bytes: &[u8], compression: Compression) -> LayerFile {
        LayerFile { digest: Digest::of(bytes), size: bytes.len() as u64, compression }
    }

    fn config(layers: &[&[u8]]) -> Bytes {
        let ids: Vec<String> = layers.iter().map(|bytes| Digest::of(bytes).to_string()).collect();
        serde_json::json!({"rootfs": {"type": "layers", "diff_ids": ids}}).to_string().into()
    }

    #[test]
    fn the_same_layers_make_the_same_manifest() {
        let layers = || vec![layer(b"a", Compression::None), layer(b"b.gz", Compression::Gzip)];
        let made = assemble("c.json", &config(&[b"a", b"b"]), layers()).unwrap();
        assert_eq!(made.digest, assemble("other", &config(&[b"a", b"b"]), layers()).unwrap().digest);
        let text = std::str::from_utf8(&made.bytes).unwrap();
        assert!(text.starts_with(r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#));
        assert!(text.contains("layer.v1.tar+gzip"), "{text}");
    }

    #[test]
    fn layers_that_are_not_those_of_the_configuration_are_refused() {
        let why = |layers| assemble("c.json", &config(&[b"a"]), layers).unwrap_err().at("x").to_string();
        assert!(why(vec![]).contains("it has 1 layers, the archive 0"));
        assert!(why(vec![layer(b"b", Compression::None)]).contains("should be"));
        assert!(why(vec![layer(b"a", Compression::Xz)]).contains("no current engine"));
    }

    #[test]
    fn null_is_no_name_and_no_layer() {
        let images = parse(br#"[{"Config":"c","RepoTags":null,"Layers":null,"Parent":""}]"#).unwrap();
        assert!(images[0].repo_tags.is_none() && images[0].layers.is_none());
        assert!(parse(b"{}").is_err());
        assert!(diff_ids(b"{}", "c").is_err());
    }
}
