//! One pull from a registry that misbehaves, and what can be asserted of it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::command::{Layerpull, Output};
use support::images::{Blob, Image};
use support::registry::{Fault, Gate, Registry, Requests, Stall, Times, When};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;
/// How a pull is set up where a test does not say otherwise: few retries, everything that happens as JSON, and so much
/// patience that nothing which a busy machine does slowly stands still.
const USUAL: [(&str, &str); 3] =
    [("LAYERPULL_STALL_TIMEOUT", "60s"), ("LAYERPULL_RETRIES", "2"), ("LAYERPULL_PROGRESS", "json")];
/// For what stands still: long enough that nothing else is taken for it.
pub const HASTE: [&str; 2] = ["--stall-timeout", "3s"];
/// What is said of it then.
pub const STILL: &str = "nothing received for 3 s";

/// A registry that holds one image as `library/x:1`, and a store to pull it into.
pub struct Pull {
    pub registry: Registry,
    pub image: Image,
    store: TempDir,
}

impl Pull {
    /// An image with one layer of noise.
    pub fn of_layer(size: u64) -> Pull {
        Pull::of(Image::build().layer(Blob::noise(size, size)).finish())
    }

    /// This image.
    pub fn of(image: Image) -> Pull {
        Pull::from(Registry::start(), image)
    }

    /// This image from this registry.
    pub fn from(registry: Registry, image: Image) -> Pull {
        registry.add("library/x", "1", &image);
        Pull { registry, image, store: tempfile::tempdir().unwrap() }
    }

    pub fn layer(&self) -> &Blob {
        self.image.layer(0)
    }

    pub fn store(&self) -> &Path {
        self.store.path()
    }

    pub fn command(&self) -> Layerpull {
        self.command_of(&self.registry.name("library/x", "1"))
    }

    /// A pull of another name into the same store.
    pub fn command_of(&self, name: &str) -> Layerpull {
        let command = Layerpull::new().arg("pull").store(self.store()).arg(name);
        USUAL.into_iter().fold(command, |command, (name, value)| command.env(name, value))
    }

    pub fn run(&self) -> Pulled {
        self.run_with(&[])
    }

    pub fn run_with(&self, args: &[&str]) -> Pulled {
        Pulled { output: self.command().args(args).run(), requests: self.registry.requests() }
    }

    /// The layer meets `fault` whenever it is asked for as in `when`, but not before the configuration is in the store: a
    /// blob that has failed for good ends what is under way for the others.
    pub fn run_with_late(&self, when: When, fault: Fault) -> Pulled {
        let gate = Gate::default();
        let late = Fault::All(vec![Fault::StallBeforeHead(Stall::Until(gate.clone())), fault]);
        self.registry.rule(when, Times::Always, late);
        let running = self.command().spawn();
        support::until("the configuration is in the store", || self.blob_path(self.image.config()).exists());
        gate.open();
        Pulled { output: running.wait(), requests: self.registry.requests() }
    }

    fn blob_path(&self, blob: &Blob) -> PathBuf {
        self.store().join("blobs").join(blob.digest().algorithm().as_str()).join(blob.digest().hex())
    }

    /// The blob is in the store under its name, byte for byte.
    #[track_caller]
    pub fn assert_has(&self, blob: &Blob) {
        let bytes = fs::read(self.blob_path(blob)).expect("the blob is in the store");
        assert!(bytes == blob.content.to_bytes(), "{} is not what its name says", blob.digest());
    }

    /// Nothing is in the store under the name of the blob.
    #[track_caller]
    pub fn assert_lacks(&self, blob: &Blob) {
        assert!(!self.blob_path(blob).exists(), "{} is in the store", blob.digest());
    }

    /// The image is in the store with all that is below it, and a second pull asks once.
    #[track_caller]
    pub fn assert_whole(&self) {
        self.image.blobs.iter().for_each(|blob| self.assert_has(blob));
        let index = fs::read_to_string(self.store().join("index.json")).expect("an index");
        assert!(index.contains(&self.image.digest().to_string()), "{index}");
    }

    /// No name points to anything.
    #[track_caller]
    pub fn assert_untagged(&self) {
        // A store that was never written has no index.
        let index = fs::read_to_string(self.store().join("index.json")).unwrap_or_default();
        assert!(!index.contains("library/x"), "{index}");
    }
}

/// Bytes of a blob in `requests`, without what is said about failures.
pub fn sent(requests: &Requests, blob: &Blob) -> u64 {
    requests.such(|r| matches!(r.status, 200 | 206)).bytes_sent_for(blob.digest())
}

/// How a pull ended.
pub struct Pulled {
    pub output: Output,
    pub requests: Requests,
}

impl Pulled {
    #[track_caller]
    pub fn code(self, code: i32) -> Pulled {
        let Pulled { output, requests } = self;
        assert!(output.code == Some(code), "{}\n{requests:#?}", output.transcript());
        Pulled { output, requests }
    }

    /// Standard error says all of these.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Pulled {
        for part in parts {
            assert!(self.output.stderr.contains(part), "{part:?} is missing:\n{}", self.output.stderr);
        }
        self
    }

    /// The events of one kind.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let objects = self.output.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        objects.filter(|object| object["event"] == kind).collect()
    }

    /// Bytes that came, as the command counts them.
    pub fn moved(&self) -> u64 {
        self.events("done").last().expect("a last event")["moved"].as_u64().unwrap()
    }

    /// Bytes that were planned, from the plan that was told.
    pub fn planned(&self) -> u64 {
        let plans = self.events("planned");
        let blobs = plans[0]["blobs"].as_array().unwrap();
        blobs.iter().map(|blob| blob["size"].as_u64().unwrap() - blob["held"].as_u64().unwrap()).sum()
    }

    /// Bytes of each listed cause, in the order in which they were told.
    pub fn lost(&self) -> Vec<(String, u64)> {
        let cause = |event: &Value| (event["cause"].as_str().unwrap().to_owned(), event["count"].as_u64().unwrap());
        self.events("lost").iter().map(cause).collect()
    }

    /// Bytes moved = bytes planned + the listed causes; and no more of them came than the registry has sent.
    #[track_caller]
    pub fn adds_up(self) -> Pulled {
        let lost: u64 = self.lost().iter().map(|(_, count)| count).sum();
        assert_eq!(self.moved(), self.planned() + lost, "moved, planned + {lost}:\n{}", self.output.stderr);
        assert!(self.moved() <= self.requests.blob_bytes(), "{} of {}", self.moved(), self.requests.blob_bytes());
        self
    }

    /// Nothing was fetched twice.
    #[track_caller]
    pub fn lost_nothing(self) -> Pulled {
        assert_eq!(self.lost(), []);
        self.adds_up()
    }

    /// Bytes of a blob that the registry sent, without what it says about failures.
    pub fn sent(&self, blob: &Blob) -> u64 {
        sent(&self.requests, blob)
    }

    /// How often something was tried again.
    pub fn retries(&self) -> usize {
        self.events("retried").len()
    }
}
