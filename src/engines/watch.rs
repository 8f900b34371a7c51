//! How long an engine is waited for.

use std::future::Future;
use std::time::Duration;

use crate::error::{Error, Fault, Result};

/// How long a question may take.
pub(super) const QUESTION: Duration = Duration::from_secs(120);
/// How long nothing may move while an engine takes an archive. It unpacks layers when it has them all, and says nothing
/// meanwhile.
pub(super) const STANDSTILL: Duration = Duration::from_secs(30 * 60);

/// The result of `work`, unless what `progress` says stays the same for `limit`.
///
/// # Errors
/// `Network` when it does.
pub(super) async fn watched<T>(
    work: impl Future<Output = Result<T>>,
    progress: impl Fn() -> u64,
    limit: Duration,
    place: &str,
) -> Result<T> {
    let standstill = async {
        let mut seen = progress();
        loop {
            tokio::time::sleep(limit).await;
            if progress() == seen {
                return;
            }
            seen = progress();
        }
    };
    tokio::select! {
        result = work => result,
        () = standstill => Err(Error::network(place, "loading", Fault::Stalled(limit))),
    }
}

/// The answer to a question.
///
/// # Errors
/// `Network` when none comes in two minutes.
pub(super) async fn answered<T>(work: impl Future<Output = Result<T>>, place: &str, what: &str) -> Result<T> {
    match tokio::time::timeout(QUESTION, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::network(place, what, Fault::Stalled(QUESTION))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_waited_for_and_what_stands_still_is_given_up() {
        let moved = AtomicU64::new(0);
        let slow = async {
            for _ in 0..10 {
                tokio::time::sleep(STANDSTILL / 2).await;
                moved.fetch_add(1, Ordering::Relaxed);
            }
            Ok(7)
        };
        let progress = || moved.load(Ordering::Relaxed);
        assert_eq!(watched(slow, progress, STANDSTILL, "x").await.unwrap(), 7);
        let stuck = watched(std::future::pending::<Result<()>>(), progress, STANDSTILL, "x").await.unwrap_err();
        assert!(matches!(stuck, Error::Network { fault: Fault::Stalled(_), .. }), "{stuck}");
        assert!(answered(std::future::pending::<Result<()>>(), "x", "images").await.is_err());
    }
}
