//! What the command says about itself: help, usage errors, settings, completions. Exact output and exit codes.

use std::path::Path;

use support::command::{Layerpull, Output};

fn run(words: &str) -> Output {
    Layerpull::new().args(words.split_whitespace()).run()
}

/// The transcript, without what depends on this machine.
fn transcript(output: &Output) -> String {
    output.transcript().replace(env!("CARGO_PKG_VERSION"), "[VERSION]")
}

#[test]
fn help_is_a_result() {
    let output = run("--help").success();
    assert!(output.stderr.is_empty());
    insta::assert_snapshot!(transcript(&run("-h")));
    insta::assert_snapshot!(transcript(&run("pull -h")));
}

#[test]
fn every_command_has_help() {
    let help = run("--help").stdout;
    let commands = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let names: Vec<&str> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() >= 20, "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        let output = Layerpull::new().args([name, "--help"]).run().success();
        assert!(output.stdout.contains("Usage: layerpull") && output.stderr.is_empty(), "{name}");
    }
}

#[test]
fn what_makes_no_sense_ends_with_2_and_nothing_on_stdout() {
    let wrong = [
        "",
        "--bogus",
        "pull",
        "pull --jobs 0 x",
        "pull --jobs many x",
        "pull --platform linux x",
        "pull --platform linux/amd64 --all-platforms x",
        "pull -q --format json x",
        "pull --creds secret x",
        "Foo",
        "a..b",
        "x@sha256:0",
        "tag a",
        "tag a b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "login --password-stdin h.example",
        "login h.example",
        "catalog mysql",
        "serve --listen 0.0.0.0:0",
        "--config-file /nowhere/c.toml images",
    ];
    for words in wrong {
        let output = run(words).code(2);
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{words}: {}", output.transcript());
    }
}

#[test]
fn a_wrong_credential_is_not_repeated() {
    let output = run("pull --creds hunter2 x").code(2);
    assert!(output.stderr.contains("expected USER:PASSWORD"), "{}", output.stderr);
}

#[test]
fn names_are_refused_in_the_words_that_docker_uses() {
    assert!(run("Foo").stderr.contains("invalid reference format: \"Foo\": repository name must be lowercase"));
    assert!(run("a..b").stderr.starts_with("error: invalid reference format: \"a..b\""));
}

#[test]
fn every_setting_shows_its_origin() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".config/layerpull/config.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "# mine\nstreams = 3\nplatform = [\"linux/s390x\"]\n").unwrap();
    let output = Layerpull::new()
        .home(home.path())
        .env("LAYERPULL_JOBS", "7")
        .env("LAYERPULL_CREDS", "me:hunter2")
        .args(["config", "--retries", "9"])
        .run()
        .success();
    let shown = output.transcript().replace(home.path().to_str().unwrap(), "[HOME]");
    // The width of a column depends on the length of the home's path.
    let shown: Vec<String> = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn an_unknown_key_names_its_file_and_line() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("c.toml");
    std::fs::write(&file, "\n\nstall_timeout = 1\n").unwrap();
    let output = Layerpull::new().env("LAYERPULL_CONFIG", &file).arg("config").run().code(2);
    let expected = format!("error: {}:3: unknown key `stall_timeout`: did you mean `stall-timeout`?\n", file.display());
    assert_eq!(output.stderr, expected);
}

#[test]
fn an_empty_store_is_no_failure() {
    assert_eq!(run("images --format json").success().stdout, "[]\n");
    assert_eq!(run("images -q").success().stdout, "");
    assert!(run("gc").success().stdout.starts_with("Removed 0 blobs"));
    run("verify").success();
}

#[test]
fn what_is_not_in_the_store_is_not_found() {
    let output = run("rm nginx").code(3);
    assert!(output.stderr.contains("docker.io/library/nginx:latest not found at"), "{}", output.stderr);
    run("tag nginx other").code(3);
    run("digest --local nginx").code(3);
}

#[test]
fn a_registry_that_does_not_answer_is_a_network_failure_with_a_next_step() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = Layerpull::new().args(["pull", "--retries", "0", &format!("{free}/x:1")]).run().code(5);
    assert!(output.stdout.is_empty());
    assert!(output.stderr.contains("run the same command again to go on"), "{}", output.stderr);
}

#[test]
fn a_word_that_is_nearly_a_command_says_so() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // A proxy that nobody listens on: the name of the registry is not looked up.
    let proxy = format!("http://{free}");
    let output = Layerpull::new().env("HTTPS_PROXY", proxy).args(["--retries", "0", "pul"]).run().code(5);
    let hint = "hint: \"pul\" was taken for an image; did you mean `layerpull pull`?\n";
    assert!(output.stderr.ends_with(hint), "{}", output.stderr);
}

#[test]
fn completions_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(Layerpull::new().args(["completions", shell]).run().success().stdout.contains("layerpull"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    Layerpull::new().args(["man", "--dir"]).arg(folder.path()).run().success();
    let has = |page: &str| Path::new(folder.path()).join(page).is_file();
    assert!(has("layerpull.1") && has("layerpull-pull.1") && has("layerpull-serve.1"));
    assert!(run("man").success().stdout.contains(".TH layerpull 1"));
}

#[test]
fn the_version_is_a_result() {
    assert_eq!(run("version").success().stdout, format!("layerpull {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(run("--version").success().stdout, run("version").stdout);
}
