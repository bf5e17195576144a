//! Backends of one node, database, user and startup set; who may have one and when.
//!
//! In: leases wanted by sessions, backends given back, topology changes. Out: logged-in [`Backend`]s, and the reasons why
//! there is none. It knows how to log in and how to clean a backend; it does not know SQL, clients, or which node is the
//! right one.

mod applied;
mod backend;
mod book;
mod cancel;
mod credentials;
mod error;
mod janitor;
mod key;
mod lease;
mod login;
mod messages;
mod params;
mod recipes;
mod registry;
mod reset;
mod rows;
mod seat;
mod statements;
mod waits;

pub use applied::{Applied, Change, Setting};
pub use backend::{Backend, Verdict};
pub use book::Claim;
pub use cancel::{CancelGate, CancelPass};
pub use credentials::Credentials;
pub use error::{LeaseError, ServerError};
pub use key::{PoolKey, StartupSet};
pub use params::Params;
pub use registry::Registry;
pub use rows::{BackendRow, BackendState, PoolRow};
pub use seat::Seat;
pub use statements::{NAME_PREFIX, Shape, Slot, Standing, StatementId, Statements, Unnamed};

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
