//! Ctrl-C and SIGTERM: soon, told by the exit code, and with everything kept.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::command::{Layerpull, Output};
use support::images::{Blob, Image};
use support::registry::{Fault, Stall, Times, When};

use super::scene::{MIB, Scene, asked};

const SIZE: u64 = 16 * MIB;
/// A pull that is asked to stop has stopped after this time. It gives itself two seconds; a busy machine may let it wait
/// before it runs, and before its end is seen. Nothing else would have ended it so early.
const SOON: Duration = Duration::from_secs(15);

#[track_caller]
fn stopped(scene: &Scene, image: &Image, signal: Signal) -> Output {
    let command = scene.pull().args(["--streams", "1"]);
    let running = scene.pull_until(command, image.layer(0), SIZE / 2, SIZE / 2);
    let asked_to = Instant::now();
    running.signal(signal);
    let output = running.wait();
    assert!(asked_to.elapsed() < SOON, "{:?}", asked_to.elapsed());
    output
}

#[track_caller]
fn goes_on(scene: &Scene, image: &Image) {
    assert_eq!(scene.received(image.layer(0)), SIZE / 2);
    let from = scene.registry.requests().len();
    scene.registry.behave();
    scene.pull().args(["--streams", "1"]).run().success();
    assert_eq!(asked(&scene.requests_since(from), image.layer(0)), SIZE / 2);
    scene.assert_whole(image);
}

#[test]
fn an_interrupted_pull_ends_soon_with_130_and_goes_on_later() {
    let image = Image::build().layer(Blob::noise(1, SIZE)).finish();
    let scene = Scene::with(&image);
    let output = stopped(&scene, &image, Signal::INT).code(130);
    assert!(output.stdout.is_empty() && output.stderr.contains("run the same command again"), "{}", output.stderr);
    goes_on(&scene, &image);
}

#[test]
fn a_terminated_pull_ends_soon_with_143_and_goes_on_later() {
    let image = Image::build().layer(Blob::noise(2, SIZE)).finish();
    let scene = Scene::with(&image);
    stopped(&scene, &image, Signal::TERM).code(143);
    goes_on(&scene, &image);
}

#[test]
fn a_pull_that_still_waits_for_its_manifest_ends_soon_too() {
    let image = Image::build().layer(Blob::noise(3, MIB)).finish();
    let scene = Scene::with(&image);
    scene.registry.rule(When::manifests(), Times::Always, Fault::StallBeforeHead(Stall::Ever));
    let running = scene.pull().spawn();
    scene.registry.wait_until("the manifest is asked for", |requests| !requests.is_empty());
    let asked_to = Instant::now();
    running.signal(Signal::INT);
    running.wait().code(130);
    assert!(asked_to.elapsed() < SOON);
}

#[test]
fn a_pull_between_two_attempts_ends_soon_too() {
    let image = Image::build().layer(Blob::noise(4, MIB)).finish();
    let scene = Scene::with(&image);
    let busy = support::registry::Reply::status(503).header("retry-after", 50);
    scene.registry.rule(When::any(), Times::Always, Fault::Reply(busy));
    let running = scene.pull().args(["--progress", "plain"]).spawn();
    running.until_stderr("retry in");
    let asked_to = Instant::now();
    running.signal(Signal::TERM);
    running.wait().code(143);
    assert!(asked_to.elapsed() < SOON);
}

#[test]
fn a_server_that_is_asked_to_end_ends_without_a_word_of_failure() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let running = Layerpull::new().args(["serve", "--listen", "127.0.0.1:0"]).spawn();
        running.until_stderr("serving");
        running.signal(signal);
        let output = running.wait().code(code);
        assert!(!output.stderr.contains("error"), "{}", output.stderr);
    }
}
