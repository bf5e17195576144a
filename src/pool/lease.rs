//! How a session gets a backend: an idle one, a new one, or its turn.
//!
//! Every await here may be the last: what was counted or handed over meanwhile goes back by the guards below, which do
//! no I/O of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::applied::Applied;
use super::backend::{Backend, Info};
use super::book::{Checkout, Claim, Grant, Phase, PoolId};
use super::cancel::CancelGate;
use super::credentials::Credentials;
use super::error::LeaseError;
use super::key::PoolKey;
use super::login::{Attempt, LoggedIn};
use super::params::Params;
use super::registry::{Registry, locked};
use super::rows::BackendState;
use crate::metrics::{Counter, Gauge, Latency};
use crate::net::DialError;
use crate::topology::{NodeId, Nudge, Topology};
use crate::wire::error::SqlState;

/// A place counted for a backend that is being opened.
pub(super) struct Place {
    registry: Arc<Registry>,
    pool: Option<PoolId>,
}

impl Place {
    pub(super) fn new(registry: &Arc<Registry>, pool: PoolId) -> Self {
        Self { registry: Arc::clone(registry), pool: Some(pool) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            self.registry.uncount(pool, Phase::Opening);
        }
    }
}

/// A place in the queue.
struct Turn {
    registry: Arc<Registry>,
    pool: PoolId,
    id: u64,
    receiver: oneshot::Receiver<Grant<Backend>>,
    done: bool,
}

impl Turn {
    async fn wait(&mut self, deadline: Instant) -> Result<Grant<Backend>, LeaseError> {
        let granted = timeout_at(deadline, &mut self.receiver).await;
        match granted {
            Ok(Ok(grant)) => {
                self.done = true;
                Ok(grant)
            }
            // The sender is dropped with the queue only, at the end of the process.
            Ok(Err(_)) => Err(LeaseError::Epoch),
            Err(_) => Err(LeaseError::Timeout),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.done || locked(&self.registry.book).abandon(self.pool, self.id) {
            return;
        }
        // Granted in this very instant: it goes to the next.
        match self.receiver.try_recv() {
            Ok(Grant::Item(backend)) => self.registry.keep(backend, Phase::Active),
            Ok(Grant::Open) => self.registry.uncount(self.pool, Phase::Opening),
            Ok(Grant::Lost) | Err(_) => {}
        }
    }
}

impl Registry {
    /// A backend for a session: an idle one of this thread, else of another, else a new one, else the session waits its
    /// turn until `deadline`. Cancel-safe: dropping the future leaves the queue, and what was handed over goes back.
    pub async fn lease(
        self: &Arc<Self>,
        key: &Arc<PoolKey>,
        claim: Claim,
        credentials: &Arc<Credentials>,
        deadline: Instant,
    ) -> Result<Backend, LeaseError> {
        let started = Instant::now();
        let result = self.acquire(key, claim, credentials, deadline).await;
        let waited = started.elapsed();
        {
            let mut book = locked(&self.book);
            // Only without a backend the pool has to be looked for.
            let pool = result.as_ref().map_or_else(|_| book.find(key), |backend| Some(backend.pool));
            if let Some(pool) = pool {
                book.note_wait(pool, waited);
            }
        }
        if let Err(error) = &result {
            self.metrics.count(match error {
                LeaseError::Epoch => Counter::CheckoutEpoch,
                LeaseError::QueueFull => Counter::CheckoutQueueFull,
                LeaseError::Timeout => Counter::CheckoutTimeout,
                LeaseError::Login(_) | LeaseError::Node(_) | LeaseError::Server(_) => Counter::CheckoutNode,
            });
        }
        result
    }

    async fn acquire(
        self: &Arc<Self>,
        key: &Arc<PoolKey>,
        claim: Claim,
        credentials: &Arc<Credentials>,
        deadline: Instant,
    ) -> Result<Backend, LeaseError> {
        let mut credentials = Arc::clone(credentials);
        loop {
            let (pool, grant) = self.turn(key, claim, deadline).await?;
            match grant {
                Grant::Lost => return Err(LeaseError::Epoch),
                Grant::Item(backend) => {
                    if let Some(backend) = self.take(backend) {
                        self.metrics.count(Counter::BackendReused);
                        return Ok(backend);
                    }
                }
                Grant::Open => {
                    let place = Place::new(self, pool);
                    match self.open(place, key, &credentials, deadline).await {
                        Ok(mut backend) => {
                            backend.set_state(BackendState::Active);
                            self.hold(&mut backend);
                            return Ok(backend);
                        }
                        Err(error) => credentials = self.other_credentials(&key.user, &credentials, error)?,
                    }
                }
            }
        }
    }

    /// A password is changed under sessions that have long proven who they are, and a standby learns of it a little
    /// later: what has opened a backend for the same user last is tried too.
    fn other_credentials(
        &self,
        user: &str,
        refused: &Arc<Credentials>,
        error: LeaseError,
    ) -> Result<Arc<Credentials>, LeaseError> {
        let stale = matches!(&error, LeaseError::Server(error) if error.code == SqlState::INVALID_PASSWORD);
        let other = stale.then(|| locked(&self.recipes).supersede(user, refused)).flatten();
        other.ok_or(error)
    }

    /// The book's answer, waited for if need be.
    async fn turn(
        self: &Arc<Self>,
        key: &Arc<PoolKey>,
        claim: Claim,
        deadline: Instant,
    ) -> Result<(PoolId, Grant<Backend>), LeaseError> {
        let home = std::thread::current().id();
        let (checkout, evicted) = locked(&self.book).checkout(key, claim, home, Instant::now());
        // The turn is guarded before anything else can go wrong.
        let (pool, id, receiver) = match checkout {
            Checkout::Full => return Err(LeaseError::QueueFull),
            Checkout::Now(pool, grant) => return Ok((pool, grant)),
            Checkout::Wait(pool, id, receiver) => (pool, id, receiver),
        };
        let mut turn = Turn { registry: Arc::clone(self), pool, id, receiver, done: false };
        self.close_evicted(evicted);
        self.metrics.control().raise(Gauge::SessionsWaiting);
        let _waiting = Waiting(self);
        turn.wait(deadline).await.map(|grant| (pool, grant))
    }

    /// Checks an idle backend and makes it this thread's; `None` when it was not fit any more.
    pub(super) fn take(self: &Arc<Self>, mut backend: Backend) -> Option<Backend> {
        backend.phase = Phase::Active;
        if let Some(reason) = self.unfit(&mut backend) {
            self.close(backend, reason);
            return None;
        }
        let here = std::thread::current().id();
        if backend.home != here {
            if let Err(error) = backend.stream.rehome() {
                tracing::debug!(backend = backend.id, %error, "a backend could not be moved to another thread");
                self.close(backend, Counter::BackendBroken);
                return None;
            }
            backend.home = here;
        }
        CancelGate::renew(&mut backend.cancels);
        backend.reused = true;
        backend.set_state(BackendState::Active);
        self.hold(&mut backend);
        Some(backend)
    }

    /// Opens a backend in a place already counted. It is active, but counted as held by nobody yet.
    pub(super) async fn open(
        self: &Arc<Self>,
        place: Place,
        key: &Arc<PoolKey>,
        credentials: &Arc<Credentials>,
        deadline: Instant,
    ) -> Result<Backend, LeaseError> {
        let started = Instant::now();
        let before = self.store.load();
        let result = self.log_in(&before, key, credentials, deadline).await;
        let logged_in = result.inspect_err(|error| self.on_failed_login(key.node, error))?;
        self.metrics.count(Counter::BackendOpened);
        self.metrics.control().record(Latency::Connect, started.elapsed());
        let mut place = place;
        let Some(pool) = place.pool.take() else { return Err(LeaseError::Epoch) };
        let (evicted, key) = {
            let mut book = locked(&self.book);
            // The pool's own copy of the key: there is one for all its backends.
            (book.change(pool, Phase::Opening, Phase::Active, Instant::now()), book.key(pool, key))
        };
        let max_sets = self.settings.load().pool.max_startup_sets;
        let mut backend = self.enlist(pool, &key, &before, logged_in);
        self.close_evicted(evicted);
        if self.contradicts(&before, &backend) {
            self.close(backend, Counter::BackendEpoch);
            return Err(LeaseError::Epoch);
        }
        if let Some(reason) = self.unfit(&mut backend) {
            self.close(backend, reason);
            return Err(LeaseError::Epoch);
        }
        let news = {
            let mut recipes = locked(&self.recipes);
            let before = recipes.iter().count();
            backend.params = recipes.learn(&key, credentials, &backend.params, max_sets, Instant::now());
            recipes.iter().count() != before
        };
        if news {
            self.work.notify_one();
        }
        Ok(backend)
    }

    async fn log_in(
        &self,
        topology: &Topology,
        key: &PoolKey,
        credentials: &Credentials,
        deadline: Instant,
    ) -> Result<LoggedIn, LeaseError> {
        let Some(node) = topology.node(key.node) else { return Err(LeaseError::Epoch) };
        let limit = Instant::now() + self.settings.load().cluster.connect_timeout;
        let attempt = Attempt {
            address: &node.spec.address,
            key,
            credentials,
            version: node.server_version_num,
            deadline: deadline.min(limit),
        };
        self.doorman.open(&attempt, &self.tls).await
    }

    fn on_failed_login(&self, node: NodeId, error: &LeaseError) {
        if let Some(evidence) = error.evidence() {
            self.nudges.nudge(node, evidence);
        }
        self.metrics.count(match error {
            LeaseError::Node(DialError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                self.metrics.count(Counter::ViolationServer);
                Counter::BackendFailedLogin
            }
            LeaseError::Node(_) => Counter::BackendFailedDial,
            _ => Counter::BackendFailedLogin,
        });
        tracing::debug!(node = node.0, %error, "a backend could not be opened");
    }

    fn enlist(&self, pool: PoolId, key: &Arc<PoolKey>, topology: &Topology, logged_in: LoggedIn) -> Backend {
        let LoggedIn { stream, params, pid, cancel_key } = logged_in;
        // A server that is out of recovery counts as a primary, whether or not the topology knows it yet: when it learns
        // it, this backend goes with the epoch, which is the safe side.
        let out_of_recovery = params.get("in_hot_standby") == Some("off");
        let opened_on_primary = topology.primary == Some(key.node) || out_of_recovery;
        let opened = Instant::now();
        let info = Arc::new(Info {
            key: Arc::clone(key),
            pid,
            epoch: topology.epoch,
            opened_on_primary,
            tls: stream.is_tls(),
            opened,
            state: AtomicU8::new(BackendState::Idle as u8),
            since: AtomicU64::new(0),
            pinned: AtomicBool::new(false),
            prepared: AtomicU32::new(0),
        });
        let id = self.enroll(&info);
        Backend {
            id,
            stream,
            key: Arc::clone(key),
            epoch: topology.epoch,
            opened_on_primary,
            pid,
            cancel_key: cancel_key.into(),
            params,
            reused: false,
            cancels: Arc::new(CancelGate::default()),
            applied: Applied::default(),
            statements: None,
            drift: Params::default(),
            info,
            pool,
            phase: Phase::Active,
            held: false,
            registry: self.this.clone(),
            expires: opened + jittered(self.settings.load().pool.lifetime, id),
            home: std::thread::current().id(),
        }
    }

    /// The topology says primary, the server says recovery (or the other way round): the prober is told, and nothing is
    /// written to what is no primary.
    fn contradicts(&self, topology: &Topology, backend: &Backend) -> bool {
        let primary = topology.primary == Some(backend.key.node);
        match (primary, backend.params.get("in_hot_standby")) {
            (true, Some("on")) => {
                self.nudges.nudge(backend.key.node, Nudge::ReadOnly25006);
                true
            }
            (false, Some("off")) => {
                self.nudges.nudge(backend.key.node, Nudge::HotStandbyOff);
                false
            }
            _ => false,
        }
    }
}

/// Lowers the gauge when the waiting ends, however it does.
struct Waiting<'a>(&'a Registry);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.metrics.control().lower(Gauge::SessionsWaiting);
    }
}

/// Age limit of a backend that serves one session only: it may wait for that session for long.
const SINGLE_USE: Duration = Duration::from_hours(24);

/// Up to a fifth less, so that backends opened together do not all end together.
fn jittered(lifetime: Duration, id: u64) -> Duration {
    let lifetime = if lifetime.is_zero() { SINGLE_USE } else { lifetime };
    // Fibonacci hashing spreads consecutive numbers evenly.
    let spread = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48;
    lifetime.saturating_sub((lifetime / 5).mul_f64(spread as f64 / 65536.0))
}
