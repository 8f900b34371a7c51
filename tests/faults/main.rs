//! What the command does when registries and networks misbehave: outcome, requests, bytes, and what is in the store.

mod answers;
mod asking;
mod damaged;
mod manifests;
mod pulled;
mod ranges;
mod redirects;
mod tokens;
mod transfer;
