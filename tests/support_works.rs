//! The tests' own registry misbehaves as it is told, and records what it sent.

use layerpull::oci::{Digest, Manifest};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, LOCATION, RANGE, WWW_AUTHENTICATE};
use support::command::Layerpull;
use support::images::{Blob, Image};
use support::peers::{self, DockerRegistry, Nginx};
use support::registry::{
    Auth, Bearer, Cut, Elsewhere, Fault, Gate, Lifetime, Redirect, Registry, Reply, Stall, Times, When,
};

fn client() -> reqwest::Client {
    // Whoever builds a client first wins; all of them say the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

fn image() -> Image {
    Image::build().layer(Blob::files(&[("a", b"a")])).layer(Blob::noise(1, 3 << 20)).finish()
}

fn blob_url(registry: &Registry, blob: &Blob) -> String {
    format!("{}/v2/library/x/blobs/{}", registry.url(), blob.digest())
}

fn holding(image: &Image) -> Registry {
    let registry = Registry::start();
    registry.add("library/x", "1", image);
    registry
}

#[test]
fn images_are_the_same_in_every_run_and_name_their_blobs() {
    assert_eq!(image().digest(), image().digest());
    let Manifest::Image(manifest) = image().root().parse().unwrap() else { panic!("an image") };
    let named: Vec<_> = manifest.blobs().map(|d| d.digest.clone()).collect();
    assert_eq!(named, image().blobs.iter().map(|b| b.digest().clone()).collect::<Vec<_>>());
    let index = Image::index(&[image(), Image::build().platform("linux/arm64").finish()]);
    assert!(matches!(index.root().parse().unwrap(), Manifest::Index(index) if index.manifests.len() == 2));
}

#[tokio::test]
async fn ranges_are_answered_and_recorded() {
    let image = image();
    let registry = holding(&image);
    let layer = image.layer(1);
    let answer = client().get(blob_url(&registry, layer)).header(RANGE, "bytes=1000003-2000000").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.headers()[CONTENT_RANGE], format!("bytes 1000003-2000000/{}", 3 << 20));
    assert_eq!(answer.bytes().await.unwrap(), layer.content.read(1_000_003..2_000_001));
    assert_eq!(registry.requests().bytes_sent_for(layer.digest()), 999_998);
    assert_eq!(registry.requests().ranges(layer.digest()), [Some("bytes=1000003-2000000".to_string())]);
    assert_eq!(registry.requests().blob_gets(image.layer(0).digest()).len(), 0);
}

#[tokio::test]
async fn a_rule_applies_as_often_as_it_says() {
    let image = image();
    let registry = holding(&image);
    registry.rule(
        When::manifest("1").get().after(1),
        Times::Once,
        Fault::Reply(Reply::status(503).header("retry-after", 7)),
    );
    let url = format!("{}/v2/library/x/manifests/1", registry.url());
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(client().get(&url).send().await.unwrap().status().as_u16());
    }
    assert_eq!(seen, [200, 503, 200]);
    assert_eq!(registry.requests().manifest_gets("1").len(), 3);
}

#[tokio::test]
async fn a_cut_body_ends_at_the_byte() {
    let image = image();
    for cut in [Cut::Fin, Cut::Rst] {
        let registry = holding(&image);
        registry.rule(When::blobs(), Times::Once, Fault::CutAfter(100_000, cut));
        let answer = client().get(blob_url(&registry, image.layer(1))).send().await.unwrap();
        assert!(answer.bytes().await.is_err(), "{cut:?}");
        assert_eq!(registry.requests().blob_bytes(), 100_000);
        let again = client().get(blob_url(&registry, image.layer(1))).send().await.unwrap();
        assert!(image.layer(1).digest().matches(&again.bytes().await.unwrap()));
    }
}

#[tokio::test]
async fn a_stalled_body_goes_on_when_the_gate_opens() {
    let image = image();
    let registry = holding(&image);
    let gate = Gate::default();
    registry.rule(When::blobs(), Times::Once, Fault::StallAfter(1000, Stall::Until(gate.clone())));
    let body = tokio::spawn({
        let url = blob_url(&registry, image.layer(1));
        async move { client().get(url).send().await.unwrap().bytes().await.unwrap() }
    });
    let requests = registry.reached("the first bytes", |requests| requests.blob_bytes() == 1000).await;
    assert!(!requests[0].ended);
    gate.open();
    assert!(image.layer(1).digest().matches(&body.await.unwrap()));
}

#[tokio::test]
async fn wrong_bytes_and_wrong_ends_are_sent_as_told() {
    let image = image();
    let layer = image.layer(1);
    let faults = [
        (Fault::Flip(5), layer.size()),
        (Fault::Short(10), 10),
        (Fault::Long(10), layer.size() + 10),
        (Fault::All(vec![Fault::Chunked, Fault::Short(10)]), 10),
        (Fault::All(vec![Fault::NoLength, Fault::Short(10)]), 10),
        (Fault::All(vec![Fault::Http10, Fault::Short(10)]), 10),
    ];
    for (fault, expected) in faults {
        let registry = holding(&image);
        registry.rule(When::blobs(), Times::Once, fault.clone());
        let bytes = client().get(blob_url(&registry, layer)).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, expected, "{fault:?}");
        assert!(!layer.digest().matches(&bytes), "{fault:?}");
    }
}

#[tokio::test]
async fn a_token_opens_its_repository_until_it_ends() {
    let image = image();
    let registry = holding(&image);
    let bearer = Bearer {
        credentials: Some(("me".into(), "canary".into())),
        lifetime: Lifetime::Requests(1),
        ..Bearer::default()
    };
    registry.require(Auth::Bearer(bearer));
    let url = format!("{}/v2/library/x/manifests/1", registry.url());
    let refusal = client().get(&url).send().await.unwrap();
    assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
    let challenge = refusal.headers()[WWW_AUTHENTICATE].to_str().unwrap();
    assert!(challenge.contains("scope=\"repository:library/x:pull\""), "{challenge}");

    let realm = format!("{}/token?scope=repository:library/x:pull", registry.url());
    assert_eq!(client().get(&realm).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let issued = client().get(&realm).basic_auth("me", Some("canary")).send().await.unwrap().text().await.unwrap();
    let token: serde_json::Value = serde_json::from_str(&issued).unwrap();
    let token = format!("Bearer {}", token["token"].as_str().unwrap());
    let get = || client().get(&url).header(AUTHORIZATION, &token).send();
    assert_eq!(get().await.unwrap().status(), StatusCode::OK);
    assert_eq!(get().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(registry.requests().carrying("canary").such(|r| r.path == "/token").len(), 1);
}

#[tokio::test]
async fn a_signed_address_answers_once() {
    let image = image();
    let (registry, elsewhere) = (holding(&image), Elsewhere::start());
    registry.rule(When::blobs().get(), Times::Always, Fault::Redirect(Redirect::Signed(elsewhere.clone(), 1)));
    let answer = client().get(blob_url(&registry, image.layer(1))).send().await.unwrap();
    let location = answer.headers()[LOCATION].to_str().unwrap().to_string();
    let get = || client().get(&location).header(RANGE, "bytes=0-9").send();
    assert_eq!(get().await.unwrap().status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(get().await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(elsewhere.requests().carrying("canary-signature").len(), 2);
    assert_eq!(registry.requests().blob_bytes(), 0);
}

#[tokio::test]
async fn a_certificate_of_its_own_serves_tls() {
    let registry = Registry::start_tls();
    let error = client().get(format!("{}/v2/", registry.url())).send().await.unwrap_err();
    assert!(error.is_connect());
    let root = reqwest::Certificate::from_pem(registry.certificate().as_bytes()).unwrap();
    let trusting = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    assert!(trusting.get(format!("{}/v2/", registry.url())).send().await.unwrap().status().is_success());
}

#[test]
fn skopeo_takes_the_same_digests_from_it_as_from_a_real_registry() {
    let image = Image::index(&[Image::tiny("amd64"), Image::build().platform("linux/arm64").docker().finish()]);
    let (ours, real) = (Registry::start(), DockerRegistry::start());
    ours.add("library/x", "1", &image);
    real.push("library/x", "1", &image);
    for name in [ours.name("library/x", "1"), real.name("library/x", "1")] {
        let raw = peers::skopeo(["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]).ok();
        assert_eq!(&Digest::of(raw.as_bytes()), image.digest(), "{name}");
    }
    assert!(real.count("PUT", "/manifests/1") >= 1);
}

#[tokio::test]
async fn nginx_serves_a_folder() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("blob"), "0123456789").unwrap();
    let nginx = Nginx::start(root.path(), "limit_rate 1m;");
    let request = client().get(format!("http://{}/blob", nginx.host())).header(RANGE, "bytes=2-4");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.text().await.unwrap(), "234");
}

#[test]
fn the_command_runs_and_its_output_is_collected() {
    let output = Layerpull::new().arg("--version").run().success();
    assert_eq!(output.stderr, "");
}
