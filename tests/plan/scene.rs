//! Commands that share a home and a store, and their results as JSON.

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::command::{Layerpull, Output};
use support::images::{Blob, Image};
use support::registry::Registry;
use tempfile::TempDir;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// A registry, and a folder for the home, the store and the machine's root.
pub struct Scene {
    pub registry: Registry,
    folder: TempDir,
}

impl Scene {
    /// The registry holds these as `library/x:0`, `library/x:1`, …
    pub fn of(images: &[&Image]) -> Scene {
        let scene = Scene { registry: Registry::start(), folder: tempfile::tempdir().unwrap() };
        images.iter().enumerate().for_each(|(n, image)| scene.registry.add("library/x", &n.to_string(), image));
        scene
    }

    pub fn name(&self, number: usize) -> String {
        self.registry.name("library/x", &number.to_string())
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Where engines are looked for.
    pub fn host(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    /// `words`, with the home and the store of this scene.
    pub fn command(&self, words: &[&str]) -> Layerpull {
        let home = self.folder.path().join("home");
        std::fs::create_dir_all(&home).unwrap();
        let command = Layerpull::new().env("LAYERPULL_RETRIES", "2").env("LAYERPULL_HOST_ROOT", self.host());
        command.home(&home).args(words).store(&self.store())
    }

    /// What the command says of its images, one object each.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Vec<Value> {
        objects(&self.command(words).args(["--format", "json"]).run().success())
    }

    /// Plans with `words`, does what was planned, and asserts that it was so. Returns what the run says that it took.
    #[track_caller]
    pub fn planned_and_done(&self, words: &[&str]) -> Value {
        let plan = self.json(&[&["plan"], words].concat())[0]["plan"].clone();
        let sent = self.registry.requests().blob_bytes();
        let run = self.json(words)[0]["run"].clone();
        assert_adds_up(&run);
        assert_eq!(plan["moved"], run["planned"], "{plan} {run}");
        assert_eq!(plan["held"], run["held"], "{plan} {run}");
        let came = self.registry.requests().blob_bytes() - sent;
        assert_eq!(number(&run, "moved"), came, "{run}");
        run
    }
}

/// Bytes moved = planned + the causes, less what others brought.
#[track_caller]
pub fn assert_adds_up(run: &Value) {
    let causes: u64 = run["causes"].as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(number(run, "moved") + number(run, "brought"), number(run, "planned") + causes, "{run}");
}

pub fn number(object: &Value, key: &str) -> u64 {
    object[key].as_u64().unwrap_or_else(|| panic!("{key} is no number in {object}"))
}

pub fn objects(output: &Output) -> Vec<Value> {
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// An image with a layer that all have in common, and one of its own.
pub fn image(seed: u64) -> Image {
    Image::build().layer(Blob::noise(1000, 2 * MIB)).layer(Blob::noise(seed, 300 * KIB)).finish()
}

pub fn blob_path(root: &Path, blob: &Blob) -> PathBuf {
    root.join("blobs").join(blob.digest().algorithm().as_str()).join(blob.digest().hex())
}

/// Every blob of `image` is in `store`, byte for byte.
#[track_caller]
pub fn assert_whole(store: &Path, image: &Image) {
    for blob in &image.blobs {
        let bytes = std::fs::read(blob_path(store, blob)).expect("the blob is in the store");
        assert!(bytes == blob.content.to_bytes(), "{} is not what its name says", blob.digest());
    }
}
