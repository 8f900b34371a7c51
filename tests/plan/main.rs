//! Plans: what they say, that they change nothing, and that what moves is what they said.

mod exact;
mod foreseen;
mod local;
mod scene;
