//! containerd, by `ctr`. It keeps blobs as they came, for each namespace on its own.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::child::Program;
use super::image::Image;
use super::{Engine, Holdings, Known, MAX_HELD, Shipment};
use crate::error::{Error, Fault, Result};
use crate::oci::Digest;

/// The namespace of `ctr` and of `nerdctl`; that of Kubernetes is `k8s.io`.
const NAMESPACE: &str = "default";
/// Characters of a namespace, at most.
const MAX_NAMESPACE: usize = 76;

/// One namespace of containerd, at the address that `CONTAINERD_ADDRESS` names.
#[derive(Debug, Clone)]
pub struct Containerd {
    program: Program,
}

impl Containerd {
    /// The namespace of this name.
    ///
    /// # Errors
    /// `Usage` when it cannot be one.
    pub fn new(namespace: Option<&str>) -> Result<Containerd> {
        let namespace = namespace.unwrap_or(NAMESPACE);
        if !is_namespace(namespace) {
            return Err(Error::Usage(format!(
                "{namespace:?} is no namespace of containerd: it has letters, digits and single '.', '_' or '-' between \
                 them, as in containerd:k8s.io"
            )));
        }
        let place = format!("containerd, namespace {namespace}");
        let args = ["-n", namespace].map(Into::into).to_vec();
        Ok(Containerd { program: Program { name: "ctr", args, place } })
    }

    async fn blobs(&self) -> Result<BTreeSet<Digest>> {
        let listed = self.program.ask(&["content", "ls", "-q"]).await?;
        let listed = String::from_utf8_lossy(&listed);
        Ok(listed.lines().filter_map(|line| line.trim().parse().ok()).take(MAX_HELD).collect())
    }

    /// What `name` points to, if it is there.
    async fn find(&self, name: &str) -> Result<Option<Digest>> {
        let listed = self.program.ask(&["images", "ls", &format!("name=={name}")]).await?;
        let listed = String::from_utf8_lossy(&listed);
        // The first line is a heading; the columns are name, type, digest, …
        let mut rows = listed.lines().map(|line| line.split_whitespace());
        let found = rows.find_map(|mut row| (row.next() == Some(name)).then(|| row.nth(1).map(str::to_owned)));
        let strange = |why| Error::network(&self.program.place, "images ls", Fault::Protocol(why));
        match found {
            None => Ok(None),
            Some(Some(digest)) => digest.parse().map(Some).map_err(|why| strange(format!("{digest}: {why}"))),
            Some(None) => Err(strange("a row without a digest".into())),
        }
    }
}

/// What containerd takes as the name of a namespace.
fn is_namespace(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric());
    text.len() <= MAX_NAMESPACE && text.split(['.', '_', '-']).all(is_word)
}

#[async_trait]
impl Engine for Containerd {
    fn place(&self) -> String {
        self.program.place.clone()
    }

    async fn holdings(&self) -> Result<Holdings> {
        Ok(Holdings { blobs: self.blobs().await?, diff_ids: BTreeSet::new(), known: Known::Blob })
    }

    async fn load(&self, shipment: Shipment) -> Result<()> {
        let (name, digest) = (shipment.image.name().to_string(), shipment.image.manifest().digest.clone());
        let former = self.find(&name).await?;
        let loaded = self.program.feed(&["images", "import", "-"], shipment).await;
        if loaded.is_err() && former.as_ref() != Some(&digest) && self.find(&name).await?.as_ref() == Some(&digest) {
            // It names an image before it looks whether it has all of it.
            self.program.ask(&["images", "rm", &name]).await?;
        }
        loaded.map(drop)
    }

    async fn verify(&self, image: &Image) -> Result<()> {
        let (name, place) = (image.name().to_string(), &self.program.place);
        let absent = |what: String| Error::NotFound { what, place: place.clone(), why: String::new() };
        let found = self.find(&name).await?.ok_or_else(|| absent(name))?;
        if found != image.manifest().digest {
            return Err(image.differs(place, "digest", &found.to_string()));
        }
        let blobs = self.blobs().await?;
        let mut needed = image.layers().iter().map(|layer| &layer.digest).chain([image.id(), &found]);
        match needed.find(|digest| !blobs.contains(digest)) {
            Some(missing) => Err(absent(missing.to_string())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_what_containerd_takes() {
        for good in ["default", "k8s.io", "a-b_c.d", "moby"] {
            assert!(Containerd::new(Some(good)).is_ok(), "{good}");
        }
        for bad in ["", "a b", "-x", "a..b", "x.", "ä", &"a".repeat(77)] {
            assert!(matches!(Containerd::new(Some(bad)), Err(Error::Usage(_))), "{bad}");
        }
    }
}
