//! Tokens that end, services that fail, challenges that make no sense.

use std::time::Duration;

use support::images::{Blob, Content, Image};
use support::peers::Closed;
use support::registry::{Auth, Bearer, Cut, Elsewhere, Fault, Gate, Lifetime, Registry, Reply, Stall, Times, When};

use crate::pulled::{HASTE, MIB, Pull, Pulled, STILL};

fn tokens(bearer: Bearer) -> Pull {
    let layers = (1..=6).map(|seed| Blob::noise(seed, 100_000 + seed));
    let pull = Pull::of(Image::build().layers(layers).finish());
    pull.registry.require(Auth::Bearer(bearer));
    pull
}

fn refusals(pulled: &Pulled) -> usize {
    pulled.requests.iter().filter(|r| r.status == 401).count()
}

#[test]
fn one_token_serves_a_whole_pull() {
    let pull = tokens(Bearer::default());
    let pulled = pull.run().code(0).lost_nothing();
    pull.assert_whole();
    assert_eq!((pulled.requests.tokens().len(), refusals(&pulled), pulled.retries()), (1, 1, 0));
}

#[test]
fn a_token_of_one_request_is_asked_for_as_often_as_it_takes() {
    let pull = tokens(Bearer { lifetime: Lifetime::Requests(1), ..Bearer::default() });
    let pulled = pull.run().code(0).lost_nothing();
    pull.assert_whole();
    assert_eq!(pull.image.blobs.iter().map(|blob| pulled.sent(blob)).sum::<u64>(), pull.image.size());
    let answered =
        pulled.requests.iter().filter(|r| matches!(r.status, 200 | 206)).count() - pulled.requests.tokens().len();
    assert_eq!(answered, 2 + 7, "two manifests' requests and the blobs, each answered once");
}

#[test]
fn a_token_of_one_second_is_renewed_in_the_middle() {
    let pull = tokens(Bearer { lifetime: Lifetime::Stated(Duration::from_secs(1)), ..Bearer::default() });
    let (layer, gate) = (pull.image.layer(5).digest(), Gate::default());
    // The transfer stands still until the token has ended, then breaks.
    let late =
        Fault::All(vec![Fault::StallAfter(50_000, Stall::Until(gate.clone())), Fault::CutAfter(60_000, Cut::Fin)]);
    pull.registry.rule(When::blob(layer).from_start(), Times::Once, late);
    let running = pull.command().spawn();
    let others: u64 = pull.image.size() - pull.image.layer(5).size();
    pull.registry.wait_until("the other blobs are sent", |r| r.blob_bytes() == others + 50_000);
    pull.registry.revoke_tokens();
    gate.open();
    let pulled = Pulled { output: running.wait(), requests: pull.registry.requests() }.code(0).lost_nothing();
    pull.assert_whole();
    assert_eq!(pulled.requests.ranges(layer).last(), Some(&Some(format!("bytes=60000-{}", 100_006 - 1))));
    assert_eq!(pulled.sent(pull.image.layer(5)), 100_006);
    assert_eq!(pulled.requests.tokens().len(), 2);
}

#[test]
fn a_token_that_is_revoked_in_the_middle_keeps_the_offset() {
    let pull = Pull::of_layer(3 * MIB);
    pull.registry.require(Auth::token("ann", "canary-password"));
    let layer = pull.layer().digest();
    let gate = Gate::default();
    let cut = Fault::All(vec![
        Fault::StallAfter(2 * MIB, Stall::Until(gate.clone())),
        Fault::CutAfter(2 * MIB + 1000, Cut::Fin),
    ]);
    pull.registry.rule(When::blob(layer).from_start(), Times::Once, cut);
    let running = pull.command().args(["--creds", "ann:canary-password"]).spawn();
    pull.registry.wait_until("half of the layer and all of the configuration are sent", |r| {
        let config = r.blob_gets(pull.image.config().digest());
        r.bytes_sent_for(layer) == 2 * MIB && config.iter().any(|get| get.ended)
    });
    pull.registry.revoke_tokens();
    gate.open();
    let pulled = Pulled { output: running.wait(), requests: pull.registry.requests() }.code(0).lost_nothing();
    pull.assert_whole();
    let rest = Some(format!("bytes={}-{}", 2 * MIB + 1000, 3 * MIB - 1));
    // The range is refused once, then answered.
    assert_eq!(
        pulled.requests.ranges(layer)[1..].to_vec(),
        [rest.clone(), rest][..pulled.requests.ranges(layer).len() - 1]
    );
    assert!(pulled.requests.blob_gets(layer).iter().any(|r| r.status == 401));
    assert_eq!(pulled.requests.tokens().len(), 2);
    assert!(!pulled.output.stderr.contains("canary-"), "{}", pulled.output.stderr);
}

#[test]
fn a_token_service_that_fails_in_bursts_is_outlasted() {
    for fault in [
        Fault::Reply(Reply::status(500)),
        Fault::Reply(Reply::status(503).header("retry-after", 0)),
        Fault::CutBeforeHead(Cut::Rst),
        Fault::StallBeforeHead(Stall::Ever),
        Fault::CutAfter(10, Cut::Fin),
    ] {
        let pull = tokens(Bearer::default());
        pull.registry.rule(When::tokens(), Times::Count(2), fault.clone());
        let pulled = pull.run_with(&HASTE).code(0).lost_nothing();
        pull.assert_whole();
        assert_eq!((pulled.requests.tokens().len(), pulled.retries()), (3, 2), "{fault:?}");
    }
}

#[test]
fn a_token_service_that_never_answers_ends_the_pull() {
    let cases = [
        (Fault::CutBeforeHead(Cut::Fin), 5, 3, "connection"),
        (Fault::StallBeforeHead(Stall::Ever), 5, 3, STILL),
        (Fault::StallAfter(3, Stall::Ever), 5, 3, STILL),
        (Fault::Reply(Reply::error(503, "UNAVAILABLE", "no backend")), 5, 3, "UNAVAILABLE: no backend"),
        (Fault::Reply(Reply::error(429, "TOOMANY", "later").header("retry-after", 3600)), 5, 1, "asks to wait 3600 s"),
        (Fault::Reply(Reply::status(200).body("{}")), 5, 3, "the answer holds no token"),
        (Fault::Reply(Reply::status(200).body("[[[[")), 5, 3, "the answer holds no token"),
        (Fault::Reply(Reply::status(200).body("{\"token\":\"a\\nb\"}")), 5, 3, "no header may hold"),
        (Fault::Reply(Reply::error(401, "DENIED", "bad password")), 4, 1, "DENIED: bad password"),
        (Fault::Body(Content::Fill { byte: b' ', size: 64 << 20 }), 1, 1, "larger than"),
        (Fault::Endless, 1, 1, "larger than"),
    ];
    for (fault, code, requests, message) in cases {
        let pull = tokens(Bearer::default());
        pull.registry.rule(When::tokens(), Times::Always, fault.clone());
        let pulled = pull.run_with(&HASTE).code(code).says(&["a token for repository:library/x:pull", message]);
        assert_eq!(pulled.requests.tokens().len(), requests, "{fault:?}");
        assert_eq!(pulled.requests.blob_bytes(), 0);
        assert!(pulled.requests.tokens().iter().all(|r| r.sent < 32 << 20), "{fault:?}");
        pull.assert_untagged();
    }
}

#[test]
fn a_token_service_that_is_gone_is_named() {
    let gone = Closed::port();
    let pull = tokens(Bearer { realm: Some(format!("http://{}/token", gone.host())), ..Bearer::default() });
    let pulled =
        pull.run().code(5).says(&[&gone.host(), "a token for", "cannot connect", "run the same command again"]);
    assert_eq!(pulled.retries(), 2);
}

#[test]
fn odd_challenges_are_refused_with_their_reason() {
    let cases = [
        ("Negotiate", "Negotiate"),
        ("Bearer service=\"x\"", "where to get one"),
        ("Bearer realm=\"not a url\"", "not a url"),
        ("Bearer realm=\"\"", "for tokens"),
        ("=,=\"\"", "which kind"),
        ("", "which kind"),
    ];
    for (challenge, message) in cases {
        let pull = tokens(Bearer { challenge: Some(challenge.into()), ..Bearer::default() });
        let pulled = pull.run().code(4).says(&[message]);
        assert_eq!((pulled.requests.tokens().len(), pulled.retries()), (0, 0), "{challenge}");
        pull.assert_untagged();
    }
}

#[test]
fn realms_that_are_not_to_be_trusted_are_never_asked() {
    let elsewhere = Elsewhere::start();
    let plain = format!("{}/token", elsewhere.url());
    let cases = [
        (Registry::start_tls(), plain, "plain HTTP"),
        (Registry::start(), "file:///etc/passwd".into(), "scheme \"file\""),
        (Registry::start(), "http://10.0.0.1/token".into(), "private network"),
        (Registry::start(), "http://169.254.169.254/token".into(), "private network"),
        (Registry::start(), "http://ann:pw@127.0.0.1/token".into(), "a user or a password"),
    ];
    for (registry, realm, message) in cases {
        let credentials = Some(("ann".into(), "canary-password".into()));
        registry.require(Auth::Bearer(Bearer { realm: Some(realm), credentials, ..Bearer::default() }));
        let pull = Pull::from(registry, Image::tiny("x"));
        let pulled = pull.run_with(&["--creds", "ann:canary-password"]).code(1).says(&["refused", message]);
        assert_eq!(pulled.retries(), 0);
        assert!(elsewhere.requests().is_empty() && pulled.requests.carrying("canary-password").is_empty());
        assert!(!pulled.output.stderr.contains("canary"), "{}", pulled.output.stderr);
    }
}

#[test]
fn a_realm_on_another_host_of_loopback_gets_the_password_and_nobody_else_does() {
    let (pull, elsewhere) = (Pull::of_layer(MIB), Elsewhere::start());
    let realm = Some(pull.registry.issue_tokens_at(&elsewhere));
    let credentials = Some(("ann".into(), "canary-password".into()));
    pull.registry.require(Auth::Bearer(Bearer { realm, credentials, ..Bearer::default() }));
    let pulled = pull.run_with(&["--creds", "ann:canary-password"]).code(0).lost_nothing();
    pull.assert_whole();
    assert_eq!(elsewhere.requests().tokens().len(), 1);
    assert_eq!(elsewhere.requests().carrying("canary-password").len(), 1);
    assert!(pulled.requests.carrying("canary-password").is_empty());
}

#[test]
fn a_wrong_password_is_sent_once() {
    for auth in [Auth::basic("ann", "right"), Auth::token("ann", "right")] {
        let pull = Pull::of_layer(MIB);
        pull.registry.require(auth);
        let pulled = pull.run_with(&["--creds", "ann:canary-wrong"]).code(4).says(&["not authorised"]);
        assert_eq!((pulled.requests.carrying("canary-wrong").len(), pulled.retries()), (1, 0));
        assert!(!pulled.output.stderr.contains("canary"), "{}", pulled.output.stderr);
        pull.assert_untagged();
    }
}
