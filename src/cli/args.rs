//! The command line: which words are commands, which are images.

use std::ffi::{OsStr, OsString};

use clap::{Command as Clap, CommandFactory as _, Parser, Subcommand};

use super::commands::{
    catalog, completions, config, copy, delete, digest, export, gc, hosts, images, import, inspect, inventory, layers,
    load, login, logout, man, manifest, plan, pull, push, rm, serve, sync, tag, tags, verify, version,
};
use super::config::{Common, Flags};
use super::exit::Left;

/// The command that has commands of its own.
const PLAN: &str = "plan";

const AFTER_HELP: &str = "\
`layerpull IMAGE…` is `layerpull pull IMAGE…`. A first word with a colon,
a slash or an at sign is always an image.

Exit codes: 0 done, 1 other, 2 usage, 3 not found, 4 not authorised,
5 network, 6 verification failed, 7 store or disk, 8 limit reached,
9 some of several failed, 10 a plan has work, 130 interrupted,
143 terminated.";

/// Bring container images here and move only what is missing
#[derive(Debug, Parser)]
#[command(name = "layerpull", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[allow(clippy::large_enum_variant, reason = "there is one of it in a process")]
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring images into the store
    Pull(pull::Args),
    /// Bring images of the store to a registry
    Push(push::Args),
    /// Copy an image from one place to another
    #[command(visible_alias = "cp")]
    Copy(Box<copy::Args>),
    /// Mirror the images that a file names
    Sync(sync::Args),
    /// Say what a command would move, from where, and how long it would take
    Plan(plan::Args),
    /// Write images into an archive, for places without a network
    #[command(visible_alias = "save")]
    Export(export::Args),
    /// Bring the images of archives into the store
    Import(import::Args),
    /// Load images of the store into an engine, or an archive into the store
    Load(load::Args),
    /// List what the store or an engine has, for exports that leave it out
    Inventory(inventory::Args),
    /// List the images of the store
    #[command(visible_alias = "ls")]
    Images(images::Args),
    /// Describe an image
    Inspect(inspect::Args),
    /// Print the manifest of an image as it is
    Manifest(manifest::Args),
    /// Print the digest that a name points to
    Digest(digest::Args),
    /// List the hosts that would be asked for an image, and which file says so
    Hosts(hosts::Args),
    /// List the tags of a repository
    Tags(tags::Args),
    /// Draw the layers of images and what they share
    Layers(layers::Args),
    /// List the repositories of a registry
    Catalog(catalog::Args),
    /// Give an image of the store, or of a repository, another name
    Tag(tag::Args),
    /// Delete tags and manifests at a registry
    Delete(delete::Args),
    /// Remove names from the store
    Rm(rm::Args),
    /// Free the space of what no image of the store needs
    Gc(gc::Args),
    /// Check every byte of the store
    Verify(verify::Args),
    /// Keep credentials for a registry
    Login(login::Args),
    /// Forget the credentials for a registry
    Logout(logout::Args),
    /// Serve the store as a registry
    Serve(serve::Args),
    /// Show every setting and where it came from
    Config(config::Args),
    /// Print completions for a shell
    #[command(visible_alias = "completion")]
    Completions(completions::Args),
    /// Print the manual page, or write all of them
    Man(man::Args),
    /// Print the version
    Version(version::Args),
}

impl Cli {
    /// Everything that is a setting too.
    pub fn flags(&self) -> Flags {
        let common = self.common.clone();
        let flags = Flags { common, ..Flags::default() };
        match &self.command {
            Command::Pull(args) => args.flags(flags),
            Command::Push(args) => args.flags(flags),
            Command::Copy(args) => args.flags(flags),
            Command::Sync(args) => args.flags(flags),
            Command::Plan(args) => args.flags(flags),
            Command::Export(args) => args.flags(flags),
            Command::Import(args) => Flags { transfer: args.how.transfer.clone(), ..flags },
            Command::Load(args) => {
                let platform = args.platform.clone().into_iter().collect();
                Flags { transfer: args.how.transfer.clone(), platform, ..flags }
            }
            Command::Inspect(args) => args.image.flags(flags),
            Command::Manifest(args) => args.image.flags(flags),
            Command::Digest(args) => args.image.flags(flags),
            Command::Layers(args) => args.image.flags(flags),
            Command::Hosts(args) => Flags { registry: args.registry.clone(), ..flags },
            Command::Tags(args) => Flags { registry: args.registry.clone(), ..flags },
            Command::Catalog(args) => Flags { registry: args.registry.clone(), ..flags },
            Command::Tag(args) => Flags { registry: args.registry.clone(), ..flags },
            Command::Delete(args) => Flags { registry: args.registry.clone(), ..flags },
            Command::Login(args) => Flags { registry: args.registry.clone(), ..flags },
            Command::Logout(args) => Flags { registry: args.flags(), ..flags },
            Command::Verify(args) => {
                Flags { registry: args.registry.clone(), transfer: args.transfer.clone(), ..flags }
            }
            Command::Serve(args) => Flags { listen: args.listen, ..flags },
            Command::Config(args) => args.flags(flags),
            _ => flags,
        }
    }
}

impl Command {
    /// Whether it only says what another command would do, and so changes nothing.
    pub fn is_plan(&self) -> bool {
        match self {
            Command::Plan(_) => true,
            Command::Pull(args) => args.is_dry(),
            Command::Push(args) => args.is_dry(),
            Command::Copy(args) => args.is_dry(),
            Command::Sync(args) => args.is_dry(),
            _ => false,
        }
    }

    /// What is left when it fails.
    pub fn leaves(&self) -> Left {
        match self {
            _ if self.is_plan() => Left::Nothing,
            Command::Pull(_) | Command::Push(_) | Command::Copy(_) | Command::Sync(_) | Command::Verify(_) => {
                Left::Received
            }
            Command::Export(_) | Command::Import(_) | Command::Load(_) => Left::Received,
            _ => Left::Nothing,
        }
    }
}

/// Brings the words into the order that clap expects: the command first. A first word that is no command, or that
/// looks like an image, belongs to `pull`; flags may stand before it.
pub fn arrange(words: Vec<OsString>) -> Arranged {
    let clap = Cli::command();
    let flags = Valued::of(&clap);
    let arranged = arrange_behind(1, words, &flags, &command_names(&clap));
    match clap.find_subcommand(PLAN).filter(|_| arranged.words.get(1).is_some_and(|word| word == PLAN)) {
        // A pull need not be named there, either.
        Some(plan) => arrange_behind(2, arranged.words, &flags, &command_names(plan)),
        None => arranged,
    }
}

/// Brings the command among the words from number `start` to their beginning.
fn arrange_behind(start: usize, words: Vec<OsString>, flags: &Valued, commands: &[String]) -> Arranged {
    let mut arranged = words;
    match first_word(arranged.get(start..).unwrap_or_default(), flags) {
        Some(First::Word(at)) if is_command(&arranged[at + start], commands) => {
            arranged[start..=at + start].rotate_right(1);
            Arranged { words: arranged, guess: None }
        }
        Some(First::Word(at)) => {
            let guess = arranged[at + start].to_str().map(str::to_owned);
            arranged.insert(start, "pull".into());
            Arranged { words: arranged, guess }
        }
        Some(First::AfterDashes) => {
            arranged.insert(start, "pull".into());
            Arranged { words: arranged, guess: None }
        }
        None => Arranged { words: arranged, guess: None },
    }
}

/// The words in clap's order.
#[derive(Debug, PartialEq)]
pub struct Arranged {
    /// The words, the program first.
    pub words: Vec<OsString>,
    /// The first word, when it was taken for an image because no command has that name.
    pub guess: Option<String>,
}

/// The command that `word`, which is no image, may have meant.
pub fn meant(word: &str) -> Option<String> {
    let clap = Cli::command();
    super::config::nearest(word, command_names(&clap).iter().map(String::as_str)).map(str::to_owned)
}

enum First {
    /// The first word that is neither a flag nor the value of one.
    Word(usize),
    /// There is none before `--`.
    AfterDashes,
}

fn first_word(words: &[OsString], flags: &Valued) -> Option<First> {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        match word.to_str() {
            Some("--") => return (at + 1 < words.len()).then_some(First::AfterDashes),
            Some(flag) if flag.len() > 1 && flag.starts_with('-') => at += if flags.takes_next(flag) { 2 } else { 1 },
            _ => return Some(First::Word(at)),
        }
    }
    None
}

fn is_command(word: &OsStr, commands: &[String]) -> bool {
    commands.iter().any(|command| word == command.as_str())
}

fn command_names(clap: &Clap) -> Vec<String> {
    let of = |command: &Clap| -> Vec<String> {
        std::iter::once(command.get_name()).chain(command.get_all_aliases()).map(str::to_owned).collect()
    };
    clap.get_subcommands().flat_map(of).chain(["help".into()]).collect()
}

/// The flags, of whatever command, whose value is the next word.
struct Valued {
    long: Vec<String>,
    short: Vec<char>,
}

impl Valued {
    fn of(clap: &Clap) -> Valued {
        let all = || clap.get_subcommands().chain([clap]).flat_map(Clap::get_arguments);
        let valued = || all().filter(|arg| arg.get_action().takes_values() && !arg.is_require_equals_set());
        let longs = valued().flat_map(|arg| arg.get_long_and_visible_aliases().unwrap_or_default());
        let shorts = valued().flat_map(|arg| arg.get_short_and_visible_aliases().unwrap_or_default());
        Valued { long: longs.map(str::to_owned).collect(), short: shorts.collect() }
    }

    /// Whether the word behind `flag` (`--name`, `--name=value`, `-n`, `-nvalue`) is its value.
    fn takes_next(&self, flag: &str) -> bool {
        match flag.strip_prefix("--") {
            Some(long) => self.long.iter().any(|name| name == long),
            None => {
                let cluster = &flag[1..];
                let valued = cluster.char_indices().find(|(_, c)| self.short.contains(c));
                valued.is_some_and(|(at, c)| at + c.len_utf8() == cluster.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arranged(words: &str) -> String {
        let words = std::iter::once("layerpull").chain(words.split_whitespace()).map(OsString::from).collect();
        let words: Vec<String> = arrange(words).words.into_iter().map(|word| word.into_string().unwrap()).collect();
        words[1..].join(" ")
    }

    #[test]
    fn an_image_alone_is_pulled() {
        assert_eq!(arranged("mysql:8"), "pull mysql:8");
        assert_eq!(arranged("nginx httpd"), "pull nginx httpd");
        assert_eq!(arranged("nginx images"), "pull nginx images");
        assert_eq!(arranged("images:1"), "pull images:1");
        assert_eq!(arranged("h.example/pull"), "pull h.example/pull");
        assert_eq!(arranged("pul"), "pull pul");
    }

    #[test]
    fn a_command_stays_one() {
        assert_eq!(arranged("images"), "images");
        assert_eq!(arranged("pull pull"), "pull pull");
        assert_eq!(arranged("help tags"), "help tags");
        assert_eq!(arranged("completion bash"), "completion bash");
    }

    #[test]
    fn an_image_alone_is_planned_to_be_pulled() {
        assert_eq!(arranged("plan mysql:8"), "plan pull mysql:8");
        assert_eq!(arranged("plan --exit-code -j 4 mysql:8"), "plan pull --exit-code -j 4 mysql:8");
        assert_eq!(arranged("--store /s plan --dry-run push x"), "plan push --store /s --dry-run x");
        assert_eq!(arranged("plan cp a b"), "plan cp a b");
        assert_eq!(arranged("plan --help"), "plan --help");
        assert_eq!(arranged("pull plan"), "pull plan");
    }

    #[test]
    fn flags_may_stand_before_the_word() {
        assert_eq!(arranged("--store images mysql"), "pull --store images mysql");
        assert_eq!(arranged("--store=/s images"), "images --store=/s");
        assert_eq!(arranged("--insecure tags x"), "tags --insecure x");
        assert_eq!(arranged("-q --platform linux/arm64 x"), "pull -q --platform linux/arm64 x");
        assert_eq!(arranged("-qj 4 x"), "pull -qj 4 x");
        assert_eq!(arranged("-j4 gc"), "gc -j4");
        assert_eq!(arranged("--tls-verify=false x"), "pull --tls-verify=false x");
    }

    #[test]
    fn flags_alone_are_left_alone() {
        assert_eq!(arranged("--help"), "--help");
        assert_eq!(arranged("-V"), "-V");
        assert_eq!(arranged(""), "");
        assert_eq!(arranged("--store"), "--store");
        assert_eq!(arranged("-- images"), "pull -- images");
    }

    #[test]
    fn a_word_that_is_nearly_a_command_is_recognised() {
        assert_eq!(meant("pul"), Some("pull".into()));
        assert_eq!(meant("inspcet"), Some("inspect".into()));
        assert_eq!(meant("mysql"), None);
    }

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_states_the_defaults_that_are_in_force() {
        let defaults = crate::transfer::Settings::default();
        let help = Cli::command().find_subcommand_mut("pull").unwrap().render_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let stated = |flag: &str| help.split(flag).nth(1).unwrap().split("[default: ").nth(1).unwrap().to_owned();
        assert!(stated("--jobs").starts_with(&format!("{}]", defaults.jobs)));
        assert!(stated("--streams").starts_with(&format!("{}]", defaults.streams)));
        assert!(stated("--retries").starts_with(&format!("{}]", defaults.retries)));
        assert!(stated("--stall-timeout").starts_with(&format!("{}s]", defaults.stall.as_secs())));
    }

    #[test]
    fn a_flag_takes_a_value_in_every_command_or_in_none() {
        let clap = Cli::command();
        let all = || clap.get_subcommands().chain([&clap]).flat_map(Clap::get_arguments);
        for arg in all() {
            let name = arg.get_long();
            let same = all().filter(|other| name.is_some() && other.get_long() == name);
            for other in same {
                assert_eq!(other.get_action().takes_values(), arg.get_action().takes_values(), "{name:?}");
            }
        }
    }
}
