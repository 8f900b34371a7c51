//! kill -9 in the middle, and the same command again.

use std::fs;
use std::io::Write;

use layerpull::oci::Digest;
use support::command::Layerpull;
use support::images::{Blob, Image};
use support::peers::run;
use support::registry::{Fault, Gate, Registry, Stall, Times, When};

use crate::scene::{Scene, name};

fn image() -> Image {
    Image::build().layer(Blob::noise(1, 3 << 20)).layer(Blob::noise(2, 3 << 20)).finish()
}

#[test]
fn an_import_that_was_killed_shows_no_image_and_goes_on_with_what_it_has() {
    let (scene, image) = (Scene::new(), image());
    scene.store("s", &[("a", &image)]);
    scene.run("s", &["export", &name("a"), "-o", "x.tar"]).success();
    let bytes = fs::read(scene.path("x.tar")).unwrap();
    run("mkfifo", [scene.path("pipe").to_str().unwrap()]).ok();
    let command = Layerpull::new().args(["import", "pipe", "--progress", "json"]).store(&scene.path("t"));
    let running = command.current_dir(scene.dir.path()).spawn();
    let mut pipe = fs::File::options().write(true).open(scene.path("pipe")).unwrap();
    // Both layers, but not all of the second.
    pipe.write_all(&bytes[..(5 << 20)]).unwrap();
    // Blobs stand in the order of their digests.
    let first = (0..2).map(|number| image.layer(number).digest()).min_by_key(|digest| digest.hex().to_owned()).unwrap();
    running.until_stderr(&finished(first));
    assert_eq!(running.kill().code, None);
    assert!(scene.names("t").is_empty());
    let kept = scene.blobs("t").len();
    assert!(kept >= 1);
    scene.verify("t");
    let told = scene.run("t", &["import", "x.tar", "--format", "json"]).success().stdout;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(told["missing"].as_u64().unwrap() < 4 << 20, "{told}");
    assert_eq!(scene.digest("t", &name("a")), image.digest().to_string());
    scene.verify("t");
}

/// The event of a blob that is in its place.
fn finished(blob: &Digest) -> String {
    format!(r#"{{"blob":"{blob}","event":"finished""#)
}

#[test]
fn an_export_that_was_killed_fetches_nothing_twice_and_leaves_no_archive() {
    let (scene, image) = (Scene::new(), image());
    let registry = Registry::start();
    registry.add("team/a", "1", &image);
    let gate = Gate::default();
    let held = image.layer(1).digest().clone();
    registry.rule(When::blob(&held), Times::Always, Fault::StallBeforeHead(Stall::Until(gate)));
    let name = registry.name("team/a", "1");
    let command = || Layerpull::new().args(["export", &name, "-o", "x.tar", "--progress", "json"]);
    let running = command().store(&scene.path("s")).current_dir(scene.dir.path()).spawn();
    running.until_stderr(image.layer(0).digest().hex());
    registry.wait_until("the first layer has been sent", |requests| {
        requests.bytes_sent_for(image.layer(0).digest()) >= image.layer(0).size()
    });
    running.until_stderr(&finished(image.layer(0).digest()));
    running.kill();
    assert!(!scene.path("x.tar").exists());
    registry.behave();
    command().store(&scene.path("s")).current_dir(scene.dir.path()).run().success();
    assert!(registry.requests().bytes_sent_for(image.layer(0).digest()) <= image.layer(0).size());
    scene.run("t", &["import", "x.tar"]).success();
    assert_eq!(scene.digest("t", &name), image.digest().to_string());
}

#[test]
fn an_archive_that_was_being_written_does_not_have_its_name() {
    let scene = Scene::new();
    let image = Image::build().layer(Blob::noise(3, 96 << 20)).finish();
    scene.store("s", &[("a", &image)]);
    let export = || Layerpull::new().args(["export", &name("a"), "-o", "x.tar", "--progress", "json"]);
    // One that is done before we come to kill it has given its archive the name: then the archive is whole.
    let is_killed_in_time = |_| {
        let running = export().store(&scene.path("s")).current_dir(scene.dir.path()).spawn();
        running.until_stderr(r#""event":"started""#);
        running.kill();
        let has_name = scene.path("x.tar").exists();
        if has_name {
            scene.run("t", &["import", "x.tar"]).success();
            fs::remove_file(scene.path("x.tar")).unwrap();
        }
        !has_name
    };
    assert!((0..20).any(is_killed_in_time), "every export was done before it was killed");
    export().store(&scene.path("s")).current_dir(scene.dir.path()).run().success();
    assert!(scene.path("x.tar").exists() && !scene.path("x.tar.part").exists());
}
