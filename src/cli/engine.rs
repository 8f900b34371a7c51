//! Images of the store on their way into an engine of this machine.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tokio::time::Instant;

use super::Context;
use super::digestfile::Digestfile;
use super::ending::OutputFlags;
use super::image::{config_of, manifest_for};
use super::place::{self, Place};
use super::progress::Progress;
use super::results::{Direction, Done, Pulled, Size};
use crate::content::Source;
use crate::engines::{Containerd, Docker, Engine, Image, Loaded, Loading, Podman, Socket};
use crate::error::{Error, Result};
use crate::event::{Cause, Events};
use crate::oci::{Manifest, Platform, Reference};
use crate::transfer::Report;

/// An engine as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineName {
    /// `docker`
    Docker,
    /// `podman`
    Podman,
    /// `containerd[:NAMESPACE]`
    Containerd(Option<String>),
}

impl FromStr for EngineName {
    type Err = Error;

    fn from_str(text: &str) -> Result<EngineName> {
        match text.split_once(':').map_or((text, None), |(engine, rest)| (engine, Some(rest))) {
            ("docker", None) => Ok(EngineName::Docker),
            ("podman", None) => Ok(EngineName::Podman),
            ("containerd", namespace) => Ok(EngineName::Containerd(namespace.map(str::to_owned))),
            _ => Err(Error::Usage(format!("{text}: not an engine: say docker, podman or containerd[:NAMESPACE]"))),
        }
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineName::Docker => f.write_str("docker"),
            EngineName::Podman => f.write_str("podman"),
            EngineName::Containerd(None) => f.write_str("containerd"),
            EngineName::Containerd(Some(namespace)) => write!(f, "containerd:{namespace}"),
        }
    }
}

impl EngineName {
    /// The engine, which is not asked for anything yet.
    ///
    /// # Errors
    /// `Usage` when `DOCKER_HOST` or the namespace makes no sense.
    pub fn open(&self) -> Result<Box<dyn Engine>> {
        Ok(match self {
            EngineName::Docker => Box::new(docker()?),
            EngineName::Podman => Box::new(Podman::new()),
            EngineName::Containerd(namespace) => Box::new(Containerd::new(namespace.as_deref())?),
        })
    }
}

/// docker, where its own client would find it.
///
/// # Errors
/// `Usage` when `DOCKER_HOST` names another machine.
pub fn docker() -> Result<Docker> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(Into::into);
    Docker::new(Socket { host: std::env::var("DOCKER_HOST").ok(), runtime })
}

/// Loads the images that `words` name in the store.
///
/// # Errors
/// When the engine cannot be asked what it has; `Store`, `Interrupted`. How each image ended is in the result.
pub async fn load(
    words: &[String],
    engine: &EngineName,
    context: &Context,
    events: Events,
) -> Result<(Vec<Pulled>, Report)> {
    let engine = engine.open()?;
    let store = place::store(context, events.clone())?;
    let source = Arc::new(store.clone());
    let place = Place::Store { _shared: store.share().await?, store };
    let began = Instant::now();
    let (mut ended, mut images) = (Vec::new(), Vec::new());
    for word in words {
        match found(word, &place, &context.platform()).await {
            Ok(image) => images.push(image),
            Err((Some(name), error)) => ended.push(failed(name, error)),
            Err((None, error)) => return Err(error),
        }
    }
    let loading = Loading { engine: engine.as_ref(), source, events };
    let loaded = match images.is_empty() {
        true => Vec::new(),
        false => context.cancel.run_until_cancelled(loading.load(&images)).await.ok_or(Error::Interrupted)??,
    };
    let report = report(&loaded, began);
    ended.extend(images.iter().zip(loaded).map(|(image, loaded)| pulled(image, loaded)));
    Ok((ended, report))
}

/// Loads what has come into the store into an engine, too; tells how both ended.
///
/// # Errors
/// As [`load`], and `Told` when an image failed on its way into the store.
pub async fn hand_on(
    output: &OutputFlags,
    engine: &EngineName,
    (direction, (images, report)): (Direction, (Vec<Pulled>, Report)),
    context: &Context,
    digests: Option<Digestfile>,
) -> anyhow::Result<()> {
    let (here, mut ended): (Vec<_>, Vec<_>) = images.into_iter().partition(|image| image.result.is_ok());
    output.tell_half(context, direction, &here, &report)?;
    let words: Vec<String> = here.iter().map(|image| image.name.to_string()).collect();
    let progress = Progress::start(output.mode(context));
    let loaded = load(&words, engine, context, progress.events()).await;
    progress.finish();
    let (loaded, report) = loaded?;
    ended.extend(loaded);
    output.conclude(context, Direction::Engine, (ended, report), digests)
}

/// The image that `word` names in the store, for `platform`; else the name that it was looked for under, and why not.
async fn found(word: &str, place: &Place, platform: &Platform) -> Result<Image, (Option<Reference>, Error)> {
    let named = place.named(word).await.map_err(|error| (None, error))?;
    let Some(name) = named.reference.clone() else {
        let why = format!("{}: it has no name; give it one with `layerpull tag {word} NAME`", named.label);
        return Err((None, Error::Usage(why)));
    };
    let image = async {
        let root = named.root().await?;
        let manifest = manifest_for(named.source.as_ref(), &root, platform).await?;
        let config = config(named.source.as_ref(), &manifest).await?;
        Image::new(&name, manifest, config)
    };
    image.await.map_err(|error| (Some(name.clone()), with_next_step(error, &name, platform)))
}

async fn config(source: &dyn Source, manifest: &crate::oci::RawManifest) -> Result<bytes::Bytes> {
    match manifest.parse().map_err(|why| Error::manifest(source.place(), &manifest.digest, why))? {
        Manifest::Image(image) => config_of(source, &image).await,
        // What no engine can run is told with the rest.
        Manifest::Index(_) => Ok(bytes::Bytes::new()),
    }
}

/// What is not in the store can be brought there.
fn with_next_step(error: Error, name: &Reference, platform: &Platform) -> Error {
    match error {
        Error::NotFound { what, place, why } if why.is_empty() => {
            let why = format!("bring it here first with `layerpull pull --platform {platform} {name}`");
            Error::NotFound { what, place, why }
        }
        other => other,
    }
}

fn failed(name: Reference, error: Error) -> Pulled {
    let (result, size) = (Err(error.into()), Size::default());
    Pulled { name, place: None, result, done: Done::Nothing, size, referrers: None }
}

fn pulled(image: &Image, loaded: Result<Loaded>) -> Pulled {
    let (sent, held, up_to_date) =
        loaded.as_ref().map_or((0, 0, false), |loaded| (loaded.sent, loaded.held, loaded.up_to_date));
    Pulled {
        name: image.name().clone(),
        place: None,
        result: loaded.map(|_| image.manifest().digest.clone()).map_err(Arc::new),
        done: if up_to_date { Done::Nothing } else { Done::Moved },
        size: Size { whole: sent.saturating_add(held), missing: sent },
        referrers: None,
    }
}

fn report(loaded: &[Result<Loaded>], began: Instant) -> Report {
    let sum = |of: fn(&Loaded) -> u64| loaded.iter().flatten().map(of).fold(0, u64::saturating_add);
    let (moved, again) = (sum(|loaded| loaded.sent), sum(|loaded| loaded.again));
    let causes = if again == 0 { BTreeMap::new() } else { BTreeMap::from([(Cause::LayerGone, again)]) };
    Report {
        moved,
        held: sum(|loaded| loaded.held),
        planned: moved.saturating_sub(again),
        causes,
        elapsed: began.elapsed(),
        ..Report::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_named_as_it_is_shown() {
        for text in ["docker", "podman", "containerd", "containerd:k8s.io"] {
            assert_eq!(text.parse::<EngineName>().unwrap().to_string(), text);
        }
        for text in ["", "docker:x", "cri-o", "Docker"] {
            assert!(matches!(text.parse::<EngineName>(), Err(Error::Usage(_))), "{text}");
        }
    }
}
