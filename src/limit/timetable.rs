//! Rates by the time of day and week: `08:00,2M 18:00,off`, `Mon-Fri 08:00,2M 18:00,off`.

use std::fmt;

use jiff::civil::{Time, Weekday};
use jiff::{Timestamp, ToSpan as _, Zoned};

use super::rate::Rates;

/// A week has no need for more.
const MOST_ENTRIES: usize = 200;
const EVERY_DAY: u8 = 0b111_1111;
const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Which rates hold when, by the clock on the wall. Before the first entry of the week the last one holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable {
    /// What holds where there are no entries.
    always: Rates,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// One bit a day, Monday's the lowest.
    days: u8,
    begins: Time,
    rates: Rates,
}

impl Timetable {
    /// These rates at any time.
    pub fn always(rates: Rates) -> Timetable {
        Timetable { always: rates, entries: Vec::new() }
    }

    /// Reads one pair of rates, or entries `HH:MM[:SS],RATES` parted by spaces. Days (`Mon-Fri`, `Sat,Sun`, `daily`)
    /// hold for the entries behind them.
    ///
    /// # Errors
    /// What is wrong with the text, for a person.
    pub fn parse(text: &str) -> Result<Timetable, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        if let [one] = words[..]
            && entry(EVERY_DAY, one).is_none()
        {
            return Rates::parse(one).map(Timetable::always);
        }
        let (mut days, mut entries) = (EVERY_DAY, Vec::new());
        for word in words {
            match (weekdays(word), entry(days, word)) {
                (Some(these), _) => days = these,
                (None, Some(entry)) => entries.push(entry?),
                (None, None) => return Err(format!("{word:?}: expected HH:MM,RATE, or days such as Mon-Fri")),
            }
        }
        match entries.len() {
            0 => Err("expected a rate such as 10M, or a timetable such as \"08:00,2M 18:00,off\"".into()),
            1..=MOST_ENTRIES => Ok(Timetable { always: Rates::OFF, entries }),
            _ => Err(format!("a timetable has at most {MOST_ENTRIES} entries")),
        }
    }

    /// The rates that hold at `now`.
    pub fn at(&self, now: &Zoned) -> Rates {
        // What began last, up to a week ago.
        (0..=7).find_map(|back| self.latest(now, back)).unwrap_or(self.always)
    }

    /// Whether it never changes and never limits.
    pub fn is_off(&self) -> bool {
        self.always == Rates::OFF && self.entries.iter().all(|entry| entry.rates == Rates::OFF)
    }

    /// Whether the rates depend on the time.
    pub fn changes(&self) -> bool {
        !self.entries.is_empty()
    }

    /// The rates of the last entry that began by `now` on the day so many days before.
    fn latest(&self, now: &Zoned, back: i64) -> Option<Rates> {
        let day = now.date().checked_sub(back.days()).ok()?;
        let bit = 1 << day.weekday().since(Weekday::Monday);
        let begun = self.entries.iter().filter(|entry| entry.days & bit != 0).filter_map(|entry| {
            // A time that the clocks skip begins as much later; one that comes twice, the first time.
            let at = day.to_datetime(entry.begins).to_zoned(now.time_zone().clone()).ok()?.timestamp();
            (at <= now.timestamp()).then_some((at, entry.rates))
        });
        // Of two entries for one time the later one in the text holds.
        let last = |found: Option<(Timestamp, Rates)>, next: (Timestamp, Rates)| match found {
            Some(found) if found.0 > next.0 => Some(found),
            _ => Some(next),
        };
        begun.fold(None, last).map(|(_, rates)| rates)
    }
}

impl fmt::Display for Timetable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entries.is_empty() {
            return write!(f, "{}", self.always);
        }
        let mut days = EVERY_DAY;
        for (number, entry) in self.entries.iter().enumerate() {
            if number > 0 {
                f.write_str(" ")?;
            }
            if entry.days != days {
                days = entry.days;
                write!(f, "{} ", show_days(days))?;
            }
            let format = if entry.begins.second() == 0 { "%H:%M" } else { "%H:%M:%S" };
            write!(f, "{},{}", entry.begins.strftime(format), entry.rates)?;
        }
        Ok(())
    }
}

/// `None`: the word does not begin as an entry does.
fn entry(days: u8, word: &str) -> Option<Result<Entry, String>> {
    let (time, rates) =
        word.split_once(',').filter(|(time, _)| time.contains(':') && !time.starts_with(char::is_alphabetic))?;
    let Some(begins) = clock_time(time) else {
        return Some(Err(format!("{time:?} is no time of day: expected HH:MM from 00:00 to 23:59")));
    };
    Some(Rates::parse(rates).map(|rates| Entry { days, begins, rates }))
}

fn clock_time(text: &str) -> Option<Time> {
    let number = |part: &str| {
        let is_number = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<i8>().ok().filter(|_| is_number)
    };
    let parts: Vec<i8> = text.split(':').map(number).collect::<Option<_>>()?;
    match parts[..] {
        [hour, minute] => Time::new(hour, minute, 0, 0).ok(),
        [hour, minute, second] => Time::new(hour, minute, second, 0).ok(),
        _ => None,
    }
}

/// `Mon-Fri`, `Sat,Sun`, `daily`; a span may go over the end of the week.
fn weekdays(word: &str) -> Option<u8> {
    let word = word.to_ascii_lowercase();
    if word == "daily" {
        return Some(EVERY_DAY);
    }
    let day = |name: &str| NAMES.iter().position(|known| *known == name);
    word.split(',').try_fold(0, |days, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let span = (last + 7 - first) % 7;
        Some((0..=span).fold(days, |days, step| days | 1 << ((first + step) % 7)))
    })
}

fn show_days(days: u8) -> String {
    if days == EVERY_DAY {
        return "daily".into();
    }
    let names = NAMES.iter().enumerate().filter(|(number, _)| days & (1 << number) != 0);
    let names = names.map(|(_, name)| format!("{}{}", name[..1].to_uppercase(), &name[1..]));
    names.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(table: &str, now: &str) -> String {
        let now: Zoned = now.parse().unwrap();
        Timetable::parse(table).unwrap().at(&now).to_string()
    }

    #[test]
    fn the_entry_that_began_last_holds() {
        let table = "08:00,2M 18:00,off";
        assert_eq!(at(table, "2026-11-21T08:00[UTC]"), "2M");
        assert_eq!(at(table, "2026-11-21T17:59:59[UTC]"), "2M");
        assert_eq!(at(table, "2026-11-21T18:00[UTC]"), "off");
        assert_eq!(at(table, "2026-11-21T07:59[UTC]"), "off");
        assert_eq!(at("12:00:30,1M", "2026-11-21T12:00:29[UTC]"), "1M");
    }

    #[test]
    fn days_hold_for_the_entries_behind_them() {
        // 2026-11-20 is a Friday.
        let table = "Mon-Fri 08:00,2M 18:00,5M Sat,Sun 00:00,off";
        assert_eq!(at(table, "2026-11-20T09:00[UTC]"), "2M");
        assert_eq!(at(table, "2026-11-20T23:00[UTC]"), "5M");
        assert_eq!(at(table, "2026-11-21T00:00[UTC]"), "off");
        assert_eq!(at(table, "2026-11-23T07:59[UTC]"), "off");
        assert_eq!(at(table, "2026-11-23T08:00[UTC]"), "2M");
        assert_eq!(at("Mon 08:00,2M", "2026-11-22T00:00[UTC]"), "2M");
        assert_eq!(at("Sat-Mon 00:00,2M Tue 00:00,off", "2026-11-22T09:00[UTC]"), "2M");
    }

    #[test]
    fn the_clock_on_the_wall_counts_also_when_it_is_changed() {
        let table = "02:30,1M 03:30,2M 05:00,off";
        // Clocks go from 02:00 to 03:00: 02:30 does not exist, and 03:30 is half an hour later.
        assert_eq!(at(table, "2026-03-29T03:29[Europe/Berlin]"), "off");
        assert_eq!(at(table, "2026-03-29T03:30[Europe/Berlin]"), "2M");
        // Clocks go from 03:00 back to 02:00: 02:30 began the first time.
        assert_eq!(at(table, "2026-10-25T02:20+02:00[Europe/Berlin]"), "off");
        assert_eq!(at(table, "2026-10-25T02:40+02:00[Europe/Berlin]"), "1M");
        assert_eq!(at("02:30,1M 12:00,off", "2026-10-25T02:10+01:00[Europe/Berlin]"), "1M");
    }

    #[test]
    fn one_pair_of_rates_is_a_timetable_too() {
        assert_eq!(at("down:2M,up:1M", "2026-11-20T09:00[UTC]"), "down:2M,up:1M");
        assert_eq!(at("08:00,down:2M,up:1M", "2026-11-20T09:00[UTC]"), "down:2M,up:1M");
        assert!(Timetable::parse("off").unwrap().is_off());
        assert!(!Timetable::parse("08:00,1M 09:00,off").unwrap().is_off());
    }

    #[test]
    fn timetables_are_shown_as_they_are_read() {
        for text in ["10M", "08:00,2M 18:00,off", "Mon,Tue 08:00:30,2M daily 18:00,up:1M", "off"] {
            assert_eq!(Timetable::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_timetable_is_refused() {
        for text in
            ["", "Mon-Fri", "25:00,1M", "08:00", "08:00,fast", "Mon-Foo 08:00,1M", "1M 2M", "8:0:0:0,1M", "+8:00,1M"]
        {
            assert!(Timetable::parse(text).is_err(), "{text}");
        }
        assert!(Timetable::parse(&"08:00,1M ".repeat(201)).unwrap_err().contains("at most 200"));
    }
}
