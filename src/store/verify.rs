//! Reads everything again and says what is broken.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt, TryStreamExt};

use super::graph::{Follow, walk};
use super::index::IndexFile;
use super::verified::Identity;
use super::{Store, off};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::oci::Digest;

/// A blob or manifest that is not what it should be.
#[derive(Debug, Clone)]
pub struct Broken {
    /// Its digest.
    pub digest: Digest,
    /// What is wrong with it.
    pub damage: Damage,
    /// The images that need it, as the index names them: a name, or a digest where there is none. Empty if none does.
    pub images: Vec<String>,
    found: Option<Identity>,
}

/// What is wrong with a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// It is not here.
    Missing,
    /// Its file has another size than the manifest states, in bytes.
    Size {
        /// What the manifest states.
        expected: u64,
        /// What the file has.
        found: u64,
    },
    /// Its bytes have another digest.
    Digest {
        /// Their digest.
        found: Digest,
    },
    /// It cannot be read, or is a manifest that cannot be followed.
    Unreadable(String),
}

/// A blob that should be here, or that lies here.
#[derive(Default)]
struct Expected {
    size: Option<u64>,
    images: BTreeSet<String>,
    unreadable: Option<String>,
}

impl Store {
    /// Hashes everything here again, and looks for what is missing. Says by events how far it is.
    ///
    /// # Errors
    /// `Invalid` when `index.json` is damaged, `Interrupted`, `Store` when the store cannot be listed.
    pub async fn verify(&self) -> Result<Vec<Broken>> {
        let expected = self.expected()?;
        let bytes = self.disk.blobs()?.iter().map(|(_, meta)| meta.len()).sum();
        self.events.on(&Event::Checking { blobs: expected.len(), bytes });
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
        let checks = stream::iter(expected).map(|(digest, expected)| self.examine(digest, expected));
        let found: Vec<Option<Broken>> = checks.buffer_unordered(threads).try_collect().await?;
        let mut broken: Vec<Broken> = found.into_iter().flatten().collect();
        broken.sort_by(|a, b| a.digest.cmp(&b.digest));
        Ok(broken)
    }

    /// Removes the file of a broken blob, so that the next pull fetches it. A file that changed meanwhile stays.
    ///
    /// # Errors
    /// `Store`.
    pub async fn remove_broken(&self, broken: &Broken) -> Result<()> {
        match broken.found {
            Some(identity) => self.disk.discard(&broken.digest, &identity),
            None => Ok(()),
        }
    }

    /// Everything that names need and everything that lies here.
    fn expected(&self) -> Result<BTreeMap<Digest, Expected>> {
        let mut all: BTreeMap<Digest, Expected> = BTreeMap::new();
        let Some(folder) = self.disk.folder()? else { return Ok(all) };
        for (digest, _) in self.disk.blobs()? {
            all.entry(digest).or_default();
        }
        for entry in IndexFile::read(&self.disk.paths)?.entries() {
            let name = entry.title();
            let platforms = entry.platforms();
            let graph = walk(&folder, &entry.descriptor, Follow::of(platforms.as_deref()));
            for node in graph.nodes().chain(graph.unread.iter().map(|(node, _)| node)) {
                let expected = all.entry(node.digest.clone()).or_default();
                expected.size.get_or_insert(node.size);
                expected.images.insert(name.clone());
            }
            for (node, error) in graph.unread.iter().filter(|(node, _)| node.media_type.is_manifest()) {
                all.entry(node.digest.clone()).or_default().unreadable = Some(error.to_string());
            }
        }
        Ok(all)
    }

    async fn examine(&self, digest: Digest, expected: Expected) -> Result<Option<Broken>> {
        let images = expected.images.into_iter().collect();
        let broken = |damage, found| Some(Broken { digest: digest.clone(), damage, images, found });
        let (file, identity) = match self.disk.look(&digest) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(broken(Damage::Missing, None)),
            Err(e) => return Ok(broken(Damage::Unreadable(e.to_string()), None)),
        };
        let found = identity.size();
        if let Some(expected) = expected.size.filter(|&size| size != found) {
            return Ok(broken(Damage::Size { expected, found }, Some(identity)));
        }
        let (disk, cancel, name) = (self.disk.clone(), self.cancel.clone(), digest.clone());
        let hashed = off(move || disk.hash(&name, file, identity, &cancel)).await;
        self.events.on(&Event::Checked { blob: digest.clone(), size: found });
        match (hashed, expected.unreadable) {
            (Err(Error::Interrupted), _) => Err(Error::Interrupted),
            (Err(e), _) => Ok(broken(Damage::Unreadable(e.to_string()), Some(identity))),
            (Ok(found), _) if found != digest => Ok(broken(Damage::Digest { found }, Some(identity))),
            (Ok(_), Some(why)) => Ok(broken(Damage::Unreadable(why), None)),
            (Ok(_), None) => Ok(None),
        }
    }
}
