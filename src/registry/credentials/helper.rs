//! Credential helpers: programs `docker-credential-NAME` that keep passwords (docker-credential-helpers).

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::Credential;
use crate::registry::answer::cut;
use crate::registry::secret::Secret;

/// How long a helper may think: it may ask a person to unlock a keychain.
const TIME: Duration = Duration::from_secs(30);
const MAX_OUTPUT: u64 = 64 * 1024;
const NOT_FOUND: &str = "credentials not found in native keychain";

type Found = Option<Arc<Credential>>;
/// What helpers said, by helper and key.
type Said = HashMap<(String, String), Arc<OnceCell<Result<Found, String>>>>;

/// Runs helpers, and remembers what they said.
#[derive(Clone)]
pub(in crate::registry) struct Helpers {
    /// Where the programs are; else the search path decides.
    folder: Option<PathBuf>,
    time: Duration,
    said: Arc<Mutex<Said>>,
}

impl Default for Helpers {
    fn default() -> Helpers {
        Helpers { folder: None, time: TIME, said: Arc::default() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default, rename = "ServerURL")]
    server_url: String,
    username: String,
    secret: String,
}

impl Helpers {
    #[cfg(test)]
    pub(super) fn from_folder(folder: &std::path::Path) -> Helpers {
        Helpers { folder: Some(folder.into()), ..Helpers::default() }
    }

    #[cfg(test)]
    pub(super) fn limited_to(self, time: Duration) -> Helpers {
        Helpers { time, ..self }
    }

    /// What helper `name` has for `key`. It is asked once; later calls, and calls at the same time, share the answer.
    pub(super) async fn get(&self, name: &str, key: &str) -> Result<Found, String> {
        let question = (name.to_owned(), key.to_owned());
        let cell = self.said.lock().unwrap_or_else(PoisonError::into_inner).entry(question).or_default().clone();
        cell.get_or_init(|| self.ask(name, key)).await.clone()
    }

    async fn ask(&self, name: &str, key: &str) -> Result<Found, String> {
        let output = match self.run(name, "get", key.as_bytes()).await {
            Err(why) if why == NOT_FOUND => return Ok(None),
            other => other?,
        };
        let entry: Entry = serde_json::from_str(&output).map_err(|_| "its answer is not understood".to_owned())?;
        Ok(Some(Arc::new(Credential::of_pair(&entry.username, &entry.secret))))
    }

    /// Gives a credential to helper `name`.
    pub(super) async fn store(&self, name: &str, key: &str, user: &str, secret: &Secret) -> Result<(), String> {
        let entry = Entry { server_url: key.into(), username: user.into(), secret: secret.expose().into() };
        let input = serde_json::to_vec(&entry).map_err(|e| e.to_string())?;
        self.run(name, "store", &input).await.map(drop)
    }

    /// Makes helper `name` forget `key`. One that never knew it is content.
    pub(super) async fn erase(&self, name: &str, key: &str) -> Result<(), String> {
        match self.run(name, "erase", key.as_bytes()).await {
            Err(why) if why == NOT_FOUND => Ok(()),
            other => other.map(drop),
        }
    }

    /// Runs the program; `Err` is what it said when it failed, which it says on its standard output.
    async fn run(&self, name: &str, action: &str, input: &[u8]) -> Result<String, String> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(is_plain) {
            return Err(format!("{name:?} is no name of a helper"));
        }
        let program = format!("docker-credential-{name}");
        let program = self.folder.as_ref().map_or_else(|| program.clone().into(), |folder| folder.join(&program));
        let mut command = Command::new(program);
        command.arg(action).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let (succeeded, output) = match tokio::time::timeout(self.time, exchange(command, input)).await {
            Ok(done) => done.map_err(|e| format!("it cannot be run: {e}"))?,
            Err(_) => return Err(format!("it did not answer within {} s", self.time.as_secs_f32())),
        };
        let output = output.trim().to_owned();
        if succeeded { Ok(output) } else { Err(cut(&output, 1024)) }
    }
}

/// A program that runs, with what it started: all of it ends when this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended by itself.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Dropping the future ends the program. What it leaves behind when it ends by itself, as an agent, stays.
async fn exchange(mut command: Command, input: &[u8]) -> std::io::Result<(bool, String)> {
    let mut child = command.spawn()?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    if let Some(mut stdin) = stdin {
        // A program that does not read its question may still answer.
        let _ = stdin.write_all(input).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = stdout {
        stdout.take(MAX_OUTPUT).read_to_end(&mut output).await?;
    }
    let succeeded = child.wait().await?.success();
    group.0 = None;
    Ok((succeeded, String::from_utf8_lossy(&output).into_owned()))
}
