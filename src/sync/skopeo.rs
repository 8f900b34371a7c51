//! The YAML of `skopeo sync --src yaml`, by skopeo-sync(1) and `cmd/skopeo/sync.go` of skopeo 1.20.
//!
//! Tried with skopeo 1.9.3: unknown keys are ignored, of a key given twice the last counts, and a repository that cannot
//! be listed is skipped with exit code 0. Here the first two are errors; the third is a failed image.

use std::collections::BTreeMap;

use super::pattern::Pattern;
use super::select::{Named, Patterns, Selection};
use super::target::Repository;
use super::tree::{File, Key, Node};
use super::version::{Dialect, Range};
use super::{Attachments, Credentials, Entry, Form, Mirror, Note, Platforms, Reading, RegistryOptions, Tls};
use crate::error::{Error, Result};
use crate::oci::{Digest, is_tag};

const KEYS: [&str; 6] = ["images", "images-by-tag-regex", "images-by-semver", "credentials", "tls-verify", "cert-dir"];

/// Reads the whole file.
pub(super) fn read(reading: &Reading<'_>, root: &Node) -> Result<Mirror> {
    let file = reading.file;
    if reading.context.destination.is_none() {
        let why = "skopeo's form names no targets: give a destination, such as mirror.example/team";
        return Err(Error::Usage(format!("{}: {why}", file.0.display())));
    }
    let mut mirror = Mirror { form: Form::Skopeo, entries: Vec::new(), registries: BTreeMap::new(), notes: Vec::new() };
    for (registry, node) in file.table(root)? {
        read_registry(reading, registry, node, &mut mirror)?;
    }
    Ok(mirror)
}

fn read_registry(reading: &Reading<'_>, registry: &Key, node: &Node, mirror: &mut Mirror) -> Result<()> {
    let file = reading.file;
    let before = mirror.entries.len();
    let mut options = RegistryOptions::default();
    for (key, value) in file.table(node)? {
        let select = match key.name.as_str() {
            "images" => by_list,
            "images-by-tag-regex" => by_regex,
            "images-by-semver" => by_range,
            _ => {
                read_option(file, key, value, &mut options)?;
                continue;
            }
        };
        for (repository, wanted) in file.table(value)? {
            let selection = select(reading, wanted)?;
            mirror.entries.push(entry(reading, registry, repository, selection)?);
        }
    }
    let first = mirror.entries.get(before);
    match first.map(|entry| entry.source.registry.clone()) {
        None => {
            mirror.notes.push(Note { line: registry.line, text: format!("{}: no images are named", registry.name) })
        }
        Some(_) if options == RegistryOptions::default() => {}
        Some(name) => reading.options(registry.line, &mut mirror.registries, name, options)?,
    }
    Ok(())
}

fn read_option(file: File<'_>, key: &Key, value: &Node, options: &mut RegistryOptions) -> Result<()> {
    match key.name.as_str() {
        "credentials" => options.credentials = Some(credentials(file, key, value)?),
        "tls-verify" => {
            options.tls = Some(if file.boolean(value)? { Tls::Verified } else { Tls::Insecure });
        }
        "cert-dir" => options.cert_dir = Some(file.text(value)?.into()),
        _ => return Err(file.unknown(key, &KEYS)),
    }
    Ok(())
}

fn credentials(file: File<'_>, at: &Key, node: &Node) -> Result<Credentials> {
    let (mut username, mut password) = (None, None);
    for (key, value) in file.table(node)? {
        match key.name.as_str() {
            "username" => username = Some(file.text(value)?.to_owned()),
            "password" => password = Some(file.text(value)?.to_owned()),
            _ => return Err(file.unknown(key, &["username", "password"])),
        }
    }
    match (username, password) {
        (Some(username), Some(password)) => Ok(Credentials { username, password }),
        _ => Err(file.error(at.line, "key \"credentials\": expected username and password")),
    }
}

fn entry(reading: &Reading<'_>, registry: &Key, repository: &Key, selection: Selection) -> Result<Entry> {
    let (file, line) = (reading.file, repository.line);
    let source = file.at(line, Repository::parse(&format!("{}/{}", registry.name, repository.name)))?;
    let Some(destination) = &reading.context.destination else {
        return Err(file.error(line, "no destination"));
    };
    let target = file.at(line, destination.of(&source))?;
    Ok(Entry { line, source, target, selection, platforms: Platforms::Whole, attachments: Attachments::None })
}

/// Tags and digests; an empty list means all tags.
fn by_list(reading: &Reading<'_>, node: &Node) -> Result<Selection> {
    let named = reading.file.texts(node)?;
    let named: Vec<Named> =
        named.into_iter().map(|(line, text)| reading.file.at(line, wanted(text))).collect::<Result<_>>()?;
    let patterns = named.is_empty().then(Patterns::default);
    Ok(Selection { named, patterns })
}

/// A digest, else a tag.
fn wanted(text: &str) -> Result<Named, String> {
    match text.parse::<Digest>() {
        Ok(source) => Ok(Named::Digest { source, target: None }),
        Err(_) if is_tag(text) => Ok(Named::tag(text)),
        Err(_) => Err(format!("{text:?} is neither a tag nor a digest")),
    }
}

fn by_regex(reading: &Reading<'_>, node: &Node) -> Result<Selection> {
    let text = reading.file.text(node)?;
    let pattern = reading.compile(node.line, || Pattern::regex(text))?;
    Ok(patterns(Patterns { regexes: vec![pattern], ..Patterns::default() }))
}

fn by_range(reading: &Reading<'_>, node: &Node) -> Result<Selection> {
    let text = reading.file.text(node)?;
    let range = reading.compile(node.line, || Range::parse(text, Dialect::Semver))?;
    Ok(patterns(Patterns { ranges: vec![range], ..Patterns::default() }))
}

fn patterns(patterns: Patterns) -> Selection {
    Selection { named: Vec::new(), patterns: Some(patterns) }
}
