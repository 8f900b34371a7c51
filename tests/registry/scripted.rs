//! A registry on 127.0.0.1 that answers by a function and records what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use layerpull::event::{Event, Events, Observer};
use layerpull::registry::{Environment, Options, Registry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

/// An answer, byte for byte.
pub struct Reply(Vec<u8>);

/// An answer with a length that is true.
pub fn reply(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
    let length = body.as_ref().len().to_string();
    let mut all = headers.to_vec();
    all.push(("Content-Length", &length));
    raw(status, &all, body)
}

/// An answer whose headers are taken as they are.
pub fn raw(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut bytes = format!("HTTP/1.1 {status} Scripted\r\nConnection: close\r\n{lines}\r\n").into_bytes();
    bytes.extend_from_slice(body.as_ref());
    Reply(bytes)
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

pub struct Server {
    pub authority: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Starts to answer. `make` is told the server's own `host:port`.
    pub async fn start<F>(make: impl FnOnce(String) -> F) -> Server
    where
        F: Fn(&Asked) -> Reply + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let script: Arc<Script> = Arc::new(make(authority.clone()));
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let log = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, script.clone(), log.clone()));
            }
        });
        Server { authority, asked }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }

    /// How many requests had a target that begins so.
    pub fn count(&self, target: &str) -> usize {
        self.asked().iter().filter(|asked| asked.target.starts_with(target)).count()
    }
}

async fn answer(mut stream: TcpStream, script: Arc<Script>, log: Arc<Mutex<Vec<Asked>>>) {
    let Some(asked) = read(&mut stream).await else { return };
    log.lock().unwrap().push(asked.clone());
    let Reply(bytes) = script(&asked);
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}

/// `None` for a connection that ends before its head does.
async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: BTreeMap<String, String> =
        lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_owned())).collect();
    let length: usize = headers.get("content-length").map_or(0, |v| v.parse().unwrap());
    while bytes.len() < end + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
    Some(Asked { method, target, headers, body })
}

/// Keeps the warnings.
#[derive(Default)]
pub struct Warnings(pub Mutex<Vec<String>>);

impl Observer for Warnings {
    fn on(&self, event: &Event) {
        if let Event::Warning { text } = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

/// Options that read nothing of this machine.
pub fn options() -> Options {
    Options { environment: Environment::empty(), ..Options::default() }
}

pub fn registry(options: Options) -> Registry {
    let events: Events = Arc::new(Warnings::default());
    Registry::new(options, events)
}
