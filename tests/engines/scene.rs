//! A store with two images over one base, and what counts the bytes on their way into an engine.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use support::command::{Layerpull, Output, script};
use support::images::{Blob, Image};
use support::peers::program;
use tempfile::TempDir;

/// What an archive needs besides the layers: a manifest, a configuration, names, and the frame of a tar.
pub const FRAME: u64 = 16 * 1024;

pub const NGINX: &str = "docker.io/library/nginx:1";
pub const HTTPD: &str = "docker.io/library/httpd:1";

/// The store.
pub struct Scene {
    pub dir: TempDir,
    pub nginx: Image,
    pub httpd: Image,
}

impl Scene {
    pub fn new() -> Scene {
        let base = Blob::file_of_noise(1, 3_000_000);
        let image = |own: u64| {
            let own = [Blob::file_of_noise(own, 200_000), Blob::files(&[("own", own.to_string().as_bytes())])];
            Image::build().layers([base.clone()].into_iter().chain(own)).finish()
        };
        let (nginx, httpd, dir) = (image(2), image(3), tempfile::tempdir().unwrap());
        nginx.write_layout(&dir.path().join("store"), NGINX);
        httpd.write_layout(&dir.path().join("store"), HTTPD);
        Scene { dir, nginx, httpd }
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// `layerpull load` of `images`.
    pub fn load(&self, images: &[&str], engine: &str) -> Layerpull {
        Layerpull::new().args(["load", "--to", engine, "--format", "json"]).args(images).store(&self.store())
    }

    /// The bytes of the layers that `httpd` has and `nginx` has not, and of its configuration.
    pub fn own(&self) -> u64 {
        self.httpd.config().size() + self.httpd.layers()[1..].iter().map(Blob::size).sum::<u64>()
    }
}

/// What the last image of a run took.
#[derive(Debug, PartialEq, Eq)]
pub struct Took {
    pub status: String,
    pub digest: String,
    pub moved: u64,
    pub held: u64,
    pub again: u64,
}

pub fn took(output: Output) -> Took {
    let output = output.success();
    let object: Value = serde_json::from_str(output.stdout.lines().last().unwrap()).unwrap();
    let run = |key: &str| object["run"][key].as_u64().unwrap();
    Took {
        status: object["status"].as_str().unwrap().into(),
        digest: object["digest"].as_str().unwrap().into(),
        moved: run("moved"),
        held: run("held"),
        again: object["run"]["causes"]["layer-gone"].as_u64().unwrap_or(0),
    }
}

type Before = Box<dyn FnOnce() + Send>;

/// A socket that passes everything on to an engine's and counts what goes there.
pub struct Counter {
    pub socket: PathBuf,
    sent: Arc<AtomicU64>,
    before_load: Arc<Mutex<Option<Before>>>,
}

impl Counter {
    pub fn before(engine: &Path, dir: &Path) -> Counter {
        let socket = dir.join("counter");
        let listener = UnixListener::bind(&socket).unwrap();
        let (sent, before_load) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
        let (engine, count, before) = (engine.to_owned(), Arc::clone(&sent), Arc::clone(&before_load));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let (far, count, before) = (UnixStream::connect(&engine).unwrap(), count.clone(), before.clone());
                let (back, front) = (far.try_clone().unwrap(), near.try_clone().unwrap());
                std::thread::spawn(move || pass(near, far, |bytes| note(bytes, &count, &before)));
                std::thread::spawn(move || pass(back, front, |_| ()));
            }
        });
        Counter { socket, sent, before_load }
    }

    /// Does this when the next load begins, before the engine hears of it.
    pub fn before_next_load(&self, what: impl FnOnce() + Send + 'static) {
        *self.before_load.lock().unwrap() = Some(Box::new(what));
    }

    /// Bytes that were sent since the last call.
    pub fn sent(&self) -> u64 {
        self.sent.swap(0, Ordering::SeqCst)
    }
}

fn note(bytes: &[u8], count: &AtomicU64, before: &Mutex<Option<Before>>) {
    count.fetch_add(bytes.len() as u64, Ordering::SeqCst);
    if bytes.starts_with(b"POST /images/load") {
        let what = before.lock().unwrap().take();
        what.into_iter().for_each(|what| what());
    }
}

fn pass(mut from: UnixStream, mut to: UnixStream, mut note: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        note(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other side may have gone first.
    let _ = to.shutdown(Shutdown::Write);
}

/// A program of an engine that counts what it reads, and runs a script before the first load.
pub struct Counted {
    dir: PathBuf,
}

impl Counted {
    /// `name` as it is installed, whose `verb` reads an archive. `before` are lines of a shell script.
    pub fn program(name: &str, verb: &str, before: &str, dir: &Path) -> Counted {
        let dir = dir.join("programs");
        fs::create_dir_all(&dir).unwrap();
        let (real, at) = (program(name).display().to_string(), dir.display());
        let text = format!(
            "case \" $* \" in\n*\" {verb} \"*)\n  if [ ! -e {at}/begun ]; then touch {at}/begun\n{before}\n  fi\n  \
             tee {at}/part | {real} \"$@\"; code=$?\n  cat {at}/part >>{at}/sent; exit $code;;\n*) exec {real} \"$@\";;\nesac"
        );
        script(&dir.join(name), &text);
        Counted { dir }
    }

    /// A `PATH` on which it comes first.
    pub fn path(&self) -> String {
        format!("{}:{}", self.dir.display(), std::env::var("PATH").unwrap())
    }

    /// Bytes that it read since the last call.
    pub fn sent(&self) -> u64 {
        let sent = fs::metadata(self.dir.join("sent")).map_or(0, |meta| meta.len());
        let _ = fs::remove_file(self.dir.join("sent"));
        sent
    }
}
