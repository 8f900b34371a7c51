//! Places that content comes from and goes to.
//!
//! An image is a graph of descriptors, and every command copies the missing part of such a graph from a [`Source`]
//! to a [`Sink`]. A blob travels as ranges: each range is read from an [`Origin`] and written into an [`Ingest`].

pub mod file;
mod verified;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use verified::verified;

use crate::error::Result;
use crate::oci::{Descriptor, Digest, Platform, RawManifest, Reference};

/// A place to read from, bound to one repository, store or archive.
///
/// Every method makes one attempt; patience and repetition live in [`crate::transfer`].
#[async_trait]
pub trait Source: Send + Sync {
    /// How the place is named in messages: a host and repository, a path.
    fn place(&self) -> String;

    /// Finds what `name` points to: its digest if it has one, else its tag. Costs a HEAD where that suffices.
    ///
    /// # Errors
    /// `NotFound`, `Unauthorized`, or transient ones.
    async fn resolve(&self, name: &Reference) -> Result<Descriptor>;

    /// Reads a manifest; its digest is verified. A manifest that [`resolve`](Source::resolve) had to read is not asked for again.
    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest>;

    /// Where the bytes of a blob can be read, the preferred one first. Asks nobody.
    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>>;

    /// The manifests that name `subject` as theirs (signatures, SBOMs). Empty where there are none.
    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>>;

    /// The repository, if this is one.
    fn repository(&self) -> Option<Address> {
        None
    }
}

/// A repository of a registry. Blobs can be mounted from one into another of the same registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// The registry, as references name it.
    pub registry: String,
    /// The repository at it.
    pub repository: String,
}

/// What kind of place bytes came from: how much they are trusted before the digest of the whole blob agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Provenance {
    /// The registry that the reference names.
    Registry,
    /// A mirror of it.
    Mirror,
    /// An address out of a descriptor's `urls`.
    Foreign,
    /// A file on this machine.
    Local,
}

/// One blob at one host: something that ranges of bytes can be read from.
#[async_trait]
pub trait Origin: Send + Sync + fmt::Debug {
    /// The host, under which connections and rates are counted. For local files the path of their store.
    fn host(&self) -> &str;

    /// How much its bytes are trusted.
    fn provenance(&self) -> Provenance;

    /// The file that it is, if it is one on this machine.
    fn path(&self) -> Option<PathBuf> {
        None
    }

    /// Opens the bytes of `range` (never empty). One attempt; the answer's head has come when this returns.
    ///
    /// The body says which bytes it really holds: a server may ignore the range and begin at zero.
    async fn open(&self, range: Range<u64>) -> Result<Body>;

    /// Its host lied or cannot be reached: sources name it no more where they can name another.
    fn leave(&self) {}
}

/// A body on its way.
pub struct Body {
    /// Offset in the blob of the first byte that will come.
    pub start: u64,
    /// Offset behind the last byte that will come, if the server said so.
    pub end: Option<u64>,
    /// Whether it holds what was asked for.
    pub extent: Extent,
    /// The bytes, in pieces of bounded size.
    pub bytes: BoxStream<'static, Result<Bytes>>,
}

/// What a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What was asked for, or the beginning of it.
    Range,
    /// All of the blob, though a range of it was asked for: the server does not honour ranges.
    Everything,
}

/// What a sink has of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// Nothing.
    Missing,
    /// This many bytes, of a former run that did not end.
    Partial(u64),
    /// All of it, verified.
    Whole,
}

/// A place to write to.
///
/// Every method makes one attempt; patience and repetition live in [`crate::transfer`].
#[async_trait]
pub trait Sink: Send + Sync {
    /// How the place is named in messages.
    fn place(&self) -> String;

    /// What it has of a blob.
    async fn holds(&self, blob: &Descriptor) -> Result<Holding>;

    /// The manifest, if the place holds it and reading it is cheaper than asking the source.
    async fn held_manifest(&self, digest: &Digest) -> Result<Option<RawManifest>>;

    /// What `name` points to here now.
    async fn tagged(&self, name: &Reference) -> Result<Option<Root>>;

    /// The repository, if this is one. What a tag of it points to is then there with everything below it: registries take
    /// no manifest without its children.
    fn repository(&self) -> Option<Address> {
        None
    }

    /// Repositories of the same registry that are known to have a blob, from former runs. Asks nobody.
    fn mounts(&self, _blob: &Digest) -> Vec<String> {
        Vec::new()
    }

    /// Begins to take a blob. `mounts` are repositories of the same registry that may have it; what none of them can give
    /// is looked for once more before an upload begins.
    async fn begin(&self, blob: &Descriptor, mounts: &[String]) -> Result<Begun>;

    /// Takes a manifest whose children are all there.
    async fn put_manifest(&self, manifest: &RawManifest) -> Result<()>;

    /// Makes `name` point to `root`. The last thing that happens to an image.
    async fn tag(&self, name: &Reference, root: &Root) -> Result<()>;
}

/// What a tag points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The manifest or index, verbatim.
    pub descriptor: Descriptor,
    /// `None`: everything below it is taken. Else the platforms of the index that are.
    pub platforms: Option<Vec<Platform>>,
}

/// How a blob's way into a sink begins.
pub enum Begun {
    /// Nothing to do: it is there now.
    Held,
    /// The sink took it from one of the mount candidates.
    Mounted {
        /// The repository it was mounted from.
        from: String,
    },
    /// Another process is writing it: try again a little later, and then it is probably there.
    Busy,
    /// Write it, at any offset.
    Ingest(Box<dyn Ingest>),
    /// Write it, in order.
    Upload(Box<dyn Upload>),
}

/// A run of bytes that an [`Ingest`] holds already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Which bytes of the blob.
    pub range: Range<u64>,
    /// Where they came from.
    pub provenance: Provenance,
}

/// One blob on its way into a sink that takes bytes at any offset. Dropping it keeps what is needed to go on in another
/// process.
#[async_trait]
pub trait Ingest: Send + Sync {
    /// What it holds already, sorted and without overlap: a hint until the digest of the whole blob agrees.
    fn stretches(&self) -> Vec<Stretch>;

    /// Takes bytes that belong at `offset`. Callers never write the same offset from two places at once.
    async fn write_at(&self, offset: u64, bytes: Bytes, provenance: Provenance) -> Result<()>;

    /// Reads back up to `buffer.len()` bytes at `offset` and returns how many.
    async fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// The stretches whose bytes are not what was written: the disk or another program changed them.
    async fn spoiled(&self) -> Result<Vec<Range<u64>>>;

    /// Forgets these bytes: they are missing again.
    async fn discard(&self, ranges: &[Range<u64>]) -> Result<()>;

    /// Makes everything durable that is needed to go on in another process.
    async fn save(&self) -> Result<()>;

    /// Makes the blob visible under its digest. The caller has verified every byte, and calls nothing after this.
    async fn commit(&self) -> Result<()>;
}

/// One blob on its way into a sink that takes bytes in order only, and hashes them on their way.
///
/// Dropping it keeps what [`save`](Upload::save) remembered. Every method makes one attempt. After a failure of `write` or
/// `commit`, nothing but [`resume`](Upload::resume) may be called.
#[async_trait]
pub trait Upload: Send + Sync {
    /// Offset of the next byte that it takes. Not 0 at first when it goes on with what a former process sent.
    fn offset(&self) -> u64;

    /// Takes the bytes at [`offset`](Upload::offset). Waits while the place is slower than the caller: what it holds in
    /// memory is bounded.
    ///
    /// # Errors
    /// Transient ones when the place must be asked where it stands.
    async fn write(&self, bytes: Bytes) -> Result<()>;

    /// Asks the place where it stands and goes on from there, or begins anew; [`offset`](Upload::offset) may be smaller
    /// afterwards, where what is lost cannot be sent again out of memory.
    async fn resume(&self) -> Result<Standing>;

    /// Ends the request on its way so that nothing that was sent is lost, if the place can do that, and remembers what
    /// another process needs to go on.
    async fn save(&self) -> Result<()>;

    /// Ends the blob, of which every byte was written. Nothing becomes visible unless the digest of what was written agrees.
    ///
    /// # Errors
    /// `Verification` when it does not agree: then the upload begins anew at 0, and asks for a resume like any other.
    async fn commit(&self) -> Result<()>;
}

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The place has the whole blob: the answer to its end was lost.
    Held,
    /// It wants the bytes at [`Upload::offset`].
    Open,
}
