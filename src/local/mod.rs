//! Blobs that this machine has elsewhere: other image layouts, as origins that cost no network.
//!
//! They are read, never written, and trusted no more than any other origin: the digest of the whole blob decides.
//!
//! - `directory`: skopeo's `dir:`, as a source.

pub mod directory;

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::content::file::{FileOrigin, Folder, layout_version};
use crate::content::{Origin, Source};
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, RawManifest, Reference};

/// An OCI image layout on this machine (OCI image-spec, `image-layout.md`).
#[derive(Debug, Clone)]
pub struct Layout {
    folder: Folder,
}

impl Layout {
    /// Opens the layout in `dir`.
    ///
    /// # Errors
    /// `Store` when the folder cannot be opened, `Invalid` when it is no image layout of version 1.
    pub fn open(dir: &Path) -> Result<Layout> {
        let folder = Folder::open(dir).map_err(Error::store("open the image layout", dir))?;
        let version = layout_version(dir).map_err(|e| foreign(dir, &format!("its file oci-layout: {e}")))?;
        match version.starts_with("1.") {
            true => Ok(Layout { folder }),
            false => Err(foreign(dir, &format!("its version is {version:?}, and only 1.x is known"))),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The file that should hold the bytes of `blob`, if there is a regular one of that size, reached without a link.
    pub fn origin(&self, blob: &Descriptor) -> Option<Arc<dyn Origin>> {
        let size = self.folder.blob(&blob.digest).and_then(|f| f.metadata()).map(|m| m.len());
        match size {
            Ok(size) if size == blob.size => Some(Arc::new(FileOrigin::new(&self.folder, blob))),
            Ok(size) => {
                tracing::debug!(blob = %blob.digest, size, "a local blob has another size and is not used");
                None
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                tracing::debug!(blob = %blob.digest, error = %e, "a local blob cannot be opened");
                None
            }
        }
    }
}

fn foreign(dir: &Path, why: &str) -> Error {
    let why = format!("not an image layout that can be read: {why}; name a folder that has oci-layout and blobs/");
    Error::Invalid { what: "image layout".into(), place: dir.display().to_string(), why }
}

/// A source whose blobs are read from layouts on this machine where these have them.
pub struct WithLocal {
    /// What names are resolved at, manifests come from, and blobs that are nowhere here.
    pub inner: Arc<dyn Source>,
    /// Where blobs are looked for first, in this order.
    pub layouts: Vec<Layout>,
}

#[async_trait]
impl Source for WithLocal {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn resolve(&self, name: &Reference) -> Result<Descriptor> {
        self.inner.resolve(name).await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        self.inner.manifest(descriptor).await
    }

    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        let local = self.layouts.iter().filter_map(|layout| layout.origin(blob));
        local.chain(self.inner.origins(blob)).collect()
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        self.inner.referrers(subject).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::file::blob_path;

    fn layout() -> (tempfile::TempDir, Descriptor) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let blob = Descriptor::new("application/octet-stream", Digest::of(b"hello"), 5);
        let path = dir.path().join(blob_path(&blob.digest));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"hello").unwrap();
        (dir, blob)
    }

    #[test]
    fn a_folder_that_is_no_layout_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = Layout::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
        std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        assert!(Layout::open(dir.path()).unwrap_err().to_string().contains("2.0.0"));
    }

    #[test]
    fn only_a_file_of_the_right_size_is_an_origin() {
        let (dir, blob) = layout();
        let layout = Layout::open(dir.path()).unwrap();
        let origin = layout.origin(&blob).unwrap();
        assert_eq!(origin.host(), dir.path().display().to_string());
        assert_eq!(origin.provenance(), crate::content::Provenance::Local);
        assert!(layout.origin(&Descriptor { size: 6, ..blob.clone() }).is_none());
        assert!(layout.origin(&Descriptor { digest: Digest::of(b"other"), ..blob }).is_none());
    }

    #[test]
    fn a_blob_behind_a_link_is_no_origin() {
        let (dir, blob) = layout();
        let outside = tempfile::tempdir().unwrap();
        std::fs::rename(dir.path().join("blobs"), outside.path().join("blobs")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("blobs"), dir.path().join("blobs")).unwrap();
        assert!(Layout::open(dir.path()).unwrap().origin(&blob).is_none());
    }
}
