//! Archives: images in one file, or in a folder, for places without a network.
//!
//! What is written is an OCI layout with a `manifest.json` beside it, which docker, podman, containerd and skopeo take all.
//! What is read is that, plain layouts (OCI image-spec, `image-layout.md`) and docker-archives, with gzip, xz or zstd
//! around them, in one file or in volumes.
//!
//! - `frame`: the headers of a tar, read with bounds and written the same in every run; `compression`: what is around it.
//! - `volumes`: the bytes on disk, also where several files are one archive; `split`: the index of such files.
//! - `open`: an archive on disk, as [`Source`](crate::content::Source); `listed`: where its entries lie; `sequential`, `seen`:
//!   one that comes in order.
//! - `meaning`: which images the entries are; `layout`, `docker`: what the formats define; `presumed`: what is left out.
//! - `gather`: the graph of what is written; `pack`, `output`: writing it.

mod compression;
mod docker;
mod frame;
mod gather;
mod layout;
mod listed;
mod meaning;
mod open;
mod output;
mod pack;
mod presumed;
mod seen;
mod sequential;
mod split;
mod volumes;

pub use compression::Compression;
pub use frame::{Entry, Kind};
pub use gather::{Contents, Wanted};
pub use open::{Archive, Form, Packed};
pub use output::{Checksum, Output, Saved};
pub use pack::{Archiving, Flavour, FolderFrames, Frames, TarFrames, pack};
pub use presumed::Presumed;
pub use seen::{Fate, Seen, fallback};
pub use sequential::Sequential;
pub use split::{Index as VolumeIndex, is_index, volumes_of};
pub use volumes::{Volumes, open as open_file};
