//! What goes into an archive: images of the store, pulled first where it lacks them, less what the other side has.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::attached::{self, Along, Hanging};
use super::place::{locals, registry, with_local};
use super::recompress::Recompress;
use super::results::{Done, Pulled, Size};
use super::spool::read_small;
use super::{Context, exit};
use crate::archive::{Archive, Contents, Wanted, volumes_of};
use crate::content::file::read_bounded;
use crate::content::{Holding, Sink, Source};
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::oci::inventory::MAX_INVENTORY_SIZE;
use crate::oci::manifest::MAX_DEPTH;
use crate::oci::{Descriptor, Digest, Inventory, Manifest, RawManifest, Reference, config};
use crate::store::Store;
use crate::transfer::{Job, Platforms};

/// What is packed, and how.
pub struct Packing<'a> {
    /// The images.
    pub names: &'a [Reference],
    /// What of an index.
    pub wanted: Wanted,
    /// What hangs on them, too.
    pub referrers: Referrers,
    /// What becomes of zstd layers.
    pub layers: Layers,
}

/// Whether signatures, SBOMs and attestations are packed, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Referrers {
    /// No.
    Left,
    /// Those that are in the store, or at the registry of an image that is pulled.
    Taken,
}

/// What becomes of layers that are compressed with zstd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// They stay.
    Kept,
    /// They are compressed with gzip instead.
    Gzip,
}

/// An image that is packed.
#[derive(Debug, Clone)]
pub struct PackedImage {
    /// Its name.
    pub name: Reference,
    /// What the name points to in the archive.
    pub root: Descriptor,
    /// What it points to in the store, where that is something else.
    pub was: Option<Digest>,
}

impl PackedImage {
    /// It is in the archive.
    pub fn ended(&self) -> Pulled {
        let (name, result) = (self.name.clone(), Ok(self.root.digest.clone()));
        Pulled { name, place: None, result, done: Done::Moved, size: Size::default(), referrers: None }
    }
}

impl Packing<'_> {
    /// Finds what goes into the archive. Images that the store lacks are pulled first.
    ///
    /// # Errors
    /// Those of places; [`exit::Told`] when images could not be pulled, which is told already.
    pub async fn gather(
        &self,
        context: &Context,
        store: &Store,
        events: Events,
    ) -> anyhow::Result<(Contents, Vec<PackedImage>)> {
        let mut missing = Vec::new();
        for name in self.names {
            if !self.is_held(store, name).await? {
                missing.push(name.clone());
            }
        }
        if !missing.is_empty() {
            self.pull(context, store, &missing, events.clone()).await?;
        }
        let (mut contents, mut images) = (Contents::default(), Vec::new());
        for name in self.names {
            let image = self.add(store, name, &mut contents, &events).await?;
            images.push(image);
        }
        if self.referrers == Referrers::Taken {
            self.attach(store, &mut contents).await?;
        }
        Ok((contents, images))
    }

    /// Whether the store has all that is wanted of the image.
    async fn is_held(&self, store: &Store, name: &Reference) -> Result<bool> {
        let mut contents = Contents::default();
        match contents.add(store, name, &self.wanted).await {
            Ok(_) => {}
            Err(Error::NotFound { .. } | Error::Verification { .. }) => return Ok(false),
            Err(e) => return Err(e),
        }
        for blob in contents.blobs() {
            if store.holds(blob).await? != Holding::Whole {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn pull(&self, context: &Context, store: &Store, names: &[Reference], events: Events) -> anyhow::Result<()> {
        let registry = registry(&context.settings, events.clone());
        let transfer = context.transfer(events);
        let sink: Arc<dyn Sink> = Arc::new(store.clone());
        let there: Arc<dyn Source> = Arc::new(store.clone());
        let places = locals(&context.settings, Some(store.root()))?;
        let mut images = Vec::new();
        for name in names {
            let source = with_local(Arc::new(registry.repository(name)?), &places);
            let platforms = match &self.wanted {
                Wanted::All => Platforms::All,
                Wanted::Only(platforms) => Platforms::Only(platforms.clone()),
            };
            let hanging = match self.referrers {
                Referrers::Taken => {
                    let tags = transfer.persist(&name.name(), || registry.tags(name)).await?.into();
                    Some(Hanging { there: Some(there.clone()), tags })
                }
                Referrers::Left => None,
            };
            let job = Job { name: name.clone(), target: name.clone(), source, sink: sink.clone(), platforms };
            images.push(Along { job, hanging });
        }
        let (pulled, _) = attached::along(&transfer, &images).await?;
        told(&pulled, context)
    }

    async fn add(
        &self,
        store: &Store,
        name: &Reference,
        contents: &mut Contents,
        events: &Events,
    ) -> Result<PackedImage> {
        if self.layers == Layers::Kept {
            let held = store.resolve(name).await?;
            let root = contents.add(store, name, &self.wanted).await?;
            let was = Some(held.digest).filter(|digest| *digest != root.digest);
            return Ok(PackedImage { name: name.clone(), root, was });
        }
        let mut kept = Contents::default();
        let was = kept.add(store, name, &self.wanted).await?;
        let recompress = Recompress { store, contents: &kept, events };
        let raw = recompress.manifest(&was.digest).await?;
        let root = contents.add_manifest(store, Some(name), raw).await?;
        let was = Some(was.digest).filter(|digest| *digest != root.digest);
        Ok(PackedImage { name: name.clone(), root, was })
    }

    /// Adds what hangs on the manifests of `contents`: by their subject, and by tags made of their digests.
    async fn attach(&self, store: &Store, contents: &mut Contents) -> Result<()> {
        let mut seen: HashSet<Digest> = HashSet::new();
        for _ in 0..MAX_DEPTH {
            let all = contents.manifests().map(|raw| raw.digest.clone());
            let subjects: Vec<Digest> = all.filter(|digest| seen.insert(digest.clone())).collect();
            if subjects.is_empty() {
                return Ok(());
            }
            for subject in &subjects {
                for referrer in store.referrers(subject).await? {
                    let raw = store.manifest(&referrer).await?;
                    contents.add_manifest(store, None, raw).await?;
                }
            }
            self.add_tagged(store, &subjects, contents).await?;
        }
        let why = format!("they hang on each other more than {MAX_DEPTH} deep");
        Err(Error::Invalid { what: "referrers".into(), place: store.root().display().to_string(), why })
    }

    /// Tags that begin with the digest of a subject and a dot are cosign's.
    async fn add_tagged(&self, store: &Store, subjects: &[Digest], contents: &mut Contents) -> Result<()> {
        let repositories: BTreeSet<String> = self.names.iter().map(Reference::name).collect();
        for (name, root) in store.names().await? {
            let tag = name.tag().unwrap_or_default();
            let is_about = |subject: &Digest| tag.starts_with(&format!("{}.", subject.as_tag()));
            if repositories.contains(&name.name()) && subjects.iter().any(is_about) {
                let raw: RawManifest = store.manifest(&root).await?;
                contents.add_manifest(store, Some(&name), raw).await?;
            }
        }
        Ok(())
    }
}

/// Tells which images could not be pulled.
fn told(pulled: &[Pulled], context: &Context) -> anyhow::Result<()> {
    let failures: Vec<&Error> =
        pulled.iter().filter_map(|image| image.result.as_ref().err().map(Arc::as_ref)).collect();
    for error in &failures {
        exit::tell(error, &context.ground);
    }
    match exit::of_several(failures, pulled.len()) {
        0 => Ok(()),
        code => Err(exit::Told(code).into()),
    }
}

/// What the other side has, by its own account.
#[derive(Debug, Default)]
pub struct OtherSide<'a> {
    /// Inventories of one site: all of them together.
    pub have: &'a [PathBuf],
    /// Inventories of several sites: what is in every one.
    pub have_each: &'a [PathBuf],
    /// Archives that were imported there.
    pub base: &'a [PathBuf],
}

/// What may be left out.
#[derive(Debug, Default)]
pub struct Has {
    blobs: BTreeSet<Digest>,
    chains: BTreeSet<Digest>,
}

impl OtherSide<'_> {
    /// What may be left out.
    ///
    /// # Errors
    /// `Store` and `Invalid` when a file cannot be read, or is something else.
    pub fn has(&self) -> Result<Has> {
        let mut has = Inventory::default();
        for path in self.have {
            has = has.with(inventory(path)?);
        }
        let mut each = self.have_each.iter().map(|path| inventory(path));
        if let Some(first) = each.next() {
            let common = each.try_fold(first?, |common, other| Ok::<_, Error>(common.common(&other?)))?;
            has = has.with(common);
        }
        for volumes in volumes_of(self.base)? {
            let archive = Archive::open(&volumes)?;
            has.blobs.extend(archive.held()?);
            has.blobs.extend(archive.presumed().iter().map(|presumed| presumed.digest.clone()));
        }
        Ok(Has { blobs: has.blobs, chains: has.chains })
    }
}

impl Has {
    /// What of `contents` is left out: blobs that the other side has, and layers that it knows wherever they stand.
    ///
    /// # Errors
    /// `Invalid`, `Store` when a configuration cannot be read.
    pub async fn of(self, contents: &Contents, store: &Store) -> Result<BTreeSet<Digest>> {
        let (mut known, mut needed) = (BTreeSet::new(), BTreeSet::new());
        let images = contents.manifests().filter(|_| !self.chains.is_empty()).filter_map(|raw| raw.parse().ok());
        for manifest in images {
            let Manifest::Image(image) = manifest else { continue };
            let diff_ids = match image.config.media_type.is_config() {
                true => config::diff_ids(&read_small(store, &image.config.digest).await?).unwrap_or_default(),
                false => Vec::new(),
            };
            let chains = config::chain_ids(&diff_ids).into_iter().map(Some).chain(std::iter::repeat(None));
            for (layer, chain) in image.layers.iter().zip(chains) {
                let is_known = chain.is_some_and(|chain| self.chains.contains(&chain));
                if is_known { &mut known } else { &mut needed }.insert(layer.digest.clone());
            }
        }
        Ok(self.blobs.into_iter().chain(known.into_iter().filter(|layer| !needed.contains(layer))).collect())
    }
}

fn inventory(path: &Path) -> Result<Inventory> {
    let bytes = read_bounded(path, MAX_INVENTORY_SIZE).map_err(Error::store("read the inventory", path))?;
    Inventory::parse(&bytes).map_err(|e| {
        let (what, place) = ("inventory".into(), path.display().to_string());
        Error::Invalid { what, place, why: e.to_string() }
    })
}

/// Warns of what old engines do not take.
pub fn warn_of_zstd(contents: &Contents, events: &Events) {
    match contents.zstd_layers() {
        0 => {}
        count => {
            let text = format!(
                "{count} layers are compressed with zstd, which docker 20.10 does not load; --layers gzip changes that"
            );
            events.on(&Event::Warning { text });
        }
    }
}
