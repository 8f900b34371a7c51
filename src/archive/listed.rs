//! The entries of a tar on disk: where each lies. Their bytes are passed over.

use std::collections::HashMap;

use bytes::Bytes;

use super::compression::{Compression, MAGIC};
use super::docker::LayerFile;
use super::frame::{Fault, Headers, Kind, padding};
use super::layout;
use super::meaning::Lookup;
use super::volumes::{Cursor, Volumes};
use crate::content::file::PIECE;
use crate::oci::{Algorithm, Digest, Hasher};

/// Most steps from a link to what it means.
const MAX_LINKS: usize = 8;

/// Where an entry lies in a tar.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// Where its bytes begin.
    pub offset: u64,
    /// How many there are.
    pub size: u64,
}

/// The entries of a tar on disk.
pub(super) struct Listed<'a> {
    volumes: &'a Volumes,
    /// The regular files.
    pub files: HashMap<String, Slot>,
    links: HashMap<String, String>,
}

impl<'a> Listed<'a> {
    /// Reads the headers, and passes over the bytes between them.
    pub fn read(volumes: &'a Volumes) -> Result<Listed<'a>, Fault> {
        let mut listed = Listed { volumes, files: HashMap::new(), links: HashMap::new() };
        let (mut cursor, mut headers) = (Cursor { volumes, at: 0 }, Headers::default());
        while let Some(entry) = headers.next(&mut cursor)? {
            let slot = Slot { offset: cursor.at, size: entry.size };
            cursor.pass(entry.size)?;
            cursor.pass(padding(entry.size))?;
            let former = match entry.kind {
                Kind::Folder => continue,
                Kind::File => listed.files.insert(entry.name.clone(), slot).is_some(),
                Kind::Link(target) => listed.links.insert(entry.name.clone(), target).is_some(),
            };
            if former || (listed.files.contains_key(&entry.name) && listed.links.contains_key(&entry.name)) {
                return Err(twice(&entry.name));
            }
        }
        Ok(listed)
    }

    /// The file that `name` means.
    pub fn file(&self, name: &str) -> Result<Option<Slot>, Fault> {
        Ok(self.files.get(followed(&self.links, name)?).copied())
    }
}

/// Two entries of one name: two readers could see two different things.
pub(super) fn twice(name: &str) -> Fault {
    Fault::invalid(name, "it stands in the archive twice")
}

/// What `name` means when it is a link.
pub(super) fn followed<'l>(links: &'l HashMap<String, String>, name: &'l str) -> Result<&'l str, Fault> {
    let mut at = name;
    for _ in 0..MAX_LINKS {
        match links.get(at) {
            None => return Ok(at),
            // A blob of a layout is a file; only the layers of docker's own format are links now and then.
            Some(_) if layout::blob(at).is_some() => return Err(Fault::invalid(at, "a link where a blob should be")),
            Some(target) => at = target,
        }
    }
    Err(Fault::invalid(name, format!("more than {MAX_LINKS} links behind each other")))
}

impl Slot {
    /// Its bytes, of at most `limit`.
    pub fn read(&self, volumes: &Volumes, name: &str, limit: u64) -> Result<Bytes, Fault> {
        if self.size > limit {
            return Err(Fault::invalid(name, format!("it has {} bytes, more than {limit}", self.size)));
        }
        let mut bytes = vec![0; self.size as usize];
        volumes.read_exact_at(&mut bytes, self.offset)?;
        Ok(bytes.into())
    }

    fn hash(&self, volumes: &Volumes) -> Result<Digest, Fault> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0; PIECE];
        let mut at = 0;
        while at < self.size {
            let count = buffer.len().min(usize::try_from(self.size - at).unwrap_or(usize::MAX));
            volumes.read_exact_at(&mut buffer[..count], self.offset + at)?;
            hasher.update(&buffer[..count]);
            at += count as u64;
        }
        Ok(hasher.finish())
    }
}

impl Lookup for Listed<'_> {
    fn small(&self, name: &str, limit: u64) -> Result<Option<Bytes>, Fault> {
        self.file(name)?.map(|slot| slot.read(self.volumes, name, limit)).transpose()
    }

    fn layer(&self, name: &str, diff_id: &Digest) -> Result<Option<LayerFile>, Fault> {
        let Some(slot) = self.file(name)? else { return Ok(None) };
        let mut magic = vec![0; MAGIC.min(slot.size as usize)];
        self.volumes.read_exact_at(&mut magic, slot.offset)?;
        let compression = Compression::of(&magic);
        let digest = match compression {
            // Whoever takes the layer finds out whether it is what the configuration says.
            Compression::None => diff_id.clone(),
            _ => slot.hash(self.volumes)?,
        };
        Ok(Some(LayerFile { digest, size: slot.size, compression }))
    }
}
