//! References: the names that people give to images (`distribution/reference`, the grammar that docker uses).

use std::fmt;
use std::str::FromStr;

use super::Digest;

/// The registry that a name without one means.
pub const DOCKER_HUB: &str = "docker.io";

/// The host that serves it.
pub const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
const DOCKER_HUB_INDEX: &str = "index.docker.io";

/// Whether `host` is one of the names that Docker Hub goes by.
pub fn is_docker_hub(host: &str) -> bool {
    [DOCKER_HUB, DOCKER_HUB_INDEX, DOCKER_HUB_HOST].contains(&host)
}
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;

/// A fully qualified name of an image: `registry/repository[:tag][@digest]`.
///
/// With both a tag and a digest the digest decides what is fetched; the tag is only a name to keep.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// There is nothing.
    #[error("invalid reference format: the name is empty")]
    Empty,
    /// A web address. It is not repeated, because it may hold a password.
    #[error("invalid reference format: an image has a name, not an address: leave out what ends with \"://\"")]
    Address,
    /// A component of the path holds other characters than lower-case letters, digits and single separators.
    #[error("invalid reference format: {0:?}: {1}")]
    Format(String, &'static str),
    /// Upper-case letters in the path.
    #[error("invalid reference format: {0:?}: repository name must be lowercase")]
    Uppercase(String),
    /// 64 hexadecimal digits name an image by its configuration, which no registry can look up.
    #[error("invalid reference format: {0:?} is an image ID, not a name that a registry knows")]
    ImageId(String),
    /// What stands behind the `@` is no digest.
    #[error("invalid reference format: {0:?}: {1}")]
    Digest(String, super::InvalidDigest),
}

impl Reference {
    /// The host, with its port if it has one: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path below the host, with `library/` where Docker Hub wants it.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. `None` only where a digest stands instead.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that pins the content.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What a registry is asked for: the digest if there is one, else the tag.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }

    /// Registry and repository without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository at `digest`, without a tag.
    pub fn at(&self, digest: Digest) -> Reference {
        Reference { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same name, as long as it stands for `digest`.
    pub fn pinned(&self, digest: Digest) -> Reference {
        Reference { digest: Some(digest), ..self.clone() }
    }

    /// The same repository at `tag`, without a digest.
    ///
    /// # Errors
    /// When `tag` is no valid tag.
    pub fn tagged(&self, tag: &str) -> Result<Reference, InvalidReference> {
        check_tag(tag, tag)?;
        Ok(Reference { tag: Some(tag.into()), digest: None, ..self.clone() })
    }

    /// The short form that docker prints: without `docker.io/` and `library/`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        match full.strip_prefix("docker.io/") {
            Some(rest) => rest.strip_prefix("library/").unwrap_or(rest).into(),
            None => full,
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        if text.is_empty() {
            return Err(InvalidReference::Empty);
        }
        if text.contains("://") {
            return Err(InvalidReference::Address);
        }
        let (named, digest) = split_digest(text)?;
        let (domain, rest) = split_domain(named);
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(text, tag)?;
        }
        if domain.is_none() && path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidReference::ImageId(text.into()));
        }
        if let Some(domain) = domain {
            check_domain(text, domain)?;
        }
        check_path(text, path)?;
        let (registry, repository) = normalise(domain, path);
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".into()));
        Ok(Reference { registry, repository, tag, digest })
    }
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), InvalidReference> {
    match text.split_once('@') {
        None => Ok((text, None)),
        Some((name, digest)) => {
            // What stands before it may be a password, meant for an address.
            let digest = digest.parse().map_err(|e| InvalidReference::Digest(digest.into(), e))?;
            Ok((name, Some(digest)))
        }
    }
}

/// The first component is a host only if it looks like one: a dot, a colon, an upper-case letter, or `localhost`.
fn split_domain(named: &str) -> (Option<&str>, &str) {
    match named.split_once('/') {
        Some((first, rest)) if is_domain(first) => (Some(first), rest),
        _ => (None, named),
    }
}

fn is_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn normalise(domain: Option<&str>, path: &str) -> (String, String) {
    match domain {
        // To docker the serving host is another registry.
        Some(domain) if ![DOCKER_HUB, DOCKER_HUB_INDEX].contains(&domain) => (domain.into(), path.into()),
        _ if path.contains('/') => (DOCKER_HUB.into(), path.into()),
        _ => (DOCKER_HUB.into(), format!("library/{path}")),
    }
}

fn check_domain(text: &str, domain: &str) -> Result<(), InvalidReference> {
    let bad = |why| Err(InvalidReference::Format(text.into(), why));
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            _ => return bad("the host is no IPv6 address"),
        },
        None => match domain.split_once(':') {
            Some((host, _)) => (host, &domain[host.len()..]),
            None => (domain, ""),
        },
    };
    if !port.is_empty() && port.strip_prefix(':').and_then(|p| p.parse::<u16>().ok()).is_none() {
        return bad("the port is no number up to 65535");
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match host.split('.').all(is_label) {
        true => Ok(()),
        false => bad("the host holds other characters than letters, digits, dots and inner hyphens"),
    }
}

fn check_path(text: &str, path: &str) -> Result<(), InvalidReference> {
    if path.is_empty() {
        return Err(InvalidReference::Format(text.into(), "the repository name is empty"));
    }
    if path.len() > MAX_PATH {
        return Err(InvalidReference::Format(text.into(), "the repository name is longer than 255 characters"));
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(InvalidReference::Uppercase(text.into()));
    }
    match path.split('/').all(is_component) {
        true => Ok(()),
        false => Err(InvalidReference::Format(
            text.into(),
            "a component holds lower-case letters and digits, parted by one '.', one or two '_', or hyphens",
        )),
    }
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or hyphens.
fn is_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    is_word(first)
        && is_word(last)
        && bytes.split(|&b| is_word(b)).all(|separator| match separator {
            b"" | b"." | b"_" | b"__" => true,
            other => other.iter().all(|&b| b == b'-'),
        })
}

/// Whether `text` is a tag: 1 to 128 letters, digits, `_`, `.` and `-`, not beginning with `.` or `-`
/// (OCI distribution-spec, "pulling manifests").
pub fn is_tag(text: &str) -> bool {
    let is_first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let is_rest = |b: u8| is_first(b) || b == b'.' || b == b'-';
    text.len() <= MAX_TAG && text.bytes().next().is_some_and(is_first) && text.bytes().all(is_rest)
}

fn check_tag(text: &str, tag: &str) -> Result<(), InvalidReference> {
    match is_tag(tag) {
        true => Ok(()),
        false => Err(InvalidReference::Format(
            text.into(),
            "a tag has 1 to 128 letters, digits, '_', '.' and '-', and does not start with '.' or '-'",
        )),
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn short_names_are_completed_as_docker_does() {
        assert_eq!(full("x"), "docker.io/library/x:latest");
        assert_eq!(full("index.docker.io/x"), "docker.io/library/x:latest");
        assert_eq!(full("mysql:8"), "docker.io/library/mysql:8");
        assert_eq!(full("a/b"), "docker.io/a/b:latest");
        assert_eq!(full("registry-1.docker.io/x"), "registry-1.docker.io/x:latest");
        assert_eq!(full("localhost/a"), "localhost/a:latest");
        assert_eq!(full("localhost:5000/a:B.c-_"), "localhost:5000/a:B.c-_");
        assert_eq!(full("foo.Bar/a"), "foo.Bar/a:latest");
        assert_eq!(full("Foo/bar"), "Foo/bar:latest");
        assert_eq!(full("[::1]:5000/a"), "[::1]:5000/a:latest");
        for same in ["a_b", "a__b", "a--b"] {
            assert_eq!(full(same), format!("docker.io/library/{same}:latest"));
        }
    }

    #[test]
    fn a_digest_needs_no_tag_and_keeps_one() {
        let digest = Digest::of(b"");
        assert_eq!(full(&format!("x@{digest}")), format!("docker.io/library/x@{digest}"));
        assert_eq!(full(&format!("x:1@{digest}")), format!("docker.io/library/x:1@{digest}"));
        let both: Reference = format!("x:1@{digest}").parse().unwrap();
        assert_eq!(both.selector(), digest.to_string());
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        let long_tag = format!("x:{}", "a".repeat(129));
        let id = "a".repeat(64);
        let bad = ["", "a//b", "a..b", "a___b", "host:abc/x", &long_tag, &id, "Foo", "a/B", "a:", "-a", "a-", "x@y"];
        for text in bad {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        for text in ["../x", "a/../b", "h.x/../../etc", "x:../y", "h.x:99999/a", "[::g]/a", "ä", "x:ü", "a b"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn familiar_names_are_what_docker_prints() {
        let familiar = |text: &str| text.parse::<Reference>().unwrap().familiar();
        assert_eq!(familiar("docker.io/library/mysql:8"), "mysql:8");
        assert_eq!(familiar("docker.io/a/b"), "a/b:latest");
        assert_eq!(familiar("h.example/a"), "h.example/a:latest");
    }

    proptest! {
        #[test]
        fn whatever_parses_is_stable_and_safe(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let printed = reference.to_string();
                prop_assert_eq!(printed.parse::<Reference>(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse::<Reference>(), Ok(reference.clone()));
                prop_assert!(!reference.repository().split('/').any(|c| c == ".." || c.is_empty()));
            }
        }
    }
}
