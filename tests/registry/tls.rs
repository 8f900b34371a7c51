//! Which scheme a host is spoken to with, and whom it has to prove itself to.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use layerpull::content::Source;
use layerpull::error::{Error, Fault};
use layerpull::oci::{Digest, MediaType, Reference};
use layerpull::registry::{Environment, Insecure, Options, Verify};

use super::scripted::{Asked, Server, options, registry, reply};

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// Serves the manifest over TLS; returns the port and the certificate as PEM.
fn serve_tls() -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let config = config.clone();
            std::thread::spawn(move || serve_one(config, stream));
        }
    });
    (port, made.cert.pem())
}

fn serve_one(config: Arc<rustls::ServerConfig>, stream: std::net::TcpStream) -> Option<()> {
    let connection = rustls::ServerConnection::new(config).ok()?;
    let mut stream = rustls::StreamOwned::new(connection, stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        (stream.read(&mut byte).ok()? == 1).then(|| head.push(byte[0]))?;
    }
    let (kind, length, digest) = (MediaType::OCI_INDEX, MANIFEST.len(), Digest::of(MANIFEST.as_bytes()));
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nDocker-Content-Digest: {digest}"
    );
    write!(stream, "{head}\r\nConnection: close\r\n\r\n").ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()
}

async fn resolve(options: Options, host: &str) -> Result<(), Error> {
    let name: Reference = format!("{host}/a/b:1").parse().unwrap();
    registry(options).repository(&name)?.resolve(&name).await.map(drop)
}

#[tokio::test]
async fn a_plain_registry_on_loopback_sees_one_request() {
    let digest = Digest::of(MANIFEST.as_bytes()).to_string();
    let server = Server::start(|_| {
        move |_: &Asked| {
            reply(200, &[("Content-Type", MediaType::OCI_INDEX), ("Docker-Content-Digest", &digest)], MANIFEST)
        }
    })
    .await;
    resolve(options(), &server.authority).await.unwrap();
    assert_eq!(server.lines(), ["HEAD /v2/a/b/manifests/1"]);
}

#[tokio::test]
async fn plain_http_that_was_asked_for_is_never_tls() {
    let plain = || Options { verify: Verify::Plain, ..options() };
    let server = Server::start(|_| |_: &Asked| reply(404, &[], "")).await;
    assert!(matches!(resolve(plain(), &server.authority).await, Err(Error::NotFound { .. })));
    let (port, _) = serve_tls();
    let error = resolve(plain(), &format!("localhost:{port}")).await.unwrap_err();
    assert!(matches!(&error, Error::Network { fault, .. } if !matches!(fault, Fault::Tls(_))), "{error}");
}

#[tokio::test]
async fn loopback_needs_no_certificate_unless_one_is_asked_for() {
    let (port, certificate) = serve_tls();
    let host = format!("localhost:{port}");
    resolve(options(), &host).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let nobody = Options { cert_dir: Some(folder.path().into()), ..options() };
    let error = resolve(nobody.clone(), &host).await.unwrap_err();
    assert!(matches!(&error, Error::Network { fault: Fault::Tls(_), .. }), "{error}");
    assert!(!error.is_transient());

    let file = folder.path().join("ca.crt");
    std::fs::write(&file, &certificate).unwrap();
    resolve(Options { ca_files: vec![file], ..options() }, &host).await.unwrap();
    resolve(nobody, &host).await.unwrap();
    let certs = in_certs_d(folder.path(), &host, &certificate);
    resolve(Options { environment: certs, ..options() }, &host).await.unwrap();
}

fn in_certs_d(folder: &Path, host: &str, certificate: &str) -> Environment {
    let own = folder.join("docker/certs.d").join(host);
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("own.crt"), certificate).unwrap();
    Environment::empty().with_system(folder)
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not_enough_on_loopback_either() {
    let ((port, _), (_, other)) = (serve_tls(), serve_tls());
    let folder = tempfile::tempdir().unwrap();
    let environment = in_certs_d(folder.path(), &format!("localhost:{port}"), &other);
    let error = resolve(Options { environment, ..options() }, &format!("localhost:{port}")).await.unwrap_err();
    assert!(matches!(&error, Error::Network { fault: Fault::Tls(_), .. }), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_a_connect_fault() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = resolve(options(), &format!("127.0.0.1:{port}")).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("connection refused"), "{error}");
}

#[tokio::test]
async fn a_registry_behind_a_proxy_is_asked_through_it() {
    let digest = Digest::of(MANIFEST.as_bytes()).to_string();
    let proxy = Server::start(|_| {
        move |asked: &Asked| match asked.method.as_str() {
            "CONNECT" => reply(502, &[], ""),
            _ => reply(200, &[("Content-Type", MediaType::OCI_INDEX), ("Docker-Content-Digest", &digest)], MANIFEST),
        }
    })
    .await;
    let environment = Environment::empty().with("ALL_PROXY", &format!("http://ann:pw@{}", proxy.authority));
    let options = Options { environment, insecure: Insecure::All, ..options() };
    resolve(options, "registry.test:5000").await.unwrap();
    let lines = proxy.lines();
    assert_eq!(lines.first().map(String::as_str), Some("CONNECT registry.test:5000"));
    assert_eq!(lines.last().map(String::as_str), Some("HEAD http://registry.test:5000/v2/a/b/manifests/1"));
    assert_eq!(proxy.asked().last().unwrap().header("proxy-authorization"), Some("Basic YW5uOnB3"));
}
