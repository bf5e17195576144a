//! Among fit standbys, which: one drawn by how much it can take, unless another drawn so is much less laden.
//!
//! In: the fit nodes, and for each what the pools know of it ([`Load`]). Out: one of them. The draw goes by *capacity*,
//! a node's weight divided by its latency: so shares are right when nothing is in flight, too. Nodes that get work in
//! these shares have as much in flight as one another (by weight): who has more is *laden* and gives way to the second
//! one drawn. Two choices spread as well as "least laden of all", without the herd that follows when all threads see
//! the same least laden node. Pure: figures and their ages come in; it reads no clock.

use std::time::Duration;

use crate::metrics::Reading;
use crate::topology::{Moment, NodeId, NodeView, Topology};

use super::target::Policy;

/// Nodes looked at for one choice. Of more fit ones, so many in a row from a random one on: two are drawn in the end.
const FIELD: usize = 16;
/// A latency counts as at least this, microseconds: below it, networks and chance tell the nodes apart.
const LATENCY_MIN: f32 = 250.0;
/// A node so many times slower than the best fit one, and by so many microseconds, gets no work that another can take,
/// until its figure has faded: then it is tried again, with little.
const SLOW: f32 = 4.0;
const SLOW_BY: f32 = 2000.0;
/// A session leaves its standby when another is so many times less laden: its settings and statements have to be made
/// again there.
const STICKY: f32 = 4.0;
/// A standby that has just qualified starts with this part of its weight: caches and connections are cold.
const START: f32 = 0.05;

/// What is known of a node's load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Backends that sessions hold.
    pub in_flight: usize,
    /// How long its statements take; `None` while nothing is known.
    pub latency: Option<Reading>,
}

/// How laden nodes are, as pools and sessions count it.
pub trait NodeLoad {
    /// The load of `node` now.
    fn load(&self, node: NodeId) -> Load;
}

impl<F: Fn(NodeId) -> Load> NodeLoad for F {
    fn load(&self, node: NodeId) -> Load {
        self(node)
    }
}

/// The part of the reads that a standby is to get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The standby; one that is not listed gets none.
    pub node: NodeId,
    /// More than 0 and at most 1; all together are 1. What is in flight moves single choices away from it.
    pub part: f32,
}

/// A small, fast source of numbers that only have to be spread (SplitMix64); never for secrets.
#[derive(Clone, Debug)]
pub struct Rng(Option<u64>);

impl Rng {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Rng(Some(seed))
    }

    /// A sequence seeded by the system when its first number is wanted, which for a primary is never; by a constant when
    /// the system has no randomness to give.
    pub fn from_system() -> Self {
        Rng(None)
    }

    fn next(&mut self) -> u64 {
        let last = self.0.unwrap_or_else(|| getrandom::u64().unwrap_or(0x9E37_79B9_7F4A_7C15));
        let mut z = last.wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0 = Some(z);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to below 1.
    pub(super) fn part(&mut self) -> f32 {
        // As many bits as a float holds exactly.
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }
}

/// A fit node.
#[derive(Clone, Copy, Debug, Default)]
struct Candidate {
    node: u16,
    near: bool,
    /// Far slower than the best, by what is still believed.
    slow: bool,
    /// How many times slower, if it is that; else 1.
    slowness: f32,
    in_flight: f32,
    weight: f32,
    /// As it was measured; 0 is unknown.
    micros: f32,
    /// As far as it is still believed.
    faded: f32,
    /// What it can take. 0: no part in this choice.
    capacity: f32,
}

impl Candidate {
    fn of(view: &NodeView, warming: &Warming, policy: &Policy<'_>, load: Load) -> Self {
        let latency = |value: f32| value.max(LATENCY_MIN);
        Candidate {
            node: view.id.0,
            near: policy.zone.is_some() && view.spec.zone.as_deref() == policy.zone,
            slow: false,
            slowness: 1.0,
            in_flight: load.in_flight as f32,
            weight: view.spec.weight.max(1) as f32 * warming.warmth(view),
            micros: load.latency.map_or(0.0, |reading| latency(reading.micros)),
            faded: load.latency.map_or(0.0, |reading| latency(reading.faded())),
            capacity: 0.0,
        }
    }

    /// How laden it would be with `more` on top. Latency has its say in the draw already, except of the far slower.
    fn laden(&self, more: f32) -> f32 {
        (self.in_flight + more) * self.slowness / self.weight
    }
}

/// The slow start of standbys.
struct Warming {
    at: Moment,
    slow_start: Duration,
    /// Who qualifies since then or longer is warm.
    warm: Moment,
}

impl Warming {
    fn new(at: Moment, slow_start: Duration) -> Self {
        Warming { at, slow_start, warm: at - slow_start }
    }

    /// From [`START`] to 1 while the time since it qualified goes from 0 to `slow_start`.
    fn warmth(&self, view: &NodeView) -> f32 {
        match view.qualified_since {
            Some(since) if since > self.warm => {
                self.at.since(since).div_duration_f32(self.slow_start).max(START)
            }
            _ => 1.0,
        }
    }
}

fn is_slow(micros: f32, best: f32) -> bool {
    micros > SLOW * best && micros > best + SLOW_BY
}

/// Finds out what each can take, and who is in this choice at all.
fn weigh(field: &mut [Candidate]) {
    let known = field.iter().map(|one| one.micros).filter(|micros| *micros > 0.0);
    let best = known.fold(f32::INFINITY, f32::min);
    let best = if best.is_finite() { best } else { LATENCY_MIN };
    // Who is near comes first, as long as one of them is no slow node, nor one that is only tried again.
    let near_only = field.iter().any(|one| one.near && !is_slow(one.micros, best));
    for one in field {
        let latency = one.faded.max(best);
        one.slow = is_slow(latency, best);
        one.slowness = if one.slow { latency / best } else { 1.0 };
        one.capacity = if near_only && !one.near { 0.0 } else { one.weight / latency };
    }
}

/// One of them by capacity; `None` when none of them may be drawn.
fn draw<'a>(
    field: &'a [Candidate],
    may: impl Fn(&Candidate) -> bool,
    rng: &mut Rng,
) -> Option<&'a Candidate> {
    let drawn = || field.iter().filter(|one| one.capacity > 0.0 && may(one));
    let mut ticket = rng.part() * drawn().map(|one| one.capacity).sum::<f32>();
    let hit = drawn().find(|one| {
        ticket -= one.capacity;
        ticket < 0.0
    });
    // Sums of floats may miss the end by a hair.
    hit.or_else(|| drawn().last())
}

fn choose(field: &[Candidate], current: Option<NodeId>, rng: &mut Rng) -> Option<NodeId> {
    let drawn = || field.iter().filter(|one| one.capacity > 0.0);
    if let Some(here) = drawn().find(|one| Some(NodeId(one.node)) == current && !one.slow)
        && drawn().all(|other| other.node == here.node || other.laden(1.0) * STICKY > here.laden(0.0))
    {
        return current;
    }
    let first = draw(field, |one| !one.slow, rng)?;
    let second = draw(field, |one| one.node != first.node, rng);
    // The node about to be chosen counts the newcomer. With nothing in flight at the first, the draw stands.
    let better = second.filter(|second| second.laden(1.0) <= first.laden(0.0));
    Some(NodeId(better.unwrap_or(first).node))
}

/// The standby for a session that was at `current`, of those that are `fit`; `None` when none is. It stays where it is
/// unless that is slow or another is much less laden.
pub(super) fn pick(
    topology: &Topology,
    policy: &Policy<'_>,
    mut fit: impl FnMut(&NodeView) -> bool,
    current: Option<NodeId>,
    load: &dyn NodeLoad,
    rng: &mut Rng,
) -> Option<NodeId> {
    let nodes = &topology.nodes;
    // With few nodes the order is of no importance, and no number is drawn.
    let start = match current {
        _ if nodes.len() <= FIELD => 0,
        Some(current) => current.index(),
        None => (rng.part() * nodes.len() as f32) as usize,
    };
    let (before, from) = nodes.split_at(start.min(nodes.len()));
    let warming = Warming::new(topology.at, policy.slow_start);
    let mut field = [Candidate::default(); FIELD];
    let mut count = 0;
    for (slot, view) in field.iter_mut().zip(from.iter().chain(before).filter(|view| fit(view))) {
        *slot = Candidate::of(view, &warming, policy, load.load(view.id));
        count += 1;
    }
    let field = field.get_mut(..count)?;
    if let [only] = field {
        return Some(NodeId(only.node));
    }
    weigh(field);
    choose(field, current, rng)
}

/// What part of the reads each standby is to get, for people: in the order of the nodes.
pub fn shares(topology: &Topology, policy: &Policy<'_>, load: &dyn NodeLoad) -> Vec<Share> {
    let fit = topology.read_nodes();
    let warming = Warming::new(topology.at, policy.slow_start);
    let mut field: Vec<_> =
        fit.map(|view| Candidate::of(view, &warming, policy, load.load(view.id))).collect();
    weigh(&mut field);
    field.retain(|one| one.capacity > 0.0 && !one.slow);
    let all: f32 = field.iter().map(|one| one.capacity).sum();
    field.iter().map(|one| Share { node: NodeId(one.node), part: one.capacity / all }).collect()
}
