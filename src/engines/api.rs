//! Docker's API over its socket (docker engine API): one connection a request, one attempt.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use http::{Method, Request, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::watch::{STANDSTILL, answered};
use crate::error::{Error, Fault, Result};

/// The largest answer to a question, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// What is read of the report of a load, in bytes.
const MAX_REPORT: usize = 1024 * 1024;

type Body = UnsyncBoxBody<Bytes, Error>;

/// Where docker listens.
#[derive(Debug, Clone)]
pub(super) struct Api {
    pub socket: PathBuf,
    /// How it is named in messages.
    pub place: String,
}

/// An answer whose head has come. The connection lives as long as this.
struct Answer {
    status: StatusCode,
    body: Incoming,
    _connection: AbortOnDropHandle<()>,
}

impl Api {
    /// The answer to a GET of `path`; `None` where it says 404.
    ///
    /// # Errors
    /// Those of the connection; `Invalid` with what docker says when it refuses.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let asked = async {
            let answer =
                self.send(Method::GET, path, Empty::new().map_err(|never| match never {}).boxed_unsync()).await?;
            let status = answer.status;
            let bytes = self.read(answer, MAX_ANSWER).await?;
            match status {
                StatusCode::NOT_FOUND => Ok(None),
                status if status.is_success() => {
                    let json = serde_json::from_slice(&bytes);
                    json.map(Some).map_err(|why| self.broken(path, Fault::Protocol(why.to_string())))
                }
                status => Err(self.refused(path, status, &bytes)),
            }
        };
        answered(asked, &self.place, path).await
    }

    /// The body of the answer to a GET of `path`, as it comes; `None` where it says 404.
    ///
    /// # Errors
    /// As [`Api::get`]; in the stream `Network` when nothing comes for half an hour.
    pub async fn get_stream(&self, path: &str) -> Result<Option<BoxStream<'static, Result<Bytes>>>> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let asked = tokio::time::timeout(STANDSTILL, self.send(Method::GET, path, body));
        let stalled = |_| self.broken(path, Fault::Stalled(STANDSTILL));
        let answer = asked.await.map_err(stalled)??;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(self.pieces(path, answer))),
            status => Err(self.refused(path, status, &self.read(answer, MAX_REPORT).await?)),
        }
    }

    fn pieces(&self, path: &str, answer: Answer) -> BoxStream<'static, Result<Bytes>> {
        let (api, path) = (self.clone(), path.to_owned());
        stream::try_unfold((answer, api, path), |(mut answer, api, path)| async move {
            loop {
                let frame = tokio::time::timeout(STANDSTILL, answer.body.frame()).await;
                let frame = frame.map_err(|_| api.broken(&path, Fault::Stalled(STANDSTILL)))?;
                let Some(frame) = frame else { return Ok(None) };
                let frame = frame.map_err(|error| api.broken(&path, Fault::Broken(cause(&error))))?;
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some((bytes, (answer, api, path))));
                }
            }
        })
        .boxed()
    }

    /// What docker says to a POST of a tar.
    ///
    /// # Errors
    /// As [`Api::get`], and those of `bytes`.
    pub async fn post_tar(&self, path: &str, bytes: BoxStream<'static, Result<Bytes>>) -> Result<Vec<u8>> {
        let body = StreamBody::new(bytes.map_ok(Frame::data)).boxed_unsync();
        let answer = self.send(Method::POST, path, body).await?;
        let status = answer.status;
        let report = self.read(answer, MAX_REPORT).await?;
        match status.is_success() {
            true => Ok(report),
            false => Err(self.refused(path, status, &report)),
        }
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Answer> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let broken = |error: hyper::Error| self.broken(path, Fault::Broken(cause(&error)));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whoever waits for the answer learns why there is none.
            let _ = connection.await;
        }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "docker")
            .header(header::CONTENT_TYPE, "application/x-tar")
            .body(body)
            .map_err(|why| Error::Usage(format!("{path}: not a path of docker's API: {why}")))?;
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        Ok(Answer { status: head.status, body, _connection: connection })
    }

    async fn read(&self, answer: Answer, limit: usize) -> Result<Vec<u8>> {
        let broken = |error: Box<dyn std::error::Error + Send + Sync>| {
            self.broken("the answer", Fault::Broken(format!("{error} (at most {limit} bytes are read)")))
        };
        Ok(Limited::new(answer.body, limit).collect().await.map_err(broken)?.to_bytes().to_vec())
    }

    fn unreachable(&self, error: io::Error) -> Error {
        let (what, place) = ("docker".to_owned(), self.place.clone());
        match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound {
                what,
                place,
                why: "start dockerd, or say where it listens with DOCKER_HOST=unix:///PATH".into(),
            },
            io::ErrorKind::PermissionDenied => Error::store("connect to", &self.socket)(io::Error::new(
                error.kind(),
                "permission denied: only root and the group of the socket may use docker",
            )),
            _ => Error::network(place, what, Fault::Connect(error.to_string())),
        }
    }

    fn broken(&self, what: &str, fault: Fault) -> Error {
        Error::network(&self.place, what, fault)
    }

    fn refused(&self, path: &str, status: StatusCode, body: &[u8]) -> Error {
        #[derive(Deserialize)]
        struct Complaint {
            message: String,
        }
        let said = serde_json::from_slice::<Complaint>(body).map(|complaint| complaint.message);
        let why = said.unwrap_or_else(|_| String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned());
        let what = path.split('?').next().unwrap_or(path).to_owned();
        Error::Invalid { what, place: self.place.clone(), why: format!("HTTP {}: {}", status.as_u16(), why.trim()) }
    }
}

/// What is behind an error of the connection.
fn cause(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The socket in `address`, as `DOCKER_HOST` has it.
///
/// # Errors
/// `Usage` for an address over a network: an image would travel there without anybody's protection.
pub(super) fn socket_of(address: &str) -> Result<PathBuf> {
    match address.strip_prefix("unix://") {
        Some(path) if Path::new(path).is_absolute() => Ok(path.into()),
        _ => Err(Error::Usage(format!(
            "DOCKER_HOST={address}: only a socket of this machine is spoken to, as unix:///PATH; on the other machine \
             run layerpull there, or push to a registry that it pulls from"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_this_machine_are_spoken_to() {
        assert_eq!(socket_of("unix:///run/docker.sock").unwrap(), Path::new("/run/docker.sock"));
        for address in ["tcp://127.0.0.1:2375", "ssh://host", "unix://docker.sock", "", "fd://"] {
            assert!(matches!(socket_of(address), Err(Error::Usage(_))), "{address}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_named_with_the_next_step() {
        let api = Api { socket: "/nonexistent/docker.sock".into(), place: "docker at /nonexistent/docker.sock".into() };
        let error = api.get::<serde_json::Value>("/info").await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/docker.sock") && error.contains("DOCKER_HOST="), "{error}");
    }
}
