//! What the values of settings look like as text.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::progress::Mode;
use crate::oci::Reference;
use crate::oci::reference::is_docker_hub;
use crate::registry::{Credential, Insecure, Mirror};

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

/// A number of bytes, at least 1 MB: `4G` and `650M` count in thousands, `4GiB` and `650MiB` in 1024s.
pub fn volume_size(text: &str) -> Result<u64, String> {
    let wrong = || String::from("expected a size of at least 1M, such as 4G, 4GiB or 650M");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit: u64 = match text[digits..].trim_end_matches('B') {
        "" => 1,
        "K" | "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).filter(|&size| size >= 1_000_000).ok_or_else(wrong)
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

/// `true`, `false`, or hosts.
pub fn insecure(texts: &[String]) -> Result<Insecure, String> {
    match texts {
        [] => Ok(Insecure::None),
        [one] if switch(one).is_ok() => switch(one).map(|on| if on { Insecure::All } else { Insecure::None }),
        hosts if hosts.iter().all(|host| is_host(host)) => Ok(Insecure::Hosts(hosts.to_vec())),
        _ => Err("expected true, false, or hosts such as registry.example:5000".into()),
    }
}

fn is_host(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    !text.is_empty() && text.bytes().all(is_part)
}

/// A registry as people name it: with or without scheme and path.
pub fn registry(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let bare = bare.split('/').next().unwrap_or_default();
    // Any repository will do: what is asked is whether a reference may name this host.
    let name = format!("{bare}/x").parse::<Reference>();
    match name {
        Ok(name) if name.registry() == bare || is_docker_hub(bare) => Ok(name.registry().into()),
        _ => Err("expected a registry such as registry.example or 127.0.0.1:5000".into()),
    }
}

/// `[PREFIX=]URL [resolve]`.
pub fn mirror(text: &str) -> Result<Mirror, String> {
    text.parse().map_err(|e: crate::registry::InvalidMirror| e.to_string())
}

/// `USER:PASSWORD`, parted at the first colon.
pub fn credentials(text: &str) -> Result<Credential, String> {
    match text.split_once(':') {
        Some((user, password)) if !user.is_empty() && !password.is_empty() => Ok(Credential::password(user, password)),
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
        assert_eq!(credentials, Credential::password("me", "a:b"));
        assert!(!format!("{credentials:?}").contains("a:b"));
        assert_eq!(super::credentials("secret"), Err("expected USER:PASSWORD".into()));
    }

    #[test]
    fn insecure_is_a_switch_or_a_list_of_hosts() {
        let read = |texts: &[&str]| insecure(&texts.iter().map(|t| t.to_string()).collect::<Vec<_>>());
        assert_eq!(read(&["true"]), Ok(Insecure::All));
        assert_eq!(read(&["false"]), Ok(Insecure::None));
        assert_eq!(read(&["a:5000", "[::1]"]), Ok(Insecure::Hosts(vec!["a:5000".into(), "[::1]".into()])));
        assert!(read(&["http://a"]).is_err());
    }

    #[test]
    fn registries_are_named_with_or_without_scheme() {
        assert_eq!(registry("https://h.example:5000/v2/"), Ok("h.example:5000".into()));
        assert_eq!(registry("index.docker.io"), Ok("docker.io".into()));
        assert_eq!(registry("localhost"), Ok("localhost".into()));
        for bad in ["", "mysql", "a b.c", "user@h.example", "../x"] {
            assert!(registry(bad).is_err(), "{bad}");
        }
    }
}
