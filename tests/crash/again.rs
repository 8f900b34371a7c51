//! What does not travel: what is here already, what two images share, what another folder has.

use std::fs;

use serde_json::{Value, json};
use support::images::{Blob, Image};
use support::registry::Registry;

use super::scene::{KIB, Scene, assert_whole};

fn image(seed: u64) -> Image {
    Image::build().layer(Blob::noise(seed, 300 * KIB)).layer(Blob::noise(seed + 100, 200 * KIB)).finish()
}

#[test]
fn a_second_pull_is_one_head_and_no_body() {
    let image = image(1);
    let scene = Scene::with(&image);
    let first = scene.pull().run().success();
    let from = scene.registry.requests().len();
    let second = scene.pull().run().success();
    let requests = scene.requests_since(from);
    let methods: Vec<&str> = requests.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["HEAD"]);
    assert_eq!(requests.iter().map(|request| request.sent).sum::<u64>(), 0);
    assert!(second.stdout.contains(&format!("Digest: {}", image.digest())), "{}", second.stdout);
    assert!(second.stdout.contains(&scene.name()) && first.stdout.contains(&scene.name()));
}

#[test]
fn a_second_pull_of_an_index_is_one_head_too() {
    let child = |platform: &str| Image::build().platform(platform).layer(Blob::noise(7, 10 * KIB)).finish();
    let index = Image::index(&[child("linux/amd64"), child("linux/arm64")]);
    let scene = Scene::with(&index);
    let pull = || scene.pull().args(["--platform", "linux/amd64"]).run().success();
    pull();
    let from = scene.registry.requests().len();
    pull();
    assert_eq!(scene.requests_since(from).len(), 1);
    assert_eq!(scene.registry.requests().count("HEAD", "/manifests/"), 2);
}

#[test]
fn a_moved_tag_brings_only_what_is_new() {
    let base = Blob::noise(2, 300 * KIB);
    let (old, new) = (Blob::noise(3, 50 * KIB), Blob::noise(4, 60 * KIB));
    let scene = Scene::with(&Image::build().layer(base.clone()).layer(old).finish());
    scene.pull().run().success();
    let update = Image::build().layer(base).layer(new.clone()).finish();
    scene.registry.add("library/x", "1", &update);
    let from = scene.registry.requests().len();
    scene.pull().run().success();
    scene.assert_fetched(from, &[&new, update.config()]);
    scene.assert_whole(&update);
}

#[test]
fn two_images_in_one_call_fetch_their_base_once() {
    let base = Blob::noise(5, 400 * KIB);
    let image = |seed| Image::build().layer(base.clone()).layer(Blob::noise(seed, 40 * KIB)).finish();
    let (scene, nginx, httpd) = (Scene::new(), image(60), image(61));
    scene.registry.add("nginx", "1", &nginx);
    scene.registry.add("httpd", "1", &httpd);
    let names = [scene.registry.name("nginx", "1"), scene.registry.name("httpd", "1")];
    let output = scene.command("pull").args(["--format", "json"]).args(&names).run().success();
    let blobs = [nginx.config(), nginx.layer(0), nginx.layer(1), httpd.config(), httpd.layer(1)];
    scene.assert_fetched(0, &blobs);
    [&nginx, &httpd].into_iter().for_each(|image| scene.assert_whole(image));
    let objects: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!([&objects[0]["digest"], &objects[1]["digest"]], [&json!(nginx.digest()), &json!(httpd.digest())]);
}

#[test]
fn a_layer_that_stands_twice_in_a_manifest_travels_once() {
    let twice = Blob::noise(8, 100 * KIB);
    let image = Image::build().layer(twice.clone()).layer(twice.clone()).finish();
    let scene = Scene::with(&image);
    scene.pull().run().success();
    scene.assert_fetched(0, &[&twice, image.config()]);
    scene.assert_whole(&image);
}

#[test]
fn a_layout_on_this_machine_gives_its_blobs_without_the_network() {
    let image = image(9);
    let (scene, layout) = (Scene::with(&image), tempfile::tempdir().unwrap());
    image.write_layout(layout.path(), "x");
    scene.pull().arg("--from").arg(layout.path()).run().success();
    scene.assert_fetched(0, &[]);
    scene.assert_whole(&image);
}

#[test]
fn a_damaged_layout_on_this_machine_is_noticed_and_the_registry_asked() {
    let image = image(10);
    let (scene, layout) = (Scene::with(&image), tempfile::tempdir().unwrap());
    image.write_layout(layout.path(), "x");
    let path = super::scene::blob_path(layout.path(), image.layer(0).digest());
    let mut bytes = fs::read(&path).unwrap();
    bytes[150_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    scene.pull().arg("--from").arg(layout.path()).run().success();
    scene.assert_fetched(0, &[image.layer(0)]);
    scene.assert_whole(&image);
}

#[test]
fn a_folder_that_is_no_layout_is_told_before_a_request() {
    let (scene, folder) = (Scene::with(&image(11)), tempfile::tempdir().unwrap());
    let output = scene.pull().arg("--from").arg(folder.path()).run().code(1);
    assert!(output.stderr.contains("image layout"), "{}", output.stderr);
    scene.pull().arg("--from").arg(folder.path().join("gone")).run().code(7);
    assert!(scene.registry.requests().all_blob_gets().is_empty());
}

#[test]
fn a_second_platform_is_added_to_the_first() {
    let base = Blob::noise(12, 100 * KIB);
    let child = |platform: &str, seed| {
        let own = Blob::noise(seed, 20 * KIB);
        Image::build().platform(platform).layer(base.clone()).layer(own).finish()
    };
    let (amd, arm) = (child("linux/amd64", 13), child("linux/arm64", 14));
    let scene = Scene::with(&Image::index(&[amd.clone(), arm.clone()]));
    scene.pull().args(["--platform", "linux/amd64"]).run().success();
    scene.assert_fetched(0, &amd.blobs.iter().collect::<Vec<_>>());
    let from = scene.registry.requests().len();
    scene.pull().args(["--platform", "linux/arm64"]).run().success();
    scene.assert_fetched(from, &[arm.config(), arm.layer(1)]);
    let blobs = |image: &Image| image.blobs.iter().all(|blob| scene.path(blob.digest()).exists());
    assert!(blobs(&amd) && blobs(&arm));
    let images = scene.command("images").args(["--format", "json"]).run().success().stdout;
    assert!(images.contains("linux/amd64") && images.contains("linux/arm64"), "{images}");
    scene.command("verify").run().success();
    scene.command("gc").arg("--all").run().success();
    assert!(blobs(&amd) && blobs(&arm));
}

#[test]
fn all_tags_are_one_plan() {
    let base = Blob::noise(15, 100 * KIB);
    let scene = Scene::new();
    let images = [0, 1, 2].map(|n| Image::build().layer(base.clone()).layer(Blob::noise(16 + n, KIB)).finish());
    images.iter().enumerate().for_each(|(n, image)| scene.registry.add("library/x", &n.to_string(), image));
    scene.command("pull").arg("-a").arg(format!("{}/library/x", scene.registry.host())).run().success();
    assert_eq!(scene.registry.requests().blob_gets(base.digest()).len(), 1);
    images.iter().for_each(|image| assert_whole(&scene.store(), image));
}

#[test]
fn the_digest_file_has_a_digest_for_each_image() {
    let (scene, other) = (Scene::with(&image(20)), Registry::start());
    other.add("a", "2", &image(21));
    let file = scene.store().with_extension("digests");
    scene.pull().arg(other.name("a", "2")).arg("--digestfile").arg(&file).run().success();
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), [image(20).digest().to_string(), image(21).digest().to_string()]);
}
