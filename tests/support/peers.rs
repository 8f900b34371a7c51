//! Real registries and clients from the system's packages. One that is missing fails the test.

use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::images::Image;

/// Longest wait for a server.
const PATIENCE: Duration = Duration::from_secs(60);

/// The path of a program of the system. Panics, naming the package, when it is not installed.
pub fn program(name: &str) -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&paths).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("`{name}` is needed by this test: install the package of that name"))
}

/// How a peer's command ended.
#[derive(Debug)]
pub struct Finished {
    pub stdout: String,
    pub stderr: String,
    pub success: bool,
}

impl Finished {
    /// Panics with everything that was printed unless it went well; gives what stdout said.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a peer to its end.
pub fn run<A: AsRef<std::ffi::OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> Finished {
    finish(Command::new(program(name)).args(args))
}

pub(crate) fn finish(command: &mut Command) -> Finished {
    let output = command.stdin(Stdio::null()).output().expect("the program runs");
    Finished {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        success: output.status.success(),
    }
}

/// `skopeo` with a trust policy that admits everything.
pub fn skopeo<A: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = A>) -> Finished {
    finish(Command::new(program("skopeo")).arg("--insecure-policy").args(args))
}

/// Podman with a store of its own.
pub struct Podman {
    dir: TempDir,
}

impl Default for Podman {
    fn default() -> Self {
        Podman::new()
    }
}

impl Podman {
    /// With an empty store.
    pub fn new() -> Podman {
        Podman { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    /// Runs `podman` with `args`.
    pub fn run<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Finished {
        let mut command = Command::new(program("podman"));
        finish(command.envs(self.environment()).env("HOME", self.dir.path()).args(args))
    }

    /// What leads any podman to this store.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        let at = |name: &str| self.dir.path().join(name);
        let (root, run, tmp) = (at("root"), at("run"), at("tmp"));
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            root.display(),
            run.display()
        );
        let engine = format!("[engine]\ncgroup_manager = \"cgroupfs\"\ntmp_dir = \"{}\"\n", tmp.display());
        fs::write(at("storage.conf"), storage).expect("a file in a temporary folder");
        fs::write(at("containers.conf"), engine).expect("a file in a temporary folder");
        [("CONTAINERS_STORAGE_CONF", at("storage.conf")), ("CONTAINERS_CONF", at("containers.conf"))]
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
    listener.local_addr().expect("the listener's address").port()
}

/// An address of 127.0.0.1 where connections are refused, and where nobody begins to listen while this lives.
pub struct Closed {
    address: SocketAddr,
    _taken: OwnedFd,
}

impl Closed {
    /// A port that is taken, and not listened at.
    pub fn port() -> Closed {
        let taken = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
        bind(&taken, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
        let address = getsockname(&taken).expect("it is bound").try_into().expect("an address of the internet");
        Closed { address, _taken: taken }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

/// A server that is ours. Ended when dropped.
pub(crate) struct Server {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts `command` and waits for `ready` in what it prints; `None` when it ended before.
    pub(crate) fn start(command: &mut Command, ready: &'static str) -> Option<Server> {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, started) = mpsc::channel();
        follow(child.stdout.take().expect("a pipe"), log.clone(), ready, sender.clone());
        follow(child.stderr.take().expect("a pipe"), log.clone(), ready, sender);
        let server = Server { child, log };
        if started.recv_timeout(PATIENCE).is_ok() {
            return Some(server);
        }
        eprintln!("{:?} did not start:\n{}", command.get_program(), server.log.lock().expect("the log").join("\n"));
        None
    }
}

fn follow(
    pipe: impl std::io::Read + Send + 'static,
    log: Arc<Mutex<Vec<String>>>,
    ready: &'static str,
    started: mpsc::Sender<()>,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if line.contains(ready) {
                // Nobody listens any more after the first time.
                let _ = started.send(());
            }
            log.lock().expect("the log").push(line);
        }
    });
}

impl Drop for Server {
    fn drop(&mut self) {
        // nginx takes its workers along only when it is asked to end; a server that has ended already is fine.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// distribution's registry, with its content in a temporary folder.
pub struct DockerRegistry {
    port: u16,
    server: Server,
    dir: TempDir,
    marks: AtomicUsize,
}

impl DockerRegistry {
    /// An empty registry without authentication.
    pub fn start() -> DockerRegistry {
        DockerRegistry::start_with(None, "")
    }

    /// An empty registry for the users in `htpasswd` (bcrypt).
    pub fn start_with_passwords(htpasswd: &str) -> DockerRegistry {
        DockerRegistry::start_with(Some(htpasswd), "")
    }

    /// A cache that asks the registry at `host` for what it does not have.
    pub fn start_cache_of(host: &str) -> DockerRegistry {
        DockerRegistry::start_with(None, &format!("proxy:\n  remoteurl: http://{host}\n"))
    }

    fn start_with(htpasswd: Option<&str>, more: &str) -> DockerRegistry {
        // Somebody else may take the port between our look and its bind.
        (0..5).find_map(|_| DockerRegistry::try_start(htpasswd, more)).expect("docker-registry starts")
    }

    fn try_start(htpasswd: Option<&str>, more: &str) -> Option<DockerRegistry> {
        let (port, dir) = (free_port(), tempfile::tempdir().expect("a temporary folder"));
        let config = dir.path().join("config.yml");
        let users = dir.path().join("htpasswd");
        let auth = htpasswd.map_or_else(String::new, |lines| {
            fs::write(&users, lines).expect("a file in a temporary folder");
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", users.display())
        });
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
             http:\n  addr: 127.0.0.1:{port}\n{auth}{more}",
            dir.path().join("data").display()
        );
        fs::write(&config, text).expect("a file in a temporary folder");
        let mut command = Command::new(program("docker-registry"));
        let server = Server::start(command.arg("serve").arg(&config), "listening on")?;
        Some(DockerRegistry { port, server, dir, marks: AtomicUsize::new(0) })
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT/repository:tag`.
    pub fn name(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.host())
    }

    /// Pushes `image` with skopeo, all platforms, digests kept.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) {
        self.copy(&[], repository, tag, image);
    }

    /// The same as this user.
    pub fn push_as(&self, (user, password): (&str, &str), repository: &str, tag: &str, image: &Image) {
        self.copy(&["--dest-creds", &format!("{user}:{password}")], repository, tag, image);
    }

    fn copy(&self, options: &[&str], repository: &str, tag: &str, image: &Image) {
        let layout = tempfile::tempdir().expect("a temporary folder");
        image.write_layout(layout.path(), "x");
        let from = format!("oci:{}:x", layout.path().display());
        let to = format!("docker://{}", self.name(repository, tag));
        let copy = ["copy", "--all", "--preserve-digests", "--dest-tls-verify=false"];
        skopeo(copy.iter().chain(options).copied().chain([from.as_str(), to.as_str()])).ok();
    }

    /// The lines of its access log so far, in the common log format of web servers.
    pub fn access_log(&self) -> Vec<String> {
        self.server.log.lock().expect("the log").iter().filter(|line| line.contains("HTTP/1.1\"")).cloned().collect()
    }

    /// The access log with everything that was answered before this call: a request of our own has come out of it.
    pub fn settled_log(&self) -> Vec<String> {
        let mark = format!("/v2/mark-{}/tags/list", self.marks.fetch_add(1, Ordering::Relaxed));
        let mut stream = TcpStream::connect(self.host()).expect("the registry accepts");
        write!(stream, "GET {mark} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
        stream.read_to_end(&mut Vec::new()).expect("it answers");
        crate::until("the mark is logged", || self.access_log().iter().any(|line| line.contains(&mark)));
        self.access_log().into_iter().filter(|line| !line.contains("/v2/mark-")).collect()
    }

    /// How many requests of `method` with `part` in their path it has logged.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let start = format!("\"{method} ");
        self.settled_log().iter().filter(|line| line.contains(&start) && line.contains(part)).count()
    }

    /// Where its blobs lie.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

/// nginx, serving the files of a folder.
pub struct Nginx {
    port: u16,
    _server: Server,
    _dir: TempDir,
}

impl Nginx {
    /// Serves `root`; `extra` goes into its `server` block.
    pub fn start(root: &Path, extra: &str) -> Nginx {
        (0..5).find_map(|_| Nginx::try_start(root, extra)).expect("nginx starts")
    }

    fn try_start(root: &Path, extra: &str) -> Option<Nginx> {
        let (port, dir) = (free_port(), tempfile::tempdir().expect("a temporary folder"));
        let temp = dir.path().display();
        // Its workers would else be another user, who may not look into our temporary folders.
        let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
        let text = format!(
            "daemon off; {user} worker_processes 1; pid {temp}/pid; error_log stderr notice; events {{}}\nhttp {{ access_log off; \
             client_body_temp_path {temp}/a; proxy_temp_path {temp}/b; fastcgi_temp_path {temp}/c; uwsgi_temp_path {temp}/d; \
             scgi_temp_path {temp}/e;\nserver {{ listen 127.0.0.1:{port}; root {}; {extra} }} }}\n",
            root.display()
        );
        let config = dir.path().join("nginx.conf");
        fs::write(&config, text).expect("a file in a temporary folder");
        let mut command = Command::new(program("nginx"));
        let server = Server::start(command.arg("-p").arg(dir.path()).arg("-c").arg(&config), "start worker process ")?;
        Some(Nginx { port, _server: server, _dir: dir })
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
