//! Flags and variables that change how a registry is reached: each is given to the command, and seen to arrive.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use support::command::Layerpull;
use support::images::{Blob, Content, Image};
use support::registry::{Auth, Registry};
use tempfile::TempDir;

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn digest(home: &TempDir, registry: &Registry, words: &[&str]) -> Layerpull {
    let name = registry.name("library/x", "1");
    Layerpull::new().home(home.path()).args(["digest", "--retries", "0"]).args(words).arg(name)
}

fn with_image(registry: Registry) -> Registry {
    registry.add("library/x", "1", &Image::tiny("x"));
    registry
}

fn auth_file(path: &Path, host: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, json!({"auths": {host: {"auth": STANDARD.encode("ann:pw")}}}).to_string()).unwrap();
}

#[test]
fn an_authority_of_ones_own_vouches_for_a_registry() {
    let (registry, home) = (with_image(Registry::start_tls()), home());
    let folder = home.path().join("certs");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("ca.crt");
    fs::write(&file, registry.certificate()).unwrap();
    digest(&home, &registry, &["--tls-verify=true", "--ca-file", file.to_str().unwrap()]).run().success();
    digest(&home, &registry, &["--tls-verify=true", "--cert-dir", folder.to_str().unwrap()]).run().success();
    digest(&home, &registry, &["--insecure"]).run().success();
    digest(&home, &registry, &["--tls-verify=false"]).run().success();
}

#[test]
fn a_credential_file_is_taken_from_the_flag_and_from_the_variable() {
    let (registry, home) = (with_image(Registry::start()), home());
    registry.require(Auth::basic("ann", "pw"));
    let file = home.path().join("own/auth.json");
    auth_file(&file, &registry.host());
    digest(&home, &registry, &[]).run().code(4);
    digest(&home, &registry, &["--authfile", file.to_str().unwrap()]).run().success();
    digest(&home, &registry, &[]).env("REGISTRY_AUTH_FILE", &file).run().success();
    digest(&home, &registry, &["--creds", "ann:pw"]).run().success();
}

#[test]
fn docker_config_comes_first_and_the_usual_places_follow() {
    let (registry, home) = (with_image(Registry::start()), home());
    registry.require(Auth::basic("ann", "pw"));
    auth_file(&home.path().join(".config/containers/auth.json"), &registry.host());
    let empty = home.path().join("docker");
    fs::create_dir(&empty).unwrap();
    digest(&home, &registry, &[]).env("DOCKER_CONFIG", &empty).run().success();
}

#[test]
fn layers_of_other_compressions_and_digests_are_kept_like_any() {
    let (registry, home) = (Registry::start(), home());
    // A frame of one raw block (RFC 8878): a pull opens no layer.
    let zstd = *b"\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00layer";
    let image = Image::build()
        .layer(Blob::new("application/vnd.oci.image.layer.v1.tar+zstd", Content::Bytes(zstd.to_vec().into())))
        .layer(Blob::hashed(
            layerpull::oci::Algorithm::Sha512,
            "application/vnd.oci.image.layer.v1.tar",
            Content::Noise { seed: 1, size: 5000 },
        ))
        .finish();
    registry.add("library/x", "1", &image);
    let name = registry.name("library/x", "1");
    let run = |words: &[&str]| Layerpull::new().home(home.path()).args(words).run().success();
    run(&["pull", &name]);
    assert!(run(&["pull", &name]).stdout.contains("up to date"));
    run(&["verify"]);
    assert!(run(&["gc", "--all"]).stdout.starts_with("Removed 0 blobs"));
    run(&["rm", &name]);
    assert!(run(&["gc", "--all"]).stdout.starts_with("Removed 4 blobs"));
}

#[test]
fn whole_digests_and_full_names_are_printed_when_asked_for() {
    let (registry, home) = (with_image(Registry::start()), home());
    let name = registry.name("library/x", "1");
    let expected = Image::tiny("x").digest().to_string();
    let full = digest(&home, &registry, &["--full-ref"]).run().success().stdout;
    assert_eq!(full, format!("{}@{expected}\n", name.rsplit_once(':').unwrap().0));
    Layerpull::new().home(home.path()).args(["pull", &name]).run().success();
    let list = |words: &[&str]| Layerpull::new().home(home.path()).arg("images").args(words).run().success().stdout;
    assert!(!list(&[]).contains(&expected) && list(&["--no-trunc"]).contains(&expected));
}

#[test]
fn logout_does_not_need_the_helper_that_is_gone() {
    let home = home();
    let file = home.path().join("auth.json");
    fs::write(&file, json!({"auths": {"h.example": {}}, "credHelpers": {"h.example": "gone-for-good"}}).to_string())
        .unwrap();
    let words = ["logout", "h.example", "--authfile", file.to_str().unwrap()];
    let output = Layerpull::new().home(home.path()).args(words).run().success();
    assert!(output.stderr.contains("warning: the credential helper \"gone-for-good\""), "{}", output.stderr);
    assert!(!fs::read_to_string(&file).unwrap().contains("auths\": {\n    \"h.example\""));
}

#[test]
fn login_takes_the_credentials_that_a_pull_would_take() {
    let (registry, home) = (with_image(Registry::start()), home());
    registry.require(Auth::basic("ann", "pw"));
    let host = registry.host();
    Layerpull::new().home(home.path()).args(["login", "--creds", "ann:pw", &host]).run().success();
    digest(&home, &registry, &[]).run().success();
    Layerpull::new().home(home.path()).args(["logout", "--creds", "ann:pw", &host]).run().code(2);
}
