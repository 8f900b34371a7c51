//! Real clients push, and take back what they pushed.

use layerpull::serve::{Access, Users};
use layerpull::store::Store;
use support::command::Layerpull;
use support::engines::Docker;
use support::images::{Blob, Image};
use support::peers::{Podman, skopeo};

use crate::scene::Registry;

fn image(text: &str) -> Image {
    Image::build().layer(Blob::files(&[("base", b"of all")])).layer(Blob::files(&[("text", text.as_bytes())])).finish()
}

/// A layout with one image, as `x`.
fn layout(image: &Image) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    image.write_layout(dir.path(), "x");
    let name = format!("oci:{}:x", dir.path().display());
    (dir, name)
}

/// Runs what waits for other programs beside the server.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_pushes_an_index_and_takes_it_back() {
    let registry = Registry::with(Access::Users(Users::one("me", "secret"))).await;
    let index = Image::index(&[
        image("amd64"),
        Image::build().platform("linux/arm64").layer(Blob::noise(1, 9_000_000)).finish(),
    ]);
    let (name, pushed) = (format!("docker://{}/a/b:1", registry.address), index.clone());
    beside(move || {
        let (_layout, from) = layout(&pushed);
        let tls = "--dest-tls-verify=false";
        assert!(!skopeo(["copy", "--all", tls, "--dest-creds", "me:wrong", &from, &name]).success);
        skopeo(["copy", "--all", "--preserve-digests", tls, "--dest-creds", "me:secret", &from, &name]).ok();
        let other = name.replace("/a/b:", "/c:");
        let tls = ["--dest-tls-verify=false", "--src-tls-verify=false"];
        let creds = ["--dest-creds", "me:secret", "--src-creds", "me:secret"];
        skopeo(
            ["copy", "--all", "--preserve-digests"]
                .iter()
                .chain(&tls)
                .chain(&creds)
                .copied()
                .chain([name.as_str(), other.as_str()]),
        )
        .ok();
        let raw = skopeo(["inspect", "--raw", "--tls-verify=false", "--creds", "me:secret", &other]).ok();
        assert_eq!(raw, String::from_utf8_lossy(&pushed.root().bytes));
    })
    .await;
    let root = registry.root(&format!("{}/a/b:1", registry.address)).await.unwrap();
    assert_eq!(root.digest, *index.digest());
    assert!(registry.store.verify().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pushes_and_skopeo_finds_the_same_digest() {
    let registry = Registry::start().await;
    let host = registry.address.to_string();
    beside(move || {
        let (_layout, from) = layout(&image("podman"));
        let (podman, seed, name) = (Podman::new(), format!("{host}/seed:1"), format!("{host}/p/q:1"));
        // What podman has, it has from a registry.
        skopeo(["copy", "--dest-tls-verify=false", &from, &format!("docker://{seed}")]).ok();
        let id = podman.run(["pull", "-q", "--tls-verify=false", &seed]).ok();
        let file = tempfile::NamedTempFile::new().unwrap();
        let digestfile = file.path().to_str().unwrap();
        podman.run(["push", "-q", "--tls-verify=false", "--digestfile", digestfile, id.trim(), &name]).ok();
        let pushed = std::fs::read_to_string(file.path()).unwrap();
        let from = format!("docker://{name}");
        let found = skopeo(["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &from]).ok();
        assert_eq!(found.trim(), pushed.trim());
        podman.run(["rmi", "-f", id.trim()]).ok();
        assert_eq!(podman.run(["pull", "-q", "--tls-verify=false", &name]).ok(), id);
    })
    .await;
    assert!(registry.store.verify().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pushes_twice_and_layerpull_takes_it() {
    let registry = Registry::start().await;
    let host = registry.address.to_string();
    let address = registry.address;
    beside(move || {
        let docker = Docker::start();
        let seed = Image::tiny("docker");
        // What docker has, it has from a registry.
        let (_layout, from) = layout(&seed);
        skopeo(["copy", "--dest-tls-verify=false", &from, &format!("docker://{host}/seed:1")]).ok();
        docker.run(["pull", "-q", &format!("{host}/seed:1")]).ok();
        let name = format!("{host}/d/e:1");
        docker.run(["tag", &format!("{host}/seed:1"), &name]).ok();
        let first = docker.run(["push", &name]).ok();
        let again = docker.run(["push", &name]).ok();
        let digest = |text: &str| text.split("digest: ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        assert_eq!(digest(&first), digest(&again));
        assert!(again.contains("Layer already exists"), "{again}");
        let dir = tempfile::tempdir().unwrap();
        let pulled = Layerpull::new().arg("pull").arg(&name).store(dir.path()).run().success();
        assert!(pulled.stdout.contains(&digest(&first)), "{}", pulled.stdout);
        Store::open(dir.path()).unwrap();
    })
    .await;
    assert_eq!(registry.names().await, [format!("{address}/d/e:1"), format!("{address}/seed:1")]);
    assert!(registry.store.verify().await.unwrap().is_empty());
}
