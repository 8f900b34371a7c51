//! What `--delete` may remove from a target: a decision over plain data, made when every copy has ended.
//!
//! A tag goes only if an entry of the file speaks of it, every source of the target listed all its tags, listed some,
//! and not this one, and every copy into the target succeeded. Whatever is not known is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Attachments;
use super::select::{Selection, digest_stem, digest_tag};
use crate::oci::Digest;

/// What a source said about its tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceTags {
    /// All of them.
    Complete(BTreeSet<String>),
    /// It refused, broke off, or was not asked.
    Unknown,
}

/// How the copies of one entry ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// Every one succeeded, or had nothing to do.
    Succeeded,
    /// At least one did not.
    Failed,
}

/// One entry of the file that fills the target.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Which tags it speaks of.
    pub selection: &'a Selection,
    /// What goes along with them.
    pub attachments: Attachments,
    /// The tags of its source.
    pub source: &'a SourceTags,
    /// How its copies ended.
    pub copies: Copies,
}

/// Whether the target's registry takes one tag away and leaves the manifest (distribution-spec 1.1, "deleting tags").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletes {
    /// It does.
    ByTag,
    /// It deletes manifests, with every tag that names them (docker-registry 2.8).
    ByDigestOnly,
}

/// The target as it is after the copies.
#[derive(Debug)]
pub struct Target<'a> {
    /// All its tags. `None` for one that could not be resolved.
    pub tags: &'a BTreeMap<String, Option<Digest>>,
    /// For each manifest that a tag names: every manifest below it, at any depth, none for an image. What is missing
    /// here is not known.
    pub below: &'a HashMap<Digest, Vec<Digest>>,
    /// Manifests that are wanted by their digests, without a tag.
    pub pinned: &'a [Digest],
    /// What its registry can do.
    pub deletes: Deletes,
    /// The largest share of the tags that may go, in percent; 10 unless the user says otherwise.
    pub max_share: u8,
}

/// What happens to one tag of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Delete the tag.
    ByTag,
    /// Delete the manifest: every tag that names it goes.
    ByDigest(Digest),
    /// Leave it.
    Leave(Why),
}

/// Why a tag is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// No entry of the file speaks of it.
    #[error("the file does not select it")]
    NotSelected,
    /// A source has it.
    #[error("the source has it")]
    AtSource,
    /// A source did not give its whole list.
    #[error("the source's list of tags is not complete")]
    SourceUnknown,
    /// A source that has no tags at all is more likely broken than emptied.
    #[error("the source lists no tags at all")]
    SourceEmpty,
    /// A copy into the target failed.
    #[error("a copy into this repository failed")]
    CopyFailed,
    /// It belongs to an image that stays: a signature, an SBOM, a list of referrers.
    #[error("it belongs to {0}, which stays")]
    Attached(Digest),
    /// Only whole manifests can be deleted, and a tag that stays names this one, or names an index with it.
    #[error("the registry deletes manifests only, and {0:?} needs this one")]
    NeededBy(String),
    /// Only whole manifests can be deleted, and this one is wanted by its digest.
    #[error("the registry deletes manifests only, and this one is wanted by its digest")]
    Pinned,
    /// A tag that stays could not be resolved, so what needs this manifest is not known.
    #[error("what {0:?} needs could not be found out")]
    Unresolved(String),
    /// More tags would go than are allowed.
    #[error("{going} of {total} tags would go, more than {max_share} %: see --max-delete")]
    TooMany {
        /// Tags that would go.
        going: usize,
        /// Tags of the target.
        total: usize,
        /// Percent that are allowed.
        max_share: u8,
    },
}

/// Decides about every tag of `target`, which `claims` fill.
pub fn decide(target: &Target<'_>, claims: &[Claim<'_>]) -> BTreeMap<String, Decision> {
    let mut decisions: BTreeMap<String, Decision> = BTreeMap::new();
    let mut stays = Kept::default();
    for tag in target.tags.keys().filter(|tag| digest_tag(tag).is_none()) {
        let unresolved = target.deletes == Deletes::ByDigestOnly && target.tags.get(tag) == Some(&None);
        let why = judge(tag, claims).or_else(|| unresolved.then(|| Why::Unresolved(tag.clone())));
        if why.is_some() {
            stays.add_tag(target, tag);
        }
        decisions.insert(tag.clone(), why.map_or(Decision::ByTag, Decision::Leave));
    }
    stays.add_pinned(target);
    judge_attached(target, claims, &mut stays, &mut decisions);
    if target.deletes == Deletes::ByDigestOnly {
        for (tag, decision) in decisions.iter_mut().filter(|(_, decision)| **decision == Decision::ByTag) {
            *decision = stays.by_digest(target, tag);
        }
    }
    bound(target, &mut decisions);
    decisions
}

/// Why `tag` must stay by what the sources say, if it must.
fn judge(tag: &str, claims: &[Claim<'_>]) -> Option<Why> {
    let speaks = |claim: &Claim<'_>| match digest_tag(tag) {
        Some(_) => claim.attachments.include_tags(),
        None => claim.selection.matches(tag),
    };
    if !claims.iter().any(speaks) {
        return Some(Why::NotSelected);
    }
    claims.iter().find_map(|claim| match claim.source {
        SourceTags::Unknown => Some(Why::SourceUnknown),
        SourceTags::Complete(tags) if tags.is_empty() => Some(Why::SourceEmpty),
        SourceTags::Complete(tags) if tags.contains(tag) => Some(Why::AtSource),
        SourceTags::Complete(_) if claim.copies == Copies::Failed => Some(Why::CopyFailed),
        SourceTags::Complete(_) => None,
    })
}

/// Signatures and the like: they go when the sources have them no more, and what they belong to does not stay.
fn judge_attached(
    target: &Target<'_>,
    claims: &[Claim<'_>],
    stays: &mut Kept,
    decisions: &mut BTreeMap<String, Decision>,
) {
    let mut open: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for tag in target.tags.keys() {
        let Some(stem) = digest_tag(tag) else { continue };
        match judge(tag, claims) {
            Some(why) => {
                stays.add_tag(target, tag);
                decisions.insert(tag.clone(), Decision::Leave(why));
            }
            None => open.entry(stem).or_default().push(tag),
        }
    }
    // A signature that stays may have a signature itself.
    while let Some(digest) = stays.fresh.pop() {
        for tag in open.remove(digest_stem(&digest).as_str()).unwrap_or_default() {
            stays.add_tag(target, tag);
            decisions.insert(tag.clone(), Decision::Leave(Why::Attached(digest.clone())));
        }
    }
    for tag in open.into_values().flatten() {
        let unknown = stays.unknown.clone().map(|unknown| Decision::Leave(Why::Unresolved(unknown)));
        if unknown.is_some() {
            stays.add_tag(target, tag);
        }
        decisions.insert(tag.clone(), unknown.unwrap_or(Decision::ByTag));
    }
}

/// What stays, as far as it is known.
#[derive(Debug, Default)]
struct Kept {
    /// Manifests that stay, and a tag that needs each; `None` for those that are wanted by digest.
    needed: HashMap<Digest, Option<String>>,
    /// Those of them whose attachments were not looked at.
    fresh: Vec<Digest>,
    /// A tag that stays, of which it is not known what it needs.
    unknown: Option<String>,
}

impl Kept {
    fn add_tag(&mut self, target: &Target<'_>, tag: &str) {
        match target.tags.get(tag) {
            Some(Some(digest)) => self.add(target, digest, Some(tag)),
            _ => self.unknown = self.unknown.take().or(Some(tag.into())),
        }
    }

    fn add_pinned(&mut self, target: &Target<'_>) {
        for digest in target.pinned {
            self.add(target, digest, None);
        }
    }

    fn add(&mut self, target: &Target<'_>, digest: &Digest, tag: Option<&str>) {
        let Some(below) = target.below.get(digest) else {
            let name = tag.map_or_else(|| digest.to_string(), str::to_owned);
            self.unknown = self.unknown.take().or(Some(name));
            return self.need(digest, tag);
        };
        self.need(digest, tag);
        for child in below {
            self.need(child, tag);
        }
    }

    fn need(&mut self, digest: &Digest, tag: Option<&str>) {
        if !self.needed.contains_key(digest) {
            self.needed.insert(digest.clone(), tag.map(str::to_owned));
            self.fresh.push(digest.clone());
        }
    }

    /// Whether the manifest of `tag`, which may go, can be deleted as a whole.
    fn by_digest(&self, target: &Target<'_>, tag: &str) -> Decision {
        let Some(Some(digest)) = target.tags.get(tag) else {
            return Decision::Leave(Why::Unresolved(tag.into()));
        };
        match (self.needed.get(digest), &self.unknown) {
            (Some(Some(by)), _) => Decision::Leave(Why::NeededBy(by.clone())),
            (Some(None), _) => Decision::Leave(Why::Pinned),
            (None, Some(unknown)) => Decision::Leave(Why::Unresolved(unknown.clone())),
            (None, None) => Decision::ByDigest(digest.clone()),
        }
    }
}

/// Leaves everything when more would go than may.
fn bound(target: &Target<'_>, decisions: &mut BTreeMap<String, Decision>) {
    let (total, max_share) = (decisions.len(), target.max_share);
    let goes = |decision: &Decision| !matches!(decision, Decision::Leave(_));
    let going = decisions.values().filter(|decision| goes(decision)).count();
    if going * 100 <= total * usize::from(max_share) {
        return;
    }
    for decision in decisions.values_mut().filter(|decision| goes(decision)) {
        *decision = Decision::Leave(Why::TooMany { going, total, max_share });
    }
}

#[cfg(test)]
#[path = "delete_tests.rs"]
mod tests;
