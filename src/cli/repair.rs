//! `verify --repair`: fetches again what is broken and can be fetched, and removes what nobody needs. Nothing else goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Context;
use super::place::{locals, registry, with_local};
use crate::content::{Sink, Source};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::oci::{Descriptor, Digest};
use crate::store::{Broken, Store, StoredImage};
use crate::transfer::{Job, Platforms, Transfer};

/// What became of something broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was fetched again.
    Fetched,
    /// Nobody needed it: it was removed.
    Removed,
    /// It is as it was, and why.
    Kept(String),
}

/// Repairs what of `broken` can be repaired. Returns what became of each.
///
/// # Errors
/// Those of the store; `Interrupted`.
pub async fn repair(
    context: &Context,
    store: &Store,
    broken: &[Broken],
    events: Events,
) -> Result<BTreeMap<Digest, Fate>> {
    let transfer = context.transfer(events.clone());
    let shared = store.share_to_write().await?;
    let asked = Asked::of(context, store, broken, events, &transfer).await?;
    for broken in broken.iter().filter(|broken| broken.images.is_empty() || asked.brings(broken)) {
        store.remove_broken(broken).await?;
    }
    let failed = asked.fetch(&transfer).await?;
    drop(shared);
    let left: BTreeSet<Digest> = store.verify().await?.into_iter().map(|broken| broken.digest).collect();
    let fate = |broken: &Broken| match (left.contains(&broken.digest), broken.images.is_empty()) {
        (false, true) => Fate::Removed,
        (false, false) => Fate::Fetched,
        (true, _) => Fate::Kept(asked.why(broken, &failed)),
    };
    Ok(broken.iter().map(|broken| (broken.digest.clone(), fate(broken))).collect())
}

/// The images that need something broken: those whose registry has all that they lack, and why the others stay.
#[derive(Default)]
struct Asked {
    jobs: Vec<(String, Job)>,
    refused: BTreeMap<String, String>,
}

impl Asked {
    async fn of(
        context: &Context,
        store: &Store,
        broken: &[Broken],
        events: Events,
        transfer: &Transfer,
    ) -> Result<Asked> {
        let sink: Arc<dyn Sink> = Arc::new(store.clone());
        let places = locals(&context.settings, Some(store.root()))?;
        let (mut asked, registry) = (Asked::default(), registry(&context.settings, events));
        for image in store.images().await? {
            let label = label(&image);
            let lacks: Vec<&Descriptor> =
                broken.iter().filter(|b| b.images.contains(&label)).filter_map(|b| b.descriptor.as_ref()).collect();
            if lacks.is_empty() {
                continue;
            }
            let Some(name) = image.reference else {
                asked.refused.insert(label, "no registry is in the name of the image that needs it".into());
                continue;
            };
            let source = match registry.repository(&name) {
                Ok(repository) => with_local(Arc::new(repository), &places),
                Err(error) => {
                    asked.refused.insert(label, error.to_string());
                    continue;
                }
            };
            match has_all(source.as_ref(), &lacks, transfer).await {
                Ok(()) => {}
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    asked.refused.insert(label, error.to_string());
                    continue;
                }
            }
            let platforms = match store.tagged(&name).await?.and_then(|root| root.platforms) {
                Some(platforms) => Platforms::Only(platforms),
                None => Platforms::All,
            };
            // What is here is fetched again, though the tag may point elsewhere by now.
            let pinned = name.at(image.root.digest.clone());
            asked.jobs.push((label, Job { name: pinned, target: name, source, sink: Arc::clone(&sink), platforms }));
        }
        Ok(asked)
    }

    /// Whether an image that can be fetched has it.
    fn brings(&self, broken: &Broken) -> bool {
        self.jobs.iter().any(|(label, _)| broken.images.contains(label))
    }

    /// Fetches the images; returns why some of them did not come.
    async fn fetch(&self, transfer: &Transfer) -> Result<BTreeMap<String, String>> {
        let jobs = self.jobs.iter().map(|(_, job)| job.clone()).collect();
        let plan = transfer.plan(jobs).await?;
        let report = transfer.run(plan).await?;
        let failed = report.images.into_iter().filter_map(|image| Some((image.name, image.result.err()?)));
        let failed: Vec<_> = failed.collect();
        let why = |job: &Job| failed.iter().find(|(name, _)| *name == job.target || *name == job.name);
        let reasons = self.jobs.iter().filter_map(|(label, job)| Some((label.clone(), why(job)?.1.to_string())));
        Ok(reasons.collect())
    }

    fn why(&self, broken: &Broken, failed: &BTreeMap<String, String>) -> String {
        let of = |label: &String| failed.get(label).or_else(|| self.refused.get(label)).cloned();
        broken.images.iter().find_map(of).unwrap_or_else(|| "its file cannot be replaced".into())
    }
}

/// An image as [`Broken::images`] names it.
fn label(image: &StoredImage) -> String {
    image.name.clone().unwrap_or_else(|| image.root.digest.to_string())
}

/// Asks for the beginning of each, so that nothing is given up for what will not come.
async fn has_all(source: &dyn Source, wanted: &[&Descriptor], transfer: &Transfer) -> Result<()> {
    for &descriptor in wanted {
        transfer.persist(&descriptor.digest.to_string(), || has(source, descriptor)).await?;
    }
    Ok(())
}

async fn has(source: &dyn Source, wanted: &Descriptor) -> Result<()> {
    if wanted.media_type.is_manifest() {
        return source.manifest(wanted).await.map(drop);
    }
    if wanted.size == 0 {
        return Ok(());
    }
    let mut last = Err(Error::NotFound { what: wanted.digest.to_string(), place: source.place(), why: String::new() });
    for origin in source.origins(wanted) {
        match origin.open(0..1).await {
            Ok(_) => return Ok(()),
            Err(error) => last = Err(error),
        }
    }
    last
}
