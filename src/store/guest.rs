//! Writing into a layout that is no store: what we need meanwhile goes again when the last writer is done.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::layout::Paths;
use super::lock::{Mode, try_lock};
use super::{Shared, Store};
use crate::error::{Error, Result};

/// The right to write into a layout of others. When the last one goes, so does our own folder in it, unless something in
/// it is needed to go on.
#[derive(Debug)]
#[must_use = "what is written is tidied up when this goes"]
pub struct Guest {
    paths: Paths,
    /// Let go before the folder is looked at.
    shared: Option<Shared>,
}

impl Store {
    /// As [`Store::share_to_write`], for a layout that is not to become a store. One that is a store stays one.
    ///
    /// # Errors
    /// As [`Store::share_to_write`].
    pub async fn share_as_guest(&self) -> Result<Guest> {
        let paths = &self.disk.paths;
        paths.check()?;
        fs::create_dir_all(&paths.root).map_err(Error::store("create", &paths.root))?;
        match fs::create_dir(paths.own()) {
            Ok(()) => fs::write(mark(paths), b"").map_err(Error::store("write", mark(paths)))?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::store("create", paths.own())(e)),
        }
        let is_guest = mark(paths).exists();
        let shared = self.share_to_write().await?;
        // The last guest may have tidied up in between, and what was made anew is no store either.
        if is_guest && !mark(paths).exists() {
            fs::write(mark(paths), b"").map_err(Error::store("write", mark(paths)))?;
        }
        Ok(Guest { paths: paths.clone(), shared: Some(shared) })
    }
}

/// Says that our folder was made by a guest.
fn mark(paths: &Paths) -> PathBuf {
    paths.own().join("guest")
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.shared = None;
        if let Err(error) = tidy(&self.paths) {
            tracing::debug!(folder = %self.paths.own().display(), %error, "our folder stays behind");
        }
    }
}

/// Removes our folder, if a guest made it, nobody writes, and nothing is half done.
fn tidy(paths: &Paths) -> io::Result<()> {
    if !mark(paths).try_exists()? {
        return Ok(());
    }
    let Some(_alone) = try_lock(&paths.lock("store"), Mode::Exclusive)? else { return Ok(()) };
    match is_empty(&paths.partials())? && is_empty(&paths.uploads())? {
        true => fs::remove_dir_all(paths.own()),
        false => Ok(()),
    }
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Begun, Provenance, Sink};
    use crate::oci::{Descriptor, Digest};

    fn blob() -> Descriptor {
        Descriptor::new("application/octet-stream", Digest::of(b"hello"), 5)
    }

    async fn begin(store: &Store) -> Box<dyn crate::content::Ingest> {
        let Begun::Ingest(ingest) = store.begin(&blob(), &[]).await.unwrap() else { panic!("not begun") };
        ingest
    }

    #[tokio::test]
    async fn a_guest_leaves_what_the_layout_is_made_of_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (guest, other) = (store.share_as_guest().await.unwrap(), store.share_as_guest().await.unwrap());
        let ingest = begin(&store).await;
        ingest.write_at(0, "hello".into(), Provenance::Registry).await.unwrap();
        ingest.commit().await.unwrap();
        drop(ingest);
        drop(guest);
        assert!(store.disk.paths.own().exists(), "another guest still writes");
        drop(other);
        assert!(!store.disk.paths.own().exists() && store.disk.paths.blob(&blob().digest).exists());
        drop(store.share_as_guest().await.unwrap());
        assert!(!store.disk.paths.own().exists());
    }

    #[tokio::test]
    async fn what_is_half_done_stays_and_so_does_a_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let guest = store.share_as_guest().await.unwrap();
        let ingest = begin(&store).await;
        ingest.write_at(0, "he".into(), Provenance::Registry).await.unwrap();
        drop(ingest);
        drop(guest);
        let left = crate::content::Holding::Partial(2);
        assert_eq!(store.holds(&blob()).await.unwrap(), left);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        drop(store.share_to_write().await.unwrap());
        drop(store.share_as_guest().await.unwrap());
        assert!(store.disk.paths.own().exists());
    }
}
