//! Blobs that this machine has elsewhere, as origins that cost no network: image layouts, other stores of ours, and the
//! content stores of container engines.
//!
//! They are read, never written, and trusted no more than any other origin: what is read goes into a partial blob of our
//! own, and the digest of that decides. Not even a hard link is made, also not from another store of the same owner: a
//! link changes the time of change of the file, by which that store knows what it has verified, so it would hash the blob
//! again; and from then on a program that writes to one of the two files through an open handle would change both,
//! behind the back of the store that has verified it.

mod find;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

pub use find::Surroundings;

use crate::content::file::{FileOrigin, Folder, layout_version};
use crate::content::{Address, Origin, Source};
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, RawManifest, Reference};

/// Where containerd keeps content, below its root.
const CONTENT: &str = "io.containerd.content.v1.content";

/// A folder of this machine that keeps blobs under their digests, as `blobs/ALGORITHM/HEX`: an image layout (OCI
/// image-spec, `image-layout.md`), or a content store of containerd's.
#[derive(Debug, Clone)]
pub struct Local {
    folder: Folder,
}

impl Local {
    /// Opens the layout, the content store, or the root of containerd in `dir`.
    ///
    /// # Errors
    /// `Store` when the folder cannot be opened, `Invalid` when it is none of these, or a layout of another version than 1.
    pub fn open(dir: &Path) -> Result<Local> {
        let folder = Folder::open(dir).map_err(Error::store("open the image layout", dir))?;
        match layout_version(dir) {
            Ok(version) if version.starts_with("1.") => Ok(Local { folder }),
            Ok(version) => Err(foreign(dir, &format!("its version is {version:?}, and only 1.x is known"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let content = [dir.to_owned(), dir.join(CONTENT)].into_iter().find_map(|path| content_store(&path));
                let folder = content.ok_or_else(|| foreign(dir, &format!("its file oci-layout: {e}")))?;
                Ok(Local { folder: folder.named(&dir.display().to_string()) })
            }
            Err(e) => Err(foreign(dir, &format!("its file oci-layout: {e}"))),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// How it is called: the engine that it belongs to, or its path.
    pub fn name(&self) -> &str {
        self.folder.name()
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

/// A content store, as containerd lays it out.
fn content_store(path: &Path) -> Option<Folder> {
    let is_folder = std::fs::metadata(path.join("blobs/sha256")).is_ok_and(|meta| meta.is_dir());
    if is_folder { Folder::open(path).ok() } else { None }
}

fn foreign(dir: &Path, why: &str) -> Error {
    let why = format!(
        "not an image layout that can be read: {why}; name a folder that has oci-layout and blobs/, a content store of \
         containerd, or the root of one"
    );
    Error::Invalid { what: "image layout".into(), place: dir.display().to_string(), why }
}

/// The folders among `all` that are not `store`, each once.
pub fn beside(all: impl IntoIterator<Item = Local>, store: Option<&Path>) -> Vec<Local> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut seen: Vec<PathBuf> = store.map(real).into_iter().collect();
    let mut others: Vec<Local> = all.into_iter().collect();
    others.retain(|local| {
        let path = real(local.path());
        let is_new = !seen.contains(&path);
        seen.push(path);
        is_new
    });
    others
}

/// A source whose blobs are read from this machine where it has them.
pub struct WithLocal {
    /// What names are resolved at, manifests come from, and blobs that are nowhere here.
    pub inner: Arc<dyn Source>,
    /// Where blobs are looked for first, in this order.
    pub places: Arc<[Local]>,
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
        let local = self.places.iter().filter_map(|place| place.origin(blob));
        local.chain(self.inner.origins(blob)).collect()
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        self.inner.referrers(subject).await
    }

    fn repository(&self) -> Option<Address> {
        self.inner.repository()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::file::blob_path;

    fn layout() -> (tempfile::TempDir, Descriptor) {
        let (dir, blob) = content();
        std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        (dir, blob)
    }

    fn content() -> (tempfile::TempDir, Descriptor) {
        let dir = tempfile::tempdir().unwrap();
        let blob = Descriptor::new("application/octet-stream", Digest::of(b"hello"), 5);
        let path = dir.path().join(blob_path(&blob.digest));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"hello").unwrap();
        (dir, blob)
    }

    #[test]
    fn a_folder_that_is_no_layout_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = Local::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
        std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        assert!(Local::open(dir.path()).unwrap_err().to_string().contains("2.0.0"));
    }

    #[test]
    fn a_content_store_and_the_root_of_one_are_recognised() {
        let (dir, blob) = content();
        assert!(Local::open(dir.path()).unwrap().origin(&blob).is_some());
        let root = tempfile::tempdir().unwrap();
        std::fs::rename(dir.path(), root.path().join(CONTENT)).unwrap();
        let place = Local::open(root.path()).unwrap();
        assert!(place.origin(&blob).is_some());
        assert_eq!(place.name(), root.path().display().to_string());
        std::fs::create_dir(dir.path()).unwrap();
    }

    #[test]
    fn only_a_file_of_the_right_size_is_an_origin() {
        let (dir, blob) = layout();
        let layout = Local::open(dir.path()).unwrap();
        let origin = layout.origin(&blob).unwrap();
        assert_eq!(origin.host(), dir.path().display().to_string());
        assert_eq!(origin.provenance(), crate::content::Provenance::Local);
        assert_eq!(origin.path(), Some(dir.path().join(blob_path(&blob.digest))));
        assert!(layout.origin(&Descriptor { size: 6, ..blob.clone() }).is_none());
        assert!(layout.origin(&Descriptor { digest: Digest::of(b"other"), ..blob }).is_none());
    }

    #[test]
    fn a_blob_behind_a_link_is_no_origin() {
        let (dir, blob) = layout();
        let outside = tempfile::tempdir().unwrap();
        std::fs::rename(dir.path().join("blobs"), outside.path().join("blobs")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("blobs"), dir.path().join("blobs")).unwrap();
        assert!(Local::open(dir.path()).unwrap().origin(&blob).is_none());
    }

    #[test]
    fn the_store_itself_is_no_other_place_by_whatever_name() {
        let (dir, _) = layout();
        let link = tempfile::tempdir().unwrap().path().join("link");
        std::fs::create_dir(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let places = || [dir.path(), &link].map(|path| Local::open(path).unwrap());
        assert_eq!(beside(places(), None).len(), 1);
        assert!(beside(places(), Some(&link)).is_empty());
        std::fs::remove_dir_all(link.parent().unwrap()).unwrap();
    }
}
