//! The usual port, spelled out: to files and to those who read them, `HOST:443` is another name than `HOST`.

use support::command::Layerpull;
use support::images::Image;
use support::proxy::Proxy;
use support::registry::Registry;

use crate::scene::Scene;

/// Names of a registry with TLS that only a proxy can reach: with the port and without.
const NAMES: [&str; 2] = ["registry.test:443/a/x:1", "registry.test/a/x:1"];

struct Behind {
    registry: Registry,
    proxy: Proxy,
    scene: Scene,
}

impl Behind {
    fn proxy() -> Behind {
        let registry = Registry::start_tls_as(&["registry.test"]);
        registry.add("a/x", "1", &Image::tiny("x"));
        Behind { proxy: Proxy::to(registry.address()), registry, scene: Scene::new() }
    }

    fn digest(&self, name: &str) -> Layerpull {
        self.scene
            .command(&["digest", name])
            .env("ALL_PROXY", self.proxy.url("ann:canary"))
            .env("LAYERPULL_RETRIES", "0")
    }

    /// Only the first name is let in.
    #[track_caller]
    fn assert_trusted_by(&self, [right, wrong]: [&str; 2], told: &str) {
        let count = || self.registry.requests().count("HEAD", "/manifests/1");
        let before = count();
        self.digest(right).run().success();
        assert_eq!(count(), before + 1, "{told}");
        let output = self.digest(wrong).run().code(5);
        assert!(output.stderr.contains("certificate"), "{told}: {}", output.stderr);
    }
}

/// As skopeo 1.9 has it: a folder of `certs.d` and a table of `registries.conf` are for the name as it is written.
#[test]
fn what_is_said_of_a_host_with_its_port_is_for_names_that_have_it() {
    for (folder, names) in [("registry.test:443", NAMES), ("registry.test", [NAMES[1], NAMES[0]])] {
        let behind = Behind::proxy();
        let authority = format!(".config/containers/certs.d/{folder}/ca.crt");
        behind.scene.write(&authority, behind.registry.certificate());
        behind.assert_trusted_by(names, folder);
    }
    let behind = Behind::proxy();
    behind.scene.registries_conf("[[registry]]\nlocation = 'registry.test:443'\ninsecure = true\n");
    behind.assert_trusted_by(NAMES, "registries.conf");
}

#[test]
fn a_server_that_is_the_registry_but_for_its_spelled_port_is_asked_as_the_registry() {
    let behind = Behind::proxy();
    behind.registry.require(support::registry::Auth::basic("ann", "secret"));
    behind.scene.hosts_toml("registry.test:443", "server = 'https://registry.test:443'\nskip_verify = true\n");
    behind.digest(NAMES[0]).args(["--creds", "ann:secret"]).run().success();
    let asked = behind.registry.requests();
    assert!(asked.iter().all(|request| request.query.is_empty()), "{asked:#?}");
    assert!(asked.iter().any(|request| request.basic().is_some()), "{asked:#?}");
}
