//! The pure heart: previous state, what was seen, and the time in; next state, topology and reasons out.
//!
//! Four steps in four files: `absorb` takes in what was seen (health), `elect` finds the primary and fences the rest,
//! `reads` judges the standbys, `explain` says what changed and why. It knows no socket, no runtime and no clock, so that
//! a simulation can run it through years of failovers.

mod absorb;
mod elect;
mod explain;
mod reads;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Cluster, NodeSettings};

use super::events::EventKind;
use super::lag::Ring;
use super::moment::Moment;
use super::node::{Health, Lag, NodeId, NodeView, ReadRefusal, Reads, Role};
use super::observe::{Observation, Sample};
use super::origin::Origin;
use super::position::{Epoch, Timeline};
use super::samples::Samples;
use super::snapshot::{Fork, Topology};

/// What the configuration says about deciding.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The nodes; the index is the [`NodeId`].
    pub nodes: Vec<Arc<NodeSettings>>,
    /// A standby beyond it is out.
    pub max_lag: Duration,
    /// A standby beyond it is out.
    pub max_lag_bytes: u64,
    /// How long to wait at start for nodes that do not answer, when nothing is remembered.
    pub start_grace: Duration,
    /// How long the last verdict on standbys holds when nothing is left to measure by.
    pub frozen_limit: Duration,
    /// Evidence older than this does not make a primary.
    pub fresh: Duration,
    /// The identifier the nodes must have, when the configuration knows it.
    pub system_identifier: Option<u64>,
}

impl Rules {
    /// The rules in `[cluster]`.
    pub fn new(cluster: &Cluster) -> Self {
        Rules {
            nodes: cluster.nodes.iter().cloned().map(Arc::new).collect(),
            max_lag: cluster.max_lag,
            max_lag_bytes: cluster.max_lag_bytes,
            start_grace: cluster.start_grace,
            frozen_limit: cluster.frozen_limit,
            // A sample is at most `timeout` old when it arrives and is followed by another within an interval.
            fresh: cluster.monitor.timeout + cluster.monitor.interval,
            system_identifier: cluster.system_identifier,
        }
    }

    /// New limits for the same nodes: which ones there are is fixed for the life of the process.
    #[must_use]
    pub fn renewed(&self, cluster: &Cluster) -> Self {
        Rules { nodes: self.nodes.clone(), ..Rules::new(cluster) }
    }
}

/// What must survive a restart of the proxy: whose cluster this is and how far its history has got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    /// The cluster's identity.
    pub system_identifier: u64,
    /// The highest timeline ever seen.
    pub timeline: Timeline,
}

/// Something to take in.
#[derive(Clone, Debug)]
pub enum Input {
    /// An operator says that this node is the primary of a contested timeline (`ACCEPT node`).
    Accept(NodeId),
    /// An operator lowers the highest timeline (`ACCEPT TIMELINE n`: a restore, an accidental promotion).
    AcceptTimeline(Timeline),
    /// New writes wait for a planned switchover, or go on. The next change of the primary ends the wait, too.
    Hold(bool),
    /// A prober saw something.
    Seen(Observation),
}

/// One change and why, for the log and the events.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// What it is about.
    pub kind: EventKind,
    /// The node, when it is about one.
    pub node: Option<NodeId>,
    /// From what, to what and why.
    pub text: String,
    /// Is it bad news?
    pub bad: bool,
}

/// What the watcher has to do with a decision, in this order.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Make this durable first, before anybody sees the topology.
    pub persist: Option<Mark>,
    /// The view; its `version` is the store's business.
    pub topology: Topology,
    /// Publish it (true) or only refresh figures (false).
    pub material: bool,
    /// What changed; empty when nothing a person cares about did.
    pub changes: Vec<Change>,
    /// Probe fast: a primary is missing or in doubt.
    pub fast: bool,
}

/// The last whole answer of a node.
#[derive(Clone, Debug)]
struct Latest {
    sample: Sample,
    sent: Moment,
    at: Moment,
}

/// What is remembered of one node.
#[derive(Clone, Debug, Default)]
struct NodeState {
    health: Health,
    /// Why the health is what it is.
    health_reason: String,
    /// Answered probes since the last failure.
    streak: u32,
    /// Lost connections since the last answer.
    cuts: u32,
    /// Has any probe ended, well or badly?
    tried: bool,
    /// When the youngest answered probe was sent.
    answered_sent: Option<Moment>,
    /// When the youngest failed probe was sent.
    failed_sent: Option<Moment>,
    latest: Option<Latest>,
    samples: Samples,
    /// Round trip of the last answered probe.
    probe_time: Option<Duration>,
    /// Gets nothing until it is seen in recovery on the present timeline.
    fenced: bool,
    /// The highest timeline on which it was fenced while it claimed to be a primary.
    fenced_on: Option<Timeline>,
    /// The highest timeline that its samples have proven since the last decision.
    proven: Option<Timeline>,
    /// An operator cut off the history this node is on: what it proves no longer counts.
    disowned: bool,
    /// Has replayed what the primary never wrote; and its start time and timeline when that was found.
    ahead: Option<(i64, Option<Timeline>)>,
    /// Where its timeline forked off, when its promotion was watched.
    fork: Option<Fork>,
    /// How its present life as a primary began.
    origin: Option<Origin>,
    /// When it was last seen streaming on a branch that was right, and on which timeline.
    streamed: Option<(Moment, Timeline)>,
    reads: Option<Reads>,
    qualified_since: Option<Moment>,
    lag: Option<Lag>,
}

/// Everything `decide` remembers.
#[derive(Clone, Debug)]
pub struct State {
    nodes: Vec<NodeState>,
    /// The cluster's identity, once fixed.
    identifier: Option<u64>,
    /// The highest timeline ever seen.
    mark: Option<Timeline>,
    /// Whose timeline that is, while the identity is not fixed yet.
    mark_of: Option<u64>,
    /// What was made durable last.
    persisted: Option<Mark>,
    primary: Option<NodeId>,
    /// The timeline on which `primary` was elected.
    primary_timeline: Option<Timeline>,
    /// Who was primary last; standbys stream from it until they know better.
    last_primary: Option<NodeId>,
    /// The first timeline accepted by this process: a higher one means a promotion was lived through.
    first_timeline: Option<Timeline>,
    epoch: Epoch,
    epoch_since: Moment,
    starting: bool,
    started: Moment,
    /// Positions of the primary.
    written: Ring,
    /// Positions up to which standbys were sent WAL: proof that the primary lives for others.
    relayed: Ring,
    /// Start time of the primary's postmaster behind `written`.
    written_start: Option<i64>,
    frozen_since: Option<Moment>,
    /// New writes wait for a planned switchover.
    held: bool,
    fast_until: Moment,
    alarms: Vec<String>,
    /// Why there is no primary, for people.
    no_primary: String,
    /// The view decided last.
    view: Topology,
}

/// After trouble with a primary, how long the fast pace outlives the last sign of it.
const FAST_LINGER: Duration = Duration::from_secs(1);

impl State {
    /// The state at start: every node is down until proven. `mark` is what the state file remembers.
    pub fn new(rules: &Rules, mark: Option<Mark>, now: Moment) -> Self {
        let specs: Vec<NodeSettings> = rules.nodes.iter().map(|n| (**n).clone()).collect();
        State {
            nodes: vec![NodeState::default(); specs.len()],
            identifier: mark.map(|m| m.system_identifier).or(rules.system_identifier),
            mark: mark.map(|m| m.timeline),
            mark_of: mark.map(|m| m.system_identifier),
            persisted: mark,
            primary: None,
            primary_timeline: None,
            last_primary: None,
            first_timeline: None,
            epoch: Epoch(0),
            epoch_since: now,
            starting: true,
            started: now,
            written: Ring::default(),
            relayed: Ring::default(),
            written_start: None,
            frozen_since: None,
            held: false,
            fast_until: now,
            alarms: Vec::new(),
            no_primary: "no node has answered yet".to_owned(),
            view: Topology::unseen(&specs),
        }
    }

    /// The view decided last.
    pub fn topology(&self) -> &Topology {
        &self.view
    }

    fn node(&self, id: NodeId) -> Option<&NodeState> {
        self.nodes.get(id.index())
    }

    fn ids(&self) -> impl Iterator<Item = (NodeId, &NodeState)> {
        (0..=u16::MAX).map(NodeId).zip(&self.nodes)
    }

    /// Is this node known to be of another cluster?
    fn stranger(&self, node: &NodeState) -> bool {
        match (self.identifier, &node.latest) {
            (Some(identifier), Some(latest)) => latest.sample.system_identifier != identifier,
            _ => false,
        }
    }

    /// Another primary, or none: what was measured against the old one says nothing any more.
    fn new_epoch(&mut self, now: Moment) {
        self.epoch.0 += 1;
        self.epoch_since = now;
        self.written.clear();
        self.relayed.clear();
        self.written_start = None;
        self.frozen_since = None;
        self.held = false;
    }

    /// The timeline that standbys have to be on.
    fn timeline(&self) -> Option<Timeline> {
        self.primary_timeline.or(self.mark)
    }
}

/// Takes in what was seen and decides. The same arguments always give the same result.
pub fn decide(mut state: State, inputs: &[Input], now: Moment, rules: &Rules) -> (State, Outcome) {
    let before = (state.primary, state.primary_timeline);
    for input in inputs {
        match input {
            Input::Seen(observation) => absorb::observation(&mut state, observation),
            Input::Accept(node) => elect::accept(&mut state, *node),
            Input::AcceptTimeline(timeline) => elect::accept_timeline(&mut state, *timeline),
            Input::Hold(held) => state.held = *held,
        }
    }
    state.alarms.clear();
    elect::elect(&mut state, now, rules);
    if before != (state.primary, state.primary_timeline) {
        state.new_epoch(now);
    }
    elect::report(&mut state, rules);
    reads::judge(&mut state, now, rules);
    let topology = compose(&state, now, rules);
    let (changes, material) = explain::compare(&state, &topology);
    let mark = state
        .identifier
        .zip(state.mark)
        .map(|(system_identifier, timeline)| Mark { system_identifier, timeline });
    let persist = if state.starting { None } else { mark.filter(|m| state.persisted != Some(*m)) };
    state.persisted = persist.or(state.persisted);
    let primary_up = state.primary.and_then(|p| state.node(p)).is_some_and(|n| n.health == Health::Up);
    if !primary_up || state.held {
        state.fast_until = now + FAST_LINGER;
    }
    let fast = now < state.fast_until;
    state.view = topology.clone();
    (state, Outcome { persist, topology, material, changes, fast })
}

fn role(state: &State, id: NodeId, node: &NodeState) -> Role {
    match &node.latest {
        _ if state.stranger(node) => Role::Stranger,
        _ if node.fenced => Role::Zombie,
        _ if state.primary == Some(id) => Role::Primary,
        Some(latest) if latest.sample.in_recovery => Role::Standby,
        _ => Role::Unknown,
    }
}

fn compose(state: &State, now: Moment, rules: &Rules) -> Topology {
    let nodes = state.ids().zip(&rules.nodes).map(|((id, node), spec)| view(state, id, node, spec));
    Topology {
        version: 0,
        at: now,
        epoch: state.epoch,
        primary: state.primary,
        timeline: state.mark,
        system_identifier: state.identifier,
        fork: state
            .primary
            .and_then(|p| state.node(p)?.fork)
            .filter(|f| Some(f.timeline) == state.primary_timeline),
        held: state.held,
        origin: state.primary.and_then(|p| state.node(p)?.origin),
        starting: state.starting,
        alarms: state.alarms.clone(),
        nodes: nodes.collect(),
    }
}

fn view(state: &State, id: NodeId, node: &NodeState, spec: &Arc<NodeSettings>) -> NodeView {
    let role = role(state, id, node);
    let sample = node.latest.as_ref().map(|l| &l.sample);
    let received = sample.and_then(|s| s.receiver.as_ref()?.timeline);
    NodeView {
        id,
        spec: Arc::clone(spec),
        role,
        health: node.health,
        reads: node.reads.unwrap_or(Reads::Refused(ReadRefusal::Starting)),
        qualified_since: node.qualified_since,
        lag: node.lag,
        timeline: sample.and_then(|s| s.timeline).or(received),
        samples: node.samples.clone(),
        lsn: sample.and_then(|s| if s.in_recovery { s.replayed } else { s.insert }),
        server_version_num: sample.map(|s| s.server_version_num),
        start_time: sample.map(|s| s.start_time),
        probe_time: node.probe_time,
        reason: explain::reason(state, node, role),
    }
}
