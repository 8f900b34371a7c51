//! `layerpull verify`: every byte of the store checked again.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cli::config::{RegistryFlags, TransferFlags};
use crate::cli::exit::{self, Told};
use crate::cli::output::{escape, json, note, print};
use crate::cli::place::{self, registry, with_local};
use crate::cli::progress::Progress;
use crate::cli::{Context, Format};
use crate::content::Sink;
use crate::error::Result;
use crate::event::Events;
use crate::store::{Broken, Damage, Store};
use crate::transfer::{Job, Platforms};

/// What is done about it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Fetch what is broken again
    #[arg(long)]
    repair: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// How blobs are moved.
    #[command(flatten)]
    pub transfer: TransferFlags,
}

/// The exit code when something is broken.
const BROKEN: u8 = 6;

/// Verifies, and repairs when asked to.
///
/// # Errors
/// [`Told`] when something is broken and stays so; those of the store and of registries.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let progress = Progress::start(context.settings.progress.value);
    let events = progress.events();
    let store = place::store(context, events.clone())?;
    let ended = examine(&args, context, &store, events).await;
    progress.finish();
    let (broken, left) = ended?;
    print(&match args.format {
        Format::Text => broken.iter().map(|broken| line(broken) + "\n").collect(),
        Format::Json => json(&broken.iter().map(object).collect::<Vec<_>>())?,
    })?;
    note(&verdict(broken.len(), left.len()));
    match left.len() {
        0 => Ok(()),
        _ => Err(Told(BROKEN).into()),
    }
}

/// What was broken, and what still is.
async fn examine(args: &Args, context: &Context, store: &Store, events: Events) -> Result<(Vec<Broken>, Vec<Broken>)> {
    let shared = store.share().await?;
    let broken = store.verify().await?;
    drop(shared);
    if !args.repair || broken.is_empty() {
        return Ok((broken.clone(), broken));
    }
    repair(context, store, &broken, events).await?;
    let left = store.verify().await?;
    Ok((broken, left))
}

async fn repair(context: &Context, store: &Store, broken: &[Broken], events: Events) -> Result<()> {
    let _shared = store.share_to_write().await?;
    let wanted: BTreeSet<&str> = broken.iter().flat_map(|broken| &broken.images).map(String::as_str).collect();
    let registry = registry(&context.settings, events.clone());
    let sink: Arc<dyn Sink> = Arc::new(store.clone());
    let mut jobs = Vec::new();
    for image in store.images().await? {
        let is_wanted = image.name.as_deref().is_some_and(|name| wanted.contains(name));
        let Some(name) = image.reference.filter(|_| is_wanted) else { continue };
        // What is here is fetched again, though the tag may point elsewhere by now.
        let pinned = name.at(image.root.digest.clone());
        let platforms = match store.tagged(&name).await?.and_then(|root| root.platforms) {
            Some(platforms) => Platforms::Only(platforms),
            None => Platforms::All,
        };
        let source = with_local(Arc::new(registry.repository(&name)?), &context.settings)?;
        jobs.push(Job { name: pinned, target: name, source, sink: Arc::clone(&sink), platforms });
    }
    for broken in broken {
        store.remove_broken(broken).await?;
    }
    let transfer = context.transfer(events);
    let plan = transfer.plan(jobs).await?;
    let report = transfer.run(plan).await?;
    report.images.iter().filter_map(|image| image.result.as_ref().err()).for_each(|error| exit::tell(error));
    Ok(())
}

fn line(broken: &Broken) -> String {
    let images = match broken.images.is_empty() {
        true => "no image needs it".into(),
        false => format!("needed by {}", escape(&broken.images.join(", "))),
    };
    format!("{}: {}; {images}", broken.digest, damage(&broken.damage))
}

fn damage(damage: &Damage) -> String {
    match damage {
        Damage::Missing => "missing".into(),
        Damage::Size { expected, found } => format!("{found} bytes where {expected} should be"),
        Damage::Digest { found } => format!("its bytes have digest {found}"),
        Damage::Unreadable(why) => escape(why),
    }
}

fn object(broken: &Broken) -> serde_json::Value {
    serde_json::json!({"digest": broken.digest, "damage": damage(&broken.damage), "images": broken.images})
}

fn verdict(broken: usize, left: usize) -> String {
    match (broken, left) {
        (0, _) => "everything is what its digest names".into(),
        (_, 0) => format!("{broken} broken, all fetched again"),
        _ => format!("{left} broken; `layerpull verify --repair` fetches again what images need"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_damage_is_told_in_words() {
        let found = crate::oci::Digest::of(b"");
        assert_eq!(damage(&Damage::Size { expected: 10, found: 3 }), "3 bytes where 10 should be");
        assert_eq!(damage(&Damage::Digest { found: found.clone() }), format!("its bytes have digest {found}"));
        assert_eq!(damage(&Damage::Unreadable("x\u{1b}".into())), "x\\u{1b}");
    }

    #[test]
    fn the_verdict_counts_what_is_still_broken() {
        assert_eq!(verdict(0, 0), "everything is what its digest names");
        assert_eq!(verdict(3, 0), "3 broken, all fetched again");
        assert!(verdict(3, 1).starts_with("1 broken; `layerpull verify --repair`"));
    }
}
