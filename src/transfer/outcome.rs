//! What follows when work of the schedule has ended: the next step of a blob, another attempt, or its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;

use super::Way;
use super::active::{Active, Completion, Promise, Suspects};
use super::blob::Stage;
use super::fetch::{End, Fetched, PROGRESS};
use super::gauge::Gauge;
use super::run::{Done, Run, Sharing};
use super::segments::ClaimId;
use super::stream::{Attempt, Stream, Streamed};
use crate::content::{Begun, Provenance};
use crate::error::{Error, Result};
use crate::event::{Arrival, Cause, Event};

/// How long to wait before asking for a blob again that another process writes.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// What a connection must bring before its rate tells anything, in bytes.
pub(super) const TELLING: u64 = 1024 * 1024;

impl Run<'_> {
    pub(super) fn take(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Streamed { blob, origin, attempt }) => self.streamed(blob, origin, attempt),
            Ok(Done::Begun(i, begun, sharing)) if !self.blobs[i].has_ended() => self.begun(i, begun, sharing),
            Ok(Done::Fetched { blob, origin, claim, gauge, fetched }) => {
                self.open.remove(&(blob, claim));
                self.fetched(blob, origin, claim, &gauge, fetched);
            }
            Ok(Done::Completed(i, completion)) if !self.blobs[i].has_ended() => self.completed(i, completion),
            Ok(Done::Begun(..) | Done::Completed(..)) => {}
            Ok(Done::Tagged(image, result)) => self.images.end(image, result.map_err(Arc::new)),
            Ok(Done::Saved(result)) => self.saved(result),
            Err(error) if error.is_cancelled() => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn begun(&mut self, i: usize, begun: Result<Begun>, sharing: Sharing) {
        let digest = self.blobs[i].plan.descriptor.digest.clone();
        match begun {
            Ok(Begun::Held) => {
                self.report.brought += self.blobs[i].plan.planned();
                self.arrived(i, Arrival::Held);
            }
            Ok(Begun::Mounted { .. }) => {
                self.report.brought += self.blobs[i].plan.planned();
                self.report.mounted += self.blobs[i].plan.descriptor.size;
                self.arrived(i, Arrival::Mounted);
            }
            Ok(Begun::Busy) => {
                if self.blobs[i].wait_for_other(Instant::now() + BUSY_PAUSE) {
                    let what = format!("another process that is fetching {digest}");
                    self.transfer.events.on(&Event::Waiting { what });
                }
                self.wait_again(i);
            }
            Ok(Begun::Ingest(ingest)) => {
                let active = Arc::new(Active::new(&self.blobs[i].plan, ingest, Arc::clone(&self.traffic)));
                self.correct_plan(i, active.resumed);
                let resumed = if sharing == Sharing::Whole { 0 } else { active.resumed };
                self.transfer.events.on(&Event::Started { blob: digest, resumed });
                self.reuse(i, sharing);
                self.blobs[i].stage = Stage::Active(Arc::clone(&active));
                self.complete(i, active);
                self.require_origin(i);
            }
            Ok(Begun::Upload(upload)) => {
                let (blob, traffic) = (self.blobs[i].plan.descriptor.clone(), Arc::clone(&self.traffic));
                let (events, stall) = (Arc::clone(&self.transfer.events), self.transfer.settings.stall);
                let mut stream = Stream::new(blob, upload, traffic, events, stall);
                stream.registry = self.blobs[i].plan.sink.repository().map(|to| to.registry);
                self.correct_plan(i, stream.resumed);
                self.transfer.events.on(&Event::Started { blob: digest, resumed: stream.resumed });
                self.blobs[i].stage = Stage::Streaming(Arc::new(stream));
                self.require_origin(i);
            }
            Err(error) => self.retry(i, None, error),
        }
    }

    /// A blob of which something is missing, and that nobody can be asked for, would be waited for without end.
    fn require_origin(&mut self, i: usize) {
        if self.blobs[i].origins.is_empty() && self.blobs[i].unclaimed() > 0 {
            let what = self.blobs[i].plan.descriptor.digest.to_string();
            let why = "no host and no file has it: copy the image from a place that has all of it".to_owned();
            self.fail(i, Arc::new(Error::NotFound { what, place: "the source".into(), why }));
        }
    }

    /// Tells which place of this machine a blob comes from, and counts what has come from there at once.
    fn reuse(&self, i: usize, sharing: Sharing) {
        let plan = &self.blobs[i].plan;
        let Way::Copy(origin) = plan.way() else { return };
        let (blob, place) = (plan.descriptor.digest.clone(), origin.host().to_owned());
        if sharing == Sharing::Whole {
            self.traffic.count(origin.as_ref(), plan.descriptor.size);
        }
        self.transfer.events.on(&Event::Reused { blob: blob.clone(), place });
        if sharing == Sharing::Whole {
            self.transfer.events.on(&Event::Bytes { blob, count: plan.descriptor.size, provenance: Provenance::Local });
        }
    }

    /// What is there may differ from what the plan saw: another process went on with the blob, or lost some of it, or
    /// no repository gave it.
    fn correct_plan(&mut self, i: usize, resumed: u64) {
        let plan = &self.blobs[i].plan;
        let (planned, left) = (plan.planned(), plan.descriptor.size.saturating_sub(resumed));
        let cause = match plan.way() {
            // Nothing was planned to travel, and what does is counted when it comes.
            Way::Copy(_) => return,
            Way::Mount(_) => Cause::MountRefused,
            // A registry that does not know an open upload any more.
            _ if plan.sink.repository().is_some() => Cause::SessionLost,
            Way::There | Way::Network => Cause::Spoiled,
        };
        self.report.brought += planned.saturating_sub(left);
        if left > planned {
            let (blob, count) = (plan.descriptor.digest.clone(), left - planned);
            self.traffic.lose(cause, count);
            self.transfer.events.on(&Event::Lost { blob, count, cause });
        }
    }

    /// It has to begin once more.
    fn wait_again(&mut self, i: usize) {
        self.under_way.remove(&i);
        self.waiting.push_front(i);
    }

    fn complete(&mut self, i: usize, active: Arc<Active>) {
        let task = self.tasks.spawn(async move { Done::Completed(i, active.complete().await) });
        self.blobs[i].is_followed_by(task);
    }

    fn fetched(&mut self, i: usize, origin: usize, claim: ClaimId, gauge: &Gauge, fetched: Fetched) {
        let now = Instant::now();
        let host = self.blobs[i].host(origin).to_owned();
        if self.blobs[i].provenance(origin) != Provenance::Local {
            self.rates.came(&host, gauge.since, gauge.moved.load(Ordering::Relaxed));
            self.rates.served(&host, self.pace.in_use(&host), fetched.round_trip);
        }
        self.pace.give_back(&host);
        if let Some(round_trip) = fetched.round_trip {
            self.pace.answered(&host, round_trip, gauge.flowing(now));
        }
        self.blobs[i].release(origin, claim);
        let moved = gauge.moved.load(Ordering::Relaxed);
        self.blobs[i].origins[origin].brought |= moved > 0;
        if moved >= PROGRESS {
            self.blobs[i].patience.renew();
            self.blobs[i].origins[origin].progressed();
        }
        // A cut one tells as well: when all have become slow, nobody is cut for it any more.
        if moved >= TELLING || matches!(fetched.end, End::Cut) {
            self.pace.learn(&host, gauge.rate(now));
        }
        if self.blobs[i].has_ended() || self.blobs[i].origins[origin].left {
            return;
        }
        match fetched.end {
            End::Complete | End::NoRanges => {}
            End::Cut => {
                let what = self.blobs[i].plan.descriptor.digest.to_string();
                let why = format!("{host}: a connection far slower than the others is made anew");
                self.transfer.events.on(&Event::Retried { what, why, wait: Duration::ZERO });
            }
            End::Broken(error) if self.blobs[i].is_known_failure(origin, gauge.since) && error.is_transient() => {}
            End::Broken(error) => self.retry(i, Some(origin), error),
        }
    }

    fn streamed(&mut self, i: usize, origin: usize, attempt: Attempt) {
        let host = self.blobs[i].host(origin).to_owned();
        let place = self.blobs[i].plan.sink.place();
        let gauge = self.streams.remove(&i).map(|(_, gauge)| gauge);
        self.count_stream(i, origin, &attempt);
        self.blobs[i].disconnected(origin);
        self.pace.give_back(&host);
        self.pace.give_back(&place);
        if let Some((round_trip, flow)) = attempt.answered {
            self.pace.answered(&host, round_trip, flow);
        }
        self.blobs[i].origins[origin].brought |= attempt.moved > 0;
        if attempt.moved >= PROGRESS {
            self.blobs[i].patience.renew();
            self.blobs[i].origins[origin].progressed();
        }
        if let Some(gauge) = gauge {
            self.learn_from_stream(i, origin, &gauge);
        }
        if self.blobs[i].has_ended() {
            return;
        }
        match attempt.streamed {
            Streamed::Complete => self.arrived(i, Arrival::Transferred),
            Streamed::Stopped => {}
            Streamed::Cut | Streamed::Source(_) if self.blobs[i].origins[origin].left => {}
            // Else its connection is made anew, with buffers for another limit.
            Streamed::Cut if !self.blobs[i].is_passed_over(origin) => {}
            Streamed::Cut => {
                let what = self.blobs[i].plan.descriptor.digest.to_string();
                let why = format!("{host} brings next to nothing: another host goes on");
                self.transfer.events.on(&Event::Retried { what, why, wait: Duration::ZERO });
            }
            Streamed::Source(error) => self.retry(i, Some(origin), error),
            Streamed::Sink(error @ Error::Verification { .. }) => self.streamed_wrong(i, error),
            Streamed::Sink(error) => {
                let (now, longest) = (Instant::now(), self.transfer.settings.max_retry_after);
                let wait = error.retry_after().unwrap_or_default().min(longest);
                if matches!(error, Error::Busy { .. }) {
                    let allowed = self.pace.busy(&place, wait, now);
                    self.connections_changed(place, allowed);
                }
                self.retry(i, None, error);
            }
        }
    }

    /// What went through came from one host and went to another.
    fn count_stream(&mut self, i: usize, origin: usize, attempt: &Attempt) {
        let host = self.blobs[i].host(origin).to_owned();
        if self.blobs[i].provenance(origin) != Provenance::Local {
            self.rates.came(&host, attempt.began, attempt.moved);
            self.rates.served(&host, self.pace.in_use(&host), attempt.answered.map(|(round_trip, _)| round_trip));
        }
        let sink = &self.blobs[i].plan.sink;
        if let Some(to) = sink.repository() {
            self.rates.served(&to.registry, self.pace.in_use(&sink.place()), None);
            self.rates.went(&to.registry, attempt.began, attempt.moved);
        }
    }

    /// A place that verifies what it is sent found wrong bytes: mirrors that brought some of them are left.
    fn streamed_wrong(&mut self, i: usize, error: Error) {
        if self.blobs[i].has_suspects() {
            return self.leave_suspects(i);
        }
        match self.blobs[i].streamed_wrong(error) {
            Ok(()) => self.tell_left(i),
            Err(error) => self.fail(i, Arc::new(error)),
        }
    }

    /// Decides what follows a failure of an origin, or of the sink: a pause, another origin, or the end of the blob.
    fn retry(&mut self, i: usize, origin: Option<usize>, error: Error) {
        let is_local = |origin: usize| self.blobs[i].provenance(origin) == Provenance::Local;
        // A file that cannot be read is only one of the origins.
        if matches!(error, Error::Store { .. }) && !origin.is_some_and(is_local) {
            return self.fail(i, Arc::new(error));
        }
        if let Some(mirror) = origin.filter(|&origin| self.blobs[i].provenance(origin) == Provenance::Mirror) {
            return self.mirror_failed(i, mirror, error);
        }
        let now = Instant::now();
        let is_busy = matches!(error, Error::Busy { .. });
        match self.blobs[i].patience.after(error) {
            Ok((wait, error)) => {
                if let (Some(origin), true) = (origin, is_busy) {
                    let host = self.blobs[i].host(origin).to_owned();
                    let allowed = self.pace.busy(&host, wait, now);
                    self.connections_changed(host, allowed);
                }
                let what = self.blobs[i].plan.descriptor.digest.to_string();
                self.transfer.events.on(&Event::Retried { what, why: error.to_string(), wait });
                let goes_on = origin.is_some_and(|origin| self.blobs[i].gives_back(origin, now + wait));
                if !goes_on && self.blobs[i].pause(now, wait) {
                    self.wait_again(i);
                }
            }
            Err(error) => match origin {
                Some(origin) if self.blobs[i].leave(origin, &self.transfer.settings) => {
                    let host = self.blobs[i].host(origin).to_owned();
                    self.transfer.events.on(&Event::Left { host, why: error.to_string() });
                }
                _ => self.fail(i, Arc::new(error)),
            },
        }
    }

    fn completed(&mut self, i: usize, completion: Result<Completion>) {
        match completion {
            Ok(Completion::Committed { syncing }) => {
                self.report.syncing += syncing;
                self.arrived(i, Arrival::Transferred);
            }
            Ok(Completion::Spoiled { found, ranges, from }) => {
                let count: u64 = ranges.iter().map(|range| range.end - range.start).sum();
                if from == Suspects::Others {
                    self.leave_suspects(i);
                }
                match self.blobs[i].spoiled(&found, ranges, from) {
                    Ok(active) => {
                        self.discarded(&active, count);
                        if from == Suspects::Others {
                            self.tell_left(i);
                        }
                        self.complete(i, active);
                    }
                    Err(error) => self.fail(i, Arc::new(error)),
                }
            }
            Err(error) => self.fail(i, Arc::new(error)),
        }
    }

    /// Bytes were there that are not good, and come once more.
    fn discarded(&mut self, active: &Active, count: u64) {
        let blob = active.descriptor.digest.clone();
        self.transfer.events.on(&Event::Discarded { blob: blob.clone(), count });
        match active.promise {
            Promise::Network => {
                self.traffic.lose(Cause::Spoiled, count);
                self.transfer.events.on(&Event::Lost { blob, count, cause: Cause::Spoiled });
            }
            // What comes over a network now is counted when it comes.
            Promise::Local => self.report.local_spoiled += count,
        }
    }

    /// Places of this machine whose copy is not what its name says.
    fn tell_left(&self, i: usize) {
        for candidate in self.blobs[i].origins.iter().filter(|candidate| candidate.left) {
            let host = candidate.origin.host().to_owned();
            if candidate.origin.provenance() == Provenance::Local {
                let why = format!("its copy of {} is damaged", self.blobs[i].plan.descriptor.digest);
                self.transfer.events.on(&Event::Left { host, why });
            }
        }
    }

    fn arrived(&mut self, i: usize, how: Arrival) {
        self.blobs[i].stage = Stage::Done;
        self.under_way.remove(&i);
        let blob = self.blobs[i].plan.descriptor.digest.clone();
        self.images.arrived(i);
        self.transfer.events.on(&Event::Finished { blob, how });
        self.finish_images();
    }

    pub(super) fn fail(&mut self, i: usize, error: Arc<Error>) {
        self.give_up(i);
        for name in self.images.fail(i, &error) {
            self.transfer.events.on(&Event::Failed { name, why: error.to_string() });
        }
        let unwanted = |&&j: &&usize| !self.images.want(j);
        let unwanted: Vec<usize> = self.waiting.iter().chain(&self.under_way).filter(unwanted).copied().collect();
        unwanted.into_iter().for_each(|j| self.give_up(j));
        self.waiting.retain(|&j| !self.blobs[j].has_ended());
    }

    /// Ends what is under way for a blob and keeps what came of it.
    fn give_up(&mut self, i: usize) {
        for (_, (_, gauge)) in self.open.iter().filter(|((blob, _), _)| *blob == i) {
            gauge.cut.cancel();
        }
        self.under_way.remove(&i);
        match self.blobs[i].give_up() {
            Stage::Active(active) => {
                self.tasks.spawn(async move { Done::Saved(active.ingest.save().await) });
            }
            Stage::Streaming(stream) => stream.stop.cancel(),
            _ => {}
        }
    }
}
