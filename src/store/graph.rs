//! What an entry of the index needs: the part of the graph below it that should be here.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::layout::read_all;
use crate::content::file::Folder;
use crate::error::{Error, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Index, Manifest, MediaType, Platform, RawManifest};

/// How deep indexes may nest.
const MAX_DEPTH: usize = 16;
/// How many nodes one image may have.
const MAX_NODES: usize = 200_000;

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

/// Walks the graph below `root` in `folder`.
///
/// # Errors
/// `Invalid` when it is deeper or larger than any real image.
pub(super) fn walk(folder: &Folder, root: &Descriptor, follow: Follow<'_>) -> Result<Graph> {
    let mut graph = Graph::default();
    let mut seen = HashSet::from([root.digest.clone()]);
    let mut todo = vec![(root.clone(), 0)];
    while let Some((node, depth)) = todo.pop() {
        if depth > MAX_DEPTH || seen.len() > MAX_NODES {
            let why = format!("its graph is deeper than {MAX_DEPTH} or has more than {MAX_NODES} nodes");
            let (what, place) = (root.digest.to_string(), folder.path().display().to_string());
            return Err(Error::Invalid { what, place, why });
        }
        let manifest = match read_manifest(folder, &node.digest, Some(&node.media_type))
            .and_then(|raw| understood(folder, &raw))
        {
            Ok(manifest) => manifest,
            Err(error) => {
                let absent_is_fine = matches!((follow, &error), (Follow::Present, Error::NotFound { .. }));
                if !absent_is_fine {
                    graph.unread.push((node, error));
                }
                continue;
            }
        };
        for child in children(&manifest, follow) {
            if !seen.insert(child.digest.clone()) {
                continue;
            }
            match child.media_type.is_manifest() {
                true => todo.push((child.clone(), depth + 1)),
                false => graph.blobs.push(child.clone()),
            }
        }
        graph.manifests.push((node, manifest));
    }
    Ok(graph)
}

fn children<'m>(manifest: &'m Manifest, follow: Follow<'_>) -> Vec<&'m Descriptor> {
    match (manifest, follow) {
        (Manifest::Image(image), _) => image.blobs().collect(),
        (Manifest::Index(index), Follow::Platforms(platforms)) => {
            let chosen: Vec<_> = platforms.iter().flat_map(|platform| best(index, platform)).collect();
            let mut once = HashSet::new();
            chosen.into_iter().filter(|child| once.insert(&child.digest)).collect()
        }
        (Manifest::Index(index), _) => index.manifests.iter().collect(),
    }
}

/// The child for `platform`: the first of the best rank; where none names a fitting one, those that name none at all.
fn best<'i>(index: &'i Index, platform: &Platform) -> Vec<&'i Descriptor> {
    let rank = |child: &Descriptor| child.platform.as_ref().and_then(|offered| platform.rank(offered));
    let ranked = index.manifests.iter().filter_map(|child| Some((rank(child)?, child)));
    match ranked.min_by_key(|(rank, _)| *rank) {
        Some((_, child)) => vec![child],
        None => index.manifests.iter().filter(|child| child.platform.is_none()).collect(),
    }
}

/// Reads a manifest verbatim; its digest is verified. `claimed` is the type that its parent names.
pub(super) fn read_manifest(folder: &Folder, digest: &Digest, claimed: Option<&MediaType>) -> Result<RawManifest> {
    let place = || folder.path().display().to_string();
    let read = folder.blob(digest).and_then(|file| read_all(file, MAX_MANIFEST_SIZE));
    let bytes = match read {
        Ok(bytes) => Bytes::from(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NotFound { what: digest.to_string(), place: place(), why: String::new() });
        }
        Err(e) => return Err(Error::store("read the manifest", blob_of(folder.path(), digest))(e)),
    };
    if !digest.matches(&bytes) {
        let why = format!("the bytes stored have digest {}", Digest::of(&bytes));
        return Err(Error::Verification { what: digest.to_string(), place: place(), why });
    }
    let raw = RawManifest::new(claimed, bytes).map_err(|e| Error::manifest(place(), digest, e))?;
    Ok(RawManifest { digest: digest.clone(), ..raw })
}

fn blob_of(root: &Path, digest: &Digest) -> std::path::PathBuf {
    root.join(crate::content::file::blob_path(digest))
}

pub(super) fn understood(folder: &Folder, raw: &RawManifest) -> Result<Manifest> {
    raw.parse().map_err(|e| Error::manifest(folder.path().display(), &raw.digest, e))
}
