//! What a session keeps of a pool between its transactions: the short way to its next backend.
//!
//! In: a backend that the session has had. Out: idle ones of the same pool. While a seat is there its pool counts as in
//! use, so that its `min_idle` backends and warm ones stay.

use std::sync::Arc;

use tokio::time::Instant;

use super::backend::Backend;
use super::book::{Claim, PoolId};
use super::key::PoolKey;
use super::registry::{Registry, locked};
use crate::metrics::Counter;
use crate::topology::NodeId;

/// A session's place at a pool. Dropping it leaves the pool.
pub struct Seat {
    registry: Arc<Registry>,
    pool: PoolId,
    key: Arc<PoolKey>,
    claim: Claim,
}

impl Seat {
    /// At the pool of a backend that the session holds.
    pub fn new(registry: &Arc<Registry>, backend: &Backend, claim: Claim) -> Self {
        locked(&registry.book).settle(backend.pool);
        Self { registry: Arc::clone(registry), pool: backend.pool, key: Arc::clone(&backend.key), claim }
    }

    /// Whether it is at the pool of that backend, for such a claim.
    pub fn is_for(&self, backend: &Backend, claim: Claim) -> bool {
        self.pool == backend.pool && self.claim == claim
    }

    /// The pool's key.
    pub fn key(&self) -> &Arc<PoolKey> {
        &self.key
    }

    /// The pool's node.
    pub fn node(&self) -> NodeId {
        self.key.node
    }

    /// An idle backend of the pool, if nobody waits for one: what [`Registry::lease`] would give at once. For sessions
    /// that lease for every transaction: nothing is allocated, and no clock of waiting starts.
    pub fn try_lease(&self) -> Option<Backend> {
        let home = std::thread::current().id();
        loop {
            let idle = locked(&self.registry.book).checkout_idle(self.pool, self.claim, home, Instant::now());
            if let Some(backend) = self.registry.take(idle?) {
                self.registry.metrics.count(Counter::BackendReused);
                return Some(backend);
            }
        }
    }
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seat at {}", self.key)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        locked(&self.registry.book).unsettle(self.pool);
    }
}
