//! One image of an archive on disk, as a source.

use std::sync::Arc;

use async_trait::async_trait;

use super::transport::Spot;
use crate::archive::{Archive, Packed};
use crate::content::{Origin, Source};
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, Platform, RawManifest, Reference};

/// Names that a message lists, at most.
const SHOWN: usize = 20;

/// One image of an archive.
pub struct Picked {
    archive: Archive,
    root: Descriptor,
    /// The platforms of an index that are in it, where not all are.
    pub platforms: Option<Vec<Platform>>,
    place: String,
}

impl Picked {
    /// The image of `archive` that `spot` names: the only one, where it names none.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Usage` when several are meant.
    pub fn of(spot: &Spot, archive: Archive) -> Result<Picked> {
        let images = archive.images();
        let (name, place) = (spot.name(), spot.to_string());
        let position = name.and_then(|name| name.strip_prefix('@')).and_then(|number| number.parse::<usize>().ok());
        let mut found: Vec<&Packed> = match (position, name) {
            (Some(position), _) => images.get(position).into_iter().collect(),
            (None, Some(name)) => images.iter().filter(|image| goes_by(image, name, spot)).collect(),
            (None, None) => images.iter().collect(),
        };
        found.dedup_by_key(|image| &image.root.digest);
        match found.as_slice() {
            [only] => {
                let (root, platforms) = (only.root.clone(), only.platforms.clone());
                Ok(Picked { root, platforms, place, archive })
            }
            [] => {
                let (what, why) = (name.unwrap_or("an image").to_owned(), format!("it has {}", listed(images)));
                Err(Error::NotFound { what, place, why })
            }
            _ => Err(Error::Usage(format!("{place}: say which image as …:NAME; it has {}", listed(images)))),
        }
    }
}

fn goes_by(image: &Packed, name: &str, spot: &Spot) -> bool {
    let is_reference = || spot.reference().is_some_and(|reference| image.reference.as_ref() == Some(&reference));
    image.name.as_deref() == Some(name) || is_reference()
}

fn listed(images: &[Packed]) -> String {
    let title = |image: &Packed| image.name.clone().unwrap_or_else(|| image.root.digest.to_string());
    let mut titles: Vec<String> = images.iter().take(SHOWN).map(title).collect();
    if images.len() > SHOWN {
        titles.push(format!("{} more", images.len() - SHOWN));
    }
    if titles.is_empty() { "none".into() } else { titles.join(", ") }
}

#[async_trait]
impl Source for Picked {
    fn place(&self) -> String {
        self.place.clone()
    }

    async fn resolve(&self, _: &Reference) -> Result<Descriptor> {
        Ok(self.root.clone())
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        self.archive.manifest(descriptor).await
    }

    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        self.archive.origins(blob)
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        self.archive.referrers(subject).await
    }
}
