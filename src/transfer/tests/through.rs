//! Blobs of several hosts that go to a place which takes bytes in order.

use super::mirrors::{Ended, Host, MB, Manner, bring, mirror, registry};
use super::streams::{Far, Repository};
use super::*;
use crate::limit::{Limiter, Precedence, Timetable};

const SIZE: usize = 20_000_000;

/// Sends images of one layer each from these hosts to a registry.
async fn copy(hosts: Vec<Host>, layers: &[usize]) -> Ended {
    copy_to(Far::default(), hosts, layers).await
}

async fn copy_to(far: Far, hosts: Vec<Host>, layers: &[usize]) -> Ended {
    bring(hosts, layers, Limiter::none(), Arc::new(Repository(Arc::new(far), "x"))).await.soundly()
}

/// Not a byte came twice.
#[track_caller]
fn assert_exact(ended: &Ended) {
    assert_eq!((ended.report.moved, ended.report.causes.len()), (ended.report.planned, 0), "{:?}", ended.report);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_dies_in_the_middle_leaves_the_rest_to_the_registry() {
    let ended = copy(vec![mirror("a", Manner::Dies(5 * MB)), registry()], &[SIZE]).await;
    assert_exact(&ended);
    assert!(ended.sent(1) <= SIZE as u64 - 4 * MB, "{}", ended.sent(1));
    assert!(ended.time.as_secs_f64() < 2.5, "{:?}", ended.time);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_drops_to_a_crawl_is_left_and_the_registry_goes_on_where_it_was() {
    for after in [0, 4 * MB] {
        let ended = copy(vec![mirror("a", Manner::Drops(after)), registry()], &[SIZE]).await;
        assert_exact(&ended);
        assert!(ended.time.as_secs_f64() < SIZE as f64 / 10e6 + 5.0, "{after}: {:?}", ended.time);
        assert_eq!(ended.left(), ["a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_mirrors_the_one_that_crawls_is_left_for_all_blobs() {
    let hosts = vec![mirror("a", Manner::Drops(MB)), mirror("b", Manner::Honest), registry()];
    let ended = copy(hosts, &[8_000_000, 7_000_000, 6_000_000, 5_000_000]).await;
    assert_exact(&ended);
    assert_eq!(ended.left(), ["a"]);
    assert!(ended.time.as_secs_f64() < 2.6 + 5.0, "{:?}", ended.time);
}

#[tokio::test(start_paused = true)]
async fn many_blobs_learn_of_a_crawl_together() {
    let ended = copy(vec![mirror("a", Manner::Drops(0)), registry()], &[900_000; 40]).await;
    assert_exact(&ended);
    assert_eq!(ended.left(), ["a"]);
    assert!(ended.time.as_secs_f64() < 3.6 + 4.0, "{:?}", ended.time);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_thinks_for_long_has_the_registry_asked() {
    let ended = copy(vec![mirror("a", Manner::Thinks), registry()], &[SIZE]).await;
    assert_exact(&ended);
    assert!(ended.time.as_secs_f64() < 2.0 + 2.0 * 5.5, "{:?}", ended.time);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_takes_slowly_makes_no_mirror_slow() {
    for rate in [50_000, 3_000_000] {
        let far = Far::taking(rate);
        let hosts = vec![mirror("a", Manner::Honest), mirror("b", Manner::Honest), registry()];
        let ended = copy_to(far, hosts, &[3_000_000, 2_000_000, 1_000_000]).await;
        assert_exact(&ended);
        assert!(ended.left().is_empty() && ended.sent(2) == 0, "{rate}: {:?}", ended.report);
        // Each layer and the configuration that all have was asked for once.
        let requests = |host: usize| ended.hosts[host].requests.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(requests(0) + requests(1), 4, "{rate}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_every_host_crawls_the_fastest_brings_it_and_none_is_asked_without_end() {
    let slow = |name, rate| Host::new(name, rate, Manner::Honest);
    let ended = copy(vec![slow("a", 100_000), slow("b", 150_000), slow("registry", 20_000)], &[3_000_000]).await;
    assert_exact(&ended);
    assert!(ended.time.as_secs_f64() < 20.0 + 10.0, "{:?}", ended.time);
    let requests: u64 = ended.hosts.iter().map(|h| h.requests.load(std::sync::atomic::Ordering::Relaxed)).sum();
    assert!(requests <= 6, "{requests}");
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_is_fast_again_is_not_left_for_what_it_brought_before() {
    let ended =
        copy(vec![mirror("a", Manner::Recovers(140_000)), Host::new("registry", 20_000, Manner::Honest)], &[SIZE])
            .await;
    assert_exact(&ended);
    assert!(ended.left().is_empty(), "{:?}", ended.report.left);
    assert!(ended.time.as_secs_f64() < 10.0, "{:?}", ended.time);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_crawls_goes_on_where_the_registry_gives_nothing() {
    for manner in [Manner::Gone, Manner::Busy(0)] {
        let hosts = vec![Host::new("a", 150_000, Manner::Honest), Host::new("registry", MB, manner)];
        let ended = bring(hosts, &[3_000_000], Limiter::none(), Arc::new(Repository(Arc::default(), "x"))).await;
        assert!(ended.report.images.iter().all(|image| image.result.is_ok()), "{:?}", ended.report);
        assert_exact(&ended);
        assert!(ended.time.as_secs_f64() < 20.0 + 10.0, "{:?}", ended.time);
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_knows_no_ranges_takes_over_and_what_came_before_comes_in_vain() {
    let ended =
        copy(vec![mirror("a", Manner::Drops(4 * MB)), Host::new("registry", 10 * MB, Manner::Whole)], &[SIZE]).await;
    let (before, lost) = (ended.sent(0), ended.report.causes[&Cause::RangeIgnored]);
    assert_eq!(ended.report.causes.len(), 1, "{:?}", ended.report);
    assert!(lost > 4 * MB && lost <= before, "{lost} of {before}");
    assert_eq!(ended.left(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_of_a_mirror_that_was_taken_over_from_are_known_to_be_its() {
    let wrong = Host::new("a", 100_000, Manner::Wrong);
    let ended = copy(vec![wrong, registry()], &[1_000_000]).await;
    assert_eq!(ended.left(), ["a"]);
    assert_eq!(ended.report.causes.keys().collect::<Vec<_>>(), [&Cause::Spoiled]);
}

#[tokio::test(start_paused = true)]
async fn what_the_limit_leaves_for_a_stream_is_no_crawl() {
    let limiter = Limiter::new(Timetable::parse("1M").unwrap(), Precedence::Equal);
    let hosts = vec![Host::new("a", 150_000, Manner::Honest), registry()];
    let ended = bring(hosts, &[3_000_000], limiter, Arc::new(Repository(Arc::default(), "x"))).await.soundly();
    assert!(ended.left().is_empty() && ended.sent(1) == 0, "{:?}", ended.report);
}
