//! What happens to a store between two runs: files written, shortened, removed, and damage that leaves no trace.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use layerpull::oci::Digest;
use support::command::Layerpull;
use support::images::{Blob, Image};
use support::peers;

use super::scene::{KIB, MIB, Scene, asked};

fn image() -> Image {
    Image::build().layer(Blob::noise(1, 300 * KIB)).layer(Blob::noise(2, 200 * KIB)).finish()
}

/// A store that has it already.
fn pulled(image: &Image) -> Scene {
    let scene = Scene::with(image);
    scene.pull().run().success();
    scene
}

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

/// Flips a bit so that the file system shows nothing of it, as a medium does that ages: what the store has noted
/// about the file is brought in line with what the file system says of it now.
fn flip_silently(scene: &Scene, digest: &Digest, offset: u64) {
    let path = scene.path(digest);
    flip(&path, offset);
    let meta = fs::metadata(&path).unwrap();
    let times = format!("{} {} {} {}", meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    let body = format!("{digest} {} {} {} {times}", meta.dev(), meta.ino(), meta.size());
    let records = scene.store().join(".layerpull/verified");
    let mut text = fs::read_to_string(&records).unwrap();
    assert!(text.contains(&digest.to_string()), "{text}");
    text.push_str(&format!("{body} {:08x}\n", crc32fast::hash(body.as_bytes())));
    fs::write(&records, text).unwrap();
}

/// After `damage` to its first layer the next pull fetches that layer and nothing else.
#[track_caller]
fn is_fetched_again(damage: impl Fn(&Path)) {
    let image = image();
    let scene = pulled(&image);
    damage(&scene.path(image.layer(0).digest()));
    let from = scene.registry.requests().len();
    scene.pull().run().success();
    scene.assert_fetched(from, &[image.layer(0)]);
    scene.assert_whole(&image);
}

#[test]
fn a_blob_that_somebody_wrote_to_is_fetched_again() {
    is_fetched_again(|path| flip(path, 1000));
}

#[test]
fn a_shortened_blob_is_fetched_again() {
    is_fetched_again(|path| fs::File::options().write(true).open(path).unwrap().set_len(100_000).unwrap());
}

#[test]
fn an_emptied_blob_is_fetched_again() {
    is_fetched_again(|path| fs::write(path, "").unwrap());
}

#[test]
fn a_removed_blob_is_fetched_again() {
    is_fetched_again(|path| fs::remove_file(path).unwrap());
}

#[test]
fn a_blob_that_was_replaced_by_another_of_its_size_and_time_is_fetched_again() {
    is_fetched_again(|path| {
        let time = fs::metadata(path).unwrap().modified().unwrap();
        let size = fs::metadata(path).unwrap().len();
        fs::remove_file(path).unwrap();
        fs::write(path, vec![0; size as usize]).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    });
}

#[test]
fn a_touched_blob_is_hashed_and_not_fetched() {
    let image = image();
    let scene = pulled(&image);
    let file = fs::File::options().write(true).open(scene.path(image.layer(0).digest())).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    let from = scene.registry.requests().len();
    scene.pull().run().success();
    scene.assert_fetched(from, &[]);
}

#[test]
fn a_damaged_manifest_is_fetched_again_without_any_blob() {
    let image = image();
    let scene = pulled(&image);
    flip(&scene.path(image.digest()), 20);
    let from = scene.registry.requests().len();
    scene.pull().run().success();
    scene.assert_fetched(from, &[]);
    scene.assert_whole(&image);
}

#[test]
fn silent_damage_is_found_by_verify_and_repaired_with_that_blob_alone() {
    let image = image();
    let scene = pulled(&image);
    let layer = image.layer(1);
    flip_silently(&scene, layer.digest(), 100_000);
    let output = scene.command("verify").run().code(6);
    assert!(output.stdout.contains(&layer.digest().to_string()) && output.stdout.contains(&scene.name()));
    assert_eq!(output.stdout.lines().count(), 1, "{}", output.stdout);

    let from = scene.registry.requests().len();
    scene.command("verify").arg("--repair").run().success();
    // One byte to see whether it can be had, before the damaged one goes.
    scene.assert_fetched(from, &[layer, layer]);
    assert_eq!(scene.requests_since(from).bytes_sent_for(layer.digest()), layer.size() + 1);
    scene.assert_whole(&image);
}

#[test]
fn whoever_pulls_from_a_served_store_never_gets_damaged_bytes_as_whole() {
    let image = Image::build().layer(Blob::file_of_noise(1, 300 * KIB)).finish();
    let scene = pulled(&image);
    flip_silently(&scene, image.layer(0).digest(), 100_000);
    let server = scene.command("serve").args(["--listen", "127.0.0.1:0"]).spawn();
    let told = server.until_stderr("\n");
    let host = told.split("http://").nth(1).unwrap().trim();
    let (other, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = format!("{host}/library/x:1");
    let pull = Layerpull::new().args(["pull", "--retries", "1", &name]).store(other.path()).run();
    assert_ne!(pull.code, Some(0), "{}", pull.transcript());
    let from = format!("docker://{name}");
    let to = format!("oci:{}:x", copy.path().display());
    assert!(!peers::skopeo(["copy", "--src-tls-verify=false", &from, &to]).success);
    server.until_stderr(image.layer(0).digest().hex());
}

#[test]
fn repair_takes_the_image_that_is_here_though_its_tag_has_moved() {
    let image = image();
    let scene = pulled(&image);
    scene.registry.add("library/x", "1", &Image::build().layer(Blob::noise(3, 10)).finish());
    flip(&scene.path(image.layer(0).digest()), 5);
    fs::remove_file(scene.path(image.config().digest())).unwrap();
    let from = scene.registry.requests().len();
    scene.command("verify").arg("--repair").run().success();
    scene.assert_fetched(from, &[image.layer(0), image.layer(0), image.config(), image.config()]);
    scene.assert_whole(&image);
}

#[test]
fn what_cannot_be_repaired_is_told_and_stays_broken() {
    let image = image();
    let scene = pulled(&image);
    flip(&scene.path(image.layer(0).digest()), 5);
    scene.registry.remove_blob("library/x", image.layer(0));
    let output = scene.command("verify").arg("--repair").run().code(6);
    let expected = format!("{}: its bytes have digest", image.layer(0).digest());
    assert!(output.stdout.starts_with(&expected), "{}", output.stdout);
    assert!(output.stdout.contains("cannot be fetched"), "{}", output.stdout);
    scene.command("verify").run().code(6);
}

#[test]
fn a_damaged_index_is_told_and_never_overwritten() {
    let image = image();
    let scene = pulled(&image);
    let index = scene.store().join("index.json");
    let good = fs::read(&index).unwrap();
    for damaged in [&good[..good.len() / 2], b"", b"\0\0\0\0", b"{\"manifests\":7}", b"[]"] {
        fs::write(&index, damaged).unwrap();
        for words in [&["pull"][..], &["rm"], &["tag"]] {
            let command = scene.command(words[0]).arg(scene.name());
            let command = if words[0] == "tag" { command.arg("other:1") } else { command };
            let output = command.run().code(1);
            assert!(output.stderr.contains("restore the file"), "{}", output.stderr);
        }
        for name in ["images", "gc", "verify"] {
            assert!(scene.command(name).run().code(1).stderr.contains("index.json"), "{name}");
        }
        assert_eq!(fs::read(&index).unwrap(), damaged);
    }
    fs::remove_file(&index).unwrap();
    let from = scene.registry.requests().len();
    scene.pull().run().success();
    scene.assert_fetched(from, &[]);
    scene.assert_whole(&image);
}

#[test]
fn a_lost_index_costs_manifests_and_no_blob() {
    let image = image();
    let scene = pulled(&image);
    fs::remove_file(scene.store().join("index.json")).unwrap();
    let from = scene.registry.requests().len();
    scene.pull().run().success();
    scene.assert_fetched(from, &[]);
    scene.assert_whole(&image);
}

/// Half of a layer of `size`, from a killed pull; `damage` gets the paths of the data and of the journal.
fn half_fetched(size: u64, damage: impl Fn(&Path, &Path)) -> (Scene, Image, usize) {
    let image = Image::build().layer(Blob::noise(4, size)).finish();
    let (scene, layer) = (Scene::with(&image), image.layer(0));
    scene.pull_until(scene.pull().args(["--streams", "1"]), layer, size / 2, size / 2).kill();
    let partial = scene.store().join(".layerpull/partial");
    let file = |kind: &str| partial.join(format!("sha256-{}-{size}.{kind}", layer.digest().hex()));
    damage(&file("data"), &file("journal"));
    scene.registry.behave();
    let from = scene.registry.requests().len();
    scene.pull().args(["--streams", "1"]).run().success();
    scene.assert_whole(&image);
    (scene, image, from)
}

#[test]
fn a_damaged_journal_costs_bytes_and_nothing_else() {
    for damage in [&b"nonsense"[..], b"", &[0xff; 500]] {
        let (scene, image, from) = half_fetched(8 * MIB, |_, journal| fs::write(journal, damage).unwrap());
        assert_eq!(asked(&scene.requests_since(from), image.layer(0)), 8 * MIB);
    }
}

#[test]
fn a_journal_without_its_data_is_not_believed() {
    let (scene, image, from) = half_fetched(8 * MIB, |data, _| fs::remove_file(data).unwrap());
    assert_eq!(asked(&scene.requests_since(from), image.layer(0)), 8 * MIB);
}

#[test]
fn a_flipped_bit_in_a_partial_blob_is_found_and_only_its_stretch_fetched_again() {
    let (scene, image, from) = half_fetched(96 * MIB, |data, _| flip(data, 1000));
    // The journal has a checksum for each 16 MiB.
    let asked = asked(&scene.requests_since(from), image.layer(0));
    assert!((48 * MIB + 1..=64 * MIB).contains(&asked), "{asked}");
}
