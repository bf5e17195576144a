//! What a node said about itself. Plain data between asking, judging and printing.

use crate::config::NodeAddress;
use crate::topology::{Lsn, Timeline};

/// A node and what became of asking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeReport {
    pub(super) name: String,
    pub(super) address: NodeAddress,
    pub(super) answer: Result<Facts, Unreachable>,
}

/// Why a node said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreachable {
    pub(super) text: String,
    /// Present if it was the server that refused.
    pub(super) sqlstate: Option<String>,
}

/// The answer of a node. `None` stands for what could not be learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) version_num: u32,
    pub(super) in_recovery: bool,
    /// Flushed on a primary, replayed on a standby.
    pub(super) lsn: Option<Lsn>,
    pub(super) timeline: Option<Timeline>,
    pub(super) system_identifier: Option<u64>,
    /// The text of a WAL receiver's state; `None` if none runs.
    pub(super) receiver: Option<String>,
    /// Whether a standby lives from an archive alone (`primary_conninfo` is empty).
    pub(super) archive_fed: Option<bool>,
    pub(super) limits: ServerLimits,
    /// Databases that the monitoring role may not connect to.
    pub(super) closed: Vec<String>,
    pub(super) rights: Rights,
    /// `None` when no question was to be asked.
    pub(super) auth: Option<AuthAnswer>,
}

/// Settings of the server that have to fit ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerLimits {
    pub(super) wal_level: String,
    pub(super) hot_standby: bool,
    pub(super) max_connections: usize,
    /// Kept back from ordinary roles.
    pub(super) reserved: usize,
}

/// What the monitoring role may do.
#[expect(clippy::struct_excessive_bools, reason = "independent answers of the server")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) superuser: bool,
    /// `pg_monitor`, or `pg_read_all_stats` and `pg_read_all_settings`.
    pub(super) monitor: bool,
    /// `pg_control_system` and `pg_control_recovery`, which are public unless somebody took that away.
    pub(super) control: bool,
    /// `pg_promote`, for switchovers.
    pub(super) promote: bool,
}

/// What became of running `auth.query`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AuthAnswer {
    /// It runs.
    Works,
    /// It does not, but its role may read `pg_authid`, which is asked instead.
    Superuser,
    /// The role cannot connect.
    NoLogin(String),
    /// The server refused: SQLSTATE and text.
    Refused(String, String),
    /// It returns that many columns.
    Columns(usize),
}
