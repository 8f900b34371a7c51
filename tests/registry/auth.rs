//! What a registry demands, what is sent, and above all what is not sent to whom.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::scripted::{Asked, Reply, Server, options, raw, registry, reply};
use futures::future::join_all;
use layerpull::content::Source;
use layerpull::error::Error;
use layerpull::oci::{Digest, MediaType, Reference};
use layerpull::registry::{Credential, Options, Registry};
use tokio::sync::Notify;

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn manifest() -> Reply {
    let digest = Digest::of(MANIFEST.as_bytes()).to_string();
    let headers = [("Content-Type", MediaType::OCI_INDEX), ("Docker-Content-Digest", &digest)];
    reply(200, &headers, MANIFEST)
}

fn challenge(realm: &str) -> Reply {
    let value = format!(r#"Bearer realm="{realm}",service="reg",scope="repository:a/b:pull""#);
    reply(401, &[("WWW-Authenticate", &value)], "")
}

fn token(text: &str) -> Reply {
    reply(200, &[("Content-Type", "application/json")], format!(r#"{{"token":"{text}","expires_in":300}}"#))
}

fn with_password() -> Options {
    Options { credential: Some(Credential::password("ann", "canary-password")), ..options() }
}

fn name(server: &Server) -> Reference {
    format!("{}/a/b:1", server.authority).parse().unwrap()
}

async fn resolve(registry: &Registry, server: &Server) -> Result<(), Error> {
    let name = name(server);
    registry.repository(&name)?.resolve(&name).await.map(drop)
}

/// Demands the bearer token `current()`, and gives it out at `/token`.
/// `before` happens before each is given out.
async fn with_tokens(
    current: impl Fn() -> String + Send + Sync + 'static,
    before: impl Fn() + Send + Sync + 'static,
) -> Server {
    Server::start(|authority| {
        move |asked: &Asked| match asked.target.starts_with("/token") {
            true => {
                before();
                token(&current())
            }
            false if asked.header("authorization") == Some(&format!("Bearer {}", current())) => manifest(),
            false => challenge(&format!("http://{authority}/token")),
        }
    })
    .await
}

#[tokio::test]
async fn many_requests_at_once_share_one_token() {
    let server = with_tokens(|| "t".into(), || ()).await;
    let registry = registry(options());
    let all = join_all((0..16).map(|_| resolve(&registry, &server))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(server.count("/token"), 1);
    let asked = server.asked();
    let fetched = asked.iter().find(|a| a.target.starts_with("/token")).unwrap();
    assert_eq!(fetched.target, "/token?service=reg&scope=repository%3Aa%2Fb%3Apull");
    assert_eq!(fetched.header("authorization"), None);
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_is_renewed_once_for_all() {
    let round = Arc::new(AtomicUsize::new(0));
    let counter = round.clone();
    let server = with_tokens(move || format!("t{}", counter.load(Ordering::SeqCst)), || ()).await;
    let registry = registry(options());
    resolve(&registry, &server).await.unwrap();
    round.store(1, Ordering::SeqCst);
    let all = join_all((0..8).map(|_| resolve(&registry, &server))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(server.count("/token"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_waiter_that_goes_away_does_not_take_the_token_with_it() {
    let arrived = Arc::new(Notify::new());
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let (gate, seen) = (Mutex::new(gate), arrived.clone());
    let server = with_tokens(
        move || "t".into(),
        move || {
            seen.notify_one();
            tokio::task::block_in_place(|| gate.lock().unwrap().recv().unwrap());
        },
    )
    .await;
    let (registry, server) = (registry(options()), Arc::new(server));
    let ask = || {
        let (registry, server) = (registry.clone(), server.clone());
        tokio::spawn(async move { resolve(&registry, &server).await })
    };
    let impatient = ask();
    arrived.notified().await;
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled());
    let patient = ask();
    open.send(()).unwrap();
    patient.await.unwrap().unwrap();
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn the_password_goes_to_the_realm_and_the_token_to_the_registry_alone() {
    let realm = Server::start(|_| |_: &Asked| token("canary-token")).await;
    let storage = Server::start(|_| |_: &Asked| reply(200, &[], "01234567")).await;
    let (at, elsewhere) = (realm.authority.clone(), storage.authority.clone());
    let server = Server::start(|_| {
        move |asked: &Asked| match asked.header("authorization") {
            None => challenge(&format!("http://{at}/token")),
            Some(_) => reply(307, &[("Location", &format!("http://{elsewhere}/blob?signature=canary-signature"))], ""),
        }
    })
    .await;
    let name = name(&server);
    let blob = layerpull::oci::Descriptor::new("application/x", Digest::of(b"01234567"), 8);
    let repository = registry(with_password()).repository(&name).unwrap();
    let origin = repository.origins(&blob).remove(0);
    origin.open(0..8).await.map(drop).unwrap();
    assert_eq!(realm.asked()[0].header("authorization"), Some("Basic YW5uOmNhbmFyeS1wYXNzd29yZA=="));
    assert!(realm.asked()[0].target.ends_with("&account=ann"));
    let sent: Vec<_> = server.asked().iter().map(|a| a.header("authorization").map(str::to_owned)).collect();
    assert_eq!(sent, [None, Some("Bearer canary-token".into())]);
    assert_eq!(storage.asked().len(), 1);
    assert!(!format!("{:?}", storage.asked()).contains("canary-token"));
    for forbidden in ["authorization", "referer", "cookie"] {
        assert_eq!(storage.asked()[0].header(forbidden), None);
    }
    assert!(!format!("{origin:?}").contains("canary"));
}

#[tokio::test]
async fn an_untrusted_realm_is_refused_before_anything_is_sent() {
    for realm in ["http://10.255.255.1/token", "https://169.254.169.254/token", "file:///etc/passwd"] {
        let server = Server::start(|_| move |_: &Asked| challenge(realm)).await;
        let error = resolve(&registry(with_password()), &server).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{realm}: {error}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_token_service_that_leads_to_another_host_does_not_take_the_password_along() {
    let other = Server::start(|_| |_: &Asked| token("t")).await;
    let leads = other.authority.clone();
    let server = Server::start(|authority| {
        move |asked: &Asked| match (asked.target.starts_with("/token"), asked.header("authorization")) {
            (true, _) => reply(302, &[("Location", &format!("http://{leads}/token"))], ""),
            (false, Some("Bearer t")) => manifest(),
            _ => challenge(&format!("http://{authority}/token")),
        }
    })
    .await;
    resolve(&registry(with_password()), &server).await.unwrap();
    assert_eq!(other.asked()[0].header("authorization"), None);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let server = with_tokens(|| "t".into(), || ()).await;
    let credential = Some(Credential::IdentityToken("canary-refresh".into()));
    resolve(&registry(Options { credential, ..options() }), &server).await.unwrap();
    let asked = server.asked();
    let fetched = asked.iter().find(|a| a.target.starts_with("/token")).unwrap();
    assert_eq!(fetched.line(), "POST /token");
    let form = "grant_type=refresh_token&refresh_token=canary-refresh&client_id=layerpull&service=reg\
                &scope=repository%3Aa%2Fb%3Apull";
    assert_eq!(fetched.body, form);
}

#[tokio::test]
async fn a_refused_password_is_sent_once() {
    let server = Server::start(|_| |_: &Asked| reply(401, &[("WWW-Authenticate", r#"Basic realm="x""#)], "")).await;
    let error = resolve(&registry(with_password()), &server).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    let sent: Vec<_> = server.asked().iter().map(|a| a.header("authorization").is_some()).collect();
    assert_eq!(sent, [false, true]);
    let error = resolve(&registry(options()), &server).await.unwrap_err().to_string();
    assert!(error.contains("authentication required") && error.contains("layerpull login"), "{error}");
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_challenge_may_ask_for_more_than_we_did() {
    let server = Server::start(|authority| {
        move |asked: &Asked| match (asked.target.as_str(), asked.header("authorization")) {
            (t, _) if t.starts_with("/token") => token(if t.contains("extra") { "wide" } else { "narrow" }),
            (_, Some("Bearer wide")) => manifest(),
            _ => {
                let scope = "repository:a/b:pull repository:extra:pull";
                let realm = format!("http://{authority}/token");
                let value = format!(r#"Bearer realm="{realm}",scope="{scope}",error="insufficient_scope""#);
                reply(401, &[("WWW-Authenticate", &value)], "")
            }
        }
    })
    .await;
    let registry = registry(options());
    resolve(&registry, &server).await.unwrap();
    resolve(&registry, &server).await.unwrap();
    assert_eq!(server.count("/token"), 1);
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn a_token_service_that_is_busy_or_makes_no_sense_is_named() {
    let failing = |answer: fn() -> Reply| async move {
        let server = Server::start(|authority| {
            move |asked: &Asked| match asked.target.starts_with("/token") {
                true => answer(),
                false => challenge(&format!("http://{authority}/token")),
            }
        })
        .await;
        let error = resolve(&registry(options()), &server).await.unwrap_err();
        assert_eq!(server.count("/token"), 1);
        error
    };
    let busy = failing(|| reply(503, &[("Retry-After", "7")], "")).await;
    assert_eq!(busy.retry_after(), Some(Duration::from_secs(7)));
    let empty = failing(|| reply(200, &[], "{}")).await;
    assert!(empty.to_string().contains("holds no token"), "{empty}");
    let huge = failing(|| raw(200, &[], vec![b' '; 3 << 20])).await;
    assert!(matches!(huge, Error::Invalid { .. }), "{huge}");
    let odd = failing(|| reply(200, &[], r#"{"token":"a\nb"}"#)).await;
    assert!(odd.to_string().contains("no header may hold"), "{odd}");
    let gone = failing(|| reply(404, &[], "")).await;
    assert!(matches!(gone, Error::Unauthorized { .. }), "{gone}");
}

#[tokio::test]
async fn a_login_is_proved_before_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.json");
    let server = Server::start(|_| {
        |asked: &Asked| match asked.header("authorization") {
            Some("Basic YW5uOnJpZ2h0") => reply(200, &[], "{}"),
            _ => reply(401, &[("WWW-Authenticate", r#"Basic realm="x""#)], ""),
        }
    })
    .await;
    let registry = registry(Options { authfile: Some(file.clone()), ..options() });
    let wrong = registry.login(&server.authority, Credential::password("ann", "wrong")).await;
    assert!(matches!(wrong, Err(Error::Unauthorized { .. })), "{wrong:?}");
    assert!(!file.exists());
    registry.login(&server.authority, Credential::password("ann", "right")).await.unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().contains("YW5uOnJpZ2h0"));
    assert_eq!(registry.logout(&server.authority).await.unwrap().len(), 1);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("YW5uOnJpZ2h0"));
}
