//! What a server that is killed leaves to the next one.

use std::net::SocketAddr;
use std::time::Duration;

use layerpull::oci::Digest;
use layerpull::store::{Collect, Spare};
use reqwest::{Method, StatusCode};
use support::command::{Layerpull, Running};
use support::images::{Content, Image};
use tokio::io::AsyncWriteExt;

use crate::scene::{Client, Registry};

/// `layerpull serve --writable` on this store at this address, and a client of it.
fn serve(store: &std::path::Path, listen: &str) -> (Running, Client) {
    let running = Layerpull::new().args(["serve", "--writable", "--no-auth", "--listen", listen]).store(store).spawn();
    let text = running.until_stderr("\n");
    let address: SocketAddr = text.trim().rsplit("http://").next().unwrap().parse().expect(&text);
    (running, Client(address))
}

#[tokio::test]
async fn a_chunk_that_was_on_its_way_when_the_server_was_killed_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let bytes = Content::Noise { seed: 1, size: 8 << 20 }.to_bytes();
    let (server, client) = serve(&store, "127.0.0.1:0");
    let location = client.begin("a").await;
    let connection = client.patch_raw(&location, bytes.len(), &bytes[..5 << 20]).await;
    let before = client.until_range(&location, |last| last >= 4 << 20).await;
    server.kill();
    drop(connection);

    let (_server, client) = serve(&store, "127.0.0.1:0");
    let last = client.until_range(&location, |_| true).await;
    assert!(last >= before && last < 5 << 20, "{last} after {before}");
    let end = client.request(Method::PUT, &format!("{location}?digest={}", Digest::of(&bytes)));
    let end = end.body(bytes.slice(last as usize + 1..)).send().await.unwrap();
    assert_eq!(end.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_manifest_that_has_only_a_digest_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::tiny("unnamed");
    let put = |client: Client| {
        let image = image.clone();
        async move {
            for blob in &image.blobs {
                client.put_blob("a", &blob.content.to_bytes()).await;
            }
            client.put_manifest("a", &image.digest().to_string(), image.root()).await.status()
        }
    };
    // The names in the store are those of its port: nobody else takes one of this address meanwhile.
    let (server, client) = serve(dir.path(), "127.0.0.66:0");
    assert_eq!(put(client).await, StatusCode::CREATED);
    server.kill();
    let (_server, client) = serve(dir.path(), &client.0.to_string());
    let got = client.send(Method::GET, &format!("a/manifests/{}", image.digest())).await;
    assert_eq!((got.status(), got.bytes().await.unwrap()), (StatusCode::OK, image.root().bytes.clone()));
}

#[tokio::test]
async fn a_client_that_takes_its_time_keeps_no_gc_waiting_and_loses_nothing() {
    let registry = Registry::start().await;
    let client = registry.client();
    let bytes = Content::Noise { seed: 2, size: 1 << 20 }.to_bytes();
    let location = client.begin("a").await;
    let mut connection = client.patch_raw(&location, bytes.len(), &bytes[..900 << 10]).await;
    client.until_range(&location, |last| last >= 512 << 10).await;
    // Whoever waited for the client would wait in vain.
    let how = Collect { spare: Spare::Nothing, patience: Duration::from_secs(60), ..Collect::default() };
    assert_eq!(registry.store.collect(how).await.unwrap().uploads.len(), 0);
    connection.write_all(&bytes[900 << 10..]).await.unwrap();
    client.until_range(&location, |last| last + 1 == 1 << 20).await;
    let end = client.send(Method::PUT, &format!("{location}?digest={}", Digest::of(&bytes))).await;
    assert_eq!(end.status(), StatusCode::CREATED);
}

#[test]
fn the_flag_wants_credentials_or_a_word_that_none_are_wanted() {
    let output = Layerpull::new().args(["serve", "--writable", "--listen", "127.0.0.1:0"]).run().code(2);
    assert!(output.stderr.contains("--no-auth"), "{}", output.stderr);
}
