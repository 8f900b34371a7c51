//! `verify --repair`: what can be fetched is, what nobody needs goes, and nothing else is given up.

use std::fs;

use serde_json::Value;
use support::images::{Blob, Image};
use support::registry::{Fault, Reply, Times, When};

use super::scene::{KIB, Scene};

fn damaged() -> (Scene, Image) {
    let image = Image::build().layer(Blob::noise(1, 300 * KIB)).finish();
    let scene = Scene::with(&image);
    scene.pull().run().success();
    damage(&scene, image.layer(0));
    (scene, image)
}

fn damage(scene: &Scene, blob: &Blob) {
    let path = scene.path(blob.digest());
    fs::remove_file(&path).unwrap();
    fs::write(&path, vec![0; blob.size() as usize]).unwrap();
}

/// Repair leaves the damaged file where it is, says `why`, and does not advise itself.
#[track_caller]
fn is_kept(scene: &Scene, layer: &Blob, why: &str) {
    let output = scene.command("verify").args(["--repair", "--retries", "0"]).run().code(6);
    assert!(output.stdout.contains(&format!("cannot be fetched: {why}")), "{}", output.transcript());
    assert!(output.stderr.contains("1 broken: 0 fetched again, 0 removed, 1 cannot be fetched"), "{}", output.stderr);
    assert!(!output.stderr.contains("--repair"), "{}", output.stderr);
    assert!(scene.path(layer.digest()).exists());
}

#[test]
fn an_image_without_a_registry_in_its_name_is_not_taken_apart() {
    let (scene, image) = damaged();
    let index = scene.store().join("index.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    json["manifests"][0].as_object_mut().unwrap().remove("annotations");
    fs::write(&index, json.to_string()).unwrap();
    is_kept(&scene, image.layer(0), "no registry is in the name");
}

#[test]
fn a_registry_that_does_not_answer_costs_nothing() {
    let (scene, image) = damaged();
    scene.registry.rule(When::any(), Times::Always, Fault::Reply(Reply::error(503, "UNAVAILABLE", "later")));
    is_kept(&scene, image.layer(0), "127.0.0.1");
    scene.registry.behave();
    let output = scene.command("verify").arg("--repair").run().success();
    assert!(output.stdout.contains("; fetched again"), "{}", output.transcript());
    scene.assert_whole(&image);
}

#[test]
fn what_no_image_needs_is_removed_and_told_so() {
    let image = Image::build().layer(Blob::noise(1, 300 * KIB)).finish();
    let scene = Scene::with(&image);
    scene.pull().run().success();
    scene.command("rm").arg(scene.name()).run().success();
    damage(&scene, image.layer(0));
    let from = scene.registry.requests().len();
    let output = scene.command("verify").arg("--repair").run().success();
    assert!(output.stdout.contains("no image needs it; removed"), "{}", output.transcript());
    assert!(output.stderr.contains("1 broken: 0 fetched again, 1 removed, 0 cannot be fetched"), "{}", output.stderr);
    assert!(!scene.path(image.layer(0).digest()).exists());
    assert_eq!(scene.registry.requests().len(), from);
}
