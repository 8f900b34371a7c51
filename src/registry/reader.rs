//! One of the hosts that an image may be read from, and when it is left for the next.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::auth::Access;
use super::hosts::{Capabilities, Endpoint, Role};
use super::session::Session;
use crate::error::{Error, Fault, Result};
use crate::event::Event;

/// A host and the repository at it.
pub(super) struct Reader {
    pub(super) session: Arc<Session>,
    pub(super) repository: String,
    pub(super) role: Role,
    pub(super) may: Capabilities,
}

impl Reader {
    pub(super) fn new(session: Arc<Session>, endpoint: Endpoint) -> Reader {
        Reader { session, repository: endpoint.repository, role: endpoint.role, may: endpoint.may }
    }

    /// What reading takes there.
    pub(super) fn access(&self) -> Access {
        Access::pull(&self.repository)
    }

    /// A mirror that failed is not asked again in this run. The registry is never left.
    pub(super) fn is_left(&self) -> bool {
        self.role == Role::Mirror && self.session.is_left()
    }

    /// It failed, and the next one is asked. That a mirror lacks something is no reason to leave it.
    fn passed_over(&self, error: &Error) {
        let host = self.session.registry().to_owned();
        let is_left = match judge(error) {
            Failure::Lacks => false,
            Failure::MayPass => self.session.failed(),
            Failure::Final => self.session.leave(),
        };
        tracing::debug!(%host, %error, is_left, "the next host is asked");
        let why = error.to_string();
        if is_left {
            self.session.http().notices().tell(&Event::Left { host, why });
        } else if judge(error) == Failure::MayPass {
            self.session.http().notices().tell(&Event::Retried { what: host, why, wait: Duration::ZERO });
        }
    }
}

/// What the failure of a mirror says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// It does not have everything.
    Lacks,
    /// It may answer the next time.
    MayPass,
    /// It cannot be reached, or lies, or does not let us in.
    Final,
}

fn judge(error: &Error) -> Failure {
    match error {
        Error::NotFound { .. } => Failure::Lacks,
        Error::Busy { .. } => Failure::MayPass,
        Error::Network { fault, .. } => match fault {
            Fault::Broken(_) | Fault::Length { .. } | Fault::Protocol(_) | Fault::Expired(_) => Failure::MayPass,
            Fault::Connect(_) | Fault::Tls(_) | Fault::Stalled(_) | Fault::Size { .. } => Failure::Final,
        },
        _ => Failure::Final,
    }
}

/// Asks `readers` one after the other until one succeeds; the last one's failure is that of all.
///
/// # Errors
/// What the last one failed with.
pub(super) async fn first<'r, T, F>(mut readers: Vec<&'r Reader>, ask: impl Fn(&'r Reader) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    readers.retain(|reader| !reader.is_left());
    let last = readers.len().saturating_sub(1);
    for (at, reader) in readers.into_iter().enumerate() {
        match ask(reader).await {
            Ok(found) => {
                reader.session.served();
                return Ok(found);
            }
            Err(error) if at < last => reader.passed_over(&error),
            Err(error) => return Err(error),
        }
    }
    Err(Error::Usage("none of the hosts may be asked".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_that_lacks_something_stays_and_one_that_lies_or_is_not_there_does_not() {
        let network = |fault| Error::network("h", "blob", fault);
        let gone = Error::NotFound { what: "x".into(), place: "h".into(), why: String::new() };
        let lie = Error::Verification { what: "x".into(), place: "h".into(), why: String::new() };
        let busy =
            Error::Busy { what: "x".into(), place: "h".into(), status: 503, retry_after: None, why: String::new() };
        for (error, expected) in [
            (gone, Failure::Lacks),
            (busy, Failure::MayPass),
            (network(Fault::Broken("reset".into())), Failure::MayPass),
            (network(Fault::Connect("refused".into())), Failure::Final),
            (network(Fault::Size { got: 1, expected: 2 }), Failure::Final),
            (lie, Failure::Final),
        ] {
            assert_eq!(judge(&error), expected, "{error}");
        }
    }
}
