//! A connection whose bytes are counted where they leave and enter the system.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::{Direction, Limiter};

/// A connection that pays for its bytes after each piece, before it moves the next one. What it does not read stays
/// with the system, whose buffer is small, and so with the sender. One that rests owes less than one piece.
///
/// It also tells a server that sends nothing from a limit that lets nothing through, which nobody above can.
pub struct Metered<T> {
    inner: T,
    limiter: Limiter,
    down: Account,
    up: Account,
    /// How long the other side may be silent; `None`: somebody else watches.
    stall: Option<Duration>,
    silence: Option<Pin<Box<Sleep>>>,
}

/// What a connection owes in one direction.
struct Account {
    direction: Direction,
    owed: u64,
    paying: Option<BoxFuture<'static, ()>>,
}

impl<T> Metered<T> {
    /// Counts the bytes of `inner`. Reading fails with [`io::ErrorKind::TimedOut`] when nothing comes for `stall`.
    pub fn new(inner: T, limiter: Limiter, stall: Option<Duration>) -> Metered<T> {
        let account = |direction| Account { direction, owed: 0, paying: None };
        let (down, up) = (account(Direction::Down), account(Direction::Up));
        Metered { inner, limiter, down, up, stall, silence: None }
    }

    /// Waits for the other side, but not for ever.
    fn listen(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stall) = self.stall else { return Poll::Pending };
        ready!(self.silence.get_or_insert_with(|| Box::pin(sleep(stall))).as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing received")))
    }
}

impl Account {
    /// Pays what is owed when that is a piece. Gives how many bytes may move now, at least one.
    fn settle(&mut self, limiter: &Limiter, cx: &mut Context<'_>) -> Poll<usize> {
        let piece = limiter.piece(self.direction);
        // A limit that came down makes no debt of what was free.
        self.owed = self.owed.min(piece);
        if self.owed == piece {
            let (limiter, direction) = (limiter.clone(), self.direction);
            let paying =
                self.paying.get_or_insert_with(|| Box::pin(async move { limiter.pay(direction, piece).await }));
            ready!(paying.as_mut().poll(cx));
            self.paying = None;
            self.owed = 0;
        }
        Poll::Ready(usize::try_from(piece - self.owed).unwrap_or(usize::MAX))
    }

    fn owe(&mut self, bytes: usize) {
        self.owed += bytes as u64;
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Poll::Ready(room) = this.down.settle(&this.limiter, cx) else {
            this.silence = None;
            return Poll::Pending;
        };
        let room = room.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
        let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(cx, &mut part) else { return this.listen(cx) };
        let count = part.filled().len();
        buffer.advance(count);
        this.down.owe(count);
        this.silence = None;
        Poll::Ready(read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // What the other side is to answer has not left yet.
        this.silence = None;
        let room = ready!(this.up.settle(&this.limiter, cx)).min(bytes.len());
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, &bytes[..room]))?;
        this.up.owe(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<T> Drop for Metered<T> {
    fn drop(&mut self) {
        for account in [&self.down, &self.up] {
            self.limiter.charge(account.direction, account.owed);
        }
    }
}
