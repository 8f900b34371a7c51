//! The names of an OCI layout in an archive (OCI image-spec, `image-layout.md`).

use serde::Deserialize;

use super::Packed;
use super::frame::Fault;
use crate::oci::annotation::{IMAGE_NAME, PLATFORMS, REF_NAME, true_type};
use crate::oci::{Descriptor, Digest, Reference};

/// The entry that makes a layout.
pub const MARKER: &str = "oci-layout";
/// The entry that names the images.
pub const INDEX: &str = "index.json";
/// The only version there is.
const VERSION: &str = "1.0.0";

/// Whether `marker` is that of a layout which can be read.
///
/// # Errors
/// `Invalid` when it is not.
pub fn check(marker: &[u8]) -> Result<(), Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let marker: Marker = serde_json::from_slice(marker).map_err(|e| Fault::invalid(MARKER, e))?;
    match marker.image_layout_version.as_str() {
        VERSION => Ok(()),
        other => Err(Fault::invalid(MARKER, format!("an image layout of version {other:?}; only {VERSION} is known"))),
    }
}

/// The digest whose bytes the entry `name` should hold: `blobs/ALGORITHM/HEX`.
pub fn blob(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// The images that `index` names.
///
/// # Errors
/// `Invalid` when it is damaged, or when one name points to two images.
pub fn images(index: &[u8]) -> Result<Vec<Packed>, Fault> {
    #[derive(Deserialize)]
    struct Index {
        #[serde(default)]
        manifests: Option<Vec<Descriptor>>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|e| Fault::invalid(INDEX, e))?;
    let mut images: Vec<Packed> = Vec::new();
    for entry in index.manifests.unwrap_or_default() {
        let image = packed(entry);
        let same = images.iter().find(|other| other.name.is_some() && other.name == image.name);
        match same {
            Some(same) if same.root.digest != image.root.digest => {
                let name = image.name.unwrap_or_default();
                return Err(Fault::invalid(INDEX, format!("two images go by the name {name:?}")));
            }
            Some(_) => {}
            None => images.push(image),
        }
    }
    Ok(images)
}

fn packed(entry: Descriptor) -> Packed {
    let name = [IMAGE_NAME, REF_NAME].iter().find_map(|key| entry.annotations.get(*key)).cloned();
    let held = entry.annotations.get(PLATFORMS);
    let platforms = held.map(|text| text.split(',').filter_map(|platform| platform.parse().ok()).collect());
    let reference = name.as_deref().and_then(qualified);
    let entry = true_type(entry);
    let root =
        Descriptor { platform: entry.platform, ..Descriptor::new(entry.media_type.as_str(), entry.digest, entry.size) };
    Packed { name, reference, root, platforms }
}

/// A name that says which repository is meant; a tag alone does not.
pub fn qualified(name: &str) -> Option<Reference> {
    name.contains(['/', ':']).then(|| name.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blobs_have_digests() {
        let digest = Digest::of(b"x");
        assert_eq!(blob(&format!("blobs/sha256/{}", digest.hex())), Some(digest));
        for name in ["blobs/sha256/x", "blobs/md5/00", "index.json", "blobs/sha256", "blob/sha256/x"] {
            assert_eq!(blob(name), None, "{name}");
        }
    }

    #[test]
    fn containerds_name_comes_before_the_tag_of_others() {
        let digest = Digest::of(b"x");
        let entry = |annotations: &str| {
            format!(r#"{{"mediaType":"x","digest":"{digest}","size":1,"annotations":{{{annotations}}}}}"#)
        };
        let full = entry(r#""io.containerd.image.name":"h.example/a:1","org.opencontainers.image.ref.name":"1""#);
        let tag = entry(r#""org.opencontainers.image.ref.name":"v9""#);
        let found = images(format!(r#"{{"manifests":[{full},{tag}]}}"#).as_bytes()).unwrap();
        assert_eq!(found[0].reference, Some("h.example/a:1".parse().unwrap()));
        assert_eq!((found[1].name.as_deref(), &found[1].reference), (Some("v9"), &None));
    }

    #[test]
    fn one_name_for_two_images_is_refused() {
        let entry = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            format!(r#"{{"mediaType":"x","digest":"{digest}","size":1,"annotations":{{"{REF_NAME}":"a/b:1"}}}}"#)
        };
        let twice = format!(r#"{{"manifests":[{},{}]}}"#, entry(b"x"), entry(b"x"));
        assert_eq!(images(twice.as_bytes()).unwrap().len(), 1);
        let two = format!(r#"{{"manifests":[{},{}]}}"#, entry(b"x"), entry(b"y"));
        assert!(images(two.as_bytes()).is_err());
        assert!(check(br#"{"imageLayoutVersion":"2.0.0"}"#).is_err());
    }
}
