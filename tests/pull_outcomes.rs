//! What a pull says and leaves when it is over: names it takes, files it writes, images that fail beside others.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use support::command::Layerpull;
use support::images::Image;
use support::peers::Closed;
use support::registry::Registry;
use tempfile::TempDir;

/// A registry with `library/x:1`, and a home with a store.
fn scene() -> (Registry, TempDir, Image) {
    let (registry, image) = (Registry::start(), Image::tiny("x"));
    registry.add("library/x", "1", &image);
    (registry, tempfile::tempdir().unwrap(), image)
}

fn pull(home: &TempDir, words: &[&str]) -> Layerpull {
    Layerpull::new().home(home.path()).arg("pull").args(words).args(["--retries", "0"])
}

#[test]
fn programs_learn_what_moved_and_what_was_saved() {
    let (registry, home, image) = scene();
    let name = registry.name("library/x", "1");
    let output = pull(&home, &["--format", "json", "--progress", "json", &name]).run().success();
    let object: Value = serde_json::from_str(&output.stdout).unwrap();
    let run = &object["run"];
    assert_eq!((&run["moved"], &run["saved"]), (&image.size().into(), &0.into()));
    assert!(run["syncing_ms"].is_u64() && run["elapsed_ms"].is_u64() && run["causes"].is_object(), "{run}");
    let done: Value = serde_json::from_str(output.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&done["event"], &done["moved"]), (&"done".into(), &image.size().into()));
}

#[test]
fn an_image_that_the_policy_refuses_stops_no_other() {
    let (registry, home, _) = scene();
    registry.add("library/y", "1", &Image::tiny("y"));
    let (x, y) = (registry.name("library/x", "1"), registry.name("library/y", "1"));
    let policy = home.path().join(".config/containers/policy.json");
    fs::create_dir_all(policy.parent().unwrap()).unwrap();
    let repository = y.rsplit_once(':').unwrap().0;
    let accept = r#"[{"type":"insecureAcceptAnything"}]"#;
    let rules = format!(r#"{{"default":{accept},"transports":{{"docker":{{"{repository}":[{{"type":"reject"}}]}}}}}}"#);
    fs::write(&policy, rules).unwrap();
    let output = pull(&home, &[&y, &x]).run().code(9);
    assert!(output.stderr.contains("the trust policy rejects it"), "{}", output.stderr);
    assert!(output.stdout.ends_with(&format!("{x}\n")), "{}", output.stdout);
    let before = registry.requests().len();
    pull(&home, &[&y]).run().code(1);
    assert_eq!(registry.requests().len(), before);
}

#[test]
fn a_digest_file_is_replaced_only_by_digests() {
    let (registry, home, image) = scene();
    let (x, gone) = (registry.name("library/x", "1"), registry.name("library/x", "gone"));
    let file = home.path().join("digests");
    let flag = format!("--digestfile={}", file.display());
    fs::write(&file, "old").unwrap();
    pull(&home, &[&flag, &gone]).run().code(3);
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    pull(&home, &[&flag, &gone, &x]).run().code(9);
    let lines = fs::read_to_string(&file).unwrap();
    let mut lines: Vec<&str> = lines.split('\n').collect();
    lines.sort();
    assert_eq!(lines, ["", &image.digest().to_string()]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o600, 0o600);
}

#[test]
fn a_digest_file_that_cannot_be_written_is_noticed_before_anything_is_asked() {
    let (registry, home, _) = scene();
    let x = registry.name("library/x", "1");
    for file in ["/nowhere/digests", home.path().to_str().unwrap()] {
        pull(&home, &["--digestfile", file, &x]).run().code(7);
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_name_of_skopeos_syntax_is_a_name_and_other_places_are_refused() {
    let (registry, home, _) = scene();
    pull(&home, &[&format!("docker://{}", registry.name("library/x", "1"))]).run().success();
    let before = registry.requests().len();
    for place in
        ["oci:/d", "oci-archive:f", "docker-archive:f:x", "dir:/d", "docker-daemon:x:1", "containers-storage:x"]
    {
        let output = pull(&home, &[place]).run().code(2);
        assert!(output.stderr.contains("is no registry") && output.stderr.contains(" copy "), "{}", output.stderr);
    }
    assert_eq!(registry.requests().len(), before);
}

#[test]
fn all_tags_and_one_tag_make_no_sense_together() {
    let (registry, home, image) = scene();
    for name in [registry.name("library/x", "1"), format!("{}/library/x@{}", registry.host(), image.digest())] {
        pull(&home, &["-a", &name]).run().code(2);
    }
    pull(&home, &["-a", &format!("{}/library/x", registry.host())]).run().success();
}

#[test]
fn a_full_standard_output_is_named() {
    let output = std::process::Command::new("sh")
        .args(["-c", "\"$0\" --version >&2; \"$0\" version >/dev/full"])
        .arg(support::command::binary())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("standard output: No space left"), "{stderr}");
}

#[test]
fn a_list_that_cannot_be_asked_for_promises_nothing() {
    let closed = Closed::port();
    for words in [vec!["catalog".to_owned(), closed.host()], vec!["tags".to_owned(), format!("{}/x", closed.host())]] {
        let output = Layerpull::new().args(&words).args(["--retries", "0"]).run().code(5);
        assert!(!output.stderr.contains("kept"), "{}", output.stderr);
    }
}

#[test]
fn a_format_that_is_no_template_is_a_usage_error() {
    let (registry, home, _) = scene();
    let name = registry.name("library/x", "1");
    let output = Layerpull::new().home(home.path()).args(["inspect", "--format", "text", &name]).run().code(2);
    assert!(output.stderr.contains("expected json, or a template"), "{}", output.stderr);
    assert!(registry.requests().is_empty());
}
