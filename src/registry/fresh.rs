//! Repositories that nobody has put anything into yet: one request tells that none of an image's blobs is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::OnceCell;

use super::lists;
use super::repository::Repository;
use super::session::Session;
use crate::oci::Reference;
use crate::state::State;

/// What is known of whether a repository is new.
///
/// It need not be true: somebody else may push to it meanwhile, and a list may be old. Then a blob is sent that is there,
/// but [`Target::mount_here`](super::upload::target::Target::mount_here) finds most of those.
#[derive(Default)]
pub(super) struct Freshness {
    /// A tag of it was looked for, and is not there.
    lacks_tag: AtomicBool,
    /// A tag of it is there.
    has_tag: AtomicBool,
    listed: OnceCell<bool>,
    /// Blobs were taken for missing because it is new.
    pub(super) assumed: AtomicBool,
}

impl Freshness {
    /// A tag was looked for.
    pub(super) fn looked(&self, is_there: bool) {
        let known = if is_there { &self.has_tag } else { &self.lacks_tag };
        known.store(true, Ordering::Relaxed);
    }
}

impl Repository {
    /// Whether the registry's own list of repositories, if it gave all of it, lacks this one. Asks nobody.
    pub(super) fn is_uncatalogued(&self) -> bool {
        let (registry, repository) = (self.session.registry(), &self.repository);
        let is_absent = self.session.repositories.get().is_some_and(|all| !all.contains(repository));
        is_absent && !self.state.knows(registry, repository)
    }

    /// Whether nothing is in it. Asks for a list of its tags where a tag was missing and no run remembers a blob of it: so
    /// one request stands for those about each blob.
    pub(super) async fn is_new(&self) -> bool {
        if self.state.knows(self.session.registry(), &self.repository) {
            return false;
        }
        let fresh = &self.fresh;
        let is_doubtful = fresh.lacks_tag.load(Ordering::Relaxed) && !fresh.has_tag.load(Ordering::Relaxed);
        let is_unlisted = || lists::is_unknown(&self.session, &self.repository, &self.access);
        let is_new = self.is_uncatalogued() || is_doubtful && *fresh.listed.get_or_init(is_unlisted).await;
        fresh.assumed.fetch_or(is_new, Ordering::Relaxed);
        is_new
    }
}

/// Asks the registries of which `names` has several repositories that no run remembers for the list of what they have.
/// Where that is refused, or too long, nothing is known.
pub(super) async fn look_around(names: &[Reference], state: &State, session: impl Fn(&Reference) -> Arc<Session>) {
    let mut unknown: BTreeMap<&str, BTreeMap<&str, &Reference>> = BTreeMap::new();
    for name in names.iter().filter(|name| !state.knows(name.registry(), name.repository())) {
        unknown.entry(name.registry()).or_default().insert(name.repository(), name);
    }
    for repositories in unknown.values().filter(|repositories| repositories.len() > 1) {
        let Some(session) = repositories.values().next().map(|name| session(name)) else { continue };
        if let Some(all) = lists::whole_catalog(&session).await {
            // Somebody was faster: as good.
            let _ = session.repositories.set(all);
        }
    }
}
