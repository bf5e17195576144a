//! Protocol-level prepared statements of one session: kept so that another backend can be given them.
//!
//! In: Parse messages that succeeded, Close and DEALLOCATE. Out: the messages to send again. Bounded by a number of
//! bytes; what does not fit is not kept, and its use on another backend gets the server's own 26000. Must not know
//! sockets.

use std::collections::HashMap;
use std::rc::Rc;

use crate::sql::Effect;

/// What a statement's text does; shared by the statement, its portals and its executions.
pub type SharedEffects = Rc<[Effect]>;

/// A named statement.
#[derive(Debug)]
struct Statement {
    /// The whole Parse message, empty when it was too large to keep.
    message: Box<[u8]>,
    effects: Option<SharedEffects>,
}

/// All named statements of one session and the effects of what is bound.
#[derive(Debug)]
pub struct Prepared {
    named: HashMap<Box<[u8]>, Statement>,
    unnamed: Option<SharedEffects>,
    portals: HashMap<Box<[u8]>, SharedEffects>,
    with_effects: bool,
    bytes: usize,
    limit: usize,
}

/// A named Parse that the server has not answered yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The statement's name.
    pub name: Box<[u8]>,
    /// The whole message; empty when it is too large to keep.
    pub message: Box<[u8]>,
    /// Effects of its text, when it has any.
    pub effects: Option<SharedEffects>,
}

impl Prepared {
    /// None yet; at most `limit` bytes of Parse messages are kept.
    pub fn new(limit: usize) -> Self {
        Self {
            named: HashMap::new(),
            unnamed: None,
            portals: HashMap::new(),
            with_effects: false,
            bytes: 0,
            limit,
        }
    }

    /// The server accepted a named Parse.
    pub fn insert(&mut self, candidate: Candidate) {
        let Candidate { name, mut message, effects } = candidate;
        self.remove(&name);
        if self.bytes + message.len() > self.limit {
            message = Box::default();
        }
        self.bytes += message.len();
        self.with_effects |= effects.is_some();
        self.named.insert(name, Statement { message, effects });
    }

    /// The effects of the unnamed statement from now on.
    pub fn set_unnamed(&mut self, effects: Option<SharedEffects>) {
        self.with_effects |= effects.is_some();
        self.unnamed = effects;
    }

    /// A statement is gone.
    pub fn remove(&mut self, name: &[u8]) {
        if let Some(old) = self.named.remove(name) {
            self.bytes -= old.message.len();
        }
    }

    /// All statements are gone.
    pub fn clear(&mut self) {
        self.named.clear();
        self.portals.clear();
        self.unnamed = None;
        self.with_effects = false;
        self.bytes = 0;
    }

    /// The effects of a statement.
    pub fn effects(&self, name: &[u8]) -> Option<&SharedEffects> {
        if name.is_empty() {
            return self.unnamed.as_ref();
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

    /// Bytes of messages kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, bytes: usize) -> Candidate {
        Candidate { name: name.as_bytes().into(), message: vec![b'P'; bytes].into(), effects: None }
    }

    #[test]
    fn the_limit_bounds_what_is_kept() {
        let mut prepared = Prepared::new(100);
        prepared.insert(candidate("a", 60));
        prepared.insert(candidate("b", 60));
        assert_eq!(prepared.bytes(), 60);
        assert_eq!(prepared.messages().count(), 1);
        prepared.insert(candidate("a", 10));
        prepared.insert(candidate("b", 60));
        assert_eq!(prepared.bytes(), 70);
        prepared.remove(b"a");
        prepared.remove(b"unknown");
        assert_eq!(prepared.bytes(), 60);
        prepared.clear();
        assert_eq!((prepared.bytes(), prepared.messages().count()), (0, 0));
    }

    #[test]
    fn portals_have_the_effects_of_their_statement() {
        let mut prepared = Prepared::new(100);
        prepared.bind(b"p", b"");
        assert!(prepared.portal(b"p").is_none());
        prepared.set_unnamed(Some([Effect::Rollback].into()));
        prepared.bind(b"p", b"");
        assert_eq!(prepared.portal(b"p").map(|effects| &effects[..]), Some(&[Effect::Rollback][..]));
        prepared.set_unnamed(None);
        prepared.bind(b"p", b"");
        assert!(prepared.portal(b"p").is_none());
    }
}
