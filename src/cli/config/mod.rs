//! Settings: from flags, the environment, the configuration file and defaults, in this order, each with its origin.

mod file;
mod flags;
mod limit;
mod sources;
pub mod values;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::progress::Mode;
use crate::error::{Error, Result};
use crate::limit::{Budget, Limiter, Rates, Timetable, rate};
use crate::local::Surroundings;
use crate::oci::Platform;
use crate::registry::{Configured, Credential, Insecure, Mirror};
use crate::transfer;

pub use file::File;
pub use flags::{Common, Flags, RegistryFlags, TransferFlags};
use sources::Sources;

/// How variables of the environment are looked up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// This variable.
    Environment(String),
    /// The configuration file, and the line in it.
    File(PathBuf, usize),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Environment(name) => f.write_str(name),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// A value and where it came from.
#[derive(Debug, Clone)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

impl Setting<Vec<Mirror>> {
    /// The same; each knows where it was said.
    fn told(mut self) -> Self {
        let said = match &self.origin {
            Origin::Flag => Configured::Said("--mirror".into()),
            Origin::Environment(name) => Configured::Said(name.clone()),
            Origin::File(path, line) => Configured::File(path.clone(), *line),
            Origin::Default => Configured::Default,
        };
        self.value.iter_mut().for_each(|mirror| mirror.configured = said.clone());
        self
    }
}

/// A setting's name in the file (`stall-timeout`), and so in the environment (`LAYERPULL_STALL_TIMEOUT`).
struct Key {
    name: &'static str,
    /// A variable of other programs that means the same.
    foreign: Option<&'static str>,
    place: Place,
}

/// Where a setting may stand.
#[derive(PartialEq)]
enum Place {
    Anywhere,
    /// A secret does not belong into the configuration file.
    NotInFile,
}

const fn key(name: &'static str) -> Key {
    Key { name, foreign: None, place: Place::Anywhere }
}

const STORE: Key = key("store");
const PLATFORM: Key = Key { foreign: Some("DOCKER_DEFAULT_PLATFORM"), ..key("platform") };
const JOBS: Key = key("jobs");
const STREAMS: Key = key("streams");
const RETRIES: Key = key("retries");
const STALL_TIMEOUT: Key = key("stall-timeout");
const FROM: Key = key("from");
const NO_LOCAL: Key = key("no-local");
const HOST_ROOT: Key = key("host-root");
const PROGRESS: Key = key("progress");
const BWLIMIT: Key = key("bwlimit");
const LIMIT_FILE: Key = key("limit-file");
const BACKGROUND: Key = key("background");
const MAX_TRANSFER: Key = key("max-transfer");
const MAX_BYTES: Key = key("max-bytes");
const INSECURE: Key = key("insecure");
const TLS_VERIFY: Key = key("tls-verify");
const CA_FILE: Key = key("ca-file");
const CERT_DIR: Key = key("cert-dir");
const AUTHFILE: Key = Key { foreign: Some("REGISTRY_AUTH_FILE"), ..key("authfile") };
const CREDS: Key = Key { place: Place::NotInFile, ..key("creds") };
const MIRROR: Key = key("mirror");
const SYSTEM_CONFIG: Key = key("system-config");
const HOSTS_DIR: Key = key("hosts-dir");
const LISTEN: Key = key("listen");

const KEYS: [&Key; 25] = [
    &STORE,
    &PLATFORM,
    &JOBS,
    &STREAMS,
    &RETRIES,
    &STALL_TIMEOUT,
    &FROM,
    &NO_LOCAL,
    &HOST_ROOT,
    &PROGRESS,
    &BWLIMIT,
    &LIMIT_FILE,
    &BACKGROUND,
    &MAX_TRANSFER,
    &MAX_BYTES,
    &INSECURE,
    &TLS_VERIFY,
    &CA_FILE,
    &CERT_DIR,
    &AUTHFILE,
    &CREDS,
    &MIRROR,
    &SYSTEM_CONFIG,
    &HOSTS_DIR,
    &LISTEN,
];

impl Key {
    fn variable(&self) -> String {
        format!("LAYERPULL_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// Every setting, as it is in force.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of the store.
    pub store: Setting<PathBuf>,
    /// Which platforms of an index are taken.
    pub platform: Setting<Vec<Platform>>,
    /// Blobs at once.
    pub jobs: Setting<usize>,
    /// Connections a blob.
    pub streams: Setting<usize>,
    /// Failures in a row without progress.
    pub retries: Setting<u32>,
    /// Patience with a connection on which nothing comes.
    pub stall_timeout: Setting<Duration>,
    /// Layouts and content stores on this machine that blobs may come from.
    pub from: Setting<Vec<PathBuf>>,
    /// Whether blobs are looked for in these alone, and not where engines keep them.
    pub no_local: Setting<bool>,
    /// Where the root of the machine's file system is, for finding what engines keep.
    pub host_root: Setting<PathBuf>,
    /// How progress is shown.
    pub progress: Setting<Mode>,
    /// Bytes a second that all connections may use.
    pub bwlimit: Setting<Timetable>,
    /// The file through which processes share one limit.
    pub limit_file: Setting<PathBuf>,
    /// Whether other traffic goes first.
    pub background: Setting<bool>,
    /// Bytes of blobs after which a run stops.
    pub max_transfer: Setting<Option<u64>>,
    /// Bytes of blobs that a plan may want moved.
    pub max_bytes: Setting<Option<u64>>,
    /// What `bwlimit` comes to: nothing before [`Settings::limit`].
    pub limiter: Limiter,
    /// What `max-transfer` and `max-bytes` come to, counted over the whole run.
    pub budget: Budget,
    /// Registries without TLS, or with certificates that nobody vouches for.
    pub insecure: Setting<Insecure>,
    /// Whether certificates are verified.
    pub tls_verify: Setting<bool>,
    /// Certificate authorities besides the system's.
    pub ca_file: Setting<Option<PathBuf>>,
    /// A folder with `*.crt`, `*.cert` and `*.key`, as docker's `certs.d/HOST`.
    pub cert_dir: Setting<Option<PathBuf>>,
    /// The only credential file to look into.
    pub authfile: Setting<Option<PathBuf>>,
    /// Credentials for the registry, instead of any file.
    pub creds: Setting<Option<Credential>>,
    /// Hosts to ask before the registry.
    pub mirror: Setting<Vec<Mirror>>,
    /// Whether the mirrors that other programs are configured with are asked.
    pub system_config: Setting<bool>,
    /// The folder of containerd's `hosts.toml`.
    pub hosts_dir: Setting<Option<PathBuf>>,
    /// Where `serve` listens.
    pub listen: Setting<SocketAddr>,
    /// The home of this user.
    home: Option<PathBuf>,
    /// Where programs keep data of this user.
    data: Option<PathBuf>,
}

impl Settings {
    /// Puts flags, environment, file and defaults together.
    ///
    /// # Errors
    /// `Usage` with the origin of a value that makes no sense; `Store` when the file cannot be read.
    pub fn gather(flags: Flags, environment: Environment<'_>) -> Result<Settings> {
        let file = find_file(flags.common.config_file.as_deref(), environment)?;
        let from = Sources { environment, file };
        let Flags { common, registry, transfer, platform, listen } = flags;
        let defaults = transfer::Settings::default();
        let store = from.one(&STORE, common.store, values::path)?.or_try(|| default_store(environment))?;
        let max_transfer = from.one(&MAX_TRANSFER, transfer.max_transfer, rate::amount)?.optional();
        let max_bytes = from.one(&MAX_BYTES, transfer.max_bytes, rate::amount)?.optional();
        Ok(Settings {
            bwlimit: from.one(&BWLIMIT, transfer.bwlimit, Timetable::parse)?.or(Timetable::always(Rates::OFF)),
            limit_file: from.one(&LIMIT_FILE, transfer.limit_file, values::path)?.or(limit::file_of(&store.value)),
            background: from.one(&BACKGROUND, transfer.background.then_some(true), values::switch)?.or(false),
            limiter: Limiter::none(),
            budget: Budget::new(max_transfer.value, max_bytes.value),
            max_transfer,
            max_bytes,
            store,
            platform: from.platforms(platform)?.or(vec![Platform::host()]),
            jobs: from.one(&JOBS, transfer.jobs, values::count::<1024>)?.or(defaults.jobs),
            streams: from.one(&STREAMS, transfer.streams, values::count::<256>)?.or(defaults.streams),
            retries: from.one(&RETRIES, registry.retries, values::retries)?.or(defaults.retries),
            stall_timeout: from.one(&STALL_TIMEOUT, registry.stall_timeout, values::duration)?.or(defaults.stall),
            from: from.many(&FROM, transfer.from, values::path)?.or(Vec::new()),
            no_local: from.one(&NO_LOCAL, transfer.no_local.then_some(true), values::switch)?.or(false),
            host_root: from.one(&HOST_ROOT, transfer.host_root, values::path)?.or("/".into()),
            home: variable(environment, "HOME").map(PathBuf::from),
            data: base(environment, "XDG_DATA_HOME", ".local/share"),
            progress: from.one(&PROGRESS, transfer.progress, values::progress)?.or(Mode::Auto),
            insecure: from.insecure(registry.insecure)?.or(Insecure::None),
            tls_verify: from.one(&TLS_VERIFY, registry.tls_verify, values::switch)?.or(true),
            ca_file: from.one(&CA_FILE, registry.ca_file, values::path)?.optional(),
            cert_dir: from.one(&CERT_DIR, registry.cert_dir, values::path)?.optional(),
            authfile: from.one(&AUTHFILE, registry.authfile, values::path)?.optional(),
            creds: from.one(&CREDS, registry.creds, values::credentials)?.optional(),
            mirror: from.many(&MIRROR, registry.mirror, values::mirror)?.or(Vec::new()).told(),
            system_config: from.one(&SYSTEM_CONFIG, registry.system_config, values::switch)?.or(true),
            hosts_dir: from.one(&HOSTS_DIR, registry.hosts_dir, values::path)?.optional(),
            listen: from.one(&LISTEN, listen, socket)?.or(SocketAddr::from(([127, 0, 0, 1], 5000))),
        })
    }

    /// The bounds of transfers.
    pub fn transfer(&self) -> transfer::Settings {
        transfer::Settings {
            jobs: self.jobs.value,
            streams: self.streams.value,
            retries: self.retries.value,
            stall: self.limiter.patience(self.stall_timeout.value),
            limiter: self.limiter.clone(),
            budget: self.budget.clone(),
            ..transfer::Settings::default()
        }
    }

    /// Where blobs are looked for that this machine has already.
    pub fn surroundings(&self) -> Surroundings {
        let usual = self.data.iter().map(|data| data.join("layerpull"));
        Surroundings {
            root: self.host_root.value.clone(),
            home: self.home.clone(),
            data: self.data.clone(),
            stores: [self.store.value.clone()].into_iter().chain(usual).collect(),
        }
    }

    /// Every setting as name, value and origin. Passwords are not shown.
    pub fn rows(&self) -> Vec<Row> {
        let creds = self.creds.value.as_ref().map_or_else(|| "none".into(), |creds| format!("{}:***", creds.pair().0));
        vec![
            row(&STORE, &self.store, self.store.value.display().to_string()),
            row(&PLATFORM, &self.platform, joined(self.platform.value.iter().map(Platform::to_string))),
            row(&JOBS, &self.jobs, self.jobs.value.to_string()),
            row(&STREAMS, &self.streams, self.streams.value.to_string()),
            row(&RETRIES, &self.retries, self.retries.value.to_string()),
            row(&STALL_TIMEOUT, &self.stall_timeout, values::show_duration(&self.stall_timeout.value)),
            row(&FROM, &self.from, joined(self.from.value.iter().map(|path| path.display().to_string()))),
            row(&NO_LOCAL, &self.no_local, self.no_local.value.to_string()),
            row(&HOST_ROOT, &self.host_root, self.host_root.value.display().to_string()),
            row(&PROGRESS, &self.progress, self.progress.value.to_string()),
            row(&BWLIMIT, &self.bwlimit, self.bwlimit.value.to_string()),
            row(&LIMIT_FILE, &self.limit_file, self.limit_file.value.display().to_string()),
            row(&BACKGROUND, &self.background, self.background.value.to_string()),
            row(&MAX_TRANSFER, &self.max_transfer, show_amount(self.max_transfer.value)),
            row(&MAX_BYTES, &self.max_bytes, show_amount(self.max_bytes.value)),
            row(&INSECURE, &self.insecure, show_insecure(&self.insecure.value)),
            row(&TLS_VERIFY, &self.tls_verify, self.tls_verify.value.to_string()),
            row(&CA_FILE, &self.ca_file, show_path(self.ca_file.value.as_deref())),
            row(&CERT_DIR, &self.cert_dir, show_path(self.cert_dir.value.as_deref())),
            row(&AUTHFILE, &self.authfile, show_path(self.authfile.value.as_deref())),
            row(&CREDS, &self.creds, creds),
            row(&MIRROR, &self.mirror, joined(self.mirror.value.iter().map(Mirror::to_string))),
            row(&SYSTEM_CONFIG, &self.system_config, self.system_config.value.to_string()),
            row(&HOSTS_DIR, &self.hosts_dir, show_path(self.hosts_dir.value.as_deref())),
            row(&LISTEN, &self.listen, self.listen.value.to_string()),
        ]
    }
}

/// One setting as text.
#[derive(Debug, serde::Serialize)]
pub struct Row {
    /// Its name in the file.
    pub name: &'static str,
    /// Its variable.
    pub variable: String,
    /// Its value.
    pub value: String,
    /// Where that came from.
    pub origin: String,
}

fn row<T>(key: &Key, setting: &Setting<T>, value: String) -> Row {
    Row { name: key.name, variable: key.variable(), value, origin: setting.origin.to_string() }
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() { "none".into() } else { texts.join(",") }
}

fn show_path(path: Option<&Path>) -> String {
    path.map_or_else(|| "none".into(), |path| path.display().to_string())
}

fn show_amount(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "none".into(), rate::show)
}

fn show_insecure(insecure: &Insecure) -> String {
    match insecure {
        Insecure::None => "false".into(),
        Insecure::All => "true".into(),
        Insecure::Hosts(hosts) => hosts.join(","),
    }
}

/// An address and a port to listen on.
pub fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected ADDRESS:PORT, such as 127.0.0.1:5000".into())
}

/// The known word that `word` probably meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(word, candidate);
    let near = known.into_iter().map(|candidate| (distance(candidate), candidate));
    let limit = if word.len() < 4 { 1 } else { 2 };
    near.filter(|(distance, _)| *distance <= limit).min().map(|(_, candidate)| candidate)
}

fn find_file(flag: Option<&Path>, environment: Environment<'_>) -> Result<Option<File>> {
    let known: Vec<&str> = KEYS.iter().filter(|key| key.place == Place::Anywhere).map(|key| key.name).collect();
    let named = flag.map(Path::to_owned).or_else(|| variable(environment, "LAYERPULL_CONFIG").map(PathBuf::from));
    match named {
        Some(path) => match File::read(&path, &known)? {
            Some(file) => Ok(Some(file)),
            None => Err(Error::Usage(format!("{}: there is no such configuration file", path.display()))),
        },
        None => match base(environment, "XDG_CONFIG_HOME", ".config") {
            Some(folder) => File::read(&folder.join("layerpull/config.toml"), &known),
            None => Ok(None),
        },
    }
}

fn default_store(environment: Environment<'_>) -> Result<PathBuf> {
    let folder = base(environment, "XDG_DATA_HOME", ".local/share");
    let folder = folder.ok_or_else(|| Error::Usage("HOME is not set: say where the store is with --store".into()))?;
    Ok(folder.join("layerpull"))
}

/// A base folder of the XDG specification; relative ones are ignored, as it says.
fn base(environment: Environment<'_>, name: &str, below_home: &str) -> Option<PathBuf> {
    let named = variable(environment, name).map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| variable(environment, "HOME").map(|home| Path::new(&home).join(below_home)))
}

/// A variable that is empty is not set.
fn variable(environment: Environment<'_>, name: &str) -> Option<OsString> {
    environment(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests;
