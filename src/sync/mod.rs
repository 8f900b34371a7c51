//! Files that name many images to mirror, what they select, the jobs that come of them, and what `--delete` may remove.
//!
//! Three forms are read: our own (TOML), skopeo's sync YAML and regsync's YAML. A key that asks for something that is
//! not done is an error that names its line, never left out silently. `docs/sync.md` has the forms for users.

pub mod delete;
mod native;
pub mod pattern;
mod regsync;
pub mod remove;
pub mod run;
pub mod select;
mod skopeo;
mod target;
mod tree;
pub mod version;
mod yaml;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use self::select::{Named, Patterns, Selection};
pub use self::target::{Destination, Repository, Scope};
use self::tree::{File, Node, Value};
use crate::error::{Error, Result};
use crate::oci::{InvalidReference, Platform, Reference};

/// A file of more bytes is refused unread.
pub const MAX_FILE: usize = 1024 * 1024;
/// Patterns and ranges in one file; each may need a quarter of a MiB.
const MAX_PATTERNS: usize = 500;
/// Pairs of a source and a target in one file.
const MAX_ENTRIES: usize = 20_000;

/// What a file asks for.
#[derive(Debug)]
pub struct Mirror {
    /// The form that the file has.
    pub form: Form,
    /// The repositories, in the order of the file. Several may have the same target.
    pub entries: Vec<Entry>,
    /// How to talk to registries, by their names; those of the command line come first.
    pub registries: BTreeMap<String, RegistryOptions>,
    /// Keys that are understood and have no effect here.
    pub notes: Vec<Note>,
}

/// A form of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Our TOML.
    Native,
    /// The YAML of `skopeo sync --src yaml` (skopeo-sync(1) of skopeo 1.20).
    Skopeo,
    /// The YAML of regsync, version 1 (regclient v0.11).
    Regsync,
}

/// One repository and where it goes.
#[derive(Debug)]
pub struct Entry {
    /// The line that it stands on, from 1.
    pub line: usize,
    /// Where the images come from.
    pub source: Repository,
    /// Where they go.
    pub target: Repository,
    /// Which of them.
    pub selection: Selection,
    /// What of each.
    pub platforms: Platforms,
    /// What goes along.
    pub attachments: Attachments,
}

impl Entry {
    /// Whether the source must be asked for its tags.
    pub fn needs_list(&self) -> bool {
        self.selection.needs_list() || self.attachments.are_named()
    }

    /// What is asked for at the source, and what it is called at the target, for one image of the selection.
    ///
    /// # Errors
    /// When a tag is none.
    pub fn ends(&self, named: &Named) -> Result<(Reference, Reference), InvalidReference> {
        Ok(match named {
            Named::Tag { source, target } => (self.source.tagged(source)?, self.target.tagged(target)?),
            Named::Digest { source, target: Some(tag) } => (self.source.at(source)?, self.target.tagged(tag)?),
            Named::Digest { source, target: None } => (self.source.at(source)?, self.target.at(source)?),
        })
    }
}

/// What of an image that has several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    /// All, and the index as it is.
    Whole,
    /// An index of these alone.
    Only(Vec<Platform>),
    /// The manifest of this platform without an index (regsync's `platform`).
    Single(Platform),
}

/// What is attached to an image and goes along with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachments {
    /// Nothing.
    None,
    /// What the referrers API or its fallback tag lists.
    Referrers,
    /// What tags such as cosign's `sha256-….sig` name.
    DigestTags,
    /// Both.
    All,
}

impl Attachments {
    /// Whether the source's tags tell what goes along.
    pub fn are_named(self) -> bool {
        matches!(self, Attachments::DigestTags | Attachments::All)
    }

    /// Whether manifests that name an image as their subject go along.
    pub fn have_subjects(self) -> bool {
        matches!(self, Attachments::Referrers | Attachments::All)
    }

    /// Whether tags that name a digest go along: cosign's, and the fallback tags of referrers.
    pub fn include_tags(self) -> bool {
        self != Attachments::None
    }
}

/// How to talk to one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// TLS, if the file says something about it.
    pub tls: Option<Tls>,
    /// A folder with `*.crt`, `*.cert` and `*.key`.
    pub cert_dir: Option<PathBuf>,
    /// A name and a password.
    pub credentials: Option<Credentials>,
}

/// How a registry is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// HTTPS with a certificate that is verified.
    Verified,
    /// HTTPS with any certificate, or plain HTTP.
    Insecure,
    /// Plain HTTP.
    Disabled,
}

/// A name and a password that stand in the file.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name of the user.
    pub username: String,
    /// The password; never shown.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:…", self.username)
    }
}

/// A key that is understood and has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The line of the key, from 1.
    pub line: usize,
    /// The key, and why it has no effect.
    pub text: String,
}

/// What a file needs from outside.
pub struct Context<'a> {
    /// The destination of the command line, which skopeo's form needs and the others do not take.
    pub destination: Option<Destination>,
    /// The environment, for `{{env "NAME"}}` in regsync's form.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

/// Reads the file at `path`, whose content is `bytes`, in whichever form it has.
///
/// # Errors
/// `Usage`, beginning with `path:line:`, when it is in none of the forms, asks for what is not done, exceeds a bound,
/// or lets two sources meet in one target.
pub fn read(path: &Path, bytes: &[u8], context: &Context<'_>) -> Result<Mirror> {
    let reading = Reading { file: File(path), context, compiled: Cell::new(0) };
    let file = reading.file;
    if bytes.len() > MAX_FILE {
        return Err(Error::Usage(format!("{}: larger than {MAX_FILE} bytes", path.display())));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        file.error(line, "this is no UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mirror = if looks_like_toml(text) {
        native::read(&reading, &tree::from_toml(file, text)?)?
    } else {
        let root = yaml::parse(file, text)?;
        match is_regsync(&root) {
            true => regsync::read(&reading, &root)?,
            false => skopeo::read(&reading, &root)?,
        }
    };
    match mirror.entries.len() {
        0 => return Err(file.error(1, "no image is named")),
        MAX_ENTRIES.. => return Err(file.error(1, format_args!("{MAX_ENTRIES} repositories or more"))),
        _ => {}
    }
    target::check(file, &mirror.entries)?;
    Ok(mirror)
}

/// Whether the first line that says something is a header or an assignment.
fn looks_like_toml(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| match line.find(['=', ':']) {
        _ if line.starts_with('[') => true,
        Some(at) => line[at..].starts_with('='),
        None => false,
    })
}

/// regsync's top-level keys can be no registries: they have no dot.
fn is_regsync(root: &Node) -> bool {
    let Value::Table(entries) = &root.value else { return false };
    entries.iter().any(|(key, _)| matches!(key.name.as_str(), "version" | "sync" | "creds" | "defaults"))
}

/// One file being read.
struct Reading<'a> {
    file: File<'a>,
    context: &'a Context<'a>,
    compiled: Cell<usize>,
}

impl Reading<'_> {
    /// Compiles a pattern or a range that stands at `line`.
    fn compile<T, E: fmt::Display>(&self, line: usize, compile: impl FnOnce() -> Result<T, E>) -> Result<T> {
        self.compiled.set(self.compiled.get() + 1);
        if self.compiled.get() > MAX_PATTERNS {
            return Err(self.file.error(line, format_args!("more than {MAX_PATTERNS} patterns in one file")));
        }
        self.file.at(line, compile())
    }

    /// A list of patterns or ranges.
    fn compile_all<T, E: fmt::Display>(&self, node: &Node, compile: impl Fn(&str) -> Result<T, E>) -> Result<Vec<T>> {
        let texts = self.file.one_or_more(node)?;
        texts.into_iter().map(|(line, text)| self.compile(line, || compile(text))).collect()
    }

    fn platform(&self, line: usize, text: &str) -> Result<Platform> {
        self.file.at(line, text.parse())
    }

    /// The destination, which only skopeo's form takes.
    fn refuse_destination(&self) -> Result<()> {
        match &self.context.destination {
            None => Ok(()),
            Some(destination) => Err(self.file.error(
                1,
                format_args!("the file names its own targets: leave out the destination {:?}", destination.prefix),
            )),
        }
    }

    /// Adds what the file says about a registry; twice the same is fine.
    fn options(
        &self,
        line: usize,
        registries: &mut BTreeMap<String, RegistryOptions>,
        registry: String,
        options: RegistryOptions,
    ) -> Result<()> {
        match registries.get(&registry) {
            Some(other) if *other != options => {
                Err(self.file.error(line, format_args!("{registry}: other options than further up in the file")))
            }
            _ => {
                registries.insert(registry, options);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
