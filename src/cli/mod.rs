//! The commands: from words to settings, from settings to places, from events to what is shown.
//!
//! - `args`: which words are commands, which are images.
//! - `config`: flags, environment, file and defaults, each value with its origin.
//! - `engine`: from the store into docker, podman, containerd.
//! - `place`: from names to registries and the store; `transport`: to the other places that images are copied between,
//!   `picked` and `staging` for those that are archives.
//! - `commands`: one file a command.
//! - `packing`, `recompress`: what goes into an archive; `unpacking`, `spool`: archives into the store.
//! - `progress`: what happens, shown.
//! - `output`, `exit`: results, errors and exit codes.

mod args;
mod attached;
mod commands;
mod config;
mod digestfile;
mod draw;
mod ending;
mod engine;
mod exit;
mod foresight;
mod image;
mod naming;
mod output;
mod packing;
mod patient;
mod picked;
mod place;
mod progress;
mod recompress;
mod repair;
mod results;
mod signals;
mod spool;
mod staging;
mod template;
mod transport;
mod unpacking;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::event::Events;
use crate::oci::{Platform, Reference};
use crate::registry::Environment;
use crate::state::State;
use crate::transfer::Transfer;
use args::{Arranged, Cli, Command};
use commands::*;
use config::Settings;
use exit::Ground;
use output::{escape, note};
use signals::Signals;

/// Workers of the runtime, at most: hashing and the disk have threads of their own.
const MAX_WORKERS: usize = 4;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// What every command has.
pub(crate) struct Context {
    /// The settings in force.
    pub settings: Settings,
    /// Ends every wait.
    pub cancel: CancellationToken,
    /// Hints of former runs.
    pub state: Arc<State>,
    /// The first word of the command line, when it was taken for an image because no command has that name.
    pub guess: Option<String>,
    /// What advice may rely on.
    pub ground: Ground,
}

impl Context {
    /// The platform to look at where one is enough.
    fn platform(&self) -> Platform {
        self.settings.platform.value.first().cloned().unwrap_or_else(Platform::host)
    }

    /// Reads the name of an image.
    fn reference(&self, text: &str) -> Result<Reference> {
        Ok(place::of_registry(text)?.parse::<Reference>()?)
    }

    /// The patience that the settings give, for transfers and for small requests.
    fn transfer(&self, events: Events) -> Transfer {
        let (state, cancel) = (Arc::clone(&self.state), self.cancel.clone());
        Transfer { settings: self.settings.transfer(), events, state, cancel }
    }

    /// Shows what a person should know, for commands without progress.
    fn notices(&self) -> Events {
        Arc::new(progress::Notices)
    }
}

/// Runs the command that `words` (the program first) name. Returns the exit code of the process.
pub fn run(words: Vec<OsString>) -> ExitCode {
    let Arranged { words, guess } = args::arrange(words);
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    tracing_to_stderr(cli.common.verbose);
    ExitCode::from(match start(cli, guess) {
        Ok(code) => code,
        Err(error) => exit::report(&error, &exit::Ground::default()),
    })
}

/// Help and the version are results; anything else that clap says is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 })
}

fn start(cli: Cli, guess: Option<String>) -> anyhow::Result<u8> {
    let mut settings = Settings::gather(cli.flags(), &|name| std::env::var_os(name))?;
    if cli.command.is_plan() {
        settings.limit_alone();
    } else if let Err(error) = settings.limit() {
        let file = settings.limit_file.value.display().to_string();
        note(&format!("warning: the limit holds for this process alone: {}: {error}", escape(&file)));
    }
    let cancel = CancellationToken::new();
    let store = std::path::absolute(&settings.store.value).ok();
    let ground = Ground { store, left: cli.command.leaves() };
    let state = Arc::new(State::new(Environment::of_process().state_folder()));
    let context = Context { settings, cancel: cancel.clone(), state, guess, ground };
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, MAX_WORKERS));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let code = runtime.block_on(async {
        let signals = Signals::watch(cancel)?;
        let command = async {
            match dispatch(cli.command, &context).await {
                Ok(()) => 0,
                Err(error) => exit::report(&error, &context.ground),
            }
        };
        anyhow::Ok(signals.guard(command).await)
    });
    // What hangs in a read of a terminal or a slow disk must not keep the process.
    runtime.shutdown_background();
    code
}

async fn dispatch(command: Command, context: &Context) -> anyhow::Result<()> {
    match command {
        Command::Pull(args) => pull::run(args, context).await,
        Command::Push(args) => push::run(args, context).await,
        Command::Copy(args) => copy::run(*args, context).await,
        Command::Sync(args) => sync::run(args, context).await,
        Command::Plan(args) => plan::run(args, context).await,
        Command::Export(args) => export::run(args, context).await,
        Command::Import(args) => import::run(args, context).await,
        Command::Load(args) => load::run(args, context).await,
        Command::Inventory(args) => context.until_cancelled(inventory::run(args, context)).await,
        Command::Images(args) => context.until_cancelled(images::run(args, context)).await,
        Command::Inspect(args) => context.until_cancelled(inspect::run(args, context)).await,
        Command::Manifest(args) => context.until_cancelled(manifest::run(args, context)).await,
        Command::Hosts(args) => hosts::run(args, context),
        Command::Digest(args) => context.until_cancelled(digest::run(args, context)).await,
        Command::Tags(args) => context.until_cancelled(tags::run(args, context)).await,
        Command::Layers(args) => context.until_cancelled(layers::run(args, context)).await,
        Command::Catalog(args) => context.until_cancelled(catalog::run(args, context)).await,
        Command::Tag(args) => context.until_cancelled(tag::run(args, context)).await,
        Command::Delete(args) => context.until_cancelled(delete::run(args, context)).await,
        Command::Rm(args) => context.until_cancelled(rm::run(args, context)).await,
        Command::Gc(args) => gc::run(args, context).await,
        Command::Verify(args) => verify::run(args, context).await,
        Command::Login(args) => login::run(args, context).await,
        Command::Logout(args) => context.until_cancelled(logout::run(args, context)).await,
        Command::Serve(args) => serve::run(args, context).await,
        Command::Config(args) => commands::config::run(args, context),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::Version(args) => version::run(args),
    }
}

impl Context {
    /// Runs what does not watch for cancellation itself, and leaves it where it stands when asked to stop.
    async fn until_cancelled<T>(&self, command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        match self.cancel.run_until_cancelled(command).await {
            Some(result) => result,
            None => Err(Error::Interrupted.into()),
        }
    }
}

/// `-v` shows what is found out and decided on the way, `-vv` every request and its answer, too. An error that nobody else tells, as that of a server which
/// finds a damaged blob, is shown always.
fn tracing_to_stderr(verbosity: u8) {
    let level = match verbosity {
        0 => "layerpull=error",
        1 => "layerpull=debug",
        _ => "layerpull=trace",
    };
    let filter = tracing_subscriber::EnvFilter::new(level);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .init();
}
