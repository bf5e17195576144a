//! Where work went and why, in figures: names and counters.
//!
//! In: a route, and a reason by its number. Out: counts. Must not know how a route is found; a test of `route::Why` holds
//! the names against the reasons.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Reasons, by number.
pub const REASONS: [&str; 44] = [
    "declared",
    "distrusted",
    "hint",
    "incomplete_batch",
    "not_fresh",
    "no_standby",
    "not_split",
    "pinned",
    "read",
    "rerun",
    "serializable",
    "target",
    "read_write_transaction",
    "acting_function",
    "code",
    "copy",
    "cursor",
    "data_modifying",
    "declared_write",
    "definition",
    "encoding",
    "foreign_table",
    "into",
    "locking",
    "maintenance",
    "mixed",
    "node_local",
    "node_setting",
    "sequence",
    "session_state",
    "setting",
    "syntax",
    "too_deep",
    "transaction",
    "unknown_function",
    "unknown_operator",
    "unknown_relation",
    "unknown_statement",
    "unknown_type",
    "unlogged_table",
    "volatile_function",
    "volatile_operator",
    "volatile_relation",
    "volatile_type",
];

/// Reasons for which work goes to a standby; their series are there from the start.
const STANDBY: [&str; 4] = ["declared", "hint", "read", "target"];

/// SQLSTATEs that only a standby gives, for which work is run again on the primary; anything else is `other`.
const RERUN: [&str; 8] = ["0A000", "25006", "40001", "40P01", "55000", "57P04", "XX000", "other"];

/// What became of batches.
#[derive(Debug)]
pub(super) struct Routes {
    /// Primary, standby.
    taken: [[AtomicU64; REASONS.len()]; 2],
    rerun: [AtomicU64; RERUN.len()],
}

impl Routes {
    pub(super) fn new() -> Self {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Self { taken: [zeros(), zeros()], rerun: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    pub(super) fn taken(&self, standby: bool, reason: usize) {
        if let Some(counter) = self.taken[usize::from(standby)].get(reason) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn rerun(&self, sqlstate: &str) {
        let index = RERUN.iter().position(|code| *code == sqlstate).unwrap_or(RERUN.len() - 1);
        self.rerun[index].fetch_add(1, Relaxed);
    }
}

/// Batches by route and reason over all workers; those of standbys only where they are expected or there are some.
pub(super) fn taken<'a>(
    all: impl Iterator<Item = &'a Routes> + Clone,
) -> impl Iterator<Item = (bool, usize, u64)> {
    let sum = move |standby: bool, reason: usize| {
        all.clone().map(|one| one.taken[usize::from(standby)][reason].load(Relaxed)).sum::<u64>()
    };
    let every = [false, true].into_iter().flat_map(|standby| (0..REASONS.len()).map(move |it| (standby, it)));
    every
        .map(move |(standby, reason)| (standby, reason, sum(standby, reason)))
        .filter(|(standby, reason, count)| !standby || *count > 0 || STANDBY.contains(&REASONS[*reason]))
}

/// Batches run again on the primary, by the SQLSTATE that the standby gave.
pub(super) fn rerun<'a>(
    all: impl Iterator<Item = &'a Routes> + Clone,
) -> impl Iterator<Item = (&'static str, u64)> {
    RERUN
        .iter()
        .enumerate()
        .map(move |(index, code)| (*code, all.clone().map(|one| one.rerun[index].load(Relaxed)).sum()))
}
