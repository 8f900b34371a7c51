//! What the schedule knows of one blob.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::active::{Active, Suspects};
use super::retry::Patience;
use super::segments::ClaimId;
use super::stream::Stream;
use super::verify::lock;
use super::{BlobPlan, Settings, rank};
use crate::content::{Holding, Origin, Provenance};
use crate::error::{Error, Result};
use crate::oci::Digest;

/// One blob of the plan and how far it is.
pub(super) struct Blob {
    pub(super) plan: BlobPlan,
    pub(super) stage: Stage,
    pub(super) origins: Vec<Candidate>,
    pub(super) patience: Patience,
    pub(super) connections: usize,
    not_before: Option<Instant>,
    last_failure: Option<Instant>,
    waits_for_other: bool,
    /// Which bytes were found wrong so far.
    spoiled: Vec<Suspects>,
    /// Its registry is asked beside the mirrors, which bring next to nothing.
    pub(super) is_helped: bool,
    completion: Option<AbortHandle>,
}

/// How far a blob is.
pub(super) enum Stage {
    Waiting,
    Beginning,
    Active(Arc<Active>),
    /// It goes to a place that takes bytes in order.
    Streaming(Arc<Stream>),
    Done,
    Failed,
}

/// An origin of a blob.
pub(super) struct Candidate {
    pub(super) origin: Arc<dyn Origin>,
    /// It failed and is not asked again.
    pub(super) left: bool,
    /// Connections of the blob to it.
    pub(super) connections: usize,
    /// Bytes came from it in this run.
    pub(super) brought: bool,
    /// Another one took the blob over from it when it brought so few bytes a second.
    crawled: Option<f64>,
    /// A mirror failed so often without progress between, the last time then.
    failures: u32,
    last_failure: Option<Instant>,
    /// It is not asked before.
    not_before: Option<Instant>,
}

impl Candidate {
    fn new(origin: &Arc<dyn Origin>) -> Candidate {
        Candidate {
            origin: Arc::clone(origin),
            left: false,
            connections: 0,
            brought: false,
            crawled: None,
            failures: 0,
            last_failure: None,
            not_before: None,
        }
    }

    /// It is not asked until `wait` is over. Returns how often in a row it has failed.
    pub(super) fn pause(&mut self, now: Instant, wait: Duration) -> u32 {
        self.failures += 1;
        self.last_failure = Some(now);
        self.not_before = Some(now + wait);
        self.failures
    }

    /// It brought enough to make former failures count no more.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    fn is_rested(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    fn is_mirror(&self) -> bool {
        self.origin.provenance() == Provenance::Mirror
    }
}

impl Blob {
    pub(super) fn new(plan: BlobPlan, settings: &Settings) -> Blob {
        let origins = plan.origins.iter().map(Candidate::new).collect();
        let stage = if plan.holding == Holding::Whole { Stage::Done } else { Stage::Waiting };
        Blob {
            plan,
            stage,
            origins,
            patience: Patience::new(settings),
            connections: 0,
            not_before: None,
            last_failure: None,
            waits_for_other: false,
            spoiled: Vec::new(),
            is_helped: false,
            completion: None,
        }
    }

    pub(super) fn may_begin(&self, now: Instant) -> bool {
        matches!(self.stage, Stage::Waiting) && self.is_rested(now)
    }

    /// Whether one more connection may work on it.
    pub(super) fn may_connect(&self, now: Instant, streams: usize) -> bool {
        let most = match &self.stage {
            Stage::Active(active) if !lock(&active.segments).ignores_ranges() => streams,
            Stage::Active(_) | Stage::Streaming(_) => 1,
            _ => 0,
        };
        self.connections < most && self.is_rested(now)
    }

    /// The place that its bytes go on to at once, where they are not kept here.
    pub(super) fn streams_to(&self) -> Option<String> {
        matches!(self.stage, Stage::Streaming(_)).then(|| self.plan.sink.place())
    }

    /// Its host sends everything whatever is asked for, so one connection is all it gets.
    pub(super) fn ignores_ranges(&self) -> bool {
        matches!(&self.stage, Stage::Active(active) if lock(&active.segments).ignores_ranges())
    }

    /// The host of one of its origins.
    pub(super) fn host(&self, origin: usize) -> &str {
        self.origins[origin].origin.host()
    }

    /// What kind of place one of its origins is.
    pub(super) fn provenance(&self, origin: usize) -> Provenance {
        self.origins[origin].origin.provenance()
    }

    /// The origins that may be asked now: files of this machine before any network, mirrors before their registry unless
    /// that has to help, and addresses out of a manifest last. A mirror that has to rest gives way to the next.
    pub(super) fn usable(&self, now: Instant, must_rest: impl Fn(&str) -> bool) -> Vec<usize> {
        let is_ready = |c: &Candidate| c.is_rested(now) && !(c.is_mirror() && must_rest(c.origin.host()));
        let open = || self.origins.iter().enumerate().filter(|(_, c)| !c.left && is_ready(c));
        let best = open().map(|(_, candidate)| self.rank(candidate)).min();
        let usable: Vec<usize> =
            open().filter(|(_, candidate)| Some(self.rank(candidate)) == best).map(|(i, _)| i).collect();
        self.without_crawlers(usable)
    }

    /// Those from which nobody had to take over; where there are none, the fastest.
    fn without_crawlers(&self, mut origins: Vec<usize>) -> Vec<usize> {
        let speed = |o: usize| self.origins[o].crawled.unwrap_or(f64::INFINITY);
        let fastest = origins.iter().map(|&o| speed(o)).fold(0.0, f64::max);
        origins.retain(|&o| speed(o) == fastest);
        origins
    }

    /// Has another origin take over from one that brings `rate` bytes a second, if one may bring more. Each is given up once,
    /// so this comes to an end.
    pub(super) fn pass_over(&mut self, origin: usize, rate: f64) -> bool {
        let is_host = |c: &Candidate| matches!(c.origin.provenance(), Provenance::Mirror | Provenance::Registry);
        let may_do_more = |c: &Candidate| !c.left && is_host(c) && c.crawled.is_none_or(|known| known > rate);
        let is_new = self.origins[origin].crawled.is_none() && is_host(&self.origins[origin]);
        let others = self.origins.iter().enumerate().filter(|(o, _)| *o != origin);
        let passes = is_new && others.map(|(_, candidate)| candidate).any(may_do_more);
        if passes {
            self.origins[origin].crawled = Some(rate);
            self.is_helped = true;
        }
        passes
    }

    /// Whether another origin took over from this one.
    pub(super) fn is_passed_over(&self, origin: usize) -> bool {
        self.origins[origin].crawled.is_some()
    }

    /// Has a mirror go on from which `origin` took over, until that one may be asked again. Returns whether there is one: it
    /// crawls, but the other brings nothing.
    pub(super) fn gives_back(&mut self, origin: usize, until: Instant) -> bool {
        let gives = self.origins.iter().any(|c| c.is_mirror() && !c.left && c.crawled.is_some());
        if gives {
            self.origins[origin].not_before = Some(until);
        }
        gives
    }

    /// Mirrors other than `origin` from which another one took over when they brought less than `rate` bytes a second, and how
    /// much that was.
    pub(super) fn crawlers(&self, origin: usize, rate: f64) -> Vec<(String, f64)> {
        let known = |c: &Candidate| Some((c.origin.host().to_owned(), c.crawled.filter(|own| *own < rate)?));
        let own = self.host(origin);
        let others = self.origins.iter().filter(|c| c.is_mirror() && !c.left && c.origin.host() != own);
        others.filter_map(known).collect()
    }

    /// Whether mirrors that are not left yet brought some of its bytes.
    pub(super) fn has_suspects(&self) -> bool {
        self.origins.iter().any(|c| c.is_mirror() && c.brought && !c.left)
    }

    fn rank(&self, candidate: &Candidate) -> u8 {
        match candidate.origin.provenance() {
            Provenance::Registry if self.is_helped => rank(Provenance::Mirror),
            provenance => rank(provenance),
        }
    }

    /// Whether its registry could help, and does not yet.
    pub(super) fn may_be_helped(&self) -> bool {
        let has = |provenance| self.origins.iter().any(|c| !c.left && c.origin.provenance() == provenance);
        let is_ranged = matches!(self.stage, Stage::Active(_));
        is_ranged && !self.is_helped && has(Provenance::Registry) && has(Provenance::Mirror) && !has(Provenance::Local)
    }

    /// The other hosts that may serve it beside `origin`.
    pub(super) fn rivals(&self, origin: usize) -> impl Iterator<Item = &str> {
        let (host, rank) = (self.host(origin), self.rank(&self.origins[origin]));
        let others = self.origins.iter().filter(move |c| !c.left && self.rank(c) == rank);
        others.map(|candidate| candidate.origin.host()).filter(move |other| *other != host)
    }

    /// Whether one of its origins is the mirror `host`.
    pub(super) fn is_mirror(&self, origin: usize, host: &str) -> bool {
        self.origins[origin].is_mirror() && self.host(origin) == host
    }

    /// The mirror `host` is not asked any more. Returns whether it was one of this blob.
    pub(super) fn leave_mirror(&mut self, host: &str) -> bool {
        let mut is_ours = false;
        for candidate in self.origins.iter_mut().filter(|c| c.is_mirror() && c.origin.host() == host) {
            is_ours = true;
            candidate.left = true;
            candidate.origin.leave();
        }
        is_ours
    }

    /// Nobody is left to ask.
    pub(super) fn is_forlorn(&self) -> bool {
        self.origins.iter().all(|candidate| candidate.left)
    }

    pub(super) fn unclaimed(&self) -> u64 {
        match &self.stage {
            Stage::Active(active) => lock(&active.segments).unclaimed(),
            // It is served when it has its connection.
            Stage::Streaming(_) if self.connections > 0 => 0,
            // Its end must be said even when all bytes were sent.
            Stage::Streaming(stream) => stream.left().max(1),
            _ => 0,
        }
    }

    /// A connection ended; what it did not bring is missing again.
    pub(super) fn release(&mut self, origin: usize, claim: ClaimId) {
        self.disconnected(origin);
        if let Stage::Active(active) = &self.stage {
            lock(&active.segments).release(claim);
            active.verifier.wake();
        }
    }

    /// One more connection works on it.
    pub(super) fn connected(&mut self, origin: usize) {
        self.connections += 1;
        self.origins[origin].connections += 1;
    }

    /// One ended.
    pub(super) fn disconnected(&mut self, origin: usize) {
        self.connections -= 1;
        self.origins[origin].connections -= 1;
    }

    /// Whether a connection to `origin` that began at `since` failed together with one whose failure is counted already.
    pub(super) fn is_known_failure(&self, origin: usize, since: Instant) -> bool {
        let candidate = &self.origins[origin];
        let last = if candidate.is_mirror() { candidate.last_failure } else { self.last_failure };
        last.is_some_and(|at| since <= at)
    }

    /// Its bytes are being verified by this task.
    pub(super) fn is_followed_by(&mut self, task: AbortHandle) {
        self.completion = Some(task);
    }

    /// It will not come. Returns how far it was.
    pub(super) fn give_up(&mut self) -> Stage {
        if let Some(task) = self.completion.take() {
            task.abort();
        }
        std::mem::replace(&mut self.stage, Stage::Failed)
    }

    /// Nothing more happens to it.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Done | Stage::Failed)
    }

    /// Nothing is tried for it until `wait` is over. Returns whether it has to begin once more then.
    pub(super) fn pause(&mut self, now: Instant, wait: Duration) -> bool {
        self.last_failure = Some(now);
        self.not_before = Some(now + wait);
        let begins_again = matches!(self.stage, Stage::Beginning);
        if begins_again {
            self.stage = Stage::Waiting;
        }
        begins_again
    }

    /// Another process writes it: look again at `again`. Returns whether that is news.
    pub(super) fn wait_for_other(&mut self, again: Instant) -> bool {
        self.stage = Stage::Waiting;
        self.not_before = Some(again);
        !std::mem::replace(&mut self.waits_for_other, true)
    }

    /// A place that verifies what it is sent found wrong bytes. Everything is sent again, if that has not happened before:
    /// from the registry alone, where it did not come from there.
    pub(super) fn streamed_wrong(&mut self, error: Error) -> Result<()> {
        let open = || self.origins.iter().filter(|candidate| !candidate.left);
        let is_registry = |candidate: &&Candidate| candidate.origin.provenance() == Provenance::Registry;
        let from = match open().any(|c| is_registry(&c)) && !open().all(|c| is_registry(&c)) {
            true => Suspects::Others,
            false => Suspects::All,
        };
        if self.spoiled.contains(&from) {
            return Err(error);
        }
        self.spoiled.push(from);
        if from == Suspects::Others {
            self.leave_others();
        }
        Ok(())
    }

    /// Asks the registry alone from now on.
    fn leave_others(&mut self) {
        let others = self.origins.iter_mut().filter(|c| c.origin.provenance() != Provenance::Registry);
        others.for_each(|candidate| candidate.left = true);
    }

    /// Gives up an origin. Returns whether another one is left.
    pub(super) fn leave(&mut self, origin: usize, settings: &Settings) -> bool {
        self.origins[origin].left = true;
        self.patience = Patience::new(settings);
        !self.is_forlorn()
    }

    /// The digest did not agree and `ranges` were discarded: they are fetched again, if that has not happened to such before.
    pub(super) fn spoiled(&mut self, found: &Digest, ranges: Vec<Range<u64>>, from: Suspects) -> Result<Arc<Active>> {
        let mismatch = Error::digest_mismatch(self.source(), &self.plan.descriptor, found);
        let Stage::Active(active) = &self.stage else { return Err(mismatch) };
        let active = Arc::clone(active);
        // Each of them is fetched again once: a disk that spoils all that it is given would never come to an end.
        if self.spoiled.contains(&from) {
            return Err(mismatch);
        }
        self.spoiled.push(from);
        if from == Suspects::Others {
            self.leave_others();
        }
        if self.is_forlorn() {
            return Err(mismatch);
        }
        for range in ranges {
            lock(&active.segments).lose(range);
        }
        Ok(active)
    }

    fn source(&self) -> &str {
        self.origins.iter().find(|candidate| !candidate.left).map_or("", |candidate| candidate.origin.host())
    }

    fn is_rested(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }
}
