//! Which of the store's images a path means.

use std::collections::{BTreeMap, BTreeSet};

use super::failure::Failure;
use super::routes::Page;
use crate::oci::reference::{DOCKER_HUB, is_docker_hub};
use crate::oci::{Descriptor, Reference};

/// How many repositories an error names.
const MAX_NAMED: usize = 5;

/// One repository of the store: its tags, and everything that has a name in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Repository {
    pub(super) tags: BTreeMap<String, Descriptor>,
    pub(super) roots: Vec<Descriptor>,
}

/// The images of the store, by registry and repository.
#[derive(Debug, Default)]
pub(super) struct Names {
    repositories: BTreeMap<(String, String), Repository>,
    /// The registry of what was pushed to this listener.
    own: Option<String>,
}

impl Names {
    /// `own` is the registry that clients mean who push and pull here.
    pub(super) fn of(images: Vec<(Reference, Descriptor)>, own: Option<&str>) -> Names {
        let mut names = Names { own: own.map(str::to_owned), ..Names::default() };
        for (reference, root) in images {
            let key = (reference.registry().to_owned(), reference.repository().to_owned());
            let repository = names.repositories.entry(key).or_default();
            if let Some(tag) = reference.tag() {
                repository.tags.insert(tag.into(), root.clone());
            }
            repository.roots.push(root);
        }
        names
    }

    /// The repository that `path` names: pushed under it; with its registry; with the one of `namespace`; or alone, where only one fits.
    pub(super) fn find(&self, path: &str, namespace: Option<&str>) -> Result<&Repository, Failure> {
        if let Some(namespace) = namespace {
            let fits = |registry: &str| same_registry(registry, namespace);
            return self.only(path, |(registry, repository)| fits(registry) && fits_alone(registry, repository, path));
        }
        let pushed = self.own.as_ref().and_then(|own| self.repositories.get(&(own.clone(), path.to_owned())));
        if let Some(pushed) = pushed {
            return Ok(pushed);
        }
        let full = self.only(path, |(registry, repository)| full_path(registry, repository) == lower_host(path));
        match full {
            Err(_) => self.only(path, |(registry, repository)| fits_alone(registry, repository, path)),
            found => found,
        }
    }

    fn only(&self, path: &str, fits: impl Fn(&(String, String)) -> bool) -> Result<&Repository, Failure> {
        let found: Vec<_> = self.repositories.iter().filter(|(key, _)| fits(key)).collect();
        match found[..] {
            [(_, repository)] => Ok(repository),
            [] => Err(Failure::name_unknown(format!("repository {path:?} is not in this store"))),
            _ => Err(ambiguous(path, found.iter().map(|((registry, repository), _)| full_path(registry, repository)))),
        }
    }

    /// The paths, sorted: of what was pushed as clients named it, of all else with the registry.
    pub(super) fn paths(&self) -> BTreeSet<String> {
        let path = |(registry, repository): &(String, String)| match self.own.as_ref() == Some(registry) {
            true => repository.clone(),
            false => full_path(registry, repository),
        };
        self.repositories.keys().map(path).collect()
    }
}

fn ambiguous(path: &str, all: impl Iterator<Item = String>) -> Failure {
    let some: Vec<String> = all.take(MAX_NAMED).collect();
    Failure::name_unknown(format!("{path:?} is ambiguous, name the registry too: {}", some.join(", ")))
}

/// The path of a repository below `/v2/`. A colon may not stand in a path that clients accept, so it becomes `_`.
fn full_path(registry: &str, repository: &str) -> String {
    format!("{}/{repository}", registry.to_ascii_lowercase().replace(':', "_"))
}

/// A path with its first component as [`full_path`] spells it.
fn lower_host(path: &str) -> String {
    match path.split_once('/') {
        Some((host, rest)) => full_path(host, rest),
        None => path.into(),
    }
}

/// Without a registry: the repository, or on Docker Hub what people call it.
fn fits_alone(registry: &str, repository: &str, path: &str) -> bool {
    let familiar = repository.strip_prefix("library/").filter(|_| registry == DOCKER_HUB);
    repository == path || familiar == Some(path)
}

/// Whether `namespace`, as a client wrote it, means `registry`.
fn same_registry(registry: &str, namespace: &str) -> bool {
    registry.eq_ignore_ascii_case(namespace) || (registry == DOCKER_HUB && is_docker_hub(namespace))
}

/// One page of a sorted list, and whether there is more.
pub(super) fn page<'a>(all: impl Iterator<Item = &'a String>, page: &Page) -> (Vec<&'a String>, bool) {
    let mut rest = all.filter(|entry| page.last.as_ref().is_none_or(|last| *entry > last));
    let taken: Vec<_> = rest.by_ref().take(page.count).collect();
    let more = !taken.is_empty() && rest.next().is_some();
    (taken, more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn names(references: &[&str]) -> Names {
        let root = |text: &str| Descriptor::new("x", Digest::of(text.as_bytes()), 1);
        Names::of(references.iter().map(|text| (text.parse().unwrap(), root(text))).collect(), None)
    }

    fn tags(names: &Names, path: &str, namespace: Option<&str>) -> Vec<String> {
        names.find(path, namespace).map(|r| r.tags.keys().cloned().collect()).unwrap_or_default()
    }

    #[test]
    fn a_repository_has_a_full_path_and_a_short_one_where_it_is_unique() {
        let names = names(&["nginx:1", "127.0.0.1:5000/library/httpd:2"]);
        for path in ["docker.io/library/nginx", "library/nginx", "nginx"] {
            assert_eq!(tags(&names, path, None), ["1"], "{path}");
        }
        for path in ["127.0.0.1:5000/library/httpd", "127.0.0.1_5000/library/httpd", "library/httpd"] {
            assert_eq!(tags(&names, path, None), ["2"], "{path}");
        }
        assert!(names.find("httpd", None).is_err(), "only Docker Hub has such short names");
        assert_eq!(
            names.paths().into_iter().collect::<Vec<_>>(),
            ["127.0.0.1_5000/library/httpd", "docker.io/library/nginx"]
        );
    }

    #[test]
    fn what_was_pushed_wins_over_all_else_of_its_path() {
        let mut names = names(&["nginx:1", "quay.io/library/nginx:2", "[::1]:5000/library/nginx:3"]);
        assert!(names.find("library/nginx", None).is_err());
        names.own = Some("[::1]:5000".into());
        assert_eq!(tags(&names, "library/nginx", None), ["3"]);
        assert_eq!(tags(&names, "library/nginx", Some("docker.io")), ["1"]);
        assert_eq!(tags(&names, "docker.io/library/nginx", None), ["1"]);
        assert!(names.paths().contains("library/nginx"));
    }

    #[test]
    fn an_ambiguous_short_path_says_what_it_could_mean() {
        let names = names(&["nginx:1", "quay.io/library/nginx:2"]);
        let failure = format!("{:?}", names.find("library/nginx", None).unwrap_err());
        assert!(failure.contains("docker.io/library/nginx, quay.io/library/nginx"), "{failure}");
        assert_eq!(tags(&names, "quay.io/library/nginx", None), ["2"]);
    }

    #[test]
    fn the_namespace_decides_between_registries() {
        let names = names(&["nginx:1", "quay.io/library/nginx:2"]);
        assert_eq!(tags(&names, "library/nginx", Some("quay.io")), ["2"]);
        assert_eq!(tags(&names, "library/nginx", Some("registry-1.docker.io")), ["1"]);
        assert!(names.find("library/nginx", Some("ghcr.io")).is_err());
    }

    #[test]
    fn pages_follow_one_another_without_gaps() {
        let all: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        let ask = |count, last: Option<&str>| {
            let (taken, more) = page(all.iter(), &Page { count, last: last.map(String::from) });
            (taken.into_iter().cloned().collect::<Vec<_>>(), more)
        };
        assert_eq!(ask(2, None), (vec!["a".into(), "b".into()], true));
        assert_eq!(ask(2, Some("b")), (vec!["c".into()], false));
        assert_eq!(ask(0, None), (vec![], false));
    }
}
