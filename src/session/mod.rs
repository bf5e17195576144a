//! One client from its first byte to its last.
//!
//! Flow: `startup` reads the first packets into a phase, `auth` proves who it is, `run` relays between the client and
//! the backend it has leased and, when that is lost, finds another. `state`, `pipeline`, `params`, `prepared` and
//! `limbo` are sans-IO: messages in, verdicts out.

pub mod buffer;
pub mod limbo;
pub mod params;
pub mod pipeline;
pub mod prepared;
pub mod state;
