//! `registries.conf` in version 2 (containers-registries.conf(5)).

use std::path::{Path, PathBuf};

use super::document::{Document, Values};
use super::{Approach, Capabilities, Configured, Endpoint, Role, Said, blocked, parse_location};
use crate::error::{Error, Result};
use crate::oci::Reference;
use crate::oci::reference::{DOCKER_HUB, is_docker_hub};
use crate::registry::Environment;

/// More files of one folder are not read.
const MAX_FILES: usize = 100;

/// One `[[registry]]`.
#[derive(Debug, Clone)]
pub(super) struct Table {
    prefix: String,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
    configured: Configured,
}

/// One `[[registry.mirror]]`.
#[derive(Debug, Clone)]
struct Mirror {
    location: String,
    insecure: bool,
    used: Used,
    configured: Configured,
}

/// What a mirror is asked for (`pull-from-mirror`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    All,
    DigestOnly,
    TagOnly,
}

/// The table of the longest prefix that `name` has.
///
/// # Errors
/// `Usage` with file and line when a file makes no sense; `Store` when it cannot be read.
pub(super) fn find(environment: &Environment, name: &Reference) -> Result<Option<Table>> {
    let mut tables: Vec<Table> = Vec::new();
    for path in files(environment)? {
        for table in read(&path)? {
            // A later file replaces what an earlier one says of the same prefix.
            tables.retain(|known| known.prefix != table.prefix);
            tables.push(table);
        }
    }
    let full = name.to_string();
    let matching = tables.into_iter().filter_map(|table| Some((covered(&table.prefix, &full)?, table)));
    Ok(matching.max_by_key(|(length, _)| *length).map(|(_, table)| table))
}

/// The files in the order in which they are read, as containers/image has them: the user's own file instead of the
/// system's, and then only the user's folder of additions.
fn files(environment: &Environment) -> Result<Vec<PathBuf>> {
    let own = environment.config_home().map(|home| home.join("containers/registries.conf"));
    let system = environment.system().join("containers/registries.conf");
    let added = |file: &Path| file.with_extension("conf.d");
    let (first, folders) = match (environment.path("CONTAINERS_REGISTRIES_CONF"), &own) {
        (None, Some(own)) if own.is_file() => (own.clone(), vec![added(own)]),
        (named, _) => {
            let folders = std::iter::once(&system).chain(&own).map(|file| added(file)).collect();
            (named.unwrap_or(system), folders)
        }
    };
    let mut files = vec![first];
    for folder in folders {
        files.extend(additions(&folder)?);
    }
    Ok(files)
}

/// `*.conf`, in the order of their names.
fn additions(folder: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let is_addition = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "conf");
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_addition).collect();
    files.sort();
    match files.len() > MAX_FILES {
        true => Err(Error::Usage(format!("{}: more than {MAX_FILES} files", folder.display()))),
        false => Ok(files),
    }
}

fn read(path: &Path) -> Result<Vec<Table>> {
    let Some(document) = Document::read(path)? else { return Ok(Vec::new()) };
    let parsed = document.parse()?;
    document.root(&parsed).tables("registry")?.into_iter().map(table).collect()
}

fn table(values: Values<'_>) -> Result<Table> {
    let text = |key| Ok::<_, Error>(values.text(key)?.filter(|text| !text.is_empty()));
    let location = text("location")?.map(|text| text.trim_end_matches('/').to_owned());
    let prefix = text("prefix")?.map(|text| text.trim_end_matches('/').to_owned());
    let prefix = prefix.or_else(|| location.clone()).ok_or_else(|| values.wrong("a registry without location"))?;
    if location.is_none() && !prefix.starts_with("*.") {
        return Err(values.wrong("a registry with a prefix, but without location"));
    }
    let by_digest = if values.is_on("mirror-by-digest-only")? { Used::DigestOnly } else { Used::All };
    Ok(Table {
        prefix: normal(&prefix),
        location,
        insecure: values.is_on("insecure")?,
        blocked: values.is_on("blocked")?,
        mirrors: values
            .tables("mirror")?
            .into_iter()
            .map(|mirror| read_mirror(mirror, by_digest))
            .collect::<Result<_>>()?,
        configured: values.configured(if values.get("prefix").is_some() { "prefix" } else { "location" }),
    })
}

fn read_mirror(values: Values<'_>, of_registry: Used) -> Result<Mirror> {
    let location = values.text("location")?.ok_or_else(|| values.wrong("a mirror without location"))?;
    let used = match values.text("pull-from-mirror")? {
        None | Some("") => of_registry,
        Some("all") => Used::All,
        Some("digest-only") => Used::DigestOnly,
        Some("tag-only") => Used::TagOnly,
        Some(_) => return Err(values.wrong("`pull-from-mirror`: expected all, digest-only or tag-only")),
    };
    let location = location.trim_end_matches('/').to_owned();
    Ok(Mirror { location, insecure: values.is_on("insecure")?, used, configured: values.configured("location") })
}

/// Every spelling of Docker Hub is one.
fn normal(prefix: &str) -> String {
    let (host, rest) = prefix.split_at(prefix.find('/').unwrap_or(prefix.len()));
    if is_docker_hub(host) { format!("{DOCKER_HUB}{rest}") } else { prefix.to_owned() }
}

/// How much of the full name `name` a prefix covers, if it is one of it.
fn covered(prefix: &str, name: &str) -> Option<usize> {
    let end = match prefix.strip_prefix('*') {
        Some(domain) => {
            let host = &name[..name.find('/').unwrap_or(name.len())];
            host.find(domain).filter(|at| *at > 0).map(|at| at + domain.len())?
        }
        None => name.starts_with(prefix).then_some(prefix.len())?,
    };
    name[end..].chars().next().is_none_or(|next| matches!(next, '/' | ':' | '@')).then_some(end)
}

impl Table {
    /// Whether the registry may speak plain HTTP or show any certificate.
    pub(super) fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// Where it stands.
    pub(super) fn configured(&self) -> Configured {
        self.configured.clone()
    }

    /// Where `name` may be asked for. `None` where the table says nothing of that.
    ///
    /// # Errors
    /// `Refused` when it is blocked, `Usage` when a location makes no name.
    pub(super) fn endpoints(&self, name: &Reference) -> Result<Option<Said>> {
        if self.blocked {
            return Err(blocked(name, &self.configured));
        }
        let location = self.location.as_deref().filter(|location| normal(location) != self.prefix);
        if self.mirrors.is_empty() && location.is_none() {
            return Ok(None);
        }
        let mut list = Vec::new();
        for mirror in self.mirrors.iter().filter(|mirror| mirror.is_for(name)) {
            list.push(self.mirror(mirror, name)?);
        }
        let (approach, repository) = self.placed(location, self.insecure, &self.configured, name)?;
        let (role, may, configured) = (Role::Registry, Capabilities::ALL, self.configured());
        list.push(Endpoint { role, repository, may, configured, approach });
        Ok(Some(Said { list }))
    }

    fn mirror(&self, mirror: &Mirror, name: &Reference) -> Result<Endpoint> {
        let (approach, repository) = self.placed(Some(&mirror.location), mirror.insecure, &mirror.configured, name)?;
        let may = if mirror.used == Used::DigestOnly { Capabilities::PULL } else { Capabilities::READ };
        Ok(Endpoint { role: Role::Mirror, repository, may, configured: mirror.configured.clone(), approach })
    }

    /// `name` with `location` in the place of the prefix.
    fn placed(
        &self,
        location: Option<&str>,
        insecure: bool,
        configured: &Configured,
        name: &Reference,
    ) -> Result<(Approach, String)> {
        let full = name.name();
        let Some(location) = location else {
            return Ok((
                Approach { manner: manner(insecure), ..Approach::of_registry(name.registry()) },
                name.repository().into(),
            ));
        };
        // A prefix with a tag or digest covers all of the name.
        let covered = covered(&self.prefix, &name.to_string()).unwrap_or(0).min(full.len());
        let wrong = || Error::Usage(format!("{configured}: {location:?} is no location of an image"));
        let (host, path) = parse_location(&format!("{location}{}", &full[covered..])).ok_or_else(wrong)?;
        let registry = if is_docker_hub(&host) { DOCKER_HUB.to_owned() } else { host };
        match path.is_empty() {
            true => Err(wrong()),
            false => Ok((Approach { manner: manner(insecure), ..Approach::of_registry(&registry) }, path)),
        }
    }
}

fn manner(insecure: bool) -> super::Manner {
    super::Manner { insecure, ..super::Manner::default() }
}

impl Mirror {
    /// One for tags alone is no help where the image is named by its digest. One for digests alone serves what a tag
    /// was resolved to elsewhere.
    fn is_for(&self, name: &Reference) -> bool {
        self.used != Used::TagOnly || name.digest().is_none()
    }
}
