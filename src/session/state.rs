//! What a session knows of its conversation with the server: transaction status, outstanding requests, settings, pins.
//!
//! Sans-IO: messages in both directions go in, verdicts come out. It decides nothing about nodes and never waits. The
//! question it exists for: when the backend is lost at this instant, what may the client be told?

use std::rc::Rc;

use super::params::Params;
use super::pipeline::{Answered, Pipeline, Request};
use super::prepared::{Candidate, Prepared, SharedEffects};
use crate::sql::{Effect, PinCause, effect};
use crate::wire::backend::{self, TxStatus};
use crate::wire::error::{PgError, SqlState};
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend::{self, Kind, Named};

/// What the relay does with a server message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The client gets it.
    Forward,
    /// It is not for the client.
    Swallow,
}

/// What a lost backend means to the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing was under way: nothing to say.
    Nothing,
    /// An open transaction was rolled back by the server; the next message is told.
    Block(PgError),
    /// A ROLLBACK was under way: it has happened.
    RolledBack,
    /// Work was under way: the client is told at once.
    Answer(Answer),
}

/// How outstanding requests are answered when their backend is lost.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Told for the first of them.
    pub error: PgError,
    /// ReadyForQuery messages owed; the error is repeated before each.
    pub segments: usize,
    /// The client has not sent its Sync yet: what comes before it is passed over.
    pub skip_to_sync: bool,
    /// The client is in a transaction block, which has failed.
    pub block: bool,
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
    /// The name the client gave at startup, when it gave one.
    application: Option<Box<str>>,
    /// A RESET took that name away on the backend.
    name_reset: bool,
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
            application: None,
            name_reset: false,
        }
    }

    /// The client gave this `application_name` at startup: RESET returns to it. Backends are opened without it, since
    /// sessions share them.
    pub fn set_application(&mut self, name: &str) {
        self.application = Some(name.into());
        self.params.report("application_name", name);
    }

    /// True when a RESET has left the backend without the session's `application_name` and it can be set again now. In
    /// a block it is set in the same transaction, so that a rollback undoes both.
    pub fn wants_name(&self) -> bool {
        self.name_reset && self.tx != TxStatus::Failed && self.pipeline.is_idle()
    }

    /// True for the report of a name that a RESET took away: the client's reset value is the session's, and has not
    /// changed.
    pub fn hides(&self, tag: u8, body: &[u8]) -> bool {
        tag == b'S' && self.name_reset && body.starts_with(b"application_name\0")
    }

    /// The name to set again, once.
    pub fn take_name(&mut self) -> Option<Box<str>> {
        if std::mem::take(&mut self.name_reset) { self.application.clone() } else { None }
    }

    /// True between transactions: nothing is open, outstanding or half sent, so that the backend could be another.
    pub fn is_quiet(&self) -> bool {
        self.tx == TxStatus::Idle && self.pipeline.is_idle()
    }

    /// The client sends this message: `message` with its header, only its beginning when `whole` is false.
    pub fn client_message(&mut self, kind: Kind, message: &[u8], whole: bool) {
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        let request = match kind {
            Kind::Query => Request::Query { effects: self.text_effects(frontend::query(body)), next: 0 },
            Kind::Parse => Request::Parse(self.parse(message, body, whole)),
            Kind::Bind => {
                if let Some(bind) = frontend::bind(body) {
                    self.prepared.bind(bind.portal, bind.statement);
                }
                Request::Bind
            }
            Kind::Describe => Request::Describe,
            Kind::Execute => Request::Execute(
                frontend::execute(body).and_then(|portal| self.prepared.portal(portal)).cloned(),
            ),
            Kind::Close => Request::Close(match frontend::named(body) {
                Some(Named::Statement(name)) => Some(name.into()),
                _ => None,
            }),
            Kind::Sync => Request::Sync,
            Kind::FunctionCall => Request::FunctionCall,
            Kind::CopyDone | Kind::CopyFail => Request::CopyEnd,
            // With a body it is refused, and everything up to the next Sync passed over, as with any extended message.
            Kind::Flush if message.len() > HEADER_LEN => Request::Describe,
            Kind::CopyData | Kind::Flush | Kind::Terminate => return,
        };
        self.pipeline.sent(request);
    }

    /// The effects of a text, if it has any.
    fn text_effects(&self, sql: Option<&[u8]>) -> Option<SharedEffects> {
        // None: cut off, or too long to be seen whole. Long texts are data; a setting in the middle of one is not seen.
        let sql = sql.filter(|sql| !effect::looks_plain(sql))?;
        let standard = self.params.standard_strings();
        (!effect::is_plain(sql, standard)).then(|| Rc::from(effect::effects(sql, standard)))
    }

    fn parse(&mut self, message: &[u8], body: &[u8], whole: bool) -> Option<Box<Candidate>> {
        let parse = frontend::parse(body);
        let effects = self.text_effects(parse.map(|parse| parse.sql));
        let name = parse.map_or(&b""[..], |parse| parse.name);
        if name.is_empty() {
            self.prepared.set_unnamed(effects);
            return None;
        }
        let message = if whole { message.into() } else { Box::default() };
        Some(Box::new(Candidate { name: name.into(), message, effects }))
    }

    /// The server sent this message. DataRow and CopyData need not be shown.
    pub fn server_message(&mut self, tag: u8, body: &[u8]) -> Verdict {
        match tag {
            b'S' => return self.reported(body),
            b'Z' => {
                self.pipeline.received(tag);
                self.ready(TxStatus::parse(body).unwrap_or_default());
            }
            b'E' => {
                self.pipeline.received(tag);
                self.failed();
            }
            b'C' => {
                self.statements += 1;
                self.completed(backend::command_tag(body));
            }
            _ => self.answered(tag),
        }
        Verdict::Forward
    }

    fn reported(&mut self, body: &[u8]) -> Verdict {
        let Some((name, value)) = backend::parameter_status(body) else { return Verdict::Forward };
        if name == "in_hot_standby" {
            // The client sees the endpoint's answer, which does not change.
            self.hot_standby = Some(value == "on");
            return Verdict::Swallow;
        }
        if self.hides(b'S', body) {
            return Verdict::Swallow;
        }
        self.params.report(name, value);
        Verdict::Forward
    }

    fn ready(&mut self, tx: TxStatus) {
        if tx == TxStatus::Idle {
            // What an explicit COMMIT or ROLLBACK has not settled was an implicit transaction that succeeded.
            self.params.committed();
        }
        self.tx = tx;
    }

    fn failed(&mut self) {
        if self.tx == TxStatus::Idle {
            self.params.rolled_back();
        }
    }

    fn completed(&mut self, tag: &[u8]) {
        match self.pipeline.received(b'C') {
            Answered::Statement(effects, number) => self.succeeded(effects.get(number), tag),
            _ => self.settle(tag),
        }
    }

    fn succeeded(&mut self, effect: Option<&Effect>, tag: &[u8]) {
        match effect {
            // The tag is ROLLBACK for both: only a full one ends the transaction.
            Some(effect @ Effect::RollbackTo(_)) => self.params.succeeded(effect),
            Some(effect) => {
                self.params.succeeded(effect);
                self.note_reset(effect);
                match effect {
                    Effect::DiscardAll | Effect::DeallocateAll => self.prepared.clear(),
                    Effect::Deallocate(name) => self.prepared.remove(name),
                    _ => {}
                }
                self.settle(tag);
            }
            None => self.settle(tag),
        }
    }

    fn note_reset(&mut self, effect: &Effect) {
        if matches!(effect, Effect::Set { name, .. } if name == "application_name") {
            self.name_reset = false;
        }
        let resets = match effect {
            Effect::ResetAll | Effect::DiscardAll => true,
            Effect::Reset(name) => name == "application_name",
            _ => false,
        };
        self.name_reset |= resets && self.application.is_some();
    }

    fn settle(&mut self, tag: &[u8]) {
        match tag {
            b"COMMIT" | b"PREPARE TRANSACTION" => self.params.committed(),
            b"ROLLBACK" => self.params.rolled_back(),
            _ => {}
        }
    }

    fn answered(&mut self, tag: u8) {
        match self.pipeline.received(tag) {
            Answered::Parsed(Some(candidate)) => self.prepared.insert(*candidate),
            Answered::Closed(Some(name)) => self.prepared.remove(&name),
            _ => {}
        }
    }

    /// The backend is lost at this instant. Afterwards the state is that of a session without a backend.
    pub fn lose(&mut self) -> Loss {
        let loss = self.judge();
        self.pipeline.clear();
        self.tx = TxStatus::Idle;
        self.params.rolled_back();
        loss
    }

    fn judge(&self) -> Loss {
        let in_block = self.tx != TxStatus::Idle;
        if self.pipeline.is_idle() {
            return if in_block { Loss::Block(rolled_back()) } else { Loss::Nothing };
        }
        if in_block && self.only_rollback_sent() {
            return Loss::RolledBack;
        }
        // A server in recovery commits nothing.
        let unknown = self.hot_standby != Some(true) && self.may_have_committed();
        Loss::Answer(Answer {
            error: if unknown { fate_unknown() } else { rolled_back() },
            segments: self.pipeline.requests().filter(|request| request.ends_segment()).count(),
            skip_to_sync: self.pipeline.is_open(),
            block: in_block && !unknown,
        })
    }

    fn only_rollback_sent(&self) -> bool {
        let mut requests = self.pipeline.requests();
        let first = requests.next();
        requests.next().is_none()
            && matches!(first, Some(Request::Query { effects: Some(effects), .. }) if effects[..] == [Effect::Rollback])
    }

    /// True when the outstanding requests may have committed something.
    fn may_have_committed(&self) -> bool {
        if self.tx != TxStatus::Idle {
            return self.pipeline.requests().any(|request| match request {
                Request::Query { effects: Some(effects), .. } | Request::Execute(Some(effects)) => {
                    effects.contains(&Effect::Commit)
                }
                _ => false,
            });
        }
        if self.pipeline.is_copying_in() {
            // COPY FROM STDIN commits nothing before its CopyDone.
            return false;
        }
        // Outside a block each Query commits by itself, and so does the Sync behind extended messages.
        self.pipeline.requests().any(|request| match request {
            Request::Query { effects: Some(effects), .. } => !effects.iter().all(is_harmless),
            Request::Query { effects: None, .. } | Request::Sync | Request::FunctionCall => true,
            _ => false,
        })
    }

    /// The error for the next statement when the backend took something with it that cannot be made again, if any. A
    /// listener's connection ends instead, as it would with the server's.
    pub fn take_lost_pins(&mut self) -> Option<PgError> {
        let pins: Vec<PinCause> = self.params.pins().collect();
        self.params.clear_pins();
        if pins.is_empty() {
            return None;
        }
        if pins.contains(&PinCause::Listen) {
            return Some(
                PgError::fatal(
                    SqlState::ADMIN_SHUTDOWN,
                    "terminating connection due to administrator command",
                )
                .with_detail("The server that this session listened on is gone."),
            );
        }
        let names: Vec<&str> = pins.into_iter().map(PinCause::as_str).collect();
        Some(
            PgError::error(
                SqlState::SERIALIZATION_FAILURE,
                "session state was lost with the server that held it",
            )
            .with_detail(format!("Lost: {}.", names.join(", ")))
            .with_hint("Set the session up again and retry."),
        )
    }
}

/// Effects that commit nothing: if they were lost, doing them again is safe.
fn is_harmless(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Begin
            | Effect::Rollback
            | Effect::Set { .. }
            | Effect::Reset(_)
            | Effect::ResetAll
            | Effect::Deallocate(_)
            | Effect::DeallocateAll
    )
}

/// 40001: the server has rolled the transaction back.
pub fn rolled_back() -> PgError {
    PgError::error(
        SqlState::SERIALIZATION_FAILURE,
        "the connection to the server was lost, the transaction was rolled back",
    )
    .with_hint("Nothing of the transaction was kept: it is safe to run it again.")
}

/// 08007: nobody can know.
pub fn fate_unknown() -> PgError {
    PgError::error(
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        "the connection to the server was lost before it answered, the fate of the transaction is unknown",
    )
    .with_hint("It may or may not have committed: look before you run it again.")
}

#[cfg(test)]
mod tests;
