//! Repositories, and where the images of one go.

use std::collections::HashMap;
use std::fmt;

use super::tree::File;
use super::{Entry, Named};
use crate::error::{Error, Result};
use crate::oci::{Digest, InvalidReference, Reference};

/// A registry and a repository in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    /// The host, with its port if it has one: `docker.io`, `localhost:5000`.
    pub registry: String,
    /// The path below the host.
    pub path: String,
}

impl Repository {
    /// Reads `text`, completed as docker does: `mysql` is `docker.io/library/mysql`.
    ///
    /// # Errors
    /// `Usage` when it is no name, or has a tag or a digest.
    pub fn parse(text: &str) -> Result<Repository> {
        let reference: Reference = text.parse()?;
        match text.rsplit('/').next().is_some_and(|last| last.contains([':', '@'])) {
            true => Err(Error::Usage(format!("{text:?}: a repository has no tag and no digest here"))),
            false => Ok(Repository::of(&reference)),
        }
    }

    /// The repository that `reference` is in.
    pub fn of(reference: &Reference) -> Repository {
        Repository { registry: reference.registry().into(), path: reference.repository().into() }
    }

    /// A reference to it, with the tag that is meant where none is said.
    ///
    /// # Errors
    /// When this is no repository.
    pub fn reference(&self) -> Result<Reference, InvalidReference> {
        self.to_string().parse()
    }

    /// The image that `tag` names.
    ///
    /// # Errors
    /// When `tag` is none.
    pub fn tagged(&self, tag: &str) -> Result<Reference, InvalidReference> {
        self.reference()?.tagged(tag)
    }

    /// The manifest with this digest.
    ///
    /// # Errors
    /// When this is no repository.
    pub fn at(&self, digest: &Digest) -> Result<Reference, InvalidReference> {
        Ok(self.reference()?.at(digest.clone()))
    }

    /// The last component of the path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

/// Where the images of skopeo's form go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// A registry, with or without the beginning of a path.
    pub prefix: String,
    /// How much of the source's name follows it.
    pub scope: Scope,
}

/// How much of a source's name is kept behind a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `mirror.example/mysql`, as `skopeo sync` does.
    LastComponent,
    /// `mirror.example/docker.io/library/mysql`, as `skopeo sync --scoped` does.
    Whole,
}

impl Destination {
    /// Where the images of `source` go. Tried with skopeo 1.9.3: a trailing slash makes no difference, and a registry
    /// with a port has no place in a path.
    ///
    /// # Errors
    /// `Usage` when that is no repository.
    pub fn of(&self, source: &Repository) -> Result<Repository> {
        let prefix = self.prefix.trim_end_matches('/');
        match self.scope {
            Scope::LastComponent => Repository::parse(&format!("{prefix}/{}", source.name())),
            Scope::Whole => Repository::parse(&format!("{prefix}/{source}")),
        }
    }
}

/// A target with placeholders: `mirror.example/{registry}/{repository}`.
#[derive(Debug, Clone)]
pub(super) struct Template {
    pub text: String,
    /// What is left out where the source's path begins with it.
    pub strip: String,
}

impl Template {
    /// Where the images of `source` go.
    ///
    /// # Errors
    /// `Usage` for a placeholder that is none, or when the result is no repository.
    pub fn of(&self, source: &Repository) -> Result<Repository> {
        let path = source.path.strip_prefix(self.strip.as_str()).unwrap_or(&source.path);
        let registry = source.registry.to_ascii_lowercase().replace(':', "-");
        let mut target = String::new();
        let mut rest = self.text.as_str();
        while let Some((before, behind)) = rest.split_once('{') {
            let Some((placeholder, behind)) = behind.split_once('}') else {
                return Err(Error::Usage(format!("{:?}: a \"{{\" without \"}}\"", self.text)));
            };
            target.push_str(before);
            target.push_str(match placeholder {
                "registry" => &registry,
                "repository" => path,
                "name" => source.name(),
                other => {
                    let known = "known are {registry}, {repository} and {name}";
                    return Err(Error::Usage(format!("{:?}: unknown \"{{{other}}}\"; {known}", self.text)));
                }
            });
            rest = behind;
        }
        target.push_str(rest);
        Repository::parse(&target)
    }
}

/// What the entries of one target ask for.
struct Claims<'e> {
    first: &'e Entry,
    /// One that takes tags by pattern, or all.
    patterned: Option<&'e Entry>,
    /// One that differs from the first in more than its tags, or renames.
    odd: Option<&'e Entry>,
    tags: HashMap<&'e str, (&'e Named, &'e Entry)>,
}

/// Refuses entries that would overwrite each other: two sources, or two kinds of copy, under the same tags.
///
/// # Errors
/// `Usage` with the line of the later one.
pub(super) fn check(file: File<'_>, entries: &[Entry]) -> Result<()> {
    let mut targets: HashMap<&Repository, Claims<'_>> = HashMap::new();
    for entry in entries {
        if entry.source == entry.target && entry.selection.renames_nothing() {
            return Err(file.error(entry.line, format_args!("{} is its own target", entry.source)));
        }
        let claims = targets.entry(&entry.target).or_insert_with(|| Claims::new(entry));
        if let Some(other) = claims.add(entry) {
            let (target, line) = (&entry.target, other.line);
            return Err(file.error(entry.line, format_args!("target {target}: line {line} puts other images there")));
        }
    }
    Ok(())
}

impl<'e> Claims<'e> {
    fn new(first: &'e Entry) -> Claims<'e> {
        Claims { first, patterned: None, odd: None, tags: HashMap::new() }
    }

    /// Adds `entry`, unless one that is there already meets it under a tag.
    fn add(&mut self, entry: &'e Entry) -> Option<&'e Entry> {
        for named in &entry.selection.named {
            let Some(tag) = named.target() else { continue };
            let (same, other) = *self.tags.entry(tag).or_insert((named, entry));
            if same != named || !alike(entry, other) {
                return Some(other);
            }
        }
        self.patterned = self.patterned.or(entry.selection.patterns.is_some().then_some(entry));
        let odd = !alike(entry, self.first) || !entry.selection.renames_nothing();
        self.odd = self.odd.or(odd.then_some(entry));
        // Which tags a pattern takes is known only when the source has been asked.
        let met = [self.patterned?, self.odd?, self.first];
        met.into_iter().find(|other| !std::ptr::eq(*other, entry))
    }
}

fn alike(a: &Entry, b: &Entry) -> bool {
    a.source == b.source && a.platforms == b.platforms && a.attachments == b.attachments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(text: &str) -> Repository {
        Repository::parse(text).unwrap()
    }

    #[test]
    fn a_repository_is_completed_and_has_no_tag() {
        assert_eq!(repository("mysql").to_string(), "docker.io/library/mysql");
        assert_eq!(repository("localhost:5000/a/b").path, "a/b");
        for bad in ["mysql:8", "h.example/a:1", "localhost:5000", "https://h.example/a", "", "a/../b"] {
            assert!(Repository::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn images_land_where_skopeo_puts_them() {
        let land = |prefix: &str, scope, source: &str| {
            Destination { prefix: prefix.into(), scope }.of(&repository(source)).map(|target| target.to_string())
        };
        let source = "quay.io/coreos/etcd";
        assert_eq!(land("m.example", Scope::LastComponent, source).unwrap(), "m.example/etcd");
        assert_eq!(land("m.example/team/", Scope::LastComponent, source).unwrap(), "m.example/team/etcd");
        assert_eq!(land("m.example/team", Scope::Whole, "nginx").unwrap(), "m.example/team/docker.io/library/nginx");
        assert!(land("m.example", Scope::Whole, "localhost:5000/a").is_err(), "skopeo 1.9.3: invalid reference format");
    }

    #[test]
    fn templates_rename() {
        let land = |text: &str, strip: &str, source: &str| {
            Template { text: text.into(), strip: strip.into() }.of(&repository(source)).map(|target| target.to_string())
        };
        assert_eq!(land("m.example/{registry}/{repository}", "", "quay.io/a/b").unwrap(), "m.example/quay.io/a/b");
        assert_eq!(
            land("m.example/{registry}/{name}", "", "localhost:5000/a/b").unwrap(),
            "m.example/localhost-5000/b"
        );
        assert_eq!(land("m.example:5000/{repository}", "library/", "mysql").unwrap(), "m.example:5000/mysql");
        assert!(land("m.example/{tag}", "", "mysql").unwrap_err().to_string().contains("unknown \"{tag}\""));
        assert!(land("m.example/{name", "", "mysql").is_err());
    }
}
