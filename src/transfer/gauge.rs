//! How one connection does, for whoever compares it with others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::verify::lock;
use crate::error::Fault;

/// A connection that brings less than this, in bytes a second over a whole stall time, stands as good as still.
const CRAWL: f64 = 1024.0;

/// Shorter times tell more about buffers than about the line.
const SHORTEST_SAMPLE: Duration = Duration::from_millis(40);

/// How fast the rate of late forgets.
const MEMORY: Duration = Duration::from_millis(700);

/// What one connection has brought, and in which time.
pub(super) struct Gauge {
    /// When it began.
    pub(super) since: Instant,
    /// When its answer came: how long a server thinks tells nothing about how fast it sends.
    answered: OnceLock<Instant>,
    /// When nobody read from it: what takes the bytes may be slower than what sends them.
    rest: Mutex<Rest>,
    /// Bytes that it brought, and nobody had.
    pub(super) moved: AtomicU64,
    /// Bytes that came, also in vain: a server that ignores ranges is not slow.
    came: AtomicU64,
    /// How it does of late.
    recent: Mutex<Recent>,
    /// Ends it: what it has not brought is for others to fetch.
    pub(super) cut: CancellationToken,
}

/// Time in which nobody read.
#[derive(Default)]
struct Rest {
    before: Duration,
    since: Option<Instant>,
}

/// A rate that forgets what was long ago.
#[derive(Default)]
struct Recent {
    is_known: bool,
    flowing: Duration,
    came: u64,
    rate: f64,
}

/// What came while bytes could flow, from some moment on.
#[derive(Default)]
pub(super) struct Window {
    flowing: Duration,
    came: u64,
}

impl Gauge {
    /// A connection that begins now.
    pub(super) fn new() -> Arc<Gauge> {
        Arc::new(Gauge {
            since: Instant::now(),
            answered: OnceLock::new(),
            rest: Mutex::default(),
            moved: AtomicU64::new(0),
            came: AtomicU64::new(0),
            recent: Mutex::default(),
            cut: CancellationToken::new(),
        })
    }

    /// The answer's head has come.
    pub(super) fn answer(&self) {
        // Opened once, so it is not set yet.
        let _ = self.answered.set(Instant::now());
    }

    /// Bytes came.
    pub(super) fn count(&self, bytes: u64) {
        self.came.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Waits for `work` while nobody reads.
    pub(super) async fn resting<T>(&self, work: impl Future<Output = T>) -> T {
        lock(&self.rest).since = Some(Instant::now());
        let done = work.await;
        let mut rest = lock(&self.rest);
        let length = rest.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        rest.before += length;
        done
    }

    /// Whether no answer has come.
    pub(super) fn is_thinking(&self) -> bool {
        self.answered.get().is_none()
    }

    /// How long bytes could come by now; zero before the answer.
    pub(super) fn flowing(&self, now: Instant) -> Duration {
        let rest = lock(&self.rest);
        let resting = rest.before + rest.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.open_for(now).saturating_sub(resting)
    }

    fn open_for(&self, now: Instant) -> Duration {
        self.answered.get().map_or(Duration::ZERO, |since| now.saturating_duration_since(*since))
    }

    /// Bytes that came, also in vain.
    pub(super) fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// Bytes a second while they could come.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        self.came() as f64 / self.flowing(now).as_secs_f64().max(0.001)
    }

    /// Bytes a second since its answer came, whoever was slow: so much its host can bring at least.
    pub(super) fn proven(&self, now: Instant) -> f64 {
        self.came() as f64 / self.open_for(now).as_secs_f64().max(0.001)
    }

    /// Whether it was read from most of the time: else its rate tells of buffers.
    pub(super) fn is_telling(&self, now: Instant) -> bool {
        2 * self.flowing(now) >= self.open_for(now)
    }

    /// Bytes a second of late; to be asked now and then. Zero before the answer.
    pub(super) fn recent(&self, now: Instant) -> f64 {
        let flowing = self.flowing(now);
        let mut recent = lock(&self.recent);
        let length = flowing.saturating_sub(recent.flowing);
        if length < SHORTEST_SAMPLE {
            return recent.rate;
        }
        let came = self.came();
        let sample = (came - recent.came) as f64 / length.as_secs_f64();
        let keep = if recent.is_known { (-length.as_secs_f64() / MEMORY.as_secs_f64()).exp() } else { 0.0 };
        *recent = Recent { is_known: true, flowing, came, rate: recent.rate * keep + sample * (1.0 - keep) };
        recent.rate
    }

    /// Whether it stands as good as still since the answer.
    pub(super) fn is_still(&self, now: Instant) -> bool {
        self.rate(now) < CRAWL
    }

    /// Looks at each `stall` of time whether it stood as good as still: a server that sends a byte now and then never
    /// stalls, and never ends either.
    pub(super) fn check(&self, window: &mut Window, stall: Duration) -> Result<(), Fault> {
        let (flowing, came) = (self.flowing(Instant::now()), self.came());
        let length = flowing.saturating_sub(window.flowing);
        if length < stall {
            return Ok(());
        }
        let bytes = came - window.came;
        *window = Window { flowing, came };
        match (bytes as f64) < CRAWL * length.as_secs_f64() {
            true => Err(Fault::Broken(format!("only {bytes} bytes in {:.1} s", length.as_secs_f64()))),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_reads_is_not_the_servers() {
        let gauge = Gauge::new();
        pass(3).await;
        assert!(gauge.is_thinking() && gauge.flowing(Instant::now()).is_zero());
        gauge.answer();
        pass(1).await;
        gauge.count(1000);
        gauge.resting(pass(9)).await;
        let now = Instant::now();
        assert_eq!((gauge.flowing(now), gauge.rate(now), gauge.proven(now)), (Duration::from_secs(1), 1000.0, 100.0));
        assert_eq!((gauge.recent(now), gauge.is_telling(now)), (1000.0, false));
        pass(9).await;
        assert!(gauge.recent(Instant::now()) < 1.0 && gauge.is_telling(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_crawls_is_noticed_after_each_stall_time_and_not_while_it_rests() {
        let (gauge, stall) = (Gauge::new(), Duration::from_secs(20));
        let mut window = Window::default();
        gauge.answer();
        gauge.count(30_000);
        gauge.resting(pass(100)).await;
        pass(20).await;
        assert!(gauge.check(&mut window, stall).is_ok());
        gauge.count(1000);
        pass(19).await;
        assert!(gauge.check(&mut window, stall).is_ok());
        pass(1).await;
        let still = gauge.check(&mut window, stall);
        assert!(matches!(&still, Err(Fault::Broken(why)) if why == "only 1000 bytes in 20.0 s"), "{still:?}");
    }
}
