//! Mirrors that the user names for this program: `[PREFIX=]URL [resolve]`.

use std::str::FromStr;

use reqwest::Url;

use super::{Approach, Capabilities, Configured, Endpoint, Role};
use crate::oci::Reference;
use crate::oci::reference::{DOCKER_HUB, is_docker_hub};

/// A mirror for the images whose names begin with a prefix, or for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    prefix: Option<String>,
    url: Url,
    resolve: bool,
    /// Where it was said.
    pub configured: Configured,
}

/// Why a text is no mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no mirror: expected [PREFIX=]URL, such as https://mirror.example or docker.io=https://cache.example/hub, and \
     ` resolve` behind it where the mirror may also say what a tag points to"
)]
pub struct InvalidMirror(String);

impl FromStr for Mirror {
    type Err = InvalidMirror;

    fn from_str(text: &str) -> Result<Mirror, InvalidMirror> {
        let wrong = || InvalidMirror(text.to_owned());
        let mut words = text.split_whitespace();
        let address = words.next().ok_or_else(wrong)?;
        let resolve = match (words.next(), words.next()) {
            (None, _) => false,
            (Some("resolve"), None) => true,
            _ => return Err(wrong()),
        };
        let (prefix, url) = match address.split_once('=') {
            Some((prefix, url)) if !prefix.contains("://") => (Some(normal(prefix).ok_or_else(wrong)?), url),
            _ => (None, address),
        };
        let url = Url::parse(url).ok().filter(is_usable).ok_or_else(wrong)?;
        Ok(Mirror { prefix, url, resolve, configured: Configured::Default })
    }
}

fn is_usable(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
}

/// A prefix as full names begin: every spelling of Docker Hub is one.
fn normal(prefix: &str) -> Option<String> {
    let prefix = prefix.trim_end_matches('/');
    let (host, rest) = prefix.split_once('/').unwrap_or((prefix, ""));
    let host = if is_docker_hub(host) { DOCKER_HUB } else { host };
    match (host.is_empty(), rest.is_empty()) {
        (true, _) => None,
        (_, true) => Some(host.to_owned()),
        _ => Some(format!("{host}/{rest}")),
    }
}

/// The text that it is read from.
impl std::fmt::Display for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let prefix = self.prefix.as_ref().map(|prefix| format!("{prefix}=")).unwrap_or_default();
        let resolve = if self.resolve { " resolve" } else { "" };
        write!(f, "{prefix}{}{resolve}", self.url.as_str().trim_end_matches('/'))
    }
}

impl Mirror {
    fn is_for(&self, name: &Reference) -> bool {
        let full = name.name();
        let follows = |rest: &str| rest.is_empty() || rest.starts_with('/');
        self.prefix.as_ref().is_none_or(|prefix| full.strip_prefix(prefix.as_str()).is_some_and(follows))
    }

    /// Its path stands before the repository, as proxy projects and caches of several registries have it.
    fn endpoint(&self, name: &Reference) -> Endpoint {
        let path = self.url.path().trim_matches('/');
        let repository =
            if path.is_empty() { name.repository().to_owned() } else { format!("{path}/{}", name.repository()) };
        let namespace = Some(name.registry().to_owned());
        Endpoint {
            role: Role::Mirror,
            repository,
            may: if self.resolve { Capabilities::READ } else { Capabilities::PULL },
            configured: self.configured.clone(),
            approach: Approach { namespace, ..Approach::of_url(&self.url) },
        }
    }
}

/// Those of `mirrors` that may be asked for `name`.
pub(super) fn mirrors(mirrors: &[Mirror], name: &Reference) -> Vec<Endpoint> {
    mirrors.iter().filter(|mirror| mirror.is_for(name)).map(|mirror| mirror.endpoint(name)).collect()
}
