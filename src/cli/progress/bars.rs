//! Progress on a terminal: a total line, and one for each blob in flight.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::lines::{from_here, intention, remark};
use super::terminal::{self, Lines};
use super::{Check, Display, Flight, Snapshot, Surroundings};
use crate::cli::output::{self, duration, pad, percent, rate, shorten, size, width};
use crate::event::Event;

/// Time between two drawings.
const INTERVAL: Duration = Duration::from_millis(100);
/// Blobs that are shown, at most.
const MAX_LINES: usize = 8;
/// Columns of a bar, at most.
const MAX_BAR: usize = 30;
/// On less columns there is no room for bars.
const MIN_COLUMNS: usize = 30;
/// On less columns digests are shown shorter.
const WIDE: usize = 60;

/// Draws on standard error.
pub(super) struct Bars {
    screen: MultiProgress,
    lines: Vec<ProgressBar>,
    palette: Palette,
    drawn: Option<Duration>,
}

#[derive(Clone, Copy)]
enum Palette {
    Plain,
    Coloured,
}

impl Bars {
    pub(super) fn new(surroundings: Surroundings) -> Bars {
        let screen =
            MultiProgress::with_draw_target(ProgressDrawTarget::term_like_with_hz(Box::new(Lines::default()), 10));
        let palette = if surroundings.colour { Palette::Coloured } else { Palette::Plain };
        Bars { screen, lines: Vec::new(), palette, drawn: None }
    }

    fn draw(&mut self, frame: &[String]) {
        while self.lines.len() > frame.len() {
            if let Some(line) = self.lines.pop() {
                line.finish_and_clear();
                self.screen.remove(&line);
            }
        }
        while self.lines.len() < frame.len() {
            let style = ProgressStyle::with_template("{msg}").expect("a template of one known key is valid");
            self.lines.push(self.screen.add(ProgressBar::new_spinner().with_style(style)));
        }
        for (line, text) in self.lines.iter().zip(frame) {
            line.set_message(text.clone());
        }
    }
}

impl Display for Bars {
    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn event(&mut self, event: &Event, _: &Snapshot) {
        for line in intention(event).into_iter().chain(remark(event)) {
            let _ = self.screen.println(line);
        }
    }

    fn tick(&mut self, snapshot: &Snapshot) {
        let due = self.drawn.is_none_or(|last| snapshot.elapsed >= last + INTERVAL);
        if due && (snapshot.blobs > 0 || snapshot.check.is_some()) {
            self.drawn = Some(snapshot.elapsed);
            self.draw(&frame(snapshot, terminal::columns(), self.palette));
        }
    }

    fn finish(&mut self, _: &Snapshot) {
        self.draw(&[]);
        let _ = self.screen.clear();
    }
}

/// The lines of one moment, none wider than `columns`.
fn frame(snapshot: &Snapshot, columns: usize, palette: Palette) -> Vec<String> {
    let look = Look { columns, palette };
    if let Some(check) = &snapshot.check {
        return vec![checking(check, snapshot, look)];
    }
    let mut lines = vec![total(snapshot, look)];
    // The biggest come first and stay where they are until they are done.
    let mut flights: Vec<&Flight> = snapshot.flights.iter().collect();
    flights.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.digest.cmp(&b.digest)));
    lines.extend(flights.iter().take(MAX_LINES).map(|flight| line(flight, look)));
    if flights.len() > MAX_LINES {
        lines.push(shorten(&format!("  and {} more", flights.len() - MAX_LINES), columns));
    }
    lines
}

fn total(snapshot: &Snapshot, look: Look) -> String {
    let portions = Portions { size: snapshot.size, done: snapshot.done, resumed: snapshot.resumed };
    let held = match snapshot.held {
        0 => String::new(),
        held => format!(", {} already here", size(held)),
    };
    with_bar("total", &portions, &texts(&portions, snapshot, &(held + &from_here(snapshot))), look)
}

fn checking(check: &Check, snapshot: &Snapshot, look: Look) -> String {
    let portions = Portions { size: check.size, done: check.done, resumed: 0 };
    let blobs = format!(", {} of {} blobs", check.read, check.blobs);
    with_bar("checked", &portions, &texts(&portions, snapshot, &blobs), look)
}

/// What may be said of the whole, the most first.
fn texts(portions: &Portions, snapshot: &Snapshot, rest: &str) -> [String; 6] {
    let left = snapshot.left().map_or_else(|| "–".into(), |left| format!("{} left", duration(left)));
    let done = format!("{} of {}", size(portions.done), size(portions.size));
    let percent = format!("{} %", percent(portions.done, portions.size));
    let rate = rate(snapshot.rate);
    [
        format!("{done}, {percent}, {rate}, {left}{rest}"),
        format!("{done}, {percent}, {rate}, {left}"),
        format!("{done}, {rate}, {left}"),
        format!("{percent}, {rate}, {left}"),
        format!("{percent}, {left}"),
        percent,
    ]
}

fn line(flight: &Flight, look: Look) -> String {
    let portions = Portions { size: flight.size, done: flight.done, resumed: flight.resumed };
    let done = format!("{} of {}", size(flight.done), size(flight.size));
    let texts = match (flight.done >= flight.size, flight.resumed) {
        (true, _) => [format!("{}, verifying", size(flight.size)), "verifying".into()].to_vec(),
        (false, 0) => vec![done, size(flight.done)],
        (false, resumed) => vec![format!("{done}, {} resumed", size(resumed)), done, size(flight.done)],
    };
    with_bar(flight.digest.short(), &portions, &texts, look)
}

struct Portions {
    size: u64,
    done: u64,
    resumed: u64,
}

#[derive(Clone, Copy)]
struct Look {
    columns: usize,
    palette: Palette,
}

/// A label, a bar, and the first of `texts` that there is room for. Labels and bars of all lines are equally wide.
fn with_bar(label: &str, portions: &Portions, texts: &[String], look: Look) -> String {
    let columns = if look.columns < WIDE { 7 } else { 12 };
    let label = pad(&label.chars().take(columns).collect::<String>(), columns);
    let cells = if look.columns < MIN_COLUMNS { 0 } else { (look.columns / 5).min(MAX_BAR) };
    let room = look.columns.saturating_sub(columns + cells + 2);
    match texts.iter().find(|text| cells > 0 && width(text) <= room) {
        Some(text) => format!("{label} {} {text}", bar(portions, cells, look.palette)),
        None => shorten(&format!("{label} {}", texts.last().map_or("", String::as_str)), look.columns),
    }
}

/// `cells` columns: resumed bytes dim, new ones bright, and eighths of a cell at the edge.
fn bar(portions: &Portions, cells: usize, palette: Palette) -> String {
    let eighths = |bytes: u64| match portions.size {
        0 => cells * 8,
        whole => (u128::from(bytes.min(whole)) * (cells as u128 * 8) / u128::from(whole)) as usize,
    };
    let filled = eighths(portions.done);
    let old = if portions.resumed == 0 { 0 } else { eighths(portions.resumed) / 8 };
    let old = old.min(filled / 8);
    let (dim, bright) = ("▓".repeat(old), output::bar(filled - old * 8));
    let rest = "░".repeat(cells - filled.div_ceil(8));
    match palette {
        Palette::Plain => format!("{dim}{bright}{rest}"),
        Palette::Coloured => format!("\u{1b}[36m{dim}\u{1b}[32m{bright}\u{1b}[0;2m{rest}\u{1b}[0m"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::{Tally, samples::*};
    use super::*;
    use crate::content::Holding;

    const MB: u64 = 1_000_000;

    fn snapshot() -> Snapshot {
        let plan = planned(&[
            ("a", 100 * MB, Holding::Missing),
            ("b", 50 * MB, Holding::Partial(20 * MB)),
            ("c", 30 * MB, Holding::Whole),
            ("d", 8 * MB, Holding::Missing),
        ]);
        let mut tally = Tally::default();
        let events = [plan, started("a", 0), started("b", 20 * MB), started("d", 0), bytes("a", 33 * MB)];
        events.iter().for_each(|event| tally.apply(event));
        [bytes("b", 10 * MB), bytes("d", 8 * MB)].iter().for_each(|event| tally.apply(event));
        tally.snapshot(Duration::from_secs(3))
    }

    #[test]
    fn a_frame_shows_the_total_and_each_blob_in_flight() {
        insta::assert_snapshot!(frame(&snapshot(), 120, Palette::Plain).join("\n"), @r"
        total        ▓▓▓███████▊░░░░░░░░░░░░░ 71.0 MB of 158 MB, 44 %, 17.0 MB/s, 5.1 s left, 30.0 MB already here
        ca978112ca1b ███████▉░░░░░░░░░░░░░░░░ 33.0 MB of 100 MB
        3e23e8160039 ▓▓▓▓▓▓▓▓▓█████▍░░░░░░░░░ 30.0 MB of 50.0 MB, 20.0 MB resumed
        18ac3e7343f0 ████████████████████████ 8.00 MB, verifying
        ");
        insta::assert_snapshot!(frame(&snapshot(), 79, Palette::Plain).join("\n"), @r"
        total        ▓█████▋░░░░░░░░ 71.0 MB of 158 MB, 44 %, 17.0 MB/s, 5.1 s left
        ca978112ca1b ████▉░░░░░░░░░░ 33.0 MB of 100 MB
        3e23e8160039 ▓▓▓▓▓▓███░░░░░░ 30.0 MB of 50.0 MB, 20.0 MB resumed
        18ac3e7343f0 ███████████████ 8.00 MB, verifying
        ");
        insta::assert_snapshot!(frame(&snapshot(), 39, Palette::Plain).join("\n"), @r"
        total   ███▏░░░ 44 %, 5.1 s left
        ca97811 ██▎░░░░ 33.0 MB of 100 MB
        3e23e81 ▓▓██▏░░ 30.0 MB of 50.0 MB
        18ac3e7 ███████ 8.00 MB, verifying
        ");
    }

    #[test]
    fn a_check_is_one_line() {
        let check = Check { blobs: 9, read: 4, size: 100 * MB, done: 25 * MB };
        let seen = Snapshot { check: Some(check), rate: 25e6, ..Snapshot::default() };
        insta::assert_snapshot!(frame(&seen, 99, Palette::Plain).join("\n"), @r"
        checked      ████▊░░░░░░░░░░░░░░ 25.0 MB of 100 MB, 25 %, 25.0 MB/s, 3.0 s left, 4 of 9 blobs
        ");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for columns in 0..120 {
            for line in frame(&snapshot(), columns, Palette::Plain) {
                assert!(width(&line) <= columns, "{columns}: {line}");
            }
        }
    }

    #[test]
    fn a_bar_fills_its_cells_exactly() {
        for done in 0..=64 {
            let portions = Portions { size: 64, done, resumed: done / 2 };
            assert_eq!(width(&bar(&portions, 8, Palette::Plain)), 8, "{done}");
        }
        assert_eq!(bar(&Portions { size: 0, done: 0, resumed: 0 }, 3, Palette::Plain), "███");
    }

    #[test]
    fn many_blobs_do_not_push_the_total_off_the_screen() {
        let mut many = snapshot();
        many.flights =
            (0..100).map(|n| Flight { digest: digest(&n.to_string()), size: 10, done: 0, resumed: 0 }).collect();
        let lines = frame(&many, 80, Palette::Plain);
        assert_eq!(lines.len(), 2 + MAX_LINES);
        assert_eq!(lines.last().unwrap(), "  and 92 more");
    }
}
