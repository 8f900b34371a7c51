//! The store as a place: what it keeps, what it notices, and that others read it as it is.

mod collect;
#[path = "../support/contract.rs"]
mod contract;
mod skopeo;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use contract::{Blob, Built, image, index, ingest, name, put, put_image, put_tagged};
use layerpull::content::{Begun, Holding, Provenance, Root, Sink, Source};
use layerpull::error::Error;
use layerpull::event::{Event, Observer};
use layerpull::oci::manifest::MAX_DEPTH;
use layerpull::oci::{Descriptor, Digest, MediaType, Platform, RawManifest};
use layerpull::store::{Collect, Damage, Effect, LayoutImage, PLATFORMS, Spare, Store};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Seen(Mutex<Vec<Event>>);

impl Observer for Seen {
    fn on(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

fn fresh() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn blob_file(dir: &TempDir, digest: &Digest) -> std::path::PathBuf {
    dir.path().join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
}

fn partial_file(dir: &TempDir, blob: &Descriptor, kind: &str) -> std::path::PathBuf {
    dir.path().join(".layerpull/partial").join(format!("sha256-{}-{}.{kind}", blob.digest.hex(), blob.size))
}

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    use std::os::unix::fs::PermissionsExt;
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn platforms(texts: &[&str]) -> Option<Vec<Platform>> {
    Some(texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn all_now(effect: Effect) -> Collect {
    Collect { spare: Spare::Nothing, effect, patience: Duration::from_secs(60) }
}

#[tokio::test]
async fn the_store_keeps_the_contract_of_every_sink() {
    let dirs = Mutex::new(Vec::new());
    contract::every_sink(|| async {
        let (dir, store) = fresh();
        dirs.lock().unwrap().push(dir);
        Arc::new(store) as Arc<dyn Sink>
    })
    .await;
}

#[tokio::test]
async fn an_image_of_a_layout_keeps_the_contract_of_every_sink() {
    let dirs = Mutex::new(Vec::new());
    contract::every_sink(|| async {
        let (dir, store) = fresh();
        dirs.lock().unwrap().push(dir);
        Arc::new(LayoutImage::new(store, Some("v1".into()))) as Arc<dyn Sink>
    })
    .await;
}

#[tokio::test]
async fn a_dropped_blob_goes_on_where_it_stopped() {
    let (dir, store) = fresh();
    let blob = Blob::new("application/octet-stream", (0..3_000_000u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let first = ingest(&store, &blob.descriptor).await;
    first.write_at(0, blob.bytes.slice(..1_000_000), Provenance::Registry).await.unwrap();
    first.write_at(2_000_000, blob.bytes.slice(2_000_000..2_500_000), Provenance::Mirror).await.unwrap();
    assert!(matches!(store.begin(&blob.descriptor, &[]).await.unwrap(), Begun::Busy));
    drop(first);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.holds(&blob.descriptor).await.unwrap(), Holding::Partial(1_500_000));
    let second = ingest(&store, &blob.descriptor).await;
    let held: Vec<_> = second.stretches().into_iter().map(|s| (s.range, s.provenance)).collect();
    assert_eq!(held, [(0..1_000_000, Provenance::Registry), (2_000_000..2_500_000, Provenance::Mirror)]);
    second.write_at(1_000_000, blob.bytes.slice(1_000_000..2_000_000), Provenance::Registry).await.unwrap();
    second.write_at(2_500_000, blob.bytes.slice(2_500_000..), Provenance::Registry).await.unwrap();
    second.commit().await.unwrap();
    drop(second);
    assert_eq!(std::fs::read(blob_file(&dir, &blob.descriptor.digest)).unwrap(), blob.bytes);
    assert!(matches!(store.begin(&blob.descriptor, &[]).await.unwrap(), Begun::Held));
    assert_eq!(std::fs::read_dir(dir.path().join(".layerpull/partial")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_lie_about_the_size_spoils_no_partial_blob() {
    let (_dir, store) = fresh();
    let blob = Blob::new("application/octet-stream", vec![1; 1000]);
    let first = ingest(&store, &blob.descriptor).await;
    first.write_at(0, blob.bytes.slice(..600), Provenance::Registry).await.unwrap();
    drop(first);
    for size in [5, 5000] {
        let lie = Descriptor { size, ..blob.descriptor.clone() };
        assert_eq!(store.holds(&lie).await.unwrap(), Holding::Missing);
        let lying = ingest(&store, &lie).await;
        assert!(matches!(store.begin(&blob.descriptor, &[]).await.unwrap(), Begun::Busy));
        lying.write_at(0, Bytes::from_static(b"wrong"), Provenance::Registry).await.unwrap();
    }
    assert_eq!(store.holds(&blob.descriptor).await.unwrap(), Holding::Partial(600));
    let second = ingest(&store, &blob.descriptor).await;
    assert!(second.spoiled().await.unwrap().is_empty());
    second.write_at(600, blob.bytes.slice(600..), Provenance::Registry).await.unwrap();
    second.commit().await.unwrap();
    drop(second);
    let collected = store.collect(all_now(Effect::Remove)).await.unwrap();
    assert_eq!(collected.partials.len(), 1, "both lies are of one digest");
}

#[tokio::test]
async fn spoiled_bytes_are_found_and_only_what_is_discarded_goes() {
    let (dir, store) = fresh();
    let blob = Blob::new("application/octet-stream", vec![1; 1000]);
    let partial = ingest(&store, &blob.descriptor).await;
    partial.write_at(0, blob.bytes.slice(..400), Provenance::Registry).await.unwrap();
    partial.write_at(400, blob.bytes.slice(400..600), Provenance::Mirror).await.unwrap();
    partial.write_at(600, blob.bytes.slice(600..), Provenance::Registry).await.unwrap();
    assert!(partial.spoiled().await.unwrap().is_empty());
    rewrite(&partial_file(&dir, &blob.descriptor, "data"), |bytes| bytes[450] ^= 1);
    assert_eq!(partial.spoiled().await.unwrap(), vec![400..600; 1]);
    // What is left of a spoiled stretch cannot be told apart from the rest of it, and goes, too.
    partial.discard(&[100..200, 590..610]).await.unwrap();
    let held: Vec<_> = partial.stretches().into_iter().map(|s| s.range).collect();
    assert_eq!(held, [0..100, 200..400, 610..1000]);
    assert!(partial.spoiled().await.unwrap().is_empty());
    let behind = partial.write_at(999, Bytes::from_static(b"xy"), Provenance::Registry).await;
    assert!(matches!(behind, Err(Error::Verification { .. })));
}

#[tokio::test]
async fn a_truncated_flipped_or_deleted_blob_counts_as_missing() {
    let (dir, store) = fresh();
    let seen = Arc::new(Seen::default());
    let store = store.observed(seen.clone(), CancellationToken::new());
    let blob = Blob::new("application/octet-stream", vec![1; 1000]);
    let path = blob_file(&dir, &blob.descriptor.digest);
    for damage in [|bytes: &mut Vec<u8>| bytes.truncate(999), |bytes: &mut Vec<u8>| bytes[500] ^= 1] {
        put(&store, &blob).await;
        assert_eq!(store.holds(&blob.descriptor).await.unwrap(), Holding::Whole);
        rewrite(&path, damage);
        assert_eq!(store.holds(&blob.descriptor).await.unwrap(), Holding::Missing);
        assert!(!path.exists());
    }
    assert_eq!(seen.0.lock().unwrap().iter().filter(|e| matches!(e, Event::Warning { .. })).count(), 2);
    put(&store, &blob).await;
    std::fs::remove_file(&path).unwrap();
    assert_eq!(store.holds(&blob.descriptor).await.unwrap(), Holding::Missing);
}

#[tokio::test]
async fn a_descriptor_that_lies_about_the_size_costs_no_good_blob() {
    let (dir, store) = fresh();
    let blob = Blob::new("application/octet-stream", vec![1; 1000]);
    put(&store, &blob).await;
    let mut lie = blob.descriptor.clone();
    lie.size = 5;
    assert!(matches!(store.holds(&lie).await, Err(Error::Invalid { .. })));
    assert!(blob_file(&dir, &lie.digest).exists());
}

#[tokio::test]
async fn two_stores_on_one_folder_lose_no_name() {
    let (dir, store) = fresh();
    let built = image("amd64", &[b"layer"]);
    put_image(&store, &built).await;
    let tasks = (0..4).map(|task| {
        let (store, built) = (Store::open(dir.path()).unwrap(), built.manifest.descriptor());
        tokio::spawn(async move {
            for i in 0..10 {
                let root = Root { descriptor: built.clone(), platforms: None };
                store.tag(&name(&format!("r.example/a:{task}-{i}")), &root).await.unwrap();
            }
        })
    });
    futures::future::try_join_all(tasks).await.unwrap();
    assert_eq!(store.images().await.unwrap().len(), 40);
    store.remove(&name("r.example/a:0-0")).await.unwrap();
    assert!(matches!(store.resolve(&name("r.example/a:0-0")).await, Err(Error::NotFound { .. })));
    assert_eq!(store.images().await.unwrap().len(), 39);
}

/// Run by the test below in processes of their own.
#[tokio::test]
#[ignore = "a part of names_survive_several_processes"]
async fn tag_in_a_process_of_its_own() {
    let dir = std::env::var("LAYERPULL_TEST_STORE").unwrap();
    let prefix = std::env::var("LAYERPULL_TEST_PREFIX").unwrap();
    let store = Store::open(Path::new(&dir)).unwrap();
    let built = image("amd64", &[b"layer"]);
    for i in 0..10 {
        put_tagged(&store, &format!("r.example/{prefix}:{i}"), &built).await;
    }
}

#[tokio::test]
async fn names_survive_several_processes() {
    let (dir, store) = fresh();
    put_image(&store, &image("amd64", &[b"layer"])).await;
    let child = |prefix: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "tag_in_a_process_of_its_own"]);
        command.env("LAYERPULL_TEST_STORE", dir.path()).env("LAYERPULL_TEST_PREFIX", prefix).spawn().unwrap()
    };
    for mut child in ["a", "b", "c"].map(child) {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(store.images().await.unwrap().len(), 30);
}

#[tokio::test]
async fn what_a_foreign_tool_wrote_stays_as_it_is() {
    let (dir, store) = fresh();
    let built = image("amd64", &[b"layer"]);
    put_tagged(&store, "r.example/a:1", &built).await;
    let foreign = format!(
        r#"{{"size":{}, "x-unknown":[1, 2.50], "digest":"{}","mediaType":"application/vnd.oci.image.manifest.v1+json","annotations":{{"org.opencontainers.image.ref.name":"latest"}}}}"#,
        built.manifest.bytes.len(),
        built.manifest.digest
    );
    let text =
        format!(r#"{{"schemaVersion":2,"manifests":[{foreign},{{"digest":"blake3:00"}}],"x-top":{{"z":1,"a":2}}}}"#);
    std::fs::write(dir.path().join("index.json"), text).unwrap();
    put_tagged(&store, "r.example/a:2", &built).await;
    let now = std::fs::read_to_string(dir.path().join("index.json")).unwrap();
    for kept in [foreign.as_str(), r#"{"digest":"blake3:00"}"#, r#"{"z":1,"a":2}"#] {
        assert!(now.contains(kept), "{now}");
    }
    assert_eq!(store.images().await.unwrap().len(), 2);
    let refused = store.collect(all_now(Effect::Remove)).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "nobody knows what the entry needs");
}

#[tokio::test]
async fn a_damaged_index_is_named_and_never_overwritten() {
    let (dir, store) = fresh();
    let built = image("amd64", &[b"layer"]);
    put_image(&store, &built).await;
    let path = dir.path().join("index.json");
    std::fs::write(&path, r#"{"manifests":["#).unwrap();
    let root = Root { descriptor: built.manifest.descriptor(), platforms: None };
    let error = store.tag(&name("r.example/a:1"), &root).await.unwrap_err();
    assert!(error.to_string().contains("index.json") && error.to_string().contains("pull the images again"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), r#"{"manifests":["#);
}

#[test]
fn a_folder_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Error::Invalid { .. })));
    std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"9"}"#).unwrap();
    assert!(Store::open(dir.path()).unwrap_err().to_string().contains("\"9\""));
    let file = dir.path().join("notes.txt");
    assert!(matches!(Store::open(&file), Err(Error::Store { .. })));
}

#[tokio::test]
async fn a_store_that_is_only_read_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("none");
    let store = Store::open(&root).unwrap();
    let _shared = store.share().await.unwrap();
    assert!(store.images().await.unwrap().is_empty());
    assert!(store.verify().await.unwrap().is_empty());
    assert!(!root.exists());
}

#[tokio::test]
async fn a_file_in_the_way_is_an_error_that_names_it() {
    let (dir, store) = fresh();
    let blob = Blob::new("application/octet-stream", vec![1; 10]);
    put(&store, &Blob::new("application/octet-stream", vec![2; 10])).await;
    let path = blob_file(&dir, &blob.descriptor.digest);
    std::fs::create_dir(&path).unwrap();
    let error = store.holds(&blob.descriptor).await.unwrap_err();
    assert!(matches!(&error, Error::Store { path: named, .. } if *named == path), "{error}");
}

#[tokio::test]
async fn a_size_that_no_disk_has_is_refused_before_a_byte_travels() {
    let (dir, store) = fresh();
    for size in [1 << 62, i64::MAX as u64, u64::MAX] {
        let mut blob = Blob::new("application/octet-stream", vec![1; 10]).descriptor;
        blob.size = size;
        let Err(Error::Store { action, .. }) = store.begin(&blob, &[]).await else { panic!("{size} was taken") };
        assert_eq!(action, "reserve space for the blob");
        assert_eq!(std::fs::read_dir(dir.path().join(".layerpull/partial")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_later_platform_adds_to_those_that_are_held() {
    let (dir, store) = fresh();
    let (amd, arm) = (image("amd64", &[b"shared", b"amd"]), image("arm64", &[b"shared", b"arm"]));
    let list = index(&[("amd64", &amd), ("arm64", &arm)]);
    let tag = async |texts: &[&str]| {
        store.put_manifest(&list).await.unwrap();
        store.tag(&name("r.example/a:1"), &Root { descriptor: list.descriptor(), platforms: platforms(texts) }).await
    };
    put_image(&store, &amd).await;
    assert!(tag(&["linux/arm64"]).await.is_err());
    tag(&["linux/amd64"]).await.unwrap();
    assert!(store.verify().await.unwrap().is_empty(), "absent platforms are no damage");
    store.collect(all_now(Effect::Remove)).await.unwrap();
    put_image(&store, &arm).await;
    tag(&["linux/arm64"]).await.unwrap();
    let images = store.images().await.unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].root.annotations[PLATFORMS], "linux/amd64,linux/arm64");
    assert_eq!(Some(images[0].platforms.clone()), platforms(&["linux/amd64", "linux/arm64"]));
    std::fs::remove_file(blob_file(&dir, &amd.blobs[2].descriptor.digest)).unwrap();
    tag(&["linux/arm64"]).await.unwrap();
    assert_eq!(store.images().await.unwrap()[0].root.annotations[PLATFORMS], "linux/arm64");
}

/// Tells when somebody has waited for a lock for a while.
struct Waits(tokio::sync::mpsc::UnboundedSender<()>);

impl Observer for Waits {
    fn on(&self, event: &Event) {
        if let Event::Waiting { .. } = event {
            self.0.send(()).unwrap();
        }
    }
}

#[tokio::test]
async fn two_that_add_platforms_at_the_same_time_lose_none() {
    let (dir, store) = fresh();
    let (amd, arm) = (image("amd64", &[b"amd"]), image("arm64", &[b"arm"]));
    let list = index(&[("amd64", &amd), ("arm64", &arm)]);
    put_image(&store, &amd).await;
    put_image(&store, &arm).await;
    store.put_manifest(&list).await.unwrap();
    let lock = std::fs::File::create(dir.path().join(".layerpull/locks/index")).unwrap();
    lock.lock().unwrap();
    let (tell, mut waits) = tokio::sync::mpsc::unbounded_channel();
    let tags = ["linux/amd64", "linux/arm64"].map(|platform| {
        let store = Store::open(dir.path()).unwrap();
        let store = store.observed(Arc::new(Waits(tell.clone())), CancellationToken::new());
        let root = Root { descriptor: list.descriptor(), platforms: platforms(&[platform]) };
        tokio::spawn(async move { store.tag(&name("r.example/a:1"), &root).await.unwrap() })
    });
    // Both have seen that nothing is held before one of them writes.
    waits.recv().await.unwrap();
    waits.recv().await.unwrap();
    lock.unlock().unwrap();
    futures::future::try_join_all(tags).await.unwrap();
    assert_eq!(store.images().await.unwrap()[0].root.annotations[PLATFORMS], "linux/amd64,linux/arm64");
}

#[tokio::test]
async fn shared_and_own_bytes_and_who_shares_layers_are_told() {
    let (_dir, store) = fresh();
    let (a, b) = (image("amd64", &[b"base", b"aa"]), image("amd64", &[b"base", b"bbb"]));
    put_tagged(&store, "r.example/a:1", &a).await;
    put_tagged(&store, "r.example/b:1", &b).await;
    let images = store.images().await.unwrap();
    assert_eq!(images[0].shared(), 4);
    assert_eq!(images[0].own, a.manifest.bytes.len() as u64 + a.blobs[0].descriptor.size + 2);
    let sharing = store.sharing().await.unwrap();
    let names = |blob: &Blob| sharing[&blob.descriptor.digest].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(names(&a.blobs[1]), ["r.example/a:1", "r.example/b:1"]);
    assert_eq!(names(&b.blobs[2]), ["r.example/b:1"]);
}

#[tokio::test]
async fn verify_finds_what_is_broken_and_which_images_need_it() {
    let (dir, store) = fresh();
    let built = image("amd64", &[b"flipped", b"short", b"missing", b"fine"]);
    put_tagged(&store, "r.example/a:1", &built).await;
    let file = |i: usize| blob_file(&dir, &built.blobs[i].descriptor.digest);
    rewrite(&file(1), |bytes| bytes[0] ^= 1);
    rewrite(&file(2), |bytes| bytes.truncate(1));
    std::fs::remove_file(file(3)).unwrap();
    let broken = store.verify().await.unwrap();
    assert_eq!(broken.len(), 3);
    let of = |i: usize| broken.iter().find(|b| b.digest == built.blobs[i].descriptor.digest).unwrap();
    assert!(matches!(of(1).damage, Damage::Digest { .. }));
    assert_eq!(of(2).damage, Damage::Size { expected: 5, found: 1 });
    assert_eq!(of(3).damage, Damage::Missing);
    assert!(broken.iter().all(|b| b.images == ["r.example/a:1"]));
    for broken in &broken {
        store.remove_broken(broken).await.unwrap();
    }
    for blob in &built.blobs {
        put(&store, blob).await;
    }
    assert!(store.verify().await.unwrap().is_empty());
}
