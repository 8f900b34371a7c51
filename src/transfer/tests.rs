//! The engine against places in memory, under a paused clock.

mod bounds;
mod faults;
mod local;
mod mirrors;
mod streams;
mod through;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::verify::lock;
use super::{Job, Platforms, Report, Settings, Transfer};
use crate::content::{Begun, Body, Extent, Holding, Ingest, Origin, Provenance, Root, Sink, Source, Stretch};
use crate::error::{Error, Fault, Result};
use crate::event::{Cause, Silent};
use crate::oci::{Descriptor, Digest, RawManifest, Reference};
use crate::state::State;

/// What one request for a blob meets.
#[derive(Debug, Clone, Copy)]
enum Meets {
    /// The bytes that were asked for.
    Bytes,
    /// That many of them, then the connection breaks.
    Cut(u64),
    /// That many of them, then nothing.
    Stall(u64),
    /// Everything, whatever was asked for.
    Everything,
    /// The right number of wrong bytes.
    Garbage,
    /// The bytes that were asked for, so many each second.
    Drip(u64),
    /// That many of them, and the answer says so.
    Short(u64),
    /// "Too many requests", with a pause in seconds.
    Busy(u64),
    /// "Not found".
    Gone,
}

/// A registry in memory.
#[derive(Default)]
struct Registry {
    blobs: HashMap<Digest, Bytes>,
    manifests: HashMap<Digest, RawManifest>,
    tags: HashMap<String, Descriptor>,
    script: Mutex<HashMap<Digest, VecDeque<Meets>>>,
    asked: Mutex<Vec<(Digest, Range<u64>)>>,
    local: bool,
}

impl Registry {
    fn blob(&mut self, size: usize, seed: u8) -> Descriptor {
        let bytes: Vec<u8> =
            (0..size).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect();
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest.clone(), bytes.into());
        Descriptor::new("application/vnd.oci.image.layer.v1.tar", digest, size as u64)
    }

    fn image(&mut self, name: &str, layers: &[&Descriptor]) {
        let config = self.blob(10, name.len() as u8);
        let layers: Vec<_> = layers.iter().map(|layer| serde_json::to_value(layer).unwrap()).collect();
        self.manifest(name, &serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers}));
    }

    fn manifest(&mut self, name: &str, json: &serde_json::Value) -> Descriptor {
        let raw = RawManifest::new(None, serde_json::to_vec(json).unwrap().into()).unwrap();
        let descriptor = raw.descriptor();
        self.tags.insert(name.into(), descriptor.clone());
        self.manifests.insert(raw.digest.clone(), raw);
        descriptor
    }

    fn meets(&self, blob: &Descriptor, script: &[Meets]) {
        lock(&self.script).insert(blob.digest.clone(), script.iter().copied().collect());
    }

    fn asked_for(&self, blob: &Descriptor) -> Vec<Range<u64>> {
        lock(&self.asked).iter().filter(|(digest, _)| *digest == blob.digest).map(|(_, range)| range.clone()).collect()
    }
}

struct At(Arc<Registry>);

#[async_trait]
impl Source for At {
    fn place(&self) -> String {
        "registry".into()
    }
    async fn resolve(&self, name: &Reference) -> Result<Descriptor> {
        let missing = || Error::NotFound { what: name.to_string(), place: self.place(), why: String::new() };
        self.0.tags.get(name.tag().unwrap_or_default()).cloned().ok_or_else(missing)
    }
    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        lock(&self.0.asked).push((descriptor.digest.clone(), 0..descriptor.size));
        Ok(self.0.manifests[&descriptor.digest].clone())
    }
    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        vec![Arc::new(BlobAt(Arc::clone(&self.0), blob.digest.clone()))]
    }
    async fn referrers(&self, _: &Digest) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }
}

struct BlobAt(Arc<Registry>, Digest);

impl std::fmt::Debug for BlobAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.1)
    }
}

#[async_trait]
impl Origin for BlobAt {
    fn host(&self) -> &str {
        if self.0.local { "local" } else { "registry" }
    }
    fn provenance(&self) -> Provenance {
        if self.0.local { Provenance::Local } else { Provenance::Registry }
    }
    async fn open(&self, range: Range<u64>) -> Result<Body> {
        lock(&self.0.asked).push((self.1.clone(), range.clone()));
        let meets = lock(&self.0.script).get_mut(&self.1).and_then(VecDeque::pop_front).unwrap_or(Meets::Bytes);
        let all = &self.0.blobs[&self.1];
        let asked = all.slice(range.start as usize..range.end as usize);
        let broken = || Error::network("registry", "blob", Fault::Broken("reset".into()));
        let mut end = None;
        let (start, bytes, then) = match meets {
            Meets::Drip(rate) => {
                let pieces: Vec<_> = asked.chunks(rate as usize).map(Bytes::copy_from_slice).collect();
                let drip = futures::stream::iter(pieces).then(|piece| async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Ok(piece)
                });
                (range.start, Bytes::new(), drip.boxed())
            }
            Meets::Short(n) => {
                let n = n.min(asked.len() as u64);
                end = Some(range.start + n);
                (range.start, asked.slice(..n as usize), futures::stream::empty().boxed())
            }
            Meets::Bytes => (range.start, asked, futures::stream::empty().boxed()),
            Meets::Everything => (0, all.clone(), futures::stream::empty().boxed()),
            Meets::Garbage => (range.start, vec![7; asked.len()].into(), futures::stream::empty().boxed()),
            Meets::Cut(n) => {
                let error = futures::stream::once(async move { Err(broken()) });
                (range.start, asked.slice(..n as usize), error.boxed())
            }
            Meets::Stall(n) => (range.start, asked.slice(..n as usize), futures::stream::pending().boxed()),
            Meets::Busy(seconds) => {
                let retry_after = Some(Duration::from_secs(seconds));
                let (what, place, why) = ("blob".into(), "registry".into(), String::new());
                return Err(Error::Busy { what, place, status: 429, retry_after, why });
            }
            Meets::Gone => {
                return Err(Error::NotFound { what: "blob".into(), place: "registry".into(), why: String::new() });
            }
        };
        let pieces: Vec<_> = bytes.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let extent = if matches!(meets, Meets::Everything) { Extent::Everything } else { Extent::Range };
        Ok(Body { start, end, extent, bytes: futures::stream::iter(pieces).chain(then).boxed() })
    }
}

/// A store in memory.
#[derive(Default)]
struct Memory {
    blobs: Mutex<BTreeMap<Digest, Vec<u8>>>,
    partial: Mutex<HashMap<Digest, Arc<Mutex<Partial>>>>,
    manifests: Mutex<HashMap<Digest, RawManifest>>,
    tags: Mutex<HashMap<Reference, Root>>,
    /// How often `begin` still answers that another process is at it.
    busy: Mutex<u32>,
    /// Everything that is written is found spoiled.
    rotten: bool,
}

#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    written: Vec<Stretch>,
    saved: bool,
}

struct Writing {
    store: Arc<Memory>,
    digest: Digest,
    partial: Arc<Mutex<Partial>>,
}

#[async_trait]
impl Ingest for Writing {
    fn stretches(&self) -> Vec<Stretch> {
        lock(&self.partial).written.clone()
    }
    async fn write_at(&self, offset: u64, bytes: Bytes, provenance: Provenance) -> Result<()> {
        let mut partial = lock(&self.partial);
        let end = offset as usize + bytes.len();
        if partial.bytes.len() < end {
            partial.bytes.resize(end, 0);
        }
        partial.bytes[offset as usize..end].copy_from_slice(&bytes);
        partial.written.push(Stretch { range: offset..end as u64, provenance });
        Ok(())
    }
    async fn share(&self, file: std::fs::File) -> Result<bool> {
        let bytes = crate::content::file::read_all(file, u64::MAX - 1).unwrap();
        self.write_at(0, bytes.into(), Provenance::Local).await.map(|()| true)
    }
    async fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let partial = lock(&self.partial);
        let rest = &partial.bytes[offset as usize..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
    async fn spoiled(&self) -> Result<Vec<Range<u64>>> {
        let written = lock(&self.partial).written.clone();
        Ok(written.into_iter().filter(|_| self.store.rotten).map(|stretch| stretch.range).collect())
    }
    async fn discard(&self, ranges: &[Range<u64>]) -> Result<()> {
        let is_lost = |s: &Stretch| ranges.iter().any(|r| r.start < s.range.end && s.range.start < r.end);
        lock(&self.partial).written.retain(|stretch| !is_lost(stretch));
        Ok(())
    }
    async fn save(&self) -> Result<()> {
        lock(&self.partial).saved = true;
        Ok(())
    }
    async fn commit(&self) -> Result<()> {
        let bytes = lock(&self.partial).bytes.clone();
        assert!(self.digest.matches(&bytes), "a blob was committed whose digest does not agree");
        lock(&self.store.blobs).insert(self.digest.clone(), bytes);
        Ok(())
    }
}

struct In(Arc<Memory>);

#[async_trait]
impl Sink for In {
    fn place(&self) -> String {
        "memory".into()
    }
    async fn holds(&self, blob: &Descriptor) -> Result<Holding> {
        let held = lock(&self.0.blobs).contains_key(&blob.digest);
        Ok(if held { Holding::Whole } else { Holding::Missing })
    }
    async fn held_manifest(&self, digest: &Digest) -> Result<Option<RawManifest>> {
        Ok(lock(&self.0.manifests).get(digest).cloned())
    }
    async fn tagged(&self, name: &Reference) -> Result<Option<Root>> {
        Ok(lock(&self.0.tags).get(name).cloned())
    }
    async fn begin(&self, blob: &Descriptor, _: &[String]) -> Result<Begun> {
        let mut busy = lock(&self.0.busy);
        if *busy > 0 {
            *busy -= 1;
            return Ok(Begun::Busy);
        }
        if lock(&self.0.blobs).contains_key(&blob.digest) {
            return Ok(Begun::Held);
        }
        let partial = Arc::clone(lock(&self.0.partial).entry(blob.digest.clone()).or_default());
        Ok(Begun::Ingest(Box::new(Writing { store: Arc::clone(&self.0), digest: blob.digest.clone(), partial })))
    }
    async fn put_manifest(&self, manifest: &RawManifest) -> Result<()> {
        lock(&self.0.manifests).insert(manifest.digest.clone(), manifest.clone());
        Ok(())
    }
    async fn tag(&self, name: &Reference, root: &Root) -> Result<()> {
        assert!(lock(&self.0.manifests).contains_key(&root.descriptor.digest), "tagged before its manifest");
        lock(&self.0.tags).insert(name.clone(), root.clone());
        Ok(())
    }
}

fn transfer() -> Transfer {
    let settings = Settings { stall: Duration::from_secs(20), retries: 3, ..Settings::default() };
    let state = Arc::new(State::new(None));
    Transfer { settings, events: Arc::new(Silent), state, cancel: CancellationToken::new() }
}

fn job(registry: &Arc<Registry>, tag: &str, sink: &Arc<dyn Sink>) -> Job {
    let name: Reference = format!("r.example/x:{tag}").parse().unwrap();
    let source = Arc::new(At(Arc::clone(registry)));
    Job { target: name.clone(), name, source, sink: Arc::clone(sink), platforms: Platforms::All }
}

async fn pull(registry: &Arc<Registry>, tags: &[&str], store: &Arc<Memory>) -> Report {
    let sink: Arc<dyn Sink> = Arc::new(In(Arc::clone(store)));
    let transfer = transfer();
    let jobs = tags.iter().map(|tag| job(registry, tag, &sink)).collect();
    let plan = transfer.plan(jobs).await.unwrap();
    transfer.run(plan).await.unwrap()
}

/// Pulls one image of one layer whose requests meet `script`.
async fn pull_one(size: usize, script: &[Meets]) -> (Report, Vec<Range<u64>>) {
    let mut registry = Registry::default();
    let layer = registry.blob(size, 1);
    registry.image("1", &[&layer]);
    registry.meets(&layer, script);
    let registry = Arc::new(registry);
    let report = pull(&registry, &["1"], &Arc::default()).await;
    let asked = registry.asked_for(&layer);
    (report, asked)
}

/// Bytes that came over the network = bytes planned + the causes.
fn assert_adds_up(report: &Report) {
    let causes: u64 = report.causes.values().sum();
    assert_eq!(report.moved + report.brought, report.planned + causes, "{report:?}");
}

fn error_of(report: &Report) -> &Error {
    report.images[0].result.as_ref().unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_two_images_share_or_that_stands_twice_is_fetched_once() {
    let mut registry = Registry::default();
    let (shared, own) = (registry.blob(5000, 1), registry.blob(3000, 2));
    registry.image("a", &[&shared, &shared]);
    registry.image("bb", &[&shared, &own]);
    let registry = Arc::new(registry);
    let report = pull(&registry, &["a", "bb"], &Arc::default()).await;
    assert!(report.images.iter().all(|image| image.result.is_ok()));
    assert_eq!(registry.asked_for(&shared).len(), 1);
    assert_eq!((report.moved, report.planned), (8020, 8020));
    assert!(report.causes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_second_pull_asks_for_no_blob() {
    let mut registry = Registry::default();
    let layer = registry.blob(5000, 1);
    registry.image("a", &[&layer]);
    let (registry, store) = (Arc::new(registry), Arc::default());
    pull(&registry, &["a"], &store).await;
    let again = pull(&registry, &["a"], &store).await;
    assert!(again.images[0].up_to_date);
    assert_eq!((again.moved, again.held), (0, 5010));
    assert_eq!(registry.asked_for(&layer).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_resumes_from_the_last_byte() {
    let (report, asked) = pull_one(50_000, &[Meets::Cut(20_000), Meets::Cut(20_000)]).await;
    assert!(report.images[0].result.is_ok());
    assert_eq!(asked, [0..50_000, 20_000..50_000, 40_000..50_000]);
    assert_eq!(report.moved, report.planned);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_stands_still_is_cut_and_taken_up_again() {
    let began = tokio::time::Instant::now();
    let (report, asked) = pull_one(50_000, &[Meets::Stall(0), Meets::Stall(30_000)]).await;
    assert!(report.images[0].result.is_ok());
    assert_eq!(asked, [0..50_000, 0..50_000, 30_000..50_000]);
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_stands_still_for_ever_is_given_up_after_the_stated_retries() {
    let (report, asked) = pull_one(50_000, &[Meets::Stall(0); 9]).await;
    assert!(matches!(error_of(&report), Error::Network { fault: Fault::Stalled(_), .. }));
    assert_eq!(asked.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn progress_renews_patience() {
    let (report, asked) = pull_one(400_000, &[Meets::Cut(20_000); 12]).await;
    assert!(report.images[0].result.is_ok());
    assert_eq!(asked.len(), 13);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ignores_ranges_costs_what_was_there_already_and_says_so() {
    let (report, asked) = pull_one(50_000, &[Meets::Cut(20_000), Meets::Everything]).await;
    assert!(report.images[0].result.is_ok());
    assert_eq!(asked, [0..50_000, 20_000..50_000]);
    assert_eq!(report.causes.get(&Cause::RangeIgnored), Some(&20_000));
    assert_eq!(report.moved, report.planned + 20_000);
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_are_fetched_once_more_and_then_refused() {
    let (report, asked) = pull_one(5_000, &[Meets::Garbage]).await;
    assert!(report.images[0].result.is_ok());
    assert_eq!((asked.len(), report.causes.get(&Cause::Spoiled)), (2, Some(&5_000)));
    assert_eq!(report.moved, report.planned + 5_000);
    let (report, asked) = pull_one(5_000, &[Meets::Garbage; 9]).await;
    assert!(matches!(error_of(&report), Error::Verification { .. }));
    assert_eq!(asked.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_busy_host_is_given_the_time_it_asks_for_up_to_a_minute() {
    let began = tokio::time::Instant::now();
    let (report, _) = pull_one(5_000, &[Meets::Busy(7)]).await;
    assert!(report.images[0].result.is_ok());
    assert!(began.elapsed() >= Duration::from_secs(7) && began.elapsed() < Duration::from_secs(9));
    let began = tokio::time::Instant::now();
    let (report, _) = pull_one(5_000, &[Meets::Busy(61)]).await;
    assert!(matches!(error_of(&report), Error::Busy { .. }));
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_fails_does_not_stop_the_other() {
    let mut registry = Registry::default();
    let (gone, good) = (registry.blob(5000, 1), registry.blob(3000, 2));
    registry.image("a", &[&gone]);
    registry.image("bb", &[&good]);
    registry.meets(&gone, &[Meets::Gone]);
    let (registry, store) = (Arc::new(registry), Arc::<Memory>::default());
    let report = pull(&registry, &["a", "bb", "none"], &store).await;
    let results: Vec<bool> = report.images.iter().map(|image| image.result.is_ok()).collect();
    assert_eq!(results, [false, true, false]);
    assert_eq!(lock(&store.tags).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_another_process_writes_is_waited_for() {
    let mut registry = Registry::default();
    let layer = registry.blob(5000, 1);
    registry.image("a", &[&layer]);
    let store = Arc::<Memory>::default();
    *lock(&store.busy) = 10;
    let report = pull(&Arc::new(registry), &["a"], &store).await;
    assert!(report.images[0].result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_transfer_saves_what_came_and_the_next_one_goes_on() {
    let mut registry = Registry::default();
    let layer = registry.blob(50_000, 1);
    registry.image("a", &[&layer]);
    registry.meets(&layer, &[Meets::Stall(30_000)]);
    let (registry, store) = (Arc::new(registry), Arc::<Memory>::default());
    let sink: Arc<dyn Sink> = Arc::new(In(Arc::clone(&store)));
    let transfer = transfer();
    let plan = transfer.plan(vec![job(&registry, "a", &sink)]).await.unwrap();
    let cancel = transfer.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        cancel.cancel();
    });
    assert!(matches!(transfer.run(plan).await, Err(Error::Interrupted)));
    assert!(lock(&lock(&store.partial)[&layer.digest]).saved);
    let report = pull(&registry, &["a"], &store).await;
    assert!(report.images[0].result.is_ok());
    assert_eq!(registry.asked_for(&layer), [0..50_000, 30_000..50_000]);
}

#[tokio::test(start_paused = true)]
async fn a_large_blob_is_asked_for_in_ranges_without_overlap() {
    let (report, mut asked) = pull_one(80_000_000, &[]).await;
    assert!(report.images[0].result.is_ok());
    assert!(asked.len() > 1, "{asked:?}");
    asked.sort_by_key(|range| range.start);
    assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start), "{asked:?}");
    assert_eq!(report.moved, report.planned);
}
