//! kill -9, and the same command again.

use support::command::{Layerpull, Output};
use support::images::{Blob, Image};
use support::registry::Requests;

use super::scene::{MIB, Scene, asked};

const SIZE: u64 = 96 * MIB;

/// Kills a pull of one blob when every connection has brought `each` bytes and the store has `total`; pulls again.
/// Returns what was received before, and what was asked for after.
fn killed_at(scene: &Scene, image: &Image, command: impl Fn() -> Layerpull, each: u64, total: u64) -> (u64, Requests) {
    let layer = image.layer(0);
    let killed: Output = scene.pull_until(command(), layer, each, total).kill();
    assert_eq!(killed.code, None);
    assert!(!scene.path(image.digest()).exists() && !scene.path(layer.digest()).exists());
    let (received, from) = (scene.received(layer), scene.registry.requests().len());
    scene.registry.behave();
    command().run().success();
    scene.assert_whole(image);
    (received, scene.requests_since(from))
}

#[test]
fn a_pull_killed_at_half_of_a_blob_asks_for_the_other_half() {
    let image = Image::build().layer(Blob::noise(1, SIZE)).finish();
    let scene = Scene::with(&image);
    let command = || scene.pull().args(["--streams", "1"]);
    let (received, requests) = killed_at(&scene, &image, command, SIZE / 2, SIZE / 2);
    assert_eq!(received, SIZE / 2);
    let asked = asked(&requests, image.layer(0));
    assert!(asked <= SIZE - received + MIB, "{asked} after {received}: {:?}", requests.ranges(image.layer(0).digest()));
    assert_eq!(requests.blob_gets(image.config().digest()).len(), 0);
}

#[test]
fn a_pull_of_many_connections_killed_in_the_middle_fetches_only_the_holes() {
    let image = Image::build().layer(Blob::noise(2, SIZE)).finish();
    let scene = Scene::with(&image);
    let command = || scene.pull();
    let (received, requests) = killed_at(&scene, &image, command, 4 * MIB, 24 * MIB);
    assert!(received >= 24 * MIB);
    let layer = image.layer(0).digest();
    assert!(requests.blob_gets(layer).len() > 1);
    let (asked, sent) = (asked(&requests, image.layer(0)), requests.bytes_sent_for(layer));
    assert!(sent <= SIZE - received + MIB, "{sent} sent after {received}: {:?}", requests.ranges(layer));
    assert!(asked <= SIZE - received + MIB, "{asked} asked after {received}: {:?}", requests.ranges(layer));
}

#[test]
fn a_pull_killed_three_times_never_asks_for_what_it_has() {
    let image = Image::build().layer(Blob::noise(3, 32 * MIB)).finish();
    let (scene, layer) = (Scene::with(&image), image.layer(0));
    let command = || scene.pull().args(["--streams", "1"]);
    for round in 1..=3 {
        scene.registry.behave();
        let (before, from) = (scene.received(layer), scene.registry.requests().len());
        scene.pull_until(command(), layer, 8 * MIB, round * 8 * MIB).kill();
        assert_eq!(scene.requests_since(from).ranges(layer.digest()).len(), 1);
        assert!(asked(&scene.requests_since(from), layer) <= 32 * MIB - before);
    }
    let from = scene.registry.requests().len();
    scene.registry.behave();
    command().run().success();
    assert_eq!(asked(&scene.requests_since(from), layer), 8 * MIB);
    scene.assert_whole(&image);
}

#[test]
fn a_verified_layer_survives_the_kill_and_is_not_asked_for_again() {
    let (done, held) = (Blob::noise(4, MIB), Blob::noise(5, 8 * MIB));
    let image = Image::build().layer(done.clone()).layer(held.clone()).finish();
    let scene = Scene::with(&image);
    let running = scene.pull_until(scene.pull().args(["--streams", "1"]), &held, 4 * MIB, 4 * MIB);
    support::until("the small layer is there", || scene.path(done.digest()).exists());
    running.kill();
    let from = scene.registry.requests().len();
    scene.registry.behave();
    scene.pull().run().success();
    assert_eq!(scene.requests_since(from).blob_gets(done.digest()).len(), 0);
    scene.assert_whole(&image);
}
