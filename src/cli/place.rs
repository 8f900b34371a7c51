//! From names and settings to places: a registry, the store.

use std::sync::Arc;

use super::Context;
use super::config::Settings;
use super::image::ImageFlags;
use super::patient::Patient;
use crate::content::Source;
use crate::error::Result;
use crate::event::Events;
use crate::local::{Layout, WithLocal};
use crate::oci::Reference;
use crate::registry::{self, Registry, Verify};
use crate::store::{Shared, Store};
use crate::transfer::Transfer;

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
    pub fn source(&self, name: &Reference) -> Result<Arc<dyn Source>> {
        match self {
            Place::Registry(registry, transfer) => {
                Ok(Arc::new(Patient { inner: Arc::new(registry.repository(name)?), transfer: transfer.clone() }))
            }
            Place::Store { store, .. } => Ok(Arc::new(store.clone())),
        }
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

async fn tags_in(store: &Store, name: &Reference) -> Result<Vec<String>> {
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

fn options(settings: &Settings) -> registry::Options {
    registry::Options {
        insecure: settings.insecure.value.clone(),
        verify: if settings.tls_verify.value { Verify::Usual } else { Verify::Never },
        ca_files: settings.ca_file.value.clone().into_iter().collect(),
        cert_dir: settings.cert_dir.value.clone(),
        authfile: settings.authfile.value.clone(),
        credential: settings.creds.value.clone(),
        stall: settings.stall_timeout.value,
        ..registry::Options::default()
    }
}

/// `source`, with the blobs of the layouts that the settings name before those of the network.
///
/// # Errors
/// When one of the folders is no image layout.
pub fn with_local(source: Arc<dyn Source>, settings: &Settings) -> Result<Arc<dyn Source>> {
    let folders = &settings.from.value;
    if folders.is_empty() {
        return Ok(source);
    }
    let layouts = folders.iter().map(|folder| Layout::open(folder)).collect::<Result<_>>()?;
    Ok(Arc::new(WithLocal { inner: source, layouts }))
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
        let context = Context { settings, cancel: CancellationToken::new(), guess: None };
        drop(store(&context, context.notices()).unwrap().share_to_write().await.unwrap());
        let flags = ImageFlags { platform: None, local: true, registry: RegistryFlags::default() };
        let place = Place::of(&flags, &context, context.notices()).await.unwrap();
        let lock = std::fs::File::open(folder.path().join(".layerpull/locks/store")).unwrap();
        assert!(lock.try_lock().is_err());
        drop(place);
        lock.try_lock().unwrap();
    }
}
