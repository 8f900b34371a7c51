//! Small hints between runs: uploads that are open, and repositories that hold a blob.
//!
//! Everything here may be lost, old or wrong: it only saves requests and bytes. A file that is broken, of another version
//! or too large counts as empty. The addresses of open uploads may carry signatures, so the files are their owner's alone.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use file::StateFile;
use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// Open uploads that are remembered; the oldest go first.
const MAX_UPLOADS: usize = 256;
/// Registries drop what nobody goes on with after a week.
const UPLOAD_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Blobs whose repositories are remembered, over all registries.
const MAX_BLOBS: usize = 10_000;
/// Repositories that are remembered for a blob; the newest is the first.
const MAX_REPOSITORIES: usize = 4;
/// Longer addresses are not remembered.
const MAX_LOCATION: usize = 8 * 1024;

/// Which upload: one blob on its way into one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadKey {
    /// The registry, as references name it.
    pub registry: String,
    /// The repository at it.
    pub repository: String,
    /// The blob.
    pub digest: Digest,
}

/// An upload that a registry has open.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenUpload {
    /// Which.
    pub key: UploadKey,
    /// The newest address, which may carry a signature but no credentials.
    pub location: String,
    /// How many bytes the registry was known to have.
    pub offset: u64,
    /// The hash over them, as [`Hasher::save`](crate::oci::Hasher::save) gives it.
    pub hash: String,
    /// The least length of its chunks in bytes; 0 for any.
    #[serde(default)]
    pub minimum: u64,
    /// The process that has it open. Another one leaves it alone while that one lives.
    pub process: u32,
    /// When it was remembered, in seconds since 1970.
    pub time: u64,
}

impl OpenUpload {
    /// One that this process has open now.
    pub fn new(key: UploadKey, location: String, offset: u64, hash: String) -> OpenUpload {
        OpenUpload { key, location, offset, hash, minimum: 0, process: std::process::id(), time: now() }
    }

    fn is_current(&self) -> bool {
        let age = now().saturating_sub(self.time);
        age < UPLOAD_AGE.as_secs() && self.location.len() <= MAX_LOCATION
    }

    /// Whether another process that still runs has it open.
    fn is_taken(&self) -> bool {
        let pid = i32::try_from(self.process).ok().and_then(rustix::process::Pid::from_raw);
        self.process != std::process::id() && pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
    }
}

/// Without the address, which may carry a signature.
impl std::fmt::Debug for OpenUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenUpload").field("key", &self.key).field("offset", &self.offset).finish_non_exhaustive()
    }
}

/// Which repositories of one registry hold a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    registry: String,
    digest: Digest,
    repositories: Vec<String>,
    time: u64,
}

type Blob = (String, Digest);

/// Hints of former runs and of this one. What cannot be read or written is no error: there is a hint less.
pub struct State {
    uploads: Option<StateFile>,
    holders: Option<StateFile>,
    /// What this process knows; read from the file when it is first asked.
    known: OnceLock<Mutex<Known>>,
    /// The open uploads where no folder keeps them.
    open: Mutex<Vec<OpenUpload>>,
}

#[derive(Default)]
struct Known {
    blobs: BTreeMap<Blob, Held>,
    /// Registries with those of their repositories that hold something.
    repositories: BTreeSet<(String, String)>,
    /// What the file does not have yet.
    news: Vec<(Blob, String)>,
    /// What the file should not have.
    refuted: Vec<(Blob, String)>,
}

impl State {
    /// Hints that are kept in `folder`, which is made when there is something to keep; without one they end with the
    /// process. Reads nothing.
    pub fn new(folder: Option<PathBuf>) -> State {
        let file = |name: &str| folder.as_ref().map(|folder| StateFile::new(folder, name));
        State {
            uploads: file("uploads.json"),
            holders: file("mounts.json"),
            known: OnceLock::new(),
            open: Mutex::default(),
        }
    }

    /// The upload that a former process, or this one, left open.
    pub fn upload(&self, key: &UploadKey) -> Option<OpenUpload> {
        let all = match &self.uploads {
            Some(file) => file.read::<OpenUpload>(),
            None => lock(&self.open).clone(),
        };
        all.into_iter().find(|upload| upload.key == *key && upload.is_current() && !upload.is_taken())
    }

    /// Remembers where an upload stands, instead of what was remembered of it before.
    pub fn keep_upload(&self, upload: OpenUpload) {
        self.change_uploads(|all| {
            all.retain(|known| known.key != upload.key && known.is_current());
            all.push(upload);
            let surplus = all.len().saturating_sub(MAX_UPLOADS);
            all.drain(..surplus);
        });
    }

    /// An upload has ended, well or not.
    pub fn forget_upload(&self, key: &UploadKey) {
        self.change_uploads(|all| all.retain(|known| known.key != *key));
    }

    fn change_uploads(&self, change: impl FnOnce(&mut Vec<OpenUpload>)) {
        match &self.uploads {
            Some(file) => file.change(change),
            None => change(&mut lock(&self.open)),
        }
    }

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

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn key(name: &str) -> UploadKey {
        UploadKey { registry: "h".into(), repository: "a/b".into(), digest: Digest::of(name.as_bytes()) }
    }

    fn open(name: &str, offset: u64) -> OpenUpload {
        OpenUpload::new(key(name), "http://h/u?_state=1".into(), offset, "00".into())
    }

    #[test]
    fn an_open_upload_is_found_by_the_next_run_until_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let state = || State::new(Some(dir.path().join("state")));
        assert_eq!(state().upload(&key("x")), None);
        state().keep_upload(open("x", 1));
        state().keep_upload(open("y", 2));
        state().keep_upload(open("x", 3));
        assert_eq!(state().upload(&key("x")).unwrap().offset, 3);
        state().forget_upload(&key("x"));
        assert_eq!(state().upload(&key("x")), None);
        assert_eq!(state().upload(&key("y")).unwrap().offset, 2);
        let mode = dir.path().join("state/uploads.json").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(dir.path().join("state").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn an_upload_of_a_living_process_and_an_old_one_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(Some(dir.path().into()));
        state.keep_upload(OpenUpload { process: 1, ..open("x", 1) });
        assert_eq!(state.upload(&key("x")), None);
        // No process has a number this high.
        state.keep_upload(OpenUpload { process: i32::MAX as u32, ..open("x", 1) });
        assert!(state.upload(&key("x")).is_some());
        state.keep_upload(OpenUpload { time: now() - UPLOAD_AGE.as_secs(), ..open("x", 1) });
        assert_eq!(state.upload(&key("x")), None);
    }

    #[test]
    fn a_broken_foreign_or_large_file_counts_as_empty_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uploads.json");
        let foreign = r#"{"version":99,"entries":[]}"#;
        for text in ["", "{", "[1]", foreign, &" ".repeat(17 << 20)] {
            std::fs::write(&path, text).unwrap();
            let state = State::new(Some(dir.path().into()));
            assert_eq!(state.upload(&key("x")), None);
            state.keep_upload(open("x", 1));
            assert!(state.upload(&key("x")).is_some(), "{}", text.len());
        }
    }

    #[test]
    fn uploads_and_blobs_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(Some(dir.path().into()));
        (0..MAX_UPLOADS + 3).for_each(|i| state.keep_upload(open(&i.to_string(), 1)));
        assert_eq!(state.upload(&key("2")), None);
        assert!(state.upload(&key("3")).is_some());
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
        std::thread::scope(|scope| {
            for (state, name) in [(&one, "a"), (&other, "b")] {
                scope.spawn(move || {
                    for i in 0..50 {
                        state.keep_upload(open(&format!("{name}{i}"), 1));
                        state.held("h", &format!("{name}{i}"), &Digest::of(&[i]));
                        state.held("h", name, &Digest::of(b"x"));
                        state.save();
                    }
                });
            }
        });
        let next = State::new(Some(dir.path().into()));
        for i in 0..50u8 {
            assert!(next.upload(&key(&format!("a{i}"))).is_some() && next.upload(&key(&format!("b{i}"))).is_some());
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
    fn without_a_folder_hints_live_as_long_as_the_process() {
        let state = State::new(None);
        state.keep_upload(open("x", 1));
        state.held("h", "r", &Digest::of(b"x"));
        state.save();
        assert!(state.upload(&key("x")).is_some());
        assert_eq!(state.holders("h", &Digest::of(b"x")), ["r"]);
    }
}
