//! The choice of a node for a session, and whether a choice made earlier still stands.

use std::time::Duration;

use crate::config::{Fallback, Settings};
use crate::topology::{Epoch, Health, NodeId, NodeView, ReadRefusal, Reads, Role, Topology};

use super::balance::{NodeLoad, Rng, pick};
use super::fresh::{Floors, Fresh};

/// What a session declared about itself.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Wants {
    /// May write: the primary.
    Primary,
    /// Only reads: a standby.
    Standby,
}

/// Where work goes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Target {
    /// The primary; also for a read-only session when no standby qualifies and the policy says so.
    Primary(NodeId),
    /// A standby.
    Standby(NodeId),
}

impl Target {
    /// The node, whatever its role.
    pub fn node(self) -> NodeId {
        match self {
            Target::Primary(node) | Target::Standby(node) => node,
        }
    }
}

/// Nobody can take the work now.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Refusal {
    /// No primary is known to be alive: hold the work until one is.
    NoPrimary,
    /// Standbys qualify, but none is known to have what the session has written or read. The primary has it all.
    NotFresh {
        /// One has what the session has written: only its own latest reads are in the way, and the next samples will
        /// probably settle them. Worth a wait of some milliseconds, or a session that reads without a pause would
        /// never leave the primary again; [`Floors::gave_up`] when the wait was in vain.
        nearly: bool,
    },
    /// No standby qualifies and the policy allows nothing else: an error for [`Fallback::Error`], else hold.
    NoStandby,
}

/// What the configuration says about choosing.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// When no standby qualifies.
    pub fallback: Fallback,
    /// Prefer nodes of this zone when one qualifies; `None`: all alike.
    pub zone: Option<&'a str>,
    /// How long the share of a standby that has just qualified grows.
    pub slow_start: Duration,
    /// The session's own limit of lag in place of the cluster's (`SET pgsteer.max_lag`), which was in bytes, too.
    pub max_lag: Option<Duration>,
}

impl<'a> Policy<'a> {
    /// What these settings say, for a session with no limit of its own.
    pub fn of(settings: &'a Settings) -> Self {
        Policy {
            fallback: settings.cluster.fallback,
            zone: settings.route.zone.as_deref(),
            slow_start: settings.route.slow_start,
            max_lag: None,
        }
    }
}

/// The node for a session that `wants` this and has to find its `floors` there; `current` is kept while it qualifies,
/// unless it has become far slower than another or far more laden. For [`Refusal::NotFresh`] the caller chooses between
/// [`Topology::writable_primary`] and a wait.
///
/// A standby's verdict outlives the primary for a while (`frozen_limit`), so reads go on during a failover.
pub fn target(
    wants: Wants,
    topology: &Topology,
    policy: &Policy<'_>,
    floors: &mut Floors,
    current: Option<NodeId>,
    load: &dyn NodeLoad,
    rng: &mut Rng,
) -> Result<Target, Refusal> {
    match wants {
        Wants::Primary => topology.writable_primary().map(Target::Primary).ok_or(Refusal::NoPrimary),
        Wants::Standby => standby(topology, policy, floors, current, load, rng),
    }
}

fn standby(
    topology: &Topology,
    policy: &Policy<'_>,
    floors: &mut Floors,
    current: Option<NodeId>,
    load: &dyn NodeLoad,
    rng: &mut Rng,
) -> Result<Target, Refusal> {
    let mut behind = false;
    let fresh = |node: &NodeView| {
        let fit = within(node, policy);
        let fresh = fit && floors.serves(topology, node) == Fresh::Yes;
        behind |= fit && !fresh;
        fresh
    };
    if let Some(node) = pick(topology, policy, fresh, current, load, rng) {
        return Ok(Target::Standby(node));
    }
    if behind {
        let nearly = topology.nodes.iter().any(|n| within(n, policy) && floors.nearly(topology, n));
        return Err(Refusal::NotFresh { nearly });
    }
    let primary = topology.writable_primary().map(Target::Primary);
    match policy.fallback {
        Fallback::Error => None,
        Fallback::Primary => primary,
        Fallback::LeastStale => least_stale(topology, floors).map(Target::Standby).or(primary),
    }
    .ok_or(Refusal::NoStandby)
}

/// Is this standby within the lag limit, the session's own if it has one? Unknown lag is within none.
fn within(node: &NodeView, policy: &Policy<'_>) -> bool {
    let Some(limit) = policy.max_lag else { return node.reads.qualified() };
    // Who is refused for its lag has passed all other tests.
    let sound = matches!(node.reads, Reads::Qualified | Reads::Refused(ReadRefusal::Lagging));
    sound && node.lag.is_some_and(|lag| !lag.at_least && lag.time <= limit)
}

/// May this standby serve when freshness is no condition? Only its lag may be wrong with it, never its history.
fn merely_stale(node: &NodeView) -> bool {
    node.role == Role::Standby
        && node.health != Health::Down
        && match node.reads {
            Reads::Qualified => true,
            Reads::Refused(why) => matches!(
                why,
                ReadRefusal::Lagging
                    | ReadRefusal::LagUnknown
                    | ReadRefusal::NotStreaming
                    | ReadRefusal::WrongSender
            ),
        }
}

/// The standby that has replayed the most, of those on the right branch. However stale, it is not behind the session.
fn least_stale(topology: &Topology, floors: &mut Floors) -> Option<NodeId> {
    let stale = topology.nodes.iter().filter(|n| merely_stale(n) && floors.serves(topology, n) == Fresh::Yes);
    stale.max_by_key(|n| n.lsn).map(|n| n.id)
}

/// May a session between transactions stay on `node`, with a backend leased in `epoch`?
///
/// A standby session whose node no longer qualifies should ask [`target`] again: it may find nothing better and
/// stay. A primary session must leave whenever this is false.
pub fn still_good(wants: Wants, topology: &Topology, node: NodeId, epoch: Epoch) -> bool {
    match wants {
        Wants::Primary => topology.epoch == epoch && topology.writable_primary() == Some(node),
        Wants::Standby => topology.node(node).is_some_and(|n| n.reads.qualified()),
    }
}
