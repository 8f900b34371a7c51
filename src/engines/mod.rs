//! Container engines on this machine: what they have, and loading what they lack.
//!
//! An engine gets an archive that docker, podman and containerd all read: an OCI layout with docker's `manifest.json`
//! beside it, from which the layers that it has are left out. Each knows its layers by something else: see `Known`.
//! What an engine says is believed as far as it decides what is sent; what it has afterwards is checked.
//!
//! - `image`: what is loaded; `shipment`, `tar`: the archive, made as it is sent.
//! - `load`: one image after the other, and all of it when the engine turns out to have lost a layer.
//! - `docker`, `podman`, `containerd`: the engines; `api`, `child`, `watch`: how they are spoken to, and for how long.

mod api;
mod child;
mod containerd;
mod docker;
mod image;
mod load;
mod podman;
mod shipment;
mod tar;
mod watch;

use std::collections::BTreeSet;

use async_trait::async_trait;

use crate::error::Result;
use crate::oci::Digest;

pub use containerd::Containerd;
pub use docker::{Docker, Socket};
pub use image::Image;
pub use load::{Loaded, Loading};
pub use podman::Podman;
pub use shipment::Shipment;

/// Images, layers and blobs of one engine that are looked at, at most.
const MAX_HELD: usize = 1_000_000;

/// A container engine.
///
/// Every method makes one attempt; [`Loading`] decides what follows.
#[async_trait]
pub trait Engine: Send + Sync {
    /// How the engine is named in messages.
    fn place(&self) -> String;

    /// What it has now. A hint: it may be gone a moment later.
    ///
    /// # Errors
    /// `NotFound` when it is not there or not running; those of asking it.
    async fn holdings(&self) -> Result<Holdings>;

    /// Sends `shipment`.
    ///
    /// # Errors
    /// `Invalid` when the engine does not take it; those of the shipment, of reaching the engine, and `Network` when
    /// nothing moves for half an hour.
    async fn load(&self, shipment: Shipment) -> Result<()>;

    /// Sees that the engine has `image` under its name, with its digest and its layers.
    ///
    /// # Errors
    /// `NotFound` when nothing has this name or a layer is not there, `Verification` when it is something else.
    async fn verify(&self, image: &Image) -> Result<()>;
}

/// What an engine has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Blobs that need not be sent to it, as manifests name them.
    pub blobs: BTreeSet<Digest>,
    /// Layers, by the digest of what they are uncompressed.
    pub diff_ids: BTreeSet<Digest>,
    /// By what a layer is known, where that decides whether it must be sent.
    known: Known,
}

/// By what an engine knows that it has a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Known {
    /// By nothing: everything is sent.
    #[default]
    Nothing,
    /// By the digest of the blob.
    Blob,
    /// By the layer and all those below it (OCI image-spec, `config.md`, "Layer ChainID").
    Chain(BTreeSet<Digest>),
}

impl Holdings {
    /// Which layers of `image` need not be sent, from the bottom.
    fn of(&self, image: &Image) -> Vec<bool> {
        let layers = image.layers().iter();
        match &self.known {
            Known::Nothing => vec![false; layers.len()],
            Known::Blob => layers.map(|layer| self.blobs.contains(&layer.digest)).collect(),
            Known::Chain(chains) => image.chain().iter().map(|chain| chains.contains(chain)).collect(),
        }
    }

    /// Layers that are known with all those below them, by their ChainIDs; empty for engines that know them otherwise.
    pub fn chains(&self) -> BTreeSet<Digest> {
        match &self.known {
            Known::Chain(chains) => chains.clone(),
            Known::Nothing | Known::Blob => BTreeSet::new(),
        }
    }

    /// Adds what `image` brought.
    fn add(&mut self, image: &Image) {
        self.diff_ids.extend(image.diff_ids().iter().cloned());
        match &mut self.known {
            Known::Nothing => {}
            Known::Blob => self.blobs.extend(image.layers().iter().map(|layer| layer.digest.clone())),
            Known::Chain(chains) => chains.extend(image.chain()),
        }
    }
}
