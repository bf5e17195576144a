//! Keeps cancel requests from hitting the next user of a backend.
//!
//! A CancelRequest travels on a connection of its own and names only the backend. Each lease has a fresh gate: whoever
//! wants to cancel must pass it first, and the backend is not used again before all who passed have come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Set once the lease has ended.
const CLOSED: usize = 1 << (usize::BITS - 1);
/// Set once anybody has passed.
const USED: usize = CLOSED >> 1;
/// The number of those inside.
const COUNT: usize = USED - 1;

/// The gate of one lease.
#[derive(Debug, Default)]
pub struct CancelGate {
    state: AtomicUsize,
    empty: Notify,
}

/// Somebody is inside; to be kept until the cancel connection has ended.
#[derive(Debug)]
pub struct CancelPass(Arc<CancelGate>);

impl CancelGate {
    /// A fresh gate for the next lease, in the same place where nobody else knows the old one.
    pub(super) fn renew(this: &mut Arc<Self>) {
        match Arc::get_mut(this) {
            Some(gate) => *gate = Self::default(),
            None => *this = Arc::default(),
        }
    }

    /// Lets a canceller in; `None` when the lease has ended and there is nothing to cancel.
    pub fn enter(self: &Arc<Self>) -> Option<CancelPass> {
        let entered = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            (state & CLOSED == 0).then_some((state + 1) | USED)
        });
        entered.is_ok().then(|| CancelPass(Arc::clone(self)))
    }

    /// Lets nobody in any more. Says whether anybody ever was.
    pub(super) fn close(&self) -> bool {
        self.state.fetch_or(CLOSED, Ordering::AcqRel) & USED != 0
    }

    /// Waits until nobody is inside. To be called after [`CancelGate::close`], by one task.
    pub(super) async fn emptied(&self) {
        // notify_one leaves a permit, so a pass that comes back between check and wait is not missed.
        while self.state.load(Ordering::Acquire) & COUNT != 0 {
            self.empty.notified().await;
        }
    }
}

impl Drop for CancelPass {
    fn drop(&mut self) {
        if self.0.state.fetch_sub(1, Ordering::AcqRel) & COUNT == 1 {
            self.0.empty.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knows_the_old_gate_does_not_pass_the_new_one() {
        let mut gate = Arc::new(CancelGate::default());
        let old = Arc::clone(&gate);
        assert!(!gate.close());
        CancelGate::renew(&mut gate);
        assert!(old.enter().is_none() && gate.enter().is_some());
        gate.close();
        CancelGate::renew(&mut gate);
        assert!(gate.enter().is_some(), "opened again in its place");
        assert!(gate.close(), "and used");
    }

    #[tokio::test]
    async fn nobody_enters_after_closing_and_closing_waits() {
        let gate = Arc::new(CancelGate::default());
        assert!(!Arc::new(CancelGate::default()).close());
        let (first, second) = (gate.enter().unwrap(), gate.enter().unwrap());
        assert!(gate.close());
        assert!(gate.enter().is_none());
        drop(first);
        let mut waiting = std::pin::pin!(gate.emptied());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        drop(second);
        waiting.await;
    }
}
