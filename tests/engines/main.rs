//! Images of the store into real engines, which get the layers that they lack and no others.

mod containerd;
mod docker;
mod podman;
mod scene;
