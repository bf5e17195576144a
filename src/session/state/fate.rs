//! What became of the work that was under way when a backend was lost, as far as can be known, and what was lost with it.
//!
//! In: the outstanding requests and the pins. Out: a [`Loss`], and errors for the client. Sans-IO.

use super::State;
use crate::session::pipeline::Request;
use crate::session::prepared::SharedEffects;
use crate::session::resolve::Doubt;
use crate::sql::{Effect, PinCause};
use crate::wire::backend::TxStatus;
use crate::wire::encode;
use crate::wire::error::{PgError, SqlState};

/// What a lost backend means to the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing was under way: nothing to say.
    Nothing,
    /// An open transaction was rolled back by the server; the next message is told.
    Block(PgError),
    /// Work was under way: the client is told at once.
    Answer(Answer),
    /// The client knows how its statement ended, and waits for ReadyForQuery only.
    Ready,
    /// It has ended well, whatever became of the server: these messages are what the client waits for.
    Settled(Vec<u8>),
    /// A COMMIT was under way whose fate can be found out.
    Doubt(Box<Doubt>),
}

impl Loss {
    /// So many ReadyForQuery are owed, with this error before each; all outside a transaction block.
    pub fn answer(error: PgError, segments: usize, skip_to_sync: bool) -> Self {
        Self::Answer(Answer { error, segments, skip_to_sync, block: false })
    }
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

/// What became of outstanding requests.
#[derive(Clone, Copy)]
struct Fate {
    may_have_committed: bool,
    /// The client is in a transaction block behind them.
    in_block: bool,
}

impl State {
    /// True when what is under way may end the transaction.
    pub fn ends_transaction(&self) -> bool {
        let ends = |effect: &Effect| matches!(effect, Effect::Commit | Effect::Rollback);
        self.pipeline.requests().any(|request| match request {
            Request::Query { effects: Some(effects), .. }
            | Request::Execute { effects: Some(effects), .. } => effects.iter().any(ends),
            _ => false,
        })
    }

    pub(super) fn judge(&self) -> Loss {
        let in_block = self.tx != TxStatus::Idle;
        let mut requests = self.pipeline.requests();
        if self.pipeline.is_idle() || (!self.pipeline.is_open() && requests.all(Request::is_ours)) {
            return if in_block { Loss::Block(rolled_back()) } else { Loss::Nothing };
        }
        if in_block && let Some(answer) = self.answer_to_rollback() {
            return Loss::Settled(answer);
        }
        // A server in recovery commits nothing; whatever becomes of a COMMIT, there is no block behind it.
        let fate = self.fate();
        let unknown = self.hot_standby != Some(true) && fate.may_have_committed;
        let segments = self.pipeline.requests().filter(|request| request.is_owed_ready()).count();
        // A client that goes on behind its BEGIN without waiting for an answer means all of it to be one transaction: what it
        // sends next must not run outside.
        let block = fate.in_block && (in_block || segments > 1);
        Loss::Answer(Answer {
            error: if unknown { fate_unknown() } else { rolled_back() },
            segments,
            skip_to_sync: self.pipeline.is_open(),
            block,
        })
    }

    /// What is left of the answer to a ROLLBACK, when nothing but that is under way: it has happened, wherever the server
    /// was with it.
    fn answer_to_rollback(&self) -> Option<Vec<u8>> {
        if self.pipeline.is_open() || self.pipeline.is_skipping() {
            return None;
        }
        let is_rollback = |effects: &SharedEffects| effects[..] == [Effect::Rollback];
        let (mut answer, mut rolled_back) = (Vec::new(), false);
        for request in self.pipeline.requests().filter(|request| !request.is_ours()) {
            match request {
                Request::ParseUnnamed(_) => encode::message(&mut answer, b'1', |_| {}),
                Request::Bind => encode::message(&mut answer, b'2', |_| {}),
                Request::DescribePortal => encode::message(&mut answer, b'n', |_| {}),
                Request::Fake(tag, None) => encode::message(&mut answer, *tag, |_| {}),
                Request::Execute { effects: Some(effects), .. } if is_rollback(effects) && !rolled_back => {
                    encode::command_complete(&mut answer, "ROLLBACK");
                    rolled_back = true;
                }
                Request::Query { effects: Some(effects), next, .. }
                    if is_rollback(effects) && !rolled_back =>
                {
                    if *next == 0 {
                        encode::command_complete(&mut answer, "ROLLBACK");
                    }
                    encode::ready_for_query(&mut answer, TxStatus::Idle.byte());
                    rolled_back = true;
                }
                Request::Sync if rolled_back => {
                    encode::ready_for_query(&mut answer, TxStatus::Idle.byte());
                }
                _ => return None,
            }
        }
        rolled_back.then_some(answer)
    }

    /// What the outstanding requests may have done, and where they end.
    fn fate(&self) -> Fate {
        let mut fate = Fate { may_have_committed: false, in_block: self.tx != TxStatus::Idle };
        if !fate.in_block && self.pipeline.is_copying_in() {
            // COPY FROM STDIN commits nothing before its CopyDone.
            return fate;
        }
        // Outside a block each Query commits by itself, and so does the Sync behind extended messages: what they have done
        // that was answered already, and what they may do. Whether a BEGIN under way has begun anything is not known.
        let mut is_outside = !fate.in_block;
        let (mut works, mut idles) = (self.has_worked, false);
        for request in self.pipeline.requests() {
            let (effects, is_query) = match request {
                Request::Query { effects, .. } => (effects, true),
                Request::Execute { effects, .. } => (effects, false),
                Request::Sync => {
                    let commits = std::mem::take(&mut works) || !std::mem::take(&mut idles);
                    fate.may_have_committed |= is_outside && commits;
                    continue;
                }
                Request::FunctionCall => {
                    fate.may_have_committed |= is_outside;
                    continue;
                }
                _ => continue,
            };
            let step = Step::of(effects.as_deref().unwrap_or_default(), is_outside);
            fate.may_have_committed |= step == Step::Commit || (step == Step::Work && is_outside && is_query);
            works |= step == Step::Work && !is_query;
            idles |= step != Step::Work;
            if matches!(step, Step::Commit | Step::Rollback) {
                (fate.in_block, is_outside, works) = (false, true, false);
            }
            fate.in_block |= step == Step::Begin;
        }
        fate
    }

    /// The error for the next statement when the backend took something with it that cannot be made again, if any. A
    /// listener's connection ends instead, as it would with the server's, unless `relisten` and another backend can listen
    /// to the same.
    pub fn take_lost_pins(&mut self, relisten: bool) -> Option<PgError> {
        let told = |cause: &PinCause| {
            // A server tells of these itself, when they are used.
            !matches!(cause, PinCause::Sequence | PinCause::Seed | PinCause::Library | PinCause::Prepare)
        };
        let mut pins: Vec<PinCause> = self.params.pins().iter().filter(told).collect();
        if relisten && self.params.lose_channels() {
            pins.retain(|cause| *cause != PinCause::Listen);
        }
        self.params.clear_pins();
        if pins.is_empty() {
            return None;
        }
        if pins.contains(&PinCause::Listen) {
            return Some(listener_lost());
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

/// What a Query or an Execute does to the transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It ends with a commit, or may have one in it.
    Commit,
    Rollback,
    Begin,
    Harmless,
    Work,
}

impl Step {
    /// By the effects of its statements, of which there are none when none has an effect.
    fn of(effects: &[Effect], is_outside: bool) -> Self {
        match effects {
            [Effect::Rollback] => Self::Rollback,
            [Effect::Begin] => Self::Begin,
            [] => Self::Work,
            _ if effects.iter().all(is_harmless) => Self::Harmless,
            _ if effects.contains(&Effect::Commit) => Self::Commit,
            // Behind it may come what commits by itself.
            _ if !is_outside && effects.contains(&Effect::Rollback) => Self::Commit,
            _ => Self::Work,
        }
    }
}

/// Effects that commit nothing: if they were lost, doing them again is safe.
pub(super) fn is_harmless(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Begin
            | Effect::Rollback
            | Effect::Set { .. }
            | Effect::Characteristics(_)
            | Effect::Reset(_)
            | Effect::ResetAll
            | Effect::Deallocate(_)
            | Effect::DeallocateAll
    )
}

/// 57P01: what a listener is told, as by its server.
pub fn listener_lost() -> PgError {
    PgError::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
        .with_detail("The server that this session listened on is gone.")
}

/// 40001: the server has rolled the transaction back.
pub fn rolled_back() -> PgError {
    PgError::error(
        SqlState::SERIALIZATION_FAILURE,
        "the connection to the server was lost, the transaction was rolled back",
    )
    .with_hint("Nothing of the transaction was kept: it is safe to run it again.")
}

/// 40001: what was under way only reads.
pub fn read_lost() -> PgError {
    PgError::error(
        SqlState::SERIALIZATION_FAILURE,
        "the connection to the server was lost in the middle of the answer",
    )
    .with_hint("The statement only reads: it is safe to run it again.")
}

/// 08007: nobody can know.
pub fn fate_unknown() -> PgError {
    PgError::error(
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        "the connection to the server was lost before it answered, the fate of the transaction is unknown",
    )
    .with_hint("It may or may not have committed: look before you run it again.")
}
