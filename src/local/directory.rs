//! skopeo's `dir:`: one image in a folder, its manifest as `manifest.json`, what is below as files named by their digests
//! (containers-transports(5)).

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::content::file::{FileOrigin, Folder, read_all};
use crate::content::{Origin, Source};
use crate::error::{Error, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, RawManifest, Reference};

/// The file with the manifest of the image.
pub const MANIFEST: &str = "manifest.json";

/// One image in a folder.
#[derive(Debug, Clone)]
pub struct Directory {
    folder: Folder,
}

impl Directory {
    /// Opens the folder.
    ///
    /// # Errors
    /// `NotFound` when it is not there, `Store` when it cannot be opened.
    pub fn open(dir: &Path) -> Result<Directory> {
        match Folder::open(dir) {
            Ok(folder) => Ok(Directory { folder }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let why = "name a folder that `skopeo copy … dir:` or `layerpull copy … dir:` wrote".into();
                Err(Error::NotFound { what: "an image".into(), place: format!("dir:{}", dir.display()), why })
            }
            Err(e) => Err(Error::store("open", dir)(e)),
        }
    }

    /// The manifest in `file`; `None` when there is no such file.
    fn read(&self, file: &str) -> Result<Option<bytes::Bytes>> {
        match self.folder.file(Path::new(file)).and_then(|file| read_all(file, MAX_MANIFEST_SIZE)) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::store("read the manifest", self.folder.path().join(file))(e)),
        }
    }

    fn not_found(&self, what: impl ToString) -> Error {
        let why = "the folder holds no image, or a part of one".into();
        Error::NotFound { what: what.to_string(), place: self.place(), why }
    }
}

#[async_trait]
impl Source for Directory {
    fn place(&self) -> String {
        format!("dir:{}", self.folder.path().display())
    }

    async fn resolve(&self, _: &Reference) -> Result<Descriptor> {
        let bytes = self.read(MANIFEST)?.ok_or_else(|| self.not_found(MANIFEST))?;
        let raw = RawManifest::new(None, bytes).map_err(|why| Error::manifest(self.place(), MANIFEST, why))?;
        Ok(raw.descriptor())
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        let digest = &descriptor.digest;
        let verified = |bytes| RawManifest::verified(digest, Some(&descriptor.media_type), bytes);
        if let Some(raw) = self.read(MANIFEST)?.and_then(|bytes| verified(bytes).ok()) {
            return Ok(raw);
        }
        let bytes = self.read(&format!("{}.{MANIFEST}", digest.hex()))?.ok_or_else(|| self.not_found(digest))?;
        verified(bytes).map_err(|why| Error::manifest(self.place(), digest, why))
    }

    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        vec![Arc::new(FileOrigin::at(&self.folder, blob, blob.digest.hex()))]
    }

    async fn referrers(&self, _: &Digest) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::MediaType;

    #[tokio::test]
    async fn a_folder_gives_its_manifests_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let index = |note: &str| {
            format!(r#"{{"mediaType":"{}","manifests":[],"annotations":{{"n":"{note}"}}}}"#, MediaType::OCI_INDEX)
        };
        let place = Directory::open(dir.path()).unwrap();
        let name: Reference = "x".parse().unwrap();
        assert!(matches!(place.resolve(&name).await, Err(Error::NotFound { .. })));
        std::fs::write(dir.path().join(MANIFEST), index("root")).unwrap();
        let root = place.resolve(&name).await.unwrap();
        assert_eq!(place.manifest(&root).await.unwrap().bytes, index("root"));
        let child = RawManifest::new(None, index("child").into()).unwrap();
        assert!(matches!(place.manifest(&child.descriptor()).await, Err(Error::NotFound { .. })));
        let file = dir.path().join(format!("{}.{MANIFEST}", child.digest.hex()));
        std::fs::write(&file, &child.bytes).unwrap();
        assert_eq!(place.manifest(&child.descriptor()).await.unwrap().bytes, child.bytes);
        let origin = place.origins(&child.descriptor()).remove(0);
        assert_eq!(origin.path(), Some(dir.path().join(child.digest.hex())));
        std::fs::write(&file, "{}").unwrap();
        assert!(matches!(place.manifest(&child.descriptor()).await, Err(Error::Verification { .. })));
        assert!(matches!(Directory::open(&dir.path().join("absent")), Err(Error::NotFound { .. })));
    }
}
