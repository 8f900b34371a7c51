//! One host for several registries, of which each says something else: its headers, its certificates.

use support::command::Output;
use support::images::{Blob, Image};
use support::peers::DockerRegistry;
use support::registry::{Kind, Registry, Request};

use crate::scene::{MIB, Scene};

const REPOSITORIES: [&str; 2] = ["team/one", "team/two"];

/// Two registries behind one host, as that of Dragonfly stands before all of them on port 4001.
struct Shared {
    registries: [Registry; 2],
    images: [Image; 2],
    mirror: Registry,
    scene: Scene,
}

impl Shared {
    /// The images have a layer in common.
    fn behind(mirror: Registry) -> Shared {
        let layers = |seed| Image::build().layer(Blob::noise(9, MIB)).layer(Blob::noise(seed, MIB)).finish();
        let images = [layers(1), layers(2)];
        let registries = [Registry::start(), Registry::start()];
        for ((registry, image), repository) in registries.iter().zip(&images).zip(REPOSITORIES) {
            registry.add(repository, "1", image);
            mirror.add(repository, "1", image);
        }
        Shared { registries, images, mirror, scene: Scene::new() }
    }

    /// What each registry's own file says of the host.
    fn say(&self, of_host: impl Fn(&Registry) -> String) {
        for registry in &self.registries {
            let text = format!("[host.'{}']\n{}", self.mirror.url(), of_host(registry));
            self.scene.hosts_toml(&registry.host(), &text);
        }
    }

    fn names(&self) -> [String; 2] {
        [0, 1].map(|i| self.registries[i].name(REPOSITORIES[i], "1"))
    }

    fn run(&self, words: &[&str]) -> Output {
        self.scene.command(words).env("LAYERPULL_STALL_TIMEOUT", "2s").env("LAYERPULL_RETRIES", "2").run()
    }

    /// Everything came from the mirror, each image by the word of its own registry.
    #[track_caller]
    fn assert_each_by_its_own_word(&self, before: usize) {
        let asked: Vec<Request> = self.mirror.requests().iter().skip(before).cloned().collect();
        for (registry, repository) in self.registries.iter().zip(REPOSITORIES) {
            let own = asked.iter().filter(|request| request.kind.repository() == Some(repository));
            let own: Vec<&Request> = own.collect();
            assert!(own.len() >= 3, "{repository}: {asked:#?}");
            for request in own {
                assert_eq!(request.header("x-dragonfly-registry"), Some(registry.url().as_str()), "{request:#?}");
                assert_eq!(request.parameter("ns"), Some(registry.host()), "{request:#?}");
            }
            assert!(registry.requests().is_empty(), "{:#?}", registry.requests());
        }
        let blobs = asked.iter().filter(|r| r.method == "GET" && matches!(r.kind, Kind::Blob { .. }));
        assert_eq!(blobs.count(), 5, "the layer that both have comes once: {asked:#?}");
    }
}

fn dragonfly(registry: &Registry) -> String {
    format!("[host.'MIRROR'.header]\nX-Dragonfly-Registry = ['{}']\n", registry.url())
}

#[test]
fn each_registry_has_its_own_headers_at_a_host_that_serves_several() {
    let shared = Shared::behind(Registry::start());
    shared.say(|registry| dragonfly(registry).replace("MIRROR", &shared.mirror.url()));
    let [one, two] = shared.names();
    shared.run(&["pull", &one, &two]).success();
    shared.images.iter().for_each(|image| shared.scene.assert_whole(image));
    shared.assert_each_by_its_own_word(0);
}

#[test]
fn a_mirror_of_several_registries_has_each_asked_for_by_its_own_headers() {
    let shared = Shared::behind(Registry::start());
    shared.say(|registry| dragonfly(registry).replace("MIRROR", &shared.mirror.url()));
    let target = DockerRegistry::start();
    let image = |i: usize| {
        let (from, to) = (shared.registries[i].host(), target.host());
        format!("[[sync]]\nsource = '{from}/{0}'\ntarget = '{to}/{0}'\ntags = ['1']\n", REPOSITORIES[i])
    };
    let file = shared.scene.write("mirror.toml", &(image(0) + &image(1)));
    shared.run(&["sync", "-c", file.to_str().unwrap()]).success();
    assert_eq!(target.count("PUT", "/manifests/1"), 2);
    shared.assert_each_by_its_own_word(0);
}

/// The certificate of the client, with its key.
fn client() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["client.test".into()]).unwrap();
    (made.cert.pem(), made.cert.pem() + &made.signing_key.serialize_pem())
}

#[test]
fn each_registry_has_its_own_certificates_at_a_host_that_serves_several() {
    let ((client, identity), (other, _)) = (client(), client());
    for (right, order) in [(0, [0, 1]), (0, [1, 0]), (1, [0, 1]), (1, [1, 0])] {
        let shared = Shared::behind(Registry::start_tls_for(&client));
        let write = |name: &str, text: &str| shared.scene.write(name, text).display().to_string();
        let authorities = [write("right.pem", shared.mirror.certificate()), write("wrong.pem", &other)];
        let identity = write("client.pem", &identity);
        shared.say(|registry| {
            let is_right = registry.host() == shared.registries[right].host();
            format!("ca = '{}'\nclient = '{identity}'\n", authorities[usize::from(!is_right)])
        });
        let names = shared.names();
        shared.run(&["pull", &names[order[0]], &names[order[1]]]).success();
        shared.images.iter().for_each(|image| shared.scene.assert_whole(image));
        let (asked, told) = (shared.mirror.requests(), format!("{right} of {order:?}"));
        assert!(
            asked.iter().all(|request| request.kind.repository() == Some(REPOSITORIES[right])),
            "{told}: {asked:#?}"
        );
        assert_eq!(asked.all_blob_gets().len(), 3, "{told}: {asked:#?}");
        assert!(shared.registries[right].requests().is_empty(), "{told}");
        assert_eq!(shared.registries[1 - right].requests().all_blob_gets().len(), 2, "{told}");
    }
}
