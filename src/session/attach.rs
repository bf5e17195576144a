//! Finds a backend for a session's next request: route, lease, restore; and waits while there is none.
//!
//! In: a session with a request and without a good backend. Out: the session with one, or the error its request gets.
//! The client is watched all the while: one that leaves gives up its place.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::directory::{Signal, Signals};
use super::limbo::Limbo;
use super::restore::{self, RestoreError};
use super::run::{Attached, End, Flow, Session};
use super::share::{self, Home};
use crate::metrics::{Counter, Gauge, Latency};
use crate::pool::{Backend, LeaseError, Registry, Verdict};
use crate::route::{self, NodeLoad, Policy, Refusal, Rng, Target, Wants};
use crate::topology::{Health, NodeId, Nudge, Role, Topology};
use crate::wire::encode;
use crate::wire::error::{PgError, SqlState};

/// The version of no topology.
const NO_VERSION: u64 = u64::MAX;
/// Pause before a node that refused is tried again when the topology has not changed meanwhile.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Why a request cannot have a backend.
pub(super) enum NoBackend {
    /// The session ends.
    End(End),
    /// The request fails with this.
    Refused(PgError),
    /// The server refused the login; these are its bytes.
    RefusedByServer(PgError, Vec<u8>),
}

impl From<End> for NoBackend {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

/// What one attempt at a node led to.
pub(super) enum Attempt {
    Attached,
    /// Another attempt is sure to come further.
    Again,
    /// Another attempt may do better.
    Retry,
}

impl Session {
    /// The client has a request: make sure that there is a good backend for it, or that it gets an error.
    pub(super) async fn request(&mut self) -> Flow {
        if let Some(error) = self.lost.take() {
            self.ctx.metrics.count_error(error.code.as_str());
            self.limbo = Some(Box::new(Limbo::refusal(*error)));
            return Ok(());
        }
        if !self.state.is_quiet() {
            // In a block nothing but the name can be wanted.
            return self.reapply_name().await;
        }
        let timeout = self.ctx.settings.load().cluster.hold_timeout;
        match self.find_backend(Instant::now() + timeout).await {
            Ok(()) => self.reapply_name().await,
            Err(NoBackend::End(end)) => Err(end),
            Err(NoBackend::Refused(error) | NoBackend::RefusedByServer(error, _)) => {
                self.ctx.metrics.count_error(error.code.as_str());
                self.limbo = Some(Box::new(Limbo::refusal(error)));
                // A backend kept in hand is not good by that: the next request asks again.
                self.seen_version = NO_VERSION;
                Ok(())
            }
        }
    }

    /// A RESET on the backend took the session's name away, which no server would do.
    async fn reapply_name(&mut self) -> Flow {
        let Some(name) = self.state.take_name() else { return Ok(()) };
        let Some(attached) = self.attached.as_mut() else { return Ok(()) };
        let deadline = Instant::now() + self.ctx.settings.load().pool.reset_timeout;
        let in_block = !self.state.is_quiet();
        self.state.note_own_query();
        match restore::set_name(&mut attached.backend, &name, in_block, deadline).await {
            Ok(()) => {
                if self.state.params.report("application_name", &name) {
                    encode::parameter_status(&mut self.replies, "application_name", name.as_bytes());
                }
                Ok(())
            }
            Err(RestoreError::Refused(_)) => Ok(()),
            Err(RestoreError::Lost | RestoreError::Stranger) => self.settle_loss(),
        }
    }

    /// Waits for a node and a backend on it, at most until `deadline`.
    pub(super) async fn find_backend(&mut self, deadline: Instant) -> Result<(), NoBackend> {
        let mut hold = None;
        let result = self.search(deadline, &mut hold).await;
        if let Some(began) = hold {
            self.end_hold(began, &result);
        }
        result
    }

    async fn search(&mut self, deadline: Instant, hold: &mut Option<Instant>) -> Result<(), NoBackend> {
        let began = Instant::now();
        loop {
            self.seen_version = self.ctx.store.version();
            let topology = self.ctx.store.load();
            if self.keep_or_leave(&topology)? {
                return Ok(());
            }
            if let Some(error) = self.lost.take() {
                return Err(NoBackend::Refused(*error));
            }
            let mut pause = deadline;
            match self.target(&topology) {
                Ok(target) => match self.try_node(target, &topology, deadline).await? {
                    Attempt::Attached => return Ok(()),
                    Attempt::Again => continue,
                    Attempt::Retry => pause = Instant::now() + RETRY_PAUSE,
                },
                Err(Refusal::NoStandby) if !self.may_wait_for_standby() => {
                    return Err(NoBackend::Refused(no_standby(began.elapsed())));
                }
                Err(_) => self.ask_for_news(&topology),
            }
            if self.logging_in && self.answer_from_memory() {
                return Ok(());
            }
            if hold.is_none() {
                *hold = Some(Instant::now());
                self.entry.set_held(true);
                self.ctx.metrics.count(Counter::HoldStarted);
                self.ctx.metrics.raise(Gauge::SessionsHeld);
            }
            self.wait_for_change(pause.min(deadline)).await?;
            if Instant::now() >= deadline {
                return Err(NoBackend::Refused(self.no_node(began.elapsed())));
            }
        }
    }

    fn end_hold(&mut self, began: Instant, result: &Result<(), NoBackend>) {
        self.entry.set_held(false);
        self.ctx.metrics.lower(Gauge::SessionsHeld);
        self.ctx.metrics.record(Latency::Hold, began.elapsed());
        self.ctx.metrics.count(match result {
            Ok(()) => Counter::HoldReleased,
            Err(NoBackend::End(_)) => Counter::HoldClientGone,
            Err(_) => Counter::HoldTimedOut,
        });
    }

    /// Looks at the backend in hand: true when it serves the request. Otherwise it has been left, or it is kept for the
    /// case that its silent node answers again.
    fn keep_or_leave(&mut self, topology: &Topology) -> Result<bool, NoBackend> {
        let Some(attached) = self.attached.as_ref() else { return Ok(false) };
        if attached.is_over(&self.ctx.store) {
            self.settle_loss()?;
            return Ok(false);
        }
        if route::still_good(self.login.wants, topology, attached.node, attached.epoch) {
            return Ok(true);
        }
        match self.login.wants {
            Wants::Primary => Ok(false),
            Wants::Standby => self.stay_or_leave_standby(topology),
        }
    }

    /// A read-only session between transactions moves to a better node; true: it stays. What binds it to this one is
    /// lost with the move and told. While nobody better is there, it keeps its backend and is refused.
    fn stay_or_leave_standby(&mut self, topology: &Topology) -> Result<bool, NoBackend> {
        let Some(attached) = self.attached.as_ref() else { return Ok(false) };
        let here = topology.node(attached.node);
        if here.is_none_or(|node| node.health == Health::Down || node.role == Role::Zombie) {
            // Nothing is under way: only what was pinned is lost.
            self.settle_loss()?;
            return Ok(false);
        }
        match self.target(topology) {
            // The fallback may be the node it is on.
            Ok(target) if self.attached.as_ref().is_some_and(|attached| attached.node == target.node()) => {
                self.adopt(target, topology);
                Ok(true)
            }
            Ok(_) if self.state.params.is_pinned() => {
                self.settle_loss()?;
                Ok(false)
            }
            Ok(_) => {
                self.release(Verdict::Reset);
                self.ctx.metrics.count(Counter::SessionMoved);
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }

    /// The session stays on a node that has become the primary since: from now on its backend ends with the epoch.
    fn adopt(&mut self, target: Target, topology: &Topology) {
        if let (Target::Primary(_), Some(attached)) = (target, self.attached.as_mut()) {
            attached.on_primary = true;
            attached.epoch = topology.epoch;
        }
    }

    fn target(&self, topology: &Topology) -> Result<Target, Refusal> {
        let settings = self.ctx.settings.load();
        let policy = Policy { fallback: settings.cluster.fallback, zone: None };
        let last = self.home.as_deref().map(Home::node);
        let current = self.attached.as_ref().map(|attached| attached.node).or(last);
        let mut rng = Rng::from_system();
        route::target(self.login.wants, topology, &policy, current, &Load(&self.ctx.registry), &mut rng)
    }

    fn may_wait_for_standby(&self) -> bool {
        self.ctx.settings.load().cluster.fallback != crate::config::Fallback::Error
    }

    /// Somebody waits: the probers look more often.
    fn ask_for_news(&self, topology: &Topology) {
        for node in &topology.nodes {
            self.ctx.nudges.nudge(node.id, Nudge::Wanted);
        }
    }

    async fn try_node(
        &mut self,
        target: Target,
        topology: &Topology,
        deadline: Instant,
    ) -> Result<Attempt, NoBackend> {
        let began = Instant::now();
        let wait_timeout = self.ctx.settings.load().pool.wait_timeout;
        let leased = self.lease(target, deadline.min(began + wait_timeout)).await?;
        self.ctx.metrics.record(Latency::Checkout, began.elapsed());
        match leased {
            Ok(backend) => self.take(backend, target, topology, deadline).await,
            Err(error) => Self::lease_failed(error, began.elapsed()),
        }
    }

    fn lease_failed(error: LeaseError, waited: Duration) -> Result<Attempt, NoBackend> {
        match error {
            error if error.is_node_trouble() => Ok(Attempt::Retry),
            LeaseError::Server(refusal) => {
                let mut error = PgError::error(refusal.code, refusal.view().message());
                if error.code == SqlState::INVALID_PASSWORD {
                    error = error
                        .with_hint("The password was changed after this session logged in: connect again.");
                }
                Err(NoBackend::RefusedByServer(error, refusal.frame))
            }
            LeaseError::Login(error) => Err(NoBackend::Refused(error)),
            LeaseError::Timeout => Err(NoBackend::Refused(
                PgError::error(
                    SqlState::TOO_MANY_CONNECTIONS,
                    format!("no server connection became free within {}", seconds(waited)),
                )
                .with_hint("Raise pool.size or pool.wait_timeout, or use fewer clients."),
            )),
            _ => Err(NoBackend::Refused(PgError::error(
                SqlState::TOO_MANY_CONNECTIONS,
                "too many clients wait for a server connection",
            ))),
        }
    }

    async fn take(
        &mut self,
        mut backend: Backend,
        target: Target,
        topology: &Topology,
        deadline: Instant,
    ) -> Result<Attempt, NoBackend> {
        if self.is_sharing() {
            return self.take_shared(backend, target, topology).await;
        }
        let restored = self.restore(&mut backend, target.node(), deadline).await;
        if let Err(RestoreError::Lost) = restored {
            self.ctx.registry.release(backend, Verdict::Close);
            return Ok(Attempt::Retry);
        }
        if let Err(RestoreError::Stranger) = restored {
            // The others that wait in its pool have logged in as the same role.
            self.ctx.registry.dismiss_idle(&backend.key);
            self.ctx.registry.release(backend, Verdict::Close);
            return Ok(Attempt::Again);
        }
        let node = topology.node(target.node());
        let on_primary = topology.primary == Some(target.node());
        let was_standby = self.state.hot_standby == Some(true);
        if on_primary {
            // Opened before the promotion, it has not said yet that it can write.
            self.state.hot_standby = Some(false);
        }
        self.attach(Attached {
            node: target.node(),
            epoch: topology.epoch,
            on_primary,
            was_standby,
            endpoint_standby: self.login.wants == Wants::Standby,
            start_time: node.and_then(|node| node.start_time),
            broken: false,
            flushed: true,
            backend,
        });
        match restored {
            Err(RestoreError::Refused(error)) => Err(NoBackend::Refused(error)),
            Err(RestoreError::Lost | RestoreError::Stranger) => Ok(Attempt::Retry),
            Ok(changed) => {
                // A login tells all parameters at its end; later the client is told what is new under it.
                for (name, value) in changed.iter().filter(|_| !self.logging_in) {
                    encode::parameter_status(&mut self.replies, name, value);
                }
                Ok(Attempt::Attached)
            }
        }
    }

    /// Restores the session's state, unless the node is lost meanwhile: a silent server would be waited for too long.
    async fn restore(
        &mut self,
        backend: &mut Backend,
        node: NodeId,
        deadline: Instant,
    ) -> Result<restore::Changed, RestoreError> {
        let store = Arc::clone(&self.ctx.store);
        let wants = self.login.wants;
        let limit = Instant::now() + self.ctx.settings.load().pool.reset_timeout;
        let mut changes = store.subscribe();
        let lost = async { while !is_lost(&store.load(), node, wants) && changes.changed().await.is_ok() {} };
        tokio::select! {
            biased;
            restored = restore::restore(backend, &mut self.state, deadline.min(limit)) => restored,
            () = lost => Err(RestoreError::Lost),
        }
    }

    /// Leases a backend on the target while the client is watched; a node that is no longer wanted ends the attempt.
    async fn lease(
        &mut self,
        target: Target,
        deadline: Instant,
    ) -> Result<Result<Backend, LeaseError>, NoBackend> {
        let (node, claim) = (target.node(), share::claim(self.login.wants, target));
        let key = self.pool_at(node);
        let registry = Arc::clone(&self.ctx.registry);
        let credentials = Arc::clone(&self.login.credentials);
        let mut lease = pin!(registry.lease(&key, claim, &credentials, deadline));
        loop {
            let step = poll_fn(|cx| match lease.as_mut().poll(cx) {
                Poll::Ready(leased) => Poll::Ready(Step::Leased(leased)),
                Poll::Pending => self.poll_watch(cx).map(Step::Watched),
            })
            .await;
            match step {
                Step::Leased(leased) => return Ok(leased),
                Step::Watched(watched) => {
                    self.watched(&watched)?;
                    if is_lost(&self.ctx.store.load(), node, self.login.wants) {
                        return Ok(Err(LeaseError::Epoch));
                    }
                }
            }
        }
    }

    /// Waits for a change of topology until `until`.
    async fn wait_for_change(&mut self, until: Instant) -> Result<(), NoBackend> {
        let mut pause = pin!(tokio::time::sleep_until(until));
        loop {
            if self.ctx.store.version() != self.seen_version {
                return Ok(());
            }
            let watched = poll_fn(|cx| match self.poll_watch(cx) {
                Poll::Ready(watched) => Poll::Ready(Some(watched)),
                Poll::Pending => pause.as_mut().poll(cx).map(|()| None),
            })
            .await;
            match watched {
                Some(watched) => self.watched(&watched)?,
                None => return Ok(()),
            }
        }
    }

    /// True while the session waits for the first backend, or for one for its next transaction, and no server has failed
    /// it: what its client has sent before its end is run.
    fn is_first_wait(&self) -> bool {
        self.logging_in || self.is_sharing()
    }

    /// Watches the client and the mailbox, and writes what we owe the client.
    fn poll_watch(&mut self, cx: &mut TaskContext<'_>) -> Poll<Watched> {
        if let Poll::Ready(Err(_)) = self.poll_replies(cx) {
            if !self.logging_in {
                return Poll::Ready(Watched::ClientGone);
            }
            self.client_unread = true;
        }
        // What arrives is kept for the backend to come; a full buffer leaves the rest to the socket.
        while !self.client_ended && self.up.can_read() {
            match self.up.poll_read(cx, &mut self.client) {
                // A whole conversation may have come behind the startup packet: it is run, as a server does.
                Poll::Ready(Ok(0) | Err(_)) if self.is_first_wait() && self.up.has_unseen() => {
                    (self.client_ended, self.ended_early) = (true, true);
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Watched::ClientGone),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        self.entry.mailbox.poll(cx).map(Watched::Signals)
    }

    fn watched(&mut self, watched: &Watched) -> Result<(), NoBackend> {
        let signals = match *watched {
            Watched::ClientGone => return Err(End::Left.into()),
            Watched::Signals(signals) => signals,
        };
        self.signals(signals)?;
        // Nothing has been started for a session that only waits.
        if self.draining && !signals.contains(Signal::Topology) {
            return Err(End::Told(super::run::shutting_down()).into());
        }
        if signals.contains(Signal::Cancel) && !self.logging_in {
            let text = "canceling statement due to user request";
            return Err(NoBackend::Refused(PgError::error(SqlState::QUERY_CANCELED, text)));
        }
        Ok(())
    }

    fn no_node(&self, waited: Duration) -> PgError {
        match self.login.wants {
            Wants::Primary => PgError::error(
                SqlState::CANNOT_CONNECT_NOW,
                format!("no primary accepts writes, waited {}", seconds(waited)),
            )
            .with_hint("The statement was not sent to any server: it is safe to run it again."),
            Wants::Standby => no_standby(waited),
        }
    }
}

/// True when nothing can come of an attempt at `node` any more.
pub(super) fn is_lost(topology: &Topology, node: NodeId, wants: Wants) -> bool {
    let gone = topology.node(node).is_none_or(|node| node.health == Health::Down);
    gone || (wants == Wants::Primary && topology.writable_primary() != Some(node))
}

/// What the balancing among standbys weighs: leases and openings under way.
struct Load<'a>(&'a Registry);

impl NodeLoad for Load<'_> {
    fn in_flight(&self, node: NodeId) -> usize {
        self.0.in_flight(node)
    }
}

enum Step {
    Leased(Result<Backend, LeaseError>),
    Watched(Watched),
}

/// What happened to a session that waits.
enum Watched {
    ClientGone,
    Signals(Signals),
}

fn no_standby(waited: Duration) -> PgError {
    PgError::error(
        SqlState::CANNOT_CONNECT_NOW,
        format!("no standby within the lag limit is available, waited {}", seconds(waited)),
    )
    .with_hint("The statement was not sent to any server: it is safe to run it again.")
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
