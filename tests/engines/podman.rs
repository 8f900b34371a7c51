//! podman, by its command.

use support::command::Layerpull;
use support::images::{Blob, Image};
use support::peers::Podman;

use crate::scene::{Counted, FRAME, HTTPD, NGINX, Scene, took};

#[test]
fn podman_gets_the_layers_that_it_lacks_and_everything_when_it_lost_one() {
    let (podman, scene) = (Podman::new(), Scene::new());
    let counted = Counted::program("podman", "load", ":", scene.dir.path());
    let load = |images: &[&str], counted: &Counted| {
        let envs = podman.environment();
        let command = scene.load(images, "podman").env("PATH", counted.path());
        envs.iter().fold(command, |command, (name, value)| command.env(name, value)).run()
    };
    let first = took(load(&[NGINX], &counted));
    assert_eq!((first.status.as_str(), first.moved, first.held), ("loaded", scene.nginx.size(), 0));
    counted.sent();
    let second = took(load(&[HTTPD], &counted));
    assert_eq!((second.moved, second.held), (scene.own(), scene.httpd.layer(0).size()));
    let sent = counted.sent();
    assert!((scene.own()..scene.own() + FRAME).contains(&sent), "{sent} bytes for {}", scene.own());
    let inspect = |format: &str| podman.run(["image", "inspect", "--format", format, HTTPD]).ok().trim().to_owned();
    assert_eq!(inspect("{{.Digest}}"), scene.httpd.digest().to_string());
    assert_eq!(inspect("{{.Id}}"), scene.httpd.config().digest().hex());
    assert_eq!(took(load(&[HTTPD], &counted)).status, "up-to-date");
    assert_eq!(counted.sent(), 0);

    podman.run(["rmi", HTTPD]).ok();
    let prune = format!("podman rmi {NGINX} >&2");
    let _ = std::fs::remove_dir_all(scene.dir.path().join("programs"));
    let counted = Counted::program("podman", "load", &prune, scene.dir.path());
    let output = load(&[HTTPD], &counted).success();
    assert!(output.stderr.contains("it gets everything now"), "{}", output.stderr);
    let third = took(output);
    assert_eq!((third.status.as_str(), third.again > scene.httpd.layer(0).size()), ("loaded", true), "{third:?}");
    assert_eq!(inspect("{{.Digest}}"), scene.httpd.digest().to_string());
}

#[test]
fn podman_takes_an_image_of_dockers_types_and_one_without_a_tag() {
    let (podman, scene) = (Podman::new(), Scene::new());
    let image = Image::build().docker().layer(Blob::file_of_noise(9, 50_000)).finish();
    image.write_layout(&scene.store(), "h.example/a:1");
    let pinned = format!("h.example/b@{}", scene.nginx.digest());
    scene.nginx.write_layout(&scene.store(), &pinned);
    for (name, image) in [("h.example/a:1", &image), (pinned.as_str(), &scene.nginx)] {
        let command = scene.load(&[name], "podman");
        let took =
            took(podman.environment().iter().fold(command, |command, (name, value)| command.env(name, value)).run());
        assert_eq!(took.status, "loaded");
        let digest = podman.run(["image", "inspect", "--format", "{{.Digest}}", image.config().digest().hex()]).ok();
        assert_eq!(digest.trim(), image.digest().to_string());
    }
}

#[test]
fn an_archive_goes_into_podman_and_what_it_has_is_left_out_of_the_next() {
    let (podman, scene) = (Podman::new(), Scene::new());
    let at = |name: &str| scene.dir.path().join(name);
    let far = at("far");
    let run = |words: &[&str], store: &std::path::Path| {
        let command = Layerpull::new().args(words).store(store);
        podman.environment().iter().fold(command, |command, (name, value)| command.env(name, value)).run().success()
    };
    let (one, two, have) = (at("one.tar"), at("two.tar"), at("have.json"));
    let [one, two, have] = [&one, &two, &have].map(|path| path.to_str().unwrap());
    run(&["export", NGINX, "-o", one], &scene.store());
    let output = run(&["load", "-i", one, "--to", "podman"], &far);
    assert!(output.stdout.contains("Status: Loaded image nginx:1\n"), "{}", output.stdout);
    run(&["inventory", "podman", "-o", have], &far);
    let listed = std::fs::read_to_string(have).unwrap();
    for layer in scene.nginx.layers() {
        assert!(listed.contains(layer.digest().hex()) && listed.contains(layer.diff_id.as_ref().unwrap().hex()));
    }
    assert!(!listed.contains("nginx"), "{listed}");
    run(&["export", HTTPD, "--have", have, "-o", two], &scene.store());
    let size = std::fs::metadata(two).unwrap().len();
    assert!((scene.own()..scene.own() + 2 * FRAME).contains(&size), "{size} bytes for {}", scene.own());
    podman.run(["load", "-i", two]).ok();
    let digest = podman.run(["image", "inspect", "--format", "{{.Digest}}", HTTPD]).ok();
    assert_eq!(digest.trim(), scene.httpd.digest().to_string());
}

#[test]
fn podman_has_one_image_by_two_manifests() {
    let (podman, scene) = (Podman::new(), Scene::new());
    let again = Image::build().layers(scene.nginx.layers().to_vec()).annotation("made", "again").finish();
    assert_eq!(again.config().digest(), scene.nginx.config().digest());
    again.write_layout(&scene.store(), "h.example/again:1");
    for name in [NGINX, "h.example/again:1"] {
        let command = scene.load(&[name], "podman");
        let envs = podman.environment();
        let output = envs.iter().fold(command, |command, (name, value)| command.env(name, value)).run();
        assert_eq!(took(output).status, "loaded", "{name}");
    }
}
