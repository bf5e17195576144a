//! Protocol-level prepared statements of one session: kept so that another backend can be given them.
//!
//! In: Parse messages that succeeded, Close and DEALLOCATE. Out: the messages to send again. Bounded by a number of
//! bytes; what does not fit is not kept, and its use on another backend gets the server's own 26000. Must not know
//! sockets.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::split::Text;
use crate::pool::{Shape, StatementId};
use crate::sql::Effect;
use crate::wire::encode;
use crate::wire::frame::HEADER_LEN;

/// Room kept for the next unnamed statement, bytes.
const UNNAMED_ROOM: usize = 1024;

/// What a statement's text does; shared by the statement, its portals and its executions.
pub type SharedEffects = Rc<[Effect]>;

/// A named statement.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    /// The whole Parse message, empty when it was too large to keep.
    pub message: Box<[u8]>,
    /// What its text does, when it does anything.
    pub effects: Option<SharedEffects>,
    /// What it has in common with the same statement of others; zero where statements are not shared.
    pub id: StatementId,
    /// What servers have said of it.
    pub description: Rc<Description>,
    /// It returns what it finds when it runs: a server does not compare that with what it has said before.
    pub is_open: bool,
    /// What its text asks for, and of which generation of knowledge that verdict is.
    pub judged: Cell<Option<(u64, Text)>>,
    /// Never the same twice in a session; given by [`Prepared::insert`].
    pub serial: u32,
}

/// What a server has said of a statement; known to whoever waits for that, whatever becomes of the statement meanwhile.
#[derive(Debug, Default)]
pub struct Description {
    shape: Cell<Option<Shape>>,
    is_told: Cell<bool>,
    types: RefCell<Option<Box<[u8]>>>,
}

impl Description {
    /// What the statement takes and returns, once it is known.
    pub fn shape(&self) -> Option<Shape> {
        self.shape.get()
    }

    /// True when the client has been told.
    pub fn is_told(&self) -> bool {
        self.is_told.get()
    }

    /// Appends its ParameterDescription, as the client knows it.
    pub fn encode_types(&self, out: &mut Vec<u8>) {
        if let Some(types) = self.types.borrow().as_deref() {
            encode::message(out, b't', |body| body.extend_from_slice(types));
        }
    }

    /// A server has said it, to the client or to us only. Where the client does not know, the last word counts. The
    /// parameters keep the types that they had first, as on a server; `types` is the body of a ParameterDescription.
    pub fn settle(&self, shape: Shape, to_client: bool, types: &[u8]) {
        if self.shape.get().is_none() {
            self.types.replace(is_whole(types).then(|| types.into()));
        }
        if to_client || !self.is_told.get() {
            self.shape.set(Some(shape));
        }
        self.is_told.set(self.is_told.get() || to_client);
    }
}

/// True for the whole body of a ParameterDescription; the end of a Parse has the same form.
fn is_whole(types: &[u8]) -> bool {
    let parts = types.split_first_chunk();
    parts.is_some_and(|(count, all)| all.len() == usize::from(u16::from_be_bytes(*count)) * 4)
}

impl Statement {
    /// What follows the name in the Parse of the client: the text, and the types that it has named.
    pub fn asked_text(&self, name: &[u8]) -> &[u8] {
        self.message.get(HEADER_LEN + name.len() + 1..).unwrap_or_default()
    }

    /// Appends what follows the name in a Parse of this statement: its text, and the types of its parameters as the
    /// server has found them.
    pub fn encode_text(&self, name: &[u8], out: &mut Vec<u8>) {
        let rest = self.asked_text(name);
        let text = memchr::memchr(0, rest).map_or(rest.len(), |end| end + 1);
        let (text, asked) = rest.split_at_checked(text).unwrap_or((rest, &[]));
        out.extend_from_slice(text);
        out.extend_from_slice(self.description.types.borrow().as_deref().unwrap_or(asked));
    }
}

/// How things were before a message that the server may still refuse or pass over.
#[derive(Debug)]
pub enum Undo {
    /// What a name meant.
    Named(Box<[u8]>, Option<Statement>),
    /// The unnamed statement: the number of the change.
    Unnamed(u32),
    /// All names.
    All(HashMap<Box<[u8]>, Statement>),
}

/// The unnamed statement, which the next Parse of this kind replaces.
#[derive(Debug, Default)]
struct Unnamed {
    /// The whole Parse message; empty when it was too large to keep, or not kept at all.
    message: Vec<u8>,
    effects: Option<SharedEffects>,
    is_there: bool,
    /// Never the same twice, also for none.
    number: u32,
}

impl Unnamed {
    fn forget(&mut self) {
        self.is_there = false;
        self.effects = None;
        // A long text is not kept for its room.
        self.message.clear();
        self.message.shrink_to(UNNAMED_ROOM);
    }
}

/// All named statements of one session and the effects of what is bound.
#[derive(Debug)]
pub struct Prepared {
    named: HashMap<Box<[u8]>, Statement>,
    unnamed: Unnamed,
    /// Changes of the unnamed statement that the server may pass over, and what was there before each.
    unnamed_before: Vec<(u32, Unnamed)>,
    last_unnamed: u32,
    portals: HashMap<Box<[u8]>, SharedEffects>,
    with_effects: bool,
    bytes: usize,
    limit: usize,
    /// Statements that are too large to keep.
    unkept: u32,
    /// Grows with every change of the named statements.
    changes: u32,
}

impl Prepared {
    /// None yet; at most `limit` bytes of Parse messages are kept.
    pub fn new(limit: usize) -> Self {
        Self {
            named: HashMap::new(),
            unnamed: Unnamed::default(),
            unnamed_before: Vec::new(),
            last_unnamed: 0,
            portals: HashMap::new(),
            with_effects: false,
            bytes: 0,
            limit,
            unkept: 0,
            changes: 0,
        }
    }

    /// The client sent a Parse of this name; `Undo` for the case that the server refuses it.
    pub fn insert(&mut self, name: &[u8], mut statement: Statement) -> Undo {
        let undo = self.remove(name);
        if self.bytes + statement.message.len() > self.limit {
            statement.message = Box::default();
        }
        self.with_effects |= statement.effects.is_some();
        statement.serial = self.changes;
        self.put(name.into(), statement);
        undo
    }

    fn put(&mut self, name: Box<[u8]>, statement: Statement) {
        self.changes = self.changes.wrapping_add(1);
        self.bytes += statement.message.len();
        self.unkept += u32::from(statement.message.is_empty());
        self.named.insert(name, statement);
    }

    /// A statement is gone, if there is one of this name.
    pub fn remove(&mut self, name: &[u8]) -> Undo {
        let before = self.named.remove(name);
        self.changes = self.changes.wrapping_add(1);
        if let Some(old) = &before {
            self.bytes -= old.message.len();
            self.unkept -= u32::from(old.message.is_empty());
        }
        Undo::Named(name.into(), before)
    }

    /// What was noted of a message has not happened.
    pub fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Named(name, before) => {
                self.remove(&name);
                if let Some(before) = before {
                    self.put(name, before);
                }
            }
            Undo::Unnamed(number) => self.undo_unnamed(number),
            Undo::All(before) => {
                for (name, statement) in before {
                    if !self.named.contains_key(&name) {
                        self.put(name, statement);
                    }
                }
            }
        }
    }

    fn next_number(&mut self) -> u32 {
        self.last_unnamed = self.last_unnamed.wrapping_add(1);
        self.last_unnamed
    }

    /// All named statements are about to go.
    pub fn take_all(&mut self) -> Undo {
        (self.bytes, self.unkept) = (0, 0);
        self.changes = self.changes.wrapping_add(1);
        Undo::All(std::mem::take(&mut self.named))
    }

    /// A named statement.
    pub fn get(&self, name: &[u8]) -> Option<&Statement> {
        self.named.get(name)
    }

    /// Gives a named statement another identity.
    pub fn identify(&mut self, name: &[u8], id: StatementId) {
        if let Some(statement) = self.named.get_mut(name) {
            statement.id = id;
        }
    }

    /// A named statement whose message is kept, so that it can be prepared on any backend.
    pub fn kept(&self, name: &[u8]) -> Option<&Statement> {
        self.get(name).filter(|statement| !statement.message.is_empty())
    }

    /// True when a statement is there that cannot be prepared again elsewhere.
    pub fn has_unkept(&self) -> bool {
        self.unkept > 0 || (self.unnamed.is_there && self.unnamed.message.is_empty())
    }

    /// The client sent a Parse of the unnamed statement. Its message is kept when it is given and not too large.
    /// `uncertain`: there are others before it, for whose failure the server may pass over it. Returns its number.
    pub fn set_unnamed(&mut self, message: &[u8], effects: Option<SharedEffects>, uncertain: bool) -> u32 {
        self.with_effects |= effects.is_some();
        self.change_unnamed(uncertain);
        let room = self.bytes + message.len() <= self.limit;
        let unnamed = &mut self.unnamed;
        unnamed.effects = effects;
        unnamed.is_there = true;
        unnamed.message.clear();
        if room {
            unnamed.message.extend_from_slice(message);
        }
        unnamed.number
    }

    /// The client sent something that drops the unnamed statement; `uncertain` and the result as above.
    pub fn drop_unnamed(&mut self, uncertain: bool) -> u32 {
        self.change_unnamed(uncertain);
        self.unnamed.forget();
        self.unnamed.number
    }

    fn change_unnamed(&mut self, uncertain: bool) {
        let number = self.next_number();
        if uncertain {
            let before = std::mem::take(&mut self.unnamed);
            self.unnamed_before.push((number, before));
        } else {
            self.unnamed_before.clear();
        }
        self.unnamed.number = number;
    }

    /// The server has passed over the change of this number: what follows it comes after what was before.
    fn undo_unnamed(&mut self, number: u32) {
        let changes = &mut self.unnamed_before;
        let Some(at) = changes.iter().position(|(change, _)| *change == number) else { return };
        let (_, before) = changes.remove(at);
        match changes.get_mut(at) {
            Some((_, after)) => *after = before,
            None => self.unnamed = before,
        }
    }

    /// The server has failed the Parse of this number: there is no unnamed statement after it.
    pub fn void_unnamed(&mut self, number: u32) {
        let before = self.unnamed_before.iter_mut().map(|(_, before)| before);
        let states = before.chain(std::iter::once(&mut self.unnamed));
        for state in states.filter(|state| state.number == number) {
            state.forget();
        }
    }

    /// The number and the Parse message of the unnamed statement, if it is there.
    pub fn unnamed(&self) -> Option<(u32, &[u8])> {
        self.unnamed.is_there.then_some((self.unnamed.number, &*self.unnamed.message))
    }

    /// The effects of a statement.
    pub fn effects(&self, name: &[u8]) -> Option<&SharedEffects> {
        if name.is_empty() {
            return self.unnamed.effects.as_ref();
        }
        self.named.get(name).and_then(|statement| statement.effects.as_ref())
    }

    /// A portal was bound to a statement.
    pub fn bind(&mut self, portal: &[u8], statement: &[u8]) {
        // Nearly every session has no statement with effects: then this costs one comparison.
        if !self.with_effects {
            return;
        }
        match self.effects(statement).cloned() {
            Some(effects) => drop(self.portals.insert(portal.into(), effects)),
            None => drop(self.portals.remove(portal)),
        }
    }

    /// The effects of what a portal runs.
    pub fn portal(&self, portal: &[u8]) -> Option<&SharedEffects> {
        if self.with_effects { self.portals.get(portal) } else { None }
    }

    /// The Parse messages to send to a fresh backend, with their names.
    pub fn messages(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.named
            .iter()
            .filter(|(_, statement)| !statement.message.is_empty())
            .map(|(name, s)| (&**name, &*s.message))
    }

    /// Grows with every change of the named statements.
    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// The names of all statements that can be prepared elsewhere, each with a number that no other statement has.
    pub fn serials(&self) -> impl Iterator<Item = (&[u8], u32)> {
        let kept = self.named.iter().filter(|(_, statement)| !statement.message.is_empty());
        kept.map(|(name, statement)| (&**name, statement.serial))
    }

    /// Named statements.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// True when there is none with a name.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Bytes of messages kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(bytes: usize) -> Statement {
        Statement { message: vec![b'P'; bytes].into(), ..Statement::default() }
    }

    #[test]
    fn the_limit_bounds_what_is_kept() {
        let mut prepared = Prepared::new(100);
        prepared.insert(b"a", statement(60));
        prepared.insert(b"b", statement(60));
        assert_eq!(prepared.bytes(), 60);
        assert!(prepared.has_unkept());
        assert_eq!(prepared.messages().count(), 1);
        prepared.insert(b"a", statement(10));
        prepared.insert(b"b", statement(60));
        assert!(!prepared.has_unkept());
        assert_eq!(prepared.bytes(), 70);
        prepared.remove(b"a");
        prepared.remove(b"unknown");
        assert_eq!(prepared.bytes(), 60);
        let undo = prepared.take_all();
        assert_eq!((prepared.bytes(), prepared.messages().count()), (0, 0));
        prepared.insert(b"b", statement(1));
        prepared.undo(undo);
        assert_eq!((prepared.bytes(), prepared.messages().count()), (1, 1));
    }

    #[test]
    fn what_the_server_refused_has_not_happened() {
        let mut prepared = Prepared::new(100);
        prepared.insert(b"a", statement(10));
        let first = prepared.insert(b"a", statement(20));
        let second = prepared.remove(b"a");
        let third = prepared.insert(b"b", statement(5));
        for undo in [third, second, first] {
            prepared.undo(undo);
        }
        assert_eq!(prepared.bytes(), 10);
        assert_eq!(prepared.get(b"a").map(|statement| statement.message.len()), Some(10));
        assert!(prepared.get(b"b").is_none());
    }

    #[test]
    fn the_unnamed_statement_is_replaced() {
        let mut prepared = Prepared::new(100);
        assert!(prepared.unnamed().is_none());
        let first = prepared.set_unnamed(b"P one", None, false);
        assert_eq!(prepared.unnamed(), Some((first, &b"P one"[..])));
        let second = prepared.set_unnamed(&[1; 101], None, false);
        assert_eq!(prepared.unnamed(), Some((second, &b""[..])));
        assert!(prepared.has_unkept());
        prepared.drop_unnamed(false);
        assert!(prepared.unnamed().is_none() && !prepared.has_unkept());
    }

    #[test]
    fn changes_of_the_unnamed_statement_are_taken_back_in_any_order() {
        let mut prepared = Prepared::new(100);
        let first = prepared.set_unnamed(b"1", None, false);
        let second = prepared.set_unnamed(b"2", None, true);
        let third = prepared.drop_unnamed(true);
        let fourth = prepared.set_unnamed(b"4", None, true);
        prepared.undo(Undo::Unnamed(second));
        assert_eq!(prepared.unnamed(), Some((fourth, &b"4"[..])));
        prepared.undo(Undo::Unnamed(fourth));
        assert!(prepared.unnamed().is_none());
        prepared.undo(Undo::Unnamed(third));
        assert_eq!(prepared.unnamed(), Some((first, &b"1"[..])));
        let fifth = prepared.set_unnamed(b"5", None, true);
        prepared.void_unnamed(first);
        assert!(prepared.unnamed().is_some());
        prepared.undo(Undo::Unnamed(fifth));
        assert!(prepared.unnamed().is_none());
    }

    #[test]
    fn portals_have_the_effects_of_their_statement() {
        let mut prepared = Prepared::new(100);
        prepared.bind(b"p", b"");
        assert!(prepared.portal(b"p").is_none());
        prepared.set_unnamed(b"", Some([Effect::Rollback].into()), false);
        prepared.bind(b"p", b"");
        assert_eq!(prepared.portal(b"p").map(|effects| &effects[..]), Some(&[Effect::Rollback][..]));
        prepared.set_unnamed(b"", None, false);
        prepared.bind(b"p", b"");
        assert!(prepared.portal(b"p").is_none());
    }
}
