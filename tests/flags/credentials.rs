//! Where credentials come from and go to: files, flags and credential helpers.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::command::{Layerpull, script};
use support::registry::{Auth, Fault, Registry, Reply, Times, When};
use tempfile::TempDir;

use crate::{digest, home, with_image};

/// Longest wait for another process.
const PATIENCE: Duration = Duration::from_secs(60);
/// The key of Docker Hub in docker's own file.
const HUB_KEY: &str = "https://index.docker.io/v1/";

fn auth_file(path: &Path, host: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, json!({"auths": {host: {"auth": STANDARD.encode("ann:pw")}}}).to_string()).unwrap();
}

#[test]
fn a_credential_file_is_taken_from_the_flag_and_from_the_variable() {
    let (registry, home) = (with_image(Registry::start()), home());
    registry.require(Auth::basic("ann", "pw"));
    let file = home.path().join("own/auth.json");
    auth_file(&file, &registry.host());
    digest(&home, &registry, &[]).run().code(4);
    digest(&home, &registry, &["--authfile", file.to_str().unwrap()]).run().success();
    digest(&home, &registry, &[]).env("REGISTRY_AUTH_FILE", &file).run().success();
    digest(&home, &registry, &["--creds", "ann:pw"]).run().success();
}

#[test]
fn docker_config_comes_first_and_the_usual_places_follow() {
    let (registry, home) = (with_image(Registry::start()), home());
    registry.require(Auth::basic("ann", "pw"));
    auth_file(&home.path().join(".config/containers/auth.json"), &registry.host());
    let empty = home.path().join("docker");
    fs::create_dir(&empty).unwrap();
    digest(&home, &registry, &[]).env("DOCKER_CONFIG", &empty).run().success();
}

#[test]
fn logout_does_not_need_the_helper_that_is_gone() {
    let home = home();
    let file = home.path().join("auth.json");
    fs::write(&file, json!({"auths": {"h.example": {}}, "credHelpers": {"h.example": "gone-for-good"}}).to_string())
        .unwrap();
    let words = ["logout", "h.example", "--authfile", file.to_str().unwrap()];
    let output = Layerpull::new().home(home.path()).args(words).run().success();
    assert!(output.stderr.contains("warning: the credential helper \"gone-for-good\""), "{}", output.stderr);
    assert!(!fs::read_to_string(&file).unwrap().contains("auths\": {\n    \"h.example\""));
}

#[test]
fn login_takes_the_credentials_that_a_pull_would_take() {
    let (registry, home) = (with_image(Registry::start()), home());
    registry.require(Auth::basic("ann", "pw"));
    let host = registry.host();
    Layerpull::new().home(home.path()).args(["login", "--creds", "ann:pw", &host]).run().success();
    digest(&home, &registry, &[]).run().success();
    Layerpull::new().home(home.path()).args(["logout", "--creds", "ann:pw", &host]).run().code(2);
}

/// Credential helpers of shell, in a folder that comes first in the search path, and what they were asked.
struct Helpers<'a> {
    home: &'a TempDir,
}

impl Helpers<'_> {
    fn folder(&self) -> PathBuf {
        self.home.path().join("bin")
    }

    fn asked(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder().join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// `docker-credential-NAME`: logs its name, the action and the key, then goes on as `text`.
    fn add(&self, name: &str, text: &str) -> &Self {
        fs::create_dir_all(self.folder()).unwrap();
        let path = self.folder().join(format!("docker-credential-{name}"));
        let log = self.folder().join("log");
        let logged = format!("key=$(cat)\necho \"{name} $1 $key\" >> {}\n{text}", log.display());
        script(&path, &logged);
        self
    }

    fn path(&self) -> String {
        format!("{}:{}", self.folder().display(), std::env::var("PATH").unwrap())
    }

    /// Docker's file of configuration.
    fn configure(&self, config: &Value) -> PathBuf {
        let file = self.home.path().join(".docker/config.json");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, config.to_string()).unwrap();
        file
    }
}

fn knows(user: &str, secret: &str) -> String {
    format!("echo '{}'", json!({"Username": user, "Secret": secret}))
}

const KNOWS_NOBODY: &str = "echo 'credentials not found in native keychain'; exit 1";

#[test]
fn the_helper_of_a_registry_is_asked_before_the_one_for_all() {
    let (registry, home) = (with_image(Registry::start()), home());
    registry.require(Auth::basic("ann", "pw"));
    let (host, helpers) = (registry.host(), Helpers { home: &home });
    helpers.add("own", &knows("ann", "pw")).add("all", &knows("bob", "wrong"));
    helpers.configure(&json!({
        "auths": {&host: {"auth": STANDARD.encode("eve:worse")}}, "credHelpers": {&host: "own"}, "credsStore": "all"
    }));
    digest(&home, &registry, &[]).env("PATH", helpers.path()).run().success();
    assert_eq!(helpers.asked(), [format!("own get {host}")]);
    // The one for all is next, and the file is last.
    helpers.add("own", KNOWS_NOBODY).add("all", &knows("ann", "pw"));
    digest(&home, &registry, &[]).env("PATH", helpers.path()).run().success();
    assert_eq!(helpers.asked()[1..], [format!("own get {host}"), format!("all get {host}")]);
    helpers.add("all", KNOWS_NOBODY);
    digest(&home, &registry, &[]).env("PATH", helpers.path()).run().code(4);
    let tried = registry.requests().iter().filter_map(|r| r.basic()).map(|(user, _)| user).collect::<Vec<_>>();
    assert_eq!((tried.first().unwrap().as_str(), tried.last().unwrap().as_str()), ("ann", "eve"));
    assert!(!tried.iter().any(|user| user == "bob"));
}

#[test]
fn a_helper_that_hangs_ends_with_the_command_and_so_does_what_it_started() {
    let (registry, home) = (with_image(Registry::start()), home());
    registry.require(Auth::basic("ann", "pw"));
    let (host, helpers) = (registry.host(), Helpers { home: &home });
    let pipe = home.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // Whoever lives of them holds the pipe open.
    helpers.add("stuck", &format!("exec 9> {}\nsleep 1000 &\necho up >&9\nwait", pipe.display()));
    helpers.configure(&json!({"credHelpers": {&host: "stuck"}}));
    let (sender, said) = mpsc::channel();
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(File::open(pipe).unwrap());
        let mut text = String::new();
        pipe.read_line(&mut text).unwrap();
        sender.send(text.clone()).unwrap();
        pipe.read_to_string(&mut text).unwrap();
        sender.send(text).unwrap();
    });
    let running = digest(&home, &registry, &[]).env("PATH", helpers.path()).spawn();
    assert_eq!(said.recv_timeout(PATIENCE).expect("the helper runs"), "up\n");
    running.signal(Signal::INT);
    running.wait().code(130);
    assert_eq!(said.recv_timeout(PATIENCE).expect("all of them have ended"), "up\n");
    assert!(registry.requests().iter().all(|r| r.header("authorization").is_none()));
}

#[test]
fn login_forgets_a_registry_that_stumbles_once() {
    let (registry, home) = (with_image(Registry::start()), home());
    registry.require(Auth::basic("ann", "pw"));
    let host = registry.host();
    let login = |retries| {
        registry.behave();
        registry.rule(When::any(), Times::Once, Fault::Reply(Reply::status(503)));
        Layerpull::new().home(home.path()).args(["login", "--creds", "ann:pw", "--retries", retries, &host]).run()
    };
    let output = login("0").code(5);
    assert!(output.stderr.contains("503") && output.stdout.is_empty(), "{}", output.stderr);
    digest(&home, &registry, &[]).run().code(4);
    assert_eq!(login("2").success().stdout, "Login Succeeded\n");
    digest(&home, &registry, &[]).run().success();
}

#[test]
fn logout_of_docker_hub_erases_both_of_its_keys() {
    let home = home();
    let helpers = Helpers { home: &home };
    let config = json!({"auths": {HUB_KEY: {}, "docker.io": {}, "h.example": {"auth": "YTpi"}}});
    let logout = || Layerpull::new().home(home.path()).arg("logout").env("PATH", helpers.path()).run().success();
    let auths = |file: &Path| serde_json::from_slice::<Value>(&fs::read(file).unwrap()).unwrap()["auths"].clone();
    let file = helpers.configure(&config);
    assert_eq!(logout().stdout, "Removed login credentials for docker.io\n");
    assert_eq!(auths(&file), json!({"h.example": {"auth": "YTpi"}}));
    assert_eq!(logout().stdout, "Not logged in to docker.io\n");

    helpers.add("all", "exit 0");
    let mut with_helper = config;
    with_helper["credsStore"] = json!("all");
    helpers.configure(&with_helper);
    assert_eq!(logout().stdout, "Removed login credentials for docker.io\n");
    assert_eq!(helpers.asked(), [format!("all erase {HUB_KEY}"), "all erase docker.io".to_owned()]);
    assert_eq!(auths(&file), json!({"h.example": {"auth": "YTpi"}}));
}
