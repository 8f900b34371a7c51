//! Each exit code from what it stands for.

use support::command::Output;
use support::images::{Blob, Content, Image};
use support::registry::{Auth, Cut, Fault, Registry, Reply, Times, When};

use super::scene::{KIB, Scene};

fn scene() -> Scene {
    Scene::with(&Image::build().layer(Blob::noise(1, 100 * KIB)).finish())
}

/// Ends with `code`, says `part`, and has no result.
#[track_caller]
fn ends(output: Output, code: i32, part: &str) {
    let output = output.code(code);
    assert!(output.stdout.is_empty() && output.stderr.contains(part), "{}", output.transcript());
}

#[test]
fn what_the_registry_does_not_have_is_3() {
    let scene = scene();
    let missing = scene.registry.name("library/x", "2");
    ends(scene.command("pull").arg(&missing).run(), 3, &missing);
    ends(scene.command("pull").arg(scene.registry.name("nobody/y", "1")).run(), 3, "not found");
    scene.registry.add("library/x", "many", &Image::index(&[Image::build().finish()]));
    let many = scene.command("pull").arg(scene.registry.name("library/x", "many"));
    ends(many.args(["--platform", "windows/riscv64"]).run(), 3, "windows/riscv64");
    ends(scene.command("tags").arg(scene.registry.name("nobody/y", "1")).run(), 3, "not found");
    assert!(scene.registry.requests().all_blob_gets().is_empty());
}

#[test]
fn a_blob_that_the_registry_lost_is_3_and_the_others_stay() {
    let (there, lost) = (Blob::noise(2, 10 * KIB), Blob::noise(3, 20 * KIB));
    let scene = Scene::with(&Image::build().layer(there.clone()).layer(lost.clone()).finish());
    scene.registry.remove_blob("library/x", &lost);
    ends(scene.pull().args(["-j", "1"]).run(), 3, &lost.digest().to_string());
}

#[test]
fn wrong_and_missing_credentials_are_4_with_the_next_step() {
    let scene = scene();
    for auth in [Auth::basic("ann", "secret"), Auth::token("ann", "secret")] {
        scene.registry.require(auth);
        ends(scene.pull().run(), 4, "layerpull login 127.0.0.1");
        ends(scene.pull().args(["--creds", "ann:wrong"]).run(), 4, "127.0.0.1");
        scene.pull().args(["--creds", "ann:secret"]).run().success();
    }
}

#[test]
fn a_registry_that_fails_is_5() {
    let scene = scene();
    scene.registry.rule(When::any(), Times::Always, Fault::Reply(Reply::status(502)));
    ends(scene.pull().args(["--retries", "1"]).run(), 5, "run the same command again");
    scene.registry.behave();
    scene.registry.rule(When::blobs(), Times::Always, Fault::CutBeforeHead(Cut::Rst));
    ends(scene.pull().args(["--retries", "0"]).run(), 5, "run the same command again");
}

#[test]
fn wrong_bytes_are_6() {
    let image = Image::build().layer(Blob::noise(4, 100 * KIB)).finish();
    let scene = Scene::with(&image);
    scene.registry.rule(When::blob(image.layer(0).digest()), Times::Always, Fault::Flip(77));
    ends(scene.pull().run(), 6, &image.layer(0).digest().to_string());
    assert!(!scene.path(image.layer(0).digest()).exists());
}

#[test]
fn a_manifest_that_is_none_is_1() {
    let scene = scene();
    let page = "<html>please sign in</html>";
    scene.registry.add_text("library/x", "page", "text/html", page);
    ends(scene.command("pull").arg(scene.registry.name("library/x", "page")).run(), 1, "library/x:page");
}

#[test]
fn one_of_two_is_9_and_the_other_is_there() {
    let scene = scene();
    let missing = scene.registry.name("library/x", "2");
    let output = scene.pull().arg(&missing).run().code(9);
    assert!(output.stderr.contains(&missing), "{}", output.stderr);
    assert!(output.stdout.contains(&scene.name()) && !output.stdout.contains("Digest: \n"), "{}", output.stdout);
    assert!(scene.command("images").run().success().stdout.contains("library/x"));
}

#[test]
fn nothing_moves_before_every_name_is_known() {
    let (scene, other) = (scene(), Registry::start());
    other.add("b", "1", &Image::build().layer(Blob::new("x/y", Content::Fill { byte: 1, size: 10 })).finish());
    scene.pull().arg(other.name("b", "1")).run().success();
    let (first, last) = (scene.registry.requests(), other.requests());
    let blobs = first.all_blob_gets().iter().chain(last.all_blob_gets().iter()).map(|r| r.at).min().unwrap();
    let names = |requests: &support::registry::Requests| {
        requests.iter().filter(|r| super::scene::is_manifest(r)).map(|r| r.at).max().unwrap()
    };
    assert!(names(&first) < blobs && names(&last) < blobs);
}
