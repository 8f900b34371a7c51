//! What a place has, as a small file that can be carried to where something is packed for it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Digest;

/// The largest inventory that is read, in bytes: some 800,000 digests.
pub const MAX_INVENTORY_SIZE: u64 = 64 * 1024 * 1024;

/// The version of the format that is written, and the only one that is read.
const VERSION: u64 = 1;

/// What a place has. Names no image, no host and no path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Blobs and manifests that it holds bit by bit: they may be left out of what is sent there.
    pub blobs: BTreeSet<Digest>,
    /// Uncompressed layers that it knows.
    pub diff_ids: BTreeSet<Digest>,
    /// Layers that it knows with all those below them, by their ChainIDs (OCI image-spec, `config.md`): docker unpacks
    /// what it gets and keeps no blobs, but the lowest layers of an image may be left out that stand here.
    pub chains: BTreeSet<Digest>,
}

/// Why a file is no inventory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInventory {
    /// No JSON, or a field is missing or wrong.
    #[error("no inventory as `layerpull inventory` writes it: {0}")]
    Json(String),
    /// A version that is not known.
    #[error("inventory of version {0}: only version {VERSION} is known; write it again with this version")]
    Version(u64),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    inventory_version: u64,
    blobs: BTreeSet<Digest>,
    #[serde(default)]
    diff_ids: BTreeSet<Digest>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    chains: BTreeSet<Digest>,
}

impl Inventory {
    /// Reads one of at most [`MAX_INVENTORY_SIZE`] bytes; the caller bounds what it reads.
    ///
    /// # Errors
    /// When it is none, or of another version.
    pub fn parse(bytes: &[u8]) -> Result<Inventory, InvalidInventory> {
        let file: File = serde_json::from_slice(bytes).map_err(|e| InvalidInventory::Json(e.to_string()))?;
        match file.inventory_version {
            VERSION => Ok(Inventory { blobs: file.blobs, diff_ids: file.diff_ids, chains: file.chains }),
            other => Err(InvalidInventory::Version(other)),
        }
    }

    /// The text of the file: sorted, so that the same content is the same text.
    pub fn to_json(&self) -> String {
        let Inventory { blobs, diff_ids, chains } = self.clone();
        let file = File { inventory_version: VERSION, blobs, diff_ids, chains };
        serde_json::to_string_pretty(&file).expect("digests and a number are JSON") + "\n"
    }

    /// What either has: one site in several inventories.
    pub fn with(mut self, other: Inventory) -> Inventory {
        self.blobs.extend(other.blobs);
        self.diff_ids.extend(other.diff_ids);
        self.chains.extend(other.chains);
        self
    }

    /// What both have: what can be left out for several sites at once.
    pub fn common(mut self, other: &Inventory) -> Inventory {
        self.blobs.retain(|blob| other.blobs.contains(blob));
        self.diff_ids.retain(|layer| other.diff_ids.contains(layer));
        self.chains.retain(|chain| other.chains.contains(chain));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn having(names: &[&str]) -> Inventory {
        let blobs = names.iter().map(|name| Digest::of(name.as_bytes())).collect();
        let layer = BTreeSet::from([Digest::of(b"layer")]);
        Inventory { blobs, diff_ids: layer.clone(), chains: layer }
    }

    #[test]
    fn what_is_written_is_read_and_sorted() {
        let (one, other) = (having(&["a", "b"]), having(&["b", "a"]));
        assert_eq!(one.to_json(), other.to_json());
        assert_eq!(Inventory::parse(one.to_json().as_bytes()).unwrap(), one);
    }

    #[test]
    fn several_of_one_site_add_up_and_several_sites_have_in_common() {
        let (one, other) = (having(&["a", "b"]), having(&["b", "c"]));
        assert_eq!(one.clone().with(other.clone()).blobs, having(&["a", "b", "c"]).blobs);
        assert_eq!(one.common(&other).blobs, having(&["b"]).blobs);
    }

    #[test]
    fn another_version_or_another_file_is_refused() {
        assert!(matches!(Inventory::parse(br#"{"inventoryVersion":2,"blobs":[]}"#), Err(InvalidInventory::Version(2))));
        for text in ["", "[]", r#"{"blobs":[]}"#, r#"{"inventoryVersion":1,"blobs":["x"]}"#] {
            assert!(matches!(Inventory::parse(text.as_bytes()), Err(InvalidInventory::Json(_))), "{text}");
        }
    }
}
