//! Lists: tags, repositories, referrers (distribution-spec, "Content Discovery").

use std::collections::{BTreeSet, HashSet};

use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::answer::Answer;
use super::auth::Access;
use super::repository::MANIFEST_TYPES;
use super::session::{Ask, Session, Target, same_origin};
use crate::error::{Error, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Index, Manifest, MediaType, RawManifest};

const MAX_PAGES: usize = 1000;
const MAX_ENTRIES: usize = 200_000;
const MAX_PAGE: usize = MAX_MANIFEST_SIZE as usize;
/// Bytes of all pages of a list: the entries are kept in memory, and one may be as long as a page.
const MAX_LIST: usize = 64 * 1024 * 1024;
const PAGE: usize = 1000;

#[derive(Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Catalog {
    repositories: Option<Vec<String>>,
}

/// The tags of a repository, sorted.
pub(super) async fn tags(session: &Session, repository: &str) -> Result<Vec<String>> {
    let ask = Ask::get(
        format!("/v2/{repository}/tags/list?n={PAGE}"),
        Access::pull(repository),
        format!("the tags of {}/{repository}", session.registry()),
    );
    names(session, ask, |page: Tags| page.tags.unwrap_or_default()).await
}

/// The repositories of a registry, sorted.
pub(super) async fn catalog(session: &Session) -> Result<Vec<String>> {
    let ask = Ask::get(format!("/v2/_catalog?n={PAGE}"), Access::catalog(), "the catalog");
    names(session, ask, |page: Catalog| page.repositories.unwrap_or_default()).await
}

/// The repositories of a registry, if one request tells all of them.
pub(super) async fn whole_catalog(session: &Session) -> Option<HashSet<String>> {
    let ask = Ask::get(format!("/v2/_catalog?n={PAGE}"), Access::catalog(), "the catalog");
    let mut pages = Pages::new(ask);
    let answer = pages.next(session).await.ok()??;
    if pages.more || !answer.status().is_success() {
        return None;
    }
    let page: Catalog = pages.read(answer).await.ok()?;
    Some(page.repositories?.into_iter().collect())
}

/// Whether the registry says that it does not know a repository. Whatever else it says, or fails with, is no.
pub(super) async fn is_unknown(session: &Session, repository: &str, access: &Access) -> bool {
    let what = format!("the tags of {}/{repository}", session.registry());
    let ask = Ask::get(format!("/v2/{repository}/tags/list?n=1"), access.clone(), what);
    let Ok(answer) = session.send(&ask).await else { return false };
    answer.status() == StatusCode::NOT_FOUND && answer.into_error().await.to_string().contains("NAME_UNKNOWN")
}

async fn names<P>(session: &Session, ask: Ask, read: impl Fn(P) -> Vec<String>) -> Result<Vec<String>>
where
    P: for<'a> Deserialize<'a>,
{
    let mut pages = Pages::new(ask);
    let mut all = BTreeSet::new();
    while let Some(answer) = pages.next(session).await? {
        if !answer.status().is_success() {
            return Err(session.failure(answer).await);
        }
        all.extend(read(pages.read(answer).await?));
        pages.bound(all.len(), session)?;
    }
    Ok(all.into_iter().collect())
}

/// What the referrers API knows; nothing where a registry does not have it.
pub(super) async fn referrers(
    session: &Session,
    repository: &str,
    subject: &Digest,
) -> Result<Option<Vec<Descriptor>>> {
    let mut ask = Ask::get(
        format!("/v2/{repository}/referrers/{subject}"),
        Access::pull(repository),
        format!("the referrers of {subject}"),
    );
    ask.accept = Some(MANIFEST_TYPES);
    let mut pages = Pages::new(ask);
    let mut all: Vec<Descriptor> = Vec::new();
    while let Some(answer) = pages.next(session).await? {
        let is_index = answer.header("content-type").is_some_and(|t| MediaType::new(t).is_index());
        match answer.status().as_u16() {
            200 if is_index => all.extend(pages.read::<Index>(answer).await?.manifests),
            // Not this API: some proxies answer with a page of their own.
            200 | 400 | 404 | 405 | 501 => return Ok(None),
            _ => return Err(session.failure(answer).await),
        }
        pages.bound(all.len(), session)?;
    }
    Ok(Some(all))
}

/// The tag under which registries without the API keep the referrers (distribution-spec, "Referrers Tag Schema").
pub(super) fn fallback_tag(subject: &Digest) -> String {
    subject.as_tag()
}

/// The children of an index that a fallback tag names.
pub(super) fn children(raw: &RawManifest, place: &str) -> Result<Vec<Descriptor>> {
    match raw.parse().map_err(|e| Error::manifest(place, &raw.digest, e))? {
        Manifest::Index(index) => Ok(index.manifests),
        Manifest::Image(_) => Ok(Vec::new()),
    }
}

/// Follows `Link: <…>; rel="next"`; the end is where there is none.
struct Pages {
    ask: Ask,
    more: bool,
    seen: HashSet<Target>,
    bytes: usize,
}

impl Pages {
    fn new(ask: Ask) -> Pages {
        Pages { ask, more: true, seen: HashSet::new(), bytes: 0 }
    }

    async fn next(&mut self, session: &Session) -> Result<Option<Answer>> {
        if !self.more {
            return Ok(None);
        }
        self.seen.insert(self.ask.target.clone());
        let answer = session.send(&self.ask).await?;
        self.more = false;
        let links = answer.response.headers().get_all("link").iter().filter_map(|value| value.to_str().ok());
        if let Some(link) = links.filter_map(next_link).next() {
            let path = next_path(session.base().await?, &answer.url, link).map_err(|why| answer.protocol(why))?;
            let next = Target::Path(path);
            if self.seen.contains(&next) || self.seen.len() >= MAX_PAGES {
                return Err(answer.protocol("the pages of the list have no end"));
            }
            self.ask.target = next;
            self.more = true;
        }
        Ok(Some(answer))
    }

    /// The content of a page.
    async fn read<P: for<'a> Deserialize<'a>>(&mut self, answer: Answer) -> Result<P> {
        let (place, what) = (answer.place.clone(), answer.what.clone());
        let body = answer.bytes(MAX_PAGE).await?;
        self.bytes += body.len();
        serde_json::from_slice(&body).map_err(|e| Error::Invalid { what, place, why: format!("no valid list: {e}") })
    }

    fn bound(&self, entries: usize, session: &Session) -> Result<()> {
        if entries <= MAX_ENTRIES && self.bytes <= MAX_LIST {
            return Ok(());
        }
        let (what, place) = (self.ask.what.clone(), session.registry().to_owned());
        Err(Error::Invalid { what, place, why: format!("more than {MAX_ENTRIES} entries or {MAX_LIST} bytes") })
    }
}

/// The address in a `Link` header that leads to the next page (RFC 8288).
fn next_link(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (address, parameters) = after.split_once('>')?;
        let (own, others) = parameters.split_once('<').unwrap_or((parameters, ""));
        let is_next = own.split([';', ',']).any(|p| {
            let p = p.trim().to_ascii_lowercase();
            p.strip_prefix("rel=").is_some_and(|rel| rel.trim_matches('"').split(' ').any(|word| word == "next"))
        });
        if is_next {
            return Some(address);
        }
        rest = &parameters[parameters.len() - others.len() - usize::from(own.len() < parameters.len())..];
    }
    None
}

/// Path and query of the next page, which must be at the registry itself (`base`), wherever this page came from
/// (`current`): credentials go there.
fn next_path(base: &Url, current: &Url, link: &str) -> Result<String, String> {
    let next = current.join(link).map_err(|e| format!("the next page has no usable address: {e}"))?;
    if !same_origin(base, &next) {
        return Err("the next page is at another host".into());
    }
    Ok(next.query().map_or_else(|| next.path().to_owned(), |query| format!("{}?{query}", next.path())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_any_link_header() {
        assert_eq!(next_link(r#"</v2/a/tags/list?last=b&n=1>; rel="next""#), Some("/v2/a/tags/list?last=b&n=1"));
        assert_eq!(next_link(r#"<x>; rel=prev, <y>; title="z"; rel=next"#), Some("y"));
        assert_eq!(next_link("<x>; rel=prev"), None);
        assert_eq!(next_link("<unclosed"), None);
        assert_eq!(next_link(""), None);
    }

    #[test]
    fn the_next_page_is_at_the_same_place() {
        let base: Url = "http://h:5000/".parse().unwrap();
        let next = |current: &str, link: &str| next_path(&base, &current.parse().unwrap(), link);
        let list = "http://h:5000/v2/a/tags/list?n=1";
        assert_eq!(next(list, "/v2/a/tags/list?last=b").unwrap(), "/v2/a/tags/list?last=b");
        assert_eq!(next(list, "list?last=b").unwrap(), "/v2/a/tags/list?last=b");
        assert!(next(list, "http://other:5000/v2/").is_err());
        assert!(next(list, "https://h:5000/v2/").is_err());
        assert!(next(list, "//other:5000/v2/").is_err());
        assert!(next("http://other:5000/list", "/v2/").is_err());
        assert!(next("http://other:5000/list", "http://h:5000/v2/").is_ok());
    }

    #[test]
    fn a_fallback_tag_is_never_too_long() {
        let long: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        assert_eq!(fallback_tag(&long), format!("sha512-{}", "a".repeat(64)));
    }
}
