//! The command: parse, run, turn an error into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    layerpull::cli::run(std::env::args_os().collect())
}
