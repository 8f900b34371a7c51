//! No progress: only warnings and failures.

use std::io::Write;
use std::time::Duration;

use super::lines::serious;
use super::{Display, Snapshot};
use crate::event::Event;

/// Writes what is serious to its stream.
pub(super) struct Quiet<W>(W);

impl<W: Write + Send> Quiet<W> {
    pub(super) fn new(to: W) -> Quiet<W> {
        Quiet(to)
    }
}

impl<W: Write + Send> Display for Quiet<W> {
    fn interval(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn event(&mut self, event: &Event, _: &Snapshot) {
        if let Some(line) = serious(event) {
            let _ = writeln!(self.0, "{line}");
        }
    }

    fn tick(&mut self, _: &Snapshot) {}

    fn finish(&mut self, _: &Snapshot) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_serious_is_said() {
        let mut quiet = Quiet::new(Vec::new());
        quiet.event(&Event::Waiting { what: "a lock".into() }, &Snapshot::default());
        quiet.event(&Event::Failed { name: "x".into(), why: "gone\n".into() }, &Snapshot::default());
        assert_eq!(String::from_utf8(quiet.0).unwrap(), "failed: x: gone\\n\n");
    }
}
