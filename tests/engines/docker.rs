//! docker, by its socket.

use support::command::Layerpull;
use support::engines::Docker;
use support::images::{Blob, Image};
use support::peers::{DockerRegistry, skopeo};
use support::registry::Registry;

use crate::scene::{Counter, FRAME, HTTPD, NGINX, Scene, took};

fn host(counter: &Counter) -> String {
    format!("unix://{}", counter.socket.display())
}

#[test]
fn docker_gets_the_layers_that_it_lacks_and_everything_when_it_lost_one() {
    let (docker, scene) = (std::sync::Arc::new(Docker::start()), Scene::new());
    let counter = Counter::before(&docker.socket(), scene.dir.path());
    let load = |images: &[&str]| took(scene.load(images, "docker").env("DOCKER_HOST", host(&counter)).run());

    let first = load(&[NGINX]);
    assert_eq!((first.status.as_str(), first.moved, first.held), ("loaded", scene.nginx.size(), 0));
    assert_eq!(first.digest, scene.nginx.digest().to_string());
    counter.sent();
    let second = load(&[HTTPD]);
    let base = scene.httpd.layer(0).size();
    assert_eq!((second.status.as_str(), second.moved, second.held), ("loaded", scene.own(), base));
    let sent = counter.sent();
    assert!((scene.own()..scene.own() + FRAME).contains(&sent), "{sent} bytes for {}", scene.own());
    let inspect = |format: &str| docker.run(["image", "inspect", "--format", format, HTTPD]).ok().trim().to_owned();
    assert_eq!(inspect("{{.Id}}"), scene.httpd.config().digest().to_string());
    for layer in scene.httpd.layers() {
        assert!(inspect("{{.RootFS.Layers}}").contains(&layer.diff_id.as_ref().unwrap().to_string()));
    }
    assert_eq!((load(&[NGINX, HTTPD]).status.as_str(), counter.sent() < FRAME), ("up-to-date", true));

    docker.run(["rmi", HTTPD]).ok();
    let pruned = docker.clone();
    counter.before_next_load(move || drop(pruned.run(["rmi", NGINX]).ok()));
    let output = scene.load(&[HTTPD], "docker").env("DOCKER_HOST", host(&counter)).run().success();
    assert!(output.stderr.contains("it gets everything now"), "{}", output.stderr);
    let third = took(output);
    assert_eq!((third.status.as_str(), third.moved), ("loaded", scene.own() + scene.httpd.size()));
    assert_eq!(third.again, scene.httpd.size());
    assert_eq!(inspect("{{.Id}}"), scene.httpd.config().digest().to_string());
    let listed = Layerpull::new().args(["inventory", "docker"]).env("DOCKER_HOST", host(&counter)).run().success();
    assert!(listed.stdout.contains(scene.httpd.layer(0).diff_id.as_ref().unwrap().hex()), "{}", listed.stdout);
    assert!(listed.stdout.contains("\"chains\"") && listed.stdout.contains("\"blobs\": []"), "{}", listed.stdout);
    // What it has is whole: docker hashes each layer as it packs it.
    let file = scene.dir.path().join("saved.tar");
    docker.run(["save", "-o", file.to_str().unwrap(), HTTPD]).ok();
}

#[test]
fn a_pull_hands_on_to_docker() {
    let (docker, registry, home) = (Docker::start(), Registry::start(), tempfile::tempdir().unwrap());
    let image = Image::build().layer(Blob::file_of_noise(1, 100_000)).finish();
    registry.add("library/x", "1", &image);
    let name = registry.name("library/x", "1");
    let pull = |words: &[&str]| {
        let host = format!("unix://{}", docker.socket().display());
        Layerpull::new().home(home.path()).args(["pull", "--to", "docker"]).args(words).env("DOCKER_HOST", host).run()
    };
    let output = pull(&[&name]).success();
    assert!(output.stdout.contains("Status: Downloaded newer image for"), "{}", output.stdout);
    assert!(output.stdout.contains(&format!("Status: Loaded image {name}\n")), "{}", output.stdout);
    let id = docker.run(["image", "inspect", "--format", "{{.Id}}", &name]).ok();
    assert_eq!(id.trim(), image.config().digest().to_string());
    let quiet = pull(&["-q", &name, &registry.name("library/absent", "1")]).code(9);
    assert_eq!(quiet.stdout, format!("{name}@{}\n", image.digest()));
    assert!(quiet.stderr.contains("library/absent"), "{}", quiet.stderr);
}

#[test]
fn what_cannot_be_is_told_with_the_next_step() {
    let scene = Scene::new();
    let load = |images: &[&str], engine: &str, host: &str| scene.load(images, engine).env("DOCKER_HOST", host).run();
    let remote = load(&[NGINX], "docker", "tcp://127.0.0.1:2375").code(2);
    assert!(remote.stderr.contains("only a socket of this machine"), "{}", remote.stderr);
    let absent = load(&[NGINX], "docker", "unix:///nonexistent/docker.sock").code(3);
    assert!(absent.stderr.contains("start dockerd, or say where it listens"), "{}", absent.stderr);
    let socket = scene.dir.path().join("nobody");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let nobody = load(&[NGINX], "docker", &format!("unix://{}", socket.display())).code(5);
    assert!(nobody.stderr.contains("cannot connect"), "{}", nobody.stderr);
    let nowhere = Layerpull::new().args(["load", NGINX]).store(&scene.store()).run().code(2);
    assert!(nowhere.stderr.contains("say which engine gets the images: --to docker"), "{}", nowhere.stderr);
    assert!(load(&[NGINX], "cri-o", "").code(2).stderr.contains("docker, podman or containerd[:NAMESPACE]"));
    let namespace = load(&[NGINX], "containerd:a b", "").code(2);
    assert!(namespace.stderr.contains("no namespace of containerd"), "{}", namespace.stderr);
    let unknown = load(&["x:1"], "docker", "unix:///nonexistent/docker.sock").code(3);
    assert!(unknown.stderr.contains("layerpull pull --platform linux/"), "{}", unknown.stderr);
    let program = scene.load(&[NGINX], "podman").env("PATH", "/nonexistent").run().code(3);
    assert!(program.stderr.contains("`podman` is not in PATH"), "{}", program.stderr);
}

#[test]
fn a_hostile_engine_is_neither_believed_nor_shown_as_it_is() {
    use std::io::{Read, Write};
    let scene = Scene::new();
    let socket = scene.dir.path().join("hostile");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let count = stream.read(&mut head).unwrap();
            let answer = match head[..count].starts_with(b"GET /images/json") {
                true => r#"[{"Id":"../../etc/passwd"}]"#,
                false => r#"{"ServerVersion":"1","DriverStatus":null}"#,
            };
            // Whoever asked may have gone.
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
        }
    });
    let host = format!("unix://{}", socket.display());
    let output = scene.load(&[NGINX], "docker").env("DOCKER_HOST", &host).run().code(1);
    assert!(output.stderr.contains("an ID that is no digest"), "{}", output.stderr);
}

#[test]
fn images_are_copied_into_docker_and_out_of_it() {
    let (docker, registry, target) = (Docker::start(), Registry::start(), DockerRegistry::start());
    let image = Image::build().layer(Blob::file_of_noise(1, 100_000)).finish();
    registry.add("library/x", "1", &image);
    let copy = |from: &str, to: &str| {
        let host = format!("unix://{}", docker.socket().display());
        Layerpull::new().args(["copy", from, to]).env("DOCKER_HOST", host).run()
    };
    let output = copy(&registry.name("library/x", "1"), "docker-daemon:h.example/a:1").success();
    assert!(output.stdout.contains("Sent newer image for docker-daemon:h.example/a:1\n"), "{}", output.stdout);
    let id = docker.run(["image", "inspect", "--format", "{{.Id}}", "h.example/a:1"]).ok();
    assert_eq!(id.trim(), image.config().digest().to_string());
    let far = target.name("a", "1");
    let output = copy("docker-daemon:h.example/a:1", &far).success();
    assert!(output.stderr.contains("not that of the registry") || output.stderr.contains("not \nthat"), "{output:?}");
    let config = skopeo(["inspect", "--config", "--raw", "--tls-verify=false", &format!("docker://{far}")]).ok();
    assert_eq!(layerpull::oci::Digest::of(config.as_bytes()), *image.config().digest());
    let absent = copy("docker-daemon:h.example/b:1", &far).code(3);
    assert!(absent.stderr.contains("`docker images` lists what it has"), "{}", absent.stderr);
}
