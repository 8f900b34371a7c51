//! Archives: what is written, what is read, and what real engines make of it.

mod differential;
mod engines;
mod export;
mod hostile;
mod import;
mod kill;
mod scene;
mod scripts;
