//! A connection whose bytes are counted where they leave and enter the system.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep};

use super::background::Seen;
use super::socket::Observed;
use super::{Direction, LARGEST_PIECE, Limiter, Rate};

/// What a byte of a connection costs on the wire, in hundredths: headers of Ethernet, IP and TCP around segments of
/// 1448 bytes, of which a few are not full.
const ON_THE_WIRE: u64 = 104;
/// A connection never owes more time than this, in nanoseconds: what a buffer lets in that is far too large for a limit which
/// came down has come already, and holding up everybody else for it brings nothing back.
const MOST_OWED: u64 = super::clock::FURTHEST;

/// A connection that pays for its bytes after each piece, before it moves the next one. What it does not read stays
/// with the system, whose buffer is small, and so with the sender. One that rests owes less than one piece.
///
/// It also tells a server that sends nothing from a limit that lets nothing through, which nobody above can.
pub struct Metered<T> {
    inner: T,
    observe: fn(&T) -> Option<Observed>,
    /// What was seen when it was last looked at.
    last: Observed,
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
    /// Bytes on the wire that are not paid for.
    owed: u64,
    /// What they cost in nanoseconds, at the rate that held when they moved.
    cost: u64,
    /// What held when bytes were last counted.
    rate: Option<Rate>,
    /// A task of its own: whoever has the turn must not wait for somebody to read on.
    paying: Option<JoinHandle<u64>>,
    /// What could have moved by now beyond what did.
    missed: u64,
}

impl<T> Metered<T> {
    /// Counts the bytes of `inner`. `observe` tells how many came over the wire so far: a buffer of the system fills
    /// without anybody reading. Reading fails with [`io::ErrorKind::TimedOut`] when nothing comes for `stall`.
    pub fn new(inner: T, observe: fn(&T) -> Option<Observed>, limiter: Limiter, stall: Option<Duration>) -> Metered<T> {
        let account = |direction| {
            let rate = limiter.rate(direction);
            Account { direction, owed: 0, cost: 0, rate, paying: None, missed: 0 }
        };
        // What fills the buffer after it was last looked at has come, too, and would never be paid for.
        let buffered = observe(&inner).and_then(|_| limiter.buffer(Direction::Down)).unwrap_or(0) as u64 / 2;
        let (mut down, up) = (account(Direction::Down), account(Direction::Up));
        down.owe(buffered, &limiter);
        Metered { inner, observe, last: Observed::default(), limiter, down, up, stall, silence: None }
    }

    /// Owes for what arrived since the last time, or for what was read where nobody knows.
    fn count(&mut self, read: usize) {
        match (self.observe)(&self.inner) {
            Some(observed) => {
                let moved = observed.arrived.saturating_sub(self.last.arrived);
                self.down.owe(moved, &self.limiter);
                let sent = self.last.sent;
                self.tell(Direction::Down, Observed { sent, ..observed }, moved);
            }
            None => self.down.owe(on_the_wire(read), &self.limiter),
        }
    }

    /// Tells how the way looks to whoever steps back for others.
    fn tell(&mut self, direction: Direction, observed: Observed, moved: u64) {
        let lost = observed.lost.saturating_sub(self.last.lost);
        self.last = observed;
        self.limiter.learn(direction, &Seen { observed, moved, lost });
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
        // All connections see what was missed: half of it each is enough.
        let piece = limiter.piece(self.direction).max(self.missed / 2).min(LARGEST_PIECE);
        if self.owed >= piece && self.paying.is_none() {
            let (limiter, cost, direction) = (limiter.clone(), self.cost.min(MOST_OWED), self.direction);
            (self.owed, self.cost) = (0, 0);
            self.paying = Some(tokio::spawn(async move { limiter.pay(direction, cost).await }));
        }
        if let Some(paying) = &mut self.paying {
            // It cannot fail, but for a runtime that ends.
            self.missed = ready!(Pin::new(paying).poll(cx)).unwrap_or(0);
            self.paying = None;
        }
        Poll::Ready(usize::try_from(piece.saturating_sub(self.owed).max(1)).unwrap_or(usize::MAX))
    }

    /// Owes for so many bytes on the wire. They moved since the last time: a limit that came down meanwhile makes no debt of
    /// what was cheap, or free.
    fn owe(&mut self, bytes: u64, limiter: &Limiter) {
        let before = std::mem::replace(&mut self.rate, limiter.rate(self.direction));
        let rate = before.zip(self.rate).map(|(before, now)| before.max(now));
        self.owed += bytes;
        self.cost = self.cost.saturating_add(rate.map_or(0, |rate| rate.cost(bytes)));
    }
}

/// A load of so many bytes, with the headers around it.
fn on_the_wire(load: usize) -> u64 {
    load as u64 * ON_THE_WIRE / 100
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
        if count > 0 {
            this.count(count);
        }
        this.silence = None;
        Poll::Ready(read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Poll::Ready(room) = this.up.settle(&this.limiter, cx) else {
            this.silence = None;
            return Poll::Pending;
        };
        let room = room.min(bytes.len());
        let Poll::Ready(written) = Pin::new(&mut this.inner).poll_write(cx, &bytes[..room]) else {
            return this.listen(cx).map_ok(|()| 0);
        };
        let written = written?;
        this.up.owe(on_the_wire(written), &this.limiter);
        // What is to be answered has only left now. Who has read in vain before reads again only when something comes:
        // nobody else would notice that nothing does.
        this.silence = None;
        let _ = this.listen(cx);
        if this.limiter.steps_back()
            && let Some(observed) = (this.observe)(&this.inner)
        {
            // What was written waits in a buffer: what has left is what the way carries.
            let sent = observed.sent.saturating_sub(this.last.sent);
            let moved = if observed.sent > 0 { sent } else { written as u64 };
            let arrived = this.last.arrived;
            this.tell(Direction::Up, Observed { arrived, ..observed }, moved);
        }
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
        self.count(0);
        for account in [&self.down, &self.up] {
            self.limiter.charge(account.direction, account.cost.min(MOST_OWED));
        }
    }
}
