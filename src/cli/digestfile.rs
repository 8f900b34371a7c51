//! `--digestfile`: the digests of a pull in a file, for scripts.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use tempfile::NamedTempFile;

use super::results::Pulled;
use crate::error::{Error, Result};

/// A file that digests will be written to. What is in it stays until then.
pub struct Digestfile(PathBuf);

impl Digestfile {
    /// Sees whether `path` can be written, before anything is pulled.
    ///
    /// # Errors
    /// `Store` when it cannot.
    pub fn open(path: &Path) -> Result<Digestfile> {
        // Where a link leads is written; the link stays.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let refused = |error: io::Error| Err(Error::store("write the digests to", &path)(error));
        if path.is_dir() {
            return refused(io::ErrorKind::IsADirectory.into());
        }
        match is_replaced(&path).then(|| beside(&path)) {
            Some(Ok(_)) => Ok(Digestfile(path)),
            Some(Err(error)) if !path.exists() => refused(error),
            _ => match rustix::fs::access(&path, Access::WRITE_OK) {
                Ok(()) => Ok(Digestfile(path)),
                Err(error) => refused(error.into()),
            },
        }
    }

    /// Writes the digests, one a line in the order of the images, and as skopeo does without a line break at the end.
    /// A line stays empty for an image that failed. When all failed the file stays as it is.
    ///
    /// # Errors
    /// `Store`.
    pub fn write(&self, pulled: &[Pulled]) -> Result<()> {
        if pulled.iter().all(|image| image.result.is_err()) {
            return Ok(());
        }
        let line = |image: &Pulled| image.result.as_ref().map_or_else(|_| String::new(), ToString::to_string);
        let text = pulled.iter().map(line).collect::<Vec<_>>().join("\n");
        self.put(&text).map_err(Error::store("write the digests to", &self.0))
    }

    fn put(&self, text: &str) -> io::Result<()> {
        match is_replaced(&self.0).then(|| beside(&self.0)) {
            Some(Ok(mut new)) => {
                new.write_all(text.as_bytes())?;
                new.persist(&self.0).map_err(|e| e.error)?;
                Ok(())
            }
            _ => File::create(&self.0)?.write_all(text.as_bytes()),
        }
    }
}

/// A pipe or a terminal is written to; a file is replaced in one step.
fn is_replaced(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file()) || !path.exists()
}

fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Less what the process's mask takes away, as with any new file.
    tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)
}
