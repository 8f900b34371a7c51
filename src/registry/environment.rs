//! What the process's surroundings say: variables and the places of configuration files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The variables that this module reads.
const VARIABLES: [&str; 17] = [
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "REGISTRY_AUTH_FILE",
    "CONTAINERS_REGISTRIES_CONF",
    "DOCKER_CONFIG",
    "DOCKER_AUTH_CONFIG",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "REQUEST_METHOD",
];

/// Variables and the system's configuration folder, taken once, so that tests can give others.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    system: PathBuf,
}

impl Environment {
    /// What this process runs in, with `/etc` as the system's configuration folder.
    pub fn of_process() -> Environment {
        let read = |name: &&str| std::env::var(name).ok().map(|value| ((*name).to_owned(), value));
        Environment { variables: VARIABLES.iter().filter_map(read).collect(), system: "/etc".into() }
    }

    /// No variables and no configuration at all.
    pub fn empty() -> Environment {
        Environment { variables: BTreeMap::new(), system: "/nonexistent".into() }
    }

    /// The same with one more variable.
    pub fn with(mut self, name: &str, value: &str) -> Environment {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// The same with another folder in the place of `/etc`.
    pub fn with_system(mut self, folder: &Path) -> Environment {
        self.system = folder.into();
        self
    }

    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// A variable that names a path; an empty one names none.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.var(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    pub(super) fn home(&self) -> Option<PathBuf> {
        self.path("HOME")
    }

    pub(super) fn config_home(&self) -> Option<PathBuf> {
        self.path("XDG_CONFIG_HOME").or_else(|| Some(self.home()?.join(".config")))
    }

    /// Where this program keeps hints between runs.
    pub fn state_folder(&self) -> Option<PathBuf> {
        let home = self.path("XDG_STATE_HOME").or_else(|| Some(self.home()?.join(".local/state")));
        // The specification of these variables: a path that is not absolute counts as none.
        home.filter(|path| path.is_absolute()).map(|path| path.join("layerpull"))
    }

    /// `/etc`.
    pub(super) fn system(&self) -> &Path {
        &self.system
    }
}

impl Default for Environment {
    fn default() -> Environment {
        Environment::of_process()
    }
}

/// Names only: `DOCKER_AUTH_CONFIG` and proxies hold passwords.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}
