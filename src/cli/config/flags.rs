//! Flags that several commands share; each is a setting too.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::values;
use crate::cli::progress::Mode;
use crate::limit::{Timetable, rate};
use crate::oci::Platform;
use crate::registry::{Credential, Mirror};

/// Flags of every command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Common {
    /// Configuration file [default: $XDG_CONFIG_HOME/layerpull/config.toml]
    #[arg(long, value_name = "FILE", global = true, help_heading = "Common options")]
    pub config_file: Option<PathBuf>,
    /// Folder of the store [default: $XDG_DATA_HOME/layerpull]
    #[arg(long, value_name = "DIR", global = true, help_heading = "Common options")]
    pub store: Option<PathBuf>,
    /// Say on standard error what is found out and decided (-v), and every request, too (-vv)
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = "Common options")]
    pub verbose: u8,
}

/// Flags of the commands that talk to a registry.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Registry options")]
pub struct RegistryFlags {
    /// Allow HTTP without TLS, and certificates that nobody vouches for
    #[arg(long)]
    pub insecure: bool,
    /// Verify certificates
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_parser = values::switch)]
    pub tls_verify: Option<bool>,
    /// Certificate authorities (PEM) besides the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Folder with *.crt, *.cert and *.key, as docker's certs.d/HOST
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// The only credential file to look into
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Credentials; other users of this machine can see them: prefer `login`
    #[arg(long, value_name = "USER:PASSWORD", value_parser = values::credentials)]
    pub creds: Option<Credential>,
    /// Mirror to ask before the registry, for all images or those that begin with PREFIX (repeatable); `resolve` behind
    /// the URL lets it say what tags point to
    #[arg(long, value_name = "[PREFIX=]URL", value_parser = values::mirror)]
    pub mirror: Vec<Mirror>,
    /// Ask the mirrors of registries.conf, hosts.toml and daemon.json [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_parser = values::switch)]
    pub system_config: Option<bool>,
    /// Folder of HOST/hosts.toml [default: /etc/containerd/certs.d]
    #[arg(long, value_name = "DIR")]
    pub hosts_dir: Option<PathBuf>,
    /// How often in a row something may fail without progress [default: 5]
    #[arg(long, visible_alias = "retry-times", value_name = "N", value_parser = values::retries)]
    pub retries: Option<u32>,
    /// Cut a connection on which nothing comes for this long [default: 20s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub stall_timeout: Option<Duration>,
}

/// Flags of the commands that move blobs.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Transfer options")]
pub struct TransferFlags {
    /// Blobs at once, at most; a host gets no more than 32 connections [default: 32]
    #[arg(short, long, value_name = "N", value_parser = values::count::<1024>)]
    pub jobs: Option<usize>,
    /// Connections a blob, at most; a host gets no more than 32 [default: 16]
    #[arg(long, value_name = "N", value_parser = values::count::<256>)]
    pub streams: Option<usize>,
    /// OCI layout, or content store of containerd, whose blobs need not travel (repeatable)
    #[arg(long, value_name = "DIR")]
    pub from: Vec<PathBuf>,
    /// Take no blobs from engines and other stores of this machine
    #[arg(long)]
    pub no_local: bool,
    /// Where the root of this machine's file system is, when this runs in a container [default: /]
    #[arg(long, value_name = "DIR")]
    pub host_root: Option<PathBuf>,
    /// How progress is shown [default: auto]
    #[arg(long, value_name = "MODE", value_enum)]
    pub progress: Option<Mode>,
    /// Bytes a second that all connections together may use, such as 10M, 80Mbit, down:10M,up:2M, or by the time of day
    /// "08:00,2M 18:00,off" [default: off]
    #[arg(long, visible_alias = "limit-rate", value_name = "RATE", value_parser = Timetable::parse)]
    pub bwlimit: Option<Timetable>,
    /// File that processes share which share one limit [default: one in the store]
    #[arg(long, value_name = "FILE")]
    pub limit_file: Option<PathBuf>,
    /// Step back for other traffic: take less while packets wait on the way
    #[arg(long)]
    pub background: bool,
    /// Stop when so many bytes of blobs have moved, such as 5G; the next run goes on
    #[arg(long, value_name = "SIZE", value_parser = rate::amount)]
    pub max_transfer: Option<u64>,
    /// Refuse to begin when more bytes of blobs than this would have to move, and stop when more move after all
    #[arg(long, value_name = "SIZE", value_parser = rate::amount)]
    pub max_bytes: Option<u64>,
}

/// Everything on the command line that is a setting.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// Of every command.
    pub common: Common,
    /// Of the commands that talk to a registry.
    pub registry: RegistryFlags,
    /// Of the commands that move blobs.
    pub transfer: TransferFlags,
    /// Which platforms of an index are taken.
    pub platform: Vec<Platform>,
    /// Where `serve` listens.
    pub listen: Option<SocketAddr>,
}
