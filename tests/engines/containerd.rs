//! containerd, by `ctr`.

use support::command::Layerpull;
use support::engines::Containerd;
use support::images::{Blob, Image};

use crate::scene::{Counted, FRAME, HTTPD, NGINX, Scene, took};

#[test]
fn containerd_gets_the_blobs_that_its_namespace_lacks_and_everything_when_it_lost_one() {
    let (containerd, scene) = (Containerd::start(), Scene::new());
    let counted = Counted::program("ctr", "import", ":", scene.dir.path());
    let load = |images: &[&str], engine: &str, counted: &Counted| {
        let command = scene.load(images, engine).env("PATH", counted.path());
        command.env("CONTAINERD_ADDRESS", containerd.socket()).run()
    };
    let first = took(load(&[NGINX], "containerd:k8s.io", &counted));
    assert_eq!((first.status.as_str(), first.moved, first.held), ("loaded", scene.nginx.size(), 0));
    counted.sent();
    let second = took(load(&[HTTPD], "containerd:k8s.io", &counted));
    assert_eq!((second.moved, second.held), (scene.own(), scene.httpd.layer(0).size()));
    let sent = counted.sent();
    assert!((scene.own()..scene.own() + FRAME).contains(&sent), "{sent} bytes for {}", scene.own());
    let ctr = |words: &[&str]| containerd.run(["-n", "k8s.io"].iter().chain(words)).ok();
    assert!(ctr(&["images", "ls"]).contains(&scene.httpd.digest().to_string()));
    assert!(ctr(&["images", "check"]).matches("complete (4/4)").count() == 2);
    assert_eq!(took(load(&[NGINX, HTTPD], "containerd:k8s.io", &counted)).status, "up-to-date");
    assert_eq!(took(load(&[HTTPD], "containerd", &counted)).moved, scene.httpd.size(), "namespaces share nothing");

    let listed = Layerpull::new().args(["inventory", "containerd:k8s.io"]);
    let listed = listed.env("CONTAINERD_ADDRESS", containerd.socket()).run().success().stdout;
    assert!(scene.httpd.layers().iter().all(|layer| listed.contains(layer.digest().hex())), "{listed}");

    ctr(&["images", "rm", "--sync", HTTPD]);
    let prune = format!("ctr -n k8s.io images rm --sync {NGINX} >&2");
    let _ = std::fs::remove_dir_all(scene.dir.path().join("programs"));
    let counted = Counted::program("ctr", "import", &prune, scene.dir.path());
    let output = load(&[HTTPD], "containerd:k8s.io", &counted).success();
    assert!(output.stderr.contains("it gets everything now"), "{}", output.stderr);
    assert_eq!(took(output).status, "loaded");
    assert!(ctr(&["images", "check"]).contains("complete (4/4)"));
}

#[test]
fn containerd_takes_another_platform_and_an_image_of_dockers_types() {
    let (containerd, scene) = (Containerd::start(), Scene::new());
    let foreign = Image::build().platform("linux/s390x").layer(Blob::file_of_noise(8, 50_000)).finish();
    let docker = Image::build().docker().layer(Blob::file_of_noise(9, 50_000)).finish();
    foreign.write_layout(&scene.store(), "h.example/a:1");
    docker.write_layout(&scene.store(), "h.example/b:1");
    for (name, image) in [("h.example/a:1", &foreign), ("h.example/b:1", &docker)] {
        let took = took(scene.load(&[name], "containerd").env("CONTAINERD_ADDRESS", containerd.socket()).run());
        assert_eq!((took.status.as_str(), took.digest), ("loaded", image.digest().to_string()), "{name}");
    }
}
