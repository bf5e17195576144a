//! The part of a query between FROM and WHERE: tables, functions, joins and their names.
//!
//! In: its words. Out: nothing, or why it is a write. Must not know expressions.

use super::body::Body;
use super::frames::{Clause, Kind};
use super::keywords::Keyword;
use super::{Found, Stop};
use crate::sql::names::{Name, Names};
use crate::sql::reason::Reason;

impl<'a, N: Names> Body<'a, '_, N> {
    /// A word where a table must come.
    pub(super) fn table_word(&mut self, name: Name<'a>, keyword: Keyword) -> Found<'a, ()> {
        let refused = |reason| Err(Stop { reason, word: name.text });
        let brackets = self.tokens.sees(b'(');
        let frame = self.frames.top();
        let fresh = frame.clause == Clause::FromStart;
        match keyword {
            Keyword::Select | Keyword::With | Keyword::Table if fresh => self.table_query(name, keyword),
            Keyword::Values if fresh && brackets => self.table_query(name, keyword),
            Keyword::Only => {
                frame.clause = Clause::FromNext;
                let inside = self.tokens.take(b'(');
                let name = self.tokens.name()?;
                self.table(name)?;
                if inside { self.tokens.must_take(b')') } else { Ok(()) }
            }
            Keyword::Lateral => {
                frame.clause = Clause::FromItem;
                Ok(())
            }
            Keyword::Rows if self.tokens.take_word("from") => {
                self.frames.top().clause = Clause::FromNext;
                self.tokens.must_take(b'(')?;
                self.open(Kind::Rows, Clause::Expr)
            }
            keyword if keyword.names_table() => self.source(name),
            Keyword::Side if brackets => self.source(name),
            Keyword::Into => refused(Reason::Into),
            Keyword::Modify => refused(Reason::DataModifying),
            _ => refused(Reason::Syntax),
        }
    }

    /// A query in brackets: from here on it is one like any other.
    fn table_query(&mut self, name: Name<'a>, keyword: Keyword) -> Found<'a, ()> {
        let frame = self.frames.top();
        frame.kind = Kind::Group;
        frame.clause = Clause::Start;
        self.word(name, keyword, super::body::Prev::Other)
    }

    /// A table, a name of WITH, or a function that is called.
    fn source(&mut self, name: Name<'a>) -> Found<'a, ()> {
        self.frames.top().clause = Clause::FromNext;
        let path = self.qualified(name)?;
        if self.tokens.sees(b'(') {
            return self.call(path);
        }
        if path.schema.is_none() && self.frames.is_cte(&path.name) {
            return Ok(());
        }
        self.ask_relation(path)
    }

    fn table(&mut self, name: Name<'a>) -> Found<'a, ()> {
        let path = self.qualified(name)?;
        if path.schema.is_none() && self.frames.is_cte(&path.name) {
            return Ok(());
        }
        self.ask_relation(path)
    }

    /// A word behind a table.
    pub(super) fn word_behind_table(&mut self, name: Name<'a>, keyword: Keyword) -> Found<'a, ()> {
        let refused = |reason| Err(Stop { reason, word: name.text });
        let frame = self.frames.top();
        match keyword {
            Keyword::As => {
                if !self.tokens.sees(b'(') {
                    self.tokens.name()?;
                }
                self.columns()
            }
            Keyword::On => {
                frame.clause = Clause::FromOn;
                Ok(())
            }
            Keyword::Using if self.tokens.sees(b'(') => self.columns(),
            Keyword::Join => {
                frame.clause = Clause::FromItem;
                Ok(())
            }
            Keyword::Cross | Keyword::Side => Ok(()),
            Keyword::Clause if frame.query => {
                frame.clause = Clause::Expr;
                Ok(())
            }
            Keyword::SetOp if frame.query || frame.kind == Kind::From => {
                frame.query = true;
                frame.clause = Clause::SetOp;
                Ok(())
            }
            Keyword::For => self.locking(name, true),
            Keyword::Into => refused(Reason::Into),
            Keyword::Modify => refused(Reason::DataModifying),
            Keyword::Tablesample => {
                let method = self.tokens.name()?;
                // Others are functions of extensions.
                if !method.is("bernoulli") && !method.is("system") {
                    return Err(Stop { reason: Reason::UnknownFunction, word: method.text });
                }
                self.tokens.must_take(b'(')?;
                self.open(Kind::Group, Clause::Start)
            }
            Keyword::Repeatable if self.tokens.take(b'(') => self.open(Kind::Group, Clause::Start),
            Keyword::With => self.tokens.must_take_word("ordinality"),
            keyword if keyword.names_table() => self.columns(),
            _ => refused(Reason::Syntax),
        }
    }

    /// Names of columns in brackets, maybe with types, if there are any.
    fn columns(&mut self) -> Found<'a, ()> {
        if self.tokens.take(b'(') { self.open(Kind::Columns, Clause::ColumnName) } else { Ok(()) }
    }
}
