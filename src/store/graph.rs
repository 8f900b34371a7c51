//! What an entry of the index needs: the part of the graph below it that should be here.

use std::collections::{HashSet, VecDeque};
use std::io;

use bytes::Bytes;

use crate::content::file::{Folder, blob_path, read_all};
use crate::error::{Error, Result};
use crate::oci::manifest::{MAX_BLOBS, MAX_DEPTH, MAX_MANIFEST_SIZE, MAX_MANIFESTS};
use crate::oci::{Descriptor, Digest, Manifest, MediaType, Platform, RawManifest};

/// The graph below one descriptor, each node once, parents before children.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// Manifests and indexes that were read and are what their digests name.
    pub manifests: Vec<(Descriptor, Manifest)>,
    /// Configurations and layers, whether here or not.
    pub blobs: Vec<Descriptor>,
    /// Manifests that should be here and cannot be read, and why.
    pub unread: Vec<(Descriptor, Error)>,
}

/// What of an index is followed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Follow<'a> {
    /// Every child; one that is not here is reported.
    All,
    /// The best child for each of these.
    Platforms(&'a [Platform]),
    /// Every child that is here.
    Present,
}

impl<'a> Follow<'a> {
    pub fn of(platforms: Option<&'a [Platform]>) -> Follow<'a> {
        platforms.map_or(Follow::All, Follow::Platforms)
    }
}

impl Graph {
    /// All its nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().map(|(descriptor, _)| descriptor).chain(&self.blobs)
    }
}

/// Walks the graph below `root` in `folder`. What cannot be followed is in [`Graph::unread`]: the root, when it is deeper
/// or larger than any real image.
pub(super) fn walk(folder: &Folder, root: &Descriptor, follow: Follow<'_>) -> Graph {
    let mut graph = Graph::default();
    // What one parent calls a blob may be a manifest for another.
    let mut seen = HashSet::from([(root.digest.clone(), true)]);
    // Level by level, as a transfer walks: both find the same depth for a node that hangs below several parents.
    let mut todo = VecDeque::from([(root.clone(), 1)]);
    while let Some((node, depth)) = todo.pop_front() {
        if graph.is_too_much(depth, follow) {
            let why = format!("it has more than {MAX_DEPTH} levels, {MAX_MANIFESTS} manifests or {MAX_BLOBS} blobs");
            let (what, place) = (root.digest.to_string(), folder.path().display().to_string());
            graph.unread.push((root.clone(), Error::Invalid { what, place, why }));
            return graph;
        }
        let raw = read_manifest(folder, &node.digest, Some(&node.media_type));
        let manifest = match raw.and_then(|raw| understood(folder, &raw)) {
            Ok(manifest) => manifest,
            Err(error) => {
                graph.unfollowed(node, error, depth, follow);
                continue;
            }
        };
        for child in children(&manifest, follow) {
            let is_manifest = child.media_type.is_manifest();
            match seen.insert((child.digest.clone(), is_manifest)) {
                true if is_manifest => todo.push_back((child.clone(), depth + 1)),
                true => graph.blobs.push(child.clone()),
                false => {}
            }
        }
        graph.manifests.push((node, manifest));
    }
    graph
}

impl Graph {
    /// Whether no image has so much. What is followed because it is here is bounded by that: somebody took it.
    fn is_too_much(&self, depth: usize, follow: Follow<'_>) -> bool {
        let is_present = matches!(follow, Follow::Present);
        !is_present && (depth > MAX_DEPTH || self.manifests.len() >= MAX_MANIFESTS || self.blobs.len() > MAX_BLOBS)
    }

    /// Takes a manifest that cannot be followed.
    fn unfollowed(&mut self, node: Descriptor, error: Error, depth: usize, follow: Follow<'_>) {
        match (follow, &error) {
            (Follow::Present, Error::NotFound { .. }) => {}
            // An index may name anything as its child, also a layer. That needs nothing else, whoever names it.
            (Follow::Present, Error::Invalid { .. }) if depth > 1 => self.blobs.push(node),
            _ => self.unread.push((node, error)),
        }
    }
}

fn children<'m>(manifest: &'m Manifest, follow: Follow<'_>) -> Vec<&'m Descriptor> {
    match (manifest, follow) {
        (Manifest::Image(image), _) => image.blobs().collect(),
        (Manifest::Index(index), Follow::Platforms(platforms)) => {
            let chosen: Vec<_> = platforms.iter().filter_map(|platform| index.best(platform)).collect();
            let mut once = HashSet::new();
            chosen.into_iter().filter(|child| once.insert(&child.digest)).collect()
        }
        (Manifest::Index(index), _) => index.manifests.iter().collect(),
    }
}

/// Reads a manifest verbatim; its digest is verified. `claimed` is the type that its parent names.
pub(super) fn read_manifest(folder: &Folder, digest: &Digest, claimed: Option<&MediaType>) -> Result<RawManifest> {
    let place = || folder.path().display().to_string();
    let read = folder.blob(digest).and_then(|file| read_all(file, MAX_MANIFEST_SIZE));
    let bytes = match read {
        Ok(bytes) => Bytes::from(bytes),
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => {
            return Err(Error::Invalid { what: digest.to_string(), place: place(), why: e.to_string() });
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NotFound { what: digest.to_string(), place: place(), why: String::new() });
        }
        Err(e) => return Err(Error::store("read the manifest", folder.path().join(blob_path(digest)))(e)),
    };
    RawManifest::verified(digest, claimed, bytes).map_err(|e| Error::manifest(place(), digest, e))
}

fn understood(folder: &Folder, raw: &RawManifest) -> Result<Manifest> {
    raw.parse().map_err(|e| Error::manifest(folder.path().display(), &raw.digest, e))
}
