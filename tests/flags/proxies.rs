//! Registries behind a proxy.

use support::command::Layerpull;
use support::images::{Blob, Image};
use support::peers::Closed;
use support::proxy::Proxy;
use support::registry::{Registry, basic};
use tempfile::TempDir;

use crate::{home, with_image};

const USER: &str = "ann:canary";

/// A registry behind a proxy, and the home of who asks it.
struct Scene {
    registry: Registry,
    proxy: Proxy,
    home: TempDir,
}

impl Scene {
    fn of(names: &[&str]) -> Scene {
        let registry = with_image(Registry::start_tls_as(names));
        let (proxy, home) = (Proxy::to(registry.address()), home());
        std::fs::write(home.path().join("ca.pem"), registry.certificate()).unwrap();
        Scene { registry, proxy, home }
    }

    fn run(&self, words: &[&str]) -> Layerpull {
        let authority = self.home.path().join("ca.pem");
        Layerpull::new().home(self.home.path()).args(words).args(["--retries", "0", "--ca-file"]).arg(authority)
    }
}

#[test]
fn a_registry_that_only_the_proxy_can_reach_is_pulled_from_through_a_tunnel() {
    let scene = Scene::of(&["registry.test"]);
    let image = Image::build().layer(Blob::noise(1, 300_000)).finish();
    scene.registry.add("library/big", "1", &image);
    let pull = scene.run(&["pull", "registry.test/library/big:1"]);
    // Plain requests have another proxy, where nobody listens.
    let output = pull.env("HTTPS_PROXY", scene.proxy.url(USER)).env("HTTP_PROXY", "http://127.0.0.1:1").run().success();
    assert!(output.stdout.contains(&image.digest().to_string()), "{}", output.stdout);
    assert_eq!(scene.registry.requests().blob_bytes(), image.size());
    Layerpull::new().home(scene.home.path()).arg("verify").run().success();
    let asked = scene.proxy.asked();
    assert!(!asked.is_empty() && asked.iter().all(|line| line == "CONNECT registry.test:443 HTTP/1.1"), "{asked:?}");
    // The proxy is told who asks, and nobody else is.
    let told = format!("proxy-authorization: {}", basic("ann", "canary")).to_lowercase();
    assert!(scene.proxy.heads().iter().all(|head| head.to_lowercase().contains(&told)));
    assert!(scene.registry.requests().carrying("canary").is_empty());
    assert!(!output.transcript().contains("canary"));
}

#[test]
fn what_no_proxy_names_is_asked_directly() {
    // The address leads to this machine, but is not that of loopback, which never takes a proxy.
    let scene = Scene::of(&["0.0.0.0"]);
    let name = format!("0.0.0.0:{}/library/x:1", scene.registry.address().port());
    let ask = |variables: &[(&str, &str)]| {
        let command = scene.run(&["digest", &name]).env("ALL_PROXY", scene.proxy.url(USER));
        variables.iter().fold(command, |command, (name, value)| command.env(name, value)).run().success();
        let asked = scene.proxy.asked().len();
        scene.proxy.forget();
        asked
    };
    assert_eq!(ask(&[]), 1);
    assert_eq!(ask(&[("NO_PROXY", "other.test,10.0.0.0/8")]), 1);
    for list in ["0.0.0.0", "x.test, 0.0.0.0/8", "*"] {
        assert_eq!(ask(&[("NO_PROXY", list)]), 0, "{list}");
    }
    assert_eq!(ask(&[("no_proxy", "0.0.0.0")]), 0);
    assert_eq!(scene.registry.requests().count("HEAD", "/manifests/1"), 6);
}

#[test]
fn a_registry_on_loopback_is_asked_directly_whatever_the_proxy() {
    let scene = Scene::of(&["127.0.0.1"]);
    let name = scene.registry.name("library/x", "1");
    scene.run(&["digest", &name]).env("ALL_PROXY", scene.proxy.url(USER)).run().success();
    assert!(scene.proxy.asked().is_empty());
}

#[test]
fn a_proxy_that_refuses_is_told_by_its_address_and_without_its_password() {
    let scene = Scene::of(&["registry.test"]);
    let (closed, digest) = (Closed::port(), scene.run(&["digest", "registry.test/x"]));
    let output = digest.env("ALL_PROXY", format!("http://ann:canary@{}", closed.host())).run().code(5);
    assert!(output.stderr.contains("registry.test"), "{}", output.stderr);
    assert!(!output.transcript().contains("canary"), "{}", output.stderr);
}

#[test]
fn a_word_that_is_no_image_and_nearly_a_command_says_so() {
    let scene = Scene::of(&["registry-1.docker.io"]);
    let ask = |word: &str| scene.run(&[word]).env("ALL_PROXY", scene.proxy.url(USER)).run().code(3).stderr;
    let told = ask("pul");
    assert!(told.contains("docker.io/library/pul:latest not found"), "{told}");
    assert!(told.contains("hint: \"pul\" was taken for an image; did you mean `layerpull pull`?"), "{told}");
    assert_eq!(scene.registry.requests().count("GET", "/v2/library/pul/manifests/latest"), 1);
    assert!(scene.proxy.asked().iter().all(|line| line == "CONNECT registry-1.docker.io:443 HTTP/1.1"));
    // Nothing is like this word, and these are no words that could be commands.
    for word in ["mysql", "pul:latest", "library/pul"] {
        assert!(!ask(word).contains("hint:"), "{word}");
    }
    // What is there is an image, whatever it is called.
    scene.registry.add("library/pul", "latest", &Image::tiny("pul"));
    let output = scene.run(&["pul"]).env("ALL_PROXY", scene.proxy.url(USER)).run().success();
    assert!(!output.stderr.contains("hint:"), "{}", output.stderr);
}
