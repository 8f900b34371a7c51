//! kill -9, and the same command again.

use support::command::Output;
use support::images::{Blob, Image};
use support::registry::{Fault, Stall, Times, When};

use super::scene::{MIB, Scene, asked};

const SIZE: u64 = 96 * MIB;

#[test]
fn a_pull_killed_at_half_of_a_blob_asks_for_the_other_half() {
    let image = Image::build().layer(Blob::noise(1, SIZE)).finish();
    let (scene, layer) = (Scene::with(&image), image.layer(0));
    let command = || scene.pull().args(["--streams", "1"]);
    let killed: Output = scene.pull_until(command(), layer, SIZE / 2, SIZE / 2).kill();
    assert_eq!(killed.code, None);
    assert!(!scene.path(image.digest()).exists() && !scene.path(layer.digest()).exists());
    assert_eq!(scene.received(layer), SIZE / 2);
    let from = scene.registry.requests().len();
    scene.registry.behave();
    command().run().success();
    scene.assert_whole(&image);
    let requests = scene.requests_since(from);
    assert_eq!(asked(&requests, layer), SIZE / 2, "{:?}", requests.ranges(layer.digest()));
    assert_eq!(requests.blob_gets(image.config().digest()).len(), 0);
}

#[test]
fn a_pull_of_many_connections_killed_in_the_middle_fetches_only_the_holes() {
    let image = Image::build().layer(Blob::noise(2, SIZE)).finish();
    let (scene, layer) = (Scene::with(&image), image.layer(0));
    // Each connection is slow, so that a second one brings more, and none comes to the end of what it was asked for.
    let slow = Fault::All(vec![Fault::Drip(4 * MIB), Fault::StallAfter(4 * MIB, Stall::Ever)]);
    scene.registry.rule(When::blob(layer.digest()).get(), Times::Always, slow);
    let running = scene.pull().spawn();
    support::until("two connections have brought what they may", || scene.received(layer) >= 8 * MIB);
    assert!(scene.registry.requests().blob_gets(layer.digest()).len() > 1);
    running.kill();
    let (received, from) = (scene.received(layer), scene.registry.requests().len());
    scene.registry.behave();
    // One connection after the other asks for each hole once.
    scene.pull().args(["--streams", "1"]).run().success();
    scene.assert_whole(&image);
    let requests = scene.requests_since(from);
    let ranges = requests.ranges(layer.digest());
    assert!(ranges.len() > 1, "{ranges:?}");
    assert_eq!(asked(&requests, layer), SIZE - received, "{ranges:?}");
    assert_eq!(requests.bytes_sent_for(layer.digest()), SIZE - received, "{ranges:?}");
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
