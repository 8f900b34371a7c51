//! A real docker-registry as a cache in front of another one.

use support::peers::DockerRegistry;
use support::registry::{Fault, Registry, Times, When};

use crate::relay::Relay;
use crate::scene::{MIB, Scene, image};

/// Requests of ours in the log of a real registry; the cache names itself otherwise.
fn ours(registry: &DockerRegistry, method: &str, part: &str) -> usize {
    let start = format!("\"{method} ");
    let log = registry.settled_log();
    log.iter().filter(|line| line.contains("layerpull/") && line.contains(&start) && line.contains(part)).count()
}

/// So many were answered. A registry logs a large answer when it has ended, which may be after it was read.
#[track_caller]
fn assert_ours(registry: &DockerRegistry, part: &str, expected: usize) {
    support::until("every answer is logged", || ours(registry, "GET", part) >= expected);
    assert_eq!(ours(registry, "GET", part), expected, "{part}");
}

#[test]
fn a_cache_serves_what_hosts_toml_lets_it_serve() {
    let (registry, image) = (DockerRegistry::start(), image(3 * MIB));
    registry.push("library/x", "1", &image);
    let cache = DockerRegistry::start_cache_of(&registry.host());
    for (capabilities, asked) in [("'pull', 'resolve'", 0), ("'pull'", 1)] {
        let (scene, before) = (Scene::new(), ours(&registry, "HEAD", "/manifests/"));
        let text = format!("[host.'http://{}']\ncapabilities = [{capabilities}]\n", cache.host());
        scene.hosts_toml(&registry.host(), &text);
        let pulled = scene.pull(&registry.name("library/x", "1"), &[]).success().adds_up();
        scene.assert_whole(&image);
        assert_eq!(ours(&registry, "HEAD", "/manifests/1") - before, asked, "{capabilities}");
        assert_eq!(ours(&registry, "GET", "/v2/"), 0, "{capabilities}");
        assert_eq!((pulled.from(&cache.host()), pulled.from(&registry.host())), (image.size(), 0));
    }
    assert_ours(&cache, "/blobs/", 4);
    assert_ours(&cache, &format!("ns={}", registry.host().replace(':', "%3A")), 6);
}

#[test]
fn a_cache_serves_what_registries_conf_sends_to_it() {
    let (registry, image) = (DockerRegistry::start(), image(3 * MIB));
    registry.push("library/x", "1", &image);
    let cache = DockerRegistry::start_cache_of(&registry.host());
    let scene = Scene::new();
    scene.registries_conf(&format!(
        "[[registry]]\nprefix = 'r.test/team'\nlocation = '{}/library'\n[[registry.mirror]]\nlocation = '{}/library'\n",
        registry.host(),
        cache.host()
    ));
    let pulled = scene.pull("r.test/team/x:1", &[]).success().adds_up();
    scene.assert_whole(&image);
    assert_eq!(ours(&registry, "", "/v2/"), 0);
    assert_eq!((pulled.from(&cache.host()), pulled.from(&registry.host())), (image.size(), 0));
    assert!(cache.settled_log().iter().all(|line| !line.contains("ns=")));
    assert!(pulled.result()["reference"] == "r.test/team/x:1");
}

#[test]
fn a_cache_that_dies_in_the_middle_of_a_blob_costs_less_than_a_range() {
    let (registry, image) = (DockerRegistry::start(), image(90 * MIB));
    registry.push("library/x", "1", &image);
    let cache = DockerRegistry::start_cache_of(&registry.host());
    let cache_host = cache.host();
    let relay = Relay::to(&cache_host, 40 * MIB, move || drop(cache));
    let scene = Scene::new();
    scene.hosts_toml(&registry.host(), &format!("[host.'http://{}']\n", relay.host()));
    let pulled = scene.pull(&registry.name("library/x", "1"), &[]).success().adds_up();
    scene.assert_whole(&image);
    let (mirror, own) = (pulled.from(relay.host()), pulled.from(&registry.host()));
    // What the kernel had taken from the mirror when it died was not read any more.
    assert!(mirror > 30 * MIB && mirror <= 40 * MIB, "{mirror}");
    assert_eq!(mirror + own, image.size());
    assert!(pulled.result()["run"]["causes"].as_object().unwrap().is_empty());
    let told = pulled.events("retried").into_iter().chain(pulled.events("left"));
    assert!(told.into_iter().any(|event| event.to_string().contains(relay.host())), "{}", pulled.0.stderr);
}

#[test]
fn wrong_bytes_of_a_mirror_are_noticed_and_the_registry_is_asked() {
    let (registry, mirror, image) = (DockerRegistry::start(), Registry::start(), image(5 * MIB));
    registry.push("library/x", "1", &image);
    mirror.add("library/x", "1", &image);
    mirror.rule(When::blob(image.layer(0).digest()), Times::Always, Fault::Flip(MIB));
    let scene = Scene::new();
    scene.hosts_toml(&registry.host(), &format!("[host.'http://{}']\n", mirror.host()));
    let pulled = scene.pull(&registry.name("library/x", "1"), &[]).success().adds_up();
    scene.assert_whole(&image);
    assert!(pulled.left(&mirror.host()).unwrap().contains("wrong bytes"), "{}", pulled.0.transcript());
    assert_eq!(pulled.events("left")[0]["host"], mirror.host());
    assert_ours(&registry, "/blobs/", 1);
    let spoiled = pulled.result()["run"]["causes"]["spoiled"].as_u64().unwrap();
    assert_eq!(spoiled, image.layer(0).size());
    scene.command(&["verify"]).run().success();
}

#[test]
fn a_manifest_that_is_not_what_its_digest_names_has_its_mirror_left() {
    let (registry, mirror, image) = (DockerRegistry::start(), Registry::start(), image(MIB));
    registry.push("library/x", "1", &image);
    mirror.add("library/x", "1", &image);
    mirror.rule(When::manifests().get(), Times::Always, Fault::Flip(10));
    let scene = Scene::new();
    scene.hosts_toml(&registry.host(), &format!("[host.'http://{}']\n", mirror.host()));
    let pulled = scene.pull(&registry.name("library/x", "1"), &[]).success();
    scene.assert_whole(&image);
    assert_eq!(pulled.events("left")[0]["host"], mirror.host());
    assert_eq!(mirror.requests().all_blob_gets().len(), 0);
    assert_eq!(pulled.from(&registry.host()), image.size());
}
