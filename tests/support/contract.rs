//! What every sink must do, whatever is behind it. Each check takes a fresh, empty sink.

use std::sync::Arc;

use bytes::Bytes;
use layerpull::content::{Begun, Holding, Ingest, Provenance, Root, Sink};
use layerpull::oci::{Descriptor, Digest, MediaType, RawManifest, Reference};

/// Some bytes with their name.
pub struct Blob {
    pub descriptor: Descriptor,
    pub bytes: Bytes,
}

impl Blob {
    pub fn new(media_type: &str, bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        Blob { descriptor: Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64), bytes }
    }
}

/// An image of one configuration and some layers.
pub struct Built {
    pub blobs: Vec<Blob>,
    pub manifest: RawManifest,
}

/// Builds an image whose layers are these bytes.
pub fn image(architecture: &str, layers: &[&[u8]]) -> Built {
    let layers: Vec<Blob> = layers
        .iter()
        .map(|bytes| Blob::new("application/vnd.oci.image.layer.v1.tar", Bytes::copy_from_slice(bytes)))
        .collect();
    let history: Vec<_> =
        (0..layers.len()).map(|i| serde_json::json!({"created_by": format!("ADD layer {i}")})).collect();
    let config = serde_json::json!({
        "os": "linux", "architecture": architecture, "config": {}, "history": history,
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| l.descriptor.digest.to_string()).collect::<Vec<_>>()},
    });
    let config = Blob::new(MediaType::OCI_CONFIG, config.to_string());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "config": config.descriptor,
        "layers": layers.iter().map(|l| &l.descriptor).collect::<Vec<_>>(),
    });
    let manifest = RawManifest::new(None, manifest.to_string().into()).unwrap();
    Built { blobs: std::iter::once(config).chain(layers).collect(), manifest }
}

/// Builds an index over images, one a platform of Linux.
pub fn index(children: &[(&str, &Built)]) -> RawManifest {
    let child = |(architecture, built): &(&str, &Built)| {
        let mut value = serde_json::to_value(built.manifest.descriptor()).unwrap();
        value["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
        value
    };
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": children.iter().map(child).collect::<Vec<_>>(),
    });
    RawManifest::new(None, index.to_string().into()).unwrap()
}

pub fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

pub async fn ingest(sink: &dyn Sink, blob: &Descriptor) -> Box<dyn Ingest> {
    match sink.begin(blob, &[]).await.unwrap() {
        Begun::Ingest(ingest) => ingest,
        Begun::Held => panic!("held already"),
        Begun::Busy => panic!("busy"),
        Begun::Mounted { from } => panic!("mounted from {from}"),
        Begun::Upload(_) => panic!("this place takes bytes in order"),
    }
}

pub async fn put(sink: &dyn Sink, blob: &Blob) {
    if sink.holds(&blob.descriptor).await.unwrap() == Holding::Whole {
        return;
    }
    let ingest = ingest(sink, &blob.descriptor).await;
    ingest.write_at(0, blob.bytes.clone(), Provenance::Registry).await.unwrap();
    ingest.commit().await.unwrap();
}

pub async fn put_image(sink: &dyn Sink, built: &Built) {
    for blob in &built.blobs {
        put(sink, blob).await;
    }
    sink.put_manifest(&built.manifest).await.unwrap();
}

/// Everything of `built` under `text`, as a transfer does it.
pub async fn put_tagged(sink: &dyn Sink, text: &str, built: &Built) {
    put_image(sink, built).await;
    let root = Root { descriptor: built.manifest.descriptor(), platforms: None };
    sink.tag(&name(text), &root).await.unwrap();
}

/// Runs every check against sinks that `fresh` makes.
pub async fn every_sink<F, S>(fresh: F)
where
    F: Fn() -> S,
    S: std::future::Future<Output = Arc<dyn Sink>>,
{
    what_is_committed_is_held(&*fresh().await).await;
    an_ingest_that_is_dropped_leaves_no_blob(&*fresh().await).await;
    an_empty_blob_is_a_blob(&*fresh().await).await;
    a_name_needs_the_whole_graph(&*fresh().await).await;
    a_manifest_under_a_false_digest_is_refused(&*fresh().await).await;
}

async fn what_is_committed_is_held(sink: &dyn Sink) {
    let blob = Blob::new("application/octet-stream", vec![7; 100_000]);
    assert_eq!(sink.holds(&blob.descriptor).await.unwrap(), Holding::Missing);
    let ingest = ingest(sink, &blob.descriptor).await;
    ingest.write_at(50_000, blob.bytes.slice(50_000..), Provenance::Registry).await.unwrap();
    ingest.write_at(0, blob.bytes.slice(..50_000), Provenance::Mirror).await.unwrap();
    ingest.commit().await.unwrap();
    assert_eq!(sink.holds(&blob.descriptor).await.unwrap(), Holding::Whole);
}

async fn an_ingest_that_is_dropped_leaves_no_blob(sink: &dyn Sink) {
    let blob = Blob::new("application/octet-stream", vec![8; 1000]);
    let begun = ingest(sink, &blob.descriptor).await;
    begun.write_at(0, blob.bytes.slice(..400), Provenance::Registry).await.unwrap();
    drop(begun);
    assert!(matches!(sink.holds(&blob.descriptor).await.unwrap(), Holding::Missing | Holding::Partial(400)));
    put(sink, &blob).await;
    assert_eq!(sink.holds(&blob.descriptor).await.unwrap(), Holding::Whole);
}

async fn an_empty_blob_is_a_blob(sink: &dyn Sink) {
    let blob = Blob::new("application/octet-stream", Bytes::new());
    ingest(sink, &blob.descriptor).await.commit().await.unwrap();
    assert_eq!(sink.holds(&blob.descriptor).await.unwrap(), Holding::Whole);
}

async fn a_name_needs_the_whole_graph(sink: &dyn Sink) {
    let built = image("amd64", &[b"one", b"two"]);
    let root = Root { descriptor: built.manifest.descriptor(), platforms: None };
    for blob in &built.blobs[..2] {
        put(sink, blob).await;
    }
    let early = match sink.put_manifest(&built.manifest).await {
        Ok(()) => sink.tag(&name("r.example/a:1"), &root).await,
        refused => refused,
    };
    assert!(early.is_err(), "a name was given to half an image");
    put_tagged(sink, "r.example/a:1", &built).await;
    let held = sink.held_manifest(&root.descriptor.digest).await.unwrap();
    assert!(held.is_none_or(|held| held.bytes == built.manifest.bytes));
}

async fn a_manifest_under_a_false_digest_is_refused(sink: &dyn Sink) {
    let built = image("amd64", &[]);
    put(sink, &built.blobs[0]).await;
    let false_name = RawManifest { digest: Digest::of(b"else"), ..built.manifest };
    assert!(sink.put_manifest(&false_name).await.is_err());
}
