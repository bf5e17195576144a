//! From what a session declares and the topology to a node.
//!
//! In: [`Wants`], the session's [`Floors`], a [topology](crate::topology::Topology) snapshot, the load of the nodes. Out:
//! a [`Target`], or a [`Refusal`] that says what to wait for. Pure: knows no socket, no clock, no pool.

mod balance;
mod fresh;
mod target;
mod why;

pub use balance::{Load, NodeLoad, Rng, Share, shares};
pub use fresh::{Floors, Fresh, Mark};
pub use target::{Policy, Refusal, Target, Wants, still_good, target};
pub use why::Why;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
