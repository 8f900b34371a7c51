//! Tags and manifests of registries, given and taken away without moving a blob.

use support::command::{Layerpull, Output};
use support::images::Image;
use support::peers::{DockerRegistry, skopeo};
use support::registry::{Fault, Registry, Reply, Times, When};

fn layerpull(words: &[&str]) -> Output {
    Layerpull::new().args(words).run()
}

/// The digest that skopeo finds, if there is one.
fn digest_at(name: &str) -> Option<String> {
    let words = ["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")];
    let found = skopeo(words);
    found.success.then(|| layerpull::oci::Digest::of(found.stdout.as_bytes()).to_string())
}

#[test]
fn a_tag_is_given_at_the_registry_with_one_put() {
    let (registry, image) = (DockerRegistry::start(), Image::tiny("a"));
    registry.push("db", "8", &image);
    let before = registry.settled_log().len();
    layerpull(&["tag", "--remote", &registry.name("db", "8"), &registry.name("db", "8.0")]).success();
    let log = registry.settled_log();
    let asked: Vec<_> = log[before..].iter().map(|line| line.split('"').nth(1).unwrap().to_owned()).collect();
    assert_eq!(asked.len(), 3, "{asked:#?}");
    assert!(asked[2].starts_with("PUT /v2/db/manifests/8.0 "), "{asked:#?}");
    assert_eq!(digest_at(&registry.name("db", "8.0")), Some(image.digest().to_string()));
}

#[test]
fn a_tag_in_another_repository_is_a_copy_and_said_to_be_one() {
    let registry = Registry::start();
    registry.add("a/db", "8", &Image::tiny("a"));
    let output = layerpull(&["tag", "--remote", &registry.name("a/db", "8"), &registry.name("b/db", "8")]).code(2);
    assert!(output.stderr.contains("layerpull copy"), "{}", output.stderr);
    assert_eq!(registry.requests().len(), 0);
}

#[test]
fn a_tag_of_the_store_asks_no_registry() {
    let registry = Registry::start();
    registry.add("a/db", "8", &Image::tiny("a"));
    let output = layerpull(&["tag", &registry.name("a/db", "8"), &registry.name("a/db", "9")]).code(3);
    assert!(output.stderr.contains("--remote"), "{}", output.stderr);
    assert_eq!(registry.requests().len(), 0);
}

#[test]
fn a_manifest_that_other_tags_name_is_left_and_they_are_named() {
    let (registry, image) = (DockerRegistry::start(), Image::tiny("a"));
    for tag in ["8", "8.0", "latest"] {
        registry.push("db", tag, &image);
    }
    registry.push("db", "9", &Image::tiny("b"));
    let name = registry.name("db", "8");
    let refused = layerpull(&["delete", &name]).code(1);
    assert!(refused.stderr.contains("also tagged 8.0, latest"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(digest_at(&name), Some(image.digest().to_string()));

    let forced = layerpull(&["delete", "--force", &name]).success();
    let gone = |tag: &str| format!("Untagged: {}\n", registry.name("db", tag));
    let whole = format!("Deleted: {}/db@{}\n", registry.host(), image.digest());
    assert_eq!(forced.stdout, [gone("8"), gone("8.0"), gone("latest"), whole].concat());
    assert_eq!(digest_at(&registry.name("db", "8.0")), None);
    assert!(digest_at(&registry.name("db", "9")).is_some());
}

#[test]
fn a_manifest_that_nothing_else_needs_is_deleted() {
    let registry = DockerRegistry::start();
    registry.push("db", "8", &Image::tiny("a"));
    registry.push("db", "9", &Image::tiny("b"));
    layerpull(&["delete", &registry.name("db", "8")]).success();
    assert_eq!((digest_at(&registry.name("db", "8")), digest_at(&registry.name("db", "9")).is_some()), (None, true));
    layerpull(&["delete", &registry.name("db", "8")]).code(3);
}

#[test]
fn a_manifest_that_an_index_lists_is_left() {
    let registry = DockerRegistry::start();
    let child = Image::tiny("a");
    registry.push("db", "all", &Image::index(&[child.clone(), Image::tiny("b")]));
    registry.push("db", "amd64", &child);
    let name = registry.name("db", "amd64");
    let refused = layerpull(&["delete", &name]).code(1);
    assert!(refused.stderr.contains("listed in the index tagged all"), "{}", refused.stderr);
    let forced = layerpull(&["delete", "--force", &name]).success();
    assert!(forced.stderr.contains("db:all is not whole any more"), "{}", forced.stderr);
}

#[test]
fn where_a_tag_cannot_be_looked_up_nothing_is_deleted() {
    let registry = Registry::start();
    registry.add("a/db", "8", &Image::tiny("a"));
    registry.add("a/db", "9", &Image::tiny("b"));
    let denied = Fault::Reply(Reply::error(403, "DENIED", "not yours"));
    registry.rule(When::manifest("9"), Times::Always, denied);
    let digest = Image::tiny("a").digest().clone();
    let name = format!("{}/a/db@{digest}", registry.host());
    let refused = layerpull(&["delete", &name]).code(1);
    assert!(refused.stderr.contains("the tag 9 needs could not be found out"), "{}", refused.stderr);
    assert_eq!(registry.requests().count("DELETE", ""), 0);
}

#[test]
fn the_embedded_registry_gives_up_the_tag_alone() {
    let (registry, store) = (Registry::start(), tempfile::tempdir().unwrap());
    registry.add("a/db", "8", &Image::tiny("a"));
    let words = ["serve", "--writable", "--no-auth", "--listen", "127.0.0.1:0"];
    let serving = Layerpull::new().args(words).store(store.path()).spawn();
    let said = serving.until_stderr("\n");
    let host = said.split("http://").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let name = |tag: &str| format!("{host}/db:{tag}");
    layerpull(&["copy", &registry.name("a/db", "8"), &name("8")]).success();
    layerpull(&["tag", "--remote", &name("8"), &name("8.0")]).success();
    let deleted = layerpull(&["delete", &name("8")]).success();
    assert_eq!(deleted.stdout, format!("Untagged: {}\n", name("8")));
    assert_eq!((digest_at(&name("8")), digest_at(&name("8.0")).is_some()), (None, true));
}

#[test]
fn of_several_those_that_can_be_deleted_are() {
    let registry = DockerRegistry::start();
    registry.push("db", "8", &Image::tiny("a"));
    let output = layerpull(&["delete", &registry.name("db", "7"), &registry.name("db", "8")]).code(9);
    assert!(output.stdout.contains("Deleted: "), "{}", output.stdout);
    assert_eq!(digest_at(&registry.name("db", "8")), None);
}
