//! What a plan says, and that it changes nothing.

use std::collections::BTreeSet;

use support::command::{Layerpull, filters};
use support::images::{Blob, Image};
use support::peers::DockerRegistry;
use support::registry::{Fault, Reply, Times, When};

use crate::scene::{KIB, MIB, Scene, blob_path, image, number, objects};

/// Every file below `folder`, with what it holds.
fn files(folder: &std::path::Path) -> BTreeSet<(std::path::PathBuf, Vec<u8>)> {
    let mut all = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => _ = all.insert((path.clone(), std::fs::read(&path).unwrap())),
            }
        }
    }
    all
}

#[test]
fn a_plan_sends_head_and_get_fetches_no_blob_and_makes_no_store() {
    let scene = Scene::of(&[&image(1)]);
    let object = scene.json(&["plan", "pull", &scene.name(0)]).remove(0);
    let requests = scene.registry.requests();
    assert!(requests.iter().all(|r| r.method == "HEAD" || r.method == "GET"), "{requests:#?}");
    assert!(requests.all_blob_gets().is_empty());
    assert!(!scene.store().exists());
    let total: u64 = image(1).blobs.iter().map(Blob::size).sum();
    assert_eq!((object["status"].as_str(), number(&object, "moved")), (Some("would-download"), total));
    assert_eq!(object["blobs"].as_array().unwrap().len(), 3);
    let digests: BTreeSet<&str> =
        object["blobs"].as_array().unwrap().iter().map(|blob| blob["digest"].as_str().unwrap()).collect();
    assert!(image(1).blobs.iter().all(|blob| digests.contains(blob.digest().to_string().as_str())));
    assert_eq!(object["plan"]["hosts"][0]["host"], scene.registry.host());
    assert_eq!(
        (&object["plan"]["seconds"], object["plan"]["basis"].as_str()),
        (&serde_json::Value::Null, Some("unknown"))
    );
    let manifests = image(1).root().bytes.len() as u64;
    assert_eq!(number(&object["plan"]["disk"], "needed"), total + manifests);
    assert!(number(&object["plan"]["disk"], "free") > 0);
}

#[test]
fn a_dry_run_says_what_the_plan_says() {
    let scene = Scene::of(&[&image(1)]);
    let name = scene.name(0);
    // How much is free changes from one moment to the next.
    let said = |words: &[&str]| {
        let text = scene.command(words).arg(&name).run().success().stdout;
        text.lines().filter(|line| !line.starts_with("disk")).map(str::to_owned).collect::<Vec<_>>()
    };
    let plan = said(&["plan", "pull"]);
    assert_eq!(said(&["pull", "--dry-run"]), plan);
    // Without a command the image is pulled, also in a plan.
    assert_eq!(said(&["plan"]), plan);
}

#[test]
fn a_plan_is_read_at_a_glance() {
    let images = [image(1), image(2)];
    let scene = Scene::of(&[&images[0], &images[1]]);
    scene.command(&["pull", &scene.name(0)]).run().success();
    let plan = scene.command(&["plan", "pull", &scene.name(0), &scene.name(1)]).run().success();
    assert!(plan.stdout.lines().all(|line| line.len() <= 80 || line.starts_with("disk")), "{}", plan.stdout);
    // How fast the last run was is a matter of the machine.
    let time = (r"less than 0\.1 s|about \d+\.\d s", "about [TIME]");
    insta::with_settings!({ filters => [vec![time], filters()].concat() }, {
        insta::assert_snapshot!(plan.transcript());
    });
}

#[test]
fn the_exit_code_says_whether_there_is_something_to_do() {
    let scene = Scene::of(&[&image(1)]);
    let name = scene.name(0);
    scene.command(&["plan", "pull", "--exit-code", &name]).run().code(10);
    scene.command(&["plan", "pull", &name]).run().code(0);
    scene.command(&["pull", &name]).run().success();
    scene.command(&["plan", "pull", "--exit-code", &name]).run().code(0);
    let gone = scene.registry.name("library/x", "gone");
    scene.command(&["plan", "pull", "--exit-code", &gone]).run().code(3);
    let refused = scene.command(&["pull", "--exit-code", &name]).run().code(2);
    assert!(refused.stderr.contains("--dry-run"), "{}", refused.stderr);
}

#[test]
fn a_plan_against_a_store_leaves_every_file_as_it_was_also_a_damaged_blob() {
    let images = [image(1), image(2)];
    let scene = Scene::of(&[&images[0], &images[1]]);
    scene.command(&["pull", &scene.name(0)]).run().success();
    let path = blob_path(&scene.store(), images[0].layer(1));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[7] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    // What was never recorded is hashed, and not recorded either.
    std::fs::remove_file(scene.store().join(".layerpull/verified")).unwrap();
    let before = files(&scene.store());
    let plan = scene.json(&["plan", "pull", &scene.name(0), &scene.name(1)]);
    assert_eq!(files(&scene.store()), before);
    assert_eq!(number(&plan[0], "moved"), images[0].layer(1).size());
}

#[test]
fn an_image_that_cannot_be_planned_leaves_the_others_their_plan() {
    let scene = Scene::of(&[&image(1), &image(2)]);
    let manifest = image(2).digest().to_string();
    scene.registry.rule(When::path(&manifest), Times::Always, Fault::Reply(Reply::status(404)));
    let output = scene.command(&["plan", "pull", "--format", "json", &scene.name(0), &scene.name(1)]).run().code(9);
    let statuses: Vec<String> =
        objects(&output).iter().map(|object| object["status"].as_str().unwrap().to_owned()).collect();
    assert_eq!(statuses, ["would-download", "failed"]);
}

#[test]
fn the_time_is_known_after_a_run_that_moved_enough() {
    let images = [image(1), image(2)];
    let scene = Scene::of(&[&images[0], &images[1]]);
    scene.command(&["pull", &scene.name(0)]).run().success();
    let plan = scene.json(&["plan", "pull", &scene.name(1)])[0]["plan"].clone();
    assert_eq!(plan["basis"], "remembered", "{plan}");
    let (rate, bytes) = (number(&plan["hosts"][0], "rate"), number(&plan, "moved"));
    assert!((plan["seconds"].as_f64().unwrap() - bytes as f64 / rate as f64).abs() < 1e-6, "{plan}");
}

#[test]
fn plans_of_pushes_and_copies_send_head_and_get_alone() {
    let (scene, target) = (Scene::of(&[&image(1), &image(2)]), DockerRegistry::start());
    scene.command(&["pull", &scene.name(0)]).run().success();
    let to = |repository: &str| format!("{}/{repository}:1", target.host());
    let total: u64 = image(1).blobs.iter().map(Blob::size).sum();
    let push = scene.json(&["plan", "push", &scene.name(0), &to("a")]);
    assert_eq!((number(&push[0], "moved"), &push[0]["plan"]["hosts"][0]["direction"]), (total, &"up".into()));
    let copy = scene.json(&["plan", "copy", "--no-local", &scene.name(0), &to("a")]);
    assert_eq!(number(&copy[0], "moved"), total);
    assert_eq!(copy[0]["plan"]["hosts"].as_array().unwrap().len(), 2, "{}", copy[0]);
    let log = target.settled_log();
    let is_harmless = |line: &String| line.contains("\"HEAD ") || line.contains("\"GET ");
    assert!(log.len() > 2 && log.iter().all(is_harmless), "{log:#?}");
    assert!(scene.registry.requests().iter().all(|r| r.method == "HEAD" || r.method == "GET"));

    scene.command(&["push", &scene.name(0), &to("a")]).run().success();
    let again = scene.command(&["plan", "push", "--exit-code", "--format", "json", &scene.name(0), &to("a")]).run();
    assert_eq!(objects(&again.code(0))[0]["status"], "up-to-date");
    // A repository of the same registry can have it mounted.
    let mount = scene.json(&["plan", "copy", &to("a"), &to("b")]);
    assert_eq!((number(&mount[0], "moved"), number(&mount[0], "mounted")), (0, total));
    assert_eq!(mount[0]["blobs"][0]["from"], "a");
}

#[test]
fn referrers_are_in_the_plan_of_a_copy_that_takes_them_along() {
    let (scene, target) = (Scene::of(&[]), DockerRegistry::start());
    let subject = image(1);
    let signature =
        Image::build().layer(Blob::noise(9, 10 * KIB)).artifact("a/signature").subject(subject.descriptor()).finish();
    scene.registry.add("library/x", "0", &subject);
    signature.blobs.iter().for_each(|blob| scene.registry.add_blob("library/x", blob));
    scene.registry.add_manifest("library/x", &signature.digest().to_string(), signature.root().clone());
    let to = format!("{}/a:1", target.host());
    let plan = scene.json(&["plan", "copy", "--referrers", &scene.name(0), &to]);
    assert_eq!(plan.len(), 2, "{plan:#?}");
    let planned = number(&plan[0]["plan"], "moved");
    let run = scene.json(&["copy", "--referrers", &scene.name(0), &to])[0]["run"].clone();
    assert_eq!((number(&run, "moved"), number(&run, "planned")), (planned, planned));
}

#[test]
fn what_a_full_disk_lacks_is_said() {
    let layer = Blob::noise(5, MIB);
    let mut vast = layer.clone();
    vast.descriptor.size = 1 << 60;
    let image = Image::build().layer(vast).finish();
    let scene = Scene::of(&[&image]);
    let plan = scene.command(&["plan", "pull", &scene.name(0)]).run().success();
    assert!(plan.stdout.contains("TOO LITTLE"), "{}", plan.stdout);
}

#[test]
fn the_help_names_the_commands_that_can_be_planned() {
    let help = Layerpull::new().args(["plan", "--help"]).run().success().stdout;
    assert!(["pull", "push", "copy", "sync"].iter().all(|name| help.contains(name)), "{help}");
}
