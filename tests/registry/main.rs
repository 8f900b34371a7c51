//! Reading from registries and writing to them.

mod at_once;
mod auth;
mod copies;
mod fresh;
mod keeper;
mod kept_uploads;
mod push;
mod real;
mod scripted;
mod source;
mod tls;
mod upload_access;
mod uploads;
