//! The store as a place to read from.

use std::sync::Arc;

use async_trait::async_trait;

use super::graph::read_manifest;
use super::index::IndexFile;
use super::{Store, off, scan};
use crate::content::file::FileOrigin;
use crate::content::{Origin, Source};
use crate::error::Result;
use crate::oci::{Descriptor, Digest, RawManifest, Reference};

#[async_trait]
impl Source for Store {
    fn place(&self) -> String {
        self.root().display().to_string()
    }

    async fn resolve(&self, name: &Reference) -> Result<Descriptor> {
        match name.digest() {
            Some(digest) => self.by_digest(name, digest),
            None => self.find(name),
        }
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        let folder = self.disk.folder()?.ok_or_else(|| self.not_found(&descriptor.digest))?;
        read_manifest(&folder, &descriptor.digest, Some(&descriptor.media_type))
    }

    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        match self.disk.folder() {
            Ok(Some(folder)) => vec![Arc::new(FileOrigin::new(&folder, blob))],
            _ => Vec::new(),
        }
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let Some(folder) = self.disk.folder()? else { return Ok(Vec::new()) };
        let disk = self.disk.clone();
        let all = off(move || disk.referrers(&folder)).await?;
        Ok(all.into_iter().filter(|r| r.subject == *subject).map(|r| r.descriptor).collect())
    }
}

impl Store {
    /// The blob that lies here under `digest`, of whatever kind.
    ///
    /// # Errors
    /// `NotFound`, `Store`.
    pub fn resolve_blob(&self, digest: &Digest) -> Result<Descriptor> {
        let (_, identity) = self.disk.look(digest)?.ok_or_else(|| self.not_found(digest))?;
        Ok(Descriptor::new("application/octet-stream", digest.clone(), identity.size()))
    }

    /// An entry of this digest, else any manifest that lies here under it.
    fn by_digest(&self, name: &Reference, digest: &Digest) -> Result<Descriptor> {
        let entries = IndexFile::read(&self.disk.paths)?.entries();
        if let Some(entry) = entries.into_iter().find(|entry| entry.descriptor.digest == *digest) {
            return Ok(entry.descriptor);
        }
        let folder = self.disk.folder()?.ok_or_else(|| self.not_found(name))?;
        scan::sniff(&folder, digest).map(|raw| raw.descriptor()).ok_or_else(|| self.not_found(name))
    }
}
