//! Blobs that go to places which take bytes in order.

use super::*;
use crate::content::{Address, Standing, Upload};

/// What an upload meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meets {
    /// The connection breaks when this many bytes were written; the place keeps the second number of them.
    Cut(u64, u64),
    /// The answer to the end is lost: the place has the blob.
    LostReply,
    /// "Unavailable" at the end, and nothing is lost.
    Busy,
    /// The same with a pause in seconds.
    BusyFor(u64),
}

/// The repositories of a registry.
#[derive(Default)]
pub(super) struct Far {
    blobs: Mutex<HashMap<(String, Digest), Bytes>>,
    manifests: Mutex<Vec<Digest>>,
    tags: Mutex<HashMap<String, Descriptor>>,
    script: Mutex<VecDeque<Meets>>,
    /// Bytes that uploads took.
    taken: Mutex<u64>,
    /// Sessions that were taken up after they were saved.
    saved: Mutex<HashMap<Digest, Vec<u8>>>,
    asked: Mutex<Vec<String>>,
    mounts: bool,
    /// What an upload takes, in bytes a second.
    rate: Option<u64>,
}

impl Far {
    /// One whose uploads take so many bytes a second.
    pub(super) fn taking(rate: u64) -> Far {
        Far { rate: Some(rate), ..Far::default() }
    }
}

pub(super) struct Repository(pub(super) Arc<Far>, pub(super) &'static str);

#[async_trait]
impl Sink for Repository {
    fn place(&self) -> String {
        format!("far/{}", self.1)
    }
    fn repository(&self) -> Option<Address> {
        Some(Address { registry: "far".into(), repository: self.1.into() })
    }
    async fn holds(&self, blob: &Descriptor) -> Result<Holding> {
        lock(&self.0.asked).push(format!("HEAD {}", self.1));
        let held = lock(&self.0.blobs).contains_key(&(self.1.into(), blob.digest.clone()));
        Ok(if held { Holding::Whole } else { Holding::Missing })
    }
    async fn held_manifest(&self, _: &Digest) -> Result<Option<RawManifest>> {
        Ok(None)
    }
    async fn tagged(&self, name: &Reference) -> Result<Option<Root>> {
        let tags = lock(&self.0.tags);
        Ok(tags.get(&name.to_string()).map(|descriptor| Root { descriptor: descriptor.clone(), platforms: None }))
    }
    async fn begin(&self, blob: &Descriptor, mounts: &[String]) -> Result<Begun> {
        let mut blobs = lock(&self.0.blobs);
        let from = mounts.iter().find(|from| blobs.contains_key(&((*from).clone(), blob.digest.clone())));
        if let (Some(from), true) = (from, self.0.mounts) {
            let bytes = blobs[&(from.clone(), blob.digest.clone())].clone();
            blobs.insert((self.1.into(), blob.digest.clone()), bytes);
            return Ok(Begun::Mounted { from: from.clone() });
        }
        let bytes = lock(&self.0.saved).remove(&blob.digest).unwrap_or_default();
        let (far, repository, digest) = (Arc::clone(&self.0), self.1, blob.digest.clone());
        Ok(Begun::Upload(Box::new(Sending { far, repository, digest, bytes: Mutex::new(bytes) })))
    }
    async fn put_manifest(&self, manifest: &RawManifest) -> Result<()> {
        lock(&self.0.manifests).push(manifest.digest.clone());
        Ok(())
    }
    async fn tag(&self, name: &Reference, root: &Root) -> Result<()> {
        lock(&self.0.tags).insert(name.to_string(), root.descriptor.clone());
        Ok(())
    }
}

struct Sending {
    far: Arc<Far>,
    repository: &'static str,
    digest: Digest,
    bytes: Mutex<Vec<u8>>,
}

impl Sending {
    fn meets(&self, expected: impl Fn(Meets) -> bool) -> Option<Meets> {
        let mut script = lock(&self.far.script);
        script.front().copied().filter(|meets| expected(*meets)).inspect(|_| _ = script.pop_front())
    }
}

#[async_trait]
impl Upload for Sending {
    fn offset(&self) -> u64 {
        lock(&self.bytes).len() as u64
    }
    async fn write(&self, piece: Bytes) -> Result<()> {
        *lock(&self.far.taken) += piece.len() as u64;
        if let Some(rate) = self.far.rate {
            tokio::time::sleep(Duration::from_secs_f64(piece.len() as f64 / rate as f64)).await;
        }
        lock(&self.bytes).extend_from_slice(&piece);
        let there = self.offset();
        match self.meets(|meets| matches!(meets, Meets::Cut(at, _) if at <= there)) {
            Some(Meets::Cut(_, kept)) => {
                lock(&self.bytes).truncate(kept as usize);
                Err(Error::network("far", "upload", Fault::Broken("reset".into())))
            }
            _ => Ok(()),
        }
    }
    async fn resume(&self) -> Result<Standing> {
        let held = lock(&self.far.blobs).contains_key(&(self.repository.into(), self.digest.clone()));
        Ok(if held { Standing::Held } else { Standing::Open })
    }
    async fn save(&self) -> Result<()> {
        lock(&self.far.saved).insert(self.digest.clone(), lock(&self.bytes).clone());
        Ok(())
    }
    async fn commit(&self) -> Result<()> {
        let bytes: Bytes = lock(&self.bytes).clone().into();
        if !self.digest.matches(&bytes) {
            lock(&self.bytes).clear();
            let why = "the digest does not agree".into();
            return Err(Error::Verification { what: "blob".into(), place: "far".into(), why });
        }
        let (what, place) = (String::new(), "far".to_owned());
        match self.meets(|meets| matches!(meets, Meets::LostReply | Meets::Busy | Meets::BusyFor(_))) {
            Some(Meets::Busy) => {
                return Err(Error::Busy { what, place, status: 503, retry_after: None, why: String::new() });
            }
            Some(Meets::BusyFor(seconds)) => {
                let retry_after = Some(Duration::from_secs(seconds));
                return Err(Error::Busy { what, place, status: 429, retry_after, why: String::new() });
            }
            reply => {
                lock(&self.far.blobs).insert((self.repository.into(), self.digest.clone()), bytes);
                match reply {
                    Some(_) => Err(Error::network("far", "upload", Fault::Broken("reset".into()))),
                    None => Ok(()),
                }
            }
        }
    }
}

const SIZE: u64 = 50_000;

struct Scene {
    near: Arc<Registry>,
    layer: Descriptor,
    far: Arc<Far>,
}

fn scene(script: &[Meets], source: &[super::Meets]) -> Scene {
    let mut registry = Registry::default();
    let layer = registry.blob(SIZE as usize, 1);
    registry.image("a", &[&layer]);
    registry.meets(&layer, source);
    let script = Mutex::new(script.iter().copied().collect());
    Scene { near: Arc::new(registry), layer, far: Arc::new(Far { script, mounts: true, ..Far::default() }) }
}

impl Scene {
    fn job(&self, repository: &'static str) -> Job {
        let sink: Arc<dyn Sink> = Arc::new(Repository(Arc::clone(&self.far), repository));
        Job { target: format!("far.example/{repository}:1").parse().unwrap(), ..job(&self.near, "a", &sink) }
    }

    async fn send(&self, repositories: &[&'static str]) -> Report {
        let transfer = transfer();
        let plan = transfer.plan(repositories.iter().map(|name| self.job(name)).collect()).await.unwrap();
        transfer.run(plan).await.unwrap()
    }

    fn has(&self, repository: &str) -> bool {
        lock(&self.far.blobs).contains_key(&(repository.to_owned(), self.layer.digest.clone()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_is_sent_once_and_its_tag_comes_last() {
    let scene = scene(&[], &[]);
    let report = scene.send(&["x"]).await;
    assert!(report.images[0].result.is_ok() && scene.has("x"));
    assert_eq!((report.moved, report.planned), (SIZE + 10, SIZE + 10));
    assert_eq!(lock(&scene.far.manifests).len(), 1);
    let again = scene.send(&["x"]).await;
    assert!(again.images[0].up_to_date);
    assert_eq!((again.moved, again.planned, lock(&scene.far.asked).len()), (0, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_blob_for_two_repositories_travels_once_and_is_mounted_into_the_other() {
    let scene = scene(&[], &[]);
    let report = scene.send(&["x", "y"]).await;
    assert!(report.images.iter().all(|image| image.result.is_ok()) && scene.has("x") && scene.has("y"));
    assert_eq!((report.moved, report.planned, report.mounted), (SIZE + 10, SIZE + 10, SIZE + 10));
    assert!(lock(&scene.far.asked).iter().all(|request| request == "HEAD x"), "the second was not asked");
    assert_adds_up(&report);
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_is_refused_is_a_cause() {
    let mut scene = scene(&[], &[]);
    scene.far = Arc::new(Far::default());
    let report = scene.send(&["x", "y"]).await;
    assert!(scene.has("x") && scene.has("y"));
    assert_eq!(report.causes, BTreeMap::from([(Cause::MountRefused, SIZE + 10)]));
    assert_adds_up(&report);
}

#[tokio::test(start_paused = true)]
async fn a_cut_upload_goes_on_where_its_place_stands() {
    let scene = scene(&[Meets::Cut(30_000, 20_000)], &[]);
    let report = scene.send(&["x"]).await;
    assert!(report.images[0].result.is_ok() && scene.has("x"));
    assert_eq!(scene.near.asked_for(&scene.layer), [0..SIZE, 20_000..SIZE]);
    assert_eq!(*lock(&scene.far.taken), SIZE + 10_000 + 10);
    // The piece that broke it counts only when it is sent again: nobody knows how much of it came.
    assert_eq!(report.causes, BTreeMap::from([(Cause::SessionLost, 9_000)]));
    assert_adds_up(&report);
}

#[tokio::test(start_paused = true)]
async fn a_cut_source_is_mended_without_the_upload() {
    let scene = scene(&[], &[super::Meets::Cut(20_000), super::Meets::Everything]);
    let report = scene.send(&["x"]).await;
    assert!(report.images[0].result.is_ok() && scene.has("x"));
    assert_eq!(*lock(&scene.far.taken), SIZE + 10);
    assert_eq!(report.causes, BTreeMap::from([(Cause::RangeIgnored, 20_000)]));
    assert_adds_up(&report);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_sends_a_byte_now_and_then_is_asked_anew() {
    let scene = scene(&[], &[super::Meets::Drip(100)]);
    let report = scene.send(&["x"]).await;
    assert!(report.images[0].result.is_ok() && scene.has("x"));
    assert!(report.elapsed < Duration::from_secs(25), "{:?}", report.elapsed);
    assert_eq!(scene.near.asked_for(&scene.layer).len(), 2);
    assert_eq!((report.moved, report.causes.len()), (SIZE + 10, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_the_end_is_looked_for_and_nothing_is_sent_twice() {
    for trouble in [Meets::LostReply, Meets::Busy] {
        let scene = scene(&[trouble], &[]);
        let report = scene.send(&["x"]).await;
        assert!(report.images[0].result.is_ok() && scene.has("x"), "{trouble:?}");
        assert_eq!(*lock(&scene.far.taken), SIZE + 10, "{trouble:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_are_sent_once_more_and_then_given_up() {
    let once = scene(&[], &[super::Meets::Garbage]);
    let report = once.send(&["x"]).await;
    assert!(report.images[0].result.is_ok() && once.has("x"));
    assert_eq!((report.moved, report.causes), (2 * SIZE + 10, BTreeMap::from([(Cause::Spoiled, SIZE)])));
    let always = scene(&[], &[super::Meets::Garbage; 9]);
    let report = always.send(&["x"]).await;
    assert!(matches!(error_of(&report), Error::Verification { .. }));
    assert!(!always.has("x") && lock(&always.far.tags).is_empty());
    assert_eq!(always.near.asked_for(&always.layer).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_upload_is_saved_and_gone_on_with() {
    let scene = scene(&[], &[super::Meets::Stall(20_000)]);
    let transfer = transfer();
    let plan = transfer.plan(vec![scene.job("x")]).await.unwrap();
    let cancel = transfer.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        cancel.cancel();
    });
    assert!(matches!(transfer.run(plan).await, Err(Error::Interrupted)));
    assert_eq!(lock(&scene.far.saved)[&scene.layer.digest].len(), 20_000);
    let report = scene.send(&["x"]).await;
    assert_eq!((report.moved, report.brought, scene.has("x")), (SIZE - 20_000, 20_000, true));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_the_registry_forgot_between_two_runs_is_a_cause() {
    let scene = scene(&[], &[]);
    let transfer = transfer();
    let mut plan = transfer.plan(vec![scene.job("x")]).await.unwrap();
    let blob = plan.blobs.iter_mut().find(|blob| blob.descriptor == scene.layer).unwrap();
    blob.holding = Holding::Partial(20_000);
    let report = transfer.run(plan).await.unwrap();
    assert_eq!((report.planned, report.moved), (SIZE - 20_000 + 10, SIZE + 10));
    assert_eq!(report.causes, BTreeMap::from([(Cause::SessionLost, 20_000)]));
    assert_adds_up(&report);
}

#[tokio::test(start_paused = true)]
async fn a_spoiled_local_copy_is_sent_once_and_then_the_registry_asked() {
    let scene = scene(&[], &[]);
    let liar = Arc::new(Registry { local: true, blobs: scene.near.blobs.clone(), ..Registry::default() });
    liar.meets(&scene.layer, &[super::Meets::Garbage, super::Meets::Garbage]);
    let transfer = transfer();
    let mut plan = transfer.plan(vec![scene.job("x")]).await.unwrap();
    let blob = plan.blobs.iter_mut().find(|blob| blob.descriptor == scene.layer).unwrap();
    blob.origins.insert(0, Arc::new(BlobAt(Arc::clone(&liar), scene.layer.digest.clone())));
    let report = transfer.run(plan).await.unwrap();
    assert!(report.images[0].result.is_ok() && scene.has("x"));
    assert_eq!((liar.asked_for(&scene.layer).len(), scene.near.asked_for(&scene.layer).len()), (1, 1));
    // What goes to a registry travels, wherever it comes from.
    assert_eq!((report.moved, report.local, report.planned), (2 * SIZE + 10, 0, SIZE + 10));
    assert_eq!(report.causes, BTreeMap::from([(Cause::Spoiled, SIZE)]));
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_nobody_can_be_asked_for_is_mounted_or_fails() {
    let scene = scene(&[], &[]);
    let transfer = transfer();
    let mut plan = transfer.plan(vec![scene.job("x")]).await.unwrap();
    plan.blobs.iter_mut().for_each(|blob| blob.origins.clear());
    let report = transfer.run(plan).await.unwrap();
    assert!(matches!(error_of(&report), Error::NotFound { .. }), "{report:?}");
    assert!(scene.send(&["x"]).await.images[0].result.is_ok());
    let mut plan = transfer.plan(vec![scene.job("y")]).await.unwrap();
    plan.blobs.iter_mut().for_each(|blob| {
        blob.origins.clear();
        blob.mounts = vec!["x".into()];
    });
    assert!(transfer.run(plan).await.unwrap().images[0].result.is_ok() && scene.has("y"));
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_a_day_for_one_blob_is_none_for_the_others() {
    let mut registry = Registry::default();
    let (one, other) = (registry.blob(50_000, 1), registry.blob(40_000, 2));
    registry.image("a", &[&one]);
    registry.image("bb", &[&other]);
    let (near, script) = (Arc::new(registry), Mutex::new([Meets::BusyFor(86_400)].into()));
    let sink: Arc<dyn Sink> = Arc::new(Repository(Arc::new(Far { script, ..Far::default() }), "x"));
    let mut transfer = transfer();
    transfer.settings.jobs = 1;
    let plan = transfer.plan(vec![job(&near, "a", &sink), job(&near, "bb", &sink)]).await.unwrap();
    let report = transfer.run(plan).await.unwrap();
    assert!(matches!(error_of(&report), Error::Busy { .. }), "{report:?}");
    assert!(report.images[1].result.is_ok());
    assert!(report.elapsed <= Duration::from_secs(61), "{:?}", report.elapsed);
}
