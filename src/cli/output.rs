//! Text for people and programs: escaping, sizes, durations, JSON.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use serde::Serialize;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Shows text that may come from a server on one line: control characters, escape sequences, line breaks, bidirectional
/// overrides and invisible characters become visible escapes.
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        match is_plain(c) {
            true => shown.push(c),
            false => shown.extend(c.escape_default()),
        }
        shown
    })
}

/// As [`escape`], but line breaks and tabs stay.
pub fn escape_lines(text: &str) -> String {
    text.split_inclusive(['\n', '\t']).fold(String::new(), |mut shown, piece| {
        let end = piece.trim_end_matches(['\n', '\t']).len();
        shown.push_str(&escape(&piece[..end]));
        shown.push_str(&piece[end..]);
        shown
    })
}

/// Rewrites JSON so that a terminal can show it: what [`escape`] makes visible becomes `\uXXXX`. Line breaks stay.
pub fn escape_json(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut shown, c| {
        match is_plain(c) || c == '\n' || c == '\t' {
            true => shown.push(c),
            false => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(shown, "\\u{unit:04x}");
            }),
        }
        shown
    })
}

fn is_plain(c: char) -> bool {
    let is_hidden = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !is_hidden
}

/// A number of bytes as docker shows it: decimal units, three digits: `12.3 MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut value = bytes as f64;
    // 999.5 would be shown as 1000.
    while value >= 999.5 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A rate in bytes a second: `10.3 MB/s`.
pub fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", size(bytes_per_second.max(0.0) as u64))
}

/// A duration that has passed: `0.4 s`, `12.3 s`, `2 min 5 s`, `1 h 20 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// How much of `whole` `part` is, in whole percent; 100 only when it is all.
pub fn percent(part: u64, whole: u64) -> u64 {
    match whole {
        0 => 100,
        _ => (u128::from(part.min(whole)) * 100 / u128::from(whole)) as u64,
    }
}

/// A bar of so many eighths of a column.
pub fn bar(eighths: usize) -> String {
    const EDGES: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    "█".repeat(eighths / 8) + EDGES[eighths % 8]
}

/// How many columns `text` takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Cuts `text` to `columns`, with `…` where something is missing.
pub fn shorten(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.into();
    }
    let mut shown = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        shown.push(c);
    }
    if columns > 0 {
        shown.push('…');
    }
    shown
}

/// Fills `text` up to `columns` with blanks behind it.
pub fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// Lines up the cells of `rows` in columns, two blanks apart, without blanks at the ends of lines.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width_of = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max();
    let widths: Vec<usize> = (0..columns).map(|column| width_of(column).unwrap_or(0)).collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| pad(cell, width)).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
        text
    })
}

/// Texts of a server, one a line.
pub fn lines(texts: &[String]) -> String {
    texts.iter().map(|text| escape(text) + "\n").collect()
}

/// `value` as JSON over several lines, indented as skopeo does, safe for a terminal, with a line break at the end.
///
/// # Errors
/// When `value` has no form in JSON.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))?;
    Ok(escape_json(&String::from_utf8_lossy(&bytes)) + "\n")
}

/// `value` as JSON on one line, safe for a terminal, with a line break at the end.
///
/// # Errors
/// When `value` has no form in JSON.
pub fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(escape_json(&serde_json::to_string(value)?) + "\n")
}

/// Writes a result to standard output at once.
///
/// # Errors
/// What the system says; a broken pipe means that nobody wants to read on.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes bytes of a server as they came, or made safe where a terminal would show them.
///
/// # Errors
/// What the system says.
pub fn print_verbatim(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.is_terminal() {
        true => writeln!(stdout, "{}", escape_json(&String::from_utf8_lossy(bytes)))?,
        false => stdout.write_all(bytes)?,
    }
    stdout.flush()
}

/// How many columns the terminal behind `stream` has; 80 where nobody says. `COLUMNS` wins.
pub fn columns(stream: impl std::os::fd::AsFd) -> usize {
    let named = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    named.filter(|&columns| columns > 0).or_else(|| terminal_columns(stream)).unwrap_or(80)
}

/// How many columns the terminal behind `stream` has at this moment, if it is one.
pub fn terminal_columns(stream: impl std::os::fd::AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    Some(usize::from(size.ws_col)).filter(|&columns| columns > 0)
}

/// Writes a line of diagnostics. Nobody can be told when that fails.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_server_moves_the_cursor_or_turns_the_text_around() {
        let hostile = "a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}1me\u{200b}\u{7f}";
        assert_eq!(escape(hostile), "a\\u{1b}[2Jb\\r\\nc\\u{202e}d\\u{9b}1me\\u{200b}\\u{7f}");
        assert_eq!(escape("Grüße, 世界 🙂"), "Grüße, 世界 🙂");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let text = "\u{202e}\u{e0001}\u{9b}é";
        let shown = json_line(&text).unwrap();
        assert!(shown.trim_end().chars().all(is_plain), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
    }

    #[test]
    fn sizes_have_three_digits() {
        let cases = [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (9_994, "9.99 kB"), (12_345_678, "12.3 MB")];
        for (bytes, shown) in cases {
            assert_eq!(size(bytes), shown);
        }
        assert_eq!(size(999_600), "1.00 MB");
        assert_eq!(size(165_000_000), "165 MB");
        assert_eq!(size(u64::MAX), "18.4 EB");
    }

    #[test]
    fn durations_are_read_at_a_glance() {
        assert_eq!(duration(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 5 s");
        assert_eq!(duration(Duration::from_secs(4800)), "1 h 20 min");
    }

    #[test]
    fn a_hundred_percent_is_only_all() {
        assert_eq!(percent(999, 1000), 99);
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
    }

    #[test]
    fn wide_characters_count_twice_when_text_is_cut() {
        assert_eq!(shorten("世界世界", 5), "世界…");
        assert_eq!(shorten("abc", 3), "abc");
        assert_eq!(shorten("abcd", 3), "ab…");
        assert_eq!(shorten("abcd", 0), "");
    }

    #[test]
    fn cells_line_up() {
        let rows = [vec!["A".into(), "B".into()], vec!["ccc".into(), "d".into()]];
        assert_eq!(table(&rows), "A    B\nccc  d\n");
    }

    #[test]
    fn a_tag_of_a_hostile_registry_stays_on_its_line() {
        assert_eq!(lines(&["1".into(), "2\n\u{1b}[31m".into()]), "1\n2\\n\\u{1b}[31m\n");
        assert_eq!(lines(&[]), "");
    }
}
