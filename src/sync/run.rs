//! From the entries of a file to jobs of one plan: which images are meant, and how the copies of each entry ended.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, StreamExt};

use super::delete::{Copies, SourceTags};
use super::{Attachments, Entry, Mirror, Named, Platforms, Repository};
use crate::content::{Sink, Source};
use crate::error::{Error, Result};
use crate::oci::{Digest, Reference};
use crate::transfer;
use crate::transfer::{Job, Transfer};

/// Repositories whose tags are listed at the same time.
const LISTS: usize = 8;
/// Names that are looked up at the same time.
pub(super) const LOOKUPS: usize = 16;

/// Registries, as far as a mirror needs them. Every method makes one attempt; of `repository` the tag does not count.
#[async_trait]
pub trait Places: Send + Sync {
    /// A repository to read from. Asks nobody.
    ///
    /// # Errors
    /// `Refused` when nothing may be taken from it.
    fn source(&self, repository: &Reference) -> Result<Arc<dyn Source>>;

    /// A repository to write to. Asks nobody.
    fn sink(&self, repository: &Reference) -> Arc<dyn Sink>;

    /// Finds out which repositories of `names` are new, where that costs less than asking each of them. A hint, so without
    /// errors.
    async fn look_around(&self, names: &[Reference]);

    /// All tags of a repository.
    ///
    /// # Errors
    /// When they are not certain to be all: `NotFound`, `Unauthorized`, or transient ones.
    async fn tags(&self, repository: &Reference) -> Result<Vec<String>>;

    /// Deletes the tag of `name`, or the manifest of its digest with every tag that names it.
    ///
    /// # Errors
    /// `NotFound`, `Unauthorized`, or transient ones.
    async fn delete(&self, name: &Reference) -> Result<Deleted>;
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone.
    Done,
    /// The registry cannot do that: by tag, or at all.
    Unsupported,
}

/// What becomes of tags that the target has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// They are made to point to what the source has.
    Updated,
    /// They stay as they are, whatever the source has.
    Kept,
}

/// Which sources are asked for their tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// Those that patterns are for.
    WhereNeeded,
    /// All: what is not at a source can only be known so.
    All,
}

/// One run over a file.
pub struct Run<'a> {
    /// The file, for messages.
    pub file: &'a Path,
    /// What the file asks for.
    pub mirror: &'a Mirror,
    /// Registries.
    pub places: &'a dyn Places,
    /// Patience.
    pub transfer: &'a Transfer,
    /// What becomes of tags that are there.
    pub existing: Existing,
    /// Which sources are asked for their tags.
    pub lists: Lists,
}

/// The images that are meant.
#[derive(Default)]
pub struct Images {
    /// Those to copy: each target once, one sink for each repository.
    pub jobs: Vec<Job>,
    /// Those that stay as they are at the target, and what they point to there.
    pub kept: Vec<(Reference, Digest)>,
    /// Sources and images that cannot be asked for, and why.
    pub failed: Vec<(Reference, Arc<Error>)>,
    pub(super) lists: HashMap<Repository, Listed>,
    /// What goes along with the image under each target.
    attachments: HashMap<String, Attachments>,
    /// For each entry of the file its targets; `None` when they could not all be found out.
    targets: Vec<Option<Vec<Reference>>>,
}

/// The tags of a source, or why they are not known.
pub(super) type Listed = Result<Vec<String>, Arc<Error>>;

impl Run<'_> {
    /// Finds the images that are meant. Asks for lists of tags, and what `existing` needs.
    ///
    /// # Errors
    /// `Interrupted`. Whatever else fails is in [`Images::failed`].
    pub async fn choose(&self) -> Result<Images> {
        let mut images = Images { lists: self.list().await?, ..Images::default() };
        let mut open = Open { places: self.places, sources: HashMap::new(), sinks: HashMap::new() };
        let mut seen = HashSet::new();
        for entry in &self.mirror.entries {
            match jobs_of(entry, &images, &mut open) {
                Ok(jobs) => {
                    images.targets.push(Some(jobs.iter().map(|job| job.target.clone()).collect()));
                    let new = jobs.into_iter().filter(|job| seen.insert(job.target.to_string()));
                    let new: Vec<Job> = new.collect();
                    let attachments = new.iter().map(|job| (job.target.to_string(), entry.attachments));
                    images.attachments.extend(attachments);
                    images.jobs.extend(new);
                }
                Err(error) => {
                    images.targets.push(None);
                    images.failed.push((entry.source.reference()?, error));
                }
            }
        }
        match self.existing {
            Existing::Kept => self.keep(&mut images).await?,
            Existing::Updated => self.look_around(&images).await?,
        }
        Ok(images)
    }

    /// What is only probably not there is overwritten like what is there: not so where tags are to be kept.
    async fn look_around(&self, images: &Images) -> Result<()> {
        let targets: Vec<Reference> = images.jobs.iter().map(|job| job.target.clone()).collect();
        let looking = || async {
            self.places.look_around(&targets).await;
            Ok(())
        };
        self.transfer.persist("the targets", looking).await
    }

    async fn list(&self) -> Result<HashMap<Repository, Listed>> {
        let asked = self.mirror.entries.iter().filter(|entry| self.lists == Lists::All || entry.needs_list());
        let asked: BTreeSet<&Repository> = asked.map(|entry| &entry.source).collect();
        let listing = asked.into_iter().map(|source| async move { (source.clone(), self.tags(source).await) });
        let mut listing = pin!(stream::iter(listing).buffered(LISTS));
        let mut lists = HashMap::new();
        while let Some((source, listed)) = listing.next().await {
            if let Err(Error::Interrupted) = listed {
                return Err(Error::Interrupted);
            }
            lists.insert(source, listed.map_err(Arc::new));
        }
        Ok(lists)
    }

    /// All tags of `repository`, with patience.
    pub(super) async fn tags(&self, repository: &Repository) -> Result<Vec<String>> {
        let name = repository.reference()?;
        self.transfer.persist(&repository.to_string(), || self.places.tags(&name)).await
    }

    /// Takes out of the jobs those whose tags are at the target.
    async fn keep(&self, images: &mut Images) -> Result<()> {
        let looking = std::mem::take(&mut images.jobs).into_iter().map(|job| async move {
            let there = match job.target.digest() {
                Some(_) => Ok(None),
                None => self.transfer.persist(&job.target.to_string(), || job.sink.tagged(&job.target)).await,
            };
            (job, there)
        });
        let mut looking = pin!(stream::iter(looking).buffered(LOOKUPS));
        while let Some((job, there)) = looking.next().await {
            match there {
                Ok(None) => images.jobs.push(job),
                Ok(Some(root)) => images.kept.push((job.target, root.descriptor.digest)),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => images.failed.push((job.name, error.into())),
            }
        }
        Ok(())
    }
}

impl Images {
    /// The names at the targets that are as they should be when those of `copied` are.
    pub fn there<'n>(&'n self, copied: impl Iterator<Item = &'n Reference>) -> HashSet<String> {
        copied.chain(self.kept.iter().map(|(name, _)| name)).map(Reference::to_string).collect()
    }

    /// What goes along with the image of `job`.
    pub fn attachments(&self, job: &Job) -> Attachments {
        self.attachments.get(&job.target.to_string()).copied().unwrap_or(Attachments::None)
    }

    /// The tags of the source of `job`, where they were asked for: always when tags go along.
    pub fn source_list(&self, job: &Job) -> &[String] {
        match self.lists.get(&Repository::of(&job.name)) {
            Some(Ok(tags)) => tags,
            _ => &[],
        }
    }

    /// How the copies of the entry with this number ended, when the names in `there` are as they should be.
    pub(super) fn copies(&self, entry: usize, there: &HashSet<String>) -> Copies {
        match &self.targets[entry] {
            Some(targets) if targets.iter().all(|target| there.contains(&target.to_string())) => Copies::Succeeded,
            _ => Copies::Failed,
        }
    }

    /// What the source of `entry` has, by the names at the target.
    pub(super) fn source_tags(&self, entry: &Entry) -> SourceTags {
        let Some(Ok(listed)) = self.lists.get(&entry.source) else { return SourceTags::Unknown };
        let mut tags: BTreeSet<String> = listed.iter().cloned().collect();
        if !tags.is_empty() {
            // What is named may have another name at the source. It is there, or its copy failed.
            tags.extend(entry.selection.named.iter().filter_map(Named::target).map(str::to_owned));
        }
        SourceTags::Complete(tags)
    }
}

/// Repositories that are used, each made once: jobs that share a sink share its blobs.
struct Open<'a> {
    places: &'a dyn Places,
    sources: HashMap<Repository, Arc<dyn Source>>,
    sinks: HashMap<Repository, Arc<dyn Sink>>,
}

impl Open<'_> {
    fn source(&mut self, repository: &Repository) -> Result<Arc<dyn Source>> {
        if let Some(source) = self.sources.get(repository) {
            return Ok(Arc::clone(source));
        }
        let source = self.places.source(&repository.reference()?)?;
        self.sources.insert(repository.clone(), Arc::clone(&source));
        Ok(source)
    }

    fn sink(&mut self, repository: &Repository) -> Result<Arc<dyn Sink>> {
        let name = repository.reference()?;
        Ok(Arc::clone(self.sinks.entry(repository.clone()).or_insert_with(|| self.places.sink(&name))))
    }
}

fn jobs_of(entry: &Entry, images: &Images, open: &mut Open<'_>) -> Result<Vec<Job>, Arc<Error>> {
    let tags = match images.lists.get(&entry.source) {
        Some(Err(error)) if entry.needs_list() => return Err(Arc::clone(error)),
        Some(Ok(tags)) => tags.as_slice(),
        _ => &[],
    };
    let (source, sink) = (open.source(&entry.source)?, open.sink(&entry.target)?);
    let platforms = match &entry.platforms {
        Platforms::Whole => transfer::Platforms::All,
        Platforms::Only(platforms) => transfer::Platforms::Only(platforms.clone()),
        Platforms::Single(platform) => transfer::Platforms::Only(vec![platform.clone()]),
    };
    let job = |named: &Named| -> Result<Job, Arc<Error>> {
        let (name, target) = entry.ends(named).map_err(Error::from)?;
        let (source, sink) = (Arc::clone(&source), Arc::clone(&sink));
        // What goes by a digest is the manifest that has it, with everything below.
        let platforms = if target.digest().is_some() { transfer::Platforms::All } else { platforms.clone() };
        Ok(Job { name, target, source, sink, platforms })
    };
    entry.selection.choose(tags)?.iter().map(job).collect()
}
