//! Servers that do not answer the range that was asked for.

use support::registry::{Cut, Fault, Reply, Times, When};

use crate::pulled::{MIB, Pull};

const SIZE: u64 = 3 * MIB;

/// A pull whose first connection breaks after 2 MiB.
fn cut_once() -> Pull {
    let pull = Pull::of_layer(SIZE);
    let layer = When::blob(pull.layer().digest()).from_start();
    pull.registry.rule(layer, Times::Once, Fault::CutAfter(2 * MIB, Cut::Fin));
    pull
}

/// The same, and the second connection meets `fault` so often.
fn resumed(times: Times, fault: Fault) -> Pull {
    let pull = cut_once();
    pull.registry.rule(When::blob(pull.layer().digest()).resumed(), times, fault);
    pull
}

#[test]
fn a_host_that_ignores_ranges_costs_what_was_there_already_and_says_so() {
    let pull = resumed(Times::Always, Fault::IgnoreRange);
    let pulled = pull.run().code(0).adds_up();
    pull.assert_whole();
    assert_eq!(pulled.lost().iter().map(|(_, count)| count).sum::<u64>(), 2 * MIB);
    assert!(pulled.lost().iter().all(|(cause, _)| cause == "range-ignored"));
    assert_eq!(pulled.requests.bytes_sent_for(pull.layer().digest()), 2 * MIB + SIZE);
    assert_eq!(pulled.requests.blob_gets(pull.layer().digest()).len(), 2);
}

#[test]
fn a_host_that_ignores_ranges_sends_a_large_blob_over_one_connection() {
    let pull = Pull::of_layer(100 * MIB);
    let layer = pull.layer().digest().clone();
    pull.registry.rule(When::blob(&layer), Times::Always, Fault::IgnoreRange);
    let pulled = pull.run().code(0).lost_nothing();
    pull.assert_whole();
    // The other connections were closed as soon as their answers began; what their sockets held is small.
    let whole = pulled.requests.blob_gets(&layer).iter().filter(|r| r.sent == 100 * MIB).count();
    assert_eq!(whole, 1, "{:#?}", pulled.requests.blob_gets(&layer));
    assert!(pulled.requests.blob_gets(&layer).len() <= 9);
}

#[test]
fn a_range_that_is_not_the_one_asked_for_is_not_written() {
    let wrong = ["bytes 0-1048575/3145728", "bytes 2097153-3145727/3145728", "bytes 2097152-3145727/999", "nonsense"];
    for content_range in wrong {
        let pull = resumed(Times::Once, Fault::ContentRange(content_range.into()));
        let pulled = pull.run().code(0).lost_nothing();
        pull.assert_whole();
        let last = Some(format!("bytes={}-{}", 2 * MIB, SIZE - 1));
        assert_eq!(pulled.requests.ranges(pull.layer().digest()), [None, last.clone(), last], "{content_range}");
        assert_eq!(pulled.retries(), 2);
    }
}

#[test]
fn a_range_that_is_never_the_one_asked_for_ends_the_pull() {
    let pull = cut_once();
    let wrong = Fault::ContentRange("bytes 0-1048575/3145728".into());
    let pulled = pull
        .run_with_late(When::blob(pull.layer().digest()).resumed(), wrong)
        .code(5)
        .says(&["Content-Range", "run the same command again"]);
    assert_eq!(pulled.requests.blob_gets(pull.layer().digest()).len(), 3, "the cut, then two retries");
    assert_eq!(pulled.moved(), 2 * MIB + pull.image.config().size());
    pull.assert_lacks(pull.layer());
    pull.assert_untagged();
    // What came before is good, and is not asked for again.
    pull.registry.behave();
    let pulled = pull.run().code(0).lost_nothing();
    pull.assert_whole();
    assert_eq!(pulled.planned(), MIB);
}

#[test]
fn a_range_that_cannot_be_had_once_is_asked_for_again() {
    let pull = resumed(Times::Once, Fault::Reply(Reply::status(416)));
    let pulled = pull.run().code(0).says(&["HTTP 416"]).lost_nothing();
    pull.assert_whole();
    assert_eq!(pulled.requests.bytes_sent_for(pull.layer().digest()), SIZE);
}

#[test]
fn wrong_bytes_on_resume_are_found_and_fetched_again() {
    let pull = resumed(Times::Once, Fault::FlipOnResume);
    let pulled = pull.run().code(0).adds_up();
    pull.assert_whole();
    assert_eq!(pulled.lost(), [("spoiled".to_owned(), SIZE)]);
    assert_eq!(pulled.requests.bytes_sent_for(pull.layer().digest()), 2 * SIZE);
}

#[test]
fn a_part_that_is_shorter_than_asked_for_is_taken_and_the_rest_asked_for() {
    let pull = resumed(
        Times::Once,
        Fault::All(vec![
            Fault::Short(1000),
            Fault::ContentRange(format!("bytes {}-{}/{SIZE}", 2 * MIB, 2 * MIB + 999)),
        ]),
    );
    let pulled = pull.run().code(0).lost_nothing();
    pull.assert_whole();
    let last = Some(format!("bytes={}-{}", 2 * MIB + 1000, SIZE - 1));
    assert_eq!(pulled.requests.ranges(pull.layer().digest()).last(), Some(&last));
}
