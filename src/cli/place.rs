//! From names and settings to places: a registry, the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Context;
use super::config::Settings;
use super::image::ImageFlags;
use super::patient::Patient;
use crate::content::Source;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::local::{self, Local, WithLocal};
use crate::oci::{Descriptor, Reference};
use crate::registry::{self, Credential, Registry, Verify};
use crate::store::{Shared, Store};
use crate::transfer::Transfer;

/// Places of skopeo's syntax that are none of ours (containers-transports(5)).
const OTHER_TRANSPORTS: [&str; 6] =
    ["oci", "oci-archive", "docker-archive", "dir", "docker-daemon", "containers-storage"];

/// The name of an image of a registry without the `docker://` of skopeo's syntax.
///
/// # Errors
/// `Usage` for the other places of that syntax.
pub fn of_registry(text: &str) -> Result<&str> {
    match text.split_once(':') {
        Some((transport, rest)) if OTHER_TRANSPORTS.contains(&transport) => Err(Error::Usage(format!(
            "{text}: {transport}: is no registry, and images travel between registries and the store only: bring it to one first \
             (skopeo copy {text} docker://REGISTRY/NAME), or say docker.io/library/{transport}:{rest} if that is meant"
        ))),
        _ => Ok(text.strip_prefix("docker://").unwrap_or(text)),
    }
}

/// Where an image is looked at.
pub enum Place {
    /// At its registry, with patience.
    Registry(Registry, Transfer),
    /// In the store, from which nothing is collected meanwhile.
    Store {
        /// The store.
        store: Store,
        /// Held as long as this is.
        _shared: Shared,
    },
}

impl Place {
    /// The place that `flags` ask for.
    ///
    /// # Errors
    /// When the store cannot be opened, or is being collected for too long.
    pub async fn of(flags: &ImageFlags, context: &Context, events: Events) -> Result<Place> {
        match flags.local {
            true => {
                let store = store(context, events)?;
                let _shared = store.share().await?;
                Ok(Place::Store { store, _shared })
            }
            false => Ok(Place::Registry(registry(&context.settings, events.clone()), context.transfer(events))),
        }
    }

    /// Where `name` is read from.
    ///
    /// # Errors
    /// `Refused` when the trust policy of this machine forbids it.
    fn source(&self, name: &Reference) -> Result<Arc<dyn Source>> {
        match self {
            Place::Registry(registry, transfer) => {
                Ok(Arc::new(Patient { inner: Arc::new(registry.repository(name)?), transfer: transfer.clone() }))
            }
            Place::Store { store, .. } => Ok(Arc::new(store.clone())),
        }
    }

    /// What `text` names here. In the store that is also a name or a digest as `images` shows it.
    ///
    /// # Errors
    /// `Usage` for what is no name, and those of [`Place::source`].
    pub async fn named(&self, text: &str) -> Result<Named> {
        if let Place::Store { store, .. } = self
            && let Some(entered) = store.entered(text).await?.into_iter().next()
        {
            let reference = entered.name.as_deref().and_then(qualified);
            let digest = entered.root.descriptor.digest.to_string();
            let label = reference.as_ref().map(Reference::familiar).or(entered.name).unwrap_or(digest);
            let source = Arc::new(store.clone());
            return Ok(Named { label, reference, source, root: Some(entered.root.descriptor) });
        }
        let reference: Reference = of_registry(text)?.parse()?;
        let (label, source) = (reference.familiar(), self.source(&reference)?);
        Ok(Named { label, reference: Some(reference), source, root: None })
    }

    /// The tags of the repository of `name`.
    ///
    /// # Errors
    /// Those of the place.
    pub async fn tags(&self, name: &Reference) -> Result<Vec<String>> {
        match self {
            Place::Registry(registry, transfer) => transfer.persist(&name.name(), || registry.tags(name)).await,
            Place::Store { store, .. } => tags_in(store, name).await,
        }
    }
}

/// What a word of the command line names.
pub struct Named {
    /// How it is shown.
    pub label: String,
    /// Its full name, if it has one.
    pub reference: Option<Reference>,
    /// Where it is read from.
    pub source: Arc<dyn Source>,
    root: Option<Descriptor>,
}

impl Named {
    /// What it points to.
    ///
    /// # Errors
    /// Those of the place.
    pub async fn root(&self) -> Result<Descriptor> {
        match (&self.root, &self.reference) {
            (None, Some(reference)) => self.source.resolve(reference).await,
            (root, _) => Ok(root.clone().expect("what has no name was found by its root")),
        }
    }
}

/// A name in the store as a reference. One without a colon or slash is only a tag, and says nothing of a repository.
fn qualified(name: &str) -> Option<Reference> {
    name.contains(['/', ':']).then(|| name.parse().ok())?
}

/// The tags of the repository of `name` in the store, sorted.
///
/// # Errors
/// `Invalid` when `index.json` is damaged.
pub async fn tags_in(store: &Store, name: &Reference) -> Result<Vec<String>> {
    let names = store.names().await?;
    let same = names.iter().map(|(reference, _)| reference).filter(|reference| reference.name() == name.name());
    let mut tags: Vec<String> = same.filter_map(|reference| reference.tag().map(str::to_owned)).collect();
    tags.sort();
    Ok(tags)
}

/// The store of this user.
///
/// # Errors
/// When it cannot be opened.
pub fn store(context: &Context, events: Events) -> Result<Store> {
    Ok(Store::open(&context.settings.store.value)?.observed(events, context.cancel.clone()))
}

/// Registries as the settings say. Reads no file and opens no connection.
pub fn registry(settings: &Settings, events: Events) -> Registry {
    Registry::new(options(settings), events)
}

/// What holds for one side of a copy, before the settings of both.
#[derive(Debug, Default)]
pub struct Side {
    /// Credentials.
    pub creds: Option<Credential>,
    /// The only credential file.
    pub authfile: Option<PathBuf>,
    /// Whether certificates are verified.
    pub tls_verify: Option<bool>,
    /// A folder of certificates.
    pub cert_dir: Option<PathBuf>,
}

/// Registries as the settings say, but for what holds for this side alone.
pub fn registry_of(settings: &Settings, side: &Side, events: Events) -> Registry {
    let both = options(settings);
    let own = registry::Options {
        credential: side.creds.clone().or(both.credential),
        authfile: side.authfile.clone().or(both.authfile),
        cert_dir: side.cert_dir.clone().or(both.cert_dir),
        verify: match side.tls_verify {
            None => both.verify,
            Some(true) => Verify::Usual,
            Some(false) => Verify::Never,
        },
        ..both
    };
    Registry::new(own, events)
}

fn options(settings: &Settings) -> registry::Options {
    registry::Options {
        insecure: settings.insecure.value.clone(),
        verify: if settings.tls_verify.value { Verify::Usual } else { Verify::Never },
        ca_files: settings.ca_file.value.clone().into_iter().collect(),
        cert_dir: settings.cert_dir.value.clone(),
        authfile: settings.authfile.value.clone(),
        credential: settings.creds.value.clone(),
        stall: settings.stall_timeout.value,
        mirrors: settings.mirror.value.clone(),
        system_config: settings.system_config.value,
        hosts_dir: settings.hosts_dir.value.clone(),
        limiter: settings.limiter.clone(),
        ..registry::Options::default()
    }
}

/// Places of this machine whose blobs need not travel: those that the settings name, then those that are found. `store`
/// is where the blobs go, if that is one of them.
///
/// # Errors
/// When a folder that the settings name has no blobs.
pub fn locals(settings: &Settings, store: Option<&Path>) -> Result<Arc<[Local]>> {
    let mut places = settings.from.value.iter().map(|folder| Local::open(folder)).collect::<Result<Vec<_>>>()?;
    if !settings.no_local.value {
        places.extend(settings.surroundings().locals());
    }
    Ok(local::beside(places, store).into())
}

/// `source`, with the blobs of these places before those of the network.
pub fn with_local(source: Arc<dyn Source>, places: &Arc<[Local]>) -> Arc<dyn Source> {
    match places.is_empty() {
        true => source,
        false => Arc::new(WithLocal { inner: source, places: Arc::clone(places) }),
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::cli::config::{Common, Flags, RegistryFlags};

    #[tokio::test]
    async fn nothing_is_collected_while_a_command_looks_into_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let common = Common { store: Some(folder.path().into()), ..Common::default() };
        let settings = Settings::gather(Flags { common, ..Flags::default() }, &|_| None).unwrap();
        let state = Arc::new(crate::state::State::new(None));
        let cancel = CancellationToken::new();
        let context = Context { settings, cancel, state, guess: None, ground: Default::default() };
        drop(store(&context, context.notices()).unwrap().share_to_write().await.unwrap());
        let flags = ImageFlags { platform: None, local: true, registry: RegistryFlags::default() };
        let place = Place::of(&flags, &context, context.notices()).await.unwrap();
        let lock = std::fs::File::open(folder.path().join(".layerpull/locks/store")).unwrap();
        assert!(lock.try_lock().is_err());
        drop(place);
        lock.try_lock().unwrap();
    }
}
