//! Which hosts follow from which files.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::super::{Environment, Options};
use super::*;

/// A machine with the files of a test in the place of `/etc`.
struct Machine {
    etc: TempDir,
    options: Options,
}

impl Machine {
    fn new() -> Machine {
        let etc = tempfile::tempdir().unwrap();
        let environment = Environment::empty().with_system(etc.path());
        Machine { etc, options: Options { environment, ..Options::default() } }
    }

    fn with(self, file: &str, text: &str) -> Machine {
        write(&self.etc.path().join(file), text);
        self
    }

    fn mirrored(mut self, mirror: &str) -> Machine {
        self.options.mirrors.push(mirror.parse().unwrap());
        self
    }

    fn hosts(&self, name: &str) -> Vec<Endpoint> {
        find(&self.options, &name.parse().unwrap()).unwrap().list
    }

    fn urls(&self, name: &str) -> Vec<String> {
        self.hosts(name).iter().map(Endpoint::url).collect()
    }

    fn error(&self, name: &str) -> String {
        find(&self.options, &name.parse().unwrap()).unwrap_err().to_string()
    }

    fn at(&self, file: &str, line: usize) -> Configured {
        Configured::File(self.etc.path().join(file), line)
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

const REGISTRIES: &str = "containers/registries.conf";
const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn without_any_file_the_registry_alone_is_asked() {
    let hosts = Machine::new().hosts("nginx");
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].url(), "https://registry-1.docker.io/v2/library/nginx");
    assert_eq!((hosts[0].may, hosts[0].configured.clone()), (Capabilities::ALL, Configured::Default));
    assert_eq!(hosts[0].namespace(), None);
}

#[test]
fn the_longest_prefix_of_registries_conf_wins_and_its_location_replaces_it() {
    let machine = Machine::new().with(
        REGISTRIES,
        "[[registry]]\nprefix = 'r.test'\nlocation = 'a.test'\n\
         [[registry]]\nprefix = 'r.test/team'\nlocation = 'h.test/library'\n\
         [[registry]]\nprefix = '*.wild.test'\nlocation = 'w.test/all'\n",
    );
    assert_eq!(machine.urls("r.test/team/m:1"), ["https://h.test/v2/library/m"]);
    assert_eq!(machine.urls("r.test/teams/m:1"), ["https://a.test/v2/teams/m"]);
    assert_eq!(machine.urls("x.wild.test/n/m:1"), ["https://w.test/v2/all/n/m"]);
    assert_eq!(machine.urls("wild.test/n/m:1"), ["https://wild.test/v2/n/m"]);
    let host = &machine.hosts("r.test/team/m:1")[0];
    assert_eq!((host.configured.clone(), host.may.push), (machine.at(REGISTRIES, 5), false));
}

#[test]
fn a_prefix_with_a_port_is_for_names_that_have_it_also_where_it_is_the_usual_one() {
    let table = |location: &str| {
        let mirror = "[[registry.mirror]]\nlocation = 'm.test:5000/hub'\n";
        Machine::new().with(REGISTRIES, &format!("[[registry]]\nlocation = '{location}'\n{mirror}"))
    };
    let first = |machine: &Machine, name: &str| machine.urls(name).remove(0);
    let with = table("r.test:443/x");
    assert_eq!(first(&with, "r.test:443/x/y:1"), "https://m.test:5000/v2/hub/y");
    assert_eq!(first(&with, "r.test/x/y:1"), "https://r.test/v2/x/y");
    let without = table("r.test/x");
    assert_eq!(first(&without, "r.test/x/y:1"), "https://m.test:5000/v2/hub/y");
    assert_eq!(first(&without, "r.test:443/x/y:1"), "https://r.test:443/v2/x/y");
    // skopeo replaces the host here and keeps the port, and finds that this is no name.
    let error = table("r.test").error("r.test:443/x/y:1");
    assert!(error.contains("\"m.test:5000/hub\" is no location of an image"), "{error}");
}

#[test]
fn a_prefix_may_name_one_tag_or_digest() {
    let machine = Machine::new().with(REGISTRIES, "[[registry]]\nprefix = 'r.test/m:1'\nlocation = 'h.test/n'\n");
    assert_eq!(machine.urls("r.test/m:1"), ["https://h.test/v2/n"]);
    assert_eq!(machine.urls("r.test/m:11"), ["https://r.test/v2/m"]);
}

#[test]
fn mirrors_of_registries_conf_are_asked_in_order_and_get_no_ns() {
    let machine = Machine::new().with(
        REGISTRIES,
        "[[registry]]\nlocation = 'docker.io'\n\
         [[registry.mirror]]\nlocation = 'm1.test:5000'\ninsecure = true\n\
         [[registry.mirror]]\nlocation = 'm2.test/hub'\npull-from-mirror = 'digest-only'\n\
         [[registry.mirror]]\nlocation = 'm3.test'\npull-from-mirror = 'tag-only'\n",
    );
    let hosts = machine.hosts("nginx:1");
    let urls: Vec<String> = hosts.iter().map(Endpoint::url).collect();
    assert_eq!(
        urls,
        [
            "https://m1.test:5000/v2/library/nginx",
            "https://m2.test/v2/hub/library/nginx",
            "https://m3.test/v2/library/nginx",
            "https://registry-1.docker.io/v2/library/nginx"
        ]
    );
    assert!(hosts.iter().all(|host| host.namespace().is_none()));
    let resolve: Vec<bool> = hosts.iter().map(|host| host.may.resolve).collect();
    assert_eq!(resolve, [true, false, true, true]);
    assert!(hosts[0].approach.manner.insecure && !hosts[1].approach.manner.insecure);
    assert_eq!(hosts[1].configured, machine.at(REGISTRIES, 7));
    assert_eq!(machine.hosts(&format!("nginx@{DIGEST}")).len(), 3, "one for tags alone does not serve a digest");
}

#[test]
fn what_is_blocked_is_refused_with_file_and_line() {
    let machine = Machine::new().with(REGISTRIES, "\n[[registry]]\nlocation = 'r.test'\nblocked = true\n");
    let error = find(&machine.options, &"r.test/a:1".parse().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("containers/registries.conf:3 blocks its registry"), "{error}");
    assert_eq!(machine.urls("r.test.example/a:1").len(), 1);
}

#[test]
fn additions_replace_what_was_said_of_the_same_prefix() {
    let machine = Machine::new()
        .with(REGISTRIES, "[[registry]]\nlocation = 'r.test'\nblocked = true\n")
        .with("containers/registries.conf.d/50.conf", "[[registry]]\nprefix = 'r.test'\nlocation = 'x.test'\n")
        .with("containers/registries.conf.d/60.conf", "[[registry]]\nprefix = 'r.test'\nlocation = 'y.test'\n")
        .with("containers/registries.conf.d/70.txt", "[[registry]]\nprefix = 'r.test'\nlocation = 'z.test'\n");
    assert_eq!(machine.urls("r.test/a:1"), ["https://y.test/v2/a"]);
}

#[test]
fn the_users_own_file_is_read_instead_of_the_systems() {
    let mut machine = Machine::new().with(REGISTRIES, "[[registry]]\nprefix = 'r.test'\nlocation = 'system.test'\n");
    let home = machine.etc.path().join("home");
    write(&home.join(".config").join(REGISTRIES), "[[registry]]\nprefix = 'r.test'\nlocation = 'user.test'\n");
    machine.options.environment = machine.options.environment.with("HOME", home.to_str().unwrap());
    assert_eq!(machine.urls("r.test/a:1"), ["https://user.test/v2/a"]);
    let named = machine.etc.path().join("named.conf");
    write(&named, "[[registry]]\nprefix = 'r.test'\nlocation = 'named.test'\n");
    machine.options.environment =
        machine.options.environment.with("CONTAINERS_REGISTRIES_CONF", named.to_str().unwrap());
    assert_eq!(machine.urls("r.test/a:1"), ["https://named.test/v2/a"]);
    machine.options.system_config = false;
    assert_eq!(machine.urls("r.test/a:1"), ["https://r.test/v2/a"]);
}

#[test]
fn a_registry_that_is_only_insecure_keeps_the_mirrors_of_containerd() {
    let machine = Machine::new()
        .with(REGISTRIES, "[[registry]]\nlocation = 'r.test:5000'\ninsecure = true\n")
        .with("containerd/certs.d/r.test:5000/hosts.toml", "[host.'http://m.test']\n");
    let hosts = machine.hosts("r.test:5000/a:1");
    assert_eq!(hosts.len(), 2);
    assert!(hosts[1].approach.manner.insecure && !hosts[0].approach.manner.insecure);
    let found = find(&machine.options, &"r.test:5000/a:1".parse().unwrap()).unwrap();
    assert!(found.itself.manner.insecure);
}

const HOSTS: &str = "containerd/certs.d/r.test_5000_/hosts.toml";

#[test]
fn hosts_toml_is_read_in_the_order_of_the_file() {
    let machine = Machine::new().with(
        HOSTS,
        "server = 'https://r.test:5000'\n\
         [host.'http://z.test:1']\ncapabilities = ['pull']\ndial_timeout = '200ms'\n\
         [host.'https://a.test/sub']\ncapabilities = ['pull', 'resolve', 'push']\nskip_verify = true\nca = 'ca.pem'\n\
         client = [['c.pem', '/k.pem'], ['both.pem', '']]\n\
         [host.'https://a.test/sub'.header]\nx-one = 'secret'\n\
         [host.'https://b.test/v2/project']\noverride_path = true\n",
    );
    let hosts = machine.hosts("r.test:5000/n/m:1");
    let urls: Vec<String> = hosts.iter().map(Endpoint::url).collect();
    let expected = [
        "http://z.test:1/v2/n/m",
        "https://a.test/sub/v2/n/m",
        "https://b.test/v2/project/n/m",
        "https://r.test:5000/v2/n/m",
    ];
    assert_eq!(urls, expected);
    let namespaces: Vec<Option<&str>> = hosts.iter().map(Endpoint::namespace).collect();
    assert_eq!(namespaces, [Some("r.test:5000"), Some("r.test:5000"), Some("r.test:5000"), None]);
    assert_eq!(hosts[0].may, Capabilities::PULL);
    assert_eq!(hosts[2].may, Capabilities::READ, "no capabilities are all, but nothing is sent to a mirror");
    assert!(hosts[3].may.push);
    let lines: Vec<Configured> = hosts.iter().map(|host| host.configured.clone()).collect();
    assert_eq!(lines, [2, 5, 12, 1].map(|line| machine.at(HOSTS, line)));
    assert_eq!(hosts[0].approach.manner.dial_timeout, Some(Duration::from_millis(200)));
    let (second, folder) = (&hosts[1].approach, machine.etc.path().join("containerd/certs.d/r.test_5000_"));
    assert!(second.manner.insecure);
    assert_eq!(second.manner.authorities, [folder.join("ca.pem")]);
    let identities = [(folder.join("c.pem"), "/k.pem".into()), (folder.join("both.pem"), folder.join("both.pem"))];
    assert_eq!(second.manner.identities, identities);
    assert_eq!(hosts[1].headers(), ["x-one"]);
    assert!(!format!("{hosts:?}").contains("secret"));
}

#[test]
fn the_default_folder_serves_every_registry_and_tells_which_is_meant() {
    let machine = Machine::new().with("containerd/certs.d/_default/hosts.toml", "[host.'http://127.0.0.1:4001']\n");
    let hosts = machine.hosts("nginx");
    assert_eq!(hosts[0].url(), "http://127.0.0.1:4001/v2/library/nginx");
    assert_eq!(hosts[0].namespace(), Some("docker.io"));
    assert_eq!(
        (hosts[1].url().as_str(), hosts[1].namespace()),
        ("https://registry-1.docker.io/v2/library/nginx", None)
    );
    assert_eq!(machine.hosts("r.test:5000/a")[0].namespace(), Some("r.test:5000"));
}

#[test]
fn a_server_elsewhere_is_told_which_registry_is_meant_but_docker_hubs_own_is_not() {
    let docker = "containerd/certs.d/docker.io/hosts.toml";
    let machine = Machine::new().with(docker, "server = 'https://registry-1.docker.io'\n");
    assert_eq!(machine.hosts("nginx")[0].namespace(), None);
    let machine = Machine::new().with(docker, "server = 'https://other.test'\n");
    let hosts = machine.hosts("nginx");
    assert_eq!((hosts.len(), hosts[0].namespace()), (1, Some("docker.io")));
    let found = find(&machine.options, &"nginx".parse().unwrap()).unwrap();
    assert_eq!(found.itself.authority, "registry-1.docker.io", "who writes is not sent elsewhere");
}

#[test]
fn registries_conf_beats_hosts_toml_and_that_daemon_json() {
    let daemon = Machine::new().with("docker/daemon.json", "{\n \"registry-mirrors\": [\n \"https://d.test\"\n]}");
    let hosts = daemon.hosts("nginx");
    assert_eq!(hosts[0].url(), "https://d.test/v2/library/nginx");
    assert_eq!((hosts[0].configured.clone(), hosts[0].namespace()), (daemon.at("docker/daemon.json", 3), None));
    assert_eq!(daemon.urls("r.test/a"), ["https://r.test/v2/a"], "the daemon's mirrors are for Docker Hub alone");
    let machine = daemon.with("containerd/certs.d/docker.io/hosts.toml", "[host.'http://c.test']\n");
    assert_eq!(machine.urls("nginx")[0], "http://c.test/v2/library/nginx");
    let text = "[[registry]]\nlocation = 'docker.io'\n[[registry.mirror]]\nlocation = 'p.test'\n";
    let machine = machine.with(REGISTRIES, text);
    assert_eq!(machine.urls("nginx")[0], "https://p.test/v2/library/nginx");
    assert_eq!(machine.urls("nginx").len(), 2);
}

#[test]
fn the_users_own_mirrors_come_first_and_may_pull() {
    let machine = Machine::new()
        .with("docker/daemon.json", r#"{"registry-mirrors": ["https://d.test"]}"#)
        .mirrored("docker.io/library=https://o.test/hub/")
        .mirrored("http://all.test:5000 resolve");
    let hosts = machine.hosts("nginx");
    let urls: Vec<String> = hosts.iter().map(Endpoint::url).collect();
    assert_eq!(
        urls[..3],
        [
            "https://o.test/v2/hub/library/nginx",
            "http://all.test:5000/v2/library/nginx",
            "https://d.test/v2/library/nginx"
        ]
    );
    assert_eq!((hosts[0].may, hosts[1].may), (Capabilities::PULL, Capabilities::READ));
    assert_eq!(hosts[1].namespace(), Some("docker.io"));
    assert_eq!(machine.urls("docker.io/librarys/x")[0], "http://all.test:5000/v2/librarys/x");
}

#[test]
fn what_makes_no_sense_names_file_and_line() {
    let toml = |text: &str| Machine::new().with(HOSTS, text).error("r.test:5000/a");
    for (text, expected) in [
        ("\n[host.'ftp://x']\n", "hosts.toml:2: `ftp://x`: is no address of a host"),
        ("server = 7", "hosts.toml:1: `server`: expected a text, not a integer"),
        ("[host.'http://x']\ncapabilities = ['fly']", "hosts.toml:2: `capabilities`: \"fly\" is none of"),
        ("[host.'http://x']\n\ndial_timeout = 'soon'", "hosts.toml:3: `dial_timeout`: expected a duration"),
        ("[host.'http://x'.header]\n'a b' = 'c'", "hosts.toml:2: `a b`: is no name of a header"),
        ("[host.'http://u:p@x']\n", "is no address of a host"),
        ("[host", "hosts.toml:1: "),
    ] {
        assert!(toml(text).contains(expected), "{text}: {}", toml(text));
    }
    let conf = |text: &str| Machine::new().with(REGISTRIES, text).error("r.test/a");
    for (text, expected) in [
        ("[[registry]]\nprefix = 'r.test'\n", "registries.conf:1: a registry with a prefix, but without location"),
        ("[[registry]]\nlocation = 'r.test'\n[[registry.mirror]]\ninsecure = true\n", "a mirror without location"),
        (
            "[[registry]]\nlocation = 'r.test'\nblocked = 'yes'\n",
            "registries.conf:3: `blocked`: expected true or false",
        ),
        ("[[registry]]\nprefix = 'r.test'\nlocation = '/x'\n", "\"/x\" is no location of an image"),
    ] {
        assert!(conf(text).contains(expected), "{text}: {}", conf(text));
    }
    let error = Machine::new().with("docker/daemon.json", "{\n\"registry-mirrors\": [\n\"nothing\"]}").error("nginx");
    assert!(error.contains("daemon.json:3: `registry-mirrors`: \"nothing\" is no address"), "{error}");
    for text in ["", "x", "ftp://x", "a=b", "https://u:p@h", "https://h other", "https://h resolve x", "=https://h"] {
        assert!(text.parse::<Mirror>().is_err(), "{text}");
    }
}

#[test]
fn many_hosts_are_cut_and_the_registry_stays() {
    let mut machine = Machine::new();
    for number in 0..40 {
        machine = machine.mirrored(&format!("https://m{number}.test"));
    }
    let hosts = machine.hosts("r.test/a");
    assert_eq!(hosts.len(), MAX_HOSTS);
    assert_eq!(hosts.last().unwrap().url(), "https://r.test/v2/a");
}
