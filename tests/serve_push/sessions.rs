//! Upload sessions, as clients of all kinds use them.

use layerpull::oci::{Algorithm, Digest};
use reqwest::header::{CONTENT_RANGE, LOCATION, RANGE};
use reqwest::{Body, Method, StatusCode};
use support::images::{Content, Image};
use tokio::io::AsyncReadExt;

use crate::scene::{Registry, code, header};

fn noise(seed: u64, size: u64) -> Vec<u8> {
    Content::Noise { seed, size }.to_bytes().to_vec()
}

#[tokio::test]
async fn a_blob_comes_in_chunks() {
    let registry = Registry::start().await;
    let client = registry.client();
    let bytes = noise(1, 3000);
    let location = client.begin("a/b").await;
    assert_eq!(client.range(&location).await, "0-0");

    let first = client.request(Method::PATCH, &location).body(bytes[..1000].to_vec()).send().await.unwrap();
    assert_eq!((first.status(), header(&first, RANGE.as_str())), (StatusCode::ACCEPTED, "0-999".into()));
    let location = header(&first, LOCATION.as_str());
    let stream = futures::stream::iter(
        bytes[1000..2000].chunks(7).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>(),
    );
    let second = client.request(Method::PATCH, &location).header(CONTENT_RANGE, "1000-1999");
    let second = second.body(Body::wrap_stream(stream)).send().await.unwrap();
    assert_eq!((second.status(), header(&second, RANGE.as_str())), (StatusCode::ACCEPTED, "0-1999".into()));
    assert_eq!(client.range(&location).await, "0-1999");

    let digest = Digest::of(&bytes);
    let end = client.request(Method::PUT, &format!("{location}?digest={digest}"));
    let end = end.header(CONTENT_RANGE, "2000-2999").body(bytes[2000..].to_vec()).send().await.unwrap();
    assert_eq!(end.status(), StatusCode::CREATED);
    assert_eq!(header(&end, LOCATION.as_str()), format!("/v2/a/b/blobs/{digest}"));
    assert_eq!(header(&end, "docker-content-digest"), digest.to_string());
    let got = client.send(Method::GET, &header(&end, LOCATION.as_str())).await;
    assert_eq!(got.bytes().await.unwrap(), bytes);
    assert_eq!(code(client.send(Method::GET, &location).await).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));
    assert_eq!(client.send(Method::HEAD, &format!("other/blobs/{digest}")).await.status(), 404);
}

#[tokio::test]
async fn a_chunk_that_begins_elsewhere_is_told_where_the_session_stands() {
    let registry = Registry::start().await;
    let client = registry.client();
    let location = client.begin("a").await;
    client.request(Method::PATCH, &location).body("01234").send().await.unwrap();
    for range in ["0-4", "6-10", "4-8"] {
        let patch = client.request(Method::PATCH, &location).header(CONTENT_RANGE, range);
        let answer = patch.body("56789").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        assert_eq!(header(&answer, RANGE.as_str()), "0-4");
        assert_eq!(header(&answer, LOCATION.as_str()), location);
    }
    let patch = client.request(Method::PATCH, &location).header(CONTENT_RANGE, "5-9");
    assert_eq!(patch.body("56789").send().await.unwrap().status(), StatusCode::ACCEPTED);
    let end = format!("{location}?digest={}", Digest::of(b"0123456789"));
    assert_eq!(client.send(Method::PUT, &end).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_wrong_digest_makes_nothing_visible_and_leaves_the_session() {
    let registry = Registry::start().await;
    let client = registry.client();
    let location = client.begin("a").await;
    let (right, wrong) = (Digest::of(b"bytes"), Digest::of(b"other"));
    let end = client.request(Method::PUT, &format!("{location}?digest={wrong}")).body("bytes").send().await.unwrap();
    assert_eq!(code(end).await, (400, "DIGEST_INVALID".into()));
    for digest in [&right, &wrong] {
        assert_eq!(client.send(Method::HEAD, &format!("a/blobs/{digest}")).await.status(), 404);
    }
    assert_eq!(client.range(&location).await, "0-4");
    assert_eq!(code(client.send(Method::PUT, &location).await).await, (400, "DIGEST_INVALID".into()));
    let end = client.send(Method::PUT, &format!("{location}?digest={right}")).await;
    assert_eq!(end.status(), StatusCode::CREATED);
    // In one request there is no session that could be left.
    let at_once = client.request(Method::POST, &format!("a/blobs/uploads/?digest={wrong}")).body("bytes");
    assert_eq!(code(at_once.send().await.unwrap()).await, (400, "DIGEST_INVALID".into()));
    let uploads = std::fs::read_dir(registry.dir.path().join(".layerpull/uploads")).unwrap();
    assert_eq!(uploads.count(), 0);
}

#[tokio::test]
async fn a_blob_may_have_any_digest_that_can_be_verified_and_no_bytes() {
    let registry = Registry::start().await;
    let client = registry.client();
    for (algorithm, size) in [(Algorithm::Sha512, 5000), (Algorithm::Sha384, 1), (Algorithm::Sha256, 0)] {
        let content = Content::Noise { seed: 3, size };
        let digest = content.digest(algorithm);
        let location = client.begin("a").await;
        let end = client.request(Method::PUT, &format!("{location}?digest={digest}"));
        let end = end.body(content.to_bytes()).send().await.unwrap();
        assert_eq!(end.status(), StatusCode::CREATED, "{algorithm:?}");
        let got = client.send(Method::GET, &format!("a/blobs/{digest}")).await;
        assert_eq!(got.bytes().await.unwrap(), content.to_bytes());
    }
}

#[tokio::test]
async fn a_session_that_is_given_up_is_gone() {
    let registry = Registry::start().await;
    let client = registry.client();
    let location = client.begin("a").await;
    client.request(Method::PATCH, &location).body("bytes").send().await.unwrap();
    assert_eq!(client.send(Method::DELETE, &location).await.status(), StatusCode::NO_CONTENT);
    for method in [Method::GET, Method::PATCH, Method::PUT, Method::DELETE] {
        let answer = client.send(method, &format!("{location}?digest={}", Digest::of(b"bytes"))).await;
        assert_eq!(code(answer).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));
    }
}

#[tokio::test]
async fn what_came_of_a_cut_chunk_is_kept_and_gone_on_with() {
    let registry = Registry::start().await;
    let client = registry.client();
    let bytes = noise(2, 3_000_000);
    let location = client.begin("a").await;
    drop(client.patch_raw(&location, bytes.len(), &bytes[..1_234_567]).await);
    client.until_range(&location, |last| last == 1_234_566).await;
    let patch = client.request(Method::PATCH, &location).header(CONTENT_RANGE, "1234567-2999999");
    let rest = patch.body(bytes[1_234_567..].to_vec()).send().await.unwrap();
    assert_eq!(header(&rest, RANGE.as_str()), "0-2999999");
    let end = client.send(Method::PUT, &format!("{location}?digest={}", Digest::of(&bytes))).await;
    assert_eq!(end.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn the_newest_request_takes_a_session_over() {
    let registry = Registry::start().await;
    let client = registry.client();
    let bytes = noise(3, 600_000);
    let location = client.begin("a").await;
    let mut stale = client.patch_raw(&location, 1_000_000, &bytes).await;
    // So much at least is on the disk, and its client stays silent from now on.
    client.until_range(&location, |last| last >= 512 << 10).await;
    assert_eq!(client.send(Method::DELETE, &location).await.status(), StatusCode::NO_CONTENT);
    let mut line = [0; 12];
    stale.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 409");
}

#[tokio::test]
async fn a_blob_is_mounted_from_where_the_client_can_read_it() {
    let registry = Registry::start().await;
    let client = registry.client();
    let image = Image::tiny("mounted");
    image.write_layout(registry.dir.path(), "quay.io/there/x:1");
    let layer = image.layer(0).digest();
    let unnamed = client.put_blob("unnamed", b"pushed, without a tag").await;
    let ask = async |digest: &Digest, from: &str| {
        let answer = client.send(Method::POST, &format!("b/blobs/uploads/?mount={digest}&from={from}")).await;
        (answer.status().as_u16(), header(&answer, LOCATION.as_str()))
    };
    assert_eq!(ask(layer, "there/x").await, (201, format!("/v2/b/blobs/{layer}")));
    assert_eq!(ask(layer, "quay.io%2Fthere%2Fx").await.0, 201);
    assert_eq!(ask(&unnamed, "unnamed").await.0, 201);
    assert_eq!(client.send(Method::HEAD, &format!("b/blobs/{layer}")).await.status(), 200);
    for (digest, from) in
        [(layer, "nowhere"), (layer, "unnamed"), (&unnamed, "there/x"), (&Digest::of(b"?"), "unnamed")]
    {
        let (status, location) = ask(digest, from).await;
        assert_eq!(status, 202, "{digest} from {from}");
        assert_eq!(client.range(&location).await, "0-0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_push_the_same_blob_at_once() {
    let registry = Registry::start().await;
    let bytes = noise(4, 4_000_000);
    let push = async |repository: &str| registry.client().put_blob(repository, &bytes).await;
    let (one, other) = tokio::join!(push("a"), push("b"));
    assert_eq!(one, other);
    for repository in ["a", "b"] {
        let got = registry.client().send(Method::GET, &format!("{repository}/blobs/{one}")).await;
        assert_eq!(got.bytes().await.unwrap(), bytes);
    }
}
