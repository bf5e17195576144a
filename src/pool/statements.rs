//! The prepared statements that a backend carries from one session to the next, under names of ours.
//!
//! In: identities of statements, as sessions prepare and use them. Out: the numbers under which the server knows them,
//! and those to be closed. Must not know texts, messages or sessions.

use lru::LruCache;

/// What makes two statements the same: a digest of text, parameter types and what else decides their meaning.
pub type StatementId = [u8; 16];

/// How the names of ours begin.
pub const NAME_PREFIX: &str = "pgsteer_";

/// What a statement takes and returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// A digest of the types of its parameters, and the names and types of its columns.
    pub digest: [u8; 16],
    /// It has columns at all.
    pub returns_rows: bool,
}

/// One statement on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Part of its name: `pgsteer_7`; never 0.
    pub number: u32,
    /// What the server has said of it.
    pub standing: Standing,
    /// As it was when the statement was prepared: the server fails it as soon as it has another.
    pub shape: Option<Shape>,
}

/// What is known of a statement that was sent to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The server has it.
    Confirmed,
    /// It has been sent, and not been answered yet.
    Asked,
}

/// Whose unnamed statement a backend has: a session, and which of its statements.
pub type Unnamed = (u64, u32);

/// The statements of one backend; the least recently used falls out.
#[derive(Debug)]
pub struct Statements {
    slots: LruCache<StatementId, Slot>,
    limit: usize,
    /// Numbers of statements that are to be closed on the server.
    closing: Vec<u32>,
    last: u32,
    unnamed: Option<Unnamed>,
    last_session: u64,
}

impl Statements {
    /// None yet; at most `limit` are kept, at least one, and those the server has not answered for.
    pub fn new(limit: usize) -> Self {
        Self {
            slots: LruCache::unbounded(),
            limit: limit.max(1),
            closing: Vec::new(),
            last: 0,
            unnamed: None,
            last_session: 0,
        }
    }

    /// The session that had the backend last; 0 when none had it yet.
    pub fn last_session(&self) -> u64 {
        self.last_session
    }

    /// Notes who has had the backend.
    pub fn set_last_session(&mut self, session: u64) {
        self.last_session = session;
    }

    /// Where a statement is, if it is there; it is the most recently used now.
    pub fn find(&mut self, id: &StatementId) -> Option<Slot> {
        self.slots.get(id).copied()
    }

    /// A number to prepare a statement under. What falls out for it is to be closed; so is the same statement as it was
    /// prepared before.
    pub fn add(&mut self, id: StatementId) -> u32 {
        self.last = self.last.wrapping_add(1).max(1);
        let slot = Slot { number: self.last, standing: Standing::Asked, shape: None };
        self.closing.extend(self.slots.push(id, slot).map(|(_, before)| before.number));
        while self.slots.len() > self.limit
            && self.slots.peek_lru().is_some_and(|(_, slot)| slot.standing == Standing::Confirmed)
        {
            self.closing.extend(self.slots.pop_lru().map(|(_, slot)| slot.number));
        }
        self.last
    }

    /// The server has prepared it.
    pub fn confirm(&mut self, id: &StatementId, number: u32) {
        if let Some(slot) = self.slots.peek_mut(id).filter(|slot| slot.number == number) {
            slot.standing = Standing::Confirmed;
        }
    }

    /// The server has said what it takes and returns.
    pub fn describe(&mut self, id: &StatementId, number: u32, shape: Shape) {
        if let Some(slot) = self.slots.peek_mut(id).filter(|slot| slot.number == number) {
            slot.shape = Some(shape);
        }
    }

    /// The server has not prepared it, or has dropped it.
    pub fn remove(&mut self, id: &StatementId, number: u32) {
        if self.slots.peek(id).is_some_and(|slot| slot.number == number) {
            self.slots.pop(id);
        }
    }

    /// A number whose statement is to be closed on the server, once.
    pub fn take_closing(&mut self) -> Option<u32> {
        self.closing.pop()
    }

    /// A Close has not reached its statement: once more.
    pub fn close_later(&mut self, number: u32) {
        self.closing.push(number);
    }

    /// A statement is dropped by SQL, if all goes well; it is not used again, and closed some time if it did not.
    pub fn retire(&mut self, id: &StatementId) {
        self.closing.extend(self.slots.pop(id).map(|slot| slot.number));
    }

    /// The same for all of them.
    pub fn retire_all(&mut self) {
        self.closing.extend(self.slots.iter().map(|(_, slot)| slot.number));
        self.slots.clear();
    }

    /// Whose the unnamed statement is.
    pub fn unnamed(&self) -> Option<Unnamed> {
        self.unnamed
    }

    /// Notes whose the unnamed statement is now.
    pub fn set_unnamed(&mut self, unnamed: Option<Unnamed>) {
        self.unnamed = unnamed;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_is_closed() {
        let mut statements = Statements::new(2);
        let ids: Vec<StatementId> = (0..4).map(|n| [n; 16]).collect();
        let numbers: Vec<u32> = ids[..2].iter().map(|id| statements.add(*id)).collect();
        statements.confirm(&ids[1], numbers[1]);
        assert_eq!(statements.find(&ids[1]).unwrap().standing, Standing::Confirmed);
        // The server has not answered for the oldest: it stays.
        statements.add(ids[2]);
        assert_eq!((statements.take_closing(), statements.len()), (None, 3));
        statements.confirm(&ids[0], numbers[0]);
        statements.add(ids[3]);
        assert_eq!(statements.take_closing(), Some(numbers[1]));
        assert_eq!(statements.take_closing(), Some(numbers[0]));
        assert_eq!((statements.take_closing(), statements.len()), (None, 2));
    }

    #[test]
    fn what_is_said_of_another_number_is_too_late() {
        let mut statements = Statements::new(2);
        let first = statements.add([1; 16]);
        statements.remove(&[1; 16], first);
        let second = statements.add([1; 16]);
        statements.confirm(&[1; 16], first);
        statements.remove(&[1; 16], first);
        assert_eq!(
            statements.find(&[1; 16]),
            Some(Slot { number: second, standing: Standing::Asked, shape: None })
        );
        statements.remove(&[1; 16], second);
        assert!(statements.is_empty());
    }
}
