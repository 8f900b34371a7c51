//! Redirects: to other hosts, in circles, to files, to addresses that answer once or end.

use support::registry::{Auth, Bearer, Cut, Elsewhere, Fault, Redirect, Registry, Times, When};

use crate::pulled::{MIB, Pull, sent};

const SIZE: u64 = 3 * MIB;

fn layer(pull: &Pull) -> When {
    When::blob(pull.layer().digest())
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_host() {
    for auth in [Auth::basic("ann", "canary-password"), Auth::token("ann", "canary-password")] {
        let (pull, elsewhere) = (Pull::of_layer(SIZE), Elsewhere::start());
        pull.registry.require(auth);
        let address = elsewhere.add(pull.layer());
        pull.registry.rule(layer(&pull), Times::Always, Fault::Redirect(Redirect::To(address)));
        let pulled = pull.run_with(&["--creds", "ann:canary-password"]).code(0);
        pull.assert_whole();
        let there = elsewhere.requests();
        assert_eq!((there.len(), there.bytes_sent_for(pull.layer().digest())), (1, SIZE));
        assert!(there.iter().all(|r| r.header("authorization").is_none() && r.header("referer").is_none()));
        assert!(there.carrying("canary").is_empty());
        assert!(!pulled.output.stderr.contains("canary"));
        assert_eq!(pulled.requests.bytes_sent_for(pull.layer().digest()), 0);
    }
}

#[test]
fn redirects_that_lead_nowhere_are_not_followed() {
    let loops = Fault::Redirect(Redirect::Loop);
    let to = |address: &str| Fault::Redirect(Redirect::To(address.into()));
    let cases = [
        (loops, 6, "more than 5 redirects"),
        (to("file:///etc/passwd"), 1, "redirect to the scheme \"file\""),
        (to("ftp://127.0.0.1/x"), 1, "redirect to the scheme \"ftp\""),
        (to("http://ann:canary-password@127.0.0.1/x"), 1, "an address with a password"),
        (to("http://[::bad"), 1, "redirect to no address"),
    ];
    for (fault, requests, message) in cases {
        for when in [When::blobs(), When::manifests()] {
            let pull = Pull::of(support::images::Image::build().finish());
            let is_blob = format!("{when:?}").contains("Blobs");
            pull.registry.rule(when, Times::Always, fault.clone());
            let pulled = pull.run().code(1).says(&[message]);
            assert!(!pulled.output.stderr.contains("canary"), "{}", pulled.output.stderr);
            let redirected = pulled.requests.iter().filter(|r| r.status == 307).count();
            assert_eq!(redirected, requests, "{message}");
            assert_eq!(pulled.requests.all_blob_gets().is_empty(), !is_blob);
            assert_eq!(pulled.retries(), 0);
            pull.assert_untagged();
        }
    }
}

#[test]
fn a_redirect_from_tls_to_plain_text_is_not_followed() {
    let (pull, elsewhere) = (Pull::from(Registry::start_tls(), support::images::Image::tiny("x")), Elsewhere::start());
    let address = elsewhere.add(pull.layer());
    pull.registry.rule(layer(&pull), Times::Always, Fault::Redirect(Redirect::To(address)));
    let pulled = pull.run().code(1).says(&["from TLS to plain HTTP"]);
    assert_eq!((elsewhere.requests().len(), pulled.retries()), (0, 0));
}

#[test]
fn a_signed_address_that_answers_once_is_asked_for_anew() {
    let (pull, elsewhere) = (Pull::of_layer(SIZE), Elsewhere::start());
    let signed = Redirect::Signed(elsewhere.clone(), 1);
    pull.registry.rule(layer(&pull), Times::Always, Fault::Redirect(signed));
    // The refusal in between is an answer as well.
    elsewhere.rule(When::any(), Times::Count(3), Fault::CutAfter(MIB, Cut::Fin));
    let pulled = pull.run().code(0);
    pull.assert_whole();
    assert_eq!(pulled.lost(), []);
    assert_eq!(pulled.moved(), pulled.planned());
    let there = elsewhere.requests();
    assert_eq!(sent(&there, pull.layer()), SIZE);
    // One address was kept in vain, and refused; after that none was.
    let statuses: Vec<u16> = there.iter().map(|r| r.status).collect();
    assert_eq!(statuses, [200, 403, 206, 206]);
    assert!(!pulled.output.stderr.contains("canary-signature"), "{}", pulled.output.stderr);
}

#[test]
fn a_signed_address_that_ends_in_the_middle_of_a_blob_is_renewed() {
    let (pull, elsewhere) = (Pull::of_layer(SIZE), Elsewhere::start());
    let signed = Redirect::Signed(elsewhere.clone(), 2);
    pull.registry.rule(layer(&pull), Times::Always, Fault::Redirect(signed));
    elsewhere.rule(When::any(), Times::Always, Fault::CutAfter(MIB, Cut::Fin));
    let pulled = pull.run().code(0);
    pull.assert_whole();
    assert_eq!((pulled.lost(), pulled.moved()), (vec![], pulled.planned()));
    let there = elsewhere.requests();
    assert_eq!(sent(&there, pull.layer()), SIZE);
    assert_eq!(there.iter().map(|r| r.status).collect::<Vec<_>>(), [200, 206, 403, 206]);
    // The registry is asked at the beginning and after the refusal, with the range that is missing.
    let last = Some(format!("bytes={}-{}", 2 * MIB, SIZE - 1));
    assert_eq!(pulled.requests.ranges(pull.layer().digest()), [None, last]);
}

#[test]
fn a_signed_address_that_is_always_refused_ends_the_pull_without_telling_the_signature() {
    let (pull, elsewhere) = (Pull::of_layer(SIZE), Elsewhere::start());
    pull.registry.rule(layer(&pull), Times::Always, Fault::Redirect(Redirect::Signed(elsewhere.clone(), 0)));
    let pulled = pull.run_with(&["-vv"]).code(5).says(&["redirect target refused with HTTP 403", &elsewhere.host()]);
    assert!(!pulled.output.stderr.contains("canary-signature"), "{}", pulled.output.stderr);
    assert_eq!(pulled.requests.blob_gets(pull.layer().digest()).len(), 3);
    pull.assert_lacks(pull.layer());
    pull.assert_untagged();
}

#[test]
fn a_token_in_force_is_not_sent_to_a_signed_address() {
    let (pull, elsewhere) = (Pull::of_layer(SIZE), Elsewhere::start());
    pull.registry.require(Auth::Bearer(Bearer::default()));
    pull.registry.rule(layer(&pull), Times::Always, Fault::Redirect(Redirect::Signed(elsewhere.clone(), 9)));
    elsewhere.rule(When::any(), Times::Count(2), Fault::CutAfter(MIB, Cut::Fin));
    pull.run().code(0);
    pull.assert_whole();
    // It refuses a second way of authorisation with 400.
    assert_eq!(elsewhere.requests().iter().map(|r| r.status).collect::<Vec<_>>(), [200, 206, 206]);
    assert!(elsewhere.requests().carrying("canary-bearer").is_empty());
}
