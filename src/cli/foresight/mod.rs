//! What a command would do, said before a byte of a blob moves: `layerpull plan`, and `--dry-run`.
//!
//! - `forecast`: bytes by host, and how long they take; `text`, `json`: the same for people and programs.
//! - `removals`: tags that `--delete` is about.

mod forecast;
mod json;
mod removals;
mod text;

use std::path::PathBuf;
use std::sync::Arc;

pub use removals::{Tell, removals};

use forecast::Forecast;

use super::ending::OutputFlags;
use super::exit::{self, Told};
use super::output::print;
use super::results::Direction;
use super::{Context, Format};
use crate::error::{Error, Result};
use crate::oci::{Digest, Reference};
use crate::store::{Space, Store};
use crate::transfer::{ImagePlan, Plan};

/// Whether a command only says what it would do.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct ForesightFlags {
    /// Say what would move, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Exit with 10 when there is something to do, with 0 when there is not (with --dry-run)
    #[arg(long)]
    exit_code: bool,
}

impl ForesightFlags {
    /// As `layerpull plan` sets them.
    pub fn planned(self) -> ForesightFlags {
        ForesightFlags { dry_run: true, ..self }
    }

    /// Whether nothing is to be changed.
    pub fn is_dry(&self) -> bool {
        self.dry_run
    }

    /// Whether nothing is to be changed.
    ///
    /// # Errors
    /// `Usage` when an exit code is asked for that only a plan has.
    pub fn check(&self) -> Result<bool> {
        match (self.dry_run, self.exit_code) {
            (false, true) => {
                Err(Error::Usage("--exit-code is about a plan: give --dry-run, too, or say `layerpull plan`".into()))
            }
            (dry_run, _) => Ok(dry_run),
        }
    }
}

/// What would happen.
pub struct Foresight {
    /// What would move.
    pub plan: Plan,
    /// Names that stay what they are, whatever the source has.
    pub kept: Vec<(Reference, Digest)>,
    /// Which way it would go.
    pub direction: Direction,
    /// Room on the disk, where blobs go to one.
    pub disk: Option<Disk>,
}

/// Room on a disk.
pub struct Disk {
    /// The store.
    pub path: PathBuf,
    /// What is needed, and what is there.
    pub space: Space,
}

impl Disk {
    /// What `plan` needs in `store`.
    ///
    /// # Errors
    /// `Store` when the system does not say.
    pub fn of(store: &Store, plan: &Plan) -> Result<Disk> {
        let mut space = store.space(plan.blobs.iter().map(|blob| (&blob.descriptor, blob.holding)))?;
        let mut counted = std::collections::HashSet::new();
        let manifests = plan.images.iter().flat_map(|image| &image.manifests);
        let bytes = manifests.filter(|raw| counted.insert(&raw.digest)).map(|raw| raw.bytes.len() as u64);
        space.needed = bytes.fold(space.needed, u64::saturating_add);
        Ok(Disk { path: store.root().to_owned(), space })
    }
}

impl Foresight {
    /// Prints it, tells failures, and says by the exit code whether there is something to do: `more` is what the plan
    /// does not know of.
    ///
    /// # Errors
    /// [`Told`] when something cannot be planned, or when there is something to do and the exit code was asked for;
    /// `Limit` when the run would be refused.
    pub fn conclude(
        &self,
        context: &Context,
        output: &OutputFlags,
        flags: ForesightFlags,
        more: Work,
    ) -> anyhow::Result<()> {
        let forecast = Forecast::of(&self.plan, &context.state, &context.settings.limiter);
        if let Some(format) = output.format() {
            print(&match format {
                Format::Json => json::lines(self, &forecast)?,
                Format::Text => text::page(self, &forecast),
            })?;
        }
        let failures: Vec<&Error> = self.plan.failed.iter().map(|(_, error)| Arc::as_ref(error)).collect();
        failures.iter().for_each(|error| exit::tell(error, &context.ground));
        let total = failures.len() + self.plan.images.len() + self.kept.len();
        if let Some(why) = context.settings.budget.refusal(self.plan.totals().planned) {
            return Err(Error::Limit(why).into());
        }
        let is_work = more == Work::Some || self.plan.images.iter().any(|image| !image.up_to_date);
        match exit::of_several(failures, total) {
            0 if flags.exit_code && is_work => Err(Told(exit::WORK).into()),
            0 => Ok(()),
            code => Err(Told(code).into()),
        }
    }

    /// The images, each with its blobs; a blob that an earlier image has, too, counts for that one.
    fn images(&self) -> Vec<(&ImagePlan, Vec<Listed<'_>>)> {
        let mut owners: Vec<Option<&ImagePlan>> = vec![None; self.plan.blobs.len()];
        let mut images = Vec::new();
        for image in &self.plan.images {
            let listed = image.blobs.iter().map(|&number| Listed { number, owner: owners[number] });
            images.push((image, listed.collect()));
            image.blobs.iter().for_each(|&number| _ = owners[number].get_or_insert(image));
        }
        images
    }
}

/// Whether there is something to do besides what the plan says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// There is.
    Some,
    /// There is not.
    None,
}

/// A blob in the list of an image.
struct Listed<'a> {
    /// Its place in the plan.
    number: usize,
    /// The image before this one that it counts for.
    owner: Option<&'a ImagePlan>,
}
