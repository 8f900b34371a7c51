//! An archive in several files: which belong together, in which order, and what each should be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::frame::Fault;
use crate::content::file::read_bounded;
use crate::error::{Error, Result};

/// What the name of an index ends with.
const SUFFIX: &str = ".volumes.json";
/// The version of the format that is written, and the only one that is read.
const VERSION: u64 = 1;
/// The largest index that is read, in bytes.
const MAX_INDEX: u64 = 4 * 1024 * 1024;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name, without a folder.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

/// The files of one archive, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    volumes_version: u64,
    /// What they are together: the name is that of the archive.
    pub archive: Volume,
    /// The files.
    pub volumes: Vec<Volume>,
}

impl Index {
    /// The index of `volumes`, which are `archive` together.
    pub fn new(archive: Volume, volumes: Vec<Volume>) -> Index {
        Index { volumes_version: VERSION, archive, volumes }
    }

    /// Its text.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and numbers are JSON") + "\n"
    }

    fn read(path: &Path) -> Result<Index> {
        let place = path.display().to_string();
        let bytes = read_bounded(path, MAX_INDEX).map_err(Error::store("read the index of volumes", path))?;
        let invalid = |why: String| Fault::invalid("index of volumes", why).at(&place);
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
        if index.volumes_version != VERSION || index.volumes.is_empty() {
            return Err(invalid(format!("of version {}: only {VERSION} is known", index.volumes_version)));
        }
        let is_plain = |volume: &Volume| Path::new(&volume.name).file_name().is_some_and(|n| n == volume.name.as_str());
        match index.volumes.iter().find(|volume| !is_plain(volume)) {
            Some(volume) => Err(invalid(format!("{:?} is no name of a file", volume.name))),
            None => Ok(index),
        }
    }
}

/// Where the index of the archive at `path` is.
pub fn index_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(SUFFIX);
    path.with_file_name(name)
}

/// Where the volume `number`, from 1, of the archive at `path` is.
pub fn volume_path(path: &Path, number: usize) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{number:03}"));
    path.with_file_name(name)
}

/// Whether `path` is named as an index of volumes.
pub fn is_index(path: &Path) -> bool {
    path.to_string_lossy().ends_with(SUFFIX)
}

/// The index beside `path`, if it is named as a volume and there is one.
fn index_beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let (stem, number) = name.rsplit_once('.')?;
    let is_volume = number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit());
    let index = index_path(&path.with_file_name(stem));
    (is_volume && index.exists()).then_some(index)
}

/// Puts the files that `paths` name, in whatever order, together to archives: volumes by the index that is named or lies
/// beside them, anything else alone.
///
/// # Errors
/// `NotFound` naming every volume that is missing, `Verification` when one has another size than it should.
pub fn volumes_of(paths: &[PathBuf]) -> Result<Vec<Vec<PathBuf>>> {
    let named: BTreeMap<_, _> = paths.iter().filter_map(|path| Some((path.file_name()?, path))).collect();
    let mut archives = Vec::new();
    let mut done = BTreeSet::new();
    for path in paths {
        let index = if is_index(path) { Some(path.clone()) } else { index_beside(path) };
        let Some(index) = index else {
            archives.push(vec![path.clone()]);
            continue;
        };
        if done.insert(index.clone()) {
            let found = |volume: &Volume| {
                let beside = index.with_file_name(&volume.name);
                let given = named.get(std::ffi::OsStr::new(&volume.name)).map(|path| path.to_path_buf());
                // Another archive, in another folder, may have volumes of the same names.
                if paths.contains(&beside) { beside } else { given.unwrap_or(beside) }
            };
            let volumes = Index::read(&index)?.volumes;
            archives.push(complete(&index, volumes.iter().map(|volume| (found(volume), volume.size)))?);
        }
    }
    Ok(archives)
}

/// The volumes, if all are there in their sizes.
fn complete(index: &Path, volumes: impl Iterator<Item = (PathBuf, u64)>) -> Result<Vec<PathBuf>> {
    let (mut whole, mut missing) = (Vec::new(), Vec::new());
    for (path, size) in volumes {
        match std::fs::metadata(&path) {
            Err(_) => missing.push(path.display().to_string()),
            Ok(meta) if meta.len() != size => {
                let why = format!("it has {} bytes instead of {size}: carry it here again", meta.len());
                let (what, place) = ("volume".into(), path.display().to_string());
                return Err(Error::Verification { what, place, why });
            }
            Ok(_) => whole.push(path),
        }
    }
    match missing.is_empty() {
        true => Ok(whole),
        false => Err(Error::NotFound {
            what: format!("{} volumes", missing.len()),
            place: index.display().to_string(),
            why: missing.join(", "),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(names: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let volume = |name: &&str| Volume { name: (*name).into(), size: 1, sha256: String::new() };
        let index = Index::new(volume(&"a.tar"), names.iter().map(volume).collect());
        std::fs::write(dir.path().join("a.tar.volumes.json"), index.to_json()).unwrap();
        let paths: Vec<PathBuf> = names.iter().map(|name| dir.path().join(name)).collect();
        paths.iter().for_each(|path| std::fs::write(path, "x").unwrap());
        (dir, paths)
    }

    #[test]
    fn volumes_come_in_any_order_and_find_each_other() {
        let (dir, paths) = scene(&["a.tar.001", "a.tar.002"]);
        let reversed: Vec<PathBuf> = paths.iter().rev().cloned().collect();
        assert_eq!(volumes_of(&reversed).unwrap(), std::slice::from_ref(&paths));
        assert_eq!(volumes_of(&paths[1..]).unwrap(), std::slice::from_ref(&paths));
        let other = dir.path().join("b.tar");
        assert_eq!(volumes_of(&[dir.path().join("a.tar.volumes.json"), other.clone()]).unwrap(), [paths, vec![other]]);
    }

    #[test]
    fn archives_of_one_name_in_two_folders_stay_apart() {
        let ((_one, one), (_two, two)) = (scene(&["a.tar.001", "a.tar.002"]), scene(&["a.tar.001", "a.tar.002"]));
        let both = [one.clone(), two.clone()].concat();
        assert_eq!(volumes_of(&both).unwrap(), [one, two]);
    }

    #[test]
    fn missing_and_shortened_volumes_are_named() {
        let (_dir, paths) = scene(&["a.tar.001", "a.tar.002", "a.tar.003"]);
        std::fs::write(&paths[1], "xx").unwrap();
        let told = volumes_of(&paths[..1]).unwrap_err().to_string();
        assert!(told.contains("a.tar.002") && told.contains("2 bytes instead of 1"), "{told}");
        std::fs::remove_file(&paths[1]).unwrap();
        std::fs::remove_file(&paths[2]).unwrap();
        let told = volumes_of(&paths[..1]).unwrap_err().to_string();
        assert!(told.contains("a.tar.002") && told.contains("a.tar.003"), "{told}");
    }

    #[test]
    fn an_index_names_no_file_elsewhere() {
        let (dir, _) = scene(&["a.tar.001"]);
        let volume = |name: &str| Volume { name: name.into(), size: 1, sha256: String::new() };
        for name in ["../x", "/etc/passwd", "..", ""] {
            let index = Index::new(volume("a"), vec![volume(name)]);
            let path = dir.path().join("b.volumes.json");
            std::fs::write(&path, index.to_json()).unwrap();
            assert!(matches!(volumes_of(&[path]), Err(Error::Invalid { .. })), "{name}");
        }
    }
}
