//! Blobs that come from elsewhere on this machine.

use std::fs::File;
use std::io::Write as _;

use super::*;

/// A blob whose bytes are in a file, too.
#[derive(Debug)]
struct InFile(BlobAt, File);

#[async_trait]
impl Origin for InFile {
    fn host(&self) -> &str {
        "engine"
    }
    fn provenance(&self) -> Provenance {
        Provenance::Local
    }
    fn file(&self) -> Option<File> {
        self.1.try_clone().ok()
    }
    async fn open(&self, range: Range<u64>) -> Result<Body> {
        self.0.open(range).await
    }
}

/// Pulls an image whose layer is in a file of these bytes.
async fn pull_beside(change: impl FnOnce(&mut Vec<u8>)) -> (Report, usize) {
    let mut registry = Registry::default();
    let layer = registry.blob(5000, 1);
    registry.image("a", &[&layer]);
    let mut bytes = registry.blobs[&layer.digest].to_vec();
    change(&mut bytes);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let registry = Arc::new(registry);
    let sink: Arc<dyn Sink> = Arc::new(In(Arc::default()));
    let transfer = transfer();
    let mut plan = transfer.plan(vec![job(&registry, "a", &sink)]).await.unwrap();
    let blob = plan.blobs.iter_mut().find(|blob| blob.descriptor == layer).unwrap();
    let origin = InFile(BlobAt(Arc::clone(&registry), layer.digest.clone()), file.reopen().unwrap());
    blob.origins.insert(0, Arc::new(origin));
    let report = transfer.run(plan).await.unwrap();
    assert!(report.images[0].result.is_ok());
    assert_adds_up(&report);
    (report, registry.asked_for(&layer).len())
}

#[tokio::test(start_paused = true)]
async fn a_file_that_can_be_shared_is_verified_and_never_read_in_pieces() {
    let (report, asked) = pull_beside(|_| {}).await;
    assert_eq!((report.local, report.moved, asked), (5000, 10, 0));
    assert_eq!(report.places, BTreeMap::from([("engine".into(), 5000)]));
    assert!(report.causes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shared_file_that_lies_is_left_for_the_registry() {
    let (report, asked) = pull_beside(|bytes| bytes[7] ^= 1).await;
    assert_eq!((report.local, report.local_spoiled, report.moved, asked), (5000, 5000, 5010, 1));
    assert_eq!(report.causes, BTreeMap::from([(Cause::LocalSpoiled, 5000)]));
}

#[tokio::test(start_paused = true)]
async fn a_local_copy_that_lies_is_left_for_the_registry() {
    let mut registry = Registry::default();
    let layer = registry.blob(5000, 1);
    registry.image("a", &[&layer]);
    let liar = Arc::new(Registry { local: true, blobs: registry.blobs.clone(), ..Registry::default() });
    liar.meets(&layer, &[Meets::Garbage]);
    let registry = Arc::new(registry);
    let sink: Arc<dyn Sink> = Arc::new(In(Arc::default()));
    let transfer = transfer();
    let mut plan = transfer.plan(vec![job(&registry, "a", &sink)]).await.unwrap();
    let blob = plan.blobs.iter_mut().find(|blob| blob.descriptor == layer).unwrap();
    blob.origins.insert(0, Arc::new(BlobAt(Arc::clone(&liar), layer.digest.clone())));
    let report = transfer.run(plan).await.unwrap();
    assert!(report.images[0].result.is_ok());
    assert_eq!((liar.asked_for(&layer).len(), registry.asked_for(&layer).len()), (1, 1));
    assert_eq!((report.local, report.moved), (5000, 5010));
    assert_eq!(report.causes, BTreeMap::from([(Cause::LocalSpoiled, 5000)]));
    assert_adds_up(&report);
}
