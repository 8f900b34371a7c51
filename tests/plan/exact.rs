//! Bytes moved are those planned and the listed causes: cold, warm, partial, with a mount, and under faults, counted at
//! the server.

use rustix::process::Signal;
use support::images::{Blob, Image};
use support::peers::DockerRegistry;
use support::registry::{Cut, Fault, Gate, Stall, Times, When};

use crate::scene::{KIB, MIB, Scene, assert_adds_up, assert_whole, image, number};

#[test]
fn cold_then_warm_then_up_to_date() {
    let images = [image(1), image(2)];
    let scene = Scene::of(&[&images[0], &images[1]]);
    let cold = scene.planned_and_done(&["pull", &scene.name(0)]);
    assert_eq!((number(&cold, "moved"), number(&cold, "held")), (images[0].size(), 0));
    let warm = scene.planned_and_done(&["pull", &scene.name(1)]);
    assert_eq!(number(&warm, "held"), images[0].layer(0).size());
    assert_eq!(number(&warm, "moved"), images[1].size() - images[0].layer(0).size());
    let none = scene.planned_and_done(&["pull", &scene.name(0), &scene.name(1)]);
    assert_eq!((number(&none, "moved"), &none["causes"]), (0, &serde_json::json!({})));
}

#[test]
fn partial_after_a_kill() {
    let image = Image::build().layer(Blob::noise(3, 3 * MIB)).finish();
    let scene = Scene::of(&[&image]);
    let gate = Gate::default();
    let stall = Fault::StallAfter(2 * MIB, Stall::Until(gate.clone()));
    scene.registry.rule(When::blob(image.layer(0).digest()).get(), Times::Once, stall);
    let running = scene.command(&["pull", "--stall-timeout", "2m", &scene.name(0)]).spawn();
    support::until("the first bytes are here", || {
        number(&scene.json(&["plan", "pull", &scene.name(0)]).remove(0), "held") >= 2 * MIB
    });
    running.signal(Signal::KILL);
    running.wait();
    gate.open();
    let plan = scene.command(&["plan", "pull", &scene.name(0)]).run().success().stdout;
    assert!(plan.contains("partial"), "{plan}");
    let run = scene.planned_and_done(&["pull", &scene.name(0)]);
    assert!(number(&run, "moved") <= MIB + 4 * KIB, "{run}");
    assert_eq!(run["causes"], serde_json::json!({}));
    assert_whole(&scene.store(), &image);
}

#[test]
fn faults_are_listed_to_the_byte() {
    let cases: [(&str, Fault, &[&str]); 4] = [
        ("cut", Fault::CutAfter(2 * MIB, Cut::Fin), &[]),
        ("stall", Fault::StallAfter(2 * MIB, Stall::Ever), &[]),
        ("wrong", Fault::Flip(5), &["spoiled"]),
        ("no ranges", Fault::All(vec![Fault::IgnoreRange, Fault::CutAfter(MIB, Cut::Fin)]), &["range-ignored"]),
    ];
    for (what, fault, expected) in cases {
        let image = Image::build().layer(Blob::noise(4, 3 * MIB)).finish();
        let scene = Scene::of(&[&image]);
        scene.registry.rule(When::blob(image.layer(0).digest()).get(), Times::Once, fault);
        if what == "no ranges" {
            scene.registry.rule(When::blob(image.layer(0).digest()).get(), Times::Always, Fault::IgnoreRange);
        }
        // Only what is to stand still shall be taken for it.
        let patience = if what == "stall" { "3s" } else { "1m" };
        let run = scene.planned_and_done(&["pull", "--stall-timeout", patience, &scene.name(0)]);
        let causes: Vec<&String> = run["causes"].as_object().unwrap().keys().collect();
        assert_eq!(causes, expected, "{what}: {run}");
        assert_whole(&scene.store(), &image);
    }
}

#[test]
fn a_reset_takes_along_what_was_not_read_and_the_rest_adds_up() {
    let image = Image::build().layer(Blob::noise(5, 3 * MIB)).finish();
    let scene = Scene::of(&[&image]);
    scene.registry.rule(When::blob(image.layer(0).digest()).get(), Times::Once, Fault::CutAfter(2 * MIB, Cut::Rst));
    let run = scene.json(&["pull", &scene.name(0)])[0]["run"].clone();
    assert_adds_up(&run);
    assert_eq!(number(&run, "moved"), image.size());
    assert!(scene.registry.requests().blob_bytes() >= image.size());
}

#[test]
fn causes_are_said_in_words() {
    let image = Image::build().layer(Blob::noise(6, MIB)).finish();
    let scene = Scene::of(&[&image]);
    scene.registry.rule(When::blob(image.layer(0).digest()).get(), Times::Once, Fault::Flip(5));
    let output = scene.command(&["pull", &scene.name(0)]).run().success();
    assert!(
        output.stderr.contains("1.05 MB planned; 1.05 MB again because bytes were not those of their digest"),
        "{}",
        output.stderr
    );
}

/// The repository `b` would get its layers from `a`.
fn pushed() -> (Scene, DockerRegistry, Image) {
    let (scene, target, image) = (Scene::of(&[&image(1)]), DockerRegistry::start(), image(1));
    scene.command(&["pull", &scene.name(0)]).run().success();
    scene.command(&["push", &scene.name(0), &format!("{}/a:1", target.host())]).run().success();
    (scene, target, image)
}

#[test]
fn a_push_with_mounts_moves_nothing_as_planned() {
    let (scene, target, image) = pushed();
    let to = format!("{}/b:1", target.host());
    let plan = scene.json(&["plan", "push", &scene.name(0), &to])[0]["plan"].clone();
    let run = scene.json(&["push", &scene.name(0), &to])[0]["run"].clone();
    assert_eq!((number(&plan, "moved"), number(&plan, "mounted")), (0, image.size()), "{plan}");
    assert_eq!((number(&run, "moved"), number(&run, "mounted")), (0, image.size()), "{run}");
    assert_adds_up(&run);
}

#[test]
fn an_upload_that_the_registry_loses_is_a_cause() {
    let image = Image::build().layer(Blob::noise(7, 12 * MIB)).finish();
    let (scene, target) = (Scene::of(&[&image]), DockerRegistry::start());
    let gate = Gate::default();
    let stall = Fault::StallAfter(8 * MIB, Stall::Until(gate.clone()));
    scene.registry.rule(When::blob(image.layer(0).digest()).get(), Times::Once, stall);
    let to = format!("{}/a:1", target.host());
    let words = ["copy", "--stall-timeout", "2m", "--format", "json", &scene.name(0), &to];
    let running = scene.command(&words).spawn();
    let uploads = target.data().join("docker/registry/v2/repositories/a/_uploads");
    support::until("the upload has begun", || largest(&uploads) >= 2 * MIB);
    // The registry may be making another file there at this moment.
    support::until("the upload is gone", || std::fs::remove_dir_all(&uploads).is_ok() || !uploads.exists());
    gate.open();
    let output = running.wait().success();
    let run = crate::scene::objects(&output)[0]["run"].clone();
    assert_adds_up(&run);
    assert_eq!(run["causes"].as_object().unwrap().keys().collect::<Vec<_>>(), ["session-lost"], "{run}");
    assert!(number(&run, "moved") <= scene.registry.requests().blob_bytes(), "{run}");
    assert!(output.stderr.contains("again because an upload was lost"), "{}", output.stderr);
    scene.command(&["plan", "copy", "--exit-code", &scene.name(0), &to]).run().code(0);
}

/// The size of the largest file below `folder`.
fn largest(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.path().is_dir() {
        true => largest(&entry.path()),
        false => entry.metadata().map_or(0, |meta| meta.len()),
    };
    entries.map(size).max().unwrap_or(0)
}

#[test]
fn a_mount_that_is_refused_is_a_cause_of_what_it_would_have_given() {
    let (scene, target, image) = pushed();
    // The repository has lost the layer since we pushed it there.
    let layer = image.layer(0);
    let link = target.data().join("docker/registry/v2/repositories/a/_layers/sha256").join(layer.digest().hex());
    std::fs::remove_dir_all(link).unwrap();
    let to = format!("{}/b:1", target.host());
    let run = scene.json(&["push", &scene.name(0), &to])[0]["run"].clone();
    assert_eq!(run["causes"], serde_json::json!({ "mount-refused": layer.size() }), "{run}");
    assert_eq!((number(&run, "planned"), number(&run, "moved")), (0, layer.size()));
    assert_adds_up(&run);
}
