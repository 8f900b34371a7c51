//! Exit codes, and how an error is told. `docs/exit-codes.md` has the table for users.

use std::io;
use std::path::{Path, PathBuf};

use super::output::{escape, note};
use super::progress::Surroundings;
use crate::error::{Error, Fault};

/// The command line, a configuration or a name makes no sense.
pub const USAGE: u8 = 2;
/// Some of several failed.
pub const SEVERAL: u8 = 9;
/// A plan was asked whether there is something to do, and there is.
pub const WORK: u8 = 10;
/// Interrupted by SIGINT; state is kept.
pub const INTERRUPTED: u8 = 130;
/// Terminated by SIGTERM; state is kept.
pub const TERMINATED: u8 = 143;

/// The exit code that an error of the library means.
pub fn of(error: &Error) -> u8 {
    match error {
        Error::Usage(_) => USAGE,
        Error::NotFound { .. } => 3,
        Error::Unauthorized { .. } => 4,
        Error::Verification { .. } | Error::Network { fault: Fault::Size { .. }, .. } => 6,
        Error::Network { .. } | Error::Busy { .. } => 5,
        Error::Store { .. } => 7,
        Error::Limit(_) => 8,
        Error::Interrupted => INTERRUPTED,
        Error::Invalid { .. } | Error::Refused { .. } => 1,
    }
}

/// The exit code of several failures among `total` things: their own if all failed alike, else "some of several".
pub fn of_several<'a>(failures: impl IntoIterator<Item = &'a Error>, total: usize) -> u8 {
    let codes: Vec<u8> = failures.into_iter().map(of).collect();
    match codes.first() {
        None => 0,
        Some(_) if codes.contains(&INTERRUPTED) => INTERRUPTED,
        Some(&first) if codes.len() == total && codes.iter().all(|&code| code == first) => first,
        Some(_) => SEVERAL,
    }
}

/// Failures that were told already; only the exit code is left.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub struct Told(pub u8);

/// What advice may rely on.
#[derive(Debug, Clone, Default)]
pub struct Ground {
    /// Where the store is, as an absolute path; `None` while nobody knows.
    pub store: Option<PathBuf>,
    /// What is left of a command that failed.
    pub left: Left,
}

/// What is left of a command that failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Left {
    /// Nothing: it only asked.
    #[default]
    Nothing,
    /// The bytes that it received.
    Received,
}

/// Tells `error` on standard error and returns the exit code. A reader of the results who went away is no failure.
pub fn report(error: &anyhow::Error, ground: &Ground) -> u8 {
    if let Some(Told(code)) = error.downcast_ref() {
        return *code;
    }
    if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
        return 0;
    }
    note(&with_colour(describe(error.as_ref(), ground)));
    error.downcast_ref::<Error>().map_or(1, of)
}

/// Tells a failure that is one of several.
pub fn tell(error: &Error, ground: &Ground) {
    note(&with_colour(describe(error, ground)));
}

/// The message, its causes, and what to do next, each once, safe for a terminal.
fn describe(error: &(dyn std::error::Error + 'static), ground: &Ground) -> String {
    let mut text = format!("error: {}", escape(&error.to_string()));
    let mut cause = error.source();
    while let Some(inner) = cause {
        let line = escape(&inner.to_string());
        if !text.contains(&line) {
            text.push_str(&format!("\n  caused by: {line}"));
        }
        cause = inner.source();
    }
    if let Some(advice) = error.downcast_ref().and_then(|error| next_step(error, ground)) {
        text.push_str(&format!("\n  {advice}"));
    }
    text
}

fn next_step(error: &Error, ground: &Ground) -> Option<String> {
    match error {
        Error::Network { fault: Fault::Tls(_), place, .. } => Some(format!(
            "for a registry with its own certificate authority give --ca-file; for one without TLS, or a test, \
             --insecure ({})",
            escape(place)
        )),
        Error::Network { fault: Fault::Size { .. }, .. } => None,
        Error::Network { .. } | Error::Busy { .. } => Some(match ground.left {
            Left::Received => "what was received is kept; run the same command again to go on".into(),
            Left::Nothing => "run the same command again when it answers".into(),
        }),
        Error::Unauthorized { place, why, .. } if !why.contains("layerpull login") => {
            let host = place.split('/').next().unwrap_or(place);
            Some(format!("log in with: layerpull login {}", escape(host)))
        }
        // The advice is for the store, not for a file that the user named, or one of credentials.
        Error::Store { path, .. } if !ground.is_store(path) => None,
        Error::Store { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            Some("free some space (`layerpull gc` removes what no image uses) and run the same command again".into())
        }
        Error::Store { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Some("choose another store with --store or LAYERPULL_STORE".into())
        }
        _ => None,
    }
}

impl Ground {
    /// Whether `path` is in the store, or on the way to it.
    fn is_store(&self, path: &Path) -> bool {
        self.store.as_ref().is_some_and(|store| path.starts_with(store) || store.starts_with(path))
    }
}

fn with_colour(text: String) -> String {
    let here = Surroundings::here();
    match text.strip_prefix("error:") {
        Some(rest) if here.terminal && here.colour => format!("\u{1b}[1;31merror:\u{1b}[0m{rest}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_found(why: &str) -> Error {
        Error::NotFound { what: "h.example/x:1".into(), place: "h.example".into(), why: why.into() }
    }

    fn described(error: &Error) -> String {
        describe(error, &Ground { store: Some("/s".into()), left: Left::Nothing })
    }

    #[test]
    fn advice_for_the_store_is_given_for_paths_of_the_store() {
        let denied = |path| described(&Error::store("create", path)(io::ErrorKind::PermissionDenied.into()));
        assert!(denied("/s/blobs").contains("--store"));
        assert!(!denied("/run/containers").contains("--store"));
    }

    #[test]
    fn who_only_asked_is_not_told_that_anything_is_kept() {
        let error = Error::network("h.example", "tags", Fault::Connect("refused".into()));
        assert!(!described(&error).contains("kept"));
        let kept = describe(&error, &Ground { store: None, left: Left::Received });
        assert!(kept.ends_with("what was received is kept; run the same command again to go on"), "{kept}");
    }

    #[test]
    fn a_cause_that_the_message_names_is_not_repeated() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let text = described(&Error::store("write", "/s/blob")(full));
        assert_eq!(text.matches("no storage space").count(), 1, "{text}");
        assert!(text.contains("layerpull gc"), "{text}");
    }

    #[test]
    fn text_of_a_server_is_escaped_in_errors() {
        let text = described(&not_found("manifest unknown\u{1b}]0;owned\u{7}"));
        assert!(text.contains("manifest unknown\\u{1b}]0;owned\\u{7}"), "{text}");
    }

    #[test]
    fn several_failures_of_one_kind_keep_their_code() {
        let errors = [not_found(""), not_found("")];
        assert_eq!(of_several(&errors, 2), 3);
        assert_eq!(of_several(&errors, 3), SEVERAL);
        assert_eq!(of_several(&[not_found(""), Error::Limit("1 GB".into())], 2), SEVERAL);
        assert_eq!(of_several(&[not_found(""), Error::Interrupted], 2), INTERRUPTED);
        assert_eq!(of_several(&[], 2), 0);
    }

    #[test]
    fn a_reader_who_went_away_is_no_failure() {
        let gone = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(report(&gone, &Ground::default()), 0);
    }

    #[test]
    fn without_credentials_the_next_step_is_to_log_in() {
        let error = Error::Unauthorized { what: "pull".into(), place: "h.example/a/b".into(), why: "denied".into() };
        assert!(described(&error).ends_with("log in with: layerpull login h.example"));
        assert_eq!(of(&error), 4);
    }
}
