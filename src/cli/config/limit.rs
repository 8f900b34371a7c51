//! The limit that the settings ask for, shared with other processes.

use std::io;
use std::path::{Path, PathBuf};

use super::Settings;
use crate::limit::{Limiter, Precedence};

/// The file in a store through which those share a limit who use that store.
pub(super) fn file_of(store: &Path) -> PathBuf {
    store.join(".layerpull/limit")
}

impl Settings {
    /// Puts the limit in force that was asked for, shared with other processes.
    ///
    /// # Errors
    /// Why it is not shared with other processes; for this one it holds.
    pub fn limit(&mut self) -> io::Result<()> {
        let (timetable, precedence) = (self.bwlimit.value.clone(), self.precedence());
        if timetable.is_off() && precedence == Precedence::Equal {
            return Ok(());
        }
        self.limit_alone();
        self.make_room()?;
        self.limiter = Limiter::shared(timetable, precedence, &self.limit_file.value)?;
        Ok(())
    }

    /// Puts the limit in force that was asked for, for this process. Makes no file.
    pub fn limit_alone(&mut self) {
        self.limiter = Limiter::new(self.bwlimit.value.clone(), self.precedence());
    }

    fn precedence(&self) -> Precedence {
        if self.background.value { Precedence::Others } else { Precedence::Equal }
    }

    /// Makes the folder of the file where it may be the first thing in a new store; what is none becomes none.
    fn make_room(&self) -> io::Result<()> {
        let (store, file) = (&self.store.value, &self.limit_file.value);
        if *file != file_of(store) {
            return Ok(());
        }
        let is_ours = store.join("oci-layout").exists();
        let is_vacant = || match std::fs::read_dir(store) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        match file.parent() {
            Some(folder) if is_ours || is_vacant() => std::fs::create_dir_all(folder),
            _ => Ok(()),
        }
    }
}
