//! Annotations of the entries of an `index.json`: how images are named in layouts and archives.

use super::{Descriptor, MediaType};

/// The full reference of an entry, as containerd writes it.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// The name of an entry, as skopeo and podman look for it: a tag, or in a place of many repositories a full reference.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The platforms of an index that are held, joined by commas. Without it everything below the entry is held.
pub const PLATFORMS: &str = "layerpull.platforms";

/// The media type of an entry that is none of OCI's. The entry itself names the type of OCI that corresponds to it,
/// because skopeo up to 1.9 at least finds no entry of another type by its name; what the manifest says of itself wins.
pub const MEDIA_TYPE: &str = "layerpull.media-type";

/// The type of OCI that corresponds to one of Docker's; any other type as it is.
pub fn oci_type(media_type: &MediaType) -> &str {
    match media_type.as_str() {
        MediaType::DOCKER_LIST => MediaType::OCI_INDEX,
        MediaType::DOCKER_MANIFEST => MediaType::OCI_MANIFEST,
        other => other,
    }
}

/// The descriptor with the type that it had before [`oci_type`].
pub fn true_type(mut descriptor: Descriptor) -> Descriptor {
    let kept = descriptor.annotations.get(MEDIA_TYPE).map(|text| MediaType::new(text));
    if let Some(kept) = kept.filter(|kept| oci_type(kept) == descriptor.media_type.as_str()) {
        descriptor.media_type = kept;
    }
    descriptor
}
