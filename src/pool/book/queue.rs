//! The queues: who is served next, and which idle backends make room for them.
//!
//! First come, first served within a pool. Between pools of one account (same node, database and user, other startup
//! set) the first of the queue is served first too, with one exception: while a place is being made for it, which takes a
//! login, backends that come back may go to those behind it who can use them as they are. Otherwise two startup sets at
//! the limit would turn every transaction into a login.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Book, Grant, Phase, PoolId, Room, Waiter};

impl<T> Book<T> {
    pub(super) fn push_waiter(&mut self, pool: usize, now: Instant) -> (u64, oneshot::Receiver<Grant<T>>) {
        let (sender, receiver) = oneshot::channel();
        self.last_waiter += 1;
        let waiter = Waiter { id: self.last_waiter, pool, since: now, sender };
        let account = self.pools[pool].account;
        self.pools[pool].waiting += 1;
        self.nodes[self.accounts[account].node].waiting += 1;
        self.accounts[account].waiters.push_back(waiter);
        (self.last_waiter, receiver)
    }

    pub(super) fn pop_waiter(&mut self, account: usize, at: usize) -> Option<Waiter<T>> {
        let waiter = self.accounts[account].waiters.remove(at)?;
        self.pools[waiter.pool].waiting -= 1;
        self.nodes[self.accounts[account].node].waiting -= 1;
        Some(waiter)
    }

    /// See [`Book::pump`], for the node of that pool.
    pub(super) fn pump_of(&mut self, pool: PoolId, now: Instant) -> Vec<T> {
        self.pump(self.accounts[self.pools[pool.0].account].node, now)
    }

    /// Serves everybody at that node who can be served, the longest waiting first, and picks idle backends to be closed
    /// for those who cannot. Afterwards nobody waits for something that is there.
    pub(super) fn pump(&mut self, node: usize, now: Instant) -> Vec<T> {
        let mut evicted = Vec::new();
        while self.nodes[node].waiting > 0 {
            let head =
                |account: &usize| self.accounts[*account].waiters.front().map(|one| (one.id, *account));
            let mut heads: Vec<_> = self.nodes[node].accounts.iter().filter_map(head).collect();
            heads.sort_unstable();
            let mut served = false;
            for (_, account) in heads {
                served |= self.serve_first(account, now, &mut evicted) || self.serve_behind(account, now);
            }
            if !served {
                break;
            }
        }
        evicted
    }

    /// Gives the first of the queue an idle backend of its pool or leave to open one; if there is no room, makes some.
    fn serve_first(&mut self, account: usize, now: Instant, evicted: &mut Vec<T>) -> bool {
        let Some(pool) = self.accounts[account].waiters.front().map(|one| one.pool) else { return false };
        if let Some(item) = self.take_idle(pool, None) {
            self.shift(pool, Phase::Idle, Phase::Active);
            self.grant(account, 0, Grant::Item(item), now);
            return true;
        }
        match self.room(account) {
            Room::Enough => {
                self.shift(pool, Phase::Gone, Phase::Opening);
                self.grant(account, 0, Grant::Open, now);
                return true;
            }
            Room::AccountFull => evicted.extend(self.evict_for(account, false)),
            Room::NodeFull => evicted.extend(self.evict_for(account, true)),
            Room::Busy => {}
        }
        false
    }

    /// Gives idle backends to those behind the first who wait for one of their pool.
    fn serve_behind(&mut self, account: usize, now: Instant) -> bool {
        let ready = |pool: &&usize| self.pools[**pool].waiting > 0 && !self.pools[**pool].idle.is_empty();
        let Some(pool) = self.accounts[account].pools.iter().find(ready).copied() else { return false };
        let Some(at) = self.accounts[account].waiters.iter().position(|one| one.pool == pool) else {
            return false;
        };
        let Some(item) = self.take_idle(pool, None) else { return false };
        self.shift(pool, Phase::Idle, Phase::Active);
        self.grant(account, at, Grant::Item(item), now);
        true
    }

    fn grant(&mut self, account: usize, at: usize, grant: Grant<T>, now: Instant) {
        let Some(waiter) = self.pop_waiter(account, at) else { return };
        self.pools[waiter.pool].used = now;
        // A waiter that leaves says so under the same lock, so somebody listens. Were it not so, the place would stay
        // counted, which is safe.
        let _ = waiter.sender.send(grant);
    }

    /// Takes the longest-idle backend of another pool of the account out, else (if the node is full) of another account.
    /// Not more than wait; and a backend that somebody waits for is taken only if nothing is on its way for the account.
    fn evict_for(&mut self, account: usize, node_full: bool) -> Option<T> {
        let (own, node) = (&self.accounts[account], &self.nodes[self.accounts[account].node]);
        let enough = if node_full { node.closing >= node.waiting } else { own.closing >= own.waiters.len() };
        if enough {
            return None;
        }
        let quiet = own.closing + own.opening == 0;
        let mut found = self.longest_idle(&own.pools, false);
        if found.is_none() && node_full {
            let others: Vec<usize> =
                node.accounts.iter().flat_map(|one| self.accounts[*one].pools.iter().copied()).collect();
            found = self.longest_idle(&others, false);
        }
        if found.is_none() && quiet {
            found = self.longest_idle(&own.pools, true);
        }
        let pool = found?;
        let item = self.pools[pool].idle.pop_front()?.item;
        self.shift(pool, Phase::Idle, Phase::Closing);
        Some(item)
    }

    fn longest_idle(&self, pools: &[usize], also_wanted: bool) -> Option<usize> {
        let candidates = pools.iter().filter_map(|index| {
            let pool = &self.pools[*index];
            let first = pool.idle.front().filter(|_| also_wanted || pool.waiting == 0)?;
            Some((first.since, *index))
        });
        candidates.min().map(|(_, index)| index)
    }
}
