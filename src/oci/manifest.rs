//! Manifests and indexes: the nodes of the graph (OCI image-spec, `manifest.md` and `image-index.md`).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::descriptor::null_is_empty;
use super::{Descriptor, Digest, Hasher, MediaType, Platform};

/// The largest manifest that is read, in bytes: what every registry must accept (distribution-spec, "Pushing manifests").
pub const MAX_MANIFEST_SIZE: u64 = 4 * 1024 * 1024;

/// How many levels of manifests one image may have: indexes inside of indexes. Real ones have one or two.
pub const MAX_DEPTH: usize = 8;

/// How many manifests there may be below one name.
pub const MAX_MANIFESTS: usize = 20_000;

/// How many blobs there may be below one name: what fits into manifests of 4 MiB many times over.
pub const MAX_BLOBS: usize = 200_000;

/// A manifest as it came: its bytes are kept verbatim, because its digest is over them.
#[derive(Debug, Clone)]
pub struct RawManifest {
    /// What kind of manifest this is.
    pub media_type: MediaType,
    /// The digest of `bytes`.
    pub digest: Digest,
    /// At most [`MAX_MANIFEST_SIZE`] bytes.
    pub bytes: Bytes,
}

/// A manifest that was understood.
#[derive(Debug, Clone)]
pub enum Manifest {
    /// One image for one platform, or an artifact.
    Image(Box<Image>),
    /// A list of manifests, usually one a platform. May nest.
    Index(Box<Index>),
}

/// The manifest of one image or artifact.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The configuration, or for artifacts an empty blob.
    pub config: Descriptor,
    /// The layers, bottom first. The same layer may stand here more than once.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is attached to, such as the image that a signature signs.
    #[serde(default)]
    pub subject: Option<Descriptor>,
    /// The type of an artifact.
    #[serde(default)]
    pub artifact_type: Option<String>,
    /// Free text about the image.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Image {
    /// The configuration and the layers, in the order of the manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// An image index or manifest list.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// The children, in the order of the index.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index is attached to.
    #[serde(default)]
    pub subject: Option<Descriptor>,
    /// The type of an artifact.
    #[serde(default)]
    pub artifact_type: Option<String>,
    /// Free text about the index.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// The child that serves `wanted` best: the first of the best rank; where none states a fitting platform, the first
    /// that states none (an index inside of an index, or an image of unknown platform).
    pub fn best(&self, wanted: &Platform) -> Option<&Descriptor> {
        let manifests = || self.manifests.iter().filter(|child| child.media_type.is_manifest());
        let rank = |child: &Descriptor| child.platform.as_ref().and_then(|offered| wanted.rank(offered));
        let ranked = manifests().filter_map(|child| Some((rank(child)?, child)));
        let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, child)| child);
        best.or_else(|| manifests().find(|child| child.platform.is_none()))
    }
}

/// Why some bytes are no manifest that can be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    /// The bytes are not the ones that were named; this is their digest.
    #[error("the bytes have digest {0}")]
    OtherBytes(Digest),
    /// Larger than [`MAX_MANIFEST_SIZE`].
    #[error("manifest has {0} bytes, more than the {MAX_MANIFEST_SIZE} that a registry must accept")]
    TooLarge(u64),
    /// No JSON, or a required field is missing or wrong.
    #[error("invalid manifest: {0}")]
    Json(String),
    /// It has the fields of an index and of an image, so that two readers could see two different things.
    #[error("ambiguous manifest: it has both `manifests` and `config` or `layers`")]
    Ambiguous,
    /// Schema 1, which names its layers by no verifiable size and has no configuration.
    #[error(
        "manifest of the abandoned schema 1: push the image again with a current docker, or copy it with \
         `skopeo copy --format v2s2`"
    )]
    Schema1,
    /// Neither an image nor an index, by its media type.
    #[error("unsupported manifest type {0:?}")]
    Unsupported(String),
}

/// The fields that decide what a manifest is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl RawManifest {
    /// Takes manifest bytes as they came, with the media type that the server or the parent named.
    ///
    /// The type that the bytes name themselves wins, because it is under the digest.
    ///
    /// # Errors
    /// When the bytes are too large, no JSON, ambiguous, of schema 1 or of no known type.
    pub fn new(claimed: Option<&MediaType>, bytes: Bytes) -> Result<RawManifest, InvalidManifest> {
        let media_type = media_type(claimed, &bytes)?;
        let digest = Digest::of(&bytes);
        Ok(RawManifest { media_type, digest, bytes })
    }

    /// Takes manifest bytes that should be those of `digest`, which names them from now on.
    ///
    /// # Errors
    /// `OtherBytes` when they are not, and as [`RawManifest::new`].
    pub fn verified(
        digest: &Digest,
        claimed: Option<&MediaType>,
        bytes: Bytes,
    ) -> Result<RawManifest, InvalidManifest> {
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != *digest {
            return Err(InvalidManifest::OtherBytes(found));
        }
        Ok(RawManifest { media_type: media_type(claimed, &bytes)?, digest: found, bytes })
    }

    /// Understands the bytes.
    ///
    /// # Errors
    /// When a required field is missing or wrong: a size that is negative or no number, a digest that is none, …
    pub fn parse(&self) -> Result<Manifest, InvalidManifest> {
        if self.media_type.is_index() {
            from_json(&self.bytes).map(|index| Manifest::Index(Box::new(index)))
        } else {
            from_json(&self.bytes).map(|image| Manifest::Image(Box::new(image)))
        }
    }

    /// A new index, with another digest, of those children of this one that `keep` says.
    ///
    /// # Errors
    /// When the bytes are no JSON object.
    pub fn narrowed(&self, keep: impl Fn(&Descriptor) -> bool) -> Result<RawManifest, InvalidManifest> {
        let mut json: serde_json::Map<String, serde_json::Value> = from_json(&self.bytes)?;
        if let Some(serde_json::Value::Array(children)) = json.get_mut("manifests") {
            let is_kept = |child: &serde_json::Value| Descriptor::deserialize(child).is_ok_and(|child| keep(&child));
            children.retain(is_kept);
        }
        let bytes = serde_json::Value::Object(json).to_string();
        RawManifest::new(Some(&self.media_type), bytes.into())
    }

    /// The descriptor of this manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.as_str(), self.digest.clone(), self.bytes.len() as u64)
    }
}

impl Manifest {
    /// The manifest that this one is attached to.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Manifest::Image(image) => image.subject.as_ref(),
            Manifest::Index(index) => index.subject.as_ref(),
        }
    }
}

impl Outline {
    fn media_type(&self, claimed: Option<&MediaType>) -> Result<MediaType, InvalidManifest> {
        let is_image = self.config.is_some() || self.layers.is_some();
        let is_index = self.manifests.is_some();
        if is_image && is_index {
            return Err(InvalidManifest::Ambiguous);
        }
        let named = self.media_type.as_deref().map(MediaType::new);
        let named = named.as_ref().or(claimed.filter(|c| c.is_manifest() || c.is_schema1()));
        match named {
            Some(t) if t.is_schema1() => Err(InvalidManifest::Schema1),
            Some(t) if t.is_index() && !is_image => Ok(t.clone()),
            Some(t) if t.is_image() && !is_index => Ok(t.clone()),
            Some(t) if t.is_manifest() => Err(InvalidManifest::Ambiguous),
            Some(t) => Err(InvalidManifest::Unsupported(t.to_string())),
            None if self.schema_version == 1 => Err(InvalidManifest::Schema1),
            None if is_index => Ok(MediaType::new(MediaType::OCI_INDEX)),
            None if is_image => Ok(MediaType::new(MediaType::OCI_MANIFEST)),
            None => Err(InvalidManifest::Json("it has neither `manifests` nor `config`".into())),
        }
    }
}

/// What the bytes say that they are, else what is claimed.
fn media_type(claimed: Option<&MediaType>, bytes: &[u8]) -> Result<MediaType, InvalidManifest> {
    if bytes.len() as u64 > MAX_MANIFEST_SIZE {
        return Err(InvalidManifest::TooLarge(bytes.len() as u64));
    }
    let outline: Outline = from_json(bytes)?;
    outline.media_type(claimed)
}

fn from_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, InvalidManifest> {
    serde_json::from_slice(bytes).map_err(|e| InvalidManifest::Json(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    const CONFIG: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,
        "digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}"#;

    fn raw(json: &str) -> Result<RawManifest, InvalidManifest> {
        RawManifest::new(None, Bytes::copy_from_slice(json.as_bytes()))
    }

    #[test]
    fn an_image_without_media_type_is_known_by_its_fields() {
        let raw = raw(&format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":null}}"#)).unwrap();
        assert_eq!(raw.media_type.as_str(), MediaType::OCI_MANIFEST);
        assert!(matches!(raw.parse(), Ok(Manifest::Image(image)) if image.layers.is_empty()));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let both = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"manifests":[]}}"#);
        assert_eq!(raw(&both).unwrap_err(), InvalidManifest::Ambiguous);
        let index = MediaType::OCI_INDEX;
        let lies = format!(r#"{{"mediaType":"{index}","config":{CONFIG}}}"#);
        assert_eq!(raw(&lies).unwrap_err(), InvalidManifest::Ambiguous);
    }

    #[test]
    fn bytes_keep_the_digest_that_named_them_and_no_others_pass() {
        let bytes = Bytes::from(format!(r#"{{"config":{CONFIG}}}"#));
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&bytes);
            let digest = hasher.finish();
            assert_eq!(RawManifest::verified(&digest, None, bytes.clone()).unwrap().digest, digest);
            let other = RawManifest::verified(&digest, None, Bytes::from_static(b"{}"));
            assert!(matches!(other, Err(InvalidManifest::OtherBytes(found)) if found.algorithm() == algorithm));
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for size in ["-1", "1.5", "\"2\"", "99999999999999999999999", "null"] {
            let config = CONFIG.replace(":2,", &format!(":{size},"));
            let raw = raw(&format!(r#"{{"config":{config}}}"#)).unwrap();
            assert!(matches!(raw.parse(), Err(InvalidManifest::Json(_))), "{size}");
        }
    }

    #[test]
    fn schema_1_is_refused_with_advice() {
        let error = raw(r#"{"schemaVersion":1,"name":"x","fsLayers":[]}"#).unwrap_err();
        assert_eq!(error, InvalidManifest::Schema1);
        assert!(error.to_string().contains("skopeo copy"));
    }

    #[test]
    fn json_that_nests_without_end_is_refused() {
        let deep = "[".repeat(1_000_000);
        assert!(matches!(raw(&format!(r#"{{"config":{deep}"#)), Err(InvalidManifest::Json(_))));
    }
}
