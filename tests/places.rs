//! Images between registries and the places of skopeo's syntax, in both directions.

use std::path::Path;

use serde_json::Value;
use support::command::{Layerpull, Output};
use support::images::{Blob, Image};
use support::peers::{DockerRegistry, skopeo};
use support::registry::Registry;

/// An image with two layers.
fn image() -> Image {
    Image::build().layers([Blob::file_of_noise(1, 300_000), Blob::files(&[("text", b"top")])]).finish()
}

fn copy(from: &str, to: &str) -> Output {
    Layerpull::new().args(["copy", from, to]).run()
}

/// What skopeo says that the manifest of `place` is, to the byte.
fn raw(place: &str) -> String {
    skopeo(["inspect", "--raw", "--tls-verify=false", place]).ok()
}

/// What a run moved over the network and found, in bytes.
fn moved(output: &Output) -> (u64, u64) {
    let object: Value = serde_json::from_str(output.stdout.lines().last().unwrap()).unwrap();
    let run = |key: &str| object["run"][key].as_u64().unwrap();
    (run("moved"), run("held"))
}

fn manifest(image: &Image) -> String {
    String::from_utf8(image.manifests.last().unwrap().bytes.to_vec()).unwrap()
}

fn layout(dir: &Path, name: &str) -> String {
    format!("oci:{}:{name}", dir.display())
}

#[test]
fn skopeo_reads_a_layout_that_was_copied_and_nothing_else_is_in_it() {
    let (registry, image, dir) = (Registry::start(), image(), tempfile::tempdir().unwrap());
    registry.add("library/x", "1", &image);
    let there = dir.path().join("layout");
    for name in ["v1", "exp/so:2", "docker.io/library/x:1"] {
        let to = layout(&there, name);
        let output = copy(&registry.name("library/x", "1"), &to).success();
        assert!(output.stdout.contains(&format!("Sent newer image for {to}\n")), "{}", output.stdout);
        assert_eq!(raw(&to), manifest(&image), "{name}");
    }
    assert_eq!(registry.requests().blob_bytes(), image.size());
    let mut names: Vec<_> = std::fs::read_dir(&there).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["blobs", "index.json", "oci-layout"]);
    let again = copy(&registry.name("library/x", "1"), &layout(&there, "v1")).success();
    assert!(again.stdout.contains("Image is up to date for oci:"), "{}", again.stdout);
}

#[test]
fn a_layout_of_skopeos_goes_to_a_registry_and_into_another_layout() {
    let (origin, target, image) = (Registry::start(), DockerRegistry::start(), image());
    let dir = tempfile::tempdir().unwrap();
    origin.add("library/x", "1", &image);
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let from = layout(&one, "v1");
    skopeo(["copy", "--src-tls-verify=false", &format!("docker://{}", origin.name("library/x", "1")), &from]).ok();
    copy(&from, &format!("docker://{}", target.name("y", "2"))).success();
    assert_eq!(raw(&format!("docker://{}", target.name("y", "2"))), manifest(&image));
    copy(&format!("oci:{}", one.display()), &format!("oci:{}", two.display())).success();
    assert_eq!(raw(&format!("oci:{}", two.display())), manifest(&image));
    assert_eq!(std::fs::read_to_string(one.join("index.json")).unwrap().matches("sha256:").count(), 1);
}

#[test]
fn a_push_takes_from_a_layout_and_brings_images_of_the_store_into_one() {
    let (origin, target, image) = (Registry::start(), DockerRegistry::start(), image());
    let (store, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    origin.add("library/x", "1", &image);
    let near = origin.name("library/x", "1");
    Layerpull::new().args(["pull", "-q", &near]).store(store.path()).run().success();
    let there = layout(dir.path(), "v1");
    Layerpull::new().args(["push", &near, &there]).store(store.path()).run().success();
    assert_eq!(raw(&there), manifest(&image));
    let far = [target.name("a", "1"), target.name("b", "1")];
    let output = Layerpull::new().args(["push", "--format", "json", &there, &far[0], &far[1]]).run().success();
    assert_eq!(moved(&output), (image.size(), 0));
    for name in far {
        assert_eq!(raw(&format!("docker://{name}")), manifest(&image));
    }
    let alone = Layerpull::new().args(["push", &there]).run().code(2);
    assert!(alone.stderr.contains("say where it goes, too"), "{}", alone.stderr);
}

#[test]
fn of_an_index_one_platform_goes_alone_into_a_layout() {
    let (registry, dir) = (Registry::start(), tempfile::tempdir().unwrap());
    let child = |arch: &str| {
        Image::build().platform(&format!("linux/{arch}")).layer(Blob::files(&[("a", arch.as_bytes())])).finish()
    };
    let children = ["amd64", "arm64"].map(child);
    let index = Image::index(&children);
    registry.add("library/x", "1", &index);
    let (one, all) = (layout(dir.path(), "one"), layout(dir.path(), "all"));
    let from = registry.name("library/x", "1");
    Layerpull::new().args(["copy", "--platform", "linux/arm64", &from, &one]).run().success();
    copy(&from, &all).success();
    assert_eq!(raw(&one), manifest(&children[1]));
    assert_eq!(raw(&all), manifest(&index));
}

#[test]
fn a_push_into_an_archive_takes_the_platform_that_is_asked_for() {
    let (registry, store, dir) = (Registry::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let child = |arch: &str| {
        Image::build().platform(&format!("linux/{arch}")).layer(Blob::files(&[("a", arch.as_bytes())])).finish()
    };
    let children = ["amd64", "arm64"].map(child);
    registry.add("library/x", "1", &Image::index(&children));
    let near = registry.name("library/x", "1");
    Layerpull::new().args(["pull", "-q", "--all-platforms", &near]).store(store.path()).run().success();
    for (arch, image) in ["amd64", "arm64"].into_iter().zip(&children) {
        let to = format!("docker-archive:{}/{arch}.tar", dir.path().display());
        let push = ["push", &near, &to, "--platform", &format!("linux/{arch}")];
        Layerpull::new().args(push).store(store.path()).run().success();
        let config = skopeo(["inspect", "--config", "--raw", &to]).ok();
        assert_eq!(layerpull::oci::Digest::of(config.as_bytes()), *image.config().digest(), "{arch}");
    }
}

#[test]
fn an_image_goes_into_the_folder_where_one_stands() {
    let (registry, image, dir) = (Registry::start(), image(), tempfile::tempdir().unwrap());
    registry.add("library/x", "1", &image);
    let name = registry.name("library/x", "1");
    Layerpull::new().args(["copy", &name, "dir:."]).current_dir(dir.path()).run().success();
    assert_eq!(raw(&format!("dir:{}", dir.path().display())), manifest(&image));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2 + image.blobs.len());
}

#[test]
fn of_a_compressed_archive_only_the_image_that_is_named_is_taken() {
    let (registry, image, dir) = (Registry::start(), image(), tempfile::tempdir().unwrap());
    registry.add("library/x", "1", &image);
    let at = |name: &str| format!("oci-archive:{}", dir.path().join(name).display());
    copy(&registry.name("library/x", "1"), &at("x.tar:v1")).success();
    std::process::Command::new("gzip").arg(dir.path().join("x.tar")).status().unwrap();
    let there = layout(&dir.path().join("there"), "v1");
    copy(&at("x.tar.gz:v2"), &there).code(3);
    copy(&at("x.tar.gz:@0"), &there).code(2);
    copy(&at("x.tar.gz:v1"), &format!("dir:{}", dir.path().join("good").display())).success();
    assert_eq!(raw(&format!("dir:{}", dir.path().join("good").display())), manifest(&image));
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let (registry, image, dir) = (Registry::start(), image(), tempfile::tempdir().unwrap());
    registry.add("library/x", "1", &image);
    let name = registry.name("library/x", "1");
    copy(&name, &layout(dir.path(), "v1")).success();
    copy(&name, &layout(dir.path(), "v2")).success();
    let missing = copy(&layout(dir.path(), "v3"), &name).code(3);
    assert!(missing.stderr.contains("v3 not found at oci:") && missing.stderr.contains("it has v1, v2"), "{missing:?}");
    let nothing = copy(&format!("oci:{}/absent", dir.path().display()), &name).code(3);
    assert!(nothing.stderr.contains("the layout names no image"), "{nothing:?}");
    assert!(!dir.path().join("absent").exists());
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("letter"), "dear").unwrap();
    let foreign = copy(&name, &layout(other.path(), "v1")).code(1);
    assert!(foreign.stderr.contains("holds other things and no oci-layout"), "{foreign:?}");
    let referrers = Layerpull::new().args(["copy", "--referrers", &name, &layout(dir.path(), "v4")]).run().code(2);
    assert!(referrers.stderr.contains("to registries only"), "{referrers:?}");
}

#[test]
fn archives_and_folders_go_to_skopeo_and_come_from_it() {
    let (registry, target, image) = (Registry::start(), DockerRegistry::start(), image());
    let dir = tempfile::tempdir().unwrap();
    registry.add("library/x", "1", &image);
    let origin = registry.name("library/x", "1");
    let at = |transport: &str, name: &str| format!("{transport}:{}", dir.path().join(name).display());
    let ours = [at("oci-archive", "ours.tar") + ":v1", at("dir", "ours"), at("oci-archive", "plain.tar")];
    for to in &ours {
        let output = copy(&origin, to).success();
        assert!(output.stdout.contains(&format!("Sent newer image for {to}\n")), "{}", output.stdout);
        assert_eq!(raw(to), manifest(&image), "{to}");
    }
    let theirs = [at("oci-archive", "theirs.tar") + ":v1", at("dir", "theirs")];
    for to in &theirs {
        skopeo(["copy", "--src-tls-verify=false", &format!("docker://{origin}"), to]).ok();
    }
    for (number, from) in ours.iter().chain(&theirs).enumerate() {
        let to = target.name("y", &number.to_string());
        copy(from, &to).success();
        assert_eq!(raw(&format!("docker://{to}")), manifest(&image), "{from}");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn a_docker_archive_is_read_by_skopeo_and_one_of_skopeos_by_us() {
    let (registry, target, image) = (Registry::start(), DockerRegistry::start(), image());
    let dir = tempfile::tempdir().unwrap();
    registry.add("library/x", "1", &image);
    let origin = registry.name("library/x", "1");
    let at = |name: &str| format!("docker-archive:{}", dir.path().join(name).display());
    let id = |place: &str| {
        let config = skopeo(["inspect", "--config", "--raw", "--tls-verify=false", place]).ok();
        layerpull::oci::Digest::of(config.as_bytes()).to_string()
    };
    copy(&origin, &(at("ours.tar") + ":h.example/a:1")).success();
    assert_eq!(id(&(at("ours.tar") + ":h.example/a:1")), image.config().digest().to_string());
    skopeo(["copy", "--src-tls-verify=false", &format!("docker://{origin}"), &(at("theirs.tar") + ":h.example/b:1")])
        .ok();
    std::process::Command::new("gzip").arg("-k").arg(dir.path().join("theirs.tar")).status().unwrap();
    for (number, from) in
        ["theirs.tar", "theirs.tar:h.example/b:1", "theirs.tar:@0", "theirs.tar.gz"].iter().enumerate()
    {
        let to = target.name("y", &number.to_string());
        copy(&at(from), &to).success();
        assert_eq!(id(&format!("docker://{to}")), image.config().digest().to_string(), "{from}");
    }
    let absent = copy(&at("theirs.tar:h.example/c:1"), &target.name("y", "c")).code(3);
    assert!(absent.stderr.contains("it has h.example/b:1"), "{}", absent.stderr);
    let all = Layerpull::new().args(["copy", "--all-platforms", &origin, &at("all.tar")]).run().code(2);
    assert!(all.stderr.contains("leave out --all-platforms"), "{}", all.stderr);
}

#[test]
fn a_whole_index_goes_into_a_folder_and_the_next_image_replaces_it() {
    let (registry, image, dir) = (Registry::start(), image(), tempfile::tempdir().unwrap());
    let child = |arch: &str| {
        Image::build().platform(&format!("linux/{arch}")).layer(Blob::files(&[("a", arch.as_bytes())])).finish()
    };
    let index = Image::index(&["amd64", "arm64"].map(child));
    registry.add("library/x", "1", &index);
    registry.add("library/x", "2", &image);
    let (folder, other) = (dir.path().join("folder"), dir.path().join("other"));
    let to = format!("dir:{}", folder.display());
    copy(&registry.name("library/x", "1"), &to).success();
    assert_eq!(raw(&to), manifest(&index));
    // skopeo and we take the same out of it.
    skopeo(["copy", "--all", &to, &format!("dir:{}", other.display())]).ok();
    copy(&to, &layout(&dir.path().join("layout"), "v1")).success();
    assert_eq!(raw(&layout(&dir.path().join("layout"), "v1")), manifest(&index));
    copy(&registry.name("library/x", "2"), &to).success();
    assert_eq!(raw(&to), manifest(&image));
    let files = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(files, 2 + image.blobs.len(), "what the index had is gone");
    std::fs::write(dir.path().join("letter"), "dear").unwrap();
    let foreign = copy(&registry.name("library/x", "2"), &format!("dir:{}", dir.path().display())).code(1);
    assert!(foreign.stderr.contains("holds other things"), "{}", foreign.stderr);
    assert!(dir.path().join("letter").exists());
}
