//! Statements around a query: EXPLAIN, SHOW, COPY, EXECUTE.
//!
//! In: tokens that begin with that word. Out: whether the statement reads. Must not know queries.

use super::body::Body;
use super::tokens::Tokens;
use super::{Found, Stop};
use crate::sql::lexer::Token;
use crate::sql::names::{Name, Names};
use crate::sql::reason::Reason;

/// EXPLAIN goes where its statement would go: the plan that is asked for is that one's.
pub(super) fn explain<'a, N: Names>(body: &mut Body<'a, '_, N>) -> Found<'a, ()> {
    let tokens = &mut body.tokens;
    tokens.next();
    let mut ahead = tokens.clone();
    let options = ahead.take(b'(') && !begins_query(&ahead);
    if options {
        tokens.next();
        skip_options(tokens)?;
    } else {
        if !tokens.take_word("analyze") {
            tokens.take_word("analyse");
        }
        tokens.take_word("verbose");
    }
    if tokens.sees_word("execute") {
        // Its statement would have to be looked up: not worth the while for an EXPLAIN.
        return Err(Stop { reason: Reason::SessionState, word: b"execute" });
    }
    if begins_query(tokens) { body.query() } else { Err(modifying(tokens)) }
}

fn begins_query(tokens: &Tokens<'_>) -> bool {
    let word = tokens.peek().is_some_and(|token| token.is_any(&["select", "with", "values", "table"]));
    word || tokens.sees(b'(')
}

fn modifying<'a>(tokens: &Tokens<'a>) -> Stop<'a> {
    match tokens.peek() {
        Some(Token::Word(word)) => Stop { reason: Reason::DataModifying, word },
        _ => tokens.stop_ahead(),
    }
}

/// Options in brackets, whose opening one has been read: words, numbers and texts.
fn skip_options<'a>(tokens: &mut Tokens<'a>) -> Found<'a, ()> {
    loop {
        let stop = tokens.stop_ahead();
        match tokens.next() {
            Some(Token::Mark(b')')) => return Ok(()),
            Some(Token::Word(_) | Token::Text(_) | Token::Number(_) | Token::Mark(b',')) => {}
            _ => return Err(stop),
        }
    }
}

/// Settings that are the session's or the cluster's; others may differ between nodes, or be about one of them.
const SETTINGS: [&str; 20] = [
    "application_name",
    "block_size",
    "bytea_output",
    "client_encoding",
    "datestyle",
    "default_text_search_config",
    "extra_float_digits",
    "integer_datetimes",
    "intervalstyle",
    "is_superuser",
    "lc_collate",
    "lc_ctype",
    "max_identifier_length",
    "search_path",
    "server_encoding",
    "server_version",
    "server_version_num",
    "session_authorization",
    "standard_conforming_strings",
    "timezone",
];

/// Whether every node of a cluster gives a session the same answer for this setting. A name with a dot is the session's own.
pub(super) fn is_shared_setting(name: &[u8]) -> bool {
    let own = memchr::memchr(b'.', name).is_some_and(|dot| dot > 0);
    let simple = name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'));
    simple && (own || SETTINGS.iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes())))
}

/// SHOW.
pub(super) fn show<'a>(tokens: &mut Tokens<'a>) -> Found<'a, ()> {
    tokens.next();
    let stop = tokens.stop_ahead();
    if tokens.take_word("time") {
        tokens.must_take_word("zone")?;
        return Ok(());
    }
    let name = tokens.name()?;
    if tokens.take(b'.') {
        tokens.name()?;
        return Ok(());
    }
    if is_shared_setting(name.text) { Ok(()) } else { Err(Stop { reason: Reason::NodeSetting, ..stop }) }
}

/// COPY of a query or table to the client.
pub(super) fn copy<'a, N: Names>(body: &mut Body<'a, '_, N>) -> Found<'a, ()> {
    body.tokens.next();
    if body.tokens.take(b'(') {
        if !begins_query(&body.tokens) {
            return Err(modifying(&body.tokens));
        }
        body.query()?;
        body.tokens.must_take(b')')?;
    } else {
        body.relation()?;
        if body.tokens.take(b'(') {
            skip_options(&mut body.tokens)?;
        }
    }
    let tokens = &mut body.tokens;
    let to_client = tokens.take_word("to") && tokens.take_word("stdout");
    if !to_client {
        return Err(Stop { reason: Reason::Copy, word: b"copy" });
    }
    // How the result is to look.
    while !tokens.at_end() {
        if tokens.take(b'(') {
            skip_copy_options(tokens)?;
            continue;
        }
        let stop = tokens.stop_ahead();
        match tokens.next() {
            Some(Token::Word(_) | Token::QuotedName(_) | Token::Text(_) | Token::Mark(b',' | b'*')) => {}
            _ => return Err(stop),
        }
    }
    Ok(())
}

/// Options in brackets, which may hold lists of columns in brackets.
fn skip_copy_options<'a>(tokens: &mut Tokens<'a>) -> Found<'a, ()> {
    let mut depth = 1usize;
    while depth > 0 {
        let stop = tokens.stop_ahead();
        match tokens.next() {
            Some(Token::Mark(b'(')) => depth += 1,
            Some(Token::Mark(b')')) => depth -= 1,
            Some(
                Token::Word(_)
                | Token::QuotedName(_)
                | Token::Text(_)
                | Token::Number(_)
                | Token::Mark(b',' | b'*'),
            ) => {}
            _ => return Err(stop),
        }
    }
    Ok(())
}

/// EXECUTE name [(arguments)].
pub(super) fn execute<'a, N: Names>(body: &mut Body<'a, '_, N>) -> Found<'a, Name<'a>> {
    body.tokens.next();
    let name = body.tokens.name()?;
    if body.tokens.take(b'(') {
        body.expressions()?;
        body.tokens.must_take(b')')?;
    }
    Ok(name)
}
