//! One PostgreSQL as the rest of the proxy sees it: who it is, what it is, whether it may be read from and why.
//!
//! Built by `decide`, never changed afterwards.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::NodeSettings;

use super::moment::Moment;
use super::position::{Lsn, Timeline};
use super::samples::Samples;

/// Index of a node in the order of the configuration.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeId(pub u16);

impl NodeId {
    /// The node as an index into [`super::Topology::nodes`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What a node is. It stays what it was last seen as while it is down.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Role {
    /// Takes writes: out of recovery on the highest timeline known.
    Primary,
    /// In recovery.
    Standby,
    /// A node of another cluster (system identifier); never used.
    Stranger,
    /// Not seen yet, or out of recovery without being accepted as the primary (yet).
    #[default]
    Unknown,
    /// Was a primary, on a branch that is over: fenced until seen in recovery on the present timeline.
    Zombie,
}

impl Role {
    /// The lower-case word for people, SHOW and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Standby => "standby",
            Role::Stranger => "stranger",
            Role::Unknown => "unknown",
            Role::Zombie => "zombie",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether a node answers. Only an answered probe is a sign of life.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Health {
    /// Silent beyond the deadline, refused, or not proven yet.
    #[default]
    Down,
    /// Something hints at trouble (a lost connection, a late answer); the prober is asking.
    Suspect,
    /// Answers.
    Up,
}

impl Health {
    /// The lower-case word for people, SHOW and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Down => "down",
            Health::Suspect => "suspect",
            Health::Up => "up",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether a node may serve reads as a standby.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reads {
    /// Fresh enough and on the primary's branch.
    Qualified,
    /// Not now, and why.
    Refused(ReadRefusal),
}

impl Reads {
    /// Is this [`Reads::Qualified`]?
    pub fn qualified(self) -> bool {
        self == Reads::Qualified
    }
}

/// Why a node serves no reads as a standby.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ReadRefusal {
    /// Has replayed what the primary never wrote: another branch of history.
    Ahead,
    /// Silent or unreachable.
    Down,
    /// It is the primary (reads go there by fallback only).
    IsPrimary,
    /// Beyond `max_lag` or `max_lag_bytes`.
    Lagging,
    /// Nothing to measure against (yet): unknown is not zero.
    LagUnknown,
    /// Out of recovery, and not the primary.
    NotInRecovery,
    /// No WAL receiver is streaming.
    NotStreaming,
    /// Nothing is known about it yet.
    Starting,
    /// Of another cluster.
    Stranger,
    /// Its sender is neither the primary nor a qualified standby.
    WrongSender,
    /// Receives another timeline than the primary's.
    WrongTimeline,
    /// A fenced old primary.
    Zombie,
}

impl ReadRefusal {
    /// A few words for people and SHOW.
    pub fn as_str(self) -> &'static str {
        match self {
            ReadRefusal::Ahead => "ahead of the primary",
            ReadRefusal::Down => "down",
            ReadRefusal::IsPrimary => "is the primary",
            ReadRefusal::Lagging => "lagging",
            ReadRefusal::LagUnknown => "lag unknown",
            ReadRefusal::NotInRecovery => "not in recovery",
            ReadRefusal::NotStreaming => "not streaming",
            ReadRefusal::Starting => "not seen yet",
            ReadRefusal::Stranger => "another cluster",
            ReadRefusal::WrongSender => "unqualified sender",
            ReadRefusal::WrongTimeline => "wrong timeline",
            ReadRefusal::Zombie => "fenced",
        }
    }
}

impl fmt::Display for ReadRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How far a standby's replay is behind the primary's flush position, by the proxy's own history.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Lag {
    /// Time since the primary passed the standby's replayed position; zero when it has everything.
    pub time: Duration,
    /// WAL bytes not replayed yet.
    pub bytes: u64,
    /// The history is younger than the position: `time` is a lower bound.
    pub at_least: bool,
}

/// One node in a [`super::Topology`].
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its index.
    pub id: NodeId,
    /// Its configuration.
    pub spec: Arc<NodeSettings>,
    /// What it is.
    pub role: Role,
    /// Whether it answers.
    pub health: Health,
    /// Whether it may serve reads as a standby.
    pub reads: Reads,
    /// Since when it may, without a break; `None` while it may not.
    pub qualified_since: Option<Moment>,
    /// How far it is behind; `None` is unknown, which is not zero.
    pub lag: Option<Lag>,
    /// The timeline it writes (primary) or receives (standby).
    pub timeline: Option<Timeline>,
    /// Its insert position (primary) or replayed position (standby) at the last probe.
    pub lsn: Option<Lsn>,
    /// What its log's position was at the last probes: what floors are made of and held against.
    pub samples: Samples,
    /// `server_version_num`, such as 150020.
    pub server_version_num: Option<u32>,
    /// Postmaster start time, microseconds since the Unix epoch: changes with every restart.
    pub start_time: Option<i64>,
    /// Round trip of the last answered probe.
    pub probe_time: Option<Duration>,
    /// Why it is what it is, in words for people.
    pub reason: String,
}

impl NodeView {
    /// The node as nobody has seen it yet.
    pub fn unseen(id: NodeId, spec: Arc<NodeSettings>) -> Self {
        NodeView {
            id,
            spec,
            role: Role::Unknown,
            health: Health::Down,
            reads: Reads::Refused(ReadRefusal::Starting),
            qualified_since: None,
            lag: None,
            timeline: None,
            lsn: None,
            samples: Samples::default(),
            server_version_num: None,
            start_time: None,
            probe_time: None,
            reason: "not seen yet".to_owned(),
        }
    }

    /// The name people gave it.
    pub fn name(&self) -> &str {
        &self.spec.name
    }
}
