//! An archive that comes in order: a pipe, or a tar with compression around it.

use std::io::Read;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::compression::{drain, plain, read_over};
use super::frame::{Entry, Fault, Headers, padding};
use crate::content::file::PIECE;
use crate::error::{Error, Result};

/// How many pieces wait to be taken, at most.
const AHEAD: usize = 4;

enum Part {
    Entry(Entry),
    Bytes(Bytes),
}

/// The entries of an archive, one behind the other, read and decompressed on a thread of its own.
pub struct Sequential {
    parts: mpsc::Receiver<Result<Part, Fault>>,
    place: String,
    /// An entry that came while the bytes of the one before were read.
    next: Option<Entry>,
}

impl Sequential {
    /// Begins to read `input`, which is named `place` in messages.
    ///
    /// # Errors
    /// `Store` when the system has no thread for it.
    pub fn start(input: impl Read + Send + 'static, place: &str) -> Result<Sequential> {
        let (to, parts) = mpsc::channel(AHEAD);
        let thread = std::thread::Builder::new().name("archive".into());
        let read = move || {
            if let Err(fault) = read(input, &to) {
                // Nobody wants to know any more.
                let _ = to.blocking_send(Err(fault));
            }
        };
        thread.spawn(read).map_err(Error::store("start a thread to read", place))?;
        Ok(Sequential { parts, place: place.into(), next: None })
    }

    /// How it is named in messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The next entry; what is left of the one before is passed over. `None` at the end.
    ///
    /// # Errors
    /// `Invalid` for damage and hostility, `Store` when it cannot be read.
    pub async fn next(&mut self) -> Result<Option<Entry>> {
        while self.bytes().await?.is_some() {}
        Ok(self.next.take())
    }

    /// The next bytes of the entry; `None` behind the last.
    ///
    /// # Errors
    /// As [`Sequential::next`].
    pub async fn bytes(&mut self) -> Result<Option<Bytes>> {
        if self.next.is_some() {
            return Ok(None);
        }
        match self.parts.recv().await {
            None => Ok(None),
            Some(Ok(Part::Bytes(bytes))) => Ok(Some(bytes)),
            Some(Ok(Part::Entry(entry))) => {
                self.next = Some(entry);
                Ok(None)
            }
            Some(Err(fault)) => Err(fault.at(&self.place)),
        }
    }

    /// All bytes of the entry, which are at most as many as its size says.
    ///
    /// # Errors
    /// As [`Sequential::next`].
    pub async fn whole(&mut self) -> Result<Bytes> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.bytes().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }
}

/// Reads to the end, or until nobody takes anything any more.
fn read(input: impl Read + Send + 'static, to: &mpsc::Sender<Result<Part, Fault>>) -> Result<(), Fault> {
    let mut input = plain(input)?;
    let mut headers = Headers::default();
    while let Some(entry) = headers.next(&mut input)? {
        let (size, name) = (entry.size, entry.name.clone());
        if to.blocking_send(Ok(Part::Entry(entry))).is_err() {
            return Ok(());
        }
        if !pass_on(&mut input, size, &name, to)? {
            return Ok(());
        }
        read_over(&mut input, padding(size))?;
    }
    drain(&mut input);
    Ok(())
}

/// Whether somebody still takes them.
fn pass_on(
    input: &mut (impl Read + ?Sized),
    size: u64,
    name: &str,
    to: &mpsc::Sender<Result<Part, Fault>>,
) -> Result<bool, Fault> {
    let mut left = size;
    while left > 0 {
        let count = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        let mut piece = vec![0; count];
        match input.read_exact(&mut piece) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                let why = format!(
                    "the archive ends {left} bytes or less before its end: it is truncated; carry it here again, what was verified is kept"
                );
                return Err(Fault::invalid(name, why));
            }
            other => other?,
        }
        left -= count as u64;
        if to.blocking_send(Ok(Part::Bytes(piece.into()))).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::frame::header;

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in files {
            bytes.extend(header(name, content.len() as u64, 0));
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len() + padding(content.len() as u64) as usize, 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    #[tokio::test]
    async fn entries_come_in_order_and_may_be_passed_over() {
        let large = vec![7; PIECE + 5];
        let bytes = tar(&[("a", b"one"), ("b", &large), ("c", b""), ("d", b"four")]);
        let mut archive = Sequential::start(std::io::Cursor::new(bytes), "a.tar").unwrap();
        assert_eq!(archive.next().await.unwrap().unwrap().name, "a");
        assert_eq!(archive.whole().await.unwrap(), "one");
        assert_eq!(archive.next().await.unwrap().unwrap().size, large.len() as u64);
        assert_eq!(archive.bytes().await.unwrap().unwrap().len(), PIECE);
        assert_eq!(archive.next().await.unwrap().unwrap().name, "c");
        assert_eq!(archive.next().await.unwrap().unwrap().name, "d");
        assert_eq!(archive.whole().await.unwrap(), "four");
        assert!(archive.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_cut_pipe_is_an_error_that_names_the_entry() {
        let mut bytes = tar(&[("blob", &[1; 2000])]);
        bytes.truncate(1500);
        let mut archive = Sequential::start(std::io::Cursor::new(bytes), "standard input").unwrap();
        archive.next().await.unwrap().unwrap();
        let told = archive.whole().await.unwrap_err().to_string();
        assert!(told.starts_with("standard input: blob: ") && told.contains("truncated"), "{told}");
    }
}
