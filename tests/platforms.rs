//! Which platforms of an index are here, and that a second pull knows it.

use serde_json::{Value, json};
use support::command::Layerpull;
use support::images::{Blob, Image, raw};
use support::registry::Registry;

/// An index over `children`, each with its platform spelt as given.
fn spelt(children: &[(&Image, Value)]) -> Image {
    let entry = |(child, platform): &(&Image, Value)| {
        let mut entry = json!(child.descriptor());
        entry["platform"] = platform.clone();
        entry
    };
    let entries: Vec<Value> = children.iter().map(entry).collect();
    let root =
        raw(&json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}));
    let manifests = children.iter().flat_map(|(child, _)| child.manifests.clone()).chain([root]).collect();
    Image { manifests, blobs: children.iter().flat_map(|(child, _)| child.blobs.clone()).collect(), platform: None }
}

fn child(seed: u64) -> Image {
    Image::build().layer(Blob::noise(seed, 1000)).finish()
}

/// Pulls `platform` of `index` twice: the second one asks for nothing but the tag, and the store says once what it has.
#[track_caller]
fn second_pull_is_up_to_date(index: &Image, platform: &str, kept: &str) {
    let (registry, store) = (Registry::start(), tempfile::tempdir().unwrap());
    registry.add("library/x", "1", index);
    let name = registry.name("library/x", "1");
    let pull = || Layerpull::new().args(["pull", "--platform", platform, &name]).store(store.path()).run().success();
    pull();
    let before = registry.requests().len();
    let again = pull();
    assert!(again.stdout.contains("Image is up to date"), "{}", again.transcript());
    assert_eq!(registry.requests().len(), before + 1);
    let file = std::fs::read(store.path().join("index.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(file["manifests"][0]["annotations"]["layerpull.platforms"], kept, "{file}");
}

#[test]
fn a_second_pull_of_arm64_v8_is_up_to_date() {
    let (arm, amd) = (child(1), child(2));
    let index = spelt(&[
        (&arm, json!({"os": "linux", "architecture": "arm64", "variant": "v8"})),
        (&amd, json!({"os": "linux", "architecture": "amd64"})),
    ]);
    second_pull_is_up_to_date(&index, "linux/arm64/v8", "linux/arm64");
    second_pull_is_up_to_date(&index, "linux/arm64", "linux/arm64");
}

#[test]
fn a_second_pull_of_a_version_of_windows_is_up_to_date() {
    let (one, other) = (child(1), child(2));
    let version = |version: &str| json!({"os": "windows", "architecture": "amd64", "os.version": version});
    let index = spelt(&[(&one, version("10.0.20348.1")), (&other, version("10.0.17763.1"))]);
    second_pull_is_up_to_date(&index, "windows/amd64", "windows/amd64");
}
