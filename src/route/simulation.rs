//! Standbys, clients and a clock in one loop: what the balancing does to shares and to latency, against plain random and
//! least-connections choices. Seeded; no real time passes.
//!
//! A standby has a number of cores and a queue before them. Requests come by chance at an even rate, each goes where the
//! strategy sends it, and is answered when a core has been free for it long enough.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::tests::{Known, policy, topology};
use super::{Floors, Load, NodeLoad, Policy, Rng, Target, Wants, target};
use crate::config::Fallback;
use crate::metrics::Average;
use crate::topology::{Moment, NodeId, ReadRefusal, Reads, Topology};

/// Mean time of a request at a healthy standby, microseconds.
const SERVICE_US: f64 = 4000.0;
const CORES: usize = 4;
const SECOND: u64 = 1_000_000;

/// Who decides where a request goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Strategy {
    /// What the proxy does.
    Balanced,
    /// The fewest requests in flight, the first of several.
    LeastConnections,
    Random,
}

/// What happens at a time.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    Arrival,
    /// A request that began then is answered by that node.
    Done(usize, u64),
    /// The node answers nothing until the second time.
    Stall(usize, u64),
    /// The node takes work up again after a stall.
    Resume(usize),
    /// From now on, requests take so many hundredths of the usual time at that node.
    Speed(usize, u64),
    /// It serves reads from now on.
    Return(usize),
}

#[derive(Debug)]
struct Standby {
    /// Hundredths of the usual time of a request.
    speed: u64,
    /// When requests began that wait for a core.
    queue: VecDeque<u64>,
    working: usize,
    stalled: bool,
    in_flight: usize,
    latency: Average,
}

/// What became of one request.
#[derive(Clone, Copy, Debug)]
struct Answer {
    began: u64,
    took: u64,
}

struct World {
    strategy: Strategy,
    view: Topology,
    standbys: Vec<Standby>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    numbered: u64,
    now: u64,
    chance: Rng,
    rng: Rng,
    /// Microseconds between two requests, on average.
    pause: f64,
    /// One more request, then no others.
    closing: bool,
    answers: Vec<Answer>,
    sent: Vec<(u64, usize)>,
}

impl World {
    /// So many standbys; requests that would keep this part of all their cores busy if they were all healthy.
    fn new(strategy: Strategy, standbys: u16, load: f64, seed: u64) -> Self {
        let standby = |_| Standby {
            speed: 100,
            queue: VecDeque::new(),
            working: 0,
            stalled: false,
            in_flight: 0,
            latency: Average::default(),
        };
        let mut world = World {
            strategy,
            view: topology(standbys + 1, |_| {}),
            standbys: (0..standbys).map(standby).collect(),
            events: BinaryHeap::new(),
            numbered: 0,
            now: 0,
            chance: Rng::new(seed),
            rng: Rng::new(seed ^ 0xABCD),
            pause: SERVICE_US / (load * f64::from(standbys) * CORES as f64),
            closing: false,
            answers: Vec::new(),
            sent: Vec::new(),
        };
        world.at(0, Event::Arrival);
        world
    }

    fn at(&mut self, when: u64, event: Event) {
        self.numbered += 1;
        self.events.push(Reverse((when, self.numbered, event)));
    }

    /// A waiting time without memory.
    fn chance(&mut self, mean: f64) -> u64 {
        (-f64::from(1.0 - self.chance.part()).ln() * mean) as u64 + 1
    }

    fn run(&mut self, until: u64) {
        while let Some(Reverse((when, _, event))) = self.events.pop() {
            if when > until {
                self.at(when, event);
                break;
            }
            self.now = when;
            match event {
                Event::Arrival => self.arrive(),
                Event::Done(node, began) => self.done(node, began),
                Event::Stall(node, end) => {
                    self.standbys[node].stalled = true;
                    self.at(end, Event::Resume(node));
                }
                Event::Resume(node) => {
                    self.standbys[node].stalled = false;
                    self.work(node);
                }
                Event::Speed(node, speed) => self.standbys[node].speed = speed,
                Event::Return(node) => {
                    self.view.nodes[node + 1].reads = Reads::Qualified;
                    self.view.nodes[node + 1].qualified_since = Some(Moment::from_us(when));
                }
            }
        }
        self.now = until;
    }

    fn arrive(&mut self) {
        let node = self.choose();
        self.sent.push((self.now, node));
        self.standbys[node].in_flight += 1;
        self.standbys[node].queue.push_back(self.now);
        self.work(node);
        if !self.closing {
            let next = self.now + self.chance(self.pause);
            self.at(next, Event::Arrival);
        }
    }

    /// Free cores take what waits.
    fn work(&mut self, node: usize) {
        loop {
            let standby = &mut self.standbys[node];
            if standby.stalled || standby.working == CORES {
                return;
            }
            let Some(began) = standby.queue.pop_front() else { return };
            standby.working += 1;
            let mean = SERVICE_US * standby.speed as f64 / 100.0;
            // From half of the mean to one and a half.
            let took = (mean * (0.5 + f64::from(self.chance.part()))) as u64;
            self.at(self.now + took, Event::Done(node, began));
        }
    }

    fn done(&mut self, node: usize, began: u64) {
        let standby = &mut self.standbys[node];
        if standby.stalled {
            // Said as soon as it goes on.
            self.at(self.now + 1000, Event::Done(node, began));
            return;
        }
        standby.working -= 1;
        standby.in_flight -= 1;
        let took = self.now - began;
        standby.latency.record(Duration::from_micros(took), (self.now / 1000) as u32);
        self.answers.push(Answer { began, took });
        self.work(node);
    }

    fn choose(&mut self) -> usize {
        let fit: Vec<usize> = self.view.read_nodes().map(|node| node.id.index() - 1).collect();
        match self.strategy {
            Strategy::Random => fit[(self.rng.part() * fit.len() as f32) as usize],
            Strategy::LeastConnections => {
                fit.into_iter().min_by_key(|node| self.standbys[*node].in_flight).unwrap()
            }
            Strategy::Balanced => {
                self.view.at = Moment::from_us(self.now / 100_000 * 100_000);
                let policy = Policy { slow_start: Duration::from_secs(10), ..policy(Fallback::Error) };
                let load = self.known();
                let choice = target(
                    Wants::Standby,
                    &self.view,
                    &policy,
                    &mut Floors::default(),
                    None,
                    &load,
                    &mut self.rng,
                );
                let Ok(Target::Standby(NodeId(node))) = choice else { panic!("{choice:?}") };
                usize::from(node) - 1
            }
        }
    }

    fn known(&self) -> impl NodeLoad + use<> {
        let now = (self.now / 1000) as u32;
        let load = |one: &Standby| Load { in_flight: one.in_flight, latency: one.latency.read(now) };
        Known(std::iter::once(Load::default()).chain(self.standbys.iter().map(load)).collect())
    }

    /// Requests sent to each standby from then on.
    fn sent(&self, from: u64) -> Vec<usize> {
        let mut counts = vec![0; self.standbys.len()];
        self.sent.iter().filter(|(when, _)| *when >= from).for_each(|(_, node)| counts[*node] += 1);
        counts
    }

    /// This part of the requests sent from then on were answered within the result, milliseconds. Waits for all answers.
    fn quantile(mut self, part: f64, from: u64) -> f64 {
        self.closing = true;
        self.run(u64::MAX);
        let mut took: Vec<u64> =
            self.answers.iter().filter(|one| one.began >= from).map(|one| one.took).collect();
        took.sort_unstable();
        took[(took.len() as f64 * part) as usize] as f64 / 1000.0
    }
}

/// The work of standby 1 by that of standby 0, which is twice as fast.
fn part_of_the_slower(strategy: Strategy, load: f64) -> f64 {
    let mut world = World::new(strategy, 2, load, 1);
    world.standbys[1].speed = 200;
    world.run(30 * SECOND);
    let sent = world.sent(10 * SECOND);
    sent[1] as f64 / sent[0] as f64
}

#[test]
fn a_standby_twice_as_slow_gets_about_half_of_the_work() {
    // From nearly idle to as much as the two can do: three quarters of two healthy ones.
    for load in [0.02, 0.2, 0.4, 0.6, 0.72] {
        let part = part_of_the_slower(Strategy::Balanced, load);
        assert!((0.4..=0.6).contains(&part), "at {load}: {part}");
    }
    let random = part_of_the_slower(Strategy::Random, 0.2);
    assert!(random > 0.9, "the test would see it: {random}");
    let least = part_of_the_slower(Strategy::LeastConnections, 0.02);
    assert!(least < 0.2, "by chance of the order, not by what they can do: {least}");
}

/// A quantile of latency with a third standby that goes wrong, by that without it.
fn raised(part: f64, strategy: Strategy, load: f64, wrong: impl Fn(&mut World)) -> f64 {
    let from = 10 * SECOND;
    let mut healthy = World::new(strategy, 2, load, 2);
    healthy.run(40 * SECOND);
    // The same requests: three standbys would get half as many again.
    let mut world = World::new(strategy, 3, load * 2.0 / 3.0, 2);
    wrong(&mut world);
    world.run(40 * SECOND);
    world.quantile(part, from) / healthy.quantile(part, from)
}

#[test]
fn a_standby_a_hundred_times_slower_does_not_raise_p99() {
    let wrong = |world: &mut World| world.at(10 * SECOND, Event::Speed(2, 10_000));
    for load in [0.02, 0.3, 0.6] {
        let balanced = raised(0.99, Strategy::Balanced, load, wrong);
        assert!(balanced < 1.3, "at {load}: {balanced}");
    }
    let random = raised(0.99, Strategy::Random, 0.02, wrong);
    assert!(random > 20.0, "the test would see it: {random}");
    let balanced = raised(0.999, Strategy::Balanced, 0.6, wrong);
    assert!(balanced < 1.5, "{balanced}");
    let least = raised(0.999, Strategy::LeastConnections, 0.6, wrong);
    assert!(least > 20.0, "to count what is in flight is not enough: {least}");
}

#[test]
fn a_standby_that_stalls_now_and_then_does_not_raise_p99() {
    let wrong = |world: &mut World| {
        for second in (10..40).step_by(10) {
            world.at(second * SECOND, Event::Stall(2, (second + 1) * SECOND));
        }
    };
    for load in [0.1, 0.3, 0.6] {
        let balanced = raised(0.99, Strategy::Balanced, load, wrong);
        assert!(balanced < 1.3, "at {load}: {balanced}");
    }
    let random = raised(0.99, Strategy::Random, 0.1, wrong);
    assert!(random > 20.0, "the test would see it: {random}");
}

#[test]
fn a_standby_that_was_slow_is_found_out_to_be_well_again() {
    let mut world = World::new(Strategy::Balanced, 2, 0.2, 3);
    world.standbys[1].speed = 10_000;
    world.at(10 * SECOND, Event::Speed(1, 100));
    world.run(60 * SECOND);
    let before: usize = world.sent.iter().filter(|(when, node)| *when < 10 * SECOND && *node == 1).count();
    assert!(before < world.sent.len() / 6 / 100, "{before}");
    let after = world.sent(45 * SECOND);
    let part = after[1] as f64 / (after[0] + after[1]) as f64;
    assert!((0.45..0.55).contains(&part), "{after:?}");
}

/// Of the requests in some milliseconds after its return, the part that goes to the third standby.
fn part_of_the_returned(strategy: Strategy, after_ms: u64, for_ms: u64) -> f64 {
    let mut world = World::new(strategy, 3, 0.6, 4);
    world.view.nodes[3].reads = Reads::Refused(ReadRefusal::Down);
    let back = 20 * SECOND;
    world.at(back, Event::Return(2));
    let from = back + after_ms * 1000;
    world.run(from + for_ms * 1000);
    let sent = world.sent(from);
    sent[2] as f64 / sent.iter().sum::<usize>() as f64
}

#[test]
fn a_standby_that_returns_is_not_flooded() {
    let first = part_of_the_returned(Strategy::Balanced, 0, 1000);
    assert!(first < 0.06, "{first}");
    let middle = part_of_the_returned(Strategy::Balanced, 4500, 1000);
    assert!((0.1..0.3).contains(&middle), "{middle}");
    let whole = part_of_the_returned(Strategy::Balanced, 11_000, 5000);
    assert!((0.3..0.37).contains(&whole), "{whole}");
    let least = part_of_the_returned(Strategy::LeastConnections, 0, 1000);
    assert!(least > 0.25, "the test would see it: {least}");
}
