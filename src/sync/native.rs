//! Our own form: TOML, a few keys, defaults at the top. `docs/sync.md` documents every key.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use super::pattern::Pattern;
use super::select::{Named, Patterns, Selection};
use super::target::{Repository, Template};
use super::tree::{Key, Node};
use super::version::{Dialect, Range};
use super::{Attachments, Entry, Form, Mirror, Platforms, Reading, RegistryOptions, Tls};
use crate::error::Result;
use crate::oci::{Digest, Platform, is_tag};

const TOP: [&str; 6] = ["target", "strip-prefix", "platforms", "referrers", "registry", "sync"];
const REGISTRY: [&str; 2] = ["tls", "cert-dir"];
const SYNC: [&str; 13] = [
    "source",
    "repositories",
    "tags",
    "digests",
    "glob",
    "regex",
    "semver",
    "newest",
    "exclude",
    "target",
    "strip-prefix",
    "platforms",
    "referrers",
];

/// Reads the whole file.
pub(super) fn read(reading: &Reading<'_>, root: &Node) -> Result<Mirror> {
    reading.refuse_destination()?;
    let file = reading.file;
    let mut mirror = Mirror { form: Form::Native, entries: Vec::new(), registries: BTreeMap::new(), notes: Vec::new() };
    let mut defaults = Shared::default();
    let (mut registries, mut blocks) = (None, None);
    for (key, value) in file.table(root)? {
        match key.name.as_str() {
            "registry" => registries = Some(value),
            "sync" => blocks = Some(value),
            _ if defaults.take(reading, key, value)? => {}
            _ => return Err(file.unknown(key, &TOP)),
        }
    }
    for (key, value) in registries.map_or(Ok(&[][..]), |node| file.table(node))? {
        let registry = file.at(key.line, Repository::parse(&format!("{}/x", key.name)))?.registry;
        let options = read_registry(reading, value)?;
        reading.options(key.line, &mut mirror.registries, registry, options)?;
    }
    for node in blocks.map_or(Ok(&[][..]), |node| file.list(node))? {
        Block::read(reading, node, &defaults)?.entries(reading, &mut mirror.entries)?;
    }
    Ok(mirror)
}

fn read_registry(reading: &Reading<'_>, node: &Node) -> Result<RegistryOptions> {
    let file = reading.file;
    let mut options = RegistryOptions::default();
    for (key, value) in file.table(node)? {
        match key.name.as_str() {
            "tls" => {
                options.tls = Some(match file.text(value)? {
                    "verified" => Tls::Verified,
                    "insecure" => Tls::Insecure,
                    "disabled" => Tls::Disabled,
                    _ => return Err(file.error(value.line, "key \"tls\": expected verified, insecure or disabled")),
                })
            }
            "cert-dir" => options.cert_dir = Some(file.text(value)?.into()),
            _ => return Err(file.unknown(key, &REGISTRY)),
        }
    }
    Ok(options)
}

/// What the top of the file gives for all blocks.
#[derive(Debug, Clone, Default)]
struct Shared {
    target: Option<String>,
    strip: String,
    platforms: Vec<Platform>,
    referrers: bool,
}

impl Shared {
    /// Takes `key` if it is one of these.
    fn take(&mut self, reading: &Reading<'_>, key: &Key, value: &Node) -> Result<bool> {
        let file = reading.file;
        match key.name.as_str() {
            "target" => self.target = Some(file.text(value)?.into()),
            "strip-prefix" => self.strip = file.text(value)?.into(),
            "referrers" => self.referrers = file.boolean(value)?,
            "platforms" => {
                let texts = file.one_or_more(value)?;
                self.platforms =
                    texts.into_iter().map(|(line, text)| reading.platform(line, text)).collect::<Result<_>>()?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// One `[[sync]]`.
struct Block {
    line: usize,
    shared: Shared,
    sources: Vec<(usize, Repository)>,
    selection: Selection,
}

impl Block {
    fn read(reading: &Reading<'_>, node: &Node, defaults: &Shared) -> Result<Block> {
        let file = reading.file;
        let mut shared = defaults.clone();
        let (mut named, mut patterns, mut patterned) = (Vec::new(), Patterns::default(), false);
        let mut line = node.line;
        for (key, value) in file.table(node)? {
            match key.name.as_str() {
                "source" => line = key.line,
                "repositories" => {}
                "tags" => named.extend(read_tags(reading, value)?),
                "digests" => named.extend(read_digests(reading, value)?),
                "exclude" => patterns.except = reading.compile_all(value, Pattern::glob)?,
                _ if take_pattern(reading, key, value, &mut patterns)? => patterned = true,
                _ if shared.take(reading, key, value)? => {}
                _ => return Err(file.unknown(key, &SYNC)),
            }
        }
        let patterned = patterned || named.is_empty();
        if !patterned && !patterns.except.is_empty() {
            return Err(file.error(line, "key \"exclude\": there is nothing to exclude from what is named"));
        }
        let patterns = patterned.then_some(patterns);
        let sources = read_sources(reading, node, line)?;
        Ok(Block { line, shared, sources, selection: Selection { named, patterns } })
    }

    fn entries(self, reading: &Reading<'_>, entries: &mut Vec<Entry>) -> Result<()> {
        let file = reading.file;
        let text = self.shared.target.ok_or_else(|| {
            file.error(
                self.line,
                "key \"target\" is missing, here and at the top: such as \"mirror.example/{repository}\"",
            )
        })?;
        let template = Template { text, strip: self.shared.strip };
        let platforms = match self.shared.platforms.is_empty() {
            true => Platforms::Whole,
            false => Platforms::Only(self.shared.platforms),
        };
        let attachments = if self.shared.referrers { Attachments::All } else { Attachments::None };
        for (line, source) in self.sources {
            let target = file.at(line, template.of(&source))?;
            let (selection, platforms) = (self.selection.clone(), platforms.clone());
            entries.push(Entry { line, source, target, selection, platforms, attachments });
        }
        Ok(())
    }
}

/// `source` is one repository or several; with `repositories` it is what stands before each of them.
fn read_sources(reading: &Reading<'_>, node: &Node, line: usize) -> Result<Vec<(usize, Repository)>> {
    let file = reading.file;
    let find = |name: &str| file.table(node).map(|keys| keys.iter().find(|(key, _)| key.name == name));
    let Some((_, source)) = find("source")? else {
        return Err(file.error(line, "key \"source\" is missing"));
    };
    let named = |line: usize, text: &str| Ok((line, file.at(line, Repository::parse(text))?));
    match find("repositories")? {
        None => file.one_or_more(source)?.into_iter().map(|(line, text)| named(line, text)).collect(),
        Some((_, repositories)) => {
            let prefix = file.text(source)?.trim_end_matches('/');
            let join = |(line, text): (usize, &str)| named(line, &format!("{prefix}/{text}"));
            file.one_or_more(repositories)?.into_iter().map(join).collect()
        }
    }
}

fn read_tags(reading: &Reading<'_>, node: &Node) -> Result<Vec<Named>> {
    let tag = |(line, text): (usize, &str)| match is_tag(text) {
        true => Ok(Named::tag(text)),
        false => Err(reading
            .file
            .error(line, format_args!("{text:?} is no tag; patterns are keys of their own: glob, regex"))),
    };
    reading.file.one_or_more(node)?.into_iter().map(tag).collect()
}

fn read_digests(reading: &Reading<'_>, node: &Node) -> Result<Vec<Named>> {
    let digest = |(line, text): (usize, &str)| {
        let source: Digest = reading.file.at(line, text.parse())?;
        Ok(Named::Digest { source, target: None })
    };
    reading.file.one_or_more(node)?.into_iter().map(digest).collect()
}

/// Takes `key` if it is one of those that choose among the source's tags.
fn take_pattern(reading: &Reading<'_>, key: &Key, value: &Node, patterns: &mut Patterns) -> Result<bool> {
    match key.name.as_str() {
        "glob" => patterns.globs = reading.compile_all(value, Pattern::glob)?,
        "regex" => patterns.regexes = reading.compile_all(value, Pattern::regex)?,
        "semver" => patterns.ranges = reading.compile_all(value, |text| Range::parse(text, Dialect::Semver))?,
        "newest" => {
            let count: NonZeroUsize = reading.file.at(value.line, reading.file.text(value)?.parse())?;
            patterns.newest = Some(count);
        }
        _ => return Ok(false),
    }
    Ok(true)
}
