//! Standard error as a terminal whose lines end where their text does.
//!
//! indicatif pads each line to the width, so that the next one begins where the terminal wraps. A Ctrl-C that the
//! terminal echoes as `^C`, or a window that gets narrower, then begins a line more than is cleared later. Here a line
//! ends with a line break, some columns stay free, and a frame is cleared as a whole, with as many rows as its lines
//! have in the window of that moment.

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
    /// How many columns indicatif knows of.
    limit: usize,
    /// What was written since the last frame was cleared: messages, then the lines of a frame.
    written: Vec<Line>,
    clearing: Clearing,
    /// The line is complete: the next one begins below it.
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    width: usize,
    /// Rows that it has for indicatif.
    rows: usize,
}

/// indicatif moves up, clears each row of the frame, and moves up again; without a frame it clears nothing.
#[derive(Debug, Clone, Copy, Default)]
enum Clearing {
    #[default]
    Idle,
    /// It has moved up so many rows.
    Begun(usize),
    /// The whole frame is cleared.
    Done,
}

impl State {
    fn write(&mut self, text: &str) {
        if text.bytes().all(|byte| byte == b' ') {
            self.ended = true;
            return;
        }
        if std::mem::take(&mut self.ended) {
            self.pending.push_str("\r\n");
        }
        let width = width(&uncoloured(text));
        self.written.push(Line { width, rows: rows(width, self.limit) });
        self.pending.push_str(text);
    }

    fn up(&mut self, count: usize) {
        self.clearing = match self.clearing {
            Clearing::Idle => Clearing::Begun(count),
            Clearing::Begun(_) | Clearing::Done => {
                self.written.clear();
                Clearing::Idle
            }
        };
    }

    fn clear_row(&mut self, columns: usize) {
        if let Clearing::Begun(above) = self.clearing {
            let above = self.frame(above + 1, columns).saturating_sub(1);
            if above > 0 {
                self.pending.push_str(&format!("\u{1b}[{above}A"));
            }
            self.pending.push_str("\r\u{1b}[J");
            self.ended = false;
            self.clearing = Clearing::Done;
        }
    }

    /// Rows that the last lines have in a window of `columns`: those lines that had `known` rows for indicatif.
    fn frame(&self, known: usize, columns: usize) -> usize {
        let (mut left, mut now) = (known, 0);
        for line in self.written.iter().rev() {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(line.rows);
            now += rows(line.width, columns);
        }
        now
    }
}

/// Rows of a line of `width` columns.
fn rows(width: usize, columns: usize) -> usize {
    width.div_ceil(columns.max(1)).max(1)
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

    /// Moves the cursor: `C` right, `D` left (ECMA-48, section 8.3).
    fn go(&self, count: usize, direction: char) -> io::Result<()> {
        if count > 0 {
            self.state().pending.push_str(&format!("\u{1b}[{count}{direction}"));
        }
        Ok(())
    }
}

impl TermLike for Lines {
    fn width(&self) -> u16 {
        let columns = columns();
        self.state().limit = columns;
        columns.try_into().unwrap_or(u16::MAX)
    }

    fn height(&self) -> u16 {
        rustix::termios::tcgetwinsize(io::stderr()).map_or(24, |size| size.ws_row)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.state().up(n);
        Ok(())
    }

    /// Only to the next row of a frame, which is cleared already.
    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
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
        self.state().write(s);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.state().clear_row(all_columns());
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

    fn drawn(lines: &[&str], limit: usize) -> State {
        let mut state = State { limit, ..State::default() };
        for line in lines {
            state.write(line);
            state.write("    ");
        }
        state
    }

    /// What is written to clear a frame of which indicatif knows so many rows.
    fn cleared(mut state: State, known: usize, columns: usize) -> String {
        state.pending.clear();
        state.up(known.saturating_sub(1));
        for _ in 0..known {
            state.clear_row(columns);
        }
        state.up(known.saturating_sub(1));
        assert!(state.written.is_empty());
        state.pending
    }

    #[test]
    fn lines_end_with_a_line_break_and_the_last_one_where_it_is() {
        assert_eq!(drawn(&["total 1", "blob 2"], 77).pending, "total 1\r\nblob 2");
    }

    #[test]
    fn a_frame_is_cleared_as_a_whole() {
        assert_eq!(cleared(drawn(&["total", "blob"], 77), 2, 80), "\u{1b}[1A\r\u{1b}[J");
        assert_eq!(cleared(drawn(&["total"], 77), 1, 80), "\r\u{1b}[J");
    }

    #[test]
    fn what_a_narrower_window_wrapped_is_cleared_as_well() {
        let state = drawn(&[&"x".repeat(70), "\u{1b}[32mshort\u{1b}[0m"], 77);
        assert_eq!(cleared(state, 2, 40), "\u{1b}[2A\r\u{1b}[J");
    }

    #[test]
    fn lines_that_were_made_for_a_wider_window_are_counted_as_they_are_shown() {
        // indicatif knows of three rows of 37 columns, and 40 make two of them.
        let state = drawn(&["total", &"x".repeat(75)], 37);
        assert_eq!(cleared(state, 4, 40), "\u{1b}[2A\r\u{1b}[J");
    }

    #[test]
    fn what_was_printed_above_a_frame_stays() {
        let message = "x".repeat(70);
        assert_eq!(cleared(drawn(&[&message, "total", "blob"], 77), 2, 40), "\u{1b}[1A\r\u{1b}[J");
        assert_eq!(cleared(drawn(&[&message], 77), 0, 40), "");
    }
}
