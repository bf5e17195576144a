//! Walks a query to its end and asks for every name that may stand for code or data.
//!
//! In: tokens. Out: nothing, or why it is a write. Must not know what encloses the query (EXPLAIN, COPY, ...).
//!
//! No grammar: a stack of brackets and, for each, the clause that it is in. That is enough to tell a table from a column, a
//! function from a list of columns, and a type from an alias. Where the words of a clause could be read in two ways, the way
//! that asks for more is taken, or the text is refused.

use super::frames::{Clause, Frames, Kind};
use super::keywords::{Keyword, keyword};
use super::tokens::{Tokens, is_operator};
use super::{Context, Encoding, Found, Stop};
use crate::sql::lexer::Token;
use crate::sql::names::{Name, Names};
use crate::sql::reason::Reason;

/// The token before, where it changes the meaning of the next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Prev {
    Other,
    /// IS, or IS NOT: what follows may be DISTINCT FROM.
    Is,
    /// A built-in type that the grammar knows: a bracket behind it holds its size.
    Type,
    /// A closing bracket, but not that of a type's size.
    Closed,
}

/// The walk through one query.
pub(super) struct Body<'a, 'n, N> {
    pub(super) tokens: Tokens<'a>,
    pub(super) frames: Frames<'a>,
    pub(super) names: &'n mut N,
    /// Whether names can be compared with those of the catalogue byte by byte.
    pub(super) utf8: bool,
    prev: Prev,
}

impl<'a, 'n, N: Names> Body<'a, 'n, N> {
    pub(super) fn new(tokens: Tokens<'a>, context: Context, names: &'n mut N) -> Self {
        let utf8 = context.encoding == Encoding::Utf8;
        Self { tokens, frames: Frames::new(), names, utf8, prev: Prev::Other }
    }

    /// A query, up to the statement's end or a closing bracket that is not its own.
    pub(super) fn query(&mut self) -> Found<'a, ()> {
        self.frames.begin(Clause::Start);
        self.run()
    }

    /// Expressions with commas between them, up to a closing bracket.
    pub(super) fn expressions(&mut self) -> Found<'a, ()> {
        self.frames.begin(Clause::Expr);
        self.run()
    }

    /// A table's name, which comes next.
    pub(super) fn relation(&mut self) -> Found<'a, ()> {
        let first = self.tokens.name()?;
        let read = self.qualified(first)?;
        self.ask_relation(read)
    }

    /// The types of PREPARE's parameters, in brackets, if there are any.
    pub(super) fn prepared_types(&mut self) -> Found<'a, ()> {
        if !self.tokens.take(b'(') {
            return Ok(());
        }
        self.frames.begin(Clause::Expr);
        loop {
            self.kind()?;
            let mut depth = 0usize;
            loop {
                match self.tokens.next() {
                    Some(Token::Mark(b'(' | b'[')) => depth += 1,
                    Some(Token::Mark(b')')) if depth == 0 => return Ok(()),
                    Some(Token::Mark(b')' | b']')) if depth > 0 => depth -= 1,
                    Some(Token::Mark(b',')) if depth == 0 => break,
                    Some(Token::Mark(b',') | Token::Number(_) | Token::Word(_)) => {}
                    _ => return Err(self.tokens.stop_ahead()),
                }
            }
        }
    }

    fn run(&mut self) -> Found<'a, ()> {
        loop {
            let ends = match self.tokens.peek() {
                None | Some(Token::Semicolon) => true,
                Some(Token::Mark(b')')) => self.frames.depth() == 0,
                _ => false,
            };
            if ends {
                let complete =
                    matches!(self.frames.top().clause, Clause::Expr | Clause::FromNext | Clause::FromOn);
                let closed = self.frames.depth() == 0;
                return if complete && closed { Ok(()) } else { Err(self.tokens.stop_ahead()) };
            }
            let at = self.tokens.end();
            let Some(token) = self.tokens.next() else { return Ok(()) };
            let prev = std::mem::replace(&mut self.prev, Prev::Other);
            match token {
                Token::Word(text) => {
                    let keyword = keyword(self.tokens.sql(), text, self.tokens.end());
                    self.word(Name { text, quoted: false }, keyword, prev)?;
                }
                Token::QuotedName(text) => self.word(Name { text, quoted: true }, Keyword::None, prev)?,
                Token::Text(_) => {
                    // `f(1) 'x'` is a constant of type f.
                    if prev == Prev::Closed {
                        return Err(self.tokens.stop_at(at));
                    }
                    self.operand()?;
                }
                Token::Number(digits) => {
                    self.operand()?;
                    self.tokens.number(digits)?;
                }
                Token::Mark(byte) => self.mark(byte, prev, at)?,
                Token::Semicolon | Token::Odd => return Err(self.tokens.stop_at(at)),
            }
        }
    }

    /// Something that only an expression may hold: a bracket that has just opened holds no query then.
    pub(super) fn operand(&mut self) -> Found<'a, ()> {
        let frame = self.frames.top();
        match frame.clause {
            Clause::Expr | Clause::FromOn | Clause::ColumnRest => Ok(()),
            Clause::Start if !matches!(frame.kind, Kind::Base | Kind::Cte) => {
                frame.clause = Clause::Expr;
                Ok(())
            }
            _ => Err(self.tokens.stop_ahead()),
        }
    }

    pub(super) fn open(&mut self, kind: Kind, clause: Clause) -> Found<'a, ()> {
        let deep = Stop { reason: Reason::TooDeep, word: b"" };
        if self.frames.push(kind, clause) { Ok(()) } else { Err(deep) }
    }

    fn mark(&mut self, byte: u8, prev: Prev, at: usize) -> Found<'a, ()> {
        match byte {
            b'(' => self.open_bracket(prev, at),
            b')' => self.close_bracket(at),
            b',' => self.comma(at),
            b'[' => {
                self.operand()?;
                self.open(Kind::Bracket, Clause::Expr)
            }
            b']' => match self.frames.pop() {
                Some(Kind::Bracket) => Ok(()),
                _ => Err(self.tokens.stop_at(at)),
            },
            b'.' => {
                self.operand()?;
                self.behind_dot()
            }
            b'$' => {
                self.operand()?;
                self.tokens.parameter()
            }
            b':' => {
                self.operand()?;
                match self.tokens.touching() {
                    Some(b':') => {
                        self.tokens.next();
                        self.kind()
                    }
                    Some(b'=') => {
                        self.tokens.next();
                        Ok(())
                    }
                    // A slice, or a key of a JSON object.
                    _ => Ok(()),
                }
            }
            byte if is_operator(byte) => {
                let (sign, signs) = self.tokens.operator();
                // `FROM t *` is `FROM t`.
                if self.frames.top().clause == Clause::FromNext && sign == b"*" && signs.is_empty() {
                    return Ok(());
                }
                self.operand()?;
                self.ask_operator(sign)?;
                signs.chunks(1).try_for_each(|sign| self.ask_operator(sign))
            }
            _ => Err(self.tokens.stop_at(at)),
        }
    }

    fn open_bracket(&mut self, prev: Prev, at: usize) -> Found<'a, ()> {
        let frame = self.frames.top();
        match frame.clause {
            Clause::Start | Clause::SetOp | Clause::AfterCte => {
                frame.clause = Clause::Expr;
                frame.query = true;
                self.open(Kind::Group, Clause::Start)
            }
            Clause::FromItem | Clause::FromStart => {
                frame.clause = Clause::FromNext;
                self.open(Kind::From, Clause::FromStart)
            }
            Clause::Expr | Clause::FromOn | Clause::ColumnRest if prev == Prev::Type => {
                self.open(Kind::Size, Clause::Expr)
            }
            Clause::Expr | Clause::FromOn | Clause::ColumnRest => self.open(Kind::Group, Clause::Start),
            Clause::FromNext | Clause::ColumnName | Clause::ColumnType => Err(self.tokens.stop_at(at)),
        }
    }

    fn close_bracket(&mut self, at: usize) -> Found<'a, ()> {
        let frame = *self.frames.top();
        let complete = match frame.clause {
            Clause::Start => frame.kind != Kind::Cte,
            Clause::FromItem | Clause::FromStart | Clause::SetOp | Clause::AfterCte => false,
            _ => frame.kind != Kind::Bracket,
        };
        if !complete {
            return Err(self.tokens.stop_at(at));
        }
        match self.frames.pop() {
            Some(Kind::Size) => {}
            Some(_) => self.prev = Prev::Closed,
            None => return Err(self.tokens.stop_at(at)),
        }
        Ok(())
    }

    fn comma(&mut self, at: usize) -> Found<'a, ()> {
        let frame = self.frames.top();
        match frame.clause {
            Clause::Expr => {}
            Clause::FromNext | Clause::FromOn => frame.clause = Clause::FromItem,
            Clause::ColumnRest | Clause::ColumnType => frame.clause = Clause::ColumnName,
            Clause::AfterCte => return self.cte(),
            _ => return Err(self.tokens.stop_at(at)),
        }
        Ok(())
    }

    /// `.name` behind something that is no name: the field of a row, or a function of it.
    fn behind_dot(&mut self) -> Found<'a, ()> {
        match self.tokens.peek() {
            Some(Token::Mark(b'*')) => {
                self.tokens.next();
                Ok(())
            }
            Some(Token::Number(digits)) => {
                self.tokens.next();
                self.tokens.number(digits)
            }
            _ => {
                let name = self.tokens.name()?;
                self.ask_attribute(name)?;
                // A call or a type's constant behind a word that is no name by itself: `time.f(1)`, `time.f 'x'`.
                match self.tokens.peek() {
                    Some(Token::Mark(b'(') | Token::Text(_)) => Err(self.tokens.stop_ahead()),
                    _ => Ok(()),
                }
            }
        }
    }

    pub(super) fn word(&mut self, name: Name<'a>, keyword: Keyword, prev: Prev) -> Found<'a, ()> {
        let frame = self.frames.top();
        match frame.clause {
            Clause::Expr | Clause::FromOn | Clause::ColumnRest => self.expression_word(name, keyword, prev),
            Clause::FromItem | Clause::FromStart => self.table_word(name, keyword),
            Clause::FromNext => self.word_behind_table(name, keyword),
            Clause::Start | Clause::SetOp | Clause::AfterCte => self.start_word(name, keyword, prev),
            Clause::ColumnName => {
                frame.clause = Clause::ColumnType;
                Ok(())
            }
            Clause::ColumnType => {
                frame.clause = Clause::ColumnRest;
                self.kind_named(name, keyword)
            }
        }
    }

    /// The first word of a query, or of a bracket.
    fn start_word(&mut self, name: Name<'a>, keyword: Keyword, prev: Prev) -> Found<'a, ()> {
        let refused = Stop { reason: Reason::Syntax, word: name.text };
        let values = self.tokens.sees(b'(');
        let frame = self.frames.top();
        let start = frame.clause == Clause::Start;
        let clause = match keyword {
            Keyword::Select => Clause::Expr,
            Keyword::Values if values => Clause::Expr,
            Keyword::Table => Clause::FromItem,
            Keyword::With if start => return self.with(),
            Keyword::All | Keyword::Distinct if frame.clause == Clause::SetOp => return Ok(()),
            Keyword::Modify => return Err(Stop { reason: Reason::DataModifying, ..refused }),
            _ if start && !matches!(frame.kind, Kind::Base | Kind::Cte | Kind::From) => {
                frame.clause = Clause::Expr;
                return self.expression_word(name, keyword, prev);
            }
            _ => return Err(refused),
        };
        frame.clause = clause;
        frame.query = true;
        Ok(())
    }

    /// WITH [RECURSIVE], in front of a query.
    fn with(&mut self) -> Found<'a, ()> {
        let recursive = self.tokens.take_word("recursive");
        // Else it is a name.
        if recursive && (self.tokens.sees(b'(') || self.tokens.sees_word("as")) {
            return Err(self.tokens.stop_ahead());
        }
        self.frames.top().recursive = recursive;
        self.cte()
    }

    /// `name [(columns)] AS [[NOT] MATERIALIZED] (`.
    fn cte(&mut self) -> Found<'a, ()> {
        let name = self.tokens.name()?;
        if self.tokens.take(b'(') {
            self.tokens.name()?;
            while self.tokens.take(b',') {
                self.tokens.name()?;
            }
            self.tokens.must_take(b')')?;
        }
        self.tokens.must_take_word("as")?;
        if self.tokens.take_word("not") {
            self.tokens.must_take_word("materialized")?;
        } else {
            self.tokens.take_word("materialized");
        }
        self.tokens.must_take(b'(')?;
        self.frames.name_cte(name);
        self.frames.top().clause = Clause::AfterCte;
        self.open(Kind::Cte, Clause::Start)
    }

    fn expression_word(&mut self, name: Name<'a>, keyword: Keyword, prev: Prev) -> Found<'a, ()> {
        let refused = |reason| Err(Stop { reason, word: name.text });
        let frame = self.frames.top();
        match keyword {
            Keyword::Join if frame.clause == Clause::FromOn => {
                frame.clause = Clause::FromItem;
                Ok(())
            }
            Keyword::Join | Keyword::Rows | Keyword::Soft => self.soft(name),
            Keyword::As => self.label(),
            Keyword::Cast if self.tokens.take(b'(') => self.open(Kind::Cast, Clause::Expr),
            Keyword::Clause => {
                if frame.query {
                    frame.clause = Clause::Expr;
                }
                Ok(())
            }
            // Without IS before it, it is a name: then a table follows.
            Keyword::Distinct if self.tokens.sees_word("from") => {
                self.tokens.next();
                if prev == Prev::Is { Ok(()) } else { refused(Reason::Syntax) }
            }
            Keyword::For => self.locking(name, false),
            Keyword::From => {
                if frame.query && frame.clause != Clause::Expr {
                    return refused(Reason::Syntax);
                }
                if frame.query {
                    frame.clause = Clause::FromItem;
                }
                Ok(())
            }
            Keyword::Into => refused(Reason::Into),
            Keyword::Is if !matches!(self.tokens.peek(), Some(Token::Mark(b'(') | Token::Text(_))) => {
                self.prev = Prev::Is;
                Ok(())
            }
            Keyword::Not => {
                self.prev = prev;
                Ok(())
            }
            Keyword::Modify => refused(Reason::DataModifying),
            Keyword::Operator if self.tokens.take(b'(') => self.named_operator(),
            keyword if keyword.names() => self.named(name),
            Keyword::Rare if self.tokens.sees(b'(') => refused(Reason::Syntax),
            Keyword::Returning => self.kind(),
            Keyword::Type => {
                self.prev = Prev::Type;
                Ok(())
            }
            Keyword::SetOp if frame.query => {
                frame.clause = Clause::SetOp;
                Ok(())
            }
            Keyword::Select | Keyword::SetOp | Keyword::Uescape => refused(Reason::Syntax),
            Keyword::With => self.with_inside(),
            _ => Ok(()),
        }
    }

    /// FOR: a locking clause, or part of a function's syntax such as `substring(x FROM 1 FOR 2)`.
    pub(super) fn locking(&mut self, name: Name<'a>, must: bool) -> Found<'a, ()> {
        let strengths = ["update", "no", "share", "key"];
        if self.tokens.peek().is_some_and(|token| token.is_any(&strengths)) {
            return Err(Stop { reason: Reason::Locking, word: name.text });
        }
        if must { Err(self.tokens.stop_ahead()) } else { Ok(()) }
    }

    /// WITH that begins no query.
    fn with_inside(&mut self) -> Found<'a, ()> {
        let phrases =
            ["array", "conditional", "ordinality", "ties", "time", "unconditional", "unique", "wrapper"];
        let known = self.tokens.peek().is_some_and(|token| token.is_any(&phrases));
        if known { Ok(()) } else { Err(self.tokens.stop_ahead()) }
    }

    /// What follows AS in an expression: a type in a cast, else a name of the author's choice, which may be any word.
    fn label(&mut self) -> Found<'a, ()> {
        match self.frames.top().kind {
            Kind::Cast => return self.kind(),
            Kind::Rows => {
                self.tokens.must_take(b'(')?;
                return self.open(Kind::Columns, Clause::ColumnName);
            }
            _ => {}
        }
        // `WINDOW w AS (`.
        if !self.tokens.sees(b'(') {
            self.tokens.name()?;
        }
        Ok(())
    }
}
