//! What images a store has, for people.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::graph::{Follow, Graph, walk};
use super::index::{Entry, IndexFile};
use super::{Store, off};
use crate::content::file::{Folder, read_all};
use crate::error::Result;
use crate::oci::config::MAX_CONFIG_SIZE;
use crate::oci::{Config, Descriptor, Digest, Image, Manifest, Platform, Reference};

/// One entry of the index.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// The name as the file has it; `None` for an entry without one.
    pub name: Option<String>,
    /// The name, where it is a reference.
    pub reference: Option<Reference>,
    /// What the name points to.
    pub root: Descriptor,
    /// The platforms that are here.
    pub platforms: Vec<Platform>,
    /// Bytes of all that it needs and that is here, each blob once.
    pub size: u64,
    /// Bytes of what no other entry needs.
    pub own: u64,
    /// Blobs and manifests that it needs and that are not here.
    pub missing: Vec<Descriptor>,
}

impl StoredImage {
    /// Bytes of what other entries need, too.
    pub fn shared(&self) -> u64 {
        self.size - self.own
    }
}

/// An entry with the graph below it.
struct Known {
    entry: Entry,
    graph: Graph,
}

impl Store {
    /// The entries whose names are references, with what they point to. Reads `index.json` and nothing else.
    ///
    /// # Errors
    /// `Invalid` when `index.json` is damaged.
    pub async fn names(&self) -> Result<Vec<(Reference, Descriptor)>> {
        let disk = self.disk.clone();
        let entries = off(move || Ok(IndexFile::read(&disk.paths)?.entries())).await?;
        let named = |entry: Entry| Some((entry.reference()?, entry.descriptor));
        Ok(entries.into_iter().filter_map(named).collect())
    }

    /// The images, in the order of the index. Reads manifests, and stats blobs; hashes no blob.
    ///
    /// # Errors
    /// `Invalid` when `index.json` is damaged.
    pub async fn images(&self) -> Result<Vec<StoredImage>> {
        let store = self.clone();
        off(move || {
            let Some(folder) = store.disk.folder()? else { return Ok(Vec::new()) };
            let known = store.known(&folder)?;
            let sizes: HashMap<Digest, u64> =
                store.disk.blobs()?.into_iter().map(|(d, meta)| (d, meta.len())).collect();
            let users = users(&known);
            Ok(known.iter().map(|known| known.stored(&folder, &sizes, &users)).collect())
        })
        .await
    }

    /// Which images here have each layer, by the names that the index has for them, or a digest where there is none.
    ///
    /// # Errors
    /// `Invalid` when `index.json` is damaged.
    pub async fn sharing(&self) -> Result<BTreeMap<Digest, BTreeSet<String>>> {
        let store = self.clone();
        off(move || {
            let mut sharing: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
            let Some(folder) = store.disk.folder()? else { return Ok(sharing) };
            for known in store.known(&folder)? {
                for layer in known.images().flat_map(|(_, image)| &image.layers) {
                    sharing.entry(layer.digest.clone()).or_default().insert(known.entry.title());
                }
            }
            Ok(sharing)
        })
        .await
    }

    fn known(&self, folder: &Folder) -> Result<Vec<Known>> {
        let entries = IndexFile::read(&self.disk.paths)?.entries();
        let known = |entry: Entry| {
            let platforms = entry.platforms();
            let graph = walk(folder, &entry.descriptor, Follow::of(platforms.as_deref()));
            Known { entry, graph }
        };
        Ok(entries.into_iter().map(known).collect())
    }
}

/// How many entries need each node.
fn users(known: &[Known]) -> BTreeMap<Digest, usize> {
    let mut users = BTreeMap::new();
    for known in known {
        let once: HashSet<_> = known.graph.nodes().map(|node| &node.digest).collect();
        for digest in once {
            *users.entry(digest.clone()).or_default() += 1;
        }
    }
    users
}

impl Known {
    fn stored(&self, folder: &Folder, sizes: &HashMap<Digest, u64>, users: &BTreeMap<Digest, usize>) -> StoredImage {
        let name = self.entry.name().map(str::to_owned);
        let mut image = StoredImage {
            reference: self.entry.reference(),
            name,
            root: self.entry.descriptor.clone(),
            platforms: self.platforms(folder),
            size: 0,
            own: 0,
            missing: self.graph.unread.iter().map(|(node, _)| node.clone()).collect(),
        };
        let mut once = HashSet::new();
        for node in self.graph.nodes().filter(|node| once.insert(&node.digest)) {
            let Some(size) = sizes.get(&node.digest) else {
                image.missing.push(node.clone());
                continue;
            };
            image.size += size;
            image.own += if users.get(&node.digest) == Some(&1) { *size } else { 0 };
        }
        image
    }

    /// The image manifests with their descriptors.
    fn images(&self) -> impl Iterator<Item = (&Descriptor, &Image)> {
        self.graph.manifests.iter().filter_map(|(node, manifest)| match manifest {
            Manifest::Image(image) => Some((node, &**image)),
            Manifest::Index(_) => None,
        })
    }

    /// The platform of each image: as the index says, else as the configuration does.
    fn platforms(&self, folder: &Folder) -> Vec<Platform> {
        let platform =
            |(node, image): (&Descriptor, &Image)| node.platform.clone().or_else(|| configured(folder, image));
        let platforms: BTreeSet<_> = self.images().filter_map(platform).collect();
        platforms.into_iter().filter(|platform| platform.os != "unknown").collect()
    }
}

/// The platform in the configuration of an image, whose digest is verified.
fn configured(folder: &Folder, image: &Image) -> Option<Platform> {
    if !image.config.media_type.is_config() {
        return None;
    }
    let bytes = read_all(folder.blob(&image.config.digest).ok()?, MAX_CONFIG_SIZE).ok()?;
    image.config.digest.matches(&bytes).then(|| Config::parse(&bytes).ok())??.platform()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bare_tag_of_another_tool_is_no_repository() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.disk.paths.create().unwrap();
        let digest = Digest::of(b"{}");
        let entry = |name: &str| {
            format!(
                r#"{{"mediaType":"x","digest":"{digest}","size":2,"annotations":{{"{}":"{name}"}}}}"#,
                super::super::index::REF_NAME
            )
        };
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, entry("latest"), entry("h.example/a:1"));
        std::fs::write(store.disk.paths.index(), index).unwrap();
        let names: Vec<String> = store.names().await.unwrap().into_iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["h.example/a:1"]);
    }
}
