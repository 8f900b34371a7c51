//! Entries of a store that have no name, or only a tag, as other tools write them: they can be seen, drawn, named and
//! removed by what `images` shows of them.

use std::path::Path;

use serde_json::Value;
use support::command::{Layerpull, Output};
use support::images::Image;
use tempfile::TempDir;

/// A store with an image named `v9` and one without a name.
fn store() -> (TempDir, Image) {
    let (dir, bare) = (tempfile::tempdir().unwrap(), Image::tiny("bare"));
    Image::tiny("tagged").write_layout(dir.path(), "v9");
    bare.write_layout(dir.path(), "gone");
    let index = dir.path().join("index.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    json["manifests"][1].as_object_mut().unwrap().remove("annotations");
    std::fs::write(&index, json.to_string()).unwrap();
    (dir, bare)
}

fn run(store: &Path, words: &[&str]) -> Output {
    Layerpull::new().args(words).store(store).run()
}

#[test]
fn what_images_shows_can_be_described_and_drawn() {
    let (store, bare) = store();
    let digest = bare.digest().to_string();
    let shown = run(store.path(), &["images", "-q"]).success().stdout;
    assert_eq!(shown.lines().collect::<Vec<_>>(), [digest.as_str(), "v9"]);
    for name in ["v9", &digest, &digest[..19], &digest[7..19]] {
        let drawn = run(store.path(), &["layers", "--local", name]).success().stdout;
        let label = if name == "v9" { "v9" } else { &digest };
        assert!(drawn.contains(&label[..label.len().min(19)]), "{drawn}");
        run(store.path(), &["inspect", "--local", name]).success();
        run(store.path(), &["manifest", "--local", name]).success();
    }
    assert_eq!(run(store.path(), &["digest", "--local", &digest[7..20]]).success().stdout, format!("{digest}\n"));
    run(store.path(), &["inspect", "--local", &digest[..18]]).code(3);
}

#[test]
fn what_images_shows_can_be_named_and_removed() {
    let (store, bare) = store();
    let digest = bare.digest().to_string();
    run(store.path(), &["tag", "v9", "h.example/a:1"]).success();
    run(store.path(), &["tag", &digest[..19], "h.example/b:1"]).success();
    assert_eq!(run(store.path(), &["digest", "--local", "h.example/b:1"]).success().stdout, format!("{digest}\n"));
    assert_eq!(run(store.path(), &["rm", "v9"]).success().stdout, "Untagged: v9\n");
    assert_eq!(
        run(store.path(), &["rm", &digest]).success().stdout,
        format!("Untagged: {digest}\nUntagged: h.example/b:1\n")
    );
    assert_eq!(run(store.path(), &["images", "-q"]).success().stdout, "h.example/a:1\n");
    run(store.path(), &["rm", "v9"]).code(3);
}
