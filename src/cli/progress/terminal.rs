//! Standard error as a terminal that is a little narrower than it is.

use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use indicatif::TermLike;

use crate::cli::output::terminal_columns;

/// Columns that stay free at the right edge. Bars are padded up to there, and a Ctrl-C that the terminal echoes there as
/// `^C` must not begin a new line: what is cleared then is counted in lines.
const FREE: usize = 3;

/// How many columns may be written.
pub(super) fn columns() -> usize {
    terminal_columns(io::stderr()).unwrap_or(80).saturating_sub(FREE)
}

/// The terminal behind standard error. What is written is shown at once when it is flushed.
#[derive(Debug, Default)]
pub(super) struct Narrow(Mutex<String>);

impl Narrow {
    fn push(&self, text: &str) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        Ok(())
    }

    /// Moves the cursor: `A` up, `B` down, `C` right, `D` left (ECMA-48, section 8.3).
    fn go(&self, count: usize, direction: char) -> io::Result<()> {
        match count {
            0 => Ok(()),
            _ => self.push(&format!("\u{1b}[{count}{direction}")),
        }
    }
}

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        columns().try_into().unwrap_or(u16::MAX)
    }

    fn height(&self) -> u16 {
        rustix::termios::tcgetwinsize(io::stderr()).map_or(24, |size| size.ws_row)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, 'A')
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
        self.push(s)?;
        self.push("\n")
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        self.push(s)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.push("\r\u{1b}[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let text = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut stderr = io::stderr().lock();
        stderr.write_all(text.as_bytes())?;
        stderr.flush()
    }
}
