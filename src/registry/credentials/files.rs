//! The files that hold credentials.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;

use super::Credential;
use crate::content::file::read_configuration;
use crate::oci::reference::{DOCKER_HUB, is_docker_hub};
use crate::registry::environment::Environment;

/// The form of a file, which decides its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::registry) enum Form {
    /// `auth.json` of containers.
    Containers,
    /// `config.json` of docker.
    Docker,
    /// `.dockercfg`: the top level is the map of hosts.
    Legacy,
}

/// A file that may hold credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) struct AuthFile {
    pub(in crate::registry) path: PathBuf,
    pub(in crate::registry) form: Form,
}

impl AuthFile {
    pub(super) fn containers(path: PathBuf) -> AuthFile {
        AuthFile { path, form: Form::Containers }
    }

    /// What it says, or nothing when it is not there.
    pub(super) fn read(&self) -> Result<Option<AuthConfig>, String> {
        let text = match read_configuration(&self.path) {
            Ok(text) => text,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        match self.form {
            Form::Legacy => AuthConfig::parse_legacy(&text).map(Some),
            _ => AuthConfig::parse(&text).map(Some),
        }
    }
}

/// Where credentials are looked for: the first file that knows the registry wins.
pub(super) fn search_order(environment: &Environment, authfile: Option<&Path>) -> Vec<AuthFile> {
    if let Some(only) = authfile.map(Path::to_owned).or_else(|| environment.path("REGISTRY_AUTH_FILE")) {
        return vec![AuthFile::containers(only)];
    }
    let docker = |folder: PathBuf| AuthFile { path: folder.join("config.json"), form: Form::Docker };
    if let Some(folder) = environment.path("DOCKER_CONFIG") {
        return vec![docker(folder)];
    }
    let mut files = vec![AuthFile::containers(runtime_file(environment))];
    files.extend(environment.config_home().map(|c| AuthFile::containers(c.join("containers/auth.json"))));
    if let Some(home) = environment.home() {
        files.push(docker(home.join(".docker")));
        files.push(AuthFile { path: home.join(".dockercfg"), form: Form::Legacy });
    }
    files
}

fn runtime_file(environment: &Environment) -> PathBuf {
    let user = || format!("/run/containers/{}", rustix::process::getuid().as_raw()).into();
    let folder = environment.path("XDG_RUNTIME_DIR").map_or_else(user, |folder| folder.join("containers"));
    folder.join("auth.json")
}

/// The content of a file of credentials.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuthConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "no_empty_name")]
    pub(super) creds_store: Option<String>,
}

fn no_empty_name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|name| !name.is_empty()))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl AuthConfig {
    pub(super) fn parse(text: &str) -> Result<AuthConfig, String> {
        serde_json::from_str(text).map_err(|e| no_excerpt(&e))
    }

    fn parse_legacy(text: &str) -> Result<AuthConfig, String> {
        let auths = serde_json::from_str(text).map_err(|e| no_excerpt(&e))?;
        Ok(AuthConfig { auths, ..AuthConfig::default() })
    }

    /// The helper that `credHelpers` names for a registry.
    pub(super) fn helper_for(&self, registry: &str) -> Option<&str> {
        let exact = self.cred_helpers.get(registry);
        let found =
            exact.or_else(|| self.cred_helpers.iter().find(|(key, _)| normalise(key) == registry).map(|(_, v)| v));
        found.map(String::as_str).filter(|name| !name.is_empty())
    }

    /// The entry for the longest of `scopes`, exact keys before those that are reduced to a host.
    pub(super) fn credential(&self, scopes: &[String]) -> Option<Credential> {
        let exact = scopes.iter().find_map(|scope| self.auths.get(scope)?.credential());
        exact.or_else(|| {
            let of = |scope: &String| {
                self.auths.iter().find_map(|(key, e)| (normalise(key) == *scope).then(|| e.credential())?)
            };
            scopes.iter().find_map(of)
        })
    }
}

/// The words of a parser may quote the text, which holds passwords.
fn no_excerpt(error: &serde_json::Error) -> String {
    format!("no valid JSON of credentials at line {} column {}", error.line(), error.column())
}

/// A key as a registry or namespace: `https://h/v1/` is `h`, and every spelling of Docker Hub is one.
pub(in crate::registry) fn normalise(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = bare.unwrap_or(key).split_once('/').unwrap_or((bare.unwrap_or(key), ""));
    let host = if is_docker_hub(host) { DOCKER_HUB } else { host };
    let path = path.trim_end_matches('/');
    if bare.is_some() || path.is_empty() || matches!(path, "v1" | "v2") {
        host.into()
    } else {
        format!("{host}/{path}")
    }
}

impl Entry {
    fn credential(&self) -> Option<Credential> {
        let filled = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.identitytoken) {
            return Some(Credential::IdentityToken(token.into()));
        }
        if let Some(token) = filled(&self.registrytoken) {
            return Some(Credential::RegistryToken(token.into()));
        }
        if let Some(auth) = filled(&self.auth) {
            let text = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
            let text = String::from_utf8(text).ok()?;
            let (user, password) = text.split_once(':')?;
            return Some(Credential::of_pair(user, password.trim_end_matches('\0')));
        }
        Some(Credential::of_pair(&filled(&self.username)?, &filled(&self.password)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, scopes: &[&str]) -> Option<Credential> {
        let scopes: Vec<String> = scopes.iter().map(|s| (*s).into()).collect();
        AuthConfig::parse(json).unwrap().credential(&scopes)
    }

    #[test]
    fn the_longest_namespace_wins_and_an_empty_entry_is_none() {
        let json = r#"{"auths":{"h/t/dk":{"username":"a","password":"1"},"h":{"username":"b","password":"2"},"e":{}}}"#;
        assert_eq!(found(json, &["h/t/dk", "h/t", "h"]), Some(Credential::password("a", "1")));
        assert_eq!(found(json, &["h/t/x", "h/t", "h"]), Some(Credential::password("b", "2")));
        assert_eq!(found(json, &["e/x", "e"]), None);
    }

    #[test]
    fn tokens_beat_passwords_and_urls_name_hosts() {
        let json = r#"{"auths":{"https://h:5000/v1/":{"auth":"YTpi","identitytoken":"i"},"r":{"registrytoken":"t"}}}"#;
        assert_eq!(found(json, &["h:5000/x", "h:5000"]), Some(Credential::IdentityToken("i".into())));
        assert_eq!(found(json, &["r"]), Some(Credential::RegistryToken("t".into())));
    }

    #[test]
    fn a_broken_file_is_told_of_without_its_words() {
        let why = AuthConfig::parse(r#"{"auths":{"h":{"auth":canary}}}"#).err().unwrap();
        assert!(why.contains("line 1") && !why.contains("canary"), "{why}");
    }

    #[test]
    fn docker_config_replaces_the_usual_places() {
        let environment = Environment::empty().with("HOME", "/h").with("XDG_RUNTIME_DIR", "/r");
        let paths = |e: &Environment| search_order(e, None).into_iter().map(|f| f.path).collect::<Vec<_>>();
        let usual =
            ["/r/containers/auth.json", "/h/.config/containers/auth.json", "/h/.docker/config.json", "/h/.dockercfg"];
        assert_eq!(paths(&environment), usual.map(PathBuf::from));
        let docker = environment.with("DOCKER_CONFIG", "/d");
        assert_eq!(paths(&docker), [PathBuf::from("/d/config.json")]);
    }
}
