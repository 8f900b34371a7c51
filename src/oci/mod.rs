//! The field's words: digests, descriptors, manifests, references and platforms. No I/O.

pub mod annotation;
pub mod config;
pub mod descriptor;
pub mod digest;
pub mod inventory;
pub mod manifest;
pub mod platform;
pub mod reference;

pub use config::Config;
pub use descriptor::{Descriptor, MediaType};
pub use digest::{Algorithm, Digest, Hasher, InvalidDigest};
pub use inventory::Inventory;
pub use manifest::{Image, Index, InvalidManifest, Manifest, RawManifest};
pub use platform::{InvalidPlatform, Platform};
pub use reference::{InvalidReference, Reference, is_tag};
