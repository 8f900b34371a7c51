//! How a request failed, as its client says it.

use std::time::Duration;

use crate::error::{Error, Fault};

/// What a client says of a request that failed. Its own words are left out where they name the address, which may hold a
/// signature.
pub(super) struct Failed<'a> {
    cause: Option<&'a (dyn std::error::Error + 'static)>,
    connecting: bool,
    in_silence: bool,
}

impl<'a> Failed<'a> {
    /// Of a request by reqwest, or of a body.
    pub(super) fn of_reqwest(error: &'a reqwest::Error) -> Failed<'a> {
        Failed {
            cause: std::error::Error::source(error),
            connecting: error.is_connect(),
            in_silence: error.is_timeout(),
        }
    }

    /// Of a request by hyper's client.
    pub(super) fn of_hyper(error: &'a hyper_util::client::legacy::Error) -> Failed<'a> {
        Failed { cause: Some(error), connecting: error.is_connect(), in_silence: timed_out(error) }
    }

    /// As a network error. `stall` is how long nothing may come.
    pub(super) fn named(&self, place: &str, what: &str, stall: Duration) -> Error {
        let text = causes(self.cause);
        let fault = match self.connecting {
            false if self.in_silence => Fault::Stalled(stall),
            // With TLS 1.3 a refusal of the client comes after the handshake, and may be lost together with the connection.
            false if self.cause.is_some_and(was_hung_up) => Fault::Broken(
                "the server hung up before it took the request, as it does when it wants another certificate of the client \
                 (--cert-dir)"
                    .into(),
            ),
            false => Fault::Broken(text),
            // Later a broken record is a broken connection.
            true if self.cause.is_some_and(comes_from_tls) => Fault::Tls(text),
            true => Fault::Connect(text),
        };
        Error::network(place, what, fault)
    }
}

/// Turns what reqwest says of a body into a network error. `stall` is how long nothing may come.
pub(super) fn fault(place: &str, what: &str, error: reqwest::Error, stall: Duration) -> Error {
    Failed::of_reqwest(&error).named(place, what, stall)
}

/// An error and the causes below it, each once.
pub(super) fn causes(first: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = first;
    while let Some(cause) = next {
        let text = cause.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = cause.source();
    }
    if texts.is_empty() { "the request could not be sent".into() } else { texts.join(": ") }
}

/// Whether a connection ended when it was made, and nobody knows why.
fn was_hung_up(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
        || error.source().is_some_and(was_hung_up)
}

/// Whether nothing came for too long.
fn timed_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_late = |error: &std::io::Error| error.kind() == std::io::ErrorKind::TimedOut;
    error.downcast_ref().is_some_and(is_late) || error.source().is_some_and(timed_out)
}

/// An `io::Error` hides the error that it wraps from `source`.
fn comes_from_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>()
        || wrapped.is_some_and(|inner| comes_from_tls(inner))
        || error.source().is_some_and(comes_from_tls)
}
