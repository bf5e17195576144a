//! What people and scrapers look at: console, HTTP and `pgsteer status`.
//!
//! In: snapshots of what the layers below know. Out: tables, JSON, metrics. Nothing here changes the proxy:
//! what somebody orders leaves as a `Command` through a bounded channel and is done by the program itself.

pub mod answer;
pub mod command;
pub mod console;
pub mod explain;
#[cfg(test)]
mod fixture;
pub mod http;
pub mod report;
pub mod show;
pub mod status;
pub mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::config::{Change, Settings};
use crate::control::order::{Accept, Accepted, Done, Failure, Order};
use crate::drain::Tasks;
use crate::metrics::Metrics;
use crate::pool::Registry;
use crate::session::catalogues::Catalogues;
use crate::session::directory::Directory;
use crate::topology::{EventLog, Store};

/// Everything the console and the HTTP listener may look at.
pub struct AdminState {
    /// The settings in force.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The topology in force.
    pub store: Arc<Store>,
    /// What happened to it.
    pub events: Arc<EventLog>,
    /// The pools and their backends.
    pub registry: Arc<Registry>,
    /// The sessions of clients.
    pub directory: Arc<Directory>,
    /// What is known of the databases in use.
    pub catalogues: Arc<Catalogues>,
    /// What is counted and timed.
    pub metrics: Arc<Metrics>,
    /// Where orders go.
    pub commands: mpsc::Sender<Command>,
    /// Tells console and HTTP connections to end.
    pub tasks: Tasks,
    /// True while the listeners for clients accept.
    pub listening: Arc<AtomicBool>,
    /// One a worker thread: whether its loop turns.
    pub pulses: Vec<Arc<Pulse>>,
    /// When the process began to serve.
    pub started: SystemTime,
}

/// Whether clients can be served now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Why not; empty when they can.
    pub reasons: Vec<String>,
    /// What a person should look at although they can.
    pub warnings: Vec<String>,
}

impl AdminState {
    /// The database that most sessions are logged in to.
    pub fn busiest_database(&self) -> Option<String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for session in self.directory.rows() {
            *counts.entry(session.database).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(database, _)| database)
    }

    /// All figures as Prometheus' text, with those that are made when they are asked for.
    pub fn render_metrics(&self) -> String {
        for (node, figures) in report::loads(self).into_iter().enumerate() {
            self.metrics.set_load(node, figures);
        }
        self.metrics.render()
    }

    /// Whether clients can be served now: the listeners accept and a primary takes writes.
    pub fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        if self.tasks.is_stopping() {
            reasons.push("shutting down".to_owned());
        } else if !self.listening.load(Ordering::Relaxed) {
            reasons.push("not accepting clients".to_owned());
        }
        let topology = self.store.load();
        let mut warnings = topology.alarms.clone();
        if topology.held {
            warnings.push("writes wait for a planned switchover".to_owned());
        } else if topology.writable_primary().is_none() {
            reasons.push(match topology.primary.and_then(|id| topology.node(id)) {
                Some(node) => format!("the primary {} is {}: {}", node.name(), node.health, node.reason),
                None => "no primary is known".to_owned(),
            });
        }
        Readiness { reasons, warnings }
    }
}

/// An order from the console. Whoever carries it out answers when it is done.
#[derive(Debug)]
pub enum Command {
    /// An operator decides who the primary is, or which timeline is the highest.
    Accept {
        /// Which.
        order: Accept,
        /// Gets what came of it, or why nothing was done.
        reply: oneshot::Sender<Result<Accepted, Failure>>,
    },
    /// Ends one session; answers false when there is none of that number.
    Kill {
        /// The number in SHOW CLIENTS.
        session: u64,
        /// Gets the answer.
        reply: oneshot::Sender<bool>,
    },
    /// Makes a standby the primary.
    Promote {
        /// Which one, and how.
        order: Order,
        /// Gets what was done, or why nothing was.
        reply: oneshot::Sender<Result<Done, Failure>>,
    },
    /// Reads the configuration file again.
    Reload {
        /// Gets what changed, or every error of the file, one a line.
        reply: oneshot::Sender<Result<Vec<Change>, String>>,
    },
}

/// The sign of life of one runtime: /livez fails when it stands still, because a loop that does not turn
/// serves nobody while its sockets still accept.
#[derive(Debug)]
pub struct Pulse {
    origin: Instant,
    last_ms: AtomicU64,
}

impl Pulse {
    /// How often a runtime beats: once a second costs nothing that can be measured.
    const INTERVAL: Duration = Duration::from_secs(1);
    /// Silence that means a blocked loop; no work on a worker comes near it.
    pub const LIMIT: Duration = Duration::from_secs(5);

    /// A pulse that has just beaten.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { origin: Instant::now(), last_ms: AtomicU64::new(0) })
    }

    /// Beats until the tasks stop; to be spawned on the runtime it speaks for.
    pub async fn run(self: Arc<Self>, tasks: Tasks) {
        while !tasks.is_stopping() {
            self.last_ms.store(self.origin.elapsed().as_millis() as u64, Ordering::Relaxed);
            tokio::select! {
                () = tokio::time::sleep(Self::INTERVAL) => {}
                () = tasks.stopping() => {}
            }
        }
    }

    /// How long ago the last beat was.
    pub fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.origin.elapsed().saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pulse_falls_silent_when_its_runtime_stops() {
        let tasks = Tasks::new();
        let pulse = Pulse::new();
        let beating =
            tokio::task::JoinHandle::abort_handle(&tasks.spawn(Arc::clone(&pulse).run(tasks.clone())));
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(pulse.silence() <= Pulse::INTERVAL);
        beating.abort();
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(pulse.silence() > Pulse::LIMIT);
    }
}
