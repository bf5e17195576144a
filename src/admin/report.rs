//! The topology as one document: what /topology sends and what SHOW NODES and `pgsteer status` print.
//!
//! In: snapshots from the layers below. Out: plain values that serialize to JSON and back. It must not know
//! how they are shown. Field names are a promise to scripts: units last, nothing renamed without need.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::AdminState;
use crate::metrics::LoadFigures;
use crate::pool::PoolRow;
use crate::route::{self, Load, Policy};
use crate::topology::{Event, NodeView, Outage, Reads, Topology};

/// Events in the document: enough for the story of a failover of a small cluster.
const EVENTS_MAX: usize = 50;
/// Reports of outages in the document.
const OUTAGES_MAX: usize = 20;
/// A latency that is older says nothing about now: of a primary, for example, that was a standby once.
const LATENCY_AGE_MAX_MS: u32 = 60_000;

/// Everything about the nodes at one instant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of pgsteer.
    pub pgsteer: String,
    /// Seconds since the process began to serve.
    pub uptime_s: f64,
    /// Grows with every change of primary.
    pub epoch: u64,
    /// Grows with every material change of any node.
    pub topology_version: u64,
    /// Name of the primary, also while it is silent; null when none is known.
    pub primary: Option<String>,
    /// True when new writes can be sent to the primary.
    pub writable: bool,
    /// True while writes wait for a planned switchover.
    #[serde(default)]
    pub held: bool,
    /// Highest timeline ever seen.
    pub timeline: Option<u32>,
    /// As text: it does not fit the numbers of JavaScript.
    pub system_identifier: Option<String>,
    /// Conditions a person must look at.
    pub alarms: Vec<String>,
    /// Sessions of clients.
    pub sessions: u64,
    /// The nodes in the order of the configuration.
    pub nodes: Vec<NodeReport>,
    /// The last events, oldest first: among them those of the last failover.
    pub events: Vec<EventReport>,
    /// The last times without a primary that takes writes, oldest first: each failover is one.
    #[serde(default)]
    pub outages: Vec<OutageReport>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// `primary`, `standby`, `unknown`, `zombie` or `stranger`.
    pub role: String,
    /// `up`, `suspect` or `down`.
    pub health: String,
    /// `qualified`, or why it serves no reads as a standby.
    pub reads: String,
    /// Why it is what it is.
    pub reason: String,
    /// How long ago the primary passed its replayed position; null is unknown.
    pub lag_ms: Option<f64>,
    /// WAL it has not replayed; null is unknown.
    pub lag_bytes: Option<u64>,
    /// Insert position (primary) or replayed position (standby).
    pub lsn: Option<String>,
    /// The timeline it writes or receives.
    pub timeline: Option<u32>,
    /// Sessions it serves.
    pub sessions: u64,
    /// Open connections of the pools to it.
    pub backends: u64,
    /// Statements it has answered since the start.
    pub statements: u64,
    /// As `15.20`.
    pub server_version: Option<String>,
    /// When its postmaster started, RFC 3339.
    pub started_at: Option<String>,
    /// Round trip of the last answered probe.
    pub probe_ms: Option<f64>,
    /// Its share of the reads.
    pub weight: u32,
    /// Backends that sessions hold.
    pub in_flight: u64,
    /// Average time of its statements as a standby; null is unknown.
    pub latency_ms: Option<f64>,
    /// The part of the reads it is to get, by weight, latency and zone: 0 to 1.
    pub read_share: f64,
    /// Its availability zone.
    pub zone: Option<String>,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventReport {
    /// When, RFC 3339 with microseconds.
    pub at: String,
    /// What it is about: `primary`, `node`, `reads`, `alarm`, ...
    pub kind: String,
    /// The node, when it is about one.
    pub node: Option<String>,
    /// From what, to what and why.
    pub text: String,
}

/// One time without a primary that takes writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutageReport {
    /// `promotion`: another node took over. `return`: the primary came back.
    pub end: String,
    /// The primary that was lost.
    pub old_primary: String,
    /// Who took writes after it.
    pub new_primary: String,
    /// When the loss was noticed, RFC 3339 with microseconds.
    pub noticed_at: String,
    /// By what it was noticed.
    pub evidence: String,
    /// When writes could be sent again: the promotion was seen, or the primary was back.
    pub writable_at: String,
    /// From the first to the second.
    pub writable_after_ms: f64,
    /// From the first evidence until the primary answered the first statement; null when nobody sent any.
    pub answered_after_ms: Option<f64>,
    /// The epoch after it.
    pub epoch: u64,
    /// The timeline after it.
    pub timeline: Option<u32>,
    /// Where the new timeline forked off; null when the promotion was not watched.
    pub fork_lsn: Option<String>,
    /// Statements that had to wait.
    pub held: u64,
    /// Of these, those that waited in vain.
    pub timed_out: u64,
    /// Reads that were run again elsewhere.
    pub retried: u64,
    /// Open transactions that were run again on another server.
    pub replayed: u64,
    /// Errors given to clients, by SQLSTATE.
    pub failed: BTreeMap<String, u64>,
}

impl Report {
    /// As of now.
    pub fn of(state: &AdminState) -> Self {
        let topology = state.store.load();
        let counts = Counts::of(state, topology.nodes.len());
        let (events, outages) = (state.events.list(), state.events.outages());
        Self {
            pgsteer: env!("CARGO_PKG_VERSION").to_owned(),
            // To the millisecond: rates are made from two of them.
            uptime_s: thousandths(state.started.elapsed().unwrap_or_default().as_secs_f64()),
            epoch: topology.epoch.0,
            topology_version: topology.version,
            primary: primary(&topology).map(|node| node.name().to_owned()),
            writable: topology.writable_primary().is_some(),
            held: topology.held,
            timeline: topology.timeline.map(|timeline| timeline.0),
            system_identifier: topology.system_identifier.map(|identifier| identifier.to_string()),
            alarms: topology.alarms.clone(),
            sessions: counts.sessions_total,
            nodes: topology.nodes.iter().map(|node| NodeReport::of(node, counts.node(node))).collect(),
            events: events
                .iter()
                .skip(events.len().saturating_sub(EVENTS_MAX))
                .map(EventReport::of)
                .collect(),
            outages: outages
                .iter()
                .skip(outages.len().saturating_sub(OUTAGES_MAX))
                .map(OutageReport::of)
                .collect(),
        }
    }
}

fn primary(topology: &Topology) -> Option<&NodeView> {
    topology.node(topology.primary?)
}

impl NodeReport {
    fn of(node: &NodeView, counts: NodeCounts) -> Self {
        Self {
            name: node.name().to_owned(),
            address: node.spec.address.to_string(),
            role: node.role.to_string(),
            health: node.health.to_string(),
            reads: match node.reads {
                Reads::Qualified => "qualified".to_owned(),
                Reads::Refused(why) => why.to_string(),
            },
            reason: node.reason.clone(),
            lag_ms: node.lag.map(|lag| millis(lag.time)),
            lag_bytes: node.lag.map(|lag| lag.bytes),
            lsn: node.lsn.map(|lsn| lsn.to_string()),
            timeline: node.timeline.map(|timeline| timeline.0),
            sessions: counts.sessions,
            backends: counts.backends,
            statements: counts.statements,
            server_version: node.server_version_num.map(version),
            started_at: node.start_time.and_then(from_micros).map(rfc3339),
            probe_ms: node.probe_time.map(millis),
            weight: node.spec.weight,
            in_flight: counts.load.in_flight,
            latency_ms: counts.load.latency.map(|latency| thousandths(latency.as_secs_f64() * 1000.0)),
            read_share: thousandths(f64::from(counts.load.read_share)),
            zone: node.spec.zone.clone(),
        }
    }
}

impl EventReport {
    fn of(event: &Event) -> Self {
        Self {
            at: rfc3339(event.at),
            kind: event.kind.as_str().to_owned(),
            node: event.node.clone(),
            text: event.text.clone(),
        }
    }
}

impl OutageReport {
    /// For people and scripts.
    pub fn of(outage: &Arc<Outage>) -> Self {
        Self {
            end: outage.ending.as_str().to_owned(),
            old_primary: outage.old.clone(),
            new_primary: outage.new.clone(),
            noticed_at: rfc3339(outage.noticed_at),
            evidence: outage.evidence.clone(),
            writable_at: rfc3339(outage.noticed_at + outage.writable_after),
            writable_after_ms: millis(outage.writable_after),
            answered_after_ms: outage.answered_after.map(millis),
            epoch: outage.epoch.0,
            timeline: outage.timeline.map(|timeline| timeline.0),
            fork_lsn: outage.fork.map(|fork| fork.lsn.to_string()),
            held: outage.work.held,
            timed_out: outage.work.timed_out,
            retried: outage.work.retried,
            replayed: outage.work.replayed,
            failed: outage.work.failed.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
        }
    }
}

/// How laden the nodes are and what part of the reads each is to get, in their order.
pub fn loads(state: &AdminState) -> Vec<LoadFigures> {
    let (topology, settings, now) = (state.store.load(), state.settings.load(), Instant::now());
    let registry = &state.registry;
    let load = |node| Load { in_flight: registry.in_flight(node), latency: registry.latency(node, now) };
    let shares = route::shares(&topology, &Policy::of(&settings), &load);
    let figures = |node: &NodeView| {
        let Load { in_flight, latency } = load(node.id);
        let latency = latency.filter(|reading| reading.age_ms <= LATENCY_AGE_MAX_MS);
        LoadFigures {
            in_flight: in_flight as u64,
            latency: latency.map(|reading| Duration::from_micros(reading.micros as u64)),
            read_share: shares.iter().find(|share| share.node == node.id).map_or(0.0, |share| share.part),
        }
    };
    topology.nodes.iter().map(figures).collect()
}

/// What runs on one node.
#[derive(Debug, Clone, Copy, Default)]
struct NodeCounts {
    load: LoadFigures,
    sessions: u64,
    backends: u64,
    statements: u64,
}

/// What runs on all of them.
struct Counts {
    sessions_total: u64,
    nodes: Vec<NodeCounts>,
}

impl Counts {
    fn of(state: &AdminState, nodes: usize) -> Self {
        let pools = state.registry.rows();
        let sessions = state.directory.rows();
        let loads = loads(state);
        let node = |index: usize| {
            let statements = state.metrics.statements(index);
            let open = |pool: &PoolRow| pool.active + pool.idle + pool.closing;
            let backends: usize = pools.iter().filter(|pool| pool.key.node.index() == index).map(open).sum();
            NodeCounts {
                load: loads.get(index).copied().unwrap_or_default(),
                statements: statements.primary + statements.standby,
                backends: backends as u64,
                sessions: sessions.iter().filter(|row| row.node.is_some_and(|id| id.index() == index)).count()
                    as u64,
            }
        };
        Self { sessions_total: sessions.len() as u64, nodes: (0..nodes).map(node).collect() }
    }

    fn node(&self, node: &NodeView) -> NodeCounts {
        self.nodes.get(node.id.index()).copied().unwrap_or_default()
    }
}

/// Milliseconds with one digit after the point: finer is noise between two hosts.
fn millis(span: Duration) -> f64 {
    round(span.as_secs_f64() * 1000.0)
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// `server_version_num` for people: 150020 is 15.20.
fn version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

/// The wall clock of microseconds since 1970; `None` before that.
pub fn from_micros(micros: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_micros(u64::try_from(micros).ok()?))
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time.max(UNIX_EPOCH)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rounded_for_people() {
        assert_eq!(Some(millis(Duration::from_micros(1_249))), Some(1.2));
        assert_eq!(version(150_020), "15.20");
        assert_eq!(version(180_004), "18.4");
        assert_eq!(rfc3339(from_micros(1_795_339_000_120_000).unwrap()), "2026-11-22T09:16:40.120000Z");
        assert_eq!(from_micros(-1), None);
    }
}
