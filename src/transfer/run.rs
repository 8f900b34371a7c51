//! Executes a plan. One task owns the schedule; connections, commits and tags run beside it and report back.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::active::{Active, Completion, Traffic};
use super::blob::{Blob, Stage};
use super::fetch::Fetched;
use super::gauge::Gauge;
use super::image::Images;
use super::pace::Pace;
use super::rates::Rates;
use super::segments::ClaimId;
use super::stream::{Attempt, Stream};
use super::{BlobPlan, Plan, Report, Transfer, Way};
use crate::content::{Begun, Holding};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::limit::Direction;

/// How often rates are looked at and pauses end.
const TICK: Duration = Duration::from_millis(50);
/// How long uploads may take to end between two pieces when the transfer is cancelled.
const STOP_LIMIT: Duration = Duration::from_millis(300);
/// How long saving may take then.
const SAVE_LIMIT: Duration = Duration::from_millis(1200);
/// A connection is compared with the others after this long.
const COMPARE_AFTER: Duration = Duration::from_secs(4);
/// A connection that brings less than this part of what is typical is cut.
const CRAWLER: f64 = 0.1;

/// Work that ended.
pub(super) enum Done {
    /// A blob has begun; whether all of its bytes are shared with a file of this machine already.
    Begun(usize, Result<Begun>, Sharing),
    Fetched {
        blob: usize,
        origin: usize,
        claim: ClaimId,
        gauge: Arc<Gauge>,
        fetched: Fetched,
    },
    Streamed {
        blob: usize,
        origin: usize,
        attempt: Attempt,
    },
    Completed(usize, Result<Completion>),
    Tagged(usize, Result<()>),
    Saved(Result<()>),
}

impl Transfer {
    /// Executes `plan`. Every image ends on its own: one that fails does not stop the others.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when cancelled, [`Error::Limit`] when the budget does not suffice; what is needed to go on
    /// is saved then.
    pub async fn run(&self, plan: Plan) -> Result<Report> {
        if let Some(why) = self.settings.budget.refusal(plan.totals().planned) {
            return Err(Error::Limit(why));
        }
        let began = Instant::now();
        let mut run = Run::new(self, plan);
        let interrupted = run.go().await;
        if interrupted.is_err() {
            run.save().await;
        }
        run.remember_rates().await;
        interrupted?;
        Ok(run.report(began.elapsed()))
    }
}

pub(super) struct Run<'a> {
    pub(super) transfer: &'a Transfer,
    pub(super) blobs: Vec<Blob>,
    /// Blobs that wait to begin, the biggest first.
    pub(super) waiting: VecDeque<usize>,
    /// Blobs that have begun and not ended.
    pub(super) under_way: BTreeSet<usize>,
    pub(super) images: Images,
    pub(super) pace: Pace,
    pub(super) tasks: JoinSet<Done>,
    /// Connections at work.
    pub(super) open: HashMap<(usize, ClaimId), (usize, Arc<Gauge>)>,
    /// Those of blobs that go on at once, each from one origin.
    pub(super) streams: HashMap<usize, (usize, Arc<Gauge>)>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) rates: Rates,
    pub(super) report: Report,
    /// What the system may have in the buffer of a connection, as the limit wants it.
    buffer: Option<usize>,
}

impl<'a> Run<'a> {
    fn new(transfer: &'a Transfer, plan: Plan) -> Run<'a> {
        let totals = plan.totals();
        let report = Report { planned: totals.planned, held: totals.held(), ..Report::default() };
        let images = Images::new(plan.images, plan.failed, &plan.blobs);
        let blobs: Vec<Blob> = plan.blobs.into_iter().map(|blob| Blob::new(blob, &transfer.settings)).collect();
        let mut waiting: Vec<usize> = (0..blobs.len()).filter(|&i| blobs[i].plan.holding != Holding::Whole).collect();
        waiting.sort_by_key(|&i| std::cmp::Reverse(blobs[i].plan.missing()));
        Run {
            transfer,
            blobs,
            waiting: waiting.into(),
            under_way: BTreeSet::new(),
            images,
            pace: Pace::new(transfer.settings.streams).remembering(&transfer.state),
            tasks: JoinSet::new(),
            open: HashMap::new(),
            streams: HashMap::new(),
            traffic: Arc::new(Traffic::new(transfer.settings.budget.clone())),
            rates: Rates::default(),
            buffer: transfer.settings.limiter.buffer(Direction::Down),
            report,
        }
    }

    async fn go(&mut self) -> Result<()> {
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.finish_images();
        let budget = self.transfer.settings.budget.clone();
        loop {
            self.begin_blobs();
            self.connect();
            if self.tasks.is_empty() && self.is_over() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.transfer.cancel.cancelled() => return Err(Error::Interrupted),
                why = budget.spent() => return Err(Error::Limit(why)),
                Some(done) = self.tasks.join_next() => self.take(done),
                _ = ticker.tick() => self.tick(),
            }
        }
    }

    fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }

    /// Begins as many blobs as may be on their way at once.
    fn begin_blobs(&mut self) {
        let now = Instant::now();
        let mut at = 0;
        while self.under_way.len() < self.transfer.settings.jobs {
            let may_begin = |&i: &usize| {
                let blob = &self.blobs[i];
                blob.may_begin(now) && blob.plan.after.is_none_or(|leader| self.blobs[leader].has_ended())
            };
            let Some(next) = self.waiting.iter().skip(at).position(may_begin) else { return };
            at += next;
            let Some(i) = self.waiting.remove(at) else { return };
            self.under_way.insert(i);
            self.blobs[i].stage = Stage::Beginning;
            let plan = self.blobs[i].plan.clone();
            self.tasks.spawn(async move {
                let begun = plan.sink.begin(&plan.descriptor, &plan.mounts).await;
                let (begun, sharing) = share(&plan, begun).await;
                Done::Begun(i, begun, sharing)
            });
        }
    }

    /// Gives every free connection something to do.
    fn connect(&mut self) {
        let now = Instant::now();
        while self.may_connect()
            && let Some((i, origin)) = self.next_fetch(now)
        {
            self.fetch(i, origin, now);
        }
    }

    /// Whether one more connection is of use under the limit.
    fn may_connect(&self) -> bool {
        let limiter = &self.transfer.settings.limiter;
        if !limiter.is_set() {
            return true;
        }
        let sends = self.under_way.iter().any(|&i| matches!(self.blobs[i].stage, Stage::Streaming(_)));
        let up = if sends { limiter.connections(Direction::Up) } else { usize::MAX };
        let connections: usize = self.under_way.iter().map(|&i| self.blobs[i].connections).sum();
        connections < limiter.connections(Direction::Down).min(up)
    }

    pub(super) fn saved(&self, result: Result<()>) {
        if let Err(error) = result {
            self.transfer.events.on(&Event::Warning { text: format!("partial blob not saved: {error}") });
        }
    }

    /// Puts the manifests and tags of images whose blobs are all there.
    pub(super) fn finish_images(&mut self) {
        for (number, image) in self.images.ready() {
            let transfer = self.transfer.clone();
            self.tasks.spawn(async move { Done::Tagged(number, transfer.finish(&image).await) });
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        for (host, allowed) in self.pace.tick(now) {
            self.connections_changed(host, allowed);
        }
        self.watch_hosts(now);
        let limiter = &self.transfer.settings.limiter;
        let buffer = limiter.buffer(Direction::Down);
        if std::mem::replace(&mut self.buffer, buffer) != buffer {
            // The buffers of these connections are for another limit: too large, or too small.
            self.open.values().chain(self.streams.values()).for_each(|(_, gauge)| gauge.cut.cancel());
        }
        // Under a limit a slow connection says nothing of its host.
        if limiter.rate(Direction::Down).is_some() {
            return;
        }
        for ((blob, _), (origin, gauge)) in &self.open {
            let host = self.blobs[*blob].host(*origin);
            if gauge.flowing(now) >= COMPARE_AFTER && gauge.rate(now) < CRAWLER * self.pace.typical(host) {
                gauge.cut.cancel();
            }
        }
    }

    /// Tells how many connections a host may have now.
    pub(super) fn connections_changed(&self, host: String, allowed: usize) {
        tracing::debug!(%host, allowed, "connections");
        self.transfer.events.on(&Event::Connections { host, allowed });
    }

    /// Ends all connections and saves what is needed to go on.
    async fn save(&mut self) {
        self.stop_streams().await;
        self.tasks.shutdown().await;
        let saves = self.under_way.iter().filter_map(|&i| match &self.blobs[i].stage {
            Stage::Active(active) => Some(Saving::Ingest(Arc::clone(active))),
            Stage::Streaming(stream) => Some(Saving::Upload(Arc::clone(stream))),
            _ => None,
        });
        let saves = saves.map(Saving::run);
        let results = tokio::time::timeout(SAVE_LIMIT, futures::future::join_all(saves)).await;
        results.into_iter().flatten().for_each(|result| self.saved(result));
    }

    /// What an upload was given shall reach its place: it ends between two pieces.
    async fn stop_streams(&mut self) {
        let mut streams = 0;
        for &i in &self.under_way {
            if let Stage::Streaming(stream) = &self.blobs[i].stage {
                stream.stop.cancel();
                streams += self.blobs[i].connections;
            }
        }
        let all_stopped = async {
            while streams > 0 {
                match self.tasks.join_next().await {
                    Some(Ok(Done::Streamed { .. })) => streams -= 1,
                    Some(_) => {}
                    None => return,
                }
            }
        };
        // Those that do not stop in time are cut.
        let _ = tokio::time::timeout(STOP_LIMIT, all_stopped).await;
    }

    fn report(mut self, elapsed: Duration) -> Report {
        self.report.elapsed = elapsed;
        (self.report.moved, self.report.local) = self.traffic.counted();
        self.report.hosts = self.traffic.hosts();
        self.report.places = self.traffic.places();
        self.report.causes = self.traffic.lost();
        self.report.images = self.images.outcomes();
        self.report
    }
}

/// Whether the bytes of a blob are those of a file elsewhere on this machine, without having been copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// All of them.
    Whole,
    /// None.
    None,
}

/// Lets a blob share the bytes of a file that this machine has, where sink and file system can do that.
async fn share(plan: &BlobPlan, begun: Result<Begun>) -> (Result<Begun>, Sharing) {
    let (Way::Copy(origin), Ok(Begun::Ingest(ingest))) = (plan.way(), &begun) else { return (begun, Sharing::None) };
    let Some(file) = origin.file() else { return (begun, Sharing::None) };
    match ingest.share(file).await {
        Ok(true) => (begun, Sharing::Whole),
        Ok(false) => (begun, Sharing::None),
        Err(error) => (Err(error), Sharing::None),
    }
}

/// A blob that is saved for another process.
enum Saving {
    Ingest(Arc<Active>),
    Upload(Arc<Stream>),
}

impl Saving {
    async fn run(self) -> Result<()> {
        match self {
            Saving::Ingest(active) => active.ingest.save().await,
            Saving::Upload(stream) => stream.upload.save().await,
        }
    }
}
