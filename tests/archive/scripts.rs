//! The scripts for places without a network, as people run them.

use std::process::{Command, Output};

use support::command::binary;
use support::images::{Blob, Image};
use support::peers::DockerRegistry;

use crate::scene::{Scene, blobs_of, on_base};

fn script(scene: &Scene, name: &str, store: &str, words: &[&str]) -> Output {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name);
    let mut command = Command::new(path);
    command.args(words).current_dir(scene.dir.path()).env("LAYERPULL", binary());
    command.env("LAYERPULL_STORE", scene.path(store)).env("HOME", scene.path("home"));
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    ended
}

#[test]
fn a_list_of_images_goes_to_the_far_registry_and_next_month_only_what_is_new() {
    let (scene, here, there) = (Scene::new(), DockerRegistry::start(), DockerRegistry::start());
    let (a, b) = (on_base("a"), on_base("b"));
    here.push("team/a", "1", &a);
    here.push("team/b", "1", &b);
    let (name_a, name_b) = (here.name("team/a", "1"), here.name("team/b", "1"));
    std::fs::write(scene.path("list"), format!("# ours\n{name_a}\n\n{name_b} # the other\n")).unwrap();
    script(&scene, "airgap-export", "near", &["list", "stick", "--split", "1M"]);
    let before = std::fs::read(scene.path("stick/images.tar.001")).unwrap();
    script(&scene, "airgap-export", "near", &["list", "stick", "--split", "1M"]);
    assert!(std::fs::read(scene.path("stick/images.tar.001")).unwrap() == before);

    let target = format!("{}/mirror", there.host());
    for _ in 0..2 {
        script(&scene, "airgap-import", "far", &["stick", &target]);
    }
    let digest = |name: &str| scene.run("none", &["digest", name]).success().stdout.trim().to_owned();
    assert_eq!(digest(&there.name("mirror/team/a", "1")), a.digest().to_string());
    assert_eq!(digest(&there.name("mirror/team/b", "1")), b.digest().to_string());

    let newer = Image::build().layer(b.layer(0).clone()).layer(Blob::files(&[("etc/own", b"newer")])).finish();
    here.push("team/b", "1", &newer);
    script(&scene, "airgap-export", "near", &["list", "update", "--have", "stick/have.json"]);
    // Configuration, layer and manifest.
    assert_eq!(blobs_of(&scene.path("update/images.tar")).len(), 3);
    script(&scene, "airgap-import", "far", &["update", &target]);
    assert_eq!(digest(&there.name("mirror/team/b", "1")), newer.digest().to_string());

    // The index of the volumes that were there before is of another archive.
    script(&scene, "airgap-export", "near", &["list", "stick"]);
    script(&scene, "airgap-import", "third", &["stick", "store"]);
    assert_eq!(scene.digest("third", &name_b), newer.digest().to_string());
}

#[test]
fn a_volume_that_was_spoiled_on_the_way_is_named() {
    let (scene, here) = (Scene::new(), DockerRegistry::start());
    here.push("team/a", "1", &on_base("a"));
    std::fs::write(scene.path("list"), here.name("team/a", "1")).unwrap();
    script(&scene, "airgap-export", "near", &["list", "stick"]);
    let path = scene.path("stick/images.tar");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let import = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/airgap-import");
    let ended = Command::new(import).args(["stick", "store"]).current_dir(scene.dir.path()).output().unwrap();
    let told = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    assert!(!ended.status.success() && told.contains("images.tar: FAILED"), "{told}");
}
