//! What a session knows of its conversation with the server: transaction status, outstanding requests, settings, pins.
//!
//! Sans-IO: messages in both directions go in, verdicts come out. It decides nothing about nodes and never waits. The
//! question it exists for: when the backend is lost at this instant, what may the client be told?

mod fate;
mod unseen;

use fate::is_harmless;
pub use fate::{Answer, Loss, fate_unknown, listener_lost, read_lost, rolled_back};
pub use unseen::Unseen;

use std::rc::Rc;

use super::params::{HOT_STANDBY, Params};
use super::pipeline::{Answered, Own, Parsing, Pipeline, Request};
use super::prepared::{Prepared, SharedEffects, Statement, Undo};
use super::replay::Record;
use super::resolve::Tracker;
use super::sharing::Sharing;
use crate::sql::{Effect, effect, glance};
use crate::wire::backend::{self, TxStatus};
use crate::wire::encode;
use crate::wire::error::ErrorView;
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend::{self, Kind, Named};

/// Whether a RESET has taken the session's `application_name` away on the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameReset {
    No,
    /// In the transaction under way: a rollback brings it back.
    Open,
    Done,
}

/// The session's side of the conversation with one backend, and what outlives that backend.
#[derive(Debug)]
pub struct State {
    /// Transaction status as the server reported it last.
    pub tx: TxStatus,
    /// Requests not answered yet.
    pub pipeline: Pipeline,
    /// Settings and pins.
    pub params: Params,
    /// Protocol-level prepared statements.
    pub prepared: Prepared,
    /// The last `in_hot_standby` the backend reported since it was taken.
    pub hot_standby: Option<bool>,
    /// Statements completed.
    pub statements: u64,
    /// A RESET took that name away on the backend.
    name_reset: NameReset,
    /// What sharing backends between transactions needs; `None` in session mode.
    pub sharing: Option<Box<Sharing>>,
    /// A statement has changed what there is in the database.
    pub has_defined: bool,
    /// The batch under way has completed something that its Sync commits.
    has_worked: bool,
    /// In session mode, what functions may have left that no statement shows; `None` when that does not matter.
    pub unseen: Option<Box<Unseen>>,
    /// What the fate of a COMMIT can be found out by, with `retry.resolve_commit`.
    pub tracker: Option<Box<Tracker>>,
    /// What is kept of the open transaction, with `retry.transactions`.
    pub record: Option<Box<Record>>,
}

impl State {
    /// A session that has done nothing yet; at most `prepared_bytes` of statements are kept.
    pub fn new(prepared_bytes: usize) -> Self {
        Self {
            tx: TxStatus::Idle,
            pipeline: Pipeline::default(),
            params: Params::default(),
            prepared: Prepared::new(prepared_bytes),
            hot_standby: None,
            statements: 0,
            name_reset: NameReset::No,
            sharing: None,
            unseen: None,
            tracker: None,
            record: None,
            has_defined: false,
            has_worked: false,
        }
    }

    /// True when a RESET has left the backend without the session's `application_name` and it can be set again now. In
    /// a block it is set in the same transaction, so that a rollback undoes both.
    pub fn wants_name(&self) -> bool {
        self.name_reset != NameReset::No && self.tx != TxStatus::Failed && self.pipeline.is_idle()
    }

    /// True for a message that is not for the client: the node's role, since the endpoint's does not change; answers to
    /// messages of ours; what a RESET makes of a name that was as the client wants it.
    pub fn hides(&self, tag: u8, body: &[u8]) -> bool {
        if let Some(hidden) = self.tracked_hides(tag) {
            return hidden;
        }
        if tag == b'N' && ErrorView::new(body).field(b'R') == Some("quickdie") {
            // A server that is stopped at once says that it ends the connection: the client's goes on.
            return true;
        }
        if tag == b'S'
            && body.strip_prefix(HOT_STANDBY.as_bytes()).is_some_and(|rest| rest.starts_with(b"\0"))
        {
            return true;
        }
        if self.is_name_reset(tag, body) {
            return self.params.reported("application_name") == self.params.given_name().as_deref();
        }
        self.pipeline.is_own_turn() && self.hides_own(tag, body)
    }

    fn is_name_reset(&self, tag: u8, body: &[u8]) -> bool {
        tag == b'S' && self.name_reset != NameReset::No && body.starts_with(b"application_name\0")
    }

    /// What the client gets instead of this message. A RESET takes a session's name away on the backend, and the client's
    /// reset value is that name.
    pub fn instead(&self, tag: u8, body: &[u8]) -> Option<Vec<u8>> {
        if let Some(held) = self.tracked_instead(tag, body) {
            return Some(held);
        }
        match tag {
            b'E' => self.renamed(body),
            b'S' if self.is_name_reset(tag, body) => {
                let mut out = Vec::new();
                let name = self.params.given_name().unwrap_or_default();
                encode::parameter_status(&mut out, "application_name", name.as_bytes());
                Some(out)
            }
            _ => None,
        }
    }

    fn hides_own(&self, tag: u8, body: &[u8]) -> bool {
        match tag {
            b'A' => false,
            b'S' => backend::parameter_status(body)
                .is_some_and(|(name, value)| self.params.reported(name) == Some(value)),
            // In place of the answer to what the client sends next, it is the client's.
            b'E' => self.pipeline.is_own_query(),
            _ => true,
        }
    }

    /// True once when the session's name is to be set again.
    pub fn take_name_reset(&mut self) -> bool {
        std::mem::replace(&mut self.name_reset, NameReset::No) != NameReset::No
    }

    /// True between transactions: nothing is open, outstanding or half sent, so that the backend could be another.
    pub fn is_quiet(&self) -> bool {
        self.tx == TxStatus::Idle && self.pipeline.is_idle()
    }

    /// True when the client's next message begins a transaction: nothing but messages of ours is under way.
    pub fn begins(&self) -> bool {
        self.tx == TxStatus::Idle
            && !self.pipeline.is_open()
            && self.pipeline.requests().all(Request::is_ours)
    }

    /// True when a function may have left something that nobody has seen.
    pub fn has_unseen_state(&self) -> bool {
        self.unseen.as_ref().is_some_and(|unseen| unseen.is_there())
    }

    /// The client sends this message: `message` with its header, only its beginning when `whole` is false.
    pub fn client_message(&mut self, kind: Kind, message: &[u8], whole: bool) {
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        let request = match kind {
            Kind::Query => self.query(frontend::query(body)),
            Kind::Parse => {
                let parse = frontend::parse(body);
                let effects = self.text_effects(parse.map(|parse| parse.sql));
                let name = frontend::parse_name(body).unwrap_or_default();
                if name.is_empty() {
                    let uncertain = !self.pipeline.is_idle();
                    Request::ParseUnnamed(self.prepared.set_unnamed(&[], effects, uncertain))
                } else {
                    let message = if whole { message.into() } else { Box::default() };
                    let statement = Statement { message, effects, ..Statement::default() };
                    let undo = Some(self.prepared.insert(name, statement));
                    Request::Parse(Box::new(Parsing { undo, ..Parsing::default() }))
                }
            }
            Kind::Bind => self.bind(body),
            Kind::Describe => match frontend::named(body) {
                Some(Named::Portal(_)) => Request::DescribePortal,
                _ => Request::Describe(None),
            },
            Kind::Execute => self.execute(body),
            Kind::Close => Request::Close(match frontend::named(body) {
                Some(Named::Statement(name)) => Some(Box::new(self.prepared.remove(name))),
                _ => None,
            }),
            Kind::Sync => Request::Sync,
            Kind::FunctionCall => Request::FunctionCall,
            Kind::CopyDone | Kind::CopyFail => Request::CopyEnd,
            // With a body it is refused, and everything up to the next Sync passed over, as with any extended message.
            Kind::Flush if message.len() > HEADER_LEN => Request::Describe(None),
            Kind::CopyData | Kind::Flush | Kind::Terminate => return,
        };
        self.sent(request);
    }

    /// A Query of this text.
    pub(super) fn query(&mut self, sql: Option<&[u8]>) -> Request {
        // A server drops the unnamed statement for it.
        let unnamed = self.prepared.drop_unnamed(!self.pipeline.is_idle());
        let effects = self.text_effects(sql);
        self.note_hidden(effects.as_deref());
        let dropped = self.drop_named(effects.as_deref());
        Request::Query { effects, next: 0, unnamed, dropped }
    }

    /// Named statements go by SQL, if all goes well.
    fn drop_named(&mut self, effects: Option<&[Effect]>) -> Vec<Undo> {
        let mut dropped = Vec::new();
        for effect in effects.unwrap_or_default() {
            match effect {
                Effect::DiscardAll | Effect::DeallocateAll => {
                    dropped.push(self.prepared.take_all());
                    self.retire_all();
                }
                Effect::Deallocate(name) => {
                    self.retire(name);
                    dropped.push(self.prepared.remove(name));
                }
                _ => {}
            }
        }
        dropped
    }

    pub(super) fn bind(&mut self, body: &[u8]) -> Request {
        if let Some(bind) = frontend::bind(body) {
            self.prepared.bind(bind.portal, bind.statement);
        }
        Request::Bind
    }

    fn execute(&mut self, body: &[u8]) -> Request {
        let effects = frontend::execute(body).and_then(|portal| self.prepared.portal(portal)).cloned();
        self.note_hidden(effects.as_deref());
        let dropped = self.drop_named(effects.as_deref());
        Request::Execute { effects, dropped }
    }

    /// A request goes to the server, or is one that the server will pass over: then it has not happened.
    pub(super) fn sent(&mut self, request: Request) {
        if let Some(passed_over) = self.pipeline.sent(request) {
            self.undo(passed_over);
        }
    }

    fn undo_all(&mut self, dropped: Vec<Undo>) {
        for undo in dropped.into_iter().rev() {
            self.prepared.undo(undo);
        }
    }

    /// The server has not done this, and will not.
    fn undo(&mut self, request: Request) {
        match request {
            Request::Parse(parsing) => {
                let Parsing { undo, sent, .. } = *parsing;
                self.unprepared(sent, false);
                if let Some(undo) = undo {
                    self.prepared.undo(undo);
                }
            }
            Request::ParseUnnamed(number) => {
                self.unprepared(None, true);
                self.prepared.undo(Undo::Unnamed(number));
            }
            Request::Own(Own::Parse(sent)) => self.unprepared(sent, sent.is_none()),
            Request::Own(Own::Close(Some(number))) => self.unclosed(number),
            Request::Own(Own::Describe(number)) | Request::Describe(Some(number)) => self.undescribed(number),
            Request::Own(Own::Close(None)) => self.unprepared(None, true),
            Request::Close(Some(undo)) | Request::Fake(_, Some(undo)) => {
                self.prepared.undo(*undo);
                self.unprepared(None, true);
            }
            Request::Query { unnamed, dropped, .. } => {
                self.undo_all(dropped);
                self.prepared.undo(Undo::Unnamed(unnamed));
                self.unprepared(None, true);
            }
            Request::Execute { dropped, .. } => self.undo_all(dropped),
            _ => {}
        }
    }

    /// The effects of a text, if it has any.
    pub(super) fn text_effects(&self, sql: Option<&[u8]>) -> Option<SharedEffects> {
        // None: cut off, or too long to be seen whole. Long texts are data; a setting in the middle of one is not seen.
        let sql = sql?;
        let hidden = self.hidden(sql);
        if let Some(unseen) = &self.unseen {
            unseen.read(sql, self.params.standard_strings());
        }
        let standard = self.params.standard_strings();
        let plain = glance::looks_plain(sql) || effect::is_plain(sql, standard);
        if plain && hidden.is_none() {
            return None;
        }
        let mut effects = if plain { Vec::new() } else { effect::effects(sql, standard) };
        effects.extend(hidden);
        Some(Rc::from(effects))
    }

    /// Notes what the server sent.
    pub(super) fn note_answer(&mut self, tag: u8, body: &[u8]) {
        if self.pipeline.is_own_turn() && !matches!(tag, b'S' | b'A') {
            self.note_description(tag, body);
            return self.own_message(tag);
        }
        match tag {
            b'S' => self.reported(body),
            b'Z' => {
                self.pipeline.received(tag);
                self.ready(TxStatus::parse(body).unwrap_or_default());
            }
            b'E' => {
                let answered = self.pipeline.received(tag);
                self.failed(answered);
                self.note_error(body);
            }
            b'C' => {
                self.statements += 1;
                let done = backend::command_tag(body);
                self.has_defined |= is_definition(done);
                self.note_completion(done);
                self.completed(done);
            }
            _ => {
                if tag == b'2' {
                    self.note_bound();
                }
                self.note_description(tag, body);
                self.answered(tag);
            }
        }
    }

    fn reported(&mut self, body: &[u8]) {
        let Some((name, value)) = backend::parameter_status(body) else { return };
        if name == HOT_STANDBY {
            self.hot_standby = Some(value == "on");
        } else if self.name_reset != NameReset::No && name == "application_name" {
            let name = self.params.given_name().unwrap_or_default().into_owned();
            self.params.report("application_name", &name);
        } else {
            self.params.report_in_transaction(name, value);
        }
    }

    fn own_message(&mut self, tag: u8) {
        match self.pipeline.received(tag) {
            Answered::Own(Own::Parse(Some((id, number)))) if tag == b'1' => self.is_prepared(&id, number),
            Answered::Own(Own::Query) if tag == b'E' => self.note_refused(),
            failed @ Answered::Failed(..) => self.failed(failed),
            _ => {}
        }
    }

    fn ready(&mut self, tx: TxStatus) {
        if tx == TxStatus::Idle {
            // What an explicit COMMIT or ROLLBACK has not settled was an implicit transaction that succeeded.
            self.params.committed();
            self.params.ended();
            if self.name_reset == NameReset::Open {
                self.name_reset = NameReset::Done;
            }
            self.settle_hidden();
        }
        self.tx = tx;
        self.has_worked = false;
        self.settle_unread();
    }

    fn failed(&mut self, answered: Answered) {
        if self.tx == TxStatus::Idle {
            self.forget_settings();
        }
        if let Answered::Failed(mut passed_over, kept) = answered {
            self.undo_all(kept);
            // A Parse that fails takes the unnamed statement with it; those behind it have not happened.
            if let Some(&Request::ParseUnnamed(number)) = passed_over.first() {
                self.prepared.void_unnamed(number);
                self.unprepared(None, true);
                passed_over.remove(0);
            }
            // The last first, so that each finds what it left.
            for request in passed_over.into_iter().rev() {
                self.undo(request);
            }
        }
    }

    fn completed(&mut self, tag: &[u8]) {
        let answered = self.pipeline.received(b'C');
        let effect = match &answered {
            Answered::Statement(effects, number) => effects.get(*number),
            _ => None,
        };
        self.has_worked |= !effect.is_some_and(is_harmless);
        self.succeeded(effect, tag);
    }

    fn succeeded(&mut self, effect: Option<&Effect>, tag: &[u8]) {
        match effect {
            // The tag is ROLLBACK for both: only a full one ends the transaction.
            Some(effect @ Effect::RollbackTo(_)) => self.params.succeeded(effect),
            Some(effect) => {
                self.params.succeeded(effect);
                self.note_reset(effect);
                self.settle(tag);
            }
            None => self.settle(tag),
        }
    }

    fn note_reset(&mut self, effect: &Effect) {
        if matches!(effect, Effect::Set { name, .. } if name == "application_name") {
            self.name_reset = NameReset::No;
        }
        if *effect == Effect::DiscardAll {
            self.forget_unread();
            if let Some(unseen) = &self.unseen {
                unseen.clear();
            }
        }
        if matches!(effect, Effect::DiscardAll | Effect::DiscardSequences) {
            self.discard_sequences();
        }
        let resets = match effect {
            Effect::ResetAll | Effect::DiscardAll => true,
            Effect::Reset(name) => name == "application_name",
            _ => false,
        };
        if resets && self.params.has_given_name() {
            self.name_reset = NameReset::Open;
        }
    }

    fn settle(&mut self, tag: &[u8]) {
        match tag {
            b"COMMIT" | b"PREPARE TRANSACTION" => self.params.committed(),
            b"ROLLBACK" => self.forget_settings(),
            _ => {}
        }
    }

    /// The transaction is rolled back, and its settings with it.
    pub(super) fn forget_settings(&mut self) {
        self.params.rolled_back();
        if self.name_reset == NameReset::Open {
            self.name_reset = NameReset::No;
        }
    }

    fn answered(&mut self, tag: u8) {
        if let Answered::Parsed(parsing) = self.pipeline.received(tag)
            && let Some((id, number)) = parsing.sent
        {
            self.is_prepared(&id, number);
        }
    }

    /// The backend is lost at this instant. Afterwards the state is that of a session without a backend.
    pub fn lose(&mut self) -> Loss {
        let loss = self.tracked_loss().unwrap_or_else(|| self.judge());
        self.end_tracking();
        for request in self.pipeline.abandon().rev() {
            self.undo(request);
        }
        self.tx = TxStatus::Idle;
        self.has_worked = false;
        self.params.rolled_back();
        loss
    }
}

/// True for the tag of a statement that makes, changes or drops something that others may name.
fn is_definition(tag: &[u8]) -> bool {
    [&b"CREATE "[..], b"ALTER ", b"DROP ", b"IMPORT "].iter().any(|word| tag.starts_with(word))
}

#[cfg(test)]
mod tests;
