//! Several processes at one store.

use std::collections::BTreeSet;

use serde_json::Value;
use support::images::{Blob, Image};
use support::registry::Registry;

use super::scene::{KIB, MIB, Scene, assert_whole, is_manifest};

/// Names in the index of the store.
fn names(scene: &Scene) -> BTreeSet<String> {
    let images = scene.command("images").args(["--format", "json"]).run().success().stdout;
    let images: Value = serde_json::from_str(&images).unwrap();
    images.as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
}

/// Every blob of every image was sent once, in one answer.
#[track_caller]
fn assert_once(registry: &Registry, images: &[&Image]) {
    let requests = registry.requests();
    for blob in images.iter().flat_map(|image| &image.blobs) {
        assert_eq!(requests.blob_gets(blob.digest()).len(), 1, "{}", blob.digest());
        assert_eq!(requests.bytes_sent_for(blob.digest()), blob.size());
    }
}

#[test]
fn two_processes_that_pull_the_same_image_fetch_each_blob_once() {
    let image = Image::build().layer(Blob::noise(1, 300 * KIB)).layer(Blob::noise(2, 200 * KIB)).finish();
    let scene = Scene::with(&image);
    let gate = scene.hold_blobs();
    let first = scene.pull().spawn();
    scene.registry.wait_until("the first asks for blobs", |r| r.all_blob_gets().len() == 3);
    let second = scene.pull().args(["--progress", "json"]).spawn();
    second.until_stderr("\"planned\"");
    gate.open();
    first.wait().success();
    second.wait().success();
    assert_once(&scene.registry, &[&image]);
    scene.assert_whole(&image);
}

#[test]
fn who_waited_goes_on_where_a_killed_process_stopped() {
    let image = Image::build().layer(Blob::noise(3, 16 * MIB)).finish();
    let (scene, layer) = (Scene::with(&image), image.layer(0));
    let first = scene.pull_until(scene.pull().args(["--streams", "1"]), layer, 8 * MIB, 8 * MIB);
    let second = scene.pull().args(["--streams", "1", "--progress", "json"]).spawn();
    second.until_stderr("\"planned\"");
    let from = scene.registry.requests().len();
    scene.registry.behave();
    first.kill();
    second.wait().success();
    assert_eq!(super::scene::asked(&scene.requests_since(from), layer), 8 * MIB);
    scene.assert_whole(&image);
}

#[test]
fn four_processes_with_images_of_one_base_fetch_it_once_and_lose_no_name() {
    let base = Blob::noise(4, 400 * KIB);
    let image = |n: u64| Image::build().layer(base.clone()).layer(Blob::noise(10 + n, 50 * KIB)).finish();
    let (scene, images) = (Scene::new(), [0, 1, 2, 3].map(image));
    for (n, image) in images.iter().enumerate() {
        scene.registry.add("library/x", &n.to_string(), image);
    }
    let gate = scene.hold_blobs();
    let name = |n: usize| scene.registry.name("library/x", &n.to_string());
    let running = [0, 1, 2, 3].map(|n| scene.command("pull").args([name(n), name((n + 1) % 4)]).spawn());
    // Each of them has two images to plan, with one HEAD and one GET each.
    let planned = |r: &support::registry::Requests| r.iter().filter(|r| is_manifest(r)).count() >= 16;
    scene.registry.wait_until("all have planned", planned);
    gate.open();
    running.into_iter().for_each(|running| drop(running.wait().success()));
    let layers = |image: &Image| image.blobs.iter().map(|blob| blob.digest().clone()).collect::<BTreeSet<_>>();
    for digest in images.iter().flat_map(layers).collect::<BTreeSet<_>>() {
        assert_eq!(scene.registry.requests().blob_gets(&digest).len(), 1, "{digest}");
    }
    images.iter().for_each(|image| assert_whole(&scene.store(), image));
    assert_eq!(names(&scene), [0, 1, 2, 3].map(name).into());
}

#[test]
fn a_collection_waits_for_a_pull_and_takes_nothing_that_it_brings() {
    let (done, held) = (Blob::noise(5, 100 * KIB), Blob::noise(6, 200 * KIB));
    let image = Image::build().layer(done.clone()).layer(held.clone()).finish();
    let scene = Scene::with(&image);
    let left = Blob::noise(7, 100 * KIB);
    scene.registry.add("library/gone", "1", &Image::build().layer(left.clone()).finish());
    let gone = scene.registry.name("library/gone", "1");
    scene.command("pull").arg(&gone).run().success();
    scene.command("rm").arg(&gone).run().success();
    let gate = super::scene::hold_blob(&scene, &held);
    let pull = scene.pull().spawn();
    support::until("one layer is there without a name", || scene.path(done.digest()).exists());

    let collection = scene.command("gc").arg("--all").spawn();
    collection.until_stderr("waiting for");
    assert!(scene.path(left.digest()).exists(), "it collects while another process uses the store");
    gate.open();
    pull.wait().success();
    collection.wait().success();
    scene.assert_whole(&image);
    assert!(!scene.path(left.digest()).exists());
    assert_eq!(scene.registry.requests().blob_gets(done.digest()).len(), 1);
}

#[test]
fn an_interrupted_wait_of_a_collection_ends_soon() {
    let image = Image::build().layer(Blob::noise(8, 100 * KIB)).finish();
    let scene = Scene::with(&image);
    let gate = scene.hold_blobs();
    let pull = scene.pull().spawn();
    scene.registry.wait_until("the pull runs", |r| !r.all_blob_gets().is_empty());
    let collection = scene.command("gc").spawn();
    collection.until_stderr("waiting for");
    collection.signal(rustix::process::Signal::INT);
    collection.wait().code(130);
    gate.open();
    pull.wait().success();
}
