//! Who has what: the accounts of all pools, their idle backends and their queues. Sans-IO.
//!
//! In: what happened (a lease is wanted, a backend came back, one is gone) and the present time. Out: what to do (use
//! this one, open one, wait) and which idle backends to close for somebody who waits. One lock around it is all the
//! locking of the pools, so nothing here blocks, and nothing is dropped here: items only move.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::ThreadId;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::key::PoolKey;
use super::waits::Waits;

mod queue;
mod upkeep;

pub(super) use upkeep::Standing;

#[cfg(test)]
mod tests;

/// The limits in force; see `[pool]` in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Backends per node, database and user.
    pub(super) size: usize,
    /// Backends per node.
    pub(super) per_node: usize,
    /// Logins at one node at the same time.
    pub(super) connecting: usize,
    /// Waiting sessions per node, database and user.
    pub(super) waiters: usize,
    /// Places of the first two that are not for [`Claim::Spare`].
    pub(super) reserve: usize,
}

/// What a session may have of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Every place there is.
    Full,
    /// Only what is left beyond `pool.reserve`: reads at the primary for want of a standby.
    Spare,
}

/// Where a backend is in its life. Every phase but `Gone` counts against the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Active,
    Closing,
    Gone,
    Idle,
    Opening,
}

/// Index of a pool; valid as long as anything of the pool is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PoolId(usize);

/// What a session that waited gets.
#[derive(Debug)]
pub(super) enum Grant<T> {
    /// A backend that somebody gave back; counted as active.
    Item(T),
    /// The waited-for node is no longer the right one.
    Lost,
    /// The right to open one; counted as opening.
    Open,
}

/// What a session that wants a backend gets.
pub(super) enum Checkout<T> {
    /// `max_waiters` wait already.
    Full,
    /// Now.
    Now(PoolId, Grant<T>),
    /// Later, through the channel, unless the number is taken back by [`Book::abandon`].
    Wait(PoolId, u64, oneshot::Receiver<Grant<T>>),
}

/// An idle backend.
pub(super) struct Idle<T> {
    pub(super) item: T,
    pub(super) since: Instant,
    home: ThreadId,
}

struct Pool<T> {
    key: Arc<PoolKey>,
    account: usize,
    idle: VecDeque<Idle<T>>,
    active: usize,
    opening: usize,
    closing: usize,
    waiting: usize,
    /// Sessions that take backends of it for their transactions.
    settled: usize,
    used: Instant,
    waits: Waits,
}

impl<T> Pool<T> {
    fn in_use(&self, since: Instant) -> bool {
        self.active + self.waiting + self.settled > 0 || self.used >= since
    }
}

/// All pools of one node, database and user.
#[derive(Default)]
struct Account<T> {
    node: usize,
    total: usize,
    idle: usize,
    opening: usize,
    closing: usize,
    waiters: VecDeque<Waiter<T>>,
    /// Of the waiters, those of [`Claim::Spare`].
    spare: usize,
    pools: Vec<usize>,
}

#[derive(Default)]
struct Node {
    total: usize,
    idle: usize,
    opening: usize,
    closing: usize,
    waiting: usize,
    accounts: Vec<usize>,
}

struct Waiter<T> {
    id: u64,
    pool: usize,
    claim: Claim,
    home: ThreadId,
    since: Instant,
    sender: oneshot::Sender<Grant<T>>,
}

/// How much room there is for one more backend of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Enough,
    /// The account has as many as it may.
    AccountFull,
    /// The node has as many as it may.
    NodeFull,
    /// There would be room, but too many are being opened at this moment.
    Busy,
}

/// The accounts.
pub(super) struct Book<T> {
    limits: Limits,
    by_key: HashMap<Arc<PoolKey>, usize>,
    pools: Vec<Pool<T>>,
    free_pools: Vec<usize>,
    accounts: Vec<Account<T>>,
    free_accounts: Vec<usize>,
    nodes: Vec<Node>,
    last_waiter: u64,
    /// Room for a list of queues, kept between calls.
    heads: Vec<(u64, usize)>,
}

impl<T> Book<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            by_key: HashMap::new(),
            pools: Vec::new(),
            free_pools: Vec::new(),
            accounts: Vec::new(),
            free_accounts: Vec::new(),
            nodes: Vec::new(),
            last_waiter: 0,
            heads: Vec::new(),
        }
    }

    /// A session wants a backend: an idle one of its thread, an idle one, a new one, or its turn. The items returned are
    /// to be closed for it.
    pub(super) fn checkout(
        &mut self,
        key: &Arc<PoolKey>,
        claim: Claim,
        home: ThreadId,
        now: Instant,
    ) -> (Checkout<T>, Vec<T>) {
        let pool = self.enter(key, now);
        self.pools[pool].used = now;
        let id = PoolId(pool);
        let account = self.pools[pool].account;
        let allowed = self.is_allowed(account, claim);
        if allowed
            && self.pools[pool].waiting == 0
            && let Some(item) = self.take_idle(pool, home)
        {
            self.shift(pool, Phase::Idle, Phase::Active);
            self.pools[pool].waits.at_once();
            return (Checkout::Now(id, Grant::Item(item)), Vec::new());
        }
        let waiting = self.accounts[account].waiters.len();
        if allowed && waiting == 0 && self.room(account) == Room::Enough {
            self.shift(pool, Phase::Gone, Phase::Opening);
            return (Checkout::Now(id, Grant::Open), Vec::new());
        }
        if waiting >= self.limits.waiters {
            return (Checkout::Full, Vec::new());
        }
        let (waiter, receiver) = self.push_waiter(pool, claim, home, now);
        let evicted = self.pump(self.accounts[account].node, now);
        (Checkout::Wait(id, waiter, receiver), evicted)
    }

    /// An idle one of a pool with settled sessions, if it has one and nobody waits.
    pub(super) fn checkout_idle(
        &mut self,
        pool: PoolId,
        claim: Claim,
        home: ThreadId,
        now: Instant,
    ) -> Option<T> {
        let PoolId(pool) = pool;
        self.pools[pool].used = now;
        if self.pools[pool].waiting > 0 || !self.is_allowed(self.pools[pool].account, claim) {
            return None;
        }
        let item = self.take_idle(pool, home)?;
        self.shift(pool, Phase::Idle, Phase::Active);
        self.pools[pool].waits.at_once();
        Some(item)
    }

    /// A session takes backends of that pool from now on: the pool stays until the session is unsettled.
    pub(super) fn settle(&mut self, pool: PoolId) {
        self.pools[pool.0].settled += 1;
    }

    /// A settled session takes no more backends of that pool.
    pub(super) fn unsettle(&mut self, pool: PoolId) {
        let settled = &mut self.pools[pool.0].settled;
        *settled = settled.saturating_sub(1);
    }

    /// A backend is free: for whoever waits for one of its pool, else idle. The items returned are to be closed.
    pub(super) fn give(
        &mut self,
        pool: PoolId,
        from: Phase,
        item: T,
        home: ThreadId,
        now: Instant,
    ) -> Vec<T> {
        self.shift(pool.0, from, Phase::Idle);
        self.pools[pool.0].idle.push_back(Idle { item, since: now, home });
        self.pump_of(pool, now)
    }

    /// A backend goes from one phase to another; when it is gone or opened, somebody may have waited for that.
    pub(super) fn change(&mut self, pool: PoolId, from: Phase, to: Phase, now: Instant) -> Vec<T> {
        self.shift(pool.0, from, to);
        self.pump_of(pool, now)
    }

    /// The key of a pool; `otherwise` when there is no such pool.
    pub(super) fn key(&self, pool: PoolId, otherwise: &Arc<PoolKey>) -> Arc<PoolKey> {
        Arc::clone(self.pools.get(pool.0).map_or(otherwise, |pool| &pool.key))
    }

    /// A waiter leaves. False when it has been granted something already, which is in its channel.
    pub(super) fn abandon(&mut self, pool: PoolId, waiter: u64) -> bool {
        let account = self.pools[pool.0].account;
        let found = self.accounts[account].waiters.iter().position(|one| one.id == waiter);
        found.and_then(|at| self.pop_waiter(account, at)).is_some()
    }

    /// Sends everybody away who waits for a backend of that node.
    pub(super) fn dismiss(&mut self, node: usize) {
        let accounts = self.nodes.get(node).map(|node| node.accounts.clone()).unwrap_or_default();
        for account in accounts {
            while let Some(waiter) = self.pop_waiter(account, 0) {
                // Nobody listens any more: then nobody needs to be told.
                let _ = waiter.sender.send(Grant::Lost);
            }
        }
    }

    /// The pool of that key, made when it is not there.
    fn enter(&mut self, key: &Arc<PoolKey>, now: Instant) -> usize {
        if let Some(pool) = self.by_key.get(&**key) {
            return *pool;
        }
        let account = self.account_of(key);
        let fresh = Pool {
            key: Arc::clone(key),
            account,
            idle: VecDeque::new(),
            active: 0,
            opening: 0,
            closing: 0,
            waiting: 0,
            settled: 0,
            used: now,
            waits: Waits::default(),
        };
        let index = place(&mut self.pools, &mut self.free_pools, fresh);
        self.accounts[account].pools.push(index);
        self.by_key.insert(Arc::clone(key), index);
        index
    }

    fn account_of(&mut self, key: &PoolKey) -> usize {
        let node = key.node.index();
        while self.nodes.len() <= node {
            self.nodes.push(Node::default());
        }
        let same = |account: &&usize| {
            let first = self.accounts[**account].pools.first().map(|pool| &self.pools[*pool].key);
            first.is_some_and(|have| have.user == key.user && have.database == key.database)
        };
        if let Some(found) = self.nodes[node].accounts.iter().find(same) {
            return *found;
        }
        let fresh = Account {
            node,
            total: 0,
            idle: 0,
            opening: 0,
            closing: 0,
            waiters: VecDeque::new(),
            spare: 0,
            pools: Vec::new(),
        };
        let index = place(&mut self.accounts, &mut self.free_accounts, fresh);
        self.nodes[node].accounts.push(index);
        index
    }

    /// The newest idle item, one of that thread before others.
    fn take_idle(&mut self, pool: usize, home: ThreadId) -> Option<T> {
        let idle = &mut self.pools[pool].idle;
        let own = idle.iter().rposition(|one| one.home == home);
        let at = own.or_else(|| idle.len().checked_sub(1))?;
        idle.remove(at).map(|one| one.item)
    }

    fn room(&self, account: usize) -> Room {
        let (account, limits) = (&self.accounts[account], &self.limits);
        let node = &self.nodes[account.node];
        if account.total >= limits.size {
            Room::AccountFull
        } else if node.total >= limits.per_node {
            Room::NodeFull
        } else if node.opening >= limits.connecting {
            Room::Busy
        } else {
            Room::Enough
        }
    }

    /// The only place where backends change their phase in the accounts. The idle ones of a pool are counted by its list.
    fn shift(&mut self, pool: usize, from: Phase, to: Phase) {
        let account = self.pools[pool].account;
        let node = self.accounts[account].node;
        for (phase, step) in [(from, -1isize), (to, 1)] {
            let (pool, account, node) =
                (&mut self.pools[pool], &mut self.accounts[account], &mut self.nodes[node]);
            let add = |count: &mut usize| *count = count.saturating_add_signed(step);
            if phase != Phase::Gone {
                add(&mut account.total);
                add(&mut node.total);
            }
            match phase {
                Phase::Active => add(&mut pool.active),
                Phase::Closing => {
                    [&mut pool.closing, &mut account.closing, &mut node.closing].into_iter().for_each(add);
                }
                Phase::Opening => {
                    [&mut pool.opening, &mut account.opening, &mut node.opening].into_iter().for_each(add);
                }
                Phase::Idle => [&mut account.idle, &mut node.idle].into_iter().for_each(add),
                Phase::Gone => {}
            }
        }
    }
}

fn place<V>(all: &mut Vec<V>, free: &mut Vec<usize>, value: V) -> usize {
    if let Some(index) = free.pop() {
        all[index] = value;
        return index;
    }
    all.push(value);
    all.len() - 1
}
