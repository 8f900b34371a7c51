//! Which of a repository's tags are meant.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use super::pattern::Pattern;
use super::version::{Range, Version};
use crate::error::{Error, Result};
use crate::oci::{Digest, is_tag};

/// Tags of one repository that are looked at.
pub const MAX_TAGS: usize = 200_000;

/// Which images of a repository are meant: those that are named, and those whose tags fit the patterns.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Meant whatever the patterns say, and whether or not the source lists them.
    pub named: Vec<Named>,
    /// `None`: nothing but what is named, so the source's list is not needed.
    pub patterns: Option<Patterns>,
}

/// One image that is named, and its name at the target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// By its tag.
    Tag {
        /// At the source.
        source: String,
        /// At the target.
        target: String,
    },
    /// By its digest.
    Digest {
        /// Of the manifest.
        source: Digest,
        /// The tag that it gets at the target, if any.
        target: Option<String>,
    },
}

impl Named {
    /// A tag that keeps its name.
    pub fn tag(tag: &str) -> Named {
        Named::Tag { source: tag.into(), target: tag.into() }
    }

    /// The tag at the target.
    pub fn target(&self) -> Option<&str> {
        match self {
            Named::Tag { target, .. } => Some(target),
            Named::Digest { target, .. } => target.as_deref(),
        }
    }
}

/// What a tag must fit. Of each kind that is given, one must fit; the default fits every tag.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    /// Globs.
    pub globs: Vec<Pattern>,
    /// Regular expressions.
    pub regexes: Vec<Pattern>,
    /// Ranges of versions.
    pub ranges: Vec<Range>,
    /// What fits one of these is not meant.
    pub except: Vec<Pattern>,
    /// Only so many of those that are versions, the newest; tags that are no versions are then not meant.
    pub newest: Option<NonZeroUsize>,
}

impl Patterns {
    /// Whether `tag` fits, the number of newest ones aside. Tags that name a digest never fit.
    pub fn fit(&self, tag: &str) -> bool {
        let fits = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(tag));
        digest_tag(tag).is_none()
            && (self.globs.is_empty() || fits(&self.globs))
            && (self.regexes.is_empty() || fits(&self.regexes))
            && (self.ranges.is_empty() || self.ranges.iter().any(|range| range.contains(tag)))
            && !fits(&self.except)
    }
}

impl Selection {
    /// Whether the source must be asked for its tags.
    pub fn needs_list(&self) -> bool {
        self.patterns.is_some()
    }

    /// Whether `tag` at the target is one that this selection speaks of, were it at the source or not.
    pub fn matches(&self, tag: &str) -> bool {
        self.named.iter().any(|named| named.target() == Some(tag))
            || self.patterns.as_ref().is_some_and(|patterns| patterns.fit(tag))
    }

    pub(super) fn renames_nothing(&self) -> bool {
        self.named.iter().all(|named| match named {
            Named::Tag { source, target } => source == target,
            Named::Digest { target, .. } => target.is_none(),
        })
    }

    /// The images that are meant, of a source that lists `tags`: each once, in the order of their names. The list comes
    /// from a server: what is no tag is left out.
    ///
    /// # Errors
    /// `Limit` above [`MAX_TAGS`].
    pub fn choose<T: AsRef<str>>(&self, tags: &[T]) -> Result<Vec<Named>> {
        if tags.len() > MAX_TAGS {
            return Err(Error::Limit(format!("a repository with more than {MAX_TAGS} tags")));
        }
        let mut chosen: BTreeSet<Named> = self.named.iter().cloned().collect();
        if let Some(patterns) = &self.patterns {
            let fitting: BTreeSet<&str> =
                tags.iter().map(AsRef::as_ref).filter(|tag| is_tag(tag) && patterns.fit(tag)).collect();
            match patterns.newest {
                Some(count) => chosen.extend(newest(&fitting, count.get()).into_iter().map(Named::tag)),
                None => chosen.extend(fitting.into_iter().map(Named::tag)),
            }
        }
        Ok(chosen.into_iter().collect())
    }
}

/// The `count` newest of those that are versions. Of equal versions (`1`, `1.0`) the longer name is the newer.
fn newest<'t>(tags: &BTreeSet<&'t str>, count: usize) -> Vec<&'t str> {
    let mut versions: Vec<(Version, &str)> = tags.iter().filter_map(|tag| Some((tag.parse().ok()?, *tag))).collect();
    versions.sort_by(|(a, name_a), (b, name_b)| {
        b.newness(a).then_with(|| name_b.len().cmp(&name_a.len())).then_with(|| name_b.cmp(name_a))
    });
    versions.into_iter().take(count).map(|(_, tag)| tag).collect()
}

/// The beginning, `sha256-` and 64 digits, of a tag that speaks of a digest: the fallback tag of referrers
/// (distribution-spec, "Referrers Tag Schema"), cosign's `sha256-….sig`, `.att`, `.sbom` and whatever else ends so.
pub fn digest_tag(tag: &str) -> Option<&str> {
    let (algorithm, rest) = tag.split_once('-')?;
    let is_hex = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
    let hex = rest.bytes().take_while(|b| is_hex(*b)).count();
    // The fallback tag of a SHA-512 digest is cut to 64 digits.
    let known = matches!(algorithm, "sha256" | "sha512") && hex == 64;
    let stem = &tag[..algorithm.len() + 1 + hex];
    (known && matches!(tag.as_bytes().get(stem.len()), None | Some(b'.'))).then_some(stem)
}

/// The beginning of the tags that speak of `digest`.
pub fn digest_stem(digest: &Digest) -> String {
    digest.as_tag()
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
