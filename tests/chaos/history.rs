//! What has happened, as clients and the stage saw it. Data only: `oracle` judges it, `figures` counts it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// What became of a write, as its client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its success was reported, by the server with this port, if that was told.
    Acknowledged { port: Option<u16> },
    /// An error said that it did not happen, or the client rolled it back.
    Refused,
    /// 08007, or no answer at all.
    Unknown,
}

/// One transaction of a writer: the rows `first` to `first + count - 1` of its own.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub client: usize,
    pub proxy: usize,
    pub way: &'static str,
    pub first: u32,
    pub count: u32,
    /// When the message was sent that would commit it.
    pub sent: Instant,
    pub ended: Instant,
    pub fate: Fate,
}

/// What was under way when a client got an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A statement that only reads, by itself.
    Read,
    /// The same, sent to standbys by a comment: what it does nobody judges.
    HintedRead,
    /// A read inside a transaction that is declared READ ONLY, its BEGIN or its end.
    ReadOnlyBlock,
    /// The BEGIN of a transaction.
    Begin,
    /// A statement inside a transaction that may still be rolled back.
    Block,
    /// ROLLBACK.
    Rollback,
    /// COMMIT, alone.
    Commit,
    /// A statement that commits by itself, alone.
    Single,
    /// The same, with a result that is another on every server.
    Beat,
    /// Several that commit together, COPY, NOTIFY: what is never wrapped.
    Many,
    /// Whatever comes next for a session that had state on its server only.
    State,
}

/// An error that a client got.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which client, for people.
    pub who: String,
    pub proxy: usize,
    pub phase: Phase,
    /// When its transaction began.
    pub began: Instant,
    pub ended: Instant,
    pub code: String,
    pub message: String,
}

/// What a read has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// By a writer of its own rows: how many, and the highest.
    Own { client: usize, count: u32, highest: u32 },
    /// The highest row of each client, 0 for none.
    All(Vec<u32>),
}

/// One answered read.
#[derive(Debug, Clone)]
pub struct Sight {
    pub session: String,
    pub began: Instant,
    pub ended: Instant,
    pub on_standby: bool,
    pub found: Found,
}

/// A write by somebody who does not wait for standbys: tells when writes go on, and where.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    pub proxy: usize,
    pub at: Instant,
    pub port: u16,
}

/// A time in which something is wrong on purpose.
#[derive(Debug, Clone)]
pub struct Window {
    /// [`Step::word`](super::plan::Step::word)
    pub kind: String,
    pub from: Instant,
    pub to: Option<Instant>,
    /// Proxies whose clients may get errors from the primary.
    pub primary: Vec<bool>,
    /// The same from standbys.
    pub standbys: bool,
    /// Another node becomes the primary, as planned: what a session has on the old one only goes with it.
    pub moves: bool,
}

impl Window {
    pub fn overlaps(&self, began: Instant, ended: Instant) -> bool {
        ended >= self.from && self.to.is_none_or(|to| began <= to)
    }
}

/// A node is the primary from here on.
#[derive(Debug, Clone)]
pub struct Reign {
    pub kind: String,
    pub port: u16,
    /// When its promotion was ordered: from then on it may take writes.
    pub asked: Instant,
    /// When it was out of recovery.
    pub writable: Instant,
    /// When each proxy has said that it is the primary: nothing sent later may go anywhere else.
    pub seen: Vec<Instant>,
    /// All standbys were well, so that commits did not wait for one to come back.
    pub is_plain: bool,
}

/// A row that an old primary has and its successor does not.
#[derive(Debug, Clone, Copy)]
pub struct Stray {
    pub client: usize,
    pub row: u32,
    /// The reign of the successor.
    pub reign: usize,
}

/// Something that is wrong at once, whatever else happens.
#[derive(Debug, Clone)]
pub struct Complaint {
    pub at: Instant,
    pub text: String,
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub attempts: Vec<Attempt>,
    pub failures: Vec<Failure>,
    pub sights: Vec<Sight>,
    pub beats: Vec<Beat>,
    pub windows: Vec<Window>,
    pub reigns: Vec<Reign>,
    pub strays: Vec<Stray>,
    pub complaints: Vec<Complaint>,
    /// What the stage did, and errors, in order.
    pub journal: Vec<Complaint>,
}

/// Rows of the table: client and row, and how often it is there.
pub type Table = BTreeMap<(usize, u32), u32>;

/// The history while it happens; clones write into the same one.
#[derive(Debug, Clone, Default)]
pub struct Books(Arc<Mutex<History>>);

impl Books {
    pub fn open(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the journal.
    pub fn note(&self, text: impl Into<String>) {
        self.open().journal.push(Complaint { at: Instant::now(), text: text.into() });
    }

    pub fn complain(&self, text: impl Into<String>) {
        let complaint = Complaint { at: Instant::now(), text: text.into() };
        let mut history = self.open();
        history.journal.push(complaint.clone());
        history.complaints.push(complaint);
    }

    pub fn fail(&self, failure: Failure) {
        let Failure { who, phase, code, message, .. } = &failure;
        let text = format!("{who} got {code} in {phase:?}: {message}");
        let mut history = self.open();
        history.journal.push(Complaint { at: failure.ended, text });
        history.failures.push(failure);
    }
}

/// Tells the clients to end.
#[derive(Debug, Clone, Default)]
pub struct Over(Arc<AtomicBool>);

impl Over {
    pub fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
