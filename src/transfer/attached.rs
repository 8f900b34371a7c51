//! What hangs on an image: signatures, SBOMs, attestations. They name it as their subject (image-spec, `manifest.md`,
//! "subject"), or have a tag made of its digest, as cosign gives them.

use std::collections::HashSet;
use std::pin::pin;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::plan::{LOOKUPS, choose, invalid, known_children};
use super::{Job, Plan, Platforms, Transfer};
use crate::content::Source;
use crate::error::{Error, Result};
use crate::oci::manifest::{MAX_DEPTH, MAX_MANIFESTS};
use crate::oci::{Descriptor, Digest, Manifest};

/// What hangs on an image at its source.
#[derive(Default)]
pub struct Attached {
    /// What brings the part of it that the target does not list yet. For [`Transfer::plan_attached`].
    pub jobs: Vec<Job>,
    /// How many manifests, those that the target has among them.
    pub found: usize,
}

impl Transfer {
    /// Finds what hangs on the image of `job`, which became `root`, on the manifests below it, and on what hangs there in
    /// turn. `tags` are those of the source, `there` is the target; without it only tags count.
    ///
    /// # Errors
    /// `Invalid` above 1000 manifests, or when they hang on each other more than 8 deep; those of both places.
    pub async fn attached(
        &self,
        job: &Job,
        root: &Descriptor,
        tags: &[String],
        there: Option<&dyn Source>,
    ) -> Result<Attached> {
        let mut hanging = Hanging { job, tags, seen: HashSet::new(), attached: Attached::default() };
        let mut level = self.copied(job, root).await?;
        for _ in 0..MAX_DEPTH {
            let subjects = self.below(job, level, &mut hanging.seen).await?;
            if subjects.is_empty() {
                return Ok(hanging.attached);
            }
            level = match there {
                Some(there) => self.referrers(&subjects, there, &mut hanging).await?,
                None => Vec::new(),
            };
            level.extend(self.named_after(&subjects, &mut hanging).await?);
        }
        Err(invalid(job, format!("its referrers hang on each other more than {MAX_DEPTH} deep")))
    }

    /// Makes the plan for [`Attached::jobs`]. What the target has, but does not list, is put again, which lists it.
    ///
    /// # Errors
    /// Those of [`Transfer::plan`], and of reading a manifest that is put again.
    pub async fn plan_attached(&self, jobs: Vec<Job>) -> Result<Plan> {
        let mut plan = self.plan(jobs.clone()).await?;
        for image in plan.images.iter_mut().filter(|image| image.up_to_date && image.target.tag().is_none()) {
            let Some(job) = jobs.iter().find(|job| job.target == image.target) else { continue };
            let root = &image.root.descriptor;
            image.manifests = vec![self.persist(&root.digest.to_string(), || job.source.manifest(root)).await?];
            image.up_to_date = false;
        }
        Ok(plan)
    }

    /// What of the source became `root`: where platforms were chosen, the source may know no such index.
    async fn copied(&self, job: &Job, root: &Descriptor) -> Result<Vec<Descriptor>> {
        let Platforms::Only(wanted) = &job.platforms else { return Ok(vec![root.clone()]) };
        let named = self.root(job).await?;
        match self.node(job, &named).await?.manifest {
            Manifest::Index(index) => choose(job, &index, wanted),
            Manifest::Image(_) => Ok(vec![named]),
        }
    }

    /// The digests of `level` and of all manifests below that were not seen before.
    async fn below(&self, job: &Job, mut level: Vec<Descriptor>, seen: &mut HashSet<Digest>) -> Result<Vec<Digest>> {
        let mut all = Vec::new();
        while !level.is_empty() {
            level.retain(|node| seen.insert(node.digest.clone()));
            if seen.len() > MAX_MANIFESTS {
                return Err(invalid(job, format!("it has more than {MAX_MANIFESTS} manifests with its referrers")));
            }
            all.extend(level.iter().map(|node| node.digest.clone()));
            level.retain(|node| node.media_type.is_index());
            level = self.children(job, &level).await?;
        }
        Ok(all)
    }

    async fn children(&self, job: &Job, indexes: &[Descriptor]) -> Result<Vec<Descriptor>> {
        let children = |index| async move {
            match self.node(job, index).await?.manifest {
                Manifest::Index(index) => Ok::<_, Error>(known_children(&index)),
                Manifest::Image(_) => Ok(Vec::new()),
            }
        };
        let children: Vec<_> = stream::iter(indexes).map(children).buffered(LOOKUPS).try_collect().await?;
        Ok(children.concat())
    }

    /// What names one of `subjects` as its subject.
    async fn referrers(
        &self,
        subjects: &[Digest],
        there: &dyn Source,
        hanging: &mut Hanging<'_>,
    ) -> Result<Vec<Descriptor>> {
        let job = hanging.job;
        let listed = |subject: &Digest| {
            let (what, subject) = (format!("the referrers of {subject}"), subject.clone());
            async move {
                let here = self.persist(&what, || job.source.referrers(&subject)).await?;
                let there = match here.is_empty() {
                    true => Vec::new(),
                    false => self.persist(&what, || there.referrers(&subject)).await?,
                };
                Ok::<_, Error>((here, there))
            }
        };
        let mut lists = pin!(stream::iter(subjects).map(listed).buffered(LOOKUPS));
        let mut found = Vec::new();
        while let Some((here, there)) = lists.try_next().await? {
            let known: HashSet<Digest> = there.into_iter().map(|referrer| referrer.digest).collect();
            for referrer in here.into_iter().filter(|referrer| referrer.media_type.is_manifest()) {
                hanging.take(&referrer, &known)?;
                found.push(referrer);
            }
        }
        Ok(found)
    }

    /// What has a tag made of the digest of one of `subjects`.
    async fn named_after(&self, subjects: &[Digest], hanging: &mut Hanging<'_>) -> Result<Vec<Descriptor>> {
        let (mut found, tags) = (Vec::new(), hanging.tags);
        for subject in subjects {
            let stem = format!("{}.", subject.as_tag());
            for tag in tags.iter().filter(|tag| tag.starts_with(&stem)) {
                let Ok(job) = hanging.tagged(tag) else { continue };
                match self.persist(&job.name.to_string(), || job.source.resolve(&job.name)).await {
                    Ok(root) => found.push(root),
                    // Gone since the tags were listed.
                    Err(Error::NotFound { .. }) => continue,
                    Err(error) => return Err(error),
                }
                hanging.count()?;
                hanging.attached.jobs.push(job);
            }
        }
        Ok(found)
    }
}

/// What was found so far.
struct Hanging<'a> {
    job: &'a Job,
    tags: &'a [String],
    /// Manifests whose referrers were looked for.
    seen: HashSet<Digest>,
    attached: Attached,
}

impl Hanging<'_> {
    /// A referrer: it travels by its digest unless the target lists it.
    fn take(&mut self, referrer: &Descriptor, known: &HashSet<Digest>) -> Result<()> {
        self.count()?;
        if !known.contains(&referrer.digest) {
            let (name, target) = (&self.job.name, &self.job.target);
            let (name, target) = (name.at(referrer.digest.clone()), target.at(referrer.digest.clone()));
            self.attached.jobs.push(Job { name, target, platforms: Platforms::All, ..self.job.clone() });
        }
        Ok(())
    }

    fn count(&mut self) -> Result<()> {
        self.attached.found += 1;
        match self.attached.found {
            0..=MAX_MANIFESTS => Ok(()),
            _ => Err(invalid(self.job, format!("more than {MAX_MANIFESTS} referrers hang on it"))),
        }
    }

    fn tagged(&self, tag: &str) -> Result<Job> {
        let (name, target) = (self.job.name.tagged(tag)?, self.job.target.tagged(tag)?);
        Ok(Job { name, target, platforms: Platforms::All, ..self.job.clone() })
    }
}
