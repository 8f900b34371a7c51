//! The store as a registry: real engines, started here with stores of their own, take images from it.

use std::net::SocketAddr;

use layerpull::serve::{Access, Server};
use layerpull::store::Store;
use support::engines::{Containerd, Docker};
use support::images::{Blob, Image};
use tokio_util::sync::CancellationToken;

/// A served store with two images of one name, of two registries: only the full path or `?ns=` tells them apart.
struct Served {
    address: SocketAddr,
    docker_io: Image,
    quay_io: Image,
    cancel: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Served {
    async fn start() -> Served {
        let image = |text: &[u8]| {
            let layers = [Blob::files(&[("base", b"of both")]), Blob::files(&[("text", text)])];
            Image::build().layers(layers).finish()
        };
        let (docker_io, quay_io) = (image(b"from docker.io"), image(b"from quay.io"));
        let dir = tempfile::tempdir().unwrap();
        docker_io.write_layout(dir.path(), "docker.io/library/nginx:1");
        quay_io.write_layout(dir.path(), "quay.io/library/nginx:1");
        let store = Store::open(dir.path()).unwrap();
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), Access::Loopback, store).await.unwrap();
        let (address, cancel) = (server.address().unwrap(), CancellationToken::new());
        tokio::spawn(server.run(cancel.clone()));
        Served { address, docker_io, quay_io, cancel, _dir: dir }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pulls_by_the_full_path() {
    let served = Served::start().await;
    tokio::task::spawn_blocking(move || {
        let docker = Docker::start();
        for (registry, image) in [("docker.io", &served.docker_io), ("quay.io", &served.quay_io)] {
            let name = format!("{}/{registry}/library/nginx:1", served.address);
            docker.run(["pull", "--platform", "linux/amd64", "-q", &name]).ok();
            let id = docker.run(["image", "inspect", "--format", "{{.Id}}", &name]).ok();
            assert_eq!(id.trim(), image.config().digest().to_string(), "{name}");
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_by_the_full_path_and_as_from_a_mirror() {
    let served = Served::start().await;
    tokio::task::spawn_blocking(move || {
        let containerd = Containerd::start();
        let pull = |args: &[&str]| {
            let common = ["images", "pull", "--snapshotter", "native", "--platform", "linux/amd64"];
            containerd.run(common.iter().chain(args)).ok()
        };
        let direct = format!("{}/docker.io/library/nginx:1", served.address);
        pull(&["--plain-http", &direct]);
        // The mirror is asked for `library/nginx` with the registry's name in `?ns=`.
        let hosts = containerd.mirror("docker.io", served.address);
        containerd.mirror("quay.io", served.address);
        let hosts = hosts.to_str().unwrap();
        pull(&["--hosts-dir", hosts, "docker.io/library/nginx:1"]);
        pull(&["--hosts-dir", hosts, "quay.io/library/nginx:1"]);

        let list = containerd.run(["images", "ls"]).ok();
        let digest_of = |name: &str| {
            let row = list.lines().find(|line| line.split_whitespace().next() == Some(name)).expect(name);
            row.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap().to_owned()
        };
        assert_eq!(digest_of(&direct), served.docker_io.digest().to_string());
        assert_eq!(digest_of("docker.io/library/nginx:1"), served.docker_io.digest().to_string());
        assert_eq!(digest_of("quay.io/library/nginx:1"), served.quay_io.digest().to_string());
    })
    .await
    .unwrap();
}
