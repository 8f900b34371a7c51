//! Mirrors: which hosts are asked for what, by whose configuration, and what follows when one fails or lies.

mod folders;
mod planned;
mod ports;
mod real;
mod relay;
mod same_host;
mod scene;
mod secrets;
mod shown;
mod through;
mod tls;
mod told;
