//! From registry to registry, through a mirror of the first that does not keep what it promised.

use support::peers::DockerRegistry;
use support::registry::{Fault, Registry, Times, When};

use crate::relay::Relay;
use crate::scene::{MIB, Pulled, Scene, image};

fn copy(scene: &Scene, from: &str, target: &DockerRegistry) -> Pulled {
    let words = ["copy", from, &target.name("b/y", "1"), "--format", "json", "--progress", "json"];
    let command = scene.command(&words).env("LAYERPULL_STALL_TIMEOUT", "20s").env("LAYERPULL_RETRIES", "2");
    Pulled(command.run()).success().adds_up()
}

#[test]
fn a_crawl_is_left_in_the_middle_of_a_blob_and_no_byte_comes_twice() {
    let (image, registry, mirror) = (image(8 * MIB), Registry::start(), Registry::start());
    [&registry, &mirror].into_iter().for_each(|place| place.add("a/x", "1", &image));
    mirror.rule(When::blob(image.layer(0).digest()), Times::Always, Fault::Drip(50_000));
    let (scene, target) = (Scene::new(), DockerRegistry::start());
    scene.hosts_toml(&registry.host(), &format!("[host.'{}']\n", mirror.url()));
    // At 50 kB/s it would take three minutes.
    let copied = copy(&scene, &registry.name("a/x", "1"), &target);
    assert!(copied.left(&mirror.host()).unwrap().contains("kB/s"), "{}", copied.0.transcript());
    let (slow, own) = (copied.from(&mirror.host()), copied.from(&registry.host()));
    assert!(slow > 50_000 && slow < MIB, "{slow}");
    assert_eq!(slow + own, image.size());
    assert_eq!(registry.requests().ranges(image.layer(0).digest()).len(), 1);
    let pulled = Scene::new().pull(&target.name("b/y", "1"), &[]).success();
    assert_eq!(pulled.result()["digest"].as_str(), Some(image.digest().to_string().as_str()));
}

#[test]
fn a_mirror_that_dies_in_the_middle_of_a_blob_costs_what_was_on_its_way() {
    let (image, registry, mirror) = (image(40 * MIB), Registry::start(), DockerRegistry::start());
    registry.add("a/x", "1", &image);
    mirror.push("a/x", "1", &image);
    let mirror_host = mirror.host();
    let relay = Relay::to(&mirror_host, 20 * MIB, move || drop(mirror));
    let (scene, target) = (Scene::new(), DockerRegistry::start());
    scene.hosts_toml(&registry.host(), &format!("[host.'http://{}']\n", relay.host()));
    let copied = copy(&scene, &registry.name("a/x", "1"), &target);
    let (mirror, own) = (copied.from(relay.host()), copied.from(&registry.host()));
    assert!(mirror > 10 * MIB && mirror <= 20 * MIB, "{mirror}");
    assert_eq!(mirror + own, image.size());
    assert!(copied.result()["run"]["causes"].as_object().unwrap().is_empty());
}
