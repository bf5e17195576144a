//! An open transaction whose server was lost is run again on the new primary (`retry.transactions`).
//!
//! In: the journal of what the client has sent and heard in the transaction (`journal`), and its loss. Out: the same
//! transaction on another server, at the place where the client saw it last; or the error that the client would have got
//! without all this. The client's messages are put back before those that it has sent since and take the way of any other;
//! what the server says to them is compared and dropped up to what the client has heard already.

mod digest;
mod journal;
mod stop;

use tokio::time::Instant;
use tracing::{debug, info};

use journal::{Heard, Journal, Next, Sent};
use stop::Stop;

use super::relay::{Event, Look};
use super::run::Session;
use super::state::{Loss, State};
use crate::metrics::Counter;
use crate::pool::Verdict;
use crate::wire::backend;
use crate::wire::encode;
use crate::wire::error::SqlState;
use crate::wire::frame::{self, HEADER_LEN};
use crate::wire::frontend::Kind;

/// A whole Flush.
const FLUSH: &[u8] = b"H\0\0\0\x04";
/// Servers that may be lost, or fail in another way, in one replay.
const ATTEMPTS: u8 = 10;

/// What is kept of a session's open transaction, and its replay.
#[derive(Debug)]
pub struct Record {
    journal: Journal,
    replaying: Option<Replaying>,
}

impl Record {
    /// Keeps transactions of at most so many bytes.
    pub fn new(limit: usize) -> Self {
        Self { journal: Journal::new(limit), replaying: None }
    }
}

/// A replay under way.
#[derive(Debug)]
struct Replaying {
    /// What the client is told when it fails.
    loss: Loss,
    /// After that it is not begun again.
    until: Instant,
    attempts: u8,
    /// What the client knows of parameters that the transaction has changed.
    told: Vec<(String, String)>,
}

impl Replaying {
    /// True for a ParameterStatus of which the client hears when the replay is over, if it must.
    fn knows(&self, message: &[u8]) -> bool {
        let told = message.get(HEADER_LEN..).and_then(backend::parameter_status);
        told.is_some_and(|(name, _)| self.told.iter().any(|(known, _)| known == name))
    }
}

impl Session {
    /// True while a transaction is run again.
    pub(super) fn is_replaying(&self) -> bool {
        self.state.record.as_deref().is_some_and(|record| record.replaying.is_some())
    }

    /// The backend is lost, and the client owed this answer. `None`: it gets none, the transaction is run again.
    /// `may_have_ended`: a COMMIT or ROLLBACK was under way. `told`: what the client knows of parameters that it has changed.
    pub(super) fn replay_instead(
        &mut self,
        loss: Loss,
        may_have_ended: bool,
        told: Vec<(String, String)>,
    ) -> Option<Loss> {
        let Some(record) = self.state.record.as_deref_mut() else { return Some(loss) };
        if let Some(replaying) = record.replaying.take() {
            return self.replay_again(replaying, loss);
        }
        let rolled_back = match &loss {
            Loss::Block(_) => true,
            Loss::Answer(answer) => answer.error.code == SqlState::SERIALIZATION_FAILURE,
            _ => false,
        };
        if !rolled_back || may_have_ended { Some(loss) } else { self.replay(loss, told) }
    }

    /// A transaction is certain to have been rolled back: it is run again, unless something speaks against that.
    pub(super) fn replay(&mut self, loss: Loss, told: Vec<(String, String)>) -> Option<Loss> {
        let Some(Record { journal, replaying }) = self.state.record.as_deref_mut() else { return Some(loss) };
        if !journal.can_replay() || self.lost.is_some() {
            let why =
                journal.stopped().map_or("the session has lost more than its transaction", Stop::as_str);
            info!(session = self.entry.id, user = self.login.user, "lost transaction is not replayed: {why}");
            self.ctx.metrics.count(Counter::ReplayRefused);
            return Some(loss);
        }
        debug!(session = self.entry.id, "lost transaction is replayed");
        journal.begin(&mut self.state.prepared);
        let until = Instant::now() + self.ctx.settings.load().cluster.hold_timeout;
        *replaying = Some(Replaying { loss, until, attempts: 1, told });
        None
    }

    /// The backend is lost in the middle of a replay.
    fn replay_again(&mut self, mut replaying: Replaying, loss: Loss) -> Option<Loss> {
        self.take_back();
        let Some(record) = self.state.record.as_deref_mut() else { return Some(loss) };
        let rolled_back = match &loss {
            Loss::Nothing | Loss::Block(_) => true,
            Loss::Answer(answer) => answer.error.code == SqlState::SERIALIZATION_FAILURE,
            // Its COMMIT was sent again.
            _ => false,
        };
        if !rolled_back {
            record.journal.finish();
            return Some(loss);
        }
        if replaying.attempts < ATTEMPTS && Instant::now() < replaying.until && self.lost.is_none() {
            replaying.attempts += 1;
            record.journal.begin(&mut self.state.prepared);
            record.replaying = Some(replaying);
            return None;
        }
        record.journal.clear();
        self.end_replay(Counter::ReplayFailed, &replaying.told);
        Some(replaying.loss)
    }

    /// What was put back and has not been sent is the journal's again.
    fn take_back(&mut self) {
        let handed = self.state.record.as_deref().map_or(0, |record| record.journal.handed());
        self.up.drop_front(handed);
    }

    fn end_replay(&mut self, how: Counter, told: &[(String, String)]) {
        self.ctx.metrics.count(how);
        let params = &self.state.params;
        let now = |(name, old): &(String, String)| {
            let value = params.reported(name).filter(|value| value != old)?;
            Some((name.clone(), value.to_owned()))
        };
        let changed: Vec<(String, String)> = told.iter().filter_map(now).collect();
        self.tell_parameters(&changed);
    }

    /// The replay cannot be finished: its transaction is rolled back, and the client told that the first one was.
    pub(super) fn fail_replay(&mut self, how: Counter) {
        let record = self.state.record.as_deref_mut();
        let Some(replaying) = record.and_then(|record| record.replaying.take()) else { return };
        let text = if how == Counter::ReplayDiffered { "its results differ" } else { "it could not be run" };
        info!(
            session = self.entry.id,
            user = self.login.user,
            "replay of a lost transaction has failed: {text}"
        );
        let idle = self.state.pipeline.is_idle();
        self.release(if idle { Verdict::Close } else { Verdict::CancelAndClose });
        self.up.abandon();
        self.take_back();
        self.down.end_after_seen();
        self.began = None;
        self.state.lose();
        self.state.params.unreport();
        drop(self.state.take_lost_pins(self.ctx.settings.load().retry.listen));
        if let Some(record) = self.state.record.as_deref_mut() {
            record.journal.clear();
        }
        self.end_replay(how, &replaying.told);
        self.end_batch();
        self.tell_loss(replaying.loss);
    }

    /// Puts back what is to be sent next. `None` when the message at the front may be looked at.
    pub(super) fn put_in_replay(&mut self) -> Option<Look> {
        let Record { journal, replaying } = self.state.record.as_deref_mut()?;
        replaying.as_ref()?;
        if journal.handed() > 0 {
            return None;
        }
        if self.up.must_write() {
            return Some(Look::WriteFirst);
        }
        match journal.hand_out() {
            Next::Send(messages) => {
                self.up.put_back(messages);
                None
            }
            Next::Flush => {
                let put = self.up.insert(FLUSH);
                debug_assert!(put, "nothing waits to be written");
                Some(Look::WriteFirst)
            }
            Next::Wait => Some(if self.client_ended { Look::Wait } else { Look::Done }),
            Next::Done => {
                journal.finish();
                let told = replaying.take().map(|replaying| replaying.told).unwrap_or_default();
                debug!(session = self.entry.id, "the replay of a lost transaction is done");
                self.end_replay(Counter::ReplayDone, &told);
                None
            }
        }
    }

    /// A message of the client is sent to the backend in hand.
    pub(super) fn keep_for_replay(&mut self, kind: Kind, len: usize, whole: bool) {
        if self.state.record.is_none() {
            return;
        }
        let first = self.state.begins();
        let standard_strings = self.state.params.standard_strings();
        let Some(record) = self.state.record.as_deref_mut() else { return };
        let sent = Sent { kind, message: self.up.peek(len), whole, first, standard_strings };
        let settings = self.ctx.settings.load();
        record.journal.note_sent(&sent, &self.state.prepared, &settings.route.read_functions);
    }

    /// The message at the front of what the server says is the client's, unless it has heard it before.
    #[inline]
    pub(super) fn deliver(&mut self, len: usize) -> Option<Look> {
        if self.state.record.is_none() {
            self.down.pass();
            return None;
        }
        self.deliver_recorded(len)
    }

    fn deliver_recorded(&mut self, len: usize) -> Option<Look> {
        if self.is_verifying() && self.down.must_write() {
            return Some(Look::WriteFirst);
        }
        match hear(&mut self.state, self.down.peek(len)) {
            Heard::Deliver => self.down.pass(),
            Heard::Swallow => self.down.drop_message(),
            Heard::Differs => return Some(Look::Stop(Event::ReplayDiffers)),
        }
        None
    }

    /// The client gets these whole messages, unless it has heard them before. An insertion must be possible.
    pub(super) fn deliver_instead(&mut self, messages: &[u8]) -> Option<Look> {
        match hear(&mut self.state, messages) {
            Heard::Deliver => {
                let put = self.down.insert(messages);
                debug_assert!(put, "an insertion was possible just now");
            }
            Heard::Swallow => {}
            Heard::Differs => return Some(Look::Stop(Event::ReplayDiffers)),
        }
        None
    }

    /// The client gets an answer that no server sends, unless it has heard it before.
    pub(super) fn reply_fake(&mut self, tag: u8) {
        // A difference shows at the next end of a statement.
        if hear(&mut self.state, &[tag, 0, 0, 0, 4]) == Heard::Deliver {
            encode::message(&mut self.replies, tag, |_| {});
        }
    }

    /// More of a long message is here.
    pub(super) fn hear_rest(&mut self) -> Option<Look> {
        let journal = &mut self.state.record.as_deref_mut()?.journal;
        let rest = self.down.rest_here();
        if !rest.is_empty() && journal.hear_rest(rest) == Heard::Differs {
            return Some(Look::Stop(Event::ReplayDiffers));
        }
        None
    }

    /// True while the client has heard already what the server says.
    pub(super) fn is_verifying(&self) -> bool {
        self.state.record.as_deref().is_some_and(|record| record.journal.is_verifying())
    }
}

/// The client is about to hear whole messages, or the beginning of a long one.
fn hear(state: &mut State, mut messages: &[u8]) -> Heard {
    let Some(Record { journal, replaying }) = state.record.as_deref_mut() else { return Heard::Deliver };
    let owed = || state.pipeline.requests().filter(|request| request.is_owed_ready()).count();
    let mut heard = Heard::Deliver;
    while !messages.is_empty() {
        let whole = frame::header(messages).ok().flatten().map_or(messages.len(), |header| header.len);
        let (message, rest) = messages.split_at_checked(whole).unwrap_or((messages, &[]));
        let is_ready = message.first() == Some(&b'Z');
        if message.first() == Some(&b'S') && replaying.as_ref().is_some_and(|one| one.knows(message)) {
            return Heard::Swallow;
        }
        let one = journal.hear(message, if is_ready { owed() } else { 0 });
        if is_ready
            && one == Heard::Deliver
            && let Some(Loss::Answer(answer)) = replaying.as_mut().map(|one| &mut one.loss)
        {
            answer.segments = answer.segments.saturating_sub(1);
        }
        if one != Heard::Deliver {
            heard = one;
        }
        messages = rest;
    }
    heard
}
