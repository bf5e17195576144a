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

mod queue;

#[cfg(test)]
mod tests;

/// The limits in force; see `[pool]` in the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Backends per node, database and user.
    pub(super) size: usize,
    /// Backends per node.
    pub(super) per_node: usize,
    /// Logins at one node at the same time.
    pub(super) connecting: usize,
    /// Waiting sessions per node, database and user.
    pub(super) waiters: usize,
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
    used: Instant,
}

/// All pools of one node, database and user.
#[derive(Default)]
struct Account<T> {
    node: usize,
    total: usize,
    opening: usize,
    closing: usize,
    waiters: VecDeque<Waiter<T>>,
    pools: Vec<usize>,
}

#[derive(Default)]
struct Node {
    total: usize,
    opening: usize,
    closing: usize,
    waiting: usize,
    accounts: Vec<usize>,
}

struct Waiter<T> {
    id: u64,
    pool: usize,
    since: Instant,
    sender: oneshot::Sender<Grant<T>>,
}

/// What of a pool the janitor and SHOW look at.
pub(super) struct Figures {
    pub(super) key: Arc<PoolKey>,
    pub(super) active: usize,
    pub(super) idle: usize,
    pub(super) opening: usize,
    pub(super) closing: usize,
    pub(super) waiting: usize,
    pub(super) first_waits_since: Option<Instant>,
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
        }
    }

    /// Replaces the limits. Backends beyond a lowered limit go as they become free.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A session wants a backend: an idle one of its thread, an idle one, a new one, or its turn. The items returned are
    /// to be closed for it.
    pub(super) fn checkout(
        &mut self,
        key: &Arc<PoolKey>,
        home: ThreadId,
        now: Instant,
    ) -> (Checkout<T>, Vec<T>) {
        let pool = self.enter(key, now);
        self.pools[pool].used = now;
        let id = PoolId(pool);
        if self.pools[pool].waiting == 0
            && let Some(item) = self.take_idle(pool, Some(home))
        {
            self.shift(pool, Phase::Idle, Phase::Active);
            return (Checkout::Now(id, Grant::Item(item)), Vec::new());
        }
        let account = self.pools[pool].account;
        let waiting = self.accounts[account].waiters.len();
        if waiting == 0 && self.room(account) == Room::Enough {
            self.shift(pool, Phase::Gone, Phase::Opening);
            return (Checkout::Now(id, Grant::Open), Vec::new());
        }
        if waiting >= self.limits.waiters {
            return (Checkout::Full, Vec::new());
        }
        let (waiter, receiver) = self.push_waiter(pool, now);
        let evicted = self.pump(self.accounts[account].node, now);
        (Checkout::Wait(id, waiter, receiver), evicted)
    }

    /// An idle one of that pool, if it has one and nobody waits.
    pub(super) fn checkout_idle(&mut self, key: &PoolKey, home: ThreadId, now: Instant) -> Option<T> {
        let pool = *self.by_key.get(key)?;
        self.pools[pool].used = now;
        if self.pools[pool].waiting > 0 {
            return None;
        }
        let item = self.take_idle(pool, Some(home))?;
        self.shift(pool, Phase::Idle, Phase::Active);
        Some(item)
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

    /// Counts one more backend of that pool as opening, if nobody is in the way, fewer than `want` are idle or being
    /// opened, and half of the node's limits are left for sessions.
    pub(super) fn reserve(&mut self, key: &Arc<PoolKey>, want: usize, now: Instant) -> Option<PoolId> {
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

    /// Takes out the idle items for which `judge` says so; they count as closing. `judge` gets the pool's key, the item,
    /// and how many idle ones of the pool are newer.
    pub(super) fn sweep(&mut self, mut judge: impl FnMut(&PoolKey, &mut Idle<T>, usize) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for pool in 0..self.pools.len() {
            let (key, idle) = (Arc::clone(&self.pools[pool].key), std::mem::take(&mut self.pools[pool].idle));
            let count = idle.len();
            for (at, mut one) in idle.into_iter().enumerate() {
                if judge(&key, &mut one, count - 1 - at) {
                    self.shift(pool, Phase::Idle, Phase::Closing);
                    taken.push(one.item);
                } else {
                    self.pools[pool].idle.push_back(one);
                }
            }
        }
        taken
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

    /// Whether a pool has been wanted since `since`, or is in use now.
    pub(super) fn in_use(&self, key: &PoolKey, since: Instant) -> bool {
        self.by_key.get(key).is_some_and(|pool| {
            let pool = &self.pools[*pool];
            pool.active + pool.waiting > 0 || pool.used >= since
        })
    }

    /// All pools.
    pub(super) fn figures(&self) -> Vec<Figures> {
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
            }
        };
        self.by_key.values().map(figures).collect()
    }

    /// Forgets pools that have nothing and have not been wanted since `since`.
    pub(super) fn prune(&mut self, since: Instant) {
        let unused = |pool: &Pool<T>| {
            pool.active + pool.opening + pool.closing + pool.waiting + pool.idle.len() == 0
                && pool.used < since
        };
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
            used: now,
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
        let fresh =
            Account { node, total: 0, opening: 0, closing: 0, waiters: VecDeque::new(), pools: Vec::new() };
        let index = place(&mut self.accounts, &mut self.free_accounts, fresh);
        self.nodes[node].accounts.push(index);
        index
    }

    /// The newest idle item, one of that thread before others.
    fn take_idle(&mut self, pool: usize, home: Option<ThreadId>) -> Option<T> {
        let idle = &mut self.pools[pool].idle;
        let own = home.and_then(|home| idle.iter().rposition(|one| one.home == home));
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

    /// The only place where backends change their phase in the accounts. Idle ones are counted by their list.
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
                Phase::Gone | Phase::Idle => {}
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
