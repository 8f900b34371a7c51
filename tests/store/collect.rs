//! What is collected, and what stays.

use super::*;

#[tokio::test]
async fn only_what_nobody_needs_is_collected() {
    let (dir, store) = fresh();
    let (kept, gone) = (image("amd64", &[b"base", b"kept"]), image("amd64", &[b"base", b"gone"]));
    put_tagged(&store, "r.example/kept:1", &kept).await;
    put_tagged(&store, "r.example/gone:1", &gone).await;
    store.remove(&name("r.example/gone:1")).await.unwrap();
    let signature = image("amd64", &[b"signature"]);
    let mut signed: serde_json::Value = serde_json::from_slice(&signature.manifest.bytes).unwrap();
    signed["subject"] = serde_json::to_value(kept.manifest.descriptor()).unwrap();
    let signed = RawManifest::new(None, signed.to_string().into()).unwrap();
    put_image(&store, &signature).await;
    store.put_manifest(&signed).await.unwrap();
    assert_eq!(store.referrers(&kept.manifest.digest).await.unwrap()[0].digest, signed.digest);
    let partial = ingest(&store, &Blob::new("application/octet-stream", vec![1; 100]).descriptor).await;

    let young = Collect::default();
    assert_eq!(store.collect(young).await.unwrap().blobs, []);
    let preview = store.collect(all_now(Effect::Preview)).await.unwrap();
    let removed = store.collect(all_now(Effect::Remove)).await.unwrap();
    assert_eq!(preview, removed);
    let digests: Vec<_> = removed.blobs.iter().map(|(digest, _)| digest.clone()).collect();
    assert!(digests.contains(&gone.blobs[2].descriptor.digest) && digests.contains(&gone.manifest.digest));
    // The signature's own manifest without subject goes; the one that signs stays, with its layer.
    assert_eq!(digests.len(), 4, "{digests:?}");
    assert!(removed.partials.is_empty(), "a partial blob in use was collected");
    drop(partial);
    assert_eq!(store.collect(all_now(Effect::Remove)).await.unwrap().partials.len(), 1);
    assert!(blob_file(&dir, &signature.blobs[1].descriptor.digest).exists());
    assert!(store.verify().await.unwrap().is_empty());
    store.remove(&name("r.example/kept:1")).await.unwrap();
    store.collect(all_now(Effect::Remove)).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_child_that_is_no_manifest_keeps_nobody_from_collecting() {
    let (dir, store) = fresh();
    let large = vec![b' '; 5 << 20];
    let built = image("amd64", &[b"layer", &large]);
    let as_manifest = |i: usize| {
        let mut value = serde_json::to_value(&built.blobs[i].descriptor).unwrap();
        value["mediaType"] = MediaType::OCI_INDEX.into();
        value
    };
    let mut list: serde_json::Value = serde_json::from_slice(&index(&[("amd64", &built)]).bytes).unwrap();
    list["manifests"].as_array_mut().unwrap().extend([1, 2].map(as_manifest));
    let list = RawManifest::new(None, list.to_string().into()).unwrap();
    put_tagged(&store, "r.example/a:1", &built).await;
    store.put_manifest(&list).await.unwrap();
    let root = Root { descriptor: list.descriptor(), platforms: platforms(&["linux/amd64"]) };
    store.tag(&name("r.example/b:1"), &root).await.unwrap();
    store.remove(&name("r.example/a:1")).await.unwrap();
    put(&store, &Blob::new("application/octet-stream", vec![1; 10])).await;
    assert_eq!(store.collect(all_now(Effect::Remove)).await.unwrap().blobs.len(), 1);
    assert!(built.blobs.iter().all(|blob| blob_file(&dir, &blob.descriptor.digest).exists()));
    rewrite(&blob_file(&dir, &built.blobs[1].descriptor.digest), |bytes| bytes[0] ^= 1);
    let damaged = store.collect(all_now(Effect::Remove)).await;
    assert!(matches!(damaged, Err(Error::Verification { .. })), "nobody knows what a damaged child needs");
}

/// An index over one manifest.
fn index_over(child: &RawManifest) -> RawManifest {
    let index =
        serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [child.descriptor()]});
    RawManifest::new(None, index.to_string().into()).unwrap()
}

#[tokio::test]
async fn indexes_that_nest_too_deeply_get_no_name_and_keep_nobody_from_collecting() {
    let (dir, store) = fresh();
    let built = image("amd64", &[b"layer"]);
    put_image(&store, &built).await;
    let mut levels = vec![built.manifest.clone()];
    for level in 0..MAX_DEPTH {
        levels.push(index_over(&levels[level]));
        store.put_manifest(&levels[level + 1]).await.unwrap();
    }
    let root = |level: usize| Root { descriptor: levels[level].descriptor(), platforms: None };
    store.tag(&name("r.example/a:1"), &root(MAX_DEPTH - 1)).await.unwrap();
    let refused = store.tag(&name("r.example/a:1"), &root(MAX_DEPTH)).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    store.remove(&name("r.example/a:1")).await.unwrap();
    // A child that nobody asked for may be here, because it has had a name of its own.
    let mut list: serde_json::Value = serde_json::from_slice(&index(&[("amd64", &built)]).bytes).unwrap();
    list["manifests"].as_array_mut().unwrap().push(serde_json::to_value(levels[MAX_DEPTH].descriptor()).unwrap());
    let list = RawManifest::new(None, list.to_string().into()).unwrap();
    store.put_manifest(&list).await.unwrap();
    let root = Root { descriptor: list.descriptor(), platforms: platforms(&["linux/amd64"]) };
    store.tag(&name("r.example/b:1"), &root).await.unwrap();
    assert_eq!(store.collect(all_now(Effect::Remove)).await.unwrap().blobs, []);
    assert!(levels.iter().all(|manifest| blob_file(&dir, &manifest.digest).exists()));
}

#[tokio::test]
async fn nothing_is_collected_while_somebody_shares_the_store() {
    let (dir, store) = fresh();
    let seen = Arc::new(Seen::default());
    put(&store, &Blob::new("application/octet-stream", vec![1; 10])).await;
    let shared = Store::open(dir.path()).unwrap().share_to_write().await.unwrap();
    let cancel = CancellationToken::new();
    let watched = store.observed(seen.clone(), cancel.clone());
    let brief = Collect { patience: Duration::from_secs(1), ..all_now(Effect::Remove) };
    assert!(matches!(watched.collect(brief).await, Err(Error::Store { .. })));
    assert!(matches!(seen.0.lock().unwrap()[0], Event::Waiting { .. }));
    cancel.cancel();
    assert!(matches!(watched.collect(all_now(Effect::Remove)).await, Err(Error::Interrupted)));
    drop(shared);
    assert_eq!(store.collect(all_now(Effect::Remove)).await.unwrap().blobs.len(), 1);
}

#[tokio::test]
async fn a_lock_that_a_killed_process_left_is_no_partial_blob() {
    let (dir, store) = fresh();
    put(&store, &Blob::new("application/octet-stream", vec![1; 10])).await;
    let lock = dir.path().join(".layerpull/partial").join(format!("sha256-{}.lock", Digest::of(b"gone").hex()));
    std::fs::write(&lock, "").unwrap();
    assert_eq!(store.collect(all_now(Effect::Remove)).await.unwrap().partials, []);
    assert!(!lock.exists());
}
