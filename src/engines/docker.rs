//! docker, by its API. It keeps no compressed blobs: it knows a layer by its ChainID, and skips those that it has.

use std::collections::BTreeSet;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde::Deserialize;

use super::api::{Api, socket_of};
use super::image::Image;
use super::watch::{STANDSTILL, watched};
use super::{Engine, Holdings, Known, MAX_HELD, Shipment};
use crate::error::{Error, Result};
use crate::oci::config::chain_ids;
use crate::oci::{Descriptor, Digest, Reference};

/// Where docker listens unless something else is said.
const SOCKET: &str = "/var/run/docker.sock";
/// Images that are looked at, at most; above, the others count as not held.
const MAX_IMAGES: usize = 20_000;
/// Images that are looked at, at the same time.
const LOOKUPS: usize = 8;
/// The first docker that reads layers compressed with zstd.
const ZSTD_SINCE: u32 = 23;

/// Where docker may listen, as its own client finds it.
#[derive(Debug, Clone, Default)]
pub struct Socket {
    /// `DOCKER_HOST`.
    pub host: Option<String>,
    /// `XDG_RUNTIME_DIR`, where one without root listens.
    pub runtime: Option<PathBuf>,
}

/// docker.
#[derive(Debug, Clone)]
pub struct Docker {
    api: Api,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct About {
    #[serde(default)]
    server_version: String,
    #[serde(default)]
    driver_status: Option<Vec<(String, String)>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(default)]
    layers: Option<Vec<Digest>>,
}

impl Docker {
    /// docker where it listens.
    ///
    /// # Errors
    /// `Usage` for an address over a network.
    pub fn new(socket: Socket) -> Result<Docker> {
        let path = match (&socket.host, &socket.runtime) {
            (Some(address), _) if !address.is_empty() => socket_of(address)?,
            (_, Some(runtime)) if !PathBuf::from(SOCKET).exists() && runtime.join("docker.sock").exists() => {
                runtime.join("docker.sock")
            }
            _ => SOCKET.into(),
        };
        let place = format!("docker at {}", path.display());
        Ok(Docker { api: Api { socket: path, place } })
    }

    /// The docker-archive that docker makes of the image `name`, as it comes.
    ///
    /// # Errors
    /// `NotFound` when it has no such image; those of reaching docker.
    pub async fn save(&self, name: &Reference) -> Result<BoxStream<'static, Result<Bytes>>> {
        let saved = self.api.get_stream(&format!("/images/{name}/get")).await?;
        saved.ok_or_else(|| {
            let why = "`docker images` lists what it has".into();
            Error::NotFound { what: name.to_string(), place: self.api.place.clone(), why }
        })
    }

    async fn about(&self) -> Result<About> {
        self.api.get("/info").await?.ok_or_else(|| self.strange("it knows no /info"))
    }

    /// The image of this name or ID, if there is one.
    async fn inspect(&self, name: &str) -> Result<Option<Inspected>> {
        self.api.get(&format!("/images/{name}/json")).await
    }

    async fn inspect_listed(&self, listed: Listed) -> Result<Option<Inspected>> {
        // The ID is put into a path.
        let id: Digest = listed.id.parse().map_err(|_| self.strange("an image has an ID that is no digest"))?;
        self.inspect(&id.to_string()).await
    }

    fn strange(&self, why: &str) -> Error {
        Error::Invalid { what: "docker's API".into(), place: self.api.place.clone(), why: why.into() }
    }

    /// Docker before 23 takes an archive with zstd for one that is damaged.
    async fn check_compression(&self, image: &Image, layers: &[Descriptor]) -> Result<()> {
        if !layers.iter().any(|layer| layer.media_type.as_str().ends_with("+zstd")) {
            return Ok(());
        }
        let version = self.about().await?.server_version;
        match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
            Some(major) if major < ZSTD_SINCE => Err(Error::Invalid {
                what: image.name().to_string(),
                place: self.api.place.clone(),
                why: format!(
                    "docker {version} reads no layers compressed with zstd: update it to {ZSTD_SINCE} or later"
                ),
            }),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Engine for Docker {
    fn place(&self) -> String {
        self.api.place.clone()
    }

    async fn holdings(&self) -> Result<Holdings> {
        let listed: Vec<Listed> = self.api.get("/images/json").await?.unwrap_or_default();
        let inspected = stream::iter(listed.into_iter().take(MAX_IMAGES)).map(|listed| self.inspect_listed(listed));
        let mut inspected = inspected.buffered(LOOKUPS);
        let (mut diff_ids, mut chains) = (BTreeSet::new(), BTreeSet::new());
        while let Some(image) = inspected.try_next().await? {
            let layers = image.and_then(|image| image.root_fs.layers).unwrap_or_default();
            if diff_ids.len() + layers.len() > MAX_HELD {
                break;
            }
            chains.extend(chain_ids(&layers));
            diff_ids.extend(layers);
        }
        // With containerd's store behind it, it wants every blob, and tells of none.
        let is_containerd = self.about().await?.driver_status.unwrap_or_default();
        let is_containerd = is_containerd.iter().any(|(_, value)| value.starts_with("io.containerd."));
        let known = if is_containerd { Known::Nothing } else { Known::Chain(chains) };
        Ok(Holdings { blobs: BTreeSet::new(), diff_ids, known })
    }

    async fn load(&self, shipment: Shipment) -> Result<()> {
        self.check_compression(&shipment.image, &shipment.layers).await?;
        let (course, what) = (shipment.course.clone(), shipment.image.name().to_string());
        let posted = self.api.post_tar("/images/load?quiet=1", shipment.bytes);
        let report = watched(posted, || course.taken(), STANDSTILL, &self.api.place).await;
        // What ended the archive says more than what docker makes of it.
        if let Some(error) = course.failed() {
            return Err(error);
        }
        match complaint(&report?) {
            Some(why) => Err(Error::Invalid { what, place: self.api.place.clone(), why }),
            None => Ok(()),
        }
    }

    async fn verify(&self, image: &Image) -> Result<()> {
        let place = &self.api.place;
        // A name without a tag is none to docker.
        let name = image.name().tag().map_or_else(|| image.id().to_string(), |_| image.name().to_string());
        let Some(found) = self.inspect(&name).await? else {
            return Err(Error::NotFound { what: name, place: place.clone(), why: String::new() });
        };
        // With containerd's store the ID is that of the manifest.
        if ![image.id().to_string(), image.manifest().digest.to_string()].contains(&found.id) {
            return Err(image.differs(place, "ID", &found.id));
        }
        match found.root_fs.layers.unwrap_or_default() == image.diff_ids() {
            true => Ok(()),
            false => Err(image.differs(place, "list of layers", "another one")),
        }
    }
}

/// What a report of a load complains of: one JSON object a line, and where an unpacking fails only a text.
fn complaint(report: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        error: Option<String>,
        stream: Option<String>,
    }
    let lines = serde_json::Deserializer::from_slice(report).into_iter::<Line>().map_while(|line| line.ok());
    let unpacking = |text: &String| text.contains("Error unpacking");
    lines.into_iter().find_map(|line| line.error.or(line.stream.filter(unpacking)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_complains_of_in_a_report_is_found() {
        let good = br#"{"stream":"Loaded image: x:1\n"}"#;
        assert_eq!(complaint(good), None);
        assert_eq!(complaint(b""), None);
        let bad = br#"{"stream":"Loading layer"}
            {"errorDetail":{"message":"no such file"},"error":"no such file"}"#;
        assert_eq!(complaint(bad).unwrap(), "no such file");
        let unpacking = br#"{"stream":"Error unpacking image x:1: layer\n"}"#;
        assert!(complaint(unpacking).unwrap().contains("Error unpacking image"));
    }

    #[test]
    fn the_address_that_is_given_wins() {
        let at = |host: Option<&str>| Docker::new(Socket { host: host.map(str::to_owned), runtime: None });
        assert_eq!(at(Some("unix:///d.sock")).unwrap().place(), "docker at /d.sock");
        assert_eq!(at(None).unwrap().place(), "docker at /var/run/docker.sock");
        assert!(at(Some("tcp://127.0.0.1:2375")).is_err());
    }
}
