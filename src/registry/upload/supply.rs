//! One request whose body is given piece by piece, with little of it in memory.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Fault, Result};
use crate::limit::Direction;
use crate::registry::answer::Answer;
use crate::registry::session::{Ask, Session};

/// Bytes that are handed on at once.
pub(super) const PIECE: usize = 64 * 1024;
/// With those of a piece: at most 1 MiB is on its way to the connection.
const PIECES: usize = 16;
/// What the system has buffered may take as long as what went before, but no longer than this many times
/// [`Options::stall`](crate::registry::Options::stall); registries hash and move a blob before they answer.
const PATIENCE: u32 = 4;

/// How a body says where it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) enum Framing {
    /// By its last chunk (RFC 9112, 7.1): it can end cleanly at any byte.
    Open,
    /// The length is known.
    Length(u64),
    /// These bytes of the blob (distribution-spec, "Pushing a blob in chunks").
    Part(Range<u64>),
}

impl Framing {
    /// Says it in the head of a request.
    pub(in crate::registry) fn describe(&self, headers: &mut HeaderMap) {
        let length = match self {
            Framing::Open => return,
            Framing::Length(length) => *length,
            Framing::Part(part) => part.end - part.start,
        };
        headers.insert(CONTENT_LENGTH, length.into());
        if let Framing::Part(part) = self {
            let range = format!("{}-{}", part.start, part.end.saturating_sub(1));
            headers.extend(HeaderValue::try_from(range).ok().map(|value| (CONTENT_RANGE, value)));
        }
    }
}

/// What a body is made of. A clone is the same body.
#[derive(Clone)]
pub(in crate::registry) struct Supply(Arc<Pieces>);

struct Pieces {
    coming: Mutex<mpsc::Receiver<Bytes>>,
    /// Bytes that the connection took.
    taken: AtomicU64,
    moved: Notify,
}

impl Supply {
    fn new(pieces: usize) -> (mpsc::Sender<Bytes>, Supply) {
        let (sender, coming) = mpsc::channel(pieces);
        let pieces = Pieces { coming: Mutex::new(coming), taken: AtomicU64::new(0), moved: Notify::new() };
        (sender, Supply(Arc::new(pieces)))
    }

    /// The rest of the body, for a request.
    pub(in crate::registry) fn body(&self) -> reqwest::Body {
        reqwest::Body::wrap_stream(stream::unfold(self.0.clone(), |pieces| async move {
            let piece = pieces.coming.lock().await.recv().await?;
            pieces.taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
            pieces.moved.notify_one();
            Some((Ok::<_, std::convert::Infallible>(piece), pieces))
        }))
    }

    /// Whether nothing of it has gone, so that it can be sent to another address.
    pub(in crate::registry) fn is_untouched(&self) -> bool {
        self.0.taken.load(Ordering::Relaxed) == 0
    }
}

/// A request on its way. Dropping it cuts the connection.
pub(super) struct Flow {
    what: String,
    place: String,
    stall: Duration,
    began: Instant,
    /// `None` once the body has ended.
    sender: Option<mpsc::Sender<Bytes>>,
    supply: Supply,
    answer: AbortOnDropHandle<Result<Answer>>,
}

impl Flow {
    /// Sends the head of a request; its body follows by [`Flow::push`].
    pub(super) fn open(session: &Arc<Session>, ask: Ask, framing: Framing) -> Flow {
        // Under a low limit a second's worth is little, and what was taken must leave before the flow can end.
        let is_slow = session.http().limiter().buffer(Direction::Up).is_some();
        let (sender, supply) = Supply::new(if is_slow { 1 } else { PIECES - 1 });
        let (what, place, stall) = (ask.what.clone(), session.registry().to_owned(), session.http().patience());
        let (session, body) = (session.clone(), supply.clone());
        let request = tokio::spawn(async move { session.stream(&ask, &framing, body).await });
        let answer = AbortOnDropHandle::new(request);
        Flow { what, place, stall, began: Instant::now(), sender: Some(sender), supply, answer }
    }

    /// Gives the next bytes of the body. Waits for room, but not longer than nothing may move. Cancelled, it gave nothing.
    ///
    /// # Errors
    /// [`Push::Answered`] when the answer came before the body had ended.
    pub(super) async fn push(&mut self, piece: Bytes) -> Result<Push> {
        // The connection may go on to take a body that nobody wants any more.
        let Some(sender) = self.sender.as_ref().filter(|_| !self.answer.is_finished()) else {
            return self.answered().await;
        };
        let given = timeout(self.stall, sender.reserve()).await.map(|room| room.map(|room| room.send(piece)));
        match given {
            Ok(Ok(())) => Ok(Push::Taken),
            Ok(Err(_)) => self.answered().await,
            Err(_) => Err(self.stalled(self.stall)),
        }
    }

    async fn answered(&mut self) -> Result<Push> {
        Ok(Push::Answered(Box::new(self.finish().await?)))
    }

    /// Whether its body has ended.
    pub(super) fn is_ending(&self) -> bool {
        self.sender.is_none()
    }

    /// Ends the body and waits for the answer. Cancelled, it can be called again.
    pub(super) async fn finish(&mut self) -> Result<Answer> {
        self.sender = None;
        loop {
            let patience = self.began.elapsed().clamp(self.stall, self.stall * PATIENCE);
            tokio::select! {
                done = &mut self.answer => return done.unwrap_or_else(|e| Err(self.broken(&e.to_string()))),
                () = self.supply.0.moved.notified() => {}
                () = tokio::time::sleep(patience) => return Err(self.stalled(patience)),
            }
        }
    }

    fn broken(&self, why: &str) -> Error {
        Error::network(&self.place, &self.what, Fault::Broken(why.to_owned()))
    }

    fn stalled(&self, wait: Duration) -> Error {
        Error::network(&self.place, &self.what, Fault::Stalled(wait))
    }
}

/// What became of a piece.
pub(super) enum Push {
    /// It is on its way.
    Taken,
    /// It is not: the answer is there already.
    Answered(Box<Answer>),
}
