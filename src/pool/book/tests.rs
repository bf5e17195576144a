//! The book against a model: whatever happens in whatever order, limits hold, nothing is lost, nobody is forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::pool::StartupSet;
use crate::topology::NodeId;

const LIMITS: Limits = Limits { size: 3, per_node: 5, connecting: 2, waiters: 4 };

fn key(node: u16, user: usize, set: usize) -> Arc<PoolKey> {
    let set = StartupSet::new([("set", set.to_string())]);
    Arc::new(PoolKey { node: NodeId(node), database: "db".into(), user: format!("u{user}"), set })
}

fn home() -> ThreadId {
    std::thread::current().id()
}

#[derive(Clone, Debug)]
enum Step {
    /// A session of that user and set wants a backend.
    Want(usize, usize),
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
    prop_oneof![
        6 => (0usize..2, 0usize..3).prop_map(|(user, set)| Step::Want(user, set)),
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
    pool: PoolId,
    id: u64,
    receiver: oneshot::Receiver<Grant<u32>>,
}

/// What the rest of the program would hold.
struct World {
    book: Book<u32>,
    now: Instant,
    next: u32,
    pools: BTreeMap<u32, (PoolId, Name)>,
    opening: Vec<(PoolId, Name, bool)>,
    held: Vec<u32>,
    closing: Vec<u32>,
    waiting: VecDeque<Waiting>,
}

impl World {
    fn new() -> Self {
        World {
            book: Book::new(LIMITS),
            now: Instant::now(),
            next: 0,
            pools: BTreeMap::new(),
            opening: Vec::new(),
            held: Vec::new(),
            closing: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    fn granted(&mut self, pool: PoolId, name: Name, grant: &Grant<u32>) {
        match grant {
            Grant::Item(item) => {
                assert_eq!(self.pools[item].1, name, "a backend of another pool was handed over");
                self.held.push(*item);
            }
            Grant::Open => self.opening.push((pool, name, false)),
            Grant::Lost => panic!("nobody was dismissed"),
        }
    }

    fn want(&mut self, name: Name) {
        let (checkout, evicted) = self.book.checkout(&key(0, name.0, name.1), home(), self.now);
        self.closing.extend(evicted);
        match checkout {
            Checkout::Now(pool, grant) => self.granted(pool, name, &grant),
            Checkout::Wait(pool, id, receiver) => {
                self.waiting.push_back(Waiting { name, pool, id, receiver });
            }
            Checkout::Full => {}
        }
    }

    fn opened(&mut self, at: usize) {
        let (pool, name, warm) = self.opening.remove(at);
        self.next += 1;
        self.pools.insert(self.next, (pool, name));
        let evicted = if warm {
            self.book.give(pool, Phase::Opening, self.next, home(), self.now)
        } else {
            self.held.push(self.next);
            self.book.change(pool, Phase::Opening, Phase::Active, self.now)
        };
        self.closing.extend(evicted);
    }

    /// Waiters of one pool must be served in order: none may have a grant while an earlier one has none.
    fn look(&mut self) {
        let mut passed_over: Vec<Name> = Vec::new();
        for _ in 0..self.waiting.len() {
            let mut one = self.waiting.pop_front().unwrap();
            if let Ok(grant) = one.receiver.try_recv() {
                assert!(!passed_over.contains(&one.name), "served before an earlier one of its pool");
                self.granted(one.pool, one.name, &grant);
            } else {
                passed_over.push(one.name);
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
        self.now += Duration::from_millis(1);
        match *step {
            Step::Want(user, set) => self.want((user, set)),
            Step::Opened(n) if n < self.opening.len() => self.opened(n),
            Step::Failed(n) if n < self.opening.len() => {
                let (pool, ..) = self.opening.remove(n);
                let evicted = self.book.change(pool, Phase::Opening, Phase::Gone, self.now);
                self.closing.extend(evicted);
            }
            Step::Give(n) if n < self.held.len() => {
                let item = self.held.remove(n);
                let evicted = self.book.give(self.pools[&item].0, Phase::Active, item, home(), self.now);
                self.closing.extend(evicted);
            }
            Step::Break(n) if n < self.held.len() => {
                let (pool, _) = self.pools.remove(&self.held.remove(n)).unwrap();
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
                    self.opening.push((pool, (user, set), true));
                }
            }
            Step::Sweep => self.closing.extend(self.book.sweep(|_, _, _| true)),
            _ => {}
        }
    }

    fn idle(&self) -> usize {
        self.book.pools.iter().map(|pool| pool.idle.len()).sum()
    }

    /// Limits, conservation, and no lost wake-up.
    fn check(&self) {
        let in_flight: usize = self.book.nodes.first().map_or(0, |node| node.total);
        assert!(in_flight <= LIMITS.per_node);
        for account in &self.book.accounts {
            assert!(account.total <= LIMITS.size && account.waiters.len() <= LIMITS.waiters);
            if let Some(first) = account.waiters.front() {
                assert!(self.book.pools[first.pool].idle.is_empty(), "somebody waits for what is idle");
                let node = &self.book.nodes[account.node];
                let room = account.total < LIMITS.size && node.total < LIMITS.per_node;
                assert!(!room || node.opening >= LIMITS.connecting, "somebody waits although there is room");
                let way = account.closing + account.opening + node.closing > 0;
                let idle = account.pools.iter().any(|pool| !self.book.pools[*pool].idle.is_empty());
                assert!(way || room || !idle, "somebody waits while another set of the account is idle");
            }
        }
        for pool in &self.book.pools {
            assert!(pool.waiting == 0 || pool.idle.is_empty());
        }
        if let Some(node) = self.book.nodes.first() {
            assert!(node.opening <= LIMITS.connecting);
            assert_eq!(node.waiting, self.book.accounts.iter().map(|one| one.waiters.len()).sum::<usize>());
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
        let closing = world.book.sweep(|_, _, _| true);
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
    assert!(matches!(book.checkout(&key(0, 0, 0), home(), now).0, Checkout::Now(_, Grant::Open)));
    let Checkout::Wait(_, _, mut receiver) = book.checkout(&key(0, 0, 0), home(), now).0 else { panic!() };
    book.dismiss(0);
    assert!(matches!(receiver.try_recv(), Ok(Grant::Lost)));
    book.dismiss(7);
}

#[test]
fn the_newest_of_the_own_thread_comes_first() {
    let mut book: Book<u32> = Book::new(LIMITS);
    let (now, other) = (Instant::now(), std::thread::spawn(home).join().unwrap());
    let mut pool = None;
    for _ in 0..2 {
        let Checkout::Now(id, Grant::Open) = book.checkout(&key(0, 0, 0), home(), now).0 else { panic!() };
        pool = Some(id);
    }
    let pool = pool.unwrap();
    book.give(pool, Phase::Opening, 1, home(), now);
    book.give(pool, Phase::Opening, 2, other, now);
    let Checkout::Now(_, Grant::Item(item)) = book.checkout(&key(0, 0, 0), home(), now).0 else { panic!() };
    assert_eq!(item, 1);
    let Checkout::Now(_, Grant::Item(item)) = book.checkout(&key(0, 0, 0), home(), now).0 else { panic!() };
    assert_eq!(item, 2, "another thread's idle one before a new one");
}

#[test]
fn a_contested_account_changes_sets_one_at_a_time() {
    let mut book: Book<u32> = Book::new(Limits { size: 2, per_node: 9, connecting: 9, waiters: 9 });
    let now = Instant::now();
    let mut pool = None;
    for _ in 0..2 {
        let Checkout::Now(id, Grant::Open) = book.checkout(&key(0, 0, 0), home(), now).0 else { panic!() };
        book.change(id, Phase::Opening, Phase::Active, now);
        pool = Some(id);
    }
    let wait = |book: &mut Book<u32>, set| match book.checkout(&key(0, 0, set), home(), now).0 {
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
