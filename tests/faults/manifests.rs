//! Manifests that are too large, too deep, ambiguous, or say what cannot be.

use serde_json::{Value, json};
use support::images::{Blob, Content, Image, raw};
use support::registry::{Fault, Registry, Times, When};

use crate::pulled::{MIB, Pull, Pulled};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A pull of `text` under the tag of the image.
fn of_text(text: &str, media_type: &str) -> Pull {
    let pull = Pull::of(Image::tiny("x"));
    pull.registry.add_text("library/x", "1", media_type, text);
    pull
}

fn of_json(json: &Value) -> Pull {
    of_text(&json.to_string(), json["mediaType"].as_str().unwrap_or(MANIFEST))
}

/// A manifest whose only layer has this size, as JSON writes it.
fn with_size(size: Value) -> Value {
    let image = Image::tiny("x");
    let mut manifest: Value = serde_json::from_slice(&image.root().bytes).unwrap();
    manifest["layers"][0]["size"] = size;
    manifest
}

#[test]
fn sizes_that_cannot_be_are_refused_before_a_blob_is_asked_for() {
    let impossible = [json!(-1), json!(1.5), json!("12"), Value::Null, json!(u64::MAX), json!(1u64 << 63), json!(1e30)];
    for size in impossible {
        let pull = of_json(&with_size(size.clone()));
        let pulled = pull.run().code(1).says(&["invalid manifest"]);
        assert_eq!((pulled.requests.all_blob_gets().len(), pulled.retries()), (0, 0), "{size}");
        pull.assert_untagged();
    }
}

#[test]
fn a_missing_size_is_refused() {
    let mut manifest = with_size(json!(0));
    manifest["layers"][0].as_object_mut().unwrap().remove("size");
    let pull = of_json(&manifest);
    assert!(pull.run().code(1).says(&["missing field `size`"]).requests.all_blob_gets().is_empty());
}

#[test]
fn a_size_of_zero_is_not_taken_for_the_blob() {
    let pull = of_json(&with_size(json!(0)));
    let pulled = pull.run().code(6).says(&[&pull.layer().digest().to_string(), "verification failed"]);
    assert!(pulled.requests.blob_gets(pull.layer().digest()).is_empty());
    pull.assert_lacks(pull.layer());
    pull.assert_untagged();
}

#[test]
fn the_largest_size_that_can_be_ends_the_pull_before_it_fills_the_disk() {
    // All of an image together may have 2^63-1 bytes.
    let pull = of_json(&with_size(json!(i64::MAX - 10_000)));
    let digest = pull.layer().digest().to_string();
    let pulled = pull.run();
    // The file system refuses it at once; one that cannot reserve learns the true size from the registry.
    assert!(matches!(pulled.output.code, Some(6 | 7)), "{}", pulled.output.transcript());
    assert!(pulled.output.stderr.contains(digest.split_once(':').unwrap().1), "{}", pulled.output.stderr);
    assert!(pulled.requests.bytes_sent_for(pull.layer().digest()) <= pull.layer().size());
    pull.assert_lacks(pull.layer());
    pull.assert_untagged();
}

#[test]
fn a_size_of_the_largest_number_leaves_no_room_for_the_configuration() {
    let pull = of_json(&with_size(json!(i64::MAX)));
    let pulled = pull.run().code(1).says(&["its blobs are said to have more than 9223372036854775807 bytes"]);
    assert_eq!((pulled.requests.len(), pulled.requests.all_blob_gets().len(), pulled.retries()), (2, 0, 0));
    pull.assert_lacks(pull.layer());
    pull.assert_untagged();
}

#[test]
fn several_of_the_largest_sizes_do_not_overflow_the_sum() {
    let layers: Vec<Value> =
        (0..4).map(|n| json!({"mediaType": LAYER, "size": i64::MAX, "digest": Blob::noise(n, 10).digest()})).collect();
    let mut manifest = with_size(json!(1));
    manifest["layers"] = json!(layers);
    let pull = of_json(&manifest);
    pull.run().code(1).says(&["its blobs are said to have more than"]);
    pull.assert_untagged();
}

#[test]
fn two_sizes_for_one_digest_are_refused() {
    let mut manifest = with_size(json!(10));
    let again = with_size(json!(11))["layers"][0].clone();
    manifest["layers"].as_array_mut().unwrap().push(again);
    let pull = of_json(&manifest);
    assert!(pull.run().code(1).says(&["10 bytes and 11 bytes"]).requests.all_blob_gets().is_empty());
}

#[test]
fn a_manifest_of_more_than_4_mib_is_not_read() {
    let padding = " ".repeat(5 << 20);
    let pull = of_text(&format!("{}{padding}", with_size(json!(1))), MANIFEST);
    let pulled = pull.run().code(1).says(&["more than the 4194304"]);
    assert_eq!(pulled.requests.iter().map(|r| r.sent).sum::<u64>(), 0, "a HEAD tells enough");
    // Without a length it is read as far as it may be.
    pull.registry.rule(When::manifests(), Times::Always, Fault::Chunked);
    let pulled = pull.run().code(1).says(&["larger than the 4194304 bytes"]);
    assert_eq!(pulled.retries(), 0);
    pull.assert_untagged();
}

#[test]
fn a_manifest_without_end_is_cut_off() {
    let pull = Pull::of(Image::tiny("x"));
    pull.registry.rule(When::manifests(), Times::Always, Fault::Endless);
    let pulled = pull.run().code(1).says(&["larger than the 4194304 bytes"]);
    let sent: u64 = pulled.requests.iter().map(|r| r.sent).sum();
    assert!(sent < 20 * MIB, "{sent}");
    pull.assert_untagged();
}

#[test]
fn json_that_nests_without_end_is_refused() {
    for deep in ["[".repeat(1_000_000), "{\"a\":".repeat(500_000)] {
        let pull = of_text(&format!("{{\"mediaType\":\"{MANIFEST}\",\"config\":{deep}"), MANIFEST);
        pull.run().code(1).says(&["invalid manifest"]);
        pull.assert_untagged();
    }
}

/// Indexes in indexes, `depth` of them above an image.
fn nested(depth: usize) -> Image {
    (0..depth).fold(Image::tiny("deep"), |child, _| Image::index(&[child]))
}

#[test]
fn indexes_may_nest_but_not_without_end() {
    let pull = Pull::of(nested(5));
    let pulled = pull.run().code(0).lost_nothing();
    pull.assert_whole();
    assert_eq!(pulled.requests.iter().filter(|r| r.method == "GET" && r.path.contains("/manifests/")).count(), 6);
    let pull = Pull::of(nested(20));
    for args in [&["--all-platforms"][..], &[]] {
        let pulled = pull.run_with(args).code(1).says(&["nest deeper than 8 levels"]);
        assert_eq!(pulled.requests.blob_bytes(), 0);
        pull.assert_untagged();
    }
}

#[test]
fn an_index_that_claims_to_hold_itself_is_found_out() {
    let pull = Pull::of(Image::index(&[Image::tiny("x")]));
    // The registry answers the child's digest with the index.
    let root = pull.image.root().clone();
    let child = pull.image.manifests[0].digest.to_string();
    pull.registry.add_manifest("library/x", &child, root);
    let pulled = pull.run().code(6).says(&[&child, "verification failed"]);
    assert_eq!((pulled.requests.manifest_gets(&child).len(), pulled.retries()), (1, 0));
    pull.assert_untagged();
}

#[test]
fn a_manifest_that_is_not_what_its_digest_says_is_refused() {
    let pull = Pull::of(Image::tiny("x"));
    pull.registry.rule(When::manifests().get(), Times::Always, Fault::Flip(20));
    let pulled = pull.run().code(6).says(&[&pull.image.digest().to_string(), "verification failed"]);
    assert_eq!(pulled.requests.blob_bytes(), 0);
    pull.assert_untagged();
}

#[test]
fn an_index_of_5000_children_costs_only_the_one_that_is_wanted() {
    let image = Image::tiny("x");
    let other = |n: u64| {
        let digest = Blob::noise(n, 8).digest().to_string();
        let platform = json!({"os": "linux", "architecture": format!("a{n}")});
        json!({"mediaType": MANIFEST, "size": 100, "digest": digest, "platform": platform})
    };
    let mut children: Vec<Value> = (0..5000).map(other).collect();
    let wanted = image.descriptor();
    children.push(json!({"mediaType": MANIFEST, "size": wanted.size, "digest": wanted.digest,
        "platform": {"os": "linux", "architecture": "amd64"}}));
    let registry = Registry::start();
    let root = raw(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}));
    let mut index = image.clone();
    index.manifests.push(root);
    let pull = Pull::from(registry, index);
    let pulled = pull.run_with(&["--platform", "linux/amd64"]).code(0).lost_nothing();
    pull.assert_whole();
    assert_eq!(pulled.requests.len(), 1 + 2 + 2, "a HEAD, two manifests, two blobs");
    let pulled = pull.run_with(&["--platform", "windows/amd64"]).code(3).says(&["linux/a0", "and 4981 more"]);
    assert!(pulled.output.stderr.len() < 4096);
    // Everything below it is too much to miss in silence.
    let pulled = pull.run_with(&["--all-platforms"]).code(3).says(&["not found"]);
    assert!(pulled.requests.len() < 200, "the first that is missing ends it: {}", pulled.requests.len());
}

#[test]
fn an_index_of_5000_children_can_be_taken_whole() {
    let children: Vec<Image> = (0..5000).map(|n| Image::build().annotation("n", &n.to_string()).finish()).collect();
    let pull = Pull::of(Image::index(&children));
    let pulled = pull.run_with(&["--all-platforms"]).code(0).lost_nothing();
    pull.assert_whole();
    let manifests = pulled.requests.iter().filter(|r| r.method == "GET" && r.path.contains("/manifests/")).count();
    assert_eq!((manifests, pulled.requests.all_blob_gets().len()), (5001, 1));
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    let mut both = with_size(json!(1));
    both["manifests"] = json!([]);
    let mut lies = with_size(json!(1));
    lies["mediaType"] = json!(INDEX);
    for manifest in [both, lies] {
        let pull = of_json(&manifest);
        let pulled = pull.run().code(1).says(&["ambiguous"]);
        assert_eq!((pulled.requests.all_blob_gets().len(), pulled.retries()), (0, 0));
        // A HEAD, and the manifest once: it is not asked for again in the hope of another.
        let bytes = manifest.to_string().len() as u64;
        assert_eq!(pulled.requests.iter().map(|r| r.sent).collect::<Vec<_>>(), [0, bytes]);
        pull.assert_untagged();
    }
}

#[test]
fn a_platform_that_is_not_there_is_told_with_those_that_are() {
    let of =
        |platform: &str| Image::build().platform(platform).layer(Blob::files(&[("p", platform.as_bytes())])).finish();
    let pull = Pull::of(Image::index(&[of("linux/arm64"), of("linux/s390x")]));
    let pulled = pull.run_with(&["--platform", "windows/amd64"]).code(3);
    let pulled = pulled.says(&["platform windows/amd64", "linux/arm64, linux/s390x", "--platform"]);
    assert_eq!((pulled.requests.blob_bytes(), pulled.retries()), (0, 0));
    pull.assert_untagged();
}

#[test]
fn types_that_nobody_knows_are_refused_by_name() {
    for (text, media_type, message) in [
        ("{\"mediaType\":\"application/x-odd\"}", "application/x-odd", "application/x-odd"),
        ("{}", "application/json", "neither `manifests` nor `config`"),
        ("<html></html>", "text/html", "invalid manifest"),
        ("", MANIFEST, "invalid manifest"),
        (
            "{\"schemaVersion\":1,\"fsLayers\":[]}",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "schema 1",
        ),
    ] {
        let pull = of_text(text, media_type);
        let pulled = pull.run().code(1).says(&[message]);
        assert!(pulled.requests.all_blob_gets().is_empty(), "{text}");
        pull.assert_untagged();
    }
}

#[test]
fn layers_of_unknown_types_are_taken_as_they_are() {
    let layer = Blob::new("application/x-nobody-knows", Content::Bytes("data".into()));
    let pull = Pull::of(Image::build().layer(layer).finish());
    let pulled = pull.run().code(0).lost_nothing();
    pull.assert_whole();
    assert_eq!(pulled.sent(pull.layer()), 4);
    assert_eq!((pulled.moved(), pulled.requests.blob_bytes()), (pull.image.size(), pull.image.size()));
    assert_eq!(pulled.requests.all_blob_gets().len(), 2);
}

#[test]
fn digests_that_traverse_are_no_digests() {
    let hex = "a".repeat(64);
    let odd = [
        "sha256:../../../../etc/passwd".to_owned(),
        format!("sha256:{}/..", &hex[..61]),
        format!("../sha256:{hex}"),
        format!("sha256/../x:{hex}"),
        format!("sha256:{}", hex.to_uppercase()),
        format!("md5:{}", &hex[..32]),
        format!("sha256:{hex}\u{0}"),
        String::new(),
    ];
    for digest in odd {
        let mut manifest = with_size(json!(1));
        manifest["layers"][0]["digest"] = json!(digest);
        let pull = of_json(&manifest);
        let pulled = pull.run().code(1).says(&["invalid manifest"]);
        assert!(pulled.requests.all_blob_gets().is_empty(), "{digest}");
        pull.assert_untagged();
        // A claim in a header is only a claim: the bytes are hashed.
        pull.registry.add("library/x", "1", &pull.image);
        let claim = Fault::Header("docker-content-digest", digest.replace('\u{0}', "?"));
        pull.registry.rule(When::manifests(), Times::Always, claim);
        pull.run().code(0);
        pull.assert_whole();
    }
}

#[test]
fn tags_that_traverse_are_not_asked_for() {
    let pull = Pull::of(Image::tiny("x"));
    for tag in ["../../etc/passwd", "..", "a/../../b", "-x"] {
        let output = pull.command().arg(pull.registry.name("library/x", tag)).run().code(2);
        assert!(output.stderr.contains("invalid reference format"), "{}", output.stderr);
    }
    assert!(pull.registry.requests().is_empty());
    // A list of tags comes from the registry.
    let list = json!({"name": "library/x", "tags": ["1", "../../../escape", "a b", "\u{1b}[31m"]});
    let reply = support::registry::Reply::status(200).header("content-type", "application/json").body(list.to_string());
    pull.registry.rule(When::path("/tags/list"), Times::Always, Fault::Reply(reply));
    let repository = format!("{}/library/x", pull.registry.host());
    let output = pull.command_of(&repository).arg("-a").run();
    let pulled = Pulled { output, requests: pull.registry.requests() };
    assert!(pulled.requests.count("GET", "escape") == 0 && !pulled.output.stderr.contains('\u{1b}'));
    pulled.code(0).says(&["lists a tag that cannot be one"]);
    pull.assert_whole();
    assert!(!pull.store().parent().unwrap().join("escape").exists());
}
