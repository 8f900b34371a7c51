//! A plan while images are added to it: which blobs they share, what the sinks have, what can be mounted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt};

use super::plan::{LOOKUPS, Walk, invalid, two_sizes};
use super::{BlobPlan, ImagePlan, Job, Plan, Transfer};
use crate::content::{Holding, Root, Sink};
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, RawManifest, Reference};

/// Bytes of all blobs of a plan: the largest size that other clients can read (OCI image-spec, `descriptor.md`, int64).
const MAX_TOTAL: u64 = i64::MAX as u64;
/// Bytes of all manifests of a plan, each once: they are kept in memory until they are written.
const MAX_MANIFEST_BYTES: u64 = 512 * 1024 * 1024;
/// Repositories that a blob is tried to be mounted from.
const MAX_MOUNTS: usize = 3;

/// A plan while images are added to it.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) failed: Vec<(Reference, Arc<Error>)>,
    images: Vec<ImagePlan>,
    blobs: Vec<BlobPlan>,
    sinks: Vec<Arc<dyn Sink>>,
    /// Where a blob for a sink stands in `blobs`.
    places: HashMap<(usize, Digest), usize>,
    /// The sources of each blob, so that one that many tags name is not asked through each of them.
    sources: Vec<Vec<String>>,
    /// Blobs that a mount is sure to give: the sink need not be asked.
    promised: HashSet<usize>,
    /// Each manifest once, however many names lead to it.
    manifests: HashMap<Digest, RawManifest>,
    manifest_bytes: u64,
    /// Bytes of `blobs`.
    total: u64,
}

impl Draft {
    pub(super) fn add(&mut self, job: &Job, walk: Walk) -> Result<()> {
        let sink = self.sink(&job.sink);
        self.check_sizes(job, sink, &walk)?;
        let blobs = walk.blobs.iter().map(|blob| self.add_blob(job, sink, blob)).collect();
        let root = Root { descriptor: walk.root, platforms: walk.platforms };
        let covered = walk.tagged.is_some_and(|tagged| covers(&tagged, &root));
        let up_to_date = covered && walk.manifests.iter().all(|(_, is_held)| *is_held);
        let missing = walk.manifests.into_iter().filter(|(_, is_held)| !is_held);
        let manifests = missing.map(|(raw, _)| self.share(raw)).collect();
        if self.manifest_bytes > MAX_MANIFEST_BYTES {
            return Err(invalid(job, format!("all manifests together have more than {MAX_MANIFEST_BYTES} bytes")));
        }
        self.images.push(ImagePlan {
            name: job.name.clone(),
            target: job.target.clone(),
            sink: Arc::clone(&job.sink),
            root,
            up_to_date,
            manifests,
            blobs,
        });
        Ok(())
    }

    fn sink(&mut self, sink: &Arc<dyn Sink>) -> usize {
        self.sinks.iter().position(|known| Arc::ptr_eq(known, sink)).unwrap_or_else(|| {
            self.sinks.push(Arc::clone(sink));
            self.sinks.len() - 1
        })
    }

    fn check_sizes(&mut self, job: &Job, sink: usize, walk: &Walk) -> Result<()> {
        let mut total = Some(self.total);
        for blob in &walk.blobs {
            match self.places.get(&(sink, blob.digest.clone())).map(|&place| self.blobs[place].descriptor.size) {
                Some(size) if size != blob.size => return Err(two_sizes(job, &blob.digest, size, blob.size)),
                Some(_) => {}
                None => total = total.and_then(|total| total.checked_add(blob.size)),
            }
        }
        let too_much = || invalid(job, format!("its blobs are said to have more than {MAX_TOTAL} bytes"));
        self.total = total.filter(|total| *total <= MAX_TOTAL).ok_or_else(too_much)?;
        Ok(())
    }

    fn share(&mut self, raw: RawManifest) -> RawManifest {
        let known = self.manifests.entry(raw.digest.clone()).or_insert_with(|| {
            self.manifest_bytes += raw.bytes.len() as u64;
            raw
        });
        known.clone()
    }

    fn add_blob(&mut self, job: &Job, sink: usize, blob: &Descriptor) -> usize {
        let place = *self.places.entry((sink, blob.digest.clone())).or_insert_with(|| {
            self.blobs.push(BlobPlan {
                descriptor: blob.clone(),
                sink: Arc::clone(&self.sinks[sink]),
                holding: Holding::Missing,
                origins: Vec::new(),
                mounts: Vec::new(),
                after: None,
            });
            self.sources.push(Vec::new());
            self.blobs.len() - 1
        });
        let source = job.source.place();
        if !self.sources[place].contains(&source) {
            self.sources[place].push(source);
            self.blobs[place].origins.extend(job.source.origins(blob));
            self.mount_from_source(job, place);
        }
        place
    }

    /// From one repository into another of the same registry nothing needs to travel.
    fn mount_from_source(&mut self, job: &Job, place: usize) {
        if let (Some(from), Some(to)) = (job.source.repository(), job.sink.repository())
            && from.registry == to.registry
            && from.repository != to.repository
        {
            self.blobs[place].mounts.push(from.repository);
            self.promised.insert(place);
        }
    }

    /// Asks the sinks what they have, and drops from "up to date" whatever lacks a blob.
    pub(super) async fn finish(mut self, transfer: &Transfer) -> Result<Plan> {
        self.find_mounts();
        let holdings = (0..self.blobs.len()).map(|i| self.holding(i, transfer));
        let holdings: Vec<Result<Holding>> = stream::iter(holdings).buffered(LOOKUPS).collect().await;
        let mut refused = HashMap::new();
        for (i, holding) in holdings.into_iter().enumerate() {
            match holding {
                Ok(holding) => self.blobs[i].holding = holding,
                Err(error @ (Error::Interrupted | Error::Store { .. })) => return Err(error),
                Err(error) => {
                    refused.insert(i, Arc::new(error));
                }
            }
        }
        self.drop_images(refused);
        for image in &mut self.images {
            image.up_to_date &= image.blobs.iter().all(|&i| self.blobs[i].holding == Holding::Whole);
        }
        Ok(Plan { images: self.images, blobs: self.blobs, failed: self.failed })
    }

    async fn holding(&self, i: usize, transfer: &Transfer) -> Result<Holding> {
        let blob = &self.blobs[i];
        if self.promised.contains(&i) {
            return Ok(Holding::Missing);
        }
        transfer.persist(&blob.descriptor.digest.to_string(), || blob.sink.holds(&blob.descriptor)).await
    }

    /// A blob that goes into several repositories of a registry goes into the first, and is mounted into the others.
    fn find_mounts(&mut self) {
        let mut first: HashMap<(String, Digest), (usize, String)> = HashMap::new();
        for i in 0..self.blobs.len() {
            let Some(to) = self.blobs[i].sink.repository() else { continue };
            let digest = self.blobs[i].descriptor.digest.clone();
            let mut mounts = std::mem::take(&mut self.blobs[i].mounts);
            match first.get(&(to.registry.clone(), digest.clone())) {
                Some((leader, repository)) => {
                    mounts.insert(0, repository.clone());
                    self.blobs[i].after = Some(*leader);
                    self.promised.insert(i);
                }
                None => {
                    first.insert((to.registry, digest.clone()), (i, to.repository.clone()));
                    mounts.extend(self.blobs[i].sink.mounts(&digest));
                }
            }
            let mut seen = HashSet::new();
            mounts.retain(|from| *from != to.repository && seen.insert(from.clone()));
            mounts.truncate(MAX_MOUNTS);
            self.blobs[i].mounts = mounts;
        }
    }

    /// The images that need a blob which a sink refused fail; blobs that no other image needs go with them.
    fn drop_images(&mut self, refused: HashMap<usize, Arc<Error>>) {
        if refused.is_empty() {
            return;
        }
        for image in std::mem::take(&mut self.images) {
            match image.blobs.iter().find_map(|i| refused.get(i)) {
                None => self.images.push(image),
                Some(error) => self.failed.push((image.name, Arc::clone(error))),
            }
        }
        let needed: HashSet<usize> = self.images.iter().flat_map(|image| image.blobs.iter().copied()).collect();
        let mut moved = HashMap::new();
        for (i, blob) in std::mem::take(&mut self.blobs).into_iter().enumerate() {
            if needed.contains(&i) {
                moved.insert(i, self.blobs.len());
                self.blobs.push(blob);
            }
        }
        self.blobs.iter_mut().for_each(|blob| blob.after = blob.after.and_then(|leader| moved.get(&leader).copied()));
        self.images.iter_mut().flat_map(|image| &mut image.blobs).for_each(|i| *i = moved[i]);
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
