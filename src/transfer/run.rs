//! Executes a plan. One task owns the schedule; connections, commits and tags run beside it and report back.
//!
//! The biggest blobs start first. While blobs wait, each gets one connection; when none waits, free connections share
//! the blobs that are on their way, and when nothing is left to claim, they take half of the largest remaining range.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use super::active::{Active, Completion, Traffic};
use super::blob::{Blob, Stage};
use super::fetch::{End, Fetch, Fetched, Gauge, PROGRESS};
use super::image::Images;
use super::pace::Pace;
use super::segments::ClaimId;
use super::verify::lock;
use super::{Plan, Report, Transfer};
use crate::content::{Begun, Holding, Sink};
use crate::error::{Error, Result};
use crate::event::{Arrival, Cause, Event};

/// How often rates are looked at and pauses end.
const TICK: Duration = Duration::from_millis(50);
/// How long to wait before asking for a blob again that another process writes.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// How long saving may take when the transfer is cancelled.
const SAVE_LIMIT: Duration = Duration::from_millis(1500);
/// Smallest range that one of several connections claims.
const LEAST_RANGE: u64 = 8 * 1024 * 1024;
/// Largest range that is asked for at once: what is not asked for can still be shared.
const MOST_RANGE: u64 = 64 * 1024 * 1024;
/// What a connection must bring before its rate tells anything, in bytes.
const TELLING: u64 = 1024 * 1024;
/// A connection is compared with the others after this long.
const COMPARE_AFTER: Duration = Duration::from_secs(4);
/// A connection that brings less than this part of what is typical is cut.
const CRAWLER: f64 = 0.1;

/// Time that a connection must have left before half of its range is given to another one.
const WORTH_SPLITTING: Duration = Duration::from_secs(2);

/// Why a blob wants one more connection; the greater, the more urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// All is claimed, but one connection will take this long.
    Late(Duration),
    /// Bytes that nobody fetches, for each of its connections.
    Served(u64),
    /// Bytes that nobody fetches, and no connection at all.
    Unserved(u64),
}

/// Work that ended.
enum Done {
    Begun(usize, Result<Begun>),
    Fetched { blob: usize, origin: usize, claim: ClaimId, gauge: Arc<Gauge>, fetched: Fetched },
    Completed(usize, Result<Completion>),
    Tagged(usize, Result<()>),
    Saved(Result<()>),
}

impl Transfer {
    /// Executes `plan`. Every image ends on its own: one that fails does not stop the others.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when cancelled; what is needed to go on is saved then.
    pub async fn run(&self, plan: Plan, sink: Arc<dyn Sink>) -> Result<Report> {
        let began = Instant::now();
        let mut run = Run::new(self, plan, sink);
        let interrupted = run.go().await;
        if interrupted.is_err() {
            run.save().await;
        }
        interrupted?;
        Ok(run.report(began.elapsed()))
    }
}

struct Run<'a> {
    transfer: &'a Transfer,
    sink: Arc<dyn Sink>,
    blobs: Vec<Blob>,
    /// Indexes of `blobs`, the biggest first.
    order: Vec<usize>,
    images: Images,
    pace: Pace,
    tasks: JoinSet<Done>,
    /// Connections at work.
    open: HashMap<(usize, ClaimId), (usize, Arc<Gauge>)>,
    traffic: Arc<Traffic>,
    report: Report,
}

impl<'a> Run<'a> {
    fn new(transfer: &'a Transfer, plan: Plan, sink: Arc<dyn Sink>) -> Run<'a> {
        let totals = plan.totals();
        let report = Report { planned: totals.missing, held: totals.size - totals.missing, ..Report::default() };
        let images = Images::new(plan.images, plan.failed, &plan.blobs);
        let blobs: Vec<Blob> = plan.blobs.into_iter().map(|blob| Blob::new(blob, &transfer.settings)).collect();
        let mut order: Vec<usize> = (0..blobs.len()).filter(|&i| blobs[i].plan.holding != Holding::Whole).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(blobs[i].plan.missing()));
        let (pace, tasks, open) = (Pace::new(transfer.settings.streams), JoinSet::new(), HashMap::new());
        Run { transfer, sink, blobs, order, images, pace, tasks, open, traffic: Arc::default(), report }
    }

    async fn go(&mut self) -> Result<()> {
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.finish_images();
        loop {
            self.begin_blobs();
            self.connect();
            if self.tasks.is_empty() && self.is_over() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.transfer.cancel.cancelled() => return Err(Error::Interrupted),
                Some(done) = self.tasks.join_next() => self.take(done),
                _ = ticker.tick() => self.tick(),
            }
        }
    }

    fn is_over(&self) -> bool {
        self.order.iter().all(|&i| self.blobs[i].has_ended())
    }

    /// Begins as many blobs as may be on their way at once.
    fn begin_blobs(&mut self) {
        let now = Instant::now();
        let on_the_way = |stage: &Stage| matches!(stage, Stage::Beginning | Stage::Active(_));
        let mut count = self.blobs.iter().filter(|blob| on_the_way(&blob.stage)).count();
        for &i in &self.order {
            if count >= self.transfer.settings.jobs {
                return;
            }
            if !self.blobs[i].may_begin(now) {
                continue;
            }
            count += 1;
            self.blobs[i].stage = Stage::Beginning;
            let (sink, plan) = (Arc::clone(&self.sink), self.blobs[i].plan.clone());
            self.tasks.spawn(async move { Done::Begun(i, sink.begin(&plan.descriptor, &plan.mounts).await) });
        }
    }

    /// Gives every free connection something to do.
    fn connect(&mut self) {
        let now = Instant::now();
        while let Some((i, origin)) = self.next_fetch(now) {
            self.fetch(i, origin, now);
        }
    }

    /// The blob that needs a connection most, and the origin to open: blobs without any first, then the one with the
    /// most left for each of its connections, then the one whose slowest connection has the longest way to go.
    fn next_fetch(&mut self, now: Instant) -> Option<(usize, usize)> {
        let mut wanting: Vec<(Need, usize)> = Vec::new();
        for &i in &self.order {
            if self.blobs[i].may_connect(now, self.transfer.settings.streams)
                && let Some(need) = self.need(i, now)
            {
                wanting.push((need, i));
            }
        }
        wanting.sort_by_key(|(need, _)| std::cmp::Reverse(*need));
        wanting.into_iter().find_map(|(_, i)| {
            let connections = self.blobs[i].connections;
            let mut usable = self.blobs[i].usable();
            let free = usable.find(|(_, origin)| {
                self.pace.may_share(origin.host(), connections, now) && self.pace.take(origin.host(), now)
            });
            free.map(|(origin, _)| (i, origin))
        })
    }

    fn need(&self, i: usize, now: Instant) -> Option<Need> {
        match (self.blobs[i].unclaimed(), self.blobs[i].connections as u64) {
            (0, 0) => None,
            (0, _) => self.slowest(i, now).map(|(_, left)| Need::Late(left)),
            (left, 0) => Some(Need::Unserved(left)),
            (left, connections) => Some(Need::Served(left / connections)),
        }
    }

    /// The connection of a blob that will end last, if taking half of its range away from it pays.
    fn slowest(&self, i: usize, now: Instant) -> Option<(ClaimId, Duration)> {
        let Stage::Active(active) = &self.blobs[i].stage else { return None };
        let segments = lock(&active.segments);
        let connections = self.open.iter().filter(|((blob, _), _)| *blob == i);
        let late = connections.filter_map(|((_, claim), (_, gauge))| {
            let awaited = segments.awaited(*claim);
            let left = awaited.end - awaited.start;
            let rate = gauge.rate(now);
            let is_known = now.saturating_duration_since(gauge.since) >= WORTH_SPLITTING / 2;
            let time = Duration::try_from_secs_f64(left as f64 / rate).unwrap_or(Duration::MAX);
            (left >= 2 * LEAST_RANGE && is_known && time >= WORTH_SPLITTING).then_some((*claim, time))
        });
        late.max_by_key(|(_, time)| *time)
    }

    fn fetch(&mut self, i: usize, origin: usize, now: Instant) {
        let host = Arc::clone(&self.blobs[i].origins[origin].origin);
        let limit = self.range_limit(i, host.host(), now);
        let slowest = self.slowest(i, now);
        let Stage::Active(active) = &self.blobs[i].stage else { return };
        let active = Arc::clone(active);
        let claimed = {
            let mut segments = lock(&active.segments);
            segments.claim(limit).or_else(|| segments.split(slowest?.0, LEAST_RANGE))
        };
        // The slow connection may have caught up since it was looked at.
        let Some((claim, _)) = claimed else { return self.pace.give_back(host.host(), now) };
        self.blobs[i].connections += 1;
        let gauge = Gauge::new();
        self.open.insert((i, claim), (origin, Arc::clone(&gauge)));
        let fetch = Fetch {
            blob: active,
            claim,
            stall: self.transfer.settings.stall,
            events: Arc::clone(&self.transfer.events),
            meter: self.pace.meter(host.host(), now),
            gauge: Arc::clone(&gauge),
            origin: host,
        };
        self.tasks.spawn(async move { Done::Fetched { blob: i, origin, claim, gauge, fetched: fetch.run().await } });
    }

    /// How much one connection asks for: a share small enough that all connections of the blob end together, and
    /// never so much that nothing is left to share should more connections pay.
    fn range_limit(&mut self, i: usize, host: &str, now: Instant) -> u64 {
        if self.blobs[i].ignores_ranges() {
            return u64::MAX;
        }
        let left = self.blobs[i].unclaimed();
        match self.pace.streams(host, now) as u64 {
            1 => MOST_RANGE,
            several => (left / (2 * several)).clamp(LEAST_RANGE, MOST_RANGE),
        }
    }

    fn take(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Begun(i, begun)) if !self.blobs[i].has_ended() => self.begun(i, begun),
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

    fn begun(&mut self, i: usize, begun: Result<Begun>) {
        let digest = self.blobs[i].plan.descriptor.digest.clone();
        match begun {
            Ok(Begun::Held) => {
                self.report.brought += self.blobs[i].plan.missing();
                self.arrived(i, Arrival::Held);
            }
            Ok(Begun::Mounted { .. }) => {
                self.report.brought += self.blobs[i].plan.missing();
                self.arrived(i, Arrival::Mounted);
            }
            Ok(Begun::Busy) => {
                if self.blobs[i].wait_for_other(Instant::now() + BUSY_PAUSE) {
                    let what = format!("another process that is fetching {digest}");
                    self.transfer.events.on(&Event::Waiting { what });
                }
            }
            Ok(Begun::Ingest(ingest)) => {
                let blob = self.blobs[i].plan.descriptor.clone();
                let active = Arc::new(Active::new(blob, ingest, Arc::clone(&self.traffic)));
                self.correct_plan(i, active.resumed);
                self.transfer.events.on(&Event::Started { blob: digest, resumed: active.resumed });
                self.blobs[i].stage = Stage::Active(Arc::clone(&active));
                self.complete(i, active);
            }
            Ok(Begun::Upload(_)) => self.fail(i, Arc::new(Error::Usage("uploads are not executed yet".into()))),
            Err(error) => self.retry(i, None, error),
        }
    }

    /// What is there may differ from what the plan saw: another process went on with the blob, or lost some of it.
    fn correct_plan(&mut self, i: usize, resumed: u64) {
        let (planned, left) = (self.blobs[i].plan.missing(), self.blobs[i].plan.descriptor.size - resumed);
        self.report.brought += planned.saturating_sub(left);
        if left > planned {
            self.traffic.lose(Cause::Spoiled, left - planned);
        }
    }

    fn complete(&mut self, i: usize, active: Arc<Active>) {
        let task = self.tasks.spawn(async move { Done::Completed(i, active.complete().await) });
        self.blobs[i].is_followed_by(task);
    }

    fn fetched(&mut self, i: usize, origin: usize, claim: ClaimId, gauge: &Gauge, fetched: Fetched) {
        let now = Instant::now();
        let host = self.blobs[i].origins[origin].origin.host().to_owned();
        self.pace.give_back(&host, now);
        if let Some(round_trip) = fetched.round_trip {
            self.pace.answered(&host, round_trip, gauge.flowing(now), now);
        }
        self.blobs[i].release(claim);
        let moved = gauge.moved.load(Ordering::Relaxed);
        if moved >= PROGRESS {
            self.blobs[i].patience.renew();
        }
        // A cut one tells as well: when all have become slow, nobody is cut for it any more.
        if moved >= TELLING || matches!(fetched.end, End::Cut) {
            self.pace.learn(&host, gauge.rate(now), now);
        }
        if self.blobs[i].has_ended() {
            return;
        }
        match fetched.end {
            End::Complete | End::NoRanges => {}
            End::Cut => {
                let what = self.blobs[i].plan.descriptor.digest.to_string();
                let why = format!("{host}: a connection far slower than the others is made anew");
                self.transfer.events.on(&Event::Retried { what, why, wait: Duration::ZERO });
            }
            End::Broken(error) if self.blobs[i].is_known_failure(gauge.since) && error.is_transient() => {}
            End::Broken(error) => self.retry(i, Some(origin), error),
        }
    }

    /// Decides what follows a failure: a pause, another origin, or the end of the blob.
    fn retry(&mut self, i: usize, origin: Option<usize>, error: Error) {
        if matches!(error, Error::Store { .. }) {
            return self.fail(i, Arc::new(error));
        }
        let now = Instant::now();
        let is_busy = matches!(error, Error::Busy { .. });
        match self.blobs[i].patience.after(error) {
            Ok((wait, error)) => {
                if let (Some(origin), true) = (origin, is_busy) {
                    let host = self.blobs[i].origins[origin].origin.host().to_owned();
                    let allowed = self.pace.busy(&host, wait, now);
                    self.transfer.events.on(&Event::Connections { host, allowed });
                }
                let what = self.blobs[i].plan.descriptor.digest.to_string();
                self.transfer.events.on(&Event::Retried { what, why: error.to_string(), wait });
                self.blobs[i].pause(now, wait);
            }
            Err(error) => match origin {
                Some(origin) if self.blobs[i].leave(origin, &self.transfer.settings) => {
                    let host = self.blobs[i].origins[origin].origin.host().to_owned();
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
                match self.blobs[i].spoiled(&found, ranges, from) {
                    Ok(active) => {
                        self.traffic.lose(Cause::Spoiled, count);
                        let blob = active.descriptor.digest.clone();
                        self.transfer.events.on(&Event::Lost { blob, count, cause: Cause::Spoiled });
                        self.complete(i, active);
                    }
                    Err(error) => self.fail(i, Arc::new(error)),
                }
            }
            Err(error) => self.fail(i, Arc::new(error)),
        }
    }

    fn arrived(&mut self, i: usize, how: Arrival) {
        self.blobs[i].stage = Stage::Done;
        let blob = self.blobs[i].plan.descriptor.digest.clone();
        self.images.arrived(&blob);
        self.transfer.events.on(&Event::Finished { blob, how });
        self.finish_images();
    }

    fn fail(&mut self, i: usize, error: Arc<Error>) {
        self.give_up(i);
        let digest = self.blobs[i].plan.descriptor.digest.clone();
        for name in self.images.fail(&digest, &error) {
            self.transfer.events.on(&Event::Failed { name, why: error.to_string() });
        }
        for j in 0..self.blobs.len() {
            if !self.blobs[j].has_ended() && !self.images.want(&self.blobs[j].plan.descriptor.digest) {
                self.give_up(j);
            }
        }
    }

    /// Ends what is under way for a blob and keeps what came of it.
    fn give_up(&mut self, i: usize) {
        for (_, (_, gauge)) in self.open.iter().filter(|((blob, _), _)| *blob == i) {
            gauge.cut.cancel();
        }
        if let Some(active) = self.blobs[i].give_up() {
            self.tasks.spawn(async move { Done::Saved(active.ingest.save().await) });
        }
    }

    fn saved(&self, result: Result<()>) {
        if let Err(error) = result {
            self.transfer.events.on(&Event::Warning { text: format!("partial blob not saved: {error}") });
        }
    }

    /// Puts the manifests and tags of images whose blobs are all there.
    fn finish_images(&mut self) {
        for (number, image) in self.images.ready() {
            let (sink, transfer) = (Arc::clone(&self.sink), self.transfer.clone());
            self.tasks.spawn(async move { Done::Tagged(number, transfer.finish(&image, sink.as_ref()).await) });
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        for (host, allowed) in self.pace.tick(now) {
            self.transfer.events.on(&Event::Connections { host, allowed });
        }
        for ((blob, _), (origin, gauge)) in &self.open {
            let host = self.blobs[*blob].origins[*origin].origin.host();
            if gauge.flowing(now) >= COMPARE_AFTER && gauge.rate(now) < CRAWLER * self.pace.typical(host) {
                gauge.cut.cancel();
            }
        }
    }

    /// Ends all connections and saves what is needed to go on.
    async fn save(&mut self) {
        self.tasks.shutdown().await;
        let active = self.blobs.iter().filter_map(|blob| match &blob.stage {
            Stage::Active(active) => Some(Arc::clone(active)),
            _ => None,
        });
        let saves = active.map(|active| async move { active.ingest.save().await });
        let results = tokio::time::timeout(SAVE_LIMIT, futures::future::join_all(saves)).await;
        results.into_iter().flatten().for_each(|result| self.saved(result));
    }

    fn report(mut self, elapsed: Duration) -> Report {
        self.report.elapsed = elapsed;
        (self.report.moved, self.report.local) = self.traffic.counted();
        self.report.causes = self.traffic.lost();
        self.report.images = self.images.outcomes();
        self.report
    }
}
