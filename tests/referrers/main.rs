//! Signatures and SBOMs travel along with what they hang on.

mod sync;

use layerpull::oci::Digest;
use serde_json::{Value, json};
use support::command::{Layerpull, Running};
use support::images::{Blob, Image, raw};
use support::peers::{DockerRegistry, skopeo};
use support::registry::{Fault, Registry, Reply, Times, When};

/// An index of two platforms; an SBOM of the index, which is signed in turn; a signature of one of its images, and
/// cosign's.
struct Scene {
    index: Image,
    child: Image,
    sbom: Image,
    seal: Image,
    signature: Image,
    cosign: Image,
}

fn artifact(kind: &str, subject: &Image) -> Image {
    let layer = Blob::files(&[(kind, subject.digest().to_string().as_bytes())]);
    Image::build().artifact(kind).subject(subject.descriptor()).layer(layer).finish()
}

impl Scene {
    fn new() -> Scene {
        let child = |arch: &str| {
            Image::build().platform(&format!("linux/{arch}")).layer(Blob::files(&[("a", arch.as_bytes())])).finish()
        };
        let (child, other) = (child("amd64"), child("arm64"));
        let index = Image::index(&[child.clone(), other]);
        let sbom = artifact("application/x.sbom", &index);
        let seal = artifact("application/x.seal", &sbom);
        let signature = artifact("application/x.signature", &child);
        Scene { seal, signature, sbom, cosign: Image::tiny("signed"), child, index }
    }

    /// What hangs on what.
    fn pairs(&self) -> [(&Image, &Image); 3] {
        [(&self.index, &self.sbom), (&self.sbom, &self.seal), (&self.child, &self.signature)]
    }

    fn cosign_tag(&self) -> String {
        format!("{}.sig", fallback(self.child.digest()))
    }

    fn add_to(&self, registry: &Registry) {
        registry.add("a/db", "8", &self.index);
        registry.add("a/db", &self.cosign_tag(), &self.cosign);
        for (_, referrer) in self.pairs() {
            referrer.blobs.iter().for_each(|blob| registry.add_blob("a/db", blob));
            registry.add_manifest("a/db", &referrer.digest().to_string(), referrer.root().clone());
        }
    }

    /// Everything is there, and each referrer is listed with its subject.
    fn is_at(&self, host: &str, repository: &str, listed: impl Fn(&Image) -> Vec<String>) {
        for (subject, referrer) in self.pairs() {
            assert!(listed(subject).contains(&referrer.digest().to_string()), "{subject:?}");
            let layout = tempfile::tempdir().unwrap();
            let from = format!("docker://{host}/{repository}@{}", referrer.digest());
            skopeo(["copy", "--src-tls-verify=false", &from, &format!("oci:{}:x", layout.path().display())]).ok();
        }
        let sig = format!("docker://{host}/{repository}:{}", self.cosign_tag());
        let digest = skopeo(["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &sig]).ok();
        assert_eq!(digest.trim(), self.cosign.digest().to_string());
    }
}

fn fallback(digest: &Digest) -> String {
    format!("sha256-{}", digest.hex())
}

/// The digests in the index under a fallback tag.
fn listed_at(target: &DockerRegistry, repository: &str, subject: &Image) -> Vec<String> {
    let name = format!("docker://{}", target.name(repository, &fallback(subject.digest())));
    digests(&serde_json::from_str(&skopeo(["inspect", "--raw", "--tls-verify=false", &name]).ok()).unwrap())
}

fn digests(index: &Value) -> Vec<String> {
    index["manifests"].as_array().unwrap().iter().map(|m| m["digest"].as_str().unwrap().to_owned()).collect()
}

/// The embedded registry, which lists referrers itself.
fn serve(store: &std::path::Path) -> (Running, String) {
    let words = ["serve", "--writable", "--no-auth", "--listen", "127.0.0.1:0"];
    let running = Layerpull::new().args(words).store(store).spawn();
    let said = running.until_stderr("\n");
    let host = said.split("http://").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    (running, host)
}

fn api(host: &str, repository: &str, subject: &Image) -> Vec<String> {
    let url = format!("http://{host}/v2/{repository}/referrers/{}", subject.digest());
    digests(&serde_json::from_str(&get(&url)).unwrap())
}

fn get(url: &str) -> String {
    // Whoever comes first wins; all say the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.get(url).send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    })
}

fn copy(from: &str, to: &str) -> Value {
    let words = ["copy", "--referrers", "--format", "json", from, to];
    serde_json::from_str(Layerpull::new().args(words).run().success().stdout.trim()).unwrap()
}

#[test]
fn what_the_api_lists_arrives_and_the_list_of_the_target_is_merged() {
    let (source, target, scene) = (Registry::start(), DockerRegistry::start(), Scene::new());
    scene.add_to(&source);
    target.push("db", "8", &scene.index);
    // Somebody else's signature is listed already.
    let theirs = artifact("application/x.theirs", &scene.index);
    target.push("db", "theirs", &theirs);
    let list = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [theirs.descriptor()]});
    let list =
        Image { manifests: vec![theirs.root().clone(), raw(&list)], blobs: theirs.blobs.clone(), platform: None };
    target.push("db", &fallback(scene.index.digest()), &list);

    let (from, to) = (source.name("a/db", "8"), target.name("db", "8"));
    assert_eq!(copy(&from, &to)["referrers"], 4);
    scene.is_at(&target.host(), "db", |subject| listed_at(&target, "db", subject));
    assert!(listed_at(&target, "db", &scene.index).contains(&theirs.digest().to_string()));

    let before = target.settled_log().len();
    let again = copy(&from, &to);
    assert_eq!((&again["run"]["moved"], &again["referrers"]), (&json!(0), &json!(4)));
    let log = target.settled_log();
    let writes: Vec<_> = log[before..].iter().filter(|l| l.contains("\"PUT ") || l.contains("\"POST ")).collect();
    assert!(writes.is_empty(), "{writes:#?}");
}

#[test]
fn what_a_fallback_tag_lists_arrives_at_a_registry_that_lists_itself() {
    let (first, second, scene) = (Registry::start(), DockerRegistry::start(), Scene::new());
    scene.add_to(&first);
    copy(&first.name("a/db", "8"), &second.name("db", "8"));
    let store = tempfile::tempdir().unwrap();
    let (_serving, host) = serve(store.path());
    copy(&second.name("db", "8"), &format!("{host}/db:8"));
    scene.is_at(&host, "db", |subject| api(&host, "db", subject));
    let tags = skopeo(["list-tags", "--tls-verify=false", &format!("docker://{host}/db")]).ok();
    assert!(!tags.contains(&format!("{}\"", fallback(scene.index.digest()))), "{tags}");

    // And from there, out of the store.
    let third = DockerRegistry::start();
    let words = ["push", "--referrers", &format!("{host}/db:8"), &third.name("db", "8")];
    Layerpull::new().args(words).store(store.path()).run().success();
    scene.is_at(&third.host(), "db", |subject| listed_at(&third, "db", subject));
}

#[test]
fn a_referrer_that_is_there_but_not_listed_is_listed() {
    let (source, target, scene) = (Registry::start(), DockerRegistry::start(), Scene::new());
    scene.add_to(&source);
    target.push("db", "8", &scene.index);
    target.push("db", "sbom", &scene.sbom);
    copy(&source.name("a/db", "8"), &target.name("db", "8"));
    scene.is_at(&target.host(), "db", |subject| listed_at(&target, "db", subject));
}

#[test]
fn of_one_platform_only_its_own_referrers_travel() {
    let (source, target, scene) = (Registry::start(), DockerRegistry::start(), Scene::new());
    scene.add_to(&source);
    let words = ["copy", "--referrers", "--platform", "linux/amd64"];
    let output = Layerpull::new().args(words).args([source.name("a/db", "8"), target.name("db", "8")]).run().success();
    assert!(output.stdout.contains("Referrers: 2\n"), "{}", output.stdout);
    assert_eq!(listed_at(&target, "db", &scene.child), [scene.signature.digest().to_string()]);
    assert_eq!(source.requests().manifest_gets(scene.sbom.digest()).len(), 0);
}

#[test]
fn without_the_flag_nothing_travels_along() {
    let (source, target, scene) = (Registry::start(), DockerRegistry::start(), Scene::new());
    scene.add_to(&source);
    Layerpull::new().args(["copy", &source.name("a/db", "8"), &target.name("db", "8")]).run().success();
    assert_eq!(source.requests().count("GET", "/referrers/"), 0);
    assert_eq!(target.count("PUT", "/manifests/sha256-"), 0);
}

#[test]
fn an_image_whose_signature_does_not_arrive_has_failed_and_a_second_run_brings_it() {
    let (source, target, scene) = (Registry::start(), DockerRegistry::start(), Scene::new());
    scene.add_to(&source);
    let gone = Fault::Reply(Reply::error(404, "BLOB_UNKNOWN", "gone"));
    source.rule(When::blob(scene.seal.layer(0).digest()), Times::Always, gone);
    let words = ["copy", "--referrers", &source.name("a/db", "8"), &target.name("db", "8")];
    let output = Layerpull::new().args(words).run().code(3);
    assert!(output.stderr.contains(&scene.seal.layer(0).digest().to_string()), "{}", output.stderr);
    assert_eq!(target.count("PUT", "/manifests/8"), 1, "the image itself is there");
    source.behave();
    Layerpull::new().args(words).run().success();
    scene.is_at(&target.host(), "db", |subject| listed_at(&target, "db", subject));
}

#[test]
fn referrers_of_referrers_without_end_are_given_up() {
    let (source, target) = (Registry::start(), DockerRegistry::start());
    let image = Image::tiny("a");
    source.add("a/db", "8", &image);
    let mut last = image;
    for _ in 0..10 {
        last = artifact("application/x.seal", &last);
        last.blobs.iter().for_each(|blob| source.add_blob("a/db", blob));
        source.add_manifest("a/db", &last.digest().to_string(), last.root().clone());
    }
    let words = ["copy", "--referrers", &source.name("a/db", "8"), &target.name("db", "8")];
    let output = Layerpull::new().args(words).run().code(1);
    assert!(output.stderr.contains("more than 8 deep"), "{}", output.stderr);
    assert_eq!(target.count("PUT", "/manifests/8"), 1, "the image itself is there");
}
