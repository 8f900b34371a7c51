//! The frames of a tar (POSIX.1-2017, `pax`, "pax Interchange Format" and "ustar Interchange Format"; GNU tar's long
//! names): read with bounds, written the same in every run.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::error::Error;

/// Everything in a tar is a multiple of this many bytes.
pub const BLOCK: u64 = 512;
/// Longest name, in bytes.
const MAX_NAME: u64 = 4096;
/// Largest extended header, in bytes.
const MAX_EXTENDED: u64 = 1024 * 1024;
/// Most extended headers before one entry.
const MAX_EXTENSIONS: usize = 8;
/// Most entries of one archive.
const MAX_ENTRIES: usize = 250_000;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A link to the entry of this name, which lies in the archive.
    Link(String),
}

/// One entry, whose bytes follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path in the archive: relative, without `.`, `..` and empty components.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
}

/// Why a tar cannot be read on.
#[derive(Debug)]
pub enum Fault {
    /// The system, or a decoder, says so.
    Io(io::Error),
    /// It is damaged, or means harm.
    Invalid {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Fault {
    /// A fault of `entry`.
    pub fn invalid(entry: impl ToString, why: impl ToString) -> Fault {
        Fault::Invalid { entry: entry.to_string(), why: why.to_string() }
    }

    /// The error that it is in the archive at `place`.
    pub fn at(self, place: &str) -> Error {
        let invalid = |what: String, why| Error::Invalid { what, place: place.into(), why };
        match self {
            Fault::Invalid { entry, why } => invalid(entry, why),
            Fault::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => invalid(
                "archive".into(),
                "it ends in the middle: it is truncated; carry it here again, what was verified is kept".into(),
            ),
            // What decoders say of bytes that they do not understand.
            Fault::Io(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
                invalid("archive".into(), format!("its compression is damaged: {e}"))
            }
            Fault::Io(source) => Error::Store { path: place.into(), action: "read", source },
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Io(error)
    }
}

/// Reads the headers of a tar. The caller passes over the bytes of an entry, and what fills up its last block, before it
/// asks for the next one.
#[derive(Debug, Default)]
pub struct Headers {
    seen: usize,
}

/// What extended headers say of the entry behind them.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Headers {
    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// `Invalid` for what no image archive has: devices, paths that leave it, more than 250,000 entries, damage.
    pub fn next(&mut self, input: &mut impl Read) -> Result<Option<Entry>, Fault> {
        let mut extended = Extended::default();
        for _ in 0..=MAX_EXTENSIONS {
            let Some(header) = read_header(input)? else { return Ok(None) };
            self.seen += 1;
            if self.seen > MAX_ENTRIES {
                return Err(Fault::invalid("archive", format!("it has more than {MAX_ENTRIES} entries")));
            }
            let size = header.entry_size().map_err(|e| Fault::invalid(shown(&header.path_bytes()), e))?;
            match header.entry_type() {
                EntryType::GNULongName => extended.name = Some(text(input, size)?),
                EntryType::GNULongLink => extended.link = Some(text(input, size)?),
                EntryType::XHeader => extended.read(&extension(input, size, MAX_EXTENDED)?)?,
                EntryType::XGlobalHeader => drop(extension(input, size, MAX_EXTENDED)?),
                kind => return entry(&header, kind, size, extended).map(Some),
            }
        }
        Err(Fault::invalid("archive", format!("it has more than {MAX_EXTENSIONS} extended headers in a row")))
    }
}

/// How many bytes fill up the last block of `size` bytes.
pub fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK
}

/// The next header; `None` at the end, which is two blocks of zeros, or where the file ends behind an entry.
fn read_header(input: &mut impl Read) -> Result<Option<Header>, Fault> {
    let mut header = Header::new_old();
    let block = header.as_mut_bytes();
    let mut filled = 0;
    while filled < block.len() {
        match input.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let sum: u32 = (0..).zip(block.iter()).map(|(at, &b)| u32::from(if is_sum(at) { b' ' } else { b })).sum();
    match header.cksum() {
        Ok(stated) if stated == sum => Ok(Some(header)),
        _ => Err(Fault::invalid("archive", "a header is damaged, or this is no tar")),
    }
}

/// Whether the byte of a header belongs to its checksum, which is over blanks in its place.
fn is_sum(at: usize) -> bool {
    (148..156).contains(&at)
}

/// The bytes of an extended header, of at most `limit`.
fn extension(input: &mut impl Read, size: u64, limit: u64) -> Result<Vec<u8>, Fault> {
    if size > limit {
        return Err(Fault::invalid("archive", format!("an extended header has {size} bytes, more than {limit}")));
    }
    let mut bytes = vec![0; (size + padding(size)) as usize];
    input.read_exact(&mut bytes)?;
    bytes.truncate(size as usize);
    Ok(bytes)
}

/// A long name of GNU tar, which ends with a zero.
fn text(input: &mut impl Read, size: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = extension(input, size, MAX_NAME)?;
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    Ok(bytes)
}

impl Extended {
    /// Takes the records of a pax header in: `LENGTH KEY=VALUE\n`.
    fn read(&mut self, records: &[u8]) -> Result<(), Fault> {
        let damaged = || Fault::invalid("archive", "a pax header is damaged");
        let mut rest = records;
        while !rest.is_empty() {
            let blank = rest.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
            let digits = std::str::from_utf8(&rest[..blank]).map_err(|_| damaged())?;
            let len: usize = digits.parse().map_err(|_| damaged())?;
            let record = rest.get(blank + 1..len).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(damaged)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
                    self.size = Some(size.ok_or_else(damaged)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(Fault::invalid("archive", "it has a sparse file, which no image archive has"));
                }
                _ => {}
            }
            rest = &rest[len..];
        }
        Ok(())
    }
}

fn entry(header: &Header, kind: EntryType, size: u64, extended: Extended) -> Result<Entry, Fault> {
    let path = extended.name.unwrap_or_else(|| header.path_bytes().into_owned());
    let name = inside(&path, "")?;
    let size = extended.size.unwrap_or(size);
    let without_bytes = |kind| match size {
        0 => Ok(Entry { name: name.clone(), size, kind }),
        _ => Err(Fault::invalid(&name, "a folder or link with bytes")),
    };
    match kind {
        EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => without_bytes(Kind::Folder),
        EntryType::Regular | EntryType::Continuous => Ok(Entry { name, size, kind: Kind::File }),
        EntryType::Directory => without_bytes(Kind::Folder),
        EntryType::Symlink | EntryType::Link => {
            let target = extended.link.or_else(|| Some(header.link_name_bytes()?.into_owned())).unwrap_or_default();
            // A symbolic link is seen from its folder, a hard link from the root of the archive.
            let from = if kind == EntryType::Symlink { name.rsplit_once('/').map_or("", |(from, _)| from) } else { "" };
            let target = inside(&target, from).map_err(|_| {
                Fault::invalid(&name, format!("a link to {:?}, out of the archive", String::from_utf8_lossy(&target)))
            })?;
            without_bytes(Kind::Link(target))
        }
        EntryType::Char | EntryType::Block => Err(Fault::invalid(name, "a device, which no image archive has")),
        EntryType::Fifo => Err(Fault::invalid(name, "a pipe, which no image archive has")),
        other => {
            let why = format!("an entry of type {:?}, which no image archive has", other.as_byte() as char);
            Err(Fault::invalid(name, why))
        }
    }
}

/// `path` as seen from the folder `from`, if it stays in the archive.
fn inside(path: &[u8], from: &str) -> Result<String, Fault> {
    let wrong = |why: &str| Fault::invalid(shown(path), why);
    if path.len() as u64 > MAX_NAME {
        return Err(wrong("its name is longer than 4096 bytes"));
    }
    let text = std::str::from_utf8(path).map_err(|_| wrong("its name is not UTF-8"))?;
    if text.starts_with('/') || text.contains('\0') {
        return Err(wrong("its path is absolute: it leaves the archive"));
    }
    let mut parts: Vec<&str> = from.split('/').filter(|part| !part.is_empty()).collect();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            // Only a link may climb, and not out of the archive.
            ".." if parts.pop().is_none() || from.is_empty() => return Err(wrong("its path leaves the archive")),
            ".." => {}
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

fn shown(path: &[u8]) -> String {
    const SHOWN: usize = 200;
    String::from_utf8_lossy(&path[..path.len().min(SHOWN)]).into_owned()
}

/// The header of a file of `size` bytes, or of a folder where the name ends with `/`, with its time in seconds since 1970.
/// Owned by root, of mode 0644 or 0755.
pub fn header(name: &str, size: u64, mtime: u64) -> Vec<u8> {
    let (kind, mode) = if name.ends_with('/') { (EntryType::Directory, 0o755) } else { (EntryType::Regular, 0o644) };
    let plain = |name: &str, kind, size| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(mtime);
        header.set_size(size);
        let fits = header.set_path(name).is_ok();
        header.set_cksum();
        (header.as_bytes().to_vec(), fits)
    };
    let (block, fits) = plain(name, kind, size);
    if fits {
        return block;
    }
    // The path of a blob of SHA-512 is too long for an old header.
    let record = pax_record("path", name);
    let len = record.len() as u64;
    let (mut blocks, _) = plain("PaxHeaders/path", EntryType::XHeader, len);
    blocks.extend(record);
    blocks.resize((BLOCK + len + padding(len)) as usize, 0);
    blocks.extend(plain(&name[name.len().saturating_sub(99)..], kind, size).0);
    blocks
}

/// `LENGTH KEY=VALUE\n`, whose length counts its own digits.
fn pax_record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len += 1;
    }
    format!("{len} {key}={value}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(mut tar: &[u8]) -> Result<Vec<Entry>, Fault> {
        let (mut headers, mut found) = (Headers::default(), Vec::new());
        while let Some(entry) = headers.next(&mut tar)? {
            let len = (entry.size + padding(entry.size)) as usize;
            tar = tar.get(len..).ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
            found.push(entry);
        }
        Ok(found)
    }

    fn why(tar: &[u8]) -> String {
        entries(tar).unwrap_err().at("a.tar").to_string()
    }

    fn odd(kind: EntryType, name: &str, link: &str) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    #[test]
    fn what_is_written_is_read_also_under_long_names() {
        let long = format!("blobs/sha512/{}", "a".repeat(128));
        for name in ["blobs/", "index.json", &long] {
            let size = if name.ends_with('/') { 0 } else { 3 };
            let mut tar = header(name, size, 7);
            tar.resize(tar.len() + if size > 0 { 512 } else { 0 }, 0);
            let found = entries(&tar).unwrap();
            assert_eq!((found.len(), found[0].size), (1, size));
            assert_eq!(found[0].name, name.trim_end_matches('/'));
        }
    }

    #[test]
    fn other_readers_understand_long_names() {
        let long = format!("blobs/sha512/{}", "b".repeat(128));
        let mut bytes = header(&long, 0, 0);
        bytes.resize(bytes.len() + 1024, 0);
        let mut other = tar::Archive::new(&bytes[..]);
        let paths: Vec<_> = other.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(paths, [std::path::PathBuf::from(long)]);
    }

    #[test]
    fn paths_that_leave_the_archive_are_refused() {
        for name in ["/etc/passwd", "../x", "a/../../x", "a/../b"] {
            assert!(why(&odd(EntryType::Regular, name, "")).contains("leaves the archive"), "{name}");
        }
        for target in ["/etc/passwd", "../../etc/passwd", "../../../x"] {
            assert!(why(&odd(EntryType::Symlink, "a/layer.tar", target)).contains("out of the archive"), "{target}");
        }
        let link = &entries(&odd(EntryType::Symlink, "a/layer.tar", "../b/layer.tar")).unwrap()[0];
        assert_eq!(link.kind, Kind::Link("b/layer.tar".into()));
    }

    #[test]
    fn devices_pipes_and_sparse_files_are_refused() {
        for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse] {
            assert!(why(&odd(kind, "dev", "")).contains("which no image archive has"), "{kind:?}");
        }
    }

    #[test]
    fn damage_and_truncation_are_told_apart_from_the_end() {
        let mut tar = header("a", 0, 0);
        assert_eq!(entries(&tar).unwrap().len(), 1);
        assert!(why(&tar[..300]).contains("truncated"));
        tar[0] ^= 1;
        assert!(why(&tar).contains("damaged"));
        assert!(why(&[b'x'; 512]).contains("no tar"));
    }

    #[test]
    fn an_endless_name_is_not_read_into_memory() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(10 << 30);
        header.set_cksum();
        assert!(why(header.as_bytes()).contains("more than 4096"));
    }
}
