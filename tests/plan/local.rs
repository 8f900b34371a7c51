//! What the machine already has: found by default, used when it is good, left when it is not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::engines::Containerd;
use support::images::{Blob, Image};

use crate::scene::{MIB, Scene, assert_adds_up, assert_whole, blob_path, image, number};

const CONTENT: &str = "var/lib/containerd/io.containerd.content.v1.content";

/// A content store that has `blobs`.
fn store_of(root: &Path, blobs: &[&Blob]) {
    for blob in blobs {
        let path = blob_path(root, blob);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, blob.content.to_bytes()).unwrap();
    }
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // Those of engines are read-only, and may be hard links.
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn run(scene: &Scene, words: &[&str]) -> Value {
    let run = scene.json(&[&["pull"], words].concat())[0]["run"].clone();
    assert_adds_up(&run);
    run
}

#[test]
fn blobs_of_containerd_are_planned_and_copied_without_the_network() {
    let image = image(1);
    let scene = Scene::of(&[&image]);
    let content = scene.host().join(CONTENT);
    store_of(&content, &[image.layer(0)]);
    let plan = scene.json(&["plan", "pull", &scene.name(0)]).remove(0);
    assert_eq!(number(&plan, "local"), image.layer(0).size());
    let blob = plan["blobs"].as_array().unwrap().iter().find(|blob| blob["way"] == "local").unwrap();
    assert_eq!(blob["path"], blob_path(&content, image.layer(0)).display().to_string());
    assert_eq!(plan["plan"]["places"][0]["name"], "containerd");
    let text = scene.command(&["plan", "pull", &scene.name(0)]).run().success().stdout;
    assert!(text.contains("reuse  from containerd") && text.contains(CONTENT), "{text}");

    let before = fs::metadata(blob_path(&content, image.layer(0))).unwrap();
    let run = scene.planned_and_done(&["pull", &scene.name(0)]);
    assert_eq!(run["places"], serde_json::json!({ "containerd": image.layer(0).size() }));
    assert!(scene.registry.requests().blob_gets(image.layer(0).digest()).is_empty());
    assert_whole(&scene.store(), &image);
    // Neither linked nor touched.
    let after = fs::metadata(blob_path(&content, image.layer(0))).unwrap();
    assert_eq!((after.nlink(), after.ctime_nsec(), after.mode()), (before.nlink(), before.ctime_nsec(), before.mode()));
    assert_ne!(fs::metadata(blob_path(&scene.store(), image.layer(0))).unwrap().ino(), after.ino());
}

#[test]
fn the_summary_says_where_bytes_came_from() {
    let image = image(1);
    let scene = Scene::of(&[&image]);
    store_of(&scene.host().join(CONTENT), &[image.layer(0)]);
    let output = scene.command(&["pull", &scene.name(0)]).run().success();
    assert!(output.stderr.contains("2.10 MB from containerd"), "{}", output.stderr);
}

#[test]
fn without_local_everything_is_fetched_but_for_what_is_named() {
    let image = image(1);
    let scene = Scene::of(&[&image]);
    let (content, other) = (scene.host().join(CONTENT), scene.host().join("other"));
    store_of(&content, &[image.layer(0)]);
    store_of(&other, &[image.layer(1)]);
    let plan = scene.json(&["plan", "pull", "--no-local", "--from", other.to_str().unwrap(), &scene.name(0)]);
    assert_eq!(number(&plan[0], "local"), image.layer(1).size());
    let plan = scene.command(&["plan", "pull", "--format", "json", &scene.name(0)]).env("LAYERPULL_NO_LOCAL", "true");
    assert!(plan.run().success().stdout.contains("\"local\":0"));
}

#[test]
fn a_flipped_bit_is_noticed_that_place_left_and_the_network_asked() {
    let image = image(1);
    let scene = Scene::of(&[&image]);
    let content = scene.host().join(CONTENT);
    store_of(&content, &[image.layer(0), image.layer(1)]);
    flip(&blob_path(&content, image.layer(0)));
    let output = scene.command(&["pull", "--format", "json", &scene.name(0)]).run().success();
    let run = crate::scene::objects(&output)[0]["run"].clone();
    assert_adds_up(&run);
    assert_eq!(run["causes"], serde_json::json!({ "local-spoiled": image.layer(0).size() }), "{run}");
    assert!(output.stderr.contains("containerd is not asked any more: its copy of"), "{}", output.stderr);
    assert_eq!(scene.registry.requests().blob_bytes(), number(&run, "moved"));
    assert!(scene.registry.requests().blob_gets(image.layer(1).digest()).is_empty());
    assert_whole(&scene.store(), &image);
}

#[test]
fn a_copy_that_is_too_short_or_a_link_is_not_used_at_all() {
    let image = image(1);
    let scene = Scene::of(&[&image]);
    let content = scene.host().join(CONTENT);
    store_of(&content, &[image.layer(0), image.layer(1)]);
    let (short, link) = (blob_path(&content, image.layer(0)), blob_path(&content, image.layer(1)));
    fs::File::options().write(true).open(&short).unwrap().set_len(MIB).unwrap();
    fs::rename(&link, scene.host().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(scene.host().join("elsewhere"), &link).unwrap();
    assert_eq!(number(&scene.json(&["plan", "pull", &scene.name(0)])[0], "local"), 0);
    assert_eq!(run(&scene, &[&scene.name(0)])["causes"], serde_json::json!({}));
}

#[test]
fn the_usual_store_gives_its_blobs_to_another_one() {
    let image = image(1);
    let scene = Scene::of(&[&image]);
    scene.command(&["pull", &scene.name(0)]).run().success();
    let other = scene.host().join("other");
    // The store of this scene as the usual one of that user.
    let data = scene.host().join("data");
    fs::create_dir_all(&data).unwrap();
    std::os::unix::fs::symlink(scene.store(), data.join("layerpull")).unwrap();
    let before = scene.registry.requests().blob_bytes();
    let output = support::command::Layerpull::new()
        .args(["pull", "--format", "json", &scene.name(0)])
        .store(&other)
        .env("XDG_DATA_HOME", &data)
        .run()
        .success();
    let run = crate::scene::objects(&output)[0]["run"].clone();
    assert_eq!((number(&run, "moved"), number(&run, "local")), (0, image.size()), "{run}");
    assert_eq!(run["places"], serde_json::json!({ "another store": image.size() }));
    assert_eq!(scene.registry.requests().blob_bytes(), before);
    assert_whole(&other, &image);
}

/// A containerd that has imported `image`, and the host root under which its store is found.
fn imported(scene: &Scene, image: &Image) -> (Containerd, PathBuf) {
    let containerd = Containerd::start();
    let layout = tempfile::tempdir().unwrap();
    image.write_layout(layout.path(), "example.test/x:1");
    let archive = layout.path().join("image.tar");
    let tar = support::peers::run(
        "tar",
        [
            "-C".as_ref(),
            layout.path().as_os_str(),
            "-cf".as_ref(),
            archive.as_os_str(),
            "oci-layout".as_ref(),
            "index.json".as_ref(),
            "blobs".as_ref(),
        ],
    );
    tar.ok();
    let archive = archive.to_str().unwrap();
    // Layers of noise cannot be unpacked, and need not be.
    containerd.run(["images", "import", "--all-platforms", "--no-unpack", archive]).ok();
    let config = scene.host().join("etc/containerd/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    let root = scene.host().join("data");
    std::os::unix::fs::symlink(containerd.root(), &root).unwrap();
    fs::write(config, "version = 2\nroot = \"/data\"\n").unwrap();
    (containerd, root.join("io.containerd.content.v1.content"))
}

#[test]
fn what_a_real_containerd_has_imported_is_not_fetched() {
    let image = image(1);
    let scene = Scene::of(&[&image]);
    let (_containerd, content) = imported(&scene, &image);
    assert!(image.blobs.iter().all(|blob| blob_path(&content, blob).is_file()));
    let run = run(&scene, &[&scene.name(0)]);
    assert_eq!((number(&run, "moved"), &run["places"]), (0, &serde_json::json!({ "containerd": image.size() })));
    assert!(scene.registry.requests().all_blob_gets().is_empty());
    assert_whole(&scene.store(), &image);
}

#[test]
fn a_flipped_bit_in_a_real_containerd_is_noticed_and_the_blob_fetched() {
    let image = image(1);
    let scene = Scene::of(&[&image]);
    let (_containerd, content) = imported(&scene, &image);
    flip(&blob_path(&content, image.layer(1)));
    let run = run(&scene, &[&scene.name(0)]);
    assert_eq!(run["causes"], serde_json::json!({ "local-spoiled": image.layer(1).size() }), "{run}");
    assert_eq!(scene.registry.requests().blob_gets(image.layer(1).digest()).len(), 1);
    assert_eq!(scene.registry.requests().blob_bytes(), image.layer(1).size());
    assert_whole(&scene.store(), &image);
}
