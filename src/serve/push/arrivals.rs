//! What was pushed into which repository. A client looks at what it just sent before any tag names it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::oci::{Descriptor, Digest};

/// How many are remembered. When there are more, all are forgotten: what has a name by then is found by that.
const MAX_REMEMBERED: usize = 100_000;

/// By repository and digest.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<HashMap<String, HashMap<Digest, Descriptor>>>);

impl Arrivals {
    pub(super) fn add(&self, name: &str, node: Descriptor) {
        let mut arrivals = self.lock();
        if arrivals.values().map(HashMap::len).sum::<usize>() >= MAX_REMEMBERED {
            arrivals.clear();
        }
        arrivals.entry(name.into()).or_default().insert(node.digest.clone(), node);
    }

    pub(super) fn get(&self, name: &str, digest: &Digest) -> Option<Descriptor> {
        self.lock().get(name)?.get(digest).cloned()
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// Whether it was there.
    pub(super) fn forget(&self, name: &str, digest: &Digest) -> bool {
        self.lock().get_mut(name).is_some_and(|nodes| nodes.remove(digest).is_some())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<Digest, Descriptor>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_does_not_grow_with_what_comes() {
        let arrivals = Arrivals::default();
        let node = |n: usize| Descriptor::new("x", Digest::of(&n.to_le_bytes()), 1);
        for n in 0..=MAX_REMEMBERED {
            arrivals.add(&format!("a{}", n % 7), node(n));
        }
        assert!(arrivals.get("a0", &node(0).digest).is_none());
        let last = node(MAX_REMEMBERED);
        assert!(arrivals.get(&format!("a{}", MAX_REMEMBERED % 7), &last.digest).is_some());
        assert!(arrivals.get("b", &last.digest).is_none(), "a repository has only its own");
    }
}
