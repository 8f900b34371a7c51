//! `layerpull rm`: removes names from the store.

use crate::cli::Context;
use crate::cli::exit::{self, Told};
use crate::cli::output::{escape, print};
use crate::cli::place;
use crate::error::Result;
use crate::store::Store;

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
    let store = place::store(context, context.notices())?;
    // A gc would take away the new index before it is in its place.
    let _shared = store.share().await?;
    let mut failures = Vec::new();
    for text in &args.images {
        match remove(&store, text, context).await {
            Ok(gone) => print(&gone.iter().map(|name| format!("Untagged: {}\n", escape(name))).collect::<String>())?,
            Err(error) => {
                exit::tell(&error, &context.ground);
                failures.push(error);
            }
        }
    }
    match exit::of_several(&failures, args.images.len()) {
        0 => Ok(()),
        code => Err(Told(code).into()),
    }
}

/// Removes what `images` shows as `text`, else what goes by that reference. Returns the names that are gone.
async fn remove(store: &Store, text: &str, context: &Context) -> Result<Vec<String>> {
    let gone = store.remove_entered(text).await?;
    if gone.is_empty() {
        let name = context.reference(text)?;
        store.remove(&name).await?;
        return Ok(vec![name.to_string()]);
    }
    Ok(gone.into_iter().map(|entry| entry.name.unwrap_or_else(|| entry.root.descriptor.digest.to_string())).collect())
}
