//! The stack of layers of each image, and which layers are shared.

use std::collections::{BTreeMap, BTreeSet};

use super::images::{Described, Step};
use super::{Store, off};
use crate::error::Result;
use crate::oci::{Descriptor, Digest, Platform, Reference};

/// The layers of one image for one platform.
#[derive(Debug, Clone)]
pub struct Stack {
    /// The name as the index has it, or the digest where there is none.
    pub name: String,
    /// The platform, where it is known.
    pub platform: Option<Platform>,
    /// The image manifest.
    pub manifest: Digest,
    /// Bottom first.
    pub layers: Vec<Layer>,
}

/// One layer of a stack.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The layer.
    pub descriptor: Descriptor,
    /// The instruction that made it, as the image's history tells; empty where it does not. Hostile text.
    pub created_by: String,
    /// The names of the other images here that have it, too.
    pub shared_with: Vec<String>,
}

impl Store {
    /// The stacks of these images, of all that are here if `names` is empty; one for each platform that is here.
    ///
    /// # Errors
    /// `NotFound` for a name that is not here; `Invalid` when `index.json` is damaged.
    pub async fn layers(&self, names: &[Reference]) -> Result<Vec<Stack>> {
        let wanted = names.iter().map(|name| self.find(name)).collect::<Result<Vec<_>>>()?;
        let (store, names) = (self.clone(), names.iter().map(super::index::kept_name).collect::<Vec<_>>());
        let (all, chosen) = off(move || store.stacks(&wanted, &names)).await?;
        let mut users: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
        for stack in &all {
            for layer in &stack.layers {
                users.entry(layer.descriptor.digest.clone()).or_default().insert(stack.name.clone());
            }
        }
        let chosen = all.into_iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(stack, _)| stack);
        Ok(chosen.map(|stack| stack.shared(&users)).collect())
    }

    /// All stacks, and for each whether it was asked for.
    fn stacks(&self, wanted: &[Descriptor], names: &[String]) -> Result<(Vec<Stack>, Vec<bool>)> {
        let Some(folder) = self.disk.folder()? else { return Ok(Default::default()) };
        let (mut stacks, mut chosen) = (Vec::new(), Vec::new());
        for known in self.known(&folder)? {
            let root = &known.entry.descriptor.digest;
            let is_wanted = wanted.is_empty()
                || wanted.iter().zip(names).any(|(w, name)| w.digest == *root && known.entry.is_named(name));
            let name = known.entry.name().map_or_else(|| root.to_string(), str::to_owned);
            for described in known.images(&folder) {
                stacks.push(Stack::of(&name, described));
                chosen.push(is_wanted);
            }
        }
        Ok((stacks, chosen))
    }
}

impl Stack {
    fn of(name: &str, described: Described<'_>) -> Stack {
        let history = described.config.and_then(|config| config.history).unwrap_or_default();
        let mut steps = history.iter().filter(|step| step.empty_layer != Some(true)).map(Step::text);
        let layer = |descriptor: &Descriptor| Layer {
            descriptor: descriptor.clone(),
            created_by: steps.next().unwrap_or_default(),
            shared_with: Vec::new(),
        };
        Stack {
            name: name.into(),
            platform: described.platform,
            manifest: described.node.digest.clone(),
            layers: described.image.layers.iter().map(layer).collect(),
        }
    }

    fn shared(mut self, users: &BTreeMap<Digest, BTreeSet<String>>) -> Stack {
        for layer in &mut self.layers {
            let others = users.get(&layer.descriptor.digest).into_iter().flatten();
            layer.shared_with = others.filter(|name| **name != self.name).cloned().collect();
        }
        self
    }
}
