//! Transaction mode: a backend for each transaction instead of one for the session.
//!
//! In: a session between transactions. Out: the same with a backend as it left the last one, or without. What travels
//! with a session and what with a backend is in `sharing`; the waiting for a backend in `attach`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tracing::warn;

use super::attach::{Attempt, NoBackend, is_lost};
use super::limbo::Limbo;
use super::relay::{Event, Look};
use super::restore::{self, RestoreError};
use super::run::{Attached, Flow, Session};
use super::sharing::Plan;
use crate::metrics::{Counter, Latency};
use crate::pool::{Applied, Backend, Change, Claim, PoolKey, Seat, Statements, Verdict};
use crate::route::{Target, Wants};
use crate::topology::{Epoch, NodeId, Topology};
use crate::wire::encode;
use crate::wire::error::{PgError, SqlState};
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend::Kind;

/// Where a session's backends come from, as long as the topology does not change.
#[derive(Debug)]
pub(super) struct Home {
    seat: Seat,
    on_primary: bool,
    epoch: Epoch,
    start_time: Option<i64>,
}

/// A client that does not take what it is told.
pub(super) struct Slow {
    /// Bytes that waited for it when the time began.
    left: usize,
    timer: Pin<Box<Sleep>>,
}

impl Home {
    /// A backend from there, for a session that asked for this kind of node.
    fn attached(&self, backend: Backend, wants: Wants) -> Attached {
        Attached {
            node: self.node(),
            epoch: self.epoch,
            on_primary: self.on_primary,
            was_standby: backend.params.get("in_hot_standby") == Some("on"),
            side: wants,
            copied: None,
            start_time: self.start_time,
            broken: false,
            flushed: true,
            backend,
        }
    }

    /// Its node.
    pub(super) fn node(&self) -> NodeId {
        self.seat.node()
    }

    /// Its pool.
    pub(super) fn key(&self) -> &Arc<PoolKey> {
        self.seat.key()
    }
}

impl Session {
    /// True when backends are leased for a transaction.
    pub(super) fn is_sharing(&self) -> bool {
        self.state.sharing.is_some()
    }

    /// Takes an idle backend of the last pool without leaving the relay. False when the long way must be gone.
    pub(super) fn attach_at_once(&mut self) -> bool {
        let good = self.lost.is_none() && self.ctx.store.version() == self.seen_version;
        let Some(home) = self.home.as_deref().filter(|_| good && self.state.is_quiet()) else { return false };
        let Some(backend) = home.seat.try_lease() else { return false };
        let attached = home.attached(backend, self.wants);
        let change = self.change_for(&attached.backend);
        if change.as_ref().is_some_and(|change| change.unsure) {
            self.ctx.registry.release(attached.backend, Verdict::Clean);
            return false;
        }
        self.ctx.metrics.record(Latency::Checkout, Duration::ZERO);
        self.share(attached, change);
        true
    }

    /// What is to be set on this backend, counted from what its server says of itself: that may have changed since the
    /// session's last.
    fn change_for(&mut self, backend: &Backend) -> Option<Change> {
        let changed = self.state.params.rebase(&backend.params);
        if self.logging_in {
            self.state.params.report_given_name(&backend.params);
        }
        for (name, value) in changed.iter().filter(|_| !self.logging_in) {
            encode::parameter_status(&mut self.replies, name, value);
        }
        backend.applied.change_to(self.state.params.wanted())
    }

    /// Takes a backend for one transaction. What is to be set on it travels with the client's next message.
    pub(super) fn share(&mut self, mut attached: Attached, change: Option<Change>) {
        self.learn_risks();
        let limit = self.ctx.settings.load().pool.max_prepared;
        let statements = attached.backend.statements.take();
        if let Some(sharing) = self.state.sharing.as_mut() {
            sharing.take(statements.unwrap_or_else(|| Box::new(Statements::new(limit))));
        }
        attached.backend.applied = self.state.params.wanted().clone();
        self.state.hot_standby = Some(!attached.on_primary);
        self.attach(attached);
        if let Some(change) = change {
            self.state.send_own(change.count);
            // Nothing of the client's waits to be written while there is no backend.
            let inserted = self.up.insert(&change.messages);
            debug_assert!(inserted, "settings must come first");
        }
    }

    /// The pool for this session at that node.
    pub(super) fn pool_at(&self, node: NodeId) -> Arc<PoolKey> {
        match self.home.as_deref().map(Home::key).filter(|key| key.node == node) {
            Some(key) => Arc::clone(key),
            None => Arc::new(PoolKey {
                node,
                database: self.login.database.clone(),
                user: self.login.user.clone(),
                set: self.login.set.clone(),
            }),
        }
    }

    /// Takes a backend that was waited for.
    pub(super) async fn take_shared(
        &mut self,
        mut backend: Backend,
        target: Target,
        topology: &Topology,
    ) -> Result<Attempt, NoBackend> {
        let store = Arc::clone(&self.ctx.store);
        let (node, wants) = (target.node(), self.wants);
        let mut changes = store.subscribe();
        let lost = async { while !is_lost(&store.load(), node, wants) && changes.changed().await.is_ok() {} };
        let prepared = tokio::select! {
            biased;
            prepared = self.prepare_shared(&mut backend) => prepared,
            // A silent server would be waited for too long.
            () = lost => Err(RestoreError::Lost),
        };
        let change = match prepared {
            Ok(change) => change,
            Err(error) => {
                if matches!(error, RestoreError::Stranger) {
                    self.ctx.registry.dismiss_idle(&backend.key);
                }
                self.ctx.registry.release(backend, Verdict::Close);
                return match error {
                    RestoreError::Refused(error) => Err(NoBackend::Refused(error)),
                    RestoreError::Stranger => Ok(Attempt::Again),
                    RestoreError::Lost => Ok(Attempt::Retry),
                };
            }
        };
        let attached = self.settle(&backend, target, topology).attached(backend, wants);
        self.share(attached, change);
        Ok(Attempt::Attached)
    }

    /// The next backends come from where this one did.
    fn settle(&mut self, backend: &Backend, target: Target, topology: &Topology) -> &Home {
        let claim = claim(self.wants, target);
        let seat = match self.home.take() {
            Some(home) if home.seat.is_for(backend, claim) => home.seat,
            _ => Seat::new(&self.ctx.registry, backend, claim),
        };
        self.home.insert(Box::new(Home {
            seat,
            on_primary: topology.primary == Some(target.node()),
            epoch: topology.epoch,
            start_time: topology.node(target.node()).and_then(|node| node.start_time),
        }))
    }

    /// A message for a server that knows the session's statements by other names.
    pub(super) fn translate(&mut self, kind: Kind, len: usize, whole: bool) -> Option<Look> {
        let message = self.up.peek(len);
        if self.state.must_wait(kind, message.get(HEADER_LEN..).unwrap_or_default()) {
            return Some(Look::Wait);
        }
        if !self.is_replaying() && self.may_not_pin(kind, message) {
            let error = PgError::error(
                SqlState::TOO_MANY_CONNECTIONS,
                "too many sessions keep a server connection for themselves",
            );
            let hint =
                "The statement leaves something that only its server connection has; see pool.max_pinned.";
            self.limbo = Some(Box::new(Limbo::refusal(error.with_hint(hint))));
            return None;
        }
        if !self.up.insert(&[]) {
            return Some(Look::WriteFirst);
        }
        let body = self.up.peek(len).get(HEADER_LEN..).unwrap_or_default();
        if self.state.must_verify(kind, body) {
            let put = self.up.insert(self.state.translated());
            debug_assert!(put, "an insertion was possible just now");
            return Some(Look::Wait);
        }
        self.keep_for_replay(kind, len, whole);
        let plan = self.state.translate(kind, self.up.peek(len), whole);
        let bytes = self.state.translated();
        let put = match plan {
            Plan::Pass | Plan::Instead => self.up.insert(bytes),
            Plan::Head(head) => self.up.pass_with(head, bytes),
        };
        debug_assert!(put, "an insertion was possible just now");
        match plan {
            Plan::Pass => self.up.pass(),
            Plan::Head(_) => {}
            Plan::Instead => self.up.drop_message(),
        }
        while let Some(tag) = self.state.pipeline.take_fake() {
            self.reply_fake(tag);
        }
        None
    }

    /// True for an error that the client is spared by running its batch again.
    pub(super) fn may_repeat(&mut self, len: usize) -> bool {
        let body = self.down.peek(len).get(HEADER_LEN..).unwrap_or_default();
        self.state.may_repeat(body) && !self.up.must_write() && self.up.insert(&[])
    }

    /// The server has failed a batch that can be run again without the client's noticing.
    pub(super) fn repeat(&mut self, len: usize) -> Option<Look> {
        if self.down.must_write() {
            return Some(Look::WriteFirst);
        }
        let body = self.down.peek(len).get(HEADER_LEN..).unwrap_or_default();
        let again = self.state.repeat(body);
        let put = self.up.insert(&again);
        debug_assert!(put, "an insertion was possible just now");
        self.down.drop_message();
        None
    }

    /// Gives the client the answers whose turn it is and that no server sends.
    pub(super) fn tell_fakes(&mut self) -> Option<Look> {
        while self.state.pipeline.is_fake_turn() {
            if !self.down.insert(&[]) {
                return Some(Look::WriteFirst);
            }
            if let Some(tag) = self.state.pipeline.take_fake()
                && let Some(look) = self.deliver_instead(&[tag, 0, 0, 0, 4])
            {
                return Some(look);
            }
        }
        None
    }

    /// Notes whether the session keeps its backend between transactions.
    pub(super) fn note_pinned(&mut self, pinned: bool) {
        if self.pinned == pinned {
            return;
        }
        let Some(attached) = self.attached.as_ref() else { return };
        self.pinned = pinned;
        let (registry, backend) = (&self.ctx.registry, &attached.backend);
        if pinned { registry.pin(backend) } else { registry.unpin(backend) }
    }

    /// True when the client's next message would make the session keep its backend, and too many do already.
    pub(super) fn may_not_pin(&self, kind: Kind, message: &[u8]) -> bool {
        let first = self.state.is_quiet() && !self.pinned;
        // The text is read only where the limit is near: otherwise every statement would be read twice.
        first
            && self
                .attached
                .as_ref()
                .is_some_and(|attached| !self.ctx.registry.may_pin(&attached.backend.key))
            && self.state.would_pin(kind, message.get(HEADER_LEN..).unwrap_or_default())
    }

    /// The client takes nothing of an answer that keeps its backend from others. It may, for `limits.client_write_timeout`.
    pub(super) fn poll_slow(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Event>> {
        if !self.is_sharing() || self.attached.is_none() {
            return Poll::Pending;
        }
        let left = self.down.waiting();
        if self.slow.as_ref().is_none_or(|slow| slow.left != left) {
            let limit = self.ctx.settings.load().limits.client_write_timeout;
            self.slow = Some(Box::new(Slow { left, timer: Box::pin(tokio::time::sleep(limit)) }));
        }
        match self.slow.as_mut().map(|slow| slow.timer.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(Event::ClientSlow)),
            _ => Poll::Pending,
        }
    }

    /// True when the lease may end: the server is idle, everything is answered and nothing binds the session to it.
    fn lease_is_over(&self) -> bool {
        self.is_sharing()
            && self.state.is_quiet()
            && self.state.sharing_pins().is_empty()
            && !self.down.has_unseen()
            && !self.down.is_inside_message()
            && !self.up.is_inside_message()
            && !self.up.is_unread()
            && !self.up.must_write()
            && self.attached.as_ref().is_some_and(|attached| !attached.broken && attached.flushed)
            && !self.dismissed
            && !self.client_ended
    }

    /// Gives the backend to whoever needs one, if the session does not.
    pub(super) fn end_lease(&mut self) {
        if !self.lease_is_over() {
            return;
        }
        let mut wanted = self.state.params.wanted().clone();
        if self.state.take_name_reset() {
            // A RESET took the name away: this backend does not have it, the next one will.
            let settings = wanted.settings().iter().filter(|setting| !setting.is("application_name"));
            wanted = Applied::new(settings.cloned().collect());
            self.tell_given_name();
        }
        let statements = self.state.sharing.as_mut().and_then(|sharing| sharing.give());
        self.note_pinned(false);
        self.entry.detached();
        if let Some(mut attached) = self.attached.take() {
            attached.backend.applied = wanted;
            attached.backend.statements = statements;
            self.ctx.registry.release(attached.backend, Verdict::Clean);
        }
    }

    /// The server refused a setting that it had taken before. What the client sent behind it may have run without it.
    pub(super) fn setting_refused(&mut self) -> Flow {
        let user = &self.login.user;
        warn!(
            session = self.entry.id,
            user, "a server refused a setting of the session, the connection to it is closed"
        );
        self.ctx.metrics.count(Counter::BackendDirty);
        self.settle_loss()
    }

    /// Makes a backend fit for the session as far as the server's word must be awaited: its role is asked for once in a
    /// session; settings that may be refused; PREPARE where the backend that had it is lost. Returns what can travel with
    /// the client's next message.
    pub(super) async fn prepare_shared(
        &mut self,
        backend: &mut Backend,
    ) -> Result<Option<Change>, RestoreError> {
        let deadline = Instant::now() + self.ctx.settings.load().pool.reset_timeout;
        let settings = backend.applied.settings();
        let own_role = settings.iter().all(|setting| !setting.is("session_authorization"));
        if self.home.is_none() && backend.reused && own_role {
            let name = restore::ask(backend, "SELECT session_user", deadline, &mut self.replies).await?;
            if name.as_deref() != backend.login_name().map(str::as_bytes) {
                return Err(RestoreError::Stranger);
            }
        }
        let mut change = self.change_for(backend);
        let prepares = self.state.params.prepares();
        if prepares.is_some() || change.as_ref().is_some_and(|change| change.unsure) {
            for change in change.take().into_iter().chain(prepares) {
                restore::apply(backend, &change, deadline).await?;
            }
        }
        Ok(change)
    }
}

/// Reads at the primary leave writes their places.
pub(super) fn claim(wants: Wants, target: Target) -> Claim {
    match (wants, target) {
        (Wants::Standby, Target::Primary(_)) => Claim::Spare,
        _ => Claim::Full,
    }
}
