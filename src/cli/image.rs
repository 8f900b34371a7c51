//! Looks at one image of a place: its manifests and its configuration, without moving layers.

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;

use super::config::{Flags, RegistryFlags};
use crate::content::Source;
use crate::error::{Error, Result};
use crate::oci::config::MAX_CONFIG_SIZE;
use crate::oci::{Config, Descriptor, Image, Manifest, Platform, RawManifest};

/// Indexes within indexes that are followed, at most.
const MAX_DEPTH: usize = 8;

/// Flags of the commands that look at images.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageFlags {
    /// The platform to look at, as OS/ARCH[/VARIANT] [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,
    /// Look into the store, not at the registry
    #[arg(long)]
    pub local: bool,
    /// Which registry and how.
    #[command(flatten)]
    pub registry: RegistryFlags,
}

impl ImageFlags {
    /// Adds these to `flags`.
    pub fn flags(&self, flags: Flags) -> Flags {
        Flags { registry: self.registry.clone(), platform: self.platform.clone().into_iter().collect(), ..flags }
    }
}

/// An image of one platform, without its layers.
#[derive(Debug, Clone)]
pub struct Look {
    /// What the name points to: an index where there is one.
    pub root: Descriptor,
    /// The manifest of the platform.
    pub image: Image,
    /// The configuration, as it is.
    pub config: Bytes,
}

/// Looks at what `root` is for `platform`.
///
/// # Errors
/// Those of the place; `NotFound` when an index has nothing for `platform`.
pub async fn look(source: &dyn Source, root: Descriptor, platform: &Platform) -> Result<Look> {
    let manifest = manifest_for(source, &root, platform).await?;
    let image = match read(source, &manifest)? {
        Manifest::Image(image) => *image,
        Manifest::Index(_) => return Err(unusable(source, &manifest, "it is an index where an image should be")),
    };
    let config = config_of(source, &image).await?;
    Ok(Look { root, image, config })
}

impl Look {
    /// The configuration. An artifact has an empty one.
    pub fn config(&self) -> Config {
        Config::parse(&self.config).unwrap_or_default()
    }
}

/// The manifest that `root` is, or that its index names for `platform`.
///
/// # Errors
/// Those of the place; `NotFound` when an index has nothing for `platform`.
pub async fn manifest_for(source: &dyn Source, root: &Descriptor, platform: &Platform) -> Result<RawManifest> {
    let mut descriptor = root.clone();
    for _ in 0..MAX_DEPTH {
        let manifest = source.manifest(&descriptor).await?;
        match read(source, &manifest)? {
            Manifest::Image(_) => return Ok(manifest),
            Manifest::Index(index) => {
                let none = || Error::no_platform(source.place(), &manifest.digest, platform, &index);
                descriptor = index.best(platform).ok_or_else(none)?.clone();
            }
        }
    }
    Err(Error::Invalid {
        what: root.digest.to_string(),
        place: source.place(),
        why: format!("more than {MAX_DEPTH} indexes within each other"),
    })
}

fn read(source: &dyn Source, manifest: &RawManifest) -> Result<Manifest> {
    manifest.parse().map_err(|why| Error::manifest(source.place(), &manifest.digest, why))
}

fn unusable(source: &dyn Source, manifest: &RawManifest, why: &str) -> Error {
    Error::Invalid { what: manifest.digest.to_string(), place: source.place(), why: why.into() }
}

/// The configuration, verified. Tries the origins in turn.
///
/// # Errors
/// Those of the place; `Invalid` when it is too large, `Verification` when it is not what its digest names.
pub async fn config_of(source: &dyn Source, image: &Image) -> Result<Bytes> {
    let descriptor = &image.config;
    if descriptor.size > MAX_CONFIG_SIZE {
        return Err(Error::Invalid {
            what: descriptor.digest.to_string(),
            place: source.place(),
            why: format!("a configuration of {} bytes is larger than {MAX_CONFIG_SIZE}", descriptor.size),
        });
    }
    if descriptor.size == 0 {
        return checked(source, descriptor, Bytes::new());
    }
    let mut last = None;
    for origin in source.origins(descriptor) {
        match body(origin.as_ref(), descriptor).await.and_then(|bytes| checked(source, descriptor, bytes)) {
            Ok(bytes) => return Ok(bytes),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::NotFound {
        what: descriptor.digest.to_string(),
        place: source.place(),
        why: "the configuration has no place to come from".into(),
    }))
}

async fn body(origin: &dyn crate::content::Origin, descriptor: &Descriptor) -> Result<Bytes> {
    let mut body = origin.open(0..descriptor.size).await?;
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.bytes.next().await {
        bytes.extend_from_slice(&piece?);
        // One byte more than there should be is enough to fail the check.
        if bytes.len() as u64 > descriptor.size {
            break;
        }
    }
    Ok(bytes.freeze())
}

fn checked(source: &dyn Source, descriptor: &Descriptor, bytes: Bytes) -> Result<Bytes> {
    match bytes.len() as u64 == descriptor.size && descriptor.digest.matches(&bytes) {
        true => Ok(bytes),
        false => Err(Error::Verification {
            what: descriptor.digest.to_string(),
            place: source.place(),
            why: format!("{} of {} bytes, and they do not have this digest", bytes.len(), descriptor.size),
        }),
    }
}

#[cfg(test)]
pub(super) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::{Shelf, image};
    use super::*;

    fn amd64() -> Platform {
        "linux/amd64".parse().unwrap()
    }

    #[tokio::test]
    async fn an_index_is_followed_to_the_platform() {
        let mut shelf = Shelf::default();
        let (amd, arm) = (image("amd64", &[("ADD a", 10)]), image("arm64", &[("ADD b", 20)]));
        let root = shelf.index(vec![("linux/arm64", arm), ("linux/amd64", amd)]);
        let name = shelf.name("h.example/x:1", root);
        let seen = look(&shelf, shelf.resolve(&name).await.unwrap(), &amd64()).await.unwrap();
        assert_eq!(seen.config().architecture, "amd64");
        assert!(seen.root.media_type.is_index());
        let missing =
            look(&shelf, shelf.resolve(&name).await.unwrap(), &"linux/s390x".parse().unwrap()).await.unwrap_err();
        assert!(missing.to_string().contains("it has linux/arm64, linux/amd64; choose with --platform"), "{missing}");
    }

    #[tokio::test]
    async fn a_configuration_that_is_not_what_its_digest_names_is_refused() {
        let mut shelf = Shelf::default();
        let root = shelf.image(image("amd64", &[("ADD a", 10)]));
        let name = shelf.name("h.example/x:1", root);
        shelf.spoil_blobs();
        let error = look(&shelf, shelf.resolve(&name).await.unwrap(), &amd64()).await.unwrap_err();
        assert!(matches!(error, Error::Verification { .. }), "{error}");
    }

    #[tokio::test]
    async fn indexes_without_end_are_given_up() {
        let mut shelf = Shelf::default();
        let mut root = shelf.image(image("amd64", &[]));
        for _ in 0..MAX_DEPTH {
            root = shelf.nest(root);
        }
        let name = shelf.name("h.example/x:1", root);
        let error = look(&shelf, shelf.resolve(&name).await.unwrap(), &amd64()).await.unwrap_err();
        assert!(error.to_string().contains("more than 8 indexes"), "{error}");
    }
}
