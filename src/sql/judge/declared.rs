//! What a client declares about its transactions: BEGIN, START TRANSACTION, SET TRANSACTION and their settings.
//!
//! In: the tokens behind the first word. Out: scope, access and isolation. Must not know what follows from them.

use super::tokens::Tokens;
use super::{Found, Stop};
use crate::sql::lexer::Token;
use crate::sql::reason::Reason;

/// A declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// What it is about.
    pub scope: Scope,
    /// READ ONLY or READ WRITE, if said.
    pub access: Option<Access>,
    /// The isolation level, if said.
    pub isolation: Option<Isolation>,
}

/// What a declaration is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// BEGIN or START TRANSACTION: the transaction that begins with it.
    Begin,
    /// SET SESSION CHARACTERISTICS, `default_transaction_read_only` and its kin: transactions to come.
    Session,
    /// SET TRANSACTION, `transaction_read_only` and its kin: the transaction that runs.
    Transaction,
}

/// Whether a transaction may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// READ ONLY, or a value that means so.
    ReadOnly,
    /// READ WRITE, or a value that means so.
    ReadWrite,
    /// DEFAULT: what it was before the session said otherwise.
    Default,
}

/// How a transaction is isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Any level that a standby has too.
    Lower,
    /// SERIALIZABLE, which no standby has.
    Serializable,
    /// DEFAULT: what it was before the session said otherwise.
    Default,
}

/// BEGIN [WORK | TRANSACTION] modes, or START TRANSACTION modes.
pub(super) fn begin<'a>(tokens: &mut Tokens<'a>, start: bool) -> Found<'a, Declaration> {
    if start {
        tokens.must_take_word("transaction")?;
    } else if !tokens.take_word("work") {
        tokens.take_word("transaction");
    }
    modes(tokens, Scope::Begin)
}

/// What follows SET. All settings that declare nothing are settings.
pub(super) fn set<'a>(tokens: &mut Tokens<'a>) -> Found<'a, Declaration> {
    let session = tokens.take_word("session");
    if session && tokens.take_word("characteristics") {
        tokens.must_take_word("as")?;
        tokens.must_take_word("transaction")?;
        return modes(tokens, Scope::Session);
    }
    // SET LOCAL of a default has no effect on the transaction that it is local to.
    let local = !session && tokens.take_word("local");
    if !session && !local && tokens.take_word("transaction") {
        // SNAPSHOT takes over another session's snapshot: on that one's node only.
        return modes(tokens, Scope::Transaction);
    }
    let setting = Stop { reason: Reason::Setting, word: b"set" };
    let name = tokens.name().map_err(|_| setting)?;
    let scope = if name.is("default_transaction_read_only") || name.is("default_transaction_isolation") {
        Scope::Session
    } else if name.is("transaction_read_only") || name.is("transaction_isolation") {
        Scope::Transaction
    } else {
        return Err(setting);
    };
    if local && scope == Scope::Session {
        return Err(setting);
    }
    if !tokens.take(b'=') {
        tokens.must_take_word("to")?;
    }
    let mut declared = Declaration { scope, access: None, isolation: None };
    if name.is("transaction_isolation") || name.is("default_transaction_isolation") {
        declared.isolation = Some(isolation_value(tokens)?);
    } else {
        declared.access = Some(access_value(tokens)?);
    }
    end(tokens, declared)
}

fn end<'a>(tokens: &Tokens<'a>, declared: Declaration) -> Found<'a, Declaration> {
    if tokens.at_end() { Ok(declared) } else { Err(tokens.stop_ahead()) }
}

/// Transaction modes up to the statement's end; the last of a kind counts.
fn modes<'a>(tokens: &mut Tokens<'a>, scope: Scope) -> Found<'a, Declaration> {
    let mut declared = Declaration { scope, access: None, isolation: None };
    while !tokens.at_end() {
        if tokens.take_word("isolation") {
            tokens.must_take_word("level")?;
            declared.isolation = Some(level(tokens)?);
        } else if tokens.take_word("read") {
            declared.access = Some(if tokens.take_word("only") {
                Access::ReadOnly
            } else {
                tokens.must_take_word("write")?;
                Access::ReadWrite
            });
        } else {
            tokens.take_word("not");
            tokens.must_take_word("deferrable")?;
        }
        if tokens.take(b',') && tokens.at_end() {
            return Err(tokens.stop_ahead());
        }
    }
    Ok(declared)
}

fn level<'a>(tokens: &mut Tokens<'a>) -> Found<'a, Isolation> {
    if tokens.take_word("serializable") {
        return Ok(Isolation::Serializable);
    }
    if tokens.take_word("repeatable") {
        tokens.must_take_word("read")?;
    } else {
        tokens.must_take_word("read")?;
        if !tokens.take_word("committed") {
            tokens.must_take_word("uncommitted")?;
        }
    }
    Ok(Isolation::Lower)
}

/// The value of a setting, quotes removed.
fn value<'a>(tokens: &mut Tokens<'a>) -> Found<'a, &'a [u8]> {
    let stop = tokens.stop_ahead();
    match tokens.next() {
        Some(Token::Word(word) | Token::QuotedName(word) | Token::Number(word)) => Ok(word),
        Some(Token::Text(text)) => {
            text.strip_prefix(b"'").and_then(|text| text.strip_suffix(b"'")).ok_or(stop)
        }
        _ => Err(stop),
    }
}

/// A boolean as the server reads one: any unique beginning of its words, or a digit.
fn access_value<'a>(tokens: &mut Tokens<'a>) -> Found<'a, Access> {
    let stop = tokens.stop_ahead();
    let word = value(tokens)?;
    let begins = |whole: &str, least: usize| {
        let start = whole.as_bytes().get(..word.len());
        word.len() >= least && start.is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    if word == b"1" || begins("true", 1) || begins("yes", 1) || begins("on", 2) {
        Ok(Access::ReadOnly)
    } else if word == b"0" || begins("false", 1) || begins("no", 1) || begins("off", 2) {
        Ok(Access::ReadWrite)
    } else if word.eq_ignore_ascii_case(b"default") {
        Ok(Access::Default)
    } else {
        Err(stop)
    }
}

fn isolation_value<'a>(tokens: &mut Tokens<'a>) -> Found<'a, Isolation> {
    let stop = tokens.stop_ahead();
    let word = value(tokens)?;
    let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    if is("serializable") {
        Ok(Isolation::Serializable)
    } else if is("repeatable read") || is("read committed") || is("read uncommitted") {
        Ok(Isolation::Lower)
    } else if is("default") {
        Ok(Isolation::Default)
    } else {
        Err(stop)
    }
}
