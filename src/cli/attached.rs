//! Images on their way to registries, alone or with what hangs on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::results::{self, Pulled};
use crate::content::Source;
use crate::error::{Error, Result};
use crate::oci::Descriptor;
use crate::transfer::{Job, Plan, Report, Transfer};

/// An image that travels with its referrers.
pub struct Along {
    /// The image.
    pub job: Job,
    /// The target, to see what it lists.
    pub there: Arc<dyn Source>,
    /// The tags of the source.
    pub tags: Vec<String>,
}

/// Moves the images alone.
///
/// # Errors
/// `Interrupted`, `Store`; how each image ended is in the result.
pub async fn alone(transfer: &Transfer, jobs: Vec<Job>) -> Result<(Vec<Pulled>, Report)> {
    let (pulled, report, _) = moved(transfer, jobs).await?;
    Ok((pulled, report))
}

/// Moves the images, then what hangs on them: so no referrer is anywhere before its subject. An image fails with a
/// referrer of it.
///
/// # Errors
/// As [`alone`].
pub async fn along(transfer: &Transfer, images: &[Along]) -> Result<(Vec<Pulled>, Report)> {
    let jobs = images.iter().map(|image| image.job.clone()).collect();
    let (mut pulled, mut report, roots) = moved(transfer, jobs).await?;
    let mut jobs: BTreeMap<String, (Job, String)> = BTreeMap::new();
    for Along { job, there, tags } in images {
        let owner = job.target.to_string();
        let Some(root) = roots.get(&owner).filter(|_| has_arrived(&pulled, &owner)) else { continue };
        match transfer.attached(job, root, tags, there.as_ref()).await {
            Ok(attached) => {
                change(&mut pulled, &owner, |image| image.referrers = Some(attached.found));
                for job in attached.jobs {
                    // What two images of one repository share goes once.
                    jobs.entry(job.target.to_string()).or_insert_with(|| (job, owner.clone()));
                }
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => fail(&mut pulled, &owner, &error.into()),
        }
    }
    let plan = transfer.plan_attached(jobs.values().map(|(job, _)| job.clone()).collect()).await?;
    let attached = transfer.run(plan).await?;
    for outcome in &attached.images {
        let Err(error) = &outcome.result else { continue };
        // A plan that failed goes by the name at the source.
        let owners = jobs.values().filter(|(job, _)| job.target == outcome.name || job.name == outcome.name);
        owners.for_each(|(_, owner)| fail(&mut pulled, owner, error));
    }
    add(&mut report, attached);
    Ok((pulled, report))
}

/// What [`along`] would move. Changes nothing.
///
/// # Errors
/// `Interrupted`, `Store`; what cannot be planned is in the plan.
pub async fn plan(transfer: &Transfer, images: &[Along]) -> Result<Plan> {
    let mut plan = transfer.plan(images.iter().map(|image| image.job.clone()).collect()).await?;
    let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
    for Along { job, there, tags } in images {
        let Some(image) = plan.images.iter().find(|image| image.target == job.target) else { continue };
        match transfer.attached(job, &image.root.descriptor, tags, there.as_ref()).await {
            Ok(attached) => jobs.extend(attached.jobs.into_iter().map(|job| (job.target.to_string(), job))),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => plan.failed.push((job.name.clone(), error.into())),
        }
    }
    plan.append(transfer.plan_attached(jobs.into_values().collect()).await?);
    Ok(plan)
}

/// How the images ended, and what their targets name.
async fn moved(transfer: &Transfer, jobs: Vec<Job>) -> Result<(Vec<Pulled>, Report, BTreeMap<String, Descriptor>)> {
    let plan = transfer.plan(jobs).await?;
    let sizes = results::sizes(&plan);
    let root = |image: &crate::transfer::ImagePlan| (image.target.to_string(), image.root.descriptor.clone());
    let roots = plan.images.iter().map(root).collect();
    let report = transfer.run(plan).await?;
    Ok((results::pulled(&report, &sizes), report, roots))
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

/// Adds what the second run took to the first.
fn add(report: &mut Report, other: Report) {
    report.moved += other.moved;
    report.local += other.local;
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
