//! A statement that the server fails because its columns have changed is run again, where nobody can tell.
//!
//! In: the client's messages, the server's errors. Out: the same messages once more, with the statement prepared anew.
//! Sans-IO. Safe is: outside a transaction, nothing of the batch has run, and the client has not been told the columns.

use super::Plan;
use crate::session::pipeline::{Own, Request};
use crate::session::state::State;
use crate::wire::backend::TxStatus;
use crate::wire::error::{ErrorView, SqlState};
use crate::wire::frame;
use crate::wire::frontend::{self, Kind};

/// Longest batch that is kept, bytes.
const LONGEST: usize = 8 * 1024;

/// The batch that begins with the use of a statement, until the server has bound it.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing is kept.
    #[default]
    None,
    /// Its Sync has not come.
    Open,
    /// It is there with its Sync, and nothing behind it has been sent.
    Whole,
}

impl Batch {
    /// Nothing is kept any more; `room` bytes stay allocated at most.
    pub(super) fn clear(&mut self, room: usize) {
        self.stage = Stage::None;
        self.bytes.clear();
        self.bytes.shrink_to(room);
    }
}

impl State {
    /// The client sends this message: it belongs to the batch that may have to be sent again, or that is none.
    pub(super) fn note_batch(&mut self, kind: Kind, message: &[u8], whole: bool) {
        let begins = kind == Kind::Bind && self.is_first() && self.is_untold(message);
        let Some(sharing) = self.sharing.as_mut() else { return };
        let batch = &mut sharing.batch_kept;
        if begins {
            batch.bytes.clear();
            batch.stage = Stage::Open;
        }
        let fits = whole && batch.bytes.len() + message.len() <= LONGEST;
        batch.stage = match (batch.stage, kind) {
            (Stage::Open, Kind::Sync) if fits => Stage::Whole,
            (Stage::Open, Kind::Bind | Kind::Describe | Kind::Execute) if fits => Stage::Open,
            _ => return batch.stage = Stage::None,
        };
        batch.bytes.extend_from_slice(message);
    }

    /// True outside a transaction with nothing of the client's under way.
    fn is_first(&self) -> bool {
        let is_setting = |request: &Request| matches!(request, Request::Own(Own::Query));
        self.tx == TxStatus::Idle && !self.pipeline.is_open() && self.pipeline.requests().all(is_setting)
    }

    /// True for a Bind of a statement with rows whose columns the client does not know.
    fn is_untold(&self, message: &[u8]) -> bool {
        let body = message.get(frame::HEADER_LEN..).unwrap_or_default();
        let statement = frontend::bind(body).and_then(|bind| self.prepared.kept(bind.statement));
        let description = statement.map(|statement| &statement.description);
        description.is_some_and(|description| {
            !description.is_told() && description.shape().is_none_or(|shape| shape.returns_rows)
        })
    }

    /// The server has bound the statement: whatever fails now is the client's to know.
    pub(in crate::session) fn note_bound(&mut self) {
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.batch_kept.stage = Stage::None;
        }
    }

    /// True for an error that the client need not see: [`State::repeat`] helps.
    pub fn may_repeat(&self, body: &[u8]) -> bool {
        let whole = self.sharing.as_ref().is_some_and(|sharing| sharing.batch_kept.stage == Stage::Whole);
        whole && is_changed_result(body) && matches!(self.pipeline.requests().next(), Some(Request::Bind))
    }

    /// The server has failed the batch: notes that, and returns what to send so that it runs after all.
    pub fn repeat(&mut self, body: &[u8]) -> Vec<u8> {
        self.server_message(b'E', body);
        self.pipeline.own_sync();
        let Some(sharing) = self.sharing.as_mut() else { return Vec::new() };
        sharing.batch_kept.stage = Stage::None;
        let kept = std::mem::take(&mut sharing.batch_kept.bytes);
        let mut out = Vec::with_capacity(2 * kept.len());
        let mut rest = kept.as_slice();
        while let Ok(Some((message, next))) = frame::split(rest) {
            let bytes = rest.get(..rest.len() - next.len()).unwrap_or_default();
            let Some(kind) = Kind::of(message.tag) else { break };
            let plan = self.translate(kind, bytes, true);
            out.extend_from_slice(self.translated());
            match plan {
                Plan::Pass => out.extend_from_slice(bytes),
                Plan::Head(head) => out.extend_from_slice(bytes.get(head..).unwrap_or_default()),
                Plan::Instead => {}
            }
            rest = next;
        }
        out
    }

    /// What a statement returns has changed since it was prepared: whoever uses the statements of this backend next has
    /// them prepared again.
    pub(in crate::session) fn note_error(&mut self, body: &[u8]) {
        if self.sharing.is_some() && is_changed_result(body) {
            self.retire_all();
        }
    }
}

/// True for the error of a statement whose columns have changed; its text may be translated.
fn is_changed_result(body: &[u8]) -> bool {
    let view = ErrorView::new(body);
    view.code() == SqlState::FEATURE_NOT_SUPPORTED && view.field(b'R') == Some("RevalidateCachedQuery")
}
