//! An archive that comes in order, on its way into the store: every blob is hashed as it comes, and gets its name when it
//! is whole. No name of an image changes here.

use bytes::Bytes;
use futures::TryStreamExt as _;

use crate::archive::{Archive, Entry, Fate, Presumed, Seen, Sequential};
use crate::content::{Holding, Provenance, Sink, Source, verified};
use crate::error::{Error, Result};
use crate::event::{Arrival, Event};
use crate::oci::config::MAX_CONFIG_SIZE;
use crate::oci::{Descriptor, Digest};
use crate::store::{Receiving, Store};
use crate::transfer::Transfer;

/// How many bytes of a file tell how it is compressed.
const MAGIC: usize = 6;
/// What is put into the store before anybody says what it is.
const UNKNOWN: &str = "application/octet-stream";

/// An archive that came by.
pub struct Spooled {
    /// What was in it.
    pub archive: Archive,
    /// Bytes of blobs that the store did not have.
    pub written: u64,
}

/// Takes every blob of an archive into `store`.
///
/// # Errors
/// `Invalid`, `Verification` for damage and hostility: what was verified before stays. `NotFound` when the archive leaves
/// out what the store lacks, before anything is written.
pub async fn spool(mut from: Sequential, store: &Store, transfer: &Transfer) -> Result<Spooled> {
    let place = from.place().to_owned();
    let mut spool = Spool { store, transfer, seen: Seen::default(), written: 0 };
    while let Some(entry) = spool.unless_cancelled(from.next()).await? {
        spool.take(&entry, &mut from).await?;
    }
    for (path, digest) in spool.seen.strayed(&place)? {
        let bytes = read_small(store, &digest).await?;
        spool.seen.give(&path, bytes);
    }
    Ok(Spooled { archive: Archive::passed(&place, &spool.seen)?, written: spool.written })
}

/// What is in an archive, without taking anything.
///
/// # Errors
/// As [`spool`].
pub async fn names(mut from: Sequential) -> Result<Vec<(Option<String>, Option<Digest>)>> {
    let place = from.place().to_owned();
    let mut seen = Seen::default();
    while let Some(entry) = from.next().await? {
        if seen.fate(&entry, &place)? == Fate::Keep {
            let bytes = from.whole().await?;
            seen.keep(&entry.name, bytes, &place)?;
        }
    }
    seen.names(&place)
}

struct Spool<'a> {
    store: &'a Store,
    transfer: &'a Transfer,
    seen: Seen,
    written: u64,
}

impl Spool<'_> {
    async fn take(&mut self, entry: &Entry, from: &mut Sequential) -> Result<()> {
        let place = from.place().to_owned();
        match self.seen.fate(entry, &place)? {
            Fate::Pass => Ok(()),
            Fate::Keep => {
                let bytes = self.unless_cancelled(from.whole()).await?;
                let presumed = self.seen.keep(&entry.name, bytes, &place)?;
                require(self.store, &presumed, &place).await
            }
            Fate::Blob(digest) => self.blob(entry, digest, from).await,
            Fate::Layer => self.layer(entry, from).await,
        }
    }

    /// A file that is named by its digest: one that the store has is passed over.
    async fn blob(&mut self, entry: &Entry, digest: Digest, from: &mut Sequential) -> Result<()> {
        let blob = Descriptor::new(UNKNOWN, digest, entry.size);
        if self.store.holds(&blob).await? == Holding::Whole {
            self.seen.went_on(&entry.name, blob.digest, entry.size, &[]);
            return Ok(());
        }
        let (receiving, magic) = self.received(&blob, from).await?;
        receiving.settle(&blob.digest).await.map_err(|error| from_archive(error, from.place()))?;
        self.transfer.events.on(&Event::Finished { blob: blob.digest.clone(), how: Arrival::Transferred });
        self.seen.went_on(&entry.name, blob.digest, entry.size, &magic);
        Ok(())
    }

    /// A file whose digest nobody knows before it is read.
    async fn layer(&mut self, entry: &Entry, from: &mut Sequential) -> Result<()> {
        let unnamed = Digest::of(entry.name.as_bytes());
        let shown = Descriptor::new(UNKNOWN, unnamed.clone(), entry.size);
        let (receiving, magic) = self.received(&shown, from).await?;
        let blob = receiving.commit(None).await?;
        self.transfer.events.on(&Event::Finished { blob: unnamed, how: Arrival::Transferred });
        self.seen.went_on(&entry.name, blob.digest, blob.size, &magic);
        Ok(())
    }

    /// The bytes of a file, shown as `shown`, with the first of them. Of a file that cannot be had whole nothing stays: an
    /// archive that comes again begins anew.
    async fn received(&mut self, shown: &Descriptor, from: &mut Sequential) -> Result<(Receiving, Vec<u8>)> {
        self.transfer.events.on(&Event::Found { blob: shown.clone() });
        self.transfer.events.on(&Event::Started { blob: shown.digest.clone(), resumed: 0 });
        let mut receiving = self.store.receive().await?;
        match self.fill(&mut receiving, &shown.digest, from).await {
            Ok(magic) => Ok((receiving, magic)),
            Err(error) => {
                receiving.discard().await?;
                Err(error)
            }
        }
    }

    async fn fill(&mut self, receiving: &mut Receiving, shown: &Digest, from: &mut Sequential) -> Result<Vec<u8>> {
        let mut magic = Vec::new();
        while let Some(bytes) = self.unless_cancelled(from.bytes()).await? {
            self.count(shown, &bytes, &mut magic);
            receiving.write(bytes).await?;
        }
        Ok(magic)
    }

    /// A pipe may never give anything more.
    async fn unless_cancelled<T>(&self, coming: impl Future<Output = Result<T>>) -> Result<T> {
        self.transfer.cancel.run_until_cancelled(coming).await.unwrap_or(Err(Error::Interrupted))
    }

    fn count(&mut self, blob: &Digest, bytes: &Bytes, magic: &mut Vec<u8>) {
        magic.extend(bytes.iter().take(MAGIC - magic.len().min(MAGIC)));
        let count = bytes.len() as u64;
        self.written += count;
        self.transfer.events.on(&Event::Bytes { blob: blob.clone(), count, provenance: Provenance::Local });
    }
}

/// The bytes of a configuration in the store.
///
/// # Errors
/// `NotFound`, `Verification`, `Store`; `Invalid` when it is larger than any.
pub async fn read_small(store: &Store, digest: &Digest) -> Result<Bytes> {
    let blob = store.resolve_blob(digest)?;
    if blob.size > MAX_CONFIG_SIZE {
        let why = format!("a configuration of {} bytes, more than {MAX_CONFIG_SIZE}", blob.size);
        return Err(Error::Invalid { what: digest.to_string(), place: Source::place(store), why });
    }
    let origins = store.origins(&blob);
    let Some(origin) = origins.first().filter(|_| blob.size > 0) else { return Ok(Bytes::new()) };
    let bytes = verified(origin.open(0..blob.size).await?.bytes, blob, Source::place(store));
    Ok(bytes.try_collect::<Vec<_>>().await?.concat().into())
}

/// The bytes came out of the archive, and the store is not to blame.
fn from_archive(error: Error, place: &str) -> Error {
    match error {
        Error::Verification { what, why, .. } => {
            let why = format!("{why}; carry the archive here again, what was verified is kept");
            Error::Verification { what, place: place.into(), why }
        }
        other => other,
    }
}

/// Fails when `store` lacks something that an archive leaves out.
///
/// # Errors
/// `NotFound` naming what is missing.
pub async fn require(store: &Store, presumed: &[Presumed], place: &str) -> Result<()> {
    const SHOWN: usize = 20;
    let mut missing = Vec::new();
    for Presumed { digest, size } in presumed {
        let blob = Descriptor::new(UNKNOWN, digest.clone(), *size);
        if store.holds(&blob).await? != Holding::Whole {
            missing.push(digest.to_string());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let more = missing.len().saturating_sub(SHOWN);
    let count = missing.len();
    missing.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Error::NotFound {
        what: format!("{count} blobs that {place} leaves out"),
        place: store.root().display().to_string(),
        why: format!(
            "{}{more}; import the archive that has them first, or export again for what `layerpull inventory` lists here",
            missing.join(", ")
        ),
    })
}
