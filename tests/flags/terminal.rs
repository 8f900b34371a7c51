//! What a terminal shows while a pull runs.

use support::command::Layerpull;
use support::images::{Blob, Image};
use support::registry::{Fault, Gate, Registry, Stall, Times, When};
use support::terminal::{Screen, Terminal};
use tempfile::TempDir;

use crate::home;

const SIZE: u64 = 1 << 20;
const CTRL_C: u8 = 3;

/// A pull of two layers that come half and then stand still until the gate opens.
struct Scene {
    registry: Registry,
    gate: Gate,
    home: TempDir,
}

impl Scene {
    fn start() -> Scene {
        let (registry, gate) = (Registry::start(), Gate::default());
        let image = Image::build().layers([Blob::noise(1, SIZE), Blob::noise(2, SIZE)]).finish();
        registry.add("library/x", "1", &image);
        for layer in image.layers() {
            let stall = Fault::StallAfter(SIZE / 2, Stall::Until(gate.clone()));
            registry.rule(When::blob(layer.digest()), Times::Always, stall);
        }
        Scene { registry, gate, home: home() }
    }

    fn pull(&self) -> Layerpull {
        let name = self.registry.name("library/x", "1");
        let flags = ["--streams", "1", "--stall-timeout", "100s"];
        Layerpull::new().home(self.home.path()).arg("pull").args(flags).arg(name)
    }
}

/// The rows of the bars: the total and what is in flight.
fn bars(screen: &Screen) -> Vec<String> {
    let is_digest = |label: &str| label.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_labelled = |row: &str| row.starts_with("total ") || row.get(..7).is_some_and(is_digest);
    let is_bar = |row: &String| is_labelled(row) || row.contains(['░', '█', '▓']);
    screen.rows().into_iter().filter(is_bar).collect()
}

/// A total and two lines, one row each, with nothing between them or below.
fn is_whole(screen: &Screen) -> bool {
    let (rows, bars) = (screen.rows(), bars(screen));
    let tail: Vec<&String> = rows.iter().filter(|row| !row.is_empty()).rev().take(3).collect();
    bars.len() == 3 && bars[0].starts_with("total ") && tail.into_iter().rev().eq(&bars)
}

/// Both layers have stopped at their half.
fn stands(screen: &Screen) -> bool {
    is_whole(screen) && bars(screen)[1..].iter().all(|row| row.contains("524 kB of"))
}

/// Waits until the frame was drawn again several times, and is whole.
fn redrawn(terminal: &Terminal) -> Screen {
    let before = terminal.until("any frame", |_| true).cleared;
    terminal.until("frames that are drawn again", |screen| screen.cleared > before + 4);
    terminal.until("a whole frame", is_whole)
}

#[test]
fn ctrl_c_leaves_no_bar_on_the_screen() {
    let scene = Scene::start();
    let mut terminal = Terminal::start(scene.pull(), 90);
    terminal.until("two layers that stand still", stands);
    terminal.press(CTRL_C);
    let (code, screen) = terminal.finish();
    assert_eq!(code, Some(130), "{}", screen.text());
    assert!(bars(&screen).is_empty(), "{}", screen.text());
    assert!(screen.text().contains("run the same command again"), "{}", screen.text());
}

#[test]
fn a_window_that_gets_narrower_or_wider_breaks_no_row() {
    let scene = Scene::start();
    let terminal = Terminal::start(scene.pull(), 120);
    let above = |screen: &Screen| {
        let text = screen.text();
        text[..text.find("total ").expect("a total")].replace('\n', "")
    };
    let first = above(&terminal.until("two layers that stand still", stands));
    for columns in [60, 31, 45, 100] {
        terminal.resize(columns);
        let screen = redrawn(&terminal);
        assert!(bars(&screen).iter().all(|row| row.chars().count() < columns.into()), "{}", screen.text());
        assert_eq!(above(&screen), first, "{}", screen.text());
    }
    scene.gate.open();
    let (code, screen) = terminal.finish();
    assert_eq!(code, Some(0), "{}", screen.text());
    assert!(bars(&screen).is_empty() && screen.text().contains("Digest: sha256:"), "{}", screen.text());
}

#[test]
fn without_colours_there_are_bars_all_the_same() {
    for (variable, coloured) in [("NO_COLOR", false), ("NOTHING", true)] {
        let scene = Scene::start();
        let mut terminal = Terminal::start(scene.pull().env(variable, "1"), 90);
        terminal.until("two layers that stand still", stands);
        terminal.press(CTRL_C);
        let (code, screen) = terminal.finish();
        assert_eq!((code, screen.colours > 0), (Some(130), coloured), "{}", screen.text());
    }
}

#[test]
fn a_terminal_that_nobody_looks_at_gets_plain_lines() {
    for (variable, value) in [("CI", "true"), ("TERM", "dumb")] {
        let scene = Scene::start();
        scene.gate.open();
        let (code, screen) = Terminal::start(scene.pull().env(variable, value), 90).finish();
        assert_eq!((code, screen.moves), (Some(0), 0), "{variable}: {}", screen.text());
        assert!(bars(&screen).is_empty() && screen.text().contains("Digest: sha256:"), "{}", screen.text());
        assert!(variable == "CI" || screen.colours == 0);
    }
}

#[test]
fn bars_are_drawn_for_those_who_ask_for_them() {
    let scene = Scene::start();
    let pull = scene.pull().args(["--progress", "bars"]).env("CI", "true");
    let mut terminal = Terminal::start(pull, 90);
    terminal.until("two layers that stand still", stands);
    terminal.press(CTRL_C);
    assert_eq!(terminal.finish().0, Some(130));
}
