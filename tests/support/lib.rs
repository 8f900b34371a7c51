//! What the tests share.
//!
//! - [`images`]: images built in code, the same bytes in every run.
//! - [`registry`]: a registry that records every request and misbehaves as it is told.
//! - [`command`]: runs the `layerpull` binary in a clean environment.
//! - [`peers`]: real registries and clients from the system's packages.
//! - [`engines`]: real container engines, as daemons of our own.
//! - [`terminal`]: runs the `layerpull` binary on a terminal, and shows what a person would see there.

pub mod command;
pub mod engines;
pub mod images;
pub mod peers;
pub mod registry;
pub mod terminal;
