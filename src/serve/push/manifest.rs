//! Manifests and tags (distribution-spec, "Pushing Manifests" and "Deleting manifests").

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{Pushes, body, empty};
use crate::content::{Root, Sink};
use crate::error::Error;
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Manifest, MediaType, RawManifest, Reference};
use crate::serve::answer::{CONTENT_DIGEST, value};
use crate::serve::body::Body;
use crate::serve::failure::Failure;
use crate::serve::routes::Selector;

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

impl Pushes {
    /// Takes a manifest whose children are all here. One that was pushed by its digest is kept under that, until an index or
    /// a tag of the repository names it; a referrer is kept by its subject.
    pub(super) async fn put_manifest(
        &self,
        repository: &Reference,
        selector: Selector,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Failure> {
        let tag = tag_name(repository, &selector)?;
        let bytes = body::whole(body, MAX_MANIFEST_SIZE).await?;
        let (raw, manifest) = understand(headers, bytes, &selector)?;
        let _guard = self.guard().await?;
        self.store.require_children(&manifest).await.map_err(missing)?;
        self.store.put_manifest(&raw).await.map_err(Failure::from_write)?;
        let root = Root { descriptor: raw.descriptor(), platforms: None };
        let own = || manifest.subject().is_none().then(|| repository.at(raw.digest.clone()));
        if let Some(name) = tag.clone().or_else(own) {
            self.store.tag(&name, &root).await.map_err(missing)?;
        }
        self.release(repository, tag.is_some().then_some(&raw.digest), &manifest).await?;
        let mut response = empty(StatusCode::CREATED);
        let path = format!("/v2/{}/manifests/{}", repository.repository(), raw.digest);
        response.headers_mut().insert(header::LOCATION, value(path));
        response.headers_mut().insert(CONTENT_DIGEST, value(&raw.digest));
        if let Some(subject) = manifest.subject() {
            response.headers_mut().insert(SUBJECT, value(&subject.digest));
        }
        self.arrivals.add(repository.repository(), root.descriptor);
        Ok(response)
    }

    /// What has a tag now, and the children of an index, are not kept under their digests any more.
    async fn release(
        &self,
        repository: &Reference,
        tagged: Option<&Digest>,
        manifest: &Manifest,
    ) -> Result<(), Failure> {
        let children = match manifest {
            Manifest::Index(index) => index.manifests.iter().map(|child| &child.digest).collect(),
            Manifest::Image(_) => HashSet::new(),
        };
        if tagged.is_none() && children.is_empty() {
            return Ok(());
        }
        for (name, root) in self.store.names().await.map_err(Failure::from_write)? {
            let is_named = Some(&root.digest) == tagged || children.contains(&root.digest);
            if name.tag().is_none() && name.name() == repository.name() && is_named {
                self.unname(&name, root).await?;
            }
        }
        Ok(())
    }

    async fn unname(&self, name: &Reference, root: Descriptor) -> Result<(), Failure> {
        match self.store.remove(&name.pinned(root.digest)).await {
            // Somebody else removed it, or made it point elsewhere, since it was looked at.
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Failure::from_write(error)),
        }
    }

    /// Removes a tag, or every tag of the repository that points to a digest. The blobs stay for a `gc`.
    pub(super) async fn delete(&self, repository: &Reference, selector: Selector) -> Result<Response<Body>, Failure> {
        let _guard = self.guard().await?;
        let names = self.store.names().await.map_err(Failure::from_write)?;
        let is_meant = |(name, root): &(Reference, Descriptor)| {
            name.name() == repository.name()
                && match &selector {
                    Selector::Tag(tag) => name.tag() == Some(tag),
                    Selector::Digest(digest) => root.digest == *digest,
                }
        };
        let meant: Vec<_> = names.into_iter().filter(is_meant).collect();
        let arrived = match &selector {
            Selector::Digest(digest) => self.arrivals.forget(repository.repository(), digest),
            Selector::Tag(_) => false,
        };
        if meant.is_empty() && !arrived {
            return Err(Failure::manifest_unknown(selector));
        }
        for (name, root) in meant {
            self.unname(&name, root).await?;
        }
        Ok(empty(StatusCode::ACCEPTED))
    }
}

/// The name that the manifest gets, if it gets one.
fn tag_name(repository: &Reference, selector: &Selector) -> Result<Option<Reference>, Failure> {
    match selector {
        Selector::Digest(_) => Ok(None),
        Selector::Tag(tag) => match repository.tagged(tag) {
            Ok(name) => Ok(Some(name)),
            Err(_) => Err(Failure::name_invalid("the tag is invalid")),
        },
    }
}

/// Reads a manifest that is what its request says of it.
fn understand(
    headers: &HeaderMap,
    bytes: bytes::Bytes,
    selector: &Selector,
) -> Result<(RawManifest, Manifest), Failure> {
    let claimed = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(MediaType::new);
    let mut raw = RawManifest::new(claimed.as_ref(), bytes).map_err(Failure::manifest_invalid)?;
    if let Some(claimed) = claimed.filter(|claimed| *claimed != raw.media_type) {
        let why = format!("it is a {}, its Content-Type says {}", raw.media_type.as_str(), claimed.as_str());
        return Err(Failure::manifest_invalid(why));
    }
    if let Selector::Digest(digest) = selector {
        if !digest.matches(&raw.bytes) {
            return Err(Failure::other_bytes(&format!("the manifest has digest {}", raw.digest)));
        }
        raw.digest = digest.clone();
    }
    let manifest = raw.parse().map_err(Failure::manifest_invalid)?;
    Ok((raw, manifest))
}

/// What the store says about children.
fn missing(error: Error) -> Failure {
    match error {
        Error::NotFound { what, .. } => Failure::child_unknown(&what),
        Error::Invalid { what, why, .. } => Failure::manifest_invalid(format!("{what}: {why}")),
        error => Failure::from_write(error),
    }
}
