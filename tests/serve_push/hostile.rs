//! Clients that mean harm, and those who are not let in.

use layerpull::error::Error;
use layerpull::oci::Digest;
use layerpull::serve::{Access, Server, Users};
use layerpull::store::Store;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ORIGIN};
use reqwest::{Method, StatusCode};
use support::images::Image;
use tokio::io::AsyncReadExt;

use crate::scene::{Registry, code};

#[tokio::test]
async fn writing_wants_a_word_about_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let bind = async |access| {
        Server::bind("127.0.0.1:0".parse().unwrap(), access, Store::open(dir.path()).unwrap()).await.unwrap().writable()
    };
    assert!(matches!(bind(Access::Loopback).await, Err(Error::Usage(_))));
    assert!(bind(Access::NoAuth).await.is_ok());

    let registry = Registry::with(Access::Users(Users::one("me", "secret"))).await;
    let begin = || registry.client().request(Method::POST, "a/blobs/uploads/");
    assert_eq!(begin().send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(begin().basic_auth("me", Some("other")).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(begin().basic_auth("me", Some("secret")).send().await.unwrap().status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_page_in_a_browser_does_not_write() {
    let registry = Registry::start().await;
    let post = registry.client().request(Method::POST, "a/blobs/uploads/").header(ORIGIN, "http://evil.example");
    assert_eq!(code(post.send().await.unwrap()).await, (403, "DENIED".into()));
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let registry = Registry::start().await;
    let client = registry.client();
    for name in ["..%2F..%2Fetc", "a%2F..%2Fb", "A", "a:b", "a@sha256:0", "-a", "a%00b"] {
        let answer = client.send(Method::POST, &format!("{name}/blobs/uploads/")).await;
        assert_eq!(code(answer).await.0, 400, "{name}");
    }
    for path in ["../x", "a/../../x", "a//b", "a/./b"] {
        let mut stream = client.patch_raw(&format!("/v2/{path}/blobs/uploads/x"), 1, b"x").await;
        let mut line = [0; 12];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"HTTP/1.1 400", "{path}");
    }
    let image = Image::tiny("x");
    client.push("a", "1", &image).await;
    for tag in ["..", "-x", ".x", "a%2Fb", "a%20b", &"t".repeat(129)] {
        let answer = client.put_manifest("a", tag, image.root()).await;
        assert!(matches!(answer.status().as_u16(), 400 | 404), "{tag}: {}", answer.status());
    }
    for digest in ["sha256:..%2F..%2Fx", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:", "sha256:XYZ"] {
        let answer = client.send(Method::POST, &format!("a/blobs/uploads/?digest={digest}")).await;
        assert_eq!(code(answer).await, (400, "DIGEST_INVALID".into()), "{digest}");
    }
    assert_eq!(registry.names().await, [format!("{}/a:1", registry.address)]);
}

#[tokio::test]
async fn a_session_belongs_to_its_repository() {
    let registry = Registry::start().await;
    let client = registry.client();
    let location = client.begin("a").await;
    let session = location.rsplit('/').next().unwrap();
    let (id, bound) = session.split_once('-').unwrap();
    let elsewhere = [
        format!("b/blobs/uploads/{session}"),
        format!("a/blobs/uploads/{id}"),
        format!("a/blobs/uploads/..%2F..%2F{session}"),
        format!("a/blobs/uploads/{}-{bound}", "0".repeat(32)),
        format!("a/blobs/uploads/..-{bound}"),
    ];
    for path in elsewhere {
        for method in [Method::GET, Method::PATCH, Method::DELETE] {
            let answer = client.send(method, &path).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }
    assert_eq!(client.range(&location).await, "0-0");
}

#[tokio::test]
async fn a_range_that_is_not_of_the_bytes_is_refused() {
    let registry = Registry::start().await;
    let client = registry.client();
    let location = client.begin("a").await;
    for range in ["", "x", "5", "4-0", "-4", "0-18446744073709551615", "0-3", "0-5", "+0-4"] {
        let patch = client.request(Method::PATCH, &location).header(CONTENT_RANGE, range);
        let answer = patch.header(CONTENT_LENGTH, 5).body("01234").send().await.unwrap();
        assert_eq!(code(answer).await, (400, "SIZE_INVALID".into()), "{range:?}");
    }
    // Without a length nobody can tell before it has come: no more is taken than was said.
    let stream = futures::stream::iter([Ok::<_, std::io::Error>("01234")]);
    let patch = client.request(Method::PATCH, &location).header(CONTENT_RANGE, "0-2");
    let answer = patch.body(reqwest::Body::wrap_stream(stream)).send().await.unwrap();
    assert_eq!(code(answer).await, (400, "SIZE_INVALID".into()));
    assert_eq!(client.range(&location).await, "0-2");
    let end = client.send(Method::PUT, &format!("{location}?digest={}", Digest::of(b"012"))).await;
    assert_eq!(end.status(), StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_nobody_ends_are_bounded() {
    let registry = Registry::start().await;
    let client = registry.client();
    let mut counts = std::collections::BTreeMap::<u16, usize>::new();
    let first = client.begin("a").await;
    let begin = client.request(Method::POST, "a/blobs/uploads/").build().unwrap();
    let one = reqwest::Client::builder().no_proxy().build().unwrap();
    for _ in 0..1100 {
        let answer = one.execute(begin.try_clone().unwrap()).await.unwrap();
        *counts.entry(answer.status().as_u16()).or_default() += 1;
    }
    assert_eq!(counts, [(202, 1023), (429, 77)].into());
    // What is begun goes on, and its end makes room.
    let end = format!("{first}?digest={}", Digest::of(b"x"));
    let end = client.request(Method::PUT, &end).body("x").send().await.unwrap();
    assert_eq!(end.status(), StatusCode::CREATED);
    let last = client.begin("a").await;
    // One that did not grow for a day makes room, too.
    let id = last.rsplit('/').next().unwrap().split_once('-').unwrap().0;
    let data = registry.dir.path().join(format!(".layerpull/uploads/{id}.data"));
    let day = std::time::Duration::from_secs(24 * 60 * 60);
    std::fs::File::options().write(true).open(&data).unwrap().set_modified(std::time::SystemTime::now() - day).unwrap();
    client.begin("a").await;
    assert!(!data.exists());
}

#[tokio::test]
async fn other_methods_are_refused() {
    let registry = Registry::start().await;
    let client = registry.client();
    let location = client.begin("a").await;
    let wrong = [
        (Method::PATCH, "a/blobs/uploads/"),
        (Method::GET, "a/blobs/uploads/"),
        (Method::POST, location.as_str()),
        (Method::POST, "a/manifests/1"),
        (Method::DELETE, "a/tags/list"),
        (Method::OPTIONS, "a/tags/list"),
        (Method::PUT, ""),
    ];
    for (method, path) in wrong {
        let answer = client.send(method.clone(), path).await;
        assert_eq!(code(answer).await, (405, "UNSUPPORTED".into()), "{method} {path}");
    }
}
