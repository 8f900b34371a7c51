//! A registry with images, a store beside it, and what can be asserted of both.

use std::path::{Path, PathBuf};

use layerpull::content::{Holding, Sink};
use layerpull::oci::Digest;
use layerpull::store::Store;
use support::command::{Layerpull, Running};
use support::images::{Blob, Image};
use support::registry::{Fault, Gate, Kind, Registry, Request, Requests, Stall, Times, When};
use tempfile::TempDir;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// A registry on loopback, and a store to pull into.
pub struct Scene {
    pub registry: Registry,
    folder: TempDir,
}

impl Scene {
    /// Nothing in either.
    pub fn new() -> Scene {
        Scene { registry: Registry::start(), folder: tempfile::tempdir().unwrap() }
    }

    /// The registry holds `image` as `library/x:1`.
    pub fn with(image: &Image) -> Scene {
        let scene = Scene::new();
        scene.registry.add("library/x", "1", image);
        scene
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// A command on this store.
    pub fn command(&self, name: &str) -> Layerpull {
        Layerpull::new().arg(name).store(&self.store())
    }

    /// `pull library/x:1`.
    pub fn pull(&self) -> Layerpull {
        self.command("pull").arg(self.name())
    }

    /// `127.0.0.1:PORT/library/x:1`.
    pub fn name(&self) -> String {
        self.registry.name("library/x", "1")
    }

    /// Blobs are not answered until the gate is opened.
    pub fn hold_blobs(&self) -> Gate {
        let gate = Gate::default();
        let stall = Fault::StallBeforeHead(Stall::Until(gate.clone()));
        self.registry.rule(When::blobs().get(), Times::Always, stall);
        gate
    }

    /// The requests from number `from` on.
    pub fn requests_since(&self, from: usize) -> Requests {
        self.registry.requests().such(|request| request.number >= from)
    }

    /// Starts a pull whose every answer for `blob` stands still after `bytes`; returns it when the store has `total`.
    pub fn pull_until(&self, command: Layerpull, blob: &Blob, bytes: u64, total: u64) -> Running {
        let stall = Fault::StallAfter(bytes, Stall::Ever);
        self.registry.rule(When::blob(blob.digest()).get(), Times::Always, stall);
        let running = command.spawn();
        support::until("the store has what was sent", || self.received(blob) >= total);
        running
    }

    /// How many bytes of a blob lie half-fetched in the store.
    pub fn received(&self, blob: &Blob) -> u64 {
        let store = Store::open(&self.store()).unwrap();
        match block_on(store.holds(&blob.descriptor)).unwrap() {
            Holding::Whole => blob.size(),
            Holding::Partial(bytes) => bytes,
            Holding::Missing => 0,
        }
    }

    pub fn path(&self, digest: &Digest) -> PathBuf {
        blob_path(&self.store(), digest)
    }

    /// The image is here, byte for byte, and the store says so, too.
    #[track_caller]
    pub fn assert_whole(&self, image: &Image) {
        assert_whole(&self.store(), image);
        self.command("verify").run().success();
    }

    /// Blobs asked for since request number `from` are exactly these.
    #[track_caller]
    pub fn assert_fetched(&self, from: usize, blobs: &[&Blob]) {
        let gets = self.requests_since(from).all_blob_gets();
        let mut asked: Vec<&str> = gets.iter().map(|get| get.path.rsplit('/').next().unwrap()).collect();
        let mut wanted: Vec<String> = blobs.iter().map(|blob| blob.digest().to_string()).collect();
        asked.sort();
        wanted.sort();
        assert_eq!(asked, wanted);
    }
}

pub fn blob_path(store: &Path, digest: &Digest) -> PathBuf {
    store.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
}

#[track_caller]
pub fn assert_whole(store: &Path, image: &Image) {
    for blob in &image.blobs {
        let bytes = std::fs::read(blob_path(store, blob.digest())).expect("the blob is in the store");
        assert!(bytes == blob.content.to_bytes(), "{} is not what its name says", blob.digest());
    }
    for manifest in &image.manifests {
        let bytes = std::fs::read(blob_path(store, &manifest.digest)).expect("the manifest is in the store");
        assert_eq!(bytes, manifest.bytes, "{} is not what its name says", manifest.digest);
    }
    let index = std::fs::read_to_string(store.join("index.json")).expect("an index");
    assert!(index.contains(&image.digest().to_string()), "{index}");
}

/// Bytes of a blob that these requests ask for, whether they came or not.
pub fn asked(requests: &Requests, blob: &Blob) -> u64 {
    requests.blob_gets(blob.digest()).iter().map(|request| length(request, blob.size())).sum()
}

fn length(request: &Request, size: u64) -> u64 {
    let Some(range) = request.header("range") else { return size };
    let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let end = end.parse().map_or(size, |last: u64| last + 1);
    end.min(size) - start.parse::<u64>().unwrap()
}

/// Whether it asks for the manifest by a tag.
pub fn is_manifest(request: &Request) -> bool {
    matches!(request.kind, Kind::Manifest { .. })
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// This blob is not answered until the gate is opened.
pub fn hold_blob(scene: &Scene, blob: &Blob) -> Gate {
    let gate = Gate::default();
    let stall = Fault::StallBeforeHead(Stall::Until(gate.clone()));
    scene.registry.rule(When::blob(blob.digest()).get(), Times::Always, stall);
    gate
}
