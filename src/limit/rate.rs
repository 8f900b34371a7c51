//! Rates and amounts as text: `10M`, `10MiB`, `80Mbit`, `off`, `down:10M,up:2M`.

use std::fmt;
use std::num::NonZeroU64;

/// The least rate, in bytes a second: below it requests alone would take minutes.
const LEAST: u64 = 10_000;
/// The largest amount and rate that is read, in bytes: sums of a few stay far from the end of the number.
const MOST: f64 = 1e15;

/// Bytes a second, at least 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// So many bytes a second, but no fewer than can be kept.
    pub fn new(bytes: u64) -> Rate {
        Rate(NonZeroU64::new(bytes.max(LEAST)).unwrap_or(NonZeroU64::MIN))
    }

    /// Bytes a second.
    pub fn bytes(self) -> u64 {
        self.0.get()
    }

    /// How many nanoseconds so many bytes take.
    pub fn cost(self, bytes: u64) -> u64 {
        let cost = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes());
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// How many nanoseconds the bytes take at another rate that take `cost` nanoseconds at this one.
    pub fn cost_at(self, cost: u64, other: Rate) -> u64 {
        let cost = u128::from(cost) * u128::from(self.bytes()) / u128::from(other.bytes());
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// Reads `10M`, `10MB/s`, `10MiB`, `80Mbit`.
    ///
    /// # Errors
    /// What is wrong with the text, for a person.
    pub fn parse(text: &str) -> Result<Rate, String> {
        let wrong = || format!("{text:?} is no rate: expected bytes a second such as 500k, 10M or 10MiB, or 80Mbit");
        let lower = text.to_ascii_lowercase();
        let bare = lower.strip_suffix("/s").unwrap_or(&lower);
        let bits = ["bit", "bits", "bps"].iter().find_map(|unit| bare.strip_suffix(unit));
        let is_unclear = bits.is_none() && text.trim_end_matches("/s").ends_with('b');
        if is_unclear {
            return Err(format!("{text:?}: say whether bits or bytes are meant: Mbit, or MB"));
        }
        let bytes = match bits {
            Some(bits) => number(bits).map(|bits| bits / 8.0),
            None => number(bare.strip_suffix('b').unwrap_or(bare)),
        };
        match bytes.ok_or_else(wrong)? {
            bytes if bytes < LEAST as f64 => Err(format!("{text:?} is too slow: the least is {LEAST} bytes a second")),
            bytes => Ok(Rate::new(bytes as u64)),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(self.bytes()))
    }
}

/// What holds in each direction; `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// What comes here.
    pub down: Option<Rate>,
    /// What goes away.
    pub up: Option<Rate>,
}

impl Rates {
    /// No limit at all.
    pub const OFF: Rates = Rates { down: None, up: None };

    /// Reads `off`, one rate for each direction, or `down:RATE,up:RATE`, of which one may be left out.
    ///
    /// # Errors
    /// What is wrong with the text, for a person.
    pub fn parse(text: &str) -> Result<Rates, String> {
        if !text.contains(':') {
            let both = rate_or_off(text)?;
            return Ok(Rates { down: both, up: both });
        }
        let mut rates = [None, None];
        for part in text.split(',') {
            let (place, rate) = match part.split_once(':') {
                Some(("down", rate)) => (0, rate),
                Some(("up", rate)) => (1, rate),
                _ => return Err(format!("{part:?}: expected down:RATE or up:RATE")),
            };
            if rates[place].replace(rate_or_off(rate)?).is_some() {
                return Err(format!("{text:?} says the same direction twice"));
            }
        }
        let [down, up] = rates.map(Option::flatten);
        Ok(Rates { down, up })
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.down, self.up) {
            (None, None) => f.write_str("off"),
            (Some(down), Some(up)) if down == up => write!(f, "{down}"),
            (Some(down), Some(up)) => write!(f, "down:{down},up:{up}"),
            (Some(down), None) => write!(f, "down:{down}"),
            (None, Some(up)) => write!(f, "up:{up}"),
        }
    }
}

fn rate_or_off(text: &str) -> Result<Option<Rate>, String> {
    if text.eq_ignore_ascii_case("off") { Ok(None) } else { Rate::parse(text).map(Some) }
}

/// Reads an amount of bytes: `5G`, `500MB`, `2GiB`.
///
/// # Errors
/// What is wrong with the text, for a person.
pub fn amount(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let bytes = number(lower.strip_suffix('b').unwrap_or(&lower));
    bytes
        .map(|bytes| bytes as u64)
        .ok_or_else(|| format!("{text:?} is no amount: expected bytes such as 500M, 5G or 2GiB"))
}

/// An amount in a form that [`amount`] reads.
pub fn show(bytes: u64) -> String {
    const UNITS: [(&str, u64); 8] = [
        ("T", 1_000_000_000_000),
        ("G", 1_000_000_000),
        ("M", 1_000_000),
        ("k", 1000),
        ("Ti", 1 << 40),
        ("Gi", 1 << 30),
        ("Mi", 1 << 20),
        ("Ki", 1 << 10),
    ];
    let unit = UNITS.iter().find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size));
    unit.map_or_else(|| bytes.to_string(), |(name, size)| format!("{}{name}", bytes / size))
}

/// A number with `k`, `M`, `G`, `T`, or the same with `i` for powers of 1024, in lower case.
fn number(text: &str) -> Option<f64> {
    let (text, base) = match text.strip_suffix('i') {
        Some(rest) => (rest, 1024_f64),
        None => (text, 1000.0),
    };
    let power = text.chars().last().and_then(|last| "kmgt".find(last));
    let digits = match power {
        Some(_) => &text[..text.len() - 1],
        None if base == 1024.0 => return None,
        None => text,
    };
    let is_plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value = digits.parse::<f64>().ok().filter(|_| is_plain)?;
    let value = value * base.powi(power.map_or(0, |power| power as i32 + 1));
    (value <= MOST).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Option<u64> {
        Rate::parse(text).ok().map(Rate::bytes)
    }

    #[test]
    fn bytes_and_bits_are_told_apart() {
        let known = [
            ("10M", 10_000_000),
            ("10MB", 10_000_000),
            ("10mb/s", 0),
            ("10MiB", 10_485_760),
            ("10Mi/s", 10_485_760),
            ("80Mbit", 10_000_000),
            ("80mbit/s", 10_000_000),
            ("80Mbps", 10_000_000),
            ("1.5M", 1_500_000),
            ("500k", 500_000),
            ("40960", 40_960),
            ("1G", 1_000_000_000),
        ];
        for (text, expected) in known {
            assert_eq!(bytes(text).unwrap_or(0), expected, "{text}");
        }
        assert!(Rate::parse("10Mb").unwrap_err().contains("bits or bytes"));
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", "M", "-1M", "fast", "1e6", "10X", "1..5M", "999999999T", "10i", "inf", "nan", "1 M", "99", "0"]
        {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn directions_may_have_rates_of_their_own() {
        let rates = Rates::parse("down:10M,up:2M").unwrap();
        assert_eq!((rates.down, rates.up), (Some(Rate::new(10_000_000)), Some(Rate::new(2_000_000))));
        assert_eq!(Rates::parse("up:1M").unwrap(), Rates { down: None, up: Some(Rate::new(1_000_000)) });
        assert_eq!(Rates::parse("3M").unwrap().up, Some(Rate::new(3_000_000)));
        assert_eq!(Rates::parse("OFF"), Ok(Rates::OFF));
        for text in ["down:1M,down:2M", "left:1M", "1M,2M", "down:"] {
            assert!(Rates::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_shown_as_they_are_read() {
        for text in ["10M", "10MiB", "80Mbit", "12345", "down:10M,up:2M", "up:1M", "off", "30k"] {
            let rates = Rates::parse(text).unwrap();
            assert_eq!(Rates::parse(&rates.to_string()), Ok(rates), "{text}");
        }
        assert_eq!(Rates::parse("80Mbit").unwrap().to_string(), "10M");
    }

    #[test]
    fn amounts_are_bytes() {
        assert_eq!(amount("5G"), Ok(5_000_000_000));
        assert_eq!(amount("2GiB"), Ok(2 << 30));
        assert_eq!(amount("0"), Ok(0));
        assert!(amount("5 gigabytes").is_err());
        assert!(amount("80Mbit").is_err());
    }
}
