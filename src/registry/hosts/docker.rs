//! Mirrors of Docker Hub as docker's daemon knows them: `registry-mirrors` in `daemon.json`.

use std::io::ErrorKind;
use std::path::Path;

use reqwest::Url;
use serde::Deserialize;

use super::{Approach, Capabilities, Configured, Endpoint, Role, Said};
use crate::content::file::read_configuration;
use crate::error::{Error, Result};
use crate::oci::Reference;
use crate::oci::reference::DOCKER_HUB;
use crate::registry::Environment;

#[derive(Deserialize)]
struct Daemon {
    #[serde(default, rename = "registry-mirrors")]
    mirrors: Vec<String>,
}

/// What the daemon's file says of `name`, if that is an image of Docker Hub: docker asks its mirrors for nothing else. A
/// file that this user may not read says nothing.
///
/// # Errors
/// `Usage` with file and line when it makes no sense.
pub(super) fn find(environment: &Environment, name: &Reference) -> Result<Option<Said>> {
    if name.registry() != DOCKER_HUB {
        return Ok(None);
    }
    let own = environment.config_home().map(|home| home.join("docker/daemon.json"));
    let system = environment.system().join("docker/daemon.json");
    for path in own.into_iter().chain([system]) {
        match read_configuration(&path) {
            Ok(text) => return mirrors(&path, &text, name),
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                tracing::debug!(file = %path.display(), "may not be read");
            }
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(e) => return Err(Error::store("read the configuration", path)(e)),
        }
    }
    Ok(None)
}

fn mirrors(path: &Path, text: &str, name: &Reference) -> Result<Option<Said>> {
    let wrong = |line: usize, why: String| Error::Usage(format!("{}:{line}: {why}", path.display()));
    let daemon: Daemon = serde_json::from_str(text).map_err(|e| wrong(e.line(), e.to_string()))?;
    let mut list = Vec::new();
    for mirror in &daemon.mirrors {
        let line = line_of(text, mirror);
        let url = Url::parse(mirror).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or_else(|| wrong(line, format!("`registry-mirrors`: {mirror:?} is no address")))?;
        list.push(Endpoint {
            role: Role::Mirror,
            repository: name.repository().into(),
            may: Capabilities::READ,
            configured: Configured::File(path.into(), line),
            approach: Approach::of_url(&url),
        });
    }
    let is_silent = list.is_empty();
    list.push(Endpoint::of_registry(name));
    Ok((!is_silent).then_some(Said { list }))
}

/// The line that a text of the list stands on: the first that has it.
fn line_of(text: &str, element: &str) -> usize {
    let is_there = |line: &str| line.contains(element) || line.contains(&element.replace('/', "\\/"));
    text.lines().position(is_there).map_or(1, |at| at + 1)
}
