//! A registry as source and sink: requests, tokens, credentials, trust, uploads.
//!
//! - [`Registry`]: begins here; makes a [`Repository`] of a reference.
//! - `repository`: manifests and the origins of blobs; `origin`: one blob; `lists`: tags, catalog, referrers.
//! - `sink`: writing to a repository; `upload`: one blob on its way there; `attach`: referrers where the registry lists none;
//!   `delete`: manifests.
//! - `hosts`: which hosts may be asked for an image; `reader`: one of them, and when it is left for the next.
//! - `session`: requests to one host, with what it demands and where it redirects to; `host`: its address and scheme.
//! - `http`: one request, one answer; `wire`: the same under a limit; `answer`: what an answer means; `failed`: why none
//!   came; `tls`, `proxy`: how connections are made.
//! - `auth`: challenges and tokens; `credentials`: where passwords are kept.
//! - `policy`: the trust policy of this machine.
//!
//! Every call makes one attempt: patience lives in [`crate::transfer`]. The one repetition is that of the protocol: a
//! request that is answered by a challenge is sent again with what it demands.

mod answer;
mod attach;
mod auth;
mod credentials;
mod delete;
mod environment;
mod failed;
mod fresh;
mod host;
mod hosts;
mod http;
mod lists;
mod origin;
mod policy;
mod proxy;
mod reader;
mod repository;
mod secret;
mod session;
mod sink;
mod tls;
mod upload;
mod wire;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use auth::Access;
pub use credentials::Credential;
use credentials::Credentials;
use credentials::files::normalise;
pub use credentials::login::Kept;
use credentials::login::{forget, keep};
pub use delete::Deletion;
pub use environment::Environment;
use host::Host;
use hosts::{Approach, Hosts, Manners};
pub use hosts::{Capabilities, Configured, Endpoint, InvalidMirror, Mirror, Role};
use http::Http;
use reader::Reader;
pub use repository::Repository;
pub use secret::Secret;
use session::{Ask, Session};

use crate::error::Result;
use crate::event::Events;
use crate::limit::Limiter;
use crate::oci::Reference;
use crate::state::State;

/// Bytes of a chunk of an upload, unless said otherwise: what an upload may lose when it is killed.
const CHUNK: u64 = 64 * 1024 * 1024;

/// How registries are reached and who is asking.
#[derive(Debug, Clone)]
pub struct Options {
    /// Hosts that may speak plain HTTP or show any certificate.
    pub insecure: Insecure,
    /// Whether certificates are verified.
    pub verify: Verify,
    /// Certificate authorities beside the system's, as PEM files.
    pub ca_files: Vec<PathBuf>,
    /// A folder of certificates for every host (`*.crt`, `X.cert` with `X.key`), instead of those in `certs.d`.
    pub cert_dir: Option<PathBuf>,
    /// The only file of credentials.
    pub authfile: Option<PathBuf>,
    /// Credentials for every registry that asks, instead of those in files.
    pub credential: Option<Credential>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long nothing may come before a request is given up.
    pub stall: Duration,
    /// Bytes that one request of an upload may carry. Registries that want longer ones get them.
    pub chunk: u64,
    /// `User-Agent`.
    pub user_agent: String,
    /// What connections may use. It is kept where bytes enter and leave the system.
    pub limiter: Limiter,
    /// Variables and the places of configuration files.
    pub environment: Environment,
    /// Mirrors, asked before those that the system's configuration names.
    pub mirrors: Vec<Mirror>,
    /// Whether `registries.conf`, `hosts.toml` and `daemon.json` are read.
    pub system_config: bool,
    /// The folder of containerd's `HOST/hosts.toml`, instead of `/etc/containerd/certs.d`.
    pub hosts_dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            insecure: Insecure::None,
            verify: Verify::Usual,
            ca_files: Vec::new(),
            cert_dir: None,
            authfile: None,
            credential: None,
            connect_timeout: Duration::from_secs(30),
            stall: Duration::from_secs(20),
            chunk: CHUNK,
            user_agent: concat!("layerpull/", env!("CARGO_PKG_VERSION")).into(),
            limiter: Limiter::none(),
            environment: Environment::of_process(),
            mirrors: Vec::new(),
            system_config: true,
            hosts_dir: None,
        }
    }
}

/// Hosts that may speak plain HTTP or show any certificate. Loopback always may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Insecure {
    /// No other.
    None,
    /// These, as `host` or `host:port`.
    Hosts(Vec<String>),
    /// All.
    All,
}

/// Whether certificates are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// But for insecure hosts, and loopback hosts that no certificate is given for.
    Usual,
    /// Never, and plain HTTP is spoken where there is no TLS (`--tls-verify=false`).
    Never,
    /// The registry is spoken to by plain HTTP and never asked whether it knows TLS; other hosts as usual.
    Plain,
}

/// Registries, by the names that references give them. A cheap clone over shared connections and tokens.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    options: Arc<Options>,
    http: Arc<Http>,
    credentials: Arc<Credentials>,
    /// Without the credential that the user gave: that one is for the registry which the name says, and for no other host.
    stored: Arc<Credentials>,
    state: Arc<State>,
    sessions: Mutex<HashMap<Way, Arc<Session>>>,
}

/// How a host is asked. Where two images say different things of it (headers, certificates, for which registry it stands),
/// each is asked for in its own way.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Way {
    approach: Approach,
    trusted: Trusted,
    /// What is said of the hosts that it may lead to.
    manners: Manners,
}

/// Whether a host gets the credential that the user gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Trusted {
    WithGiven,
    WithStored,
}

impl Registry {
    /// Registries that are reached as `options` say. Reads no file and opens no connection.
    pub fn new(options: Options, events: Events) -> Registry {
        let options = Arc::new(options);
        let http = Arc::new(Http::new(options.clone(), events));
        let credentials = Arc::new(Credentials::new(
            options.environment.clone(),
            options.authfile.clone(),
            options.credential.clone(),
        ));
        let stored = Arc::new(Credentials::new(options.environment.clone(), options.authfile.clone(), None));
        let state = Arc::new(State::new(options.environment.state_folder()));
        let shared = Shared { options, http, credentials, stored, state, sessions: Mutex::default() };
        Registry { shared: Arc::new(shared) }
    }

    /// The repository of `name`, to read from: of the registry and its mirrors. Asks nobody.
    ///
    /// # Errors
    /// `Refused` when the trust policy of this machine forbids it, or its configuration blocks the registry; `Usage` or
    /// `Store` when the configuration of mirrors makes no sense or cannot be read.
    pub fn repository(&self, name: &Reference) -> Result<Repository> {
        policy::check(&self.shared.options.environment, name)?;
        let hosts = hosts::find(&self.shared.options, name)?;
        let session = self.session(hosts.itself.clone(), hosts.manners(), name.registry());
        let repository = self.make(name, session, Access::pull(name.repository()));
        Ok(repository.read_from(self.readers(hosts, name)))
    }

    /// The hosts that are asked for `name`, in this order. Asks nobody.
    ///
    /// # Errors
    /// Those of [`Registry::repository`], but for the trust policy.
    pub fn hosts(&self, name: &Reference) -> Result<Vec<Endpoint>> {
        Ok(hosts::find(&self.shared.options, name)?.list)
    }

    fn readers(&self, hosts: Hosts, name: &Reference) -> Vec<Reader> {
        let manners = hosts.manners();
        let reader = |endpoint: Endpoint| {
            let session = self.session(endpoint.approach.clone(), manners.clone(), name.registry());
            Reader::new(session, endpoint)
        };
        hosts.list.into_iter().map(reader).collect()
    }

    /// The repository of `name`, to write to. Asks nobody; the trust policy is about what is taken from registries, not
    /// about what is given to them.
    ///
    /// This is the registry itself, never a mirror, and no configuration puts another in its place.
    pub fn repository_to_write(&self, name: &Reference) -> Repository {
        self.make(name, self.itself(name), Access::push(name.repository()))
    }

    /// Finds out which repositories of `names` are new where one request tells of several. Nothing of it is certain, so a
    /// tag that must not be overwritten is not to be looked for afterwards by these registries.
    pub async fn look_around(&self, names: &[Reference]) {
        fresh::look_around(names, &self.shared.state, |name| self.itself(name)).await;
    }

    fn make(&self, name: &Reference, session: Arc<Session>, access: Access) -> Repository {
        let endpoint = Endpoint::of_registry(name);
        let itself = Reader::new(session, endpoint);
        Repository::new(name, itself, access, self.shared.state.clone()).in_chunks(self.shared.options.chunk)
    }

    /// The registry that `name` says, wherever the configuration sends readers. What it says of certificates holds.
    fn itself(&self, name: &Reference) -> Arc<Session> {
        let (approach, manners) = match hosts::find(&self.shared.options, name) {
            Ok(hosts) => (hosts.itself.clone(), hosts.manners()),
            Err(error) => {
                tracing::debug!(%error, "the configuration of mirrors is not for who writes");
                (Approach::of_registry(name.registry()), Manners::default())
            }
        };
        self.session(approach, manners, name.registry())
    }

    /// Deletes what `name` points to: the manifest of its digest, with every tag of it on some registries, else its tag.
    ///
    /// # Errors
    /// `NotFound`, `Unauthorized`, or transient ones.
    pub async fn delete(&self, name: &Reference) -> Result<Deletion> {
        delete::delete(&self.itself(name), name).await
    }

    /// The tags of the repository of `name`, sorted.
    ///
    /// # Errors
    /// `NotFound`, `Unauthorized`, `Invalid` for lists without end, or transient ones.
    pub async fn tags(&self, name: &Reference) -> Result<Vec<String>> {
        let hosts = hosts::find(&self.shared.options, name)?;
        let readers = self.readers(hosts, name);
        let own = readers.last().expect("the registry is the last of the hosts");
        lists::tags(&own.session, &own.repository).await
    }

    /// The repositories of the registry `host`, sorted.
    ///
    /// # Errors
    /// As [`Registry::tags`]; many registries refuse this to everybody.
    pub async fn catalog(&self, host: &str) -> Result<Vec<String>> {
        let host = normalise(host);
        lists::catalog(&self.session(Approach::of_registry(&host), Manners::default(), &host)).await
    }

    /// Proves `credential` to the registry `host` (a host, or a URL as docker takes it), then keeps it where credentials of that registry are kept.
    ///
    /// # Errors
    /// `Unauthorized` when the registry refuses it, or why it could not be asked; `Store`, `Refused` or `Usage` when
    /// it cannot be kept.
    pub async fn login(&self, host: &str, credential: Credential) -> Result<Kept> {
        let (host, options) = (&normalise(host), &self.shared.options);
        let given = Credentials::new(options.environment.clone(), None, Some(credential.clone()));
        let approach = Approach::of_registry(host);
        let (host_of, manners) = (Host::new(approach, options), Manners::default());
        let session = Session::new(&self.shared.http, host_of, manners, Arc::new(given));
        let answer = session.send(&Ask::get("/v2/", Access::default(), "the login")).await?;
        if !answer.status().is_success() {
            return Err(session.failure(answer).await);
        }
        keep(&options.environment, options.authfile.as_deref(), host, &credential).await
    }

    /// Forgets what is known of the registry `host`, and says where it was kept.
    ///
    /// # Errors
    /// `Store`, `Refused` or `Usage` when a file or helper cannot be changed.
    pub async fn logout(&self, host: &str) -> Result<Vec<Kept>> {
        let options = &self.shared.options;
        forget(&options.environment, options.authfile.as_deref(), &normalise(host), self.shared.http.notices()).await
    }

    /// The session with a host that is asked for images of `registry`, where `manners` are said of it and of others.
    fn session(&self, approach: Approach, manners: Manners, registry: &str) -> Arc<Session> {
        let trusted = if approach.registry == registry { Trusted::WithGiven } else { Trusted::WithStored };
        let credentials = match trusted {
            Trusted::WithGiven => &self.shared.credentials,
            Trusted::WithStored => &self.shared.stored,
        };
        let way = Way { approach, trusted, manners };
        let mut sessions = self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let made = |way: &Way| {
            let host = Host::new(way.approach.clone(), &self.shared.options);
            Arc::new(Session::new(&self.shared.http, host, way.manners.clone(), credentials.clone()))
        };
        sessions.entry(way).or_insert_with_key(made).clone()
    }
}
