//! The settings of pools.
//!
//! In: values that were read and checked. Out: the same, typed. Must not know where they come from.

use std::time::Duration;

/// `[pool]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How long a session keeps a backend.
    pub mode: PoolMode,
    /// Backends per node, database and user.
    pub size: usize,
    /// Backends per node over all pools.
    pub max_backends_per_node: usize,
    /// Clients at once; one more gets 53300.
    pub max_clients: usize,
    /// How long a client waits for a backend before 53300.
    pub wait_timeout: Duration,
    /// An idle backend is closed after it.
    pub idle_timeout: Duration,
    /// A backend is not used again after this age; zero: after its first session.
    pub lifetime: Duration,
    /// Idle backends kept open in every pool in use, whatever their idle time.
    pub min_idle: usize,
    /// Of `size` and `max_backends_per_node`, what reads that go to the primary for want of a standby do not get.
    pub reserve: usize,
    /// Backends per key in use kept open on every standby, so that a promotion finds them.
    pub warm: usize,
    /// Sessions in one queue; one more gets 53300 at once.
    pub max_waiters: usize,
    /// Startup sets kept apart for one node, database and user.
    pub max_startup_sets: usize,
    /// Logins at one node at the same time.
    pub max_connecting_per_node: usize,
    /// A reset that takes longer closes the backend.
    pub reset_timeout: Duration,
    /// Sessions per node, database and user that may keep a backend in transaction mode; 0: three quarters of `size`.
    pub max_pinned: usize,
    /// `nextval` and `setval` bind a session to its backend in transaction mode.
    pub pin_sequences: bool,
    /// Prepared statements kept on each backend, in transaction mode.
    pub max_prepared: usize,
}

/// How long a session keeps a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// Until the client leaves.
    Session,
    /// Until the transaction ends.
    Transaction,
}
