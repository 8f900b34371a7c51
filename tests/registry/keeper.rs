//! A registry on 127.0.0.1 that takes uploads, keeps what arrived of a body that was cut, and misbehaves as told.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::BytesMut;
use layerpull::oci::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What goes wrong, once, with the next request of a method.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection breaks after so many bytes of the body; they are kept.
    Cut(usize),
    /// The same, but nothing is kept and the session is lost.
    CutAndLose(usize),
    /// This answer instead, without reading the body.
    Early(u16, &'static str),
    /// The session is lost; 404.
    Lose,
    /// Everything is done, but the connection breaks instead of the answer.
    NoReply,
    /// After so many bytes nothing is read any more.
    Stall(usize),
}

/// Where `Location` leads.
#[derive(Debug, Clone, Default)]
pub enum Locations {
    #[default]
    Relative,
    Absolute,
    /// Another keeper, that shares the sessions.
    Foreign(String),
}

#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub headers: BTreeMap<String, String>,
    /// Bytes of the body that arrived.
    pub body: usize,
}

#[derive(Default)]
pub struct Kept {
    pub asked: Vec<Asked>,
    pub blobs: HashMap<String, Vec<u8>>,
    pub sessions: HashMap<String, Vec<u8>>,
    pub faults: Vec<(&'static str, Fault)>,
    pub locations: Locations,
    pub minimum: Option<usize>,
    pub knows_head: Option<bool>,
    /// The repositories that blobs can be mounted from.
    pub mountable: Vec<&'static str>,
    states: u64,
}

#[derive(Clone)]
pub struct Keeper {
    pub authority: String,
    kept: Arc<Mutex<Kept>>,
}

impl Keeper {
    pub async fn start(prepare: impl FnOnce(&mut Kept)) -> Keeper {
        let mut kept = Kept::default();
        prepare(&mut kept);
        Keeper::sharing(Arc::new(Mutex::new(kept))).await
    }

    /// Another host with the same content.
    pub async fn twin(&self) -> Keeper {
        Keeper::sharing(self.kept.clone()).await
    }

    async fn sharing(kept: Arc<Mutex<Kept>>) -> Keeper {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let keeper = Keeper { authority, kept };
        let serving = keeper.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, serving.clone()));
            }
        });
        keeper
    }

    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    /// Methods and the bytes that came with them, HEAD and GET of nothing included.
    pub fn methods(&self) -> Vec<String> {
        self.kept().asked.iter().map(|asked| asked.method.clone()).collect()
    }

    /// Bytes of all bodies.
    pub fn received(&self) -> usize {
        self.kept().asked.iter().map(|asked| asked.body).sum()
    }
}

struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = self.buffer.split_to(end + 2);
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Option<()> {
        (self.stream.read_buf(&mut self.buffer).await.ok()? > 0).then_some(())
    }

    /// The next bytes, at most `limit`.
    async fn some(&mut self, limit: usize) -> Option<BytesMut> {
        if self.buffer.is_empty() {
            self.more().await?;
        }
        let length = self.buffer.len().min(limit);
        Some(self.buffer.split_to(length))
    }
}

/// How much of a body is still to come.
enum Rest {
    Length(usize),
    Chunks(usize),
}

/// The next piece of the body; `Some(empty)` at its end, `None` when the connection broke.
async fn piece(wire: &mut Wire, rest: &mut Rest, limit: usize) -> Option<BytesMut> {
    if let Rest::Chunks(left @ 0) = rest {
        *left = usize::from_str_radix(&wire.line().await?, 16).ok()?;
        if *left == 0 {
            wire.line().await?;
            *rest = Rest::Length(0);
        }
    }
    let (Rest::Length(left) | Rest::Chunks(left)) = rest;
    if *left == 0 {
        return Some(BytesMut::new());
    }
    let got = wire.some(limit.min(*left)).await?;
    *left -= got.len();
    if let (Rest::Chunks(0), false) = (&*rest, got.is_empty()) {
        wire.line().await?;
    }
    Some(got)
}

async fn serve(stream: TcpStream, keeper: Keeper) {
    let mut wire = Wire { stream, buffer: BytesMut::new() };
    while exchange(&mut wire, &keeper).await.is_some() {}
}

/// The head of a request.
async fn head(wire: &mut Wire) -> Option<Asked> {
    let first = wire.line().await?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let line = wire.line().await?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    Some(Asked { method, target, headers, body: 0 })
}

/// Takes at most `limit` bytes of a body. `None` when the connection broke.
async fn take(wire: &mut Wire, rest: &mut Rest, limit: usize, keep: impl Fn(&[u8])) -> Option<()> {
    let mut taken = 0;
    while taken < limit {
        let got = piece(wire, rest, limit - taken).await?;
        if got.is_empty() {
            break;
        }
        taken += got.len();
        keep(&got);
    }
    Some(())
}

/// One request. `None` ends the connection.
async fn exchange(wire: &mut Wire, keeper: &Keeper) -> Option<()> {
    let asked = head(wire).await?;
    let Asked { method, target, headers, .. } = asked.clone();
    let mut rest = match headers.get("content-length") {
        Some(length) => Rest::Length(length.parse().unwrap()),
        None if headers.contains_key("transfer-encoding") => Rest::Chunks(0),
        None => Rest::Length(0),
    };
    let (number, fault) = {
        let mut kept = keeper.kept();
        kept.asked.push(asked);
        let armed = kept.faults.iter().position(|(name, _)| *name == method);
        (kept.asked.len() - 1, armed.map(|i| kept.faults.remove(i).1))
    };
    let session = target.split(['/', '?']).find(|part| part.starts_with("session")).unwrap_or_default().to_owned();
    if let Some(Fault::Early(status, headers)) = fault {
        answer(wire, &format!("{status} Early\r\n{headers}"), "").await?;
        // Read on, or the answer would be lost with the connection.
        while !piece(wire, &mut rest, usize::MAX).await?.is_empty() {}
        return Some(());
    }
    if let Some(Fault::Lose) = fault {
        keeper.kept().sessions.remove(&session);
    }
    let limit = match fault {
        Some(Fault::Cut(limit) | Fault::CutAndLose(limit) | Fault::Stall(limit)) => limit,
        _ => usize::MAX,
    };
    take(wire, &mut rest, limit, |got| {
        let mut kept = keeper.kept();
        kept.asked[number].body += got.len();
        if let Some(bytes) = kept.sessions.get_mut(&session) {
            bytes.extend_from_slice(got);
        }
    })
    .await?;
    match fault {
        Some(Fault::Cut(_)) => return None,
        Some(Fault::CutAndLose(_)) => {
            keeper.kept().sessions.remove(&session);
            return None;
        }
        Some(Fault::Stall(_)) => std::future::pending().await,
        _ => {}
    }
    let (head, body) = respond(&mut keeper.kept(), &keeper.authority, (&method, &target, &session));
    if let Some(Fault::NoReply) = fault {
        return None;
    }
    answer(wire, &head, if method == "HEAD" { "" } else { &body }).await
}

async fn answer(wire: &mut Wire, head: &str, body: &str) -> Option<()> {
    let length =
        if head.contains("Content-Length") { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    wire.stream.write_all(format!("HTTP/1.1 {head}{length}\r\n{body}").as_bytes()).await.ok()
}

fn respond(kept: &mut Kept, authority: &str, (method, target, session): (&str, &str, &str)) -> (String, String) {
    let query = |name: &str| {
        let url = format!("http://x{target}").parse::<reqwest::Url>().unwrap();
        url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    };
    let unknown =
        || ("404 Not Found\r\n".to_owned(), r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"m"}]}"#.to_owned());
    match (method, target.contains("/blobs/uploads/")) {
        ("HEAD" | "GET", false) => blob(kept, method, target.rsplit('/').next().unwrap()),
        ("POST", _) => {
            let (mount, from) = (query("mount"), query("from").unwrap_or_default());
            if mount.is_some_and(|digest| kept.blobs.contains_key(&digest)) && kept.mountable.contains(&from.as_str()) {
                return ("201 Created\r\n".into(), String::new());
            }
            let session = format!("session{}", kept.asked.len());
            kept.sessions.insert(session.clone(), Vec::new());
            (format!("202 Accepted\r\n{}", located(kept, authority, &session)), String::new())
        }
        ("PUT", false) if target.contains("/manifests/") => ("201 Created\r\n".into(), String::new()),
        (_, true) if !kept.sessions.contains_key(session) => unknown(),
        ("GET", true) => (format!("204 No Content\r\n{}", located(kept, authority, session)), String::new()),
        ("DELETE", true) => {
            kept.sessions.remove(session);
            ("204 No Content\r\n".into(), String::new())
        }
        // Only the newest address counts.
        _ if query("_state") != Some(kept.states.to_string()) => unknown(),
        ("PATCH", true) => (format!("202 Accepted\r\n{}", located(kept, authority, session)), String::new()),
        ("PUT", true) => {
            let (digest, bytes) = (query("digest").unwrap(), kept.sessions[session].clone());
            if Digest::of(&bytes).to_string() != digest {
                return ("400 Bad\r\n".into(), r#"{"errors":[{"code":"DIGEST_INVALID","message":"m"}]}"#.into());
            }
            kept.sessions.remove(session);
            let head = format!("201 Created\r\nDocker-Content-Digest: {digest}\r\n");
            kept.blobs.insert(digest, bytes);
            (head, String::new())
        }
        _ => ("405 No\r\n".into(), String::new()),
    }
}

fn blob(kept: &Kept, method: &str, digest: &str) -> (String, String) {
    match (kept.blobs.get(digest), method) {
        (_, "HEAD") if kept.knows_head == Some(false) => ("405 No\r\n".into(), String::new()),
        (Some(bytes), "HEAD") => (format!("200 OK\r\nContent-Length: {}\r\n", bytes.len()), String::new()),
        (Some(bytes), _) => (format!("206 Part\r\nContent-Range: bytes 0-0/{}\r\n", bytes.len()), "x".into()),
        (None, _) => ("404 Not Found\r\n".into(), String::new()),
    }
}

fn located(kept: &mut Kept, authority: &str, session: &str) -> String {
    kept.states += 1;
    let path = format!("/v2/a/b/blobs/uploads/{session}?a=b%2Fc&_state={}", kept.states);
    let location = match &kept.locations {
        Locations::Relative => path,
        Locations::Absolute => format!("http://{authority}{path}"),
        Locations::Foreign(other) => format!("http://{other}{path}"),
    };
    let last = kept.sessions[session].len().saturating_sub(1);
    let minimum = kept.minimum.map(|least| format!("OCI-Chunk-Min-Length: {least}\r\n")).unwrap_or_default();
    format!("Location: {location}\r\nRange: 0-{last}\r\n{minimum}")
}
