//! Real engines on real images, from the registry that `REAL_IMAGES` names; `scripts/test` starts it.

use std::path::PathBuf;

use layerpull::oci::Platform;
use support::command::Layerpull;
use support::engines::{Containerd, Docker};
use support::images::{Blob, Image};
use support::peers::{Podman, skopeo};

use crate::scene::{Scene, blobs_of, name};

/// `HOST:PORT/repository:1`.
fn real(repository: &str) -> String {
    let host = std::env::var("REAL_IMAGES").unwrap_or_default();
    assert!(!host.is_empty(), "REAL_IMAGES names no registry: run these tests by scripts/test, which starts one");
    format!("{host}/{repository}:1")
}

/// The images, packed into `x.tar`.
fn packed(names: &[String], flags: &[&str]) -> (Scene, PathBuf) {
    let scene = Scene::new();
    let mut words = vec!["export", "-o", "x.tar"];
    words.extend(names.iter().map(String::as_str));
    words.extend(flags);
    scene.run("s", &words).success();
    let path = scene.path("x.tar");
    (scene, path)
}

/// The digest of the configuration, which engines call the identity of an image.
fn id(scene: &Scene, name: &str) -> String {
    let config = skopeo(["inspect", "--config", "--raw", &format!("oci:{}:{name}", scene.path("s").display())]).ok();
    layerpull::oci::Digest::of(config.as_bytes()).to_string()
}

#[test]
fn docker_loads_all_images_and_runs_one() {
    let names = [real("nginx"), real("httpd")];
    let (scene, archive) = packed(&names, &[]);
    let docker = Docker::start();
    let told = docker.run(["load", "--input", archive.to_str().unwrap()]).ok();
    for name in &names {
        assert!(told.contains(&format!("Loaded image: {name}")), "{told}");
        let found = docker.run(["image", "inspect", "--format", "{{.Id}}", name]).ok();
        assert_eq!(found.trim(), id(&scene, name));
    }
    let ran = docker.run(["run", "--rm", "--network", "none", &names[0], "sh", "-c", "nginx -v 2>&1"]).ok();
    assert!(ran.contains("nginx version"), "{ran}");
}

#[test]
fn docker_saves_and_the_store_takes_it() {
    let names = [real("nginx")];
    let (scene, archive) = packed(&names, &["--type", "docker"]);
    let docker = Docker::start();
    docker.run(["load", "--input", archive.to_str().unwrap()]).ok();
    let saved = scene.path("saved.tar");
    docker.run(["save", "--output", saved.to_str().unwrap(), &names[0]]).ok();
    let told = scene.run("t", &["import", "saved.tar"]).success();
    assert!(told.stderr.contains("not that of the registry"), "{}", told.stderr);
    let from = format!("oci:{}:{}", scene.path("t").display(), names[0]);
    let config = skopeo(["inspect", "--config", "--raw", &from]).ok();
    assert_eq!(layerpull::oci::Digest::of(config.as_bytes()).to_string(), id(&scene, &names[0]));
    scene.verify("t");
}

#[test]
fn podman_loads_one_as_it_is_and_several_by_their_layers() {
    let podman = Podman::new();
    let one = [real("nginx")];
    let (scene, archive) = packed(&one, &[]);
    podman.run(["load", "--input", archive.to_str().unwrap()]).ok();
    let digest = podman.run(["image", "inspect", "--format", "{{.Digest}}", &one[0]]).ok();
    assert_eq!(digest.trim(), scene.digest("s", &one[0]));
    let several = [real("nginx"), real("httpd")];
    let (scene, archive) = packed(&several, &[]);
    podman.run(["load", "--input", archive.to_str().unwrap()]).ok();
    for name in &several {
        let found = podman.run(["image", "inspect", "--format", "{{.Id}}", name]).ok();
        assert_eq!(format!("sha256:{}", found.trim()), id(&scene, name));
    }
}

#[test]
fn containerd_keeps_the_digests_and_runs_one() {
    let names = [real("nginx"), real("httpd")];
    let (scene, archive) = packed(&names, &[]);
    let containerd = Containerd::start();
    containerd.run(["images", "import", "--snapshotter", "native", archive.to_str().unwrap()]).ok();
    let listed = containerd.run(["images", "list"]).ok();
    for name in &names {
        let line = listed.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{listed}"));
        assert!(line.contains(&scene.digest("s", name)), "{line}");
    }
    let words = ["run", "--rm", "--snapshotter", "native", &names[0], "x", "sh", "-c", "nginx -v 2>&1"];
    let ran = containerd.run(words).ok();
    assert!(ran.contains("nginx version"), "{ran}");
}

/// An index for this processor and another one, packed whole.
fn index() -> (Scene, PathBuf, Image) {
    let scene = Scene::new();
    let child = |platform: &str| {
        Image::build().platform(platform).layer(Blob::files(&[("etc/platform", platform.as_bytes())])).finish()
    };
    let index = Image::index(&[child("linux/amd64"), child("linux/arm64"), child("linux/s390x")]);
    scene.store("s", &[("a", &index)]);
    scene.run("s", &["export", &name("a"), "-o", "x.tar", "--all-platforms"]).success();
    let path = scene.path("x.tar");
    (scene, path, index)
}

#[test]
fn every_engine_takes_an_index_of_several_platforms() {
    let (_scene, archive, index) = index();
    let (name, archive) = (name("a"), archive.to_str().unwrap());
    let containerd = Containerd::start();
    let words = ["images", "import", "--all-platforms", "--digests", "--snapshotter", "native"];
    containerd.run(words.into_iter().chain([archive])).ok();
    let listed = containerd.run(["images", "list"]).ok();
    assert!(listed.contains(&index.digest().to_string()), "{listed}");
    let here = Platform::host();
    let podman = Podman::new();
    podman.run(["load", "--input", archive]).ok();
    let found = podman.run(["image", "inspect", "--format", "{{.Architecture}}", &name]).ok();
    assert_eq!(found.trim(), here.architecture);
    let docker = Docker::start();
    docker.run(["load", "--input", archive]).ok();
    let found = docker.run(["image", "inspect", "--format", "{{.Architecture}}", &name]).ok();
    assert_eq!(found.trim(), here.architecture);
}

#[test]
fn skopeo_copies_out_of_it_as_either_kind() {
    let names = [real("nginx"), real("httpd")];
    let (scene, archive) = packed(&names, &[]);
    for name in &names {
        let copy = scene.path("copy");
        let from = |kind: &str| format!("{kind}:{}:{name}", archive.display());
        let to = format!("dir:{}", copy.display());
        skopeo(["copy", "--preserve-digests", &from("oci-archive"), &to]).ok();
        let manifest = std::fs::read(copy.join("manifest.json")).unwrap();
        assert_eq!(layerpull::oci::Digest::of(&manifest).to_string(), scene.digest("s", name));
        skopeo(["copy", &from("docker-archive"), &to]).ok();
        let config = skopeo(["inspect", "--config", "--raw", &from("docker-archive")]).ok();
        assert_eq!(layerpull::oci::Digest::of(config.as_bytes()).to_string(), id(&scene, name));
    }
}

#[test]
fn docker_gets_only_the_layers_that_its_inventory_lacks() {
    let names = [real("nginx"), real("httpd")];
    let (scene, archive) = packed(&names[..1], &[]);
    let docker = Docker::start();
    docker.run(["load", "--input", archive.to_str().unwrap()]).ok();
    let inventory = Layerpull::new().args(["inventory", "docker", "-o", "have.json"]);
    let inventory = inventory.env("DOCKER_HOST", format!("unix://{}", docker.socket().display()));
    inventory.current_dir(scene.dir.path()).store(&scene.path("s")).run().success();
    scene.run("s", &["export", &names[1], "-o", "update.tar", "--have", "have.json"]).success();
    // The upper layer, the configuration and the manifest.
    assert_eq!(blobs_of(&scene.path("update.tar")).len(), 3);
    docker.run(["load", "--input", scene.path("update.tar").to_str().unwrap()]).ok();
    let found = docker.run(["image", "inspect", "--format", "{{.Id}}", &names[1]]).ok();
    assert_eq!(found.trim(), id(&scene, &names[1]));
    // A store that lacks the layer does not take it.
    scene.run("t", &["import", "update.tar"]).code(3);
}
