//! podman, by its command. It knows a layer by the digest of the blob that it came in, which its storage records.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::Deserialize;

use super::child::Program;
use super::image::Image;
use super::{Engine, Holdings, Known, MAX_HELD, Shipment};
use crate::content::file::read_bounded;
use crate::error::{Error, Fault, Result};
use crate::oci::Digest;

/// The largest record of layers that is read, in bytes.
const MAX_RECORD: u64 = 64 * 1024 * 1024;

/// podman, with whatever storage its own configuration names.
#[derive(Debug, Clone)]
pub struct Podman {
    program: Program,
}

#[derive(Deserialize)]
struct About {
    host: Host,
    store: Storage,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Host {
    #[serde(default)]
    service_is_remote: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Storage {
    graph_root: PathBuf,
    graph_driver_name: String,
}

/// One layer of the storage (containers-storage, `layers.json`).
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Layer {
    diff_digest: Option<Digest>,
    compressed_diff_digest: Option<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    digest: Digest,
    repo_digests: Option<Vec<String>>,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    layers: Option<Vec<Digest>>,
}

impl Inspected {
    /// Whether it came with this manifest. Of one image that came with several, the first names it, and all are kept.
    fn is_known_as(&self, digest: &Digest) -> bool {
        let ends = format!("@{digest}");
        self.digest == *digest || self.repo_digests.iter().flatten().any(|name| name.ends_with(&ends))
    }
}

impl Default for Podman {
    fn default() -> Podman {
        Podman::new()
    }
}

impl Podman {
    /// podman as it is in `PATH`.
    pub fn new() -> Podman {
        Podman { program: Program { name: "podman", args: Vec::new(), place: "podman".into() } }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> Result<T> {
        let broken = |why: serde_json::Error| self.strange(what, why.to_string());
        serde_json::from_slice(bytes).map_err(broken)
    }

    fn strange(&self, what: &str, why: String) -> Error {
        Error::network(&self.program.place, what, Fault::Protocol(why))
    }

    /// What is recorded of the layers of `storage`; nothing where it cannot be read.
    fn record(&self, storage: &Storage) -> Result<Vec<Layer>> {
        let driver = Path::new(&storage.graph_driver_name);
        if driver.file_name() != Some(driver.as_os_str()) {
            return Err(self.strange("podman info", format!("a driver {:?}", storage.graph_driver_name)));
        }
        let folder = format!("{}-layers", storage.graph_driver_name);
        let path = storage.graph_root.join(folder).join("layers.json");
        match read_bounded(&path, MAX_RECORD) {
            Ok(bytes) => self.read("layers.json", &bytes),
            Err(error) => {
                let is_empty = error.kind() == io::ErrorKind::NotFound;
                tracing::debug!(path = %path.display(), %error, is_empty, "podman's layers are not known");
                Ok(Vec::new())
            }
        }
    }
}

#[async_trait]
impl Engine for Podman {
    fn place(&self) -> String {
        self.program.place.clone()
    }

    async fn holdings(&self) -> Result<Holdings> {
        let about: About = self.read("podman info", &self.program.ask(&["info", "--format", "json"]).await?)?;
        let layers = if about.host.service_is_remote { Vec::new() } else { self.record(&about.store)? };
        let layers = || layers.iter().take(MAX_HELD);
        let diff_ids: BTreeSet<_> = layers().filter_map(|layer| layer.diff_digest.clone()).collect();
        // What came uncompressed is known by that digest, and by that one alone.
        let blobs = layers().filter_map(|layer| layer.compressed_diff_digest.clone().or(layer.diff_digest.clone()));
        Ok(Holdings { blobs: blobs.collect(), diff_ids, known: Known::Blob })
    }

    async fn load(&self, shipment: Shipment) -> Result<()> {
        self.program.feed(&["load", "-q"], shipment).await.map(drop)
    }

    async fn verify(&self, image: &Image) -> Result<()> {
        // A name without a tag is none to podman load.
        let id = image.id().hex().to_owned();
        let name = image.name().tag().map_or(id, |_| image.name().to_string());
        let place = &self.program.place;
        let words = ["image", "inspect", "--format", "json", &name];
        let found = match self.program.ask(&words).await {
            Err(Error::Invalid { why, .. }) if why.contains("image not known") => {
                return Err(Error::NotFound { what: name, place: place.clone(), why: String::new() });
            }
            found => self.read::<Vec<Inspected>>("podman image inspect", &found?)?,
        };
        let [found] = found.as_slice() else { return Err(self.strange("podman image inspect", "no image".into())) };
        if found.id != image.id().hex() {
            return Err(image.differs(place, "ID", &found.id));
        }
        if !found.is_known_as(&image.manifest().digest) {
            return Err(image.differs(place, "digest", &found.digest.to_string()));
        }
        match found.root_fs.layers.as_deref().unwrap_or_default() == image.diff_ids() {
            true => Ok(()),
            false => Err(image.differs(place, "list of layers", "another one")),
        }
    }
}
