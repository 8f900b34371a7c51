//! A home with a store, and the files that name mirrors.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use support::command::{Layerpull, Output};
use support::images::{Blob, Image};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;

/// Where a command runs.
pub struct Scene {
    home: TempDir,
}

impl Scene {
    pub fn new() -> Scene {
        Scene { home: tempfile::tempdir().unwrap() }
    }

    /// Writes a file below the home.
    pub fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// `hosts.toml` for the registry at `host`.
    pub fn hosts_toml(&self, host: &str, text: &str) {
        self.write(&format!("certs.d/{host}/hosts.toml"), text);
    }

    /// `registries.conf` of the user.
    pub fn registries_conf(&self, text: &str) {
        self.write(".config/containers/registries.conf", text);
    }

    /// A command in this home, which reads no `hosts.toml` but those of the scene.
    pub fn command(&self, words: &[&str]) -> Layerpull {
        let folder = self.home.path().join("certs.d");
        Layerpull::new().home(self.home.path()).args(words).arg("--hosts-dir").arg(folder)
    }

    /// A pull that tells everything as JSON.
    pub fn pull(&self, name: &str, words: &[&str]) -> Pulled {
        let command = self.command(&["pull", name, "--format", "json", "--progress", "json"]).args(words);
        Pulled(command.env("LAYERPULL_RETRIES", "2").run())
    }

    /// Every blob of the image is in the store as it should be.
    #[track_caller]
    pub fn assert_whole(&self, image: &Image) {
        for blob in &image.blobs {
            let path = self.home.path().join(".local/share/layerpull/blobs/sha256").join(blob.digest().hex());
            let bytes = fs::read(path).expect("the blob is in the store");
            assert!(bytes == blob.content.to_bytes(), "{} is not what its name says", blob.digest());
        }
    }
}

/// How a pull ended.
pub struct Pulled(pub Output);

impl Pulled {
    #[track_caller]
    pub fn success(self) -> Pulled {
        assert!(self.0.code == Some(0), "{}", self.0.transcript());
        self
    }

    /// The result, of one image.
    pub fn result(&self) -> Value {
        serde_json::from_str(self.0.stdout.trim()).expect("one object")
    }

    /// The events of one kind.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let objects = self.0.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        objects.filter(|object| object["event"] == kind).collect()
    }

    /// What a host sent.
    pub fn from(&self, host: &str) -> u64 {
        self.result()["run"]["hosts"][host].as_u64().unwrap_or(0)
    }

    /// Why a mirror was left.
    pub fn left(&self, host: &str) -> Option<String> {
        self.result()["run"]["left"][host].as_str().map(str::to_owned)
    }

    /// Bytes moved = bytes missing + the listed causes.
    #[track_caller]
    pub fn adds_up(self) -> Pulled {
        let (result, number) = (self.result(), |value: &Value| value.as_u64().unwrap());
        let causes: u64 = result["run"]["causes"].as_object().unwrap().values().map(number).sum();
        assert_eq!(number(&result["run"]["moved"]), number(&result["missing"]) + causes, "{result}");
        self
    }
}

/// An image of one layer of noise.
pub fn image(size: u64) -> Image {
    Image::build().layer(Blob::noise(size, size)).finish()
}
