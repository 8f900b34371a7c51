//! Paths and queries of the distribution protocol (distribution-spec, "Endpoints").

use std::fmt;

use http::Uri;

use crate::oci::Digest;

use super::failure::Failure;

/// Longest path that is looked at: a host, a repository of 255 characters, a digest of 135.
const MAX_PATH: usize = 1024;
/// Largest page of a list, and the size of a page when none is asked for.
const MAX_PAGE: usize = 1000;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) endpoint: Endpoint,
    /// The registry that the repository belongs to, when the client uses us as its mirror (`?ns=`).
    pub(super) namespace: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/v2/`: whether this is a registry, and whether it asks for credentials.
    Ping,
    /// `/v2/_catalog`
    Catalog(Page),
    Manifest {
        name: String,
        selector: Selector,
    },
    Blob {
        name: String,
        digest: Digest,
    },
    Tags {
        name: String,
        page: Page,
    },
    /// `/v2/<name>/blobs/uploads/`, and below it
    Upload {
        name: String,
        session: Option<String>,
        digest: Option<Digest>,
        mount: Option<Mount>,
    },
    Referrers {
        name: String,
        digest: Digest,
        artifact_type: Option<String>,
        page: Page,
    },
}

/// A blob that another repository has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) digest: Digest,
    pub(super) from: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selector {
    Tag(String),
    Digest(Digest),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Tag(tag) => f.write_str(tag),
            Selector::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Which part of a sorted list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    /// At most so many.
    pub(super) count: usize,
    /// Only what sorts behind this.
    pub(super) last: Option<String>,
}

/// Reads the target of a request.
pub(super) fn parse(uri: &Uri) -> Result<Request, Failure> {
    // A colon may be escaped, and is the only such character that these paths have.
    let path = uri.path().replace("%3A", ":").replace("%3a", ":");
    if path.len() > MAX_PATH {
        return Err(Failure::name_invalid("the path is too long"));
    }
    let query = Query(uri.query().unwrap_or_default());
    let endpoint = endpoint(&path, &query)?;
    Ok(Request { endpoint, namespace: query.get("ns") })
}

fn endpoint(path: &str, query: &Query) -> Result<Endpoint, Failure> {
    let rest = match path.strip_prefix("/v2") {
        Some("" | "/") => return Ok(Endpoint::Ping),
        Some("/_catalog") => return query.page().map(Endpoint::Catalog),
        Some(rest) if rest.starts_with('/') => &rest[1..],
        _ => return Err(Failure::not_found("this is a registry: everything is below /v2/")),
    };
    let mut parts = rest.rsplitn(3, '/');
    let (Some(last), Some(kind), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Failure::not_found("no such endpoint"));
    };
    if let ("uploads", Some(name)) = (kind, name.strip_suffix("/blobs")) {
        return upload(name, last, query);
    }
    let name = name.to_string();
    match (kind, last) {
        ("manifests", selector) => Ok(Endpoint::Manifest { name, selector: select(selector)? }),
        ("blobs", digest) => Ok(Endpoint::Blob { name, digest: digest_of(digest)? }),
        ("tags", "list") => Ok(Endpoint::Tags { name, page: query.page()? }),
        ("referrers", digest) => Ok(Endpoint::Referrers {
            name,
            digest: digest_of(digest)?,
            artifact_type: query.get("artifactType"),
            page: query.page()?,
        }),
        _ => Err(Failure::not_found("no such endpoint")),
    }
}

fn upload(name: &str, session: &str, query: &Query) -> Result<Endpoint, Failure> {
    let digest = |name| query.get(name).map(|text| digest_of(&text)).transpose();
    // Without the repository that has it there is nothing to mount: then it is uploaded.
    let mount = digest("mount")?.zip(query.get("from")).map(|(digest, from)| Mount { digest, from });
    let session = (!session.is_empty()).then(|| session.to_owned());
    Ok(Endpoint::Upload { name: name.into(), session, digest: digest("digest")?, mount })
}

fn select(text: &str) -> Result<Selector, Failure> {
    match text.contains(':') {
        true => digest_of(text).map(Selector::Digest),
        false => Ok(Selector::Tag(text.into())),
    }
}

fn digest_of(text: &str) -> Result<Digest, Failure> {
    text.parse().map_err(Failure::digest_invalid)
}

struct Query<'a>(&'a str);

impl Query<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let mut pairs = url::form_urlencoded::parse(self.0.as_bytes());
        pairs.find(|(n, value)| n == name && !value.is_empty()).map(|(_, value)| value.into_owned())
    }

    fn page(&self) -> Result<Page, Failure> {
        let count = match self.get("n").map(|n| n.parse::<usize>()) {
            None => MAX_PAGE,
            Some(Ok(count)) => count.min(MAX_PAGE),
            Some(Err(_)) => return Err(Failure::page_invalid()),
        };
        Ok(Page { count, last: self.get("last") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(uri: &str) -> Result<Request, Failure> {
        parse(&uri.parse().unwrap())
    }

    fn name_of(uri: &str) -> String {
        match ask(uri).unwrap().endpoint {
            Endpoint::Manifest { name, .. } | Endpoint::Blob { name, .. } | Endpoint::Tags { name, .. } => name,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_repository_may_be_named_like_an_endpoint() {
        assert_eq!(name_of("/v2/a/manifests/blobs/tags/list"), "a/manifests/blobs");
        assert_eq!(name_of("/v2/docker.io/library/manifests/manifests/list"), "docker.io/library/manifests");
    }

    #[test]
    fn a_digest_is_checked_before_anything_is_looked_up() {
        let digest = Digest::of(b"x");
        assert_eq!(name_of(&format!("/v2/a/b/blobs/{digest}")), "a/b");
        assert_eq!(name_of(&format!("/v2/a/b/blobs/{}", digest.to_string().replace(':', "%3A"))), "a/b");
        for bad in ["sha256:..", "md5:00", "x"] {
            assert_eq!(ask(&format!("/v2/a/blobs/{bad}")).unwrap_err().code(), "DIGEST_INVALID", "{bad}");
        }
    }

    #[test]
    fn an_upload_is_begun_mounted_or_gone_on_with() {
        let digest = Digest::of(b"x");
        let upload = |uri: &str| match ask(uri).unwrap().endpoint {
            Endpoint::Upload { name, session, digest, mount } => (name, session, digest, mount),
            other => panic!("{other:?}"),
        };
        assert_eq!(upload("/v2/a/b/blobs/uploads/"), ("a/b".into(), None, None, None));
        let mount = Some(Mount { digest: digest.clone(), from: "c/d".into() });
        assert_eq!(upload(&format!("/v2/a/blobs/uploads/?mount={digest}&from=c%2Fd")).3, mount);
        let (_, session, end, _) = upload(&format!("/v2/a/blobs/uploads/x-y?digest={digest}"));
        assert_eq!((session.as_deref(), end), (Some("x-y"), Some(digest)));
        assert_eq!(ask("/v2/a/blobs/uploads/?digest=sha256:..").unwrap_err().code(), "DIGEST_INVALID");
    }

    #[test]
    fn pages_are_bounded_and_checked() {
        let page = |uri: &str| ask(uri).map(|request| request.endpoint);
        let of = |count, last: Option<&str>| Endpoint::Catalog(Page { count, last: last.map(str::to_owned) });
        assert_eq!(page("/v2/_catalog").unwrap(), of(1000, None));
        assert_eq!(page("/v2/_catalog?n=2&last=a%2Fb").unwrap(), of(2, Some("a/b")));
        assert_eq!(page("/v2/_catalog?n=100000000").unwrap(), of(1000, None));
        assert_eq!(page("/v2/_catalog?n=-1").unwrap_err().code(), "PAGINATION_NUMBER_INVALID");
    }

    #[test]
    fn what_is_no_endpoint_is_not_found() {
        for uri in ["/", "/v1/", "/v2x/", "/v2/a", "/v2/a/b/c", "/v2/a/uploads/x", "/v2//x"] {
            assert_eq!(ask(uri).unwrap_err().status(), 404, "{uri}");
        }
        assert_eq!(ask("/v2/").unwrap(), Request { endpoint: Endpoint::Ping, namespace: None });
    }

    #[test]
    fn the_namespace_is_taken_from_the_query() {
        assert_eq!(ask("/v2/a/tags/list?ns=docker.io").unwrap().namespace.as_deref(), Some("docker.io"));
    }
}
