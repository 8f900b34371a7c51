//! The store as a registry over HTTP (distribution-spec, "Pull" and "Content Discovery"; where it is writable, "Push" and
//! "Content Management").
//!
//! A repository is at `/v2/<registry>/<repository>` (a port after `_` instead of `:`, which clients accept in a path),
//! and at `/v2/<repository>` where only one registry has it; `?ns=<registry>`, as containerd sends it to mirrors, decides.
//! Of an index of which only some platforms are held, the others are 404.
//!
//! - `routes`, `range`: requests, read without I/O.
//! - `names`, `graph`: which of the store's content a path means.
//! - `answer`, `body`, `failure`: answers; blobs are hashed on their way out.
//! - `push`: what clients may write.
//! - `access`: who may read and write; `deadline`: how long a client may take nothing.

mod access;
mod answer;
mod body;
mod deadline;
mod failure;
mod graph;
mod names;
mod push;
mod range;
mod routes;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use access::{Access, Users};

use crate::error::{Error, Fault, Result};
use crate::store::Store;
use answer::Answers;
use deadline::Patient;
use graph::Graphs;
use push::Pushes;

/// Connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// Largest head of a request in bytes.
const MAX_HEAD: usize = 32 << 10;
/// How long a head may take, and how long a connection may wait for the next request.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what it asked for.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
/// How long answers on their way may take after a stop.
const GRACE: Duration = Duration::from_millis(1500);
/// How long nothing is accepted after the system refused (no more files): the refusal does not end at once.
const PAUSE: Duration = Duration::from_millis(100);

/// A registry that listens.
pub struct Server {
    listener: TcpListener,
    answers: Arc<Answers>,
}

impl Server {
    /// Listens on `address`, port 0 taking a free one, to serve all images of `store` that have a name.
    ///
    /// # Errors
    /// `Usage` when the address is not loopback and `access` says nothing about it, or when nobody can listen on it.
    pub async fn bind(address: SocketAddr, access: Access, store: Store) -> Result<Server> {
        access.check(address)?;
        let bound = TcpListener::bind(address).await;
        let listener =
            bound.map_err(|e| Error::Usage(format!("cannot listen on {address}: {e}; choose another address")))?;
        Ok(Server { listener, answers: Arc::new(Answers { store, access, graphs: Graphs::default(), pushes: None }) })
    }

    /// The same registry, which also takes what clients push, under the name `ADDRESS:PORT` of this listener. Whoever may
    /// read may write.
    ///
    /// # Errors
    /// `Usage` when nothing was said about credentials.
    pub fn writable(mut self) -> Result<Server> {
        let address = self.address()?;
        self.answers.access.check_writes()?;
        let answers = Arc::get_mut(&mut self.answers).expect("answers are shared only while the server runs");
        answers.pushes = Some(Arc::new(Pushes::new(&answers.store, address)));
        Ok(self)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot say it.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|e| Error::network("listener", "address", Fault::Broken(e.to_string())))
    }

    /// Serves until `cancel`: then no new request is taken, and answers on their way have 1.5 s.
    pub async fn run(self, cancel: CancellationToken) {
        let connections = TaskTracker::new();
        let end = CancellationToken::new();
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.accept(&connections, &cancel, &end) => {}
        }
        connections.close();
        if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
            end.cancel();
            connections.wait().await;
        }
    }

    async fn accept(&self, connections: &TaskTracker, stop: &CancellationToken, end: &CancellationToken) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            // Never closed, so there is always a permit to wait for.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let connection = Connection { answers: self.answers.clone(), _place: place };
                    let (stop, end) = (stop.clone(), end.clone());
                    connections.spawn(async move {
                        tokio::select! {
                            () = end.cancelled() => {}
                            () = connection.serve(stream, stop) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!("no connection can be accepted: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

struct Connection {
    answers: Arc<Answers>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(&self, stream: TcpStream, stop: CancellationToken) {
        // Small answers shall not wait for more; where that cannot be set they are only slower.
        let _ = stream.set_nodelay(true);
        let io = TokioIo::new(Patient::new(stream, WRITE_PATIENCE));
        let service = service_fn(|request| async move { Ok::<_, Infallible>(self.answers.answer(request).await) });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_header_size(MAX_HEAD);
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("a connection ended: {error}");
        }
    }
}
