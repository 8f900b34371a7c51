//! Runs the `layerpull` binary in a clean environment.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest run of one command before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// One call of the command, in the making. Its home is a folder of its own, so that nobody's configuration leaks in.
pub struct Layerpull {
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    dir: Option<PathBuf>,
    home: Home,
}

enum Home {
    Own(TempDir),
    Shared(PathBuf),
}

impl Home {
    fn path(&self) -> &Path {
        match self {
            Home::Own(dir) => dir.path(),
            Home::Shared(path) => path,
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    /// `None` when a signal ended it.
    pub code: Option<i32>,
}

impl Default for Layerpull {
    fn default() -> Self {
        Layerpull::new()
    }
}

impl Layerpull {
    /// The command without arguments.
    pub fn new() -> Layerpull {
        let home = Home::Own(tempfile::tempdir().expect("a temporary folder"));
        Layerpull { args: Vec::new(), env: Vec::new(), stdin: Vec::new(), dir: None, home }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Layerpull {
        self.args.push(arg.as_ref().into());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Layerpull {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// `--store DIR`.
    pub fn store(self, dir: &Path) -> Layerpull {
        self.arg("--store").arg(dir)
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Layerpull {
        self.env.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    pub fn stdin(mut self, text: impl AsRef<[u8]>) -> Layerpull {
        self.stdin = text.as_ref().into();
        self
    }

    /// Runs in this folder.
    pub fn current_dir(mut self, dir: &Path) -> Layerpull {
        self.dir = Some(dir.into());
        self
    }

    /// A home that several calls share: `HOME` and, below it, every `XDG_*` folder.
    pub fn home(mut self, dir: &Path) -> Layerpull {
        self.home = Home::Shared(dir.into());
        self
    }

    /// Runs it to its end. Panics after two minutes.
    pub fn run(self) -> Output {
        self.spawn().wait()
    }

    /// Starts it.
    pub fn spawn(self) -> Running {
        let mut command = self.prepare(Command::new(binary()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the layerpull binary is built");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        // A command that does not read its input is right to close it.
        let _ = stdin.write_all(&self.stdin);
        let stdout = Printed::collect(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Printed::collect(child.stderr.take().expect("stderr is a pipe"));
        Running { child, stdout, stderr, _home: self.home }
    }

    /// `command` with the arguments and the clean environment.
    pub(crate) fn prepare(&self, mut command: Command) -> Command {
        let home = self.home.path();
        command.args(&self.args).current_dir(self.dir.as_deref().unwrap_or(home));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home);
        for (name, below) in
            [("CONFIG", ".config"), ("DATA", ".local/share"), ("STATE", ".local/state"), ("CACHE", ".cache")]
        {
            command.env(format!("XDG_{name}_HOME"), home.join(below));
        }
        let runtime = home.join("run");
        std::fs::create_dir_all(&runtime).expect("a folder in the home");
        // What engines of this machine keep is nobody's business here.
        command.env("XDG_RUNTIME_DIR", runtime).env("LAYERPULL_HOST_ROOT", home.join("host"));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// The binary that cargo built beside this test.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    folder.join(format!("layerpull{}", std::env::consts::EXE_SUFFIX))
}

/// Writes a program that a shell runs.
///
/// Another process writes it: the system runs no file that anybody has open for writing, and what we have open every
/// process has that another test starts just then, until it becomes its program.
pub fn script(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut child = install.spawn().expect("`install` is on every system");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    stdin.write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).expect("it reads");
    drop(stdin);
    assert!(child.wait().expect("the process is ours").success(), "{} cannot be written", path.display());
}

/// What a pipe has given so far.
struct Printed {
    bytes: Arc<(Mutex<Vec<u8>>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Printed {
    fn collect(mut pipe: impl Read + Send + 'static) -> Printed {
        let bytes = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let shared = bytes.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // What came before an error is what there is.
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                shared.0.lock().expect("the other side does not panic").extend_from_slice(&buffer[..count]);
                shared.1.notify_all();
            }
        });
        Printed { bytes, reader: Some(reader) }
    }

    fn wait_for(&self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = self.bytes.0.lock().expect("the reader does not panic");
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if text.contains(part) {
                return text;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{part:?} was never printed:\n{text}");
            bytes = self.bytes.1.wait_timeout(bytes, left).expect("the reader does not panic").0;
        }
    }

    /// Everything, when the other end is closed.
    fn whole(&mut self) -> String {
        self.reader.take().expect("collected once").join().expect("the reader does not panic");
        String::from_utf8_lossy(&self.bytes.0.lock().expect("the reader has ended")).into_owned()
    }
}

/// A command that runs. Killed when dropped.
pub struct Running {
    child: Child,
    stdout: Printed,
    stderr: Printed,
    _home: Home,
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal: `Signal::KILL`, `Signal::INT`, `Signal::TERM`.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the process runs");
    }

    /// `kill -9`, then waits.
    pub fn kill(self) -> Output {
        self.signal(Signal::KILL);
        self.wait()
    }

    /// Waits until standard error has `part` in it; returns all that it has so far. Panics after two minutes.
    pub fn until_stderr(&self, part: &str) -> String {
        self.stderr.wait_for(part)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the process is ours").is_some()
    }

    /// Waits for its end. Panics after two minutes.
    pub fn wait(mut self) -> Output {
        let status = self.deadline();
        Output { stdout: self.stdout.whole(), stderr: self.stderr.whole(), code: status.code() }
    }

    fn deadline(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the process is ours") {
                return status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!("the command did not end within {} s", PATIENCE.as_secs());
            }
            // The wait of the system knows no deadline.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    /// Panics with everything that was printed unless the exit code is `code`.
    #[track_caller]
    pub fn code(self, code: i32) -> Output {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The exit code is 0.
    #[track_caller]
    pub fn success(self) -> Output {
        self.code(0)
    }

    /// Everything as one text, for snapshots.
    pub fn transcript(&self) -> String {
        let code = self.code.map_or("signal".into(), |code| code.to_string());
        format!("exit code: {code}\n----- stdout -----\n{}----- stderr -----\n{}", self.stdout, self.stderr)
    }
}

/// What differs from run to run, for `insta`'s filters: digests, ports, times, rates, sizes, temporary paths.
pub fn filters() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"(sha256|sha384|sha512):[0-9a-f]{64,128}", "[DIGEST]"),
        (r"\b[0-9a-f]{12}\b", "[SHORT]"),
        (r"127\.0\.0\.1:\d+", "[HOST]"),
        (r"/tmp/\.tmp[A-Za-z0-9]+", "[TEMP]"),
        (r"\b\d+(\.\d+)? ?([kKMGT]i?)?B/s", "[RATE]"),
        (r"\b\d+(\.\d+)? ?([kKMGT]i?)?B\b", "[SIZE]"),
        (r"\b(\d+m ?)?\d+(\.\d+)? ?(ms|s)\b", "[TIME]"),
    ]
}
