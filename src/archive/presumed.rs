//! What an archive leaves out because the place that it goes to has it: the first entry of ours says so.

use serde::{Deserialize, Serialize};

use super::frame::Fault;
use crate::oci::Digest;

/// The entry that says it.
pub const PRESUMED: &str = "layerpull.json";

/// The version of the format that is written, and the only one that is read.
const VERSION: u64 = 1;

/// A blob or manifest that an archive needs and does not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Presumed {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    archive_version: u64,
    presumes: Vec<Presumed>,
}

/// The text of the entry. `presumed` is sorted by the caller.
pub fn write(presumed: &[Presumed]) -> String {
    let file = File { archive_version: VERSION, presumes: presumed.to_vec() };
    serde_json::to_string(&file).expect("digests and numbers are JSON")
}

/// Reads the entry.
///
/// # Errors
/// `Invalid` when it is damaged, or of another version.
pub fn read(bytes: &[u8]) -> Result<Vec<Presumed>, Fault> {
    let file: File = serde_json::from_slice(bytes).map_err(|e| Fault::invalid(PRESUMED, e))?;
    match file.archive_version {
        VERSION => Ok(file.presumes),
        other => {
            let why = format!("of version {other}: only {VERSION} is known; import it with a newer layerpull");
            Err(Fault::invalid(PRESUMED, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_other_versions_are_refused() {
        let presumed = vec![Presumed { digest: Digest::of(b"x"), size: 7 }];
        assert_eq!(read(write(&presumed).as_bytes()).unwrap(), presumed);
        assert!(read(br#"{"archiveVersion":2,"presumes":[]}"#).is_err());
        assert!(read(b"{}").is_err());
    }
}
