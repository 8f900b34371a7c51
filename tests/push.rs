//! Pushes that are killed, repeated and read by others, against distribution's registry and the embedded one.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::command::{Layerpull, Output, Running};
use support::engines::Docker;
use support::images::{Blob, Image};
use support::peers::{DockerRegistry, skopeo};
use support::registry::Registry;
use support::relay::Relay;
use tempfile::TempDir;

const MIB: u64 = 1024 * 1024;
/// What the command gives itself to end when it is asked to.
const GRACE: Duration = Duration::from_secs(2);
/// Heads of requests, and what a relay reads at once.
const SLACK: u64 = 256 * 1024;

/// A store with images that are pushed, and what runs remember.
struct Scene {
    folder: TempDir,
    origin: Registry,
}

impl Scene {
    fn new() -> Scene {
        Scene { folder: tempfile::tempdir().unwrap(), origin: Registry::start() }
    }

    fn store(&self) -> std::path::PathBuf {
        self.folder.path().join("store")
    }

    /// Brings an image into the store; returns its name there.
    fn pull(&self, tag: &str, image: &Image) -> String {
        self.origin.add("library/db", tag, image);
        let name = self.origin.name("library/db", tag);
        Layerpull::new().args(["pull", "-q", &name]).store(&self.store()).run().success();
        name
    }

    fn command(&self, words: &[&str]) -> Layerpull {
        let json = ["--progress", "none", "--format", "json"];
        Layerpull::new().home(self.folder.path()).arg("push").args(words).args(json).store(&self.store())
    }

    /// What a push moved, held and mounted, in bytes.
    fn push(&self, from: &str, to: &str) -> (u64, u64, u64) {
        let output = self.command(&[from, to]).run().success();
        let run = |key: &str| last(&output)["run"][key].as_u64().unwrap();
        (run("moved"), run("held"), run("mounted"))
    }
}

fn last(output: &Output) -> Value {
    serde_json::from_str(output.stdout.lines().last().unwrap()).unwrap()
}

/// The embedded registry over a store of its own.
fn serve(store: &Path) -> (Running, String) {
    let words = ["serve", "--writable", "--no-auth", "--listen", "127.0.0.1:0"];
    let running = Layerpull::new().args(words).store(store).spawn();
    let host = running.until_stderr("\n").trim().rsplit("http://").next().unwrap().to_owned();
    (running, host)
}

fn digest_at(name: &str) -> String {
    let words = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{name}")];
    skopeo(words).ok().trim().to_owned()
}

/// A layer of `size`, and a small one.
fn image(size: u64) -> Image {
    Image::build().layers([Blob::noise(1, size), Blob::noise(2, MIB)]).finish()
}

#[test]
fn a_push_that_was_killed_goes_on_at_the_byte_where_the_embedded_registry_stands() {
    // One PUT, and chunks.
    for size in [24 * MIB, 70 * MIB] {
        let (scene, store) = (Scene::new(), tempfile::tempdir().unwrap());
        let (_server, host) = serve(store.path());
        let relay = Relay::start(&host);
        let image = image(size);
        let (from, to) = (scene.pull("8", &image), format!("{}/db:8", relay.host()));
        relay.hold_after(12 * MIB);
        let running = scene.command(&[&from, &to]).spawn();
        relay.until_held();
        running.kill();
        relay.release();
        let before = relay.sent();
        assert!(before > 12 * MIB && before < size, "{before}");
        scene.command(&[&from, &to]).run().success();
        assert_eq!(digest_at(&format!("{host}/db:8")), image.digest().to_string());
        assert!(relay.sent() <= image.size() + SLACK, "{} bytes for {}", relay.sent(), image.size());
    }
}

#[test]
fn of_a_push_that_was_killed_the_blob_on_its_way_alone_begins_anew_at_docker_registry() {
    let (scene, target) = (Scene::new(), DockerRegistry::start());
    let relay = Relay::start(&target.host());
    let image = image(24 * MIB);
    let (from, to) = (scene.pull("8", &image), format!("{}/db:8", relay.host()));
    relay.hold_after(12 * MIB);
    let running = scene.command(&[&from, &to]).spawn();
    relay.until_held();
    let ended = || target.settled_log().iter().filter(|line| line.contains("\"PUT ") && line.contains(" 201 ")).count();
    // Its configuration and the small layer.
    support::until("the small blobs are there", || ended() == 2);
    running.kill();
    relay.release();
    assert_eq!(scene.push(&from, &to).0, 24 * MIB);
    assert_eq!(digest_at(&target.name("db", "8")), image.digest().to_string());
    // That one and its manifest; the registry may write its log a little later.
    support::until("four requests have ended", || ended() == 4);
}

#[test]
fn an_interrupt_ends_the_chunk_on_its_way_and_the_next_push_sends_the_rest() {
    assert!((0..10).any(|_| is_interrupted_in_time()), "no push ended before its time was over");
}

/// Whether the push ended before it had to, and not because a busy machine used up its time: then it has saved what it
/// sent, and the next one sends the rest.
fn is_interrupted_in_time() -> bool {
    let (scene, target) = (Scene::new(), DockerRegistry::start());
    let relay = Relay::start(&target.host());
    let image = image(80 * MIB);
    let (from, to) = (scene.pull("8", &image), format!("{}/db:8", relay.host()));
    relay.hold_after(16 * MIB);
    let running = scene.command(&[&from, &to]).spawn();
    relay.until_held();
    let asked_to = Instant::now();
    running.signal(Signal::INT);
    relay.release();
    assert_eq!(running.wait().code, Some(130));
    let is_in_time = asked_to.elapsed() < GRACE;
    scene.command(&[&from, &to]).run().success();
    assert_eq!(digest_at(&target.name("db", "8")), image.digest().to_string());
    let sent = relay.sent();
    assert!(!is_in_time || sent <= image.size() + SLACK, "{sent} bytes for {}", image.size());
    is_in_time
}

/// An image and its update, of which two layers are the same.
fn versions() -> (Image, Image) {
    let (base, engine) = (Blob::file_of_noise(1, 3 * MIB), Blob::file_of_noise(2, 2 * MIB));
    let image =
        |last: u64| Image::build().layers([base.clone(), engine.clone(), Blob::file_of_noise(last, 100_000)]).finish();
    (image(3), image(4))
}

#[test]
fn the_embedded_registry_gets_what_differs_and_mounts_the_rest() {
    let (scene, store) = (Scene::new(), tempfile::tempdir().unwrap());
    let (_server, host) = serve(store.path());
    let relay = Relay::start(&host);
    let (first, second) = versions();
    let near = [scene.pull("8", &first), scene.pull("8.1", &second)];
    let far = |name: &str| format!("{}/{name}", relay.host());
    assert_eq!(scene.push(&near[0], &far("db:8")), (first.size(), 0, 0));
    let differs = second.layer(2).size() + second.config().size();
    assert_eq!(scene.push(&near[1], &far("db:8.1")), (differs, second.size() - differs, 0));
    let before = relay.sent();
    assert_eq!(scene.push(&near[0], &far("db:8")).0, 0);
    assert!(relay.sent() - before < 2048, "more than one request: {} bytes", relay.sent() - before);
    assert_eq!(scene.push(&near[0], &far("other:8")), (0, 0, first.size()));
    for (name, image) in [("db:8", &first), ("db:8.1", &second), ("other:8", &first)] {
        assert_eq!(digest_at(&format!("{host}/{name}")), image.digest().to_string());
    }
}

#[test]
fn skopeo_and_docker_pull_what_was_pushed_with_the_same_digests() {
    let (scene, store) = (Scene::new(), tempfile::tempdir().unwrap());
    let (_server, embedded) = serve(store.path());
    let (docker, target) = (Docker::start(), DockerRegistry::start());
    let (image, _) = versions();
    let from = scene.pull("8", &image);
    for host in [embedded, target.host()] {
        let name = format!("{host}/db:8");
        scene.push(&from, &name);
        let pulled = docker.run(["pull", &name]).ok();
        assert!(pulled.contains(&format!("Digest: {}", image.digest())), "{pulled}");
        docker.run(["rmi", &name]).ok();
        let layout = tempfile::tempdir().unwrap();
        let to = format!("oci:{}:x", layout.path().display());
        skopeo(["copy", "--src-tls-verify=false", "--preserve-digests", &format!("docker://{name}"), &to]).ok();
        let index = std::fs::read_to_string(layout.path().join("index.json")).unwrap();
        assert!(index.contains(&image.digest().to_string()), "{index}");
    }
}
