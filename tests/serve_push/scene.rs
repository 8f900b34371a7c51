//! A registry that can be written, and a client of it that says exactly what a test wants.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use layerpull::oci::{Descriptor, Digest, RawManifest};
use layerpull::serve::{Access, Server};
use layerpull::store::Store;
use reqwest::header::{CONTENT_TYPE, HOST, LOCATION, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use support::images::Image;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest wait for something that nobody announces.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Registry {
    pub address: SocketAddr,
    pub store: Store,
    pub dir: tempfile::TempDir,
    _server: DropGuard,
}

impl Registry {
    pub async fn start() -> Registry {
        Registry::with(Access::NoAuth).await
    }

    pub async fn with(access: Access) -> Registry {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), access, store.clone()).await.unwrap();
        let server = server.writable().unwrap();
        let (address, cancel) = (server.address().unwrap(), CancellationToken::new());
        tokio::spawn(server.run(cancel.clone()));
        Registry { address, store, dir, _server: cancel.drop_guard() }
    }

    pub fn client(&self) -> Client {
        Client(self.address)
    }

    /// The names in the store, sorted.
    pub async fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.store.names().await.unwrap().into_iter().map(|(name, _)| name.to_string()).collect();
        names.sort();
        names
    }

    /// What `name` points to in the store.
    pub async fn root(&self, name: &str) -> Option<Descriptor> {
        let names = self.store.names().await.unwrap();
        names.into_iter().find(|(reference, _)| reference.to_string() == name).map(|(_, root)| root)
    }
}

/// Speaks to a registry at an address.
#[derive(Clone, Copy)]
pub struct Client(pub SocketAddr);

impl Client {
    /// A request for a path below `/v2/`, or one that begins with it as a `Location` does.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // Whoever comes first wins; all say the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let path = path.strip_prefix("/v2/").unwrap_or(path);
        client.request(method, format!("http://{}/v2/{path}", self.0))
    }

    pub async fn send(&self, method: Method, path: &str) -> Response {
        self.request(method, path).send().await.unwrap()
    }

    /// Begins an upload; returns where it is.
    pub async fn begin(&self, repository: &str) -> String {
        let answer = self.send(Method::POST, &format!("{repository}/blobs/uploads/")).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        assert_eq!(header(&answer, RANGE.as_str()), "0-0");
        assert!(!header(&answer, "docker-upload-uuid").is_empty());
        header(&answer, LOCATION.as_str())
    }

    /// Uploads a blob in one request.
    pub async fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = format!("{repository}/blobs/uploads/?digest={digest}");
        let answer = self.request(Method::POST, &path).body(bytes.to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        digest
    }

    pub async fn put_manifest(&self, repository: &str, selector: &str, manifest: &RawManifest) -> Response {
        let request = self.request(Method::PUT, &format!("{repository}/manifests/{selector}"));
        let request = request.header(CONTENT_TYPE, manifest.media_type.as_str()).body(manifest.bytes.clone());
        request.send().await.unwrap()
    }

    /// Pushes everything, children first.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) {
        for blob in &image.blobs {
            self.put_blob(repository, &blob.content.to_bytes()).await;
        }
        let (root, children) = image.manifests.split_last().unwrap();
        for child in children {
            let answer = self.put_manifest(repository, &child.digest.to_string(), child).await;
            assert_eq!(answer.status(), StatusCode::CREATED);
        }
        let answer = self.put_manifest(repository, tag, root).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
    }

    /// The `Range` of a session.
    pub async fn range(&self, location: &str) -> String {
        let answer = self.send(Method::GET, location).await;
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        header(&answer, RANGE.as_str())
    }

    /// Asks for the range of a session until it is `wanted`.
    pub async fn until_range(&self, location: &str, wanted: impl Fn(u64) -> bool) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = self.range(location).await.strip_prefix("0-").unwrap().parse().unwrap();
            if wanted(last) {
                return last;
            }
            assert!(Instant::now() < deadline, "the session stands at {last}");
        }
    }

    /// A PATCH that promises `length` bytes and sends these.
    pub async fn patch_raw(&self, location: &str, length: usize, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        let head = format!("PATCH {location} HTTP/1.1\r\n{HOST}: {}\r\nContent-Length: {length}\r\n\r\n", self.0);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }
}

pub fn header(answer: &Response, name: &str) -> String {
    answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

/// The status, and the first error of the envelope.
pub async fn refusal(answer: Response) -> (u16, String, Value) {
    let status = answer.status().as_u16();
    let json: Value = answer.json().await.unwrap();
    let error = &json["errors"][0];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{json}");
    (status, error["code"].as_str().unwrap().to_owned(), error["detail"].clone())
}

/// Status and code alone.
pub async fn code(answer: Response) -> (u16, String) {
    let (status, code, _) = refusal(answer).await;
    (status, code)
}
