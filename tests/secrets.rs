//! Where secrets go: to those who may have them, and nowhere else. Not along redirects, not into output, not to disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::command::{Layerpull, Output, script};
use support::images::{Blob, Image};
use support::peers::DockerRegistry;
use support::registry::{
    Auth, Bearer, Cut, Elsewhere, Fault, Lifetime, Redirect, Registry, Reply, Requests, Times, When,
};
use tempfile::TempDir;

const USER: &str = "ann";
const PASSWORD: &str = "canary-password";
const IDENTITY: &str = "canary-identity";
const HTPASSWD: &str = "canary-htpasswd";
/// `canary-htpasswd`, by bcrypt.
const HTPASSWD_LINE: &str = "ann:$2y$05$abcdefghijklmnopqrstuuCvMyeDkU//6NE6C6EvdHtCD1jPdAcsm\n";
/// How every secret of these tests begins, the tokens and signatures of the test registry included.
const CANARY: &str = "canary-";

/// A registry that wants credentials, a home that has them, and a store.
struct Scene {
    registry: Registry,
    image: Image,
    home: TempDir,
}

impl Scene {
    fn new(auth: Auth) -> Scene {
        let image = Image::build().layer(Blob::noise(1, 700_000)).layer(Blob::noise(2, 300_000)).finish();
        let (registry, home) = (Registry::start(), tempfile::tempdir().unwrap());
        registry.add("library/x", "1", &image);
        registry.require(auth);
        Scene { registry, image, home }
    }

    /// Writes a file below the home.
    fn write(&self, below: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.path().join(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Password in `auth.json`.
    fn with_password(auth: Auth) -> (Scene, PathBuf) {
        let scene = Scene::new(auth);
        let entry = json!({"auth": STANDARD.encode(format!("{USER}:{PASSWORD}"))});
        let file =
            scene.write("run/containers/auth.json", json!({"auths": {scene.registry.host(): entry}}).to_string());
        (scene, file)
    }

    fn pull(&self) -> Layerpull {
        let name = self.registry.name("library/x", "1");
        Layerpull::new().home(self.home.path()).args(["pull", "-vv", "--retries", "2", &name])
    }

    /// Pulls in every way of telling, each into a store of its own; `misbehave` sets the rules anew before each.
    fn pull_loudly(&self, misbehave: impl Fn(&Registry)) -> Vec<Output> {
        let ways = [["--progress", "json"], ["--format", "json"], ["--progress", "plain"]];
        let pull = |(n, way): (usize, &[&str; 2])| {
            self.registry.behave();
            misbehave(&self.registry);
            self.pull().args(way).store(&self.home.path().join(format!("store-{n}"))).run()
        };
        let outputs: Vec<Output> = ways.iter().enumerate().map(pull).collect();
        outputs.iter().for_each(assert_quiet);
        assert!(outputs.iter().all(|output| output.stderr.contains("path=\"/v2/")), "the log names no request");
        outputs
    }

    /// No file below the home, where everything of it is, holds a secret, but these.
    #[track_caller]
    fn assert_not_on_disk(&self, but: &[&Path]) {
        let files = files_below(self.home.path());
        assert!(files.len() > but.len());
        for path in files.iter().filter(|path| !but.contains(&path.as_path())) {
            assert!(!reveals(&fs::read(path).unwrap()), "{} holds a secret", path.display());
        }
    }

    fn assert_whole(&self) {
        let digest = self.image.layer(0).digest();
        for n in 0..3 {
            let path = self.home.path().join(format!("store-{n}/blobs/sha256")).join(digest.hex());
            assert!(fs::read(path).unwrap() == self.image.layer(0).content.to_bytes());
        }
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Whether a secret is in it, as it is or as a part of Basic authentication.
fn reveals(bytes: &[u8]) -> bool {
    let basic = |password: &str| STANDARD.encode(format!("{USER}:{password}"));
    let encoded = [PASSWORD, HTPASSWD, IDENTITY].map(basic);
    let secrets = encoded.iter().map(String::as_str).chain([CANARY]);
    secrets.into_iter().any(|secret| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()))
}

#[track_caller]
fn assert_quiet(output: &Output) {
    assert!(!reveals(output.stdout.as_bytes()) && !reveals(output.stderr.as_bytes()), "{}", output.transcript());
}

/// Nothing that these requests carried is a secret, but what a signed address has in its own query.
#[track_caller]
fn assert_innocent(requests: &Requests) {
    let carried = requests.such(|r| [PASSWORD, HTPASSWD, IDENTITY, "canary-bearer"].iter().any(|s| r.carries(s)));
    assert!(carried.is_empty(), "{carried:#?}");
    assert!(requests.iter().all(|request| request.header("authorization").is_none()), "{requests:#?}");
}

#[test]
fn a_password_for_basic_stays_with_its_registry() {
    let (scene, file) = Scene::with_password(Auth::basic(USER, PASSWORD));
    let elsewhere = Elsewhere::start();
    let outputs = scene.pull_loudly(|registry| {
        let signed = Fault::Redirect(Redirect::Signed(elsewhere.clone(), 9));
        registry.rule(When::blobs().get(), Times::Always, signed);
    });
    outputs.into_iter().for_each(|output| drop(output.success()));
    scene.assert_whole();
    assert!(!elsewhere.requests().is_empty() && !scene.registry.requests().carrying(PASSWORD).is_empty());
    assert_innocent(&elsewhere.requests());
    scene.assert_not_on_disk(&[&file]);
}

#[test]
fn a_token_stays_with_its_registry_though_it_ends_and_connections_break() {
    let bearer = Bearer {
        credentials: Some((USER.into(), PASSWORD.into())),
        lifetime: Lifetime::Requests(4),
        ..Bearer::default()
    };
    let (scene, file) = Scene::with_password(Auth::Bearer(bearer));
    let elsewhere = Elsewhere::start();
    let large = scene.image.layer(0).digest().clone();
    let outputs = scene.pull_loudly(|registry| {
        registry.rule(When::blob(&large).get(), Times::Once, Fault::CutAfter(100_000, Cut::Rst));
        let signed = Fault::Redirect(Redirect::Signed(elsewhere.clone(), 1));
        registry.rule(When::blobs().get(), Times::Always, signed);
    });
    outputs.into_iter().for_each(|output| drop(output.success()));
    scene.assert_whole();
    assert!(!elsewhere.requests().is_empty() && scene.registry.requests().tokens().len() > 3);
    assert_innocent(&elsewhere.requests());
    scene.assert_not_on_disk(&[&file]);
}

#[test]
fn a_realm_on_another_port_of_loopback_gets_the_password_and_no_token() {
    let (scene, file) = Scene::with_password(Auth::Open);
    let realm = Elsewhere::start();
    let url = scene.registry.issue_tokens_at(&realm);
    let credentials = Some((USER.into(), PASSWORD.into()));
    scene.registry.require(Auth::Bearer(Bearer { realm: Some(url), credentials, ..Bearer::default() }));
    scene.pull_loudly(|_| {}).into_iter().for_each(|output| drop(output.success()));
    assert!(realm.requests().carrying("canary-bearer").is_empty());
    assert!(!realm.requests().carrying(PASSWORD).is_empty());
    assert!(scene.registry.requests().carrying(PASSWORD).is_empty());
    scene.assert_not_on_disk(&[&file]);
}

#[test]
fn a_token_service_that_redirects_leads_nobody_to_the_password() {
    let (scene, file) = Scene::with_password(Auth::token(USER, PASSWORD));
    let elsewhere = Elsewhere::start();
    let outputs = scene.pull_loudly(|registry| {
        let to = Redirect::To(format!("{}/token", elsewhere.url()));
        registry.rule(When::tokens(), Times::Always, Fault::Redirect(to));
    });
    assert!(outputs.iter().all(|output| output.code != Some(0)));
    assert_innocent(&elsewhere.requests());
    scene.assert_not_on_disk(&[&file]);
}

#[test]
fn manifests_and_blobs_that_redirect_take_no_secret_along() {
    for auth in [Auth::basic(USER, PASSWORD), Auth::token(USER, PASSWORD)] {
        let (scene, file) = Scene::with_password(auth);
        let elsewhere = Elsewhere::start();
        for when in [When::manifests, When::blobs] {
            scene.pull_loudly(|registry| {
                let to = Redirect::To(format!("{}/v2/library/x/manifests/1", elsewhere.url()));
                registry.rule(when(), Times::Always, Fault::Redirect(to));
            });
        }
        assert_innocent(&elsewhere.requests());
        scene.assert_not_on_disk(&[&file]);
    }
}

#[test]
fn a_foreign_layer_is_fetched_from_its_address_without_a_secret() {
    let elsewhere = Elsewhere::start();
    let layer = Blob::noise(5, 100_000);
    let address = elsewhere.add(&layer);
    let (scene, file) = Scene::with_password(Auth::token(USER, PASSWORD));
    let foreign = layer.with_urls(&[&address]).typed("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let image = Image::build().docker().layer(foreign.clone()).finish();
    scene.registry.add("library/x", "1", &image);
    scene.registry.remove_blob("library/x", &foreign);
    scene.pull_loudly(|_| {});
    assert_innocent(&elsewhere.requests());
    scene.assert_not_on_disk(&[&file]);
}

#[test]
fn an_identity_token_is_sent_to_its_realm_alone() {
    let bearer = Bearer {
        credentials: Some((USER.into(), PASSWORD.into())),
        refresh_token: Some(IDENTITY.into()),
        ..Bearer::default()
    };
    let (scene, elsewhere) = (Scene::new(Auth::Bearer(bearer)), Elsewhere::start());
    let entry = json!({"auth": STANDARD.encode("<token>:"), "identitytoken": IDENTITY});
    let file = scene.write(".docker/config.json", json!({"auths": {scene.registry.host(): entry}}).to_string());
    let outputs = scene.pull_loudly(|registry| {
        let signed = Fault::Redirect(Redirect::Signed(elsewhere.clone(), 9));
        registry.rule(When::blobs().get(), Times::Always, signed);
    });
    outputs.into_iter().for_each(|output| drop(output.success()));
    let carrying = scene.registry.requests().carrying(IDENTITY);
    assert_eq!(carrying.len(), carrying.tokens().len());
    assert!(!carrying.is_empty() && carrying.iter().all(|request| request.method == "POST"));
    assert_innocent(&elsewhere.requests());
    scene.assert_not_on_disk(&[&file]);
}

/// A helper that keeps what it is given in a file beside it, and a path that has it.
fn helper(scene: &Scene) -> (PathBuf, String) {
    let text = "cd \"$(dirname \"$0\")\"\ncase $1 in\nget) cat kept 2>/dev/null || { echo 'credentials not found in native keychain'; exit 1; } ;;\nstore) cat > kept ;;\nerase) rm -f kept ;;\nesac";
    let folder = scene.home.path().join("bin");
    fs::create_dir(&folder).unwrap();
    script(&folder.join("docker-credential-canary"), text);
    (folder.join("kept"), format!("{}:{}", folder.display(), std::env::var("PATH").unwrap()))
}

#[test]
fn what_a_helper_says_goes_no_further_than_a_password() {
    let scene = Scene::new(Auth::token(USER, PASSWORD));
    let (kept, path) = helper(&scene);
    let config = json!({"credsStore": "canary", "auths": {scene.registry.host(): {}}, "mine": {"a": [1, 2]}});
    let file = scene.write(".docker/config.json", config.to_string());
    let login = |words: &[&str]| {
        let command = Layerpull::new().home(scene.home.path()).env("PATH", &path).args(words);
        command.arg(scene.registry.host()).arg("-vv").stdin(PASSWORD).run().success()
    };
    assert_quiet(&login(&["login", "-u", USER, "--password-stdin"]));
    assert!(fs::read_to_string(&kept).unwrap().contains(PASSWORD));
    let elsewhere = Elsewhere::start();
    let signed = Fault::Redirect(Redirect::Signed(elsewhere.clone(), 9));
    scene.registry.rule(When::blobs().get(), Times::Always, signed);
    assert_quiet(&scene.pull().env("PATH", &path).run().success());
    assert_innocent(&elsewhere.requests());
    scene.assert_not_on_disk(&[&kept]);
    assert_quiet(&login(&["logout"]));
    assert!(!kept.exists());
    let left: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(left, json!({"credsStore": "canary", "auths": {}, "mine": {"a": [1, 2]}}));
}

#[test]
fn a_registry_that_repeats_what_it_was_sent_does_not_make_it_known() {
    let (scene, file) = Scene::with_password(Auth::basic(USER, PASSWORD));
    let basic = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    for (status, text) in [(400, format!("bad header Basic {basic}")), (500, format!("login {USER}:{PASSWORD} failed"))]
    {
        let outputs = scene.pull_loudly(|registry| {
            // Only after it was told the password.
            let reply = Reply::error(status, "UNKNOWN", &text);
            registry.rule(When::blobs(), Times::Always, Fault::Reply(reply));
        });
        assert!(outputs.iter().all(|output| output.code != Some(0)));
    }
    scene.assert_not_on_disk(&[&file]);
}

#[test]
fn credentials_on_the_command_line_and_in_the_environment_are_not_kept() {
    let scene = Scene::new(Auth::token(USER, PASSWORD));
    let creds = format!("{USER}:{PASSWORD}");
    assert_quiet(&scene.pull().args(["--creds", &creds, "--progress", "json"]).run().success());
    assert_quiet(&scene.pull().env("LAYERPULL_CREDS", &creds).run().success());
    assert_quiet(&Layerpull::new().env("LAYERPULL_CREDS", &creds).args(["config", "-vv"]).run().success());
    let mistyped = format!("https://{creds}@{}/library/x:1", scene.registry.host());
    assert_quiet(&Layerpull::new().args(["pull", &mistyped]).run().code(2));
    scene.assert_not_on_disk(&[]);
}

#[test]
fn login_keeps_what_else_is_in_the_file_and_its_mode() {
    let scene = Scene::new(Auth::token(USER, PASSWORD));
    let before = json!({"auths": {"other.example": {"auth": "eDp5", "x": 1}}, "psFormat": "table", "n": 1e3});
    let file = scene.write(".docker/config.json", before.to_string());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let run = |words: &[&str], input: &str| {
        let command = Layerpull::new().home(scene.home.path()).args(words).arg(scene.registry.host());
        command.arg("-vv").stdin(input).run()
    };
    let refused = run(&["login", "-u", USER, "--password-stdin"], "canary-wrong\n").code(4);
    assert_quiet(&refused);
    assert_eq!(fs::read_to_string(&file).unwrap(), before.to_string());

    let output = run(&["login", "-u", USER, "--password-stdin"], &format!("{PASSWORD}\n")).success();
    assert_eq!(output.stdout, "Login Succeeded\n");
    assert_quiet(&output);
    let read = || serde_json::from_slice::<Value>(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(read()["auths"]["other.example"], before["auths"]["other.example"]);
    assert_eq!(read()["psFormat"], "table");
    assert_quiet(&scene.pull().run().success());
    scene.assert_not_on_disk(&[&file]);

    run(&["logout"], "").success();
    assert_eq!(read(), before);
    scene.pull().run().code(4);
}

#[test]
fn a_first_login_makes_a_file_that_only_its_owner_can_read() {
    let scene = Scene::new(Auth::basic(USER, PASSWORD));
    let login = Layerpull::new().home(scene.home.path()).args(["login", "-u", USER, "--password-stdin"]);
    let output = login.arg(scene.registry.host()).stdin(PASSWORD).run().success();
    assert_quiet(&output);
    let secret = |path: &PathBuf| reveals(&fs::read(path).unwrap());
    let kept: Vec<PathBuf> = files_below(scene.home.path()).into_iter().filter(secret).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(output.stderr.contains(kept[0].to_str().unwrap()), "{}", output.stderr);
    assert_eq!(fs::metadata(&kept[0]).unwrap().permissions().mode() & 0o777, 0o600);
    scene.pull().run().success();
}

#[test]
fn login_to_a_real_registry_with_passwords_works_and_is_forgotten() {
    let image = Image::build().layer(Blob::files(&[("etc/motd", b"hello")])).finish();
    let registry = DockerRegistry::start_with_passwords(HTPASSWD_LINE);
    registry.push_as((USER, HTPASSWD), "a/b", "1", &image);
    let home = tempfile::tempdir().unwrap();
    let command = |words: &[&str]| Layerpull::new().home(home.path()).args(words);
    let (host, name) = (registry.host(), registry.name("a/b", "1"));
    let login = |password: &str| command(&["login", "-u", USER, "--password-stdin", &host]).stdin(password).run();
    command(&["pull", &name]).run().code(4);
    assert_quiet(&login("canary-wrong").code(4));
    assert_quiet(&login(HTPASSWD).success());
    assert_quiet(&command(&["pull", "-vv", "--progress", "json", &name]).run().success());
    assert_quiet(&command(&["logout", &host]).run().success());
    command(&["pull", &name]).run().code(4);
    assert!(files_below(home.path()).iter().all(|path| !reveals(&fs::read(path).unwrap())));
}
