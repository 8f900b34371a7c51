//! `layerpull hosts`, and what is refused.

use support::registry::Registry;

use crate::scene::Scene;

fn shown(text: &str, scene: &Scene) -> String {
    let home = scene.write("here", "").parent().unwrap().display().to_string();
    text.replace(&home, "HOME")
}

#[test]
fn the_hosts_of_an_image_are_shown_with_file_and_line_and_nobody_is_asked() {
    let (scene, mirror) = (Scene::new(), Registry::start());
    scene.hosts_toml(
        "registry.test:5000",
        "server = 'https://registry.test:5000'\n\n[host.'http://spegel.test:30020']\ncapabilities = ['pull']\n\
         [host.'http://spegel.test:30020'.header]\nx-secret = 'canary'\n[host.'https://cache.test/v2/proxy']\noverride_path = true\n",
    );
    let name = "registry.test:5000/team/app:1";
    let words = ["hosts", name, "--mirror", &format!("{}/hub", mirror.url())];
    let text = scene.command(&words).run().success().stdout;
    insta::with_settings!({filters => vec![(r"127\.0\.0\.1:\d+ *", "MIRROR "), (r"MIRROR /", "MIRROR/"), (r" {3,}", "  ")]}, {
        insta::assert_snapshot!(shown(&text, &scene), @r"
        registry.test:5000/team/app:1
        1  mirror  http://MIRROR/v2/hub/team/app  pull  ns=registry.test:5000  --mirror
        2  mirror  http://spegel.test:30020/v2/team/app  pull  ns=registry.test:5000, header x-secret  HOME/certs.d/registry.test:5000/hosts.toml:3
        3  mirror  https://cache.test/v2/proxy/team/app  pull,resolve  ns=registry.test:5000  HOME/certs.d/registry.test:5000/hosts.toml:7
        4  registry  https://registry.test:5000/v2/team/app  pull,resolve,push  HOME/certs.d/registry.test:5000/hosts.toml:1
        ");
    });
    let json: serde_json::Value =
        serde_json::from_str(&scene.command(&words).args(["--format", "json"]).run().success().stdout).unwrap();
    assert_eq!(json["reference"], name);
    let second = &json["hosts"][1];
    assert_eq!(second["url"], "http://spegel.test:30020/v2/team/app");
    assert_eq!((second["role"].as_str(), second["ns"].as_str()), (Some("mirror"), Some("registry.test:5000")));
    assert_eq!((&second["line"], &second["headers"][0]), (&3.into(), &"x-secret".into()));
    assert!(mirror.requests().is_empty() && !json.to_string().contains("canary"));
}

#[test]
fn a_blocked_registry_is_refused_with_file_and_line() {
    let (scene, registry) = (Scene::new(), Registry::start());
    scene.registries_conf(&format!("[[registry]]\nlocation = '{}'\nblocked = true\n", registry.host()));
    for command in [&["pull"][..], &["hosts"], &["digest"], &["tags"]] {
        let output = scene.command(command).arg(registry.name("a/x", "1")).run().code(1);
        let said = shown(&output.stderr, &scene);
        assert!(said.contains("refused: HOME/.config/containers/registries.conf:2 blocks its registry"), "{said}");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_file_that_makes_no_sense_is_a_mistake_of_the_configuration() {
    let scene = Scene::new();
    scene.hosts_toml("registry.test", "[host.'http://a']\ncapabilities = 'dance'\n");
    let output = scene.command(&["pull", "registry.test/a:1"]).run().code(2);
    let said = shown(&output.stderr, &scene);
    assert!(said.contains("HOME/certs.d/registry.test/hosts.toml:2: `capabilities`: \"dance\" is none of"), "{said}");
}
