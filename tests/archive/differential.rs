//! Only what the other side lacks.

use std::collections::BTreeSet;
use std::fs;

use support::images::{Blob, Image};
use support::peers::DockerRegistry;

use crate::scene::{Scene, blobs_of, listed, name, on_base};

/// The image of last month, and what became of it: one of its layers is another one.
fn update() -> (Image, Image) {
    let base = || Blob::files(&[("etc/base", b"stays")]);
    let of = |text: &str| Image::build().layer(base()).layer(Blob::files(&[("etc/own", text.as_bytes())])).finish();
    (of("old"), of("new"))
}

fn blobs(image: &Image) -> BTreeSet<String> {
    let manifests = image.manifests.iter().map(|raw| raw.digest.hex().to_owned());
    image.blobs.iter().map(|blob| blob.digest().hex().to_owned()).chain(manifests).collect()
}

#[test]
fn a_month_passes_and_only_what_differs_is_carried() {
    let (old, new) = update();
    let scene = Scene::new();
    let (here, there) = (DockerRegistry::start(), DockerRegistry::start());
    here.push("team/a", "1", &old);
    let origin = here.name("team/a", "1");
    scene.run("near", &["export", &origin, "-o", "full.tar", "--split", "1M"]).success();
    scene.run("far", &["import", "full.tar.volumes.json"]).success();
    scene.run("far", &["inventory", "-o", "have.json"]).success();

    here.push("team/a", "1", &new);
    scene.run("near", &["pull", &origin]).success();
    let told = scene.run("near", &["export", &origin, "-o", "update.tar", "--have", "have.json"]).success();
    assert!(told.stderr.contains("left out"), "{}", told.stderr);
    let differing: BTreeSet<String> = blobs(&new).difference(&blobs(&old)).cloned().collect();
    assert_eq!(blobs_of(&scene.path("update.tar")), differing);
    assert_eq!(listed(&scene.path("update.tar"))[0], "layerpull.json");

    scene.run("far", &["import", "update.tar"]).success();
    assert_eq!(scene.digest("far", &origin), new.digest().to_string());
    let internal = there.name("mirror/a", "1");
    scene.run("far", &["push", &origin, &internal]).success();
    scene.run("user", &["pull", &internal]).success();
    assert_eq!(scene.digest("user", &internal), scene.digest("near", &origin));
    scene.verify("far");
}

#[test]
fn without_its_base_an_update_is_refused_before_anything_changes() {
    let (old, new) = update();
    let scene = Scene::new();
    scene.store("s", &[("old", &old), ("new", &new)]);
    scene.run("s", &["export", &name("old"), "-o", "base.tar"]).success();
    scene.run("s", &["export", &name("new"), "-o", "update.tar", "--base", "base.tar"]).success();
    let shared = old.layer(0).digest().to_string();
    let piped = |store: &str| {
        let command = support::command::Layerpull::new().arg("load").store(&scene.path(store));
        command.stdin(fs::read(scene.path("update.tar")).unwrap()).run()
    };
    for told in [scene.run("t", &["import", "update.tar"]), piped("t")] {
        let told = told.code(3).stderr;
        assert!(told.contains(&shared) && told.contains("layerpull inventory"), "{told}");
        assert!(!told.contains(&new.layer(1).digest().to_string()), "{told}");
    }
    assert!(scene.blobs("t").is_empty() && scene.names("t").is_empty());
    // In one run the order does not matter.
    scene.run("t", &["import", "update.tar", "base.tar"]).success();
    assert_eq!(scene.digest("t", &name("new")), new.digest().to_string());
    scene.verify("t");
    scene.run("u", &["import", "base.tar"]).success();
    piped("u").success();
    assert_eq!(scene.blobs("u"), scene.blobs("t"));
}

#[test]
fn updates_build_on_updates() {
    let scene = Scene::new();
    let images = ["1", "2", "3"].map(on_base);
    scene.store("s", &[("1", &images[0]), ("2", &images[1]), ("3", &images[2])]);
    scene.run("s", &["export", &name("1"), "-o", "1.tar"]).success();
    scene.run("s", &["export", &name("2"), "-o", "2.tar", "--base", "1.tar"]).success();
    // What was left out of the second is not in the third either.
    scene.run("s", &["export", &name("3"), "-o", "3.tar", "--base", "2.tar"]).success();
    assert_eq!(blobs_of(&scene.path("3.tar")).len(), 3);
    scene.run("t", &["import", "3.tar", "2.tar", "1.tar"]).success();
    assert_eq!(scene.names("t").len(), 3);
}

#[test]
fn one_site_has_all_its_inventories_and_several_only_what_each_has() {
    let scene = Scene::new();
    let (a, b, c) = (on_base("a"), on_base("b"), on_base("c"));
    scene.store("s", &[("a", &a), ("b", &b), ("c", &c)]);
    scene.store("1", &[("a", &a), ("c", &c)]);
    scene.store("2", &[("b", &b), ("c", &c)]);
    for site in ["1", "2"] {
        scene.run(site, &["inventory", "-o", &format!("{site}.json")]).success();
    }
    let all = [name("a"), name("b"), name("c")];
    let export = |flags: &[&str]| {
        let names: Vec<&str> = all.iter().map(String::as_str).collect();
        scene.run("s", &[&["export"], &names[..], &["-o", "x.tar"], flags].concat()).success();
        blobs_of(&scene.path("x.tar"))
    };
    assert!(export(&["--have", "1.json", "--have", "2.json"]).is_empty());
    let each = export(&["--have-each", "1.json", "--have-each", "2.json"]);
    let wanted: BTreeSet<String> = &(&blobs(&a) | &blobs(&b)) - &blobs(&c);
    assert_eq!(each, wanted);
}

#[test]
fn an_inventory_is_sorted_and_holds_nothing_but_digests() {
    let scene = Scene::new();
    scene.store("s", &[("a", &on_base("a"))]);
    let text = scene.run("s", &["inventory"]).success().stdout;
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["blobs"].as_array().unwrap().len(), 4);
    assert_eq!(json["diffIds"].as_array().unwrap().len(), 2);
    assert!(!text.contains("h.example") && !text.contains(scene.dir.path().to_str().unwrap()), "{text}");
    assert_eq!(text, scene.run("s", &["inventory"]).success().stdout);
    fs::write(scene.path("have.json"), "{}").unwrap();
    let told = scene.run("s", &["export", &name("a"), "-o", "x.tar", "--have", "have.json"]).code(1).stderr;
    assert!(told.contains("layerpull inventory"), "{told}");
}
