//! What is written becomes chunks, and at the end a PUT.

use bytes::Bytes;
use reqwest::Method;

use super::supply::{Flow, Framing, PIECE, Push};
use super::target::{moved, received};
use super::written::TAIL;
use super::{Chunks, Inner, Trust};
use crate::error::{Error, Fault, Result};
use crate::registry::answer::Answer;

impl Inner {
    /// How many bytes may be taken at once: no more than a piece, and not beyond a chunk, so that the hash is known at its
    /// end.
    pub(super) fn step(&self) -> u64 {
        let written = self.written.offset();
        let end = match written {
            _ if self.is_small() => self.target.blob.size,
            _ if written < self.sent => self.sent,
            _ => self.chunk_end(),
        };
        end.saturating_sub(written).clamp(1, PIECE as u64)
    }

    pub(super) fn is_small(&self) -> bool {
        self.target.blob.size <= TAIL
    }

    /// A chunk is as long as all before it together: a cut costs no more than was won, and a huge blob few requests.
    fn chunk_end(&self) -> u64 {
        let minimum = self.opened.as_ref().map_or(0, |opened| opened.minimum);
        let length = self.confirmed.min(self.longest).max(self.chunk).max(minimum);
        self.confirmed.saturating_add(length).min(self.target.blob.size)
    }

    /// Up to where may be sent. The last byte of a blob that is one body makes it visible, and waits for our own hash.
    fn may_send(&self) -> u64 {
        match self.chunks {
            Chunks::None => self.written.offset().min(self.target.blob.size.saturating_sub(1)),
            Chunks::Open | Chunks::Stated => self.written.offset(),
        }
    }

    /// Sends what is written and not yet sent.
    pub(super) async fn pump(&mut self) -> Result<()> {
        if self.is_small() {
            return Ok(());
        }
        if self.flow.as_ref().is_some_and(Flow::is_ending) {
            self.end_chunk().await?;
        }
        while self.sent < self.may_send() {
            let room = (self.chunk_end().min(self.may_send()) - self.sent).min(PIECE as u64);
            let piece = self.written.again(self.sent, room).ok_or_else(|| self.lost("bytes to be sent are gone"))?;
            let length = piece.len() as u64;
            self.open_chunk().await?;
            self.push(piece).await?;
            self.sent += length;
            if self.sent == self.chunk_end() {
                self.end_chunk().await?;
            }
        }
        Ok(())
    }

    /// Opens the next chunk, or the body that is all of the blob, unless it is on its way.
    async fn open_chunk(&mut self) -> Result<()> {
        if self.flow.is_some() {
            return Ok(());
        }
        if self.trust == Trust::Unknown {
            return Err(self.lost("the registry was not asked where the upload stands"));
        }
        let Some(opened) = &self.opened else { return Err(self.lost("there is no session")) };
        let chunk = || self.target.ask_session(Method::PATCH, opened);
        let (ask, framing) = match self.chunks {
            Chunks::None => (self.target.ask_end(opened), Framing::Length(self.target.blob.size)),
            Chunks::Open => (chunk(), Framing::Open),
            Chunks::Stated => (chunk(), Framing::Part(self.confirmed..self.chunk_end())),
        };
        // From here on the registry may have bytes that a killed process cannot tell of any more.
        self.remember().await;
        self.flow = Some(Flow::open(&self.target.session, ask, framing));
        Ok(())
    }

    async fn push(&mut self, piece: Bytes) -> Result<()> {
        let Some(flow) = &mut self.flow else { return Err(self.lost("there is no request")) };
        match flow.push(piece).await {
            Ok(Push::Taken) => Ok(()),
            Ok(Push::Answered(answer)) => Err(self.refused(*answer).await),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// Ends the chunk on its way and checks what the registry says to have.
    pub(super) async fn end_chunk(&mut self) -> Result<()> {
        let Some(flow) = &mut self.flow else { return Ok(()) };
        let answer = match flow.finish().await {
            Ok(answer) if answer.status().is_success() => answer,
            Ok(answer) => return Err(self.refused(answer).await),
            Err(e) => return Err(self.failed(e)),
        };
        self.flow = None;
        let has = received(&answer).unwrap_or(self.sent);
        self.opened = match self.opened.as_ref().map(|opened| moved(&answer, opened)).transpose() {
            Ok(opened) => opened,
            Err(e) => return Err(self.failed(e)),
        };
        // `0-0` is one byte where one was sent.
        if has != self.sent && (has, self.sent) != (0, 1) {
            let why = format!("it says to have {has} bytes of the {} that were sent", self.sent);
            return Err(self.failed(answer.protocol(why)));
        }
        self.confirmed = self.sent;
        if self.written.offset() == self.sent {
            self.written.mark();
            self.remember().await;
        }
        Ok(())
    }

    /// An answer that ends the request on its way before its time.
    async fn refused(&mut self, answer: Answer) -> Error {
        // Its message is read below: cancelled there, it is no request any more either.
        self.flow = None;
        self.trust = Trust::Unknown;
        let status = answer.status().as_u16();
        if status == 411 {
            self.chunks = Chunks::Stated;
        }
        let is_shortened = status == 413 && std::mem::replace(&mut self.longest, self.chunk) > self.chunk;
        match status {
            200..=299 => answer.protocol("it answered before the end of the body"),
            // Some proxies bound the length of a body.
            413 if is_shortened => answer.protocol("HTTP 413: it is tried with shorter chunks"),
            _ => self.target.refusal(answer).await,
        }
    }

    fn failed(&mut self, error: Error) -> Error {
        self.flow = None;
        self.trust = Trust::Unknown;
        error
    }

    pub(super) fn lost(&self, why: &str) -> Error {
        Error::network(self.target.session.registry(), &self.target.blob.digest, Fault::Protocol(why.to_owned()))
    }

    /// The PUT that ends the blob, with those bytes that were not sent yet.
    pub(super) async fn put(&mut self) -> Result<Answer> {
        if self.trust == Trust::Unknown {
            return Err(self.lost("the registry was not asked where the upload stands"));
        }
        let Some(opened) = &self.opened else { return Err(self.lost("there is no session")) };
        let (mut at, size) = (self.sent, self.target.blob.size);
        if self.flow.is_none() {
            let framing = Framing::Length(size.saturating_sub(at));
            self.flow = Some(Flow::open(&self.target.session, self.target.ask_end(opened), framing));
        }
        // Cancelled in here, it is unknown what the registry has.
        self.trust = Trust::Unknown;
        while at < size {
            let piece = self.written.again(at, PIECE as u64).ok_or_else(|| self.lost("bytes to be sent are gone"))?;
            at += piece.len() as u64;
            self.push(piece).await?;
        }
        let Some(flow) = &mut self.flow else { return Err(self.lost("there is no request")) };
        let answer = match flow.finish().await {
            Ok(answer) => answer,
            Err(e) => return Err(self.failed(e)),
        };
        self.flow = None;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let error = self.refused(answer).await;
        if matches!(error, Error::Verification { .. }) {
            self.cancel().await;
        }
        Err(error)
    }
}
