//! The store as a registry that takes pushes.

mod engines;
mod hostile;
mod manifests;
mod scene;
mod sessions;
mod survival;
