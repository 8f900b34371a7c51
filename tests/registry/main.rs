//! Reading from registries.

mod auth;
mod real;
mod scripted;
mod source;
mod tls;
