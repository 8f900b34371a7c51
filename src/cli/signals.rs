//! SIGINT and SIGTERM: the first one asks everything to stop and save, a second one ends the process at once.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::{INTERRUPTED, TERMINATED};

/// How long saving may take after the first signal.
const GRACE: Duration = Duration::from_secs(2);

/// Watches for signals.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    cancel: CancellationToken,
    /// The exit code of the first signal; zero before it.
    code: Arc<AtomicU8>,
}

impl Signals {
    /// Begins to watch. The first signal cancels `cancel`.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn watch(cancel: CancellationToken) -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            cancel,
            code: Arc::default(),
        })
    }

    /// Runs `command` to its end, or until a signal ends it. Returns the exit code.
    pub async fn guard(mut self, command: impl Future<Output = u8>) -> u8 {
        let seen = self.code.clone();
        let by_signal = |code: u8| match seen.load(Ordering::Relaxed) {
            // Whatever the command makes of it, a stop that was asked for is told as such.
            signal if signal != 0 && code == INTERRUPTED => signal,
            _ => code,
        };
        tokio::select! {
            code = command => by_signal(code),
            code = self.forced() => code,
        }
    }

    /// Ends when waiting any longer would be impolite: at a second signal, or when the time to save is over.
    async fn forced(&mut self) -> u8 {
        let first = self.next().await;
        self.code.store(first, Ordering::Relaxed);
        self.cancel.cancel();
        tokio::select! {
            second = self.next() => second,
            () = tokio::time::sleep(GRACE) => first,
        }
    }

    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
        }
    }
}
