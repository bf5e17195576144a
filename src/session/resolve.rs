//! A COMMIT whose answer was lost: what became of it is found out, where it can be (`retry.resolve_commit`).
//!
//! In: what the server said of the transaction before its COMMIT was sent (`track`), and the primary of now, which is asked
//! (`ask`). Out: the true answer for the client, or the reason why nobody can know. Whether what the primary says is about
//! this transaction at all is decided in `topology`: transaction ids are given again after a failover.

mod ask;
mod track;

use tokio::time::{Duration, Instant};
use tracing::info;

pub use track::{Before, Doubt, Tracker};

use super::attach::{NO_VERSION, NoBackend};
use super::relay::Look;
use super::restore::{self, RestoreError};
use super::run::{End, Flow, Session};
use super::state::{Loss, fate_unknown, rolled_back};
use crate::metrics::Counter;
use crate::pool::{Backend, Verdict};
use crate::route::{Target, Wants};
use crate::topology::{Facts, Here, Line, NodeId, Origin, Topology, line};
use crate::wire::backend::TxStatus;
use crate::wire::encode;
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend::Kind;

/// Pause before the primary is asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Committed,
    /// It has not happened; why, in words.
    RolledBack(String),
    /// Nobody can know; why, in words.
    Unknown(String),
}

/// What one attempt to find out has led to.
enum Attempt {
    Found(Fate),
    /// Not yet: what it waits for.
    Wait(&'static str),
}

impl Session {
    /// Sends what of ours is due. `None` when the client's next message may be looked at.
    pub(super) fn settle_own(&mut self) -> Option<Look> {
        self.state.tracker.as_ref()?;
        self.attached.as_ref()?;
        if self.state.is_due() {
            if !self.up.insert(&[]) {
                return Some(Look::WriteFirst);
            }
            let bytes = self.state.take_due();
            let put = self.up.insert(&bytes);
            debug_assert!(put, "an insertion was possible just now");
        }
        self.state.must_hold().then(|| self.hold())
    }

    /// What the client sends meanwhile is read, so that its end is noticed, and waits.
    fn hold(&self) -> Look {
        if self.client_ended { Look::Wait } else { Look::Done }
    }

    /// The client's message is about to be sent to the backend in hand: what is sent before it, or must it wait?
    pub(super) fn track(&mut self, kind: Kind, len: usize, whole: bool) -> Option<Look> {
        self.state.tracker.as_ref()?;
        let on_primary = self.attached.as_ref().is_some_and(|attached| attached.on_primary);
        if !on_primary {
            return None;
        }
        if self.is_sharing() {
            // Whether its statements can be found must be certain before a BEGIN of ours waits for the rest of its batch.
            let body = self.up.peek(len).get(HEADER_LEN..).unwrap_or_default();
            if self.state.must_wait(kind, body) {
                return Some(Look::Wait);
            }
        }
        let message = self.up.peek(len);
        let may_wrap =
            whole && !self.can_run_again() && !(self.is_sharing() && self.may_not_pin(kind, message));
        let before = self.state.before(kind, whole, message, self.up.unseen(), may_wrap);
        if matches!(before, Before::Ask(_) | Before::Begin) && !self.up.insert(&[]) {
            return Some(Look::WriteFirst);
        }
        let bytes = match before {
            Before::Pass => return None,
            Before::Hold => return Some(self.hold()),
            Before::Ask(is_synced) => self.state.ask_facts(is_synced),
            Before::Begin => self.state.begin_wrapping(kind),
        };
        let put = self.up.insert(&bytes);
        debug_assert!(put, "an insertion was possible just now");
        if before == Before::Begin { None } else { Some(self.hold()) }
    }

    /// Finds out what became of a COMMIT and tells the client.
    pub(super) async fn resolve(&mut self) -> Flow {
        let Some(doubt) = self.state.take_doubt() else { return Ok(()) };
        let wants = std::mem::replace(&mut self.wants, Wants::Primary);
        self.entry.set_held(true);
        let found = self.find_fate(&doubt.facts).await;
        self.entry.set_held(false);
        self.wants = wants;
        // The next request looks at the topology anew.
        self.seen_version = NO_VERSION;
        let fate = found?;
        info!(session = self.entry.id, user = self.login.user, ?fate, "looked up an unanswered COMMIT");
        let error = match fate {
            Fate::Committed => {
                self.ctx.metrics.count(Counter::CommitFound);
                self.replies.extend_from_slice(&doubt.answer);
                return Ok(());
            }
            Fate::RolledBack(why) => {
                self.ctx.metrics.count(Counter::CommitNotFound);
                let loss = Loss::answer(rolled_back().with_detail(why), 1, false);
                if let Some(loss) = self.replay(loss, Vec::new()) {
                    self.tell_loss(loss);
                }
                return Ok(());
            }
            Fate::Unknown(why) => {
                self.ctx.metrics.count(Counter::CommitUnknown);
                fate_unknown().with_detail(why)
            }
        };
        self.ctx.metrics.count_error(error.code.as_str());
        error.encode(&mut self.replies);
        encode::ready_for_query(&mut self.replies, TxStatus::Idle.byte());
        Ok(())
    }

    async fn find_fate(&mut self, facts: &Facts) -> Result<Fate, End> {
        let limit = self.ctx.settings.load().cluster.hold_timeout;
        let deadline = Instant::now() + limit;
        loop {
            let waits_for = match self.try_fate(facts, deadline).await {
                Ok(Attempt::Found(fate)) => return Ok(fate),
                Ok(Attempt::Wait(reason)) => reason,
                Err(NoBackend::End(end)) => return Err(end),
                Err(_) => return Ok(Fate::Unknown("It was canceled while it was looked up.".to_owned())),
            };
            if Instant::now() >= deadline {
                let seconds = limit.as_secs_f64();
                return Ok(Fate::Unknown(format!("{waits_for} Looked for {seconds:.1} s.")));
            }
        }
    }

    /// Asks the primary of now, or waits a little.
    async fn try_fate(&mut self, facts: &Facts, deadline: Instant) -> Result<Attempt, NoBackend> {
        self.seen_version = self.ctx.store.version();
        let topology = self.ctx.store.load();
        let attempt = match topology.writable_primary() {
            Some(node) => self.ask_fate(node, &topology, facts, deadline).await?,
            None => Attempt::Wait("No primary accepts writes."),
        };
        if matches!(attempt, Attempt::Wait(_)) {
            self.ask_for_news(&topology);
            self.wait_for_change(deadline.min(Instant::now() + PAUSE)).await?;
        }
        Ok(attempt)
    }

    async fn ask_fate(
        &mut self,
        node: NodeId,
        topology: &Topology,
        facts: &Facts,
        deadline: Instant,
    ) -> Result<Attempt, NoBackend> {
        let settings = self.ctx.settings.load_full();
        let until = deadline.min(Instant::now() + settings.pool.wait_timeout);
        let Ok(mut backend) = self.lease(Target::Primary(node), until).await? else {
            return Ok(Attempt::Wait("The primary gave no connection."));
        };
        let until = deadline.min(Instant::now() + settings.pool.reset_timeout);
        let answer = question(&mut backend, facts, topology.origin.as_ref(), until, &mut self.replies).await;
        let verdict = match answer {
            Err(_) => Verdict::Close,
            Ok(_) if self.is_sharing() => Verdict::Clean,
            Ok(_) => Verdict::Reset,
        };
        self.ctx.registry.release(backend, verdict);
        let now = self.ctx.store.load();
        if now.epoch != topology.epoch || now.primary != Some(node) {
            return Ok(Attempt::Wait("The primary changed."));
        }
        Ok(answer.unwrap_or(Attempt::Wait("The primary did not answer.")))
    }
}

/// Asks a server whether the transaction is part of its history.
async fn question(
    backend: &mut Backend,
    facts: &Facts,
    origin: Option<&Origin>,
    deadline: Instant,
    heard: &mut Vec<u8>,
) -> Result<Attempt, RestoreError> {
    let here = restore::ask(backend, ask::HERE, deadline, heard).await?;
    let Some((here, next_xid)) = here.as_deref().and_then(ask::read_here) else {
        return Ok(Attempt::Wait("The primary is in recovery."));
    };
    match (line(facts, &here, origin), facts.xid) {
        (Line::Lost(why), _) => Ok(Attempt::Found(Fate::RolledBack(why))),
        (Line::Unknown(why), _) => Ok(unknown(why, &here, origin)),
        (Line::Ours, None) => Ok(Attempt::Found(Fate::Committed)),
        (Line::Ours, Some(xid)) => {
            let status = restore::ask(backend, &ask::status(xid), deadline, heard).await?;
            Ok(read(status.as_deref(), xid, next_xid))
        }
    }
}

/// The topology may not have seen yet what the server says of itself.
fn unknown(why: &'static str, here: &Here, origin: Option<&Origin>) -> Attempt {
    let seen = origin.is_some_and(|origin| origin.is_of(here));
    if seen { Attempt::Found(Fate::Unknown(why.to_owned())) } else { Attempt::Wait(why) }
}

/// Reads `pg_xact_status` of a transaction that is part of the server's history; `None`: it refused to answer.
fn read(status: Option<&[u8]>, xid: u64, next_xid: u64) -> Attempt {
    let rolled_back = |why: &str| Attempt::Found(Fate::RolledBack(why.to_owned()));
    match status {
        Some(b"committed") => Attempt::Found(Fate::Committed),
        Some(b"aborted") => rolled_back("The server says that it was aborted."),
        Some(b"in progress") => Attempt::Wait("The transaction is still in progress on the server."),
        None if xid >= next_xid => rolled_back("The server has yet to give the transaction's number."),
        _ => Attempt::Found(Fate::Unknown("The server does not remember the transaction.".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Lsn, Timeline};

    /// A session may ask a server that has just recovered before a prober has.
    #[test]
    fn nothing_is_unknown_before_the_topology_has_looked() {
        let (timeline, start_time) = (Timeline(1), 10);
        let here = Here { timeline, start_time, replayed: Some(Lsn(9000)) };
        let seen = Origin {
            timeline,
            parent: Some(timeline),
            start_time,
            previous_start: Some(10),
            fork: here.replayed,
            next_xid: None,
        };
        assert!(matches!(unknown("", &here, Some(&seen)), Attempt::Found(Fate::Unknown(_))));
        let before = [
            None,
            Some(Origin { start_time: 9, ..seen }),
            Some(Origin { fork: None, ..seen }),
            Some(Origin { fork: Some(Lsn(5000)), ..seen }),
        ];
        for origin in before {
            assert!(matches!(unknown("", &here, origin.as_ref()), Attempt::Wait(_)), "{origin:?}");
        }
    }
}
