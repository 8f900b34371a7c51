//! A source that is asked again when an attempt fails, for commands that look at images without transferring them.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};

use crate::content::{Body, Origin, Provenance, Source};
use crate::error::Result;
use crate::oci::{Descriptor, Digest, RawManifest, Reference};
use crate::transfer::Transfer;

/// A source with the patience of a transfer.
pub struct Patient {
    /// What is asked.
    pub inner: Arc<dyn Source>,
    /// How often, and until when.
    pub transfer: Transfer,
}

#[async_trait]
impl Source for Patient {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn resolve(&self, name: &Reference) -> Result<Descriptor> {
        self.transfer.persist(&name.to_string(), || self.inner.resolve(name)).await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        self.transfer.persist(&descriptor.digest.to_string(), || self.inner.manifest(descriptor)).await
    }

    fn origins(&self, blob: &Descriptor) -> Vec<Arc<dyn Origin>> {
        let patient = |inner| Arc::new(Whole { inner, transfer: self.transfer.clone() }) as Arc<dyn Origin>;
        self.inner.origins(blob).into_iter().map(patient).collect()
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        self.transfer.persist(&subject.to_string(), || self.inner.referrers(subject)).await
    }
}

/// An origin whose ranges have come whole when they are opened, so that one that is cut is asked for again. They are
/// held in memory: for configurations, not for layers.
struct Whole {
    inner: Arc<dyn Origin>,
    transfer: Transfer,
}

impl std::fmt::Debug for Whole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl Whole {
    async fn read(&self, range: Range<u64>) -> Result<(Body, Bytes)> {
        let mut body = self.inner.open(range.clone()).await?;
        let mut bytes = BytesMut::new();
        while let Some(piece) = body.bytes.next().await {
            bytes.extend_from_slice(&piece?);
            if body.start + bytes.len() as u64 >= range.end {
                break;
            }
        }
        Ok((body, bytes.freeze()))
    }
}

#[async_trait]
impl Origin for Whole {
    fn host(&self) -> &str {
        self.inner.host()
    }

    fn provenance(&self) -> Provenance {
        self.inner.provenance()
    }

    async fn open(&self, range: Range<u64>) -> Result<Body> {
        let (body, bytes) = self.transfer.persist(self.host(), || self.read(range.clone())).await?;
        Ok(Body { bytes: stream::iter([Ok(bytes)]).boxed(), ..body })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::content::Extent;
    use crate::error::{Error, Fault};
    use crate::event::Silent;
    use crate::state::State;
    use crate::transfer::Settings;

    /// Fails at first at everything: so often.
    #[derive(Debug)]
    struct Shaky(Mutex<u32>);

    impl Shaky {
        fn attempt(&self) -> Result<()> {
            let mut left = self.0.lock().unwrap();
            if *left == 0 {
                return Ok(());
            }
            *left -= 1;
            Err(Error::Busy { what: "x".into(), place: "h".into(), status: 503, why: String::new(), retry_after: None })
        }
    }

    #[async_trait]
    impl Source for Arc<Shaky> {
        fn place(&self) -> String {
            "h".into()
        }
        async fn resolve(&self, _: &Reference) -> Result<Descriptor> {
            self.attempt().map(|()| Descriptor::new("x", Digest::of(b"abc"), 3))
        }
        async fn manifest(&self, _: &Descriptor) -> Result<RawManifest> {
            Err(Error::NotFound { what: "x".into(), place: "h".into(), why: String::new() })
        }
        fn origins(&self, _: &Descriptor) -> Vec<Arc<dyn Origin>> {
            vec![Arc::new(Cut(self.clone()))]
        }
        async fn referrers(&self, _: &Digest) -> Result<Vec<Descriptor>> {
            Ok(Vec::new())
        }
    }

    /// A blob "abc" that is cut after its first byte as long as its source is shaky.
    #[derive(Debug)]
    struct Cut(Arc<Shaky>);

    #[async_trait]
    impl Origin for Cut {
        fn host(&self) -> &str {
            "h"
        }
        fn provenance(&self) -> Provenance {
            Provenance::Registry
        }
        async fn open(&self, _: Range<u64>) -> Result<Body> {
            let rest = match self.0.attempt() {
                Ok(()) => Ok(Bytes::from_static(b"bc")),
                Err(_) => Err(Error::network("h", "x", Fault::Broken("cut".into()))),
            };
            let pieces = stream::iter([Ok(Bytes::from_static(b"a")), rest]);
            Ok(Body { start: 0, end: None, extent: Extent::Range, bytes: pieces.boxed() })
        }
    }

    fn patient(failures: u32) -> Patient {
        let settings = Settings { retries: 3, ..Settings::default() };
        let state = Arc::new(State::new(None));
        let transfer = Transfer { settings, events: Arc::new(Silent), state, cancel: CancellationToken::new() };
        Patient { inner: Arc::new(Arc::new(Shaky(Mutex::new(failures)))), transfer }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_passes_is_not_seen() {
        let name = "h.example/x:1".parse().unwrap();
        assert!(patient(3).resolve(&name).await.is_ok());
        assert!(matches!(patient(4).resolve(&name).await, Err(Error::Busy { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_configuration_that_is_cut_is_read_again() {
        let source = patient(2);
        let blob = Descriptor::new("x", Digest::of(b"abc"), 3);
        let mut body = source.origins(&blob)[0].open(0..3).await.unwrap();
        assert_eq!(body.bytes.next().await.unwrap().unwrap(), "abc");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_is_not_asked_for_again() {
        let began = tokio::time::Instant::now();
        assert!(patient(0).manifest(&Descriptor::new("x", Digest::of(b"abc"), 3)).await.is_err());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
