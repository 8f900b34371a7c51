//! What survives: killed and interrupted pulls, full and read-only disks, several processes at one store, damage.
//! Outcome, requests, bytes, and what is in the store.

mod again;
mod codes;
mod damage;
mod disk;
mod kill;
mod processes;
mod repair;
mod scene;
mod signals;
