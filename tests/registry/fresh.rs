//! Repositories that are new: what is not asked for because one answer told of all of it.

use bytes::Bytes;
use layerpull::content::{Begun, Holding, Sink, Upload};
use layerpull::oci::{Descriptor, Digest, Reference};
use layerpull::registry::{Environment, Options, Registry};
use support::peers::DockerRegistry;

use super::scripted::{Reply, Server, options, registry, reply};

fn described(bytes: &Bytes) -> Descriptor {
    Descriptor::new("application/octet-stream", Digest::of(bytes), bytes.len() as u64)
}

fn name(host: &str, text: &str) -> Reference {
    format!("{host}/{text}").parse().unwrap()
}

async fn send(upload: &dyn Upload, blob: &Bytes) {
    upload.write(blob.clone()).await.unwrap();
    upload.commit().await.unwrap();
}

async fn put(sink: &dyn Sink, blob: &Bytes) {
    match sink.begin(&described(blob), &[]).await.unwrap() {
        Begun::Upload(upload) => send(&*upload, blob).await,
        _ => panic!("it is there"),
    }
}

/// Registries that remember nothing of former runs.
fn forgetful() -> Registry {
    registry(options())
}

fn paths(server: &DockerRegistry) -> Vec<String> {
    let request = |line: &String| line.split('"').nth(1).map(|request| request.replace(" HTTP/1.1", ""));
    server.settled_log().iter().filter_map(request).collect()
}

#[tokio::test]
async fn of_a_repository_that_is_new_no_blob_is_asked_for() {
    let server = DockerRegistry::start();
    let name = name(&server.host(), "a/b:1");
    let sink = forgetful().repository_to_write(&name);
    let blobs: Vec<Bytes> = ["one", "two", "three"].map(Bytes::from).to_vec();
    assert_eq!(sink.tagged(&name).await.unwrap(), None);
    for blob in &blobs {
        assert_eq!(sink.holds(&described(blob)).await.unwrap(), Holding::Missing);
    }
    assert_eq!(paths(&server), ["HEAD /v2/a/b/manifests/1", "GET /v2/a/b/tags/list?n=1"]);
    for blob in &blobs {
        put(&sink, blob).await;
    }
    assert_eq!(server.count("HEAD", "/blobs/"), 0);
    // What this run put there it looks for.
    assert_eq!(sink.holds(&described(&blobs[0])).await.unwrap(), Holding::Whole);
}

#[tokio::test]
async fn blobs_that_a_run_left_without_a_tag_are_found_without_a_look() {
    let server = DockerRegistry::start();
    let (name, blob) = (name(&server.host(), "a/b:1"), Bytes::from_static(b"left behind"));
    put(&forgetful().repository_to_write(&name), &blob).await;
    let sink = forgetful().repository_to_write(&name);
    assert_eq!(sink.tagged(&name).await.unwrap(), None);
    // The registry says that it does not know the repository, as long as it has no tag.
    assert_eq!(sink.holds(&described(&blob)).await.unwrap(), Holding::Missing);
    let puts = server.count("PUT", "/uploads/");
    assert!(matches!(sink.begin(&described(&blob), &[]).await.unwrap(), Begun::Held));
    assert_eq!((server.count("PUT", "/uploads/"), server.count("HEAD", "/blobs/")), (puts, 0));
}

#[tokio::test]
async fn a_repository_that_a_former_run_knows_is_asked_for_its_blobs() {
    let (server, folder) = (DockerRegistry::start(), tempfile::tempdir().unwrap());
    let (name, blob) = (name(&server.host(), "a/b:1"), Bytes::from_static(b"known"));
    let remembering = || {
        let environment = Environment::empty().with("XDG_STATE_HOME", folder.path().to_str().unwrap());
        registry(Options { environment, ..options() })
    };
    let sink = remembering().repository_to_write(&name);
    put(&sink, &blob).await;
    let root = layerpull::content::Root { descriptor: described(&blob), platforms: None };
    sink.tag(&name.clone().at(Digest::of(&blob)), &root).await.unwrap();
    let before = paths(&server).len();
    let sink = remembering().repository_to_write(&name);
    assert_eq!(sink.tagged(&name).await.unwrap(), None);
    assert_eq!(sink.holds(&described(&blob)).await.unwrap(), Holding::Whole);
    let blob = format!("HEAD /v2/a/b/blobs/{}", Digest::of(&blob));
    assert_eq!(paths(&server)[before..], ["HEAD /v2/a/b/manifests/1".to_owned(), blob]);
}

#[tokio::test]
async fn the_list_of_a_registrys_repositories_stands_for_a_request_to_each() {
    let server = DockerRegistry::start();
    put(&forgetful().repository_to_write(&name(&server.host(), "there:1")), &Bytes::from_static(b"x")).await;
    let before = paths(&server).len();
    let names = ["a:1", "b:1", "there:1"].map(|text| name(&server.host(), text));
    let registry = forgetful();
    registry.look_around(&names).await;
    for name in &names {
        let sink = registry.repository_to_write(name);
        assert_eq!(sink.tagged(name).await.unwrap(), None);
        let blob = described(&Bytes::from_static(b"y"));
        assert_eq!(sink.holds(&blob).await.unwrap(), Holding::Missing);
    }
    let asked = &paths(&server)[before..];
    assert_eq!(asked[..2], ["GET /v2/_catalog?n=1000", "HEAD /v2/there/manifests/1"]);
    assert!(asked[2..].iter().all(|path| path.contains("/v2/there/")), "{asked:?}");
}

#[tokio::test]
async fn one_repository_alone_is_asked_itself() {
    let server = DockerRegistry::start();
    let names = ["a:1", "a:2"].map(|text| name(&server.host(), text));
    forgetful().look_around(&names).await;
    assert!(paths(&server).is_empty());
}

#[tokio::test]
async fn a_list_that_is_refused_or_goes_on_says_nothing() {
    let refused = || reply(401, &[], "");
    let part = || reply(200, &[("Link", "</v2/_catalog?n=1&last=a>; rel=\"next\"")], r#"{"repositories":["z"]}"#);
    let broken = || reply(200, &[], "<html>");
    let lists: [fn() -> Reply; 3] = [refused, part, broken];
    for list in lists {
        let server = Server::start(|_| {
            move |asked| match asked.target.starts_with("/v2/_catalog") {
                true => list(),
                false => reply(404, &[], ""),
            }
        })
        .await;
        let names = ["a:1", "b:1"].map(|text| name(&server.authority, text));
        let registry = forgetful();
        registry.look_around(&names).await;
        assert_eq!(registry.repository_to_write(&names[0]).tagged(&names[0]).await.unwrap(), None);
        assert_eq!(server.lines().last().unwrap(), "HEAD /v2/a/manifests/1");
    }
}
