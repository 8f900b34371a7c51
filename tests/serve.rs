//! The store as a registry: what clients of the distribution protocol get from it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use layerpull::content::{Body, Extent, Origin, Provenance, Source};
use layerpull::error::{Error, Result};
use layerpull::oci::{Descriptor, Digest, MediaType, RawManifest, Reference};
use layerpull::serve::{Access, Content, Server, Users};
use layerpull::store::Store;
use reqwest::header::*;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use support::images::{Blob, Image};
use support::peers::{Podman, skopeo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// Content in memory, which can lie about its bytes.
#[derive(Default, Clone)]
struct Memory {
    names: Vec<(Reference, Descriptor)>,
    manifests: BTreeMap<Digest, RawManifest>,
    blobs: BTreeMap<Digest, support::images::Content>,
}

impl Memory {
    fn holding(images: &[(&str, &Image)]) -> Memory {
        let mut memory = Memory::default();
        for (name, image) in images {
            memory.names.push((name.parse().unwrap(), image.descriptor()));
            memory.manifests.extend(image.manifests.iter().map(|m| (m.digest.clone(), m.clone())));
            memory.blobs.extend(image.blobs.iter().map(|b| (b.digest().clone(), b.content.clone())));
        }
        memory
    }

    fn not_found(what: impl ToString) -> Error {
        Error::NotFound { what: what.to_string(), place: "memory".into(), why: String::new() }
    }
}

#[async_trait]
impl Source for Memory {
    fn place(&self) -> String {
        "memory".into()
    }

    async fn resolve(&self, name: &Reference) -> Result<Descriptor> {
        let found = self.names.iter().find(|(reference, _)| reference == name);
        found.map(|(_, root)| root.clone()).ok_or_else(|| Memory::not_found(name))
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        self.manifests.get(&descriptor.digest).cloned().ok_or_else(|| Memory::not_found(&descriptor.digest))
    }

    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        let content = self.blobs.get(&blob.digest);
        content.map(|content| Arc::new(Held(content.clone())) as Arc<dyn Origin>).into_iter().collect()
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let refers = |raw: &RawManifest| {
            let manifest = raw.parse().unwrap();
            (manifest.subject()?.digest == *subject).then(|| {
                let json: Value = serde_json::from_slice(&raw.bytes).unwrap();
                Descriptor { artifact_type: json["artifactType"].as_str().map(Into::into), ..raw.descriptor() }
            })
        };
        Ok(self.manifests.values().filter_map(refers).collect())
    }
}

#[derive(Debug)]
struct Held(support::images::Content);

#[async_trait]
impl Origin for Held {
    fn host(&self) -> &str {
        "memory"
    }

    fn provenance(&self) -> Provenance {
        Provenance::Local
    }

    async fn open(&self, range: Range<u64>) -> Result<Body> {
        let (content, end) = (self.0.clone(), range.end.min(self.0.size()));
        let pieces = (range.start..end).step_by(1 << 16).map(move |at| Ok(content.read(at..end.min(at + (1 << 16)))));
        Ok(Body {
            start: range.start,
            end: Some(end),
            extent: Extent::Range,
            bytes: futures::stream::iter(pieces).boxed(),
        })
    }
}

struct Served {
    address: SocketAddr,
    cancel: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start(memory: Memory, access: Access) -> Served {
        let names = memory.names.clone();
        let listing = Arc::new(move || {
            let names = names.clone();
            async move { Ok(names) }.boxed()
        });
        Served::content(Content { source: Arc::new(memory), listing, guarding: None }, access).await
    }

    async fn content(content: Content, access: Access) -> Served {
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), access, content).await.unwrap();
        let (address, cancel) = (server.address().unwrap(), CancellationToken::new());
        Served { address, cancel: cancel.clone(), server: tokio::spawn(server.run(cancel)) }
    }

    async fn open(images: &[(&str, &Image)]) -> Served {
        Served::start(Memory::holding(images), Access::Loopback).await
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
    let mut memory = Memory::holding(&[("x:1", &image)]);
    let wrong = support::images::Content::Noise { seed: 2, size: 300_000 };
    memory.blobs.insert(image.layer(0).digest().clone(), wrong);
    let served = Served::start(memory, Access::Loopback).await;
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
    let mut memory = Memory::holding(&[("x:1", &image), ("other:1", &signature), ("other:2", &bill)]);
    memory.names.truncate(1);
    let served = Served::start(memory, Access::Loopback).await;
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
    let mut memory = Memory::holding(&[("x:1", &Image::index(&[held.clone(), absent.clone()]))]);
    memory.manifests.remove(absent.digest());
    let served = Served::start(memory, Access::Loopback).await;
    assert_eq!(served.get("x/manifests/1").await.headers()[CONTENT_TYPE], MediaType::OCI_INDEX);
    assert_eq!(served.get(&format!("x/manifests/{}", held.digest())).await.status(), StatusCode::OK);
    assert_eq!(served.get(&blob_path(held.layer(0))).await.status(), StatusCode::OK);
    assert_eq!(served.refusal(&format!("x/manifests/{}", absent.digest())).await, (404, "MANIFEST_UNKNOWN".into()));
}

#[tokio::test]
async fn users_must_show_their_password() {
    let memory = Memory::holding(&[("x:1", &image())]);
    let served = Served::start(memory, Access::Users(Users::one("me", "canary"))).await;
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
async fn a_stop_ends_within_two_seconds_though_a_client_takes_nothing() {
    let image = Image::build().layer(Blob::noise(1, 200 << 20)).finish();
    let served = Served::open(&[("x:1", &image)]).await;
    let mut stream = tokio::net::TcpStream::connect(served.address).await.unwrap();
    let request = format!("GET /v2/x/blobs/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", image.layer(0).digest());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    served.cancel.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(2), served.server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_network_address_needs_a_word_about_credentials() {
    let listing = Arc::new(|| async { Ok(vec![]) }.boxed());
    let content = Content { source: Arc::new(Memory::default()), listing, guarding: None };
    let refused = Server::bind("0.0.0.0:0".parse().unwrap(), Access::Loopback, content).await;
    assert!(matches!(refused, Err(Error::Usage(text)) if text.contains("--no-auth")));
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_and_podman_take_images_from_it() {
    let amd64 = Image::build().layer(Blob::files(&[("text", b"for amd64")])).finish();
    let arm64 = Image::build().platform("linux/arm64").layer(Blob::files(&[("text", b"for arm64")])).finish();
    let index = Image::index(&[amd64.clone(), arm64]);
    let served = Served::open(&[("nginx:1", &index), ("127.0.0.1:5000/a/b:2", &image())]).await;
    let address = served.address;
    tokio::task::spawn_blocking(move || take_with_peers(address, &index, &amd64)).await.unwrap();
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
    let dir = tempfile::tempdir().unwrap();
    let amd64 = Image::build().layer(Blob::files(&[("text", b"for amd64")])).finish();
    let index = Image::index(&[amd64.clone(), Image::build().platform("linux/arm64").finish()]);
    index.write_layout(dir.path(), "docker.io/library/nginx:1");
    let store = Store::open(dir.path()).unwrap();
    let served = Served::content(Content::of(&store), Access::Loopback).await;
    assert_eq!(served.refusal("a/b/manifests/2").await, (404, "NAME_UNKNOWN".into()));
    image().write_layout(dir.path(), "127.0.0.1:5000/a/b:2");
    let address = served.address;
    tokio::task::spawn_blocking(move || take_with_peers(address, &index, &amd64)).await.unwrap();
}

#[tokio::test]
async fn a_spoiled_or_shortened_file_of_a_store_never_arrives_whole() {
    let (dir, image) = (tempfile::tempdir().unwrap(), image());
    image.write_layout(dir.path(), "docker.io/library/x:1");
    let served = Served::content(Content::of(&Store::open(dir.path()).unwrap()), Access::Loopback).await;
    let file = dir.path().join("blobs/sha256").join(image.layer(0).digest().hex());
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
