//! The command on a terminal: what a person would see there after wrapping, cursor movements and a change of the window.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::command::{Layerpull, binary};
use crate::peers::program;

/// Longest wait for something to be shown.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing comes for so long: nothing is on its way.
const QUIET: Duration = Duration::from_millis(20);
/// More rows than any test fills: nothing scrolls away.
const ROWS: u16 = 50;

/// A terminal on which one command runs. The command is killed when it is dropped.
pub struct Terminal {
    keyboard: File,
    shown: Arc<(Mutex<Screen>, Condvar)>,
    child: Child,
    reader: Option<JoinHandle<()>>,
    _command: Layerpull,
}

impl Terminal {
    /// Starts `command` as the leader of a session of its own, on a window of so many columns.
    pub fn start(command: Layerpull, columns: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("a terminal of our own");
        unlockpt(&master).expect("a terminal of our own");
        tcsetwinsize(&master, window(columns)).expect("a terminal has a size");
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let side = || ioctl_tiocgptpeer(&master, flags).expect("the side of the command");
        let mut started = Command::new(program("setsid"));
        started.arg("--ctty").arg(binary());
        let mut started = command.prepare(started);
        started.stdin(side()).stdout(side()).stderr(side());
        let child = started.spawn().expect("setsid runs");
        // Our copies of its side would keep the terminal open for ever.
        drop(started);
        let shown = Arc::new((Mutex::new(Screen::new(columns.into())), Condvar::new()));
        let keyboard = File::from(master);
        let reader = follow(keyboard.try_clone().expect("another handle"), shown.clone());
        Terminal { keyboard, shown, child, reader: Some(reader), _command: command }
    }

    /// Types one byte: 3 is Ctrl-C.
    pub fn press(&mut self, byte: u8) {
        self.keyboard.write_all(&[byte]).expect("the terminal is open");
    }

    /// Changes the width of the window between two frames: what was written for the old width is shown before.
    pub fn resize(&self, columns: u16) {
        let before = self.until("any frame", |_| true).cleared;
        // The next frame is a while away, and what the command has written is on its way at most.
        self.until("another frame", |screen| screen.cleared > before);
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).expect("the process is ours");
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).expect("the process is ours");
        let mut screen = self.shown.0.lock().expect("no test panics while it holds the screen");
        while self.has_more() {
            screen = self.shown.1.wait_timeout(screen, QUIET).expect("the reader does not panic").0;
        }
        tcsetwinsize(&self.keyboard, window(columns)).expect("a terminal has a size");
        screen.reflow(columns.into());
        kill_process(pid, Signal::CONT).expect("the process is ours");
    }

    /// Whether the command, which is stopped, has written what is not shown yet.
    fn has_more(&self) -> bool {
        let mut sides = [PollFd::new(&self.keyboard, PollFlags::IN)];
        let quiet = Timespec::try_from(QUIET).expect("a short time");
        poll(&mut sides, Some(&quiet)).expect("a terminal can be waited for") > 0
    }

    /// Waits until the screen is as `condition` wants it. Panics when that does not come within a minute.
    pub fn until(&self, what: &str, condition: impl Fn(&Screen) -> bool) -> Screen {
        let deadline = Instant::now() + PATIENCE;
        let mut screen = self.shown.0.lock().expect("no test panics while it holds the screen");
        while !condition(&screen) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text = screen.text();
                drop(screen);
                panic!("{what}: never seen\n{text}");
            }
            screen = self.shown.1.wait_timeout(screen, left).expect("the reader does not panic").0;
        }
        screen.clone()
    }

    /// Waits for the end of the command; returns its exit code and the last screen.
    pub fn finish(mut self) -> (Option<i32>, Screen) {
        self.until("the end", |screen| screen.closed);
        let reader = self.reader.take().expect("joined once");
        reader.join().expect("the reader does not panic");
        let status = self.child.wait().expect("the process is ours");
        let screen = self.shown.0.lock().expect("the reader has ended").clone();
        (status.code(), screen)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn window(columns: u16) -> Winsize {
    Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn follow(mut terminal: File, shown: Arc<(Mutex<Screen>, Condvar)>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut buffer, mut pending) = ([0; 4096], Vec::new());
        loop {
            let _ = poll(&mut [PollFd::new(&terminal, PollFlags::IN)], None);
            // Read and shown under one lock: what is not shown can still be seen to be there.
            let mut screen = shown.0.lock().expect("no test panics while it holds the screen");
            // The last one who closes the other side makes this an error.
            let Ok(count @ 1..) = terminal.read(&mut buffer) else { break };
            pending.extend_from_slice(&buffer[..count]);
            let used = screen.show(&pending);
            pending.drain(..used);
            drop(screen);
            shown.1.notify_all();
        }
        shown.0.lock().expect("no test panics while it holds the screen").closed = true;
        shown.1.notify_all();
    })
}

#[derive(Debug, Clone, Default)]
struct Row {
    cells: Vec<char>,
    /// Its text goes on in the next row.
    wrapped: bool,
}

/// What is seen. Rows that no longer fit the window are wrapped, as the usual terminals do.
#[derive(Debug, Clone)]
pub struct Screen {
    columns: usize,
    rows: Vec<Row>,
    row: usize,
    column: usize,
    closed: bool,
    /// How often a part of the screen was cleared: once for each time that something is drawn anew.
    pub cleared: usize,
    /// How often the cursor was moved or a part of the screen was cleared.
    pub moves: usize,
    /// How often the colour was changed.
    pub colours: usize,
}

impl Screen {
    fn new(columns: usize) -> Screen {
        let rows = vec![Row::default()];
        Screen { columns, rows, row: 0, column: 0, closed: false, cleared: 0, moves: 0, colours: 0 }
    }

    /// The rows from the top, without blanks at their ends.
    pub fn rows(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.cells.iter().collect::<String>().trim_end().to_owned()).collect()
    }

    /// All rows.
    pub fn text(&self) -> String {
        self.rows().join("\n")
    }

    /// Shows whole characters and sequences; returns how many bytes those were.
    fn show(&mut self, bytes: &[u8]) -> usize {
        let valid = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).expect("valid so far"),
        };
        let mut rest = valid;
        while let Some(first) = rest.chars().next() {
            let used = match first {
                '\u{1b}' => match self.sequence(rest) {
                    Some(length) => length,
                    None => break,
                },
                _ => {
                    self.character(first);
                    first.len_utf8()
                }
            };
            rest = &rest[used..];
        }
        valid.len() - rest.len()
    }

    fn character(&mut self, character: char) {
        match character {
            '\r' => self.column = 0,
            '\n' => self.go(self.row + 1),
            _ => self.put(character),
        }
    }

    fn put(&mut self, character: char) {
        assert!(!character.is_control(), "{character:?} is nothing to show");
        if self.column == self.columns {
            self.rows[self.row].wrapped = true;
            self.go(self.row + 1);
            self.column = 0;
        }
        let row = &mut self.rows[self.row];
        let length = row.cells.len().max(self.column + 1);
        row.cells.resize(length, ' ');
        row.cells[self.column] = character;
        self.column += 1;
    }

    fn go(&mut self, row: usize) {
        self.row = row;
        let rows = self.rows.len().max(row + 1);
        self.rows.resize_with(rows, Row::default);
    }

    /// `ESC [ number letter` (ECMA-48, section 8.3); `None` when its end has not come yet.
    fn sequence(&mut self, text: &str) -> Option<usize> {
        let body =
            text.strip_prefix("\u{1b}[").or_else(|| (text.len() > 1).then(|| panic!("odd sequence {text:?}")))?;
        let end = body.find(|c: char| c.is_ascii_alphabetic())?;
        let (parameter, letter) = (&body[..end], &body[end..=end]);
        let count = parameter.parse::<usize>().unwrap_or(1).max(1);
        match letter {
            "m" => self.colours += 1,
            "A" => self.go(self.row.saturating_sub(count)),
            "J" => self.clear_below(parameter),
            _ => panic!("the terminal does not know {:?}", &text[..end + 3]),
        }
        self.moves += usize::from(letter != "m");
        Some(end + 3)
    }

    fn clear_below(&mut self, parameter: &str) {
        assert_eq!(parameter, "", "only what is below is cleared");
        self.rows[self.row].cells.truncate(self.column);
        self.rows[self.row].wrapped = false;
        self.rows.truncate(self.row + 1);
        self.cleared += 1;
    }

    /// Another width: lines are wrapped anew, and the cursor stays at its character.
    fn reflow(&mut self, columns: usize) {
        let (mut lines, mut line, mut cursor) = (Vec::new(), Vec::new(), (0, 0));
        for (number, row) in self.rows.iter().enumerate() {
            if number == self.row {
                cursor = (lines.len(), line.len() + self.column);
            }
            line.extend(&row.cells);
            if !row.wrapped {
                lines.push(std::mem::take(&mut line));
            }
        }
        if !line.is_empty() {
            lines.push(line);
        }
        self.rows.clear();
        self.columns = columns;
        for (number, line) in lines.iter().enumerate() {
            if number == cursor.0 {
                // At the right edge the cursor stays on the row that it has filled.
                let below = cursor.1.saturating_sub(1) / columns;
                (self.row, self.column) = (self.rows.len() + below, cursor.1 - below * columns);
            }
            self.wrap(line);
        }
        self.go(self.row);
    }

    fn wrap(&mut self, line: &[char]) {
        let pieces = line.chunks(self.columns);
        let last = pieces.len().saturating_sub(1);
        self.rows.extend(pieces.enumerate().map(|(n, piece)| Row { cells: piece.to_vec(), wrapped: n < last }));
        if line.is_empty() {
            self.rows.push(Row::default());
        }
    }
}
