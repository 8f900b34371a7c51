//! Shows what happens: bars on a terminal, plain lines elsewhere, JSON for programs, or next to nothing.
//!
//! Events only change a [`Tally`] under a short lock; one thread of its own draws, at most ten times a second.

mod bars;
mod json;
mod lines;
mod quiet;
mod tally;

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::event::{Event, Observer};
use tally::{Check, Flight, Snapshot, Tally};

/// Events that wait to be shown, at most; when a terminal stands still, further ones are counted and left out.
const MAX_PENDING: usize = 10_000;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Bars on a terminal, plain lines elsewhere
    Auto,
    /// A total bar and a line for each blob in flight
    Bars,
    /// Whole lines, a few seconds apart
    Plain,
    /// One JSON object a line
    Json,
    /// Nothing but warnings
    None,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Auto => "auto",
            Mode::Bars => "bars",
            Mode::Plain => "plain",
            Mode::Json => "json",
            Mode::None => "none",
        })
    }
}

/// What of the surroundings decides how progress is shown.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    /// Standard error is a terminal.
    pub terminal: bool,
    /// The terminal can move its cursor (`TERM` is not `dumb`), and nobody reads it later (`CI` is not set).
    pub lively: bool,
    /// Colours are welcome (`NO_COLOR` is not set).
    pub colour: bool,
}

impl Surroundings {
    /// Those of this process.
    pub fn here() -> Surroundings {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Surroundings {
            terminal: std::io::stderr().is_terminal(),
            lively: !dumb && !is_set("CI"),
            colour: !is_set("NO_COLOR") && !dumb,
        }
    }
}

impl Mode {
    /// What `auto` means in `surroundings`. Bars need a terminal, whoever asks for them.
    pub fn settle(self, surroundings: Surroundings) -> Mode {
        match self {
            Mode::Auto if surroundings.terminal && surroundings.lively => Mode::Bars,
            Mode::Bars if surroundings.terminal => Mode::Bars,
            Mode::Auto | Mode::Bars => Mode::Plain,
            other => other,
        }
    }
}

/// One way of showing progress.
trait Display: Send {
    /// How long may pass between two calls of [`tick`](Display::tick).
    fn interval(&self) -> Duration;
    /// An event other than bytes.
    fn event(&mut self, event: &Event, snapshot: &Snapshot);
    /// Time has passed.
    fn tick(&mut self, snapshot: &Snapshot);
    /// It is over: leave nothing half drawn.
    fn finish(&mut self, snapshot: &Snapshot);
}

/// Shows progress until it is finished or dropped.
pub struct Progress {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    tally: Tally,
    pending: Vec<Event>,
    left_out: u64,
    done: bool,
}

struct Watcher(Arc<Shared>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves numbers that are still worth showing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Watcher {
    fn on(&self, event: &Event) {
        let mut state = self.0.lock();
        state.tally.apply(event);
        if matches!(event, Event::Bytes { .. }) {
            return;
        }
        match state.pending.len() < MAX_PENDING {
            true => state.pending.push(event.clone()),
            false => state.left_out += 1,
        }
        drop(state);
        self.0.wake.notify_one();
    }
}

impl Progress {
    /// Begins to show progress in `mode`.
    pub fn start(mode: Mode) -> Progress {
        let surroundings = Surroundings::here();
        let display: Box<dyn Display> = match mode.settle(surroundings) {
            Mode::Bars | Mode::Auto => Box::new(bars::Bars::new(surroundings)),
            Mode::Plain => Box::new(lines::Lines::new(std::io::stderr())),
            Mode::Json => Box::new(json::Json::new(std::io::stderr())),
            Mode::None => Box::new(quiet::Quiet::new(std::io::stderr())),
        };
        Progress::with(display)
    }

    fn with(display: Box<dyn Display>) -> Progress {
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Condvar::new() });
        let seen = shared.clone();
        let thread = std::thread::Builder::new().name("progress".into()).spawn(move || show(&seen, display)).ok();
        Progress { shared, thread }
    }

    /// Where events go.
    pub fn events(&self) -> crate::event::Events {
        Arc::new(Watcher(self.shared.clone()))
    }

    /// Shows what is left and clears what was drawn.
    pub fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.lock().done = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn show(shared: &Shared, mut display: Box<dyn Display>) {
    let started = Instant::now();
    loop {
        let (events, snapshot, left_out, done) = wait(shared, display.interval(), started);
        for event in &events {
            display.event(event, &snapshot);
        }
        if left_out > 0 {
            display.event(&Event::Warning { text: format!("{left_out} events were not shown") }, &snapshot);
        }
        match done {
            true => return display.finish(&snapshot),
            false => display.tick(&snapshot),
        }
    }
}

fn wait(shared: &Shared, interval: Duration, started: Instant) -> (Vec<Event>, Snapshot, u64, bool) {
    let idle = |state: &mut State| state.pending.is_empty() && !state.done;
    let waited = shared.wake.wait_timeout_while(shared.lock(), interval, idle);
    let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
    let snapshot = state.tally.snapshot(started.elapsed());
    (std::mem::take(&mut state.pending), snapshot, std::mem::take(&mut state.left_out), state.done)
}

/// Tells what a person should know at once, for commands that show no progress.
pub struct Notices;

impl Observer for Notices {
    fn on(&self, event: &Event) {
        if let Some(line) = lines::remark(event) {
            super::output::note(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Recorder(mpsc::Sender<String>);

    impl Display for Recorder {
        fn interval(&self) -> Duration {
            Duration::from_secs(3600)
        }
        fn event(&mut self, event: &Event, _: &Snapshot) {
            if let Event::Warning { text } = event {
                self.0.send(text.clone()).unwrap();
            }
        }
        fn tick(&mut self, _: &Snapshot) {}
        fn finish(&mut self, _: &Snapshot) {
            self.0.send("finished".into()).unwrap();
        }
    }

    #[test]
    fn every_event_is_shown_before_the_end() {
        let (sender, receiver) = mpsc::channel();
        let progress = Progress::with(Box::new(Recorder(sender)));
        let events = progress.events();
        for n in 0..3 {
            events.on(&Event::Warning { text: n.to_string() });
        }
        progress.finish();
        assert_eq!(receiver.iter().collect::<Vec<_>>(), ["0", "1", "2", "finished"]);
    }

    #[test]
    fn bars_are_for_terminals_that_somebody_looks_at() {
        let settle = |mode: Mode, terminal, lively| mode.settle(Surroundings { terminal, lively, colour: true });
        assert_eq!(settle(Mode::Auto, true, true), Mode::Bars);
        assert_eq!(settle(Mode::Auto, true, false), Mode::Plain);
        assert_eq!(settle(Mode::Auto, false, true), Mode::Plain);
        assert_eq!(settle(Mode::Bars, false, true), Mode::Plain);
        assert_eq!(settle(Mode::Bars, true, false), Mode::Bars);
        assert_eq!(settle(Mode::Json, true, true), Mode::Json);
    }
}
