//! The commands.

pub mod config;
pub mod exit;
pub mod output;
pub mod progress;
