//! skopeo reads the store as it is, and puts images into it.

use super::*;

fn skopeo(args: &[&str]) -> String {
    let output = Command::new("skopeo").args(args).output().expect("these tests need skopeo: install it");
    assert!(output.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn skopeo_reads_the_store_as_it_is() {
    let (dir, store) = fresh();
    let built = image(Platform::host().architecture.as_str(), &[b"base", b"top"]);
    let other = image(Platform::host().architecture.as_str(), &[b"base", b"other"]);
    put_tagged(&store, "x:1", &built).await;
    put_tagged(&store, "y:1", &other).await;
    let out = tempfile::tempdir().unwrap();
    let from = format!("oci:{}:docker.io/library/x:1", dir.path().display());
    skopeo(&["copy", "--insecure-policy", &from, &format!("dir:{}", out.path().display())]);
    assert_eq!(std::fs::read(out.path().join("manifest.json")).unwrap(), built.manifest.bytes);
    for blob in &built.blobs {
        assert_eq!(std::fs::read(out.path().join(blob.descriptor.digest.hex())).unwrap(), blob.bytes);
    }
}

#[tokio::test]
async fn skopeo_reads_an_index_of_which_one_platform_is_held() {
    let (dir, store) = fresh();
    let host = Platform::host().architecture;
    let (held, absent) = (image(&host, &[b"here"]), image("s390x", &[b"elsewhere"]));
    let list = index(&[("s390x", &absent), (&host, &held)]);
    put_image(&store, &held).await;
    store.put_manifest(&list).await.unwrap();
    let root = Root { descriptor: list.descriptor(), platforms: Some(vec![Platform::host()]) };
    store.tag(&name("x:1"), &root).await.unwrap();
    let out = tempfile::tempdir().unwrap();
    let from = format!("oci:{}:docker.io/library/x:1", dir.path().display());
    skopeo(&["copy", "--insecure-policy", &from, &format!("dir:{}", out.path().display())]);
    assert_eq!(std::fs::read(out.path().join("manifest.json")).unwrap(), held.manifest.bytes);
}

#[tokio::test]
async fn skopeo_finds_an_image_of_dockers_types_by_its_name() {
    let (dir, store) = fresh();
    let built = image(&Platform::host().architecture, &[]);
    let text = String::from_utf8(built.manifest.bytes.to_vec()).unwrap();
    let text = text.replace(MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST);
    let text = text.replace(MediaType::OCI_CONFIG, MediaType::DOCKER_CONFIG);
    let built = Built { manifest: RawManifest::new(None, text.into()).unwrap(), ..built };
    put_tagged(&store, "x:1", &built).await;
    let resolved = store.resolve(&name("x:1")).await.unwrap();
    assert_eq!(resolved.media_type.as_str(), MediaType::DOCKER_MANIFEST);
    assert_eq!(store.manifest(&resolved).await.unwrap().bytes, built.manifest.bytes);
    let out = tempfile::tempdir().unwrap();
    let from = format!("oci:{}:docker.io/library/x:1", dir.path().display());
    skopeo(&["copy", "--insecure-policy", &from, &format!("dir:{}", out.path().display())]);
    assert_eq!(std::fs::read(out.path().join("manifest.json")).unwrap(), built.manifest.bytes);
}

#[tokio::test]
async fn what_skopeo_puts_into_the_store_is_found_and_kept() {
    let (_from_dir, from) = fresh();
    let (dir, store) = fresh();
    put_tagged(&from, "x:1", &image("amd64", &[b"base", b"foreign"])).await;
    put_tagged(&store, "y:1", &image("amd64", &[b"base", b"ours"])).await;
    let source = format!("oci:{}:docker.io/library/x:1", from.root().display());
    let target = format!("oci:{}:docker.io/library/x:1", dir.path().display());
    skopeo(&["copy", "--insecure-policy", "--preserve-digests", &source, &target]);
    put_tagged(&store, "z:1", &image("amd64", &[b"base", b"late"])).await;
    assert_eq!(store.images().await.unwrap().len(), 3);
    assert_eq!(store.resolve(&name("x:1")).await.unwrap().digest, from.resolve(&name("x:1")).await.unwrap().digest);
    store.collect(all_now(Effect::Remove)).await.unwrap();
    assert!(store.verify().await.unwrap().is_empty());
}
