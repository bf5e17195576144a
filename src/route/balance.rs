//! Among fit nodes, which: two at random by weight, the less busy of them.
//!
//! Power of two choices spreads as well as "least busy of all" without the herd that follows when all threads see
//! the same least busy node.

use crate::topology::{NodeId, NodeView};

/// How busy a node is, as pools count it.
pub trait NodeLoad {
    /// Backends of `node` that sessions hold now.
    fn in_flight(&self, node: NodeId) -> usize;
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

    /// A number below `bound`; 0 when `bound` is 0.
    fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: as even as needed for any bound far below 2^64, and no division.
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// One of `nodes` by weight, without `except`.
fn draw<'a>(nodes: &[&'a NodeView], except: Option<NodeId>, rng: &mut Rng) -> Option<&'a NodeView> {
    let weight = |n: &NodeView| if Some(n.id) == except { 0 } else { u64::from(n.spec.weight.max(1)) };
    let total = nodes.iter().map(|n| weight(n)).sum();
    let mut ticket = rng.below(total);
    nodes.iter().copied().find(|n| {
        let w = weight(n);
        let hit = ticket < w;
        ticket = ticket.saturating_sub(w);
        hit
    })
}

/// The less busy (in relation to its weight) of two nodes drawn by weight; `None` when there is none.
pub(super) fn pick<'a>(nodes: &[&'a NodeView], load: &dyn NodeLoad, rng: &mut Rng) -> Option<&'a NodeView> {
    let first = draw(nodes, None, rng)?;
    let Some(second) = draw(nodes, Some(first.id), rng) else { return Some(first) };
    // Cross-multiplied in place of a division; the node about to be chosen counts the newcomer.
    let busy = |n: &NodeView, other: &NodeView| {
        (load.in_flight(n.id) as u64 + 1).saturating_mul(u64::from(other.spec.weight.max(1)))
    };
    Some(if busy(second, first) < busy(first, second) { second } else { first })
}
