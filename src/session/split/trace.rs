//! What a batch leaves that later reads of its session have to find.
//!
//! In: what a batch was found to do, and its end. Out: marks for the session's floors.

use crate::route::Mark;
use crate::session::run::Session;

/// What a batch leaves that later reads have to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    /// Whatever it has written, where the node takes writes, and what it has seen.
    Write,
    /// The same, but the client says that it only reads.
    Declared,
    /// What it has seen.
    Read,
    /// Nothing: it only makes settings of the session.
    Nothing,
}

impl Session {
    /// The answers to a batch are all there: whoever reads next has to find what they showed.
    pub(in crate::session) fn note_freshness(&mut self) {
        let quiet = self.state.is_quiet();
        if quiet && std::mem::take(&mut self.state.has_defined) {
            self.ctx.catalogues.outdated(&self.login.database);
        }
        let Some(split) = self.split.as_mut().filter(|split| split.bound) else { return };
        let Some(attached) = self.attached.as_ref() else { return };
        if !quiet && !split.begun.is_empty() {
            // A transaction has begun, and nothing has been done in it.
            return;
        }
        let mark = Mark { node: attached.node, since: split.since, number: self.ctx.nudges.sent() };
        match split.under_way {
            Trace::Write if attached.on_primary => split.floors.wrote(mark),
            Trace::Declared if attached.on_primary => split.floors.declared(mark),
            Trace::Write | Trace::Declared | Trace::Read if quiet => split.floors.read(mark),
            Trace::Nothing | Trace::Write | Trace::Declared | Trace::Read => {}
        }
    }

    /// True when nothing is under way but what provably only reads.
    pub(in crate::session) fn only_reads(&self) -> bool {
        self.split.as_ref().is_some_and(|split| split.under_way == Trace::Read)
    }

    /// The primary is lost with work under way that may have changed something.
    pub(in crate::session) fn note_lost_writes(&mut self) {
        if let Some(split) = self.split.as_mut().filter(|split| split.bound)
            && let Some(attached) = self.attached.as_ref().filter(|attached| attached.on_primary)
        {
            let number = self.ctx.nudges.sent();
            split.floors.wrote(Mark { node: attached.node, since: split.since, number });
        }
    }
}
