//! What a plan says of several mirrors.

use serde_json::Value;
use support::images::{Blob, Image};
use support::peers::DockerRegistry;
use support::registry::Registry;

use crate::scene::{MIB, Scene};

fn image(seed: u64) -> Image {
    Image::build().layer(Blob::noise(seed, 6 * MIB)).layer(Blob::noise(seed + 1, 6 * MIB)).finish()
}

#[test]
fn mirrors_that_serve_at_once_are_planned_with_the_rates_of_all() {
    let places = [Registry::start(), Registry::start(), Registry::start()];
    for place in &places {
        place.add("a/x", "1", &image(1));
        place.add("a/x", "2", &image(3));
    }
    let [registry, one, two] = &places;
    let scene = Scene::new();
    scene.hosts_toml(&registry.host(), &format!("[host.'{}']\n[host.'{}']\n", one.url(), two.url()));
    let plan = |words: &[&str]| -> Value {
        let text = scene.command(&["plan"]).args(words).args(["--format", "json"]).run().success().stdout;
        serde_json::from_str::<Value>(&text).unwrap()["plan"].take()
    };
    let name = registry.name("a/x", "2");
    assert_eq!(plan(&["pull", &name])["seconds"], Value::Null);

    let pulled = scene.pull(&registry.name("a/x", "1"), &[]).success();
    let brought = [one, two].map(|mirror| pulled.from(&mirror.host()));
    assert!(brought.iter().all(|bytes| *bytes > MIB), "{brought:?}");
    let text =
        std::fs::read_to_string(scene.write(".local/state/layerpull/x", "").with_file_name("hosts.json")).unwrap();
    let kept: Value = serde_json::from_str(&text).unwrap();
    let rate = |host: &Registry| find(&kept, &host.host()).unwrap_or_else(|| panic!("{kept}"));
    let together = rate(one) + rate(two);

    let planned = plan(&["pull", &name]);
    let hosts = planned["hosts"].as_array().unwrap();
    assert_eq!((hosts.len(), &hosts[0]["host"], &hosts[0]["beside"][0]), (1, &one.host().into(), &two.host().into()));
    assert_eq!(hosts[0]["rate"], together, "{planned}");
    let expected = planned["moved"].as_u64().unwrap() as f64 / together as f64;
    assert!((planned["seconds"].as_f64().unwrap() - expected).abs() < 1e-6, "{planned}");
    let text = scene.command(&["plan", "pull", &name]).run().success().stdout;
    assert!(text.contains(&format!("from {} and {}, 3 blobs", one.host(), two.host())), "{text}");
    assert!(text.contains(&format!("from {} and another", one.host())), "{text}");

    // A copy of several blobs uses both, too.
    let target = DockerRegistry::start();
    let copied = plan(&["copy", "--no-local", &name, &target.name("b/y", "1")]);
    assert_eq!(copied["hosts"][0]["rate"], together, "{copied}");
}

/// The rate down of a host, wherever the file has it.
fn find(value: &Value, host: &str) -> Option<u64> {
    match value {
        Value::Object(map) if map.get("host").is_some_and(|name| name == host) => map.get("down")?.as_u64(),
        Value::Object(map) => map.values().find_map(|value| find(value, host)),
        Value::Array(list) => list.iter().find_map(|value| find(value, host)),
        _ => None,
    }
}
