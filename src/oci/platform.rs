//! Platforms and which manifest of an index fits one (OCI image-spec, `image-index.md`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an image runs on, in its normal spelling whether it was typed or read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Stated")]
pub struct Platform {
    /// Operating system in Go's spelling: `linux`, `windows`, …
    pub os: String,
    /// Processor in Go's spelling: `amd64`, `arm64`, …
    pub architecture: String,
    /// Variant of the processor: `v7`, `v8`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Version of the operating system (Windows).
    #[serde(rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features that the operating system must have.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

/// A platform as an index spells it.
#[derive(Deserialize)]
struct Stated {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, rename = "os.version")]
    os_version: Option<String>,
    #[serde(default, rename = "os.features", deserialize_with = "super::descriptor::null_is_empty")]
    os_features: Vec<String>,
}

impl From<Stated> for Platform {
    fn from(stated: Stated) -> Platform {
        Platform {
            os_version: stated.os_version,
            os_features: stated.os_features,
            ..Platform::new(&stated.os, &stated.architecture, stated.variant.as_deref())
        }
    }
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {0:?}: expected OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64")]
pub struct InvalidPlatform(String);

impl Platform {
    /// A platform without version and features, in its normal spelling.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let (architecture, variant) = normal(architecture, variant);
        Platform { os: normal_os(os), architecture, variant, os_version: None, os_features: Vec::new() }
    }

    /// The same without version and features: what can be asked for, and what an annotation of a store can say.
    pub fn bare(&self) -> Platform {
        Platform { os_version: None, os_features: Vec::new(), ..self.clone() }
    }

    /// The platform of this machine. Images for macOS hardly exist, so there it is Linux.
    pub fn host() -> Platform {
        let os = match std::env::consts::OS {
            "macos" => "linux",
            other => other,
        };
        let variant = match std::env::consts::ARCH {
            "arm" => Some("v7"),
            _ => None,
        };
        Platform::new(os, std::env::consts::ARCH, variant)
    }

    /// How well an image for `offered` serves when this platform is wanted: lower is better, `None` is not at all.
    ///
    /// An exact match comes first; on 32-bit ARM every older variant serves, the newest first; a variant that
    /// the index leaves out, or that was not asked for, comes after an exact one.
    pub fn rank(&self, offered: &Platform) -> Option<u32> {
        if (&offered.os, &offered.architecture) != (&self.os, &self.architecture) {
            return None;
        }
        match (self.variant.as_deref(), offered.variant.as_deref()) {
            (wanted, offered) if wanted == offered => Some(0),
            (Some(wanted), Some(offered)) => {
                let (wanted, offered) = (version(wanted)?, version(offered)?);
                let serves = matches!(self.architecture.as_str(), "arm" | "amd64") && offered < wanted;
                serves.then(|| wanted - offered)
            }
            (None, Some(offered)) => Some(100 + version(offered).unwrap_or(99)),
            (Some(_), None) => Some(200),
            (None, None) => Some(0),
        }
    }
}

fn version(variant: &str) -> Option<u32> {
    variant.strip_prefix('v')?.parse().ok()
}

fn normal_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".into(),
        other => other.into(),
    }
}

/// Spellings as containerd normalises them: `x86_64` is `amd64`, `aarch64` is `arm64`; the defaults v1 and v8 go away.
fn normal(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let variant = variant.filter(|v| !v.is_empty()).map(str::to_ascii_lowercase);
    match (architecture.to_ascii_lowercase().as_str(), variant.as_deref()) {
        ("x86_64" | "x86-64" | "amd64", Some("v1")) => ("amd64".into(), None),
        ("x86_64" | "x86-64" | "amd64", _) => ("amd64".into(), variant),
        ("i386" | "i686" | "x86" | "386", _) => ("386".into(), None),
        ("aarch64" | "arm64", Some("v8" | "8")) => ("arm64".into(), None),
        ("aarch64" | "arm64", _) => ("arm64".into(), variant),
        ("armhf", _) => ("arm".into(), Some("v7".into())),
        ("armel", _) => ("arm".into(), Some("v6".into())),
        ("arm", None) => ("arm".into(), Some("v7".into())),
        ("arm", Some(v)) if v.bytes().all(|b| b.is_ascii_digit()) => ("arm".into(), Some(format!("v{v}"))),
        ("powerpc64" | "ppc64le", _) => ("ppc64le".into(), None),
        (other, _) => (other.into(), variant),
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(s: &str) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform(s.into());
        let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        let is_word = |w: &&str| w.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && w.bytes().all(is_part);
        let parts: Vec<&str> = s.split('/').collect();
        if !parts.iter().all(is_word) {
            return Err(invalid());
        }
        match parts[..] {
            [os, arch] => Ok(Platform::new(os, arch, None)),
            [os, arch, variant] => Ok(Platform::new(os, arch, Some(variant))),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn other_spellings_mean_the_same_platform() {
        assert_eq!(platform("linux/x86_64"), platform("Linux/amd64"));
        assert_eq!(platform("linux/aarch64"), platform("linux/arm64/v8"));
        assert_eq!(platform("linux/arm"), platform("linux/arm/v7"));
        assert_eq!(platform("linux/amd64").to_string(), "linux/amd64");
    }

    #[test]
    fn an_index_that_spells_a_platform_otherwise_means_the_same() {
        let read = |json: &str| serde_json::from_str::<Platform>(json).unwrap();
        assert_eq!(
            read(r#"{"os":"linux","architecture":"arm64","variant":"v8","os.features":null}"#),
            platform("linux/arm64")
        );
        let windows = read(r#"{"os":"Windows","architecture":"x86_64","os.version":"10.0.20348.1"}"#);
        assert_eq!(windows.os_version.as_deref(), Some("10.0.20348.1"));
        assert_eq!(windows.bare(), platform("windows/amd64"));
        assert_eq!(platform("windows/amd64").rank(&windows), Some(0));
    }

    #[test]
    fn older_arm_serves_newer_arm_but_not_the_other_way() {
        let v7 = platform("linux/arm/v7");
        assert_eq!(v7.rank(&platform("linux/arm/v7")), Some(0));
        assert_eq!(v7.rank(&platform("linux/arm/v6")), Some(1));
        assert_eq!(v7.rank(&platform("linux/arm/v5")), Some(2));
        assert_eq!(platform("linux/arm/v6").rank(&v7), None);
        assert_eq!(v7.rank(&platform("linux/arm64")), None);
    }

    #[test]
    fn half_a_platform_is_refused() {
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64", "linux/../x"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
