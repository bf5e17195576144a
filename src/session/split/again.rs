//! A batch of reads is run again, where nobody can tell: on the primary when a standby could not do it, anywhere when its
//! node was lost.
//!
//! In: a batch that is kept, and what the server says to it. Out: the answer for the client, or the batch once more.

use tracing::debug;

use super::kept::{self, Heard};
use crate::pool::Verdict;
use crate::route::Wants;
use crate::session::buffer::Next;
use crate::session::relay::{Event, Look};
use crate::session::run::Session;
use crate::wire::backend;
use crate::wire::error::{ErrorView, SqlState};
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend::Kind;

impl Session {
    /// The client hears of the batch: it cannot be run again.
    pub(in crate::session) fn let_hear(&mut self) {
        if let Some(split) = self.split.as_mut().filter(|split| split.kept.is_active()) {
            split.kept.hear();
            self.up.reserve(0);
        }
    }

    /// A message is sent to the backend in hand.
    pub(in crate::session) fn note_sent(&mut self, kind: Kind, length: usize) {
        self.state.after(kind);
        if let Some(split) = self.split.as_mut().filter(|split| split.kept.is_active()) {
            split.kept.note_sent(length);
        }
    }

    /// The client is told of an error behind what it has heard already. It stands; but what a standby has refused goes to
    /// the primary at once from now on.
    pub(in crate::session) fn note_told(&self, error: &[u8]) {
        let on_standby = self.attached.as_ref().is_some_and(|attached| !attached.on_primary);
        let by_choice = self.split.as_ref().is_some_and(|split| split.is_ours);
        if on_standby && by_choice && ErrorView::new(error).code() == SqlState::READ_ONLY_TRANSACTION {
            self.distrust();
        }
    }

    /// True for the error with which a standby ends a connection for the sake of its recovery. The session is at home on
    /// the primary: it does not end with it.
    pub(in crate::session) fn ends_for_recovery(&self, error: &[u8]) -> bool {
        let standby = self.attached.as_ref().is_some_and(|attached| attached.side == Wants::Standby);
        let beside = self.split.as_ref().is_some_and(|split| !split.is_endpoint());
        standby && beside && kept::is_conflict(ErrorView::new(error).code())
    }

    /// True when what is under way can be run again, and nobody would notice.
    pub(in crate::session) fn can_run_again(&self) -> bool {
        self.split.as_ref().is_some_and(|split| split.kept.is_active())
    }

    /// True while the client may not hear what the server says: it may be a refusal that it need not hear.
    pub(in crate::session) fn holds_back(&self) -> bool {
        let kept = self.split.as_ref().is_some_and(|split| split.kept.is_active());
        kept && !self.state.pipeline.is_own_turn() && !self.down.is_inside_message()
    }

    /// The server has answered a batch that is kept. `None`: what it says is the client's.
    pub(in crate::session) fn hear(&mut self) -> Option<Look> {
        let on_standby = self.attached.as_ref().is_some_and(|attached| !attached.on_primary);
        let by_choice = self.split.as_ref().is_some_and(|split| split.is_ours);
        let heard = match self.down.unseen() {
            [] => Heard::More,
            answer if !on_standby || !by_choice => kept::hear_primary(answer),
            answer => kept::hear(answer),
        };
        match heard {
            Heard::More => Some(Look::Done),
            Heard::Deliver => {
                self.let_hear();
                None
            }
            Heard::Refused(_) if self.down.must_write() => Some(Look::WriteFirst),
            Heard::Refused(code) => {
                self.run_elsewhere(code);
                Some(Look::Done)
            }
            Heard::Ended(code) => {
                self.note_rerun(code);
                Some(Look::Stop(Event::BackendGone(None)))
            }
            Heard::Gone(words) => Some(Look::Stop(Event::BackendGone(Some(words)))),
        }
    }

    /// A standby could not do what we sent it for: the primary does, and the client does not notice.
    fn run_elsewhere(&mut self, code: SqlState) {
        self.note_rerun(code);
        while let Ok(Next::Whole(tag, length)) = self.down.look() {
            let body = self.down.peek(length).get(HEADER_LEN..).unwrap_or_default();
            self.state.server_message(tag, body);
            if tag == b'S'
                && let (Some(attached), Some((name, value))) =
                    (self.attached.as_mut(), backend::parameter_status(body))
            {
                attached.backend.note_parameter(name, value);
            }
            self.down.drop_message();
            if tag == b'Z' {
                break;
            }
        }
        self.began = None;
        self.entry.set_active(false);
        let names = self.split.as_ref().map(|split| split.kept.names()).unwrap_or_default();
        for name in &names {
            // It will be prepared by what is put back.
            drop(self.state.prepared.remove(name));
        }
        self.put_back(true);
        if self.is_sharing() {
            self.end_lease();
        } else if !names.is_empty() {
            self.release(Verdict::Reset);
        }
    }

    fn note_rerun(&mut self, code: SqlState) {
        self.ctx.metrics.rerouted(code.as_str());
        debug!(session = self.entry.id, sqlstate = %code, "a standby failed a read, the primary runs it");
        if kept::is_for_ever(code) {
            self.distrust();
        }
    }

    /// The statements of the batch are no reads, whatever they look like.
    fn distrust(&self) {
        let Some(split) = self.split.as_ref() else { return };
        for sql in split.kept.texts(&self.state.prepared) {
            self.ctx.catalogues.distrusted.add(&sql);
        }
        self.ctx.catalogues.outdated(&self.login.database);
    }

    /// The batch that is kept, if there is one, is to be looked at again. It has not run, and nothing waits to be
    /// written.
    pub(in crate::session) fn put_back(&mut self, is_refused: bool) -> bool {
        let Some(split) = self.split.as_mut() else { return false };
        let Some(batch) = split.kept.take() else { return false };
        split.forget_choice();
        split.is_refused = is_refused;
        self.up.reserve(0);
        if !batch.is_empty() {
            self.up.put_back(&batch);
        }
        true
    }
}
