//! `index.json`: the names of a store (OCI image-spec, `image-layout.md`, "index.json file").
//!
//! Other tools write it too. Whatever is not ours to change stays as it is, to the byte within an entry.

use std::collections::BTreeMap;
use std::io;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

pub use crate::oci::annotation::{IMAGE_NAME, MEDIA_TYPE, PLATFORMS, REF_NAME};

use super::layout::Paths;
use crate::content::Root;
use crate::content::file::read_bounded;
use crate::error::{Error, Result};
use crate::oci::annotation::{oci_type, true_type};
use crate::oci::{Descriptor, Digest, MediaType, Platform, Reference};

/// The largest `index.json` that is read, in bytes.
const MAX_INDEX: u64 = 64 * 1024 * 1024;

/// The file as it was read.
#[derive(Debug)]
pub(super) struct IndexFile {
    read: Option<Vec<u8>>,
    fields: BTreeMap<String, Box<RawValue>>,
    entries: Vec<Box<RawValue>>,
}

/// An entry that was understood.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Where it stands in the file.
    position: usize,
    pub descriptor: Descriptor,
}

impl Entry {
    /// The name as the file has it.
    pub fn name(&self) -> Option<&str> {
        let annotations = &self.descriptor.annotations;
        annotations.get(IMAGE_NAME).or_else(|| annotations.get(REF_NAME)).map(String::as_str)
    }

    /// The name for people: a digest where there is none.
    pub fn title(&self) -> String {
        self.name().map_or_else(|| self.descriptor.digest.to_string(), str::to_owned)
    }

    /// The name as a reference. One without a colon or slash is only a tag, and says nothing about the repository.
    pub fn reference(&self) -> Option<Reference> {
        self.name().filter(|text| text.contains(['/', ':']))?.parse().ok()
    }

    /// Whether it goes by this name; a digest in `name` plays no part.
    pub fn is_named(&self, name: &str) -> bool {
        [IMAGE_NAME, REF_NAME].iter().filter_map(|key| self.descriptor.annotations.get(*key)).any(|text| {
            // A name without a colon or slash is only a tag, and says nothing about the repository.
            let qualified =
                || text.contains(['/', ':']).then(|| text.parse::<Reference>().ok())?.map(|r| r.to_string());
            text == name || qualified().is_some_and(|full| full == name)
        })
    }

    /// The platforms that are held; `None`: everything.
    pub fn platforms(&self) -> Option<Vec<Platform>> {
        let text = self.descriptor.annotations.get(PLATFORMS)?;
        Some(text.split(',').filter_map(|platform| platform.parse().ok()).collect())
    }
}

/// The name under which a reference is kept: with its tag if it has one, else with its digest.
pub(super) fn kept_name(name: &Reference) -> String {
    match name.tag() {
        Some(tag) => format!("{}:{tag}", name.name()),
        None => name.to_string(),
    }
}

impl IndexFile {
    /// Reads it; one that is not there is empty.
    ///
    /// # Errors
    /// `Invalid` when it is damaged: it is never overwritten then.
    pub fn read(paths: &Paths) -> Result<IndexFile> {
        let bytes = read_bytes(paths)?;
        let damaged = |why: String| Error::Invalid {
            what: "image index of the store".into(),
            place: paths.index().display().to_string(),
            why: format!(
                "{why}; restore the file, or move it away and pull the images again: their blobs are still here and \
                 are not fetched twice"
            ),
        };
        let Some(text) = &bytes else {
            return Ok(IndexFile { read: None, fields: BTreeMap::new(), entries: Vec::new() });
        };
        let mut fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(text).map_err(|e| damaged(format!("damaged: {e}")))?;
        let entries = fields.remove("manifests").map(|raw| serde_json::from_str::<Option<Vec<_>>>(raw.get()));
        let entries = entries.transpose().map_err(|e| damaged(format!("damaged: manifests: {e}")))?;
        Ok(IndexFile { entries: entries.flatten().unwrap_or_default(), read: bytes, fields })
    }

    /// The entries that can be understood.
    pub fn entries(&self) -> Vec<Entry> {
        let texts = self.entries.iter().map(|raw| raw.get()).enumerate();
        let understood = |(position, text): (usize, &str)| match serde_json::from_str(text) {
            Ok(descriptor) => Some(Entry { position, descriptor: true_type(descriptor) }),
            Err(error) => {
                tracing::debug!(%error, position, "an entry of index.json is left alone");
                None
            }
        };
        texts.filter_map(understood).collect()
    }

    /// How many entries there are, understood or not.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entries with this name.
    pub fn named(&self, name: &str) -> Vec<Entry> {
        self.entries().into_iter().filter(|entry| entry.is_named(name)).collect()
    }

    /// What `name` says that it holds of the index or image `digest`; `None` when it does not point there.
    pub fn claim(&self, name: &str, digest: &Digest) -> Option<Claim> {
        let entry = self.named(name).into_iter().find(|entry| entry.descriptor.digest == *digest)?;
        Some(Claim { platforms: entry.platforms() })
    }

    /// Makes `name` point to `root`, unless it holds something else of it than `former` by now.
    pub fn point_from(&mut self, former: &Option<Claim>, name: &str, root: &Root) -> Written {
        if self.claim(name, &root.descriptor.digest) != *former {
            return Written::Outrun;
        }
        self.point(name, root);
        Written::Done
    }

    /// Makes `name` point to `root`. Entries of that name which point elsewhere go.
    fn point(&mut self, name: &str, root: &Root) {
        let (same, others): (Vec<_>, Vec<_>) =
            self.named(name).into_iter().partition(|entry| entry.descriptor.digest == root.descriptor.digest);
        let mut entry = same.first().and_then(|entry| self.object(entry)).unwrap_or_default();
        entry.insert("mediaType".into(), oci_type(&root.descriptor.media_type).into());
        entry.insert("digest".into(), root.descriptor.digest.to_string().into());
        entry.insert("size".into(), root.descriptor.size.into());
        annotate(&mut entry, name, root);
        let raw = to_raw_value(&Value::Object(entry)).expect("a JSON value can be written as JSON");
        match same.first() {
            Some(entry) if self.entries[entry.position].get() == raw.get() => {}
            Some(entry) => self.entries[entry.position] = raw,
            None => self.entries.push(raw),
        }
        self.drop_entries(&others);
    }

    fn object(&self, entry: &Entry) -> Option<Map<String, Value>> {
        serde_json::from_str(self.entries[entry.position].get()).ok()
    }

    /// Removes these entries.
    pub fn drop_entries(&mut self, gone: &[Entry]) {
        let mut position = 0;
        self.entries.retain(|_| {
            position += 1;
            !gone.iter().any(|entry| entry.position + 1 == position)
        });
    }

    /// Writes it, unless another tool changed it since it was read, or nothing is to be changed.
    ///
    /// # Errors
    /// `Store`.
    pub fn write(mut self, paths: &Paths) -> Result<Written> {
        let text = self.text();
        if self.read.as_deref() == Some(&text) {
            return Ok(Written::Done);
        }
        if read_bytes(paths)? != self.read.take() {
            return Ok(Written::Outrun);
        }
        paths.write_durably(&paths.index(), &text)?;
        Ok(Written::Done)
    }

    fn text(&self) -> Vec<u8> {
        let raw = |value: Value| to_raw_value(&value).expect("a JSON value can be written as JSON");
        let mut fields = self.fields.clone();
        fields.entry("schemaVersion".into()).or_insert_with(|| raw(2.into()));
        fields.entry("mediaType".into()).or_insert_with(|| raw(MediaType::OCI_INDEX.into()));
        fields.insert("manifests".into(), to_raw_value(&self.entries).expect("JSON values are JSON"));
        serde_json::to_vec(&fields).expect("a map of JSON values is JSON")
    }
}

/// What a name says that it holds of what it points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// The platforms of an index; `None`: everything.
    pub platforms: Option<Vec<Platform>>,
}

/// How writing ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    Done,
    /// Somebody else wrote it: read it again.
    Outrun,
}

fn annotate(entry: &mut Map<String, Value>, name: &str, root: &Root) {
    let annotations = entry.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    let Value::Object(annotations) = annotations else { return };
    annotations.insert(IMAGE_NAME.into(), name.into());
    annotations.insert(REF_NAME.into(), name.into());
    let media_type = root.descriptor.media_type.as_str();
    let kept = (oci_type(&root.descriptor.media_type) != media_type).then(|| media_type.to_owned());
    let joined = |platforms: &Vec<Platform>| platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(",");
    for (key, text) in [(MEDIA_TYPE, kept), (PLATFORMS, root.platforms.as_ref().map(joined))] {
        match text {
            Some(text) => annotations.insert(key.into(), text.into()),
            None => annotations.remove(key),
        };
    }
}

fn read_bytes(paths: &Paths) -> Result<Option<Vec<u8>>> {
    match read_bounded(&paths.index(), MAX_INDEX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::store("read", paths.index())(e)),
    }
}
