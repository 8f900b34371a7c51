//! A registry that records every request and misbehaves as it is told.
//!
//! ```ignore
//! let registry = Registry::start();
//! registry.add("library/x", "1", &image);
//! registry.rule(When::blob(layer).get(), Times::Once, Fault::CutAfter(1000, Cut::Rst));
//! // … pull registry.name("library/x", "1") …
//! assert_eq!(registry.requests().ranges(layer), [None, Some("bytes=1000-".into())]);
//! ```

mod answer;
mod auth;
mod content;
mod elsewhere;
mod fault;
mod record;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use layerpull::oci::{MediaType, RawManifest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio_rustls::TlsAcceptor;

pub use auth::{Auth, Bearer, Lifetime};
pub use elsewhere::Elsewhere;
pub use fault::{Cut, Fault, Gate, Redirect, Reply, Stall, Times, When};
pub use record::{Kind, Request, Requests};

use crate::images::{Blob, Image};
use answer::Answer;
use auth::Tokens;
use content::Repositories;
use wire::Server;

/// A registry on a free port of 127.0.0.1. Ends when it is dropped.
pub struct Registry {
    server: Server,
    state: Arc<Mutex<Repositories>>,
    tokens: Arc<Tokens>,
    certificate: Option<String>,
}

impl Registry {
    /// An empty registry over plain HTTP.
    pub fn start() -> Registry {
        Registry::launch(None)
    }

    /// An empty registry over TLS, with a certificate of its own for 127.0.0.1 and localhost.
    pub fn start_tls() -> Registry {
        Registry::start_tls_as(&["127.0.0.1", "localhost"])
    }

    /// The same with a certificate for these names and addresses.
    pub fn start_tls_as(names: &[&str]) -> Registry {
        Registry::launch_tls(names, WebPkiClientVerifier::no_client_auth())
    }

    /// The same as [`start_tls`](Registry::start_tls) for clients that identify themselves by this certificate (PEM) alone.
    pub fn start_tls_for(client: &str) -> Registry {
        let mut known = rustls::RootCertStore::empty();
        let client = CertificateDer::from_pem_slice(client.as_bytes()).expect("a certificate");
        known.add(client).expect("a certificate that can be an anchor");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(known), provider).build();
        Registry::launch_tls(&["127.0.0.1"], verifier.expect("there is an anchor"))
    }

    fn launch_tls(names: &[&str], clients: Arc<dyn ClientCertVerifier>) -> Registry {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows the default versions")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("the certificate fits its key");
        let mut registry = Registry::launch(Some(TlsAcceptor::from(Arc::new(config))));
        registry.certificate = Some(made.cert.pem());
        registry
    }

    fn launch(tls: Option<TlsAcceptor>) -> Registry {
        let listener = Server::bind();
        let address = listener.local_addr().expect("the listener's address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(Mutex::new(Repositories::default()));
        let tokens = Arc::new(Tokens::new(format!("{scheme}://{address}/token"), address.port()));
        let (held, issuer) = (state.clone(), tokens.clone());
        let handler = move |request: &Request| match request.kind {
            Kind::Token => issuer.issue(request),
            _ => match issuer.check(request) {
                Err(refusal) => *refusal,
                Ok(()) => held.lock().expect("no test panics while it holds the content").answer(request),
            },
        };
        Registry { server: Server::start(listener, tls, Arc::new(handler)), state, tokens, certificate: None }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address().to_string()
    }

    /// `http://127.0.0.1:PORT` or `https://…`.
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// `127.0.0.1:PORT/repository:tag`.
    pub fn name(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.address())
    }

    /// The certificate as PEM. Only with TLS.
    pub fn certificate(&self) -> &str {
        self.certificate.as_deref().expect("started with TLS")
    }

    /// Holds `image` with all its blobs in `repository`, under `tag`.
    pub fn add(&self, repository: &str, tag: &str, image: &Image) {
        let mut state = self.content();
        for blob in &image.blobs {
            state.add_blob(repository, blob);
        }
        for manifest in &image.manifests {
            state.add_manifest(repository, &manifest.digest.to_string(), manifest.clone());
        }
        state.tag(repository, tag, image.digest());
    }

    /// Holds one blob.
    pub fn add_blob(&self, repository: &str, blob: &Blob) {
        self.content().add_blob(repository, blob);
    }

    /// Forgets one blob: 404 from now on.
    pub fn remove_blob(&self, repository: &str, blob: &Blob) {
        self.content().remove_blob(repository, blob.digest());
    }

    /// Forgets one tag; its manifest stays.
    pub fn remove_tag(&self, repository: &str, tag: &str) {
        self.content().remove_tag(repository, tag);
    }

    /// Answers `selector` (a tag or a digest, true or not) with these bytes.
    pub fn add_manifest(&self, repository: &str, selector: &str, manifest: RawManifest) {
        self.content().add_manifest(repository, selector, manifest);
    }

    /// Answers `tag`, and the digest of the text, with a text of any kind.
    pub fn add_text(&self, repository: &str, tag: &str, media_type: &str, text: &str) -> RawManifest {
        let bytes = bytes::Bytes::copy_from_slice(text.as_bytes());
        let digest = layerpull::oci::Digest::of(&bytes);
        let manifest = RawManifest { media_type: MediaType::new(media_type), digest, bytes };
        self.add_manifest(repository, tag, manifest.clone());
        self.add_manifest(repository, &manifest.digest.to_string(), manifest.clone());
        manifest
    }

    fn content(&self) -> std::sync::MutexGuard<'_, Repositories> {
        self.state.lock().expect("no test panics while it holds the content")
    }

    /// Misbehaves from now on. The first rule that matches and has uses left is applied.
    pub fn rule(&self, when: When, times: Times, fault: Fault) {
        self.server.rules.lock().expect("no test panics while it holds the rules").push(when, times, fault);
    }

    /// Behaves from now on.
    pub fn behave(&self) {
        self.server.rules.lock().expect("no test panics while it holds the rules").clear();
    }

    /// Asks for credentials from now on.
    pub fn require(&self, auth: Auth) {
        self.tokens.require(auth);
    }

    /// Refuses every token that was issued so far.
    pub fn revoke_tokens(&self) {
        self.tokens.revoke();
    }

    /// Lets another origin be its token endpoint too; returns the realm to put into [`Bearer`].
    pub fn issue_tokens_at(&self, elsewhere: &Elsewhere) -> String {
        elsewhere.issue_for(self.tokens.clone())
    }

    /// The requests so far.
    pub fn requests(&self) -> Requests {
        self.server.log.snapshot()
    }

    /// Waits until the requests are as `condition` wants them. Panics when that does not come within a minute.
    ///
    /// Blocks the thread: in async tests on a runtime of several threads, or see [`reached`](Registry::reached).
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Requests) -> bool) -> Requests {
        self.server.log.wait(what, condition)
    }

    /// [`wait_until`](Registry::wait_until) for async tests.
    pub async fn reached(&self, what: &str, condition: impl Fn(&Requests) -> bool + Send + 'static) -> Requests {
        let (log, what) = (self.server.log.clone(), what.to_string());
        tokio::task::spawn_blocking(move || log.wait(&what, condition)).await.expect("it came to pass")
    }
}

/// The value of an `Authorization` header.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}
