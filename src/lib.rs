//! A bandwidth-aware client for container registries.
//!
//! An image is a graph of descriptors, and every command copies the missing part of such a graph from one place to
//! another:
//!
//! - [`oci`]: the field's words: digest, descriptor, manifest, reference, platform. No I/O.
//! - [`content`]: `Source`, `Sink`, `Origin` and `Ingest`: what a place is.
//! - [`transfer`]: makes a plan and executes it: blobs and ranges in parallel, resumed, verified.
//! - [`registry`]: a registry as source and sink: requests, tokens, credentials, uploads.
//! - [`store`]: an OCI image layout on disk as source and sink.
//! - [`local`]: other image layouts on this machine, as origins of blobs.
//! - [`sync`]: files that name many images to mirror, what they select, and what `--delete` may remove.
//! - [`state`]: hints between runs: open uploads, repositories that hold a blob.
//! - [`limit`]: bandwidth and bytes that a run may use.
//! - [`serve`]: the store as a registry over HTTP.
//! - [`event`] and [`error`]: what happened, and what can go wrong.
//! - [`cli`]: the commands.
#![warn(missing_docs)]

pub mod cli;
pub mod content;
pub mod error;
pub mod event;
pub mod limit;
pub mod local;
pub mod oci;
pub mod registry;
pub mod serve;
pub mod state;
pub mod store;
pub mod sync;
pub mod transfer;
