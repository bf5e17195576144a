//! The book against a model: whatever happens in whatever order, limits hold, nothing is lost, nobody is forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::pool::StartupSet;
use crate::topology::NodeId;

const LIMITS: Limits = Limits { size: 4, per_node: 6, connecting: 2, waiters: 4, reserve: 1 };
/// What [`Claim::Spare`] may have of an account and of the node.
const SPARE: (usize, usize) = (3, 5);

fn key(node: u16, user: usize, set: usize) -> Arc<PoolKey> {
    let set = StartupSet::new([("set", set.to_string())]);
    Arc::new(PoolKey { node: NodeId(node), database: "db".into(), user: format!("u{user}"), set })
}

fn home() -> ThreadId {
    std::thread::current().id()
}

/// Another thread than [`home`].
fn elsewhere() -> ThreadId {
    std::thread::spawn(home).join().unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    /// A session of that user and set, on that thread, wants a backend.
    Want(usize, usize, Claim, usize),
    /// The nth open login succeeds.
    Opened(usize),
    /// The nth open login fails.
    Failed(usize),
    /// The nth session gives its backend back.
    Give(usize),
    /// The nth session breaks its backend.
    Break(usize),
    /// The nth evicted backend is closed.
    Closed(usize),
    /// The nth waiter leaves.
    Leave(usize),
    /// Every waiter looks whether it was granted something.
    Look,
    /// The janitor opens a warm one.
    Warm(usize, usize),
    /// The janitor closes all idle ones.
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0usize..8;
    let claim = prop_oneof![2 => Just(Claim::Full), 1 => Just(Claim::Spare)];
    prop_oneof![
        6 => (0usize..2, 0usize..3, claim, 0usize..2)
            .prop_map(|(user, set, claim, thread)| Step::Want(user, set, claim, thread)),
        4 => n.clone().prop_map(Step::Opened),
        1 => n.clone().prop_map(Step::Failed),
        4 => n.clone().prop_map(Step::Give),
        1 => n.clone().prop_map(Step::Break),
        3 => n.clone().prop_map(Step::Closed),
        1 => n.prop_map(Step::Leave),
        4 => Just(Step::Look),
        1 => (0usize..2, 0usize..3).prop_map(|(user, set)| Step::Warm(user, set)),
        1 => Just(Step::Sweep),
    ]
}

type Name = (usize, usize);

struct Waiting {
    name: Name,
    claim: Claim,
    since: Instant,
    pool: PoolId,
    id: u64,
    receiver: oneshot::Receiver<Grant<u32>>,
}

/// What the rest of the program would hold.
struct World {
    book: Book<u32>,
    threads: [ThreadId; 2],
    now: Instant,
    next: u32,
    pools: BTreeMap<u32, (PoolId, Name)>,
    /// Backends being opened, for a session or ahead.
    opening: Vec<(PoolId, Name, Option<Claim>)>,
    held: Vec<(u32, Claim)>,
    closing: Vec<u32>,
    waiting: VecDeque<Waiting>,
}

impl World {
    fn new() -> Self {
        World {
            book: Book::new(LIMITS),
            threads: [home(), elsewhere()],
            now: Instant::now(),
            next: 0,
            pools: BTreeMap::new(),
            opening: Vec::new(),
            held: Vec::new(),
            closing: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    fn granted(&mut self, pool: PoolId, name: Name, claim: Claim, grant: &Grant<u32>) {
        match grant {
            Grant::Item(item) => {
                assert_eq!(self.pools[item].1, name, "a backend of another pool was handed over");
                self.held.push((*item, claim));
            }
            Grant::Open => self.opening.push((pool, name, Some(claim))),
            Grant::Lost => panic!("nobody was dismissed"),
        }
    }

    fn want(&mut self, name: Name, claim: Claim, thread: ThreadId) {
        let (checkout, evicted) = self.book.checkout(&key(0, name.0, name.1), claim, thread, self.now);
        self.closing.extend(evicted);
        match checkout {
            Checkout::Now(pool, grant) => self.granted(pool, name, claim, &grant),
            Checkout::Wait(pool, id, receiver) => {
                self.waiting.push_back(Waiting { name, claim, since: self.now, pool, id, receiver });
            }
            Checkout::Full => {}
        }
    }

    fn opened(&mut self, at: usize) {
        let (pool, name, claim) = self.opening.remove(at);
        self.next += 1;
        self.pools.insert(self.next, (pool, name));
        let evicted = if let Some(claim) = claim {
            self.held.push((self.next, claim));
            self.book.change(pool, Phase::Opening, Phase::Active, self.now)
        } else {
            self.book.give(pool, Phase::Opening, self.next, home(), self.now)
        };
        self.closing.extend(evicted);
    }

    /// Waiters of one pool must be served in order: none may have a grant while one has none that came well before it and
    /// could have had it.
    fn look(&mut self) {
        let mut passed_over: Vec<(Name, Claim, Instant)> = Vec::new();
        for _ in 0..self.waiting.len() {
            let mut one = self.waiting.pop_front().unwrap();
            if let Ok(grant) = one.receiver.try_recv() {
                let earlier = |(name, claim, since): &(Name, Claim, Instant)| {
                    let may = [Claim::Full, one.claim].contains(claim);
                    *name == one.name && may && *since + queue::TOGETHER < one.since
                };
                assert!(!passed_over.iter().any(earlier), "served before an earlier one of its pool");
                self.granted(one.pool, one.name, one.claim, &grant);
            } else {
                passed_over.push((one.name, one.claim, one.since));
                self.waiting.push_back(one);
            }
        }
    }

    fn leave(&mut self, at: usize) {
        let mut one = self.waiting.remove(at).unwrap();
        if !self.book.abandon(one.pool, one.id) {
            let evicted = match one.receiver.try_recv().unwrap() {
                Grant::Item(item) => self.book.give(one.pool, Phase::Active, item, home(), self.now),
                Grant::Open => self.book.change(one.pool, Phase::Opening, Phase::Gone, self.now),
                Grant::Lost => Vec::new(),
            };
            self.closing.extend(evicted);
        }
    }

    fn apply(&mut self, step: &Step) {
        self.now += Duration::from_millis(4);
        match *step {
            Step::Want(user, set, claim, thread) => self.want((user, set), claim, self.threads[thread]),
            Step::Opened(n) if n < self.opening.len() => self.opened(n),
            Step::Failed(n) if n < self.opening.len() => {
                let (pool, ..) = self.opening.remove(n);
                let evicted = self.book.change(pool, Phase::Opening, Phase::Gone, self.now);
                self.closing.extend(evicted);
            }
            Step::Give(n) if n < self.held.len() => {
                let (item, _) = self.held.remove(n);
                let evicted = self.book.give(self.pools[&item].0, Phase::Active, item, home(), self.now);
                self.closing.extend(evicted);
            }
            Step::Break(n) if n < self.held.len() => {
                let (pool, _) = self.pools.remove(&self.held.remove(n).0).unwrap();
                let evicted = self.book.change(pool, Phase::Active, Phase::Gone, self.now);
                self.closing.extend(evicted);
            }
            Step::Closed(n) if n < self.closing.len() => {
                let (pool, _) = self.pools.remove(&self.closing.remove(n)).unwrap();
                let evicted = self.book.change(pool, Phase::Closing, Phase::Gone, self.now);
                self.closing.extend(evicted);
            }
            Step::Leave(n) if n < self.waiting.len() => self.leave(n),
            Step::Look => self.look(),
            Step::Warm(user, set) => {
                if let Some(pool) = self.book.reserve(&key(0, user, set), 1, self.now) {
                    self.opening.push((pool, (user, set), None));
                }
            }
            Step::Sweep => self.closing.extend(self.book.sweep(self.now, |_, _| true)),
            _ => {}
        }
    }

    fn idle(&self) -> usize {
        self.book.pools.iter().map(|pool| pool.idle.len()).sum()
    }

    /// Whether the account may have one more backend at work for such a claim.
    fn is_allowed(&self, account: &Account<u32>, claim: Claim) -> bool {
        let idle =
            |pools: &[usize]| pools.iter().map(|pool| self.book.pools[*pool].idle.len()).sum::<usize>();
        let busy = account.total - idle(&account.pools);
        claim == Claim::Full
            || (busy < SPARE.0 && self.book.nodes[account.node].total - self.idle() < SPARE.1)
    }

    /// Nobody who could be served waits.
    fn check_wake_ups(&self, account: &Account<u32>) {
        let node = &self.book.nodes[account.node];
        let Some(next) = account.waiters.iter().find(|one| self.is_allowed(account, one.claim)) else {
            return;
        };
        assert!(self.book.pools[next.pool].idle.is_empty(), "somebody waits for what is idle");
        let room = account.total < LIMITS.size && node.total < LIMITS.per_node;
        assert!(!room || node.opening >= LIMITS.connecting, "somebody waits although there is room");
        let way = account.closing + account.opening + node.closing > 0;
        let idle = account.pools.iter().any(|pool| !self.book.pools[*pool].idle.is_empty());
        assert!(way || room || !idle, "somebody waits while another set of the account is idle");
    }

    /// Limits, conservation, and no lost wake-up.
    fn check(&self) {
        let total: usize = self.book.nodes.first().map_or(0, |node| node.total);
        assert!(total <= LIMITS.per_node);
        for account in &self.book.accounts {
            assert!(account.total <= LIMITS.size && account.waiters.len() <= LIMITS.waiters);
            self.check_wake_ups(account);
        }
        for pool in &self.book.pools {
            let next = |one: &Waiter<u32>| self.is_allowed(&self.book.accounts[pool.account], one.claim);
            let waiting = self.book.accounts[pool.account].waiters.iter();
            let served =
                waiting.filter(|one| Arc::ptr_eq(&self.book.pools[one.pool].key, &pool.key)).any(next);
            assert!(!served || pool.idle.is_empty());
        }
        if let Some(node) = self.book.nodes.first() {
            assert!(node.opening <= LIMITS.connecting);
            assert_eq!(node.waiting, self.book.accounts.iter().map(|one| one.waiters.len()).sum::<usize>());
        }
        // Whoever is woken has been given something, and something else than all others: no herd.
        let queued = |id: u64| {
            self.book.accounts.iter().any(|account| account.waiters.iter().any(|waiter| waiter.id == id))
        };
        let woken = self.waiting.iter().filter(|one| !queued(one.id)).count();
        assert_eq!(total, self.idle() + self.held.len() + self.opening.len() + self.closing.len() + woken);
        for user in 0..2 {
            let spare = |(pool, claim): (&(PoolId, Name), Claim)| pool.1.0 == user && claim == Claim::Spare;
            let held =
                self.held.iter().map(|(item, claim)| (&self.pools[item], *claim)).filter(|one| spare(*one));
            assert!(held.count() <= SPARE.0, "the reserve was given away");
        }
    }

    /// Everybody finishes: at the end all have been served and all is accounted for.
    fn finish(&mut self) {
        for _ in 0..500 {
            self.look();
            while !self.closing.is_empty() {
                self.apply(&Step::Closed(0));
            }
            while !self.opening.is_empty() {
                self.apply(&Step::Opened(0));
            }
            if !self.held.is_empty() {
                self.apply(&Step::Give(0));
            }
            self.check();
        }
        assert!(self.waiting.is_empty(), "somebody waits for ever");
        assert!(self.held.is_empty() && self.opening.is_empty() && self.closing.is_empty());
        let total: usize = self.book.nodes.iter().map(|node| node.total).sum();
        assert_eq!(total, self.idle());
        assert_eq!(total, self.pools.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn limits_hold_and_nobody_is_forgotten(steps in proptest::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            world.check();
        }
        world.finish();
        world.now += Duration::from_secs(1);
        let closing = world.book.sweep(world.now, |_, _| true);
        for item in closing {
            let pool = world.pools[&item].0;
            world.book.change(pool, Phase::Closing, Phase::Gone, world.now);
        }
        world.book.prune(world.now);
        prop_assert!(world.book.figures().is_empty());
        prop_assert!(world.book.nodes.iter().all(|node| node.accounts.is_empty()));
    }
}

#[test]
fn dismissed_waiters_are_told() {
    let mut book: Book<u32> = Book::new(Limits { size: 1, ..LIMITS });
    let now = Instant::now();
    assert!(matches!(
        book.checkout(&key(0, 0, 0), Claim::Full, home(), now).0,
        Checkout::Now(_, Grant::Open)
    ));
    let Checkout::Wait(_, _, mut receiver) = book.checkout(&key(0, 0, 0), Claim::Full, home(), now).0 else {
        panic!()
    };
    book.dismiss(0);
    assert!(matches!(receiver.try_recv(), Ok(Grant::Lost)));
    book.dismiss(7);
}

#[test]
fn the_newest_of_the_own_thread_comes_first() {
    let mut book: Book<u32> = Book::new(LIMITS);
    let (now, other) = (Instant::now(), elsewhere());
    let mut pool = None;
    for _ in 0..2 {
        let Checkout::Now(id, Grant::Open) = book.checkout(&key(0, 0, 0), Claim::Full, home(), now).0 else {
            panic!()
        };
        pool = Some(id);
    }
    let pool = pool.unwrap();
    book.give(pool, Phase::Opening, 1, home(), now);
    book.give(pool, Phase::Opening, 2, other, now);
    let Checkout::Now(_, Grant::Item(item)) = book.checkout(&key(0, 0, 0), Claim::Full, home(), now).0 else {
        panic!()
    };
    assert_eq!(item, 1);
    let Checkout::Now(_, Grant::Item(item)) = book.checkout(&key(0, 0, 0), Claim::Full, home(), now).0 else {
        panic!()
    };
    assert_eq!(item, 2, "another thread's idle one before a new one");
}

#[test]
fn a_contested_account_changes_sets_one_at_a_time() {
    let mut book: Book<u32> =
        Book::new(Limits { size: 2, per_node: 9, connecting: 9, waiters: 9, reserve: 0 });
    let now = Instant::now();
    let mut pool = None;
    for _ in 0..2 {
        let Checkout::Now(id, Grant::Open) = book.checkout(&key(0, 0, 0), Claim::Full, home(), now).0 else {
            panic!()
        };
        book.change(id, Phase::Opening, Phase::Active, now);
        pool = Some(id);
    }
    let wait = |book: &mut Book<u32>, set| match book.checkout(&key(0, 0, set), Claim::Full, home(), now).0 {
        Checkout::Wait(_, _, receiver) => receiver,
        _ => panic!(),
    };
    let mut other_first = wait(&mut book, 1);
    let mut other_second = wait(&mut book, 1);
    let mut same = wait(&mut book, 0);
    assert_eq!(book.give(pool.unwrap(), Phase::Active, 1, home(), now), vec![1], "closed for the first");
    assert!(book.give(pool.unwrap(), Phase::Active, 2, home(), now).is_empty());
    assert!(matches!(same.try_recv(), Ok(Grant::Item(2))), "used as it is meanwhile");
    assert!(other_first.try_recv().is_err() && other_second.try_recv().is_err());
}

/// A book where a user's sessions hold as many backends as they may have, numbered from 1; the pool, too.
fn held(limits: Limits, user: usize, count: u32) -> (Book<u32>, PoolId) {
    let mut book: Book<u32> = Book::new(limits);
    let now = Instant::now();
    let pools = (0..count).map(|_| {
        let wanted = book.checkout(&key(0, user, 0), Claim::Full, home(), now).0;
        let Checkout::Now(pool, Grant::Open) = wanted else { panic!("no room") };
        book.change(pool, Phase::Opening, Phase::Active, now);
        pool
    });
    let pool = pools.last().unwrap();
    (book, pool)
}

fn wait(book: &mut Book<u32>, user: usize, claim: Claim) -> oneshot::Receiver<Grant<u32>> {
    match book.checkout(&key(0, user, 0), claim, home(), Instant::now()).0 {
        Checkout::Wait(_, _, receiver) => receiver,
        _ => panic!("nothing to wait for"),
    }
}

#[test]
fn at_a_full_node_everybody_gets_a_share() {
    let limits = Limits { size: 4, per_node: 4, connecting: 9, waiters: 99, reserve: 0 };
    let (mut book, crowd) = held(limits, 0, 4);
    let mut queue: VecDeque<_> = (0..3).map(|_| wait(&mut book, 0, Claim::Full)).collect();
    let mut newcomer = wait(&mut book, 1, Claim::Full);
    let mut evicted = Vec::new();
    // The crowd never ends: whoever is served comes again.
    for turn in 0..9 {
        evicted = book.give(crowd, Phase::Active, turn, home(), Instant::now());
        if !evicted.is_empty() {
            break;
        }
        assert!(matches!(queue.pop_front().unwrap().try_recv(), Ok(Grant::Item(_))));
        queue.push_back(wait(&mut book, 0, Claim::Full));
    }
    assert_eq!(evicted, [3], "closed for the newcomer when its turn had come");
    assert!(book.give(crowd, Phase::Active, 9, home(), Instant::now()).is_empty(), "one is enough");
    book.change(crowd, Phase::Closing, Phase::Gone, Instant::now());
    assert!(matches!(newcomer.try_recv(), Ok(Grant::Open)));
}

#[test]
fn reads_at_the_primary_leave_the_reserve_to_writes() {
    let limits = Limits { size: 8, per_node: 20, connecting: 9, waiters: 9, reserve: 2 };
    let (mut book, pool) = held(limits, 0, 6);
    let mut read = wait(&mut book, 0, Claim::Spare);
    let write = book.checkout(&key(0, 0, 1), Claim::Full, home(), Instant::now()).0;
    let Checkout::Wait(_, _, mut write) = write else { panic!("there is a queue") };
    assert!(matches!(write.try_recv(), Ok(Grant::Open)));
    book.give(pool, Phase::Active, 1, home(), Instant::now());
    assert!(read.try_recv().is_err(), "six are at work still");
    book.give(pool, Phase::Active, 2, home(), Instant::now());
    assert!(matches!(read.try_recv(), Ok(Grant::Item(2))));
}

#[test]
fn raised_limits_serve_those_who_wait() {
    let limits = Limits { size: 1, per_node: 9, connecting: 9, waiters: 9, reserve: 0 };
    let (mut book, _) = held(limits, 0, 1);
    let mut waiting = wait(&mut book, 0, Claim::Full);
    assert!(book.set_limits(limits, Instant::now()).is_empty());
    assert!(waiting.try_recv().is_err());
    book.set_limits(Limits { size: 2, ..limits }, Instant::now());
    assert!(matches!(waiting.try_recv(), Ok(Grant::Open)));
}

#[test]
fn of_those_who_come_together_the_backends_thread_is_first() {
    let limits = Limits { size: 1, per_node: 9, connecting: 9, waiters: 9, reserve: 0 };
    let (mut book, pool) = held(limits, 0, 1);
    let (start, other) = (Instant::now(), elsewhere());
    let mut wait = |thread, millis| {
        let now = start + Duration::from_millis(millis);
        let Checkout::Wait(_, _, receiver) = book.checkout(&key(0, 0, 0), Claim::Full, thread, now).0 else {
            panic!("nothing to wait for")
        };
        receiver
    };
    let mut queue = [wait(other, 0), wait(home(), 5), wait(home(), 10), wait(home(), 11)];
    for served in [1, 2, 0, 3] {
        book.give(pool, Phase::Active, 7, home(), start);
        let granted: Vec<bool> = queue.iter_mut().map(|one| one.try_recv().is_ok()).collect();
        assert_eq!(granted.iter().position(|granted| *granted), Some(served), "{granted:?}");
    }
}
