//! `layerpull delete`: tags and manifests of registries.

use std::cell::Cell;

use crate::cli::Context;
use crate::cli::config::RegistryFlags;
use crate::cli::exit::{self, Told};
use crate::cli::naming::{self, Naming};
use crate::cli::output::{escape, note, print};
use crate::cli::place::registry;
use crate::content::Source as _;
use crate::error::{Error, Result};
use crate::oci::{Digest, Reference};
use crate::registry::{Deletion, Registry};
use crate::transfer::Transfer;

/// Which images.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tags that are removed, or manifests (REPOSITORY@DIGEST) that are deleted
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Delete a manifest also when other tags name it, which then go too, or an index lists it
    #[arg(long)]
    force: bool,
    /// Which registry and how.
    #[command(flatten)]
    pub registry: RegistryFlags,
}

/// Deletes.
///
/// # Errors
/// `NotFound` for what is not there; `Refused` where something else needs the manifest, or the registry deletes nothing.
/// The other images are deleted all the same.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let names = args.images.iter().map(|text| context.reference(text)).collect::<Result<Vec<_>>>()?;
    let registry = registry(&context.settings, context.notices());
    let guard = if args.force { Guard::Off } else { Guard::On };
    let deleting = Deleting { registry, transfer: context.transfer(context.notices()), guard };
    let mut failures = Vec::new();
    for name in &names {
        match deleting.delete(name).await {
            Ok(gone) => print(&gone)?,
            Err(error) => {
                exit::tell(&error, &context.ground);
                failures.push(error);
            }
        }
    }
    match exit::of_several(&failures, names.len()) {
        0 => Ok(()),
        code => Err(Told(code).into()),
    }
}

/// Whether what something else needs is left.
#[derive(Clone, Copy, PartialEq)]
enum Guard {
    On,
    Off,
}

struct Deleting {
    registry: Registry,
    transfer: Transfer,
    guard: Guard,
}

impl Deleting {
    /// Takes a tag away, or with it the whole manifest where the registry cannot do less. Returns what to print.
    async fn delete(&self, name: &Reference) -> Result<String> {
        if let Some(digest) = name.digest() {
            return self.manifest(name, digest).await;
        }
        match self.attempt(name).await? {
            Deletion::Done => Ok(format!("Untagged: {name}\n")),
            Deletion::Unsupported => {
                let repository = self.registry.repository_to_write(name);
                let root = self.transfer.persist(&name.to_string(), || repository.resolve(name)).await?;
                self.manifest(name, &root.digest).await
            }
        }
    }

    async fn manifest(&self, name: &Reference, digest: &Digest) -> Result<String> {
        let naming = naming::of(&self.registry, &self.transfer, name, digest).await?;
        if self.guard == Guard::On && !naming.is_free() {
            return Err(Error::Refused { what: name.to_string(), why: refusal(digest, &naming) });
        }
        let whole = name.at(digest.clone());
        match self.attempt(&whole).await? {
            Deletion::Done => {}
            Deletion::Unsupported => {
                let why = "the registry deletes nothing: it cannot, or whoever runs it does not allow it";
                return Err(Error::Refused { what: name.to_string(), why: why.into() });
            }
        }
        for tag in &naming.listing {
            note(&format!("warning: the index {}:{} is not whole any more", name.name(), escape(tag)));
        }
        let own = name.tag().filter(|_| naming.is_own).map(str::to_owned);
        let untagged = own.iter().chain(&naming.tags);
        let lines: String = untagged.map(|tag| format!("Untagged: {}:{}\n", name.name(), escape(tag))).collect();
        Ok(format!("{lines}Deleted: {whole}\n"))
    }

    /// One deletion. What is gone when it is asked for again was deleted, and the answer lost.
    async fn attempt(&self, name: &Reference) -> Result<Deletion> {
        let attempts = Cell::new(0);
        let attempt = || {
            attempts.set(attempts.get() + 1);
            self.registry.delete(name)
        };
        match self.transfer.persist(&name.to_string(), attempt).await {
            Err(Error::NotFound { .. }) if attempts.get() > 1 => Ok(Deletion::Done),
            result => result,
        }
    }
}

/// What else would be lost.
fn refusal(digest: &Digest, naming: &Naming) -> String {
    /// More are only counted.
    const SHOWN: usize = 20;
    let list = |tags: &[String]| {
        let more = tags.len().saturating_sub(SHOWN);
        let shown = tags.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    };
    let mut reasons = Vec::new();
    if !naming.tags.is_empty() {
        reasons.push(format!("it is also tagged {}", list(&naming.tags)));
    }
    if !naming.listing.is_empty() {
        reasons.push(format!("it is listed in the index tagged {}", list(&naming.listing)));
    }
    if let Some((tag, error)) = &naming.unknown {
        reasons.push(format!("what the tag {tag} needs could not be found out ({error})"));
    }
    format!(
        "only the whole manifest {digest} can be deleted, and {}. Nothing was deleted; --force deletes it all the same",
        reasons.join("; ")
    )
}
