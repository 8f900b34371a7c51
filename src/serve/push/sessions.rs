//! Who writes which upload. The newest request does: a client comes again when its connection broke, and the former request
//! may not know that yet.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::store::Pending;

/// How many are remembered. Forgetting them costs a hashing.
const MAX_REMEMBERED: usize = 4096;

/// The uploads that were written by this process.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, State>>);

struct State {
    pending: Pending,
    writer: CancellationToken,
}

impl Sessions {
    /// Ends whoever writes it. The token ends the new writer when an even newer one comes.
    pub(super) fn take_over(&self, pending: &Pending) -> (Pending, CancellationToken) {
        let mut sessions = self.lock();
        if sessions.len() >= MAX_REMEMBERED {
            sessions.clear();
        }
        let writer = CancellationToken::new();
        let state = State { pending: pending.clone(), writer: writer.clone() };
        match sessions.insert(pending.id().into(), state) {
            None => (pending.clone(), writer),
            Some(former) => {
                former.writer.cancel();
                let state = sessions.get_mut(pending.id()).expect("it was inserted above");
                state.pending = former.pending.clone();
                (former.pending, writer)
            }
        }
    }

    /// What is hashed of it by now.
    pub(super) fn keep(&self, pending: Pending) {
        if let Some(state) = self.lock().get_mut(pending.id()) {
            state.pending = pending;
        }
    }

    pub(super) fn forget(&self, pending: &Pending) {
        self.lock().remove(pending.id());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
