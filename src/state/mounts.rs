//! Repositories that hold a blob.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use super::file::StateFile;
use super::{State, lock, now};
use crate::oci::Digest;

/// Blobs whose repositories are remembered, over all registries.
const MAX_BLOBS: usize = 10_000;
/// Repositories that are remembered for a blob; the newest is the first.
const MAX_REPOSITORIES: usize = 4;

/// Which repositories of one registry hold a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    registry: String,
    digest: Digest,
    repositories: Vec<String>,
    time: u64,
}

type Blob = (String, Digest);

/// What this process knows.
#[derive(Default)]
pub(super) struct Known {
    blobs: BTreeMap<Blob, Held>,
    /// Registries with those of their repositories that hold something.
    repositories: BTreeSet<(String, String)>,
    /// What the file does not have yet.
    news: Vec<(Blob, String)>,
    /// What the file should not have.
    refuted: Vec<(Blob, String)>,
}

impl State {
    /// Repositories of `registry` that are known to have a blob, the newest first.
    pub fn holders(&self, registry: &str, blob: &Digest) -> Vec<String> {
        let known = self.known();
        known.blobs.get(&(registry.to_owned(), blob.clone())).map(|held| held.repositories.clone()).unwrap_or_default()
    }

    /// Whether a repository is known to have any blob.
    pub fn knows(&self, registry: &str, repository: &str) -> bool {
        self.known().repositories.contains(&(registry.to_owned(), repository.to_owned()))
    }

    /// A repository is known to have a blob. It is written down by [`State::save`].
    pub fn held(&self, registry: &str, repository: &str, blob: &Digest) {
        let mut known = self.known();
        known.repositories.insert((registry.to_owned(), repository.to_owned()));
        let key = (registry.to_owned(), blob.clone());
        if known.blobs.get(&key).is_some_and(|held| held.repositories.iter().any(|name| name == repository)) {
            return;
        }
        if known.blobs.len() < MAX_BLOBS || known.blobs.contains_key(&key) {
            note(&mut known.blobs, &key, repository);
            known.news.push((key, repository.to_owned()));
        }
    }

    /// A repository did not give a blob that it was said to have: it is not asked for it again, unless this process saw the
    /// blob there itself.
    pub fn refused(&self, registry: &str, repository: &str, blob: &Digest) {
        let mut known = self.known();
        let refuted = ((registry.to_owned(), blob.clone()), repository.to_owned());
        if known.news.contains(&refuted) {
            return;
        }
        forget(&mut known.blobs, &refuted.0, repository);
        known.refuted.push(refuted);
    }

    /// Writes down which repositories hold which blobs, beside what other processes wrote.
    pub fn save(&self) {
        let Some(file) = &self.holders else { return };
        let mut known = self.known();
        let (news, refuted) = (std::mem::take(&mut known.news), std::mem::take(&mut known.refuted));
        drop(known);
        if news.is_empty() && refuted.is_empty() {
            return;
        }
        file.change(|all: &mut Vec<Held>| {
            let mut blobs = by_blob(std::mem::take(all));
            for (key, repository) in refuted {
                forget(&mut blobs, &key, &repository);
            }
            for (key, repository) in news {
                note(&mut blobs, &key, &repository);
            }
            *all = blobs.into_values().collect();
            all.sort_by_key(|held| std::cmp::Reverse(held.time));
            all.truncate(MAX_BLOBS);
        });
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        let read = || {
            let held = self.holders.as_ref().map(StateFile::read::<Held>).unwrap_or_default();
            let blobs = by_blob(held);
            let pairs = |held: &Held| {
                held.repositories.iter().map(|name| (held.registry.clone(), name.clone())).collect::<Vec<_>>()
            };
            let repositories = blobs.values().flat_map(pairs).collect();
            Mutex::new(Known { blobs, repositories, news: Vec::new(), refuted: Vec::new() })
        };
        lock(self.known.get_or_init(read))
    }
}

fn by_blob(all: Vec<Held>) -> BTreeMap<Blob, Held> {
    let bounded = all.into_iter().take(MAX_BLOBS).map(|mut held| {
        held.repositories.truncate(MAX_REPOSITORIES);
        ((held.registry.clone(), held.digest.clone()), held)
    });
    bounded.collect()
}

fn note(blobs: &mut BTreeMap<Blob, Held>, key: &Blob, repository: &str) {
    let (registry, digest) = key.clone();
    let held = blobs.entry(key.clone()).or_insert(Held { registry, digest, repositories: Vec::new(), time: 0 });
    held.repositories.retain(|name| name != repository);
    held.repositories.insert(0, repository.to_owned());
    held.repositories.truncate(MAX_REPOSITORIES);
    held.time = now();
}

fn forget(blobs: &mut BTreeMap<Blob, Held>, key: &Blob, repository: &str) {
    let Some(held) = blobs.get_mut(key) else { return };
    held.repositories.retain(|name| name != repository);
    if held.repositories.is_empty() {
        blobs.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repositories_of_a_blob_are_bounded() {
        let state = State::new(None);
        let digest = Digest::of(b"x");
        (0..6).for_each(|i| state.held("h", &format!("r{i}"), &digest));
        assert_eq!(state.holders("h", &digest), ["r5", "r4", "r3", "r2"]);
        assert!(state.holders("other", &digest).is_empty());
    }

    #[test]
    fn what_two_processes_write_at_once_is_merged() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (State::new(Some(dir.path().into())), State::new(Some(dir.path().into())));
        let digest = Digest::of(b"x");
        assert!(other.holders("h", &digest).is_empty());
        // All changes of one take less time, also on a busy machine, than the other waits for the lock.
        std::thread::scope(|scope| {
            for (state, name) in [(&one, "a"), (&other, "b")] {
                scope.spawn(move || {
                    for i in 0..20 {
                        state.held("h", &format!("{name}{i}"), &Digest::of(&[i]));
                        state.held("h", name, &Digest::of(b"x"));
                        state.save();
                    }
                });
            }
        });
        let next = State::new(Some(dir.path().into()));
        for i in 0..20u8 {
            assert_eq!(next.holders("h", &Digest::of(&[i])).len(), 2);
        }
        let mut both = next.holders("h", &digest);
        both.sort();
        assert_eq!(both, ["a", "b"]);
    }

    #[test]
    fn what_a_repository_did_not_give_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"x");
        let first = State::new(Some(dir.path().into()));
        ["a", "b"].iter().for_each(|name| first.held("h", name, &digest));
        first.refused("h", "a", &digest);
        assert_eq!(first.holders("h", &digest), ["b", "a"], "this process saw it there");
        first.save();
        let second = State::new(Some(dir.path().into()));
        assert!(second.knows("h", "a") && !second.knows("h", "c") && !second.knows("other", "a"));
        second.refused("h", "a", &digest);
        assert_eq!(second.holders("h", &digest), ["b"]);
        second.save();
        assert_eq!(State::new(Some(dir.path().into())).holders("h", &digest), ["b"]);
    }

    #[test]
    fn without_a_folder_a_blob_is_known_as_long_as_the_process() {
        let state = State::new(None);
        state.held("h", "r", &Digest::of(b"x"));
        state.save();
        assert_eq!(state.holders("h", &Digest::of(b"x")), ["r"]);
    }
}
