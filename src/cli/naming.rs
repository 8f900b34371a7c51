//! Which tags of a repository need a manifest: where only manifests can be deleted, all of them are lost with it.

use futures::stream::{self, StreamExt as _};

use crate::content::Source;
use crate::error::{Error, Result};
use crate::oci::manifest::{MAX_DEPTH, MAX_MANIFESTS};
use crate::oci::{Descriptor, Digest, Manifest, Reference};
use crate::registry::{Registry, Repository};
use crate::transfer::Transfer;

/// Tags that are looked up at the same time.
const LOOKUPS: usize = 16;

/// What needs a manifest beside the tag that it was asked for by.
#[derive(Debug, Default)]
pub struct Naming {
    /// That tag names it.
    pub is_own: bool,
    /// Other tags that name it, sorted.
    pub tags: Vec<String>,
    /// Tags of indexes that list it, at any depth, sorted.
    pub listing: Vec<String>,
    /// A tag of which it is not known, and why.
    pub unknown: Option<(String, Error)>,
}

impl Naming {
    /// Nothing else needs it.
    pub fn is_free(&self) -> bool {
        self.tags.is_empty() && self.listing.is_empty() && self.unknown.is_none()
    }
}

/// Asks for every tag of the repository of `name` what it needs of `digest`.
///
/// # Errors
/// When the tags cannot be listed, or the transfer is cancelled.
pub async fn of(registry: &Registry, transfer: &Transfer, name: &Reference, digest: &Digest) -> Result<Naming> {
    let looking = Looking { repository: registry.repository_to_write(name), transfer, digest };
    let tags = transfer.persist(&name.name(), || registry.tags(name)).await?;
    let needs = tags.iter().map(|tag| {
        let looking = &looking;
        async move { (tag, looking.need(name, tag).await) }
    });
    let needs: Vec<_> = stream::iter(needs).buffered(LOOKUPS).collect().await;
    let mut naming = Naming::default();
    for (tag, need) in needs {
        match need {
            Ok(Need::Names) if name.tag() == Some(tag) => naming.is_own = true,
            Ok(Need::Names) => naming.tags.push(tag.clone()),
            Ok(Need::Lists) => naming.listing.push(tag.clone()),
            Ok(Need::Nothing) => {}
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => naming.unknown = naming.unknown.or(Some((tag.clone(), error))),
        }
    }
    Ok(naming)
}

/// What a tag needs of the manifest.
enum Need {
    Names,
    Lists,
    Nothing,
}

struct Looking<'a> {
    repository: Repository,
    transfer: &'a Transfer,
    digest: &'a Digest,
}

impl Looking<'_> {
    async fn need(&self, name: &Reference, tag: &str) -> Result<Need> {
        let name = name.tagged(tag)?;
        let root = match self.transfer.persist(&name.to_string(), || self.repository.resolve(&name)).await {
            Ok(root) => root,
            // Gone since the tags were listed.
            Err(Error::NotFound { .. }) => return Ok(Need::Nothing),
            Err(error) => return Err(error),
        };
        if root.digest == *self.digest {
            return Ok(Need::Names);
        }
        Ok(if self.lists(root).await? { Need::Lists } else { Need::Nothing })
    }

    async fn lists(&self, root: Descriptor) -> Result<bool> {
        let (mut level, mut read) = (vec![root], 0);
        for _ in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for index in level.iter().filter(|node| node.media_type.is_index()) {
                read += 1;
                next.extend(self.children(index).await?);
            }
            if next.iter().any(|child| child.digest == *self.digest) {
                return Ok(true);
            }
            if read + next.len() > MAX_MANIFESTS {
                break;
            }
            level = next;
        }
        match level.iter().any(|node| node.media_type.is_index()) {
            false => Ok(false),
            true => Err(self.endless()),
        }
    }

    async fn children(&self, index: &Descriptor) -> Result<Vec<Descriptor>> {
        let read = || self.repository.manifest(index);
        let raw = match self.transfer.persist(&index.digest.to_string(), read).await {
            Ok(raw) => raw,
            Err(Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let invalid = |why| Error::manifest(self.repository.place(), &index.digest, why);
        match raw.parse().map_err(invalid)? {
            Manifest::Index(index) => Ok(index.manifests),
            Manifest::Image(_) => Ok(Vec::new()),
        }
    }

    fn endless(&self) -> Error {
        Error::Invalid {
            what: self.digest.to_string(),
            place: self.repository.place(),
            why: format!("an index has more than {MAX_MANIFESTS} manifests, or more than {MAX_DEPTH} levels"),
        }
    }
}
