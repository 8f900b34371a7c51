//! Uploads that registries have open.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{State, lock, now};
use crate::oci::Digest;

/// Open uploads that are remembered; the oldest go first.
const MAX_UPLOADS: usize = 256;
/// Registries drop what nobody goes on with after a week.
const UPLOAD_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
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

impl State {
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
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

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
    fn uploads_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(Some(dir.path().into()));
        (0..MAX_UPLOADS + 3).for_each(|i| state.keep_upload(open(&i.to_string(), 1)));
        assert_eq!(state.upload(&key("2")), None);
        assert!(state.upload(&key("3")).is_some());
    }

    #[test]
    fn what_two_processes_write_at_once_is_merged() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (State::new(Some(dir.path().into())), State::new(Some(dir.path().into())));
        // All changes of one take less time, also on a busy machine, than the other waits for the lock.
        std::thread::scope(|scope| {
            for (state, name) in [(&one, "a"), (&other, "b")] {
                scope.spawn(move || (0..20).for_each(|i| state.keep_upload(open(&format!("{name}{i}"), 1))));
            }
        });
        let next = State::new(Some(dir.path().into()));
        for i in 0..20u8 {
            assert!(next.upload(&key(&format!("a{i}"))).is_some() && next.upload(&key(&format!("b{i}"))).is_some());
        }
    }

    #[test]
    fn without_a_folder_an_upload_is_known_as_long_as_the_process() {
        let state = State::new(None);
        state.keep_upload(open("x", 1));
        assert!(state.upload(&key("x")).is_some());
    }
}
