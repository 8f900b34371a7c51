//! Several hosts for one blob: what each brings, and when one is left.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::*;
use crate::event::{Event, Observer};
use crate::limit::{Limiter, Precedence, Timetable};

pub(super) const MB: u64 = 1_000_000;

/// How a host behaves.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Manner {
    Honest,
    /// Every byte is wrong.
    Wrong,
    /// It has no blob.
    Lacks,
    /// Nobody answers there.
    Gone,
    /// After so many bytes in all every connection breaks, and nobody answers any more.
    Dies(u64),
    /// After so many bytes in all it brings 100 kB/s.
    Drops(u64),
    /// It sends everything, whatever part it was asked for.
    Whole,
    /// Until it sent so many bytes it brings 50 kB/s.
    Recovers(u64),
    /// It takes a minute to answer.
    Thinks,
    /// It asks for a pause of a minute after so many bytes.
    Busy(u64),
}

/// A host with a line of its own.
pub(super) struct Host {
    name: &'static str,
    provenance: Provenance,
    manner: Manner,
    rate: u64,
    content: Arc<Registry>,
    sent: AtomicU64,
    pub(super) requests: AtomicU64,
    next: Mutex<Instant>,
}

impl Host {
    pub(super) fn new(name: &'static str, rate: u64, manner: Manner) -> Host {
        let provenance = if name == "registry" { Provenance::Registry } else { Provenance::Mirror };
        let (sent, requests, next) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Instant::now()));
        Host { name, provenance, manner, rate, content: Arc::default(), sent, requests, next }
    }

    fn error(&self, fault: Fault) -> Error {
        Error::network(self.name, "blob", fault)
    }

    /// Waits until the line has brought so many bytes more.
    async fn pass(&self, count: u64) {
        let sent = self.sent.load(Ordering::Relaxed);
        let rate = match self.manner {
            Manner::Drops(after) if sent >= after => 100_000,
            Manner::Recovers(after) if sent < after => 50_000,
            _ => self.rate,
        };
        let turn = {
            let mut next = lock(&self.next);
            *next = (*next).max(Instant::now()) + Duration::from_secs_f64(count as f64 / rate as f64);
            *next
        };
        tokio::time::sleep_until(turn).await;
    }

    fn refusal(&self) -> Option<Error> {
        let sent = self.sent.load(Ordering::Relaxed);
        match self.manner {
            Manner::Lacks => Some(Error::NotFound { what: "blob".into(), place: self.name.into(), why: String::new() }),
            Manner::Gone => Some(self.error(Fault::Connect("refused".into()))),
            Manner::Dies(after) if sent >= after => Some(self.error(Fault::Connect("refused".into()))),
            Manner::Busy(after) if sent >= after => Some(Error::Busy {
                what: "blob".into(),
                place: self.name.into(),
                status: 429,
                retry_after: Some(Duration::from_secs(60)),
                why: String::new(),
            }),
            _ => None,
        }
    }
}

struct BlobOf(Arc<Host>, Digest);

impl std::fmt::Debug for BlobOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.0.name, self.1)
    }
}

#[async_trait]
impl Origin for BlobOf {
    fn host(&self) -> &str {
        self.0.name
    }
    fn provenance(&self) -> Provenance {
        self.0.provenance
    }
    async fn open(&self, range: Range<u64>) -> Result<Body> {
        let host = Arc::clone(&self.0);
        host.requests.fetch_add(1, Ordering::Relaxed);
        let thinks = host.manner == Manner::Thinks;
        tokio::time::sleep(if thinks { Duration::from_secs(60) } else { Duration::from_millis(10) }).await;
        if let Some(error) = host.refusal() {
            return Err(error);
        }
        let (range, extent) = match host.manner {
            Manner::Whole => (0..host.content.blobs[&self.1].len() as u64, Extent::Everything),
            _ => (range, Extent::Range),
        };
        let mut bytes = host.content.blobs[&self.1].slice(range.start as usize..range.end as usize);
        if host.manner == Manner::Wrong {
            bytes = vec![7; bytes.len()].into();
        }
        let pieces: Vec<Bytes> = bytes.chunks(20_000).map(Bytes::copy_from_slice).collect();
        let body = futures::stream::iter(pieces).then(move |piece| {
            let host = Arc::clone(&host);
            async move {
                if matches!(host.manner, Manner::Dies(after) if host.sent.load(Ordering::Relaxed) >= after) {
                    return Err(host.error(Fault::Broken("reset".into())));
                }
                host.pass(piece.len() as u64).await;
                host.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                Ok(piece)
            }
        });
        Ok(Body { start: range.start, end: Some(range.end), extent, bytes: body.boxed() })
    }
}

struct Mirrored(Vec<Arc<Host>>);

#[async_trait]
impl Source for Mirrored {
    fn place(&self) -> String {
        "registry".into()
    }
    async fn resolve(&self, name: &Reference) -> Result<Descriptor> {
        At(Arc::clone(&self.0[0].content)).resolve(name).await
    }
    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        At(Arc::clone(&self.0[0].content)).manifest(descriptor).await
    }
    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        let origin = |host: &Arc<Host>| Arc::new(BlobOf(Arc::clone(host), blob.digest.clone())) as Arc<dyn Origin>;
        self.0.iter().map(origin).collect()
    }
    async fn referrers(&self, _: &Digest) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }
}

#[derive(Default)]
struct Seen(Mutex<Vec<Event>>);

impl Observer for Seen {
    fn on(&self, event: &Event) {
        if !matches!(event, Event::Bytes { .. }) {
            lock(&self.0).push(event.clone());
        }
    }
}

/// What became of a pull.
pub(super) struct Ended {
    pub(super) report: Report,
    pub(super) time: Duration,
    seen: Arc<Seen>,
    pub(super) hosts: Vec<Arc<Host>>,
}

impl Ended {
    pub(super) fn sent(&self, host: usize) -> u64 {
        self.hosts[host].sent.load(Ordering::Relaxed)
    }

    pub(super) fn left(&self) -> Vec<&str> {
        self.report.left.keys().map(String::as_str).collect()
    }

    /// What the report says is what happened, and every host that was left was named when it was.
    pub(super) fn soundly(self) -> Ended {
        assert!(self.report.images.iter().all(|image| image.result.is_ok()), "{:?}", self.report);
        assert_adds_up(&self.report);
        assert_eq!(self.report.hosts.values().sum::<u64>(), self.report.moved);
        let seen = lock(&self.seen.0);
        let named = seen.iter().filter_map(|event| match event {
            Event::Left { host, .. } => Some(host.as_str()),
            _ => None,
        });
        assert_eq!(named.collect::<std::collections::BTreeSet<_>>(), self.left().into_iter().collect());
        drop(seen);
        self
    }
}

/// Pulls images of one layer each through the hosts, mirrors first. Two connections a blob.
async fn pull_from(hosts: Vec<Host>, layers: &[usize]) -> Ended {
    pull_within(hosts, layers, Limiter::none()).await
}

/// The same where the engine knows of a limit; the lines of the hosts are not slowed down by it.
async fn pull_within(hosts: Vec<Host>, layers: &[usize], limiter: Limiter) -> Ended {
    bring(hosts, layers, limiter, Arc::new(In(Arc::default()))).await
}

/// The same to any place.
pub(super) async fn bring(hosts: Vec<Host>, layers: &[usize], limiter: Limiter, sink: Arc<dyn Sink>) -> Ended {
    let mut content = Registry::default();
    for (number, size) in layers.iter().enumerate() {
        let layer = content.blob(*size, number as u8);
        content.image(&format!("{number}"), &[&layer]);
    }
    let content = Arc::new(content);
    let hosts: Vec<Arc<Host>> =
        hosts.into_iter().map(|host| Arc::new(Host { content: Arc::clone(&content), ..host })).collect();
    let seen = Arc::new(Seen::default());
    let mut transfer = transfer();
    transfer.settings.streams = 2;
    transfer.settings.limiter = limiter;
    transfer.events = seen.clone();
    let source: Arc<dyn Source> = Arc::new(Mirrored(hosts.clone()));
    let job = |number: usize| {
        let name: Reference = format!("r.example/x:{number}").parse().unwrap();
        let (source, sink) = (Arc::clone(&source), Arc::clone(&sink));
        Job { target: name.clone(), name, source, sink, platforms: Platforms::All }
    };
    let plan = transfer.plan((0..layers.len()).map(job).collect()).await.unwrap();
    let began = Instant::now();
    let report = transfer.run(plan).await.unwrap();
    Ended { report, time: began.elapsed(), seen, hosts }
}

pub(super) fn mirror(name: &'static str, manner: Manner) -> Host {
    Host::new(name, 10 * MB, manner)
}

pub(super) fn registry() -> Host {
    Host::new("registry", 10 * MB, Manner::Honest)
}

const SIZE: usize = 60_000_000;

#[tokio::test(start_paused = true)]
async fn two_mirrors_bring_one_blob_nearly_twice_as_fast_and_the_registry_is_left_in_peace() {
    let hosts = vec![mirror("a", Manner::Honest), mirror("b", Manner::Honest), registry()];
    let ended = pull_from(hosts, &[SIZE]).await.soundly();
    let alone = SIZE as f64 / 10e6;
    assert!(alone / ended.time.as_secs_f64() >= 1.8, "{:?}", ended.time);
    assert_eq!((ended.sent(2), ended.report.moved), (0, ended.report.planned));
}

#[tokio::test(start_paused = true)]
async fn ranges_go_where_the_throughput_is() {
    let hosts = vec![Host::new("slow", 3 * MB, Manner::Honest), mirror("fast", Manner::Honest), registry()];
    let ended = pull_from(hosts, &[SIZE]).await.soundly();
    assert!(SIZE as f64 / 10e6 / ended.time.as_secs_f64() >= 1.15, "{:?}", ended.time);
    assert!(ended.left().is_empty() && ended.sent(2) == 0, "{:?}", ended.report);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_drops_to_a_crawl_is_left_and_costs_no_time() {
    for after in [0, 10 * MB] {
        let hosts = vec![mirror("a", Manner::Drops(after)), mirror("b", Manner::Honest), registry()];
        let ended = pull_from(hosts, &[SIZE]).await.soundly();
        assert!(ended.time.as_secs_f64() <= 1.1 * (SIZE as f64 / 10e6), "{after}: {:?}", ended.time);
        assert_eq!(ended.left(), ["a"]);
        assert_eq!(ended.sent(2), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_registry_helps_where_all_mirrors_crawl() {
    let hosts = vec![mirror("a", Manner::Drops(MB)), registry()];
    let ended = pull_from(hosts, &[SIZE]).await.soundly();
    assert!(ended.time.as_secs_f64() < 1.0 + SIZE as f64 / 10e6 + 5.0, "{:?}", ended.time);
    assert_eq!(ended.left(), ["a"]);
    assert!(ended.sent(1) > 50 * MB);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_dies_in_the_middle_costs_nothing_but_its_connection() {
    let hosts = vec![mirror("a", Manner::Dies(20 * MB)), registry()];
    let ended = pull_from(hosts, &[SIZE]).await.soundly();
    assert_eq!((ended.report.moved, ended.report.causes.len()), (ended.report.planned, 0));
    assert!(ended.sent(1) <= SIZE as u64 - 19 * MB, "{}", ended.sent(1));
    assert!(ended.time.as_secs_f64() < 6.5, "{:?}", ended.time);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_is_not_there_is_asked_once_and_left_for_all_blobs() {
    let hosts = vec![mirror("a", Manner::Gone), registry()];
    let ended = pull_from(hosts, &[3_000_000, 2_000_000, 1_000_000]).await.soundly();
    assert_eq!(ended.left(), ["a"]);
    // Those that were on their way together.
    assert!(ended.hosts[0].requests.load(Ordering::Relaxed) <= 6);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_lacks_a_blob_is_not_left_for_it() {
    let hosts = vec![mirror("a", Manner::Lacks), registry()];
    let ended = pull_from(hosts, &[3_000_000]).await.soundly();
    assert!(ended.left().is_empty());
    assert_eq!(ended.report.moved, ended.sent(1));
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_lies_is_left_and_only_its_bytes_are_fetched_again() {
    let hosts = vec![mirror("a", Manner::Wrong), mirror("b", Manner::Lacks), registry()];
    let ended = pull_from(hosts, &[5_000_000]).await.soundly();
    assert_eq!(ended.left(), ["a"]);
    assert!(ended.report.left["a"].contains("wrong bytes"), "{:?}", ended.report.left);
    // The blob, and the configuration of a few bytes.
    assert_eq!(ended.report.causes[&Cause::Spoiled], ended.sent(0));
    assert!(ended.sent(0) <= 5_000_100 && ended.sent(2) <= 5_000_100);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_asks_for_a_pause_gets_it_and_the_registry_goes_on() {
    let hosts = vec![mirror("a", Manner::Busy(10 * MB)), registry()];
    let ended = pull_from(hosts, &[100_000_000, 10_000_000]).await.soundly();
    assert!(ended.time.as_secs_f64() < 15.0, "{:?}", ended.time);
    assert!(ended.left().is_empty(), "{:?}", ended.left());
}

#[tokio::test(start_paused = true)]
async fn a_line_that_stands_still_for_a_moment_costs_no_mirror() {
    // Both hosts stall together, as they do when the line of this machine is down.
    let hosts = vec![mirror("a", Manner::Honest), mirror("b", Manner::Honest), registry()];
    for host in &hosts[..2] {
        *lock(&host.next) = Instant::now() + Duration::from_secs(3);
    }
    let ended = pull_from(hosts, &[SIZE]).await.soundly();
    assert!(ended.left().is_empty(), "{:?}", ended.report.left);
}

#[tokio::test(start_paused = true)]
async fn what_the_limit_leaves_for_a_mirror_is_no_crawl() {
    // Each of two connections has 500 kB/s, though the other host has brought far more.
    let limiter = Limiter::new(Timetable::parse("1M").unwrap(), Precedence::Equal);
    let hosts = vec![Host::new("a", 300_000, Manner::Honest), mirror("b", Manner::Honest), registry()];
    let ended = pull_within(hosts, &[SIZE], limiter).await.soundly();
    assert!(ended.left().is_empty(), "{:?}", ended.report.left);
    let hosts = vec![Host::new("a", 300_000, Manner::Honest), mirror("b", Manner::Honest), registry()];
    assert_eq!(pull_from(hosts, &[SIZE]).await.soundly().left(), ["a"]);
}
