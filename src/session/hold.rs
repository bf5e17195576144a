//! Sessions whose work waits for a node: how many may, and how each of them begins and ends to wait.
//!
//! In: the limit, and how the wait has ended. Out: the right to wait, and figures.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::attach::NoBackend;
use super::run::Session;
use crate::metrics::{Counter, Gauge, Latency};
use crate::wire::error::{PgError, SqlState};

/// How many wait, over all workers.
#[derive(Debug, Default)]
pub struct Holds(AtomicUsize);

impl Holds {
    /// One more begins to wait. False when `most` do already.
    fn begin(&self, most: usize) -> bool {
        let one_more = |held: usize| (held < most).then_some(held + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// One waits no more.
    fn end(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    /// The session waits from now on, if not too many do.
    pub(super) fn begin_hold(&mut self) -> Result<Instant, NoBackend> {
        let most = self.ctx.settings.load().cluster.max_held;
        if !self.ctx.directory.holds.begin(most) {
            return Err(NoBackend::Refused(too_many_wait(most)));
        }
        self.entry.set_held(true);
        self.ctx.metrics.count(Counter::HoldStarted);
        self.ctx.metrics.raise(Gauge::SessionsHeld);
        Ok(Instant::now())
    }

    pub(super) fn end_hold(&mut self, began: Instant, result: &Result<(), NoBackend>) {
        self.ctx.directory.holds.end();
        self.entry.set_held(false);
        self.ctx.metrics.lower(Gauge::SessionsHeld);
        self.ctx.metrics.record(Latency::Hold, began.elapsed());
        self.ctx.metrics.count(match result {
            Ok(()) => Counter::HoldReleased,
            Err(NoBackend::End(_)) => Counter::HoldClientGone,
            Err(_) => Counter::HoldTimedOut,
        });
    }
}

fn too_many_wait(most: usize) -> PgError {
    PgError::error(SqlState::CANNOT_CONNECT_NOW, "no primary accepts writes, and too many wait for one")
        .with_detail(format!("{most} sessions may wait at once (cluster.max_held)."))
        .with_hint("The statement was not sent to any server: it is safe to run it again.")
}
