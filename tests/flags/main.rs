//! Flags and variables that change how a registry is reached and what is shown: each is given to the command, and seen
//! to arrive.

mod credentials;
mod proxies;
mod terminal;
mod tls;

use support::command::Layerpull;
use support::images::{Blob, Content, Image};
use support::registry::Registry;
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
