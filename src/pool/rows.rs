//! What the console shows of the pools.

use std::sync::Arc;
use std::time::Duration;

use super::key::PoolKey;
use crate::topology::{Epoch, NodeId};

/// One pool.
#[derive(Clone, Debug)]
pub struct PoolRow {
    /// Node, database, user and startup set.
    pub key: Arc<PoolKey>,
    /// Held by sessions, or being reset.
    pub active: usize,
    /// Free.
    pub idle: usize,
    /// Being opened.
    pub opening: usize,
    /// Being closed; they count until the server has closed them too.
    pub closing: usize,
    /// Kept by their sessions between transactions, in transaction mode.
    pub pinned: usize,
    /// Prepared statements on its backends.
    pub prepared: usize,
    /// Sessions that wait.
    pub waiting: usize,
    /// How long the first of them has waited.
    pub longest_wait: Duration,
    /// What 99 of 100 checkouts of the last one to two minutes have not waited longer than.
    pub wait_p99: Duration,
}

/// What a backend does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BackendState {
    /// Held by a session.
    Active = 0,
    /// Free.
    Idle = 1,
    /// Being cleaned after use.
    Reset = 2,
    /// Being closed.
    Closing = 3,
}

impl BackendState {
    pub(super) fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Active,
            1 => Self::Idle,
            2 => Self::Reset,
            _ => Self::Closing,
        }
    }

    /// The lower-case word for SHOW.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Reset => "reset",
            Self::Closing => "closing",
        }
    }
}

/// One backend.
#[derive(Clone, Debug)]
pub struct BackendRow {
    /// Unique within this process.
    pub id: u64,
    /// The pool it belongs to.
    pub key: Arc<PoolKey>,
    /// Its node.
    pub node: NodeId,
    /// The server's process id.
    pub pid: i32,
    /// What it does.
    pub state: BackendState,
    /// For how long.
    pub state_age: Duration,
    /// Time since it was opened.
    pub age: Duration,
    /// The epoch in which it was opened.
    pub epoch: Epoch,
    /// Whether its node was the primary then.
    pub opened_on_primary: bool,
    /// Whether it is encrypted.
    pub tls: bool,
    /// Whether its session keeps it between transactions, in transaction mode.
    pub pinned: bool,
    /// Prepared statements on it.
    pub prepared: u32,
}
