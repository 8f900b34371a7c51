//! `layerpull rm`: removes names from the store.

use crate::cli::Context;
use crate::cli::exit::{self, Told};
use crate::cli::output::print;
use crate::cli::place;
use crate::oci::Reference;

/// Which images.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Images whose names are removed; `gc` frees the space
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Removes the names.
///
/// # Errors
/// `NotFound` for a name that is not there; the others are removed all the same.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let names: Vec<Reference> = args.images.iter().map(|text| context.reference(text)).collect::<Result<_, _>>()?;
    let store = place::store(context, context.notices())?;
    // A gc would take away the new index before it is in its place.
    let _shared = store.share().await?;
    let mut failures = Vec::new();
    for name in &names {
        match store.remove(name).await {
            Ok(_) => print(&format!("Untagged: {name}\n"))?,
            Err(error) => {
                exit::tell(&error);
                failures.push(error);
            }
        }
    }
    match exit::of_several(&failures, names.len()) {
        0 => Ok(()),
        code => Err(Told(code).into()),
    }
}
