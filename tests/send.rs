//! Images to registries: pushed out of the store, and copied from one registry to another.

use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use support::command::Layerpull;
use support::images::{Blob, Image};
use support::peers::{DockerRegistry, skopeo};
use support::registry::{Cut, Fault, Gate, Registry, Stall, Times, When};

const MIB: u64 = 1024 * 1024;

/// A database image of three layers, and its update, of which two layers are the same.
fn versions() -> (Image, Image) {
    let (base, engine) = (Blob::file_of_noise(1, 3 * MIB), Blob::file_of_noise(2, 2 * MIB));
    let image = |last: u64| Image::build().layers([base.clone(), engine.clone(), Blob::noise(last, 100_000)]).finish();
    (image(3), image(4))
}

/// Pulls from `from` into `store`.
fn pull(store: &Path, name: &str) {
    Layerpull::new().args(["pull", "-q", name]).store(store).run().success();
}

/// What a run moved, held and mounted, in bytes. What it remembers is kept beside the store.
fn moved(words: &[&str], store: &Path) -> (u64, u64, u64) {
    let output = Layerpull::new().home(store).args(words).args(["--format", "json"]).store(store).run().success();
    let object: Value = serde_json::from_str(output.stdout.lines().last().unwrap()).unwrap();
    let run = |key: &str| object["run"][key].as_u64().unwrap();
    assert_eq!(object["run"]["causes"], serde_json::json!({}), "{}", output.stdout);
    (run("moved"), run("held"), run("mounted"))
}

fn size(image: &Image) -> u64 {
    image.config().size() + image.layers().iter().map(Blob::size).sum::<u64>()
}

/// The digest that skopeo finds at the registry.
fn digest_at(name: &str) -> String {
    let words = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{name}")];
    skopeo(words).ok().trim().to_owned()
}

#[test]
fn a_push_moves_what_differs_a_second_nothing_and_another_repository_mounts() {
    let (origin, target, store) = (Registry::start(), DockerRegistry::start(), tempfile::tempdir().unwrap());
    let (first, second) = versions();
    origin.add("library/db", "8", &first);
    origin.add("library/db", "8.1", &second);
    let near = ["8", "8.1"].map(|tag| origin.name("library/db", tag));
    near.iter().for_each(|name| pull(store.path(), name));
    let far = |repository: &str, tag: &str| target.name(repository, tag);

    let all = size(&first);
    assert_eq!(moved(&["push", &near[0], &far("db", "8")], store.path()), (all, 0, 0));
    let differs = second.layer(2).size() + second.config().size();
    assert_eq!(moved(&["push", &near[1], &far("db", "8.1")], store.path()), (differs, size(&second) - differs, 0));
    assert_eq!(
        (digest_at(&far("db", "8")), digest_at(&far("db", "8.1"))),
        (first.digest().to_string(), second.digest().to_string())
    );

    let before = target.settled_log().len();
    let again = Layerpull::new().args(["push", &near[0], &far("db", "8")]).store(store.path()).run().success();
    assert!(again.stdout.contains("Image is up to date"), "{}", again.stdout);
    let log = target.settled_log();
    assert_eq!(log.len() - before, 1, "{:?}", &log[before..]);

    assert_eq!(moved(&["push", &near[0], &far("other", "8")], store.path()), (0, 0, all));
    assert_eq!(digest_at(&far("other", "8")), first.digest().to_string());
}

#[test]
fn a_copy_reads_each_blob_once_and_keeps_nothing_here() {
    let (source, target, home) = (Registry::start(), DockerRegistry::start(), tempfile::tempdir().unwrap());
    let (image, _) = versions();
    source.add("library/db", "8", &image);
    let (from, to) = (source.name("library/db", "8"), target.name("db", "8"));
    let output = Layerpull::new().home(home.path()).args(["copy", &from, &to]).run().success();
    assert!(output.stdout.contains(&image.digest().to_string()), "{}", output.stdout);
    assert_eq!(digest_at(&to), image.digest().to_string());
    assert_eq!(source.requests().blob_bytes(), size(&image));
    assert!(!home.path().join(".local/share/layerpull").exists(), "a copy made a store");
    let (asked, before) = (source.requests().len(), target.settled_log().len());
    Layerpull::new().home(home.path()).args(["copy", &from, &to]).run().success();
    assert_eq!((source.requests().len() - asked, target.settled_log().len() - before), (1, 1));
}

#[test]
fn a_source_that_is_cut_is_asked_for_the_rest_alone() {
    let (source, target) = (Registry::start(), DockerRegistry::start());
    let (image, _) = versions();
    source.add("library/db", "8", &image);
    let layer = image.layer(0).digest();
    source.rule(When::blob(layer).from_start(), Times::Once, Fault::CutAfter(MIB, Cut::Fin));
    Layerpull::new().args(["cp", &source.name("library/db", "8"), &target.name("db", "8")]).run().success();
    assert_eq!(digest_at(&target.name("db", "8")), image.digest().to_string());
    let again = source.requests().bytes_sent_for(layer).saturating_sub(image.layer(0).size());
    assert!(again <= 64 * 1024, "{again} bytes were asked for again");
    let log = target.settled_log();
    assert_eq!(log.iter().filter(|line| line.contains("\"POST ")).count(), 4, "{log:#?}");
}

#[test]
fn several_platforms_make_a_new_index_and_one_its_own_manifest() {
    let (source, target) = (Registry::start(), DockerRegistry::start());
    let child = |arch: &str| {
        Image::build().platform(&format!("linux/{arch}")).layer(Blob::files(&[("a", arch.as_bytes())])).finish()
    };
    let children = ["amd64", "arm64", "s390x"].map(child);
    let index = Image::index(&children);
    source.add("library/x", "1", &index);
    let copy = |platforms: &[&str], tag: &str| {
        let flags = platforms.iter().flat_map(|platform| ["--platform", platform]);
        Layerpull::new()
            .args(["copy", &source.name("library/x", "1"), &target.name("x", tag)])
            .args(flags)
            .run()
            .success()
    };
    copy(&["linux/arm64"], "one");
    assert_eq!(digest_at(&target.name("x", "one")), children[1].digest().to_string());
    let output = copy(&["linux/amd64", "linux/s390x"], "two");
    assert!(output.stderr.contains("a new index of 2 platforms"), "{}", output.stderr);
    let raw = skopeo(["inspect", "--raw", "--tls-verify=false", &format!("docker://{}", target.name("x", "two"))]).ok();
    let made: Value = serde_json::from_str(&raw).unwrap();
    let digests: Vec<&str> =
        made["manifests"].as_array().unwrap().iter().map(|m| m["digest"].as_str().unwrap()).collect();
    assert_eq!(digests, [children[0].digest().to_string(), children[2].digest().to_string()]);
    copy(&[], "all");
    assert_eq!(digest_at(&target.name("x", "all")), index.digest().to_string());
}

#[test]
fn of_an_index_that_is_held_in_part_no_more_is_pushed_than_is_held() {
    let (source, target, store) = (Registry::start(), DockerRegistry::start(), tempfile::tempdir().unwrap());
    let child = |arch: &str| {
        Image::build().platform(&format!("linux/{arch}")).layer(Blob::files(&[("a", arch.as_bytes())])).finish()
    };
    let children = ["amd64", "arm64"].map(child);
    source.add("library/x", "1", &Image::index(&children));
    let near = source.name("library/x", "1");
    Layerpull::new().args(["pull", "--platform", "linux/arm64", &near]).store(store.path()).run().success();
    let words = ["push", &near, &target.name("x", "1")];
    let refused = Layerpull::new().args(words).store(store.path()).run().code(2);
    assert!(refused.stderr.contains("linux/arm64") && refused.stderr.contains("--all-platforms"), "{}", refused.stderr);
    assert!(target.settled_log().is_empty(), "{:?}", target.settled_log());
    Layerpull::new().args(words).args(["--platform", "linux/arm64"]).store(store.path()).run().success();
    assert_eq!(digest_at(&target.name("x", "1")), children[1].digest().to_string());
}

/// The memory that a process holds now, in bytes, without the pages of its program file, of which a build for tests has
/// many (proc(5)); `None` when it has ended.
fn memory(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024)
}

/// Bytes that a process caused to be written to storage.
fn written(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

#[test]
fn a_copy_writes_no_byte_of_a_blob_to_a_disk_and_needs_little_memory() {
    let (source, target, home) = (Registry::start(), DockerRegistry::start(), tempfile::tempdir().unwrap());
    // As large as those of a database image.
    let sizes = [60, 50, 48, 35].map(|mib| mib * MIB);
    let layers = sizes.iter().zip(1..).map(|(&size, seed)| Blob::noise(seed, size));
    let image = Image::build().layers(layers).finish();
    source.add("library/db", "8", &image);
    let gate = Gate::default();
    source.rule(When::manifests(), Times::Once, Fault::StallAfter(0, Stall::Until(gate.clone())));
    let names = [source.name("library/db", "8"), target.name("db", "8")];
    let running = Layerpull::new().home(home.path()).env("TMPDIR", home.path()).arg("copy").args(names).spawn();
    // No file may become longer than this: a write beyond it kills the process.
    let pid = running.pid();
    let longest = Rlimit { current: Some(256 * 1024), maximum: Some(256 * 1024) };
    prlimit(Pid::from_raw(pid as i32), Resource::Fsize, longest).unwrap();
    gate.open();
    let mut most = 0;
    while let Some(now) = memory(pid) {
        most = most.max(now);
    }
    let written = written(pid);
    running.wait().success();
    assert_eq!(digest_at(&target.name("db", "8")), image.digest().to_string());
    // What it remembers of uploads and mounts, in pages of the system.
    assert!(written < 2 * MIB, "{written} bytes were written to files");
    assert!(most > MIB && most < 64 * MIB, "{most} bytes of memory");
    let kept: u64 = files(home.path()).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(kept < 64 * 1024, "{kept} bytes in {:?}", files(home.path()));
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
