//! Connections that break, stand still or crawl in the middle of a blob.

use std::time::Duration;

use support::registry::{Cut, Fault, Stall, Times, When};

use crate::pulled::{HASTE, MIB, Pull, STILL};

const SIZE: u64 = 3 * MIB;

fn after(bytes: u64, cut: Cut) -> Fault {
    match bytes {
        0 => Fault::CutBeforeHead(cut),
        _ => Fault::CutAfter(bytes, cut),
    }
}

#[test]
fn a_cut_connection_resumes_from_the_last_byte() {
    for cut in [Cut::Fin, Cut::Rst] {
        let pull = Pull::of_layer(SIZE);
        pull.registry.rule(When::blob(pull.layer().digest()), Times::Once, Fault::CutAfter(2 * MIB, cut));
        let pulled = pull.run().code(0).lost_nothing();
        pull.assert_whole();
        let ranges = pulled.requests.ranges(pull.layer().digest());
        assert_eq!((ranges.len(), &ranges[0]), (2, &None), "{cut:?}");
        let from: u64 = between(ranges[1].as_deref().unwrap(), "bytes=", "-").parse().unwrap();
        // A reset takes along what the client had not read yet.
        assert!(from <= 2 * MIB && (cut == Cut::Rst || from == 2 * MIB), "{cut:?}: {from}");
        assert_eq!(pulled.requests.bytes_sent_for(pull.layer().digest()), 2 * MIB + SIZE - from);
        assert_eq!(pulled.requests.manifest_gets(pull.image.digest()).len(), 1);
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    text.split_once(before).unwrap().1.split_once(after).unwrap().0
}

#[test]
fn a_connection_that_breaks_before_the_first_byte_is_made_again() {
    let faults = [
        after(0, Cut::Fin),
        after(0, Cut::Rst),
        Fault::All(vec![Fault::CutAfter(0, Cut::Fin)]),
        Fault::CutAfter(0, Cut::Rst),
    ];
    for fault in faults {
        let pull = Pull::of_layer(SIZE);
        pull.registry.rule(When::blob(pull.layer().digest()), Times::Once, fault.clone());
        let pulled = pull.run().code(0).lost_nothing();
        pull.assert_whole();
        assert_eq!(pulled.requests.ranges(pull.layer().digest()), [None, None], "{fault:?}");
        assert_eq!(pulled.requests.bytes_sent_for(pull.layer().digest()), SIZE);
        assert_eq!(pulled.retries(), 1);
    }
}

#[test]
fn a_connection_that_breaks_every_mebibyte_ends_when_every_byte_is_there() {
    let pull = Pull::of_layer(5 * MIB);
    pull.registry.rule(When::blobs(), Times::Always, Fault::CutAfter(MIB, Cut::Fin));
    // More cuts than retries: progress renews patience.
    let pulled = pull.run_with(&["--retries", "1"]).code(0).lost_nothing();
    pull.assert_whole();
    let ranges = pulled.requests.ranges(pull.layer().digest());
    let expected = (1..5).map(|n| Some(format!("bytes={}-{}", n * MIB, 5 * MIB - 1)));
    assert_eq!(ranges, std::iter::once(None).chain(expected).collect::<Vec<_>>());
    assert_eq!(pulled.requests.bytes_sent_for(pull.layer().digest()), 5 * MIB);
}

#[test]
fn a_connection_that_always_breaks_at_once_ends_the_pull_and_says_how_to_go_on() {
    let pull = Pull::of_layer(SIZE);
    let pulled = pull.run_with_late(When::blob(pull.layer().digest()), Fault::CutBeforeHead(Cut::Fin)).code(5);
    let digest = pull.layer().digest().to_string();
    let pulled = pulled.says(&[&pull.registry.host(), &digest, "run the same command again to go on"]);
    assert_eq!(pulled.requests.blob_gets(pull.layer().digest()).len(), 3, "the first and two retries");
    pull.assert_lacks(pull.layer());
    pull.assert_has(pull.image.config());
    pull.assert_untagged();
}

#[test]
fn what_came_before_a_pull_failed_is_not_fetched_again_by_the_next() {
    let pull = Pull::of_layer(SIZE);
    let digest = pull.layer().digest();
    pull.registry.rule(When::blob(digest), Times::Once, Fault::CutAfter(2 * MIB, Cut::Fin));
    pull.registry.rule(When::blob(digest), Times::Always, Fault::CutBeforeHead(Cut::Rst));
    pull.run().code(5);
    pull.registry.behave();
    let pulled = pull.run().code(0).lost_nothing();
    pull.assert_whole();
    assert_eq!(pulled.planned(), MIB);
    assert_eq!(pulled.requests.ranges(digest).last(), Some(&Some(format!("bytes={}-{}", 2 * MIB, SIZE - 1))));
    assert_eq!(pulled.requests.bytes_sent_for(digest), SIZE);
    assert_eq!(pulled.requests.blob_gets(pull.image.config().digest()).len(), 1);
}

#[test]
fn what_stands_still_once_is_cut_and_taken_up_again() {
    for (fault, there) in [(Fault::StallBeforeHead(Stall::Ever), 0), (Fault::StallAfter(MIB, Stall::Ever), MIB)] {
        let pull = Pull::of_layer(SIZE);
        pull.registry.rule(When::blob(pull.layer().digest()), Times::Once, fault.clone());
        let pulled = pull.run_with(&HASTE).code(0).says(&[STILL]).lost_nothing();
        pull.assert_whole();
        let rest = (there > 0).then(|| format!("bytes={there}-{}", SIZE - 1));
        assert_eq!(pulled.requests.ranges(pull.layer().digest()), [None, rest], "{fault:?}");
        assert_eq!(pulled.requests.bytes_sent_for(pull.layer().digest()), SIZE);
    }
}

#[test]
fn what_stands_still_for_ever_ends_the_pull() {
    for fault in [Fault::StallBeforeHead(Stall::Ever), Fault::StallAfter(0, Stall::Ever)] {
        let pull = Pull::of_layer(SIZE);
        pull.registry.rule(When::blob(pull.layer().digest()), Times::Always, fault);
        let pulled = pull.run_with(&HASTE).code(5).says(&[STILL, "run the same command again"]);
        assert_eq!(pulled.requests.blob_gets(pull.layer().digest()).len(), 3);
        assert_eq!(pulled.requests.bytes_sent_for(pull.layer().digest()), 0);
        pull.assert_lacks(pull.layer());
        pull.assert_untagged();
    }
}

#[test]
fn a_pause_shorter_than_the_stall_time_is_waited_for() {
    let pull = Pull::of_layer(SIZE);
    let pause = Stall::For(Duration::from_millis(100));
    pull.registry.rule(When::blob(pull.layer().digest()), Times::Always, Fault::StallAfter(MIB, pause));
    let pulled = pull.run().code(0).lost_nothing();
    pull.assert_whole();
    assert_eq!((pulled.requests.ranges(pull.layer().digest()), pulled.retries()), (vec![None], 0));
}

#[test]
fn a_connection_that_drips_is_cut_and_taken_up_again() {
    let pull = Pull::of_layer(SIZE);
    pull.registry.rule(When::blob(pull.layer().digest()), Times::Once, Fault::Drip(100));
    let pulled = pull.run_with(&HASTE).code(0).says(&["only ", " bytes in "]).lost_nothing();
    pull.assert_whole();
    assert_eq!(pulled.requests.blob_gets(pull.layer().digest()).len(), 2);
}

#[test]
fn a_host_that_only_drips_ends_the_pull() {
    let pull = Pull::of_layer(SIZE);
    pull.registry.rule(When::blob(pull.layer().digest()), Times::Always, Fault::Drip(10));
    let pulled = pull.run_with(&[&HASTE[..], &["--retries", "1"]].concat()).code(5);
    // How many that are, and in how much more than the stall time, is a matter of the machine.
    let told = pulled.events("retried")[0]["why"].as_str().unwrap().to_owned();
    let bytes: u64 = between(&told, "only ", " bytes in ").parse().unwrap();
    let seconds: f64 = between(&told, " bytes in ", " s").parse().unwrap();
    assert!(bytes > 0 && seconds >= 3.0 && (bytes as f64) < 11.0 * seconds, "{told}");
    assert_eq!(pulled.requests.blob_gets(pull.layer().digest()).len(), 2);
    pull.assert_lacks(pull.layer());
}

#[test]
fn manifests_that_do_not_come_end_the_pull_in_good_time() {
    let cut = |after| Fault::CutAfter(after, Cut::Fin);
    let faults = [
        (Fault::CutBeforeHead(Cut::Fin), "connection"),
        (Fault::CutBeforeHead(Cut::Rst), "connection"),
        (cut(10), "body"),
        (Fault::StallBeforeHead(Stall::Ever), STILL),
        (Fault::StallAfter(10, Stall::Ever), STILL),
    ];
    for (fault, message) in faults {
        let pull = Pull::of_layer(MIB);
        pull.registry.rule(When::manifests().get(), Times::Always, fault.clone());
        let pulled = pull.run_with(&HASTE).code(5).says(&[message, "library/x", "run the same command again"]);
        let digest = pull.image.digest();
        assert_eq!(pulled.requests.manifest_gets(digest).len(), 3, "{fault:?}");
        assert_eq!(pulled.requests.blob_bytes(), 0);
        pull.assert_untagged();
    }
}

#[test]
fn a_manifest_that_breaks_once_is_asked_for_again() {
    for fault in [Fault::CutAfter(10, Cut::Rst), Fault::StallAfter(10, Stall::Ever), Fault::CutBeforeHead(Cut::Fin)] {
        let pull = Pull::of_layer(MIB);
        pull.registry.rule(When::manifests().get(), Times::Once, fault);
        let pulled = pull.run_with(&HASTE).code(0).lost_nothing();
        pull.assert_whole();
        assert_eq!(pulled.requests.manifest_gets(pull.image.digest()).len(), 2);
        assert_eq!(pulled.requests.blob_bytes(), pull.image.size());
    }
}
