//! Walks the graph below each name and says what must travel. Sends HEAD and GET for manifests only.

use std::collections::{HashMap, HashSet};
use std::pin::pin;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::draft::Draft;
use super::{Job, Plan, Platforms, Transfer};
use crate::content::Root;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::oci::manifest::{MAX_BLOBS, MAX_DEPTH, MAX_MANIFESTS};
use crate::oci::{Descriptor, Digest, Image, Index, Manifest, Platform, RawManifest};

/// Names, manifests and blobs that are looked up at the same time.
pub(super) const LOOKUPS: usize = 16;
/// Bytes of manifests below one name: they are kept in memory until they are written.
const MAX_MANIFEST_BYTES: u64 = 64 * 1024 * 1024;

impl Transfer {
    /// Makes the plan for `jobs`. No byte of a blob moves.
    ///
    /// An image that cannot be planned is in [`Plan::failed`]; the others are planned all the same.
    ///
    /// # Errors
    /// When the sink cannot be read, or the transfer is cancelled.
    pub async fn plan(&self, jobs: Vec<Job>) -> Result<Plan> {
        let walks = jobs.into_iter().map(|job| async move {
            let walk = self.walk(&job).await;
            (job, walk)
        });
        let mut walks = pin!(stream::iter(walks).buffered(LOOKUPS));
        let mut draft = Draft::default();
        while let Some((job, walk)) = walks.next().await {
            match walk.and_then(|walk| draft.add(&job, walk)) {
                Ok(()) => {}
                Err(error @ (Error::Interrupted | Error::Store { .. })) => return Err(error),
                Err(error) => draft.failed.push((job.name, error.into())),
            }
        }
        let plan = draft.finish(self).await?;
        let own = plan.blobs.iter().filter(|blob| blob.after.is_none());
        let blobs = own.map(|blob| (blob.descriptor.clone(), blob.holding)).collect();
        self.events.on(&Event::Planned { blobs });
        Ok(plan)
    }

    async fn walk(&self, job: &Job) -> Result<Walk> {
        let tagged = self.persist(&job.target.to_string(), || job.sink.tagged(&job.target)).await?;
        // A store may have the manifest under another name: a HEAD, which costs nothing at registries that count, tells.
        let named = match (&tagged, job.sink.repository()) {
            (None, Some(_)) => self.root_to_read(job).await?,
            _ => self.root(job).await?,
        };
        self.events.on(&Event::Resolved { name: job.name.clone(), digest: named.digest.clone() });
        let (root, made) = self.narrow(job, named).await?;
        let mut walk = Walk::of(root.clone(), job);
        walk.tagged = tagged;
        if walk.is_vouched_for(job) {
            return Ok(walk);
        }
        let mut level = match made {
            Some(node) => walk.take(job, node, true)?,
            None => self.read_level(job, &[root], |node| walk.take(job, node, true)).await?,
        };
        for _ in 1..MAX_DEPTH {
            walk.seen_first(&mut level);
            level = self.read_level(job, &level, |node| walk.take(job, node, false)).await?;
        }
        walk.seen_first(&mut level);
        if !level.is_empty() {
            return Err(invalid(job, format!("its indexes nest deeper than {MAX_DEPTH} levels")));
        }
        walk.sort_children_first();
        Ok(walk)
    }

    /// Registries take an index only with all its children: of one of which some platforms are wanted, the only child
    /// that is, or a new index of those that are.
    async fn narrow(&self, job: &Job, root: Descriptor) -> Result<(Descriptor, Option<Node>)> {
        let Platforms::Only(wanted) = &job.platforms else { return Ok((root, None)) };
        if job.sink.repository().is_none() || !root.media_type.is_index() {
            return Ok((root, None));
        }
        let node = self.node(job, &root).await?;
        let Manifest::Index(index) = &node.manifest else { return Ok((root, Some(node))) };
        let chosen = choose(job, index, wanted)?;
        if let [only] = chosen.as_slice() {
            return Ok((only.clone(), None));
        }
        let keep = |child: &Descriptor| chosen.iter().any(|c| c.digest == child.digest);
        let raw = node.raw.narrowed(keep).map_err(|why| Error::manifest(job.source.place(), &root.digest, why))?;
        let text = format!("{}: a new index of {} platforms is made: {}", job.name, chosen.len(), raw.digest);
        self.events.on(&Event::Warning { text });
        let manifest = raw.parse().map_err(|why| Error::manifest(job.source.place(), &raw.digest, why))?;
        Ok((raw.descriptor(), Some(Node { raw, manifest, is_held: false })))
    }

    /// What the name points to. A digest that the sink holds is not asked for.
    pub(super) async fn root(&self, job: &Job) -> Result<Descriptor> {
        match held_root(job).await? {
            Some(held) => Ok(held),
            None => self.persist(&job.name.to_string(), || job.source.resolve(&job.name)).await,
        }
    }

    /// The same where the target has nothing under its name, so that the manifest is read next.
    async fn root_to_read(&self, job: &Job) -> Result<Descriptor> {
        match held_root(job).await? {
            Some(held) => Ok(held),
            None => self.persist(&job.name.to_string(), || job.source.resolve_to_read(&job.name)).await,
        }
    }

    /// Reads the manifests of one level, each of which is taken before many others are read; returns what `take` did.
    async fn read_level(
        &self,
        job: &Job,
        level: &[Descriptor],
        mut take: impl FnMut(Node) -> Result<Vec<Descriptor>>,
    ) -> Result<Vec<Descriptor>> {
        let mut nodes = stream::iter(level).map(|descriptor| self.node(job, descriptor)).buffered(LOOKUPS);
        let mut next = Vec::new();
        while let Some(node) = nodes.try_next().await? {
            next.extend(take(node)?);
        }
        Ok(next)
    }

    pub(super) async fn node(&self, job: &Job, descriptor: &Descriptor) -> Result<Node> {
        let held = job.sink.held_manifest(&descriptor.digest).await?;
        let is_held = held.is_some();
        let raw = match held {
            Some(raw) => raw,
            None => self.persist(&descriptor.digest.to_string(), || job.source.manifest(descriptor)).await?,
        };
        let manifest = raw.parse().map_err(|why| Error::manifest(job.source.place(), &raw.digest, why))?;
        Ok(Node { raw, manifest, is_held })
    }
}

async fn held_root(job: &Job) -> Result<Option<Descriptor>> {
    let Some(digest) = job.name.digest() else { return Ok(None) };
    Ok(job.sink.held_manifest(digest).await?.map(|held| held.descriptor()))
}

/// A manifest that was read.
pub(super) struct Node {
    raw: RawManifest,
    pub(super) manifest: Manifest,
    is_held: bool,
}

/// What lies below one name.
pub(super) struct Walk {
    pub(super) root: Descriptor,
    /// What the target's name points to now.
    pub(super) tagged: Option<Root>,
    /// The platforms that were chosen, where not everything is taken.
    pub(super) platforms: Option<Vec<Platform>>,
    /// Children before parents, once sorted; whether the sink has them.
    pub(super) manifests: Vec<(RawManifest, bool)>,
    pub(super) blobs: Vec<Descriptor>,
    /// What of an index is followed.
    follow: Platforms,
    children: HashMap<Digest, Vec<Digest>>,
    manifest_bytes: u64,
    /// Children that are read, or will be.
    seen: HashSet<Digest>,
    blob_sizes: HashMap<Digest, u64>,
}

impl Walk {
    fn of(root: Descriptor, job: &Job) -> Walk {
        let narrowed = job.sink.repository().is_some();
        Walk {
            root,
            tagged: None,
            platforms: None,
            manifests: Vec::new(),
            blobs: Vec::new(),
            follow: if narrowed { Platforms::All } else { job.platforms.clone() },
            children: HashMap::new(),
            manifest_bytes: 0,
            seen: HashSet::new(),
            blob_sizes: HashMap::new(),
        }
    }

    /// The target's name points to it already, at a registry: that took it only with everything below.
    fn is_vouched_for(&self, job: &Job) -> bool {
        let there = self.tagged.as_ref().map(|tagged| &tagged.descriptor.digest);
        job.sink.repository().is_some() && there == Some(&self.root.digest)
    }

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
    fn sort_children_first(&mut self) {
        let order = children_first(&self.root.digest, &self.children);
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
        let wanted = match &self.follow {
            Platforms::All => return Ok(known_children(index)),
            Platforms::Only(wanted) => wanted,
        };
        let chosen = choose(job, index, wanted)?;
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

/// The best child for each platform that is wanted, each once.
pub(super) fn choose(job: &Job, index: &Index, wanted: &[Platform]) -> Result<Vec<Descriptor>> {
    let mut chosen: Vec<Descriptor> = Vec::new();
    for platform in wanted {
        let absent = || Error::no_platform(job.source.place(), &job.name, platform, index);
        let child = index.best(platform).ok_or_else(absent)?;
        if !chosen.iter().any(|c| c.digest == child.digest) {
            chosen.push(child.clone());
        }
    }
    Ok(chosen)
}

/// Numbers each node behind all that is below it. Digests cannot form a cycle; a path may be as long as there are nodes.
fn children_first(root: &Digest, children: &HashMap<Digest, Vec<Digest>>) -> HashMap<Digest, usize> {
    let mut order = HashMap::new();
    let mut path = vec![(root, 0)];
    while let Some((node, next)) = path.last_mut() {
        let below = children.get(*node).map_or(&[][..], Vec::as_slice);
        match below.get(*next) {
            Some(child) => {
                *next += 1;
                if !order.contains_key(child) {
                    path.push((child, 0));
                }
            }
            None => {
                order.insert((*node).clone(), order.len());
                path.pop();
            }
        }
    }
    order
}

/// Children that can be followed; what an index lists besides (unknown types) stays with its owner.
pub(super) fn known_children(index: &Index) -> Vec<Descriptor> {
    index.manifests.iter().filter(|child| child.media_type.is_manifest()).cloned().collect()
}

pub(super) fn invalid(job: &Job, why: String) -> Error {
    Error::Invalid { what: job.name.to_string(), place: job.source.place(), why }
}

pub(super) fn two_sizes(job: &Job, digest: &Digest, one: u64, other: u64) -> Error {
    invalid(job, format!("blob {digest} is said to have {one} bytes and {other} bytes"))
}
