//! Removes what no name needs. Nothing that is shared, locked or young goes.

use std::collections::{BTreeMap, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::graph::{Follow, walk};
use super::index::IndexFile;
use super::layout::remove;
use super::lock::{self, Mode, Passing};
use super::{Disk, Store, off};
use crate::content::file::Folder;
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest};

/// What is collected, and how.
#[derive(Debug, Clone, Copy)]
pub struct Collect {
    /// What stays though no name needs it.
    pub spare: Spare,
    /// Whether anything is removed.
    pub effect: Effect,
    /// How long other processes that use the store are waited for.
    pub patience: Duration,
}

/// What stays though no name needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spare {
    /// Blobs that came, and partial ones that grew, within this time: somebody may go on with them.
    Younger(Duration),
    /// Nothing.
    Nothing,
}

/// Whether anything is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Remove it.
    Remove,
    /// Only say what would be.
    Preview,
}

impl Default for Collect {
    /// Spares what is younger than a day, removes the rest, and waits for a minute.
    fn default() -> Collect {
        Collect {
            spare: Spare::Younger(Duration::from_secs(24 * 60 * 60)),
            effect: Effect::Remove,
            patience: Duration::from_secs(60),
        }
    }
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Verified blobs, with their sizes in bytes.
    pub blobs: Vec<(Digest, u64)>,
    /// Partial blobs, with the bytes that they took on the disk.
    pub partials: Vec<(Digest, u64)>,
    /// Uploads that were begun and not ended, with the bytes that they took on the disk.
    pub uploads: Vec<(String, u64)>,
    /// Bytes freed on the disk, all together.
    pub freed: u64,
    /// Bytes that no name needs, but that are spared.
    pub spared: u64,
}

impl Store {
    /// Removes what no name needs: blobs that are no part of an image, and partial blobs that nobody writes.
    ///
    /// # Errors
    /// `Store` when other processes use the store for longer than the stated patience; `Invalid` and `Verification`
    /// when a name or a manifest cannot be read, because then nobody knows what it needs; `Interrupted`.
    pub async fn collect(&self, how: Collect) -> Result<Collected> {
        let Some(folder) = self.disk.folder()? else { return Ok(Collected::default()) };
        self.disk.create()?;
        let wait = self.waiting("other processes that use the store", how.patience);
        let alone = lock::lock(&self.disk.paths.lock("store"), Mode::Exclusive, wait).await?;
        let disk = self.disk.clone();
        off(move || {
            let _alone = alone;
            Sweep { kept: disk.needed(&folder)?, disk, how, now: SystemTime::now() }.run()
        })
        .await
    }
}

impl Disk {
    /// Everything that a name needs, with the referrers of it.
    fn needed(&self, folder: &Folder) -> Result<HashSet<Digest>> {
        let index = IndexFile::read(&self.paths)?;
        let entries = index.entries();
        if entries.len() != index.len() {
            return Err(Error::Invalid {
                what: "image index of the store".into(),
                place: self.paths.index().display().to_string(),
                why: "an entry cannot be understood, so nobody knows what it needs; remove it, then collect".into(),
            });
        }
        let mut kept = HashSet::new();
        for entry in entries {
            if let Some(platforms) = entry.platforms() {
                keep(folder, &entry.descriptor, Follow::Platforms(&platforms), &mut kept)?;
            }
            keep(folder, &entry.descriptor, Follow::Present, &mut kept)?;
        }
        self.keep_referrers(folder, &mut kept)?;
        Ok(kept)
    }

    fn keep_referrers(&self, folder: &Folder, kept: &mut HashSet<Digest>) -> Result<()> {
        let mut left = self.referrers(folder)?;
        loop {
            let (stay, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(|r| kept.contains(&r.subject));
            if stay.is_empty() {
                return Ok(());
            }
            for referrer in stay {
                keep(folder, &referrer.descriptor, Follow::Present, kept)?;
            }
            left = rest;
        }
    }
}

fn keep(folder: &Folder, root: &Descriptor, follow: Follow<'_>, kept: &mut HashSet<Digest>) -> Result<()> {
    let graph = walk(folder, root, follow);
    if !root.media_type.is_manifest() {
        kept.insert(root.digest.clone());
        return Ok(());
    }
    if let Some((_, error)) = graph.unread.into_iter().next() {
        return Err(error);
    }
    kept.extend(graph.manifests.iter().map(|(node, _)| node.digest.clone()));
    kept.extend(graph.blobs.iter().map(|node| node.digest.clone()));
    match kept.contains(&root.digest) {
        true => Ok(()),
        false => Err(Error::NotFound {
            what: root.digest.to_string(),
            place: folder.path().display().to_string(),
            why: "a name points to it, and without it nobody knows what it needs; repair it by `verify --repair` or \
                  remove the name"
                .into(),
        }),
    }
}

/// One collection, with the store locked.
struct Sweep {
    disk: Arc<Disk>,
    how: Collect,
    kept: HashSet<Digest>,
    now: SystemTime,
}

impl Sweep {
    fn run(self) -> Result<Collected> {
        let mut result = Collected::default();
        self.blobs(&mut result)?;
        self.partials(&mut result)?;
        self.uploads(&mut result)?;
        if self.how.effect == Effect::Remove {
            self.temporaries()?;
            let here: HashSet<_> = self.disk.blobs()?.into_iter().map(|(digest, _)| digest).collect();
            self.disk.verified.shorten(&self.disk.paths, |digest| here.contains(digest))?;
        }
        Ok(result)
    }

    fn blobs(&self, result: &mut Collected) -> Result<()> {
        for (digest, meta) in self.disk.blobs()? {
            if self.kept.contains(&digest) {
                continue;
            }
            if self.spares(&meta) {
                result.spared += meta.len();
                continue;
            }
            if self.how.effect == Effect::Remove {
                self.remove(&self.disk.paths.blob(&digest))?;
            }
            result.freed += meta.len();
            result.blobs.push((digest, meta.len()));
        }
        Ok(())
    }

    fn partials(&self, result: &mut Collected) -> Result<()> {
        for (digest, files) in self.partial_files()? {
            let lock = self.disk.paths.partial_lock(&digest);
            // Taking it also removes one that a killed process left.
            let Some(_lock) = Passing::take(lock.clone()).map_err(Error::store("lock", lock))? else { continue };
            let metas: Vec<_> = files.iter().filter_map(|path| std::fs::symlink_metadata(path).ok()).collect();
            if metas.is_empty() {
                continue;
            }
            let bytes: u64 = metas.iter().map(|meta| meta.blocks() * 512).sum();
            if metas.iter().any(|meta| self.spares(meta)) {
                result.spared += bytes;
                continue;
            }
            if self.how.effect == Effect::Remove {
                files.iter().try_for_each(|path| self.remove(path))?;
            }
            result.freed += bytes;
            result.partials.push((digest, bytes));
        }
        Ok(())
    }

    fn uploads(&self, result: &mut Collected) -> Result<()> {
        for (id, meta) in self.disk.uploads()? {
            let bytes = meta.blocks() * 512;
            if self.spares(&meta) {
                result.spared += bytes;
                continue;
            }
            if self.how.effect == Effect::Remove && !self.disk.drop_upload(&id)? {
                continue;
            }
            result.freed += bytes;
            result.uploads.push((id, bytes));
        }
        Ok(())
    }

    /// The data and journals of the partial blobs, by digest; there may be some of several sizes.
    fn partial_files(&self) -> Result<BTreeMap<Digest, Vec<PathBuf>>> {
        let folder = self.disk.paths.partials();
        let mut files: BTreeMap<Digest, Vec<PathBuf>> = BTreeMap::new();
        for entry in std::fs::read_dir(&folder).map_err(Error::store("list", &folder))? {
            let path = entry.map_err(Error::store("list", &folder))?.path();
            let Some(digest) = partial_digest(&path) else { continue };
            let files = files.entry(digest).or_default();
            if path.extension().is_none_or(|extension| extension != "lock") {
                files.push(path);
            }
        }
        Ok(files)
    }

    /// Files that a killed process was about to put in place. Nobody else is at it: the store is locked.
    fn temporaries(&self) -> Result<()> {
        let folder = self.disk.paths.temporary();
        for entry in std::fs::read_dir(&folder).map_err(Error::store("list", &folder))? {
            let entry = entry.map_err(Error::store("list", &folder))?;
            if entry.metadata().is_ok_and(|meta| meta.is_file()) {
                self.remove(&entry.path())?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        remove(path).map_err(Error::store("remove", path))
    }

    fn spares(&self, meta: &Metadata) -> bool {
        let Spare::Younger(age) = self.how.spare else { return false };
        // The time of change, too: blobs are set back when they are committed, and copies keep the time of their origin.
        let latest = meta.mtime().max(meta.ctime()).max(0) as u64;
        let now = self.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        now.saturating_sub(latest) < age.as_secs()
    }
}

/// The digest in the name of a file of a partial blob: `ALGORITHM-HEX`, and for data and journals `-SIZE`.
fn partial_digest(path: &Path) -> Option<Digest> {
    let stem = path.file_name()?.to_str()?.split('.').next()?;
    let mut parts = stem.split('-');
    format!("{}:{}", parts.next()?, parts.next()?).parse().ok()
}
