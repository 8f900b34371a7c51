//! Entries of the index by what is shown of them: the name as the file has it, or the digest, whole or its beginning.

use super::index::{Entry, IndexFile};
use super::{Store, off};
use crate::content::Root;
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest};

/// Hexadecimal digits of a digest, at least: as many as a list of images shows.
const MIN_PREFIX: usize = 12;

/// An entry of the index.
#[derive(Debug, Clone)]
pub struct Entered {
    /// The name as the file has it; `None` for an entry without one.
    pub name: Option<String>,
    /// What it points to.
    pub root: Root,
}

impl Store {
    /// The entries that are named `text` to the letter; else those of the digest `text`, or of the only digest that
    /// begins with its 12 or more hexadecimal digits. Empty when there are none.
    ///
    /// # Errors
    /// `Usage` when several digests begin so, `Invalid` when `index.json` is damaged.
    pub async fn entered(&self, text: &str) -> Result<Vec<Entered>> {
        let (disk, text) = (self.disk.clone(), text.to_owned());
        off(move || {
            let found = IndexFile::read(&disk.paths)?.shown_as(&text)?;
            Ok(found.into_iter().map(Entered::of).collect())
        })
        .await
    }

    /// Removes the entries that [`Store::entered`] finds. Their blobs stay until [`Store::collect`].
    ///
    /// # Errors
    /// As [`Store::entered`], and `Store`.
    pub async fn remove_entered(&self, text: &str) -> Result<Vec<Entered>> {
        let gone = self.entered(text).await?;
        if gone.is_empty() {
            return Ok(gone);
        }
        let text = text.to_owned();
        self.change_index(move |index| {
            // What became ambiguous meanwhile stays.
            let entries = index.shown_as(&text).unwrap_or_default();
            index.drop_entries(&entries);
        })
        .await?;
        Ok(gone)
    }
}

impl Entered {
    fn of(entry: Entry) -> Entered {
        let (name, platforms) = (entry.name().map(str::to_owned), entry.platforms());
        let (kind, digest, size) = (entry.descriptor.media_type, entry.descriptor.digest, entry.descriptor.size);
        Entered { name, root: Root { descriptor: Descriptor::new(kind, digest, size), platforms } }
    }
}

impl IndexFile {
    fn shown_as(&self, text: &str) -> Result<Vec<Entry>> {
        let entries = self.entries();
        let named: Vec<Entry> = entries.iter().filter(|entry| entry.name() == Some(text)).cloned().collect();
        if !named.is_empty() {
            return Ok(named);
        }
        let found: Vec<Entry> = entries.into_iter().filter(|entry| begins(&entry.descriptor.digest, text)).collect();
        match found.first() {
            Some(first) if found.iter().any(|entry| entry.descriptor.digest != first.descriptor.digest) => {
                Err(Error::Usage(format!("{text}: several digests begin so; give more of it")))
            }
            _ => Ok(found),
        }
    }
}

fn begins(digest: &Digest, text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    digest.to_string() == text || (hex.len() >= MIN_PREFIX && digest.hex().starts_with(hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_named_whole_or_by_twelve_digits() {
        let digest = Digest::of(b"");
        let whole = digest.to_string();
        assert!(begins(&digest, &whole) && begins(&digest, &whole[..19]) && begins(&digest, "e3b0c44298fc"));
        assert!(!begins(&digest, "e3b0c44298f") && !begins(&digest, "sha256:") && !begins(&digest, "f3b0c44298fc"));
    }
}
