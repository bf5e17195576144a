//! Gathers what the probers saw, lets `decide` judge, makes the mark durable, publishes, and tells people.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::Cluster;
use crate::metrics::{Counter, Gauge, Latency, Metrics, NodeFigures};
use crate::topology::decide::{Change, Input, Mark, Outcome, Rules, State, decide};
use crate::topology::{
    Ending, EventKind, EventLog, Health, NodeView, Nudges, Outage, Recorded, Recorder, Role, Store, Tally,
    Topology,
};

use super::clock::Clock;
use super::state_file::StateFile;

/// Observations taken at once; each decision costs microseconds, but one suffices for all.
const BATCH: usize = 64;

/// The only writer of the topology.
pub(super) struct Watcher {
    pub(super) inbox: mpsc::Receiver<Input>,
    pub(super) settings: watch::Receiver<Arc<Cluster>>,
    /// The pace of the probers.
    pub(super) fast: watch::Sender<bool>,
    pub(super) clock: Clock,
    pub(super) state_file: StateFile,
    pub(super) problem: watch::Sender<Option<String>>,
    pub(super) store: Arc<Store>,
    /// Where sessions tell of the first answer after an outage.
    pub(super) nudges: Arc<Nudges>,
    pub(super) recorder: Recorder,
    pub(super) events: Arc<EventLog>,
    pub(super) metrics: Arc<Metrics>,
}

impl Watcher {
    /// Decides until the inbox is closed. `mark` is what the state file remembers.
    pub(super) async fn run(mut self, mark: Option<Mark>) {
        let mut rules = Rules::new(&self.settings.borrow_and_update().clone());
        let mut state = State::new(&rules, mark, self.clock.now());
        self.tell_problem();
        let mut inputs = Vec::with_capacity(BATCH);
        loop {
            // Time alone changes things too (start grace, frozen limit), if nobody answers.
            let tick = self.settings.borrow().monitor.interval;
            let received = timeout(tick, self.inbox.recv_many(&mut inputs, BATCH)).await;
            if received == Ok(0) {
                return;
            }
            if self.settings.has_changed().unwrap_or(false) {
                rules = rules.renewed(&self.settings.borrow_and_update());
            }
            let (next, outcome) = decide(state, &inputs, self.clock.now(), &rules);
            state = next;
            inputs.clear();
            self.act(outcome).await;
        }
    }

    /// Does what a decision asks for, in the order that matters.
    async fn act(&mut self, outcome: Outcome) {
        let Outcome { persist, mut topology, mut material, changes, fast } = outcome;
        self.fast.send_if_modified(|now| std::mem::replace(now, fast) != fast);
        let problem = self.state_file.problem().map(str::to_owned);
        match persist {
            Some(mark) => self.state_file.save(mark).await,
            None => self.state_file.retry().await,
        }
        if problem.as_deref() != self.state_file.problem() {
            self.tell_problem();
            material = true;
        }
        topology.alarms.extend(self.state_file.problem().map(str::to_owned));
        self.count(&topology);
        if self.recorder.begins(&topology) {
            self.nudges.answers().expect(topology.epoch);
        }
        if material {
            self.metrics.count(Counter::TopologyChange);
            self.store.publish(topology);
        } else {
            self.store.refresh(topology);
        }
        let topology = self.store.load();
        for change in &changes {
            self.tell(change, &topology);
        }
        self.record(&topology, &changes);
    }

    /// Lets the recorder see what was published, and tells the report of an outage that is over.
    fn record(&mut self, topology: &Topology, changes: &[Change]) {
        let outage = self.recorder.see(&Recorded {
            topology,
            changes,
            now: self.clock.now(),
            wall: SystemTime::now(),
            tally: self.tally(),
            held: u64::try_from(self.metrics.level(Gauge::SessionsHeld)).unwrap_or(0) + self.nudges.asking(),
            first_answer: self.nudges.answers().first().map(|instant| self.clock.at(instant)),
        });
        if let Some(outage) = outage {
            self.tell_outage(outage);
        }
    }

    fn tally(&self) -> Tally {
        let total = |counter| self.metrics.total(counter);
        let errors = self.metrics.session_errors();
        Tally {
            held: total(Counter::HoldStarted),
            timed_out: total(Counter::HoldTimedOut),
            retried: total(Counter::ReadRunAgain),
            replayed: total(Counter::ReplayDone),
            failed: errors.into_iter().filter(|(code, _)| Tally::CODES.contains(code)).collect(),
        }
    }

    fn tell_outage(&self, outage: Outage) {
        let kind = EventKind::Outage.as_str();
        info!(kind, node = outage.new, "{outage}");
        self.metrics.count(match outage.ending {
            Ending::Promotion => Counter::OutagePromotion,
            Ending::Return => Counter::OutageReturn,
            Ending::Switchover => Counter::OutageSwitchover,
        });
        self.metrics.control().record(Latency::Outage, outage.writable_after);
        self.events.report(outage);
    }

    fn tell(&self, change: &Change, topology: &Topology) {
        let node = change.node.and_then(|id| topology.node(id)).map(NodeView::name);
        let text = &change.text;
        let (kind, shown) = (change.kind.as_str(), node.unwrap_or("-"));
        if change.bad {
            warn!(kind, node = shown, "{text}");
        } else {
            info!(kind, node = shown, "{text}");
        }
        if change.kind == EventKind::Primary {
            self.metrics.count(Counter::PrimaryChange);
        }
        self.events.push(change.kind, node, text.clone());
    }

    /// Says once what is wrong with the state file, or that it is well again.
    fn tell_problem(&self) {
        let problem = self.state_file.problem();
        self.problem.send_replace(problem.map(str::to_owned));
        match problem {
            Some(problem) => {
                warn!("{problem}");
                self.events.push(EventKind::State, None, problem);
            }
            None if self.events.list().iter().any(|e| e.kind == EventKind::State) => {
                info!("the state file is written again");
                self.events.push(EventKind::State, None, "the state file is written again");
            }
            None => {}
        }
    }

    fn count(&self, topology: &Topology) {
        self.metrics.set_epoch(topology.epoch.0);
        for node in &topology.nodes {
            let figures = NodeFigures {
                up: node.health != Health::Down,
                role: if node.role == Role::Unknown { "" } else { node.role.as_str() },
                serves_reads: node.reads.qualified(),
                lag: node.lag.map(|l| l.time),
                lag_bytes: node.lag.map(|l| l.bytes),
                timeline: node.timeline.map(|t| t.0),
            };
            self.metrics.set_node(node.id.index(), figures);
        }
    }
}
