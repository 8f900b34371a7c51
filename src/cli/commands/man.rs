//! `layerpull man`: manual pages.

use std::path::PathBuf;

use clap::CommandFactory as _;

use crate::cli::args::Cli;
use crate::cli::output::print;
use crate::error::Error;

/// Where they go.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write layerpull.1 and a page for each command into this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints the page of the program, or writes all pages.
///
/// # Errors
/// `Store` when the folder does not take them.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.dir {
        Some(dir) => {
            std::fs::create_dir_all(&dir).map_err(Error::store("make the folder", &dir))?;
            Ok(clap_mangen::generate_to(Cli::command(), &dir).map_err(Error::store("write manual pages into", &dir))?)
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            Ok(print(&String::from_utf8_lossy(&page))?)
        }
    }
}
