//! What the janitor and SHOW need of the accounts: figures, new limits, backends opened ahead or closed for their age.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Book, Idle, Limits, Phase, Pool, PoolId, Room};
use crate::pool::key::PoolKey;

/// What of a pool the janitor and SHOW look at.
pub(in crate::pool) struct Figures {
    pub(in crate::pool) key: Arc<PoolKey>,
    pub(in crate::pool) active: usize,
    pub(in crate::pool) idle: usize,
    pub(in crate::pool) opening: usize,
    pub(in crate::pool) closing: usize,
    pub(in crate::pool) waiting: usize,
    pub(in crate::pool) first_waits_since: Option<Instant>,
    pub(in crate::pool) wait_p99: Duration,
}

/// What the janitor judges idle backends by, beside the backend.
pub(in crate::pool) struct Standing<'a> {
    pub(in crate::pool) key: &'a PoolKey,
    /// How many idle ones of its pool are newer.
    pub(in crate::pool) newer: usize,
    /// Sessions have or want backends of its pool.
    pub(in crate::pool) in_use: bool,
}

impl<T> Book<T> {
    /// Replaces the limits. Raised ones serve those who wait; backends beyond lowered ones go as they become free. The
    /// items returned are to be closed.
    pub(in crate::pool) fn set_limits(&mut self, limits: Limits, now: Instant) -> Vec<T> {
        if self.limits == limits {
            return Vec::new();
        }
        self.limits = limits;
        (0..self.nodes.len()).flat_map(|node| self.pump(node, now)).collect()
    }

    /// Counts one more backend of that pool as opening, if nobody is in the way, fewer than `want` are idle or being
    /// opened, and half of the node's limits are left for sessions.
    pub(in crate::pool) fn reserve(
        &mut self,
        key: &Arc<PoolKey>,
        want: usize,
        now: Instant,
    ) -> Option<PoolId> {
        let pool = self.enter(key, now);
        let (account, have) =
            (self.pools[pool].account, self.pools[pool].idle.len() + self.pools[pool].opening);
        let node = &self.nodes[self.accounts[account].node];
        let modest = node.waiting == 0
            && node.opening * 2 < self.limits.connecting.max(2)
            && node.total * 2 < self.limits.per_node.max(2);
        (have < want && modest && self.room(account) == Room::Enough).then(|| {
            self.shift(pool, Phase::Gone, Phase::Opening);
            PoolId(pool)
        })
    }

    /// Takes out the idle items for which `judge` says so; they count as closing. A pool that was used at `since` or later
    /// counts as in use.
    pub(in crate::pool) fn sweep(
        &mut self,
        since: Instant,
        mut judge: impl FnMut(&Standing<'_>, &mut Idle<T>) -> bool,
    ) -> Vec<T> {
        let mut taken = Vec::new();
        for pool in 0..self.pools.len() {
            let (key, idle) = (Arc::clone(&self.pools[pool].key), std::mem::take(&mut self.pools[pool].idle));
            let (count, in_use) = (idle.len(), self.pools[pool].in_use(since));
            for (at, mut one) in idle.into_iter().enumerate() {
                if judge(&Standing { key: &key, newer: count - 1 - at, in_use }, &mut one) {
                    self.shift(pool, Phase::Idle, Phase::Closing);
                    taken.push(one.item);
                } else {
                    self.pools[pool].idle.push_back(one);
                }
            }
        }
        taken
    }

    /// Whether a pool has been wanted since `since`, or is in use now.
    pub(in crate::pool) fn in_use(&self, key: &PoolKey, since: Instant) -> bool {
        self.by_key.get(key).is_some_and(|pool| self.pools[*pool].in_use(since))
    }

    /// All pools.
    pub(in crate::pool) fn figures(&self) -> Vec<Figures> {
        let figures = |index: &usize| {
            let pool = &self.pools[*index];
            let waiters = &self.accounts[pool.account].waiters;
            Figures {
                key: Arc::clone(&pool.key),
                active: pool.active,
                idle: pool.idle.len(),
                opening: pool.opening,
                closing: pool.closing,
                waiting: pool.waiting,
                first_waits_since: waiters.iter().find(|one| one.pool == *index).map(|one| one.since),
                wait_p99: pool.waits.quantile(0.99),
            }
        };
        self.by_key.values().map(figures).collect()
    }

    /// Forgets pools that have nothing and have not been wanted since `since`.
    pub(in crate::pool) fn prune(&mut self, since: Instant) {
        let unused =
            |pool: &Pool<T>| pool.opening + pool.closing + pool.idle.len() == 0 && !pool.in_use(since);
        let gone: Vec<usize> =
            self.by_key.values().copied().filter(|index| unused(&self.pools[*index])).collect();
        for index in gone {
            let account = self.pools[index].account;
            self.by_key.remove(&self.pools[index].key);
            self.free_pools.push(index);
            self.accounts[account].pools.retain(|pool| *pool != index);
            if self.accounts[account].pools.is_empty() {
                self.nodes[self.accounts[account].node].accounts.retain(|one| *one != account);
                self.free_accounts.push(account);
            }
        }
    }

    /// A checkout of that pool took so long.
    pub(in crate::pool) fn note_wait(&mut self, pool: PoolId, waited: Duration) {
        self.pools[pool.0].waits.waited(waited);
    }

    /// The pool of that key, if it is there.
    pub(in crate::pool) fn find(&self, key: &PoolKey) -> Option<PoolId> {
        self.by_key.get(key).copied().map(PoolId)
    }

    /// Starts a new window for the quantiles of all pools.
    pub(in crate::pool) fn rotate_waits(&mut self) {
        self.pools.iter_mut().for_each(|pool| pool.waits.rotate());
    }
}
