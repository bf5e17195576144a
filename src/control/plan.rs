//! The plan of a switchover: whether an order can be carried out, as far as topology and settings tell; and whether the
//! result is right. Pure.

use std::sync::Arc;
use std::time::Duration;

use super::order::{Failure, Order};
use super::server::Position;
use crate::config::{NodeSettings, Settings};
use crate::topology::{Epoch, Health, Lsn, NodeId, NodeView, Reads, Role, Timeline, Topology};

/// How the old primary is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// By `cluster.fence_command`.
    Command,
    /// Not at all: nobody else writes.
    SoleEntry,
    /// By `default_transaction_read_only` and the end of foreign sessions.
    Sql,
}

/// What is to be done.
pub(super) struct Plan {
    pub(super) old: NodeId,
    pub(super) new: NodeId,
    pub(super) old_node: Arc<NodeSettings>,
    pub(super) new_node: Arc<NodeSettings>,
    pub(super) timeline: Option<Timeline>,
    pub(super) epoch: Epoch,
    pub(super) closing: Closing,
    pub(super) timeout: Duration,
}

impl Plan {
    /// Looks whether the order can be carried out, as far as the topology and the settings tell.
    pub(super) fn of(order: &Order, topology: &Topology, settings: &Settings) -> Result<Self, Failure> {
        let new = named(topology, &order.node)?;
        let primary = topology.primary.and_then(|id| topology.node(id));
        let Some(old) = primary.filter(|node| node.health == Health::Up) else {
            let detail =
                "A switchover is planned; without a primary, promote by other means: pgsteer follows.";
            return Err(refused("there is no primary that answers", detail));
        };
        let cluster = &settings.cluster;
        let timeout = order.timeout.unwrap_or(cluster.switchover.timeout);
        if timeout >= cluster.hold_timeout {
            let text =
                format!("the timeout must be less than cluster.hold_timeout ({:?})", cluster.hold_timeout);
            return Err(refused(text, "Held work would fail before the switchover is given up."));
        }
        let closing = if !cluster.hooks.fence_command.is_empty() {
            Closing::Command
        } else if cluster.switchover.user.is_some() {
            Closing::Sql
        } else {
            Closing::SoleEntry
        };
        if old.id != new.id {
            ready(topology, new)?;
            if closing == Closing::SoleEntry && !order.sole_entry {
                let detail = "Set cluster.fence_command or cluster.switchover.user; or, if nobody writes but through \
                              this proxy, say PROMOTE node (SOLE ENTRY).";
                return Err(refused("nothing is configured to close the old primary", detail));
            }
        }
        Ok(Self {
            old: old.id,
            new: new.id,
            old_node: Arc::clone(&old.spec),
            new_node: Arc::clone(&new.spec),
            timeline: topology.timeline,
            epoch: topology.epoch,
            closing,
            timeout,
        })
    }
}

/// The node of that name or address.
pub(super) fn named<'a>(topology: &'a Topology, name: &str) -> Result<&'a NodeView, Failure> {
    let is_it = |node: &&NodeView| node.name() == name || node.spec.address.to_string() == name;
    let found = topology.nodes.iter().find(is_it);
    found.ok_or_else(|| refused(format!("there is no node \"{name}\""), "SHOW NODES lists the nodes."))
}

/// Is this standby fit to take over?
fn ready(topology: &Topology, node: &NodeView) -> Result<(), Failure> {
    let reads = match node.reads {
        Reads::Qualified => "",
        Reads::Refused(why) => why.as_str(),
    };
    let text = if node.role != Role::Standby || node.health != Health::Up {
        format!("{} is {} and {}, not a standby that answers", node.name(), node.role, node.health)
    } else if !reads.is_empty() {
        format!("{} does not follow the primary closely: {reads}", node.name())
    } else if topology.held {
        "writes are still held by a switchover before".to_owned()
    } else {
        return Ok(());
    };
    Err(refused(text, "Nothing was changed. SHOW NODES tells more."))
}

/// Has the new branch everything of the old primary's?
pub(super) fn judge(fork: Option<Lsn>, last: Position) -> String {
    let written = last.flush.max(last.insert);
    match fork {
        Some(fork) if fork >= written => format!("forked at {fork}, nothing of the old primary is missing"),
        Some(fork) if fork >= last.flush => {
            format!("forked at {fork}; what was never flushed, up to {written}, is missing")
        }
        Some(fork) => format!("ALARM: forked at {fork}, before the old primary's last position {written}"),
        None => format!("the fork was not seen; all up to {written} had been replayed before"),
    }
}

pub(super) fn refused(text: impl Into<String>, detail: &str) -> Failure {
    Failure { text: text.into(), detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fork_is_held_against_what_was_written() {
        let last = Position {
            standby: false,
            insert: Lsn(200),
            flush: Lsn(150),
            replayed: Lsn(0),
            received: Lsn(0),
            xmax: 7,
        };
        assert!(judge(Some(Lsn(200)), last).contains("nothing"));
        assert!(judge(Some(Lsn(150)), last).contains("never flushed"));
        assert!(judge(Some(Lsn(149)), last).starts_with("ALARM"));
        assert!(judge(None, last).contains("not seen"));
    }
}
