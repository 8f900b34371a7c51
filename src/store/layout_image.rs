//! One image of a layout, by the name that other tools gave it: `oci:DIR[:NAME]` of skopeo (containers-transports(5)).

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use super::index::{Entry, IndexFile, qualified};
use super::{Store, off};
use crate::content::{Begun, Holding, Origin, Root, Sink, Source};
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, RawManifest, Reference};

/// Names that a message lists, at most.
const SHOWN: usize = 20;

/// One image of a layout, as source and as sink. The reference that it is asked for plays no part: its name is as the
/// other tools wrote it, a tag alone or a whole reference.
#[derive(Debug, Clone)]
pub struct LayoutImage {
    store: Store,
    name: Option<String>,
    /// How it is named in messages, where that is not by its layout.
    shown: Option<String>,
}

impl LayoutImage {
    /// The image `name` of `store`; without a name the only one there is.
    pub fn new(store: Store, name: Option<String>) -> LayoutImage {
        LayoutImage { store, name, shown: None }
    }

    /// The same, named `place` in messages: the layout is only on the way to there.
    pub fn shown_as(self, place: &str) -> LayoutImage {
        LayoutImage { shown: Some(place.into()), ..self }
    }

    /// The layout.
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn root(&self) -> &Path {
        self.store.root()
    }

    /// Its entry.
    fn find(&self) -> Result<Descriptor> {
        let entries = IndexFile::read(&self.store.disk.paths)?.entries();
        let mut found: Vec<&Entry> = match &self.name {
            Some(name) => entries.iter().filter(|entry| goes_by(entry, name)).collect(),
            None => entries.iter().collect(),
        };
        found.dedup_by_key(|entry| &entry.descriptor.digest);
        match found.as_slice() {
            [only] => Ok(only.bare()),
            [] => Err(self.absent(&entries)),
            several => Err(self.ambiguous(several)),
        }
    }

    fn absent(&self, entries: &[Entry]) -> Error {
        let what = self.name.clone().unwrap_or_else(|| "an image".into());
        let why = match entries.is_empty() {
            true => "the layout names no image".into(),
            false => format!("it has {}", listed(entries.iter())),
        };
        Error::NotFound { what, place: format!("oci:{}", self.root().display()), why }
    }

    fn ambiguous(&self, entries: &[&Entry]) -> Error {
        let place = Source::place(self);
        let why = match self.name {
            Some(_) => "several images have this name".into(),
            None => {
                let dir = self.root().display();
                format!(
                    "several images are there, say which as oci:{dir}:NAME; it has {}",
                    listed(entries.iter().copied())
                )
            }
        };
        Error::Usage(format!("{place}: {why}"))
    }
}

/// Whether an entry is meant by `name`: as it is written, as a reference, or as the digest.
fn goes_by(entry: &Entry, name: &str) -> bool {
    let full = || qualified(name).is_some_and(|full| entry.is_named(&full.to_string()));
    entry.is_named(name) || full() || entry.descriptor.digest.to_string() == name
}

fn listed<'a>(entries: impl Iterator<Item = &'a Entry>) -> String {
    let mut titles: Vec<String> = entries.map(Entry::title).collect();
    let more = match titles.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    titles.truncate(SHOWN);
    format!("{}{more}", titles.join(", "))
}

#[async_trait]
impl Source for LayoutImage {
    fn place(&self) -> String {
        let dir = self.root().display();
        match (&self.shown, &self.name) {
            (Some(place), _) => place.clone(),
            (None, Some(name)) => format!("oci:{dir}:{name}"),
            (None, None) => format!("oci:{dir}"),
        }
    }

    async fn resolve(&self, _: &Reference) -> Result<Descriptor> {
        let image = self.clone();
        off(move || image.find()).await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        self.store.manifest(descriptor).await
    }

    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        self.store.origins(blob)
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        self.store.referrers(subject).await
    }
}

#[async_trait]
impl Sink for LayoutImage {
    fn place(&self) -> String {
        Source::place(self)
    }

    async fn holds(&self, blob: &Descriptor) -> Result<Holding> {
        self.store.holds(blob).await
    }

    async fn held_manifest(&self, digest: &Digest) -> Result<Option<RawManifest>> {
        self.store.held_manifest(digest).await
    }

    async fn tagged(&self, _: &Reference) -> Result<Option<Root>> {
        let entries = IndexFile::read(&self.store.disk.paths)?.entries();
        let is_ours = |entry: &Entry| match &self.name {
            Some(name) => entry.is_named(name),
            None => entry.name().is_none(),
        };
        let ours = entries.into_iter().find(is_ours);
        Ok(ours.map(|entry| Root { platforms: entry.platforms(), descriptor: entry.bare() }))
    }

    fn wants_all(&self) -> bool {
        true
    }

    async fn begin(&self, blob: &Descriptor, mounts: &[String]) -> Result<Begun> {
        self.store.begin(blob, mounts).await
    }

    async fn put_manifest(&self, manifest: &RawManifest) -> Result<()> {
        self.store.put_manifest(manifest).await
    }

    async fn tag(&self, _: &Reference, root: &Root) -> Result<()> {
        self.store.require_durably(root).await?;
        let (name, root) = (self.name.clone(), root.clone());
        self.store.change_index(move |index| index.point_as(name.as_deref(), &root)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::MediaType;

    async fn tagged(store: &Store, name: Option<&str>, text: &str) -> Root {
        let manifest = RawManifest::new(None, text.to_owned().into()).unwrap();
        store.put_manifest(&manifest).await.unwrap();
        let root = Root { descriptor: manifest.descriptor(), platforms: None };
        let image = LayoutImage::new(store.clone(), name.map(str::to_owned));
        image.tag(&"x".parse().unwrap(), &root).await.unwrap();
        root
    }

    fn index(note: &str) -> String {
        format!(r#"{{"mediaType":"{}","manifests":[],"annotations":{{"n":"{note}"}}}}"#, MediaType::OCI_INDEX)
    }

    async fn found(store: &Store, name: Option<&str>) -> Result<Descriptor> {
        LayoutImage::new(store.clone(), name.map(str::to_owned)).resolve(&"x".parse().unwrap()).await
    }

    #[tokio::test]
    async fn a_name_is_kept_as_it_is_and_only_a_reference_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (one, two) =
            (tagged(&store, Some("v1"), &index("1")).await, tagged(&store, Some("a/b:2"), &index("2")).await);
        let text = std::fs::read_to_string(dir.path().join("index.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let named = |i: usize, key: &str| json["manifests"][i]["annotations"][key].clone();
        assert_eq!((named(0, super::super::REF_NAME), named(0, super::super::IMAGE_NAME)), ("v1".into(), ().into()));
        assert_eq!(named(1, super::super::REF_NAME), "a/b:2");
        assert_eq!(named(1, super::super::IMAGE_NAME), "docker.io/a/b:2");
        assert_eq!(found(&store, Some("v1")).await.unwrap(), one.descriptor);
        for name in ["a/b:2", "docker.io/a/b:2", &two.descriptor.digest.to_string()] {
            assert_eq!(found(&store, Some(name)).await.unwrap().digest, two.descriptor.digest, "{name}");
        }
        let missing = found(&store, Some("v2")).await.unwrap_err().to_string();
        assert!(missing.contains("v2 not found") && missing.contains("it has v1, docker.io/a/b:2"), "{missing}");
    }

    #[tokio::test]
    async fn a_name_moves_and_images_without_a_name_stand_side_by_side() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let alone = tagged(&store, None, &index("1")).await;
        assert_eq!(found(&store, None).await.unwrap(), alone.descriptor);
        for note in ["1", "2"] {
            tagged(&store, None, &index(note)).await;
        }
        let several = found(&store, None).await.unwrap_err().to_string();
        assert!(several.contains("several images are there") && several.contains(":NAME"), "{several}");
        for note in ["3", "4"] {
            tagged(&store, Some("v1"), &index(note)).await;
        }
        assert_eq!(IndexFile::read(&store.disk.paths).unwrap().len(), 3);
    }
}
