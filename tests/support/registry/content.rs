//! What the registry holds, and how it answers when nothing is wrong.

use std::collections::{BTreeMap, BTreeSet};

use layerpull::oci::{Digest, MediaType, RawManifest};
use serde_json::{Value, json};

use super::Answer;
use super::fault::Reply;
use super::record::{Kind, Request};
use crate::images::{Blob, Content};

#[derive(Default)]
pub(super) struct Repositories(BTreeMap<String, Repository>);

#[derive(Default)]
struct Repository {
    /// By digest, and by whatever a test wants.
    manifests: BTreeMap<String, RawManifest>,
    tags: BTreeSet<String>,
    blobs: BTreeMap<String, Content>,
}

impl Repositories {
    fn repository(&mut self, name: &str) -> &mut Repository {
        self.0.entry(name.into()).or_default()
    }

    pub(super) fn add_blob(&mut self, repository: &str, blob: &Blob) {
        self.repository(repository).blobs.insert(blob.digest().to_string(), blob.content.clone());
    }

    pub(super) fn remove_blob(&mut self, repository: &str, digest: &Digest) {
        self.repository(repository).blobs.remove(&digest.to_string());
    }

    pub(super) fn remove_tag(&mut self, repository: &str, tag: &str) {
        let repository = self.repository(repository);
        repository.tags.remove(tag);
        repository.manifests.remove(tag);
    }

    pub(super) fn add_manifest(&mut self, repository: &str, selector: &str, manifest: RawManifest) {
        let repository = self.repository(repository);
        if !selector.contains(':') {
            repository.tags.insert(selector.into());
        }
        repository.manifests.insert(selector.into(), manifest);
    }

    pub(super) fn tag(&mut self, repository: &str, tag: &str, digest: &Digest) {
        let manifest = self.repository(repository).manifests[&digest.to_string()].clone();
        self.add_manifest(repository, tag, manifest);
    }

    pub(super) fn answer(&self, request: &Request) -> Answer {
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Reply::error(405, "UNSUPPORTED", "read-only").into();
        }
        match &request.kind {
            Kind::Ping => text("{}".into(), "application/json"),
            Kind::Catalog => page("repositories", self.0.keys().cloned().collect(), request),
            Kind::Token | Kind::Other => Reply::error(404, "NAME_UNKNOWN", "not found").into(),
            kind => match kind.repository().and_then(|name| self.0.get(name)) {
                Some(repository) => repository.answer(request),
                None => Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry").into(),
            },
        }
    }
}

impl Repository {
    fn answer(&self, request: &Request) -> Answer {
        match &request.kind {
            Kind::Manifest { selector, .. } => self.manifest(selector),
            Kind::Blob { digest, .. } => self.blob(digest, request),
            Kind::Referrers { digest, .. } => self.referrers(digest, request),
            _ => page("tags", self.tags.iter().cloned().collect(), request),
        }
    }

    fn manifest(&self, selector: &str) -> Answer {
        let Some(manifest) = self.manifests.get(selector) else {
            return Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown").into();
        };
        let mut answer = Answer::new(200, Content::Bytes(manifest.bytes.clone()));
        answer.set("content-type", manifest.media_type.as_str());
        answer.set("docker-content-digest", &manifest.digest.to_string());
        answer
    }

    fn blob(&self, digest: &str, request: &Request) -> Answer {
        let Some(content) = self.blobs.get(digest) else {
            return Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry").into();
        };
        let mut answer = Answer::ranged(content.clone(), request);
        answer.set("content-type", "application/octet-stream");
        answer.set("docker-content-digest", digest);
        answer.set("etag", &format!("\"{digest}\""));
        answer
    }

    fn referrers(&self, digest: &str, request: &Request) -> Answer {
        let found: BTreeMap<_, _> = self.manifests.values().filter_map(|m| referrer(m, digest)).collect();
        let wanted = request.parameter("artifactType");
        let found: Vec<Value> =
            found.into_values().filter(|d| wanted.as_ref().is_none_or(|w| d["artifactType"] == **w)).collect();
        let index = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": found});
        let mut answer = text(index.to_string(), MediaType::OCI_INDEX);
        if wanted.is_some() {
            answer.set("oci-filters-applied", "artifactType");
        }
        answer
    }
}

fn referrer(manifest: &RawManifest, subject: &str) -> Option<(String, Value)> {
    let content: Value = serde_json::from_slice(&manifest.bytes).ok()?;
    (content["subject"]["digest"] == subject).then(|| {
        let mut descriptor = json!(manifest.descriptor());
        let config = &content["config"]["mediaType"];
        descriptor["artifactType"] = content.get("artifactType").unwrap_or(config).clone();
        (manifest.digest.to_string(), descriptor)
    })
}

/// One page of a list, with a relative link to the next, as distribution's registry does it.
fn page(field: &str, mut all: Vec<String>, request: &Request) -> Answer {
    let last = request.parameter("last").unwrap_or_default();
    all.retain(|name| *name > last);
    let count = request.parameter("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let more = all.len() > count;
    all.truncate(count);
    let mut body = json!({field: all});
    if let Some(name) = request.kind.repository() {
        body["name"] = json!(name);
    }
    let mut answer = text(body.to_string(), "application/json");
    if let Some(last) = all.last().filter(|_| more) {
        answer.set("link", &format!("<{}?last={last}&n={count}>; rel=\"next\"", request.path));
    }
    answer
}

fn text(body: String, media_type: &str) -> Answer {
    let mut answer = Answer::new(200, Content::Bytes(body.into()));
    answer.set("content-type", media_type);
    answer
}
