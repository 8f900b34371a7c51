//! Which folder of `hosts.toml` speaks of a registry, as containerd itself decides it.

use std::path::Path;

use support::engines::Containerd;
use support::images::Image;
use support::registry::Registry;

use crate::scene::Scene;

/// The folder whose `hosts.toml` is obeyed, of those that are there. Every one names a mirror of its own.
struct Folders {
    scene: Scene,
    mirrors: Vec<(&'static str, Registry)>,
}

impl Folders {
    /// `PORT` and `HOST` stand for those of the registry at `host`.
    fn of(host: &str, spellings: &[&'static str]) -> Folders {
        let (scene, (name, port)) = (Scene::new(), host.rsplit_once(':').unwrap());
        let mirrors = spellings.iter().map(|spelling| {
            let mirror = Registry::start();
            let folder = spelling.replace("HOST", name).replace("PORT", port);
            scene.hosts_toml(&folder, &format!("[host.'{}']\ncapabilities = ['pull', 'resolve']\n", mirror.url()));
            (*spelling, mirror)
        });
        let mirrors = mirrors.collect();
        Folders { scene, mirrors }
    }

    fn path(&self) -> std::path::PathBuf {
        self.scene.write("certs.d/none", "").parent().unwrap().to_owned()
    }

    /// Where `ask` goes.
    fn obeyed(&self, ask: impl FnOnce(&Path)) -> Vec<&'static str> {
        let before: Vec<usize> = self.mirrors.iter().map(|(_, mirror)| mirror.requests().len()).collect();
        ask(&self.path());
        let asked = self.mirrors.iter().zip(before).filter(|((_, mirror), before)| mirror.requests().len() > *before);
        asked.map(|((spelling, _), _)| *spelling).collect()
    }
}

/// containerd's own documents and code agree with this (1.6.20 was tried): the bare name of a host is not looked for where
/// the registry has a port.
#[test]
fn the_folder_of_a_registry_with_a_port_is_the_one_that_containerd_takes() {
    let (engine, registry) = (Containerd::start(), Registry::start());
    registry.add("a/x", "1", &Image::tiny("x"));
    let name = registry.name("a/x", "1");
    for (there, expected) in [
        (&["HOST_PORT_"][..], &["HOST_PORT_"][..]),
        (&["HOST:PORT"], &["HOST:PORT"]),
        (&["HOST"], &[]),
        (&["_default"], &["_default"]),
        (&["HOST", "_default"], &["_default"]),
        (&["HOST:PORT", "HOST", "_default"], &["HOST:PORT"]),
        (&["HOST_PORT_", "HOST:PORT", "HOST", "_default"], &["HOST_PORT_"]),
    ] {
        let folders = Folders::of(&registry.host(), there);
        let theirs = folders.obeyed(|path| {
            // The mirrors have nothing: whether the registry is asked behind them is not the question here.
            engine.run(["images", "pull", "--plain-http", "--hosts-dir", path.to_str().unwrap(), &name]);
        });
        assert_eq!(theirs, expected, "containerd, {there:?}");
        let ours = folders.obeyed(|_| drop(folders.scene.command(&["digest", &name]).run().success()));
        assert_eq!(ours, expected, "{there:?}");
    }
}
