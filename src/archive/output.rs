//! The file, or the volumes, that an archive is written into: under other names until everything is there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::split::{Index, Volume, index_path, volume_path};
use crate::content::file::{WRITE_BACK, start_write_back};
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Hasher};

/// Most volumes of one archive.
const MAX_VOLUMES: usize = 999;

/// Whether a file of checksums is written, as `sha256sum --check` reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// No.
    None,
    /// Beside the archive.
    Beside,
}

/// An archive in the making. Dropped before its end, nothing of it is left.
pub struct Output {
    path: PathBuf,
    limit: Option<u64>,
    checksum: Checksum,
    whole: Sum,
    open: Option<Part>,
    parts: Vec<(PathBuf, Volume)>,
    /// The first volume, which every writer locks: held until nothing has a hidden name any more.
    first: Option<File>,
    unwritten: u64,
}

/// The volume that is written now.
struct Part {
    file: File,
    target: PathBuf,
    sum: Sum,
}

/// Counts, and hashes if somebody wants to know.
struct Sum {
    hasher: Option<Hasher>,
    len: u64,
}

impl Sum {
    fn new(wanted: bool) -> Sum {
        Sum { hasher: wanted.then(|| Hasher::new(Algorithm::Sha256)), len: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
    }

    fn volume(self, path: &Path) -> Volume {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sha256 = self.hasher.map(|hasher| hasher.finish().hex().to_owned()).unwrap_or_default();
        Volume { name, size: self.len, sha256 }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The files, in their order.
    pub files: Vec<PathBuf>,
    /// Their bytes, summed.
    pub size: u64,
}

impl Output {
    /// Begins the archive at `path`, or with a `limit` in bytes its volumes `path.001`, `path.002`, … and their index.
    ///
    /// # Errors
    /// `Usage` when something else than a file is there; `Store` when it cannot be written, or another process is writing
    /// it.
    pub fn create(path: &Path, limit: Option<u64>, checksum: Checksum) -> Result<Output> {
        // It would be replaced: a device too, by whoever may.
        if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
            return Err(Error::Usage(format!("{}: an archive needs a regular file, and this is none", path.display())));
        }
        let whole = Sum::new(limit.is_some() || checksum == Checksum::Beside);
        let (path, parts) = (path.to_owned(), Vec::new());
        let mut output =
            Output { path: path.clone(), limit, checksum, whole, open: None, parts, first: None, unwritten: 0 };
        output.next().map_err(Error::store("write", path))?;
        Ok(output)
    }

    /// Opens the next volume.
    fn next(&mut self) -> io::Result<()> {
        let number = self.parts.len() + 1;
        if number > MAX_VOLUMES {
            return Err(io::Error::other(format!("more than {MAX_VOLUMES} volumes: let them be larger")));
        }
        let target = if self.limit.is_some() { volume_path(&self.path, number) } else { self.path.clone() };
        let file = alone(&hidden(&target))?;
        file.set_len(0)?;
        if self.first.is_none() {
            self.first = Some(file.try_clone()?);
        }
        self.open = Some(Part { file, target, sum: Sum::new(self.limit.is_some()) });
        Ok(())
    }

    /// Ends the volume that is open.
    fn close(&mut self) -> io::Result<()> {
        let Some(part) = self.open.take() else { return Ok(()) };
        let (file, target) = (part.file, part.target);
        self.parts.push((target.clone(), part.sum.volume(&target)));
        rustix::fs::fdatasync(&file)?;
        Ok(())
    }

    /// Ends the archive: everything is on the disk, then gets its name; the index of volumes last.
    ///
    /// # Errors
    /// `Store`.
    pub fn finish(mut self) -> Result<Saved> {
        let path = self.path.clone();
        self.complete().map_err(Error::store("write", path))
    }

    fn complete(&mut self) -> io::Result<Saved> {
        self.close()?;
        self.parts.iter().try_for_each(|(target, _)| fs::rename(hidden(target), target))?;
        let parts = std::mem::take(&mut self.parts);
        let files = parts.iter().map(|(target, _)| target.clone()).collect();
        let whole = std::mem::replace(&mut self.whole, Sum::new(false)).volume(&self.path);
        let size = whole.size;
        if self.checksum == Checksum::Beside {
            let volumes = parts.iter().map(|(_, volume)| volume).filter(|_| self.limit.is_some());
            let alone = Some(&whole).filter(|_| self.limit.is_none());
            let line = |volume: &Volume| format!("{}  {}\n", volume.sha256, volume.name);
            let lines: String = volumes.chain(alone).map(line).collect();
            replace(&with_suffix(&self.path, ".sha256"), lines.as_bytes())?;
        }
        if self.limit.is_some() {
            let volumes = parts.into_iter().map(|(_, volume)| volume).collect();
            replace(&index_path(&self.path), Index::new(whole, volumes).to_json().as_bytes())?;
        }
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(Saved { files, size })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let full = self.open.as_ref().zip(self.limit).is_some_and(|(part, limit)| part.sum.len >= limit);
        if full {
            self.close()?;
            self.next()?;
        }
        let part = self.open.as_mut().ok_or_else(|| io::Error::other("it was ended"))?;
        let room = self.limit.map_or(u64::MAX, |limit| limit - part.sum.len);
        let count = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let count = part.file.write(&bytes[..count])?;
        part.sum.add(&bytes[..count]);
        self.whole.add(&bytes[..count]);
        self.unwritten += count as u64;
        if self.unwritten >= WRITE_BACK {
            self.unwritten = 0;
            start_write_back(&part.file)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let open = self.open.as_ref().map(|part| part.target.clone());
        for target in self.parts.drain(..).map(|(target, _)| target).chain(open) {
            let _ = fs::remove_file(hidden(&target));
        }
    }
}

/// The file at `path`, which is made if it is not there, for us alone.
fn alone(path: &Path) -> io::Result<File> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = File::options().write(true).create(true).truncate(false).custom_flags(no_follow).open(path)?;
    let busy = || io::Error::other("another process is writing it");
    file.try_lock().map_err(|_| busy())?;
    // Who wrote it before may have given it its name between our opening and locking it: then it is an archive.
    let (ours, there) = (file.metadata()?, fs::symlink_metadata(path).map_err(|_| busy())?);
    match (ours.dev(), ours.ino()) == (there.dev(), there.ino()) {
        true => Ok(file),
        false => Err(busy()),
    }
}

/// The name of a file that is not whole yet.
fn hidden(path: &Path) -> PathBuf {
    with_suffix(path, ".part")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = alone(&hidden(path))?;
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(hidden(path), path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_has_its_name_before_everything_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut output = Output::create(&path, None, Checksum::Beside).unwrap();
        output.write_all(b"0123").unwrap();
        assert!(matches!(Output::create(&path, None, Checksum::None), Err(Error::Store { .. })));
        assert_eq!(names(dir.path()), ["a.tar.part"]);
        let saved = output.finish().unwrap();
        assert_eq!(saved, Saved { files: vec![path], size: 4 });
        assert_eq!(names(dir.path()), ["a.tar", "a.tar.sha256"]);
        let sum = fs::read_to_string(dir.path().join("a.tar.sha256")).unwrap();
        assert_eq!(sum, format!("{}  a.tar\n", Digest::of(b"0123").hex()));
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = Output::create(&dir.path().join("a.tar"), Some(2), Checksum::None).unwrap();
        output.write_all(b"01234").unwrap();
        drop(output);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn nobody_else_writes_a_volume_that_is_full_and_has_no_name_yet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut output = Output::create(&path, Some(2), Checksum::None).unwrap();
        output.write_all(b"01234").unwrap();
        assert!(matches!(Output::create(&path, Some(2), Checksum::None), Err(Error::Store { .. })));
        output.finish().unwrap();
        assert_eq!(fs::read(dir.path().join("a.tar.001")).unwrap(), b"01");
    }

    #[test]
    fn a_device_and_a_link_stay_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Output::create(Path::new("/dev/null"), None, Checksum::None), Err(Error::Usage(_))));
        let (path, other) = (dir.path().join("a.tar"), dir.path().join("other"));
        fs::write(&other, b"precious").unwrap();
        std::os::unix::fs::symlink(&other, hidden(&path)).unwrap();
        assert!(matches!(Output::create(&path, None, Checksum::None), Err(Error::Store { .. })));
        assert_eq!(fs::read(&other).unwrap(), b"precious");
    }

    #[test]
    fn volumes_have_their_size_and_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut output = Output::create(&path, Some(4), Checksum::Beside).unwrap();
        output.write_all(b"0123456789").unwrap();
        output.finish().unwrap();
        assert_eq!(names(dir.path()), ["a.tar.001", "a.tar.002", "a.tar.003", "a.tar.sha256", "a.tar.volumes.json"]);
        assert_eq!(fs::read(dir.path().join("a.tar.003")).unwrap(), b"89");
        let index: Index = serde_json::from_slice(&fs::read(dir.path().join("a.tar.volumes.json")).unwrap()).unwrap();
        assert_eq!((index.archive.size, index.archive.sha256.as_str()), (10, Digest::of(b"0123456789").hex()));
        assert_eq!(index.volumes[1].sha256, Digest::of(b"4567").hex());
        assert_eq!(fs::read_to_string(dir.path().join("a.tar.sha256")).unwrap().lines().count(), 3);
    }
}
