//! Manifests, blobs and lists from registries that behave well and badly: what is asked, and what is made of the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::scripted::{Asked, Reply, Server, Warnings, options, raw, registry, reply};
use futures::StreamExt;
use layerpull::content::{Body, Extent, Origin, Provenance, Source};
use layerpull::error::{Error, Fault};
use layerpull::oci::{Descriptor, Digest, MediaType, Reference};
use layerpull::registry::{Credential, Options, Registry, Repository};

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const BLOB: &[u8] = b"0123456789";

fn repository(server: &Server) -> (Repository, Reference) {
    let name: Reference = format!("{}/a/b:1", server.authority).parse().unwrap();
    (registry(options()).repository(&name).unwrap(), name)
}

fn described(digest: &str) -> Reply {
    reply(200, &[("Content-Type", MediaType::OCI_INDEX), ("Docker-Content-Digest", digest)], MANIFEST)
}

fn blob() -> Descriptor {
    Descriptor::new("application/x", Digest::of(BLOB), BLOB.len() as u64)
}

fn origin(server: &Server) -> Arc<dyn Origin> {
    repository(server).0.origins(&blob()).remove(0)
}

async fn bytes(body: Body) -> Result<Vec<u8>, Error> {
    let pieces: Vec<_> = body.bytes.collect().await;
    pieces.into_iter().try_fold(Vec::new(), |all, piece| Ok([all, piece?.to_vec()].concat()))
}

fn fault<T>(result: Result<T, Error>) -> Fault {
    match result {
        Err(Error::Network { fault, .. }) => fault,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("no error"),
    }
}

#[tokio::test]
async fn a_tag_costs_a_head_and_a_get_by_digest() {
    let digest = Digest::of(MANIFEST.as_bytes());
    let text = digest.to_string();
    let server = Server::start(|_| move |_: &Asked| described(&text)).await;
    let (repository, name) = repository(&server);
    let descriptor = repository.resolve(&name).await.unwrap();
    let raw = repository.manifest(&descriptor).await.unwrap();
    assert_eq!(raw.bytes, MANIFEST);
    let expected = ["HEAD /v2/a/b/manifests/1".to_owned(), format!("GET /v2/a/b/manifests/{digest}")];
    assert_eq!(server.lines(), expected);
    let asked = &server.asked()[1];
    assert!(asked.header("accept").unwrap().contains(MediaType::DOCKER_LIST));
    assert_eq!(asked.header("accept-encoding"), Some("identity"));
    assert!(asked.header("user-agent").unwrap().starts_with("layerpull/"));
}

#[tokio::test]
async fn a_registry_that_does_not_know_head_is_asked_once_more_and_no_further() {
    for status in [404, 405, 501, 200] {
        let server = Server::start(|_| {
            move |asked: &Asked| match asked.method.as_str() {
                "HEAD" => reply(status, &[], ""),
                _ => reply(200, &[("Content-Type", MediaType::OCI_INDEX)], MANIFEST),
            }
        })
        .await;
        let (repository, name) = repository(&server);
        let descriptor = repository.resolve(&name).await.unwrap();
        assert_eq!(descriptor.digest, Digest::of(MANIFEST.as_bytes()));
        repository.manifest(&descriptor).await.unwrap();
        assert_eq!(server.lines(), ["HEAD /v2/a/b/manifests/1", "GET /v2/a/b/manifests/1"], "{status}");
    }
}

#[tokio::test]
async fn a_digest_costs_one_get() {
    let digest = Digest::of(MANIFEST.as_bytes());
    let server = Server::start(|_| |_: &Asked| reply(200, &[], MANIFEST)).await;
    let (repository, name) = repository(&server);
    let descriptor = repository.resolve(&name.at(digest.clone())).await.unwrap();
    repository.manifest(&descriptor).await.unwrap();
    assert_eq!(server.lines(), [format!("GET /v2/a/b/manifests/{digest}")]);
}

#[tokio::test]
async fn a_manifest_is_not_believed() {
    let server = Server::start(|_| {
        |asked: &Asked| match asked.target.rsplit('/').next().unwrap() {
            "large" => raw(200, &[], vec![b' '; 5 << 20]),
            "schema1" => reply(200, &[("Content-Type", MediaType::DOCKER_SCHEMA1_SIGNED)], r#"{"schemaVersion":1}"#),
            "gone" => reply(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
            _ => reply(200, &[("Docker-Content-Digest", &Digest::of(b"other").to_string())], MANIFEST),
        }
    })
    .await;
    let (repository, name) = repository(&server);
    async fn error_of(repository: &Repository, name: Reference) -> Error {
        repository.resolve(&name).await.unwrap_err()
    }
    let large = error_of(&repository, name.tagged("large").unwrap()).await;
    assert!(matches!(large, Error::Invalid { .. }), "{large}");
    let schema1 = error_of(&repository, name.tagged("schema1").unwrap()).await;
    assert!(schema1.to_string().contains("skopeo copy"), "{schema1}");
    let gone = error_of(&repository, name.tagged("gone").unwrap()).await;
    assert!(matches!(&gone, Error::NotFound { why, .. } if why.contains("manifest unknown")), "{gone}");
    let lies = error_of(&repository, name.clone()).await;
    assert!(matches!(lies, Error::Verification { .. }), "{lies}");
}

#[tokio::test]
async fn a_part_must_be_the_one_that_was_asked_for() {
    let answers: [(u16, Option<&str>, &[u8]); 6] = [
        (206, Some("bytes 3-6/10"), b"3456"),
        (206, Some("bytes 0-3/10"), b"0123"),
        (206, None, b"2345"),
        (206, Some("bytes 2-5/11"), b"2345"),
        (206, Some("bytes 2-5/10"), b"234"),
        (416, Some("bytes */10"), b""),
    ];
    for (status, range, body) in answers {
        let headers: Vec<(&str, &str)> = range.map(|text| ("Content-Range", text)).into_iter().collect();
        let server = Server::start(|_| {
            let headers: Vec<(String, String)> = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
            move |_: &Asked| {
                let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                reply(status, &headers, body)
            }
        })
        .await;
        let broken = fault(origin(&server).open(2..6).await);
        assert!(
            matches!(broken, Fault::Protocol(_) | Fault::Length { .. } | Fault::Size { got: 11, expected: 10 }),
            "{status} {range:?}: {broken}"
        );
        assert_eq!(server.asked()[0].header("range"), Some("bytes=2-5"));
    }
}

#[tokio::test]
async fn everything_instead_of_a_part_is_said_to_begin_at_zero() {
    let server = Server::start(|_| |_: &Asked| reply(200, &[], BLOB)).await;
    let origin = origin(&server);
    let body = origin.open(2..6).await.unwrap();
    assert_eq!((body.start, body.end, body.extent), (0, Some(10), Extent::Everything));
    let whole = origin.open(0..10).await.unwrap();
    assert_eq!((whole.start, whole.end, whole.extent), (0, Some(10), Extent::Range));
    assert_eq!(bytes(whole).await.unwrap(), BLOB);
    assert_eq!(server.asked()[1].header("range"), None);
}

#[tokio::test]
async fn a_body_that_is_too_short_is_a_fault_and_one_that_is_too_long_is_not_read_on() {
    for (body, got) in [(&b"01234"[..], 5), (&b""[..], 0)] {
        let server = Server::start(|_| move |_: &Asked| raw(200, &[], body)).await;
        let opened = origin(&server).open(0..10).await.unwrap();
        let broken = fault(bytes(opened).await);
        assert!(matches!(broken, Fault::Length { got: g, expected: 10 } if g == got), "{broken}");
    }
    let server = Server::start(|_| |_: &Asked| raw(200, &[], b"0123456789xyz")).await;
    assert_eq!(bytes(origin(&server).open(0..10).await.unwrap()).await.unwrap(), BLOB);
    let server = Server::start(|_| |_: &Asked| reply(200, &[], &BLOB[..9])).await;
    assert!(matches!(fault(origin(&server).open(0..10).await), Fault::Size { got: 9, expected: 10 }));
}

#[tokio::test]
async fn an_encoded_body_is_refused() {
    let server = Server::start(|_| |_: &Asked| reply(200, &[("Content-Encoding", "gzip")], BLOB)).await;
    assert!(matches!(fault(origin(&server).open(0..10).await), Fault::Protocol(why) if why.contains("gzip")));
}

#[tokio::test]
async fn a_signed_address_serves_the_other_ranges_until_it_is_refused() {
    let uses = Arc::new(AtomicUsize::new(0));
    let storage = Server::start(|_| {
        move |asked: &Asked| match uses.fetch_add(1, Ordering::SeqCst) {
            3 => reply(403, &[], ""),
            _ => {
                let range = asked.header("range").unwrap().replace("bytes=", "bytes ") + "/10";
                reply(206, &[("Content-Range", &range)], b"xx")
            }
        }
    })
    .await;
    let leads = format!("http://{}/blob?signature=s", storage.authority);
    let server = Server::start(|_| move |_: &Asked| reply(307, &[("Location", &leads)], "")).await;
    let origin = origin(&server);
    for start in [0, 2, 4] {
        origin.open(start..start + 2).await.map(drop).unwrap();
    }
    assert_eq!((server.asked().len(), storage.asked().len()), (1, 3));
    assert!(matches!(fault(origin.open(6..8).await), Fault::Expired(403)));
    assert_eq!(server.asked().len(), 1);
    origin.open(6..8).await.map(drop).unwrap();
    assert_eq!((server.asked().len(), storage.asked().len()), (2, 5));
}

#[tokio::test]
async fn addresses_that_answer_once_are_not_kept_after_the_first_refusal() {
    let given = Arc::new(AtomicUsize::new(0));
    let used = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let storage = Server::start(|_| {
        move |asked: &Asked| match used.lock().unwrap().insert(asked.target.clone()) {
            true => reply(206, &[("Content-Range", "bytes 0-1/10")], "01"),
            false => reply(403, &[], ""),
        }
    })
    .await;
    let at = storage.authority.clone();
    let server = Server::start(|_| {
        move |_: &Asked| {
            let leads = format!("http://{at}/blob?once={}", given.fetch_add(1, Ordering::SeqCst));
            reply(307, &[("Location", &leads)], "")
        }
    })
    .await;
    let origin = origin(&server);
    origin.open(0..2).await.map(drop).unwrap();
    assert!(matches!(fault(origin.open(0..2).await), Fault::Expired(403)));
    for _ in 0..3 {
        origin.open(0..2).await.map(drop).unwrap();
    }
    assert_eq!((server.asked().len(), storage.asked().len()), (4, 5));
}

#[tokio::test]
async fn redirects_that_lead_nowhere_are_refused() {
    for leads in ["file:///etc/passwd", "/v2/a/b/blobs/round", "ftp://127.0.0.1/", "http://u:p@127.0.0.1/"] {
        let server = Server::start(|_| move |_: &Asked| reply(307, &[("Location", leads)], "")).await;
        let error = origin(&server).open(0..10).await.err().unwrap();
        assert!(!error.is_transient(), "{leads}: {error}");
        assert!(server.asked().len() <= 6, "{leads}");
    }
}

#[tokio::test]
async fn busy_answers_carry_their_patience() {
    let server = Server::start(|_| |_: &Asked| reply(429, &[("Retry-After", "3")], "<html>")).await;
    let error = origin(&server).open(0..10).await.err().unwrap();
    assert!(matches!(error, Error::Busy { status: 429, .. }), "{error}");
    assert_eq!(error.retry_after(), Some(std::time::Duration::from_secs(3)));
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn the_addresses_of_a_foreign_layer_come_after_the_registry() {
    let elsewhere = Server::start(|_| |_: &Asked| reply(200, &[], BLOB)).await;
    let server = Server::start(|_| |_: &Asked| reply(404, &[], "")).await;
    let mut layer = blob();
    layer.media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar".into();
    layer.urls = vec!["file:///etc/passwd".into(), format!("http://{}/layer", elsewhere.authority)];
    let origins = repository(&server).0.origins(&layer);
    assert_eq!(origins.iter().map(|o| o.provenance()).collect::<Vec<_>>(), [Provenance::Registry, Provenance::Foreign]);
    assert!(matches!(origins[0].open(0..10).await.err(), Some(Error::NotFound { .. })));
    assert_eq!(bytes(origins[1].open(0..10).await.unwrap()).await.unwrap(), BLOB);
    let ordinary = Descriptor { media_type: "application/x".into(), ..layer };
    assert_eq!(repository(&server).0.origins(&ordinary).len(), 1);
}

#[tokio::test]
async fn lists_are_followed_to_their_end_but_not_in_circles() {
    let server = Server::start(|_| {
        |asked: &Asked| match asked.target.as_str() {
            "/v2/a/b/tags/list?n=1000" => {
                reply(200, &[("Link", r#"</v2/a/b/tags/list?last=z>; rel="next""#)], r#"{"tags":["z","a"]}"#)
            }
            "/v2/a/b/tags/list?last=z" => reply(200, &[], r#"{"tags":null}"#),
            _ => reply(200, &[("Link", r#"<?n=1000>; rel="next""#)], r#"{"repositories":["x"]}"#),
        }
    })
    .await;
    let (_, name) = repository(&server);
    assert_eq!(registry(options()).tags(&name).await.unwrap(), ["a", "z"]);
    let circle = registry(options()).catalog(&server.authority).await.unwrap_err();
    assert!(circle.to_string().contains("no end"), "{circle}");
}

#[tokio::test]
async fn the_next_page_of_a_list_takes_no_password_to_another_host() {
    let thief = Server::start(|own| {
        move |asked: &Asked| match asked.target.starts_with("/list") {
            // A page that the registry redirected to, and whose next one seems to be at the same host.
            true => reply(200, &[("Link", &format!("<http://{own}//{own}/x>; rel=\"next\""))], r#"{"tags":["1"]}"#),
            false => reply(200, &[], r#"{"tags":["stolen"]}"#),
        }
    })
    .await;
    let away = thief.authority.clone();
    for link in ["http:////AWAY/x", "//AWAY/x", "http://OWN//AWAY/x", "redirect"] {
        let (link, away) = (link.replace("AWAY", &away), away.clone());
        let server = Server::start(|own| {
            move |asked: &Asked| match (asked.header("authorization"), link.as_str()) {
                (None, _) => reply(401, &[("WWW-Authenticate", r#"Basic realm="r""#)], ""),
                (_, "redirect") if asked.target.contains("n=1000") => {
                    reply(307, &[("Location", &format!("http://{away}/list"))], "")
                }
                (_, link) if asked.target.contains("n=1000") => {
                    let link = link.replace("OWN", &own);
                    reply(200, &[("Link", &format!("<{link}>; rel=\"next\""))], r#"{"tags":["1"]}"#)
                }
                _ => reply(404, &[], ""),
            }
        })
        .await;
        let name: Reference = format!("{}/a/b", server.authority).parse().unwrap();
        let given = Options { credential: Some(Credential::password("ann", "pw")), ..options() };
        assert!(registry(given).tags(&name).await.is_err());
        assert!(thief.asked().iter().all(|asked| asked.header("authorization").is_none()), "{:?}", thief.lines());
        assert_eq!(thief.asked().len(), thief.count("/list"), "{:?}", thief.lines());
    }
}

#[tokio::test]
async fn referrers_come_from_the_api_or_from_the_fallback_tag() {
    let child = format!(r#"{{"mediaType":"{}","digest":"{}","size":3}}"#, MediaType::OCI_MANIFEST, Digest::of(b"abc"));
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{child}]}}"#);
    for api in [true, false] {
        let index = index.clone();
        let server = Server::start(|_| {
            move |asked: &Asked| match asked.target.contains("/referrers/") == api {
                true => reply(200, &[("Content-Type", MediaType::OCI_INDEX)], &index),
                false => reply(404, &[("Content-Type", "text/plain")], "404 page not found"),
            }
        })
        .await;
        let found = repository(&server).0.referrers(&Digest::of(b"subject")).await.unwrap();
        assert_eq!(found.len(), 1, "{api}");
        assert_eq!(found[0].digest, Digest::of(b"abc"));
    }
}

#[tokio::test]
async fn a_warning_is_shown_once() {
    let digest = Digest::of(MANIFEST.as_bytes()).to_string();
    let server = Server::start(|_| {
        move |_: &Asked| {
            let headers = [
                ("Warning", r#"299 - "old""#),
                ("ratelimit-limit", "100;w=60"),
                ("ratelimit-remaining", "7;w=60"),
                ("Docker-Content-Digest", &digest),
            ];
            reply(200, &headers, MANIFEST)
        }
    })
    .await;
    let warnings = Arc::new(Warnings::default());
    let registry = Registry::new(options(), warnings.clone());
    let name: Reference = format!("{}/a/b:1", server.authority).parse().unwrap();
    for _ in 0..2 {
        registry.repository(&name).unwrap().resolve(&name).await.unwrap();
    }
    let host = &server.authority;
    let expected = [format!("{host}: old"), format!("{host} allows 7 more of 100 requests in 60 s")];
    assert_eq!(*warnings.0.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_manifest_may_be_named_by_sha512() {
    let mut hasher = layerpull::oci::Hasher::new(layerpull::oci::Algorithm::Sha512);
    hasher.update(MANIFEST.as_bytes());
    let digest = hasher.finish();
    let text = digest.to_string();
    let server = Server::start(|_| move |_: &Asked| described(&text)).await;
    let (repository, name) = repository(&server);
    let descriptor = repository.resolve(&name).await.unwrap();
    let raw = repository.manifest(&descriptor).await.unwrap();
    assert_eq!((raw.digest, descriptor.digest), (digest.clone(), digest));
    let short = Descriptor::new(MediaType::OCI_INDEX, raw_digest(), MANIFEST.len() as u64 - 1);
    assert!(matches!(repository.manifest(&short).await, Err(Error::Verification { .. })));
}

fn raw_digest() -> Digest {
    Digest::of(MANIFEST.as_bytes())
}
