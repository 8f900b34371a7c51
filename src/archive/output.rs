//! The file, or the volumes, that an archive is written into: under other names until everything is there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::split::{Index, Volume, index_path, volume_path};
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
    /// `Store` when it cannot be written, or another process is writing it.
    pub fn create(path: &Path, limit: Option<u64>, checksum: Checksum) -> Result<Output> {
        let whole = Sum::new(limit.is_some() || checksum == Checksum::Beside);
        let mut output = Output { path: path.into(), limit, checksum, whole, open: None, parts: Vec::new() };
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
        let file = File::options().write(true).create(true).truncate(false).open(hidden(&target))?;
        file.try_lock().map_err(|_| io::Error::other("another process is writing it"))?;
        file.set_len(0)?;
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
        let parts = std::mem::take(&mut self.parts);
        parts.iter().try_for_each(|(target, _)| fs::rename(hidden(target), target))?;
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
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let open = self.open.take().map(|part| part.target);
        for target in self.parts.drain(..).map(|(target, _)| target).chain(open) {
            let _ = fs::remove_file(hidden(&target));
        }
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
    let mut file = File::create(hidden(path))?;
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
