//! Whether a text may be run a second time in place of the first, when that was rolled back with its server.
//!
//! In: a text, and functions that the operator calls reads. Out: nothing that speaks against it, or what does. Whatever a
//! rollback takes back may be done again; results that differ are found by whoever compares them. What is left is code that
//! may do anything anywhere, files, the end of a transaction, and state of the session that a rollback does not take back.
//! Must not know sessions.

use super::builtins::{self, Class};
use super::lexer::{Lexer, Token};
use super::work::{NO_FUNCTIONS, Work};

/// What speaks against running a text again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A function that is not in the table: it may do anything.
    Function,
    /// CALL or DO.
    Code,
    /// COPY from or to a file or program of the server's host.
    File,
    /// It ends a transaction and does something else, too, or leaves its end to others.
    Border,
    /// A lock of the session: it is gone, and others may have had it.
    Lock,
    /// PREPARE, DEALLOCATE, DISCARD, LOAD: a rollback does not take them back.
    Session,
    /// A definition that may hold code.
    Definition,
    /// A statement that is not known, or a text that is not understood.
    Unknown,
}

impl Why {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Function => "it calls a function that may do anything",
            Self::Code => "it ran CALL or DO",
            Self::File => "it ran COPY with a file or a program",
            Self::Border => "it ended a transaction in the middle of a text",
            Self::Lock => "it took a lock of the session",
            Self::Session => "it changed the session in a way that no rollback takes back",
            Self::Definition => "it defined something that holds code",
            Self::Unknown => "it ran a statement that is not understood",
        }
    }
}

/// What a text means to its repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repeat {
    /// What speaks against it.
    pub why_not: Option<Why>,
    /// The statements that it runs by their names; what they do counts, too.
    pub executes: Vec<Box<[u8]>>,
    /// The name that it gives to a statement, and what speaks against running that.
    pub prepares: Option<(Box<[u8]>, Option<Why>)>,
}

/// First words of statements that a rollback takes back, or that change nothing.
const PLAIN: [&str; 33] = [
    "abort",
    "alter",
    "analyse",
    "analyze",
    "begin",
    "close",
    "comment",
    "declare",
    "delete",
    "drop",
    "explain",
    "fetch",
    "grant",
    "insert",
    "listen",
    "lock",
    "merge",
    "move",
    "notify",
    "refresh",
    "release",
    "reset",
    "revoke",
    "rollback",
    "savepoint",
    "select",
    "set",
    "show",
    "start",
    "table",
    "truncate",
    "unlisten",
    "update",
];
/// What CREATE may make.
const MADE: [&str; 6] = ["index", "materialized", "schema", "sequence", "table", "view"];
/// Words between CREATE and what it makes.
const BESIDE_CREATE: [&str; 8] =
    ["global", "local", "or", "replace", "temp", "temporary", "unique", "unlogged"];
/// Words before a name that is no function's, whatever bracket follows it.
const BEFORE_RELATIONS: [&str; 10] =
    ["as", "copy", "execute", "exists", "into", "prepare", "recursive", "references", "table", "with"];
/// Words that stand before a bracket without being functions, beside those of [`NO_FUNCTIONS`].
const MORE_NO_FUNCTIONS: [&str; 39] = [
    "analyze",
    "char",
    "character",
    "check",
    "collate",
    "copy",
    "cube",
    "dec",
    "decimal",
    "default",
    "describe",
    "do",
    "execute",
    "explain",
    "float",
    "for",
    "group",
    "groups",
    "include",
    "insert",
    "interval",
    "key",
    "limit",
    "national",
    "offset",
    "only",
    "recursive",
    "rollup",
    "set",
    "sets",
    "time",
    "to",
    "unique",
    "update",
    "varying",
    "with",
    "within",
    "window",
    "zone",
];
/// Functions that act, and whose actions a rollback takes back, or that do the same when they are called again.
const AGAIN: [&str; 34] = [
    "currval",
    "lastval",
    "lo_close",
    "lo_creat",
    "lo_create",
    "lo_from_bytea",
    "lo_get",
    "lo_lseek",
    "lo_lseek64",
    "lo_open",
    "lo_put",
    "lo_tell",
    "lo_tell64",
    "lo_truncate",
    "lo_truncate64",
    "lo_unlink",
    "loread",
    "lowrite",
    "nextval",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_current_xact_id",
    "pg_notify",
    "pg_sequence_last_value",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "set_config",
    "setseed",
    "setval",
    "ts_stat",
    "txid_current",
    "pg_current_xact_id_if_assigned",
    "pg_input_is_valid",
    "pg_input_error_info",
];
/// Locks of the session.
const LOCKS: [&str; 7] = [
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
];

impl Repeat {
    /// Reads a text. `reads` are functions (`name` or `schema.name`) that only read, as the operator says.
    pub fn of(sql: &[u8], standard_strings: bool, reads: &[String]) -> Self {
        let mut found = Self::default();
        let mut tokens = Lexer::new(sql, standard_strings);
        let mut count = 0;
        let mut ends = false;
        while let Some(first) = tokens.next() {
            if first == Token::Semicolon {
                continue;
            }
            count += 1;
            ends |= first.is_any(&["commit", "end"]);
            let mut statement = Statement { tokens, reads, is_over: false };
            let why = statement.judge(first, &mut found);
            tokens = statement.past_end();
            found.why_not = found.why_not.or(why);
        }
        // A COMMIT alone is the transaction's end, and nothing is run again behind it.
        if ends && (count > 1 || Work::of(sql, standard_strings).kind != super::work::Kind::Commit) {
            found.why_not = Some(Why::Border);
        }
        found
    }
}

/// One statement: the lexer stands behind its first token.
struct Statement<'a, 'r> {
    tokens: Lexer<'a>,
    reads: &'r [String],
    is_over: bool,
}

impl<'a> Statement<'a, '_> {
    fn next(&mut self) -> Option<Token<'a>> {
        let token = if self.is_over { None } else { self.tokens.next() };
        self.is_over = matches!(token, None | Some(Token::Semicolon));
        token.filter(|token| *token != Token::Semicolon)
    }

    fn past_end(mut self) -> Lexer<'a> {
        while self.next().is_some() {}
        self.tokens
    }

    fn judge(&mut self, first: Token<'a>, found: &mut Repeat) -> Option<Why> {
        let Token::Word(_) = first else {
            return if first == Token::Mark(b'(') {
                self.calls(None, false, found)
            } else {
                Some(Why::Unknown)
            };
        };
        if first.is_any(&PLAIN) || first.is_any(&["with", "values", "execute"]) {
            return self.calls(Some(first), false, found);
        }
        if first.is_any(&["commit", "end"]) {
            return None;
        }
        if first.is_any(&["call", "do"]) {
            return Some(Why::Code);
        }
        if first.is_any(&["deallocate", "discard", "load"]) {
            return Some(Why::Session);
        }
        if first.is("create") {
            return self.create(found);
        }
        if first.is("copy") {
            return self.copy(first, found);
        }
        Some(if first.is("prepare") { self.prepare(found) } else { Why::Unknown })
    }

    fn create(&mut self, found: &mut Repeat) -> Option<Why> {
        let mut token = self.next()?;
        while token.is_any(&BESIDE_CREATE) {
            token = self.next()?;
        }
        if token.is_any(&MADE) {
            self.calls(Some(token), token.is("index"), found)
        } else {
            Some(Why::Definition)
        }
    }

    /// COPY from or to the client.
    fn copy(&mut self, first: Token<'a>, found: &mut Repeat) -> Option<Why> {
        let (mut depth, mut ahead) = (0usize, self.tokens.clone());
        let mut to_client = false;
        while let Some(token) = ahead.next() {
            match token {
                Token::Semicolon => break,
                Token::Mark(b'(') => depth += 1,
                Token::Mark(b')') => depth = depth.saturating_sub(1),
                _ if depth == 0 && token.is_any(&["from", "to"]) => {
                    to_client = ahead.next().is_some_and(|token| token.is_any(&["stdin", "stdout"]));
                    break;
                }
                _ => {}
            }
        }
        if to_client { self.calls(Some(first), false, found) } else { Some(Why::File) }
    }

    fn prepare(&mut self, found: &mut Repeat) -> Why {
        let name = self.next().and_then(name_of);
        let Some(name) = name.filter(|name| &**name != b"transaction") else { return Why::Border };
        let mut body = Repeat::default();
        // Past the types, which may look like a call.
        while self.next().is_some_and(|token| !token.is("as")) {}
        let why = self.calls(None, false, &mut body);
        found.prepares = Some((name, why.or((!body.executes.is_empty()).then_some(Why::Unknown))));
        Why::Session
    }

    /// What speaks against the functions called in the rest of the statement, `before` being its beginning.
    fn calls(&mut self, before: Option<Token<'a>>, is_index: bool, found: &mut Repeat) -> Option<Why> {
        // The name that stands last, the schema before it, and the word before that.
        let (mut last, mut schema, mut lead) = (before.and_then(word_of), None, None);
        let mut after_dot = false;
        let mut executes = before.is_some_and(|token| token.is("execute"));
        let mut why = None;
        while let Some(token) = self.next() {
            if token == Token::Odd {
                return Some(Why::Unknown);
            }
            let word = word_of(token);
            if let Some(word) = word {
                if std::mem::take(&mut executes) {
                    found.executes.extend(name_of(token));
                } else if after_dot {
                    schema = last;
                } else {
                    (lead, schema) = (last, None);
                }
                executes = token.is("execute");
                last = Some(word);
            } else if token == Token::Mark(b'(') {
                why = why.or(last.and_then(|name| self.call(name, schema, lead, is_index)));
                last = None;
            } else if token != Token::Mark(b'.') {
                last = None;
            }
            after_dot = token == Token::Mark(b'.');
        }
        why
    }

    /// A name with a bracket behind it.
    fn call(&self, name: &[u8], schema: Option<&[u8]>, lead: Option<&[u8]>, is_index: bool) -> Option<Why> {
        let leads_relation =
            |word: &[u8]| is_one(word, &BEFORE_RELATIONS) || (is_index && is_one(word, &["on", "using"]));
        if lead.is_some_and(leads_relation) {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let own_schema = schema.filter(|schema| !schema.eq_ignore_ascii_case(b"pg_catalog"));
        if own_schema.is_none() {
            if is_one(&name, &LOCKS) {
                return Some(Why::Lock);
            }
            let built_in = matches!(builtins::function(&name), Some(Class::Read | Class::Local));
            let no_function = is_one(&name, &NO_FUNCTIONS) || is_one(&name, &MORE_NO_FUNCTIONS);
            if built_in || no_function || is_one(&name, &AGAIN) || builtins::is_type(&name) {
                return None;
            }
        }
        let is_read = |read: &String| match (read.split_once('.'), own_schema) {
            (None, _) => read.as_bytes() == name,
            (Some((of, read)), Some(schema)) => {
                read.as_bytes() == name && of.as_bytes().eq_ignore_ascii_case(schema)
            }
            (Some((_, read)), None) => read.as_bytes() == name,
        };
        if self.reads.iter().any(is_read) { None } else { Some(Why::Function) }
    }
}

fn word_of(token: Token<'_>) -> Option<&[u8]> {
    match token {
        Token::Word(name) | Token::QuotedName(name) => Some(name),
        _ => None,
    }
}

/// A name as the server folds it.
fn name_of(token: Token<'_>) -> Option<Box<[u8]>> {
    match token {
        Token::Word(name) => Some(name.to_ascii_lowercase().into()),
        Token::QuotedName(name) => Some(name.into()),
        _ => None,
    }
}

fn is_one(name: &[u8], words: &[&str]) -> bool {
    words.iter().any(|word| word.as_bytes().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(sql: &str) -> Option<Why> {
        Repeat::of(sql.as_bytes(), true, &["mine".to_owned(), "app.report".to_owned()]).why_not
    }

    #[test]
    fn what_a_rollback_takes_back_can_be_run_again() {
        for sql in [
            "",
            ";",
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "start transaction read only;",
            "select a, count(*) from t where b in (1, 2) group by rollup (a) having max(c) > 1",
            "(select 1) union (select 2)",
            "insert into t (a, b) values (1, now()) on conflict (a) do update set (a, b) = (1, 2) returning (a)",
            "insert into s.t (a) select nextval('q')",
            "insert into \"T\" as x (a) values (default)",
            "update t set a = pg_catalog.lower(b) from u where t.a = u.a",
            "with x (a) as (select 1), y as materialized (select 2) delete from t using y where t.a = y.a",
            "merge into t using (select 1 as a) as s on (t.a = s.a) when not matched then insert (a) values (s.a)",
            "select * from json_to_recordset('[]') as x(a int, b varchar(10)), generate_series(1, 2) as g(n)",
            "select a::numeric(10, 2), cast(b as char(3)) from t",
            "select row_number() over (partition by a order by b) from t window w as (order by a)",
            "declare c cursor for select 1",
            "fetch 10 from c",
            "savepoint s; rollback to s; release s",
            "set local work_mem = '1MB'",
            "set constraints all deferred",
            "create temp table if not exists x (a int primary key, b numeric(3,1) check (b > 0)) on commit drop",
            "create table x as (select 1)",
            "create unique index i on t (a, lower(b))",
            "alter table t add foreign key (a) references u (a)",
            "lock table t in share mode",
            "copy t (a, b) from stdin with (format csv)",
            "copy (select a from t) to stdout",
            "notify c, 'x'",
            "select pg_notify('c', 'x'), pg_advisory_xact_lock(1)",
            "rollback",
            "rollback and chain",
            "COMMIT",
            "end transaction;",
            "select mine(1), app.report(2), report(3)",
            "explain (analyze, verbose) select 1",
        ] {
            assert_eq!(why(sql), None, "{sql}");
        }
    }

    #[test]
    fn what_may_do_anything_cannot() {
        for (sql, reason) in [
            ("select f()", Why::Function),
            ("select app.lower('x')", Why::Function),
            ("select other.report(1)", Why::Function),
            ("insert into t values (f(1))", Why::Function),
            ("insert into t (a) select f (1)", Why::Function),
            ("select * from t join u on f(t.a)", Why::Function),
            ("select \"f\"(1)", Why::Function),
            ("select dblink_exec('x', 'y')", Why::Function),
            ("select pg_logical_emit_message(false, 'a', 'b')", Why::Function),
            ("create table x as select f()", Why::Function),
            ("create index i on t (f(a))", Why::Function),
            ("explain analyze select f()", Why::Function),
            ("call p()", Why::Code),
            ("do $$ $$", Why::Code),
            ("copy t from '/tmp/x'", Why::File),
            ("copy t to program 'cat'", Why::File),
            ("copy (select 1 as stdin from stdin) to '/tmp/x'", Why::File),
            ("commit and chain", Why::Border),
            ("insert into t values (1); commit", Why::Border),
            ("commit; begin", Why::Border),
            ("prepare transaction 'x'", Why::Border),
            ("commit prepared 'x'", Why::Border),
            ("select pg_advisory_lock(1)", Why::Lock),
            ("select pg_try_advisory_lock_shared(1, 2)", Why::Lock),
            ("prepare p as select 1", Why::Session),
            ("deallocate p", Why::Session),
            ("discard plans", Why::Session),
            ("load 'x'", Why::Session),
            ("create function g() returns int language sql as 'select 1'", Why::Definition),
            ("create trigger x after insert on t execute function g()", Why::Definition),
            ("vacuum", Why::Unknown),
            ("select 'x", Why::Unknown),
            ("select 1; call p()", Why::Code),
        ] {
            assert_eq!(why(sql), Some(reason), "{sql}");
        }
    }

    #[test]
    fn prepared_statements_are_known_by_their_names() {
        let of = |sql: &str| Repeat::of(sql.as_bytes(), true, &[]);
        assert_eq!(of("prepare P (int) as select $1").prepares, Some((b"p"[..].into(), None)));
        assert_eq!(of("prepare \"P\" as select f()").prepares, Some((b"P"[..].into(), Some(Why::Function))));
        assert_eq!(of("execute P(1)").executes, [b"p"[..].into()]);
        assert_eq!(of("execute \"P\"").executes, [b"P"[..].into()]);
        assert_eq!(of("explain analyze execute p").executes, [b"p"[..].into()]);
        assert_eq!(of("create table x as execute p (f())").why_not, Some(Why::Function));
    }
}
