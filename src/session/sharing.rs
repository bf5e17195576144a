//! Sharing of backends between transactions: what a session's prepared statements are called on the backend it has at
//! this moment.
//!
//! In: the client's messages. Out: what is sent instead or before, and which answers the client gets from us. Sans-IO.
//! The statements of a backend come with its lease and go with it.

mod again;
mod hidden;
mod names;
mod shapes;
mod unread;

use std::rc::Rc;

use again::Batch;
use hidden::Watch;
use names::{encode_named, name_len, push_name};
use shapes::{Describing, NO_STATEMENT};
use unread::Unread;

use super::pipeline::{Own, Parsing, Request};
use super::prepared::{SharedEffects, Statement, Undo};
use super::state::State;
use crate::pool::{NAME_PREFIX, Statements};
use crate::sql::{Effect, PinCause, Pins, glance};
use crate::wire::encode;
use crate::wire::error::{ErrorView, SqlState};
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend::{self, Kind, Named};

/// Room kept for the next messages of ours, bytes.
const ROOM: usize = 512;

/// What a session of transaction mode has beyond others.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not the steps of one machine")]
pub struct Sharing {
    /// The session's number: whose unnamed statement a backend has.
    session: u64,
    /// The statements of the backend in use.
    carried: Option<Box<Statements>>,
    /// What is sent before or instead of the client's message.
    pub bytes: Vec<u8>,
    /// The server refused a setting of the session.
    pub refused: bool,
    /// Named statements have come or gone in a batch that the server may still fail.
    doubtful: bool,
    /// Counts what ends with a ReadyForQuery: an error is over with it.
    batch: u32,
    /// The batch in which the unnamed statement changed last, while it might still fail before.
    touched: Option<u32>,
    /// What `currval` and `lastval` would say on the backend is another session's.
    foreign_sequences: bool,
    /// `nextval` binds the session to its backend.
    pins_sequences: bool,
    /// The session has used sequences by name.
    uses_sequences: bool,
    /// It has discarded them: what a backend has from before is not its own any more.
    discarded_sequences: bool,
    /// Nothing that could have used a sequence has been sent since the backend was taken.
    only_borders: bool,
    /// Statements whose description is on its way.
    describing: Vec<Describing>,
    /// The statement that the client's last message has prepared.
    undescribed: Option<(Box<[u8]>, Describing)>,
    /// The number under which the statement of the client's next message has been prepared, to see what it returns.
    verified: u32,
    /// What may have to be sent again.
    batch_kept: Batch,
    /// What functions may have left.
    watch: Watch,
    /// A text too long to be read was sent: what it does to the session is not known.
    unread: Unread,
}

/// What becomes of a client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// [`Sharing::bytes`], then the message as it is.
    Pass,
    /// [`Sharing::bytes`] in place of so many bytes at its beginning, then the rest.
    Head(usize),
    /// [`Sharing::bytes`] in place of all of it.
    Instead,
}

impl Sharing {
    /// For the session of this number; whether `nextval` binds it to its backend.
    pub fn new(session: u64, pins_sequences: bool) -> Self {
        Self {
            session,
            pins_sequences,
            carried: None,
            bytes: Vec::new(),
            refused: false,
            doubtful: false,
            batch: 0,
            touched: None,
            foreign_sequences: false,
            uses_sequences: false,
            discarded_sequences: false,
            only_borders: true,
            describing: Vec::new(),
            undescribed: None,
            verified: NO_STATEMENT,
            batch_kept: Batch::default(),
            watch: Watch::default(),
            unread: Unread::Nothing,
        }
    }

    /// A backend was taken, and its statements with it.
    pub fn take(&mut self, carried: Box<Statements>) {
        let last = carried.last_session();
        self.foreign_sequences = last != 0 && (last != self.session || self.discarded_sequences);
        self.only_borders = true;
        self.carried = Some(carried);
    }

    /// The backend is given back, and its statements with it.
    pub fn give(&mut self) -> Option<Box<Statements>> {
        self.bytes.clear();
        self.bytes.shrink_to(ROOM);
        self.refused = false;
        self.unread = Unread::Nothing;
        self.touched = None;
        self.describing = Vec::new();
        self.undescribed = None;
        self.verified = NO_STATEMENT;
        self.batch_kept.clear(ROOM);
        let mut carried = self.carried.take()?;
        if !(self.foreign_sequences && self.only_borders) {
            carried.set_last_session(self.session);
        }
        Some(carried)
    }
}

impl State {
    /// Why the backend cannot be given to another session between transactions.
    pub fn sharing_pins(&self) -> Pins {
        let mut pins = self.params.pins_of_transaction_mode();
        if self.prepared.has_unkept() {
            pins.insert(PinCause::Prepare);
        }
        let unknown = |sharing: &Sharing| sharing.unread == Unread::Statements || sharing.watch.is_waiting();
        if self.sharing.as_deref().is_some_and(unknown) {
            pins.insert(PinCause::Setting);
        }
        if self.sharing.as_ref().is_some_and(|sharing| !sharing.pins_sequences) {
            pins.remove(PinCause::Sequence);
        }
        pins
    }

    /// True when a text, once run, would bind the session to its backend.
    pub fn would_pin(&self, kind: Kind, body: &[u8]) -> bool {
        let sql = match kind {
            Kind::Query => frontend::query(body),
            Kind::Parse => frontend::parse(body).map(|parse| parse.sql),
            _ => None,
        };
        let binds =
            |effect: &Effect| matches!(effect, Effect::Pin(_) | Effect::Listen(_) | Effect::Prepare { .. });
        self.text_effects(sql).is_some_and(|effects| effects.iter().any(binds))
    }

    /// Why the session keeps its backend, for people.
    pub fn visible_pins(&self) -> Pins {
        if self.sharing.is_some() { self.sharing_pins() } else { self.params.pins() }
    }

    /// So many Queries of ours go before the client's next message.
    pub fn send_own(&mut self, count: usize) {
        for _ in 0..count {
            self.sent(Request::Own(Own::Query));
            self.note_own_query();
        }
    }

    /// The server has refused one of them.
    pub fn is_refused(&self) -> bool {
        self.sharing.as_ref().is_some_and(|sharing| sharing.refused)
    }

    /// What the client gets instead of this error: its own name for the statement that it has prepared twice; what its own
    /// server would say of one whose columns have changed.
    pub(super) fn renamed(&self, body: &[u8]) -> Option<Vec<u8>> {
        let view = ErrorView::new(body);
        if let Some(described) = self.pipeline.stale() {
            let failed = view.code() == SqlState::UNDEFINED_PREPARED_STATEMENT;
            return failed.then(|| shapes::changed_result(described));
        }
        let name = self.pipeline.prepared_twice()?;
        (view.code() == SqlState::DUPLICATE_PREPARED_STATEMENT).then(|| {
            let text = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(name));
            let mut out = Vec::new();
            view.encode_with_message(&mut out, text.as_bytes());
            out
        })
    }

    /// What goes to the server before or instead of the client's message.
    pub fn translated(&self) -> &[u8] {
        self.sharing.as_ref().map(|sharing| sharing.bytes.as_slice()).unwrap_or_default()
    }

    /// True while the client's next message cannot be translated: whether its batch finds the statements it names depends
    /// on one whose answers have not come.
    pub fn must_wait(&mut self, kind: Kind, body: &[u8]) -> bool {
        let idle = self.pipeline.is_idle();
        let Some(sharing) = self.sharing.as_mut() else { return false };
        sharing.doubtful &= !idle;
        if sharing.doubtful && !self.pipeline.is_open() {
            return true;
        }
        if idle {
            sharing.touched = None;
        }
        let touched_before = sharing.touched.is_some_and(|batch| batch != sharing.batch);
        touched_before && uses_unnamed(kind, body) && self.pipeline.owes_ready()
    }

    /// The unnamed statement changes by this batch, if that does not fail before.
    fn touch_unnamed(&mut self) {
        let idle = self.pipeline.is_idle();
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.touched = (!idle).then_some(sharing.batch);
        }
    }

    fn doubt(&mut self) {
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.doubtful = true;
        }
    }

    /// The client sends this message on a shared backend: notes it and says what is sent. Not while
    /// [`State::must_wait`].
    pub fn translate(&mut self, kind: Kind, message: &[u8], whole: bool) -> Plan {
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.bytes.clear();
        }
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        if !whole && matches!(kind, Kind::Query | Kind::Parse) {
            self.note_unread(kind, body);
        }
        if matches!(kind, Kind::Query | Kind::Sync | Kind::FunctionCall)
            && let Some(sharing) = self.sharing.as_mut()
        {
            sharing.batch = sharing.batch.wrapping_add(1);
        }
        self.note_batch(kind, message, whole);
        self.prepare_backend(kind, body);
        let plan = self.translate_kind(kind, message, body, whole);
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.verified = NO_STATEMENT;
        }
        plan
    }

    /// What must be sent before the client's message, whatever that is.
    fn prepare_backend(&mut self, kind: Kind, body: &[u8]) {
        self.describe_last(kind, body);
        self.forget_foreign_sequences(kind, body);
        self.drop_foreign_unnamed(kind);
    }

    fn translate_kind(&mut self, kind: Kind, message: &[u8], body: &[u8], whole: bool) -> Plan {
        match kind {
            Kind::Query => self.translate_query(body, whole),
            Kind::Parse => self.translate_parse(message, body, whole),
            Kind::Bind => self.translate_bind(body, message),
            Kind::Describe => self.translate_describe(body),
            Kind::Close => self.translate_close(body),
            _ => {
                self.client_message(kind, message, whole);
                Plan::Pass
            }
        }
    }

    fn out(&mut self) -> Option<(&mut Vec<u8>, &mut Statements)> {
        let sharing = self.sharing.as_mut()?;
        Some((&mut sharing.bytes, sharing.carried.as_deref_mut()?))
    }

    fn carried(&mut self) -> Option<&mut Statements> {
        self.sharing.as_mut().and_then(|sharing| sharing.carried.as_deref_mut())
    }

    fn session(&self) -> u64 {
        self.sharing.as_ref().map_or(0, |sharing| sharing.session)
    }

    fn translate_query(&mut self, body: &[u8], whole: bool) -> Plan {
        self.touch_unnamed();
        let sql = frontend::query(body).filter(|_| whole);
        let by_sql = sql.and_then(|sql| self.named_by_sql(sql));
        let request = self.query(sql);
        if let Some(carried) = self.carried() {
            carried.set_unnamed(None);
        }
        self.sent(request);
        let Some(text) = by_sql else { return Plan::Pass };
        if let Some((out, _)) = self.out() {
            encode::query(out, text);
        }
        Plan::Instead
    }

    /// SQL's EXECUTE or DEALLOCATE of a statement of the protocol, with the name that it has on this backend.
    fn named_by_sql(&mut self, sql: &[u8]) -> Option<Vec<u8>> {
        let (name, place) = glance::statement_name(sql, self.params.standard_strings())?;
        self.prepared.kept(&name)?;
        let number = self.number_of(&name);
        let quoted = format!("\"{NAME_PREFIX}{number}\"").into_bytes();
        Some([sql.get(..place.start)?, &quoted, sql.get(place.end..)?].concat())
    }

    fn translate_parse(&mut self, message: &[u8], body: &[u8], whole: bool) -> Plan {
        // What the server will refuse, it refuses in the client's words.
        let parse = frontend::parse(body).filter(|parse| whole && parse.is_whole && self.is_name(parse.name));
        let effects = self.text_effects(parse.map(|parse| parse.sql));
        let Some(parse) = parse else {
            // Or too long to be kept: prepared as it is, on this backend only.
            return self.prepare_unkept(message, body);
        };
        if parse.name.is_empty() {
            let by_sql = self.named_by_sql(parse.sql);
            let plan = self.translate_unnamed(message, effects);
            return by_sql.map_or(plan, |text| self.parse_by_sql(&text, body.get(parse.sql.len() + 2..)));
        }
        self.doubt();
        let head = HEADER_LEN + parse.name.len() + 1;
        if self.prepared.kept(parse.name).is_some() {
            // The server will refuse it, as it should.
            let number = self.number_of(parse.name);
            self.parse_head(message.len() - head, number);
            let twice = Some(parse.name.into());
            self.sent(Request::Parse(Box::new(Parsing { twice, ..Parsing::default() })));
            return Plan::Head(head);
        }
        if self.prepared.get(parse.name).is_some() {
            // One that is too long to be kept has this name on the backend too.
            self.sent(Request::Parse(Box::default()));
            return Plan::Pass;
        }
        let id = self.identity(message.get(head..).unwrap_or_default());
        let is_open = glance::returns_what_it_finds(parse.sql);
        let statement = Statement { message: message.into(), effects, id, is_open, ..Statement::default() };
        let undo = self.prepared.insert(parse.name, statement);
        if self.prepared.kept(parse.name).is_none() {
            self.sent(Request::Parse(Box::new(Parsing { undo: Some(undo), ..Parsing::default() })));
            return Plan::Pass;
        }
        // Also where the backend has the same from before: only a new one is as a server of the client's own would have it.
        let number = self.add(id);
        self.parse_head(message.len() - head, number);
        let parsing = Parsing { undo: Some(undo), sent: Some((id, number)), ..Parsing::default() };
        self.sent(Request::Parse(Box::new(parsing)));
        if let (Some(sharing), Some(statement)) = (self.sharing.as_mut(), self.prepared.get(parse.name)) {
            sharing.undescribed = Some((parse.name.into(), Describing::new(statement, number, false)));
        }
        Plan::Head(head)
    }

    /// The unnamed statement is one of SQL that names another: with the name that this has on the backend.
    fn parse_by_sql(&mut self, text: &[u8], types: Option<&[u8]>) -> Plan {
        let types = types.unwrap_or_default();
        if let Some((out, _)) = self.out() {
            encode::header(out, b'P', text.len() + 2 + types.len());
            for part in [b"\0", text, b"\0", types] {
                out.extend_from_slice(part);
            }
        }
        Plan::Instead
    }

    fn translate_unnamed(&mut self, message: &[u8], effects: Option<SharedEffects>) -> Plan {
        self.touch_unnamed();
        let uncertain = !self.pipeline.is_idle();
        let number = self.prepared.set_unnamed(message, effects, uncertain);
        let owner = (self.session(), number);
        if let Some(carried) = self.carried() {
            carried.set_unnamed(Some(owner));
        }
        self.sent(Request::ParseUnnamed(number));
        Plan::Pass
    }

    fn translate_bind(&mut self, body: &[u8], message: &[u8]) -> Plan {
        let Some(bind) = frontend::bind(body) else {
            self.client_message(Kind::Bind, message, false);
            return Plan::Pass;
        };
        let head = HEADER_LEN + bind.portal.len() + bind.statement.len() + 2;
        let total = frame_len(message).saturating_sub(head);
        let stale = self.is_stale(bind.statement);
        let number = if stale { Some(NO_STATEMENT) } else { self.number_for_use(bind.statement) };
        if let (Some(number), Some((out, _))) = (number, self.out()) {
            encode::header(out, b'B', total + bind.portal.len() + 1 + name_len(number));
            out.extend_from_slice(bind.portal);
            out.push(0);
            push_name(out, number);
        }
        let request = if stale { Request::Stale(None) } else { self.bind(body) };
        self.sent(request);
        number.map_or(Plan::Pass, |_| Plan::Head(head))
    }

    fn translate_describe(&mut self, body: &[u8]) -> Plan {
        let name = match frontend::named(body) {
            Some(Named::Statement(name)) => name,
            Some(Named::Portal(_)) => {
                self.sent(Request::DescribePortal);
                return Plan::Pass;
            }
            None => {
                self.sent(Request::Describe(None));
                return Plan::Pass;
            }
        };
        let stale = self.is_stale(name);
        let number = if stale { Some(NO_STATEMENT) } else { self.number_for_use(name) };
        if let (Some(number), Some((out, _))) = (number, self.out()) {
            encode_named(out, b'D', number);
        }
        if stale {
            let described = self.prepared.get(name).map(|statement| Rc::clone(&statement.description));
            self.sent(Request::Stale(described));
            return Plan::Instead;
        }
        if let (Some(number), Some(statement), Some(sharing)) =
            (number, self.prepared.kept(name), self.sharing.as_mut())
        {
            sharing.describing.push(Describing::new(statement, number, true));
        }
        self.sent(Request::Describe(number));
        number.map_or(Plan::Pass, |_| Plan::Instead)
    }

    fn translate_close(&mut self, body: &[u8]) -> Plan {
        let Some(Named::Statement(name)) = frontend::named(body) else {
            self.sent(Request::Close(None));
            return Plan::Pass;
        };
        if name.is_empty() {
            self.touch_unnamed();
            let uncertain = !self.pipeline.is_idle();
            let undo = Some(Box::new(Undo::Unnamed(self.prepared.drop_unnamed(uncertain))));
            if let Some(carried) = self.carried() {
                carried.set_unnamed(None);
            }
            self.sent(Request::Close(undo));
            return Plan::Pass;
        }
        self.doubt();
        let shared = self.prepared.kept(name).is_some();
        let undo = Some(Box::new(self.prepared.remove(name)));
        if shared {
            // It stays prepared for others.
            self.sent(Request::Fake(b'3', undo));
            return Plan::Instead;
        }
        self.sent(Request::Close(undo));
        Plan::Pass
    }
}

fn uses_unnamed(kind: Kind, body: &[u8]) -> bool {
    match kind {
        Kind::Bind => frontend::bind(body).is_some_and(|bind| bind.statement.is_empty()),
        Kind::Describe => frontend::named(body) == Some(Named::Statement(b"")),
        _ => false,
    }
}

/// The length of a message by its header, which is there.
fn frame_len(message: &[u8]) -> usize {
    crate::wire::frame::header(message).ok().flatten().map_or(message.len(), |header| header.len)
}

#[cfg(test)]
mod tests;
