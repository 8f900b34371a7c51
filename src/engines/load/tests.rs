//! Loading against an engine in memory that forgets.

use std::collections::BTreeSet;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::*;
use crate::content::{Body, Extent, Origin, Provenance};
use crate::engines::Known;
use crate::engines::image::tests::image;
use crate::event::Silent;
use crate::oci::{Descriptor, Digest, RawManifest, Reference};

/// Layers that are as their names.
#[derive(Debug)]
struct Letters {
    damaged: Option<&'static str>,
}

#[derive(Debug)]
struct Letter(Bytes);

#[async_trait]
impl Origin for Letter {
    fn host(&self) -> &str {
        "letters"
    }

    fn provenance(&self) -> Provenance {
        Provenance::Local
    }

    async fn open(&self, range: std::ops::Range<u64>) -> Result<Body> {
        let bytes = stream::iter([Ok(self.0.clone())]).boxed();
        Ok(Body { start: range.start, end: Some(range.end), extent: Extent::Range, bytes })
    }
}

#[async_trait]
impl Source for Letters {
    fn place(&self) -> String {
        "letters".into()
    }

    async fn resolve(&self, name: &Reference) -> Result<Descriptor> {
        Err(Error::Usage(name.to_string()))
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        Err(Error::Usage(descriptor.digest.to_string()))
    }

    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        let letter = ["a", "b", "c"].into_iter().find(|letter| Digest::of(letter.as_bytes()) == blob.digest);
        let letter = letter.filter(|letter| self.damaged != Some(letter)).unwrap_or("?");
        vec![Arc::new(Letter(Bytes::from_static(letter.as_bytes())))]
    }

    async fn referrers(&self, _: &Digest) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }
}

/// An engine that has some blobs, and says that it has some.
#[derive(Default)]
struct Memory {
    has: Mutex<BTreeSet<Digest>>,
    says: BTreeSet<Digest>,
    loaded: Mutex<Vec<Digest>>,
    loads: Mutex<Vec<usize>>,
}

#[async_trait]
impl Engine for Memory {
    fn place(&self) -> String {
        "memory".into()
    }

    async fn holdings(&self) -> Result<Holdings> {
        Ok(Holdings { blobs: self.says.clone(), diff_ids: BTreeSet::new(), known: Known::Blob })
    }

    async fn load(&self, shipment: Shipment) -> Result<()> {
        self.loads.lock().unwrap().push(shipment.layers.len());
        let sent: Result<Vec<Bytes>> = shipment.bytes.try_collect().await;
        sent.map_err(|error| shipment.course.failed().unwrap_or(error))?;
        let mut has = self.has.lock().unwrap();
        has.extend(shipment.layers.iter().map(|layer| layer.digest.clone()));
        if !shipment.image.layers().iter().all(|layer| has.contains(&layer.digest)) {
            let what = shipment.image.name().to_string();
            return Err(Error::Invalid { what, place: "memory".into(), why: "a layer is missing".into() });
        }
        self.loaded.lock().unwrap().push(shipment.image.id().clone());
        Ok(())
    }

    async fn verify(&self, image: &Image) -> Result<()> {
        match self.loaded.lock().unwrap().contains(image.id()) {
            true => Ok(()),
            false => {
                Err(Error::NotFound { what: image.name().to_string(), place: "memory".into(), why: String::new() })
            }
        }
    }
}

fn of(letters: &[&str]) -> BTreeSet<Digest> {
    letters.iter().map(|letter| Digest::of(letter.as_bytes())).collect()
}

async fn load(engine: &Memory, damaged: Option<&'static str>, images: &[Image]) -> Vec<Result<Loaded>> {
    let loading = Loading { engine, source: Arc::new(Letters { damaged }), events: Arc::new(Silent) };
    loading.load(images).await.unwrap()
}

#[tokio::test]
async fn what_the_first_image_brought_is_not_sent_with_the_second() {
    let engine = Memory { has: Mutex::new(of(&["a"])), says: of(&["a"]), ..Memory::default() };
    let images = [image("x:1", &["a", "b"]), image("y:1", &["a", "b", "c"])];
    let ended = load(&engine, None, &images).await;
    assert_eq!(*engine.loads.lock().unwrap(), [1, 1]);
    let config = images[0].config().0.size;
    assert_eq!(*ended[0].as_ref().unwrap(), Loaded { sent: config + 1, held: 1, ..Loaded::default() });
    let again = load(&engine, None, &images[..1]).await;
    assert!(again[0].as_ref().unwrap().up_to_date);
    assert_eq!(engine.loads.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn an_engine_that_lost_a_layer_gets_everything() {
    let engine = Memory { says: of(&["a"]), ..Memory::default() };
    let images = [image("x:1", &["a", "b"])];
    let ended = load(&engine, None, &images).await;
    assert_eq!(*engine.loads.lock().unwrap(), [1, 2]);
    let config = images[0].config().0.size;
    let expected = Loaded { sent: 2 * config + 3, again: config + 2, ..Loaded::default() };
    assert_eq!(*ended[0].as_ref().unwrap(), expected);
}

#[tokio::test]
async fn a_layer_that_is_damaged_here_is_told_and_not_sent_twice() {
    let engine = Memory { has: Mutex::new(of(&["a"])), says: of(&["a"]), ..Memory::default() };
    let images = [image("x:1", &["a", "b"]), image("y:1", &["c"])];
    let ended = load(&engine, Some("b"), &images).await;
    assert!(matches!(ended[0], Err(Error::Verification { .. })), "{:?}", ended[0]);
    assert!(ended[1].is_ok());
    assert_eq!(*engine.loads.lock().unwrap(), [1, 1]);
}
