//! A transaction that says only after its BEGIN whether it reads: nothing has been done in it, so that it can begin again on
//! the other kind of node.
//!
//! In: SET TRANSACTION READ ONLY, or READ WRITE, as the first statement. Out: the same transaction where that belongs.

use tokio::time::Instant;

use super::ask;
use super::trace::Trace;
use crate::route::{Wants, Why};
use crate::session::attach::NoBackend;
use crate::session::restore;
use crate::session::run::{End, Flow, Session};
use crate::sql::judge::Access;
use crate::wire::backend::TxStatus;
use crate::wire::encode;

impl Session {
    /// True when the message at the front sends the transaction to the other kind of node.
    pub(super) fn moves_transaction(&mut self) -> bool {
        let here = self.attached.as_ref().map(|attached| attached.side);
        let bound = !self.state.visible_pins().is_empty() || self.state.has_unseen_state();
        let Some(split) = self.split.as_mut() else { return false };
        if split.begun.is_empty() || split.moves_to.is_some() || self.state.tx != TxStatus::InBlock || bound {
            return false;
        }
        let there = match ask::declares_transaction(self.up.unseen(), split.context) {
            Some(Access::ReadOnly) => Wants::Standby,
            Some(Access::ReadWrite) => Wants::Primary,
            _ => return false,
        };
        split.moves_to = Some(there).filter(|there| here != Some(*there));
        split.moves_to.is_some()
    }

    /// The transaction goes on where it is wanted: what it has done, its BEGIN, is done there again.
    pub(in crate::session) async fn move_transaction(&mut self) -> Flow {
        let Some(split) = self.split.as_mut() else { return Ok(()) };
        let Some(there) = split.moves_to.take() else { return Ok(()) };
        let begin = std::mem::take(&mut split.begun);
        split.under_way = if there == Wants::Standby { Trace::Declared } else { Trace::Write };
        if there == Wants::Standby && !self.finds_standby().await? {
            return Ok(());
        }
        if !self.roll_back().await {
            return self.settle_loss();
        }
        self.state.tx = TxStatus::Idle;
        let (here, patience) = (self.wants, Instant::now() + self.ctx.settings.load().cluster.hold_timeout);
        self.wants = there;
        if let Some(split) = self.split.as_mut() {
            (split.is_ours, split.primary_will_do) = (false, there == Wants::Standby);
            split.node = split.node.filter(|_| there == Wants::Standby);
        }
        self.end_lease();
        let found = match self.change_sides().await {
            Ok(()) => self.find_backend(patience).await,
            Err(end) => return Err(end),
        };
        match found {
            Ok(()) => {}
            Err(NoBackend::End(end)) => return Err(end),
            Err(_) => {
                // It stays where it was; the server there says what it thinks of the statement.
                self.wants = here;
                self.change_sides().await?;
                if let Err(NoBackend::End(end)) = self.find_backend(patience).await {
                    return Err(end);
                }
            }
        }
        let mut message = Vec::new();
        encode::query(&mut message, begin);
        // Behind settings of ours, before the statement that waits.
        if self.attached.is_none() || !self.up.insert(&message) {
            self.state.tx = TxStatus::InBlock;
            return self.settle_loss();
        }
        self.state.send_own(1);
        self.state.tx = TxStatus::InBlock;
        Ok(())
    }

    /// Chooses the standby, with the patience of a transaction that is declared read-only from its beginning: without that,
    /// what the session has just read on the primary would keep it there, each time anew. False: it stays.
    async fn finds_standby(&mut self) -> Result<bool, End> {
        let here = self.wants;
        let Some(mut split) = self.split.take() else { return Ok(false) };
        let (wants, _) = self.place_declared(&mut split, Why::Declared);
        self.split = Some(split);
        self.wants = wants;
        let waited = if wants == Wants::Standby { self.await_freshness().await } else { Ok(()) };
        let found = self.wants == Wants::Standby;
        self.wants = here;
        match waited {
            Ok(()) => Ok(found),
            Err(NoBackend::End(end)) => Err(end),
            Err(_) => Ok(false),
        }
    }

    /// Ends the transaction of which only the BEGIN has run. False when the backend is lost.
    async fn roll_back(&mut self) -> bool {
        let deadline = Instant::now() + self.ctx.settings.load().pool.reset_timeout;
        let mut message = Vec::new();
        encode::query(&mut message, "ROLLBACK");
        let Some(attached) = self.attached.as_mut() else { return false };
        restore::send(&mut attached.backend, &message, 1, deadline, &mut self.replies).await.is_ok()
    }
}
