//! Mirrors by files take along what hangs on their images.

use std::path::Path;

use super::*;

/// A file of our form that mirrors `a/db` of `source` to `target`, below further keys.
fn file(folder: &Path, source: &Registry, target: &str, keys: &str) -> String {
    let path = folder.join("mirror.toml");
    let text = format!("target = \"{target}\"\n[[sync]]\nsource = \"{}/a/db\"\n{keys}\n", source.host());
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn sync(folder: &Path, file: &str, words: &[&str]) -> support::command::Output {
    Layerpull::new().home(folder).args(["sync", "--retries", "0", "-c", file]).args(words).run()
}

fn objects(output: &support::command::Output) -> Vec<Value> {
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_mirror_takes_along_what_hangs_on_its_images_and_merges_the_list_of_the_target() {
    let (source, target, scene) = (Registry::start(), DockerRegistry::start(), Scene::new());
    let folder = tempfile::tempdir().unwrap();
    scene.add_to(&source);
    let theirs = artifact("application/x.theirs", &scene.index);
    target.push("db", "8", &scene.index);
    target.push("db", "theirs", &theirs);
    let list = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [theirs.descriptor()]});
    let list =
        Image { manifests: vec![theirs.root().clone(), raw(&list)], blobs: theirs.blobs.clone(), platform: None };
    target.push("db", &fallback(scene.index.digest()), &list);

    let file = file(folder.path(), &source, &format!("{}/db", target.host()), "tags = \"8\"\nreferrers = true");
    let output = sync(folder.path(), &file, &["--format", "json"]).success();
    assert_eq!(objects(&output)[0]["referrers"], 4, "{}", output.stdout);
    scene.is_at(&target.host(), "db", |subject| listed_at(&target, "db", subject));
    assert!(listed_at(&target, "db", &scene.index).contains(&theirs.digest().to_string()));

    let (before, moved) = (target.settled_log().len(), source.requests().blob_bytes());
    sync(folder.path(), &file, &[]).success();
    let log = target.settled_log();
    let writes: Vec<_> = log[before..].iter().filter(|l| l.contains("\"PUT ") || l.contains("\"POST ")).collect();
    assert!(writes.is_empty() && source.requests().blob_bytes() == moved, "{writes:#?}");
}

#[test]
fn a_mirror_at_a_registry_that_lists_referrers_itself_has_no_fallback_tag() {
    let (source, scene) = (Registry::start(), Scene::new());
    let (folder, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    scene.add_to(&source);
    let (_serving, host) = serve(store.path());
    let file = file(folder.path(), &source, &format!("{host}/db"), "referrers = true");
    sync(folder.path(), &file, &[]).success();
    scene.is_at(&host, "db", |subject| api(&host, "db", subject));
    let tags = skopeo(["list-tags", "--tls-verify=false", &format!("docker://{host}/db")]).ok();
    assert!(!tags.contains(&format!("{}\"", fallback(scene.index.digest()))), "{tags}");
}

#[test]
fn a_dry_run_counts_what_hangs_on_the_images() {
    let (source, target, scene) = (Registry::start(), DockerRegistry::start(), Scene::new());
    let folder = tempfile::tempdir().unwrap();
    scene.add_to(&source);
    let file = file(folder.path(), &source, &format!("{}/db", target.host()), "tags = \"8\"\nreferrers = true");
    let output = sync(folder.path(), &file, &["--dry-run", "--format", "json"]).success();
    let foreseen: u64 = objects(&output).iter().map(|object| object["moved"].as_u64().unwrap()).sum();
    assert_eq!(source.requests().blob_bytes(), 0);
    assert!(target.settled_log().iter().all(|line| line.contains("\"GET ") || line.contains("\"HEAD ")));
    sync(folder.path(), &file, &[]).success();
    assert_eq!(source.requests().blob_bytes(), foreseen);
}

#[test]
fn what_hangs_on_an_image_that_stays_is_not_removed() {
    let (source, target, scene) = (Registry::start(), DockerRegistry::start(), Scene::new());
    let folder = tempfile::tempdir().unwrap();
    scene.add_to(&source);
    source.add("a/db", "9", &Image::tiny("9"));
    let file = file(folder.path(), &source, &format!("{}/db", target.host()), "referrers = true");
    sync(folder.path(), &file, &[]).success();
    // The source forgets the signature, an image goes, and somebody signed what the mirror has.
    source.remove_tag("a/db", &scene.cosign_tag());
    target.push("db", "old", &Image::tiny("old"));
    let own = format!("{}.att", fallback(scene.index.digest()));
    target.push("db", &own, &Image::tiny("attested"));
    let output = sync(folder.path(), &file, &["--delete", "--max-delete", "100"]).success();
    assert!(output.stdout.contains("db:old"), "{}", output.stdout);
    let tags = skopeo(["list-tags", "--tls-verify=false", &format!("docker://{}/db", target.host())]).ok();
    for kept in ["\"8\"", "\"9\"", &own, &scene.cosign_tag(), &fallback(scene.index.digest())] {
        assert!(tags.contains(kept), "{kept}: {tags}");
    }
    assert!(!tags.contains("\"old\""), "{tags}");
    scene.is_at(&target.host(), "db", |subject| listed_at(&target, "db", subject));
}

#[test]
fn nothing_is_removed_where_a_signature_did_not_arrive() {
    let (source, target, scene) = (Registry::start(), DockerRegistry::start(), Scene::new());
    let folder = tempfile::tempdir().unwrap();
    scene.add_to(&source);
    let gone = Fault::Reply(Reply::error(404, "BLOB_UNKNOWN", "gone"));
    source.rule(When::blob(scene.seal.layer(0).digest()), Times::Always, gone);
    target.push("db", "old", &Image::tiny("old"));
    let file = file(folder.path(), &source, &format!("{}/db", target.host()), "referrers = true");
    let output = sync(folder.path(), &file, &["--delete", "--max-delete", "100"]).code(3);
    assert!(output.stderr.contains(&scene.seal.layer(0).digest().to_string()), "{}", output.stderr);
    assert_eq!(target.count("DELETE", "/manifests/"), 0);
}

#[test]
fn a_file_of_regsync_says_which_of_them_travel() {
    let scene = Scene::new();
    for (keys, referrers, named) in [("referrers: true", 3, 0), ("digestTags: true", 0, 1)] {
        let (source, target, folder) = (Registry::start(), DockerRegistry::start(), tempfile::tempdir().unwrap());
        scene.add_to(&source);
        let text = format!(
            "version: 1\nsync:\n- {{source: \"{}\", target: \"{}\", type: image, {keys}}}\n",
            source.name("a/db", "8"),
            target.name("db", "8")
        );
        let file = folder.path().join("regsync.yaml");
        std::fs::write(&file, text).unwrap();
        let output = sync(folder.path(), file.to_str().unwrap(), &["--format", "json"]).success();
        assert_eq!(objects(&output)[0]["referrers"], referrers + named, "{keys}: {}", output.stdout);
        assert_eq!(target.count("PUT", &format!("/manifests/{}", scene.cosign_tag())), named, "{keys}");
        assert_eq!(source.requests().count("GET", "/referrers/") > 0, referrers > 0, "{keys}");
    }
}

#[test]
fn a_source_that_does_not_list_its_tags_cannot_tell_what_hangs_on_its_images() {
    let (source, target, folder) = (Registry::start(), DockerRegistry::start(), tempfile::tempdir().unwrap());
    source.add("a/db", "8", &Image::tiny("8"));
    source.rule(When::path("/v2/a/db/tags/"), Times::Always, Fault::Reply(Reply::status(403)));
    let file = file(folder.path(), &source, &format!("{}/db", target.host()), "tags = \"8\"\nreferrers = true");
    sync(folder.path(), &file, &[]).code(4);
    assert_eq!(target.count("PUT", "/manifests/"), 0);
}
