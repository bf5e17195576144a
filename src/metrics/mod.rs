//! Every figure the proxy exports: counters, gauges and latency distributions.
//!
//! Each worker writes to a shard of its own and readers add the shards up, so that recording neither contends
//! nor allocates. There is no process-wide state: two [`Metrics`] in one process know nothing of each other.
//! What is measured is named in [`catalogue`]; this module must not know who measures it.

mod average;
pub mod catalogue;
mod latency;
mod render;
pub mod routes;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use average::{Average, Reading};
pub use catalogue::{Counter, Gauge, Latency};
pub use latency::{QUANTILES, Summary};

use catalogue::{COUNTERS, GAUGES, LATENCIES, PIN_CAUSES, SQLSTATES};
use latency::Recorder;
use routes::Routes;

/// All figures of one proxy.
#[derive(Debug)]
pub struct Metrics {
    /// One per worker, and a last one for the control runtime and whatever the threads share.
    shards: Box<[Arc<WorkerMetrics>]>,
    nodes: Box<[NodeMetrics]>,
    workers: usize,
    epoch: AtomicU64,
}

/// One worker's shard. Aligned so that two shards never share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerMetrics {
    counters: Box<[AtomicU64]>,
    gauges: Box<[AtomicI64]>,
    sqlstates: Box<[AtomicU64]>,
    pins: Box<[AtomicU64]>,
    pinned: Box<[AtomicI64]>,
    recorders: Box<[Recorder]>,
    statements: Box<[Statements]>,
    routes: Box<Routes>,
    bytes_from_clients: AtomicU64,
    bytes_to_clients: AtomicU64,
}

/// Statements at one node.
#[derive(Debug, Default)]
struct Statements {
    primary: AtomicU64,
    standby: AtomicU64,
}

#[derive(Debug)]
struct NodeMetrics {
    name: String,
    probes_ok: AtomicU64,
    probes_failed: AtomicU64,
    figures: Mutex<Figures>,
}

/// What others say about a node, as they said it last.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    node: NodeFigures,
    backends: BackendFigures,
    load: LoadFigures,
}

/// What the topology says about a node; set by its watcher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeFigures {
    /// Whether it answers its probes.
    pub up: bool,
    /// `primary`, `standby`, …; empty while unknown.
    pub role: &'static str,
    /// Whether reads may be sent to it.
    pub serves_reads: bool,
    /// Lag in time, `None` while unknown.
    pub lag: Option<Duration>,
    /// Lag in bytes of WAL, `None` while unknown.
    pub lag_bytes: Option<u64>,
    /// Its timeline, `None` while unknown.
    pub timeline: Option<u32>,
}

/// Backends of the pools at a node; set by the pools' janitor or before rendering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendFigures {
    /// Leased to a session.
    pub active: u64,
    /// Free.
    pub idle: u64,
    /// Being opened or reset.
    pub opening: u64,
    /// Kept by their sessions between transactions, in transaction mode.
    pub pinned: u64,
    /// Prepared statements on them.
    pub prepared: u64,
}

/// How laden a node is; set before rendering.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadFigures {
    /// Backends that sessions hold.
    pub in_flight: u64,
    /// How long its statements take on average, `None` while unknown.
    pub latency: Option<Duration>,
    /// The part of the reads it is to get, 0 to 1.
    pub read_share: f32,
}

/// Statements answered by a node since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStatements {
    /// On behalf of sessions that need the primary.
    pub primary: u64,
    /// On behalf of read-only sessions.
    pub standby: u64,
}

fn zeros<T: Default>(count: usize) -> Box<[T]> {
    (0..count).map(|_| T::default()).collect()
}

impl Metrics {
    /// Figures for that many workers and for nodes of these names, in the order of their ids.
    pub fn new(workers: usize, nodes: &[String]) -> Arc<Self> {
        let node = |name: &String| NodeMetrics {
            name: name.clone(),
            probes_ok: AtomicU64::default(),
            probes_failed: AtomicU64::default(),
            figures: Mutex::default(),
        };
        Arc::new(Self {
            shards: (0..=workers).map(|_| Arc::new(WorkerMetrics::new(nodes.len()))).collect(),
            nodes: nodes.iter().map(node).collect(),
            workers,
            epoch: AtomicU64::default(),
        })
    }

    /// The shard of worker `index`; beyond the last worker, that of the control runtime.
    pub fn worker(&self, index: usize) -> Arc<WorkerMetrics> {
        Arc::clone(&self.shards[index.min(self.workers)])
    }

    /// The shard of the control runtime and of what the threads share.
    pub fn control(&self) -> &WorkerMetrics {
        &self.shards[self.workers]
    }

    /// Counts one, for callers without a shard.
    pub fn count(&self, counter: Counter) {
        self.control().count(counter);
    }

    /// Counts a probe of that node.
    pub fn probe(&self, node: usize, answered: bool) {
        if let Some(one) = self.nodes.get(node) {
            let counter = if answered { &one.probes_ok } else { &one.probes_failed };
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Replaces what is known about that node.
    pub fn set_node(&self, node: usize, figures: NodeFigures) {
        self.with_node(node, |all| all.node = figures);
    }

    /// Replaces the number of backends at that node.
    pub fn set_backends(&self, node: usize, figures: BackendFigures) {
        self.with_node(node, |all| all.backends = figures);
    }

    /// Replaces what is known about that node's load.
    pub fn set_load(&self, node: usize, figures: LoadFigures) {
        self.with_node(node, |all| all.load = figures);
    }

    fn with_node(&self, node: usize, change: impl FnOnce(&mut Figures)) {
        if let Some(one) = self.nodes.get(node) {
            change(&mut one.figures.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The number of the current epoch.
    pub fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Relaxed);
    }

    /// Starts a new window for the quantiles, which cover this one and the one before. To be called once a
    /// minute; without it they cover the whole life of the process.
    pub fn rotate(&self) {
        for shard in &self.shards {
            shard.recorders.iter().for_each(Recorder::rotate);
        }
    }

    /// The sum of a counter over all workers.
    pub fn total(&self, counter: Counter) -> u64 {
        self.sum(|shard| shard.counters[counter as usize].load(Relaxed))
    }

    /// The sum of a gauge over all workers.
    pub fn level(&self, gauge: Gauge) -> i64 {
        self.shards.iter().map(|shard| shard.gauges[gauge as usize].load(Relaxed)).sum()
    }

    /// Quantiles over all workers.
    pub fn latency(&self, latency: Latency) -> Summary {
        latency::merge(self.shards.iter().filter_map(|shard| shard.recorders.get(latency as usize)))
    }

    /// Statements answered by that node.
    pub fn statements(&self, node: usize) -> NodeStatements {
        let mut all = NodeStatements::default();
        for one in self.shards.iter().filter_map(|shard| shard.statements.get(node)) {
            all.primary += one.primary.load(Relaxed);
            all.standby += one.standby.load(Relaxed);
        }
        all
    }

    /// Probes of that node: answered, unanswered.
    pub fn probes(&self, node: usize) -> (u64, u64) {
        self.nodes
            .get(node)
            .map_or((0, 0), |one| (one.probes_ok.load(Relaxed), one.probes_failed.load(Relaxed)))
    }

    /// Bytes received from and sent to clients.
    pub fn client_bytes(&self) -> (u64, u64) {
        let received = self.sum(|shard| shard.bytes_from_clients.load(Relaxed));
        (received, self.sum(|shard| shard.bytes_to_clients.load(Relaxed)))
    }

    /// Errors given to clients, by SQLSTATE; only those that occurred.
    pub fn session_errors(&self) -> Vec<(&'static str, u64)> {
        let total = |index: usize| self.sum(|shard| shard.sqlstates[index].load(Relaxed));
        let all = SQLSTATES.iter().enumerate().map(|(index, code)| (*code, total(index)));
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// By cause, in the order of [`PIN_CAUSES`]: sessions bound to their backend now, and how often any became so.
    pub fn pins(&self) -> impl Iterator<Item = (&'static str, i64, u64)> {
        PIN_CAUSES.iter().enumerate().map(|(cause, name)| {
            let now = self.shards.iter().map(|shard| shard.pinned[cause].load(Relaxed)).sum();
            (*name, now, self.sum(|shard| shard.pins[cause].load(Relaxed)))
        })
    }

    /// Batches by where they went (to a standby?) and why (a place in [`routes::REASONS`]).
    pub fn routed(&self) -> impl Iterator<Item = (bool, usize, u64)> {
        routes::taken(self.shards.iter().map(|shard| &*shard.routes))
    }

    /// Batches that a standby failed and the primary ran again, by SQLSTATE.
    pub fn rerouted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        routes::rerun(self.shards.iter().map(|shard| &*shard.routes))
    }

    /// Everything in Prometheus' text format 0.0.4 (`text/plain; version=0.0.4; charset=utf-8`).
    pub fn render(&self) -> String {
        render::render(self)
    }

    fn sum(&self, read: impl Fn(&WorkerMetrics) -> u64) -> u64 {
        self.shards.iter().map(|shard| read(shard)).sum()
    }
}

impl WorkerMetrics {
    fn new(nodes: usize) -> Self {
        Self {
            counters: zeros(COUNTERS.len()),
            gauges: zeros(GAUGES.len()),
            sqlstates: zeros(SQLSTATES.len()),
            pins: zeros(PIN_CAUSES.len()),
            pinned: zeros(PIN_CAUSES.len()),
            recorders: LATENCIES.iter().filter_map(|_| Recorder::new()).collect(),
            statements: zeros(nodes),
            routes: Box::new(Routes::new()),
            bytes_from_clients: AtomicU64::default(),
            bytes_to_clients: AtomicU64::default(),
        }
    }

    /// Counts one.
    pub fn count(&self, counter: Counter) {
        self.counters[counter as usize].fetch_add(1, Relaxed);
    }

    /// Raises a gauge; every call has its [`lower`](Self::lower) on the same shard or another.
    pub fn raise(&self, gauge: Gauge) {
        self.gauges[gauge as usize].fetch_add(1, Relaxed);
    }

    /// Lowers a gauge.
    pub fn lower(&self, gauge: Gauge) {
        self.gauges[gauge as usize].fetch_sub(1, Relaxed);
    }

    /// Adds to a gauge, or takes off.
    pub fn adjust(&self, gauge: Gauge, by: i64) {
        self.gauges[gauge as usize].fetch_add(by, Relaxed);
    }

    /// A session is bound to its backend by one of [`PIN_CAUSES`], or no longer. What is not among them is not counted.
    pub fn pin(&self, cause: &str, bound: bool) {
        let Some(index) = PIN_CAUSES.iter().position(|one| *one == cause) else { return };
        self.pinned[index].fetch_add(if bound { 1 } else { -1 }, Relaxed);
        self.pins[index].fetch_add(u64::from(bound), Relaxed);
    }

    /// Adds a duration to a distribution.
    pub fn record(&self, latency: Latency, duration: Duration) {
        if let Some(recorder) = self.recorders.get(latency as usize) {
            recorder.record(duration);
        }
    }

    /// A statement or pipeline answered by that node, on behalf of a read-only session or not.
    pub fn record_statement(&self, node: usize, standby: bool, duration: Duration) {
        if let Some(one) = self.statements.get(node) {
            let counter = if standby { &one.standby } else { &one.primary };
            counter.fetch_add(1, Relaxed);
        }
        self.record(if standby { Latency::StatementStandby } else { Latency::StatementPrimary }, duration);
    }

    /// A batch went to a standby or to the primary; `reason` is a place in [`routes::REASONS`].
    pub fn routed(&self, standby: bool, reason: usize) {
        self.routes.taken(standby, reason);
    }

    /// A standby failed a batch with that SQLSTATE, and the primary runs it again.
    pub fn rerouted(&self, sqlstate: &str) {
        self.routes.rerun(sqlstate);
    }

    /// An error that the proxy itself gave to a client.
    pub fn count_error(&self, sqlstate: &str) {
        let other = SQLSTATES.len() - 1;
        let index = SQLSTATES.iter().position(|code| *code == sqlstate).unwrap_or(other);
        self.sqlstates[index].fetch_add(1, Relaxed);
    }

    /// Bytes relayed since the last call.
    pub fn add_bytes(&self, from_client: u64, to_client: u64) {
        // One of the two is 0 on the hot path, and an atomic addition of nothing is not free.
        if from_client > 0 {
            self.bytes_from_clients.fetch_add(from_client, Relaxed);
        }
        if to_client > 0 {
            self.bytes_to_clients.fetch_add(to_client, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
