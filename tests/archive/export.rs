//! What is written.

use std::fs;
use std::process::Command;

use layerpull::oci::{Descriptor, RawManifest};
use support::command::Layerpull;
use support::images::{Blob, Content, Image};
use support::registry::Registry;

use crate::scene::{Scene, blobs_of, listed, name, on_base};

#[test]
fn the_same_images_make_the_same_bytes_in_any_order() {
    let scene = Scene::new();
    scene.store("s", &[("a", &on_base("a")), ("b", &on_base("b"))]);
    let (a, b) = (name("a"), name("b"));
    scene.run("s", &["export", &a, &b, "-o", "1.tar"]).success();
    scene.run("s", &["export", &b, &a, &a, "-o", "2.tar"]).success();
    assert!(fs::read(scene.path("1.tar")).unwrap() == fs::read(scene.path("2.tar")).unwrap());
    let told = scene.run("s", &["export", &a, &b, "-o", "-"]);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert!(told.stderr.contains("wrote standard output"), "{}", told.stderr);
}

#[test]
fn what_names_the_images_comes_first_and_each_blob_once() {
    let scene = Scene::new();
    let (a, b) = (on_base("a"), on_base("b"));
    scene.store("s", &[("a", &a), ("b", &b)]);
    scene.run("s", &["export", &name("a"), &name("b"), "-o", "x.tar"]).success();
    let names = listed(&scene.path("x.tar"));
    assert_eq!(names[..3], ["oci-layout", "index.json", "manifest.json"]);
    assert!(names[3..].is_sorted() && names.len() == 3 + 2 * 4 - 1, "{names:?}");
    for (kind, without) in [("oci", "manifest.json"), ("docker", "index.json")] {
        scene.run("s", &["export", &name("a"), "-o", "y.tar", "--type", kind]).success();
        assert!(!listed(&scene.path("y.tar")).contains(&without.to_owned()));
    }
}

#[test]
fn the_time_of_all_entries_can_be_said() {
    let scene = Scene::new();
    scene.store("s", &[("a", &on_base("a"))]);
    let command = Layerpull::new().args(["export", &name("a"), "-o", "x.tar"]).store(&scene.path("s"));
    command.env("SOURCE_DATE_EPOCH", "1700000000").current_dir(scene.dir.path()).run().success();
    let mut archive = tar::Archive::new(fs::File::open(scene.path("x.tar")).unwrap());
    assert!(archive.entries().unwrap().all(|entry| entry.unwrap().header().mtime().unwrap() == 1_700_000_000));
}

#[test]
fn volumes_and_checksums_are_what_sha256sum_says() {
    let scene = Scene::new();
    let image = Image::build().layer(Blob::noise(1, 3_500_000)).finish();
    scene.store("s", &[("a", &image)]);
    scene.run("s", &["export", &name("a"), "-o", "x.tar", "--split", "1M", "--checksum"]).success();
    let sizes: Vec<u64> = (1..=4).map(|n| fs::metadata(scene.path(&format!("x.tar.00{n}"))).unwrap().len()).collect();
    assert_eq!(sizes[..3], [1_000_000; 3]);
    let check = Command::new("sha256sum").args(["--check", "x.tar.sha256"]).current_dir(scene.dir.path()).status();
    assert!(check.unwrap().success());
    // In any order, and also without naming all of them.
    scene.run("t", &["import", "x.tar.003", "x.tar.001", "x.tar.002", "x.tar.004"]).success();
    scene.run("u", &["import", "x.tar.volumes.json"]).success();
    assert_eq!(scene.digest("t", &name("a")), image.digest().to_string());
    assert_eq!(scene.blobs("t"), scene.blobs("u"));
    fs::remove_file(scene.path("x.tar.002")).unwrap();
    let told = scene.run("v", &["import", "x.tar.001"]).code(3).stderr;
    assert!(told.contains("x.tar.002"), "{told}");
}

#[test]
fn what_the_store_lacks_is_pulled_first_and_never_twice() {
    let (scene, image) = (Scene::new(), on_base("a"));
    let registry = Registry::start();
    registry.add("team/a", "1", &image);
    let name = format!("{}/team/a:1", registry.host());
    scene.run("s", &["export", &name, "-o", "x.tar"]).success();
    assert_eq!(blobs_of(&scene.path("x.tar")).len(), 4);
    let asked = registry.requests().len();
    scene.run("s", &["export", &name, "-o", "y.tar"]).success();
    assert_eq!(registry.requests().len(), asked, "what is here needs no network");
    let told = scene.run("s", &["export", &name, "h.example/absent:1", "-o", "z.tar"]);
    assert_ne!(told.code, Some(0));
    assert!(!scene.path("z.tar").exists() && !scene.path("z.tar.part").exists());
}

#[test]
fn one_platform_is_its_manifest_and_all_are_the_index() {
    let scene = Scene::new();
    let child =
        |platform: &str| Image::build().platform(platform).layer(Blob::files(&[("a", platform.as_bytes())])).finish();
    let (amd, arm) = (child("linux/amd64"), child("linux/arm64"));
    let index = Image::index(&[amd.clone(), arm.clone()]);
    scene.store("s", &[("a", &index)]);
    let export = |words: &[&str]| {
        let name = name("a");
        let all = [&["export", &name, "-o", "x.tar", "--format", "json"], words].concat();
        let told = scene.run("s", &all).success().stdout;
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        told["images"][0]["digest"].as_str().unwrap().to_owned()
    };
    assert_eq!(export(&["--platform", "linux/arm64"]), arm.digest().to_string());
    assert_eq!(blobs_of(&scene.path("x.tar")).len(), 3);
    assert_eq!(export(&["--all-platforms"]), index.digest().to_string());
    assert_eq!(blobs_of(&scene.path("x.tar")).len(), 7);
    scene.run("t", &["import", "x.tar"]).success();
    assert_eq!(scene.digest("t", &name("a")), index.digest().to_string());
    let told = scene.run("s", &["export", &name("a"), "-o", "x.tar", "--platform", "linux/s390x"]);
    assert_ne!(told.code, Some(0));
}

#[test]
fn referrers_go_along_and_arrive() {
    let (scene, image) = (Scene::new(), on_base("a"));
    let signature = Image::build().artifact("application/x.signature").subject(image.descriptor());
    let signature = signature.layer(Blob::new("text/plain", Content::Bytes("signed".into()))).finish();
    let registry = Registry::start();
    registry.add("team/a", "1", &image);
    registry.add("team/a", "sig", &signature);
    let name = format!("{}/team/a:1", registry.host());
    scene.run("s", &["export", &name, "-o", "x.tar", "--referrers"]).success();
    assert!(blobs_of(&scene.path("x.tar")).contains(signature.digest().hex()));
    scene.run("t", &["import", "x.tar"]).success();
    assert!(scene.blobs("t").contains(signature.digest().hex()));
    // Beside the image, also out of a pipe.
    let beside = format!("{}/team/a@{}", registry.host(), signature.digest());
    assert!(scene.names("t").contains(&beside), "{:?}", scene.names("t"));
    let piped = Layerpull::new().arg("load").store(&scene.path("p"));
    piped.stdin(fs::read(scene.path("x.tar")).unwrap()).run().success();
    assert_eq!(scene.names("p"), scene.names("t"));
    scene.run("s", &["export", &name, "-o", "y.tar"]).success();
    assert!(!blobs_of(&scene.path("y.tar")).contains(signature.digest().hex()));
}

#[test]
fn zstd_layers_become_gzip_where_that_is_asked_for() {
    let scene = Scene::new();
    let tar = support::images::tar(&[("etc/zstd", b"compressed otherwise")]);
    let mut layer = Blob::new("application/vnd.oci.image.layer.v1.tar+zstd", Content::Bytes(zstd(&tar).into()));
    layer.diff_id = Some(layerpull::oci::Digest::of(&tar));
    let plain = Blob::files(&[("etc/gzip", b"x")]);
    let image = Image::build().layer(plain).layer(layer.clone()).finish();
    scene.store("s", &[("a", &image)]);
    let told = scene.run("s", &["export", &name("a"), "-o", "x.tar"]).success();
    assert!(told.stderr.contains("--layers gzip"), "{}", told.stderr);
    let told = scene.run("s", &["export", &name("a"), "-o", "y.tar", "--layers", "gzip"]).success();
    assert!(told.stdout.contains(&format!("another form, of {}", image.digest())), "{}", told.stdout);
    assert!(!blobs_of(&scene.path("y.tar")).contains(layer.digest().hex()));
    // The uncompressed layer is the same: an engine finds the digest that the configuration says.
    support::peers::skopeo(["inspect", &format!("docker-archive:{}", scene.path("y.tar").display())]).ok();
    scene.run("s", &["export", &name("a"), "-o", "z.tar", "--layers", "gzip"]).success();
    assert!(fs::read(scene.path("y.tar")).unwrap() == fs::read(scene.path("z.tar")).unwrap());
}

/// One frame of zstd with a raw block (RFC 8878, "Frames").
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend((bytes.len() as u32).to_le_bytes());
    let header = ((bytes.len() as u32) << 3) | 1;
    frame.extend(&header.to_le_bytes()[..3]);
    frame.extend(bytes);
    frame
}

#[test]
fn a_folder_is_a_layout_that_skopeo_reads() {
    let (scene, image) = (Scene::new(), on_base("a"));
    scene.store("s", &[("a", &image)]);
    scene.run("s", &["export", &name("a"), "-o", "out", "--type", "dir"]).success();
    let from = format!("oci:{}", scene.path("out").display());
    let digest = support::peers::skopeo(["inspect", "--format", "{{.Digest}}", &from]).ok();
    assert_eq!(digest.trim(), image.digest().to_string());
    scene.run("s", &["export", &name("a"), "-o", "out"]).success();
    scene.run("t", &["import", "out"]).success();
    assert_eq!(scene.digest("t", &name("a")), image.digest().to_string());
    // Neither a store nor a folder of somebody else is written over.
    scene.run("s", &["export", &name("a"), "-o", ".", "--type", "dir"]).code(2);
}

#[test]
fn a_folder_whose_export_was_killed_is_written_again() {
    let (scene, image) = (Scene::new(), on_base("a"));
    scene.store("s", &[("a", &image)]);
    fs::create_dir_all(scene.path("out/blobs/sha256")).unwrap();
    fs::write(scene.path("out/oci-layout.part"), "{").unwrap();
    scene.run("s", &["export", &name("a"), "-o", "out", "--type", "dir"]).success();
    scene.run("t", &["import", "out"]).success();
    assert_eq!(scene.digest("t", &name("a")), image.digest().to_string());
}

#[test]
fn indexes_that_share_their_children_are_looked_at_once() {
    let (scene, image) = (Scene::new(), on_base("a"));
    let index = |children: &[Descriptor], note: usize| {
        let json = serde_json::json!({
            "schemaVersion": 2, "mediaType": layerpull::oci::MediaType::OCI_INDEX,
            "manifests": children, "annotations": {"note": note.to_string()},
        });
        RawManifest::new(None, json.to_string().into()).unwrap()
    };
    let (mut manifests, mut below) = (image.manifests.clone(), vec![image.descriptor()]);
    for _ in 0..5 {
        let level: Vec<_> = (0..30).map(|note| index(&below, note)).collect();
        below = level.iter().map(RawManifest::descriptor).collect();
        manifests.extend(level);
    }
    manifests.push(index(&below, 0));
    let (count, blobs) = (manifests.len() + image.blobs.len(), image.blobs.clone());
    scene.store("s", &[("a", &Image { manifests, blobs, platform: None })]);
    scene.run("s", &["export", &name("a"), "-o", "x.tar", "--all-platforms"]).success();
    assert_eq!(blobs_of(&scene.path("x.tar")).len(), count);
}

#[test]
fn a_bit_that_turned_in_the_store_is_noticed_and_leaves_no_archive() {
    let scene = Scene::new();
    let image = Image::build().layer(Blob::noise(3, 2_000_000)).finish();
    let store = scene.store("s", &[("a", &image)]);
    scene.run("s", &["export", &name("a"), "-o", "x.tar"]).success();
    let path = store.join("blobs/sha256").join(image.layer(0).digest().hex());
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[1_000_000] ^= 1;
    // As a disk does it: with the same inode and size.
    let file = fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    file.set_modified(times).unwrap();
    let told = scene.run("s", &["export", &name("a"), "-o", "y.tar"]);
    assert_ne!(told.code, Some(0), "{}", told.stderr);
    assert!(!scene.path("y.tar").exists() && !scene.path("y.tar.part").exists());
    let told = Layerpull::new().args(["export", &name("a"), "-o", "-"]).store(&store).run();
    assert_ne!(told.code, Some(0));
}

#[test]
fn an_archive_is_nothing_for_a_terminal() {
    let scene = Scene::new();
    scene.store("s", &[("a", &on_base("a"))]);
    let command = Layerpull::new().args(["export", &name("a"), "-o", "-"]).store(&scene.path("s"));
    let (code, screen) = support::terminal::Terminal::start(command, 100).finish();
    assert_eq!(code, Some(2), "{}", screen.text());
    assert!(screen.text().contains("nothing for a terminal"), "{}", screen.text());
}
