//! Keeping and forgetting credentials, without touching anything else in their files.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Map, Value};

use super::files::{self, AuthFile, Form, normalise};
use super::helper::Helpers;
use super::{Credential, HUB_KEY};
use crate::content::file::read_configuration;
use crate::error::{Error, Result};
use crate::oci::reference::DOCKER_HUB;
use crate::registry::environment::Environment;

/// Where a credential was put, or taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In this file.
    File(PathBuf),
    /// With the credential helper of this name.
    Helper(String),
}

/// Keeps `credential` for `registry`.
///
/// # Errors
/// `Store` when the file cannot be written; `Refused` when it is a link to somebody else's file; `Usage` when a helper fails.
pub(in crate::registry) async fn keep(
    environment: &Environment,
    authfile: Option<&Path>,
    registry: &str,
    credential: &Credential,
) -> Result<Kept> {
    let file = target(environment, authfile, registry);
    let mut document = read(&file)?;
    let key = key_of(&file, registry);
    let (entry, kept) = match helper_name(&document, registry) {
        Some(name) => {
            let (user, secret) = credential.pair();
            let stored = Helpers::default().store(&name, key, user, secret).await;
            stored.map_err(|why| Error::Usage(format!("the credential helper {name:?} does not keep it: {why}")))?;
            // Docker leaves an empty entry as a sign that a helper has it.
            (Map::new(), Kept::Helper(name))
        }
        None => (entry_of(credential), Kept::File(file.path.clone())),
    };
    let auths = auths_of(&mut document, file.form)?;
    auths.retain(|known, _| normalise(known) != registry);
    auths.insert(key.into(), Value::Object(entry));
    write(&file, &document)?;
    Ok(kept)
}

/// Forgets what is known of `registry` in every file of the search order, and says where it was.
///
/// # Errors
/// As [`keep`].
pub(in crate::registry) async fn forget(
    environment: &Environment,
    authfile: Option<&Path>,
    registry: &str,
) -> Result<Vec<Kept>> {
    let mut forgotten = Vec::new();
    for file in files::search_order(environment, authfile) {
        if !file.path.exists() {
            continue;
        }
        let mut document = read(&file)?;
        let helper = helper_name(&document, registry);
        let auths = auths_of(&mut document, file.form)?;
        let before = auths.len();
        auths.retain(|known, _| normalise(known) != registry);
        let known = auths.len() < before;
        if let Some(name) = helper {
            let erased = Helpers::default().erase(&name, key_of(&file, registry)).await;
            erased.map_err(|why| Error::Usage(format!("the credential helper {name:?} does not forget it: {why}")))?;
            forgotten.push(Kept::Helper(name));
        } else if known {
            forgotten.push(Kept::File(file.path.clone()));
        }
        if known {
            write(&file, &document)?;
        }
    }
    Ok(forgotten)
}

/// The file that knows the registry already, else the first that exists, else the first of all.
fn target(environment: &Environment, authfile: Option<&Path>, registry: &str) -> AuthFile {
    let mut files = files::search_order(environment, authfile);
    files.retain(|file| file.form != Form::Legacy);
    let knows = |file: &AuthFile| {
        read(file).is_ok_and(|mut document| {
            helper_name(&document, registry).is_some()
                || auths_of(&mut document, file.form).is_ok_and(|a| a.keys().any(|key| normalise(key) == registry))
        })
    };
    let chosen = files.iter().position(knows).or_else(|| files.iter().position(|file| file.path.exists()));
    files.swap_remove(chosen.unwrap_or(0))
}

fn key_of<'a>(file: &AuthFile, registry: &'a str) -> &'a str {
    if registry == DOCKER_HUB && file.form != Form::Containers { HUB_KEY } else { registry }
}

fn helper_name(document: &Map<String, Value>, registry: &str) -> Option<String> {
    let helpers = document.get("credHelpers").and_then(Value::as_object);
    let own = helpers.and_then(|map| map.iter().find(|(key, _)| normalise(key) == registry).map(|(_, name)| name));
    let name = own.or_else(|| document.get("credsStore"))?.as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn entry_of(credential: &Credential) -> Map<String, Value> {
    let (field, value) = match credential {
        Credential::Password { user, password } => {
            let pair = format!("{user}:{}", password.expose());
            ("auth", base64::engine::general_purpose::STANDARD.encode(pair))
        }
        Credential::IdentityToken(token) => ("identitytoken", token.expose().into()),
        Credential::RegistryToken(token) => ("registrytoken", token.expose().into()),
    };
    Map::from_iter([(field.to_owned(), Value::String(value))])
}

fn read(file: &AuthFile) -> Result<Map<String, Value>> {
    match read_configuration(&file.path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(e) => Err(Error::store("read", &file.path)(e)),
        Ok(text) if text.trim().is_empty() => Ok(Map::new()),
        Ok(text) => serde_json::from_str(&text).map_err(|_| not_understood(&file.path)),
    }
}

fn not_understood(path: &Path) -> Error {
    Error::Usage(format!("{} is no JSON object of credentials: mend or move it", path.display()))
}

fn auths_of(document: &mut Map<String, Value>, form: Form) -> Result<&mut Map<String, Value>> {
    if form == Form::Legacy {
        return Ok(document);
    }
    let auths = document.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    auths.as_object_mut().ok_or_else(|| Error::Usage("`auths` in the file of credentials is no object".into()))
}

/// Replaces the file in one step; the new one can be read by its owner alone.
fn write(file: &AuthFile, document: &Map<String, Value>) -> Result<()> {
    let path = real_path(&file.path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(Error::store("create the folder", folder))?;
    let text = serde_json::to_vec_pretty(document).map_err(|e| Error::Usage(e.to_string()))?;
    // A temporary file is made with mode 0600.
    let mut new = tempfile::NamedTempFile::new_in(folder).map_err(Error::store("write into", folder))?;
    new.write_all(&text).and_then(|()| new.as_file().sync_all()).map_err(Error::store("write", &path))?;
    new.persist(&path).map_err(|e| Error::store("replace", &path)(e.error))?;
    Ok(())
}

/// Follows a link only to a file of our own: a link in a shared folder could lead a password anywhere.
fn real_path(path: &Path) -> Result<PathBuf> {
    let is_link = path.symlink_metadata().is_ok_and(|m| m.file_type().is_symlink());
    if !is_link {
        return Ok(path.to_owned());
    }
    let real = path.canonicalize().map_err(Error::store("follow the link", path))?;
    let metadata = real.metadata().map_err(Error::store("read", &real))?;
    let parent = real.parent().map(Path::metadata).transpose().map_err(Error::store("read the folder of", &real))?;
    let me = rustix::process::geteuid().as_raw();
    let own =
        metadata.is_file() && metadata.uid() == me && parent.is_some_and(|p| p.uid() == me && p.mode() & 0o022 == 0);
    let why = || format!("it is a link to {}, which is not safely yours: name that file instead", real.display());
    if own { Ok(real) } else { Err(Error::Refused { what: path.display().to_string(), why: why() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(path: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_else_is_in_the_file_stays_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("auth.json");
        std::fs::write(&file, r#"{"auths":{"x":{"auth":"YTpi","own":1}},"psFormat":"t"}"#).unwrap();
        let environment = Environment::empty();
        let credential = Credential::password("ann", "pw");
        let kept = keep(&environment, Some(&file), "h.example", &credential).await.unwrap();
        assert_eq!(kept, Kept::File(file.clone()));
        let after = json(&file);
        assert_eq!(after["psFormat"], "t");
        assert_eq!(after["auths"]["x"]["own"], 1);
        assert_eq!(after["auths"]["h.example"]["auth"], "YW5uOnB3");
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(forget(&environment, Some(&file), "h.example").await.unwrap(), [Kept::File(file.clone())]);
        assert!(json(&file)["auths"].get("h.example").is_none());
        assert_eq!(json(&file)["auths"]["x"]["auth"], "YTpi");
    }

    #[tokio::test]
    async fn docker_hub_has_dockers_key_in_dockers_file() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment::empty().with("DOCKER_CONFIG", folder.path().to_str().unwrap());
        keep(&environment, None, "docker.io", &Credential::password("a", "b")).await.unwrap();
        assert_eq!(json(&folder.path().join("config.json"))["auths"][HUB_KEY]["auth"], "YTpi");
    }

    #[tokio::test]
    async fn a_link_to_a_file_of_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let shared = folder.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        std::fs::write(shared.join("real.json"), "{}").unwrap();
        let link = folder.path().join("auth.json");
        std::os::unix::fs::symlink(shared.join("real.json"), &link).unwrap();
        let kept = keep(&Environment::empty(), Some(&link), "h", &Credential::password("a", "b")).await;
        assert!(matches!(kept, Err(Error::Refused { .. })), "{kept:?}");
        assert_eq!(std::fs::read_to_string(shared.join("real.json")).unwrap(), "{}");
    }

    #[tokio::test]
    async fn a_file_that_is_not_understood_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("auth.json");
        std::fs::write(&file, "{broken").unwrap();
        assert!(keep(&Environment::empty(), Some(&file), "h", &Credential::password("a", "b")).await.is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "{broken");
    }
}
