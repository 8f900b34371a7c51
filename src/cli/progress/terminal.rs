//! Standard error as a terminal whose lines end where their text does.
//!
//! indicatif pads each line to the width, so that the next one begins where the terminal wraps. A Ctrl-C that the
//! terminal echoes as `^C`, or a window that gets narrower, then begins a line more than is cleared later. Here a line
//! ends with a line break, some columns stay free, and what a narrower window has wrapped is counted.

use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::TermLike;

use crate::cli::output::{terminal_columns, width};

/// Columns that stay free at the right edge, for the `^C` of the terminal.
const FREE: usize = 3;

/// How many columns may be written.
pub(super) fn columns() -> usize {
    all_columns().saturating_sub(FREE)
}

fn all_columns() -> usize {
    terminal_columns(io::stderr()).unwrap_or(80)
}

/// The terminal behind standard error. What is written is shown at once when it is flushed.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    pending: String,
    /// Widths of the lines since the cursor was last moved.
    written: Vec<usize>,
    /// Columns of the terminal when they were written.
    columns: usize,
    /// The line is complete: the next one begins below it.
    ended: bool,
}

impl State {
    fn write(&mut self, text: &str, columns: usize) {
        if text.bytes().all(|byte| byte == b' ') {
            self.ended = true;
            return;
        }
        if std::mem::take(&mut self.ended) {
            self.pending.push_str("\r\n");
        }
        if text != "\r" {
            self.written.push(width(&uncoloured(text)));
            self.columns = columns;
        }
        self.pending.push_str(text);
    }

    /// Rows beyond `rows` that the lines of the last frame have now. What was printed above it stays.
    fn wrapped(&self, rows: usize, columns: usize) -> usize {
        // A single line need not be of a frame. Those of several are, also when the window changed as they were written.
        if columns == 0 || (rows == 0 && columns >= self.columns) {
            return 0;
        }
        self.written.iter().rev().take(rows + 1).map(|width| width.div_ceil(columns).max(1) - 1).sum()
    }

    fn up(&mut self, rows: usize, columns: usize) {
        let wrapped = self.wrapped(rows, columns);
        if rows + wrapped > 0 {
            self.pending.push_str(&format!("\u{1b}[{}A", rows + wrapped));
        }
        if wrapped > 0 {
            self.pending.push_str("\r\u{1b}[J");
        }
        self.written.clear();
    }
}

/// The text without the sequences that colour it.
fn uncoloured(text: &str) -> String {
    let mut rest = text;
    let mut plain = String::new();
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain + rest
}

impl Lines {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the cursor: `B` down, `C` right, `D` left (ECMA-48, section 8.3).
    fn go(&self, count: usize, direction: char) -> io::Result<()> {
        if count > 0 {
            self.state().pending.push_str(&format!("\u{1b}[{count}{direction}"));
        }
        Ok(())
    }
}

impl TermLike for Lines {
    fn width(&self) -> u16 {
        columns().try_into().unwrap_or(u16::MAX)
    }

    fn height(&self) -> u16 {
        rustix::termios::tcgetwinsize(io::stderr()).map_or(24, |size| size.ws_row)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.state().up(n, all_columns());
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, 'D')
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.write_str(s)?;
        self.write_str(" ")
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        self.state().write(s, all_columns());
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        let mut state = self.state();
        state.ended = false;
        state.pending.push_str("\r\u{1b}[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let text = std::mem::take(&mut self.state().pending);
        let mut stderr = io::stderr().lock();
        stderr.write_all(text.as_bytes())?;
        stderr.flush()
    }
}

impl Drop for Lines {
    /// What is written by others begins below the last line.
    fn drop(&mut self) {
        if std::mem::take(&mut self.state().ended) {
            self.state().pending.push_str("\r\n");
        }
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(lines: &[&str], columns: usize) -> State {
        let mut state = State::default();
        for line in lines {
            state.write(line, columns);
            state.write("    ", columns);
        }
        state
    }

    #[test]
    fn lines_end_with_a_line_break_and_the_last_one_where_it_is() {
        assert_eq!(drawn(&["total 1", "blob 2"], 80).pending, "total 1\r\nblob 2");
    }

    #[test]
    fn what_a_narrower_window_wrapped_is_cleared_as_well() {
        let mut state = drawn(&[&"x".repeat(70), "\u{1b}[32mshort\u{1b}[0m"], 77);
        state.pending.clear();
        state.up(1, 40);
        assert_eq!(state.pending, "\u{1b}[2A\r\u{1b}[J");
    }

    #[test]
    fn what_was_printed_above_the_frame_is_not_cleared() {
        let mut state = drawn(&[&"x".repeat(70), "total", "blob"], 77);
        state.pending.clear();
        state.up(1, 40);
        assert_eq!(state.pending, "\u{1b}[1A");
    }

    #[test]
    fn a_window_that_got_narrower_while_a_frame_was_written_is_noticed() {
        let mut state = drawn(&[&"x".repeat(70), "short"], 40);
        state.pending.clear();
        state.up(1, 40);
        assert_eq!(state.pending, "\u{1b}[2A\r\u{1b}[J");
    }

    #[test]
    fn an_unchanged_window_is_left_alone() {
        let mut state = drawn(&[&"x".repeat(70), "short"], 77);
        state.pending.clear();
        state.up(1, 77);
        assert_eq!(state.pending, "\u{1b}[1A");
    }
}
