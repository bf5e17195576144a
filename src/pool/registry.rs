//! All pools of the proxy: the one object that sessions, the console and shutdown talk to.
//!
//! In: leases, releases, topology changes. Out: backends, figures. The decisions are the book's; this file carries them
//! out: it closes what is to be closed, resets what comes back, and keeps the figures.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::backend::{Backend, Info, Verdict};
use super::book::{Book, Limits, Phase, PoolId};
use super::credentials::Credentials;
use super::key::{PoolKey, StartupSet};
use super::login::Doorman;
use super::params::Params;
use super::recipes::{Recipes, Who};
use super::reset::{Dirty, Wash, reset};
use super::rows::{BackendRow, BackendState, PoolRow};
use crate::config::Settings;
use crate::drain::Tasks;
use crate::metrics::{Average, BackendFigures, Counter, Metrics, Reading};
use crate::net::tls::ServerTlsContext;
use crate::net::{DialError, dial};
use crate::topology::{NodeId, Nudge, Nudges, Store};
use crate::wire::encode;

/// How long a server is given to close its side, so that it is not asked for a new backend before the old one is gone.
const CLOSING: Duration = Duration::from_secs(1);

/// The pools. Shared by all threads; locked at checkout and checkin, for microseconds.
pub struct Registry {
    pub(super) book: Mutex<Book<Backend>>,
    pub(super) recipes: Mutex<Recipes>,
    pub(super) settings: Arc<ArcSwap<Settings>>,
    pub(super) store: Arc<Store>,
    pub(super) nudges: Arc<Nudges>,
    pub(super) tls: Arc<ServerTlsContext>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: Tasks,
    pub(super) doorman: Doorman,
    /// Wakes the janitor.
    pub(super) work: Notify,
    backends: Mutex<HashMap<u64, Arc<Info>>>,
    in_flight: Box<[AtomicUsize]>,
    /// How long statements take, per node.
    latencies: Box<[Average]>,
    /// What the ages of those are counted from.
    origin: Instant,
    /// Backends that sessions of transaction mode keep, by what `pool.size` counts.
    pinned: Mutex<HashMap<(NodeId, String, String), usize>>,
    /// The largest of those, so that sessions far from the limit need not look.
    most_pinned: AtomicUsize,
    last_id: AtomicU64,
    pub(super) this: Weak<Registry>,
}

pub(super) fn limits(settings: &Settings) -> Limits {
    let pool = &settings.pool;
    Limits {
        size: pool.size.max(1),
        per_node: pool.max_backends_per_node.max(1),
        connecting: pool.max_connecting_per_node.max(1),
        waiters: pool.max_waiters,
        reserve: pool.reserve,
    }
}

/// What `pool.size` and `pool.max_pinned` count.
fn account(key: &PoolKey) -> (NodeId, String, String) {
    (key.node, key.database.clone(), key.user.clone())
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Empty pools and their janitor, which runs on the current runtime until `tasks` stop.
    pub fn new(
        settings: Arc<ArcSwap<Settings>>,
        store: Arc<Store>,
        nudges: Arc<Nudges>,
        tls: Arc<ServerTlsContext>,
        metrics: Arc<Metrics>,
        tasks: Tasks,
    ) -> Arc<Self> {
        let now = settings.load();
        let nodes = now.cluster.nodes.len();
        let book = Mutex::new(Book::new(limits(&now)));
        drop(now);
        let registry = Arc::new_cyclic(|this| Self {
            book,
            recipes: Mutex::default(),
            settings,
            store,
            nudges,
            tls,
            metrics,
            tasks,
            doorman: Doorman::new(),
            work: Notify::new(),
            backends: Mutex::default(),
            in_flight: (0..nodes).map(|_| AtomicUsize::new(0)).collect(),
            latencies: (0..nodes).map(|_| Average::default()).collect(),
            origin: Instant::now(),
            pinned: Mutex::default(),
            most_pinned: AtomicUsize::new(0),
            last_id: AtomicU64::new(0),
            this: Weak::clone(this),
        });
        registry.tasks.spawn(super::janitor::run(Arc::clone(&registry)));
        registry
    }

    /// Takes a backend back. Returns at once; a reset or a cancel goes on by itself on the current runtime.
    pub fn release(self: &Arc<Self>, mut backend: Backend, verdict: Verdict) {
        let cancelled = backend.cancels.close();
        self.leave(&mut backend);
        if self.tasks.is_stopping() {
            return self.close(backend, Counter::BackendShutdown);
        }
        let single_use = self.settings.load().pool.lifetime.is_zero();
        match verdict {
            Verdict::Reset | Verdict::Clean if single_use => self.close(backend, Counter::BackendLifetime),
            Verdict::Close => self.close(backend, Counter::BackendBroken),
            Verdict::CancelAndClose => {
                let this = Arc::clone(self);
                backend.set_state(BackendState::Closing);
                self.tasks.spawn(async move {
                    this.cancel(backend.key.node, backend.pid, &backend.cancel_key).await;
                    this.close(backend, Counter::BackendClientVanished);
                });
            }
            Verdict::Clean if !cancelled => self.keep(backend, Phase::Active),
            Verdict::Clean => self.wash(backend, Wash::Settle),
            Verdict::Reset => self.wash(backend, Wash::Discard),
        }
    }

    fn wash(self: &Arc<Self>, mut backend: Backend, wash: Wash) {
        backend.set_state(BackendState::Reset);
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let limit = this.settings.load().pool.reset_timeout;
            match reset(&mut backend, wash, limit).await {
                Ok(()) => {
                    this.metrics.count(Counter::ResetOk);
                    this.keep(backend, Phase::Active);
                }
                Err(dirty) => {
                    this.metrics.count(Counter::ResetFailed);
                    tracing::debug!(backend = backend.id, pool = %backend.key, %dirty, "a backend was not clean");
                    let broken = matches!(dirty, Dirty::Io(_));
                    if broken {
                        this.nudges.nudge(backend.key.node, Nudge::Eof);
                    }
                    this.close(backend, if broken { Counter::BackendBroken } else { Counter::BackendDirty });
                }
            }
        });
    }

    /// Makes a clean backend available: to the first who waits, else to the idle ones.
    pub(super) fn keep(self: &Arc<Self>, mut backend: Backend, from: Phase) {
        if let Some(reason) = self.unfit(&mut backend) {
            backend.phase = from;
            return self.close(backend, reason);
        }
        backend.set_state(BackendState::Idle);
        backend.phase = Phase::Idle;
        let (pool, home) = (backend.pool, backend.home);
        let evicted = locked(&self.book).give(pool, from, backend, home, Instant::now());
        self.close_evicted(evicted);
    }

    /// Why a backend must not be used (again), if it must not: its epoch, its age, or a word or an end from the server.
    pub(super) fn unfit(&self, backend: &mut Backend) -> Option<Counter> {
        if backend.opened_on_primary && backend.epoch != self.store.epoch() {
            return Some(Counter::BackendEpoch);
        }
        if Instant::now() >= backend.expires {
            return Some(Counter::BackendLifetime);
        }
        if !backend.stream.is_quiet() {
            self.nudges.nudge(backend.key.node, Nudge::Eof);
            return Some(Counter::BackendBroken);
        }
        None
    }

    pub(super) fn close_evicted(self: &Arc<Self>, evicted: Vec<Backend>) {
        for mut backend in evicted {
            backend.phase = Phase::Closing;
            self.finish(backend, Counter::BackendEvicted);
        }
    }

    /// Closes a backend. It counts until the server has closed its side too: only then is a place free there.
    pub(super) fn close(self: &Arc<Self>, mut backend: Backend, reason: Counter) {
        let evicted = locked(&self.book).change(backend.pool, backend.phase, Phase::Closing, Instant::now());
        backend.phase = Phase::Closing;
        self.finish(backend, reason);
        self.close_evicted(evicted);
    }

    pub(super) fn finish(self: &Arc<Self>, mut backend: Backend, reason: Counter) {
        self.metrics.count(reason);
        backend.set_state(BackendState::Closing);
        let mut word = Vec::with_capacity(5);
        encode::terminate(&mut word);
        backend.stream.farewell(&word);
        // Without a runtime (the process ends) nobody is left to wait for the server's side.
        if tokio::runtime::Handle::try_current().is_err() {
            return self.forget(&mut backend);
        }
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            if !this.tasks.is_stopping() {
                let mut rest = [0; 512];
                let end = async { while matches!(backend.stream.read(&mut rest).await, Ok(1..)) {} };
                // Whether or not it ended in time, we are done with it.
                let _ = timeout(CLOSING, end).await;
            }
            this.forget(&mut backend);
        });
    }

    /// The last step of a backend: nothing of it counts any more.
    fn forget(self: &Arc<Self>, backend: &mut Backend) {
        let phase = std::mem::replace(&mut backend.phase, Phase::Gone);
        locked(&self.backends).remove(&backend.id);
        self.uncount(backend.pool, phase);
    }

    /// Takes one off the accounts.
    pub(super) fn uncount(self: &Arc<Self>, pool: PoolId, phase: Phase) {
        let evicted = locked(&self.book).change(pool, phase, Phase::Gone, Instant::now());
        self.close_evicted(evicted);
    }

    /// A backend was dropped without [`Registry::release`]: its socket closes, its place is free.
    pub(super) fn on_dropped(self: &Arc<Self>, backend: &mut Backend) {
        // Idle ones are dropped with the book; those being reset or closed with the runtime, at the end.
        if backend.held {
            self.metrics.count(Counter::BackendLeaked);
            tracing::error!(backend = backend.id, pool = %backend.key, "a backend was dropped without being released");
            self.leave(backend);
        }
        self.forget(backend);
    }

    /// Counts a backend as held by a session.
    pub(super) fn hold(&self, backend: &mut Backend) {
        backend.held = true;
        if let Some(count) = self.in_flight.get(backend.key.node.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn leave(&self, backend: &mut Backend) {
        backend.held = false;
        if let Some(count) = self.in_flight.get(backend.key.node.index()) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether one more session may keep a backend of that pool between transactions (`pool.max_pinned`).
    pub fn may_pin(&self, key: &PoolKey) -> bool {
        let pool = &self.settings.load().pool;
        let limit = if pool.max_pinned == 0 { (pool.size * 3 / 4).max(1) } else { pool.max_pinned };
        self.most_pinned.load(Ordering::Relaxed) < limit
            || locked(&self.pinned).get(&account(key)).is_none_or(|count| *count < limit)
    }

    /// A session keeps this backend between transactions.
    pub fn pin(&self, backend: &Backend) {
        backend.note_pinned(true);
        let mut pinned = locked(&self.pinned);
        let count = pinned.entry(account(&backend.key)).or_insert(0);
        *count += 1;
        self.most_pinned.fetch_max(*count, Ordering::Relaxed);
    }

    /// A session that did so does not any more.
    pub fn unpin(&self, backend: &Backend) {
        backend.note_pinned(false);
        let (mut pinned, account) = (locked(&self.pinned), account(&backend.key));
        if let Some(count) = pinned.get_mut(&account) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                pinned.remove(&account);
            }
        }
        self.most_pinned.store(pinned.values().copied().max().unwrap_or(0), Ordering::Relaxed);
    }

    /// Backends of `node` that sessions hold now.
    pub fn in_flight(&self, node: NodeId) -> usize {
        self.in_flight.get(node.index()).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// `node` has answered a statement that was sent at `began`, just now.
    pub fn note_statement(&self, node: NodeId, began: Instant, now: Instant) {
        if let Some(latency) = self.latencies.get(node.index()) {
            latency.record(now.saturating_duration_since(began), self.millis(now));
        }
    }

    /// How long statements take at `node`, when any have been sent there.
    pub fn latency(&self, node: NodeId, now: Instant) -> Option<Reading> {
        self.latencies.get(node.index())?.read(self.millis(now))
    }

    /// Wraps after 49 days, as those who count by it expect.
    fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.origin).as_millis() as u32
    }

    /// A fresh number for a backend, which is from now on in [`Registry::backend_rows`].
    pub(super) fn enroll(&self, info: &Arc<Info>) -> u64 {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        locked(&self.backends).insert(id, Arc::clone(info));
        id
    }

    /// Sends a CancelRequest and waits until the server has dealt with it (it closes the connection then). Whoever calls
    /// this for a lease holds a pass of its gate meanwhile.
    pub async fn cancel(&self, node: NodeId, pid: i32, cancel_key: &[u8]) {
        let timeout_at = Instant::now() + self.settings.load().cluster.connect_timeout;
        let counter = match self.send_cancel(node, pid, cancel_key, timeout_at).await {
            Ok(()) => Counter::CancelForwarded,
            Err(error) => {
                tracing::debug!(node = node.0, %error, "a cancel request could not be sent");
                Counter::CancelFailed
            }
        };
        self.metrics.count(counter);
    }

    async fn send_cancel(
        &self,
        node: NodeId,
        pid: i32,
        cancel_key: &[u8],
        deadline: Instant,
    ) -> Result<(), DialError> {
        let spec = self.store.load().node(node).map(|view| Arc::clone(&view.spec));
        let Some(spec) = spec else { return Err(DialError::Refused) };
        let mut stream = dial(&spec.address, &self.tls, deadline).await?;
        let mut out = Vec::with_capacity(16 + cancel_key.len());
        encode::cancel_request(&mut out, pid, cancel_key);
        let exchange = async {
            stream.write_all(&out).await?;
            stream.flush().await?;
            // The server says nothing; the end may also come as a reset.
            let _ = stream.read(&mut [0; 16]).await;
            Ok(())
        };
        tokio::time::timeout_at(deadline, exchange).await.unwrap_or(Err(DialError::Timeout))
    }

    /// ParameterStatus of the last login of such a client, for logins that ask no node. The client has just proven who it
    /// is: what it has proven it by opens the next backends, since a password may have changed meanwhile.
    pub fn cached_login(
        &self,
        database: &str,
        user: &str,
        set: &StartupSet,
        credentials: &Arc<Credentials>,
    ) -> Option<Params> {
        let who = Who { database: database.to_owned(), user: user.to_owned(), set: set.clone() };
        let mut recipes = locked(&self.recipes);
        let recipe = recipes.get_mut(&who)?;
        recipe.credentials = Some(Arc::clone(credentials));
        Some(recipe.params.clone())
    }

    /// Forgets derived and recovered keys: after a reload they may be wrong.
    pub fn forget_secrets(&self) {
        self.doorman.forget();
        locked(&self.recipes).forget_secrets();
    }

    /// All pools, by node, database and user.
    pub fn rows(&self) -> Vec<PoolRow> {
        let now = Instant::now();
        let mut carried = self.carried();
        let figures = locked(&self.book).figures();
        let mut rows: Vec<PoolRow> = figures
            .into_iter()
            .map(|figures| {
                let carried = carried.remove(&figures.key).unwrap_or_default();
                PoolRow {
                    key: figures.key,
                    pinned: carried.pinned as usize,
                    prepared: carried.prepared as usize,
                    active: figures.active,
                    idle: figures.idle,
                    opening: figures.opening,
                    closing: figures.closing,
                    waiting: figures.waiting,
                    wait_p99: figures.wait_p99,
                    longest_wait: figures.first_waits_since.map_or(Duration::ZERO, |since| now - since),
                }
            })
            .collect();
        rows.sort_by(|a, b| {
            let name = |row: &PoolRow| (row.key.node, Arc::clone(&row.key));
            let ((a_node, a), (b_node, b)) = (name(a), name(b));
            (a_node, &a.database, &a.user, &a.set).cmp(&(b_node, &b.database, &b.user, &b.set))
        });
        rows
    }

    /// What the backends of each pool carry from one session to the next.
    pub(super) fn carried(&self) -> HashMap<Arc<PoolKey>, BackendFigures> {
        let mut all: HashMap<_, BackendFigures> = HashMap::new();
        for info in locked(&self.backends).values() {
            let of = all.entry(Arc::clone(&info.key)).or_default();
            of.pinned += u64::from(info.pinned.load(Ordering::Relaxed));
            of.prepared += u64::from(info.prepared.load(Ordering::Relaxed));
        }
        all
    }

    /// All backends, oldest first.
    pub fn backend_rows(&self) -> Vec<BackendRow> {
        let all: Vec<_> = locked(&self.backends).iter().map(|(id, info)| (*id, Arc::clone(info))).collect();
        let mut rows: Vec<BackendRow> = all.into_iter().map(|(id, info)| row(id, &info)).collect();
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }
}

fn row(id: u64, info: &Info) -> BackendRow {
    let age = info.opened.elapsed();
    let since = Duration::from_millis(info.since.load(Ordering::Relaxed));
    BackendRow {
        id,
        key: Arc::clone(&info.key),
        node: info.key.node,
        pid: info.pid,
        state: BackendState::from_number(info.state.load(Ordering::Relaxed)),
        state_age: age.saturating_sub(since),
        age,
        epoch: info.epoch,
        opened_on_primary: info.opened_on_primary,
        tls: info.tls,
        pinned: info.pinned.load(Ordering::Relaxed),
        prepared: info.prepared.load(Ordering::Relaxed),
    }
}
