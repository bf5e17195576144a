//! Statements that looked like reads and were not: a standby has refused them.
//!
//! In: texts. Out: whether one of the same shape has failed. Shared by all sessions of the process. Two texts have the
//! same shape when they differ in constants only.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::sql::lexer::{Lexer, Token};

/// Shapes remembered; with one more all are forgotten, and learned anew.
const MOST: usize = 1024;

/// The shapes that have failed.
#[derive(Debug, Default)]
pub struct Distrusted {
    shapes: ArcSwap<HashSet<u64>>,
    version: AtomicU64,
}

impl Distrusted {
    /// Grows with every shape added.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// True when a text of this shape has failed.
    pub fn has(&self, sql: &[u8]) -> bool {
        self.version() > 0 && self.shapes.load().contains(&shape(sql))
    }

    /// A text of this shape has failed.
    pub fn add(&self, sql: &[u8]) {
        let shape = shape(sql);
        self.shapes.rcu(|known| {
            let mut known = if known.len() < MOST { HashSet::clone(known) } else { HashSet::new() };
            known.insert(shape);
            Arc::new(known)
        });
        self.version.fetch_add(1, Ordering::Release);
    }
}

fn shape(sql: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for token in Lexer::new(sql, true) {
        match token {
            Token::Word(word) => {
                0u8.hash(&mut hasher);
                word.to_ascii_lowercase().hash(&mut hasher);
            }
            Token::QuotedName(name) => (1u8, name).hash(&mut hasher),
            Token::Text(_) | Token::Number(_) => 2u8.hash(&mut hasher),
            Token::Mark(mark) => (3u8, mark).hash(&mut hasher),
            Token::Semicolon => 4u8.hash(&mut hasher),
            Token::Odd => 5u8.hash(&mut hasher),
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_constants_only_have_one_shape() {
        let distrusted = Distrusted::default();
        assert!(!distrusted.has(b"select f(1)"));
        distrusted.add(b"SELECT f(1, 'a')");
        assert!(distrusted.has(b"select  f(23, 'b') -- again"));
        assert!(!distrusted.has(b"select g(1, 'a')"));
        assert!(!distrusted.has(b"select \"F\"(1, 'a')"));
        for number in 0..MOST {
            distrusted.add(format!("select x{number}()").as_bytes());
        }
        assert!(distrusted.shapes.load().len() <= MOST);
    }
}
