//! The YAML of regsync, version 1, by `cmd/regsync/config.go`, `root.go` and `docs/regsync.md` of regclient v0.11.
//!
//! It is read as `regsync once` reads it: when to run is another program's business here.

use std::collections::BTreeMap;

use super::pattern::Pattern;
use super::select::{Named, Patterns, Selection};
use super::target::Repository;
use super::tree::{Key, Node, Value};
use super::version::{Dialect, Range};
use super::{Attachments, Credentials, Entry, Form, Mirror, Note, Platforms, Reading, RegistryOptions, Tls};
use crate::error::Result;
use crate::oci::Reference;

const TOP: [&str; 4] = ["version", "creds", "defaults", "sync"];
const CREDS: [&str; 4] = ["registry", "user", "pass", "tls"];
const SYNC: [&str; 8] = ["source", "target", "type", "tags", "platform", "platforms", "referrers", "digestTags"];
const DEFAULTS: [&str; 2] = ["referrers", "digestTags"];

/// Keys that say when or how fast, not what.
const WITHOUT_EFFECT: [(&str, &str); 16] = [
    ("interval", "this runs once, as \"regsync once\""),
    ("schedule", "this runs once, as \"regsync once\""),
    ("parallel", "see --jobs"),
    ("ratelimit", "an answer that asks for patience is obeyed"),
    ("fastCheck", "what is there is always found by one request"),
    ("cacheCount", "every answer is asked for once"),
    ("cacheTime", "every answer is asked for once"),
    ("blobLimit", "no blob is held in memory"),
    ("userAgent", "the program names itself"),
    ("repoAuth", "tokens are always asked for by repository"),
    ("blobChunk", "the registry says what it wants"),
    ("blobMax", "the registry says what it wants"),
    ("reqPerSec", "an answer that asks for patience is obeyed"),
    ("reqConcurrent", "connections are counted by what they bring"),
    ("priority", "there are no mirrors in this file"),
    ("credExpire", "there is no credHelper in this file"),
];

/// Keys that do something else than what is done here, and what to do instead.
const UNSUPPORTED: [(&str, &str); 20] = [
    ("backup", "tag what is to be kept before"),
    ("hooks", "call the commands around this one"),
    ("mediaTypes", "every kind of manifest is copied"),
    ("referrerFilters", "all referrers are copied, or none"),
    ("referrerSource", "referrers come from the source"),
    ("referrerTarget", "referrers go to the target"),
    ("repos", "name the repositories"),
    ("skipDockerConfig", "use --authfile"),
    ("includeExternal", "layers that only an address names stay there"),
    ("forceRecursive", "use `verify` at the target"),
    ("hostname", "name the registry by its host"),
    ("credHelper", "name it in docker's config.json"),
    ("regcert", "use --ca-file"),
    ("clientCert", "use --cert-dir"),
    ("clientKey", "use --cert-dir"),
    ("pathPrefix", "write it before the repositories"),
    ("mirrors", "name them in registries.conf"),
    ("api", "it was an experiment"),
    ("apiOpts", "they were an experiment"),
    ("scheme", "use tls"),
];

/// Reads the whole file.
pub(super) fn read(reading: &Reading<'_>, root: &Node) -> Result<Mirror> {
    reading.refuse_destination()?;
    let file = reading.file;
    let mut mirror =
        Mirror { form: Form::Regsync, entries: Vec::new(), registries: BTreeMap::new(), notes: Vec::new() };
    let mut defaults = Attached::default();
    // Defaults hold for entries above them too.
    if let Some((_, node)) = file.table(root)?.iter().find(|(key, _)| key.name == "defaults") {
        read_defaults(reading, node, &mut defaults, &mut mirror.notes)?;
    }
    for (key, value) in file.table(root)? {
        match key.name.as_str() {
            "version" if matches!(file.text(value)?, "0" | "1") => {}
            "version" => return Err(file.error(value.line, "only version 1 is known")),
            "creds" => file.list(value)?.iter().try_for_each(|node| read_creds(reading, node, &mut mirror))?,
            "sync" => {
                for node in file.list(value)? {
                    let entry = Step::read(reading, node, defaults, &mut mirror.notes)?.entry(reading)?;
                    mirror.entries.push(entry);
                }
            }
            "defaults" => {}
            name if name.starts_with("x-") => {}
            _ => return Err(file.unknown(key, &TOP)),
        }
    }
    Ok(mirror)
}

/// What `referrers` and `digestTags` say.
#[derive(Debug, Clone, Copy, Default)]
struct Attached {
    referrers: bool,
    digest_tags: bool,
}

impl Attached {
    fn attachments(self) -> Attachments {
        match (self.referrers, self.digest_tags) {
            (false, false) => Attachments::None,
            (true, false) => Attachments::Referrers,
            (false, true) => Attachments::DigestTags,
            (true, true) => Attachments::All,
        }
    }
}

fn read_defaults(reading: &Reading<'_>, node: &Node, attached: &mut Attached, notes: &mut Vec<Note>) -> Result<()> {
    for (key, value) in reading.file.table(node)? {
        match key.name.as_str() {
            "referrers" => attached.referrers = reading.file.boolean(value)?,
            "digestTags" => attached.digest_tags = reading.file.boolean(value)?,
            _ => Others { known: &DEFAULTS, notes }.take(reading, key, value)?,
        }
    }
    Ok(())
}

/// The keys of a table that are not read one by one.
struct Others<'a> {
    /// Those that are, for messages.
    known: &'a [&'a str],
    notes: &'a mut Vec<Note>,
}

impl Others<'_> {
    /// A key that has no effect, is not supported, or does not exist. Keys that are off ask for nothing.
    fn take(&mut self, reading: &Reading<'_>, key: &Key, value: &Node) -> Result<()> {
        let find =
            |table: &[(&str, &'static str)]| table.iter().find(|(name, _)| *name == key.name).map(|(_, why)| *why);
        let is_off = matches!(&value.value, Value::Null) || reading.file.boolean(value).is_ok_and(|on| !on);
        match (find(&WITHOUT_EFFECT), find(&UNSUPPORTED)) {
            _ if key.name.starts_with("x-") => Ok(()),
            (Some(_), _) | (_, Some(_)) if is_off => Ok(()),
            (Some(why), _) => {
                self.notes.push(Note { line: key.line, text: format!("key {:?} has no effect: {why}", key.name) });
                Ok(())
            }
            (None, Some(why)) => Err(reading.file.unsupported(key, why)),
            (None, None) => Err(reading.file.unknown(key, self.known)),
        }
    }
}

fn read_creds(reading: &Reading<'_>, node: &Node, mirror: &mut Mirror) -> Result<()> {
    let file = reading.file;
    let (mut registry, mut user, mut pass, mut tls) = (None, None, None, None);
    for (key, value) in file.table(node)? {
        match key.name.as_str() {
            "registry" => registry = Some(expand(reading, value)?),
            "user" => user = Some(expand(reading, value)?),
            "pass" => pass = Some(expand(reading, value)?),
            "tls" => {
                tls = Some(match file.text(value)? {
                    "enabled" => Tls::Verified,
                    "insecure" => Tls::Insecure,
                    "disabled" => Tls::Disabled,
                    _ => return Err(file.error(value.line, "key \"tls\": expected enabled, insecure or disabled")),
                })
            }
            _ => Others { known: &CREDS, notes: &mut mirror.notes }.take(reading, key, value)?,
        }
    }
    let credentials = match (user, pass) {
        (Some(username), Some(password)) => Some(Credentials { username, password }),
        (None, None) => None,
        _ => return Err(file.error(node.line, "expected both user and pass, or neither")),
    };
    let registry = registry.ok_or_else(|| file.error(node.line, "key \"registry\" is missing"))?;
    let registry = file.at(node.line, Repository::parse(&format!("{registry}/x")))?.registry;
    reading.options(node.line, &mut mirror.registries, registry, RegistryOptions { tls, cert_dir: None, credentials })
}

/// A text in which `{{env "NAME"}}` is replaced. Other templates are refused.
fn expand(reading: &Reading<'_>, node: &Node) -> Result<String> {
    let text = reading.file.text(node)?;
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("{{") {
        let refuse = || reading.file.error(node.line, "a template other than {{env \"NAME\"}}: not supported");
        let (template, behind) = behind.split_once("}}").ok_or_else(refuse)?;
        let name = template.trim().strip_prefix("env ").map(str::trim);
        let name = name.and_then(|name| name.strip_prefix('"')?.strip_suffix('"')).ok_or_else(refuse)?;
        let missing = || reading.file.error(node.line, format_args!("environment variable {name:?} is not set"));
        expanded.push_str(before);
        expanded.push_str(&(reading.context.environment)(name).ok_or_else(missing)?);
        rest = behind;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// One element of `sync`.
struct Step {
    line: usize,
    source: String,
    target: String,
    kind: Kind,
    patterns: Option<Patterns>,
    platforms: Platforms,
    attached: Attached,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Repository,
    Image,
}

impl Step {
    fn read(reading: &Reading<'_>, node: &Node, attached: Attached, notes: &mut Vec<Note>) -> Result<Step> {
        let file = reading.file;
        let (mut source, mut target, mut kind) = (None, None, None);
        let (mut patterns, mut platforms, mut attached) = (None, Platforms::Whole, attached);
        for (key, value) in file.table(node)? {
            match key.name.as_str() {
                "source" => source = Some(expand(reading, value)?),
                "target" => target = Some(expand(reading, value)?),
                "type" => kind = Some(read_kind(reading, key, value)?),
                "tags" => patterns = Some(read_tags(reading, value)?),
                "platform" | "platforms" if platforms != Platforms::Whole => {
                    return Err(file.error(key.line, "platform and platforms: expected one of them"));
                }
                "platform" => platforms = Platforms::Single(reading.platform(value.line, file.text(value)?)?),
                "platforms" => {
                    let texts = file.texts(value)?;
                    let read = texts.into_iter().map(|(line, text)| reading.platform(line, text));
                    platforms = Platforms::Only(read.collect::<Result<_>>()?);
                }
                "referrers" => attached.referrers = file.boolean(value)?,
                "digestTags" => attached.digest_tags = file.boolean(value)?,
                _ => Others { known: &SYNC, notes }.take(reading, key, value)?,
            }
        }
        let missing = |key: &str| file.error(node.line, format_args!("key {key:?} is missing"));
        let (source, target) = (source.ok_or_else(|| missing("source"))?, target.ok_or_else(|| missing("target"))?);
        let kind = kind.ok_or_else(|| missing("type"))?;
        Ok(Step { line: node.line, source, target, kind, patterns, platforms, attached })
    }

    fn entry(self, reading: &Reading<'_>) -> Result<Entry> {
        let (file, line) = (reading.file, self.line);
        let (source, target, selection) = match self.kind {
            Kind::Image if self.patterns.is_some() => {
                return Err(file.error(line, "key \"tags\": an image has one tag already"));
            }
            Kind::Image => {
                let source: Reference = file.at(line, self.source.parse())?;
                let target: Reference = file.at(line, self.target.parse())?;
                let named = file.at(line, image(&source, &target))?;
                let selection = Selection { named: vec![named], patterns: None };
                (Repository::of(&source), Repository::of(&target), selection)
            }
            Kind::Repository => {
                let patterns = Some(self.patterns.unwrap_or_default());
                let parse = |text: &str| file.at(line, Repository::parse(text));
                (parse(&self.source)?, parse(&self.target)?, Selection { named: Vec::new(), patterns })
            }
        };
        let attachments = self.attached.attachments();
        Ok(Entry { line, source, target, selection, platforms: self.platforms, attachments })
    }
}

fn read_kind(reading: &Reading<'_>, key: &Key, value: &Node) -> Result<Kind> {
    match reading.file.text(value)? {
        "repository" => Ok(Kind::Repository),
        "image" => Ok(Kind::Image),
        "registry" => Err(reading.file.unsupported(key, "a whole registry; name its repositories")),
        _ => Err(reading.file.error(value.line, "key \"type\": expected repository or image")),
    }
}

/// What an image is called at both sides.
fn image(source: &Reference, target: &Reference) -> Result<Named, String> {
    if target.digest().is_some() {
        return Err(format!("{target}: a target has no digest"));
    }
    let target = target.tag().unwrap_or("latest").to_owned();
    match (source.digest(), source.tag()) {
        (Some(digest), _) => Ok(Named::Digest { source: digest.clone(), target: Some(target) }),
        (None, tag) => Ok(Named::Tag { source: tag.unwrap_or("latest").into(), target }),
    }
}

fn read_tags(reading: &Reading<'_>, node: &Node) -> Result<Patterns> {
    let mut patterns = Patterns::default();
    // regsync puts its anchors around the text as it is: "a|b" is "^a|b$".
    let anchored = |text: &str| Pattern::regex(&format!("^{text}$"));
    for (key, value) in reading.file.table(node)? {
        match key.name.as_str() {
            "allow" => patterns.regexes = reading.compile_all(value, anchored)?,
            "deny" => patterns.except = reading.compile_all(value, anchored)?,
            "semverRange" => {
                patterns.ranges = reading.compile_all(value, |text| Range::parse(text, Dialect::Regsync))?
            }
            _ => return Err(reading.file.unknown(key, &["allow", "deny", "semverRange"])),
        }
    }
    Ok(patterns)
}
