//! Blobs that are not what their descriptors say: wrong bytes, too few, too many, no end.

use bytes::Bytes;
use support::images::Content;
use support::registry::{Fault, Times, When};

use crate::pulled::{MIB, Pull};

const SIZE: u64 = 2 * MIB;

#[test]
fn a_blob_that_is_wrong_once_is_fetched_once_more() {
    let pull = Pull::of_layer(SIZE);
    pull.registry.rule(When::blob(pull.layer().digest()), Times::Once, Fault::Flip(MIB));
    let pulled = pull.run().code(0).adds_up();
    pull.assert_whole();
    assert_eq!(pulled.lost(), [("spoiled".to_owned(), SIZE)]);
    assert_eq!(pulled.requests.ranges(pull.layer().digest()), [None, None]);
    assert_eq!(pulled.requests.bytes_sent_for(pull.layer().digest()), 2 * SIZE);
}

#[test]
fn a_blob_that_is_always_wrong_never_gets_its_name() {
    let pull = Pull::of_layer(SIZE);
    let digest = pull.layer().digest().to_string();
    let pulled = pull
        .run_with_late(When::blob(pull.layer().digest()), Fault::Flip(0))
        .code(6)
        .says(&["verification failed", &digest, &pull.registry.host()])
        .adds_up();
    assert_eq!(pulled.requests.bytes_sent_for(pull.layer().digest()), 2 * SIZE);
    pull.assert_lacks(pull.layer());
    pull.assert_has(pull.image.config());
    pull.assert_untagged();
    // None of it is taken for good by the next run.
    pull.registry.behave();
    let pulled = pull.run().code(0).lost_nothing();
    pull.assert_whole();
    assert_eq!(pulled.planned(), SIZE);
}

#[test]
fn a_blob_of_another_stated_length_is_refused_by_its_size() {
    for (fault, there) in [(Fault::Short(MIB), MIB), (Fault::Long(1000), SIZE + 1000)] {
        let pull = Pull::of_layer(SIZE);
        let sizes = format!("has {there} bytes there, its descriptor says {SIZE}");
        let pulled = pull.run_with_late(When::blob(pull.layer().digest()), fault.clone()).code(6).says(&[&sizes]);
        assert_eq!(pulled.moved(), pull.image.config().size(), "{fault:?}");
        pull.assert_lacks(pull.layer());
        pull.assert_untagged();
        // A proxy may be wrong once.
        pull.registry.behave();
        pull.registry.rule(When::blob(pull.layer().digest()), Times::Once, fault);
        pull.run().code(0).lost_nothing();
        pull.assert_whole();
    }
}

#[test]
fn a_body_that_ends_early_without_a_stated_length_is_gone_on_with() {
    for framing in [Fault::NoLength, Fault::Chunked, Fault::Http10] {
        let pull = Pull::of_layer(SIZE);
        let fault = Fault::All(vec![Fault::Short(MIB), framing.clone()]);
        pull.registry.rule(When::blob(pull.layer().digest()), Times::Once, fault);
        let pulled = pull.run().code(0).lost_nothing();
        pull.assert_whole();
        let rest = Some(format!("bytes={MIB}-{}", SIZE - 1));
        assert_eq!(pulled.requests.ranges(pull.layer().digest()), [None, rest], "{framing:?}");
        assert_eq!(pulled.requests.bytes_sent_for(pull.layer().digest()), SIZE);
    }
}

#[test]
fn a_blob_that_is_shorter_than_its_descriptor_says_ends_the_pull() {
    let pull = Pull::of_layer(SIZE);
    let short = pull.layer().content.read(0..MIB);
    // The registry itself holds only half of it.
    let layer = support::images::Blob { content: Content::Bytes(short), ..pull.layer().clone() };
    pull.registry.add_blob("library/x", &layer);
    pull.registry.rule(When::blob(layer.digest()).from_start(), Times::Always, Fault::Chunked);
    let sizes = format!("has {MIB} bytes there, its descriptor says {SIZE}");
    let pulled = pull.run().code(6).says(&[&sizes]);
    assert_eq!(pulled.requests.bytes_sent_for(layer.digest()), MIB);
    pull.assert_lacks(pull.layer());
}

#[test]
fn a_body_without_end_is_read_as_far_as_the_blob_goes() {
    for fault in [Fault::Endless, Fault::All(vec![Fault::Long(5 * MIB), Fault::Chunked])] {
        let pull = Pull::of_layer(SIZE);
        pull.registry.rule(When::blob(pull.layer().digest()), Times::Always, fault.clone());
        let pulled = pull.run().code(0).lost_nothing();
        pull.assert_whole();
        assert_eq!(pulled.requests.ranges(pull.layer().digest()), [None], "{fault:?}");
    }
}

#[test]
fn another_blob_without_end_under_the_same_name_is_refused() {
    let pull = Pull::of_layer(SIZE);
    let other = Content::Fill { byte: 7, size: SIZE };
    let fault = Fault::All(vec![Fault::Body(other), Fault::Endless]);
    let pulled = pull.run_with_late(When::blob(pull.layer().digest()), fault);
    let pulled = pulled.code(6).says(&["verification failed"]).adds_up();
    assert_eq!(pulled.requests.blob_gets(pull.layer().digest()).len(), 2);
    pull.assert_lacks(pull.layer());
}

#[test]
fn bodies_may_come_without_a_length() {
    for framing in [Fault::NoLength, Fault::Chunked, Fault::Http10, Fault::Without("docker-content-digest")] {
        let pull = Pull::of_layer(SIZE);
        pull.registry.rule(When::any(), Times::Always, framing.clone());
        let pulled = pull.run().code(0).lost_nothing();
        pull.assert_whole();
        assert_eq!(pulled.requests.blob_bytes(), pull.image.size(), "{framing:?}");
    }
}

#[test]
fn a_body_that_is_encoded_though_nobody_asked_is_not_taken_for_the_blob() {
    for fault in [Fault::Gzip, Fault::ContentEncoding("br")] {
        let pull = Pull::of_layer(SIZE);
        pull.registry.rule(When::blobs(), Times::Always, fault.clone());
        let pulled = pull.run().code(5).says(&["encoded as"]);
        assert_eq!(pulled.moved(), 0);
        let asked = pulled.requests.blob_gets(pull.layer().digest());
        assert!(asked.iter().all(|r| r.header("accept-encoding") == Some("identity")));
        pull.assert_lacks(pull.layer());
        pull.registry.behave();
        pull.registry.rule(When::manifests().get(), Times::Always, fault);
        assert_eq!(pull.run().code(5).says(&["encoded as"]).requests.manifest_gets(pull.image.digest()).len(), 1 + 3);
    }
}

#[test]
fn a_blob_that_is_empty_needs_no_request() {
    let empty = support::images::Blob::new("application/x-empty", Content::Bytes(Bytes::new()));
    let pull = Pull::of(support::images::Image::build().layer(empty).finish());
    let pulled = pull.run().code(0).lost_nothing();
    pull.assert_whole();
    assert_eq!(pulled.requests.blob_gets(pull.layer().digest()).len(), 0);
    let config = pull.image.config().size();
    assert_eq!((pulled.planned(), pulled.moved(), pulled.requests.blob_bytes()), (config, config, config));
}
