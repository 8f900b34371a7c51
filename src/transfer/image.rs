//! The images of a run: which blobs each still waits for, and how it ended.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{BlobPlan, ImagePlan, Outcome, Transfer};
use crate::content::Holding;
use crate::error::{Error, Result};
use crate::oci::Reference;

/// The images of a run.
pub(super) struct Images {
    images: Vec<Progress>,
    /// Which images wait for a blob, by its place in the plan.
    waiting: HashMap<usize, Vec<usize>>,
    failed: Vec<Outcome>,
}

struct Progress {
    plan: ImagePlan,
    missing: HashSet<usize>,
    /// Its manifests are on their way.
    is_ending: bool,
    result: Option<Result<(), Arc<Error>>>,
}

impl Images {
    pub(super) fn new(plans: Vec<ImagePlan>, failed: Vec<(Reference, Arc<Error>)>, blobs: &[BlobPlan]) -> Images {
        let mut waiting: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut images = Vec::new();
        for (number, plan) in plans.into_iter().enumerate() {
            let missing: HashSet<usize> =
                plan.blobs.iter().copied().filter(|&i| blobs[i].holding != Holding::Whole).collect();
            for &blob in &missing {
                waiting.entry(blob).or_default().push(number);
            }
            let result = plan.up_to_date.then_some(Ok(()));
            images.push(Progress { plan, missing, is_ending: false, result });
        }
        let failed = failed.into_iter().map(|(name, error)| Outcome { name, result: Err(error), up_to_date: false });
        Images { images, waiting, failed: failed.collect() }
    }

    /// A blob is in its place.
    pub(super) fn arrived(&mut self, blob: usize) {
        for number in self.waiting.remove(&blob).unwrap_or_default() {
            self.images[number].missing.remove(&blob);
        }
    }

    /// A blob will not come: the images that need it fail. Returns their names.
    pub(super) fn fail(&mut self, blob: usize, error: &Arc<Error>) -> Vec<String> {
        let mut names = Vec::new();
        for number in self.waiting.remove(&blob).unwrap_or_default() {
            let image = &mut self.images[number];
            if image.result.is_none() {
                image.result = Some(Err(Arc::clone(error)));
                names.push(image.plan.name.to_string());
            }
        }
        names
    }

    /// Whether an image that has not failed waits for the blob.
    pub(super) fn want(&self, blob: usize) -> bool {
        self.waiting.get(&blob).is_some_and(|numbers| numbers.iter().any(|&n| self.images[n].result.is_none()))
    }

    /// Images that wait for nothing any more. Each is returned once.
    pub(super) fn ready(&mut self) -> Vec<(usize, ImagePlan)> {
        let mut ready = Vec::new();
        for (number, image) in self.images.iter_mut().enumerate() {
            if image.missing.is_empty() && image.result.is_none() && !image.is_ending {
                image.is_ending = true;
                ready.push((number, image.plan.clone()));
            }
        }
        ready
    }

    /// An image ended.
    pub(super) fn end(&mut self, number: usize, result: Result<(), Arc<Error>>) {
        self.images[number].result = Some(result);
    }

    /// How every image ended.
    pub(super) fn outcomes(self) -> Vec<Outcome> {
        let ended = self.images.into_iter().map(|image| Outcome {
            name: image.plan.target,
            result: image
                .result
                .unwrap_or(Err(Arc::new(Error::Interrupted)))
                .map(|()| image.plan.root.descriptor.digest),
            up_to_date: image.plan.up_to_date,
        });
        ended.chain(self.failed).collect()
    }
}

impl Transfer {
    /// Puts the manifests of an image whose blobs are there, children first, then the tag.
    pub(super) async fn finish(&self, image: &ImagePlan) -> Result<()> {
        for manifest in &image.manifests {
            self.persist(&manifest.digest.to_string(), || image.sink.put_manifest(manifest)).await?;
        }
        self.persist(&image.target.to_string(), || image.sink.tag(&image.target, &image.root)).await
    }
}
