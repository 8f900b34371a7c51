//! The store as a registry: what clients of the distribution protocol get from it.

use std::net::SocketAddr;
use std::path::PathBuf;

use layerpull::error::Error;
use layerpull::oci::{Digest, MediaType, Reference};
use layerpull::serve::{Access, Server, Users};
use layerpull::store::Store;
use reqwest::header::*;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use support::images::{Blob, Image};
use support::peers::{Podman, skopeo};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// A store of these images under these names.
fn holding(images: &[(&str, &Image)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, image) in images {
        image.write_layout(dir.path(), &name.parse::<Reference>().unwrap().to_string());
    }
    dir
}

/// Where a store has the blob of `digest`.
fn file(store: &TempDir, digest: &Digest) -> PathBuf {
    store.path().join("blobs/sha256").join(digest.hex())
}

struct Served {
    address: SocketAddr,
    cancel: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    store: TempDir,
}

impl Served {
    async fn start(store: TempDir, access: Access) -> Served {
        let opened = Store::open(store.path()).unwrap();
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), access, opened).await.unwrap();
        let (address, cancel) = (server.address().unwrap(), CancellationToken::new());
        Served { address, cancel: cancel.clone(), server: tokio::spawn(server.run(cancel)), store }
    }

    async fn open(images: &[(&str, &Image)]) -> Served {
        Served::start(holding(images), Access::Loopback).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        // Whoever comes first wins; all say the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.request(method, format!("http://{}/v2/{path}", self.address))
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await.text().await.unwrap()).unwrap()
    }

    /// Status and error code.
    async fn refusal(&self, path: &str) -> (u16, String) {
        let answer = self.get(path).await;
        let status = answer.status().as_u16();
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        (status, body["errors"][0]["code"].as_str().unwrap().to_string())
    }
}

fn image() -> Image {
    Image::build().layer(Blob::noise(1, 300_000)).docker().finish()
}

fn blob_path(blob: &Blob) -> String {
    format!("docker.io/library/x/blobs/{}", blob.digest())
}

#[tokio::test]
async fn a_manifest_is_served_verbatim_by_tag_and_digest() {
    let image = image();
    let served = Served::open(&[("x:1", &image)]).await;
    for selector in ["1".to_string(), image.digest().to_string()] {
        for method in [Method::GET, Method::HEAD] {
            let path = format!("docker.io/library/x/manifests/{selector}");
            let answer = served.request(method.clone(), &path).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()[CONTENT_TYPE], MediaType::DOCKER_MANIFEST);
            assert_eq!(answer.headers()["docker-content-digest"], image.digest().to_string());
            assert_eq!(answer.headers()[CONTENT_LENGTH], image.root().bytes.len().to_string());
            let body = answer.bytes().await.unwrap();
            assert_eq!(body, if method == Method::GET { image.root().bytes.clone() } else { "".into() });
        }
    }
}

#[tokio::test]
async fn a_blob_is_served_whole_and_in_parts() {
    let image = image();
    let served = Served::open(&[("x:1", &image)]).await;
    let (layer, path) = (image.layer(0), blob_path(image.layer(0)));
    let whole = served.get(&path).await;
    assert_eq!((whole.status(), whole.content_length()), (StatusCode::OK, Some(300_000)));
    assert_eq!(whole.headers()[ETAG], format!("\"{}\"", layer.digest()));
    assert!(layer.digest().matches(&whole.bytes().await.unwrap()));

    let parts = [("bytes=5-9", 5..10), ("bytes=299990-", 299_990..300_000), ("bytes=-7", 299_993..300_000)];
    for (header, range) in parts {
        let part = served.request(Method::GET, &path).header(RANGE, header).send().await.unwrap();
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{header}");
        assert_eq!(part.headers()[CONTENT_RANGE], format!("bytes {}-{}/300000", range.start, range.end - 1));
        assert_eq!(part.bytes().await.unwrap(), layer.content.read(range));
    }
    let outside = served.request(Method::GET, &path).header(RANGE, "bytes=300000-").send().await.unwrap();
    assert_eq!(outside.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(outside.headers()[CONTENT_RANGE], "bytes */300000");
}

#[tokio::test]
async fn conditions_compare_the_digest() {
    let image = image();
    let served = Served::open(&[("x:1", &image)]).await;
    let (path, etag) = (blob_path(image.layer(0)), format!("\"{}\"", image.layer(0).digest()));
    let ask = |name: HeaderName, value: &str| {
        let request = served.request(Method::GET, &path).header(RANGE, "bytes=5-9").header(name, value);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(ask(IF_RANGE, &etag).await, 206);
    assert_eq!(ask(IF_RANGE, "\"other\"").await, 200);
    assert_eq!(ask(IF_NONE_MATCH, &etag).await, 304);
    assert_eq!(ask(IF_NONE_MATCH, "\"other\"").await, 206);
}

#[tokio::test]
async fn a_spoiled_blob_ends_too_short() {
    let image = image();
    let served = Served::open(&[("x:1", &image)]).await;
    let wrong = support::images::Content::Noise { seed: 2, size: 300_000 };
    std::fs::write(file(&served.store, image.layer(0).digest()), wrong.to_bytes()).unwrap();
    // The connection may end before the head has left the buffer: no answer, or one that is too short.
    let answer = served.request(Method::GET, &blob_path(image.layer(0))).send().await;
    let body = match answer {
        Ok(answer) => answer.bytes().await,
        Err(error) => Err(error),
    };
    assert!(body.is_err());
    let part = served.request(Method::GET, &blob_path(image.config())).header(RANGE, "bytes=0-").send().await.unwrap();
    assert!(image.config().digest().matches(&part.bytes().await.unwrap()));
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_envelope_of_the_specification() {
    let (image, other) = (image(), Image::tiny("other"));
    let served = Served::open(&[("x:1", &image), ("quay.io/library/x:1", &image), ("y:1", &other)]).await;
    let refused = |code: &str| (404, code.to_string());
    assert_eq!(served.refusal("docker.io/library/z/tags/list").await, refused("NAME_UNKNOWN"));
    assert_eq!(served.refusal("library/x/tags/list").await, refused("NAME_UNKNOWN"));
    assert_eq!(served.refusal("docker.io/library/x/manifests/2").await, refused("MANIFEST_UNKNOWN"));
    let layer = other.layer(0).digest();
    assert_eq!(served.refusal(&format!("library/y/manifests/{layer}")).await, refused("MANIFEST_UNKNOWN"));
    assert_eq!(served.refusal(&blob_path(other.layer(0))).await, refused("BLOB_UNKNOWN"));
    assert_eq!(served.refusal("library/y/blobs/sha256:..").await, (400, "DIGEST_INVALID".into()));
    let post = served.request(Method::POST, "library/y/blobs/uploads/").send().await.unwrap();
    assert_eq!((post.status().as_u16(), post.headers()[ALLOW].to_str().unwrap()), (405, "GET, HEAD"));
}

#[tokio::test]
async fn lists_come_in_pages_that_link_to_the_next() {
    let image = image();
    let names = ["x:1", "x:2", "x:3", "ghcr.io/a/b:1", "127.0.0.1:5000/c:1"].map(|name| (name, &image));
    let served = Served::open(&names).await;
    assert_eq!(served.json("x/tags/list").await["tags"], serde_json::json!(["1", "2", "3"]));
    let first = served.get("x/tags/list?n=2").await;
    assert_eq!(first.headers()[LINK], "</v2/x/tags/list?n=2&last=2>; rel=\"next\"");
    let last = served.get("x/tags/list?n=2&last=2").await;
    assert!(!last.headers().contains_key(LINK));
    assert_eq!(last.text().await.unwrap(), r#"{"name":"x","tags":["3"]}"#);
    let catalog = served.get("_catalog?n=2").await;
    assert_eq!(catalog.headers()[LINK], "</v2/_catalog?n=2&last=docker.io%2Flibrary%2Fx>; rel=\"next\"");
    assert_eq!(catalog.text().await.unwrap(), r#"{"repositories":["127.0.0.1_5000/c","docker.io/library/x"]}"#);
}

#[tokio::test]
async fn referrers_are_filtered_and_can_be_fetched() {
    let image = image();
    let attach =
        |kind: &str| Image::build().artifact(kind).subject(image.descriptor()).layer(Blob::noise(7, 9)).finish();
    let (signature, bill) = (attach("a/signature"), attach("a/bill"));
    let served = Served::open(&[("other:1", &signature), ("other:2", &bill)]).await;
    std::fs::remove_file(served.store.path().join("index.json")).unwrap();
    image.write_layout(served.store.path(), "docker.io/library/x:1");
    let path = format!("x/referrers/{}", image.digest());
    assert_eq!(served.json(&path).await["manifests"].as_array().unwrap().len(), 2);
    let filtered = served.get(&format!("{path}?artifactType=a/signature")).await;
    assert_eq!(filtered.headers()["oci-filters-applied"], "artifactType");
    assert_eq!(filtered.headers()[CONTENT_TYPE], MediaType::OCI_INDEX);
    let found: Value = serde_json::from_str(&filtered.text().await.unwrap()).unwrap();
    assert_eq!(found["manifests"][0]["digest"], signature.digest().to_string());
    assert_eq!(served.get(&format!("x/manifests/{}", signature.digest())).await.status(), StatusCode::OK);
    assert_eq!(served.get(&format!("x/blobs/{}", signature.layer(0).digest())).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn of_a_sparse_index_the_absent_child_is_not_found() {
    let (held, absent) = (image(), Image::build().platform("linux/arm64").finish());
    let served = Served::open(&[("x:1", &Image::index(&[held.clone(), absent.clone()]))]).await;
    std::fs::remove_file(file(&served.store, absent.digest())).unwrap();
    assert_eq!(served.get("x/manifests/1").await.headers()[CONTENT_TYPE], MediaType::OCI_INDEX);
    assert_eq!(served.get(&format!("x/manifests/{}", held.digest())).await.status(), StatusCode::OK);
    assert_eq!(served.get(&blob_path(held.layer(0))).await.status(), StatusCode::OK);
    assert_eq!(served.refusal(&format!("x/manifests/{}", absent.digest())).await, (404, "MANIFEST_UNKNOWN".into()));
}

#[tokio::test]
async fn users_must_show_their_password() {
    let served = Served::start(holding(&[("x:1", &image())]), Access::Users(Users::one("me", "canary"))).await;
    let refused = served.get("").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(refused.headers()[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic realm="));
    let with = |password: &str| served.request(Method::GET, "x/manifests/1").basic_auth("me", Some(password)).send();
    assert_eq!(with("wrong").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(with("canary").await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_nothing_is_closed() {
    let served = Served::open(&[]).await;
    let mut stream = tokio::net::TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHo").await.unwrap();
    let before = tokio::time::Instant::now();
    let mut answer = Vec::new();
    // An end or a reset: both are a closed connection.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(before.elapsed().as_secs() <= 60, "{:?}", before.elapsed());
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let served = Served::open(&[]).await;
    let huge = served.request(Method::GET, "").header("x-huge", "x".repeat(40 << 10)).send().await;
    assert!(huge.map_or(true, |answer| answer.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
}

#[tokio::test]
async fn a_stop_ends_soon_though_a_client_takes_nothing() {
    let image = Image::build().layer(Blob::noise(1, 200 << 20)).finish();
    let served = Served::open(&[("x:1", &image)]).await;
    let mut stream = tokio::net::TcpStream::connect(served.address).await.unwrap();
    let request = format!("GET /v2/x/blobs/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", image.layer(0).digest());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    served.cancel.cancel();
    // It gives answers a second and a half, and the client that takes nothing would else have a minute.
    tokio::time::timeout(std::time::Duration::from_secs(30), served.server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_network_address_needs_a_word_about_credentials() {
    let store = Store::open(holding(&[]).path()).unwrap();
    let refused = Server::bind("0.0.0.0:0".parse().unwrap(), Access::Loopback, store).await;
    assert!(matches!(refused, Err(Error::Usage(text)) if text.contains("--no-auth")));
}

fn take_with_peers(address: SocketAddr, index: &Image, amd64: &Image) {
    let layout = tempfile::tempdir().unwrap();
    for path in ["docker.io/library/nginx:1", "nginx:1", "127.0.0.1_5000/a/b:2"] {
        let (from, to) = (format!("docker://{address}/{path}"), format!("oci:{}:{path}", layout.path().display()));
        skopeo(["copy", "--all", "--preserve-digests", "--src-tls-verify=false", &from, &to]).ok();
    }
    assert!(layout.path().join("blobs/sha256").join(index.digest().hex()).is_file());
    let podman = Podman::new();
    let name = format!("{address}/library/nginx:1");
    let id = podman.run(["pull", "-q", "--platform", "linux/amd64", "--tls-verify=false", &name]).ok();
    assert_eq!(id.trim(), amd64.config().digest().hex());
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_and_podman_take_images_from_a_store_that_grows_meanwhile() {
    let amd64 = Image::build().layer(Blob::files(&[("text", b"for amd64")])).finish();
    let index = Image::index(&[amd64.clone(), Image::build().platform("linux/arm64").finish()]);
    let served = Served::open(&[("nginx:1", &index)]).await;
    assert_eq!(served.refusal("a/b/manifests/2").await, (404, "NAME_UNKNOWN".into()));
    image().write_layout(served.store.path(), "127.0.0.1:5000/a/b:2");
    let address = served.address;
    tokio::task::spawn_blocking(move || take_with_peers(address, &index, &amd64)).await.unwrap();
}

#[tokio::test]
async fn a_spoiled_or_shortened_file_of_a_store_never_arrives_whole() {
    let image = image();
    let served = Served::open(&[("x:1", &image)]).await;
    let file = file(&served.store, image.layer(0).digest());
    let mut spoiled = image.layer(0).content.to_bytes().to_vec();
    spoiled[299_999] ^= 1;
    for bytes in [&spoiled[..], &spoiled[..1000], b""] {
        std::fs::write(&file, bytes).unwrap();
        let whole = match served.request(Method::GET, &blob_path(image.layer(0))).send().await {
            Ok(answer) => answer.status() == StatusCode::OK && answer.bytes().await.is_ok(),
            Err(_) => false,
        };
        assert!(!whole, "{} bytes", bytes.len());
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(served.refusal(&blob_path(image.layer(0))).await, (404, "BLOB_UNKNOWN".into()));
}
