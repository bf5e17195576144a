//! What a session does when its backend is lost: finds out what was lost with it, and tells the client what is owed.
//!
//! In: the end of a connection, of an epoch, or of the patience with a silent standby. Out: a session without a backend,
//! its client answered, or the end. What a loss means is in `state`, what the client may say next in `limbo`.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info};

use super::limbo::Limbo;
use super::run::{End, Flow, Session};
use super::split::MAY_BE_FAILOVER;
use super::state::{Answer, Loss, read_lost};
use crate::metrics::Counter;
use crate::pool::Verdict;
use crate::route::Wants;
use crate::topology::{Alive, Health, Nudge, Role};
use crate::wire::backend::TxStatus;
use crate::wire::encode;
use crate::wire::error::{ErrorView, SqlState};

/// How long a lost connection is looked into before it counts as a lost server.
const LOSS_VERDICT: Duration = Duration::from_millis(700);
/// How long a read under way waits for a standby that is down without a word.
pub(super) const SILENT_STANDBY: Duration = Duration::from_secs(3);

impl Session {
    /// True for a FATAL error that need not be the end of the session.
    pub(super) fn may_outlive(&self, error: &[u8]) -> bool {
        MAY_BE_FAILOVER.contains(&ErrorView::new(error).code()) || self.ends_for_recovery(error)
    }

    /// A read is under way on a standby that does not answer. Nobody will ever say that it is over, as a new primary says
    /// of the old one.
    pub(super) fn waits_for_silent_standby(&self) -> bool {
        let Some(attached) = self.attached.as_ref().filter(|attached| !attached.on_primary) else {
            return false;
        };
        let topology = self.ctx.store.load();
        let down = topology.node(attached.node).is_some_and(|node| node.health == Health::Down);
        down && !self.state.is_quiet()
    }

    pub(super) fn standby_silent(&mut self) -> Flow {
        self.patience = None;
        if self.waits_for_silent_standby() { self.settle_loss() } else { Ok(()) }
    }

    /// The backend has told its role: a standby that is none any more is worth a look at once.
    pub(super) fn role_reported(&mut self) {
        let Some(attached) = self.attached.as_ref() else { return };
        if self.state.hot_standby == Some(false) && attached.was_standby {
            self.ctx.nudges.nudge(attached.node, Nudge::HotStandbyOff);
        }
    }

    /// The server ended the connection: this one only, or all of them?
    pub(super) async fn backend_gone(&mut self, last_words: Option<Vec<u8>>) -> Flow {
        let Some(attached) = self.attached.as_ref() else { return Ok(()) };
        if self.dismissed || self.up.is_unread() {
            // The server has told the client why; or the client speaks no protocol, and nothing can go on.
            self.release(Verdict::Close);
            return Err(last_words.map_or(End::Cut, End::ToldByServer));
        }
        let (node, start_time, side) = (attached.node, attached.start_time, attached.side);
        let code =
            last_words.as_deref().and_then(|bytes| bytes.get(5..)).map(|body| ErrorView::new(body).code());
        self.ctx.nudges.nudge(node, nudge_of(code));
        let Some(bytes) = last_words else {
            // A server that ends one session says so: this was a crash or the network, and the client need not go too.
            return self.settle_loss();
        };
        if side == Wants::Standby && self.split.as_ref().is_some_and(|split| !split.is_endpoint()) {
            // The session is at home on the primary: it does not end with a connection to a standby.
            return self.settle_loss();
        }
        let nudges = Arc::clone(&self.ctx.nudges);
        // What it comes to belongs into the report of the outage.
        let _asking = nudges.ask();
        let verdict = nudges.still_alive(node, start_time, LOSS_VERDICT).await;
        debug!(session = self.entry.id, ?code, ?verdict, "backend lost");
        if verdict != Alive::Yes {
            return self.settle_loss();
        }
        // The server lives: somebody ended this backend, and the client is told as the server told us.
        self.release(Verdict::Close);
        Err(if self.down.is_inside_message() { End::Cut } else { End::ToldByServer(bytes) })
    }

    pub(super) fn epoch_over(&mut self) -> Flow {
        self.ctx.metrics.count(Counter::BackendEpoch);
        self.settle_loss()
    }

    /// The backend is gone for good. Tells the client what that means for what it had under way.
    pub(super) fn settle_loss(&mut self) -> Flow {
        self.forget_recovery();
        self.note_lost_writes();
        let on_standby = self.attached.as_ref().is_some_and(|attached| !attached.on_primary);
        let may_have_ended = self.state.ends_transaction();
        self.release(self.end_of_backend());
        self.up.abandon();
        let inside = self.down.is_inside_message();
        self.down.end_after_seen();
        self.began = None;
        // Told when it is known that the transaction is not run again.
        let told = self.state.params.told_in_transaction();
        let mut loss = self.state.lose();
        let before = self.state.params.unreport();
        if let Loss::Answer(answer) = &mut loss
            && self.only_reads()
        {
            answer.error = read_lost();
        }
        if self.up.is_unread() {
            // Nothing the client sends can be looked at any more.
            return Err(End::Cut);
        }
        if inside {
            info!(
                session = self.entry.id,
                user = self.login.user,
                "server lost in the middle of a long row, closing"
            );
            return Err(End::Cut);
        }
        if let Some(error) = self.state.take_lost_pins(self.ctx.settings.load().retry.listen) {
            if error.severity == crate::wire::error::Severity::Fatal {
                return Err(End::Told(error));
            }
            self.lost = Some(Box::new(error));
        }
        if self.ctx.settings.load().retry.reads && !self.is_replaying() && self.put_back(on_standby) {
            self.tell_parameters(&before);
            self.ctx.metrics.count(Counter::ReadRunAgain);
            return Ok(());
        }
        self.end_batch();
        if let Some(loss) = self.replay_instead(loss, may_have_ended, told) {
            self.tell_parameters(&before);
            self.tell_loss(loss);
        }
        Ok(())
    }

    /// The client is told what the loss means.
    pub(super) fn tell_loss(&mut self, loss: Loss) {
        match loss {
            Loss::Nothing => {}
            Loss::Block(error) => {
                self.ctx.metrics.count_error(error.code.as_str());
                self.limbo = Some(Box::new(Limbo::block(Some(error))));
            }
            Loss::Answer(answer) => self.answer_loss(&answer),
            Loss::Ready => encode::ready_for_query(&mut self.replies, TxStatus::Idle.byte()),
            Loss::Settled(answer) => self.replies.extend_from_slice(&answer),
            Loss::Doubt(doubt) => self.state.keep_doubt(doubt),
        }
    }

    /// How the lost backend ends. An old primary that lives on beside the new one would run a statement under way to its end
    /// before it noticed that nobody listens, and hold its locks: it is told to stop.
    fn end_of_backend(&self) -> Verdict {
        let Some(attached) = self.attached.as_ref() else { return Verdict::Close };
        let topology = self.ctx.store.load();
        let answers = topology.node(attached.node).is_some_and(|node| node.health == Health::Up);
        let runs = attached.is_over(&self.ctx.store) && !attached.broken && !self.state.pipeline.is_idle();
        if runs && answers { Verdict::CancelAndClose } else { Verdict::Close }
    }

    /// A server commits nothing while it is in recovery, and it may have left recovery since it spoke last.
    fn forget_recovery(&mut self) {
        let topology = self.ctx.store.load();
        let node = self.attached.as_ref().and_then(|attached| topology.node(attached.node));
        if node.is_none_or(|node| node.role != Role::Standby) {
            self.state.hot_standby = None;
        }
    }

    fn answer_loss(&mut self, answer: &Answer) {
        let status = if answer.block { TxStatus::Failed } else { TxStatus::Idle };
        info!(
            session = self.entry.id,
            user = self.login.user,
            database = self.login.database,
            sqlstate = %answer.error.code,
            "work under way was lost with its server"
        );
        self.ctx.metrics.count_error(answer.error.code.as_str());
        for _ in 0..answer.segments {
            answer.error.encode(&mut self.replies);
            encode::ready_for_query(&mut self.replies, status.byte());
        }
        if answer.skip_to_sync {
            answer.error.encode(&mut self.replies);
            self.limbo = Some(Box::new(Limbo::rest_of_batch(answer.block)));
        } else if answer.block {
            self.limbo = Some(Box::new(Limbo::block(None)));
        }
    }
}

fn nudge_of(code: Option<SqlState>) -> Nudge {
    match code {
        Some(SqlState::ADMIN_SHUTDOWN) => Nudge::Shutdown57P01,
        Some(SqlState::CRASH_SHUTDOWN) => Nudge::Crash57P02,
        Some(SqlState::CANNOT_CONNECT_NOW) => Nudge::Starting57P03,
        _ => Nudge::Eof,
    }
}
