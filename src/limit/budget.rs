//! How many bytes a run may move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::rate::show;

/// How many bytes of blobs a run may move over networks. A cheap clone of one account.
#[derive(Debug, Clone, Default)]
pub struct Budget(Arc<Account>);

#[derive(Debug, Default)]
struct Account {
    /// The run stops when so many have moved, and the next one goes on.
    run: Option<u64>,
    /// A plan for more than this is refused, and a run that moves more stops.
    plan: Option<u64>,
    moved: AtomicU64,
    spent: CancellationToken,
}

impl Budget {
    /// A run stops after `run` bytes; a plan for more than `plan` bytes is refused.
    pub fn new(run: Option<u64>, plan: Option<u64>) -> Budget {
        Budget(Arc::new(Account { run, plan, ..Account::default() }))
    }

    /// Counts bytes that moved.
    pub fn spend(&self, bytes: u64) {
        let moved = self.0.moved.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if [self.0.run, self.0.plan].into_iter().flatten().any(|most| moved > most) {
            self.0.spent.cancel();
        }
    }

    /// Waits until more moved than may. Returns which limit it was, in words.
    pub async fn spent(&self) -> String {
        self.0.spent.cancelled().await;
        let moved = self.0.moved.load(Ordering::Relaxed);
        match (self.0.run, self.0.plan) {
            (Some(run), _) if moved > run => {
                format!("--max-transfer {}: what was received is kept; run the same command again to go on", show(run))
            }
            (_, plan) => format!(
                "--max-bytes {}: more had to move than was planned; what was received is kept",
                show(plan.unwrap_or(0))
            ),
        }
    }

    /// Why a plan to move so many bytes cannot be carried out, if it cannot.
    pub fn refusal(&self, planned: u64) -> Option<String> {
        let moved = self.0.moved.load(Ordering::Relaxed);
        let most = self.0.plan.filter(|most| moved.saturating_add(planned) > *most)?;
        Some(format!("--max-bytes {}: {planned} bytes would have to move; nothing was fetched", show(most)))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_run_stops_when_more_moved_than_it_may() {
        let budget = Budget::new(Some(100), None);
        budget.spend(100);
        assert_eq!(budget.spent().now_or_never(), None);
        budget.clone().spend(1);
        assert!(budget.spent().now_or_never().unwrap().starts_with("--max-transfer 100: "));
        assert_eq!(budget.refusal(1000), None);
    }

    #[test]
    fn a_plan_for_too_much_is_refused_and_holds_while_moving() {
        let budget = Budget::new(None, Some(2000));
        assert_eq!(budget.refusal(2000), None);
        assert!(budget.refusal(2001).unwrap().starts_with("--max-bytes 2k: 2001 bytes"));
        budget.spend(1500);
        assert!(budget.refusal(501).is_some());
        budget.spend(501);
        assert!(budget.spent().now_or_never().unwrap().contains("more had to move than was planned"));
    }
}
