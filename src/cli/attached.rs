//! Images on their way to registries, alone or with what hangs on them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};

use super::results::{self, Pulled};
use crate::content::{Sink, Source};
use crate::error::{Error, Result};
use crate::oci::Descriptor;
use crate::transfer::{self, Job, Plan, Report, Transfer};

/// Images whose referrers are looked for at the same time.
const LOOKUPS: usize = 8;

/// An image that travels with what hangs on it.
pub struct Along {
    /// The image.
    pub job: Job,
    /// What goes along, if anything does.
    pub hanging: Option<Hanging>,
}

/// What of that which hangs on an image goes along.
#[derive(Clone)]
pub struct Hanging {
    /// The target, to see which referrers it lists; without it only tags count.
    pub there: Option<Arc<dyn Source>>,
    /// The tags of the source, among them cosign's.
    pub tags: Arc<[String]>,
}

/// Moves the images, then what hangs on them: so no referrer is anywhere before its subject. An image fails with a
/// referrer of it.
///
/// # Errors
/// `Interrupted`, `Store`; how each image ended is in the result.
pub async fn along(transfer: &Transfer, images: &[Along]) -> Result<(Vec<Pulled>, Report)> {
    let jobs = images.iter().map(|image| image.job.clone()).collect();
    let (mut pulled, mut report, mut roots) = moved(transfer, jobs).await?;
    roots.retain(|name, _| has_arrived(&pulled, name));
    let found = found(transfer, images, &roots).await?;
    for (owner, attached) in found.images {
        match attached {
            Ok(count) => change(&mut pulled, &owner, |image| image.referrers = Some(count)),
            Err(error) => fail(&mut pulled, &owner, &error),
        }
    }
    if found.jobs.is_empty() {
        return Ok((pulled, report));
    }
    let plan = transfer.plan_attached(found.jobs.values().map(|(job, _)| job.clone()).collect()).await?;
    let attached = transfer.run(plan).await?;
    for outcome in &attached.images {
        let Err(error) = &outcome.result else { continue };
        // A plan that failed goes by the name at the source.
        let owners = found.jobs.values().filter(|(job, _)| job.target == outcome.name || job.name == outcome.name);
        owners.for_each(|(_, owner)| fail(&mut pulled, owner, error));
    }
    add(&mut report, attached);
    Ok((pulled, report))
}

/// Plans the images and what hangs on them as one, and moves nothing.
///
/// # Errors
/// As [`along`].
pub async fn foreseen(transfer: &Transfer, images: &[Along]) -> Result<Plan> {
    let mut jobs: Vec<Job> = images.iter().map(|image| image.job.clone()).collect();
    let plan = transfer.plan(jobs.clone()).await?;
    if images.iter().all(|image| image.hanging.is_none()) {
        return Ok(plan);
    }
    let found = found(transfer, images, &roots(&plan)).await?;
    let mut failed = Vec::new();
    for image in images {
        if let Some(Err(error)) = found.images.get(&image.job.target.to_string()) {
            failed.push((image.job.name.clone(), Arc::clone(error)));
            jobs.retain(|job| job.target != image.job.target);
        }
    }
    jobs.extend(found.jobs.into_values().map(|(job, _)| job));
    let mut plan = transfer.plan(jobs).await?;
    plan.failed.extend(failed);
    Ok(plan)
}

/// What hangs on several images.
#[derive(Default)]
struct Found {
    /// By the name at the target what is to be moved, and the image that it hangs on. What two images of one repository
    /// share goes once.
    jobs: BTreeMap<String, (Job, String)>,
    /// How many hang on each image, or why that is not known.
    images: BTreeMap<String, Result<usize, Arc<Error>>>,
}

async fn found(transfer: &Transfer, images: &[Along], roots: &BTreeMap<String, Descriptor>) -> Result<Found> {
    let looking = images.iter().filter_map(|Along { job, hanging }| {
        let (owner, Hanging { there, tags }) = (job.target.to_string(), hanging.as_ref()?);
        let root = roots.get(&owner)?;
        Some(async move { (owner, transfer.attached(job, root, tags, there.as_deref()).await) })
    });
    let mut looking = pin!(stream::iter(looking).buffered(LOOKUPS));
    let mut found = Found::default();
    while let Some((owner, attached)) = looking.next().await {
        let attached = match attached {
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => Err(error.into()),
            Ok(transfer::Attached { jobs, found: count }) => {
                for job in jobs {
                    found.jobs.entry(job.target.to_string()).or_insert_with(|| (job, owner.clone()));
                }
                Ok(count)
            }
        };
        found.images.insert(owner, attached);
    }
    Ok(found)
}

/// How the images ended, and what their targets name.
async fn moved(transfer: &Transfer, jobs: Vec<Job>) -> Result<(Vec<Pulled>, Report, BTreeMap<String, Descriptor>)> {
    let plan = transfer.plan(jobs).await?;
    let (sizes, roots) = (results::sizes(&plan), roots(&plan));
    // What became of the images comes in the order of the plan, those first that could be planned.
    let places: Vec<_> = plan.images.iter().map(|image| place(image.sink.as_ref())).collect();
    let report = transfer.run(plan).await?;
    let mut pulled = results::pulled(&report, &sizes);
    pulled.iter_mut().zip(places).for_each(|(image, place)| image.place = place);
    Ok((pulled, report, roots))
}

/// What a place that is no registry goes by.
fn place(sink: &dyn Sink) -> Option<String> {
    sink.repository().is_none().then(|| sink.place())
}

fn roots(plan: &Plan) -> BTreeMap<String, Descriptor> {
    plan.images.iter().map(|image| (image.target.to_string(), image.root.descriptor.clone())).collect()
}

fn has_arrived(pulled: &[Pulled], name: &str) -> bool {
    pulled.iter().any(|image| image.name.to_string() == name && image.result.is_ok())
}

fn change(pulled: &mut [Pulled], name: &str, change: impl FnMut(&mut Pulled)) {
    pulled.iter_mut().filter(|image| image.name.to_string() == name).for_each(change);
}

fn fail(pulled: &mut [Pulled], name: &str, error: &Arc<Error>) {
    change(pulled, name, |image| image.result = Err(Arc::clone(error)));
}

/// Adds what another run took to the first, but for its images.
pub fn add(report: &mut Report, other: Report) {
    report.moved += other.moved;
    report.local += other.local;
    report.local_spoiled += other.local_spoiled;
    report.planned += other.planned;
    report.held += other.held;
    report.mounted += other.mounted;
    for (place, bytes) in other.places {
        *report.places.entry(place).or_default() += bytes;
    }
    report.brought += other.brought;
    report.elapsed += other.elapsed;
    report.syncing += other.syncing;
    for (cause, bytes) in other.causes {
        *report.causes.entry(cause).or_default() += bytes;
    }
}
