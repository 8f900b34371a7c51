//! One image after the other into an engine: only what it lacks, and all of it when it turns out to have lost something.

use std::collections::HashSet;
use std::sync::Arc;

use super::image::Image;
use super::{Engine, Holdings, Shipment};
use crate::content::{Holding, Source};
use crate::error::{Error, Result};
use crate::event::{Event, Events};

/// Loads images into one engine.
pub struct Loading<'a> {
    /// The engine.
    pub engine: &'a dyn Engine,
    /// Where the bytes of layers come from.
    pub source: Arc<dyn Source>,
    /// Who is told.
    pub events: Events,
}

/// What loading one image took. Bytes of layers and configurations, as they were sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Bytes that went to the engine.
    pub sent: u64,
    /// Bytes that did not have to, because it had them.
    pub held: u64,
    /// Of those sent, bytes that were not planned: the engine had lost a layer, and got everything.
    pub again: u64,
    /// It had the image already, whole and under its name.
    pub up_to_date: bool,
}

impl Loading<'_> {
    /// Loads `images` and sees that the engine has them. How each ended stands at its place.
    ///
    /// # Errors
    /// When the engine cannot be asked what it has.
    pub async fn load(&self, images: &[Image]) -> Result<Vec<Result<Loaded>>> {
        let mut holdings = self.engine.holdings().await?;
        let mut there = Vec::new();
        for image in images {
            there.push(self.has(image).await?);
        }
        self.tell_plan(images, &there, &holdings);
        let mut ended = Vec::new();
        for (image, there) in images.iter().zip(there) {
            let loaded = match there {
                true => Ok(Loaded { held: size(image, &[]), up_to_date: true, ..Loaded::default() }),
                false => self.load_one(image, &holdings).await,
            };
            match &loaded {
                Ok(_) => holdings.add(image),
                Err(why) => self.events.on(&Event::Failed { name: image.name().to_string(), why: why.to_string() }),
            }
            ended.push(loaded);
        }
        Ok(ended)
    }

    /// Whether the engine has all of `image` under its name.
    async fn has(&self, image: &Image) -> Result<bool> {
        match self.engine.verify(image).await {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. } | Error::Verification { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn tell_plan(&self, images: &[Image], there: &[bool], holdings: &Holdings) {
        let (mut missing, mut blobs) = (HashSet::new(), Vec::new());
        for (image, _) in images.iter().zip(there).filter(|(_, there)| !**there) {
            let layers = image.layers().iter().zip(holdings.of(image));
            for (blob, held) in [(image.config().0, false)].into_iter().chain(layers) {
                match held {
                    true => blobs.push((blob.clone(), Holding::Whole)),
                    false if missing.insert(blob.digest.clone()) => blobs.push((blob.clone(), Holding::Missing)),
                    false => {}
                }
            }
        }
        self.events.on(&Event::Planned { blobs });
    }

    async fn load_one(&self, image: &Image, holdings: &Holdings) -> Result<Loaded> {
        let held = holdings.of(image);
        let planned = size(image, &held);
        let first = self.attempt(image, &held).await;
        let error = match first.result {
            Ok(()) => {
                let held = size(image, &[]).saturating_sub(planned);
                return Ok(Loaded { sent: first.sent, held, ..Loaded::default() });
            }
            Err(error) => error,
        };
        if !held.contains(&true) || first.is_spoiled || matches!(error, Error::Interrupted) {
            return Err(error);
        }
        let text = format!("{}: {}: {error}; it gets everything now", self.engine.place(), image.name());
        self.events.on(&Event::Warning { text });
        let second = self.attempt(image, &vec![false; held.len()]).await;
        second.result?;
        let sent = first.sent + second.sent;
        Ok(Loaded { sent, again: sent.saturating_sub(planned), ..Loaded::default() })
    }

    /// Sends `image` without what is `held`, and looks what became of it.
    async fn attempt(&self, image: &Image, held: &[bool]) -> Attempt {
        let shipment = Shipment::new(image, held, &self.source, &self.events);
        let course = Arc::clone(&shipment.course);
        let result = match self.engine.load(shipment).await {
            Ok(()) => self.engine.verify(image).await,
            refused => refused,
        };
        Attempt { result, sent: course.blobs(), is_spoiled: course.is_spoiled() }
    }
}

/// How an attempt ended.
struct Attempt {
    result: Result<()>,
    /// Bytes of blobs that went.
    sent: u64,
    /// What was to be sent could not be read: more of it does not help.
    is_spoiled: bool,
}

/// Bytes of the configuration and of the layers that are not `held`, each once.
fn size(image: &Image, held: &[bool]) -> u64 {
    let mut seen = HashSet::new();
    let held = held.iter().copied().chain(std::iter::repeat(false));
    let layers = image.layers().iter().zip(held).filter(|(_, held)| !held).map(|(layer, _)| layer);
    let layers = layers.filter(|layer| seen.insert(&layer.digest)).map(|layer| layer.size);
    layers.fold(image.config().0.size, u64::saturating_add)
}

#[cfg(test)]
mod tests;
