//! Referrers where the registry does not keep them itself (distribution-spec, "Pushing Manifests with Subject" and
//! "Referrers Tag Schema"): an index under a tag made of the subject's digest lists them.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::Repository;
use super::lists::fallback_tag;
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Manifest, MediaType, RawManifest};

/// Two writers may overwrite each other: how often the index is written until it stays.
const ATTEMPTS: usize = 4;

impl Repository {
    /// Lists a manifest that the registry just took among the referrers of its subject. Nothing to do without one.
    ///
    /// # Errors
    /// `Invalid` when the tag of the list names something else; those of reading and writing manifests.
    pub(super) async fn attach(&self, raw: &RawManifest) -> Result<()> {
        let Some((subject, referrer)) = self.referrer(raw)? else { return Ok(()) };
        let tag = fallback_tag(&subject.digest);
        let _alone = self.attaching.lock().await;
        for _ in 0..ATTEMPTS {
            let Some(merged) = self.merged(&tag, &referrer).await? else { return Ok(()) };
            Box::pin(self.put(&tag, &merged)).await?;
        }
        match self.merged(&tag, &referrer).await? {
            None => Ok(()),
            Some(_) => Err(self.unusable(&tag, "somebody else writes the list of referrers all the time")),
        }
    }

    /// The subject of a manifest, and the manifest's descriptor as a list of referrers has it.
    fn referrer(&self, raw: &RawManifest) -> Result<Option<(Descriptor, Descriptor)>> {
        let invalid = |e| Error::manifest(self.name(), &raw.digest, e);
        let (subject, artifact_type, annotations) = match raw.parse().map_err(invalid)? {
            Manifest::Index(index) => (index.subject, index.artifact_type, index.annotations),
            Manifest::Image(image) => {
                let kind = image.artifact_type.unwrap_or_else(|| image.config.media_type.to_string());
                (image.subject, Some(kind), image.annotations)
            }
        };
        let referrer = Descriptor { artifact_type, annotations, ..raw.descriptor() };
        Ok(subject.map(|subject| (subject, referrer)))
    }

    /// The list with `referrer` in it; `None` when it has it already.
    async fn merged(&self, tag: &str, referrer: &Descriptor) -> Result<Option<RawManifest>> {
        let mut index = match self.get(tag, None, None).await {
            Ok(raw) if raw.media_type.is_index() => self.read_list(tag, &raw)?,
            Ok(_) => return Err(self.unusable(tag, "it is no list of referrers")),
            Err(Error::NotFound { .. }) => new_list(),
            Err(e) => return Err(e),
        };
        let unusable = |why: &str| self.unusable(tag, why);
        let listed = index.entry("manifests").or_insert_with(|| json!([]));
        let listed = listed.as_array_mut().ok_or_else(|| unusable("its list of manifests is none"))?;
        let digest = referrer.digest.to_string();
        if listed.iter().any(|known| known["digest"] == digest.as_str()) {
            return Ok(None);
        }
        listed.push(serde_json::to_value(referrer).map_err(|e| unusable(&e.to_string()))?);
        let bytes = serde_json::to_vec(&index).map_err(|e| unusable(&e.to_string()))?;
        let raw = RawManifest::new(Some(&MediaType::new(MediaType::OCI_INDEX)), Bytes::from(bytes));
        raw.map(Some).map_err(|e| Error::manifest(self.name(), tag, e))
    }

    /// The list as it is, so that what others put beside it stays.
    fn read_list(&self, tag: &str, raw: &RawManifest) -> Result<Map<String, Value>> {
        serde_json::from_slice(&raw.bytes).map_err(|e| self.unusable(tag, &e.to_string()))
    }

    fn unusable(&self, tag: &str, why: &str) -> Error {
        Error::Invalid { what: self.named(tag), place: self.session.registry().to_owned(), why: why.to_owned() }
    }
}

fn new_list() -> Map<String, Value> {
    let mut list = Map::new();
    list.insert("schemaVersion".into(), json!(2));
    list.insert("mediaType".into(), json!(MediaType::OCI_INDEX));
    list.insert("manifests".into(), json!([]));
    list
}
