//! Names in a query: which of them are calls, types or tables, and what is known of each.
//!
//! In: a name and the tokens behind it. Out: nothing, or why it is a write. Must not know clauses.

use super::body::Body;
use super::frames::{Clause, Kind};
use super::keywords::{Keyword, keyword};
use super::tokens::is_operator;
use super::utility::is_shared_setting;
use super::{Found, Stop};
use crate::sql::lexer::Token;
use crate::sql::names::{Known, NAME_BYTES, Name, Names, Qualified};
use crate::sql::reason::Reason;

impl<'a, N: Names> Body<'a, '_, N> {
    /// A name in an expression, with what is behind its dots: a column, a function that is called, or the type of a constant.
    pub(super) fn named(&mut self, first: Name<'a>) -> Found<'a, ()> {
        let mut path = Qualified { schema: None, name: first };
        let mut dots = 0;
        while self.tokens.take(b'.') {
            if dots > 0 {
                self.ask_attribute(path.name)?;
            }
            if self.tokens.take(b'*') {
                return Ok(());
            }
            path = Qualified { schema: Some(path.name), name: self.tokens.name()? };
            dots += 1;
        }
        match self.tokens.peek() {
            Some(Token::Mark(b'(') | Token::Text(_)) if dots > 1 => Err(self.tokens.stop_ahead()),
            Some(Token::Mark(b'(')) => self.call(path),
            Some(Token::Text(_)) => self.ask_kind(path),
            _ if dots > 0 => self.ask_attribute(path.name),
            _ => Ok(()),
        }
    }

    /// A word of the grammar, unless a function or type has its name.
    pub(super) fn soft(&mut self, name: Name<'a>) -> Found<'a, ()> {
        let word = Qualified { schema: None, name };
        let known = match self.tokens.peek() {
            Some(Token::Mark(b'(')) => self.names.function(word),
            Some(Token::Text(_)) => self.names.kind(word),
            Some(Token::Mark(b'.')) => return self.named(name),
            _ => return Ok(()),
        };
        match known {
            Known::Unsafe(reason) => Err(Stop { reason, word: name.text }),
            Known::Safe | Known::Unknown => Ok(()),
        }
    }

    /// A function whose opening bracket comes next.
    pub(super) fn call(&mut self, called: Qualified<'a>) -> Found<'a, ()> {
        self.check(&called)?;
        let word = called.name.text;
        match self.names.function(called) {
            Known::Safe => {}
            Known::Unknown => return Err(Stop { reason: Reason::UnknownFunction, word }),
            Known::Unsafe(reason) => return Err(Stop { reason, word }),
        }
        self.tokens.must_take(b'(')?;
        if word.len() == 15 && called.name.is("current_setting") {
            self.setting()?;
        }
        self.open(Kind::Call, Clause::Expr)
    }

    /// The first argument of `current_setting`: the name of a setting that is the same on all nodes, written out.
    fn setting(&mut self) -> Found<'a, ()> {
        let refused = Err(Stop { reason: Reason::NodeSetting, word: b"current_setting" });
        let Some(Token::Text(text)) = self.tokens.next() else { return refused };
        let name = text.strip_prefix(b"'").and_then(|text| text.strip_suffix(b"'")).unwrap_or_default();
        let alone = self.tokens.sees(b',') || self.tokens.sees(b')');
        if alone && is_shared_setting(name) { Ok(()) } else { refused }
    }

    /// `OPERATOR(schema.sign)`, whose opening bracket has been read.
    pub(super) fn named_operator(&mut self) -> Found<'a, ()> {
        self.operand()?;
        loop {
            let refused = self.tokens.stop_ahead();
            match self.tokens.peek() {
                Some(Token::Mark(byte)) if is_operator(byte) => {
                    self.tokens.next();
                    let (sign, signs) = self.tokens.operator();
                    self.ask_operator(sign)?;
                    if !signs.is_empty() {
                        return Err(refused);
                    }
                    return self.tokens.must_take(b')');
                }
                Some(Token::Word(_) | Token::QuotedName(_)) => {
                    self.tokens.next();
                    self.tokens.must_take(b'.')?;
                }
                _ => return Err(refused),
            }
        }
    }

    /// A type, of which as much is read as names it.
    pub(super) fn kind(&mut self) -> Found<'a, ()> {
        let name = self.tokens.name()?;
        let keyword = if name.quoted {
            Keyword::None
        } else {
            keyword(self.tokens.sql(), name.text, self.tokens.end())
        };
        self.kind_named(name, keyword)
    }

    pub(super) fn kind_named(&mut self, name: Name<'a>, keyword: Keyword) -> Found<'a, ()> {
        let known =
            keyword == Keyword::Type || (keyword == Keyword::Double && self.tokens.sees_word("precision"));
        if known {
            return Ok(());
        }
        let cast = self.qualified(name)?;
        self.ask_kind(cast)
    }

    /// `name` with one more behind a dot, if there is one.
    pub(super) fn qualified(&mut self, name: Name<'a>) -> Found<'a, Qualified<'a>> {
        if !self.tokens.take(b'.') {
            return Ok(Qualified { schema: None, name });
        }
        let path = Qualified { schema: Some(name), name: self.tokens.name()? };
        if self.tokens.sees(b'.') { Err(self.tokens.stop_ahead()) } else { Ok(path) }
    }

    /// Names that cannot be compared with those of the catalogue: too long, with quotes or escapes inside, or of another
    /// encoding.
    fn check_name(&self, name: &Name<'a>) -> Found<'a, ()> {
        let plain = name.text.len() <= NAME_BYTES
            && !name.text.is_empty()
            && (self.utf8 || name.text.is_ascii())
            && !(name.quoted && memchr::memchr2(b'"', b'\\', name.text).is_some());
        if plain { Ok(()) } else { Err(Stop { reason: Reason::Syntax, word: name.text }) }
    }

    fn check(&self, path: &Qualified<'a>) -> Found<'a, ()> {
        if let Some(schema) = &path.schema {
            self.check_name(schema)?;
        }
        self.check_name(&path.name)
    }

    pub(super) fn ask_attribute(&mut self, name: Name<'a>) -> Found<'a, ()> {
        self.check_name(&name)?;
        match self.names.attribute(name) {
            Known::Unsafe(reason) => Err(Stop { reason, word: name.text }),
            Known::Safe | Known::Unknown => Ok(()),
        }
    }

    fn ask_kind(&mut self, cast: Qualified<'a>) -> Found<'a, ()> {
        self.check(&cast)?;
        match self.names.kind(cast) {
            Known::Safe => Ok(()),
            Known::Unknown => Err(Stop { reason: Reason::UnknownType, word: cast.name.text }),
            Known::Unsafe(reason) => Err(Stop { reason, word: cast.name.text }),
        }
    }

    pub(super) fn ask_operator(&mut self, sign: &'a [u8]) -> Found<'a, ()> {
        // `f(name => value)`.
        let known = if sign == b"=>" { Known::Safe } else { self.names.operator(sign) };
        match known {
            Known::Safe => Ok(()),
            Known::Unknown => Err(Stop { reason: Reason::UnknownOperator, word: sign }),
            Known::Unsafe(reason) => Err(Stop { reason, word: sign }),
        }
    }

    pub(super) fn ask_relation(&mut self, read: Qualified<'a>) -> Found<'a, ()> {
        self.check(&read)?;
        match self.names.relation(read) {
            Known::Safe => Ok(()),
            Known::Unknown => Err(Stop { reason: Reason::UnknownRelation, word: read.name.text }),
            Known::Unsafe(reason) => Err(Stop { reason, word: read.name.text }),
        }
    }
}
