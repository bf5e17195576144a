//! A session whose LISTENs were lost with its backend listens again on the new primary (`retry.listen`).
//!
//! In: the channels it has listened to. Out: a backend that listens to them, found unasked: its client may do nothing but
//! wait for notifications. Those sent while nobody listened are lost.

use tokio::time::Instant;
use tracing::debug;

use super::attach::NoBackend;
use super::restore::{self, RestoreError};
use super::run::{End, Flow, Session};
use super::state::listener_lost;
use crate::metrics::Counter;
use crate::route::Wants;

impl Session {
    /// True when nobody listens for the session, and nothing else is to be settled first.
    pub(super) fn is_unheard(&self) -> bool {
        self.attached.is_none()
            && self.limbo.is_none()
            && !self.client_ended
            && self.state.params.owes_channels()
    }

    /// The new primary is to listen before the client says anything.
    pub(super) async fn listen_again(&mut self) -> Flow {
        self.wants = Wants::Primary;
        self.end_batch();
        self.change_sides().await?;
        let patience = self.ctx.settings.load().cluster.hold_timeout;
        match self.find_backend(Instant::now() + patience).await {
            Ok(()) => self.reapply_name().await,
            Err(NoBackend::End(end)) => Err(end),
            // As if it had been on the server that has gone.
            Err(NoBackend::Refused(_) | NoBackend::RefusedByServer(..)) => Err(End::Told(listener_lost())),
        }
    }

    /// The backend just taken listens to what the last one did. False when it is lost.
    pub(super) async fn relisten(&mut self) -> Result<bool, NoBackend> {
        let Some(statements) = self.state.params.owed_channels() else { return Ok(true) };
        let Some(attached) = self.attached.as_mut().filter(|attached| attached.on_primary) else {
            return Ok(true);
        };
        let deadline = Instant::now() + self.ctx.settings.load().pool.reset_timeout;
        match restore::run(&mut attached.backend, &statements, deadline, &mut self.replies).await {
            Ok(()) => {
                debug!(session = self.entry.id, "listens again");
                self.ctx.metrics.count(Counter::ListenedAgain);
                self.state.params.listens_again();
                if self.is_sharing() {
                    self.note_pinned(true);
                }
                self.tell();
                Ok(true)
            }
            Err(RestoreError::Refused(_)) => Err(End::Told(listener_lost()).into()),
            Err(RestoreError::Lost | RestoreError::Stranger) => {
                self.settle_loss()?;
                Ok(false)
            }
        }
    }
}
