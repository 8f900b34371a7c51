//! The engine: makes a [`Plan`] of what is missing and executes it.
//!
//! - `plan`: walks the graph of descriptors; `draft`: puts what was found together and asks what is there.
//! - `attached`: finds what hangs on an image: signatures, SBOMs.
//! - `run`: executes a plan: blobs in parallel, then manifests children first, then the tag.
//! - `outcome`: what follows when work of the schedule has ended.
//! - `schedule`: which blob gets the next connection, and how much of it; `pace`: how many a host gets.
//! - `mirrors`: several hosts for one blob: which is asked, and when one is left.
//! - `blob`: what the schedule knows of one blob; `image`: which blobs an image waits for.
//! - `active`: a blob that ranges are written to; `fetch`: one connection that does; `segments`: which ranges are
//!   missing, claimed, there; `verify`: the hasher that follows their frontier.
//! - `stream`: a blob that goes to a place which takes bytes in order; `gauge`: how one connection does.
//! - `retry`: patience, renewed by progress; `rates`: how fast hosts were, for the next run.

mod active;
mod attached;
mod blob;
mod draft;
mod fetch;
mod gauge;
mod image;
mod mirrors;
mod outcome;
mod pace;
mod plan;
mod rates;
mod retry;
mod run;
mod schedule;
mod segments;
mod stream;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use attached::Attached;
use tokio_util::sync::CancellationToken;

use crate::content::{Holding, Origin, Provenance, Root, Sink, Source};
use crate::error::Error;
use crate::event::{Cause, Events};
use crate::limit::{Budget, Limiter};
use crate::oci::{Descriptor, Digest, Platform, RawManifest, Reference};
use crate::state::State;

/// How a transfer is made.
#[derive(Clone)]
pub struct Transfer {
    /// Bounds that the user may change.
    pub settings: Settings,
    /// Who is told what happens.
    pub events: Events,
    /// What former runs found out about hosts, and where this one writes what it finds.
    pub state: Arc<State>,
    /// Ends every wait.
    pub cancel: CancellationToken,
}

/// Bounds of a transfer.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many blobs are transferred at once, at most.
    pub jobs: usize,
    /// How many connections one blob may use, at most.
    pub streams: usize,
    /// How many times in a row something may fail without any progress between.
    pub retries: u32,
    /// How long nothing may come before a connection is cut.
    pub stall: Duration,
    /// Longest wait that a server may ask for before the transfer fails at once.
    pub max_retry_after: Duration,
    /// What connections may use: a low limit means few of them.
    pub limiter: Limiter,
    /// How many bytes may move.
    pub budget: Budget,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            jobs: 32,
            streams: 16,
            retries: 5,
            stall: Duration::from_secs(20),
            max_retry_after: Duration::from_secs(60),
            limiter: Limiter::none(),
            budget: Budget::default(),
        }
    }
}

/// One image that is asked for.
#[derive(Clone)]
pub struct Job {
    /// The name to look up at `source`.
    pub name: Reference,
    /// The name that it gets in the sink.
    pub target: Reference,
    /// Where it comes from.
    pub source: Arc<dyn Source>,
    /// Where it goes to. Jobs that share a sink share its blobs.
    pub sink: Arc<dyn Sink>,
    /// What of an index is taken.
    pub platforms: Platforms,
}

/// What of an index is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    /// Everything below the name.
    All,
    /// The best child for each of these.
    Only(Vec<Platform>),
}

/// What is to be done, made before a byte of a blob moves. Plain data.
pub struct Plan {
    /// The images, in the order in which they were asked for.
    pub images: Vec<ImagePlan>,
    /// Every blob of all images, once for each sink.
    pub blobs: Vec<BlobPlan>,
    /// Images that cannot be planned, and why.
    pub failed: Vec<(Reference, Arc<Error>)>,
}

/// One image of a plan.
#[derive(Clone)]
pub struct ImagePlan {
    /// The name that was asked for.
    pub name: Reference,
    /// The name it gets.
    pub target: Reference,
    /// What the name will point to.
    pub root: Root,
    /// Manifests, children before parents; the last one is the root. Empty when the sink has them.
    pub manifests: Vec<RawManifest>,
    /// Its blobs, each once, by their place in [`Plan::blobs`].
    pub blobs: Vec<usize>,
    /// Where it goes to.
    pub sink: Arc<dyn Sink>,
    /// Nothing to do: the sink has it under this name already.
    pub up_to_date: bool,
}

/// One blob of a plan.
#[derive(Clone)]
pub struct BlobPlan {
    /// The blob.
    pub descriptor: Descriptor,
    /// Where it goes to.
    pub sink: Arc<dyn Sink>,
    /// What the sink has of it.
    pub holding: Holding,
    /// Where it can be read, the preferred one first.
    pub origins: Vec<Arc<dyn Origin>>,
    /// Repositories of the sink's registry that may have it already.
    pub mounts: Vec<String>,
    /// The same blob on its way into another repository of that registry: once it is there it can be mounted.
    pub after: Option<usize>,
}

impl BlobPlan {
    /// How many bytes the sink lacks.
    pub fn missing(&self) -> u64 {
        match self.holding {
            Holding::Missing => self.descriptor.size,
            Holding::Partial(held) => self.descriptor.size.saturating_sub(held),
            Holding::Whole => 0,
        }
    }

    /// How they come if nothing goes wrong.
    pub fn way(&self) -> Way<'_> {
        let here = |origin: &&Arc<dyn Origin>| origin.provenance() == Provenance::Local;
        match (self.holding, self.mounts.first()) {
            (Holding::Whole, _) => Way::There,
            (_, Some(from)) => Way::Mount(from),
            // What goes into a repository travels, wherever it comes from.
            _ if self.sink.repository().is_some() => Way::Network,
            _ => self.origins.iter().find(here).map_or(Way::Network, Way::Copy),
        }
    }

    /// The hosts that are asked for it at first, at once or the one or the other: mirrors before their registry. Where this
    /// machine has it, the place here.
    pub fn serving(&self) -> Vec<&str> {
        let best = self.origins.iter().map(|origin| rank(origin.provenance())).min();
        let mut hosts = Vec::new();
        for origin in self.origins.iter().filter(|origin| Some(rank(origin.provenance())) == best) {
            if !hosts.contains(&origin.host()) {
                hosts.push(origin.host());
            }
        }
        hosts
    }

    /// How many bytes travel if nothing goes wrong: none where a mount, or this machine, is expected to give them.
    pub fn planned(&self) -> u64 {
        if matches!(self.way(), Way::Network) { self.missing() } else { 0 }
    }
}

/// In which order kinds of places are asked: files of this machine before any network, mirrors before their registry, and
/// addresses out of a manifest last.
fn rank(provenance: Provenance) -> u8 {
    match provenance {
        Provenance::Local => 0,
        Provenance::Mirror => 1,
        Provenance::Registry => 2,
        Provenance::Foreign => 3,
    }
}

/// How what is missing of a blob gets to its place, if nothing goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Way<'a> {
    /// Nothing is missing.
    There,
    /// The sink takes it from this repository.
    Mount(&'a str),
    /// From elsewhere on this machine.
    Copy(&'a Arc<dyn Origin>),
    /// From the network, or to it.
    Network,
}

/// What a plan adds up to, in bytes of blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// All blobs, each once for each sink.
    pub size: u64,
    /// What must travel.
    pub planned: u64,
    /// What is missing, but can probably be mounted.
    pub mountable: u64,
    /// What is missing, but can probably be had from elsewhere on this machine.
    pub local: u64,
}

impl Totals {
    /// What is there already.
    pub fn held(&self) -> u64 {
        self.size - self.planned - self.mountable - self.local
    }

    fn with(self, blob: &BlobPlan) -> Totals {
        let mut sum = Totals { size: self.size.saturating_add(blob.descriptor.size), ..self };
        let part = match blob.way() {
            Way::There => return sum,
            Way::Mount(_) => &mut sum.mountable,
            Way::Copy(_) => &mut sum.local,
            Way::Network => &mut sum.planned,
        };
        *part = part.saturating_add(blob.missing());
        sum
    }
}

impl Plan {
    /// The sums.
    pub fn totals(&self) -> Totals {
        self.totals_of(0..self.blobs.len())
    }

    /// The sums over some of its blobs, by their places in [`Plan::blobs`].
    pub fn totals_of(&self, blobs: impl IntoIterator<Item = usize>) -> Totals {
        blobs.into_iter().fold(Totals::default(), |sum, number| sum.with(&self.blobs[number]))
    }
}

/// What happened, for the summary.
#[derive(Debug, Default)]
pub struct Report {
    /// Bytes of blobs that came or went over a network; those that came to go on at once are counted once.
    pub moved: u64,
    /// Of those that came, how many each host sent.
    pub hosts: BTreeMap<String, u64>,
    /// Mirrors that are not asked any more, and why.
    pub left: BTreeMap<String, String>,
    /// Bytes of blobs that came from elsewhere on this machine.
    pub local: u64,
    /// Of these, bytes that were no good.
    pub local_spoiled: u64,
    /// Of which place, as [`Origin::host`] names it, how many.
    pub places: BTreeMap<String, u64>,
    /// Bytes of blobs that the plan wanted moved over a network.
    pub planned: u64,
    /// Bytes of blobs that were there already.
    pub held: u64,
    /// Bytes of blobs that the sink took from another repository, as planned.
    pub mounted: u64,
    /// Why more moved than was planned: moved = planned + the sum of these, less [`brought`](Report::brought).
    pub causes: BTreeMap<Cause, u64>,
    /// Bytes that were planned, but did not have to travel: another process brought them.
    pub brought: u64,
    /// From the first request to the tag.
    pub elapsed: Duration,
    /// How long the last sync of each blob took, summed.
    pub syncing: Duration,
    /// The images, in the order of the plan, and how each ended.
    pub images: Vec<Outcome>,
}

/// How one image ended.
#[derive(Debug)]
pub struct Outcome {
    /// The name it has now.
    pub name: Reference,
    /// The digest that the name points to, or why there is none.
    pub result: Result<Digest, Arc<Error>>,
    /// Nothing had to be done.
    pub up_to_date: bool,
}
