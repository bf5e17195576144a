//! Finds a backend for a session's next request: route, lease, restore; and waits while there is none.
//!
//! In: a session with a request and without a good backend. Out: the session with one, or the error its request gets.
//! The client is watched all the while: one that leaves gives up its place.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::limbo::Limbo;
use super::restore::{self, RestoreError};
use super::run::{Attached, End, Flow, Session};
use super::share::Home;
use super::split::Splitter;
use crate::config::Fallback;
use crate::metrics::{Counter, Latency};
use crate::pool::{Backend, LeaseError, Verdict};
use crate::route::{self, Floors, Load, Policy, Refusal, Rng, Target, Wants};
use crate::topology::{Health, NodeId, Nudge, Role, Topology};
use crate::wire::encode;
use crate::wire::error::{PgError, SqlState};

/// The version of no topology.
pub(super) const NO_VERSION: u64 = u64::MAX;
/// Pause before a node that refused is tried again when the topology has not changed meanwhile.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for a standby where the primary will do.
const CHOICE: Duration = Duration::from_secs(1);

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
            // Where this batch was to go says nothing of the next one.
            self.end_batch();
            self.limbo = Some(Box::new(Limbo::refusal(*error)));
            return Ok(());
        }
        if !self.state.is_quiet() {
            // In a block nothing but a name, a position or another node for its beginning can be wanted.
            self.move_transaction().await?;
            return match self.await_position().await {
                Ok(()) => self.reapply_name().await,
                Err(NoBackend::End(end)) => Err(end),
                Err(_) => self.settle_loss(),
            };
        }
        match self.find_for_batch().await {
            Ok(()) => {
                self.note_node();
                self.reapply_name().await
            }
            Err(NoBackend::End(end)) => Err(end),
            Err(NoBackend::Refused(_) | NoBackend::RefusedByServer(..)) if self.is_replaying() => {
                self.seen_version = NO_VERSION;
                self.fail_replay(Counter::ReplayFailed);
                Ok(())
            }
            Err(NoBackend::Refused(error) | NoBackend::RefusedByServer(error, _)) => {
                self.end_batch();
                self.ctx.metrics.count_error(error.code.as_str());
                self.limbo = Some(Box::new(Limbo::refusal(error)));
                // A backend kept in hand is not good by that: the next request asks again.
                self.seen_version = NO_VERSION;
                Ok(())
            }
        }
    }

    /// A backend of the kind that the batch that waits goes to, or one of the primary where that will do.
    async fn find_for_batch(&mut self) -> Result<(), NoBackend> {
        let timeout = self.ctx.settings.load().cluster.hold_timeout;
        self.await_position().await?;
        self.await_freshness().await?;
        self.change_sides().await?;
        if self.may_use_primary() {
            match self.find_backend(Instant::now() + CHOICE.min(timeout)).await {
                Err(NoBackend::Refused(_) | NoBackend::RefusedByServer(..)) => {
                    self.give_up_standby();
                    self.change_sides().await?;
                }
                done => return done,
            }
        }
        self.find_backend(Instant::now() + timeout).await
    }

    /// A RESET on the backend took the session's name away, which no server would do.
    pub(super) async fn reapply_name(&mut self) -> Flow {
        if !self.state.take_name_reset() {
            return Ok(());
        }
        let Some(attached) = self.attached.as_mut() else { return Ok(()) };
        let Some(statement) = self.state.params.set_given_name(&attached.backend.params) else {
            return Ok(());
        };
        let deadline = Instant::now() + self.ctx.settings.load().pool.reset_timeout;
        let in_block = !self.state.is_quiet();
        self.state.note_own_query();
        match restore::set_name(&mut attached.backend, &statement, in_block, deadline, &mut self.replies)
            .await
        {
            Ok(()) => {
                self.tell_given_name();
                Ok(())
            }
            Err(RestoreError::Refused(_)) => Ok(()),
            Err(RestoreError::Lost | RestoreError::Stranger) => self.settle_loss(),
        }
    }

    /// The session has the name given at startup again: the client is told, if it knows another.
    pub(super) fn tell_given_name(&mut self) {
        let Some(attached) = self.attached.as_ref() else { return };
        if let Some(name) = self.state.params.report_given_name(&attached.backend.params) {
            encode::parameter_status(&mut self.replies, "application_name", name.as_bytes());
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
            let version = self.ctx.store.version();
            if self.seen_version != version {
                self.seen_version = version;
                self.forget_other_home();
            }
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
                    Attempt::Attached if self.relisten().await? => return Ok(()),
                    Attempt::Attached | Attempt::Again => continue,
                    Attempt::Retry if self.may_use_primary() => {
                        return Err(NoBackend::Refused(no_standby(began.elapsed())));
                    }
                    Attempt::Retry => pause = Instant::now() + RETRY_PAUSE,
                },
                Err(_) if self.may_use_primary() => {
                    return Err(NoBackend::Refused(no_standby(began.elapsed())));
                }
                Err(Refusal::NoStandby) if !self.may_wait_for_standby() => {
                    return Err(NoBackend::Refused(no_standby(began.elapsed())));
                }
                Err(_) => self.ask_for_news(&topology),
            }
            if self.logging_in && self.answer_from_memory() {
                return Ok(());
            }
            if hold.is_none() {
                *hold = Some(self.begin_hold()?);
                if self.ended_early && !self.logging_in {
                    return Err(End::Left.into());
                }
            }
            self.wait_for_change(pause.min(deadline)).await?;
            if Instant::now() >= deadline {
                return Err(NoBackend::Refused(self.no_node(began.elapsed())));
            }
        }
    }

    /// Looks at the backend in hand: true when it serves the request. Otherwise it has been left, or it is kept for the
    /// case that its silent node answers again.
    fn keep_or_leave(&mut self, topology: &Topology) -> Result<bool, NoBackend> {
        let Some(attached) = self.attached.as_ref() else { return Ok(false) };
        if attached.is_over(&self.ctx.store) {
            self.settle_loss()?;
            return Ok(false);
        }
        if self.is_still_good(topology, attached) {
            return Ok(true);
        }
        match self.wants {
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

    /// Whether the backend in hand may take the batch that waits.
    fn is_still_good(&self, topology: &Topology, attached: &Attached) -> bool {
        let chosen = self.split.as_ref().and_then(|split| split.node);
        attached.side == self.wants
            && (self.wants == Wants::Primary || chosen.is_none_or(|node| node == attached.node))
            && (chosen.is_some() && attached.is_standby_at(topology)
                || route::still_good(self.wants, topology, attached.node, attached.epoch))
    }

    fn target(&mut self, topology: &Topology) -> Result<Target, Refusal> {
        let Some(mut split) = self.split.take() else {
            let last = self.home.as_deref().map(Home::node);
            let settings = self.ctx.settings.load();
            let policy = Policy::of(&settings);
            return self.pick(&mut Floors::default(), &policy, topology, last);
        };
        let fallback = split.primary_will_do.then_some(Fallback::Error);
        let target = self.target_for(&mut split, topology, fallback);
        self.split = Some(split);
        // Whoever asked for a standby and waited in vain reads on the primary: it has everything.
        let may_fall_back = fallback.unwrap_or(self.ctx.settings.load().cluster.fallback) != Fallback::Error;
        match target {
            Err(Refusal::NotFresh { .. }) if may_fall_back => {
                topology.writable_primary().map(Target::Primary).ok_or(Refusal::NoStandby)
            }
            target => target,
        }
    }

    /// The node for the batch of a session that may use both kinds; `fallback` in place of the cluster's.
    pub(super) fn target_for(
        &self,
        split: &mut Splitter,
        topology: &Topology,
        fallback: Option<Fallback>,
    ) -> Result<Target, Refusal> {
        let settings = self.ctx.settings.load();
        let mut policy = Policy::of(&settings);
        policy.fallback = fallback.unwrap_or(policy.fallback);
        policy.max_lag = split.max_lag();
        let last = split.last_node(self.wants, self.home.as_deref());
        self.pick(&mut split.floors, &policy, topology, last)
    }

    /// The node for the next batch; `last` is the one before, where there is no backend in hand.
    fn pick(
        &self,
        floors: &mut Floors,
        policy: &Policy,
        topology: &Topology,
        last: Option<NodeId>,
    ) -> Result<Target, Refusal> {
        let here = self.attached.as_ref().filter(|attached| attached.side == self.wants);
        let current = here.map(|attached| attached.node).or(last);
        let mut rng = Rng::from_system();
        let (registry, now) = (&self.ctx.registry, Instant::now());
        let load = |node| Load { in_flight: registry.in_flight(node), latency: registry.latency(node, now) };
        route::target(self.wants, topology, policy, floors, current, &load, &mut rng)
    }

    /// The batch that waits goes to the node in hand.
    fn note_node(&mut self) {
        let node = self.attached.as_ref().map(|attached| attached.node);
        if let Some(split) = self.split.as_mut() {
            split.node = node;
        }
    }

    fn may_wait_for_standby(&self) -> bool {
        self.ctx.settings.load().cluster.fallback != Fallback::Error
    }

    /// Somebody waits: the probers look more often.
    pub(super) fn ask_for_news(&self, topology: &Topology) {
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
            side: self.wants,
            copied: None,
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
        let wants = self.wants;
        let limit = Instant::now() + self.ctx.settings.load().pool.reset_timeout;
        // What one backend does not take, the other may have.
        let keeps = self.split.as_ref().is_some_and(|split| split.aside.is_some());
        let mut changes = store.subscribe();
        let lost = async { while !is_lost(&store.load(), node, wants) && changes.changed().await.is_ok() {} };
        tokio::select! {
            biased;
            restored = restore::restore(backend, &mut self.state, keeps, deadline.min(limit)) => restored,
            () = lost => Err(RestoreError::Lost),
        }
    }

    fn no_node(&self, waited: Duration) -> PgError {
        match self.wants {
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
