//! What is done about the primary beside watching it: planned switchovers, the operator's word and the operator's hooks.
//!
//! In: orders, published topologies. Out: statements to nodes, programs started. It does not decide who is the primary: that
//! is seen, here as everywhere, in the topology.

pub mod accept;
mod command;
pub mod hooks;
pub mod order;
mod plan;
mod server;
pub mod switchover;
