//! Real images: what the store holds is what skopeo copies, and other tools take it from there.
//!
//! They come from the registry that `REAL_IMAGES` names; `scripts/test` builds the images and starts it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use support::command::Layerpull;
use support::peers::{Podman, run, skopeo};
use tempfile::TempDir;

/// `HOST:PORT/repository:1`.
fn real(repository: &str) -> String {
    let host = std::env::var("REAL_IMAGES").unwrap_or_default();
    assert!(!host.is_empty(), "REAL_IMAGES names no registry: run these tests by scripts/test, which starts one");
    format!("{host}/{repository}:1")
}

fn pulled(names: &[String]) -> TempDir {
    into(tempfile::tempdir().unwrap(), names)
}

fn into(store: TempDir, names: &[String]) -> TempDir {
    Layerpull::new().arg("pull").args(names).store(store.path()).run().success();
    store
}

/// The names and bytes of the blobs of a layout.
fn blobs(layout: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_store_is_byte_for_byte_what_skopeo_copies() {
    let name = real("nginx");
    let (store, copy) = (pulled(std::slice::from_ref(&name)), tempfile::tempdir().unwrap());
    let (from, to) = (format!("docker://{name}"), format!("oci:{}:x", copy.path().display()));
    skopeo(["copy", "--preserve-digests", "--src-tls-verify=false", &from, &to]).ok();
    let names = blobs(copy.path());
    assert!(names.len() >= 3);
    assert_eq!(blobs(store.path()), names);
    for name in names {
        let below = Path::new("blobs/sha256").join(&name);
        assert!(fs::read(store.path().join(&below)).unwrap() == fs::read(copy.path().join(&below)).unwrap(), "{name}");
    }
}

#[test]
fn skopeo_copies_every_image_out_of_a_store_of_several() {
    let names = ["base", "nginx", "httpd"].map(real);
    let (store, copies) = (pulled(&names), tempfile::tempdir().unwrap());
    for (n, name) in names.iter().enumerate() {
        let from = format!("oci:{}:{name}", store.path().display());
        let copy = copies.path().join(n.to_string());
        skopeo(["copy", "--preserve-digests", &from, &format!("dir:{}", copy.display())]).ok();
        let digest = |reference: &str| {
            let words = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", reference];
            skopeo(words).ok().trim().to_owned()
        };
        let bytes = fs::read(copy.join("manifest.json")).unwrap();
        assert_eq!(layerpull::oci::Digest::of(&bytes).to_string(), digest(&format!("docker://{name}")));
    }
}

#[test]
fn podman_takes_an_image_from_the_store_and_from_the_served_store() {
    let name = real("nginx");
    // Podman makes a name of the path, and a name is in lower case.
    let folder = format!("layerpull-test-{}", std::process::id());
    let store = tempfile::Builder::new().prefix(&folder).rand_bytes(0).tempdir().unwrap();
    let (store, podman) = (into(store, std::slice::from_ref(&name)), Podman::new());
    let from = format!("oci:{}:{name}", store.path().display());
    let id = podman.run(["pull", "--quiet", &from]).ok();
    let config = skopeo(["inspect", "--config", "--raw", &from]).ok();
    assert_eq!(id.trim(), layerpull::oci::Digest::of(config.as_bytes()).hex());

    let server = Layerpull::new().arg("serve").store(store.path()).args(["--listen", "127.0.0.1:0"]).spawn();
    let told = server.until_stderr("\n");
    let host = told.split("http://").nth(1).unwrap().trim();
    let served = podman.run(["pull", "--quiet", "--tls-verify=false", &format!("{host}/nginx:1")]).ok();
    assert_eq!(served.trim(), id.trim());
}

#[test]
fn umoci_unpacks_an_image_of_the_store() {
    let store = pulled(&[real("base")]);
    let bundle = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    // umoci reads tags without a host.
    let from = format!("oci:{}:{}", store.path().display(), real("base"));
    skopeo(["copy", "--preserve-digests", &from, &format!("oci:{}:base", copy.path().display())]).ok();
    let image = format!("{}:base", copy.path().display());
    run("umoci", ["unpack", "--rootless", "--image", &image, bundle.path().join("b").to_str().unwrap()]).ok();
    assert!(bundle.path().join("b/rootfs/etc/os-release").exists());
}

#[test]
fn httpd_after_nginx_moves_what_differs_and_nothing_else() {
    let (nginx, httpd) = (real("nginx"), real("httpd"));
    let store = pulled(std::slice::from_ref(&nginx));
    let before = blobs(store.path());
    let output = Layerpull::new().args(["pull", "--format", "json", &httpd]).store(store.path()).run().success();
    let object: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let (alone, after) = (pulled(std::slice::from_ref(&httpd)), blobs(store.path()));
    let new: BTreeSet<String> = after.difference(&before).cloned().collect();
    let wanted: BTreeSet<String> = blobs(alone.path()).difference(&before).cloned().collect();
    assert_eq!(new, wanted);
    assert!(new.len() < blobs(alone.path()).len(), "nothing is shared: {object}");
    Layerpull::new().arg("verify").store(store.path()).run().success();
}
