//! Whether a statement text only reads, so that a standby may answer it.
//!
//! In: a text, how the session writes strings, and whom to ask about names ([`Names`]). Out: a [`Judgement`]. Must not know
//! sessions, nodes or topology. One pass over the tokens, and conservative: a read that is called a write costs a little, a
//! write that is called a read must not happen. So whatever is not understood is a write.
//!
//! How a session uses it: `judge` once for each text, at Parse or Query; the verdict is good for as long as the generation of
//! the catalogue and the `search_path` stay as they were. The judge sees one text and nothing else; the session itself sends
//! to the primary whatever it runs
//! - inside a transaction that it did not begin on a standby, or under SERIALIZABLE;
//! - while it is pinned to a backend of the primary (a temporary table may hide a table, `setseed` decides `random`);
//! - with parameters of types whose OID is 16384 or more, when [`Catalogue::doubts_types`] says so.
//!
//! [`Catalogue::doubts_types`]: super::catalogue::Catalogue::doubts_types

mod ask;
mod body;
mod declared;
mod frames;
mod from;
mod hint;
mod keywords;
mod tokens;
mod utility;

use std::fmt;

pub use declared::{Access, Declaration, Isolation, Scope};
pub use hint::Hint;

use super::lexer::Token;
use super::names::{Name, Names};
use super::reason::Reason;
use body::Body;
use tokens::Tokens;

/// How the bytes of a text are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8: names can be compared with those of the catalogue.
    Utf8,
    /// Another one in which each byte of a longer character has its high bit set: LATIN1, EUC_JP, …
    AsciiSafe,
    /// One in which the second byte of a character may look like a quote or a backslash: SJIS, BIG5, GBK, GB18030, UHC, JOHAB,
    /// SHIFT_JIS_2004. Also every encoding that nobody has told us of.
    Unsafe,
}

impl Encoding {
    /// What a `client_encoding`, as the server reports it, means.
    pub fn of(name: &str) -> Self {
        const SAFE: [&str; 2] = ["SQL_ASCII", "MULE_INTERNAL"];
        let is_safe =
            ["LATIN", "WIN", "ISO_8859_", "KOI8", "EUC_"].iter().any(|family| name.starts_with(family));
        if name == "UTF8" {
            Self::Utf8
        } else if is_safe || SAFE.contains(&name) {
            Self::AsciiSafe
        } else {
            Self::Unsafe
        }
    }
}

/// What a session's settings say about reading its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// `standard_conforming_strings`.
    pub standard_strings: bool,
    /// What `client_encoding` means.
    pub encoding: Encoding,
}

/// What a text says about where it should run.
#[derive(Clone, Copy, Debug)]
pub struct Judgement<'a> {
    /// What its author asks for.
    pub hint: Option<Hint>,
    /// What it does.
    pub verdict: Verdict<'a>,
}

/// What a text does.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// Nothing: no statement is in it.
    Empty,
    /// Only reads.
    Read,
    /// One statement that declares how transactions are to be.
    Declare(Declaration),
    /// One EXECUTE of a statement prepared by SQL, whose arguments only read: whatever [`judge_prepared`] says of that one.
    Execute(Name<'a>),
    /// Anything else.
    Write(Stop<'a>),
}

/// Why a text is a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop<'a> {
    /// The reason.
    pub reason: Reason,
    /// The part of the text that it is about; may be empty.
    pub word: &'a [u8],
}

impl fmt::Display for Stop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line for people: a text may hold anything.
        let text = String::from_utf8_lossy(self.word);
        let mut word: String = text.chars().filter(|one| !one.is_control()).take(80).collect();
        if word.is_empty() {
            "the statement".clone_into(&mut word);
        }
        write!(f, "{word} {}", self.reason.text())
    }
}

/// Something found, or the end of the search: a write.
type Found<'a, T> = Result<T, Stop<'a>>;

/// Judges a text of a client.
pub fn judge<'a>(sql: &'a [u8], context: Context, names: &mut impl Names) -> Judgement<'a> {
    let verdict = match readable(sql, context) {
        Ok(()) => statements(sql, context, names).unwrap_or_else(Verdict::Write),
        Err(stop) => Verdict::Write(stop),
    };
    Judgement { hint: hint::hint(sql), verdict }
}

/// Judges the statement inside `PREPARE name [(types)] AS statement`.
pub fn judge_prepared<'a>(prepare: &'a [u8], context: Context, names: &mut impl Names) -> Verdict<'a> {
    let judged = readable(prepare, context).and_then(|()| {
        let mut tokens = Tokens::new(prepare, context.standard_strings);
        tokens.must_take_word("prepare")?;
        tokens.name()?;
        let mut body = Body::new(tokens, context, names);
        body.prepared_types()?;
        body.tokens.must_take_word("as")?;
        body.query()?;
        while body.tokens.take_semicolon() {}
        if body.tokens.peek().is_none() { Ok(Verdict::Read) } else { Err(body.tokens.stop_ahead()) }
    });
    judged.unwrap_or_else(Verdict::Write)
}

/// Texts of which the lexer cannot be sure.
fn readable(sql: &[u8], context: Context) -> Found<'_, ()> {
    if context.encoding == Encoding::Unsafe && !sql.is_ascii() {
        return Err(Stop { reason: Reason::Encoding, word: b"" });
    }
    // Then a backslash escapes in some kinds of strings and not in others.
    if !context.standard_strings && memchr::memchr(b'\\', sql).is_some() {
        return Err(Stop { reason: Reason::Syntax, word: b"\\" });
    }
    Ok(())
}

fn statements<'a>(sql: &'a [u8], context: Context, names: &mut impl Names) -> Found<'a, Verdict<'a>> {
    let mut body = Body::new(Tokens::new(sql, context.standard_strings), context, names);
    let mut verdict = Verdict::Empty;
    loop {
        while body.tokens.take_semicolon() {}
        if body.tokens.peek().is_none() {
            return Ok(verdict);
        }
        let next = statement(&mut body)?;
        verdict = match (verdict, next) {
            (Verdict::Empty, one) => one,
            (Verdict::Read, Verdict::Read) => Verdict::Read,
            _ => return Err(Stop { reason: Reason::Mixed, word: b"" }),
        };
        if !body.tokens.at_end() {
            return Err(body.tokens.stop_ahead());
        }
    }
}

/// One statement, up to its semicolon.
fn statement<'a, N: Names>(body: &mut Body<'a, '_, N>) -> Found<'a, Verdict<'a>> {
    let word = match body.tokens.peek() {
        Some(Token::Word(word)) => word,
        Some(Token::Mark(b'(')) => b"",
        _ => return Err(body.tokens.stop_ahead()),
    };
    // The longest first word has ten letters.
    let mut letters = [0; 12];
    let Some(lower) = letters.get_mut(..word.len()) else {
        return Err(Stop { reason: Reason::UnknownStatement, word });
    };
    lower.copy_from_slice(word);
    lower.make_ascii_lowercase();
    let judged = match &*lower {
        b"select" | b"with" | b"values" | b"table" | b"" => body.query(),
        b"explain" => utility::explain(body),
        b"show" => utility::show(&mut body.tokens),
        b"copy" => utility::copy(body),
        b"execute" => return utility::execute(body).map(Verdict::Execute),
        b"begin" | b"start" => {
            body.tokens.next();
            return declared::begin(&mut body.tokens, &*lower == b"start").map(Verdict::Declare);
        }
        b"set" => {
            body.tokens.next();
            return declared::set(&mut body.tokens).map(Verdict::Declare);
        }
        other => Err(Stop { reason: decided(other), word }),
    };
    judged.map(|()| Verdict::Read)
}

/// Statements that the first word decides.
fn decided(word: &[u8]) -> Reason {
    match word {
        b"insert" | b"update" | b"delete" | b"merge" | b"truncate" => Reason::DataModifying,
        b"commit" | b"end" | b"rollback" | b"abort" | b"savepoint" | b"release" => Reason::Transaction,
        b"declare" | b"fetch" | b"move" | b"close" => Reason::Cursor,
        b"call" | b"do" => Reason::Code,
        b"reset" | b"discard" | b"load" => Reason::Setting,
        b"prepare" | b"deallocate" | b"listen" | b"unlisten" | b"notify" => Reason::SessionState,
        b"lock" => Reason::Locking,
        b"alter" | b"create" | b"drop" | b"grant" | b"revoke" | b"comment" | b"import" | b"reassign"
        | b"security" => Reason::Definition,
        b"analyze" | b"analyse" | b"vacuum" | b"cluster" | b"reindex" | b"refresh" | b"checkpoint" => {
            Reason::Maintenance
        }
        _ => Reason::UnknownStatement,
    }
}

#[cfg(test)]
mod tests;
