//! What functions may have left in a session that keeps its backend, as far as that matters to its reads on others.
//!
//! In: texts, and what the functions of the database do. Out: whether the session may have something that no statement
//! shows: a temporary table, a setting, a lock. Sans-IO.

use std::cell::Cell;
use std::sync::Arc;

use crate::sql::hidden::Risks;

/// What is known of the database's functions, and whether one that leaves something may have run.
#[derive(Debug, Default)]
pub struct Unseen {
    risks: Arc<Risks>,
    is_there: Cell<bool>,
}

impl Unseen {
    /// What is known now.
    pub fn learn(&mut self, risks: Option<Arc<Risks>>) {
        self.risks = risks.unwrap_or_default();
    }

    /// The session sends this text.
    pub(super) fn read(&self, sql: &[u8], standard_strings: bool) {
        if !self.is_there.get() && !self.risks.of(sql, standard_strings).is_empty() {
            self.is_there.set(true);
        }
    }

    /// DISCARD ALL leaves nothing.
    pub(super) fn clear(&self) {
        self.is_there.set(false);
    }

    /// True when something may be there.
    pub fn is_there(&self) -> bool {
        self.is_there.get()
    }
}
