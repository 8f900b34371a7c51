//! What the tests share.
//!
//! - [`images`]: images built in code, the same bytes in every run.
//! - [`registry`]: a registry that records every request and misbehaves as it is told.
//! - [`command`]: runs the `layerpull` binary in a clean environment.
//! - [`peers`]: real registries and clients from the system's packages.
//! - [`engines`]: real container engines, as daemons of our own.
//! - [`proxy`]: a forward proxy, and what it was asked.
//! - [`relay`]: stands before a server, counts what clients send, and holds it back.
//! - [`terminal`]: runs the `layerpull` binary on a terminal, and shows what a person would see there.

pub mod command;
pub mod engines;
pub mod images;
pub mod peers;
pub mod proxy;
pub mod registry;
pub mod relay;
pub mod terminal;

/// Asks until `is_so`. Panics after a minute.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}
