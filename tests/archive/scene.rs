//! Stores with images, and archives made by hand.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use layerpull::oci::Digest;
use support::command::{Layerpull, Output};
use support::images::{Blob, Image};
use tempfile::TempDir;

/// A folder with stores and archives in it.
pub struct Scene {
    pub dir: TempDir,
}

/// The name of the image `text`.
pub fn name(text: &str) -> String {
    format!("h.example/team/{text}:1")
}

/// An image of a base, which all have, and of one layer of its own.
pub fn on_base(text: &str) -> Image {
    let base = Blob::files(&[("etc/base", b"the same for all")]);
    let own = Blob::files(&[("etc/own", text.as_bytes())]);
    Image::build().layer(base).layer(own).finish()
}

impl Scene {
    pub fn new() -> Scene {
        Scene { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Puts images into the store `store` under their names.
    pub fn store(&self, store: &str, images: &[(&str, &Image)]) -> PathBuf {
        let path = self.path(store);
        fs::create_dir_all(&path).unwrap();
        images.iter().for_each(|(text, image)| image.write_layout(&path, &name(text)));
        path
    }

    /// Runs the command on the store `store`, in the folder of the scene.
    pub fn run(&self, store: &str, words: &[&str]) -> Output {
        Layerpull::new().args(words).store(&self.path(store)).current_dir(self.dir.path()).run()
    }

    /// The digest that `name` has in the store.
    pub fn digest(&self, store: &str, name: &str) -> String {
        self.run(store, &["digest", "--local", name]).success().stdout.trim().to_owned()
    }

    /// The names of images in the store.
    pub fn names(&self, store: &str) -> Vec<String> {
        let listed = self.run(store, &["images", "-q"]).success().stdout;
        listed.lines().map(str::to_owned).collect()
    }

    /// The blobs of the store or layout `store`.
    pub fn blobs(&self, store: &str) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.path(store).join("blobs/sha256")) else { return BTreeSet::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Everything in the store is what its digest names.
    pub fn verify(&self, store: &str) {
        self.run(store, &["verify"]).success();
    }

    /// Every file below the folder of the scene, but for those of stores.
    pub fn strays(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// The paths of the files in a tar, without its folders, in their order.
pub fn listed(tar: &Path) -> Vec<String> {
    let mut archive = tar::Archive::new(fs::File::open(tar).unwrap());
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.header().entry_type().is_file());
    files.map(|entry| entry.path().unwrap().to_str().unwrap().to_owned()).collect()
}

/// The blobs in a tar.
pub fn blobs_of(tar: &Path) -> BTreeSet<String> {
    let names = listed(tar);
    names.iter().filter_map(|name| name.strip_prefix("blobs/sha256/")).map(str::to_owned).collect()
}

/// A tar made by hand.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn file(self, name: &str, bytes: impl AsRef<[u8]>) -> Tar {
        self.entry(tar::EntryType::Regular, name, "", bytes.as_ref())
    }

    pub fn link(self, name: &str, target: &str) -> Tar {
        self.entry(tar::EntryType::Symlink, name, target, b"")
    }

    /// An entry of any kind, also with names that libraries refuse to write.
    pub fn entry(mut self, kind: tar::EntryType, name: &str, link: &str, bytes: &[u8]) -> Tar {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// The beginning of a layout that names `image`.
    pub fn naming(self, image: &Image, name: &str) -> Tar {
        let mut root = layerpull::oci::Descriptor::clone(&image.descriptor());
        root.annotations.insert("io.containerd.image.name".into(), name.into());
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [root]});
        self.file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#).file("index.json", index.to_string())
    }

    pub fn blob(self, digest: &Digest, bytes: impl AsRef<[u8]>) -> Tar {
        self.file(&format!("blobs/sha256/{}", digest.hex()), bytes)
    }

    /// All blobs and manifests of an image.
    pub fn blobs(self, image: &Image) -> Tar {
        let tar = image.blobs.iter().fold(self, |tar, blob| tar.blob(blob.digest(), blob.content.to_bytes()));
        image.manifests.iter().fold(tar, |tar, raw| tar.blob(&raw.digest, &raw.bytes))
    }

    pub fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    pub fn write(self, path: &Path) {
        fs::write(path, self.bytes()).unwrap();
    }
}
