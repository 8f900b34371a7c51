//! The uploads that were begun and not ended: found, counted, removed.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::time::{Duration, SystemTime};

use super::lock::Passing;
use super::receive::Pending;
use super::{Disk, layout};
use crate::error::{Error, Result};

/// How many may be begun and not ended, over all processes.
const MAX_OPEN: usize = 1024;
/// One that did not grow for so long is removed when another one begins.
const MAX_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

impl Disk {
    /// Removes what nobody went on with, and refuses when there is too much all the same.
    pub(super) fn make_room(&self) -> Result<()> {
        let mut open = 0;
        for (id, meta) in self.uploads()? {
            let idle = meta.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
            match idle.is_some_and(|idle| idle >= MAX_IDLE) && self.drop_upload(&id)? {
                true => {}
                false => open += 1,
            }
        }
        match open < MAX_OPEN {
            true => Ok(()),
            false => Err(Error::Limit(format!("{open} uploads are begun and not ended"))),
        }
    }

    /// The uploads that were begun and not ended; also what a killed process left of one that was.
    pub(super) fn uploads(&self) -> Result<BTreeMap<String, Metadata>> {
        let folder = self.paths.uploads();
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.map_err(Error::store("list", &folder))?,
        };
        let mut uploads = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(Error::store("list", &folder))?;
            let name = entry.file_name();
            let Some((id, kind)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
            // It may have been ended since it was listed.
            let (Some(pending), Ok(meta)) = (Pending::named(id), entry.metadata()) else { continue };
            if kind == "data" || !uploads.contains_key(pending.id()) {
                uploads.insert(pending.id().to_owned(), meta);
            }
        }
        Ok(uploads)
    }

    /// Removes an upload unless somebody writes it; whether it is gone.
    pub(super) fn drop_upload(&self, id: &str) -> Result<bool> {
        let (data, lock) = (self.paths.upload(id, "data"), self.paths.upload(id, "lock"));
        let Some(_lock) = Passing::take(lock.clone()).map_err(Error::store("lock", lock))? else { return Ok(false) };
        layout::remove(&data).map_err(Error::store("remove", &data))?;
        Ok(true)
    }

    pub(super) fn no_upload(&self, id: &str) -> Error {
        let why = "it was ended or given up; begin again".into();
        Error::NotFound { what: format!("upload {id}"), place: self.paths.root.display().to_string(), why }
    }

    pub(super) fn held(&self, id: &str) -> Error {
        Error::Busy {
            what: format!("upload {id}"),
            place: self.paths.root.display().to_string(),
            status: 503,
            retry_after: None,
            why: "somebody else is writing it".into(),
        }
    }
}
