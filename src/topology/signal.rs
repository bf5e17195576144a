//! Passive evidence from sessions and pools to the probers, and the probers' signs of life back to sessions.
//!
//! Nobody ever blocks or queues here: a nudge is a bit per node and reason, a sign of life is the latest one.
//! What a nudge means is decided by the prober and `decide`, never by who sends it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::answers::Answers;
use super::node::NodeId;

/// Why a node should be asked at once.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u32)]
pub enum Nudge {
    /// 57P02: another server process of this node crashed; a restart in place follows.
    Crash57P02 = 1,
    /// A connection ended without a word.
    Eof = 1 << 1,
    /// A backend opened on a standby now says that recovery is over.
    HotStandbyOff = 1 << 2,
    /// A write was refused as read-only: this node is no primary.
    ReadOnly25006 = 1 << 3,
    /// ECONNREFUSED.
    Refused = 1 << 4,
    /// ECONNRESET or EPIPE.
    Reset = 1 << 5,
    /// 57P01: the backend was terminated, perhaps the whole server.
    Shutdown57P01 = 1 << 6,
    /// 57P03: the server is starting up, shutting down or in crash recovery.
    Starting57P03 = 1 << 7,
    /// A connection attempt or an answer took too long.
    Timeout = 1 << 8,
    /// Somebody waits for a fresh sample; no sign of trouble.
    Wanted = 1 << 9,
}

/// The set of reasons that came in since the prober last looked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Nudged(u32);

impl Nudged {
    /// Did this reason come in?
    pub fn contains(self, why: Nudge) -> bool {
        self.0 & why as u32 != 0
    }

    /// Did nothing come in?
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// These reasons and those.
    #[must_use]
    pub fn and(self, more: Nudged) -> Nudged {
        Nudged(self.0 | more.0)
    }

    /// Did anything come in that hints at trouble with the node (all but [`Nudge::Wanted`])?
    pub fn trouble(self) -> bool {
        self.0 & !(Nudge::Wanted as u32) != 0
    }
}

/// The latest signs of life, or of their absence, of one node. Probes are numbered in the order of sending.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Proof {
    /// Highest number of a probe that was answered.
    pub answered: u64,
    /// Highest number of a probe that failed: refused, cut, or silent beyond the deadline.
    pub failed: u64,
    /// Postmaster start time behind the last answer, microseconds since the Unix epoch.
    pub start_time: Option<i64>,
}

/// Whether a node outlived the loss of a connection to it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Alive {
    /// It did not: a probe sent after the loss failed, or it has restarted.
    Gone,
    /// No answer either way in time.
    Unsure,
    /// It did: two probes sent after the loss, 100 ms apart, were answered by the same postmaster. Only that
    /// connection was ended (`pg_terminate_backend`, an idle timeout).
    Yes,
}

#[derive(Default)]
struct Slot {
    bits: AtomicU32,
    notify: Notify,
    proof: watch::Sender<Proof>,
}

/// One mailbox per node and one counter of probes, shared by all threads.
pub struct Nudges {
    slots: Vec<Slot>,
    sent: AtomicU64,
    answers: Answers,
    asking: AtomicU64,
}

/// A session that has lost its server and finds out what that means; to be dropped when that is known and told.
pub struct Asking<'a>(&'a AtomicU64);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// A fast shutdown ends all server processes within about 25 ms; an answer this much later was not luck.
const SECOND_LOOK: Duration = Duration::from_millis(100);

impl Nudges {
    /// Mailboxes for `nodes` nodes.
    pub fn new(nodes: usize) -> Self {
        Nudges {
            slots: (0..nodes).map(|_| Slot::default()).collect(),
            sent: AtomicU64::new(0),
            answers: Answers::default(),
            asking: AtomicU64::new(0),
        }
    }

    /// A session begins to ask.
    pub fn ask(&self) -> Asking<'_> {
        self.asking.fetch_add(1, Ordering::Relaxed);
        Asking(&self.asking)
    }

    /// How many sessions ask at this moment.
    pub fn asking(&self) -> u64 {
        self.asking.load(Ordering::Acquire)
    }

    /// Where sessions tell of the first answer after an outage.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Says that `node` should be asked at once. Costs one atomic operation when it was already said.
    pub fn nudge(&self, node: NodeId, why: Nudge) {
        if let Some(slot) = self.slots.get(node.index()) {
            let before = slot.bits.fetch_or(why as u32, Ordering::SeqCst);
            if before & why as u32 == 0 {
                slot.notify.notify_one();
            }
        }
    }

    /// Prober side: waits until somebody nudges `node` (for ever, when there is no such node).
    pub async fn notified(&self, node: NodeId) {
        match self.slots.get(node.index()) {
            Some(slot) => slot.notify.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Prober side: takes what came in for `node`.
    pub fn take(&self, node: NodeId) -> Nudged {
        Nudged(self.slots.get(node.index()).map_or(0, |slot| slot.bits.swap(0, Ordering::SeqCst)))
    }

    /// Prober side: numbers a probe that is about to be sent, from 1. No two probes, of whatever nodes, have one number.
    pub fn probe_sent(&self) -> u64 {
        self.sent.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The highest number given to a probe: one with a higher number, of whatever node, is sent after this call. One
    /// atomic load.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Prober side: the probe with this number was answered by the postmaster started at `start_time`.
    pub fn probe_answered(&self, node: NodeId, number: u64, start_time: Option<i64>) {
        self.prove(node, |proof| {
            proof.answered = proof.answered.max(number);
            proof.start_time = start_time;
        });
    }

    /// Prober side: the probe with this number failed.
    pub fn probe_failed(&self, node: NodeId, number: u64) {
        self.prove(node, |proof| proof.failed = proof.failed.max(number));
    }

    fn prove(&self, node: NodeId, change: impl FnOnce(&mut Proof)) {
        if let Some(slot) = self.slots.get(node.index()) {
            slot.proof.send_modify(change);
        }
    }

    /// A ticket: a probe with a higher number is sent after this call. Also asks the prober for one.
    pub fn probe_after(&self, node: NodeId) -> u64 {
        let ticket = self.sent();
        self.nudge(node, Nudge::Wanted);
        ticket
    }

    /// The signs of life of `node`, to wait for one above a ticket.
    pub fn proofs(&self, node: NodeId) -> Option<watch::Receiver<Proof>> {
        self.slots.get(node.index()).map(|slot| slot.proof.subscribe())
    }

    /// Tells the end of one connection from the end of the server, to be called when a connection was lost.
    ///
    /// `start_time` is the postmaster's as it was known before the loss (`None`: as the prober knows it now).
    /// Takes at least 100 ms to say [`Alive::Yes`] and at most `within`.
    pub async fn still_alive(&self, node: NodeId, start_time: Option<i64>, within: Duration) -> Alive {
        let deadline = Instant::now() + within;
        let Some(mut proofs) = self.proofs(node) else { return Alive::Unsure };
        let start_time = start_time.or(proofs.borrow().start_time);
        for look in 0..2 {
            if look > 0 {
                sleep(SECOND_LOOK).await;
            }
            let ticket = self.probe_after(node);
            let newer = proofs.wait_for(|p| p.answered > ticket || p.failed > ticket);
            let Ok(Ok(proof)) = timeout_at(deadline, newer).await else { return Alive::Unsure };
            if proof.failed > ticket || start_time.is_none() || proof.start_time != start_time {
                return Alive::Gone;
            }
        }
        Alive::Yes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NODE: NodeId = NodeId(0);

    #[tokio::test]
    async fn nudges_collect_until_taken() {
        let nudges = Nudges::new(1);
        nudges.nudge(NODE, Nudge::Eof);
        nudges.nudge(NODE, Nudge::Wanted);
        nudges.nudge(NodeId(9), Nudge::Eof);
        nudges.notified(NODE).await;
        let seen = nudges.take(NODE);
        assert!(seen.contains(Nudge::Eof) && seen.contains(Nudge::Wanted) && seen.trouble());
        assert!(nudges.take(NODE).is_empty());
        nudges.nudge(NODE, Nudge::Wanted);
        assert!(!nudges.take(NODE).trouble());
    }

    /// Answers (or fails) each request for a probe as the script says.
    async fn verdict(script: &'static [Option<i64>]) -> Alive {
        let nudges = Arc::new(Nudges::new(1));
        let first = nudges.probe_sent();
        nudges.probe_answered(NODE, first, Some(1));
        let prober = {
            let nudges = Arc::clone(&nudges);
            async move {
                for start_time in script {
                    nudges.notified(NODE).await;
                    nudges.take(NODE);
                    let number = nudges.probe_sent();
                    match start_time {
                        Some(_) => nudges.probe_answered(NODE, number, *start_time),
                        None => nudges.probe_failed(NODE, number),
                    }
                }
                std::future::pending::<Alive>().await
            }
        };
        tokio::select! {
            alive = nudges.still_alive(NODE, None, Duration::from_secs(1)) => alive,
            alive = prober => alive,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_ended_connection_is_told_from_a_shutdown() {
        assert_eq!(verdict(&[Some(1), Some(1)]).await, Alive::Yes);
        assert_eq!(verdict(&[Some(1), None]).await, Alive::Gone, "answered once while shutting down");
        assert_eq!(verdict(&[None]).await, Alive::Gone);
        assert_eq!(verdict(&[Some(2)]).await, Alive::Gone, "restarted");
        assert_eq!(verdict(&[Some(1)]).await, Alive::Unsure, "silent");
    }
}
