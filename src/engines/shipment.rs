//! What an engine gets: an OCI layout with docker's `manifest.json` beside it, without the layers that it has.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use serde_json::{Value, json};

use super::image::Image;
use super::tar::{self, Entry};
use crate::content::{Provenance, Source, verified};
use crate::error::{Error, Result};
use crate::event::{Arrival, Event, Events};
use crate::oci::{Descriptor, Digest, MediaType};

const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// An archive on its way to an engine.
pub struct Shipment {
    /// The bytes of the tar. They end early when a layer cannot be read; then [`Shipment::course`] knows why.
    pub bytes: BoxStream<'static, Result<Bytes>>,
    /// How far it is.
    pub course: Arc<Course>,
    /// The image.
    pub image: Image,
    /// The layers that are in it.
    pub layers: Vec<Descriptor>,
}

/// How far an archive is.
#[derive(Debug, Default)]
pub struct Course {
    /// Bytes of the tar that were taken.
    taken: AtomicU64,
    /// Of these, those of blobs.
    blobs: AtomicU64,
    failed: Mutex<Option<Error>>,
    is_spoiled: AtomicBool,
}

impl Course {
    /// Bytes of the tar that the engine took.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Of these, bytes of layers and of the configuration.
    pub fn blobs(&self) -> u64 {
        self.blobs.load(Ordering::Relaxed)
    }

    /// Whether the archive ended early.
    pub fn is_spoiled(&self) -> bool {
        self.is_spoiled.load(Ordering::Relaxed)
    }

    /// Why the archive ended early, if it did. Told once.
    pub fn failed(&self) -> Option<Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes what passes; an error is kept for [`Course::failed`], because who sends the bytes tells another one.
    fn note(&self, piece: Result<Bytes>) -> Result<Bytes> {
        match piece {
            Ok(bytes) => {
                self.taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(bytes)
            }
            Err(error) => {
                self.is_spoiled.store(true, Ordering::Relaxed);
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(Error::Interrupted)
            }
        }
    }
}

impl Shipment {
    /// `image` without the layers at the positions that are `held`. The bytes come from `source`, each layer verified.
    pub(super) fn new(image: &Image, held: &[bool], source: &Arc<dyn Source>, events: &Events) -> Shipment {
        let course = Arc::new(Course::default());
        let layers = lacking(image, held);
        let mut entries = vec![
            Entry::of("oci-layout", MARKER),
            Entry::of("index.json", index(image).to_string()),
            Entry::of("manifest.json", docker_manifest(image).to_string()),
            Entry::of(path(&image.manifest().digest), image.manifest().bytes.clone()),
        ];
        let (config, bytes) = image.config();
        let bytes = stream::iter([Ok(bytes.clone())]).boxed();
        entries.push(blob(config, told(config.digest.clone(), bytes, &course, events)));
        for layer in &layers {
            let bytes = told(layer.digest.clone(), read(source, layer), &course, events);
            entries.push(blob(layer, bytes));
        }
        let noted = Arc::clone(&course);
        let bytes = tar::stream(entries).map(move |piece| noted.note(piece)).boxed();
        Shipment { bytes, course, image: image.clone(), layers }
    }
}

/// The layers that must be sent, each once.
fn lacking(image: &Image, held: &[bool]) -> Vec<Descriptor> {
    let mut seen = HashSet::new();
    let lacking = image.layers().iter().zip(held).filter(|(_, held)| !**held).map(|(layer, _)| layer);
    lacking.filter(|layer| seen.insert(&layer.digest)).cloned().collect()
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn blob(descriptor: &Descriptor, bytes: BoxStream<'static, Result<Bytes>>) -> Entry {
    Entry { path: path(&descriptor.digest), size: descriptor.size, bytes }
}

/// The names as every engine finds them: a name without a tag is none to docker and podman, which know it by its digest.
fn index(image: &Image) -> Value {
    let mut entry = serde_json::to_value(image.manifest().descriptor()).expect("a descriptor is JSON");
    let name = image.name().to_string();
    entry["annotations"] = match image.name().tag() {
        Some(_) => json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}),
        None => json!({"io.containerd.image.name": name}),
    };
    json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [entry]})
}

fn docker_manifest(image: &Image) -> Value {
    let tags: Vec<String> = image.name().tag().map(|_| image.name().to_string()).into_iter().collect();
    let layers: Vec<String> = image.layers().iter().map(|layer| path(&layer.digest)).collect();
    json!([{"Config": path(image.id()), "RepoTags": tags, "Layers": layers}])
}

/// All bytes of a blob, of which the last ones come only when the digest agrees.
fn read(source: &Arc<dyn Source>, blob: &Descriptor) -> BoxStream<'static, Result<Bytes>> {
    let (source, blob) = (Arc::clone(source), blob.clone());
    let opened = async move {
        let bytes = open(source.as_ref(), &blob, 0..blob.size).await?;
        Ok(verified(bytes, blob, source.place()))
    };
    stream::once(opened).flat_map(|opened| opened.unwrap_or_else(|error| stream::iter([Err(error)]).boxed())).boxed()
}

async fn open(source: &dyn Source, blob: &Descriptor, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
    if range.is_empty() {
        return Ok(stream::empty().boxed());
    }
    let mut last = None;
    for origin in source.origins(blob) {
        match origin.open(range.clone()).await {
            Ok(body) => return Ok(body.bytes),
            Err(error) => last = Some(error),
        }
    }
    let (what, place) = (blob.digest.to_string(), source.place());
    Err(last.unwrap_or_else(|| Error::NotFound { what, place, why: String::new() }))
}

/// Tells of a blob as it passes.
fn told(
    blob: Digest,
    bytes: BoxStream<'static, Result<Bytes>>,
    course: &Arc<Course>,
    events: &Events,
) -> BoxStream<'static, Result<Bytes>> {
    let (course, events, ended) = (Arc::clone(course), Arc::clone(events), Arc::clone(events));
    let (begun, finished) = (blob.clone(), blob.clone());
    let start = Arc::clone(&events);
    let start = stream::once(async move {
        start.on(&Event::Started { blob: begun, resumed: 0 });
        Ok(Bytes::new())
    });
    let passing = bytes.inspect(move |piece| {
        let Ok(piece) = piece else { return };
        course.blobs.fetch_add(piece.len() as u64, Ordering::Relaxed);
        let (blob, count) = (blob.clone(), piece.len() as u64);
        events.on(&Event::Bytes { blob, count, provenance: Provenance::Registry });
    });
    let end = stream::once(async move {
        ended.on(&Event::Finished { blob: finished, how: Arrival::Transferred });
        Ok(Bytes::new())
    });
    start.chain(passing).chain(end).boxed()
}
