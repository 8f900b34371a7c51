//! The store as a place to write to.

use async_trait::async_trait;

use super::graph::{Follow, read_manifest, walk};
use super::index::{Claim, IndexFile, Written, kept_name};
use super::lock::Passing;
use super::partial::Partial;
use super::stretches::without_overlap;
use super::{MAX_OUTRUN, Store, journal};
use crate::content::{Begun, Holding, Root, Sink};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::oci::{Algorithm, Descriptor, Digest, Manifest, Platform, RawManifest, Reference};

#[async_trait]
impl Sink for Store {
    fn place(&self) -> String {
        self.root().display().to_string()
    }

    async fn holds(&self, blob: &Descriptor) -> Result<Holding> {
        if self.whole(blob).await? {
            return Ok(Holding::Whole);
        }
        match self.partly(blob)? {
            0 => Ok(Holding::Missing),
            bytes => Ok(Holding::Partial(bytes)),
        }
    }

    async fn held_manifest(&self, digest: &Digest) -> Result<Option<RawManifest>> {
        let Some(folder) = self.disk.folder()? else { return Ok(None) };
        match read_manifest(&folder, digest, None) {
            Ok(raw) => Ok(Some(raw)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e @ (Error::Verification { .. } | Error::Invalid { .. })) => {
                self.events.on(&Event::Warning { text: e.to_string() });
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    async fn tagged(&self, name: &Reference) -> Result<Option<Root>> {
        let entries = IndexFile::read(&self.disk.paths)?.named(&kept_name(name));
        Ok(entries.first().map(|entry| Root { platforms: entry.platforms(), descriptor: entry.bare() }))
    }

    async fn begin(&self, blob: &Descriptor, _: &[String]) -> Result<Begun> {
        self.disk.create()?;
        self.disk.paths.create_blobs(blob.digest.algorithm())?;
        let path = self.disk.paths.partial_lock(&blob.digest);
        let Some(lock) = Passing::take(path.clone()).map_err(Error::store("lock", path))? else {
            return Ok(Begun::Busy);
        };
        if self.whole(blob).await? {
            return Ok(Begun::Held);
        }
        Ok(Begun::Ingest(Box::new(Partial::open(&self.disk, blob, lock)?)))
    }

    async fn put_manifest(&self, manifest: &RawManifest) -> Result<()> {
        let descriptor = manifest.descriptor();
        if !manifest.digest.matches(&manifest.bytes) {
            let found = crate::oci::Digest::of(&manifest.bytes);
            return Err(Error::digest_mismatch(self.place(), &descriptor, &found));
        }
        self.disk.create()?;
        if let Some(folder) = self.disk.folder()?
            && read_manifest(&folder, &descriptor.digest, None).is_ok()
        {
            return Ok(());
        }
        let (disk, bytes) = (self.disk.clone(), manifest.bytes.clone());
        super::off(move || {
            let target = disk.paths.blob(&descriptor.digest);
            disk.paths.create_blobs(descriptor.digest.algorithm())?;
            disk.paths.write_durably(&target, &bytes)
        })
        .await
    }

    async fn tag(&self, name: &Reference, root: &Root) -> Result<()> {
        self.require_durably(root).await?;
        let name = kept_name(name);
        // What the name held before is examined without the lock, because it may have to be hashed: then it must still
        // be what the name holds, or another process that added a platform meanwhile would lose it.
        for _ in 0..MAX_OUTRUN {
            let former = IndexFile::read(&self.disk.paths)?.claim(&name, &root.descriptor.digest);
            let platforms = self.with_former(former.as_ref(), root).await?;
            let (name, root) = (name.clone(), Root { platforms, ..root.clone() });
            let point = move |index: &mut IndexFile| index.point_from(&former, &name, &root);
            if self.change_index(point).await? == Written::Done {
                return Ok(());
            }
        }
        Err(self.disk.outrun())
    }
}

impl Store {
    /// How many bytes of a blob a former run left.
    fn partly(&self, blob: &Descriptor) -> Result<u64> {
        let data = self.disk.paths.partial(blob, "data");
        let Ok(meta) = std::fs::symlink_metadata(&data) else { return Ok(0) };
        let path = self.disk.paths.partial(blob, "journal");
        let slots = journal::peek(&path, blob.size).map_err(Error::store("read the journal", &path))?;
        let surviving = slots.into_iter().filter_map(|slot| slot.surviving(self.disk.boot, meta.len(), blob.size));
        Ok(without_overlap((0..).zip(surviving).collect()).iter().map(|(_, slot)| slot.len).sum())
    }

    /// Fails unless everything that a manifest names is here: blobs, and manifests with all that is below them.
    ///
    /// # Errors
    /// `NotFound` with the first that is missing; `Invalid` when one has another size than it states.
    pub async fn require_children(&self, manifest: &Manifest) -> Result<()> {
        let children: Vec<&Descriptor> = match manifest {
            Manifest::Image(image) => image.blobs().collect(),
            Manifest::Index(index) => index.manifests.iter().collect(),
        };
        for child in children {
            if matches!(manifest, Manifest::Index(_)) && child.media_type.is_manifest() {
                self.require(&Root { descriptor: child.clone(), platforms: None }).await?;
            } else if !self.whole(child).await? {
                return Err(self.not_found(&child.digest));
            }
        }
        Ok(())
    }

    /// As [`Store::require`], and what is here survives a loss of power.
    pub(super) async fn require_durably(&self, root: &Root) -> Result<()> {
        self.require(root).await?;
        // What another process put in place a moment ago, or one that was killed then, may not be durable yet.
        let (disk, algorithms) = (self.disk.clone(), [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512]);
        super::off(move || {
            algorithms.into_iter().try_for_each(|algorithm| disk.sync_blobs(algorithm))?;
            disk.paths.sync_above_blobs()
        })
        .await
    }

    /// Fails unless everything below `root` that it claims is here: a name never points to half an image.
    async fn require(&self, root: &Root) -> Result<()> {
        let folder = self.disk.folder()?.ok_or_else(|| self.not_found(&root.descriptor.digest))?;
        let graph = walk(&folder, &root.descriptor, Follow::of(root.platforms.as_deref()));
        if let Some((_, error)) = graph.unread.into_iter().next() {
            return Err(error);
        }
        for blob in &graph.blobs {
            if !self.whole(blob).await? {
                return Err(self.not_found(&blob.digest));
            }
        }
        Ok(())
    }

    /// The platforms of `root`, and those that the same name held of the same index before and that are still whole.
    async fn with_former(&self, former: Option<&Claim>, root: &Root) -> Result<Option<Vec<Platform>>> {
        let (Some(taken), Some(former)) = (root.platforms.clone(), former) else { return Ok(root.platforms.clone()) };
        let is_whole = |platforms| async move { self.require(&Root { platforms, ..root.clone() }).await.is_ok() };
        let Some(held) = former.platforms.clone() else {
            return Ok(if is_whole(None).await { None } else { Some(taken) });
        };
        let mut all = taken;
        for platform in held {
            if !all.contains(&platform) && is_whole(Some(vec![platform.clone()])).await {
                all.push(platform);
            }
        }
        all.sort();
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Provenance;
    use bytes::Bytes;

    #[tokio::test]
    async fn a_blob_that_was_sealed_but_never_put_in_its_place_goes_on() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let blob = Descriptor::new("application/octet-stream", Digest::of(b"0123456789"), 10);
        let store = Store::open(dir.path()).unwrap();
        let Begun::Ingest(ingest) = store.begin(&blob, &[]).await.unwrap() else { panic!("not begun") };
        ingest.write_at(0, Bytes::from_static(b"0123456789"), Provenance::Registry).await.unwrap();
        drop(ingest);
        let data = store.disk.paths.partial(&blob, "data");
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o444)).unwrap();
        let Begun::Ingest(ingest) = store.begin(&blob, &[]).await.unwrap() else { panic!("not begun") };
        // Also root, whom no mode stops, sees whether it was made writable for everybody else.
        assert_eq!(data.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        ingest.commit().await.unwrap();
        assert_eq!(store.holds(&blob).await.unwrap(), Holding::Whole);
    }

    #[tokio::test]
    async fn what_a_reboot_may_have_lost_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let blob = Descriptor::new("application/octet-stream", Digest::of(b"0123456789"), 10);
        let store = Store::open(dir.path()).unwrap();
        let Begun::Ingest(ingest) = store.begin(&blob, &[]).await.unwrap() else { panic!("not begun") };
        ingest.write_at(0, Bytes::from_static(b"0123"), Provenance::Registry).await.unwrap();
        ingest.save().await.unwrap();
        ingest.write_at(4, Bytes::from_static(b"45"), Provenance::Registry).await.unwrap();
        drop(ingest);
        assert_eq!(store.holds(&blob).await.unwrap(), Holding::Partial(6));
        let mut store = Store::open(dir.path()).unwrap();
        std::sync::Arc::get_mut(&mut store.disk).unwrap().boot ^= 1;
        assert_eq!(store.holds(&blob).await.unwrap(), Holding::Partial(4));
        let Begun::Ingest(ingest) = store.begin(&blob, &[]).await.unwrap() else { panic!("not begun") };
        assert_eq!(ingest.stretches()[0].range, 0..4);
        drop(ingest);
    }
}
