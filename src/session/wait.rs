//! What a session hears while it waits for a backend or a node: its client, the mailbox, a change of topology.
//!
//! In: a session with a request. Out: what it waited for, or the reason not to wait any longer. Which node it waits for is
//! decided in `attach`.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::attach::{NoBackend, is_lost};
use super::directory::{Signal, Signals};
use super::leave::{HALF_CLOSE_PROBE, PROBE_PAUSE};
use super::run::{End, Session, shutting_down};
use super::share;
use crate::pool::{Backend, LeaseError};
use crate::route::Target;
use crate::wire::error::{PgError, SqlState};

enum Step {
    Leased(Result<Backend, LeaseError>),
    Watched(Watched),
    /// It is time to find out whether the client is still there.
    Probe,
}

/// What happened to a session that waits.
enum Watched {
    ClientGone,
    /// It sends nothing more; it may still read.
    ClientEnded,
    Signals(Signals),
}

impl Session {
    /// Leases a backend on the target while the client is watched; a node that is no longer wanted ends the attempt.
    pub(super) async fn lease(
        &mut self,
        target: Target,
        deadline: Instant,
    ) -> Result<Result<Backend, LeaseError>, NoBackend> {
        let (node, claim) = (target.node(), share::claim(self.wants, target));
        let key = self.pool_at(node);
        let registry = Arc::clone(&self.ctx.registry);
        let credentials = Arc::clone(&self.login.credentials);
        let mut lease = pin!(registry.lease(&key, claim, &credentials, deadline));
        let mut pause = HALF_CLOSE_PROBE;
        loop {
            let probing = self.is_probed();
            let step = poll_fn(|cx| match lease.as_mut().poll(cx) {
                Poll::Ready(leased) => Poll::Ready(Step::Leased(leased)),
                Poll::Pending => self.poll_watch(cx).map(Step::Watched),
            });
            let step = if probing {
                tokio::time::timeout(pause, step).await.unwrap_or(Step::Probe)
            } else {
                step.await
            };
            match step {
                Step::Leased(leased) => return Ok(leased),
                Step::Probe => {
                    self.probe_client();
                    pause = (pause * 2).min(PROBE_PAUSE);
                }
                Step::Watched(watched) => {
                    self.watched(&watched)?;
                    if is_lost(&self.ctx.store.load(), node, self.wants) {
                        return Ok(Err(LeaseError::Epoch));
                    }
                }
            }
        }
    }

    /// Waits for a change of topology until `until`.
    pub(super) async fn wait_for_change(&mut self, until: Instant) -> Result<(), NoBackend> {
        let mut pause = pin!(tokio::time::sleep_until(until));
        loop {
            if self.ctx.store.version() != self.seen_version {
                return Ok(());
            }
            let watched = poll_fn(|cx| match self.poll_watch(cx) {
                Poll::Ready(watched) => Poll::Ready(Some(watched)),
                Poll::Pending => pause.as_mut().poll(cx).map(|()| None),
            })
            .await;
            match watched {
                Some(watched) => self.watched(&watched)?,
                None => return Ok(()),
            }
        }
    }

    /// Waits for `news`, at most until `until`.
    pub(super) async fn wait_while<T>(
        &mut self,
        until: Instant,
        news: impl Future<Output = T>,
    ) -> Result<(), NoBackend> {
        let mut news = pin!(tokio::time::timeout_at(until, news));
        loop {
            let watched = poll_fn(|cx| match self.poll_watch(cx) {
                Poll::Ready(watched) => Poll::Ready(Some(watched)),
                Poll::Pending => news.as_mut().poll(cx).map(|_| None),
            })
            .await;
            match watched {
                Some(watched) => self.watched(&watched)?,
                None => return Ok(()),
            }
        }
    }

    /// True while the session waits for the first backend, or for its turn with one for its next transaction, and no
    /// server has failed it: what its client has sent before its end is run.
    fn is_first_wait(&self) -> bool {
        self.logging_in || (self.is_sharing() && !self.entry.is_held())
    }

    /// Watches the client and the mailbox, and writes what we owe the client.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Watched> {
        if let Poll::Ready(Err(_)) = self.poll_replies(cx) {
            if !self.logging_in {
                return Poll::Ready(Watched::ClientGone);
            }
            self.client_unread = true;
        }
        // What arrives is kept for the backend to come; a full buffer leaves the rest to the socket.
        while !self.client_ended && self.up.can_read() {
            match self.up.poll_read(cx, &mut self.client) {
                // A whole conversation may have come behind the startup packet: it is run, as a server does.
                Poll::Ready(Ok(0) | Err(_)) if self.is_first_wait() && self.up.has_unseen() => {
                    (self.client_ended, self.ended_early) = (true, true);
                    return Poll::Ready(Watched::ClientEnded);
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Watched::ClientGone),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        self.up.stow();
        self.entry.mailbox.poll(cx).map(Watched::Signals)
    }

    fn watched(&mut self, watched: &Watched) -> Result<(), NoBackend> {
        let signals = match *watched {
            Watched::ClientGone => return Err(End::Left.into()),
            Watched::ClientEnded => return Ok(()),
            Watched::Signals(signals) => signals,
        };
        self.signals(signals)?;
        // Nothing has been started for a session that only waits.
        if self.draining && !signals.contains(Signal::Topology) {
            return Err(End::Told(shutting_down()).into());
        }
        if signals.contains(Signal::Cancel) && !self.logging_in {
            let text = "canceling statement due to user request";
            return Err(NoBackend::Refused(PgError::error(SqlState::QUERY_CANCELED, text)));
        }
        Ok(())
    }
}
