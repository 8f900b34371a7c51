//! Removes from targets what their sources have no more, as [`decide`] allows, or says what would be removed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;

use futures::stream::{self, StreamExt};

use super::delete::{Claim, Decision, Deletes, SourceTags, Target, Why, decide};
use super::run::{Deleted, Images, LOOKUPS, Run};
use super::{Entry, Named, Repository};
use crate::content::Source;
use crate::error::{Error, Result};
use crate::oci::manifest::{MAX_DEPTH, MAX_MANIFESTS};
use crate::oci::{Descriptor, Digest, Manifest, Reference, is_tag};
use crate::transfer::Plan;

/// What happens to one tag of a target, or happened.
#[derive(Debug)]
pub struct Removal {
    /// The tag; the repository with its default tag where its tags could not be listed.
    pub name: Reference,
    /// Which.
    pub fate: Fate,
}

/// What happens to one tag.
#[derive(Debug)]
pub enum Fate {
    /// It is gone.
    Deleted,
    /// It would go.
    Goes,
    /// It would go where the registry takes tags away; one that deletes whole manifests only keeps it, for this reason.
    GoesByTag(Why),
    /// It stays.
    Left(Why),
    /// It should have gone.
    Failed(Arc<Error>),
}

/// Removes, once all copies have ended.
pub struct Remover<'a> {
    /// The run that made the copies.
    pub run: &'a Run<'a>,
    /// What it found.
    pub images: &'a Images,
    /// Names at the targets that are as they should be.
    pub there: HashSet<String>,
    /// The largest share of a repository's tags that may go, in percent.
    pub max_share: u8,
}

/// One repository with what is known of it.
struct Standing<'a> {
    repository: &'a Repository,
    /// The entries that fill it, and their sources' tags.
    entries: Vec<(usize, &'a Entry, SourceTags)>,
    tags: BTreeMap<String, Option<Digest>>,
    below: HashMap<Digest, Vec<Digest>>,
    pinned: Vec<Digest>,
}

/// Roots that a plan would put under tags, with what is below them.
type Planned = HashMap<String, (Digest, Vec<Digest>)>;

impl Remover<'_> {
    /// Removes what may go, and tells of every tag of every target.
    ///
    /// # Errors
    /// `Interrupted`. What else fails is in the fates.
    pub async fn remove(&self) -> Result<Vec<Removal>> {
        let mut removals = Vec::new();
        for (repository, entries) in self.targets() {
            let removed = match self.standing(repository, entries).await {
                Ok(standing) => self.remove_from(standing).await,
                Err(error) => Err(error),
            };
            removals.extend(listed_or_failed(repository, removed)?);
        }
        Ok(removals)
    }

    /// What [`remove`](Remover::remove) would do after `plan`. Writes nothing.
    ///
    /// # Errors
    /// `Interrupted`.
    pub async fn foresee(&self, plan: &Plan) -> Result<Vec<Removal>> {
        let mut removals = Vec::new();
        let mut planned = planned(plan);
        for (repository, entries) in self.targets() {
            let planned = planned.remove(repository).unwrap_or_default();
            let foreseen = match self.standing(repository, entries).await {
                Ok(standing) => self.foresee_in(standing, planned).await,
                Err(error) => Err(error),
            };
            removals.extend(listed_or_failed(repository, foreseen)?);
        }
        Ok(removals)
    }

    /// The repositories that are filled, and by which entries.
    fn targets(&self) -> BTreeMap<&Repository, Vec<(usize, &Entry)>> {
        let mut targets: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (number, entry) in self.run.mirror.entries.iter().enumerate() {
            targets.entry(&entry.target).or_default().push((number, entry));
        }
        targets
    }

    async fn standing<'s>(&self, repository: &'s Repository, entries: Vec<(usize, &'s Entry)>) -> Result<Standing<'s>> {
        let entries = entries.into_iter().map(|(number, entry)| (number, entry, self.images.source_tags(entry)));
        let entries: Vec<_> = entries.collect();
        let named = entries.iter().flat_map(|(_, entry, _)| &entry.selection.named);
        let pinned = named.filter_map(|named| match named {
            Named::Digest { source, .. } => Some(source.clone()),
            Named::Tag { .. } => None,
        });
        let pinned = pinned.collect();
        let tags = match self.run.tags(repository).await {
            Ok(tags) => tags,
            Err(Error::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let tags = tags.into_iter().filter(|tag| is_tag(tag)).map(|tag| (tag, None)).collect();
        Ok(Standing { repository, entries, tags, below: HashMap::new(), pinned })
    }

    fn decide(&self, standing: &Standing<'_>, deletes: Deletes) -> BTreeMap<String, Decision> {
        let claims = standing.entries.iter().map(|(number, entry, source)| Claim {
            selection: &entry.selection,
            attachments: entry.attachments,
            source,
            copies: self.images.copies(*number, &self.there),
        });
        let claims: Vec<Claim<'_>> = claims.collect();
        let target = Target {
            tags: &standing.tags,
            below: &standing.below,
            pinned: &standing.pinned,
            deletes,
            max_share: self.max_share,
        };
        decide(&target, &claims)
    }

    async fn remove_from(&self, mut standing: Standing<'_>) -> Result<Vec<Removal>> {
        let decisions = self.decide(&standing, Deletes::ByTag);
        let first = decisions.iter().find(|(_, decision)| **decision == Decision::ByTag).map(|(tag, _)| tag.clone());
        // Whether a registry takes tags away can only be tried, on one that may go.
        if let Some(first) = &first
            && !self.takes_away(&standing.repository.tagged(first)?).await?
        {
            self.resolve(&mut standing, &decisions).await?;
            let decisions = self.decide(&standing, Deletes::ByDigestOnly);
            return self.carry_out(&standing, decisions, None).await;
        }
        self.carry_out(&standing, decisions, first).await
    }

    /// Tries to take away one tag. A registry that does not know the tag which it lists knows no such deletion.
    async fn takes_away(&self, name: &Reference) -> Result<bool> {
        match self.run.transfer.persist(&name.to_string(), || self.run.places.delete(name)).await {
            Ok(deleted) => Ok(deleted == Deleted::Done),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Does what was decided, but for the tag that is gone already.
    async fn carry_out(
        &self,
        standing: &Standing<'_>,
        decisions: BTreeMap<String, Decision>,
        gone: Option<String>,
    ) -> Result<Vec<Removal>> {
        let mut removals = Vec::new();
        let mut deleted: HashSet<Digest> = HashSet::new();
        for (tag, decision) in decisions {
            let name = standing.repository.tagged(&tag)?;
            let fate = match decision {
                Decision::Leave(why) => Fate::Left(why),
                Decision::ByTag if gone.as_ref() == Some(&tag) => Fate::Deleted,
                Decision::ByTag => self.fate(&name).await?,
                Decision::ByDigest(digest) if deleted.contains(&digest) => Fate::Deleted,
                Decision::ByDigest(digest) => {
                    let fate = self.fate(&standing.repository.at(&digest)?).await?;
                    if matches!(fate, Fate::Deleted) {
                        deleted.insert(digest);
                    }
                    fate
                }
            };
            removals.push(Removal { name, fate });
        }
        Ok(removals)
    }

    async fn fate(&self, name: &Reference) -> Result<Fate> {
        match self.run.transfer.persist(&name.to_string(), || self.run.places.delete(name)).await {
            // Not found: an answer that was lost, or somebody else was first.
            Ok(Deleted::Done) | Err(Error::NotFound { .. }) => Ok(Fate::Deleted),
            Ok(Deleted::Unsupported) => {
                let why = "the registry does not delete it; is deletion allowed there?".into();
                Ok(Fate::Failed(Arc::new(Error::Refused { what: format!("deletion of {name}"), why })))
            }
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => Ok(Fate::Failed(error.into())),
        }
    }

    async fn foresee_in(&self, mut standing: Standing<'_>, planned: Planned) -> Result<Vec<Removal>> {
        standing.tags.extend(planned.keys().map(|tag| (tag.clone(), None)));
        let by_tag = self.decide(&standing, Deletes::ByTag);
        let mut by_digest = BTreeMap::new();
        if by_tag.values().any(|decision| *decision == Decision::ByTag) {
            self.resolve(&mut standing, &by_tag).await?;
            for (tag, (digest, below)) in planned {
                standing.below.insert(digest.clone(), below);
                standing.tags.insert(tag, Some(digest));
            }
            by_digest = self.decide(&standing, Deletes::ByDigestOnly);
        }
        let mut removals = Vec::new();
        for (tag, decision) in by_tag {
            let fate = match (decision, by_digest.remove(&tag)) {
                (Decision::Leave(why), _) => Fate::Left(why),
                (_, Some(Decision::Leave(why))) => Fate::GoesByTag(why),
                _ => Fate::Goes,
            };
            removals.push(Removal { name: standing.repository.tagged(&tag)?, fate });
        }
        Ok(removals)
    }

    /// Finds out what every tag names, and what is below that as far as it stays. What cannot be found out is left out.
    async fn resolve(&self, standing: &mut Standing<'_>, decisions: &BTreeMap<String, Decision>) -> Result<()> {
        let name = standing.repository.reference()?;
        let mut roots = HashMap::new();
        for (tag, root) in self.look_up(standing.repository, decisions.keys()).await? {
            standing.tags.insert(tag.clone(), Some(root.digest.clone()));
            if matches!(decisions.get(tag), Some(Decision::Leave(_))) {
                roots.insert(root.digest.clone(), root);
            }
        }
        let Ok(source) = self.run.places.source(&name) else { return Ok(()) };
        for digest in &standing.pinned {
            let named = standing.repository.at(digest)?;
            if let Ok(root) = self.run.transfer.persist(&named.to_string(), || source.resolve(&named)).await {
                roots.insert(digest.clone(), root);
            }
        }
        let walks = roots.into_values().map(|root| self.walk(source.as_ref(), root));
        let mut walks = pin!(stream::iter(walks).buffered(LOOKUPS));
        while let Some(walk) = walks.next().await {
            standing.below.extend(known(walk)?);
        }
        Ok(())
    }

    /// What those of `tags` name that can be resolved.
    async fn look_up<'t>(
        &self,
        repository: &Repository,
        tags: impl Iterator<Item = &'t String>,
    ) -> Result<Vec<(&'t String, Descriptor)>> {
        let sink = &self.run.places.sink(&repository.reference()?);
        let looking = tags.map(|tag| async move {
            let named = repository.tagged(tag)?;
            let root = self.run.transfer.persist(&named.to_string(), || sink.tagged(&named)).await?;
            Ok(root.map(|root| (tag, root.descriptor)))
        });
        let mut looking = pin!(stream::iter(looking).buffered(LOOKUPS));
        let mut found = Vec::new();
        while let Some(looked) = looking.next().await {
            found.extend(known(looked)?.flatten());
        }
        Ok(found)
    }

    /// The digests of all manifests below `root`.
    async fn walk(&self, source: &dyn Source, root: Descriptor) -> Result<(Digest, Vec<Digest>)> {
        let too_large = || Error::Invalid {
            what: root.digest.to_string(),
            place: source.place(),
            why: format!("it has more than {MAX_MANIFESTS} manifests or {MAX_DEPTH} levels"),
        };
        let mut below = HashSet::new();
        let mut level = vec![root.clone()];
        for _ in 0..=MAX_DEPTH {
            let mut next = Vec::new();
            for index in level.iter().filter(|node| node.media_type.is_index()) {
                let raw = self.run.transfer.persist(&index.digest.to_string(), || source.manifest(index)).await?;
                let parsed = raw.parse().map_err(|why| Error::manifest(source.place(), &raw.digest, why))?;
                let Manifest::Index(index) = parsed else { continue };
                next.extend(index.manifests.into_iter().filter(|child| below.insert(child.digest.clone())));
                if below.len() > MAX_MANIFESTS {
                    return Err(too_large());
                }
            }
            level = next;
            if level.is_empty() {
                return Ok((root.digest.clone(), below.into_iter().collect()));
            }
        }
        Err(too_large())
    }
}

/// What could be found out. Only an interruption ends the search.
fn known<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(Error::Interrupted) => Err(Error::Interrupted),
        found => Ok(found.ok()),
    }
}

/// A repository of which nothing is known is one failure; the others go on.
fn listed_or_failed(repository: &Repository, removals: Result<Vec<Removal>>) -> Result<Vec<Removal>> {
    match removals {
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => Ok(vec![Removal { name: repository.reference()?, fate: Fate::Failed(error.into()) }]),
        removals => removals,
    }
}

/// What `plan` would put under the tags of each repository.
fn planned(plan: &Plan) -> HashMap<Repository, Planned> {
    let mut planned: HashMap<Repository, Planned> = HashMap::new();
    for image in plan.images.iter().filter(|image| !image.up_to_date) {
        let Some(tag) = image.target.tag() else { continue };
        let below = image.manifests.iter().map(|manifest| manifest.digest.clone()).collect();
        let roots = planned.entry(Repository::of(&image.target)).or_default();
        roots.insert(tag.to_owned(), (image.root.descriptor.digest.clone(), below));
    }
    planned
}
