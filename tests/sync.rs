//! Mirrors by files: one plan, what is there already, what fails alone, and what `--delete` dares.

use std::path::PathBuf;

use serde_json::Value;
use support::command::{Layerpull, Output};
use support::images::{Blob, Image};
use support::peers::{DockerRegistry, skopeo};
use support::registry::{Auth, Cut, Fault, Registry, Reply, Stall, Times, When};
use tempfile::TempDir;

const MIB: u64 = 1024 * 1024;

/// A source, a target, and a folder for files and what runs remember.
struct Scene {
    source: Registry,
    target: DockerRegistry,
    folder: TempDir,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        Scene { source: Registry::start(), target: DockerRegistry::start(), folder }
    }

    /// A file of our form; each entry is a repository of the source and further keys.
    fn file(&self, entries: &[(&str, &str)]) -> PathBuf {
        let (from, to) = (self.source.host(), self.target.host());
        let mut text = format!("target = \"{to}/mirror/{{repository}}\"\n");
        for (repository, keys) in entries {
            text.push_str(&format!("[[sync]]\nsource = \"{from}/{repository}\"\n{keys}\n"));
        }
        self.write("mirror.toml", &text)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn sync(&self, file: &PathBuf, words: &[&str]) -> Output {
        let command = Layerpull::new().home(self.folder.path()).args(["sync", "--retries", "0", "-c"]).arg(file);
        command.args(words).run()
    }

    /// The tags of a repository of the target, with their digests.
    fn tags(&self, repository: &str) -> Vec<(String, String)> {
        let name = format!("{}/{repository}", self.target.host());
        let output = Layerpull::new().args(["tags", &name]).run();
        let tags = if output.code == Some(0) { output.stdout } else { String::new() };
        let digest = |tag: &str| {
            let words = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}"];
            skopeo(words.into_iter().chain([format!("docker://{name}:{tag}").as_str()])).ok().trim().to_owned()
        };
        tags.lines().map(|tag| (tag.to_owned(), digest(tag))).collect()
    }

    fn names(&self, repository: &str) -> Vec<String> {
        self.tags(repository).into_iter().map(|(tag, _)| tag).collect()
    }

    /// Requests to the target that change something, so far.
    fn writes(&self) -> Vec<String> {
        let writing =
            |line: &String| ["POST", "PUT", "PATCH", "DELETE"].iter().any(|m| line.contains(&format!("\"{m} ")));
        self.target.settled_log().into_iter().filter(writing).collect()
    }
}

/// A database image of two layers, its update, and another image on the same base.
fn family() -> [Image; 3] {
    let (base, engine) = (Blob::file_of_noise(1, 2 * MIB), Blob::file_of_noise(2, MIB));
    let image = |layers: Vec<Blob>| Image::build().layers(layers).finish();
    [
        image(vec![base.clone(), engine.clone()]),
        image(vec![base.clone(), engine, Blob::file_of_noise(3, 100_000)]),
        image(vec![base, Blob::file_of_noise(4, 200_000)]),
    ]
}

/// The sum over the blobs of all images, each digest once.
fn distinct(images: &[Image]) -> u64 {
    let blobs = images.iter().flat_map(|image| &image.blobs);
    let sizes: std::collections::BTreeMap<_, _> = blobs.map(|blob| (blob.digest(), blob.size())).collect();
    sizes.values().sum()
}

fn at(tag: &str, image: &Image) -> (String, String) {
    (tag.into(), image.digest().to_string())
}

/// Adds the family: `db` with two tags, `web` with one.
fn add_family(scene: &Scene) -> [Image; 3] {
    let images = family();
    scene.source.add("db", "8", &images[0]);
    scene.source.add("db", "8.1", &images[1]);
    scene.source.add("web", "1", &images[2]);
    images
}

#[test]
fn a_blob_of_several_images_moves_once_and_the_next_run_asks_for_names_alone() {
    let scene = Scene::new();
    let images = add_family(&scene);
    let file = scene.file(&[("db", ""), ("web", "tags = \"1\"")]);
    scene.sync(&file, &[]).success();
    assert_eq!(scene.source.requests().blob_bytes(), distinct(&images));
    assert_eq!(scene.tags("mirror/db"), [at("8", &images[0]), at("8.1", &images[1])]);
    assert_eq!(scene.tags("mirror/web"), [at("1", &images[2])]);

    let (asked, before) = (scene.source.requests().len(), scene.target.settled_log().len());
    let again = scene.sync(&file, &[]).success();
    assert_eq!(again.stdout.matches("Image is up to date").count(), 3, "{}", again.stdout);
    // A list and three names there, three names here.
    assert_eq!(scene.source.requests().len() - asked, 4, "{:#?}", &scene.source.requests()[asked..]);
    let log = scene.target.settled_log();
    assert_eq!(log.len() - before, 3, "{:#?}", &log[before..]);
}

#[test]
fn an_image_or_a_list_that_fails_does_not_stop_the_others() {
    let scene = Scene::new();
    let images = add_family(&scene);
    scene.source.remove_blob("db", images[1].layer(2));
    scene.source.rule(When::path("/v2/closed/tags/"), Times::Always, Fault::Reply(Reply::status(401)));
    let file = scene.file(&[("closed", ""), ("db", ""), ("web", "")]);
    let output = scene.sync(&file, &["--format", "json"]).code(9);
    assert_eq!(scene.tags("mirror/db"), [at("8", &images[0])]);
    assert_eq!(scene.tags("mirror/web"), [at("1", &images[2])]);
    let objects: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut statuses: Vec<&str> = objects.iter().map(|object| object["status"].as_str().unwrap()).collect();
    statuses.sort();
    assert_eq!(statuses, ["failed", "failed", "sent", "sent"], "{}", output.stdout);
    assert_eq!(output.stderr.matches("error:").count(), 2, "{}", output.stderr);
}

#[test]
fn a_dry_run_writes_nothing_and_tells_the_bytes_that_the_run_moves() {
    let scene = Scene::new();
    let images = add_family(&scene);
    scene.sync(&scene.file(&[("db", "tags = \"8\"")]), &[]).success();
    let file = scene.file(&[("db", ""), ("web", "")]);
    let (writes, moved) = (scene.writes().len(), scene.source.requests().blob_bytes());
    let output = scene.sync(&file, &["--dry-run", "--format", "json"]).success();
    assert_eq!((scene.writes().len(), scene.source.requests().blob_bytes()), (writes, moved));
    let objects: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sum = |key: &str| objects.iter().map(|object| object[key].as_u64().unwrap()).sum::<u64>();
    let missing = distinct(&images) - distinct(&images[..1]);
    assert_eq!((sum("moved"), objects[0]["status"].as_str()), (missing, Some("up-to-date")), "{}", output.stdout);
    // The base goes from one repository of the target into the other.
    assert_eq!(sum("mounted"), images[2].layer(0).size(), "{}", output.stdout);
    let text = scene.sync(&file, &["--dry-run"]).success().stdout;
    assert!(text.contains(&format!("({missing} bytes) to ")) && text.contains("would be sent"), "{text}");

    scene.sync(&file, &[]).success();
    assert_eq!(scene.source.requests().blob_bytes() - moved, missing);
}

#[test]
fn existing_tags_are_kept_on_request() {
    let scene = Scene::new();
    let [first, second, _] = family();
    scene.source.add("db", "8", &first);
    let file = scene.file(&[("db", "")]);
    scene.sync(&file, &[]).success();
    scene.source.add("db", "8", &second);
    scene.source.add("db", "9", &second);
    let output = scene.sync(&file, &["--keep-existing", "--format", "json"]).success();
    assert_eq!(scene.tags("mirror/db"), [at("8", &first), at("9", &second)]);
    assert_eq!(output.stdout.matches("\"status\":\"kept\"").count(), 1, "{}", output.stdout);
    scene.sync(&file, &[]).success();
    assert_eq!(scene.tags("mirror/db"), [at("8", &second), at("9", &second)]);
}

/// The image of an index for one platform.
fn platform(arch: &str) -> Image {
    Image::build().platform(&format!("linux/{arch}")).layer(Blob::files(&[("a", arch.as_bytes())])).finish()
}

/// Ten tags at source and target, and two more at the target: one alone, one on the digest of a tag that stays.
fn outdated() -> (Scene, PathBuf) {
    let scene = Scene::new();
    for number in 0..10 {
        scene.source.add("db", &format!("1.{number}"), &Image::tiny(&format!("{number}")));
    }
    let file = scene.file(&[("db", "glob = \"1.*\"")]);
    scene.sync(&file, &[]).success();
    scene.target.push("mirror/db", "1.old", &Image::tiny("old"));
    scene.target.push("mirror/db", "1.twin", &Image::tiny("3"));
    scene.target.push("mirror/db", "mine", &Image::tiny("mine"));
    (scene, file)
}

#[test]
fn what_the_source_has_no_more_is_removed_unless_another_tag_needs_its_manifest() {
    let (scene, file) = outdated();
    let before = scene.tags("mirror/db");
    let refused = scene.sync(&file, &["--delete"]).success();
    assert!(refused.stderr.contains("see --max-delete"), "{}", refused.stderr);
    assert_eq!(scene.tags("mirror/db"), before);

    let writes = scene.writes().len();
    let foreseen = scene.sync(&file, &["--delete", "--max-delete", "20", "--dry-run"]).success().stdout;
    let told = |what: &str, tag: &str| {
        let start = format!("{what} {}/mirror/db:{tag}", scene.target.host());
        foreseen.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{start}:\n{foreseen}"))
    };
    assert!(told("Would delete", "1.old").ends_with("1.old"));
    assert!(told("Would delete", "1.twin").contains("\"1.3\" needs this one"));
    assert!(told("Left", "mine").contains("does not select it"));
    assert!(told("Left", "1.3").contains("the source has it"));
    assert_eq!(scene.writes().len(), writes);

    let output = scene.sync(&file, &["--delete", "--max-delete", "20"]).success();
    assert!(output.stdout.contains("Deleted ") && output.stdout.contains("mirror/db:1.old"), "{}", output.stdout);
    // This registry deletes manifests only, and that of the twin is needed.
    let left: Vec<_> = before.into_iter().filter(|(tag, _)| tag != "1.old").collect();
    assert_eq!(scene.tags("mirror/db"), left);
}

#[test]
fn where_tags_can_be_taken_away_the_manifest_stays_for_the_others() {
    let scene = Scene::new();
    let store = tempfile::tempdir().unwrap();
    let words = ["serve", "--writable", "--no-auth", "--listen", "127.0.0.1:0"];
    let server = Layerpull::new().args(words).store(store.path()).spawn();
    let host = server.until_stderr("\n").trim().rsplit("http://").next().unwrap().to_owned();
    scene.source.add("db", "1.0", &Image::tiny("0"));
    let keys = format!("target = \"{host}/db\"\nglob = \"1.*\"");
    let file = scene.file(&[("db", &keys)]);
    scene.sync(&file, &[]).success();
    let twin = format!("{host}/db:1.twin");
    Layerpull::new().args(["copy", &scene.source.name("db", "1.0"), &twin]).run().success();
    let words = ["--delete", "--max-delete", "50"];
    let foreseen = scene.sync(&file, &[words.as_slice(), &["--dry-run"]].concat()).success().stdout;
    assert!(
        foreseen.contains(&format!("Would delete {twin}: unless the registry deletes manifests only")),
        "{foreseen}"
    );
    let output = scene.sync(&file, &words).success();
    assert!(output.stdout.contains(&format!("Deleted {twin}\n")), "{}", output.stdout);
    let tags = Layerpull::new().args(["tags", &format!("{host}/db")]).run().success().stdout;
    assert_eq!(tags, "1.0\n");
    Layerpull::new().args(["manifest", &format!("{host}/db:1.0")]).run().success();
}

#[test]
fn nothing_is_removed_when_a_source_does_not_tell_all_its_tags() {
    let (scene, file) = outdated();
    let before = scene.names("mirror/db");
    let words = ["--delete", "--max-delete", "100"];
    let list = || When::path("/v2/db/tags/");
    let empty = Reply::status(200).header("content-type", "application/json").body("{\"name\":\"db\",\"tags\":null}");
    let faults = [
        (0, Fault::Reply(empty)),
        (5, Fault::CutAfter(20, Cut::Fin)),
        (4, Fault::Reply(Reply::status(403))),
        (3, Fault::Reply(Reply::error(404, "NAME_UNKNOWN", "gone"))),
    ];
    for (code, fault) in faults {
        scene.source.rule(list(), Times::Always, fault);
        scene.sync(&file, &words).code(code);
        scene.source.behave();
        assert_eq!(scene.names("mirror/db"), before);
    }
    assert_eq!(scene.target.count("DELETE", "/manifests/"), 0);
}

#[test]
fn nothing_is_removed_from_a_repository_into_which_a_copy_failed() {
    let (scene, file) = outdated();
    let image = Image::tiny("new");
    scene.source.add("db", "1.new", &image);
    scene.source.remove_blob("db", image.layer(0));
    let before = scene.names("mirror/db");
    scene.sync(&file, &["--delete", "--max-delete", "100"]).code(9);
    assert_eq!(scene.names("mirror/db"), before);
}

#[test]
fn a_manifest_that_an_index_needs_is_not_removed() {
    let scene = Scene::new();
    let children = ["amd64", "arm64"].map(platform);
    scene.source.add("db", "1", &Image::index(&children));
    let file = scene.file(&[("db", "")]);
    scene.sync(&file, &[]).success();
    scene.target.push("mirror/db", "child", &children[0]);
    scene.target.push("mirror/db", "other", &Image::tiny("other"));
    let output = scene.sync(&file, &["--delete", "--max-delete", "100"]).success();
    assert!(output.stdout.contains("mirror/db:other") && !output.stdout.contains(":child"), "{}", output.stdout);
    assert_eq!(scene.names("mirror/db"), ["1", "child"]);
}

#[test]
fn of_a_name_the_platforms_that_are_wanted_come_and_of_a_digest_all() {
    let scene = Scene::new();
    let children = ["amd64", "arm64", "s390x"].map(platform);
    let index = Image::index(&children);
    scene.source.add("db", "1", &index);
    let keys = format!("digests = \"{}\"\ntags = \"1\"\nplatforms = [\"linux/arm64\"]", index.digest());
    scene.sync(&scene.file(&[("db", &keys)]), &[]).success();
    assert_eq!(scene.tags("mirror/db"), [at("1", &children[1])]);
    let pinned = format!("docker://{}/mirror/db@{}", scene.target.host(), index.digest());
    let raw = skopeo(["inspect", "--raw", "--tls-verify=false", &pinned]).ok();
    assert_eq!(raw.as_bytes(), &index.root().bytes[..]);
}

#[test]
fn a_file_of_regsync_gives_new_tags_and_one_platform() {
    let scene = Scene::new();
    let children = ["amd64", "arm64"].map(platform);
    scene.source.add("db", "1", &Image::index(&children));
    let (from, to) = (scene.source.name("db", "1"), scene.target.name("db", "stable"));
    let text = format!(
        "version: 1\ndefaults: {{interval: 60m}}\nsync:\n- {{source: \"{from}\", target: \"{to}\", type: image, \
         platform: linux/arm64}}\n"
    );
    let file = scene.write("regsync.yaml", &text);
    let output = scene.sync(&file, &[]).success();
    assert!(output.stderr.contains("regsync.yaml:2: ") && output.stderr.contains("interval"), "{}", output.stderr);
    assert_eq!(scene.tags("db"), [at("stable", &children[1])]);
    // It is called otherwise at the source.
    scene.sync(&file, &["--delete", "--max-delete", "100"]).success();
    assert_eq!(scene.names("db"), ["stable"]);
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_asked() {
    let scene = Scene::new();
    let skopeo = scene.write("sync.yaml", &format!("\"{}\":\n  images:\n    db: []\n", scene.source.host()));
    assert!(scene.sync(&skopeo, &[]).code(2).stderr.contains("give a destination"));
    let plain = scene.file(&[("db", "")]);
    scene.sync(&plain, &["mirror.example"]).code(2);
    scene.sync(&plain, &["--max-delete", "5"]).code(2);
    scene.sync(&plain, &["--delete", "--max-delete", "101"]).code(2);
    assert_eq!(scene.source.requests().len(), 0);
}

#[test]
fn a_file_of_skopeo_lands_where_skopeo_puts_it() {
    let scene = Scene::new();
    let images = add_family(&scene);
    scene.source.add("team/cache", "1.2.0", &images[1]);
    scene.source.add("team/cache", "2.0.0", &images[2]);
    scene.source.require(Auth::basic("me", "secret"));
    let text = format!(
        "\"{}\":\n  tls-verify: false\n  credentials:\n    username: me\n    password: secret\n  images:\n    db: []\n    \
         web:\n      - \"1\"\n  images-by-tag-regex:\n    team/cache: ^1[.]\n",
        scene.source.host()
    );
    let file = scene.write("sync.yaml", &text);
    let place = |name: &str| format!("{}/{name}", scene.target.host());
    scene.sync(&file, &[&place("ours")]).success();
    let words = ["sync", "--all", "--src", "yaml", "--dest", "docker", "--dest-tls-verify=false"];
    skopeo(words.into_iter().chain([file.to_str().unwrap(), place("theirs").as_str()])).ok();
    for (name, tags) in [("db", vec!["8", "8.1"]), ("web", vec!["1"]), ("cache", vec!["1.2.0"])] {
        assert_eq!(scene.names(&format!("theirs/{name}")), tags);
        assert_eq!(scene.tags(&format!("ours/{name}")), scene.tags(&format!("theirs/{name}")), "{name}");
    }
}

#[test]
fn a_mirror_that_is_killed_goes_on_without_what_is_done() {
    let scene = Scene::new();
    let images = add_family(&scene);
    let slow = images[1].layer(2);
    scene.source.rule(When::blob(slow.digest()), Times::Once, Fault::StallAfter(1000, Stall::Ever));
    let file = scene.file(&[("db", ""), ("web", "")]);
    let running = Layerpull::new().home(scene.folder.path()).args(["sync", "-c"]).arg(&file).spawn();
    support::until("the other images are there", || scene.target.count("PUT", "/manifests/") == 2);
    running.kill();
    let (before, held) = (scene.source.requests().blob_bytes(), scene.names("mirror/db"));
    assert_eq!(held, ["8"]);
    let output = scene.sync(&file, &[]).success();
    assert_eq!(output.stdout.matches("Image is up to date").count(), 2, "{}", output.stdout);
    let again = scene.source.requests().blob_bytes() - before;
    assert!(again <= slow.size() + images[1].config().size(), "{again} bytes moved again");
    assert_eq!(scene.tags("mirror/db"), [at("8", &images[0]), at("8.1", &images[1])]);
}
