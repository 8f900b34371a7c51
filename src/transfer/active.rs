//! One blob on its way: its ranges, its hasher, its place in the sink.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::segments::Segments;
use super::verify::{Verifier, lock};
use super::{BlobPlan, Way};
use crate::content::{Ingest, Origin, Provenance};
use crate::error::Result;
use crate::event::Cause;
use crate::limit::Budget;
use crate::oci::{Descriptor, Digest};

/// A blob that connections write and a hasher follows.
pub(super) struct Active {
    pub(super) descriptor: Descriptor,
    pub(super) ingest: Box<dyn Ingest>,
    pub(super) segments: Mutex<Segments>,
    pub(super) verifier: Verifier,
    /// Bytes that were there when this run began.
    pub(super) resumed: u64,
    pub(super) promise: Promise,
    pub(super) traffic: Arc<Traffic>,
}

/// Where the plan wanted the bytes of a blob from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// A network.
    Network,
    /// Elsewhere on this machine: every byte that comes over a network is one more than was planned.
    Local,
}

/// Bytes that came, counted when they come: also those of connections that end after their blob.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    moved: AtomicU64,
    local: AtomicU64,
    /// Of those over a network, which host sent them.
    hosts: Mutex<BTreeMap<String, u64>>,
    /// Of those from this machine, which place had them.
    places: Mutex<BTreeMap<String, u64>>,
    lost: Mutex<BTreeMap<Cause, u64>>,
    budget: Budget,
}

impl Traffic {
    /// Counts what uses up `budget`.
    pub(super) fn new(budget: Budget) -> Traffic {
        Traffic { budget, ..Traffic::default() }
    }

    /// Counts bytes that came from there.
    pub(super) fn count(&self, origin: &dyn Origin, bytes: u64) {
        match origin.provenance() {
            Provenance::Local => {
                self.local.fetch_add(bytes, Ordering::Relaxed);
                add(&self.places, origin.host(), bytes);
            }
            _ => self.count_moved(origin.host(), bytes),
        }
    }

    /// Counts bytes that came from this host over a network, or went to it.
    pub(super) fn count_moved(&self, host: &str, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        self.budget.spend(bytes);
        add(&self.hosts, host, bytes);
    }

    /// Bytes that came over a network, by their host.
    pub(super) fn hosts(&self) -> BTreeMap<String, u64> {
        lock(&self.hosts).clone()
    }

    /// Counts bytes that came, or will come, once more than was planned.
    pub(super) fn lose(&self, cause: Cause, bytes: u64) {
        *lock(&self.lost).entry(cause).or_default() += bytes;
    }

    /// Bytes that came over a network, and from this machine.
    pub(super) fn counted(&self) -> (u64, u64) {
        (self.moved.load(Ordering::Relaxed), self.local.load(Ordering::Relaxed))
    }

    /// Bytes that came from this machine, by place.
    pub(super) fn places(&self) -> BTreeMap<String, u64> {
        lock(&self.places).clone()
    }

    /// Why more came than was planned, in bytes.
    pub(super) fn lost(&self) -> BTreeMap<Cause, u64> {
        lock(&self.lost).clone()
    }
}

fn add(sums: &Mutex<BTreeMap<String, u64>>, name: &str, bytes: u64) {
    let mut sums = lock(sums);
    match sums.get_mut(name) {
        Some(sum) => *sum += bytes,
        None => _ = sums.insert(name.to_owned(), bytes),
    }
}

/// What became of a blob whose bytes are all there.
pub(super) enum Completion {
    /// It is in its place; the last sync took this long.
    Committed { syncing: Duration },
    /// The digest did not agree; these ranges are suspect and were discarded.
    Spoiled { found: Digest, ranges: Vec<Range<u64>>, from: Suspects },
}

/// Which bytes are suspect when the digest does not agree: the least that explains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suspects {
    /// Those that are not what was written.
    Disk,
    /// Those that did not come from the registry.
    Others,
    /// All.
    All,
}

impl Active {
    /// A blob whose ingest holds what former runs left.
    pub(super) fn new(plan: &BlobPlan, ingest: Box<dyn Ingest>, traffic: Arc<Traffic>) -> Active {
        let promise = if matches!(plan.way(), Way::Copy(_)) { Promise::Local } else { Promise::Network };
        let descriptor = plan.descriptor.clone();
        let held: Vec<Range<u64>> = ingest.stretches().into_iter().map(|stretch| stretch.range).collect();
        let segments = Segments::new(descriptor.size, held);
        Active {
            resumed: descriptor.size - segments.unclaimed(),
            segments: Mutex::new(segments),
            descriptor,
            ingest,
            verifier: Verifier::default(),
            promise,
            traffic,
        }
    }

    /// Waits until every byte is there, verifies, and commits or discards what is suspect.
    pub(super) async fn complete(&self) -> Result<Completion> {
        let found = self.verifier.follow(&self.descriptor, &self.segments, self.ingest.as_ref()).await?;
        if found == self.descriptor.digest {
            let began = Instant::now();
            self.ingest.commit().await?;
            return Ok(Completion::Committed { syncing: began.elapsed() });
        }
        let (from, ranges) = self.suspects().await?;
        self.ingest.discard(&ranges).await?;
        Ok(Completion::Spoiled { found, ranges, from })
    }

    async fn suspects(&self) -> Result<(Suspects, Vec<Range<u64>>)> {
        let spoiled = self.ingest.spoiled().await?;
        if !spoiled.is_empty() {
            return Ok((Suspects::Disk, spoiled));
        }
        let all = self.ingest.stretches();
        let others: Vec<_> = all.iter().filter(|s| s.provenance != Provenance::Registry).collect();
        if !others.is_empty() && others.len() < all.len() {
            return Ok((Suspects::Others, others.into_iter().map(|s| s.range.clone()).collect()));
        }
        let from = if others.is_empty() { Suspects::All } else { Suspects::Others };
        Ok((from, std::iter::once(0..self.descriptor.size).collect()))
    }
}
