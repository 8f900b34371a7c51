//! What can go wrong, named by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::oci::{
    Descriptor, Digest, Index, InvalidDigest, InvalidManifest, InvalidPlatform, InvalidReference, Platform,
};

/// The result of everything in this library that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error. Texts that came from a server are in it as they came: escape them before they reach a terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense: say something else.
    #[error("{0}")]
    Usage(String),
    /// It is not there: name something that exists.
    #[error("{what} not found at {place}{}", detail(.why))]
    NotFound {
        /// A reference, a digest, a tag.
        what: String,
        /// The registry, store or archive that was asked.
        place: String,
        /// What the place said about it, and what to do next.
        why: String,
    },
    /// Credentials are missing, wrong, or do not suffice: log in, or ask for access.
    #[error("{place}: not authorised for {what}{}", detail(.why))]
    Unauthorized {
        /// What access was asked for.
        what: String,
        /// The host that refused.
        place: String,
        /// What it said about it, and what to do next.
        why: String,
    },
    /// The way to the other side broke, stood still or made no sense. Trying again may help; what was received is kept.
    #[error("{place}: {what}: {fault}")]
    Network {
        /// What was asked for.
        what: String,
        /// The host.
        place: String,
        /// How it broke.
        fault: Fault,
    },
    /// The other side asks for patience.
    #[error("{place}: {what}: busy (HTTP {status}){}{}", after(.retry_after), detail(.why))]
    Busy {
        /// What was asked for.
        what: String,
        /// The host.
        place: String,
        /// 429, or any of 5xx.
        status: u16,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
        /// What it said about it.
        why: String,
    },
    /// Bytes are not the ones that their digest or size names.
    #[error("{place}: {what}: verification failed: {why}")]
    Verification {
        /// A digest or a reference.
        what: String,
        /// Where the bytes came from.
        place: String,
        /// Expected and found.
        why: String,
    },
    /// Something that was read cannot be followed: a manifest, an index, an archive.
    #[error("{place}: {what}: {why}")]
    Invalid {
        /// A digest or a reference.
        what: String,
        /// Where it came from.
        place: String,
        /// What is wrong with it, and what to do next.
        why: String,
    },
    /// The disk or the store: free space, permissions, a file in the way.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Store {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The trust policy of this machine, or a rule that the user gave, forbids it.
    #[error("{what}: refused: {why}")]
    Refused {
        /// A reference or a host.
        what: String,
        /// The rule, with its file, and what to do next.
        why: String,
    },
    /// A limit that the user set is reached; what is verified is kept.
    #[error("limit reached: {0}")]
    Limit(String),
    /// The user, or the process's owner, asked to stop; what is needed to go on is saved.
    #[error("interrupted; run the same command again to go on")]
    Interrupted,
}

/// How a network exchange broke.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// TLS failed: an unknown certificate, no common version. Trying again does not help.
    #[error("TLS: {0}")]
    Tls(String),
    /// The connection broke in the middle.
    #[error("connection broke: {0}")]
    Broken(String),
    /// Nothing came for this long.
    #[error("nothing received for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    /// The body ended before or after its stated length.
    #[error("body ended after {got} of {expected} bytes")]
    Length {
        /// Bytes received.
        got: u64,
        /// Bytes stated.
        expected: u64,
    },
    /// The other side holds another number of bytes under this digest.
    #[error("it has {got} bytes there, its descriptor says {expected}")]
    Size {
        /// Bytes that the other side states.
        got: u64,
        /// Bytes that the descriptor states.
        expected: u64,
    },
    /// The answer breaks the protocol.
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// A signed address has ended, or was refused: ask the registry for a new one.
    #[error("redirect target refused with HTTP {0}")]
    Expired(u16),
}

impl Error {
    /// Whether trying the same again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Busy { .. } => true,
            Error::Network { fault, .. } => !matches!(fault, Fault::Tls(_)),
            _ => false,
        }
    }

    /// How long the other side asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A network fault at `place` while asking for `what`.
    pub fn network(place: impl ToString, what: impl ToString, fault: Fault) -> Error {
        Error::Network { what: what.to_string(), place: place.to_string(), fault }
    }

    /// For `map_err`: the system refused to do `action` to `path`.
    pub fn store(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::Store { path, action, source }
    }

    /// Bytes from `place` that should be `expected` are `found`.
    pub fn digest_mismatch(place: impl ToString, expected: &Descriptor, found: &Digest) -> Error {
        Error::Verification {
            what: expected.digest.to_string(),
            place: place.to_string(),
            why: format!("the bytes received have digest {found}"),
        }
    }

    /// `index`, which is `name` at `place`, has nothing for `wanted`. Names at most 20 of what it has.
    pub fn no_platform(place: impl ToString, name: impl ToString, wanted: &Platform, index: &Index) -> Error {
        const SHOWN: usize = 20;
        let offered = index.manifests.iter().filter_map(|child| child.platform.as_ref());
        // What builders attach to an image stands beside it as a platform of this name.
        let mut offered: Vec<String> =
            offered.map(Platform::to_string).filter(|platform| platform != "unknown/unknown").collect();
        offered.dedup();
        let more = match offered.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        offered.truncate(SHOWN);
        Error::NotFound {
            what: format!("platform {wanted} of {}", name.to_string()),
            place: place.to_string(),
            why: format!("it has {}{more}; choose with --platform", offered.join(", ")),
        }
    }

    /// A manifest `what` from `place` cannot be followed, or is not the one that its digest names.
    pub fn manifest(place: impl ToString, what: impl ToString, problem: InvalidManifest) -> Error {
        let (what, place, why) = (what.to_string(), place.to_string(), problem.to_string());
        match problem {
            InvalidManifest::OtherBytes(_) => Error::Verification { what, place, why },
            _ => Error::Invalid { what, place, why },
        }
    }

    /// The file of `blob` at `place` has `found` bytes.
    pub fn file_size(place: impl ToString, blob: &Descriptor, found: u64) -> Error {
        let why = format!("the file has {found} bytes instead of {}", blob.size);
        Error::Verification { what: blob.digest.to_string(), place: place.to_string(), why }
    }
}

impl From<InvalidReference> for Error {
    fn from(e: InvalidReference) -> Error {
        Error::Usage(e.to_string())
    }
}

impl From<InvalidDigest> for Error {
    fn from(e: InvalidDigest) -> Error {
        Error::Usage(e.to_string())
    }
}

impl From<InvalidPlatform> for Error {
    fn from(e: InvalidPlatform) -> Error {
        Error::Usage(e.to_string())
    }
}

fn detail(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

fn after(wait: &Option<Duration>) -> String {
    // Rounded up: a date leaves a fraction.
    wait.map(|w| format!(", asks to wait {} s", w.as_secs_f64().ceil())).unwrap_or_default()
}
