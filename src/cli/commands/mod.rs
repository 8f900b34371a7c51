//! One file a command: its flags, what it does, and the text of its results.

pub mod catalog;
pub mod completions;
pub mod config;
pub mod copy;
pub mod delete;
pub mod digest;
pub mod gc;
pub mod hosts;
pub mod images;
pub mod inspect;
pub mod layers;
pub mod login;
pub mod logout;
pub mod man;
pub mod manifest;
pub mod plan;
pub mod pull;
pub mod push;
pub mod rm;
pub mod serve;
pub mod sync;
pub mod tag;
pub mod tags;
pub mod verify;
pub mod version;
