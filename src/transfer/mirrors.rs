//! Several hosts for one blob: which of them is asked, and when one is left.
//!
//! Mirrors come before the registry and share a blob: each takes ranges as fast as it brings them. The registry is asked
//! when no mirror can be, and joins when all of them together bring next to nothing. A mirror that cannot be reached, or
//! lies, or brings a tenth of what another host does, is left for the rest of the run; one that only lacks a blob is
//! asked for the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::blob::Stage;
use super::gauge::Gauge;
use super::outcome::TELLING;
use super::run::Run;
use crate::content::Provenance;
use crate::error::{Error, Fault};
use crate::event::Event;
use crate::limit::Direction;

/// Failures in a row, each with a pause behind it, after which a mirror is left.
const MAX_FAILURES: u32 = 2;
/// The pause, unless the mirror asked for another.
const PAUSE: Duration = Duration::from_secs(1);
/// The registry helps when all mirrors of a blob together bring less than this, in bytes a second.
const NEXT_TO_NOTHING: f64 = 200_000.0;
/// A connection is compared with other hosts when bytes could flow for this long.
const COMPARE_AFTER: Duration = Duration::from_secs(2);
/// How long a mirror may think before it answers; a cache may have to ask first.
const THINKING: Duration = Duration::from_secs(5);
/// A host that brings less than this part of what another brings is left.
const CRAWLER: f64 = 0.1;
/// Smallest range of a blob that several hosts share, in bytes.
pub(super) const LEAST_SHARED: u64 = 256 * 1024;
/// What a host of unknown speed is asked for first, in bytes.
const FIRST_RANGE: u64 = 4 * 1024 * 1024;
/// A range of a shared blob takes its host between these times, in seconds: short enough that all end together, long
/// enough that asking costs little beside it.
const SHORTEST: f64 = 0.4;
const LONGEST: f64 = 4.0;

/// What one connection does now.
struct Flow {
    blob: usize,
    origin: usize,
    host: String,
    provenance: Provenance,
    gauge: Arc<Gauge>,
    /// In bytes a second, of late, and at least: what takes the bytes may be slower.
    rate: f64,
    proven: f64,
    /// It goes on at once, so that no other connection can help it.
    is_alone: bool,
}

impl Run<'_> {
    /// The origins that a blob may be read from now, the one to be asked first in front.
    pub(super) fn choices(&self, i: usize, now: Instant) -> Vec<usize> {
        let blob = &self.blobs[i];
        let mut choices = blob.usable(now, |host| self.pace.is_resting(host, now));
        if choices.len() > 1 {
            // The one that does least, and among those one that is not known to be slow.
            choices.sort_by(|&a, &b| {
                let load = |o: usize| (blob.origins[o].connections, self.pace.active(blob.host(o)));
                let speed = |o: usize| Some(self.pace.typical(blob.host(o))).filter(|r| *r > 0.0).unwrap_or(f64::MAX);
                load(a).cmp(&load(b)).then(speed(b).total_cmp(&speed(a)))
            });
        }
        choices
    }

    /// How much one connection to `origin` asks for, where `choices` share the blob.
    pub(super) fn share(&self, i: usize, origin: usize, choices: &[usize]) -> u64 {
        let blob = &self.blobs[i];
        let typical = |o: usize| self.pace.typical(blob.host(o));
        let rate = typical(origin);
        if rate == 0.0 {
            return FIRST_RANGE;
        }
        let total: f64 = choices.iter().map(|&o| typical(o) * blob.origins[o].connections.max(1) as f64).sum();
        let fair = blob.unclaimed() as f64 * rate / (2.0 * total.max(rate));
        (fair.clamp(rate * SHORTEST, rate * LONGEST) as u64).max(LEAST_SHARED)
    }

    /// A mirror failed. The blob goes on elsewhere at once.
    pub(super) fn mirror_failed(&mut self, i: usize, origin: usize, error: Error) {
        let host = self.blobs[i].host(origin).to_owned();
        if matches!(error, Error::NotFound { .. }) {
            tracing::debug!(%host, %error, "the mirror lacks a blob");
            self.blobs[i].origins[origin].left = true;
        } else if is_final(&error) {
            self.leave_host(&host, &error.to_string());
        } else {
            self.mirror_pauses(i, origin, &error);
        }
        if self.blobs[i].is_forlorn() && !self.blobs[i].has_ended() {
            self.fail(i, Arc::new(error));
        }
    }

    fn mirror_pauses(&mut self, i: usize, origin: usize, error: &Error) {
        let (now, host) = (Instant::now(), self.blobs[i].host(origin).to_owned());
        let wait = error.retry_after().unwrap_or(PAUSE).min(self.transfer.settings.max_retry_after);
        if matches!(error, Error::Busy { .. }) {
            let allowed = self.pace.busy(&host, wait, now);
            self.connections_changed(host.clone(), allowed);
        }
        if self.blobs[i].origins[origin].pause(now, wait) >= MAX_FAILURES {
            return self.leave_host(&host, &error.to_string());
        }
        let what = self.blobs[i].plan.descriptor.digest.to_string();
        self.transfer.events.on(&Event::Retried { what, why: error.to_string(), wait });
    }

    /// A mirror is not asked any more, for any blob of the run; what it was asked for is for others to bring.
    pub(super) fn leave_host(&mut self, host: &str, why: &str) {
        if self.report.left.contains_key(host) {
            return;
        }
        self.report.left.insert(host.to_owned(), why.to_owned());
        self.transfer.events.on(&Event::Left { host: host.to_owned(), why: why.to_owned() });
        let ranges = self.open.iter().map(|((blob, _), connection)| (blob, connection));
        for (blob, (origin, gauge)) in ranges.chain(&self.streams) {
            if self.blobs[*blob].is_mirror(*origin, host) {
                gauge.cut.cancel();
            }
        }
        for i in 0..self.blobs.len() {
            if self.blobs[i].leave_mirror(host) && self.blobs[i].is_forlorn() && !self.blobs[i].has_ended() {
                let digest = &self.blobs[i].plan.descriptor.digest;
                let error = Error::network(host, digest, Fault::Broken(why.to_owned()));
                self.fail(i, Arc::new(error));
            }
        }
    }

    /// The digest of a blob did not agree, and bytes that did not come from the registry are suspect: the mirrors that
    /// brought some of them are left. Where there are several, nobody can tell which of them lied.
    pub(super) fn leave_suspects(&mut self, i: usize) {
        let blob = &self.blobs[i];
        let working =
            self.open.iter().filter(|((j, _), (_, gauge))| *j == i && gauge.moved.load(Ordering::Relaxed) > 0);
        let mut suspects: BTreeSet<usize> = working.map(|(_, (origin, _))| *origin).collect();
        suspects.extend((0..blob.origins.len()).filter(|&o| blob.origins[o].brought));
        suspects.retain(|&o| blob.provenance(o) == Provenance::Mirror);
        let digest = &blob.plan.descriptor.digest;
        let why = match suspects.len() {
            1 => format!("it sent wrong bytes for {digest}"),
            _ => format!("it, or another mirror, sent wrong bytes for {digest}"),
        };
        let hosts: Vec<String> = suspects.into_iter().map(|o| blob.host(o).to_owned()).collect();
        hosts.iter().for_each(|host| self.leave_host(host, &why));
    }

    /// Compares the hosts of blobs that have several.
    pub(super) fn watch_hosts(&mut self, now: Instant) {
        let flows = self.flows(now);
        self.call_for_help(&flows, now);
        for flow in flows.iter().filter(|flow| flow.is_alone) {
            self.take_over(flow, now);
        }
        for flow in &flows {
            let is_host = matches!(flow.provenance, Provenance::Mirror | Provenance::Registry);
            if is_host && flow.gauge.flowing(now) >= COMPARE_AFTER {
                self.compare(flow, &flows);
            }
        }
    }

    /// The connections of blobs that several hosts may serve.
    fn flows(&self, now: Instant) -> Vec<Flow> {
        let ranges = self.open.iter().map(|((blob, _), (origin, gauge))| (*blob, *origin, gauge, false));
        let streams = self.streams.iter().map(|(blob, (origin, gauge))| (*blob, *origin, gauge, true));
        let shared = ranges.chain(streams).filter(|(blob, ..)| self.blobs[*blob].origins.len() > 1);
        let flow = |(blob, origin, gauge, is_alone): (usize, usize, &Arc<Gauge>, bool)| Flow {
            blob,
            origin,
            host: self.blobs[blob].host(origin).to_owned(),
            provenance: self.blobs[blob].provenance(origin),
            gauge: Arc::clone(gauge),
            rate: gauge.recent(now),
            proven: if is_alone { gauge.proven(now) } else { gauge.recent(now) },
            is_alone,
        };
        shared.map(flow).collect()
    }

    /// Another host goes on where the one that a blob comes from brings next to nothing, at the byte that was reached. Where
    /// that one proves to be far faster, the first is left.
    fn take_over(&mut self, flow: &Flow, now: Instant) {
        self.leave_crawlers(flow.blob, flow.origin, &flow.gauge);
        if flow.rate < self.next_to_nothing()
            && is_slow(flow, now)
            && self.blobs[flow.blob].pass_over(flow.origin, flow.rate)
        {
            flow.gauge.cut.cancel();
        }
    }

    /// A connection to `origin`, which took over from others, ended, or goes on: what it brought tells of those.
    fn leave_crawlers(&mut self, i: usize, origin: usize, gauge: &Gauge) {
        let proven = gauge.proven(Instant::now());
        if gauge.came() < LEAST_SHARED || proven < NEXT_TO_NOTHING {
            return;
        }
        for (host, own) in self.blobs[i].crawlers(origin, CRAWLER * proven) {
            self.leave_host(&host, &slower(own, proven));
        }
    }

    /// A connection of a blob that goes on at once has ended.
    pub(super) fn learn_from_stream(&mut self, i: usize, origin: usize, gauge: &Gauge) {
        let (now, host) = (Instant::now(), self.blobs[i].host(origin).to_owned());
        if gauge.is_telling(now) && gauge.came() >= TELLING {
            self.pace.learn(&host, gauge.rate(now));
        }
        self.leave_crawlers(i, origin, gauge);
    }

    /// Less than this, in bytes a second, is as good as nothing: where the user allows no more, it is not the mirrors that
    /// are slow.
    fn next_to_nothing(&self) -> f64 {
        let allowed = self.transfer.settings.limiter.rate(Direction::Down);
        allowed.map_or(NEXT_TO_NOTHING, |rate| NEXT_TO_NOTHING.min(rate.bytes() as f64 * CRAWLER))
    }

    /// The registry joins where mirrors bring next to nothing; what they were asked for is claimed anew.
    fn call_for_help(&mut self, flows: &[Flow], now: Instant) {
        let least = self.next_to_nothing();
        let blobs: BTreeSet<usize> = flows.iter().map(|flow| flow.blob).collect();
        for i in blobs {
            if !self.blobs[i].may_be_helped() {
                continue;
            }
            let of_blob = || flows.iter().filter(|flow| flow.blob == i);
            let all: f64 = of_blob().map(|flow| flow.rate).sum();
            if all < least && of_blob().all(|flow| is_slow(flow, now)) {
                tracing::debug!(blob = %self.blobs[i].plan.descriptor.digest, rate = all, "the registry helps its mirrors");
                self.blobs[i].is_helped = true;
                of_blob().for_each(|flow| flow.gauge.cut.cancel());
            }
        }
    }

    /// Leaves the host of a connection that crawls, compared with what the blob could have from another host.
    fn compare(&mut self, flow: &Flow, flows: &[Flow]) {
        let others = self.blobs[flow.blob].rivals(flow.origin);
        let best = others.map(|host| self.speed(host, flows)).fold(0.0, f64::max).min(self.fair_part());
        if flow.rate >= CRAWLER * best || best < NEXT_TO_NOTHING || self.report.left.contains_key(&flow.host) {
            return;
        }
        match flow.provenance {
            Provenance::Mirror => {
                self.leave_host(&flow.host, &slower(flow.rate, best));
            }
            _ if flow.is_alone => {
                if self.blobs[flow.blob].pass_over(flow.origin, flow.rate) {
                    flow.gauge.cut.cancel();
                }
            }
            _ => {
                self.blobs[flow.blob].is_helped = false;
                flow.gauge.cut.cancel();
            }
        }
    }

    /// What the limit leaves for each connection, in bytes a second: what a host brought before it came down says nothing.
    fn fair_part(&self) -> f64 {
        let allowed = self.transfer.settings.limiter.rate(Direction::Down);
        allowed.map_or(f64::INFINITY, |rate| rate.bytes() as f64 / (self.open.len() + self.streams.len()).max(1) as f64)
    }

    /// What a connection to `host` brings now; where there is none, what one usually brings.
    fn speed(&self, host: &str, flows: &[Flow]) -> f64 {
        let now = flows.iter().filter(|flow| flow.host == host).map(|flow| flow.proven).reduce(f64::max);
        now.unwrap_or_else(|| self.pace.typical(host))
    }

    /// Whether taking a part of the range of a connection that brings `rate` pays for a connection to `origin`.
    pub(super) fn may_relieve(&self, i: usize, origin: usize, rate: f64) -> bool {
        let own = self.pace.typical(self.blobs[i].host(origin));
        own == 0.0 || own >= rate / 2.0 || !self.is_shared(i)
    }

    /// Which part of a range a connection to `origin` takes away from one that brings `rate`, so that both end together.
    pub(super) fn relief(&self, i: usize, origin: usize, rate: f64) -> f64 {
        let own = self.pace.typical(self.blobs[i].host(origin));
        if own == 0.0 || !self.is_shared(i) { 0.5 } else { own / (own + rate) }
    }

    /// Whether several hosts serve a blob.
    pub(super) fn is_shared(&self, i: usize) -> bool {
        let blob = &self.blobs[i];
        matches!(blob.stage, Stage::Active(_)) && blob.usable(Instant::now(), |_| false).len() > 1
    }
}

/// Whether a connection has had its time, and not only its buffers.
fn is_slow(flow: &Flow, now: Instant) -> bool {
    match flow.gauge.is_thinking() {
        true => now.saturating_duration_since(flow.gauge.since) >= THINKING,
        false => flow.gauge.flowing(now) >= COMPARE_AFTER,
    }
}

/// Why a mirror is left that brings `own` bytes a second.
fn slower(own: f64, other: f64) -> String {
    let kilobytes = |rate: f64| (rate / 1000.0).round();
    format!("it brings {} kB/s, where another host brings {} kB/s", kilobytes(own), kilobytes(other))
}

/// Whether a failure shows that a mirror cannot be reached, does not let us in, or has other bytes.
fn is_final(error: &Error) -> bool {
    let fault = match error {
        Error::Network { fault, .. } => Some(fault),
        _ => None,
    };
    !error.is_transient() || matches!(fault, Some(Fault::Connect(_) | Fault::Tls(_) | Fault::Size { .. }))
}
