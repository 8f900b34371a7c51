//! What is around an archive: gzip, xz or zstd, of one or several members.

use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use async_compression::futures::bufread::{GzipDecoder, XzDecoder, ZstdDecoder};
use futures::io::{AllowStdIo, AsyncRead};

use super::frame::Fault;

/// How much is read from a file or pipe at once, in bytes.
const BUFFER: usize = 256 * 1024;
/// Memory that xz may use to decode, in bytes: what the strongest of its presets needs.
const XZ_MEMORY: u64 = 72 << 20;
/// What may come out however little went in, in bytes.
const UNSUSPICIOUS: u64 = 1 << 30;
/// How many times as much may come out as went in: a little more than what gzip can do at best.
const MAX_RATIO: u64 = 1100;
/// How many bytes tell a compression.
pub const MAGIC: usize = 6;

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// The format of XZ Utils.
    Xz,
    /// That of bzip2, which is not read.
    Bzip2,
}

impl Compression {
    /// What the first bytes say.
    pub fn of(magic: &[u8]) -> Compression {
        match magic {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            // A frame, or one to be skipped, with which a stream may begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
            _ => Compression::None,
        }
    }

    /// What the file begins with. Its position is left as it was.
    ///
    /// # Errors
    /// Those of the system.
    pub fn of_file(file: &File) -> io::Result<Compression> {
        let mut magic = [0; MAGIC];
        let count = std::os::unix::fs::FileExt::read_at(file, &mut magic, 0)?;
        Ok(Compression::of(&magic[..count]))
    }
}

/// The bytes of `input` without what is around them.
///
/// # Errors
/// `Invalid` for bzip2; those of the system.
pub fn plain(mut input: impl Read + Send + 'static) -> Result<Box<dyn Read + Send>, Fault> {
    let mut magic = Vec::with_capacity(MAGIC);
    (&mut input).take(MAGIC as u64).read_to_end(&mut magic)?;
    let compression = Compression::of(&magic);
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Counted { inner: Cursor::new(magic).chain(input), taken: taken.clone() };
    let input = AllowStdIo::new(BufReader::with_capacity(BUFFER, counted));
    let decoded: Box<dyn Read + Send> = match compression {
        Compression::None => return Ok(Box::new(input.into_inner())),
        Compression::Bzip2 => {
            return Err(Fault::invalid("archive", "compressed with bzip2, which is not read: unpack it with bunzip2"));
        }
        Compression::Gzip => {
            let mut decoder = GzipDecoder::new(input);
            decoder.multiple_members(true);
            Box::new(Blocking(decoder))
        }
        Compression::Zstd => {
            let mut decoder = ZstdDecoder::new(input);
            decoder.multiple_members(true);
            Box::new(Blocking(decoder))
        }
        Compression::Xz => {
            let mut decoder = XzDecoder::with_mem_limit(input, XZ_MEMORY);
            decoder.multiple_members(true);
            Box::new(Blocking(decoder))
        }
    };
    Ok(Box::new(Guarded { inner: decoded, taken, given: 0 }))
}

type Input<R> = Chain<Cursor<Vec<u8>>, R>;

/// Counts what was taken.
struct Counted<R> {
    inner: Input<R>,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.taken.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// A decoder over bytes that come by blocking.
struct Blocking<D>(D);

impl<D: AsyncRead + Unpin> Read for Blocking<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(&mut self.0).poll_read(&mut context, buffer) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::Error::other("a decoder waits for what cannot come")),
        }
    }
}

/// Ends what becomes much more than any image does.
struct Guarded {
    inner: Box<dyn Read + Send>,
    taken: Arc<AtomicU64>,
    given: u64,
}

impl Read for Guarded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.given += count as u64;
        let taken = self.taken.load(Ordering::Relaxed);
        if self.given > UNSUSPICIOUS.saturating_add(taken.saturating_mul(MAX_RATIO)) {
            let why = format!("{taken} bytes became more than {}, as only a bomb does", self.given);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(count)
    }
}

/// Reads on to the end of a pipe, if that is near: whoever writes it may still be filling up the last record.
pub fn drain(input: &mut (impl Read + ?Sized)) {
    const NEAR: u64 = 1 << 20;
    let _ = io::copy(&mut input.take(NEAR), &mut io::sink());
}

/// Passes over `count` bytes by reading them.
///
/// # Errors
/// Those of `input`; `UnexpectedEof` when it has fewer.
pub fn read_over(input: &mut (impl Read + ?Sized), count: u64) -> io::Result<()> {
    match io::copy(&mut input.take(count), &mut io::sink())? {
        passed if passed == count => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::AsyncReadExt as _;

    fn read(bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let mut read = Vec::new();
        plain(Cursor::new(bytes))?.read_to_end(&mut read)?;
        Ok(read)
    }

    fn encoded(mut encoder: impl AsyncRead + Unpin) -> Vec<u8> {
        let mut bytes = Vec::new();
        futures::FutureExt::now_or_never(encoder.read_to_end(&mut bytes)).unwrap().unwrap();
        bytes
    }

    #[test]
    fn every_member_of_every_compression_comes_out() {
        use async_compression::futures::bufread::{GzipEncoder, XzEncoder, ZstdEncoder};
        let of = |compress: &dyn Fn(&'static [u8]) -> Vec<u8>| {
            let bytes = [compress(b"one,"), compress(b"two")].concat();
            assert_eq!(read(bytes).unwrap(), b"one,two");
        };
        of(&|bytes| bytes.to_vec());
        of(&|bytes| encoded(GzipEncoder::new(bytes)));
        of(&|bytes| encoded(XzEncoder::new(bytes)));
        of(&|bytes| encoded(ZstdEncoder::new(bytes)));
        assert_eq!(read(Vec::new()).unwrap(), b"");
    }

    #[test]
    fn bzip2_is_named_and_truncation_is_seen() {
        assert!(read(b"BZh91AY&SY".to_vec()).unwrap_err().at("a").to_string().contains("bunzip2"));
        let gzip = encoded(async_compression::futures::bufread::GzipEncoder::new(&b"some text"[..]));
        let told = read(gzip[..gzip.len() - 4].to_vec()).unwrap_err().at("a").to_string();
        assert!(told.contains("truncated"), "{told}");
    }

    #[test]
    fn a_bomb_is_put_out() {
        struct Zeros;
        impl Read for Zeros {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                Ok(buffer.len())
            }
        }
        let mut guarded = Guarded { inner: Box::new(Zeros), taken: Arc::new(AtomicU64::new(10)), given: 0 };
        let mut buffer = vec![0; 1 << 20];
        let mut read = 0;
        let error = loop {
            match guarded.read(&mut buffer) {
                Ok(count) => read += count as u64,
                Err(error) => break error,
            }
        };
        assert_eq!(read, UNSUSPICIOUS);
        assert!(error.to_string().contains("bomb"));
    }
}
