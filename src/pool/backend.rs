//! One logged-in connection to a server.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::ThreadId;

use tokio::time::Instant;

use super::applied::Applied;
use super::book::{Phase, PoolId};
use super::cancel::CancelGate;
use super::key::PoolKey;
use super::params::Params;
use super::registry::Registry;
use super::rows::BackendState;
use super::statements::Statements;
use crate::net::Stream;
use crate::topology::Epoch;

/// What a session says when it gives a backend back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Stop what it runs, then close it: its client vanished.
    CancelAndClose,
    /// At status `I`, with nothing of the session left in it: may be used again as it is.
    Clean,
    /// Broken, or in a state that no reset cleans.
    Close,
    /// At status `I`: `DISCARD ALL`, verify, keep.
    Reset,
}

/// A backend in the hands of a session. Give it back by [`Registry::release`]: dropping it closes the socket and counts
/// as a leak.
pub struct Backend {
    /// Unique within this process.
    pub id: u64,
    /// The connection.
    pub stream: Stream,
    /// The pool it belongs to.
    pub key: Arc<PoolKey>,
    /// The epoch in which it was opened.
    pub epoch: Epoch,
    /// Whether its node was the primary then; such a backend dies with its epoch.
    pub opened_on_primary: bool,
    /// The server's process id.
    pub pid: i32,
    /// The secret for cancel requests, 4 to 256 bytes.
    pub cancel_key: Arc<[u8]>,
    /// ParameterStatus as after login and after every reset.
    pub params: Params,
    /// It has waited in the pool since it logged in, and its role may have been renamed or dropped meanwhile.
    pub reused: bool,
    /// The gate for cancel requests during this lease.
    pub cancels: Arc<CancelGate>,
    /// Settings that sessions of transaction mode have left on it.
    pub applied: Applied,
    /// Prepared statements that they have left on it.
    pub statements: Option<Box<Statements>>,
    /// Reported values that differ from `params` now.
    pub(super) drift: Params,
    pub(super) info: Arc<Info>,
    pub(super) pool: PoolId,
    pub(super) phase: Phase,
    /// A session has it: counted in [`Registry::in_flight`], and a drop is a leak.
    pub(super) held: bool,
    pub(super) registry: Weak<Registry>,
    pub(super) expires: Instant,
    pub(super) home: ThreadId,
}

impl Backend {
    /// Takes note of a ParameterStatus that the server sent during the lease, so that the reset can be verified.
    pub fn note_parameter(&mut self, name: &str, value: &str) {
        if name == "in_hot_standby" {
            // The node's state, not the session's: it stays as reported.
            self.params.set(name, value);
        } else if self.params.get(name) == Some(value) {
            self.drift.remove(name);
        } else {
            self.drift.set(name, value);
        }
    }

    /// The value of a reported parameter now.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.drift.get(name).or_else(|| self.params.get(name))
    }

    /// The name of its role at the login, as the server told it.
    pub fn login_name(&self) -> Option<&str> {
        self.params.get("session_authorization")
    }

    /// Notes for SHOW how many prepared statements it has.
    pub fn note_prepared(&self, count: usize) {
        self.info.prepared.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Notes for SHOW whether its session keeps it between transactions.
    pub(super) fn note_pinned(&self, pinned: bool) {
        self.info.pinned.store(pinned, Ordering::Relaxed);
    }

    pub(super) fn set_state(&self, state: BackendState) {
        self.info.state.store(state as u8, Ordering::Relaxed);
        self.info.since.store(self.info.opened.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Backend {} (pid {}, {})", self.id, self.pid, self.key)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if self.phase != Phase::Gone
            && let Some(registry) = self.registry.upgrade()
        {
            registry.on_dropped(self);
        }
    }
}

/// What SHOW BACKENDS tells of a backend without having it.
#[derive(Debug)]
pub(super) struct Info {
    pub(super) key: Arc<PoolKey>,
    pub(super) pid: i32,
    pub(super) epoch: Epoch,
    pub(super) opened_on_primary: bool,
    pub(super) tls: bool,
    pub(super) opened: Instant,
    /// A [`BackendState`].
    pub(super) state: AtomicU8,
    /// Milliseconds from `opened` to the last change of state.
    pub(super) since: AtomicU64,
    /// Its session keeps it between transactions.
    pub(super) pinned: AtomicBool,
    /// Prepared statements on it.
    pub(super) prepared: AtomicU32,
}
