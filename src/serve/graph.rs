//! What lies below the roots of a repository: a client may ask for that and nothing else.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::content::Source;
use crate::error::{Error, Result};
use crate::oci::manifest::{MAX_BLOBS, MAX_MANIFESTS};
use crate::oci::{Descriptor, Digest, Manifest};
use crate::store::Store;

/// The most manifests of one image whose referrers are looked for: the store reads all its manifests for each.
const MAX_SUBJECTS: usize = 64;
/// The most nodes that are remembered, over all graphs.
const MAX_REMEMBERED: usize = 500_000;

/// The descriptors of everything below one root, and the root.
type Graph = Arc<HashMap<Digest, Descriptor>>;

/// The graphs that were walked lately. Content under a digest does not change, so they need not be walked again.
#[derive(Default)]
pub(super) struct Graphs(Mutex<HashMap<Digest, Graph>>);

impl Graphs {
    /// The descriptor of `digest`, if it lies below one of `roots` or below something that refers to them.
    pub(super) async fn find(
        &self,
        store: &Store,
        roots: &[Descriptor],
        digest: &Digest,
    ) -> Result<Option<Descriptor>> {
        for root in roots {
            if let Some(found) = self.graph(store, root).await?.get(digest) {
                return Ok(Some(found.clone()));
            }
        }
        for root in roots {
            for referrer in self.referrers(store, root).await? {
                if let Some(found) = self.graph(store, &referrer).await?.get(digest) {
                    return Ok(Some(found.clone()));
                }
            }
        }
        Ok(None)
    }

    /// Signatures and the like of every manifest below `root`.
    async fn referrers(&self, store: &Store, root: &Descriptor) -> Result<Vec<Descriptor>> {
        let graph = self.graph(store, root).await?;
        let mut found = Vec::new();
        for manifest in graph.values().filter(|d| d.media_type.is_manifest()).take(MAX_SUBJECTS) {
            found.extend(store.referrers(&manifest.digest).await?);
        }
        Ok(found)
    }

    async fn graph(&self, store: &Store, root: &Descriptor) -> Result<Graph> {
        if let Some(graph) = self.remembered(&root.digest) {
            return Ok(graph);
        }
        let (graph, whole) = walk(store, root).await?;
        let graph = Arc::new(graph);
        // What is absent now may be there at the next request: an index is completed platform by platform.
        if whole {
            self.remember(&root.digest, &graph);
        }
        Ok(graph)
    }

    fn remembered(&self, root: &Digest) -> Option<Graph> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(root).cloned()
    }

    fn remember(&self, root: &Digest, graph: &Graph) {
        let mut graphs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if graphs.values().map(|g| g.len()).sum::<usize>() + graph.len() > MAX_REMEMBERED {
            graphs.clear();
        }
        graphs.insert(root.clone(), graph.clone());
    }
}

/// Everything below `root`, and whether all manifests were there.
async fn walk(store: &Store, root: &Descriptor) -> Result<(HashMap<Digest, Descriptor>, bool)> {
    let mut found = HashMap::from([(root.digest.clone(), root.clone())]);
    let mut waiting = VecDeque::from([root.clone()]);
    let mut seen = HashSet::from([root.digest.clone()]);
    let mut whole = true;
    while let Some(node) = waiting.pop_front() {
        let Some(children) = children(store, &node).await? else {
            whole = false;
            continue;
        };
        if found.len() + children.len() > MAX_MANIFESTS + MAX_BLOBS {
            let why = format!("it has more than {MAX_MANIFESTS} manifests and {MAX_BLOBS} blobs");
            return Err(Error::Invalid { what: root.digest.to_string(), place: store.place(), why });
        }
        for child in children {
            if child.media_type.is_manifest() && seen.insert(child.digest.clone()) {
                waiting.push_back(child.clone());
            }
            found.entry(child.digest.clone()).or_insert(child);
        }
    }
    Ok((found, whole))
}

/// What a manifest names; nothing where the store does not have it, or it cannot be followed.
async fn children(store: &Store, node: &Descriptor) -> Result<Option<Vec<Descriptor>>> {
    let manifest = match store.manifest(node).await {
        Ok(raw) => raw.parse(),
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(Error::Invalid { .. } | Error::Verification { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(manifest.ok().map(|manifest| match manifest {
        Manifest::Image(image) => image.blobs().cloned().collect(),
        Manifest::Index(index) => index.manifests,
    }))
}
