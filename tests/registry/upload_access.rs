//! What an upload is allowed: tokens for two repositories, refusals, redirects.

use bytes::Bytes;
use layerpull::content::{Begun, Sink, Upload};
use layerpull::error::Error;
use layerpull::oci::{Descriptor, Digest, Reference};
use layerpull::registry::Repository;

use super::scripted::{Asked, Reply, Server, options, registry, reply};

const BLOB: &[u8] = b"0123456789";

fn blob() -> Descriptor {
    Descriptor::new("application/x", Digest::of(BLOB), BLOB.len() as u64)
}

fn repository(server: &Server) -> Repository {
    let name: Reference = format!("{}/a/b:1", server.authority).parse().unwrap();
    registry(options()).repository_to_write(&name)
}

fn challenge(authority: &str) -> Reply {
    reply(401, &[("WWW-Authenticate", &format!(r#"Bearer realm="http://{authority}/token",service="reg""#))], "")
}

fn token(text: &str) -> Reply {
    reply(200, &[("Content-Type", "application/json")], format!(r#"{{"token":"{text}"}}"#))
}

fn session() -> Reply {
    reply(202, &[("Location", "/v2/a/b/blobs/uploads/1")], "")
}

/// Gives tokens that say what they are for; one for two repositories only if `generous`.
async fn with_tokens(generous: bool) -> Server {
    Server::start(|authority| {
        move |asked: &Asked| {
            let is_for_two = asked.target.contains("repository%3Ac%2Fd%3Apull");
            match (asked.target.starts_with("/token"), asked.header("authorization")) {
                (true, _) if is_for_two && !generous => reply(403, &[], ""),
                (true, _) => token(if is_for_two { "two" } else { "one" }),
                (false, None) => challenge(&authority),
                (false, Some(_)) if asked.method == "HEAD" => reply(404, &[], ""),
                (false, Some("Bearer two")) if asked.target.contains("mount=") => reply(201, &[], ""),
                (false, Some(_)) => session(),
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_mount_asks_for_a_token_of_both_repositories() {
    let server = with_tokens(true).await;
    let begun = repository(&server).begin(&blob(), &["c/d".to_owned()]).await.unwrap();
    assert!(matches!(begun, Begun::Mounted { from } if from == "c/d"));
    let asked = server.asked();
    let tokens: Vec<_> = asked.iter().filter(|asked| asked.target.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 1);
    assert!(tokens[0].target.contains("repository%3Aa%2Fb%3Apull%2Cpush"), "{}", tokens[0].target);
    assert_eq!(asked.last().unwrap().header("content-length"), Some("0"));
}

#[tokio::test]
async fn a_token_that_is_denied_for_both_repositories_is_asked_for_one() {
    let server = with_tokens(false).await;
    let begun = repository(&server).begin(&blob(), &["c/d".to_owned()]).await.unwrap();
    assert!(matches!(begun, Begun::Upload(_)));
    let last = server.asked().pop().unwrap();
    assert_eq!((last.line(), last.header("authorization")), ("POST /v2/a/b/blobs/uploads/".into(), Some("Bearer one")));
}

async fn upload(server: &Server) -> Box<dyn Upload> {
    match repository(server).begin(&blob(), &[]).await.unwrap() {
        Begun::Upload(upload) => upload,
        _ => panic!("no upload"),
    }
}

#[tokio::test]
async fn the_opening_of_a_session_follows_redirects_and_a_body_on_its_way_does_not() {
    let server = Server::start(|_| {
        |asked: &Asked| match (asked.method.as_str(), asked.target.as_str()) {
            ("POST", "/v2/a/b/blobs/uploads/") => reply(307, &[("Location", "/elsewhere/")], ""),
            ("POST", "/elsewhere/") => reply(202, &[("Location", "session?x=1")], ""),
            _ => reply(307, &[("Location", "/other")], ""),
        }
    })
    .await;
    let upload = upload(&server).await;
    upload.write(Bytes::from_static(BLOB)).await.unwrap();
    let error = upload.commit().await.unwrap_err();
    assert!(matches!(&error, Error::Invalid { why, .. } if why.contains("307")), "{error}");
    let digest = Digest::of(BLOB).to_string().replace(':', "%3A");
    assert_eq!(server.lines().last().unwrap(), &format!("PUT /elsewhere/session?x=1&digest={digest}"));
}

#[tokio::test]
async fn a_repository_without_write_access_is_named_in_the_refusal() {
    let body = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    let server = Server::start(|_| move |_: &Asked| reply(403, &[], body)).await;
    let Err(error) = repository(&server).begin(&blob(), &[]).await else { panic!("it began") };
    assert!(matches!(&error, Error::Unauthorized { why, .. } if why.contains("DENIED")), "{error}");
    assert_eq!(server.lines(), ["POST /v2/a/b/blobs/uploads/"]);
}

#[tokio::test]
async fn a_registry_without_head_is_asked_for_the_tag_itself() {
    const INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    for (status, methods) in [(200, vec!["HEAD", "GET"]), (404, vec!["HEAD", "GET"])] {
        let server = Server::start(|_| {
            move |asked: &Asked| match asked.method.as_str() {
                "HEAD" => reply(405, &[], ""),
                _ => reply(status, &[], INDEX),
            }
        })
        .await;
        let name: Reference = format!("{}/a/b:1", server.authority).parse().unwrap();
        let found = repository(&server).tagged(&name).await.unwrap();
        let expected = (status == 200).then(|| Digest::of(INDEX.as_bytes()));
        assert_eq!(found.map(|root| root.descriptor.digest), expected);
        let asked: Vec<String> = server.asked().into_iter().map(|asked| asked.method).collect();
        assert_eq!(asked, methods);
    }
}
