//! Where an image may be asked for: its registry and the mirrors of it, as the machine's configuration says.
//!
//! - `own`: mirrors that the user names for this program.
//! - `registries`: `registries.conf` of podman, skopeo and CRI-O (containers-registries.conf(5)).
//! - `containerd`: `hosts.toml` (containerd's docs/hosts.md); `docker`: mirrors of Docker Hub in `daemon.json`.
//! - `document`: TOML whose values know their lines.
//!
//! The user's own mirrors come first. Behind them stands what the first of the other files says that speaks of the image.

mod containerd;
mod docker;
mod document;
mod own;
mod registries;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use own::{InvalidMirror, Mirror};
use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

use super::Options;
use super::http::authority;
use super::secret::Secret;
use crate::content::Provenance;
use crate::error::{Error, Result};
use crate::oci::Reference;
use crate::oci::reference::{DOCKER_HUB, DOCKER_HUB_HOST};

/// The path of the API of a registry (distribution-spec, "Endpoints").
const API: &str = "/v2";
/// More hosts are not asked for one image.
const MAX_HOSTS: usize = 16;

/// Where something was configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Configured {
    /// Nowhere: it follows from the name of the image.
    Default,
    /// By a flag or a variable of this name.
    Said(String),
    /// In this file, on this line, counted from 1.
    File(PathBuf, usize),
}

impl fmt::Display for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Configured::Default => f.write_str("default"),
            Configured::Said(name) => f.write_str(name),
            Configured::File(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// What a host is to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Its registry, or what the configuration puts in the place of it.
    Registry,
    /// A mirror of that.
    Mirror,
}

impl Role {
    /// What bytes from such a host count for.
    pub(super) fn provenance(self) -> Provenance {
        match self {
            Role::Registry => Provenance::Registry,
            Role::Mirror => Provenance::Mirror,
        }
    }
}

/// What a host may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// Manifests by digest, and blobs.
    pub pull: bool,
    /// What a tag points to.
    pub resolve: bool,
    /// Taking images.
    pub push: bool,
}

impl Capabilities {
    const READ: Capabilities = Capabilities { pull: true, resolve: true, push: false };
    const PULL: Capabilities = Capabilities { pull: true, resolve: false, push: false };
    const ALL: Capabilities = Capabilities { pull: true, resolve: true, push: true };
}

/// One host that may be asked for an image, and how.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// What it is to the image.
    pub role: Role,
    /// The repository at it.
    pub repository: String,
    /// What it may be asked for.
    pub may: Capabilities,
    /// Where that is said.
    pub configured: Configured,
    pub(super) approach: Approach,
}

impl Endpoint {
    /// The registry of `name`, as if no file spoke of it.
    pub(super) fn of_registry(name: &Reference) -> Endpoint {
        Endpoint {
            role: Role::Registry,
            repository: name.repository().into(),
            may: Capabilities::ALL,
            configured: Configured::Default,
            approach: Approach::of_registry(name.registry()),
        }
    }

    /// The address below which its manifests and blobs are. Where no scheme was said it is `https`, and loopback may turn
    /// out to speak plain HTTP.
    pub fn url(&self) -> String {
        let approach = &self.approach;
        format!("{}://{}{}/{}", approach.scheme.unwrap_or("https"), approach.authority, approach.api, self.repository)
    }

    /// The registry that it is told to stand for, in the query `ns`.
    pub fn namespace(&self) -> Option<&str> {
        self.approach.namespace.as_deref()
    }

    /// The names of the headers that it is sent beside the usual ones.
    pub fn headers(&self) -> Vec<&str> {
        self.approach.headers.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Approach {
    /// Its name, under which credentials are kept.
    pub registry: String,
    /// `host` or `host:port`.
    pub authority: String,
    /// `http` or `https`, if one of them was said.
    pub scheme: Option<&'static str>,
    /// The path that stands for `/v2`.
    pub api: String,
    /// Value of the query `ns`.
    pub namespace: Option<String>,
    /// More headers; they go to this host alone.
    pub headers: Vec<(HeaderName, Secret)>,
    /// What is known of its certificates, and how long connecting may take.
    pub manner: Manner,
}

/// How connections to a host are made, where its configuration says more than the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Manner {
    /// Any certificate will do, and where no scheme was said, plain HTTP.
    pub insecure: bool,
    /// Certificate authorities beside the system's, as PEM files.
    pub authorities: Vec<PathBuf>,
    /// What the client identifies itself by: chain and key, as PEM files.
    pub identities: Vec<(PathBuf, PathBuf)>,
    /// How long connecting may take.
    pub dial_timeout: Option<Duration>,
}

impl Approach {
    /// The host of the registry that references name `registry`.
    pub(super) fn of_registry(registry: &str) -> Approach {
        let host = if registry == DOCKER_HUB { DOCKER_HUB_HOST } else { registry };
        Approach {
            registry: registry.into(),
            authority: host.into(),
            scheme: None,
            api: API.into(),
            namespace: None,
            headers: Vec::new(),
            manner: Manner::default(),
        }
    }

    /// The host of `url`, whatever path it has.
    fn of_url(url: &Url) -> Approach {
        let host = authority(url);
        let registry = if host == DOCKER_HUB_HOST { DOCKER_HUB.to_owned() } else { host.clone() };
        let scheme = if url.scheme() == "http" { "http" } else { "https" };
        Approach { authority: host, scheme: Some(scheme), ..Approach::of_registry(&registry) }
    }

    /// The same by the name of references to `registry`, if that is this host: its port may be spelled out there.
    fn named_as(self, registry: &str) -> Approach {
        let port = if self.scheme == Some("http") { 80 } else { 443 };
        match format!("{}:{port}", self.authority) == registry {
            true => Approach { registry: registry.into(), authority: registry.into(), ..self },
            false => self,
        }
    }

    /// Whether this is the host that references name `registry`.
    fn is_of(&self, registry: &str) -> bool {
        self.registry == registry
    }
}

/// The hosts of an image, and how its registry is written to.
#[derive(Debug)]
pub(super) struct Hosts {
    /// In the order in which they are asked; the registry is the last.
    pub list: Vec<Endpoint>,
    /// The registry that the name says, wherever the configuration sends readers.
    pub itself: Approach,
}

/// What is said of connections to hosts, each as `host` or `host:port`.
pub(super) type Manners = BTreeMap<String, Manner>;

impl Hosts {
    /// What is said of connections to these hosts, wherever one of them leads to another. It is said for this image alone:
    /// another registry may say something else of the same host.
    pub(super) fn manners(&self) -> Manners {
        let approaches = self.list.iter().map(|endpoint| &endpoint.approach).chain([&self.itself]);
        let said = approaches.filter(|approach| approach.manner != Manner::default());
        said.map(|approach| (approach.authority.clone(), approach.manner.clone())).collect()
    }
}

/// What one file says of an image.
struct Said {
    /// Its mirrors, and what stands in the place of the registry.
    list: Vec<Endpoint>,
}

/// Finds out which hosts may be asked for `name`. Reads files and asks nobody.
///
/// # Errors
/// `Refused` when the registry is blocked; `Usage` with file and line when a file makes no sense; `Store` when it cannot
/// be read.
pub(super) fn find(options: &Options, name: &Reference) -> Result<Hosts> {
    let mut list = own::mirrors(&options.mirrors, name);
    let mut insecure = None;
    let mut said = None;
    if options.system_config {
        let table = registries::find(&options.environment, name)?;
        insecure = table.as_ref().filter(|table| table.is_insecure()).map(registries::Table::configured);
        said = table.map(|table| table.endpoints(name)).transpose()?.flatten();
        if said.is_none() {
            said = containerd::find(options, name)?;
        }
        if said.is_none() {
            said = docker::find(&options.environment, name)?;
        }
    }
    list.extend(said.map_or_else(|| vec![Endpoint::of_registry(name)], |said| said.list));
    if insecure.is_some() {
        let own = list.iter_mut().filter(|endpoint| endpoint.role == Role::Registry);
        own.filter(|own| own.approach.is_of(name.registry())).for_each(|own| own.approach.manner.insecure = true);
    }
    if list.len() > MAX_HOSTS {
        // The registry is the last, and stays.
        list.drain(MAX_HOSTS - 1..list.len() - 1);
    }
    // Images are sent to the registry that their name says, whatever a file allows.
    list.iter_mut().for_each(|endpoint| endpoint.may.push = is_itself(endpoint, name));
    let itself = itself(&list, name, insecure.is_some());
    Ok(Hosts { list, itself })
}

/// Whether this is the registry that the name says, and the repository there.
fn is_itself(endpoint: &Endpoint, name: &Reference) -> bool {
    endpoint.role == Role::Registry
        && endpoint.approach.is_of(name.registry())
        && endpoint.repository == name.repository()
}

/// How the registry of `name` is written to: as it is read from, if it is.
fn itself(list: &[Endpoint], name: &Reference, insecure: bool) -> Approach {
    let mut approach = match list.iter().find(|endpoint| is_itself(endpoint, name)) {
        Some(endpoint) => endpoint.approach.clone(),
        None => Approach::of_registry(name.registry()),
    };
    approach.manner.insecure |= insecure;
    approach
}

/// A header that goes to one host alone: marked, so that no redirect takes it further.
pub(super) fn marked(text: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What `registries.conf` calls a location, and `daemon.json` a mirror: `host[:port][/path]`.
fn parse_location(text: &str) -> Option<(String, String)> {
    let (host, path) = text.split_once('/').unwrap_or((text, ""));
    let is_host =
        !host.is_empty() && Url::parse(&format!("https://{host}/")).is_ok_and(|url| url.username().is_empty());
    // A prefix without a port also covers names with one, as in containers/image: then the port ends up here.
    let is_path = !path.contains(':');
    (is_host && is_path).then(|| (host.to_owned(), path.trim_matches('/').to_owned()))
}

/// `blocked`: nothing is asked for `name`.
fn blocked(name: &Reference, by: &Configured) -> Error {
    let why = format!("{by} blocks its registry: remove `blocked` there if that is not meant");
    Error::Refused { what: name.to_string(), why }
}

#[cfg(test)]
mod tests;
