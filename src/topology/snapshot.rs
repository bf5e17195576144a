//! The immutable view of the cluster that everybody routes by.

use std::sync::Arc;

use crate::config::NodeSettings;

use super::moment::Moment;
use super::node::{Health, NodeId, NodeView};
use super::origin::Origin;
use super::position::{Epoch, Lsn, Timeline};

/// Where a timeline begins: the position up to which it shares history with the one before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fork {
    /// The timeline that begins here.
    pub timeline: Timeline,
    /// Last position of the old branch (after an in-place crash restart: the end of crash recovery).
    pub lsn: Lsn,
}

/// All nodes at one instant, decided from evidence. Readers keep an `Arc` of it for one decision only.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Grows with every material change; figures such as lag do not count.
    pub version: u64,
    /// When it was decided: at most a probe's interval ago, whether anything has changed or not.
    pub at: Moment,
    /// Grows with every change of primary.
    pub epoch: Epoch,
    /// Who takes writes, also while it is silent and nobody has replaced it.
    pub primary: Option<NodeId>,
    /// The highest timeline ever seen in this cluster.
    pub timeline: Option<Timeline>,
    /// The cluster's identity (`pg_control_system()`).
    pub system_identifier: Option<u64>,
    /// Where the primary's timeline forked off, when its promotion was watched.
    pub fork: Option<Fork>,
    /// New writes wait for a planned switchover.
    pub held: bool,
    /// How the present life of the primary began.
    pub origin: Option<Origin>,
    /// No primary has been accepted since the process started.
    pub starting: bool,
    /// Conditions a person must look at (two primaries, a zombie, a stranger); empty when all is well.
    pub alarms: Vec<String>,
    /// All nodes, in the order of the configuration: a [`NodeId`] is an index.
    pub nodes: Vec<NodeView>,
}

impl Topology {
    /// The view before any probe: every node is down until proven.
    ///
    /// Nodes beyond the 65,535th are ignored; the configuration refuses far fewer.
    pub fn unseen(nodes: &[NodeSettings]) -> Self {
        let nodes = (0..=u16::MAX).zip(nodes).map(|(i, n)| NodeView::unseen(NodeId(i), Arc::new(n.clone())));
        Topology {
            version: 0,
            at: Moment::default(),
            epoch: Epoch(0),
            primary: None,
            timeline: None,
            system_identifier: None,
            fork: None,
            held: false,
            origin: None,
            starting: true,
            alarms: Vec::new(),
            nodes: nodes.collect(),
        }
    }

    /// The node with this id, when there is one.
    pub fn node(&self, id: NodeId) -> Option<&NodeView> {
        self.nodes.get(id.index())
    }

    /// The primary when new work may be sent to it: known, not down, and no switchover under way.
    pub fn writable_primary(&self) -> Option<NodeId> {
        let id = self.primary.filter(|_| !self.held)?;
        (self.node(id)?.health != Health::Down).then_some(id)
    }

    /// Standbys that may serve reads.
    pub fn read_nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.iter().filter(|n| n.reads.qualified())
    }

    /// What positions of the primary can be compared with: the number of its first sample in one life as the primary.
    /// Another one means that its floors have to be found anew. `None` while nothing of a primary is known.
    pub fn era(&self) -> Option<u64> {
        let samples = &self.node(self.primary?)?.samples;
        Some(samples.run()).filter(|run| samples.of_primary() && *run > 0)
    }

    /// No primary has been accepted since the process started.
    pub fn starting(&self) -> bool {
        self.starting
    }
}
