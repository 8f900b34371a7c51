//! `layerpull verify`: every byte of the store checked again.

use std::collections::BTreeMap;

use crate::cli::config::{RegistryFlags, TransferFlags};
use crate::cli::exit::Told;
use crate::cli::output::{escape, json, note, print};
use crate::cli::place;
use crate::cli::progress::Progress;
use crate::cli::repair::{Fate, repair};
use crate::cli::{Context, Format};
use crate::error::Result;
use crate::event::Events;
use crate::store::{Broken, Damage, Store};

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
    let found = ended?;
    print(&match args.format {
        Format::Text => found.iter().map(|found| line(found) + "\n").collect(),
        Format::Json => json(&found.iter().map(object).collect::<Vec<_>>())?,
    })?;
    note(&verdict(&found));
    match found.iter().any(Found::is_broken) {
        false => Ok(()),
        true => Err(Told(BROKEN).into()),
    }
}

/// Something broken, and what became of it; `None` when nobody asked for repair.
struct Found {
    broken: Broken,
    fate: Option<Fate>,
}

impl Found {
    fn is_broken(&self) -> bool {
        !matches!(self.fate, Some(Fate::Fetched | Fate::Removed))
    }
}

async fn examine(args: &Args, context: &Context, store: &Store, events: Events) -> Result<Vec<Found>> {
    let shared = store.share().await?;
    let broken = store.verify().await?;
    drop(shared);
    let mut fates = match args.repair && !broken.is_empty() {
        true => repair(context, store, &broken, events).await?,
        false => BTreeMap::new(),
    };
    Ok(broken.into_iter().map(|broken| Found { fate: fates.remove(&broken.digest), broken }).collect())
}

fn line(found: &Found) -> String {
    let broken = &found.broken;
    let images = match broken.images.is_empty() {
        true => "no image needs it".into(),
        false => format!("needed by {}", escape(&broken.images.join(", "))),
    };
    let fate = match &found.fate {
        None => String::new(),
        Some(Fate::Fetched) => "; fetched again".into(),
        Some(Fate::Removed) => "; removed".into(),
        Some(Fate::Kept(why)) => format!("; cannot be fetched: {}", escape(why)),
    };
    format!("{}: {}; {images}{fate}", broken.digest, damage(&broken.damage))
}

fn damage(damage: &Damage) -> String {
    match damage {
        Damage::Missing => "missing".into(),
        Damage::Size { expected, found } => format!("{found} bytes where {expected} should be"),
        Damage::Digest { found } => format!("its bytes have digest {found}"),
        Damage::Unreadable(why) => escape(why),
    }
}

fn object(found: &Found) -> serde_json::Value {
    let broken = &found.broken;
    let (fate, why) = match &found.fate {
        None => (None, None),
        Some(Fate::Fetched) => (Some("fetched"), None),
        Some(Fate::Removed) => (Some("removed"), None),
        Some(Fate::Kept(why)) => (Some("kept"), Some(why)),
    };
    serde_json::json!({
        "digest": broken.digest, "damage": damage(&broken.damage), "images": broken.images, "repair": fate, "why": why,
    })
}

fn verdict(found: &[Found]) -> String {
    let count = |is: fn(&Fate) -> bool| found.iter().filter(|found| found.fate.as_ref().is_some_and(is)).count();
    match found.first() {
        None => "everything is what its digest names".into(),
        Some(Found { fate: None, .. }) => {
            format!("{} broken; `layerpull verify --repair` fetches again what images need", found.len())
        }
        Some(_) => {
            let fetched = count(|fate| *fate == Fate::Fetched);
            let removed = count(|fate| *fate == Fate::Removed);
            let kept = count(|fate| matches!(fate, Fate::Kept(_)));
            format!("{} broken: {fetched} fetched again, {removed} removed, {kept} cannot be fetched", found.len())
        }
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
}
