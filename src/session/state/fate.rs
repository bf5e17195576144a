//! What became of the work that was under way when a backend was lost, as far as can be known, and what was lost with it.
//!
//! In: the outstanding requests and the pins. Out: a [`Loss`], and errors for the client. Sans-IO.

use super::State;
use crate::session::pipeline::Request;
use crate::session::resolve::Doubt;
use crate::sql::{Effect, PinCause};
use crate::wire::backend::TxStatus;
use crate::wire::error::{PgError, SqlState};

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
        if in_block && self.only_rollback_sent() {
            return Loss::RolledBack;
        }
        // A server in recovery commits nothing; whatever becomes of a COMMIT, there is no block behind it.
        let commits = self.may_have_committed();
        let unknown = self.hot_standby != Some(true) && commits;
        Loss::Answer(Answer {
            error: if unknown { fate_unknown() } else { rolled_back() },
            segments: self.pipeline.requests().filter(|request| request.is_owed_ready()).count(),
            skip_to_sync: self.pipeline.is_open(),
            block: in_block && !commits,
        })
    }

    fn only_rollback_sent(&self) -> bool {
        let mut requests = self.pipeline.requests().filter(|request| !request.is_ours());
        let first = requests.next();
        requests.next().is_none()
            && matches!(first, Some(Request::Query { effects: Some(effects), .. }) if effects[..] == [Effect::Rollback])
    }

    /// True when the outstanding requests may have committed something.
    fn may_have_committed(&self) -> bool {
        if self.tx != TxStatus::Idle {
            return self.may_have_left_block();
        }
        if self.pipeline.is_copying_in() {
            // COPY FROM STDIN commits nothing before its CopyDone.
            return false;
        }
        // Outside a block each Query commits by itself, and so does the Sync behind extended messages: what they have done
        // that was answered already, and what they may do.
        let (mut works, mut begins) = (self.has_worked, false);
        self.pipeline.requests().any(|request| match request {
            Request::Query { effects: Some(effects), .. } => !effects.iter().all(is_harmless),
            Request::Query { effects: None, .. } | Request::FunctionCall => true,
            Request::Execute { effects, .. } => {
                let harmless = effects.as_deref().is_some_and(|effects| effects.iter().all(is_harmless));
                works |= !harmless;
                begins |= harmless;
                false
            }
            Request::Sync => std::mem::take(&mut works) || !std::mem::take(&mut begins),
            _ => false,
        })
    }

    /// The same inside a transaction block: by its COMMIT, or behind its ROLLBACK.
    fn may_have_left_block(&self) -> bool {
        let (mut rolled_back, mut executed) = (false, false);
        for request in self.pipeline.requests() {
            let (Request::Query { effects, .. } | Request::Execute { effects, .. }) = request else {
                if executed && matches!(request, Request::Sync | Request::FunctionCall) {
                    return true;
                }
                continue;
            };
            let effects = effects.as_deref().unwrap_or(&[Effect::None]);
            if effects.contains(&Effect::Commit) {
                return true;
            }
            let acts = rolled_back && !effects.iter().all(is_harmless);
            if acts && matches!(request, Request::Query { .. }) {
                return true;
            }
            executed |= acts;
            rolled_back |= effects.contains(&Effect::Rollback);
        }
        false
    }

    /// The error for the next statement when the backend took something with it that cannot be made again, if any. A
    /// listener's connection ends instead, as it would with the server's.
    pub fn take_lost_pins(&mut self) -> Option<PgError> {
        let told = |cause: &PinCause| {
            // A server tells of these itself, when they are used.
            !matches!(cause, PinCause::Sequence | PinCause::Seed | PinCause::Library | PinCause::Prepare)
        };
        let pins: Vec<PinCause> = self.params.pins().iter().filter(told).collect();
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
