//! An image that an engine is to get: one platform, by its name.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::oci::config::{chain_ids, diff_ids};
use crate::oci::{self, Descriptor, Digest, Manifest, RawManifest, Reference};

/// Layers of one image, at most. Engines stop at some hundred.
const MAX_LAYERS: usize = 10_000;

/// An image of one platform, without the bytes of its layers.
#[derive(Debug, Clone)]
pub struct Image {
    name: Reference,
    raw: RawManifest,
    manifest: oci::Image,
    config: Bytes,
    diff_ids: Vec<Digest>,
}

impl Image {
    /// The image of `raw`, with the bytes of its configuration, which the caller has verified.
    ///
    /// # Errors
    /// `Invalid` for what no engine can run: an index, an artifact, a configuration that names other layers.
    pub fn new(name: &Reference, raw: RawManifest, config: Bytes) -> Result<Image> {
        let refused = |why: String| Error::Invalid { what: name.to_string(), place: raw.digest.to_string(), why };
        let manifest = match raw.parse().map_err(|why| refused(why.to_string()))? {
            Manifest::Image(image) if image.config.media_type.is_config() => *image,
            _ => return Err(refused("it is no image that an engine can run; copy it to a registry instead".into())),
        };
        let diff_ids = diff_ids(&config).map_err(|why| refused(format!("its configuration cannot be read: {why}")))?;
        if diff_ids.len() != manifest.layers.len() || diff_ids.len() > MAX_LAYERS {
            let (layers, named) = (manifest.layers.len(), diff_ids.len());
            return Err(refused(format!("it has {layers} layers, and its configuration names {named}")));
        }
        Ok(Image { name: kept(name), raw, manifest, config, diff_ids })
    }

    /// The name that it gets: with a tag if it has one, else with its digest.
    pub fn name(&self) -> &Reference {
        &self.name
    }

    /// Its manifest, as it is.
    pub fn manifest(&self) -> &RawManifest {
        &self.raw
    }

    /// The digest of its configuration, which docker and podman call its ID.
    pub fn id(&self) -> &Digest {
        &self.manifest.config.digest
    }

    /// Its layers, from the bottom.
    pub fn layers(&self) -> &[Descriptor] {
        &self.manifest.layers
    }

    /// Its layers as they are uncompressed, from the bottom.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.diff_ids
    }

    pub(super) fn config(&self) -> (&Descriptor, &Bytes) {
        (&self.manifest.config, &self.config)
    }

    /// Each layer with all those below it (OCI image-spec, `config.md`, "Layer ChainID").
    pub(super) fn chain(&self) -> Vec<Digest> {
        chain_ids(&self.diff_ids)
    }

    /// The error for an engine that has something else.
    pub(super) fn differs(&self, place: &str, what: &str, found: &str) -> Error {
        let why = format!("its {what} is {found} there");
        Error::Verification { what: self.name.to_string(), place: place.into(), why }
    }
}

/// The name without its digest, where it has a tag: engines know no name with both.
fn kept(name: &Reference) -> Reference {
    name.tag().and_then(|tag| name.tagged(tag).ok()).unwrap_or_else(|| name.clone())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An image of these layers, which are as large as their names are long.
    pub fn image(name: &str, layers: &[&str]) -> Image {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer.as_bytes())).collect();
        let config = serde_json::json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string();
        let descriptor = |text: &str, kind: &str| Descriptor::new(kind, Digest::of(text.as_bytes()), text.len() as u64);
        let layers: Vec<_> =
            layers.iter().map(|layer| descriptor(layer, "application/vnd.oci.image.layer.v1.tar")).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": oci::MediaType::OCI_MANIFEST,
            "config": descriptor(&config, oci::MediaType::OCI_CONFIG), "layers": layers,
        });
        let raw = RawManifest::new(None, manifest.to_string().into()).unwrap();
        Image::new(&name.parse().unwrap(), raw, config.into()).unwrap()
    }

    #[test]
    fn a_name_loses_its_digest_only_where_it_has_a_tag() {
        let digest = Digest::of(b"");
        let both = image(&format!("x:1@{digest}"), &["a"]);
        assert_eq!(both.name().to_string(), "docker.io/library/x:1");
        let pinned = image(&format!("x@{digest}"), &["a"]);
        assert_eq!(pinned.name().to_string(), format!("docker.io/library/x@{digest}"));
    }

    #[test]
    fn what_no_engine_can_run_is_refused() {
        let good = image("x", &["a"]);
        let two = serde_json::json!({"rootfs": {"diff_ids": [good.diff_ids[0], good.diff_ids[0]]}}).to_string();
        for config in ["{}", "[]", r#"{"rootfs":{"diff_ids":["x"]}}"#, &two] {
            let refused = Image::new(good.name(), good.raw.clone(), config.to_owned().into());
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{config}");
        }
        let text = String::from_utf8(good.raw.bytes.to_vec()).unwrap();
        let artifact = text.replace(oci::MediaType::OCI_CONFIG, "application/vnd.oci.empty.v1+json");
        let raw = RawManifest::new(None, artifact.into()).unwrap();
        let refused = Image::new(good.name(), raw, good.config.clone()).unwrap_err().to_string();
        assert!(refused.contains("no image that an engine can run"), "{refused}");
    }
}
