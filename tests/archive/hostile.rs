//! Damaged and hostile archives: a clear error, nothing outside the store, no name, and verified blobs kept.

use std::fs;

use layerpull::oci::Digest;
use support::command::Layerpull;
use support::images::{Image, gzip};
use tar::EntryType;

use crate::scene::{Scene, Tar, name, on_base};

/// Imports `bytes` as a file, compressed and as a pipe; every time it is refused with `code` and `why`, and leaves nothing
/// but a store without names.
fn refused(bytes: &[u8], code: i32, why: &str) {
    let scene = Scene::new();
    fs::write(scene.path("x.tar"), bytes).unwrap();
    fs::write(scene.path("x.tar.gz"), gzip(bytes)).unwrap();
    let piped = || Layerpull::new().arg("load").store(&scene.path("p")).stdin(bytes).run();
    let told = [scene.run("t", &["import", "x.tar"]), scene.run("u", &["import", "x.tar.gz"]), piped()];
    for told in told {
        assert_eq!(told.code, Some(code), "{why}: {}", told.stderr);
        assert!(told.stderr.contains(why), "{why}: {}", told.stderr);
    }
    for store in ["t", "u", "p"] {
        assert!(scene.names(store).is_empty(), "{why}: {:?}", scene.names(store));
        scene.verify(store);
        assert_eq!(uploads(&scene, store), 0, "{why}: a part of a blob stays in {store}");
    }
    let mut strays = scene.strays();
    strays.retain(|name| !["x.tar", "x.tar.gz", "t", "u", "p"].contains(&name.as_str()));
    assert!(strays.is_empty(), "{why}: {strays:?}");
}

/// Blobs that were begun in the store and not ended.
fn uploads(scene: &Scene, store: &str) -> usize {
    let Ok(files) = fs::read_dir(scene.path(store).join(".layerpull/uploads")) else { return 0 };
    files.filter(|file| file.as_ref().unwrap().path().extension() == Some("data".as_ref())).count()
}

fn named(image: &Image) -> Tar {
    Tar::default().naming(image, &name("a"))
}

#[test]
fn paths_that_leave_the_archive() {
    let image = on_base("a");
    for path in ["../escape", "/tmp/layerpull-escape", "blobs/../../escape"] {
        refused(&named(&image).file(path, "x").blobs(&image).bytes(), 1, "leaves the archive");
    }
    assert!(!std::path::Path::new("/tmp/layerpull-escape").exists());
}

#[test]
fn links_in_the_place_of_blobs() {
    let image = on_base("a");
    let blob = format!("blobs/sha256/{}", image.layer(0).digest().hex());
    refused(&named(&image).link(&blob, "/etc/passwd").bytes(), 1, "out of the archive");
    refused(&named(&image).link(&blob, "../../../../etc/passwd").bytes(), 1, "out of the archive");
    let manifest = format!("blobs/sha256/{}", image.digest().hex());
    let bytes = named(&image).link(&manifest, "../../index.json").bytes();
    let scene = Scene::new();
    fs::write(scene.path("x.tar"), bytes).unwrap();
    let told = scene.run("t", &["import", "x.tar"]);
    assert!(told.code != Some(0) && scene.names("t").is_empty(), "{}", told.stderr);
}

#[test]
fn links_that_go_in_circles() {
    let manifest = r#"[{"Config":"c.json","RepoTags":["h.example/a:1"],"Layers":["a/layer.tar"]}]"#;
    let config = format!(r#"{{"rootfs":{{"diff_ids":["{}"]}}}}"#, Digest::of(b"x"));
    let tar = Tar::default().link("a/layer.tar", "../b/layer.tar").link("b/layer.tar", "../a/layer.tar");
    refused(&tar.file("c.json", config).file("manifest.json", manifest).bytes(), 1, "links behind each other");
}

#[test]
fn devices_and_pipes() {
    let image = on_base("a");
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
        refused(&named(&image).entry(kind, "dev", "", b"").bytes(), 1, "which no image archive has");
    }
}

#[test]
fn the_same_entry_twice() {
    let image = on_base("a");
    refused(&named(&image).blobs(&image).blob(image.digest(), &image.root().bytes).bytes(), 1, "twice");
    refused(&named(&image).file("index.json", "{}").bytes(), 1, "twice");
}

#[test]
fn bytes_that_are_not_what_their_name_says() {
    let (image, other) = (on_base("a"), on_base("b"));
    let spoiled = image.layer(1).digest();
    let mut tar = named(&image);
    for blob in &image.blobs {
        let bytes = if blob.digest() == spoiled { other.layer(1) } else { blob }.content.to_bytes();
        tar = tar.blob(blob.digest(), bytes);
    }
    refused(&tar.blob(image.digest(), &image.root().bytes).bytes(), 6, spoiled.hex());
}

#[test]
fn a_manifest_that_is_not_what_the_index_names() {
    let (image, other) = (on_base("a"), on_base("b"));
    let tar = image.blobs.iter().fold(named(&image), |tar, blob| tar.blob(blob.digest(), blob.content.to_bytes()));
    refused(&tar.blob(image.digest(), &other.root().bytes).bytes(), 6, image.digest().hex());
}

#[test]
fn truncation_keeps_what_was_verified() {
    let image = on_base("a");
    let bytes = named(&image).blobs(&image).bytes();
    let end = bytes.len() - 1024 - 512 - 100;
    refused(&bytes[..end], 1, "truncated");
    let scene = Scene::new();
    let piped = Layerpull::new().arg("load").store(&scene.path("p")).stdin(&bytes[..end]).run();
    assert_eq!(piped.code, Some(1));
    assert_eq!(scene.blobs("p").len(), 3, "what came before is there");
    let piped = Layerpull::new().arg("load").store(&scene.path("p")).stdin(&bytes).run();
    piped.success();
    assert_eq!(scene.digest("p", &name("a")), image.digest().to_string());
}

#[test]
fn an_archive_that_lacks_a_blob() {
    let image = on_base("a");
    let missing = image.layer(1).digest();
    let blobs = image.blobs.iter().filter(|blob| blob.digest() != missing);
    let tar = blobs.fold(named(&image), |tar, blob| tar.blob(blob.digest(), blob.content.to_bytes()));
    refused(&tar.blob(image.digest(), &image.root().bytes).bytes(), 3, missing.hex());
}

#[test]
fn what_is_no_archive() {
    refused(b"hello, world, this is no archive at all", 1, "truncated");
    refused(&[b'x'; 2048], 1, "no tar");
    refused(&Tar::default().file("a", "x").bytes(), 1, "neither an OCI layout nor a docker-archive");
    refused(&Tar::default().bytes(), 1, "neither an OCI layout nor a docker-archive");
}

#[test]
fn damaged_json_and_unknown_versions() {
    let marker = r#"{"imageLayoutVersion":"1.0.0"}"#;
    refused(&Tar::default().file("oci-layout", marker).file("index.json", "{").bytes(), 1, "index.json");
    let marker = r#"{"imageLayoutVersion":"9"}"#;
    refused(&Tar::default().file("oci-layout", marker).file("index.json", "{}").bytes(), 1, "version");
    refused(&Tar::default().file("manifest.json", "[{}]").bytes(), 1, "manifest.json");
    let large = "x".repeat(5 << 20);
    refused(&Tar::default().file("index.json", &large).file("oci-layout", marker).bytes(), 1, "more than");
}

#[test]
fn damaged_compression_is_told() {
    let (scene, image) = (Scene::new(), on_base("a"));
    let mut packed = gzip(&named(&image).blobs(&image).bytes()).to_vec();
    let middle = packed.len() / 2;
    packed[middle] ^= 0x55;
    fs::write(scene.path("x.tar.gz"), packed).unwrap();
    let told = scene.run("t", &["import", "x.tar.gz"]);
    assert!(told.code != Some(0) && scene.names("t").is_empty(), "{}", told.stderr);
    assert!(
        told.stderr.starts_with("error: x.tar.gz: ") || told.stderr.contains("\nerror: x.tar.gz: "),
        "{}",
        told.stderr
    );
}

#[test]
fn names_that_a_terminal_must_not_see() {
    let (scene, image) = (Scene::new(), on_base("a"));
    Tar::default().naming(&image, "\u{1b}[2Jx").blobs(&image).write(&scene.path("x.tar"));
    let told = scene.run("t", &["import", "x.tar", "--list"]);
    assert!(!told.stdout.contains('\u{1b}') && !told.stderr.contains('\u{1b}'));
    named(&image).file("\u{1b}[2J/../../x", "x").write(&scene.path("y.tar"));
    assert!(!scene.run("t", &["import", "y.tar"]).code(1).stderr.contains('\u{1b}'));
}
