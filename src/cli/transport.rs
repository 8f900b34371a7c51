//! Words of the command line as places of skopeo's syntax (containers-transports(5)), to read from and to write to.

use std::path::PathBuf;
use std::sync::Arc;

use super::Context;
use super::place::{self, with_local};
use crate::content::{Sink, Source};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::oci::Reference;
use crate::registry::Registry;
use crate::store::{Guest, LayoutImage, Shared, Store};

/// What a word names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spot {
    /// `NAME` or `docker://NAME`.
    Registry(Reference),
    /// `oci:DIR[:NAME]`: an image layout. The name is kept as it is.
    Layout(PathBuf, Option<String>),
}

impl Spot {
    /// Reads a word.
    ///
    /// # Errors
    /// `Usage` for what is no name, and for places that cannot be read or written here.
    pub fn parse(text: &str) -> Result<Spot> {
        match text.split_once(':') {
            Some(("oci", rest)) => {
                let (dir, name) = path_and_name(text, rest)?;
                Ok(Spot::Layout(dir, name))
            }
            _ => Ok(Spot::Registry(place::of_registry(text)?.parse()?)),
        }
    }

    /// The full name of the image, if it has one here.
    pub fn reference(&self) -> Option<Reference> {
        match self {
            Spot::Registry(name) => Some(name.clone()),
            Spot::Layout(_, name) => name.as_deref().and_then(place::qualified),
        }
    }

    /// Whether it is a registry.
    pub fn is_registry(&self) -> bool {
        matches!(self, Spot::Registry(_))
    }
}

/// What stands before the first colon, and what behind it, as skopeo parts them.
fn path_and_name(text: &str, rest: &str) -> Result<(PathBuf, Option<String>)> {
    let (path, name) = rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name.to_owned())));
    if path.is_empty() {
        return Err(Error::Usage(format!("{text}: it names no folder; say oci:DIR or oci:DIR:NAME")));
    }
    Ok((path.into(), name.filter(|name| !name.is_empty())))
}

/// The names for the two ends of a copy: where one end has none that is whole, it goes by that of the other.
pub fn names(from: &Spot, to: &Spot) -> (Reference, Reference) {
    let unnamed = || "localhost/unnamed".parse().expect("a valid name");
    let name = from.reference().or_else(|| to.reference()).unwrap_or_else(unnamed);
    let target = to.reference().unwrap_or_else(|| name.clone());
    (name, target)
}

/// An end to read from.
pub struct Reading {
    /// Where manifests and blobs come from.
    pub source: Arc<dyn Source>,
    _shared: Option<Shared>,
}

/// An end to write to.
pub struct Writing {
    /// Where they go.
    pub sink: Arc<dyn Sink>,
    /// What is listed there already, if it is a registry.
    pub there: Option<Arc<dyn Source>>,
    _guest: Option<Guest>,
}

impl Reading {
    /// Opens `spot`, which is at `registry` if it is at one.
    ///
    /// # Errors
    /// `Refused` when the trust policy of this machine forbids it; those of the place.
    pub async fn open(spot: &Spot, registry: &Registry, context: &Context, events: Events) -> Result<Reading> {
        match spot {
            Spot::Registry(name) => {
                let source = with_local(Arc::new(registry.repository(name)?), &context.settings)?;
                Ok(Reading { source, _shared: None })
            }
            Spot::Layout(dir, name) => {
                let store = layout(dir, context, events)?;
                let shared = store.share().await?;
                let source = Arc::new(LayoutImage::new(store, name.clone()));
                Ok(Reading { source, _shared: Some(shared) })
            }
        }
    }
}

impl Writing {
    /// Opens `spot`, which is at `registry` if it is at one.
    ///
    /// # Errors
    /// Those of the place.
    pub async fn open(spot: &Spot, registry: &Registry, context: &Context, events: Events) -> Result<Writing> {
        match spot {
            Spot::Registry(name) => {
                let there = Arc::new(registry.repository_to_write(name));
                Ok(Writing { sink: there.clone(), there: Some(there), _guest: None })
            }
            Spot::Layout(dir, name) => {
                let store = layout(dir, context, events)?;
                let guest = store.share_as_guest().await?;
                let sink = Arc::new(LayoutImage::new(store, name.clone()));
                Ok(Writing { sink, there: None, _guest: Some(guest) })
            }
        }
    }

    /// Where what is listed can be seen, for `--referrers`.
    ///
    /// # Errors
    /// `Usage` when the target is no registry.
    pub fn listing(&self) -> Result<Arc<dyn Source>> {
        let place = self.sink.place();
        self.there.clone().ok_or_else(|| {
            Error::Usage(format!("{place}: --referrers bring what hangs on an image to registries only; leave it out"))
        })
    }
}

fn layout(dir: &std::path::Path, context: &Context, events: Events) -> Result<Store> {
    Ok(Store::open(dir)?.observed(events, context.cancel.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dir: &str, name: Option<&str>) -> Spot {
        Spot::Layout(dir.into(), name.map(str::to_owned))
    }

    #[test]
    fn a_layout_and_its_name_are_parted_at_the_first_colon() {
        let cases = [
            ("oci:/d", layout("/d", None)),
            ("oci:/d:", layout("/d", None)),
            ("oci:d:v1", layout("d", Some("v1"))),
            ("oci:/d:h.example:5000/a:1", layout("/d", Some("h.example:5000/a:1"))),
            ("docker://x", Spot::Registry("x".parse().unwrap())),
        ];
        for (text, spot) in cases {
            assert_eq!(Spot::parse(text).unwrap(), spot, "{text}");
        }
        for text in ["oci:", "oci::x", "containers-storage:x", "docker://"] {
            assert!(matches!(Spot::parse(text), Err(Error::Usage(_))), "{text}");
        }
    }

    #[test]
    fn an_end_without_a_whole_name_goes_by_that_of_the_other() {
        let named = |from: &str, to: &str| {
            let (name, target) = names(&Spot::parse(from).unwrap(), &Spot::parse(to).unwrap());
            (name.familiar(), target.familiar())
        };
        assert_eq!(named("x:1", "oci:d:v1"), ("x:1".into(), "x:1".into()));
        assert_eq!(named("oci:d:v1", "h.example/x:1"), ("h.example/x:1".into(), "h.example/x:1".into()));
        assert_eq!(named("oci:d:a/b:1", "oci:e:a/c:1"), ("a/b:1".into(), "a/c:1".into()));
        assert_eq!(named("oci:d", "oci:e").0, "localhost/unnamed:latest");
    }
}
