//! Servers that are busy, or fail, and what they say about it.

use std::time::{Duration, SystemTime};

use support::peers::Closed;
use support::registry::{Fault, Reply, Times, When};

use crate::pulled::{MIB, Pull, Pulled};

fn in_seconds(seconds: u64) -> String {
    // The fractions are lost in the text.
    let at = SystemTime::now() + Duration::from_secs(seconds + 1);
    httpdate::fmt_http_date(at)
}

/// The longest pause that was made.
fn pause(pulled: &Pulled) -> u64 {
    pulled.events("retried").iter().map(|event| event["wait_ms"].as_u64().unwrap()).max().unwrap_or(0)
}

#[test]
fn a_busy_server_gets_the_time_it_asks_for() {
    for status in [429, 503] {
        for (wait, longest) in [(None, 1000), (Some(Duration::from_secs(3)), 3000)] {
            for when in [When::blobs(), When::manifests().get(), When::manifests().head()] {
                let pull = Pull::of_layer(MIB);
                let busy = Reply::error(status, "TOOMANYREQUESTS", "slow down").header("retry-after", 1);
                let date = wait.map(Fault::RetryAfterDate);
                let busy = Fault::All([Fault::Reply(busy)].into_iter().chain(date).collect());
                pull.registry.rule(when, Times::Once, busy);
                let pulled = pull.run().code(0).says(&[&format!("HTTP {status}"), "asks to wait"]).lost_nothing();
                pull.assert_whole();
                assert_eq!(pulled.retries(), 1);
                assert!(pause(&pulled) <= longest, "{wait:?}: {}", pause(&pulled));
                // Of a date the fractions are lost. It is the end of the wait that counts, not when it was read.
                let least = wait.map_or(Duration::from_secs(1), |ahead| ahead - Duration::from_secs(1));
                let gap = gap_after(&pulled, status);
                assert!(gap >= least, "{wait:?}: {gap:?}");
            }
        }
    }
}

/// The time between the answer with this status and the next request for the same.
fn gap_after(pulled: &Pulled, status: u16) -> Duration {
    let refused = pulled.requests.iter().find(|r| r.status == status).unwrap();
    let next = pulled.requests.iter().find(|r| r.number > refused.number && r.path == refused.path).unwrap();
    next.at - refused.at
}

#[test]
fn a_server_that_asks_for_more_than_a_minute_is_not_waited_for() {
    for wait in ["61".to_owned(), in_seconds(120), "99999999999999999999".to_owned()] {
        for when in [When::blobs(), When::manifests().get(), When::manifests().head()] {
            let pull = Pull::of_layer(MIB);
            let busy = Reply::error(429, "TOOMANYREQUESTS", "you have reached your limit").header("retry-after", &wait);
            pull.registry.rule(when, Times::Always, Fault::Reply(busy));
            let pulled = pull.run().code(5).says(&["HTTP 429", "asks to wait", "run the same command again"]);
            assert_eq!(pulled.retries(), 0, "{wait}");
            assert_eq!(pulled.requests.iter().filter(|r| r.method == "GET" && r.status == 429).count(), {
                usize::from(pulled.requests.manifest_gets(pull.image.digest()).iter().any(|r| r.status == 429))
                    + pulled.requests.all_blob_gets().len()
            });
            pull.assert_lacks(pull.layer());
            pull.assert_untagged();
        }
    }
}

#[test]
fn what_a_busy_server_says_is_told_as_it_was_sent() {
    let pull = Pull::of_layer(MIB);
    let busy = Reply::error(429, "TOOMANYREQUESTS", "You have reached your unauthenticated pull rate limit.");
    pull.registry.rule(When::manifests().get(), Times::Always, Fault::Reply(busy));
    let words = "TOOMANYREQUESTS: You have reached your unauthenticated pull rate limit.";
    let pulled = pull.run().code(5).says(&[words]);
    assert_eq!(pulled.requests.manifest_gets(pull.image.digest()).len(), 3);
}

#[test]
fn a_burst_of_failures_is_outlasted() {
    for status in [500, 502, 503, 504] {
        for when in [When::blobs(), When::manifests().head(), When::manifests().get()] {
            let pull = Pull::of_layer(MIB);
            pull.registry.rule(when, Times::Count(2), Fault::Reply(Reply::status(status)));
            let pulled = pull.run().code(0).lost_nothing();
            pull.assert_whole();
            assert_eq!(pulled.requests.iter().filter(|r| r.status == status).count(), 2);
            assert_eq!(pulled.requests.blob_bytes(), pull.image.size());
        }
    }
}

#[test]
fn failures_without_end_end_the_pull() {
    for (when, path) in [(When::blobs(), "/blobs/"), (When::manifests(), "/manifests/")] {
        let pull = Pull::of_layer(MIB);
        pull.registry.rule(when, Times::Always, Fault::Reply(Reply::error(502, "UNAVAILABLE", "no backend")));
        let pulled = pull.run_with(&["--retries", "1"]).code(5).says(&["HTTP 502"]);
        let asked: Vec<&str> = pulled.requests.iter().filter(|r| r.status == 502).map(|r| r.path.as_str()).collect();
        assert!(asked.iter().all(|p| p.contains(path)));
        // Of two blobs the second may be on its way no further when the first has failed for good.
        let often = |wanted: &&str| asked.iter().filter(|path| *path == wanted).count();
        assert_eq!(asked.iter().map(often).max(), Some(2), "{asked:?}");
        pull.assert_untagged();
    }
}

#[test]
fn what_is_not_there_is_not_asked_for_again() {
    let pull = Pull::of_layer(MIB);
    pull.registry.remove_blob("library/x", pull.layer());
    let digest = pull.layer().digest().to_string();
    let pulled = pull.run().code(3).says(&[&digest, "not found", "BLOB_UNKNOWN: blob unknown to registry"]);
    assert_eq!((pulled.requests.blob_gets(pull.layer().digest()).len(), pulled.retries()), (1, 0));
    // The answer that says so has a body, but none of it is of the blob.
    assert_eq!(pulled.sent(pull.layer()), 0);
    // The configuration may have been on its way when the pull ended.
    assert!(pulled.moved() <= pull.image.config().size(), "{}", pulled.moved());
    assert_eq!(pulled.lost(), []);
    pull.assert_lacks(pull.layer());
    pull.assert_untagged();
}

#[test]
fn an_unknown_tag_is_told_in_the_words_of_the_specification() {
    let pull = Pull::of_layer(MIB);
    pull.registry.rule(When::manifests(), Times::Always, {
        Fault::Reply(Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"))
    });
    let pulled = pull.run().code(3).says(&["library/x:1 not found", "MANIFEST_UNKNOWN: manifest unknown"]);
    assert_eq!((pulled.requests.count("HEAD", ""), pulled.requests.count("GET", "")), (1, 1));
}

#[test]
fn other_refusals_end_at_once_with_the_words_of_the_server() {
    let cases = [(400, 1, "HTTP 400: NAME_INVALID: no"), (403, 4, "NAME_INVALID: no"), (418, 1, "HTTP 418")];
    for (status, code, words) in cases {
        let pull = Pull::of_layer(MIB);
        let refusal = Reply::error(status, "NAME_INVALID", "no");
        pull.registry.rule(When::blob(pull.layer().digest()), Times::Always, Fault::Reply(refusal));
        let pulled = pull.run().code(code).says(&[words]);
        assert_eq!((pulled.requests.blob_gets(pull.layer().digest()).len(), pulled.retries()), (1, 0), "{status}");
        pull.assert_untagged();
    }
}

#[test]
fn a_refusal_whose_body_is_encoded_is_still_a_refusal() {
    let pull = Pull::of_layer(MIB);
    let gone = Reply::error(404, "BLOB_UNKNOWN", "gone").header("content-encoding", "gzip");
    pull.registry.rule(When::blob(pull.layer().digest()), Times::Always, Fault::Reply(gone));
    let pulled = pull.run().code(3).says(&["not found"]);
    assert_eq!(pulled.requests.blob_gets(pull.layer().digest()).len(), 1);
}

/// Every place from which text of a server may reach standard error.
fn places() -> Vec<(u16, When)> {
    let statuses = [400, 401, 403, 404, 429, 500];
    let places = || [When::manifests(), When::blobs()];
    statuses.into_iter().flat_map(|status| places().map(|when| (status, when))).collect()
}

#[test]
fn escape_sequences_of_a_server_never_reach_the_terminal() {
    for progress in ["plain", "json", "none"] {
        for (status, when) in places() {
            let pull = Pull::of_layer(MIB);
            let reply = Reply::escape_sequences(status)
                .header("warning", "299 - \"\u{1b}[31mred\"")
                .header("www-authenticate", "Basic realm=\"x\"");
            pull.registry.rule(when, Times::Always, Fault::Reply(reply));
            let pulled = pull.run_with(&["--progress", progress, "--retries", "0", "--format", "json", "-vv"]);
            assert!(pulled.output.code.is_some_and(|code| code != 0), "{status}");
            assert_printable(&pulled.output.stdout);
            assert_printable(&pulled.output.stderr);
        }
    }
}

#[track_caller]
fn assert_printable(text: &str) {
    let wrong = text.chars().find(|c| (c.is_control() && !matches!(c, '\n' | '\t')) || *c == '\u{202e}');
    assert_eq!(wrong, None, "{text:?}");
}

#[test]
fn huge_bodies_of_failures_are_not_read_to_their_end() {
    const HUGE: u64 = 64 * MIB;
    for (status, code) in [(404, 3), (500, 5), (403, 4)] {
        let pull = Pull::of_layer(MIB);
        pull.registry.rule(When::manifests(), Times::Always, Fault::Reply(Reply::huge(status, HUGE)));
        let pulled = pull.run_with(&["--retries", "0"]).code(code);
        let sent: u64 = pulled.requests.iter().map(|r| r.sent).sum();
        assert!(sent < HUGE / 2, "{status}: {sent} bytes were sent");
        assert!(pulled.output.stderr.len() < 4096);
    }
}

#[test]
fn the_body_of_a_failure_that_never_comes_is_not_waited_for() {
    let pull = Pull::of_layer(MIB);
    let stalled = Fault::All(vec![
        Fault::Reply(Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown")),
        Fault::StallAfter(0, support::registry::Stall::Ever),
    ]);
    pull.registry.rule(When::manifests().get(), Times::Always, stalled);
    let pulled = pull.run().code(3).says(&["not found"]);
    assert_eq!(pulled.requests.manifest_gets(pull.image.digest()).len(), 1);
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let gone = Closed::port();
    let name = format!("{}/library/x:1", gone.host());
    let output = support::command::Layerpull::new().args(["pull", "--retries", "1", &name]).run().code(5);
    assert!(output.stderr.contains(&gone.host()) && output.stderr.contains("cannot connect"), "{}", output.stderr);
}
