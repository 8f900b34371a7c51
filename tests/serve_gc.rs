//! The embedded registry beside a `gc`, and beside a browser that was led astray.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use layerpull::event::{Event, Observer};
use layerpull::serve::{Access, Server};
use layerpull::store::{Collect, Effect, Spare, Store};
use support::images::{Blob, Image};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Tells when somebody waits for a lock.
struct Waits(Mutex<Option<tokio::sync::oneshot::Sender<()>>>);

impl Observer for Waits {
    fn on(&self, event: &Event) {
        if let (Event::Waiting { .. }, Some(tell)) = (event, self.0.lock().unwrap().take()) {
            tell.send(()).unwrap();
        }
    }
}

/// A store with one image, and its lock file.
async fn store(dir: &Path) -> (Store, Image) {
    let image = Image::build().layer(Blob::noise(1, 20_000_000)).finish();
    image.write_layout(dir, "docker.io/library/x:1");
    let store = Store::open(dir).unwrap();
    drop(store.share_to_write().await.unwrap());
    (store, image)
}

async fn serve(store: &Store) -> (std::net::SocketAddr, tokio_util::sync::DropGuard) {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), Access::Loopback, store.clone()).await.unwrap();
    let (address, cancel) = (server.address().unwrap(), CancellationToken::new());
    tokio::spawn(server.run(cancel.clone()));
    (address, cancel.drop_guard())
}

/// The status of the answer to a GET, and the connection behind its status line.
async fn ask(address: std::net::SocketAddr, path: &str, host: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).await.unwrap();
    (String::from_utf8_lossy(&line[9..]).into_owned(), stream)
}

#[tokio::test]
async fn a_request_waits_for_a_gc() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = store(dir.path()).await;
    let (tell, waits) = tokio::sync::oneshot::channel();
    let observed = store.observed(Arc::new(Waits(Mutex::new(Some(tell)))), CancellationToken::new());
    let (address, _server) = serve(&observed).await;
    let lock = std::fs::File::open(dir.path().join(".layerpull/locks/store")).unwrap();
    lock.lock().unwrap();
    let asked = tokio::spawn(async move { ask(address, "/v2/x/manifests/1", "localhost").await.0 });
    waits.await.unwrap();
    assert!(!asked.is_finished());
    lock.unlock().unwrap();
    assert_eq!(asked.await.unwrap(), "200");
}

#[tokio::test]
async fn a_client_that_takes_its_time_keeps_no_gc_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = store(dir.path()).await;
    let (address, _server) = serve(&store).await;
    let path = format!("/v2/x/blobs/{}", image.layer(0).digest());
    let (status, mut stream) = ask(address, &path, "localhost").await;
    assert_eq!(status, "200");
    store.remove(&"x:1".parse().unwrap()).await.unwrap();
    // Whoever waited for the client would wait in vain.
    let how = Collect { spare: Spare::Nothing, effect: Effect::Remove, patience: Duration::from_secs(60) };
    assert_eq!(store.collect(how).await.unwrap().blobs.len(), 3);
    // What it was promised comes all the same.
    let mut rest = vec![0; 20_000_000];
    stream.read_exact(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_page_that_reaches_loopback_by_a_name_of_its_own_reads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = store(dir.path()).await;
    let (address, _server) = serve(&store).await;
    for (host, status) in [("evil.example:5000", "421"), ("localhost:5000", "200"), ("127.0.0.1", "200")] {
        assert_eq!(ask(address, "/v2/_catalog", host).await.0, status, "{host}");
    }
}
