//! The queues: who is served next, and which idle backends make room for them.
//!
//! First come, first served within a pool. Between pools of one account (same node, database and user, other startup
//! set) the first of the queue is served first too, with one exception: while a place is being made for it, which takes a
//! login, backends that come back may go to those behind it who can use them as they are. Otherwise two startup sets at
//! the limit would turn every transaction into a login.
//!
//! Waiters of one pool that came within [`TOGETHER`] have come together: of those one of the backend's own thread is first,
//! since a backend that changes threads must be registered anew.
//!
//! Those who may only have spare places (`pool.reserve`) are passed over while there are none. At a full node an account
//! with fewer backends than another gets one of the other's when its turn has come.

use std::thread::ThreadId;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Book, Claim, Grant, Phase, PoolId, Room, Waiter};

/// How much later somebody may have come and still be served first. As long as a busy thread needs to look once at all its
/// sockets, so that the order among threads means nothing below it anyway; too short to matter to anybody who waits.
pub(super) const TOGETHER: Duration = Duration::from_millis(10);

/// What is left of a limit for [`Claim::Spare`]. At most a quarter is reserved, so that a small pool is for all.
fn spare(limit: usize, reserve: usize) -> usize {
    limit - reserve.min(limit / 4)
}

impl<T> Book<T> {
    pub(super) fn push_waiter(
        &mut self,
        pool: usize,
        claim: Claim,
        home: ThreadId,
        now: Instant,
    ) -> (u64, oneshot::Receiver<Grant<T>>) {
        let (sender, receiver) = oneshot::channel();
        self.last_waiter += 1;
        let waiter = Waiter { id: self.last_waiter, pool, claim, home, since: now, sender };
        let account = self.pools[pool].account;
        self.pools[pool].waiting += 1;
        self.nodes[self.accounts[account].node].waiting += 1;
        self.accounts[account].spare += usize::from(claim == Claim::Spare);
        self.accounts[account].waiters.push_back(waiter);
        (self.last_waiter, receiver)
    }

    pub(super) fn pop_waiter(&mut self, account: usize, at: usize) -> Option<Waiter<T>> {
        let waiter = self.accounts[account].waiters.remove(at)?;
        self.accounts[account].spare -= usize::from(waiter.claim == Claim::Spare);
        self.pools[waiter.pool].waiting -= 1;
        self.nodes[self.accounts[account].node].waiting -= 1;
        Some(waiter)
    }

    /// Whether the account may have one more backend at work for such a claim.
    pub(super) fn is_allowed(&self, account: usize, claim: Claim) -> bool {
        let (account, limits) = (&self.accounts[account], &self.limits);
        let node = &self.nodes[account.node];
        claim == Claim::Full
            || (account.total - account.idle < spare(limits.size, limits.reserve)
                && node.total - node.idle < spare(limits.per_node, limits.reserve))
    }

    /// The place in the queue of whoever is served next: the first, unless there is nothing to spare for it.
    fn next_in(&self, account: usize) -> Option<usize> {
        let of = &self.accounts[account];
        if of.spare == 0 || self.is_allowed(account, Claim::Spare) {
            return (!of.waiters.is_empty()).then_some(0);
        }
        if of.spare == of.waiters.len() { None } else { of.waiters.iter().position(is_full) }
    }

    /// See [`Book::pump`], for the node of that pool.
    pub(super) fn pump_of(&mut self, pool: PoolId, now: Instant) -> Vec<T> {
        self.pump(self.accounts[self.pools[pool.0].account].node, now)
    }

    /// Serves everybody at that node who can be served, the longest waiting first, and picks idle backends to be closed
    /// for those who cannot. Afterwards nobody waits for something that is there.
    pub(super) fn pump(&mut self, node: usize, now: Instant) -> Vec<T> {
        let mut evicted = Vec::new();
        let mut heads = std::mem::take(&mut self.heads);
        while self.nodes[node].waiting > 0 {
            let head = |account: &usize| {
                let at = self.next_in(*account)?;
                self.accounts[*account].waiters.get(at).map(|one| (one.id, *account))
            };
            heads.clear();
            heads.extend(self.nodes[node].accounts.iter().filter_map(head));
            heads.sort_unstable();
            let mut served = false;
            for (_, account) in &heads {
                served |= self.serve_first(*account, now, &mut evicted) || self.serve_behind(*account, now);
            }
            if !served {
                break;
            }
        }
        self.heads = heads;
        evicted
    }

    /// Gives whoever is next an idle backend of its pool or leave to open one; if there is no room, makes some.
    fn serve_first(&mut self, account: usize, now: Instant, evicted: &mut Vec<T>) -> bool {
        let Some(at) = self.next_in(account) else { return false };
        let pool = self.accounts[account].waiters[at].pool;
        if let Some((item, home)) = self.take_newest(pool) {
            let at = self.neighbour(account, at, home);
            self.shift(pool, Phase::Idle, Phase::Active);
            self.grant(account, at, Grant::Item(item), now);
            return true;
        }
        match self.room(account) {
            Room::Enough => {
                self.shift(pool, Phase::Gone, Phase::Opening);
                self.grant(account, at, Grant::Open, now);
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
        let ready = |one: &Waiter<T>| one.pool == pool && self.is_allowed(account, one.claim);
        let Some(at) = self.accounts[account].waiters.iter().position(ready) else { return false };
        let Some((item, home)) = self.take_newest(pool) else { return false };
        let at = self.neighbour(account, at, home);
        self.shift(pool, Phase::Idle, Phase::Active);
        self.grant(account, at, Grant::Item(item), now);
        true
    }

    fn take_newest(&mut self, pool: usize) -> Option<(T, ThreadId)> {
        self.pools[pool].idle.pop_back().map(|one| (one.item, one.home))
    }

    /// The first of that thread among those who came together with the one at this place of the queue, for the same pool;
    /// else itself.
    fn neighbour(&self, account: usize, at: usize, home: ThreadId) -> usize {
        let waiters = &self.accounts[account].waiters;
        let Some(first) = waiters.get(at) else { return at };
        let together = waiters.iter().enumerate().skip(at);
        let mut together = together.take_while(|(_, one)| one.since <= first.since + TOGETHER);
        let near = together.find(|(_, one)| {
            one.home == home && one.pool == first.pool && self.is_allowed(account, one.claim)
        });
        near.map_or(at, |(near, _)| near)
    }

    fn grant(&mut self, account: usize, at: usize, grant: Grant<T>, now: Instant) {
        let Some(waiter) = self.pop_waiter(account, at) else { return };
        self.pools[waiter.pool].used = now;
        // A waiter that leaves says so under the same lock, so somebody listens. Were it not so, the place would stay
        // counted, which is safe.
        let _ = waiter.sender.send(grant);
    }

    /// Takes the longest-idle backend of another pool of the account out, else (if the node is full) of another account.
    /// Not more than wait; and a backend that somebody waits for is taken only if nothing is on its way for the account,
    /// and from another account only if that has more.
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
            if found.is_none() && node_full && node.closing == 0 {
                let richer = node.accounts.iter().filter(|one| self.accounts[**one].total > own.total + 1);
                let theirs: Vec<usize> =
                    richer.flat_map(|one| self.accounts[*one].pools.iter().copied()).collect();
                found = self.longest_idle(&theirs, true);
            }
        }
        let pool = found?;
        let item = self.pools[pool].idle.pop_front()?.item;
        self.shift(pool, Phase::Idle, Phase::Closing);
        Some(item)
    }

    /// The pool among these whose longest-idle backend has waited longest; `also_wanted`: even if somebody waits for it.
    fn longest_idle(&self, pools: &[usize], also_wanted: bool) -> Option<usize> {
        let candidates = pools.iter().filter_map(|index| {
            let pool = &self.pools[*index];
            let first = pool.idle.front().filter(|_| also_wanted || pool.waiting == 0)?;
            Some((first.since, *index))
        });
        candidates.min().map(|(_, index)| index)
    }
}

fn is_full<T>(waiter: &Waiter<T>) -> bool {
    waiter.claim == Claim::Full
}
