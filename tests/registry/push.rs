//! Writing to distribution's registry.

use bytes::Bytes;
use layerpull::content::{Address, Begun, Holding, Root, Sink, Source, Standing, Upload};
use layerpull::error::Error;
use layerpull::oci::{Descriptor, Digest, MediaType, RawManifest, Reference};
use layerpull::registry::{Deletion, Environment, Options, Registry, Repository};
use serde_json::{Value, json};
use support::peers::{DockerRegistry, skopeo};

use super::scripted::{options, registry};

const MIB: usize = 1024 * 1024;

fn small_chunks() -> Options {
    Options { chunk: 2 * MIB as u64, ..options() }
}

fn name(server: &DockerRegistry, text: &str) -> Reference {
    format!("{}/{text}", server.host()).parse().unwrap()
}

fn to(server: &DockerRegistry, repository: &str) -> (Registry, Repository) {
    let registry = registry(small_chunks());
    let sink = registry.repository_to_write(&name(server, repository));
    (registry, sink)
}

fn bytes(length: usize, seed: u8) -> Bytes {
    (0..length).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8 ^ seed).collect()
}

fn described(bytes: &Bytes) -> Descriptor {
    Descriptor::new("application/vnd.oci.image.layer.v1.tar", Digest::of(bytes), bytes.len() as u64)
}

async fn begin(sink: &Repository, blob: &Bytes) -> Box<dyn Upload> {
    match sink.begin(&described(blob), &[]).await.unwrap() {
        Begun::Upload(upload) => upload,
        _ => panic!("no upload"),
    }
}

async fn write(upload: &dyn Upload, blob: &Bytes, end: usize) -> Result<(), Error> {
    while (upload.offset() as usize) < end {
        let at = upload.offset() as usize;
        upload.write(blob.slice(at..end.min(at + 100_000))).await?;
    }
    Ok(())
}

async fn push(sink: &Repository, blob: &Bytes) {
    let upload = begin(sink, blob).await;
    write(&*upload, blob, blob.len()).await.unwrap();
    upload.commit().await.unwrap();
}

fn config() -> Bytes {
    Bytes::from_static(
        br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]},"history":[]}"#,
    )
}

fn raw(value: &Value) -> RawManifest {
    RawManifest::new(None, value.to_string().into()).unwrap()
}

/// The manifest of an image without layers.
fn image(text: &str) -> RawManifest {
    let config = Descriptor::new(MediaType::OCI_CONFIG, Digest::of(&config()), config().len() as u64);
    let kind = MediaType::OCI_MANIFEST;
    raw(&json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [], "annotations": {"a": text}}))
}

fn root(raw: &RawManifest) -> Root {
    Root { descriptor: raw.descriptor(), platforms: None }
}

#[tokio::test]
async fn blobs_of_every_size_arrive_and_are_held_then() {
    let server = DockerRegistry::start();
    let (_, sink) = to(&server, "a/b:1");
    for length in [0, 1, MIB, 4 * MIB, 4 * MIB + 1, 9 * MIB] {
        let blob = bytes(length, 1);
        assert_eq!(sink.holds(&described(&blob)).await.unwrap(), Holding::Missing);
        push(&sink, &blob).await;
        assert_eq!(sink.holds(&described(&blob)).await.unwrap(), Holding::Whole, "{length}");
    }
    // Four chunks of 9 MiB, of 2, 2, 4 and 1; three of what is a byte more than small.
    assert_eq!((server.count("PATCH", "/uploads/"), server.count("PUT", "/uploads/")), (7, 6));
    assert_eq!(sink.holds(&Descriptor { size: 7, ..described(&bytes(MIB, 1)) }).await.unwrap(), Holding::Missing);
}

#[tokio::test]
async fn a_blob_of_another_repository_is_mounted_and_a_refusal_is_an_upload() {
    let server = DockerRegistry::start();
    let (registry, sink) = to(&server, "a/b:1");
    let blob = bytes(5 * MIB, 2);
    push(&sink, &blob).await;
    let other = registry.repository_to_write(&name(&server, "c/d:1"));
    assert_eq!(other.mounts(&Digest::of(&blob)), ["a/b"]);
    assert_eq!(Sink::repository(&other), Some(Address { registry: server.host(), repository: "c/d".into() }));
    let before = server.count("P", "/uploads/");
    let begun = other.begin(&described(&blob), &other.mounts(&Digest::of(&blob))).await.unwrap();
    assert!(matches!(begun, Begun::Mounted { from } if from == "a/b"));
    assert_eq!(server.count("P", "/uploads/"), before);
    let another = bytes(MIB, 3);
    let begun = other.begin(&described(&another), &["a/b".into(), "no/where".into()]).await.unwrap();
    let Begun::Upload(upload) = begun else { panic!("no upload") };
    write(&*upload, &another, another.len()).await.unwrap();
    upload.commit().await.unwrap();
    assert_eq!(other.holds(&described(&another)).await.unwrap(), Holding::Whole);
}

#[tokio::test]
async fn wrong_bytes_end_the_session_at_the_registry() {
    let server = DockerRegistry::start();
    let (_, sink) = to(&server, "a/b:1");
    for length in [MIB, 5 * MIB] {
        let blob = bytes(length, 4);
        let upload = begin(&sink, &blob).await;
        write(&*upload, &bytes(length, 5), length).await.unwrap();
        assert!(matches!(upload.commit().await, Err(Error::Verification { .. })));
        assert_eq!((upload.resume().await.unwrap(), upload.offset()), (Standing::Open, 0));
        write(&*upload, &blob, length).await.unwrap();
        upload.commit().await.unwrap();
    }
    let deleted = server.settled_log().into_iter().filter(|line| line.contains("\"DELETE ")).collect::<Vec<_>>();
    assert!(deleted.len() == 2 && deleted.iter().all(|line| line.contains("\" 204 ")), "{deleted:?}");
}

#[tokio::test]
async fn a_saved_upload_goes_on_at_the_byte_where_it_was_saved_and_a_cut_one_begins_anew() {
    let (server, folder) = (DockerRegistry::start(), tempfile::tempdir().unwrap());
    let run = || {
        let environment = Environment::empty().with("XDG_STATE_HOME", folder.path().to_str().unwrap());
        registry(Options { environment, ..small_chunks() }).repository_to_write(&name(&server, "a/b:1"))
    };
    let blob = bytes(9 * MIB, 6);
    let upload = begin(&run(), &blob).await;
    write(&*upload, &blob, 3 * MIB + 7).await.unwrap();
    upload.save().await.unwrap();
    drop(upload);
    assert_eq!(run().holds(&described(&blob)).await.unwrap(), Holding::Partial(3 * MIB as u64 + 7));
    let upload = begin(&run(), &blob).await;
    assert_eq!(upload.offset(), 3 * MIB as u64 + 7);
    write(&*upload, &blob, blob.len()).await.unwrap();
    upload.commit().await.unwrap();
    assert_eq!(run().holds(&described(&blob)).await.unwrap(), Holding::Whole);

    let blob = bytes(9 * MIB, 7);
    let upload = begin(&run(), &blob).await;
    write(&*upload, &blob, 5 * MIB).await.unwrap();
    drop(upload);
    // Whether the registry keeps the session depends on how much of the chunk it had read: either way it ends well.
    let upload = begin(&run(), &blob).await;
    write(&*upload, &blob, blob.len()).await.unwrap();
    upload.commit().await.unwrap();
    assert_eq!(run().holds(&described(&blob)).await.unwrap(), Holding::Whole);
}

#[tokio::test]
async fn an_image_and_an_index_arrive_and_no_manifest_travels_twice() {
    let server = DockerRegistry::start();
    let (registry, sink) = to(&server, "a/b:1");
    push(&sink, &config()).await;
    let (one, two) = (image("one"), image("two"));
    let index = raw(&json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [one.descriptor(), two.descriptor()],
    }));
    assert_eq!(sink.tagged(&name(&server, "a/b:1")).await.unwrap(), None);
    for manifest in [&one, &two, &index] {
        sink.put_manifest(manifest).await.unwrap();
    }
    sink.tag(&name(&server, "a/b:1"), &root(&index)).await.unwrap();
    assert_eq!(server.count("PUT", "/manifests/"), 3);
    assert_eq!(sink.tagged(&name(&server, "a/b:1")).await.unwrap(), Some(root(&index)));
    // Another name of the same: its bytes are known.
    sink.tag(&name(&server, "a/b:2"), &root(&index)).await.unwrap();
    assert_eq!(server.count("GET", "/manifests/"), 0);
    let other = registry.repository_to_write(&name(&server, "a/b:1"));
    other.tag(&name(&server, "a/b:3"), &root(&one)).await.unwrap();
    assert_eq!(server.count("GET", "/manifests/"), 1);
    let seen =
        skopeo(["inspect", "--raw", "--tls-verify=false", &format!("docker://{}", server.name("a/b", "2"))]).ok();
    assert_eq!(seen.as_bytes(), index.bytes);
    let wrong = RawManifest { digest: Digest::of(b"x"), ..image("three") };
    assert!(matches!(sink.put_manifest(&wrong).await, Err(Error::Verification { .. })));
}

#[tokio::test]
async fn a_manifest_whose_blobs_are_missing_is_refused_in_the_registrys_words() {
    let server = DockerRegistry::start();
    let (_, sink) = to(&server, "a/b:1");
    let image = image("x");
    sink.put_manifest(&image).await.unwrap();
    let error = sink.tag(&name(&server, "a/b:1"), &root(&image)).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid { why, .. } if why.contains("MANIFEST_BLOB_UNKNOWN")), "{error}");
}

#[tokio::test]
async fn referrers_are_merged_into_the_list_that_is_there() {
    let server = DockerRegistry::start();
    let (_, sink) = to(&server, "a/b:1");
    push(&sink, &config()).await;
    let subject = image("subject");
    sink.put_manifest(&subject).await.unwrap();
    sink.tag(&name(&server, "a/b:1"), &root(&subject)).await.unwrap();
    let attached = |text: &str| {
        let mut manifest: Value = serde_json::from_slice(&image(text).bytes).unwrap();
        manifest["subject"] = serde_json::to_value(subject.descriptor()).unwrap();
        manifest["artifactType"] = json!("application/x-signature");
        raw(&manifest)
    };
    let (one, two) = (attached("one"), attached("two"));
    for manifest in [&one, &two, &one] {
        sink.put_manifest(manifest).await.unwrap();
    }
    let listed = sink.referrers(&subject.digest).await.unwrap();
    assert_eq!(listed.iter().map(|found| &found.digest).collect::<Vec<_>>(), [&one.digest, &two.digest]);
    assert_eq!(listed[0].artifact_type.as_deref(), Some("application/x-signature"));
    assert_eq!(listed[1].annotations["a"], "two");
}

#[tokio::test]
async fn a_manifest_is_deleted_by_digest_and_this_registry_cannot_by_tag() {
    let server = DockerRegistry::start();
    let (registry, sink) = to(&server, "a/b:1");
    push(&sink, &config()).await;
    let (image, tag) = (image("x"), name(&server, "a/b:1"));
    sink.put_manifest(&image).await.unwrap();
    sink.tag(&tag, &root(&image)).await.unwrap();
    assert_eq!(registry.delete(&tag).await.unwrap(), Deletion::Unsupported);
    let digest = tag.clone().at(image.digest.clone());
    assert_eq!(registry.delete(&digest).await.unwrap(), Deletion::Done);
    assert!(matches!(registry.delete(&digest).await, Err(Error::NotFound { .. })));
    assert_eq!(sink.tagged(&tag).await.unwrap(), None);
}
