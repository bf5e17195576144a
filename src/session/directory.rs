//! All live sessions: for SHOW, KILL, cancel requests and for waking them when the topology changes.
//!
//! In: entries at login and logout, changes of their backend. Out: rows, look-ups and signals. Must not know what a
//! session does with a signal.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use super::hold::Holds;
use crate::pool::{CancelGate, CancelPass};
use crate::sql::{PinCause, Pins};
use crate::topology::NodeId;

/// Something a session is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The topology has changed.
    Topology,
    /// An operator ends the session.
    Kill,
    /// The proxy shuts down: end when idle.
    Drain,
    /// The proxy shuts down and the deadline has passed: end now.
    Cut,
    /// The client cancels the statement that waits for a node.
    Cancel,
}

impl Signal {
    fn bit(self) -> u32 {
        match self {
            Self::Topology => 1,
            Self::Kill => 2,
            Self::Drain => 4,
            Self::Cut => 8,
            Self::Cancel => 16,
        }
    }
}

/// Signals that have arrived and were taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals(u32);

impl Signals {
    /// True when `signal` is among them.
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & signal.bit() != 0
    }
}

/// Where signals wait for a session; never blocks the sender.
#[derive(Debug, Default)]
pub struct Mailbox {
    bits: AtomicU32,
    waker: AtomicWaker,
}

impl Mailbox {
    /// Leaves a signal and wakes the session.
    pub fn send(&self, signal: Signal) {
        if self.bits.fetch_or(signal.bit(), Ordering::AcqRel) & signal.bit() == 0 {
            self.waker.wake();
        }
    }

    /// Takes all signals, or asks to be woken by the next.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<Signals> {
        if let Some(signals) = self.take() {
            return Poll::Ready(signals);
        }
        self.waker.register(cx.waker());
        self.take().map_or(Poll::Pending, Poll::Ready)
    }

    fn take(&self) -> Option<Signals> {
        if self.bits.load(Ordering::Acquire) == 0 {
            return None;
        }
        Some(Signals(self.bits.swap(0, Ordering::AcqRel)))
    }
}

/// What a session does at this moment, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Between transactions.
    Idle,
    /// A statement runs or a transaction is open.
    Active,
    /// Its statement waits for a primary or a standby.
    Held,
}

impl Activity {
    /// The word in SHOW CLIENTS.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::Held => "held",
        }
    }
}

/// One live session as others see it.
#[derive(Debug)]
pub struct Entry {
    /// Number of the session, unique in this process.
    pub id: u64,
    /// The user logged in.
    pub user: String,
    /// The database, without a read-only suffix.
    pub database: String,
    /// Where the client connects from; `None` for a unix socket.
    pub address: Option<IpAddr>,
    /// Name of the application, as sent at startup.
    pub application: String,
    /// True when the session asked for a standby.
    pub read_only: bool,
    /// True when the client's connection is encrypted.
    pub tls: bool,
    /// When it logged in.
    pub since: SystemTime,
    /// Process id told to the client.
    pid: AtomicI32,
    /// Secret told to the client, for cancel requests.
    key: Vec<u8>,
    /// Signals for the session.
    pub mailbox: Mailbox,
    /// Statements completed.
    pub statements: AtomicU64,
    held: AtomicBool,
    active: AtomicBool,
    pins: AtomicU16,
    prepared: AtomicUsize,
    prepared_bytes: AtomicUsize,
    backend: Mutex<Option<Leased>>,
}

/// The backend a session has, as others need to know it.
#[derive(Clone, Debug)]
pub struct Leased {
    /// Its node.
    pub node: NodeId,
    /// Server process id.
    pub pid: i32,
    /// Secret of the server, for CancelRequest.
    pub key: Arc<[u8]>,
    /// Keeps the backend from its next user while a CancelRequest is under way.
    pub cancels: Arc<CancelGate>,
}

/// What the login knows of a session.
#[derive(Debug)]
pub struct Facts {
    /// The user logged in.
    pub user: String,
    /// The database, without a read-only suffix.
    pub database: String,
    /// Where the client connects from; `None` for a unix socket.
    pub address: Option<IpAddr>,
    /// Name of the application, as sent at startup.
    pub application: String,
    /// True when the session asked for a standby.
    pub read_only: bool,
    /// True when the client's connection is encrypted.
    pub tls: bool,
}

impl Entry {
    fn backend(&self) -> MutexGuard<'_, Option<Leased>> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Process id told to the client.
    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// The client is told the process id of its first backend.
    pub fn set_pid(&self, pid: i32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Secret told to the client.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The session has taken this backend.
    pub fn attached(&self, leased: Leased) {
        *self.backend() = Some(leased);
    }

    /// The session has no backend.
    pub fn detached(&self) {
        *self.backend() = None;
        self.set_active(false);
    }

    /// Notes whether work is under way. Who notes that it is asks for the version of the topology afterwards: of a session
    /// and of who has published a hold and then asks [`Directory::busy`], one sees the other.
    pub fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::SeqCst);
    }

    /// Notes statements completed, why the session is bound to its backend, and how many prepared statements it has and
    /// the bytes it keeps of them. Returns pins and bytes as they were.
    pub fn note(&self, statements: u64, pins: Pins, prepared: (usize, usize)) -> (Pins, usize) {
        let before = (self.pins.load(Ordering::Relaxed), self.prepared_bytes.load(Ordering::Relaxed));
        // Only the session itself writes these.
        self.statements.store(statements, Ordering::Relaxed);
        self.pins.store(pins.bits(), Ordering::Relaxed);
        self.prepared.store(prepared.0, Ordering::Relaxed);
        self.prepared_bytes.store(prepared.1, Ordering::Relaxed);
        (Pins::from_bits(before.0), before.1)
    }

    /// Notes that the session's statement waits.
    pub fn set_held(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// True while the session's statement waits for a primary or a standby.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// What cancels the work under way at this instant. The pass is taken under the lock that a change of backend
    /// takes too: the backend cannot get its next user before the pass is given back.
    pub fn cancel(&self) -> Option<(Leased, CancelPass)> {
        let backend = self.backend();
        let leased = backend.as_ref()?;
        let pass = leased.cancels.enter()?;
        Some((leased.clone(), pass))
    }
}

/// One row of SHOW CLIENTS.
#[derive(Clone, Debug)]
pub struct SessionRow {
    /// Number of the session.
    pub id: u64,
    /// User.
    pub user: String,
    /// Database.
    pub database: String,
    /// Client address; empty for a unix socket.
    pub address: String,
    /// Application name sent at startup.
    pub application: String,
    /// `primary` or `standby`: what the session asked for.
    pub endpoint: &'static str,
    /// idle, active or held.
    pub state: &'static str,
    /// Node of its backend.
    pub node: Option<NodeId>,
    /// Server process id of its backend.
    pub backend_pid: Option<i32>,
    /// Statements completed.
    pub statements: u64,
    /// Why it is bound to its backend.
    pub pins: String,
    /// Named prepared statements that it has.
    pub prepared: usize,
    /// Bytes of their texts that are kept (`limits.max_prepared_bytes`).
    pub prepared_bytes: usize,
    /// True when its connection is encrypted.
    pub tls: bool,
    /// When it logged in.
    pub since: SystemTime,
}

/// All live sessions of the process.
#[derive(Debug)]
pub struct Directory {
    sessions: Mutex<HashMap<u64, Arc<Entry>>>,
    next_id: AtomicU64,
    /// Connections accepted and not yet ended, sessions or not.
    connections: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    limit: AtomicUsize,
    /// Sessions whose work waits for a node.
    pub(super) holds: Holds,
    /// Told when a session leaves.
    left: Notify,
}

impl Directory {
    /// An empty directory with room for `max_clients` connections.
    pub fn new(max_clients: usize) -> Self {
        Self {
            sessions: Mutex::default(),
            next_id: AtomicU64::new(1),
            connections: AtomicUsize::new(0),
            by_address: Mutex::default(),
            limit: AtomicUsize::new(max_clients),
            holds: Holds::default(),
            left: Notify::new(),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new limit of connections, from a reload.
    pub fn set_limit(&self, max_clients: usize) {
        self.limit.store(max_clients, Ordering::Relaxed);
    }

    /// Takes one of the `max_clients` places, if one is free. It is given back by dropping the result.
    pub fn admit(self: &Arc<Self>) -> Option<Place> {
        let limit = self.limit.load(Ordering::Relaxed);
        let taken = self
            .connections
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (count < limit).then_some(count + 1));
        taken.is_ok().then(|| Place(Arc::clone(self)))
    }

    /// Connections that hold a place.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts one login under way from `address`, unless `limit` are already.
    pub fn begin_login(self: &Arc<Self>, address: IpAddr, limit: usize) -> Option<LoginGuard> {
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(LoginGuard { directory: Arc::clone(self), address })
    }

    /// Adds a session; `pid` and `key` are what the client is told.
    pub fn enter(self: &Arc<Self>, facts: Facts, pid: i32, key: Vec<u8>) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            user: facts.user,
            database: facts.database,
            address: facts.address,
            application: facts.application,
            read_only: facts.read_only,
            tls: facts.tls,
            since: SystemTime::now(),
            pid: AtomicI32::new(pid),
            key,
            mailbox: Mailbox::default(),
            statements: AtomicU64::new(0),
            held: AtomicBool::new(false),
            active: AtomicBool::new(false),
            pins: AtomicU16::new(0),
            prepared: AtomicUsize::new(0),
            prepared_bytes: AtomicUsize::new(0),
            backend: Mutex::default(),
        });
        self.sessions().insert(entry.id, Arc::clone(&entry));
        entry
    }

    /// Removes a session.
    pub fn leave(&self, id: u64) {
        self.sessions().remove(&id);
        self.left.notify_waiters();
    }

    /// Resolves when no session is logged in.
    pub async fn emptied(&self) {
        loop {
            // Registered before the look, so that a session that leaves in between is not missed.
            let mut left = pin!(self.left.notified());
            left.as_mut().enable();
            if self.is_empty() {
                return;
            }
            left.await;
        }
    }

    /// Sessions logged in.
    pub fn len(&self) -> usize {
        self.sessions().len()
    }

    /// True when no session is logged in.
    pub fn is_empty(&self) -> bool {
        self.sessions().is_empty()
    }

    /// The session that was told this process id and key. Compared in constant time: the key is a secret.
    pub fn by_cancel_key(&self, pid: i32, key: &[u8]) -> Option<Arc<Entry>> {
        use subtle::ConstantTimeEq;
        self.sessions().values().find(|entry| entry.pid() == pid && bool::from(entry.key.ct_eq(key))).cloned()
    }

    /// True when a session is logged in to that database.
    pub fn uses(&self, database: &str) -> bool {
        self.sessions().values().any(|entry| entry.database == database)
    }

    /// Sends a signal to every session.
    pub fn signal_all(&self, signal: Signal) {
        for entry in self.sessions().values() {
            entry.mailbox.send(signal);
        }
    }

    /// Ends one session; false when there is none with this number.
    pub fn kill(&self, id: u64) -> bool {
        self.sessions().get(&id).map(|entry| entry.mailbox.send(Signal::Kill)).is_some()
    }

    /// Sessions with work under way on that node, by number.
    pub fn busy(&self, node: NodeId) -> Vec<u64> {
        let on_node = |entry: &Entry| entry.backend().as_ref().is_some_and(|leased| leased.node == node);
        let busy = |entry: &&Arc<Entry>| entry.active.load(Ordering::SeqCst) && on_node(entry);
        let mut busy: Vec<u64> = self.sessions().values().filter(busy).map(|entry| entry.id).collect();
        busy.sort_unstable();
        busy
    }

    /// All sessions, oldest first.
    pub fn rows(&self) -> Vec<SessionRow> {
        let entries: Vec<Arc<Entry>> = self.sessions().values().cloned().collect();
        let mut rows: Vec<SessionRow> = entries.iter().map(|entry| row(entry)).collect();
        rows.sort_by_key(|row| row.id);
        rows
    }
}

fn row(entry: &Entry) -> SessionRow {
    let activity = match (entry.held.load(Ordering::Relaxed), entry.active.load(Ordering::Relaxed)) {
        (true, _) => Activity::Held,
        (false, true) => Activity::Active,
        (false, false) => Activity::Idle,
    };
    let pins = Pins::from_bits(entry.pins.load(Ordering::Relaxed));
    let pins: Vec<&str> = pins.iter().map(PinCause::as_str).collect();
    let backend = entry.backend();
    SessionRow {
        id: entry.id,
        user: entry.user.clone(),
        database: entry.database.clone(),
        address: entry.address.map(|address| address.to_string()).unwrap_or_default(),
        application: entry.application.clone(),
        endpoint: if entry.read_only { "standby" } else { "primary" },
        state: activity.as_str(),
        node: backend.as_ref().map(|leased| leased.node),
        backend_pid: backend.as_ref().map(|leased| leased.pid),
        statements: entry.statements.load(Ordering::Relaxed),
        pins: pins.join(", "),
        prepared: entry.prepared.load(Ordering::Relaxed),
        prepared_bytes: entry.prepared_bytes.load(Ordering::Relaxed),
        tls: entry.tls,
        since: entry.since,
    }
}

/// One of the `max_clients` places.
#[derive(Debug)]
pub struct Place(Arc<Directory>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One login under way from an address.
#[derive(Debug)]
pub struct LoginGuard {
    directory: Arc<Directory>,
    address: IpAddr,
}

impl Drop for LoginGuard {
    fn drop(&mut self) {
        let mut counts = self.directory.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(user: &str) -> Facts {
        Facts {
            user: user.into(),
            database: "d".into(),
            address: None,
            application: String::new(),
            read_only: false,
            tls: false,
        }
    }

    #[test]
    fn places_and_logins_are_limited_and_given_back() {
        let directory = Arc::new(Directory::new(2));
        let first = directory.admit().unwrap();
        let second = directory.admit().unwrap();
        assert!(directory.admit().is_none());
        drop(first);
        assert!(directory.admit().is_some());
        drop(second);
        assert_eq!(directory.connections(), 0);

        let address: IpAddr = "::1".parse().unwrap();
        let login = directory.begin_login(address, 1).unwrap();
        assert!(directory.begin_login(address, 1).is_none());
        drop(login);
        assert!(directory.begin_login(address, 1).is_some());
    }

    #[test]
    fn only_the_right_key_finds_a_session() {
        let directory = Arc::new(Directory::new(2));
        let entry = directory.enter(facts("a"), 7, vec![1, 2, 3, 4]);
        assert_eq!(directory.by_cancel_key(7, &[1, 2, 3, 4]).unwrap().id, entry.id);
        assert!(directory.by_cancel_key(7, &[1, 2, 3, 5]).is_none());
        assert!(directory.by_cancel_key(7, &[1, 2, 3]).is_none());
        assert!(directory.by_cancel_key(8, &[1, 2, 3, 4]).is_none());
        directory.leave(entry.id);
        assert!(directory.by_cancel_key(7, &[1, 2, 3, 4]).is_none());
    }

    #[test]
    fn every_cause_of_a_pin_has_a_metric() {
        let names: Vec<&str> = PinCause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(crate::metrics::catalogue::PIN_CAUSES, names);
    }

    #[tokio::test]
    async fn signals_wait_until_they_are_taken_together() {
        let mailbox = Mailbox::default();
        mailbox.send(Signal::Topology);
        mailbox.send(Signal::Kill);
        let signals = std::future::poll_fn(|cx| mailbox.poll(cx)).await;
        assert!(signals.contains(Signal::Topology) && signals.contains(Signal::Kill));
        assert!(!signals.contains(Signal::Drain));
        assert!(std::future::poll_fn(|cx| Poll::Ready(mailbox.poll(cx).is_pending())).await);
    }
}
