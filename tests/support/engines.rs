//! Container engines as daemons of our own: their data in temporary folders, ended when dropped.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use crate::peers::{Finished, Server, finish, program};

/// dockerd, without networks.
pub struct Docker {
    dir: TempDir,
    server: Option<Server>,
}

impl Default for Docker {
    fn default() -> Self {
        Docker::start()
    }
}

impl Docker {
    /// With an empty store. Needs root.
    pub fn start() -> Docker {
        // It gives its own containerd 15 s, which is little on a machine that is busy.
        (0..3).find_map(|_| Docker::try_start()).expect("dockerd starts (it needs root)")
    }

    fn try_start() -> Option<Docker> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let below = |name: &str| dir.path().join(name);
        let mut command = Command::new(program("dockerd"));
        command.arg("--data-root").arg(below("data")).arg("--exec-root").arg(below("exec"));
        command.arg("--pidfile").arg(below("pid")).arg("--host").arg(format!("unix://{}", below("socket").display()));
        // Layers are only looked at: nothing is mounted, and no rule of the machine's network is touched.
        command.args(["--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip6tables=false"]);
        let server = Server::start(&mut command, "API listen on");
        // Also one that did not start leaves what its end removes.
        let docker = Docker { dir, server };
        docker.server.is_some().then_some(docker)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Runs `docker` with `args`, without anybody's configuration.
    pub fn run<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Finished {
        let mut command = Command::new(program("docker"));
        command.env("DOCKER_CONFIG", self.dir.path().join("config")).env_remove("DOCKER_CONTEXT");
        command.env_remove("DOCKER_HOST").arg("--host");
        command.arg(format!("unix://{}", self.socket().display()));
        finish(command.args(args))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        drop(self.server.take());
        // dockerd mounts its data onto itself, and leaves that behind when it is killed; then nobody can remove it.
        let _ = rustix::mount::unmount(self.dir.path().join("data"), UnmountFlags::DETACH);
    }
}

/// containerd, spoken to by `ctr`.
pub struct Containerd {
    dir: TempDir,
    _server: Server,
}

impl Default for Containerd {
    fn default() -> Self {
        Containerd::start()
    }
}

impl Containerd {
    /// With an empty store. Needs root.
    pub fn start() -> Containerd {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let at = dir.path().display();
        let text = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n  address = \"{at}/socket\"\n[ttrpc]\n  address = \"{at}/ttrpc\"\n"
        );
        let config = dir.path().join("config.toml");
        fs::write(&config, text).expect("a file in a temporary folder");
        let mut command = Command::new(program("containerd"));
        let server = Server::start(command.arg("--config").arg(&config), "containerd successfully booted");
        Containerd { _server: server.expect("containerd starts (it needs root)"), dir }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Runs `ctr` with `args`.
    pub fn run<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Finished {
        let mut command = Command::new(program("ctr"));
        finish(command.arg("--address").arg(self.socket()).args(args))
    }

    /// Where it keeps everything.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A folder for `--hosts-dir` that names `address` as where the images of `registry` are.
    pub fn mirror(&self, registry: &str, address: impl std::fmt::Display) -> PathBuf {
        let hosts = self.dir.path().join("hosts");
        let folder = hosts.join(registry);
        fs::create_dir_all(&folder).expect("a folder in a temporary one");
        let text = format!("[host.\"http://{address}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
        fs::write(folder.join("hosts.toml"), text).expect("a file in a temporary folder");
        hosts
    }
}
