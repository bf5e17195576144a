//! What a prober saw of one node: the only input of `decide` besides time.
//!
//! Plain values; how they are asked for is in `health::probe`.

use std::fmt;
use std::time::Duration;

use super::moment::Moment;
use super::node::NodeId;
use super::position::{Lsn, Timeline};

/// One result of one probe, or of waiting for it.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Whose.
    pub node: NodeId,
    /// Number of the probe ([`super::Nudges::probe_sent`]); 0 when the observation is not of a probe.
    pub number: u64,
    /// The prober connection: number of the first probe on it. Of an attempt that failed: number of the attempt. 0 when
    /// the observation is not of a connection.
    pub link: u64,
    /// When the question was sent: evidence counts from here, since the answer may have been under way for long.
    pub sent: Moment,
    /// When the answer came, or the failure was certain.
    pub at: Moment,
    /// The result.
    pub seen: Seen,
}

/// The result of a probe.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A bare `Sync` was answered: alive, and nothing more.
    Beat,
    /// No answer, and there will be none.
    Failed(Failure),
    /// Unanswered for longer than usual; the deadline is still ahead.
    Late,
    /// The whole question was answered.
    Sample(Box<Sample>),
    /// A session or pool met something that hints at trouble; the prober is asking.
    Trouble,
}

/// Why there was no answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// The node takes no more connections (53300): it lives, but the prober cannot ask it.
    Crowded,
    /// An open connection ended; whether the server did is not known yet.
    Cut(String),
    /// The server answered, but not the question (login refused, database missing, rights missing).
    Denied(String),
    /// Nobody listens.
    Refused,
    /// Silent beyond the deadline.
    Silent(Duration),
    /// 57P03: starting, stopping or in crash recovery; a restart in place may follow.
    Unavailable(String),
    /// Not reachable for another reason (name resolution, routing, TLS).
    Unreachable(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Crowded => f.write_str("too many connections for the monitor to connect"),
            Failure::Cut(why) => write!(f, "connection lost: {why}"),
            Failure::Denied(why) => write!(f, "the monitor cannot ask: {why}"),
            Failure::Refused => f.write_str("connection refused"),
            Failure::Silent(limit) => write!(f, "no answer within {} ms", limit.as_millis()),
            Failure::Unavailable(why) => write!(f, "57P03 {why}"),
            Failure::Unreachable(why) => write!(f, "unreachable: {why}"),
        }
    }
}

/// What a node says about itself at one instant. Positions are [`Lsn::rounded`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sample {
    /// `pg_control_system().system_identifier`.
    pub system_identifier: u64,
    /// `server_version_num`.
    pub server_version_num: u32,
    /// Postmaster start time, microseconds since the Unix epoch.
    pub start_time: i64,
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// The timeline written, from the name of the WAL file (`pg_control_checkpoint()` is old until the first
    /// checkpoint after a promotion). Primary only.
    pub timeline: Option<Timeline>,
    /// `pg_current_wal_insert_lsn()`: covers every commit that is visible. Primary only.
    pub insert: Option<Lsn>,
    /// `pg_current_wal_flush_lsn()`: what standbys can have. Primary only.
    pub flush: Option<Lsn>,
    /// `pg_last_wal_replay_lsn()`; static after a promotion, where it is the fork.
    pub replayed: Option<Lsn>,
    /// `pg_snapshot_xmax(pg_current_snapshot())`: the first transaction id not in use. Primary only.
    pub next_xid: Option<u64>,
    /// `pg_last_wal_receive_lsn()`.
    pub received: Option<Lsn>,
    /// The row of `pg_stat_wal_receiver`, when there is one.
    pub receiver: Option<Receiver>,
    /// `primary_conninfo` is empty: the node is fed from an archive only.
    pub archive_fed: bool,
    /// `pg_control_recovery().min_recovery_end_timeline`, asked of archive-fed nodes only.
    pub min_recovery_timeline: Option<Timeline>,
    /// Rows of `pg_stat_replication` as JSON text; the primary's, and not with every probe.
    pub replication: Option<String>,
}

/// A WAL receiver, as `pg_stat_wal_receiver` shows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Receiver {
    /// `status = 'streaming'`.
    pub streaming: bool,
    /// `received_tli`; `None` for a role without `pg_monitor`.
    pub timeline: Option<Timeline>,
    /// Host name, address or socket directory of the sender, as `primary_conninfo` spells it.
    pub sender_host: Option<String>,
    /// Port of the sender.
    pub sender_port: Option<u16>,
    /// `latest_end_lsn`: how far the sender had got with its last message.
    pub latest_end: Option<Lsn>,
}
