//! The configuration of an image (OCI image-spec, `config.md`), as far as somebody looks at it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::descriptor::null_is_empty;
use super::{Digest, InvalidManifest, Platform};

/// Largest configuration that is read, in bytes.
pub const MAX_CONFIG_SIZE: u64 = 8 * 1024 * 1024;

/// The configuration of an image. Every field may be missing.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Config {
    /// When the image was made (RFC 3339).
    #[serde(default)]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default)]
    pub author: Option<String>,
    /// The docker that made it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub docker_version: String,
    /// Processor in Go's spelling.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub architecture: String,
    /// Variant of the processor.
    #[serde(default)]
    pub variant: Option<String>,
    /// Operating system in Go's spelling.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub os: String,
    /// How it runs.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub config: Execution,
    /// How its layers came about, the oldest first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub history: Vec<History>,
}

/// How an image runs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Execution {
    /// Variables as `NAME=VALUE`.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// Labels.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How one layer, or one change without a layer, came about.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct History {
    /// The instruction.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub created_by: String,
    /// What its author says about it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub comment: String,
    /// It made no layer.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub empty_layer: bool,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// When it is no JSON object of this form.
    pub fn parse(bytes: &[u8]) -> Result<Config, InvalidManifest> {
        serde_json::from_slice(bytes).map_err(|e| InvalidManifest::Json(e.to_string()))
    }

    /// What the image runs on. `None` when it does not say: an artifact.
    pub fn platform(&self) -> Option<Platform> {
        let is_known = !self.os.is_empty() && !self.architecture.is_empty();
        is_known.then(|| Platform::new(&self.os, &self.architecture, self.variant.as_deref()))
    }

    /// The instruction that made each of `layers` layers, the lowest first. `None` for all when the history does not
    /// fit: an entry without layer apart, there is one for each layer or none at all.
    pub fn instructions(&self, layers: usize) -> Vec<Option<&str>> {
        let entries: Vec<&History> = self.history.iter().filter(|entry| !entry.empty_layer).collect();
        match entries.len() == layers {
            true => entries.iter().map(|entry| entry.instruction()).collect(),
            false => vec![None; layers],
        }
    }
}

/// The uncompressed layers that a configuration names, the lowest first (OCI image-spec, `config.md`, "rootfs").
///
/// # Errors
/// When it names none, or something that is no digest.
pub fn diff_ids(config: &[u8]) -> Result<Vec<Digest>, InvalidManifest> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: Rootfs,
    }
    #[derive(Deserialize)]
    struct Rootfs {
        #[serde(default, deserialize_with = "null_is_empty")]
        diff_ids: Vec<Digest>,
    }
    let config: Config = serde_json::from_slice(config).map_err(|e| InvalidManifest::Json(e.to_string()))?;
    Ok(config.rootfs.diff_ids)
}

/// Each layer with all those below it, the lowest first (OCI image-spec, `config.md`, "Layer ChainID").
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let above = |below: &mut Option<Digest>, layer: &Digest| {
        let chain = match below.take() {
            None => layer.clone(),
            Some(below) => Digest::of(format!("{below} {layer}").as_bytes()),
        };
        *below = Some(chain.clone());
        Some(chain)
    };
    diff_ids.iter().scan(None, above).collect()
}

impl History {
    fn instruction(&self) -> Option<&str> {
        [self.created_by.as_str(), self.comment.as_str()].into_iter().find(|text| !text.trim().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_missing_fields_are_empty() {
        let config = Config::parse(br#"{"config":{"Env":null,"Labels":null},"history":null,"os":null}"#).unwrap();
        assert!(config.config.env.is_empty() && config.history.is_empty() && config.platform().is_none());
        assert!(Config::parse(br#"{"config":null}"#).is_ok());
        assert!(Config::parse(b"[1]").is_err());
    }

    #[test]
    fn a_chain_is_named_by_all_that_is_below() {
        let layers = ["a", "b"].map(|text| Digest::of(text.as_bytes()));
        let both = Digest::of(format!("{} {}", layers[0], layers[1]).as_bytes());
        assert_eq!(chain_ids(&layers), [layers[0].clone(), both]);
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn layers_are_digests_or_nothing() {
        assert!(diff_ids(br#"{"rootfs":{"diff_ids":null}}"#).unwrap().is_empty());
        assert!(diff_ids(br#"{"rootfs":{"diff_ids":["../x"]}}"#).is_err() && diff_ids(b"{}").is_err());
    }

    #[test]
    fn instructions_belong_to_layers_only_when_their_numbers_agree() {
        let json = r#"{"history":[{"created_by":"ADD x"},{"created_by":"ENV a","empty_layer":true},{"comment":"c"}]}"#;
        let config = Config::parse(json.as_bytes()).unwrap();
        assert_eq!(config.instructions(2), [Some("ADD x"), Some("c")]);
        assert_eq!(config.instructions(3), [None, None, None]);
    }
}
