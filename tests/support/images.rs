//! Images built in code: the same calls give the same bytes in every run.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use flate2::{Compression, GzBuilder};
use layerpull::oci::{Algorithm, Descriptor, Digest, Hasher, MediaType, Platform, RawManifest};
use serde_json::{Value, json};

/// Media type of an OCI layer, gzip.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Media type of a Docker layer, gzip.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Media type of the empty configuration of an artifact.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The bytes of a blob: in memory, or made anew from a seed whenever they are read.
#[derive(Debug, Clone)]
pub enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// Bytes that no compressor shrinks, the same for the same seed whatever the size.
    Noise { seed: u64, size: u64 },
    /// The same byte over and over.
    Fill { byte: u8, size: u64 },
}

impl Content {
    /// How many bytes.
    pub fn size(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Noise { size, .. } | Content::Fill { size, .. } => *size,
        }
    }

    /// The bytes of `range`, which must lie inside.
    pub fn read(&self, range: Range<u64>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.size(), "{range:?} of {}", self.size());
        match self {
            Content::Bytes(bytes) => bytes.slice(range.start as usize..range.end as usize),
            Content::Noise { seed, .. } => noise(*seed, range),
            Content::Fill { byte, .. } => vec![*byte; (range.end - range.start) as usize].into(),
        }
    }

    /// All bytes at once. For small contents.
    pub fn to_bytes(&self) -> Bytes {
        self.read(0..self.size())
    }

    /// The digest over all bytes.
    pub fn digest(&self, algorithm: Algorithm) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        let mut at = 0;
        while at < self.size() {
            let end = self.size().min(at + (1 << 20));
            hasher.update(&self.read(at..end));
            at = end;
        }
        hasher.finish()
    }
}

fn noise(seed: u64, range: Range<u64>) -> Bytes {
    let mut bytes = BytesMut::with_capacity((range.end - range.start) as usize + 16);
    for word in range.start / 8..range.end.div_ceil(8) {
        bytes.extend_from_slice(&mix(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word).to_le_bytes());
    }
    let skip = (range.start % 8) as usize;
    bytes.freeze().slice(skip..skip + (range.end - range.start) as usize)
}

/// SplitMix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A blob with its name.
#[derive(Debug, Clone)]
pub struct Blob {
    pub descriptor: Descriptor,
    pub content: Content,
    /// For layers: the digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
}

impl Blob {
    /// A blob of any type.
    pub fn new(media_type: &str, content: Content) -> Blob {
        let digest = content.digest(Algorithm::Sha256);
        Blob { descriptor: Descriptor::new(media_type, digest, content.size()), content, diff_id: None }
    }

    /// A blob whose digest is of another algorithm.
    pub fn hashed(algorithm: Algorithm, media_type: &str, content: Content) -> Blob {
        let digest = content.digest(algorithm);
        Blob { descriptor: Descriptor::new(media_type, digest, content.size()), content, diff_id: None }
    }

    /// A real layer: a gzip tar of `files` (path, content), folders made as needed.
    pub fn files(files: &[(&str, &[u8])]) -> Blob {
        let tar = tar(files);
        let diff_id = Digest::of(&tar);
        Blob { diff_id: Some(diff_id), ..Blob::new(OCI_LAYER, Content::Bytes(gzip(&tar))) }
    }

    /// What claims to be a layer and is noise: for transfers, which do not look inside. Made as it is read.
    pub fn noise(seed: u64, size: u64) -> Blob {
        Blob::new(OCI_LAYER, Content::Noise { seed, size })
    }

    /// A real layer of one file of noise, a little larger than `size`.
    pub fn file_of_noise(seed: u64, size: u64) -> Blob {
        let content = noise(seed, 0..size);
        Blob::files(&[(&format!("noise/{seed}"), &content)])
    }

    /// The same blob under another media type.
    pub fn typed(mut self, media_type: &str) -> Blob {
        self.descriptor.media_type = MediaType::new(media_type);
        self
    }

    /// The same blob with other addresses in its descriptor.
    pub fn with_urls(mut self, urls: &[&str]) -> Blob {
        self.descriptor.urls = urls.iter().map(ToString::to_string).collect();
        self
    }

    /// Its digest.
    pub fn digest(&self) -> &Digest {
        &self.descriptor.digest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.descriptor.size
    }
}

/// An uncompressed tar of `files`, owned by root, of mode 0644, at time 0.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        builder.append_data(&mut header, path, *content).expect("a tar in memory");
    }
    builder.into_inner().expect("a tar in memory")
}

/// `bytes` as one gzip member without name and time.
pub fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("gzip in memory");
    encoder.finish().expect("gzip in memory").into()
}

/// An image, an artifact or an index with all that is below it.
#[derive(Debug, Clone)]
pub struct Image {
    /// Children before parents; the last one is the root.
    pub manifests: Vec<RawManifest>,
    /// Configuration first, then the layers from the bottom; of an index, child after child. The same may stand twice.
    pub blobs: Vec<Blob>,
    /// What an index says of it.
    pub platform: Option<Platform>,
}

impl Image {
    /// Begins an OCI image for linux/amd64.
    pub fn build() -> Builder {
        Builder::default()
    }

    /// One real layer with one file: enough where only names matter.
    pub fn tiny(text: &str) -> Image {
        Image::build().layer(Blob::files(&[("text", text.as_bytes())])).finish()
    }

    /// An OCI index over `children`.
    pub fn index(children: &[Image]) -> Image {
        Image::list(children, MediaType::OCI_INDEX)
    }

    /// An index or manifest list over `children`.
    pub fn list(children: &[Image], media_type: &str) -> Image {
        let entries: Vec<Value> = children.iter().map(Image::entry).collect();
        let root = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
        let mut manifests: Vec<_> = children.iter().flat_map(|child| child.manifests.clone()).collect();
        manifests.push(raw(&root));
        let blobs = children.iter().flat_map(|child| child.blobs.clone()).collect();
        Image { manifests, blobs, platform: None }
    }

    fn entry(&self) -> Value {
        let descriptor = Descriptor { platform: self.platform.clone(), ..self.descriptor() };
        json!(descriptor)
    }

    /// The manifest that a tag points to.
    pub fn root(&self) -> &RawManifest {
        self.manifests.last().expect("an image has a manifest")
    }

    /// The descriptor of the root.
    pub fn descriptor(&self) -> Descriptor {
        self.root().descriptor()
    }

    /// The digest of the root.
    pub fn digest(&self) -> &Digest {
        &self.root().digest
    }

    /// The configuration. Not for indexes.
    pub fn config(&self) -> &Blob {
        &self.blobs[0]
    }

    /// A layer, counted from the bottom, from 0. Not for indexes.
    pub fn layer(&self, number: usize) -> &Blob {
        &self.blobs[number + 1]
    }

    /// The layers from the bottom. Not for indexes.
    pub fn layers(&self) -> &[Blob] {
        &self.blobs[1..]
    }

    /// The sum over its blobs in bytes, each digest once.
    pub fn size(&self) -> u64 {
        let distinct: BTreeMap<_, _> = self.blobs.iter().map(|b| (b.digest(), b.size())).collect();
        distinct.values().sum()
    }

    /// Writes it into an OCI image layout at `dir` under `name`, beside what is there already.
    pub fn write_layout(&self, dir: &Path, name: &str) {
        for blob in &self.blobs {
            write_blob(dir, blob.digest(), &blob.content.to_bytes());
        }
        for manifest in &self.manifests {
            write_blob(dir, &manifest.digest, &manifest.bytes);
        }
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout");
        add_entry(&dir.join("index.json"), self.descriptor(), name);
    }
}

fn write_blob(dir: &Path, digest: &Digest, bytes: &[u8]) {
    let folder = dir.join("blobs").join(digest.algorithm().as_str());
    fs::create_dir_all(&folder).expect("blobs folder");
    fs::write(folder.join(digest.hex()), bytes).expect("blob");
}

fn add_entry(index: &Path, mut root: Descriptor, name: &str) {
    for key in ["org.opencontainers.image.ref.name", "io.containerd.image.name"] {
        root.annotations.insert(key.into(), name.into());
    }
    let mut json = match fs::read(index) {
        Ok(bytes) => serde_json::from_slice(&bytes).expect("index.json"),
        Err(_) => json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": []}),
    };
    json["manifests"].as_array_mut().expect("manifests").push(json!(root));
    fs::write(index, json.to_string()).expect("index.json");
}

/// A manifest from JSON, whatever it says.
pub fn raw(json: &Value) -> RawManifest {
    let bytes = Bytes::from(json.to_string());
    let media_type = json["mediaType"].as_str().unwrap_or(MediaType::OCI_MANIFEST);
    RawManifest { media_type: MediaType::new(media_type), digest: Digest::of(&bytes), bytes }
}

/// How manifests and blobs are typed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Oci,
    Docker,
}

/// An image in the making.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    format: Format,
    platform: Option<Platform>,
    layers: Vec<Blob>,
    annotations: BTreeMap<String, String>,
    artifact_type: Option<String>,
    subject: Option<Descriptor>,
}

impl Builder {
    /// Puts a layer on top.
    pub fn layer(mut self, layer: Blob) -> Builder {
        self.layers.push(layer);
        self
    }

    /// Puts layers on top.
    pub fn layers(mut self, layers: impl IntoIterator<Item = Blob>) -> Builder {
        self.layers.extend(layers);
        self
    }

    /// Docker's media types instead of OCI's.
    pub fn docker(mut self) -> Builder {
        self.format = Format::Docker;
        self
    }

    /// For another platform: `linux/arm64`.
    pub fn platform(mut self, platform: &str) -> Builder {
        self.platform = Some(platform.parse().expect("a platform"));
        self
    }

    /// An annotation of the manifest.
    pub fn annotation(mut self, key: &str, value: &str) -> Builder {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// An artifact: the configuration is the empty one.
    pub fn artifact(mut self, artifact_type: &str) -> Builder {
        self.artifact_type = Some(artifact_type.into());
        self
    }

    /// Attached to another manifest.
    pub fn subject(mut self, subject: Descriptor) -> Builder {
        self.subject = Some(subject);
        self
    }

    /// The image.
    pub fn finish(self) -> Image {
        let platform = self.platform.clone().unwrap_or_else(|| Platform::new("linux", "amd64", None));
        let config = self.config(&platform);
        let layers: Vec<Blob> = self.layers.iter().map(|layer| self.typed(layer)).collect();
        let root = raw(&self.manifest(&config, &layers));
        let blobs = std::iter::once(config).chain(layers).collect();
        Image { manifests: vec![root], blobs, platform: Some(platform) }
    }

    fn config(&self, platform: &Platform) -> Blob {
        if self.artifact_type.is_some() {
            return Blob::new(EMPTY, Content::Bytes("{}".into()));
        }
        let diff_ids: Vec<_> =
            self.layers.iter().map(|l| l.diff_id.as_ref().unwrap_or(l.digest()).to_string()).collect();
        let history: Vec<_> = (0..self.layers.len()).map(|n| json!({"created_by": format!("layer {n}")})).collect();
        let mut config = json!({
            "created": "1970-01-01T00:00:00Z", "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
        });
        let fields = [("os", Some(&platform.os)), ("architecture", Some(&platform.architecture))];
        for (key, value) in fields.into_iter().chain([("variant", platform.variant.as_ref())]) {
            if let Some(value) = value {
                config[key] = json!(value);
            }
        }
        let media_type = match self.format {
            Format::Oci => MediaType::OCI_CONFIG,
            Format::Docker => MediaType::DOCKER_CONFIG,
        };
        Blob::new(media_type, Content::Bytes(config.to_string().into()))
    }

    fn typed(&self, layer: &Blob) -> Blob {
        match self.format {
            Format::Docker if layer.descriptor.media_type.as_str() == OCI_LAYER => layer.clone().typed(DOCKER_LAYER),
            _ => layer.clone(),
        }
    }

    fn manifest(&self, config: &Blob, layers: &[Blob]) -> Value {
        let media_type = match self.format {
            Format::Oci => MediaType::OCI_MANIFEST,
            Format::Docker => MediaType::DOCKER_MANIFEST,
        };
        let layers: Vec<_> = layers.iter().map(|layer| json!(layer.descriptor)).collect();
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config.descriptor, "layers": layers,
        });
        if !self.annotations.is_empty() {
            manifest["annotations"] = json!(self.annotations);
        }
        if let Some(artifact_type) = &self.artifact_type {
            manifest["artifactType"] = json!(artifact_type);
        }
        if let Some(subject) = &self.subject {
            manifest["subject"] = json!(subject);
        }
        manifest
    }
}
