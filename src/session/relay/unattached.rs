//! Messages of a client that come while its session has no backend.
//!
//! In: one message. Out: an answer of ours, or the reason to find a backend for it.

use super::Look;
use crate::session::limbo::Step;
use crate::session::run::Session;
use crate::wire::backend::TxStatus;
use crate::wire::encode;
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend::Kind;

/// Replies of ours that may wait for a slow client before its next message is looked at, bytes.
const REPLIES_MAX: usize = 64 * 1024;

impl Session {
    /// A message while there is no backend: answered here, or the reason to find one.
    pub(super) fn look_without_backend(&mut self, kind: Kind, len: usize) -> Option<Look> {
        if self.replies.len() > REPLIES_MAX {
            return Some(Look::WriteFirst);
        }
        if let Some(limbo) = self.limbo.as_mut() {
            let message = self.up.peek(len);
            let body = message.get(HEADER_LEN..).unwrap_or_default();
            let before = self.replies.len();
            if limbo.message(kind, message, body, &mut self.state.prepared, &mut self.replies) == Step::Leave
            {
                self.limbo = None;
            }
            self.client_flushed &= self.replies.len() == before;
            self.up.drop_message();
            return None;
        }
        match kind {
            // Left over from a COPY that was lost, or asking for nothing: a server passes over them too.
            Kind::CopyData | Kind::CopyDone | Kind::CopyFail => {}
            // With a body they are malformed, as the server will say.
            Kind::Flush if len == HEADER_LEN => {}
            Kind::Sync if len == HEADER_LEN => {
                encode::ready_for_query(&mut self.replies, TxStatus::Idle.byte());
            }
            // With a backend the same message is looked at again.
            _ => return self.seek_backend(kind),
        }
        self.up.drop_message();
        if kind == Kind::Sync { Some(Look::WriteFirst) } else { None }
    }
}
