//! Answers: what their status means, what their error bodies say, what their headers tell beside it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, RETRY_AFTER, WARNING};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::failed::fault;
use super::secret::Told;
use crate::error::{Error, Fault, Result};
use crate::event::{Event, Events};

const MAX_ERROR_BODY: usize = 64 * 1024;
const MAX_MESSAGE: usize = 1024;
/// No server is believed when it asks for more patience than a day.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the body of an error may take: it only decorates a message.
const ERROR_BODY_TIME: Duration = Duration::from_secs(5);

/// An answer whose head has come.
pub(super) struct Answer {
    pub(super) response: reqwest::Response,
    /// Who answered, after redirects.
    pub(super) url: Url,
    /// The host, in messages.
    pub(super) place: String,
    /// What was asked for, in messages.
    pub(super) what: String,
    /// What the server was told and might repeat.
    pub(super) told: Told,
    /// How long nothing may come.
    pub(super) stall: Duration,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// `Content-Length`, if there is a usable one.
    pub(super) fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// An error that this answer's head or body makes no sense.
    pub(super) fn protocol(&self, why: impl Into<String>) -> Error {
        self.fault(Fault::Protocol(why.into()))
    }

    /// A network error about this answer.
    pub(super) fn fault(&self, fault: Fault) -> Error {
        Error::network(&self.place, &self.what, fault)
    }

    /// The whole body.
    ///
    /// # Errors
    /// `Invalid` when it is larger than `limit` bytes; nothing beyond is read.
    pub(super) async fn bytes(mut self, limit: usize) -> Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let piece = self.response.chunk().await.map_err(|e| fault(&self.place, &self.what, e, self.stall))?;
            let Some(piece) = piece else { return Ok(body.freeze()) };
            if body.len() + piece.len() > limit {
                let why = format!("the answer is larger than the {limit} bytes that are read");
                return Err(Error::Invalid { what: self.what, place: self.place, why });
            }
            body.extend_from_slice(&piece);
        }
    }

    /// Reads what is said about a failure and names the failure by what the caller can do.
    pub(super) async fn into_error(self) -> Error {
        let (status, place, what) = (self.status(), self.place.clone(), self.what.clone());
        let retry_after = self.header(RETRY_AFTER.as_str()).and_then(parse_retry_after);
        let why = self.message().await;
        match status.as_u16() {
            404 | 410 => Error::NotFound { what, place, why },
            401 | 403 => Error::Unauthorized { what, place, why },
            408 | 429 | 500..=599 => {
                tracing::debug!(status = status.as_u16(), host = %place, "busy");
                Error::Busy { what, place, status: status.as_u16(), retry_after, why }
            }
            200..=399 => Error::network(place, what, Fault::Protocol(format!("HTTP {}", status.as_u16()))),
            code => Error::Invalid { what, place, why: said(code, &why) },
        }
    }

    /// The first words of an error body, or nothing. Bounded in size and time.
    async fn message(self) -> String {
        let mut response = self.response;
        let mut body = Vec::new();
        let read = async {
            while let Ok(Some(piece)) = response.chunk().await {
                let room = MAX_ERROR_BODY - body.len();
                body.extend_from_slice(&piece[..piece.len().min(room)]);
                if body.len() == MAX_ERROR_BODY {
                    break;
                }
            }
        };
        // What came until then is enough.
        let _ = tokio::time::timeout(ERROR_BODY_TIME, read).await;
        self.told.hidden_in(&error_message(&body))
    }
}

fn said(code: u16, why: &str) -> String {
    if why.is_empty() { format!("HTTP {code}") } else { format!("HTTP {code}: {why}") }
}

/// The error envelope (distribution-spec, "Error Codes"), read leniently.
#[derive(Deserialize)]
struct Envelope {
    errors: Vec<serde_json::Value>,
}

/// `code: message` of every error in the body; nothing when the body is no envelope.
fn error_message(body: &[u8]) -> String {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else { return String::new() };
    let text = |error: &serde_json::Value, name: &str| error.get(name)?.as_str().map(str::to_owned);
    let lines: Vec<String> = envelope
        .errors
        .iter()
        .filter_map(|error| match (text(error, "code"), text(error, "message")) {
            (Some(code), Some(message)) => Some(format!("{code}: {message}")),
            (code, message) => message.or(code),
        })
        .collect();
    cut(&lines.join("; "), MAX_MESSAGE)
}

/// At most `limit` bytes of a text, whole characters.
pub(super) fn cut(text: &str, limit: usize) -> String {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

/// `Retry-After` as seconds or as a date (RFC 9110, 10.2.3).
fn parse_retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More seconds than a number holds are as good as the most.
        text.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        date.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// What answers tell beside their content: warnings, and that few requests are left; each shown once.
pub(super) struct Notices {
    events: Events,
    warned: Mutex<HashSet<String>>,
}

const MAX_WARNINGS: usize = 64;
/// Fewer requests than this are few, whatever the limit is.
const FEW_REQUESTS: u64 = 10;

impl Notices {
    pub(super) fn new(events: Events) -> Notices {
        Notices { events, warned: Mutex::default() }
    }

    /// Shows what happened.
    pub(super) fn tell(&self, event: &Event) {
        self.events.on(event);
    }

    /// Shows a warning that was not shown before.
    pub(super) fn warn(&self, text: String) {
        self.warn_of(text.clone(), text);
    }

    /// Shows a warning, unless one of the same `subject` was shown before.
    fn warn_of(&self, subject: String, text: String) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() < MAX_WARNINGS && warned.insert(subject) {
            self.events.on(&Event::Warning { text });
        }
    }

    pub(super) fn read(&self, place: &str, headers: &HeaderMap, told: &Told) {
        for warning in headers.get_all(WARNING) {
            if let Some(text) = warning.to_str().ok().and_then(warning_text) {
                self.warn(format!("{place}: {}", told.hidden_in(&text)));
            }
        }
        if let Some(few) = few_left(headers) {
            self.warn_of(format!("the rate limit of {place}"), format!("{place} allows {few}"));
        }
    }
}

/// `299 - "text"` (distribution-spec, "Warnings").
fn warning_text(header: &str) -> Option<String> {
    let quoted = header.trim().strip_prefix("299 ")?.split_once('"')?.1;
    let text = quoted.strip_suffix('"')?.replace("\\\"", "\"").replace("\\\\", "\\");
    Some(cut(&text, MAX_MESSAGE))
}

/// What is left of a rate limit, as Docker Hub tells it in `ratelimit-*` headers, when it is less than a tenth or less than ten.
fn few_left(headers: &HeaderMap) -> Option<String> {
    let read = |name: &str| counted(headers.get(name)?.to_str().ok()?);
    let ((remaining, window), (limit, _)) = (read("ratelimit-remaining")?, read("ratelimit-limit")?);
    if remaining.saturating_mul(10) >= limit && remaining >= FEW_REQUESTS {
        return None;
    }
    let window = match window.map(|window| window.as_secs()) {
        None => String::new(),
        Some(seconds) if seconds % 3600 == 0 => format!(" in {} h", seconds / 3600),
        Some(seconds) => format!(" in {seconds} s"),
    };
    Some(format!("{remaining} more of {limit} requests{window}"))
}

/// `99;w=21600`: a number and a window in seconds.
fn counted(text: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = text.split(';').map(str::trim);
    let number = parts.next()?.parse().ok()?;
    let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok()).map(Duration::from_secs);
    Some((number, window))
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn the_envelope_is_read_leniently() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":[1]},{"code":"X"},7]}"#;
        assert_eq!(error_message(body), "MANIFEST_UNKNOWN: manifest unknown; X");
        assert_eq!(error_message(b"<html>no</html>"), "");
        assert_eq!(error_message(b""), "");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "ä".repeat(5000));
        assert_eq!(error_message(long.as_bytes()).len(), MAX_MESSAGE);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        assert_eq!(parse_retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("99999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(parse_retry_after("99999999999999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        let wait = parse_retry_after(&soon).unwrap();
        assert!(wait > Duration::from_secs(90) && wait <= Duration::from_secs(100), "{wait:?}");
        assert_eq!(parse_retry_after("-1"), None);
        assert_eq!(parse_retry_after("soon"), None);
    }

    #[test]
    fn only_a_299_warning_is_a_warning() {
        assert_eq!(warning_text(r#"299 - "old \"thing\"""#).as_deref(), Some("old \"thing\""));
        assert_eq!(warning_text(r#"110 - "stale""#), None);
        assert_eq!(warning_text("299 - bare"), None);
    }

    #[test]
    fn few_requests_left_are_read_from_docker_hubs_headers() {
        let few = |limit: &'static str, remaining: &'static str| {
            let header = |name, value: &'static str| (HeaderName::from_static(name), HeaderValue::from_static(value));
            few_left(
                &[header("ratelimit-limit", limit), header("ratelimit-remaining", remaining)].into_iter().collect(),
            )
        };
        assert_eq!(few("100;w=21600", "9;w=21600").as_deref(), Some("9 more of 100 requests in 6 h"));
        assert_eq!(few("100", "0").as_deref(), Some("0 more of 100 requests"));
        assert_eq!(few("100;w=21600", "10;w=21600"), None);
        assert_eq!(few("20;w=60", "9;w=60").as_deref(), Some("9 more of 20 requests in 60 s"));
        assert_eq!(few("many", "1"), None);
        assert_eq!(few_left(&HeaderMap::new()), None);
    }
}
