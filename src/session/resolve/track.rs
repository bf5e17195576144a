//! What a session with `retry.resolve_commit` knows of its transaction, so that the fate of its COMMIT can be found out.
//!
//! In: messages in both directions. Out: what of ours is sent before or behind the client's, what the client may hear, and
//! what a loss means. A COMMIT waits until the server has said which transaction it commits; a statement outside a
//! transaction is put into one of its own, and its completion is held back until that has committed. Sans-IO.

use super::ask;
use crate::session::pipeline::{Own, Request};
use crate::session::prepared::Prepared;
use crate::session::state::{Loss, State, fate_unknown, rolled_back};
use crate::sql::Effect;
use crate::sql::work::{Kind as WorkKind, Work};
use crate::topology::Facts;
use crate::wire::backend::TxStatus;
use crate::wire::encode;
use crate::wire::frame::{self, HEADER_LEN};
use crate::wire::frontend::{self, Kind, Named};

/// Statements whose texts are remembered; those of more are not understood.
const STATEMENTS: usize = 10_000;

/// How far a transaction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// Nothing of ours is under way.
    #[default]
    Idle,
    /// The client's COMMIT waits for the answer to our question.
    Asking,
    /// The answer is there: the COMMIT may be sent.
    Asked,
    /// The client's COMMIT was sent.
    Committing,
    /// Our BEGIN was sent, the client's statement not yet all of it.
    Begun,
    /// All of it was sent.
    Wrapped,
    /// Our COMMIT or ROLLBACK was sent.
    Ending,
}

/// What of ours is to be sent as soon as that can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Due {
    #[default]
    Nothing,
    Ask,
    End,
}

/// What is known of the transaction under way.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not the steps of one machine")]
pub struct Tracker {
    step: Step,
    due: Due,
    /// What prepared statements are, by name; those that are not here are not understood.
    statements: std::collections::HashMap<Box<[u8]>, Work>,
    /// The portal bound last, and what it runs.
    portal: Vec<u8>,
    bound: Work,
    /// The transaction may have told others something without writing.
    is_loud: bool,
    facts: Option<Facts>,
    /// The completion of a statement that we have wrapped, and what came behind it.
    held: Vec<u8>,
    /// That statement is in a Query: the server commits before it completes, else behind.
    by_query: bool,
    /// The client has been told that it failed.
    failed: bool,
    /// The client's COMMIT was answered.
    answered: bool,
    doubt: Option<Box<Doubt>>,
}

/// A COMMIT that was sent and whose answer was lost.
#[derive(Debug, PartialEq, Eq)]
pub struct Doubt {
    /// What the server said before.
    pub facts: Facts,
    /// What the client gets when it committed.
    pub answer: Vec<u8>,
}

/// What is to be done before a message of the client is looked at further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Pass,
    /// It waits for answers.
    Hold,
    /// Our question is sent, and the message waits for the answer. With a Sync of ours?
    Ask(bool),
    /// Our BEGIN is sent before it.
    Begin,
}

impl Tracker {
    /// Learns what the client's message is about.
    fn note(&mut self, kind: Kind, body: &[u8], whole: bool, standard: bool, prepared: &Prepared) -> Work {
        match kind {
            Kind::Query => {
                let sql = frontend::query(body).filter(|_| whole);
                let work = sql.map(|sql| Work::of(sql, standard)).unwrap_or_default();
                self.is_loud |= !work.is_silent;
                work
            }
            Kind::Parse => {
                let parse = frontend::parse(body).filter(|_| whole);
                let name = frontend::parse_name(body).unwrap_or_default();
                // A name that is taken keeps its meaning.
                let taken = !name.is_empty() && prepared.get(name).is_some();
                if self.statements.len() >= STATEMENTS {
                    self.statements.clear();
                }
                match parse.filter(|_| !taken) {
                    Some(parse) => drop(self.statements.insert(name.into(), Work::of(parse.sql, standard))),
                    None => drop(self.statements.remove(name)),
                }
                Work::default()
            }
            Kind::Bind => {
                if let Some(bind) = frontend::bind(body) {
                    self.portal.clear();
                    self.portal.extend_from_slice(bind.portal);
                    self.bound = self.statements.get(bind.statement).copied().unwrap_or_default();
                }
                self.is_loud |= !self.bound.is_silent;
                Work::default()
            }
            Kind::Execute if frontend::execute(body) == Some(&self.portal) => self.bound,
            Kind::FunctionCall => {
                self.is_loud = true;
                Work::default()
            }
            _ => Work::default(),
        }
    }

    /// True for a batch that does nothing but run one statement to its end, all of which is here.
    fn is_alone(&self, batch: &[u8], standard: bool) -> bool {
        let (mut parsed, mut bound, mut executed) = (None, None, false);
        let mut rest = batch;
        while let Ok(Some((message, next))) = frame::split(rest) {
            match Kind::of(message.tag) {
                Some(Kind::Parse) if parsed.is_none() && bound.is_none() => {
                    parsed = frontend::parse(message.body);
                }
                Some(Kind::Bind) if bound.is_none() => {
                    let Some(bind) = frontend::bind(message.body) else { return false };
                    let work = match parsed {
                        Some(parse) if parse.name == bind.statement => Work::of(parse.sql, standard),
                        Some(_) => return false,
                        None => self.statements.get(bind.statement).copied().unwrap_or_default(),
                    };
                    if work.kind != WorkKind::Statement {
                        return false;
                    }
                    bound = Some(bind.portal);
                }
                Some(Kind::Execute) if !executed => {
                    executed = true;
                    // Portal, a zero, and how many rows: 0 is all of them.
                    let all = bound.is_some_and(|portal| message.body.strip_prefix(portal) == Some(&[0; 5]));
                    if !all {
                        return false;
                    }
                }
                Some(Kind::Describe) => {}
                Some(Kind::Close)
                    if executed && matches!(frontend::named(message.body), Some(Named::Portal(_))) => {}
                Some(Kind::Sync) => return executed,
                _ => return false,
            }
            rest = next;
        }
        false
    }

    /// The transaction is over, or lost.
    fn end(&mut self) {
        (self.step, self.due) = (Step::Idle, Due::Nothing);
        (self.is_loud, self.failed, self.answered) = (false, false, false);
        self.facts = None;
        self.held.clear();
    }

    /// True for an answer that waits until the transaction of ours has committed: the completion, and what comes behind it.
    fn holds(&self, tag: u8) -> bool {
        tag == b'C' || (!self.held.is_empty() && !matches!(tag, b'Z' | b'N' | b'S' | b'A' | b'E'))
    }

    fn wraps(&self) -> bool {
        matches!(self.step, Step::Begun | Step::Wrapped)
    }

    /// What the client gets for its statement when that has committed.
    fn success(&self) -> Vec<u8> {
        let mut out = self.held.clone();
        if self.step == Step::Committing {
            encode::command_complete(&mut out, "COMMIT");
        }
        encode::ready_for_query(&mut out, TxStatus::Idle.byte());
        out
    }

    /// What the loss of a COMMIT that was sent means.
    fn lost_commit(&self) -> Loss {
        let answer = self.success();
        match self.facts {
            _ if self.failed || self.answered => Loss::Ready,
            Some(facts) if facts.xid.is_some() => Loss::Doubt(Box::new(Doubt { facts, answer })),
            Some(_) if !self.is_loud => Loss::Settled(answer),
            // NOTIFY is done at the end, by a transaction that has written nothing before.
            _ => Loss::answer(fate_unknown(), 1, false),
        }
    }
}

impl State {
    /// The client's next message is about to be sent to a primary. `batch` begins with it. `may_wrap`: it may be put into a
    /// transaction of ours.
    pub fn before(
        &mut self,
        kind: Kind,
        whole: bool,
        message: &[u8],
        batch: &[u8],
        may_wrap: bool,
    ) -> Before {
        let standard = self.params.standard_strings();
        let quiet = self.begins();
        let Some(tracker) = self.tracker.as_deref_mut() else { return Before::Pass };
        if tracker.step != Step::Idle {
            return Before::Pass;
        }
        if quiet {
            tracker.is_loud = false;
        }
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        let work = tracker.note(kind, body, whole, standard, &self.prepared);
        let wraps = match kind {
            Kind::Query => work.kind == WorkKind::Statement,
            Kind::Parse | Kind::Bind => tracker.is_alone(batch, standard),
            _ => false,
        };
        if wraps && quiet && may_wrap {
            return Before::Begin;
        }
        if work.kind != WorkKind::Commit || self.tx == TxStatus::Failed || self.pipeline.is_skipping() {
            return Before::Pass;
        }
        let by_query = kind == Kind::Query;
        if self.pipeline.owes_ready() {
            // Whether they fail decides what is committed.
            return Before::Hold;
        }
        if by_query && (self.tx != TxStatus::InBlock || self.pipeline.is_open()) {
            return Before::Pass;
        }
        Before::Ask(by_query)
    }

    /// Our question goes to the server now; its bytes.
    pub fn ask_facts(&mut self, is_synced: bool) -> Vec<u8> {
        for own in [Own::Forget, Own::Ask, Own::Forget] {
            self.sent(Request::Own(own));
        }
        if is_synced {
            self.sent(Request::Own(Own::Sync));
        }
        if let Some(tracker) = self.tracker.as_deref_mut().filter(|tracker| tracker.step == Step::Idle) {
            tracker.step = Step::Asking;
        }
        ask::facts(is_synced)
    }

    /// Our BEGIN goes to the server now; its bytes.
    pub fn begin_wrapping(&mut self, kind: Kind) -> Vec<u8> {
        for own in [Own::Forget, Own::Border, Own::Forget] {
            self.sent(Request::Own(own));
        }
        if let Some(tracker) = self.tracker.as_deref_mut() {
            (tracker.step, tracker.by_query) = (Step::Begun, kind == Kind::Query);
        }
        ask::begin()
    }

    /// A message of the client was sent.
    pub fn after(&mut self, kind: Kind) {
        let Some(tracker) = self.tracker.as_deref_mut() else { return };
        match tracker.step {
            Step::Begun if matches!(kind, Kind::Query | Kind::Sync) => {
                (tracker.step, tracker.due) = (Step::Wrapped, Due::Ask);
            }
            Step::Asked => tracker.step = Step::Committing,
            _ => {}
        }
    }

    /// True while nothing more of the client's is looked at.
    pub fn must_hold(&self) -> bool {
        let held = |tracker: &Tracker| matches!(tracker.step, Step::Asking | Step::Wrapped | Step::Ending);
        self.tracker.as_deref().is_some_and(held)
    }

    /// True while a statement of the client is in a transaction of ours.
    pub fn is_wrapping(&self) -> bool {
        self.tracker.as_deref().is_some_and(|tracker| tracker.wraps() || tracker.step == Step::Ending)
    }

    /// True when something of ours is to be sent now.
    pub fn is_due(&self) -> bool {
        self.tracker.as_deref().is_some_and(|tracker| tracker.due != Due::Nothing)
    }

    /// It goes to the server now; its bytes.
    pub fn take_due(&mut self) -> Vec<u8> {
        let Some(tracker) = self.tracker.as_deref_mut() else { return Vec::new() };
        match std::mem::take(&mut tracker.due) {
            Due::Nothing => Vec::new(),
            Due::Ask => self.ask_facts(true),
            Due::End => {
                tracker.step = Step::Ending;
                // Without facts nobody could ever say what became of it.
                let commits = !tracker.failed;
                for own in [Own::Forget, Own::Border, Own::Forget] {
                    self.sent(Request::Own(own));
                }
                self.sent(Request::Sync);
                ask::end(commits)
            }
        }
    }

    /// Whether the client hears this message, where the tracker decides that.
    pub(in crate::session) fn tracked_hides(&self, tag: u8) -> Option<bool> {
        let tracker = self.tracker.as_deref()?;
        match (tracker.step, self.pipeline.own_turn()) {
            // Triggers that wait for the end speak in ours: before a Query completes, behind an Execute.
            (Step::Ending, Some(_)) if tag == b'N' => Some(!tracker.by_query),
            // It has its error, or it is another's.
            (Step::Wrapped, Some(_)) if tag == b'E' => Some(tracker.failed),
            (Step::Begun | Step::Wrapped, None) if tag == b'Z' || tracker.holds(tag) => Some(true),
            (Step::Committing, None) if tag == b'C' && tracker.failed => Some(true),
            _ => None,
        }
    }

    /// What the client gets in place of this message: the completion that was held back before it.
    pub(in crate::session) fn tracked_instead(&self, tag: u8, body: &[u8]) -> Option<Vec<u8>> {
        let tracker = self.tracker.as_deref().filter(|tracker| !tracker.held.is_empty())?;
        let is_next = match tag {
            b'Z' => tracker.step == Step::Ending && !self.pipeline.is_own_turn(),
            // The end of the transaction has failed.
            b'E' => !tracker.by_query,
            _ => false,
        };
        is_next.then(|| {
            let mut out = tracker.held.clone();
            encode::message(&mut out, tag, |to| to.extend_from_slice(body));
            out
        })
    }

    /// The server sent this message. DataRow and CopyData need not be shown, but for answers to messages of ours.
    pub fn server_message(&mut self, tag: u8, body: &[u8]) {
        if self.tracker.is_none() {
            return self.note_answer(tag, body);
        }
        self.track_answer(tag, body);
        self.note_answer(tag, body);
        self.track_answered(tag);
    }

    /// The server sent a message, which has not been noted otherwise yet.
    fn track_answer(&mut self, tag: u8, body: &[u8]) {
        let own = self.pipeline.own_turn();
        let Some(tracker) = self.tracker.as_deref_mut() else { return };
        match (tag, own) {
            (b'D', Some(Own::Ask)) => tracker.facts = ask::read_facts(body),
            (tag, None) if tracker.wraps() && tracker.holds(tag) => {
                encode::message(&mut tracker.held, tag, |to| to.extend_from_slice(body));
            }
            (b'N', Some(_)) if tracker.step == Step::Ending && !tracker.by_query => {
                encode::message(&mut tracker.held, b'N', |to| to.extend_from_slice(body));
            }
            (b'C', None) => tracker.answered |= tracker.step == Step::Committing,
            (b'E', own) if tracker.step != Step::Idle && own != Some(Own::Query) => {
                tracker.failed = true;
                tracker.held.clear();
                if !matches!(tracker.step, Step::Asking | Step::Asked | Step::Committing) {
                    self.forget_settings();
                }
            }
            _ => {}
        }
    }

    /// The message has been noted.
    fn track_answered(&mut self, tag: u8) {
        let Some(tracker) = self.tracker.as_deref_mut() else { return };
        let mut requests = self.pipeline.requests();
        match tracker.step {
            Step::Asking if !requests.any(Request::is_ours) => tracker.step = Step::Asked,
            Step::Wrapped if tracker.due == Due::Nothing && requests.next().is_none() => {
                tracker.due = Due::End;
            }
            Step::Ending | Step::Committing if tag == b'Z' => tracker.end(),
            _ => {}
        }
    }

    /// What the loss of the backend means to a transaction that was tracked; `None`: what it means to any.
    pub(in crate::session) fn tracked_loss(&self) -> Option<Loss> {
        let tracker = self.tracker.as_deref()?;
        let is_open = self.pipeline.is_open();
        let only_commit = self.has_only_commit();
        match tracker.step {
            // A COMMIT whose beginning was sent fails and ends its block, however it is sent.
            Step::Asking | Step::Asked if is_open => Some(Loss::answer(rolled_back(), 0, true)),
            Step::Idle | Step::Asking | Step::Asked => None,
            Step::Committing if is_open || !(only_commit || tracker.answered) => None,
            Step::Committing | Step::Ending => Some(tracker.lost_commit()),
            Step::Begun | Step::Wrapped => Some(self.lost_wrapped()),
        }
    }

    /// True when nothing is outstanding but a COMMIT.
    fn has_only_commit(&self) -> bool {
        let commits =
            |effects: &Option<_>| effects.as_deref().is_some_and(|all: &[Effect]| all == [Effect::Commit]);
        let mut requests = self.pipeline.requests();
        match (requests.next(), requests.next(), requests.next()) {
            (Some(Request::Query { effects, .. }), None, None)
            | (Some(Request::Execute { effects, .. }), Some(Request::Sync), None) => commits(effects),
            _ => false,
        }
    }

    /// A statement was lost in our transaction before that was to be committed: it has not happened.
    fn lost_wrapped(&self) -> Loss {
        let tracker = self.tracker.as_deref();
        let all_sent = tracker.is_some_and(|tracker| tracker.step == Step::Wrapped);
        let told = tracker.is_some_and(|tracker| tracker.failed);
        match (all_sent, told) {
            (true, true) => Loss::Ready,
            (true, false) => Loss::answer(rolled_back(), 1, false),
            // The rest of it waits, or it has not begun.
            (false, _) if self.pipeline.is_open() => Loss::answer(rolled_back(), 0, true),
            (false, _) => Loss::Nothing,
        }
    }

    /// The transaction is lost; `doubt` is to be settled.
    pub(in crate::session) fn end_tracking(&mut self) {
        if let Some(tracker) = self.tracker.as_deref_mut() {
            tracker.end();
            tracker.portal.clear();
            tracker.bound = Work::default();
        }
    }

    /// What became of a COMMIT must be found out.
    pub(in crate::session) fn keep_doubt(&mut self, doubt: Box<Doubt>) {
        if let Some(tracker) = self.tracker.as_deref_mut() {
            tracker.doubt = Some(doubt);
        }
    }

    /// What is to be found out.
    pub(in crate::session) fn take_doubt(&mut self) -> Option<Box<Doubt>> {
        self.tracker.as_deref_mut()?.doubt.take()
    }

    /// True when the fate of a COMMIT is to be found out.
    pub(in crate::session) fn has_doubt(&self) -> bool {
        self.tracker.as_deref().is_some_and(|tracker| tracker.doubt.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let mut state = State::new(1000);
        state.tracker = Some(Box::default());
        state
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::message(&mut out, tag, |to| to.extend_from_slice(body));
        out
    }

    /// The client sends a Query: what is done before it.
    fn before(state: &mut State, sql: &str) -> Before {
        let bytes = message(b'Q', format!("{sql}\0").as_bytes());
        state.before(Kind::Query, true, &bytes, &bytes, true)
    }

    fn send(state: &mut State, sql: &str) {
        state.client_message(Kind::Query, &message(b'Q', format!("{sql}\0").as_bytes()), true);
        state.after(Kind::Query);
    }

    /// The server says this; the tags of what the client hears.
    fn hears(state: &mut State, messages: &[(u8, &[u8])]) -> String {
        let mut heard = String::new();
        for (tag, body) in messages {
            if !state.hides(*tag, body) {
                heard.push(char::from(*tag));
            }
            state.server_message(*tag, body);
        }
        heard
    }

    /// The answer to our question.
    fn answer(state: &mut State, xid: &str) -> String {
        let row = format!("\0\x01\0\0\0\x40{xid} 0/16B3748 000000010000000000000001 0000000000000001 -");
        let row = row.as_bytes();
        hears(
            state,
            &[(b'3', b""), (b'1', b""), (b'2', b""), (b'D', row), (b'C', b"SELECT 1\0"), (b'3', b"")],
        )
    }

    fn error() -> Vec<u8> {
        let mut out = Vec::new();
        rolled_back().encode(&mut out);
        out.split_off(HEADER_LEN)
    }

    /// A transaction of these statements up to its COMMIT, which has been sent.
    fn committing(statements: &[&str], xid: &str) -> State {
        let mut state = state();
        for sql in statements {
            assert_eq!(before(&mut state, sql), Before::Pass, "{sql}");
            send(&mut state, sql);
            hears(&mut state, &[(b'C', b"X\0"), (b'Z', b"T")]);
        }
        assert_eq!(before(&mut state, "COMMIT"), Before::Ask(true));
        state.ask_facts(true);
        assert!(state.must_hold());
        assert_eq!(answer(&mut state, xid), "");
        assert!(state.must_hold(), "the Sync is not answered");
        assert_eq!(hears(&mut state, &[(b'Z', b"T")]), "");
        assert!(!state.must_hold());
        assert_eq!(before(&mut state, "COMMIT"), Before::Pass);
        send(&mut state, "COMMIT");
        state
    }

    #[test]
    fn a_commit_waits_for_the_facts() {
        let mut state = committing(&["begin", "insert into t values (1)"], "700");
        let Loss::Doubt(doubt) = state.lose() else { panic!("its fate can be found out") };
        assert_eq!(doubt.facts.xid, Some(700));
        assert_eq!(doubt.answer, b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I");
        let mut state = committing(&["begin", "insert into t values (1)"], "700");
        assert_eq!(hears(&mut state, &[(b'C', b"COMMIT\0"), (b'Z', b"I")]), "CZ");
        assert_eq!(state.lose(), Loss::Nothing);
        let mut state = committing(&["begin", "insert into t values (1)"], "700");
        hears(&mut state, &[(b'C', b"COMMIT\0")]);
        assert_eq!(state.lose(), Loss::Ready);
    }

    #[test]
    fn one_that_wrote_nothing_is_committed_unless_it_may_have_told_others() {
        assert!(matches!(committing(&["begin", "select a from t"], "-").lose(), Loss::Settled(_)));
        for loud in ["notify c", "select mine()"] {
            let unknown = Loss::answer(fate_unknown(), 1, false);
            assert_eq!(committing(&["begin", loud], "-").lose(), unknown, "{loud}");
        }
    }

    #[test]
    fn before_the_commit_is_sent_the_transaction_is_rolled_back() {
        let mut state = state();
        send(&mut state, "begin");
        hears(&mut state, &[(b'C', b"BEGIN\0"), (b'Z', b"T")]);
        before(&mut state, "commit");
        state.ask_facts(true);
        assert_eq!(state.lose(), Loss::Block(rolled_back()));
    }

    #[test]
    fn a_commit_by_messages_ends_its_block_when_it_fails() {
        let mut state = state();
        send(&mut state, "begin");
        hears(&mut state, &[(b'C', b"BEGIN\0"), (b'Z', b"T")]);
        let parts: [(Kind, u8, &[u8]); 2] =
            [(Kind::Parse, b'P', b"\0commit\0\0\0"), (Kind::Bind, b'B', b"\0\0\0\0\0\0\0\0")];
        for (kind, tag, body) in parts {
            let bytes = message(tag, body);
            assert_eq!(state.before(kind, true, &bytes, &bytes, true), Before::Pass);
            state.client_message(kind, &bytes, true);
        }
        let execute = message(b'E', b"\0\0\0\0\0");
        assert_eq!(state.before(Kind::Execute, true, &execute, &execute, true), Before::Ask(false));
        state.ask_facts(false);
        assert_eq!(state.lose(), Loss::answer(rolled_back(), 0, true));
    }

    /// A statement of its own, sent with what of ours is around it.
    fn wrapped() -> State {
        let mut state = state();
        let sql = "insert into t values (1)";
        assert_eq!(before(&mut state, sql), Before::Begin);
        state.begin_wrapping(Kind::Query);
        send(&mut state, sql);
        assert!(state.is_due() && state.must_hold());
        state.take_due();
        assert_eq!(
            hears(&mut state, &[(b'3', b""), (b'1', b""), (b'2', b""), (b'C', b"BEGIN\0"), (b'3', b"")]),
            ""
        );
        state
    }

    #[test]
    fn a_wrapped_statement_completes_when_it_has_committed() {
        let mut state = wrapped();
        assert_eq!(hears(&mut state, &[(b'C', b"INSERT 0 1\0"), (b'Z', b"T")]), "");
        answer(&mut state, "700");
        assert_eq!(hears(&mut state, &[(b'Z', b"T")]), "");
        assert!(state.is_due());
        state.take_due();
        let ours: [(u8, &[u8]); 5] =
            [(b'3', b""), (b'1', b""), (b'2', b""), (b'C', b"COMMIT\0"), (b'3', b"")];
        assert_eq!(hears(&mut state, &ours), "");
        let whole = b"C\0\0\0\x0fINSERT 0 1\0Z\0\0\0\x05I";
        assert_eq!(state.instead(b'Z', b"I").as_deref(), Some(&whole[..]));
        assert_eq!(hears(&mut state, &[(b'Z', b"I")]), "Z");
        assert!(state.is_quiet() && !state.must_hold());
    }

    #[test]
    fn a_wrapped_statement_that_fails_is_rolled_back() {
        let mut state = wrapped();
        let error = error();
        assert_eq!(hears(&mut state, &[(b'E', &error), (b'Z', b"E")]), "E");
        assert_eq!(hears(&mut state, &[(b'3', b""), (b'E', &error), (b'Z', b"E")]), "", "ours fails too");
        let rollback = state.take_due();
        assert!(memchr::memmem::find(&rollback, b"ROLLBACK").is_some());
        assert_eq!(state.lose(), Loss::Ready, "it knows");
    }

    #[test]
    fn a_wrapped_statement_that_is_lost_before_its_commit_has_not_happened() {
        assert_eq!(wrapped().lose(), Loss::answer(rolled_back(), 1, false));
        let mut state = state();
        before(&mut state, "select f()");
        state.begin_wrapping(Kind::Query);
        assert_eq!(state.lose(), Loss::Nothing, "it has not been sent");
    }

    #[test]
    fn only_a_statement_alone_in_its_batch_is_wrapped() {
        let batch = |sql: &str, rows: u8, end: &[u8]| {
            let parse = message(b'P', format!("\0{sql}\0\0\0").as_bytes());
            let execute = message(b'E', &[0, 0, 0, 0, rows]);
            [parse, message(b'B', &[0; 8]), message(b'D', b"P\0"), execute, end.to_vec()].concat()
        };
        let sync = message(b'S', b"");
        for (bytes, alone) in [
            (batch("insert into t values (1)", 0, &sync), true),
            (batch("insert into t values (1)", 1, &sync), false),
            (batch("insert into t values (1)", 0, b""), false),
            (batch("insert into t values (1)", 0, &message(b'H', b"")), false),
            (batch("vacuum t", 0, &sync), false),
            (batch("insert into t values (1)", 0, &batch("select 1", 0, &sync)), false),
        ] {
            let tracker = Tracker::default();
            assert_eq!(tracker.is_alone(&bytes, true), alone, "{}", bytes.escape_ascii());
        }
    }
}
