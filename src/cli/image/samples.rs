//! Images in memory, for the tests of the commands.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde_json::json;

use crate::content::{Body, Extent, Origin, Provenance, Source};
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, MediaType, RawManifest, Reference};

/// A place that holds what the test puts on it.
#[derive(Default)]
pub struct Shelf {
    names: BTreeMap<String, Descriptor>,
    manifests: BTreeMap<Digest, RawManifest>,
    blobs: BTreeMap<Digest, Bytes>,
}

/// An image before it is put on a shelf.
pub struct Sample {
    config: String,
    layers: Vec<Descriptor>,
}

/// An image for `linux/ARCHITECTURE` whose layers have these instructions and sizes. Equal ones are the same layer.
pub fn image(architecture: &str, layers: &[(&str, u64)]) -> Sample {
    let history: Vec<_> = layers.iter().map(|(by, _)| json!({"created_by": by})).collect();
    let config = json!({
        "created": "2026-01-02T03:04:05Z", "architecture": architecture, "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Labels": {"a.b": "c"}}, "history": history,
    });
    let layer = |(by, size): &(&str, u64)| {
        let digest = Digest::of(format!("{by} {size}").as_bytes());
        Descriptor::new("application/vnd.oci.image.layer.v1.tar+gzip", digest, *size)
    };
    Sample { config: config.to_string(), layers: layers.iter().map(layer).collect() }
}

impl Shelf {
    /// Gives `root` a name.
    pub fn name(&mut self, name: &str, root: Descriptor) -> Reference {
        let name: Reference = name.parse().unwrap();
        self.names.insert(name.to_string(), root);
        name
    }

    /// Puts an image on the shelf.
    pub fn image(&mut self, sample: Sample) -> Descriptor {
        let config = Bytes::from(sample.config);
        let descriptor = Descriptor::new(MediaType::OCI_CONFIG, Digest::of(&config), config.len() as u64);
        self.blobs.insert(descriptor.digest.clone(), config);
        self.put(json!({"schemaVersion": 2, "config": descriptor, "layers": sample.layers}))
    }

    /// Puts an index of images on the shelf.
    pub fn index(&mut self, children: Vec<(&str, Sample)>) -> Descriptor {
        let child = |(platform, sample): (&str, Sample)| {
            let platform = Some(platform.parse().unwrap());
            Descriptor { platform, ..self.image(sample) }
        };
        let children: Vec<Descriptor> = children.into_iter().map(child).collect();
        self.put(json!({"schemaVersion": 2, "manifests": children}))
    }

    /// Puts an index of one index, or image, on the shelf.
    pub fn nest(&mut self, child: Descriptor) -> Descriptor {
        self.put(json!({"schemaVersion": 2, "manifests": [child]}))
    }

    /// Changes the bytes of every blob.
    pub fn spoil_blobs(&mut self) {
        self.blobs.values_mut().for_each(|bytes| *bytes = Bytes::from(vec![b'x'; bytes.len()]));
    }

    fn put(&mut self, json: serde_json::Value) -> Descriptor {
        let raw = RawManifest::new(None, json.to_string().into()).unwrap();
        let descriptor = raw.descriptor();
        self.manifests.insert(raw.digest.clone(), raw);
        descriptor
    }
}

fn absent(what: impl ToString) -> Error {
    Error::NotFound { what: what.to_string(), place: "shelf".into(), why: String::new() }
}

#[async_trait]
impl Source for Shelf {
    fn place(&self) -> String {
        "shelf".into()
    }

    async fn resolve(&self, name: &Reference) -> Result<Descriptor> {
        self.names.get(&name.to_string()).cloned().ok_or_else(|| absent(name))
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        self.manifests.get(&descriptor.digest).cloned().ok_or_else(|| absent(&descriptor.digest))
    }

    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        let bytes = self.blobs.get(&blob.digest).cloned();
        bytes.into_iter().map(|bytes| Arc::new(Memory(bytes)) as Arc<dyn Origin>).collect()
    }

    async fn referrers(&self, _: &Digest) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }
}

#[derive(Debug)]
struct Memory(Bytes);

#[async_trait]
impl Origin for Memory {
    fn host(&self) -> &str {
        "shelf"
    }

    fn provenance(&self) -> Provenance {
        Provenance::Local
    }

    async fn open(&self, range: Range<u64>) -> Result<Body> {
        let bytes = self.0.slice(range.start as usize..range.end as usize);
        let bytes = stream::iter([Ok(bytes)]).boxed();
        Ok(Body { start: range.start, end: Some(range.end), extent: Extent::Range, bytes })
    }
}
