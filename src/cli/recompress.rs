//! Layers compressed with gzip instead of zstd, for engines that know no other: with new digests, and so new manifests.

use std::pin::pin;

use async_compression::futures::bufread::{GzipEncoder, ZstdDecoder};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::io::{AsyncReadExt as _, BufReader};
use futures::{FutureExt as _, TryStreamExt as _};
use serde_json::Value;

use crate::archive::Contents;
use crate::content::file::PIECE;
use crate::content::{Sink, Source, verified};
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::oci::{Descriptor, Digest, RawManifest};
use crate::store::Store;

/// What the type of a layer compressed with zstd ends with.
const ZSTD: &str = "+zstd";
/// And with gzip.
const GZIP: &str = "+gzip";

/// Makes manifests over gzip layers, which are put into the store.
pub struct Recompress<'a> {
    /// Where the layers are, and where the new ones go.
    pub store: &'a Store,
    /// The manifests as they are.
    pub contents: &'a Contents,
    /// Who is told.
    pub events: &'a Events,
}

impl Recompress<'_> {
    /// The manifest `digest` over gzip layers, and all below it: itself where it has no other.
    ///
    /// # Errors
    /// `Invalid` when a layer is no zstd; those of the store.
    pub fn manifest<'s>(&'s self, digest: &'s Digest) -> BoxFuture<'s, Result<RawManifest>> {
        async move {
            let raw = self.contents.manifest(digest).ok_or_else(|| self.invalid(digest, "it is not held"))?;
            let mut json: Value = serde_json::from_slice(&raw.bytes).map_err(|e| self.invalid(digest, e))?;
            let mut changed = false;
            for key in ["layers", "manifests"] {
                for child in json.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
                    changed |= self.child(child).await?;
                }
            }
            if !changed {
                return Ok(raw.clone());
            }
            let made = RawManifest::new(Some(&raw.media_type), json.to_string().into());
            let made = made.map_err(|e| Error::manifest(Source::place(self.store), digest, e))?;
            self.store.put_manifest(&made).await?;
            Ok(made)
        }
        .boxed()
    }

    /// Whether the descriptor `child` names something else now.
    async fn child(&self, child: &mut Value) -> Result<bool> {
        let Ok(descriptor) = serde_json::from_value::<Descriptor>(child.clone()) else { return Ok(false) };
        let named = if descriptor.media_type.as_str().ends_with(ZSTD) {
            let layer = self.layer(&descriptor).await?;
            child["mediaType"] = descriptor.media_type.as_str().replace(ZSTD, GZIP).into();
            layer
        } else if self.contents.manifest(&descriptor.digest).is_some() {
            self.manifest(&descriptor.digest).await?.descriptor()
        } else {
            return Ok(false);
        };
        child["digest"] = named.digest.to_string().into();
        child["size"] = named.size.into();
        Ok(named.digest != descriptor.digest)
    }

    /// The same layer, compressed with gzip, in the store.
    async fn layer(&self, layer: &Descriptor) -> Result<Descriptor> {
        let text = format!("{}: compressed with gzip instead of zstd", layer.digest);
        self.events.on(&Event::Warning { text });
        let origin = self.store.origins(layer).into_iter().next();
        let origin = origin.ok_or_else(|| self.invalid(&layer.digest, "it is not held"))?;
        let bytes = verified(origin.open(0..layer.size).await?.bytes, layer.clone(), Source::place(self.store));
        let compressed = BufReader::with_capacity(PIECE, bytes.map_err(std::io::Error::other).into_async_read());
        let mut decoder = ZstdDecoder::new(compressed);
        decoder.multiple_members(true);
        let mut encoded = pin!(GzipEncoder::new(BufReader::with_capacity(PIECE, decoder)));
        let mut receiving = self.store.receive().await?;
        loop {
            let mut piece = vec![0; PIECE];
            let count = encoded.read(&mut piece).await.map_err(|e| self.invalid(&layer.digest, e))?;
            if count == 0 {
                return receiving.commit(None).await;
            }
            piece.truncate(count);
            receiving.write(Bytes::from(piece)).await?;
        }
    }

    fn invalid(&self, what: &Digest, why: impl ToString) -> Error {
        Error::Invalid { what: what.to_string(), place: Source::place(self.store), why: why.to_string() }
    }
}
