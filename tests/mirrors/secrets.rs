//! The registry's credentials never reach a mirror, whatever that demands; a mirror gets its own.

use serde_json::json;
use support::images::Image;
use support::registry::{Auth, Bearer, Fault, Lifetime, Registry, Reply, Times, When};

use crate::scene::{MIB, Scene, image};

const USER: &str = "ann";
const PASSWORD: &str = "canary-password";

fn with_password(image: &Image, auth: Auth) -> Registry {
    let registry = Registry::start();
    registry.add("a/x", "1", image);
    registry.require(auth);
    registry
}

fn auth_json(scene: &Scene, entries: &[(&str, &str, &str)]) {
    use base64::Engine as _;
    let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let auths: serde_json::Map<String, serde_json::Value> = entries
        .iter()
        .map(|(host, user, password)| ((*host).into(), json!({"auth": encode(format!("{user}:{password}"))})))
        .collect();
    scene.write(".docker/config.json", &json!({"auths": auths}).to_string());
}

#[test]
fn a_mirror_that_demands_a_password_does_not_get_the_registrys() {
    let image = image(MIB);
    for auth in [Auth::basic(USER, PASSWORD), Auth::token(USER, PASSWORD)] {
        for demand in [Auth::basic(USER, PASSWORD), Auth::token(USER, PASSWORD)] {
            let (registry, mirror) = (with_password(&image, auth.clone()), with_password(&image, demand));
            let scene = Scene::new();
            scene.hosts_toml(&registry.host(), &format!("[host.'{}']\n", mirror.url()));
            auth_json(&scene, &[(&registry.host(), USER, PASSWORD)]);
            let stored = scene.pull(&registry.name("a/x", "1"), &[]).success();
            assert_eq!(stored.from(&registry.host()), image.size());
            let scene = Scene::new();
            scene.hosts_toml(&registry.host(), &format!("[host.'{}']\n", mirror.url()));
            let creds = format!("{USER}:{PASSWORD}");
            scene.pull(&registry.name("a/x", "1"), &["--creds", &creds]).success();
            let asked = mirror.requests();
            assert!(!asked.is_empty());
            assert!(asked.iter().all(|r| !r.carries("canary")), "{asked:#?}");
        }
    }
}

#[test]
fn a_token_of_the_registry_is_none_for_its_mirror() {
    let image = image(MIB);
    let registry = with_password(&image, Auth::token(USER, PASSWORD));
    let mirror = Registry::start();
    mirror.add("a/x", "1", &image);
    // The mirror only has what comes after a token was used at the registry.
    mirror.rule(When::manifests(), Times::Always, Fault::Reply(Reply::error(404, "MANIFEST_UNKNOWN", "")));
    let scene = Scene::new();
    scene.hosts_toml(&registry.host(), &format!("[host.'{}']\n", mirror.url()));
    auth_json(&scene, &[(&registry.host(), USER, PASSWORD)]);
    let pulled = scene.pull(&registry.name("a/x", "1"), &[]).success();
    assert_eq!(pulled.from(&mirror.host()), image.size());
    assert!(mirror.requests().iter().all(|r| r.header("authorization").is_none()), "{:#?}", mirror.requests());
}

#[test]
fn a_mirror_whose_realm_is_the_registrys_gets_no_token_for_the_registrys_password() {
    let image = image(MIB);
    let registry = with_password(&image, Auth::token(USER, PASSWORD));
    let bearer = Bearer {
        realm: Some(format!("{}/token", registry.url())),
        credentials: None,
        refresh_token: None,
        lifetime: Lifetime::Requests(100),
        challenge: None,
    };
    let mirror = with_password(&image, Auth::Bearer(bearer));
    let scene = Scene::new();
    scene.hosts_toml(&registry.host(), &format!("[host.'{}']\n", mirror.url()));
    auth_json(&scene, &[(&registry.host(), USER, PASSWORD)]);
    scene.pull(&registry.name("a/x", "1"), &[]).success();
    assert!(mirror.requests().iter().all(|r| !r.carries("canary")), "{:#?}", mirror.requests());
}

#[test]
fn a_mirror_gets_the_password_that_is_kept_for_its_own_host() {
    let image = image(MIB);
    for demand in [Auth::basic("bob", "mirrors-own"), Auth::token("bob", "mirrors-own")] {
        let (registry, mirror) = (with_password(&image, Auth::basic(USER, PASSWORD)), with_password(&image, demand));
        let scene = Scene::new();
        scene.hosts_toml(&registry.host(), &format!("[host.'{}']\n", mirror.url()));
        auth_json(&scene, &[(&registry.host(), USER, PASSWORD), (&mirror.host(), "bob", "mirrors-own")]);
        let pulled = scene.pull(&registry.name("a/x", "1"), &[]).success();
        assert_eq!(pulled.from(&mirror.host()), image.size());
        assert!(registry.requests().is_empty());
    }
}
