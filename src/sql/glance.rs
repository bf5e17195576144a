//! What can be said of a statement text without reading all its tokens, and the one name that must be found in it.
//!
//! In: a text. Out: yes or no, or the name and its place. Must not know what is done about it.

use super::lexer::{Lexer, Token};

/// The name in a text that is one EXECUTE or DEALLOCATE, folded as the server folds it, and where it stands.
pub fn statement_name(sql: &[u8], standard_strings: bool) -> Option<(Vec<u8>, std::ops::Range<usize>)> {
    let mut lexer = Lexer::new(sql, standard_strings);
    let first = lexer.next()?;
    // Nearly every statement ends here.
    if !first.is_any(&["execute", "deallocate"]) {
        return None;
    }
    let mut token = lexer.next()?;
    if first.is("deallocate") && token.is("prepare") {
        token = lexer.next()?;
    }
    let (name, length) = match token {
        Token::Word(word) if !token.is_any(&["execute", "deallocate", "all"]) => {
            (word.to_ascii_lowercase(), word.len())
        }
        Token::QuotedName(name) => (without_doubles(name), name.len() + 2),
        _ => return None,
    };
    let end = lexer.position();
    let start = end.checked_sub(length)?;
    // One statement only: in a longer text the names of others would stay as they are.
    let mut rest = std::iter::from_fn(|| lexer.next()).skip_while(|token| *token != Token::Semicolon);
    rest.all(|token| token == Token::Semicolon).then_some((name, start..end))
}

/// A quoted name as it is, without the doubling of quotes in it.
pub(super) fn without_doubles(name: &[u8]) -> Vec<u8> {
    let mut quoted = false;
    let mut kept = name.to_vec();
    kept.retain(|byte| {
        quoted = *byte == b'"' && !quoted;
        *byte != b'"' || quoted
    });
    kept
}

/// True for a text whose columns are those of a cursor or another statement, whatever that is when it runs.
pub fn returns_what_it_finds(sql: &[u8]) -> bool {
    Lexer::new(sql, true).next().is_some_and(|first| first.is_any(&["fetch", "execute"]))
}

/// True for a text that begins as a query does, or as what only shows something: what a session that only reads may ask of
/// any node.
pub fn is_query(sql: &[u8]) -> bool {
    const WORDS: [&str; 7] = ["select", "with", "values", "table", "show", "explain", "copy"];
    let first = Lexer::new(sql, true).next();
    first.is_some_and(|first| first.is_any(&WORDS) || first == Token::Mark(b'('))
}

/// True for a text that is one SET or RESET: it has neither expressions nor anything to write.
pub fn is_set(sql: &[u8], standard_strings: bool) -> bool {
    let mut lexer = Lexer::new(sql, standard_strings);
    let sets = lexer.next().is_some_and(|first| first.is_any(&["set", "reset"]));
    sets && lexer.skip_while(|token| *token != Token::Semicolon).all(|token| token == Token::Semicolon)
}

/// First words of statements that may have an effect by themselves.
const FIRST_WORDS: [&[u8]; 20] = [
    b"abort",
    b"begin",
    b"close",
    b"commit",
    b"create",
    b"deallocate",
    b"declare",
    b"discard",
    b"end",
    b"drop",
    b"listen",
    b"load",
    b"prepare",
    b"release",
    b"reset",
    b"rollback",
    b"savepoint",
    b"set",
    b"start",
    b"unlisten",
];

/// True only when nothing in `sql` has an effect, however its strings are read; false when more must be looked at. Most
/// statements are settled here, for a small part of what reading all their tokens costs.
pub fn looks_plain(sql: &[u8]) -> bool {
    let text = sql.trim_ascii_end();
    let text = text.strip_suffix(b";").unwrap_or(text);
    if memchr::memchr(b';', text).is_some() {
        return false;
    }
    let first = Lexer::new(text, true).next();
    let begins_plain = match first {
        Some(Token::Word(word)) => !FIRST_WORDS.iter().any(|first| word.eq_ignore_ascii_case(first)),
        _ => true,
    };
    // All that a body can do is call a function of `functions` and select INTO TEMP.
    begins_plain && !BODY_WORDS.iter().any(|(word, rare)| holds(text, word, *rare))
}

/// True when a text with this beginning may leave something behind that only all of it tells, such as a setting. Of what
/// other statements leave, the server can be asked.
pub fn begins_secretly(head: &[u8]) -> bool {
    let secret = ["deallocate", "discard", "load", "prepare", "reset", "set"];
    Lexer::new(head, true).next().is_none_or(|first| first == Token::Odd || first.is_any(&secret))
}

/// True for one statement that calls no function: it begins a transaction, sets something, or selects without one.
pub fn is_border(sql: &[u8]) -> bool {
    let text = sql.trim_ascii_end();
    let text = text.strip_suffix(b";").unwrap_or(text);
    let Some(first) = Lexer::new(text, true).next() else { return false };
    let begins = first.is_any(&["begin", "start", "set", "show", "savepoint"]);
    let selects = first.is("select") && memchr::memchr(b'(', text).is_none();
    memchr::memchr(b';', text).is_none() && (begins || selects)
}

/// What every body with an effect holds, each with the place of a letter that is rare in statements.
const BODY_WORDS: [(&[u8], usize); 6] =
    [(b"advisory", 2), (b"temp", 2), (b"nextval", 2), (b"setval", 3), (b"setseed", 6), (b"set_config", 7)];

/// True when a text may ask what a sequence has given this session, or have one give something: `currval`, `lastval`,
/// `nextval` and `setval`.
pub fn may_use_sequence(sql: &[u8]) -> bool {
    [b"currval", b"lastval", b"nextval"].iter().any(|word| holds(sql, *word, 4)) || holds(sql, b"setval", 3)
}

/// Whether `word` stands anywhere in `text`, in any case; it is looked for by its letter at `rare`.
fn holds(text: &[u8], word: &[u8], rare: usize) -> bool {
    let Some(&letter) = word.get(rare) else { return false };
    memchr::memchr2_iter(letter, letter.to_ascii_uppercase(), text).any(|at| {
        let start = at.checked_sub(rare);
        let found = start.and_then(|start| text.get(start..)?.get(..word.len()));
        found.is_some_and(|found| found.eq_ignore_ascii_case(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_quotes_and_borders() {
        assert_eq!(statement_name(br#"execute "a""b""""#, true), Some((br#"a"b""#.to_vec(), 8..16)));
        assert!(is_border(b"BEGIN;") && is_border(b"set a = 1"));
        assert!(!is_border(b"begin; select 1") && !is_border(b"select f()") && !is_border(b""));
    }

    #[test]
    fn one_set_or_reset_is_told_from_more() {
        for sql in [&b"SET a = 1"[..], b"/* x */ reset all ;; ", b"set role 'x;y'"] {
            assert!(is_set(sql, true), "{}", String::from_utf8_lossy(sql));
        }
        for sql in [&b"set a = 1; insert into t values (1)"[..], b"select 1", b"", b";set a = 1"] {
            assert!(!is_set(sql, true), "{}", String::from_utf8_lossy(sql));
        }
    }

    #[test]
    fn long_texts_are_told_by_their_beginning() {
        for data in
            ["insert into t values ('xxx", "(select 1", "copy t from stdin", "create function f as $$ set"]
        {
            assert!(!begins_secretly(data.as_bytes()), "{data}");
        }
        for secret in ["SET a = 'xxx", " -- c\nset a", "/* nothing but a comment", "prepare q as", ""] {
            assert!(begins_secretly(secret.as_bytes()), "{secret}");
        }
    }
}
