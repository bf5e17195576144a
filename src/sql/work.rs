//! What a text means to whoever must be able to say later what became of its transaction.
//!
//! In: a text. Out: whether it is a plain COMMIT, or one statement that runs in a transaction block as it does outside, and
//! whether it may tell others something without writing. Must not know what is done about it.

use super::builtins::{self, Class};
use super::lexer::{Lexer, Token};

/// What kind of text it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Anything else, and whatever is not understood.
    #[default]
    Other,
    /// COMMIT or END, without AND CHAIN, and nothing else.
    Commit,
    /// One INSERT, UPDATE, DELETE, MERGE or query: it does the same in a transaction block of its own.
    Statement,
}

/// What a text means to its transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// What kind of text it is.
    pub kind: Kind,
    /// It tells nobody anything unless it writes: it has no NOTIFY and calls no function but known ones.
    pub is_silent: bool,
}

/// First words of statements that are the same inside and outside a transaction block.
const STATEMENTS: [&str; 8] = ["select", "insert", "update", "delete", "merge", "with", "values", "table"];
/// Words that run what they name, or notify.
const LOUD: [&str; 4] = ["notify", "execute", "call", "unlisten"];
/// Words that stand before a bracket without being functions.
pub(super) const NO_FUNCTIONS: [&str; 41] = [
    "all",
    "and",
    "any",
    "array",
    "as",
    "between",
    "by",
    "case",
    "cast",
    "coalesce",
    "conflict",
    "distinct",
    "else",
    "except",
    "exists",
    "extract",
    "filter",
    "from",
    "greatest",
    "having",
    "in",
    "intersect",
    "is",
    "lateral",
    "least",
    "like",
    "materialized",
    "not",
    "nullif",
    "on",
    "or",
    "over",
    "returning",
    "row",
    "select",
    "some",
    "then",
    "union",
    "using",
    "values",
    "when",
];
/// Functions that act, but tell nobody.
const SILENT: [&str; 10] = [
    "nextval",
    "setval",
    "set_config",
    "pg_advisory_lock",
    "pg_advisory_unlock",
    "pg_advisory_xact_lock",
    "pg_try_advisory_lock",
    "pg_try_advisory_xact_lock",
    "pg_advisory_unlock_all",
    "pg_sleep",
];

impl Work {
    /// Reads a text.
    pub fn of(sql: &[u8], standard_strings: bool) -> Self {
        Self { kind: kind(sql, standard_strings), is_silent: is_silent(sql, standard_strings) }
    }
}

fn kind(sql: &[u8], standard_strings: bool) -> Kind {
    let mut tokens = Lexer::new(sql, standard_strings);
    let Some(first) = tokens.next() else { return Kind::Other };
    if first.is_any(&["commit", "end"]) {
        return if ends_plainly(tokens) { Kind::Commit } else { Kind::Other };
    }
    if !first.is_any(&STATEMENTS) {
        return Kind::Other;
    }
    let mut rest = std::iter::from_fn(|| tokens.next());
    let alone = rest.by_ref().all(|token| token != Token::Odd && token != Token::Semicolon);
    // What ended the search, if anything, was looked at: only semicolons may follow one.
    if alone || ended_by_semicolon(sql, standard_strings) { Kind::Statement } else { Kind::Other }
}

/// True when nothing but semicolons follows the first of them, and nothing odd stands before it.
fn ended_by_semicolon(sql: &[u8], standard_strings: bool) -> bool {
    let mut tokens = Lexer::new(sql, standard_strings);
    let mut all = std::iter::from_fn(|| tokens.next());
    let odd = all.by_ref().take_while(|token| *token != Token::Semicolon).any(|token| token == Token::Odd);
    !odd && all.all(|token| token == Token::Semicolon)
}

/// What follows COMMIT: WORK or TRANSACTION, AND NO CHAIN, semicolons.
fn ends_plainly(mut tokens: Lexer<'_>) -> bool {
    let mut next = tokens.next();
    if next.is_some_and(|token| token.is_any(&["work", "transaction"])) {
        next = tokens.next();
    }
    if next.is_some_and(|token| token.is("and")) {
        let no_chain = tokens.next().is_some_and(|token| token.is("no"))
            && tokens.next().is_some_and(|token| token.is("chain"));
        if !no_chain {
            return false;
        }
        next = tokens.next();
    }
    while next == Some(Token::Semicolon) {
        next = tokens.next();
    }
    next.is_none()
}

fn is_silent(sql: &[u8], standard_strings: bool) -> bool {
    let mut before = None;
    let mut begins = true;
    for token in Lexer::new(sql, standard_strings) {
        let loud = match token {
            Token::Odd => true,
            Token::Word(_) if token.is_any(&LOUD) => true,
            Token::Word(_) => begins && token.is("do"),
            Token::Mark(b'(') => before.is_some_and(|name| !is_known(name)),
            _ => false,
        };
        if loud {
            return false;
        }
        begins = token == Token::Semicolon;
        before = match token {
            Token::Word(name) | Token::QuotedName(name) => Some(name),
            _ => None,
        };
    }
    true
}

fn is_known(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let is_any = |words: &[&str]| words.iter().any(|word| word.as_bytes() == name);
    is_any(&NO_FUNCTIONS)
        || is_any(&SILENT)
        || matches!(builtins::function(&name), Some(Class::Read | Class::Local))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> (Kind, bool) {
        let work = Work::of(sql.as_bytes(), true);
        (work.kind, work.is_silent)
    }

    #[test]
    fn only_a_plain_commit_is_one() {
        for sql in
            ["COMMIT", "end;", "commit work", "END TRANSACTION ; ;", "commit and no chain", "/* x */ commit"]
        {
            assert_eq!(of(sql).0, Kind::Commit, "{sql}");
        }
        let others = [
            "commit and chain",
            "commit prepared 'x'",
            "prepare transaction 'x'",
            "commit; select 1",
            "rollback",
        ];
        for sql in others {
            assert_eq!(of(sql).0, Kind::Other, "{sql}");
        }
    }

    #[test]
    fn one_statement_alone_can_be_wrapped() {
        for sql in [
            "insert into t values (';')",
            "select 1;",
            " with a as (select 1) update t set a = 1;;",
            "table t",
        ] {
            assert_eq!(of(sql).0, Kind::Statement, "{sql}");
        }
        for sql in [
            "insert into t values (1); select 1",
            "call p()",
            "do $$ $$",
            "vacuum",
            "create table t ()",
            "",
            "select 'x",
        ] {
            assert_eq!(of(sql).0, Kind::Other, "{sql}");
        }
    }

    #[test]
    fn what_may_notify_is_not_silent() {
        for sql in
            ["select 1", "select count(*) from t where a in (1)", "select nextval('s')", "begin", "COMMIT"]
        {
            assert!(of(sql).1, "{sql}");
        }
        for sql in [
            "notify c",
            "select pg_notify('a', 'b')",
            "select mine(1)",
            "execute s",
            "do $$ $$",
            "select \"f\"(1)",
        ] {
            assert!(!of(sql).1, "{sql}");
        }
    }
}
