//! What goes wrong for longer than once, and what the report makes of it.

use super::*;

/// The identity that a report promises.
#[tokio::test(start_paused = true)]
async fn a_disk_that_spoils_everything_is_given_up() {
    let mut registry = Registry::default();
    let layer = registry.blob(5_000, 1);
    registry.image("1", &[&layer]);
    registry.meets(&layer, &[Meets::Garbage; 50]);
    let registry = Arc::new(registry);
    let store = Arc::new(Memory { rotten: true, ..Memory::default() });
    let report = pull(&registry, &["1"], &store).await;
    assert!(matches!(error_of(&report), Error::Verification { .. }));
    assert_eq!(registry.asked_for(&layer).len(), 2);
}

/// A fast blob shows what is usual for the host; then every connection brings `rate` bytes a second.
async fn after_a_fast_one(rate: u64) -> Report {
    let mut registry = Registry::default();
    let (fast, slow) = (registry.blob(60_000_000, 1), registry.blob(50_000, 2));
    registry.image("1", &[&fast]);
    registry.image("22", &[&slow]);
    registry.meets(&slow, &[Meets::Drip(rate); 500]);
    pull(&Arc::new(registry), &["1", "22"], &Arc::default()).await
}

#[tokio::test(start_paused = true)]
async fn a_link_that_became_slow_is_not_given_up_while_it_moves() {
    let report = after_a_fast_one(2_000).await;
    assert!(report.images.iter().all(|image| image.result.is_ok()), "{report:?}");
    assert_eq!(report.moved, report.planned);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_only_drips_is_given_up() {
    let report = after_a_fast_one(1).await;
    assert!(matches!(report.images[1].result.as_ref().unwrap_err().as_ref(), Error::Network { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_gives_less_than_was_asked_for_is_asked_for_the_rest_at_once() {
    let began = tokio::time::Instant::now();
    let (report, asked) = pull_one(100_000, &[Meets::Short(40_000), Meets::Short(40_000)]).await;
    assert!(report.images[0].result.is_ok());
    assert_eq!(asked, [0..100_000, 40_000..100_000, 80_000..100_000]);
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_ends_after_a_few_bytes_is_a_failure_however_often_it_says_so() {
    let (report, asked) = pull_one(100_000, &[Meets::Short(10); 50]).await;
    assert!(matches!(error_of(&report), Error::Network { fault: Fault::Length { .. }, .. }));
    assert_eq!(asked.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_another_process_brought_of_a_blob_is_told() {
    let mut registry = Registry::default();
    let layer = registry.blob(50_000, 1);
    registry.image("a", &[&layer]);
    registry.meets(&layer, &[Meets::Cut(20_000), Meets::Gone]);
    let (registry, store) = (Arc::new(registry), Arc::<Memory>::default());
    let sink: Arc<dyn Sink> = Arc::new(In(Arc::clone(&store)));
    let transfer = transfer();
    // The plan is made before the other one has brought anything.
    let plan = transfer.plan(vec![job(&registry, "a", &sink)]).await.unwrap();
    assert!(pull(&registry, &["a"], &store).await.images[0].result.is_err());
    let report = transfer.run(plan).await.unwrap();
    assert!(report.images[0].result.is_ok());
    assert_eq!((report.planned, report.brought), (50_010, 20_010));
    assert_adds_up(&report);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ignores_ranges_gets_one_connection() {
    let (report, asked) = pull_one(40_000_000, &[Meets::Everything; 20]).await;
    assert!(report.images[0].result.is_ok());
    assert_eq!(asked, vec![0..40_000_000]);
    assert_adds_up(&report);
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_nobody_can_be_asked_for_fails_instead_of_being_waited_for() {
    let mut registry = Registry::default();
    let (lost, there) = (registry.blob(5000, 1), registry.blob(4000, 2));
    registry.image("a", &[&lost]);
    registry.image("bb", &[&there]);
    let registry = Arc::new(registry);
    let sink: Arc<dyn Sink> = Arc::new(In(Arc::default()));
    let transfer = transfer();
    let mut plan = transfer.plan(vec![job(&registry, "a", &sink), job(&registry, "bb", &sink)]).await.unwrap();
    plan.blobs.iter_mut().find(|blob| blob.descriptor == lost).unwrap().origins.clear();
    let report = transfer.run(plan).await.unwrap();
    assert!(matches!(error_of(&report), Error::NotFound { .. }), "{report:?}");
    assert!(error_of(&report).to_string().contains(&lost.digest.to_string()));
    assert!(report.images[1].result.is_ok());
}
