//! Credentials: where they are looked for, and in which order (containers-auth.json(5), docker's `config.json`).

pub(super) mod files;
mod helper;
pub(super) mod login;

use std::path::PathBuf;
use std::sync::Arc;

use files::{AuthConfig, AuthFile};
use helper::Helpers;

use super::answer::Notices;
use super::environment::Environment;
use super::secret::Secret;
use crate::oci::reference::DOCKER_HUB;

/// The key under which docker keeps the credentials of Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// What proves to a registry who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user and a password.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth refresh token, which is exchanged for bearer tokens.
    IdentityToken(Secret),
    /// A bearer token that is sent as it is.
    RegistryToken(Secret),
}

impl Credential {
    /// A user and a password.
    pub fn password(user: impl Into<String>, password: impl Into<Secret>) -> Credential {
        Credential::Password { user: user.into(), password: password.into() }
    }

    /// A user and what proves it; for tokens the user is `<token>`, as credential helpers have it.
    pub fn pair(&self) -> (&str, &Secret) {
        match self {
            Credential::Password { user, password } => (user, password),
            Credential::IdentityToken(token) | Credential::RegistryToken(token) => ("<token>", token),
        }
    }

    /// What a credential helper or a file means: the user `<token>` marks a refresh token.
    fn of_pair(user: &str, secret: &str) -> Credential {
        match user {
            "<token>" => Credential::IdentityToken(secret.into()),
            _ => Credential::password(user, secret),
        }
    }
}

/// Looks credentials up, once for each question that a helper is asked.
pub(super) struct Credentials {
    environment: Environment,
    authfile: Option<PathBuf>,
    given: Option<Credential>,
    helpers: Helpers,
}

impl Credentials {
    /// `given` beats every file; `authfile`, where there is one, is the only file.
    pub(super) fn new(environment: Environment, authfile: Option<PathBuf>, given: Option<Credential>) -> Credentials {
        Credentials { environment, authfile, given, helpers: Helpers::default() }
    }

    /// The credential for `repository` at `registry`. What cannot be read or run is warned of and passed over.
    pub(super) async fn find(&self, registry: &str, repository: &str, notices: &Notices) -> Option<Credential> {
        if let Some(given) = &self.given {
            return Some(given.clone());
        }
        let scopes = scopes(registry, repository);
        if self.authfile.is_none()
            && let Some(text) = self.environment.var("DOCKER_AUTH_CONFIG").filter(|text| !text.is_empty())
        {
            match AuthConfig::parse(text) {
                Ok(config) => match config.credential(&scopes) {
                    Some(found) => return Some(found),
                    None => tracing::debug!(registry, "DOCKER_AUTH_CONFIG has no credentials"),
                },
                Err(why) => notices.warn(format!("DOCKER_AUTH_CONFIG is passed over: {why}")),
            }
        }
        for file in self.files() {
            match file.read() {
                Ok(Some(config)) => {
                    if let Some(found) = self.in_file(&config, registry, &scopes, notices).await {
                        tracing::debug!(registry, file = %file.path.display(), "credentials found");
                        return Some(found);
                    }
                }
                Ok(None) => {}
                Err(why) => notices.warn(format!("{} is passed over: {why}", file.path.display())),
            }
        }
        None
    }

    fn files(&self) -> Vec<AuthFile> {
        files::search_order(&self.environment, self.authfile.as_deref())
    }

    /// `credHelpers` beats `credsStore` beats `auths`.
    async fn in_file(
        &self,
        config: &AuthConfig,
        registry: &str,
        scopes: &[String],
        notices: &Notices,
    ) -> Option<Credential> {
        let named = config.helper_for(registry).into_iter().chain(config.creds_store.as_deref());
        for name in named {
            for key in helper_keys(registry) {
                match self.helpers.get(name, key).await {
                    Ok(Some(found)) => return Some((*found).clone()),
                    Ok(None) => {}
                    Err(why) => notices.warn(format!("the credential helper {name:?} is passed over: {why}")),
                }
            }
        }
        config.credential(scopes)
    }
}

/// How a helper is asked for a registry: docker's key first, then that of podman.
fn helper_keys(registry: &str) -> Vec<&str> {
    if registry == DOCKER_HUB { vec![HUB_KEY, DOCKER_HUB] } else { vec![registry] }
}

/// `host/a/b`, `host/a`, `host`: the longest wins.
fn scopes(registry: &str, repository: &str) -> Vec<String> {
    let full = if repository.is_empty() { registry.to_owned() } else { format!("{registry}/{repository}") };
    let mut scopes = vec![full.clone()];
    let mut rest = full.as_str();
    while let Some((above, _)) = rest.rsplit_once('/') {
        scopes.push(above.to_owned());
        rest = above;
    }
    scopes
}

/// Credentials as a shared handle.
pub(super) type SharedCredentials = Arc<Credentials>;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::event::Silent;

    async fn find(environment: &Environment, registry: &str, repository: &str) -> Option<Credential> {
        let notices = Notices::new(Arc::new(Silent));
        Credentials::new(environment.clone(), None, None).find(registry, repository, &notices).await
    }

    fn auths(key: &str, text: &str) -> String {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(text);
        format!(r#"{{"auths":{{"{key}":{{"auth":"{auth}"}}}}}}"#)
    }

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A helper of a name that only this test uses, found by its path in the variable of the test's own process.
    fn helper(folder: &Path, name: &str, script: &str) -> String {
        let path = folder.join(format!("docker-credential-{name}"));
        support::command::script(&path, script);
        path.display().to_string()
    }

    #[tokio::test]
    async fn the_next_file_is_read_when_one_has_no_match() {
        let home = tempfile::tempdir().unwrap();
        write(&home.path().join("run/containers/auth.json"), &auths("other.example", "x:y"));
        write(&home.path().join(".docker/config.json"), &auths("h.example", "ann:a:b\0"));
        let environment = Environment::empty()
            .with("HOME", home.path().to_str().unwrap())
            .with("XDG_RUNTIME_DIR", home.path().join("run").to_str().unwrap());
        assert_eq!(find(&environment, "h.example", "r").await, Some(Credential::password("ann", "a:b")));
        assert_eq!(find(&environment, "none.example", "r").await, None);
    }

    #[tokio::test]
    async fn the_variable_beats_files_and_a_named_file_is_the_only_one() {
        let home = tempfile::tempdir().unwrap();
        write(&home.path().join(".docker/config.json"), &auths("h.example", "file:f"));
        write(&home.path().join("only.json"), &auths("x.example", "only:o"));
        let environment = Environment::empty().with("HOME", home.path().to_str().unwrap());
        let with_variable = environment.clone().with("DOCKER_AUTH_CONFIG", &auths("h.example", "env:e"));
        assert_eq!(find(&with_variable, "h.example", "r").await, Some(Credential::password("env", "e")));
        let only = environment.with("REGISTRY_AUTH_FILE", home.path().join("only.json").to_str().unwrap());
        assert_eq!(find(&only, "h.example", "r").await, None);
        assert_eq!(find(&only, "x.example", "r").await, Some(Credential::password("only", "o")));
    }

    #[tokio::test]
    async fn every_spelling_of_docker_hub_is_one() {
        for key in [
            "https://index.docker.io/v1/",
            "docker.io",
            "index.docker.io",
            "registry-1.docker.io",
            "https://docker.io/v2/",
        ] {
            let environment = Environment::empty().with("DOCKER_AUTH_CONFIG", &auths(key, "ann:a"));
            let found = find(&environment, "docker.io", "library/mysql").await;
            assert_eq!(found, Some(Credential::password("ann", "a")), "{key}");
        }
    }

    #[tokio::test]
    async fn a_helper_is_asked_once_and_its_refusal_means_anonymous() {
        let home = tempfile::tempdir().unwrap();
        let count = home.path().join("count");
        let script = format!(
            "echo >> {}; read -r key; case $key in h.example) echo '{{\"Username\":\"<token>\",\"Secret\":\"s\"}}';; \
             *) echo 'credentials not found in native keychain'; exit 1;; esac",
            count.display()
        );
        let path = helper(home.path(), "a", &script);
        let helpers = Helpers::from_folder(Path::new(&path).parent().unwrap());
        for _ in 0..3 {
            let found = helpers.get("a", "h.example").await.unwrap();
            assert_eq!(found.as_deref(), Some(&Credential::IdentityToken("s".into())));
        }
        assert_eq!(helpers.get("a", "x.example").await, Ok(None));
        assert_eq!(std::fs::read_to_string(count).unwrap().lines().count(), 2);
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_ended() {
        let home = tempfile::tempdir().unwrap();
        helper(home.path(), "b", "exec sleep 1000");
        let helpers = Helpers::from_folder(home.path()).limited_to(std::time::Duration::from_millis(50));
        let why = helpers.get("b", "h.example").await.unwrap_err();
        assert!(why.contains("did not answer"), "{why}");
    }

    #[tokio::test]
    async fn a_helper_outside_the_path_is_never_run() {
        let why = Helpers::default().get("../evil", "h.example").await.unwrap_err();
        assert!(why.contains("no name of a helper"), "{why}");
    }

    #[test]
    fn nothing_secret_is_printed() {
        let shown = format!("{:?}", Credential::password("ann", "canary"));
        assert!(shown.contains("ann") && !shown.contains("canary"), "{shown}");
    }
}
