//! What lies in `blobs/`, whoever put it there.

use std::fs::Metadata;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;

use super::Disk;
use crate::content::file::{Folder, read_all};
use crate::error::{Error, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Algorithm, Descriptor, Digest, Manifest, RawManifest};

/// How many manifests are read in search of referrers.
const MAX_SCANNED: usize = 100_000;

/// A manifest that is attached to another one.
#[derive(Debug)]
pub(super) struct Referrer {
    pub subject: Digest,
    /// As the referrers API lists it (OCI distribution-spec, "Listing Referrers").
    pub descriptor: Descriptor,
}

impl Disk {
    /// Every file in `blobs/` that is named as a digest.
    pub(super) fn blobs(&self) -> Result<Vec<(Digest, Metadata)>> {
        let mut blobs = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            let folder = self.paths.blobs().join(algorithm.as_str());
            match list(&folder, algorithm, &mut blobs) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::store("list", &folder)(e)),
                _ => {}
            }
        }
        blobs.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(blobs)
    }

    /// Every manifest here that is attached to a subject.
    pub(super) fn referrers(&self, folder: &Folder) -> Result<Vec<Referrer>> {
        let small = self.blobs()?.into_iter().filter(|(_, meta)| meta.len() <= MAX_MANIFEST_SIZE);
        Ok(small.take(MAX_SCANNED).filter_map(|(digest, _)| referrer(folder, &digest)).collect())
    }
}

fn list(folder: &Path, algorithm: Algorithm, blobs: &mut Vec<(Digest, Metadata)>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{}:{}", algorithm.as_str(), entry.file_name().to_string_lossy());
        let (Ok(digest), Ok(meta)) = (name.parse(), entry.metadata()) else { continue };
        if meta.is_file() {
            blobs.push((digest, meta));
        }
    }
    Ok(())
}

fn referrer(folder: &Folder, digest: &Digest) -> Option<Referrer> {
    let raw = sniff(folder, digest)?;
    let manifest = raw.parse().ok()?;
    let subject = manifest.subject()?.digest.clone();
    let mut descriptor = raw.descriptor();
    match manifest {
        Manifest::Image(image) => {
            let config = image.config.media_type.to_string();
            descriptor.artifact_type = Some(image.artifact_type.unwrap_or(config));
            descriptor.annotations = image.annotations;
        }
        Manifest::Index(index) => {
            descriptor.artifact_type = index.artifact_type;
            descriptor.annotations = index.annotations;
        }
    }
    Some(Referrer { subject, descriptor })
}

/// Reads a blob that may be a manifest; its digest is verified.
pub(super) fn sniff(folder: &Folder, digest: &Digest) -> Option<RawManifest> {
    let mut file = folder.blob(digest).ok()?;
    let mut first = [0];
    file.read_exact(&mut first).ok()?;
    if !matches!(first, [b'{' | b' ' | b'\n' | b'\t' | b'\r']) {
        return None;
    }
    let bytes = Bytes::from([&first[..], &read_all(file, MAX_MANIFEST_SIZE).ok()?].concat());
    RawManifest::verified(digest, None, bytes).ok()
}
