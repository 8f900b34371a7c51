//! What happens during a transfer, for whoever shows it. The library never prints.

use std::sync::Arc;
use std::time::Duration;

use crate::content::{Holding, Provenance};
use crate::oci::{Descriptor, Digest, Reference};

/// Takes events. Called from many tasks at once, often; must not block.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn on(&self, event: &Event);
}

/// A shared observer.
pub type Events = Arc<dyn Observer>;

/// An observer that looks away.
pub struct Silent;

impl Observer for Silent {
    fn on(&self, _: &Event) {}
}

/// What happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A name was looked up.
    Resolved {
        /// The name.
        name: Reference,
        /// The digest that it points to.
        digest: Digest,
    },
    /// The plan is made: totals are known from here on.
    Planned {
        /// Every blob of the plan once, with what the sink has of it.
        blobs: Vec<(Descriptor, Holding)>,
    },
    /// A blob's transfer began.
    Started {
        /// The blob.
        blob: Digest,
        /// Bytes that a former run left.
        resumed: u64,
    },
    /// Bytes arrived and are written.
    Bytes {
        /// The blob.
        blob: Digest,
        /// How many.
        count: u64,
        /// What kind of place they came from.
        provenance: Provenance,
    },
    /// What is missing of a blob is copied from elsewhere on this machine.
    Reused {
        /// The blob.
        blob: Digest,
        /// The place, as [`Origin::host`](crate::content::Origin::host) names it.
        place: String,
    },
    /// Bytes that were there are not good: they are missing again.
    Discarded {
        /// The blob.
        blob: Digest,
        /// How many.
        count: u64,
    },
    /// More travels than was planned: the cause tells why.
    Lost {
        /// The blob.
        blob: Digest,
        /// How many.
        count: u64,
        /// Why.
        cause: Cause,
    },
    /// An attempt failed and is made again.
    Retried {
        /// What was tried: a digest or a reference.
        what: String,
        /// What went wrong.
        why: String,
        /// How long is waited before.
        wait: Duration,
    },
    /// Nothing moves because of somebody else: a lock, another process, a rate limit.
    Waiting {
        /// For what.
        what: String,
    },
    /// The number of connections to a host changed.
    Connections {
        /// The host.
        host: String,
        /// How many may be open now.
        allowed: usize,
    },
    /// A host is not asked any more.
    Left {
        /// The host.
        host: String,
        /// Why.
        why: String,
    },
    /// A blob is verified and in its place.
    Finished {
        /// The blob.
        blob: Digest,
        /// How it got there.
        how: Arrival,
    },
    /// Blobs that are here are read again, to see whether they are still what their digests name.
    Checking {
        /// How many blobs.
        blobs: usize,
        /// Their sizes in bytes, summed.
        bytes: u64,
    },
    /// One of them was read.
    Checked {
        /// The blob.
        blob: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// Something that a person should know; nothing failed.
    Warning {
        /// The text; may come from a server.
        text: String,
    },
    /// One of several images failed; the others go on.
    Failed {
        /// The image.
        name: String,
        /// Why.
        why: String,
    },
}

/// Why bytes must travel again. Bytes moved = bytes planned + the sum over these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The digest, or the checksum of a range, did not agree.
    Spoiled,
    /// The server ignored the range and sent what was there already.
    RangeIgnored,
    /// A mount was refused.
    MountRefused,
    /// Two connections fetched the same bytes when one took over from the other.
    Overlap,
    /// An upload session was lost.
    SessionLost,
    /// A copy elsewhere on this machine was not what its name says, or could not be read.
    LocalSpoiled,
}

/// How a blob got to its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// It was transferred.
    Transferred,
    /// Another process, or another image of the same run, brought it.
    Held,
    /// The registry mounted it from another repository.
    Mounted,
}
