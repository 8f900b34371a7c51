//! What the values of settings look like as text.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::progress::Mode;

/// A positive number up to `MAX`.
pub fn count<const MAX: usize>(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (1..=MAX).contains(&n) => Ok(n),
        _ => Err(format!("expected a number from 1 to {MAX}")),
    }
}

/// How often something may fail in a row: 0 to 1000.
pub fn retries(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(n) if n <= 1000 => Ok(n),
        _ => Err("expected a number from 0 to 1000".into()),
    }
}

/// A duration from 1 ms to a day: `20s`, `500ms`, `2m`, `1h`; a number alone means seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let wrong = || String::from("expected a duration of at most a day, such as 20s, 500ms or 2m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let milliseconds = match text[digits..].trim_start() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let time = Duration::from_millis(number.saturating_mul(milliseconds));
    if time.is_zero() || time > DAY { Err(wrong()) } else { Ok(time) }
}

/// A duration in the form that [`duration`] reads.
pub fn show_duration(time: &Duration) -> String {
    match time.as_millis() {
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// `true` or `false`.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

/// A path; `~/` is the home directory.
pub fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("expected a path".into());
    }
    match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => Ok(home.join(rest)),
        _ => Ok(text.into()),
    }
}

/// How progress is shown.
pub fn progress(text: &str) -> Result<Mode, String> {
    <Mode as clap::ValueEnum>::from_str(text, false).map_err(|_| "expected auto, bars, plain, json or none".into())
}

/// Which hosts are spoken to without TLS, or with certificates that nobody vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Insecure {
    /// None but the loopback.
    No,
    /// Every registry of this command.
    Every,
    /// These: `host` or `host:port`.
    Hosts(Vec<String>),
}

/// `true`, `false`, or hosts.
pub fn insecure(texts: &[String]) -> Result<Insecure, String> {
    match texts {
        [] => Ok(Insecure::No),
        [one] if switch(one).is_ok() => switch(one).map(|on| if on { Insecure::Every } else { Insecure::No }),
        hosts if hosts.iter().all(|host| is_host(host)) => Ok(Insecure::Hosts(hosts.to_vec())),
        _ => Err("expected true, false, or hosts such as registry.example:5000".into()),
    }
}

fn is_host(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    !text.is_empty() && text.bytes().all(is_part)
}

/// A user name and a password, which no output ever shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:***", self.user)
    }
}

/// `USER:PASSWORD`, parted at the first colon.
pub fn credentials(text: &str) -> Result<Credentials, String> {
    match text.split_once(':') {
        Some((user, password)) if !user.is_empty() && !password.is_empty() => {
            Ok(Credentials { user: user.into(), password: password.into() })
        }
        // The text is not repeated: it may be a password.
        _ => Err("expected USER:PASSWORD".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_they_are_shown() {
        for (text, ms) in [("20s", 20_000), ("500ms", 500), ("2m", 120_000), ("7", 7000), ("1h", 3_600_000)] {
            let time = duration(text).unwrap();
            assert_eq!(time, Duration::from_millis(ms));
            assert_eq!(duration(&show_duration(&time)), Ok(time));
        }
        for bad in ["", "s", "-1s", "1.5s", "0s", "25h", "99999999999999999999s", "18446744073709551615h", "5 days"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_may_hold_colons_and_is_never_shown() {
        let credentials = credentials("me:a:b").unwrap();
        assert_eq!(credentials.password, "a:b");
        assert_eq!(format!("{credentials:?}"), "me:***");
        assert_eq!(super::credentials("secret"), Err("expected USER:PASSWORD".into()));
    }

    #[test]
    fn insecure_is_a_switch_or_a_list_of_hosts() {
        let read = |texts: &[&str]| insecure(&texts.iter().map(|t| t.to_string()).collect::<Vec<_>>());
        assert_eq!(read(&["true"]), Ok(Insecure::Every));
        assert_eq!(read(&["false"]), Ok(Insecure::No));
        assert_eq!(read(&["a:5000", "[::1]"]), Ok(Insecure::Hosts(vec!["a:5000".into(), "[::1]".into()])));
        assert!(read(&["http://a"]).is_err());
    }
}
