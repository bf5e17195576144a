//! Probers and the watcher: the only writers of the topology.
//!
//! One prober per node asks over a connection of its own (never a pool's) and tells what it saw; the watcher lets
//! `topology::decide` judge, makes the result durable where it must be, and publishes it. In: settings, nudges. Out:
//! topologies, events, figures. Nothing here knows of pools or sessions.

mod clock;
mod link;
mod prober;
mod sql;
mod state_file;
mod watcher;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::config::{Cluster, Settings};
use crate::drain::Tasks;
use crate::metrics::Metrics;
use crate::net::tls::ServerTlsContext;
use crate::topology::decide::Input;
use crate::topology::{EventLog, NodeId, Nudges, Recorder, Store, Timeline};

use clock::Clock;
use prober::Prober;
use state_file::StateFile;
use watcher::Watcher;

/// Observations waiting for the watcher. It takes all at once; a prober that finds no room waits, which delays its
/// next probe and nothing else.
const INBOX: usize = 1024;

/// A hold on the running probers and the watcher. They end with the [`Tasks`] they were started on.
#[derive(Clone, Debug)]
pub struct HealthHandle {
    inputs: mpsc::Sender<Input>,
    settings: Arc<watch::Sender<Arc<Cluster>>>,
    state_problem: watch::Receiver<Option<String>>,
}

impl HealthHandle {
    /// Applies limits and paces at once. The list of nodes is fixed for the life of the process.
    pub fn reload(&self, cluster: &Cluster) {
        self.settings.send_replace(Arc::new(cluster.clone()));
    }

    /// `ACCEPT node`: of several nodes that take writes on one timeline, this is the primary. False when the
    /// watcher has ended.
    pub async fn accept(&self, node: NodeId) -> bool {
        self.inputs.send(Input::Accept(node)).await.is_ok()
    }

    /// `ACCEPT TIMELINE n`: what lies above never happened (a restore, an accidental promotion). False when the
    /// watcher has ended.
    pub async fn accept_timeline(&self, timeline: Timeline) -> bool {
        self.inputs.send(Input::AcceptTimeline(timeline)).await.is_ok()
    }

    /// New writes wait for a planned switchover (true) or go on; another primary ends the wait by itself. False when the
    /// watcher has ended.
    pub async fn hold(&self, held: bool) -> bool {
        self.inputs.send(Input::Hold(held)).await.is_ok()
    }

    /// Why the state file cannot be relied on, when it cannot. Also among the topology's alarms.
    pub fn state_problem(&self) -> Option<String> {
        self.state_problem.borrow().clone()
    }
}

/// What the watcher and the probers share with the rest of the program.
#[derive(Clone)]
pub struct Surroundings {
    /// Where the topology is published; made with [`crate::topology::Topology::unseen`] of the same nodes.
    pub store: Arc<Store>,
    /// Evidence from sessions and pools.
    pub nudges: Arc<Nudges>,
    /// What happened, for people.
    pub events: Arc<EventLog>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// TLS towards the nodes.
    pub tls: Arc<ServerTlsContext>,
}

/// Reads the state file and starts one prober per node and the watcher on the current runtime.
pub fn start(tasks: &Tasks, settings: &Settings, around: Surroundings) -> HealthHandle {
    let clock = Clock::start();
    let (inputs, inbox) = mpsc::channel(INBOX);
    let (fast, pace) = watch::channel(true);
    let cluster = watch::Sender::new(Arc::new(settings.cluster.clone()));
    let (state_file, mark) = StateFile::open(settings.cluster.state_file.clone());
    let (problem, state_problem) = watch::channel(None);
    for (id, spec) in (0..=u16::MAX).map(NodeId).zip(&settings.cluster.nodes) {
        let prober = Prober {
            node: id,
            spec: spec.clone(),
            settings: cluster.subscribe(),
            fast: pace.clone(),
            sink: inputs.clone(),
            clock,
            nudges: Arc::clone(&around.nudges),
            metrics: Arc::clone(&around.metrics),
            tls: Arc::clone(&around.tls),
        };
        let stop = tasks.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.stopping() => {}
                () = prober.run() => {}
            }
        });
    }
    let watcher = Watcher {
        inbox,
        settings: cluster.subscribe(),
        fast,
        clock,
        state_file,
        problem,
        store: around.store,
        nudges: around.nudges,
        recorder: Recorder::default(),
        events: around.events,
        metrics: around.metrics,
    };
    let stop = tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stop.stopping() => {}
            () = watcher.run(mark) => {}
        }
    });
    HealthHandle { inputs, settings: Arc::new(cluster), state_problem }
}
