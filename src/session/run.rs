//! The life of a session after login: the relay's events and what is done about each.
//!
//! In: a logged-in client. Out: nothing; when it returns, the backend has been given back and the session is gone from
//! the directory. How a backend is found is in `attach`, what a loss means in `state`.

use std::future::poll_fn;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::buffer::{BUFFER_BYTES, Half};
use super::context::Context;
use super::directory::{Entry, Leased, Signal, Signals};
use super::limbo::Limbo;
use super::relay::Event;
use super::replay::Record;
use super::share::{Home, Slow};
use super::sharing::Sharing;
use super::split::Splitter;
use super::split::aside::Copied;
use super::state::{Loss, State};
use crate::config::PoolMode;
use crate::metrics::{Counter, Gauge};
use crate::net::Stream;
use crate::pool::{Backend, Credentials, StartupSet, Verdict};
use crate::route::Wants;
use crate::sql::{PinCause, Pins};
use crate::topology::{Epoch, Health, NodeId, Role, Store, Topology};
use crate::wire::encode;
use crate::wire::error::{PgError, SqlState};

/// Server messages up to this length are only delivered whole, so that a lost server leaves no half message behind;
/// longer ones pass through as they come.
const WHOLE_FROM_SERVER: usize = 16 * 1024;
/// The last word of ours is worth a short wait, not more: the other side may have stopped reading.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a session is from its login on.
pub struct Login {
    /// The database on the servers.
    pub database: String,
    /// The user.
    pub user: String,
    /// The client's startup parameters: part of its pools' key.
    pub set: StartupSet,
    /// How its backends log in.
    pub credentials: Arc<Credentials>,
    /// The kind of node it asked for.
    pub wants: Wants,
    /// The limit of lag at its listener if that has one of its own, milliseconds.
    pub max_lag: Option<NonZeroU32>,
}

/// A leased backend.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not the steps of one machine")]
pub(super) struct Attached {
    pub(super) backend: Backend,
    pub(super) node: NodeId,
    /// The epoch in which the session took it.
    pub(super) epoch: Epoch,
    /// Its node was the primary when the session took it: it ends with the epoch.
    pub(super) on_primary: bool,
    /// It reported recovery when the session took it.
    pub(super) was_standby: bool,
    /// The kind of node that the session asked for.
    pub(super) side: Wants,
    /// What it has of the session's statements, while the session uses another.
    pub(super) copied: Option<Box<Copied>>,
    /// The node's postmaster start time at that moment.
    pub(super) start_time: Option<i64>,
    /// Writing to it failed; what it said last is still read.
    pub(super) broken: bool,
    /// Nothing waits inside its TLS layer.
    pub(super) flushed: bool,
}

impl Attached {
    /// True while its node is a standby that answers.
    pub(super) fn is_standby_at(&self, topology: &Topology) -> bool {
        let node = topology.node(self.node);
        !self.on_primary && node.is_some_and(|node| node.role == Role::Standby && node.health != Health::Down)
    }

    /// True when bytes read from it now must not reach the client.
    pub(super) fn is_over(&self, store: &Store) -> bool {
        self.on_primary && store.epoch() != self.epoch
    }
}

/// One client after login.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not the steps of one machine")]
pub struct Session {
    pub(super) ctx: Rc<Context>,
    pub(super) client: Stream,
    pub(super) entry: Arc<Entry>,
    pub(super) login: Login,
    /// The kind of node that its work goes to at this moment.
    pub(super) wants: Wants,
    /// What it has for the use of both kinds of nodes, if it may.
    pub(super) split: Option<Box<Splitter>>,
    pub(super) attached: Option<Attached>,
    /// Counts the backends taken: a new one must be listened to.
    pub(super) leases: u32,
    pub(super) up: Half,
    pub(super) down: Half,
    pub(super) state: State,
    pub(super) limbo: Option<Box<Limbo>>,
    /// What we say ourselves and how much of it has been written.
    pub(super) replies: Vec<u8>,
    pub(super) replied: usize,
    pub(super) client_flushed: bool,
    /// No more is read from the client.
    pub(super) client_ended: bool,
    /// Its end was read while it waited for its first backend.
    pub(super) ended_early: bool,
    /// Nobody reads what we write.
    pub(super) client_unread: bool,
    pub(super) draining: bool,
    /// The client has not been greeted yet.
    pub(super) logging_in: bool,
    /// The server has told the client that it ends this session.
    pub(super) dismissed: bool,
    /// Its client takes nothing.
    pub(super) slow: Option<Box<Slow>>,
    /// It keeps its backend between transactions, and is counted for that.
    pub(super) pinned: bool,
    /// Where the last backend came from, for the next transaction.
    pub(super) home: Option<Box<Home>>,
    /// The topology under which the backend was found good.
    pub(super) seen_version: u64,
    /// When the request under way began.
    pub(super) began: Option<Instant>,
    /// State that went with a lost backend, told at the next request.
    pub(super) lost: Option<Box<PgError>>,
    /// A standby with a read of this session under way is silent: until when the read waits.
    pub(super) patience: Option<Box<Instant>>,
}

/// How a session ends.
pub(super) enum End {
    /// The client is done or gone.
    Left,
    /// The client gets this and the connection closes.
    Told(PgError),
    /// The client gets these bytes of the server and the connection closes.
    ToldByServer(Vec<u8>),
    /// The connection closes without a word: the client is in the middle of a message.
    Cut,
}

/// Whether the session goes on.
pub(super) type Flow = Result<(), End>;

impl Session {
    /// A session that has logged in and has no backend yet.
    pub fn new(ctx: Rc<Context>, client: Stream, entry: Arc<Entry>, login: Login) -> Self {
        let settings = ctx.settings.load();
        let mut state = State::new(settings.limits.max_prepared_bytes);
        if settings.pool.mode == PoolMode::Transaction {
            state.sharing = Some(Box::new(Sharing::new(entry.id, settings.pool.pin_sequences)));
        }
        state.tracker = settings.retry.resolve_commit.then(Box::default);
        state.record =
            settings.retry.transactions.then(|| Box::new(Record::new(settings.retry.transaction_size)));
        let split = Splitter::new(&settings, &login);
        if state.sharing.is_none() && split.as_ref().is_some_and(|split| split.is_auto()) {
            state.unseen = Some(Box::default());
        }
        drop(settings);
        Self {
            up: Half::new(Rc::clone(&ctx.buffers), BUFFER_BYTES),
            down: Half::new(Rc::clone(&ctx.buffers), WHOLE_FROM_SERVER),
            state,
            ctx,
            client,
            entry,
            wants: login.wants,
            split,
            login,
            attached: None,
            leases: 0,
            limbo: None,
            replies: Vec::new(),
            replied: 0,
            client_flushed: true,
            client_ended: false,
            ended_early: false,
            client_unread: false,
            draining: false,
            logging_in: false,
            dismissed: false,
            slow: None,
            pinned: false,
            home: None,
            seen_version: 0,
            began: None,
            lost: None,
            patience: None,
        }
    }

    /// Serves the client until it leaves. Boxed, since a future holds its arguments twice.
    pub async fn run(mut self: Box<Self>) {
        self.ctx.metrics.raise(Gauge::Sessions);
        self.ctx.metrics.count(Counter::SessionStarted);
        let end = loop {
            let event = match self.patience {
                None => poll_fn(|cx| self.poll_event(cx)).await,
                Some(ref until) => {
                    let until = **until;
                    Box::pin(self.event_until(until)).await
                }
            };
            // Everything but relaying is rare: boxed, so that an idle session stays small.
            if let Err(end) = Box::pin(self.handle(event)).await {
                break end;
            }
            if self.state.has_doubt()
                && let Err(end) = Box::pin(self.resolve()).await
            {
                break end;
            }
        };
        self.ctx.metrics.lower(Gauge::Sessions);
        Box::pin(self.finish(end)).await;
    }

    /// The next event, or the end of the patience with a silent standby.
    async fn event_until(&mut self, until: Instant) -> Event {
        let event = poll_fn(|cx| self.poll_event(cx));
        tokio::time::timeout_at(until, event).await.unwrap_or(Event::StandbySilent)
    }

    async fn handle(&mut self, event: Event) -> Flow {
        match event {
            Event::Request => self.request().await,
            Event::Terminate => self.terminate().await,
            // Nobody waits for what would be run again.
            Event::ClientGone { .. } if self.is_replaying() => Err(End::Left),
            Event::ClientGone { reset } => self.client_gone(reset).await,
            Event::ClientDeaf => self.client_deaf(),
            Event::Violation(error) => {
                self.note_violation(&error);
                Err(End::Told(error))
            }
            Event::Garbage => self.garbage(),
            Event::BackendGone(last_words) => self.backend_gone(last_words).await,
            Event::EpochOver => self.epoch_over(),
            Event::ReplayDiffers => {
                self.fail_replay(Counter::ReplayDiffered);
                Ok(())
            }
            Event::StandbySilent => self.standby_silent(),
            Event::Unheard => self.listen_again().await,
            Event::ClientSlow => {
                let user = &self.login.user;
                info!(
                    session = self.entry.id,
                    user, "client takes nothing of its answer, its connection is cut"
                );
                self.client_unread = true;
                Err(End::Cut)
            }
            Event::Doubt => self.settle_doubt().await,
            Event::SettingRefused => self.setting_refused(),
            Event::Drained => Err(End::Told(shutting_down())),
            Event::Signals(signals) => self.signals(signals),
        }
    }

    /// Counted and logged once: it ends the session.
    pub(super) fn note_violation(&self, error: &PgError) {
        self.ctx.metrics.count(Counter::ViolationClient);
        let user = &self.login.user;
        info!(session = self.entry.id, user, "client broke the protocol: {}", error.message);
    }

    pub(super) fn signals(&mut self, signals: Signals) -> Flow {
        if signals.contains(Signal::Kill) {
            self.ctx.metrics.count(Counter::SessionKilled);
            return Err(End::Told(shutting_down()));
        }
        if signals.contains(Signal::Cut) {
            return Err(End::Told(shutting_down()));
        }
        self.draining |= signals.contains(Signal::Drain);
        if signals.contains(Signal::Topology) {
            // Else a change needs nothing here: the next poll compares the epoch, the next request the version.
            self.patience = match &self.patience {
                _ if !self.waits_for_silent_standby() => None,
                None if self.can_run_again() => Some(Box::new(Instant::now())),
                None => Some(Box::new(Instant::now() + super::loss::SILENT_STANDBY)),
                _ => self.patience.take(),
            };
        }
        Ok(())
    }

    fn garbage(&mut self) -> Flow {
        self.ctx.metrics.count(Counter::ViolationServer);
        let node = self.node_name();
        warn!(session = self.entry.id, node, "server sent an invalid message, closing both connections");
        self.drop_backend(Verdict::Close);
        if self.down.is_inside_message() {
            return Err(End::Cut);
        }
        Err(End::Told(PgError::fatal(SqlState::PROTOCOL_VIOLATION, "the server sent an invalid message")))
    }

    /// Takes a backend that is ready for the session's next message.
    pub(super) fn attach(&mut self, attached: Attached) {
        self.entry.attached(Leased {
            node: attached.node,
            pid: attached.backend.pid,
            key: Arc::clone(&attached.backend.cancel_key),
            cancels: Arc::clone(&attached.backend.cancels),
        });
        self.attached = Some(attached);
        self.leases = self.leases.wrapping_add(1);
    }

    /// Gives the backend back; the session goes on without one.
    pub(super) fn release(&mut self, verdict: Verdict) {
        self.entry.detached();
        if let Some(sharing) = self.state.sharing.as_mut() {
            drop(sharing.give());
        }
        self.note_pinned(false);
        if let Some(attached) = self.attached.take() {
            self.ctx.registry.release(attached.backend, verdict);
        }
    }

    pub(super) fn drop_backend(&mut self, verdict: Verdict) {
        self.release(verdict);
        self.lose();
        self.tell();
    }

    /// The backend is lost at this instant. Parameters that its transaction has changed are what they were.
    pub(super) fn lose(&mut self) -> Loss {
        let loss = self.state.lose();
        let before = self.state.params.unreport();
        self.tell_parameters(&before);
        loss
    }

    /// The client is told what these parameters are.
    pub(super) fn tell_parameters(&mut self, values: &[(String, String)]) {
        for (name, value) in values {
            encode::parameter_status(&mut self.replies, name, value.as_bytes());
        }
    }

    /// Tells the directory and the metrics what SHOW CLIENTS shows of the session.
    pub(super) fn tell(&self) {
        let prepared = &self.state.prepared;
        let (pins, bytes) = (self.state.visible_pins(), prepared.bytes());
        let before = self.entry.note(self.state.statements, pins, (prepared.len(), bytes));
        self.count_changes(before, (pins, bytes));
    }

    /// Counts what has changed of pins and bytes of prepared statements.
    fn count_changes(&self, before: (Pins, usize), now: (Pins, usize)) {
        if before == now {
            return;
        }
        let metrics = &self.ctx.metrics;
        now.0.without(before.0).iter().for_each(|cause| metrics.pin(cause.as_str(), true));
        before.0.without(now.0).iter().for_each(|cause| metrics.pin(cause.as_str(), false));
        metrics.adjust(Gauge::PreparedBytes, now.1 as i64 - before.1 as i64);
    }

    pub(super) fn node_name(&self) -> String {
        let topology = self.ctx.store.load();
        let node = self.attached.as_ref().and_then(|attached| topology.node(attached.node));
        node.map(|node| node.name().to_owned()).unwrap_or_default()
    }

    /// Gives everything back and tells the client why.
    pub(super) async fn finish(mut self: Box<Self>, end: End) {
        // A backend that has got half a message can serve nobody else.
        let clean = !self.up.is_inside_message() && !self.up.must_write() && !self.up.is_unread();
        let quiet = self.state.is_quiet() && clean;
        let idle = self.state.pipeline.is_idle();
        let inside = self.down.is_inside_message();
        let hurried = matches!(end, End::Told(_));
        self.down.end_after_seen();
        let pins = self.state.params.pins();
        let indelible = [PinCause::Library, PinCause::Seed].iter().any(|cause| pins.contains(*cause));
        self.release(match (quiet, idle) {
            // DISCARD ALL unloads no library and forgets no seed.
            (true, _) if indelible => Verdict::Close,
            (true, _) => Verdict::Reset,
            (false, true) => Verdict::Close,
            // A statement may run: nobody waits for it any more.
            (false, false) => Verdict::CancelAndClose,
        });
        match end {
            // Nothing can be said in the middle of a long message.
            _ if inside => self.replies.clear(),
            End::Told(error) => {
                self.ctx.metrics.count_error(error.code.as_str());
                error.encode(&mut self.replies);
            }
            End::ToldByServer(bytes) => self.replies.extend_from_slice(&bytes),
            End::Left | End::Cut => {}
        }
        self.release_aside(if quiet { Verdict::Reset } else { Verdict::Close });
        let tail = poll_fn(|cx| self.poll_tail(cx));
        if hurried {
            let _ = tokio::time::timeout(LAST_WORDS, tail).await;
        } else {
            tail.await;
        }
        self.up.clear();
        self.down.clear();
        let before = self.entry.note(self.state.statements, Pins::default(), (0, 0));
        self.count_changes(before, (Pins::default(), 0));
        self.ctx.directory.leave(self.entry.id);
        // TLS has an end of its own to tell; a plain socket tells it by being closed. The client may be gone already.
        if self.client.is_tls() {
            let ended = tokio::io::AsyncWriteExt::shutdown(&mut self.client);
            let _ = tokio::time::timeout(LAST_WORDS, ended).await;
        }
    }
}

/// What a server says when it is stopped.
pub fn shutting_down() -> PgError {
    PgError::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The future that an `async fn` of one argument returns, in bytes.
    fn future_bytes<A, F: Future>(_: fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_session_stays_small() {
        assert!(size_of::<Session>() <= 1192, "{}", size_of::<Session>());
        assert!(future_bytes(Session::run) <= 256, "{}", future_bytes(Session::run));
    }
}
