//! One task per node: when to ask, how long to wait, when to connect anew.
//!
//! Every question has its own deadline, a connection attempt included, and no prober ever waits for another. Calm: one
//! question per interval. Fast (a primary is missing or in doubt): a beat per `fast_interval` in between; while sessions
//! wait for samples, questions in place of beats. A nudge asks at once, an end of the connection is noticed at once.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::config::{Cluster, NodeSettings};
use crate::metrics::Metrics;
use crate::net::tls::ServerTlsContext;
use crate::topology::decide::Input;
use crate::topology::{Failure, NodeId, Nudge, Nudges, Observation, Sample, Seen};

use super::clock::Clock;
use super::link::Link;

/// Nudges come in crowds when a server dies; one answer serves them all.
const NUDGE_GAP: Duration = Duration::from_millis(2);
/// How long the pace of questions outlives the last wish for a sample. Who waits wishes again at each decision, so this
/// only has to outlast a late answer.
const WANTED_LINGER: Duration = Duration::from_millis(100);
/// Wishes for samples are heard this many times per `fast_interval` while they go on.
const WANTED_PACE: u32 = 4;
/// Connection attempts are dearer for a server than questions.
const CONNECT_GAP: Duration = Duration::from_millis(10);
/// What does not change while a server runs is asked again this often.
const WHOLE_EVERY: Duration = Duration::from_secs(1);
/// A refused login or question is not put right within milliseconds, and each attempt costs a key derivation.
const DENIED_GAP: Duration = Duration::from_secs(1);
/// Questions on a new connection at the fast pace: a node that was down needs several answers to be believed.
const EAGER_QUESTIONS: u32 = 4;

/// Asks one node.
pub(super) struct Prober {
    pub(super) node: NodeId,
    pub(super) spec: NodeSettings,
    pub(super) settings: watch::Receiver<Arc<Cluster>>,
    /// The watcher's wish: true is the fast pace.
    pub(super) fast: watch::Receiver<bool>,
    pub(super) sink: mpsc::Sender<Input>,
    pub(super) clock: Clock,
    pub(super) nudges: Arc<Nudges>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tls: Arc<ServerTlsContext>,
}

/// One question, or one attempt to ask it.
#[derive(Clone, Copy)]
struct Probe {
    number: u64,
    /// Number of the first probe on its connection, given when that was open; of a failed attempt its own number.
    link: u64,
    sent: Instant,
}

/// What is remembered while one connection lasts.
struct Watch {
    link: Link,
    /// Number of the first probe on it.
    first: u64,
    /// When the last question was sent.
    asked: Instant,
    /// When the last question that was more than a beat was sent.
    sampled: Instant,
    /// When the last whole question was sent.
    whole: Instant,
    answers: u32,
    /// Until when sessions are taken to wait for samples.
    wanted: Instant,
}

impl Watch {
    /// Is every question to be more than a beat, and one to come soon?
    fn is_eager(&self) -> bool {
        self.answers < EAGER_QUESTIONS || self.is_wanted()
    }

    fn is_wanted(&self) -> bool {
        Instant::now() < self.wanted
    }
}

impl Prober {
    /// Never ends by itself.
    pub(super) async fn run(mut self) {
        loop {
            let started = Instant::now();
            let failure = match self.connect(started).await {
                Ok(watch) => self.watch_over(watch).await,
                Err(failure) => failure,
            };
            if matches!(failure, Failure::Denied(_)) {
                sleep_until(Instant::now() + DENIED_GAP).await;
            }
            self.rest(started).await;
        }
    }

    /// Connects and asks the first question. A node that takes longer than `timeout` is silent, as for any question,
    /// but an attempt that a busy host has accepted goes on, up to `connect_timeout`.
    async fn connect(&mut self, started: Instant) -> Result<Watch, Failure> {
        let cluster = Arc::clone(&self.settings.borrow_and_update());
        let monitor = &cluster.monitor;
        let number = self.nudges.probe_sent();
        let begun = Probe { number, link: number, sent: started };
        let reached = started + monitor.timeout;
        let ready = started + monitor.timeout.max(cluster.connect_timeout);
        let attempt = async {
            let mut link = Link::open(&self.spec, monitor, &self.tls, (reached, ready)).await?;
            // The evidence is as old as this question, not as the attempt to connect.
            let number = self.nudges.probe_sent();
            let first = Probe { number, link: number, sent: Instant::now() };
            let sample = link.sample(true).await?;
            Ok((link, first, sample))
        };
        let mut attempt = pin!(attempt);
        let silent = Failure::Silent(monitor.timeout);
        let done = if let Ok(done) = timeout_at(reached, &mut attempt).await {
            done
        } else {
            self.failed(begun, &silent).await;
            timeout_at(ready, attempt).await.unwrap_or(Err(silent))
        };
        match done {
            Ok((link, first, sample)) => {
                self.answered(first, link.start_time(), Some(sample)).await;
                let (first, sent) = (first.number, first.sent);
                Ok(Watch { link, first, asked: sent, sampled: sent, whole: sent, answers: 1, wanted: sent })
            }
            Err(failure) => {
                self.failed(begun, &failure).await;
                Err(failure)
            }
        }
    }

    /// Asks until the connection ends or a question fails, and reports that.
    async fn watch_over(&mut self, mut watch: Watch) -> Failure {
        loop {
            let done = match self.wait(&mut watch).await {
                Ok(nudged) => self.ask(&mut watch, nudged).await,
                Err(failure) => {
                    // The end of an idle connection is evidence of this moment, not of the last question's.
                    self.failed(Probe { number: 0, link: watch.first, sent: Instant::now() }, &failure).await;
                    Err(failure)
                }
            };
            if let Err(failure) = done {
                return failure;
            }
        }
    }

    /// Waits, with an ear on the connection, for the tick, a nudge or a change of pace. True: ask everything.
    async fn wait(&mut self, watch: &mut Watch) -> Result<bool, Failure> {
        let due = watch.asked + self.tick(watch.is_eager());
        let (node, mailbox, fast) = (self.node, &self.nudges, &mut self.fast);
        let woken = async {
            tokio::select! {
                () = sleep_until(due) => false,
                () = mailbox.notified(node) => true,
                // A slower pace wakes too, for one question more than needed.
                _ = fast.changed() => true,
            }
        };
        let nudged = watch.link.idle(woken).await?;
        let mut taken = self.nudges.take(node);
        if nudged {
            let only_wanted = watch.is_wanted() && !taken.trouble();
            let gap = if only_wanted { self.wanted_gap() } else { NUDGE_GAP };
            watch.link.idle(sleep_until(watch.asked + gap)).await?;
            taken = taken.and(self.nudges.take(node));
        }
        if taken.contains(Nudge::Wanted) {
            watch.wanted = Instant::now() + WANTED_LINGER;
        }
        if taken.trouble() {
            self.tell(Probe { number: 0, link: 0, sent: Instant::now() }, Seen::Trouble).await;
        }
        Ok(nudged || !taken.is_empty())
    }

    /// Asks once, or twice when a beat brings news.
    async fn ask(&mut self, watch: &mut Watch, all: bool) -> Result<(), Failure> {
        let every = self.sample_interval();
        let now = Instant::now();
        let sample = all
            || watch.is_eager()
            || !watch.link.reports_role()
            // A beat that would be followed by a question within half a tick may as well be one.
            || now + self.tick(false) / 2 >= watch.sampled + every;
        if !sample {
            self.beat(watch).await?;
            if !watch.link.role_changed() {
                return Ok(());
            }
        }
        self.sample(watch).await
    }

    async fn beat(&mut self, watch: &mut Watch) -> Result<(), Failure> {
        let probe = self.probe(watch);
        let start_time = watch.link.start_time();
        let done = self.in_time(probe, watch.link.beat()).await;
        self.conclude(probe, start_time, done.map(|()| None)).await
    }

    async fn sample(&mut self, watch: &mut Watch) -> Result<(), Failure> {
        let probe = self.probe(watch);
        let sent = probe.sent;
        watch.sampled = sent;
        let whole = sent.duration_since(watch.whole) >= WHOLE_EVERY;
        if whole {
            watch.whole = sent;
        }
        watch.answers = watch.answers.saturating_add(1);
        let start_time = watch.link.start_time();
        let done = self.in_time(probe, watch.link.sample(whole)).await;
        self.conclude(probe, start_time, done.map(Some)).await
    }

    /// Numbers a question that is about to be sent.
    fn probe(&self, watch: &mut Watch) -> Probe {
        let number = self.nudges.probe_sent();
        watch.asked = Instant::now();
        Probe { number, link: watch.first, sent: watch.asked }
    }

    /// Waits for an answer, reports it as late when it is, and gives it up at the deadline.
    async fn in_time<T>(
        &self,
        probe: Probe,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let (timeout, late) = {
            let monitor = &self.settings.borrow().monitor;
            (monitor.timeout, (monitor.timeout / 4).max(monitor.fast_interval * 2))
        };
        let mut answer = pin!(answer);
        if late < timeout {
            if let Ok(done) = timeout_at(probe.sent + late, &mut answer).await {
                return done;
            }
            self.tell(probe, Seen::Late).await;
        }
        timeout_at(probe.sent + timeout, answer).await.unwrap_or(Err(Failure::Silent(timeout)))
    }

    /// Reports the end of a question. After a failure the connection is of no more use.
    async fn conclude(
        &self,
        probe: Probe,
        start_time: Option<i64>,
        done: Result<Option<Sample>, Failure>,
    ) -> Result<(), Failure> {
        match done {
            Ok(sample) => {
                self.answered(probe, start_time, sample).await;
                Ok(())
            }
            Err(failure) => {
                self.failed(probe, &failure).await;
                Err(failure)
            }
        }
    }

    async fn answered(&self, probe: Probe, start_time: Option<i64>, sample: Option<Sample>) {
        self.metrics.probe(self.node.index(), true);
        self.nudges.probe_answered(self.node, probe.number, start_time);
        self.tell(probe, sample.map_or(Seen::Beat, |s| Seen::Sample(Box::new(s)))).await;
    }

    async fn failed(&self, probe: Probe, failure: &Failure) {
        self.metrics.probe(self.node.index(), false);
        // A connection that ended, ours as anybody's, does not prove that the server did: the next attempt tells.
        if !matches!(failure, Failure::Cut(_) | Failure::Crowded | Failure::Denied(_)) {
            self.nudges.probe_failed(self.node, probe.number);
        }
        self.tell(probe, Seen::Failed(failure.clone())).await;
    }

    async fn tell(&self, probe: Probe, seen: Seen) {
        let Probe { number, link, sent } = probe;
        let (sent, at) = (self.clock.at(sent), self.clock.now());
        let observation = Observation { node: self.node, number, link, sent, at, seen };
        // The watcher only goes at shutdown, and takes the probers with it.
        let _ = self.sink.send(Input::Seen(observation)).await;
    }

    /// Pauses between connection attempts: a tick since the last one began, less when somebody asks.
    async fn rest(&mut self, started: Instant) {
        let due = started + self.tick(false);
        let asked = async {
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.nudges.notified(self.node) => sleep_until(started + CONNECT_GAP).await,
                _ = self.fast.changed() => sleep_until(started + CONNECT_GAP).await,
            }
        };
        asked.await;
        let _ = self.nudges.take(self.node);
    }

    /// Time between two questions.
    fn tick(&self, eager: bool) -> Duration {
        let fast = *self.fast.borrow();
        if fast || eager { self.settings.borrow().monitor.fast_interval } else { self.sample_interval() }
    }

    /// Time between two questions while samples are wished for again and again: replay takes a moment to follow.
    fn wanted_gap(&self) -> Duration {
        (self.settings.borrow().monitor.fast_interval / WANTED_PACE).max(NUDGE_GAP)
    }

    /// Time between two questions that are more than beats: `interval`, or less where a tight lag limit needs it.
    fn sample_interval(&self) -> Duration {
        let cluster = self.settings.borrow();
        let monitor = &cluster.monitor;
        (cluster.max_lag / 5).max(monitor.fast_interval).min(monitor.interval)
    }
}
