//! What a mirror is asked, and how: `ns`, headers, paths, capabilities, and the order of several.

use support::registry::{Fault, Registry, Reply, Times, When};

use crate::scene::{MIB, Scene, image};

fn holding(image: &support::images::Image, repository: &str) -> Registry {
    let registry = Registry::start();
    registry.add(repository, "1", image);
    registry
}

#[test]
fn ns_is_sent_to_the_hosts_of_hosts_toml_and_to_no_other() {
    let image = image(MIB);
    let (registry, mirror) = (holding(&image, "a/x"), holding(&image, "a/x"));
    mirror.remove_blob("a/x", image.layer(0));
    let name = registry.name("a/x", "1");
    let scene = Scene::new();
    scene.hosts_toml(
        &registry.host(),
        &format!("[host.'{}']\n[host.'{}'.header]\nx-one = ['1', '2']\n", mirror.url(), mirror.url()),
    );
    scene.pull(&name, &[]).success();
    let asked = mirror.requests();
    assert!(asked.len() >= 4, "{asked:#?}");
    assert!(asked.iter().all(|r| r.parameter("ns") == Some(registry.host())), "{asked:#?}");
    assert!(asked.iter().all(|r| r.headers.iter().filter(|(name, _)| name == "x-one").count() == 2));
    let own = registry.requests();
    assert_eq!(own.blob_gets(image.layer(0).digest()).len(), 1, "what the mirror lacks comes from the registry");
    assert!(own.iter().all(|r| r.query.is_empty() && r.header("x-one").is_none()), "{own:#?}");

    let (scene, before) = (Scene::new(), mirror.requests().len());
    scene.registries_conf(&format!(
        "[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}'\n",
        registry.host(),
        mirror.host()
    ));
    scene.pull(&name, &[]).success();
    assert!(mirror.requests().len() > before);
    assert!(mirror.requests().iter().skip(before).all(|r| r.query.is_empty()));
}

#[test]
fn headers_of_a_mirror_do_not_follow_a_redirect_to_another_host() {
    let image = image(MIB);
    let (registry, mirror, storage) = (holding(&image, "a/x"), holding(&image, "a/x"), holding(&image, "a/x"));
    let address = format!("{}/v2/a/x/blobs/{}", storage.url(), image.layer(0).digest());
    let redirect = Fault::Redirect(support::registry::Redirect::To(address));
    mirror.rule(When::blob(image.layer(0).digest()), Times::Always, redirect);
    let scene = Scene::new();
    let text = format!(
        "[host.'{0}']\n[host.'{0}'.header]\nauthorization = 'Basic canary'\nx-token = 'canary'\n",
        mirror.url()
    );
    scene.hosts_toml(&registry.host(), &text);
    scene.pull(&registry.name("a/x", "1"), &[]).success();
    assert!(mirror.requests().iter().all(|r| r.header("x-token") == Some("canary")));
    assert_eq!(storage.requests().all_blob_gets().len(), 1);
    assert!(storage.requests().iter().all(|r| !r.carries("canary")), "{:#?}", storage.requests());
}

#[test]
fn a_path_is_literal_where_override_path_says_so_and_gets_v2_elsewhere() {
    let image = image(MIB);
    let registry = holding(&image, "a/x");
    for (address, literal, expected) in [
        ("/sub", false, "/sub/v2/a/x/"),
        ("/v2/project", false, "/v2/project/v2/a/x/"),
        ("/v2/project", true, "/v2/project/a/x/"),
        ("/sub/v2", false, "/sub/v2/a/x/"),
    ] {
        let (scene, mirror) = (Scene::new(), Registry::start());
        let text = format!("[host.'{}{address}']\noverride_path = {literal}\n", mirror.url());
        scene.hosts_toml(&registry.host(), &text);
        scene.pull(&registry.name("a/x", "1"), &[]).success();
        let asked = mirror.requests();
        assert!(!asked.is_empty() && asked.iter().all(|r| r.path.starts_with(expected)), "{address}: {asked:#?}");
    }
}

#[test]
fn mirrors_of_ones_own_bring_blobs_and_say_what_tags_point_to_only_where_they_may() {
    let image = image(MIB);
    let (registry, mirror) = (holding(&image, "a/x"), holding(&image, "hub/a/x"));
    for (word, heads) in [("", 1), (" resolve", 0)] {
        let (scene, before) = (Scene::new(), registry.requests().count("HEAD", "/manifests/"));
        let own = format!("{}/a={}/hub{word}", registry.host(), mirror.url());
        let pulled = scene.pull(&registry.name("a/x", "1"), &["--mirror", &own]).success();
        assert_eq!(pulled.from(&mirror.host()), image.size());
        assert_eq!(registry.requests().count("HEAD", "/manifests/") - before, heads, "{own}");
    }
    let own = format!("{}/b={}/hub", registry.host(), mirror.url());
    let (scene, before) = (Scene::new(), mirror.requests().len());
    scene.pull(&registry.name("a/x", "1"), &["--mirror", &own]).success();
    assert_eq!(mirror.requests().len(), before, "it is for other images");
}

#[test]
fn the_system_s_mirrors_are_passed_over_when_asked_to() {
    let image = image(MIB);
    let (registry, mirror) = (holding(&image, "a/x"), holding(&image, "a/x"));
    let scene = Scene::new();
    scene.hosts_toml(&registry.host(), &format!("[host.'{}']\n", mirror.url()));
    scene.pull(&registry.name("a/x", "1"), &["--system-config=false"]).success();
    assert!(mirror.requests().is_empty());
}

#[test]
fn a_mirror_that_answers_nothing_useful_is_left_and_named_and_the_next_is_asked() {
    let image = image(MIB);
    let (registry, broken, good) = (holding(&image, "a/x"), Registry::start(), holding(&image, "a/x"));
    broken.rule(When::any(), Times::Always, Fault::Reply(Reply::error(403, "DENIED", "no")));
    let scene = Scene::new();
    scene.hosts_toml(&registry.host(), &format!("[host.'{}']\n[host.'{}']\n", broken.url(), good.url()));
    let pulled = scene.pull(&registry.name("a/x", "1"), &[]).success();
    let left = pulled.events("left");
    assert_eq!((left.len(), &left[0]["host"]), (1, &broken.host().into()));
    assert_eq!(broken.requests().len(), 1, "{:#?}", broken.requests());
    assert_eq!(pulled.from(&good.host()), image.size());
    assert!(registry.requests().is_empty());
}

#[test]
fn a_mirror_that_is_too_busy_is_no_reason_to_fail() {
    let image = image(MIB);
    let (registry, mirror) = (holding(&image, "a/x"), holding(&image, "a/x"));
    let busy = Reply::error(429, "TOOMANYREQUESTS", "later").header("retry-after", "30");
    mirror.rule(When::any(), Times::Always, Fault::Reply(busy));
    let scene = Scene::new();
    scene.hosts_toml(&registry.host(), &format!("[host.'{}']\n", mirror.url()));
    let pulled = scene.pull(&registry.name("a/x", "1"), &[]).success().adds_up();
    assert_eq!(pulled.from(&registry.host()), image.size());
    assert!(pulled.events("retried").iter().any(|event| event["why"].as_str().unwrap().contains("429")));
}

#[test]
fn what_is_pushed_goes_to_the_registry_itself() {
    let image = image(MIB);
    let (registry, mirror) = (support::peers::DockerRegistry::start(), Registry::start());
    let scene = Scene::new();
    scene.hosts_toml(&registry.host(), &format!("[host.'{}']\n", mirror.url()));
    let source = holding(&image, "a/x");
    scene.command(&["copy", &source.name("a/x", "1"), &registry.name("a/x", "1")]).run().success();
    assert!(mirror.requests().is_empty(), "{:#?}", mirror.requests());
    assert!(registry.count("PUT", "/manifests/1") == 1);
}
