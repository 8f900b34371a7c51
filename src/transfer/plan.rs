//! Walks the graph below each name and says what must travel. Sends HEAD and GET for manifests only.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::{BlobPlan, ImagePlan, Job, Plan, Platforms, Transfer};
use crate::content::{Holding, Root, Sink};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::oci::{Descriptor, Digest, Image, Index, Manifest, Platform, RawManifest, Reference};

/// Names, manifests and blobs that are looked up at the same time.
const LOOKUPS: usize = 16;
/// Indexes inside of indexes; real ones have one or two levels.
const MAX_DEPTH: usize = 8;
/// Manifests below one name.
const MAX_MANIFESTS: usize = 20_000;
/// Bytes of manifests below one name: they are kept in memory until they are written.
const MAX_MANIFEST_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of all blobs of a plan: the largest size that other clients can read (OCI image-spec, `descriptor.md`, int64).
const MAX_TOTAL: u64 = i64::MAX as u64;
/// Blobs below one name: what fits into manifests of 4 MiB many times over.
const MAX_BLOBS: usize = 200_000;

impl Transfer {
    /// Makes the plan for `jobs`. No byte of a blob moves.
    ///
    /// An image that cannot be planned is in [`Plan::failed`]; the others are planned all the same.
    ///
    /// # Errors
    /// When the sink cannot be read, or the transfer is cancelled.
    pub async fn plan(&self, jobs: Vec<Job>, sink: &Arc<dyn Sink>) -> Result<Plan> {
        let walks = jobs.into_iter().map(|job| async move {
            let walk = self.walk(&job, sink.as_ref()).await;
            (job, walk)
        });
        let walked: Vec<_> = stream::iter(walks).buffered(LOOKUPS).collect().await;
        let mut draft = Draft::default();
        for (job, walk) in walked {
            match walk.and_then(|walk| draft.add(&job, walk)) {
                Ok(()) => {}
                Err(error @ (Error::Interrupted | Error::Store { .. })) => return Err(error),
                Err(error) => draft.failed.push((job.name, error)),
            }
        }
        let plan = draft.finish(sink.as_ref()).await?;
        let blobs = plan.blobs.iter().map(|blob| (blob.descriptor.clone(), blob.holding)).collect();
        self.events.on(&Event::Planned { blobs });
        Ok(plan)
    }

    async fn walk(&self, job: &Job, sink: &dyn Sink) -> Result<Walk> {
        let root = self.root(job, sink).await?;
        self.events.on(&Event::Resolved { name: job.name.clone(), digest: root.digest.clone() });
        let mut walk = Walk::default();
        let mut level = vec![root.clone()];
        for depth in 0..MAX_DEPTH {
            let at_root = depth == 0;
            level = self.read_level(job, sink, &level, |node| walk.take(job, node, at_root)).await?;
            walk.seen_first(&mut level);
        }
        if !level.is_empty() {
            return Err(invalid(job, format!("its indexes nest deeper than {MAX_DEPTH} levels")));
        }
        walk.tagged = sink.tagged(&job.target).await?;
        walk.sort_children_first(&root.digest);
        walk.root = Some(root);
        Ok(walk)
    }

    /// What the name points to. A digest that the sink holds is not asked for.
    async fn root(&self, job: &Job, sink: &dyn Sink) -> Result<Descriptor> {
        if let Some(digest) = job.name.digest()
            && let Some(held) = sink.held_manifest(digest).await?
        {
            return Ok(held.descriptor());
        }
        self.persist(&job.name.to_string(), || job.source.resolve(&job.name)).await
    }

    /// Reads the manifests of one level, each of which is taken before many others are read; returns what `take` did.
    async fn read_level(
        &self,
        job: &Job,
        sink: &dyn Sink,
        level: &[Descriptor],
        mut take: impl FnMut(Node) -> Result<Vec<Descriptor>>,
    ) -> Result<Vec<Descriptor>> {
        let mut nodes = stream::iter(level).map(|descriptor| self.node(job, sink, descriptor)).buffered(LOOKUPS);
        let mut next = Vec::new();
        while let Some(node) = nodes.try_next().await? {
            next.extend(take(node)?);
        }
        Ok(next)
    }

    async fn node(&self, job: &Job, sink: &dyn Sink, descriptor: &Descriptor) -> Result<Node> {
        let held = sink.held_manifest(&descriptor.digest).await?;
        let is_held = held.is_some();
        let raw = match held {
            Some(raw) => raw,
            None => self.persist(&descriptor.digest.to_string(), || job.source.manifest(descriptor)).await?,
        };
        let manifest = raw.parse().map_err(|why| Error::manifest(job.source.place(), &raw.digest, why))?;
        Ok(Node { raw, manifest, is_held })
    }
}

/// A manifest that was read.
struct Node {
    raw: RawManifest,
    manifest: Manifest,
    is_held: bool,
}

/// What lies below one name.
#[derive(Default)]
struct Walk {
    root: Option<Descriptor>,
    tagged: Option<Root>,
    platforms: Option<Vec<Platform>>,
    children: HashMap<Digest, Vec<Digest>>,
    manifests: Vec<(RawManifest, bool)>,
    manifest_bytes: u64,
    /// Children that are read, or will be.
    seen: HashSet<Digest>,
    blobs: Vec<Descriptor>,
    blob_sizes: HashMap<Digest, u64>,
}

impl Walk {
    /// Notes a manifest and returns the children that are to be read next.
    fn take(&mut self, job: &Job, node: Node, is_root: bool) -> Result<Vec<Descriptor>> {
        if self.children.contains_key(&node.raw.digest) {
            return Ok(Vec::new());
        }
        self.manifest_bytes += node.raw.bytes.len() as u64;
        if self.children.len() >= MAX_MANIFESTS || self.manifest_bytes > MAX_MANIFEST_BYTES {
            let why = format!("it has more than {MAX_MANIFESTS} manifests or {MAX_MANIFEST_BYTES} bytes of them");
            return Err(invalid(job, why));
        }
        let children = match &node.manifest {
            Manifest::Image(image) => {
                self.take_blobs(job, image)?;
                Vec::new()
            }
            Manifest::Index(index) => self.choose(job, index, is_root)?,
        };
        let digests = children.iter().map(|child| child.digest.clone()).collect();
        self.children.insert(node.raw.digest.clone(), digests);
        self.manifests.push((node.raw, node.is_held));
        Ok(children)
    }

    /// Leaves of `level` what was in no level before: an index may name a child thousands of times.
    fn seen_first(&mut self, level: &mut Vec<Descriptor>) {
        level.retain(|child| self.seen.insert(child.digest.clone()));
    }

    /// A child may hang below two parents at different depths, so the order in which they were read is not enough.
    fn sort_children_first(&mut self, root: &Digest) {
        let mut order = HashMap::new();
        number(root, &self.children, &mut order);
        self.manifests.sort_by_key(|(raw, _)| order.get(&raw.digest).copied());
    }

    fn take_blobs(&mut self, job: &Job, image: &Image) -> Result<()> {
        for blob in image.blobs() {
            match self.blob_sizes.insert(blob.digest.clone(), blob.size) {
                None => self.blobs.push(blob.clone()),
                Some(size) if size == blob.size => {}
                Some(size) => return Err(two_sizes(job, &blob.digest, size, blob.size)),
            }
        }
        if self.blobs.len() > MAX_BLOBS {
            return Err(invalid(job, format!("it has more than {MAX_BLOBS} blobs")));
        }
        Ok(())
    }

    fn choose(&mut self, job: &Job, index: &Index, is_root: bool) -> Result<Vec<Descriptor>> {
        let wanted = match &job.platforms {
            Platforms::All => return Ok(known_children(index)),
            Platforms::Only(wanted) => wanted,
        };
        let mut chosen: Vec<Descriptor> = Vec::new();
        for platform in wanted {
            let child = index.best(platform).ok_or_else(|| no_platform(job, index, platform))?;
            if !chosen.iter().any(|c| c.digest == child.digest) {
                chosen.push(child.clone());
            }
        }
        if is_root {
            // The versions are left out: a store keeps names of platforms, and compares them with these.
            let named = |(wanted, child): (&Platform, &Descriptor)| {
                child.platform.as_ref().map_or_else(|| wanted.clone(), Platform::bare)
            };
            self.platforms = Some(wanted.iter().zip(&chosen).map(named).collect());
        }
        Ok(chosen)
    }
}

/// Numbers a node behind all that is below it. Digests cannot form a cycle, and the walk has bounded the depth.
fn number(node: &Digest, children: &HashMap<Digest, Vec<Digest>>, order: &mut HashMap<Digest, usize>) {
    if order.contains_key(node) {
        return;
    }
    for child in children.get(node).into_iter().flatten() {
        number(child, children, order);
    }
    order.insert(node.clone(), order.len());
}

/// Children that can be followed; what an index lists besides (unknown types) stays with its owner.
fn known_children(index: &Index) -> Vec<Descriptor> {
    index.manifests.iter().filter(|child| child.media_type.is_manifest()).cloned().collect()
}

fn no_platform(job: &Job, index: &Index, wanted: &Platform) -> Error {
    const SHOWN: usize = 20;
    let mut offered: Vec<String> =
        index.manifests.iter().filter_map(|c| c.platform.as_ref()).map(|p| p.to_string()).collect();
    offered.retain(|platform| platform != "unknown/unknown");
    offered.dedup();
    let more = offered.len().saturating_sub(SHOWN);
    offered.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Error::NotFound {
        what: format!("platform {wanted} of {}", job.name),
        place: job.source.place(),
        why: format!("it has {}{more}; choose with --platform", offered.join(", ")),
    }
}

fn invalid(job: &Job, why: String) -> Error {
    Error::Invalid { what: job.name.to_string(), place: job.source.place(), why }
}

fn two_sizes(job: &Job, digest: &Digest, one: u64, other: u64) -> Error {
    invalid(job, format!("blob {digest} is said to have {one} bytes and {other} bytes"))
}

/// A plan while images are added to it.
#[derive(Default)]
struct Draft {
    images: Vec<ImagePlan>,
    blobs: Vec<BlobPlan>,
    places: HashMap<Digest, usize>,
    /// Bytes of `blobs`.
    total: u64,
    failed: Vec<(Reference, Error)>,
}

impl Draft {
    fn add(&mut self, job: &Job, walk: Walk) -> Result<()> {
        let Some(descriptor) = walk.root else { return Err(invalid(job, "it has no root".into())) };
        for blob in &walk.blobs {
            if let Some(&place) = self.places.get(&blob.digest)
                && self.blobs[place].descriptor.size != blob.size
            {
                return Err(two_sizes(job, &blob.digest, self.blobs[place].descriptor.size, blob.size));
            }
        }
        let new = walk.blobs.iter().filter(|blob| !self.places.contains_key(&blob.digest));
        let total = new.map(|blob| blob.size).try_fold(self.total, u64::checked_add);
        let too_much = || invalid(job, format!("its blobs are said to have more than {MAX_TOTAL} bytes"));
        self.total = total.filter(|total| *total <= MAX_TOTAL).ok_or_else(too_much)?;
        let digests = walk.blobs.iter().map(|blob| blob.digest.clone()).collect();
        for blob in walk.blobs {
            self.add_blob(job, blob);
        }
        let root = Root { descriptor, platforms: walk.platforms };
        let covered = walk.tagged.is_some_and(|tagged| covers(&tagged, &root));
        self.images.push(ImagePlan {
            name: job.name.clone(),
            target: job.target.clone(),
            root,
            up_to_date: covered && walk.manifests.iter().all(|(_, is_held)| *is_held),
            manifests: walk.manifests.into_iter().filter(|(_, is_held)| !is_held).map(|(raw, _)| raw).collect(),
            blobs: digests,
        });
        Ok(())
    }

    fn add_blob(&mut self, job: &Job, blob: Descriptor) {
        let origins = job.source.origins(&blob);
        match self.places.get(&blob.digest) {
            Some(&place) => {
                let known = &mut self.blobs[place].origins;
                let is_new = |o: &Arc<dyn crate::content::Origin>| !known.iter().any(|k| k.host() == o.host());
                let new: Vec<_> = origins.into_iter().filter(is_new).collect();
                known.extend(new);
            }
            None => {
                self.places.insert(blob.digest.clone(), self.blobs.len());
                self.blobs.push(BlobPlan { descriptor: blob, holding: Holding::Missing, origins, mounts: Vec::new() });
            }
        }
    }

    /// Asks the sink what it has, and drops from "up to date" whatever lacks a blob.
    async fn finish(mut self, sink: &dyn Sink) -> Result<Plan> {
        let holdings: Vec<Holding> =
            stream::iter(&self.blobs).map(|blob| sink.holds(&blob.descriptor)).buffered(LOOKUPS).try_collect().await?;
        for (blob, holding) in self.blobs.iter_mut().zip(holdings) {
            blob.holding = holding;
        }
        let is_whole =
            |digest: &Digest| self.places.get(digest).is_some_and(|&place| self.blobs[place].holding == Holding::Whole);
        for image in &mut self.images {
            image.up_to_date &= image.blobs.iter().all(is_whole);
        }
        Ok(Plan { images: self.images, blobs: self.blobs, failed: self.failed })
    }
}

/// Whether what a name points to already includes `wanted`.
fn covers(tagged: &Root, wanted: &Root) -> bool {
    tagged.descriptor.digest == wanted.descriptor.digest
        && match (&tagged.platforms, &wanted.platforms) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(held), Some(wanted)) => wanted.iter().all(|platform| held.contains(platform)),
        }
}
