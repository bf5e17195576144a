//! What is done about the primary beside watching it: the operator's hooks.
//!
//! In: published topologies. Out: programs started. It does not decide who is the primary.

mod command;
pub mod hooks;
