//! Patience: how often and after which pauses something is tried again. Nothing below this module repeats anything.

use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::{Settings, Transfer};
use crate::error::{Error, Fault, Result};
use crate::event::Event;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How many stall times a small request may take in all: one that only drips is cut as well.
const SMALL_REQUEST_STALLS: u32 = 6;

/// Counts failures in a row. Progress renews it.
#[derive(Debug)]
pub(super) struct Patience {
    retries: u32,
    longest_asked: Duration,
    pauses: ExponentialBackoff,
}

impl Patience {
    pub(super) fn new(settings: &Settings) -> Patience {
        Patience {
            retries: settings.retries,
            longest_asked: settings.max_retry_after,
            pauses: pauses(settings.retries),
        }
    }

    /// Something moved: failures before this do not count any more.
    pub(super) fn renew(&mut self) {
        self.pauses = pauses(self.retries);
    }

    /// How long to wait before the next attempt, or the error if there is to be none.
    pub(super) fn after(&mut self, error: Error) -> Result<(Duration, Error)> {
        if !error.is_transient() {
            return Err(error);
        }
        let asked = error.retry_after().unwrap_or_default();
        if asked > self.longest_asked {
            return Err(error);
        }
        match self.pauses.next() {
            Some(pause) => Ok((pause.max(asked), error)),
            None => Err(error),
        }
    }
}

fn pauses(retries: u32) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_max_times(retries as usize)
        .with_jitter()
        .build()
}

impl Transfer {
    /// Repeats a small request until it succeeds or patience ends. Ends at once when the transfer is cancelled.
    pub async fn persist<T, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut patience = Patience::new(&self.settings);
        let limit = self.settings.stall * SMALL_REQUEST_STALLS;
        loop {
            let outcome = tokio::select! {
                outcome = tokio::time::timeout(limit, attempt()) => outcome,
                () = self.cancel.cancelled() => return Err(Error::Interrupted),
            };
            let late = || Fault::Protocol(format!("not complete after {} s", limit.as_secs_f32()));
            let outcome = outcome.unwrap_or_else(|_| Err(Error::network(what, "answer", late())));
            let error = match outcome {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let (wait, error) = patience.after(error)?;
            self.events.on(&Event::Retried { what: what.into(), why: error.to_string(), wait });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.cancel.cancelled() => return Err(Error::Interrupted),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(retry_after: Option<u64>) -> Error {
        let retry_after = retry_after.map(Duration::from_secs);
        Error::Busy { what: "x".into(), place: "h".into(), status: 429, retry_after, why: String::new() }
    }

    #[test]
    fn patience_ends_after_the_stated_failures_and_progress_renews_it() {
        let mut patience = Patience::new(&Settings { retries: 2, ..Settings::default() });
        assert!(patience.after(busy(None)).is_ok());
        assert!(patience.after(busy(None)).is_ok());
        assert!(patience.after(busy(None)).is_err());
        patience.renew();
        assert!(patience.after(busy(None)).is_ok());
    }

    #[test]
    fn a_server_is_obeyed_up_to_a_minute_and_refused_beyond() {
        let mut patience = Patience::new(&Settings::default());
        let (wait, _) = patience.after(busy(Some(60))).unwrap();
        assert_eq!(wait, Duration::from_secs(60));
        assert!(patience.after(busy(Some(61))).is_err());
    }

    #[test]
    fn what_cannot_get_better_is_not_repeated() {
        let mut patience = Patience::new(&Settings::default());
        let error = Error::NotFound { what: "x".into(), place: "h".into(), why: String::new() };
        assert!(patience.after(error).is_err());
    }
}
