//! `layerpull completions`: for bash, zsh, fish, PowerShell and Elvish.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::args::Cli;
use crate::cli::output::print;

/// For which shell.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// When standard output does not take it.
pub fn run(args: Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "layerpull", &mut script);
    Ok(print(&String::from_utf8_lossy(&script))?)
}
