//! What a store has, for whoever packs something for it.

use std::collections::{HashMap, HashSet};

use super::graph::{Follow, Graph, walk};
use super::index::IndexFile;
use super::{Store, off};
use crate::content::file::{Folder, read_all};
use crate::error::Result;
use crate::oci::config::{self, MAX_CONFIG_SIZE};
use crate::oci::{Digest, Inventory, Manifest};

impl Store {
    /// What the images here need and have: blobs, manifests, and the uncompressed layers that their configurations name.
    /// What no image needs may be collected before something comes, and is no part of it. Stats blobs, hashes none.
    ///
    /// # Errors
    /// `Invalid` when `index.json` is damaged.
    pub async fn inventory(&self) -> Result<Inventory> {
        let store = self.clone();
        off(move || {
            let mut inventory = Inventory::default();
            let Some(folder) = store.disk.folder()? else { return Ok(inventory) };
            let here: HashMap<Digest, u64> =
                store.disk.blobs()?.into_iter().map(|(digest, meta)| (digest, meta.len())).collect();
            let mut configured = HashSet::new();
            for entry in IndexFile::read(&store.disk.paths)?.entries() {
                let platforms = entry.platforms();
                let graph = walk(&folder, &entry.descriptor, Follow::of(platforms.as_deref()));
                let held = graph.nodes().filter(|node| here.get(&node.digest) == Some(&node.size));
                inventory.blobs.extend(held.map(|node| node.digest.clone()));
                let new: Vec<Digest> = configs(&graph).filter(|digest| configured.insert(digest.clone())).collect();
                inventory.diff_ids.extend(new.iter().flat_map(|digest| diff_ids(&folder, digest)));
            }
            Ok(inventory)
        })
        .await
    }
}

/// The configurations of the images of `graph`.
fn configs(graph: &Graph) -> impl Iterator<Item = Digest> + '_ {
    graph.manifests.iter().filter_map(|(_, manifest)| match manifest {
        Manifest::Image(image) if image.config.media_type.is_config() => Some(image.config.digest.clone()),
        _ => None,
    })
}

/// The uncompressed layers that a configuration names; none where it cannot be read.
fn diff_ids(folder: &Folder, digest: &Digest) -> Vec<Digest> {
    let read = folder.blob(digest).and_then(|file| read_all(file, MAX_CONFIG_SIZE)).ok();
    let bytes = read.filter(|bytes| digest.matches(bytes));
    bytes.and_then(|bytes| config::diff_ids(&bytes).ok()).unwrap_or_default()
}
