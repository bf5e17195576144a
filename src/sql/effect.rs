//! What a statement leaves behind in its session: settings, transaction borders, locks, listeners, temporary tables.
//!
//! In: a query string. Out: one [`Effect`] per statement in it. Conservative: what it does not understand has no effect
//! that could be replayed. Must not know what is done about it.

use super::characteristics::modes;
use super::functions::{Body, Function, function};
use super::glance::{looks_plain, without_doubles};
use super::hidden::Hidden;
use super::lexer::{Lexer, Token};
use super::pins::{PinCause, Pins};

/// What one statement does to the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing the session must know.
    None,
    /// A session-level setting: replaying `statement` sets it again.
    Set {
        /// Lower-case name that a later SET or RESET of the same thing has too.
        name: String,
        /// The statement as the client wrote it.
        statement: Vec<u8>,
    },
    /// SET SESSION CHARACTERISTICS: the setting that each mode stands for, and a statement that sets it.
    Characteristics(Vec<(&'static str, &'static str)>),
    /// RESET of one setting, or SET … TO DEFAULT.
    Reset(String),
    /// RESET ALL.
    ResetAll,
    /// DISCARD ALL.
    DiscardAll,
    /// DISCARD TEMP.
    DiscardTemp,
    /// DISCARD SEQUENCES.
    DiscardSequences,
    /// BEGIN or START TRANSACTION.
    Begin,
    /// COMMIT, END, COMMIT PREPARED or PREPARE TRANSACTION: the point after which the fate is the server's.
    Commit,
    /// ROLLBACK or ABORT.
    Rollback,
    /// SAVEPOINT.
    Savepoint(Vec<u8>),
    /// RELEASE of a savepoint.
    Release(Vec<u8>),
    /// ROLLBACK TO.
    RollbackTo(Vec<u8>),
    /// PREPARE: replaying `statement` makes it again.
    Prepare {
        /// The statement's name, quotes removed.
        name: Vec<u8>,
        /// The statement as the client wrote it.
        statement: Vec<u8>,
    },
    /// DEALLOCATE of one prepared statement.
    Deallocate(Vec<u8>),
    /// DEALLOCATE ALL.
    DeallocateAll,
    /// A temporary table that the end of the transaction drops.
    TempInBlock,
    /// LISTEN, to the channel of that name.
    Listen(Vec<u8>),
    /// UNLISTEN of one channel: the session may listen to others.
    Unlisten(Vec<u8>),
    /// Something that only this backend has.
    Pin(Pins),
    /// The end of all causes of one kind.
    Unpin(PinCause),
    /// What the functions called may have left: the last of a text's effects, if any.
    Hidden(Box<Hidden>),
    /// One of several things of this kind may have ended: only the server knows whether any is left.
    MayUnpin(PinCause),
}

/// The effects of a query string, one per statement in it; empty statements have none.
pub fn effects(sql: &[u8], standard_strings: bool) -> Vec<Effect> {
    let mut found = Vec::new();
    each(sql, standard_strings, &mut |effect| found.push(effect));
    found
}

/// True when nothing in `sql` has an effect: decided without keeping anything.
pub fn is_plain(sql: &[u8], standard_strings: bool) -> bool {
    if looks_plain(sql) {
        return true;
    }
    let mut plain = true;
    each(sql, standard_strings, &mut |effect| plain &= effect == Effect::None);
    plain
}

fn each(sql: &[u8], standard_strings: bool, tell: &mut impl FnMut(Effect)) {
    let mut lexer = Lexer::new(sql, standard_strings);
    loop {
        let start = lexer.clone();
        let Some(first) = lexer.next() else { return };
        if first == Token::Semicolon {
            continue;
        }
        let mut statement = Statement { sql, start, lexer };
        tell(statement.effect(first));
        lexer = statement.past_end();
    }
}

/// One statement: the lexer stands behind its first token.
struct Statement<'a> {
    sql: &'a [u8],
    start: Lexer<'a>,
    lexer: Lexer<'a>,
}

impl<'a> Statement<'a> {
    /// The next token of this statement.
    fn next(&mut self) -> Option<Token<'a>> {
        let before = self.lexer.clone();
        match self.lexer.next() {
            Some(Token::Semicolon) => {
                self.lexer = before;
                None
            }
            token => token,
        }
    }

    /// Goes to the statement's end; returns a lexer behind its semicolon.
    fn past_end(&mut self) -> Lexer<'a> {
        while self.next().is_some() {}
        self.lexer.next();
        self.lexer.clone()
    }

    /// The statement's text, without the semicolon.
    fn text(&mut self) -> Vec<u8> {
        while self.next().is_some() {}
        let range = self.start.position()..self.lexer.position();
        self.sql.get(range).unwrap_or_default().trim_ascii().to_vec()
    }

    fn effect(&mut self, first: Token<'a>) -> Effect {
        let Token::Word(word) = first else { return self.body_effect() };
        // The longest of the words below has ten letters.
        let mut letters = [0; 10];
        let Some(lower) = letters.get_mut(..word.len()) else { return self.body_effect() };
        lower.copy_from_slice(word);
        lower.make_ascii_lowercase();
        match &*lower {
            b"set" => self.set(),
            b"reset" => self.reset(),
            b"discard" => self.discard(),
            b"begin" => Effect::Begin,
            b"start" => self.when("transaction", Effect::Begin),
            b"commit" | b"end" => Effect::Commit,
            b"rollback" | b"abort" => self.rollback(),
            b"savepoint" => self.name().map_or(Effect::None, Effect::Savepoint),
            b"release" => self.savepoint_name().map_or(Effect::None, Effect::Release),
            b"prepare" => self.prepare(),
            b"deallocate" => self.deallocate(),
            b"listen" => self.name().map_or(Effect::Pin(PinCause::Listen.into()), Effect::Listen),
            b"unlisten" => self.unlisten(),
            b"create" => self.create(),
            b"drop" => Effect::MayUnpin(PinCause::TempTable),
            b"load" => Effect::Pin(PinCause::Library.into()),
            b"declare" => self.declare(),
            b"close" => self.close(),
            b"select" => self.select(),
            _ => self.body_effect(),
        }
    }

    fn when(&mut self, word: &str, effect: Effect) -> Effect {
        if self.next().is_some_and(|token| token.is(word)) { effect } else { Effect::None }
    }

    /// A name as the server folds it: lower case unless quoted.
    fn name(&mut self) -> Option<Vec<u8>> {
        match self.next()? {
            Token::Word(word) => Some(word.to_ascii_lowercase()),
            Token::QuotedName(name) => Some(without_doubles(name)),
            _ => None,
        }
    }

    /// A setting's name, dots included; behind it stands the lexer.
    fn setting_name(&mut self, first: Option<Token<'a>>) -> Option<String> {
        let mut name = String::new();
        let mut token = first?;
        loop {
            match token {
                Token::Word(part) | Token::QuotedName(part) => name.push_str(&String::from_utf8_lossy(part)),
                _ => return None,
            }
            let before = self.lexer.clone();
            if self.next() == Some(Token::Mark(b'.')) {
                name.push('.');
                token = self.next()?;
            } else {
                self.lexer = before;
                name.make_ascii_lowercase();
                return Some(name);
            }
        }
    }

    fn set(&mut self) -> Effect {
        let mut token = self.next();
        if token.is_some_and(|token| token.is("local")) {
            return Effect::None;
        }
        let mut in_session = false;
        if token.is_some_and(|token| token.is("session")) {
            in_session = true;
            token = self.next();
        }
        let Some(word) = token else { return Effect::None };
        let name = if word.is_any(&["transaction", "constraints"]) {
            return Effect::None;
        } else if in_session && word.is("characteristics") {
            return Effect::Characteristics(modes(|| self.next()));
        } else if in_session && word.is("authorization") {
            "session_authorization".to_owned()
        } else if word.is("role") {
            "role".to_owned()
        } else if word.is("names") {
            "client_encoding".to_owned()
        } else if word.is("schema") {
            "search_path".to_owned()
        } else if word.is("time") {
            self.next();
            "timezone".to_owned()
        } else if word.is("xml") {
            self.next();
            "xmloption".to_owned()
        } else {
            match self.setting_name(token) {
                Some(name) => return self.set_value(name),
                None => return Effect::None,
            }
        };
        if self.next().is_some_and(|token| token.is("default")) {
            return Effect::Reset(name);
        }
        Effect::Set { name, statement: self.text() }
    }

    fn set_value(&mut self, name: String) -> Effect {
        let assigns = self.next().is_some_and(|token| token == Token::Mark(b'=') || token.is("to"));
        if !assigns {
            return Effect::None;
        }
        if self.next().is_some_and(|token| token.is("default")) {
            return Effect::Reset(name);
        }
        self.setting(name)
    }

    /// A setting of this name by the statement as it stands.
    fn setting(&mut self, name: String) -> Effect {
        match name.as_str() {
            // These end with the transaction.
            "transaction_isolation" | "transaction_read_only" | "transaction_deferrable" => Effect::None,
            // Setting it again would begin the random numbers again.
            "seed" => Effect::Pin(PinCause::Seed.into()),
            _ => Effect::Set { name, statement: self.text() },
        }
    }

    fn reset(&mut self) -> Effect {
        let Some(word) = self.next() else { return Effect::None };
        if word.is("all") {
            Effect::ResetAll
        } else if word.is("session") && self.next().is_some_and(|token| token.is("authorization")) {
            Effect::Reset("session_authorization".to_owned())
        } else if word.is("time") {
            Effect::Reset("timezone".to_owned())
        } else {
            self.setting_name(Some(word)).map_or(Effect::None, Effect::Reset)
        }
    }

    fn discard(&mut self) -> Effect {
        match self.next() {
            Some(token) if token.is("all") => Effect::DiscardAll,
            Some(token) if token.is_any(&["temp", "temporary"]) => Effect::DiscardTemp,
            Some(token) if token.is("sequences") => Effect::DiscardSequences,
            _ => Effect::None,
        }
    }

    fn rollback(&mut self) -> Effect {
        let mut token = self.next();
        if token.is_some_and(|token| token.is("prepared")) {
            return Effect::None;
        }
        if token.is_some_and(|token| token.is_any(&["work", "transaction"])) {
            token = self.next();
        }
        if token.is_some_and(|token| token.is("and")) {
            return self.unless_chained(Effect::Rollback);
        }
        if !token.is_some_and(|token| token.is("to")) {
            return Effect::Rollback;
        }
        self.savepoint_name().map_or(Effect::None, Effect::RollbackTo)
    }

    /// A name behind an optional SAVEPOINT.
    fn savepoint_name(&mut self) -> Option<Vec<u8>> {
        let before = self.lexer.clone();
        if !self.next().is_some_and(|token| token.is("savepoint")) {
            self.lexer = before;
        }
        self.name()
    }

    /// AND CHAIN begins a new block at once: that is no plain end of a transaction.
    fn unless_chained(&mut self, effect: Effect) -> Effect {
        if self.next().is_some_and(|token| token.is("no")) { effect } else { Effect::None }
    }

    fn prepare(&mut self) -> Effect {
        let before = self.lexer.clone();
        if self.next().is_some_and(|token| token.is("transaction")) {
            return Effect::Commit;
        }
        self.lexer = before;
        match self.name() {
            Some(name) => Effect::Prepare { name, statement: self.text() },
            None => Effect::None,
        }
    }

    fn deallocate(&mut self) -> Effect {
        let mut before = self.lexer.clone();
        if self.next().is_some_and(|token| token.is("prepare")) {
            before = self.lexer.clone();
        }
        self.lexer = before.clone();
        if self.next().is_some_and(|token| token.is("all")) {
            return Effect::DeallocateAll;
        }
        self.lexer = before;
        self.name().map_or(Effect::None, Effect::Deallocate)
    }

    fn unlisten(&mut self) -> Effect {
        let before = self.lexer.clone();
        if self.next() == Some(Token::Mark(b'*')) {
            return Effect::Unpin(PinCause::Listen);
        }
        self.lexer = before;
        self.name().map_or(Effect::MayUnpin(PinCause::Listen), Effect::Unlisten)
    }

    fn close(&mut self) -> Effect {
        match self.next() {
            Some(token) if token.is("all") => Effect::Unpin(PinCause::HeldCursor),
            _ => Effect::MayUnpin(PinCause::HeldCursor),
        }
    }

    fn create(&mut self) -> Effect {
        // CREATE [OR REPLACE] [GLOBAL | LOCAL] TEMP …, and names in schema pg_temp.
        let mut prefix = true;
        while let Some(token) = self.next() {
            if prefix && token.is_any(&["temp", "temporary"]) {
                return self.create_temp();
            }
            prefix &= token.is_any(&["or", "replace", "global", "local"]);
            if token.is("pg_temp") {
                return Effect::Pin(PinCause::TempTable.into());
            }
            if token.is("as") || token == Token::Mark(b'(') {
                break;
            }
        }
        self.body_effect()
    }

    /// A table that ends with its transaction binds to nothing beyond it.
    fn create_temp(&mut self) -> Effect {
        let before = self.lexer.clone();
        let mut last = [Token::Odd; 2];
        while let Some(token) = self.next() {
            if last[0].is("on") && last[1].is("commit") && token.is("drop") {
                self.lexer = before;
                return match self.body_effect() {
                    Effect::None => Effect::TempInBlock,
                    more => more,
                };
            }
            last = [last[1], token];
        }
        Effect::Pin(PinCause::TempTable.into())
    }

    fn declare(&mut self) -> Effect {
        let mut with = false;
        while let Some(token) = self.next() {
            if with && token.is("hold") {
                return Effect::Pin(PinCause::HeldCursor.into());
            }
            if token.is("for") {
                break;
            }
            with = token.is("with");
        }
        Effect::None
    }

    /// `SELECT set_config('name', 'value', false)` and nothing else is a SET; everything else is read to its end.
    fn select(&mut self) -> Effect {
        let before = self.lexer.clone();
        if let Some(effect) = self.plain_set_config() {
            return effect;
        }
        self.lexer = before;
        self.body_effect()
    }

    fn plain_set_config(&mut self) -> Option<Effect> {
        let mut word = self.next()?;
        if word.is("pg_catalog") && self.next()? == Token::Mark(b'.') {
            word = self.next()?;
        }
        if !word.is("set_config") {
            return None;
        }
        let name = self.next().filter(|token| *token == Token::Mark(b'(')).and_then(|_| self.next())?;
        let Token::Text(name) = name else { return None };
        let comma = self.next()?;
        let value = self.next()?;
        let (Token::Mark(b','), Token::Text(_), Some(Token::Mark(b','))) = (comma, value, self.next()) else {
            return None;
        };
        let session = self.next().is_some_and(|token| token.is("false"));
        let ends = self.next() == Some(Token::Mark(b')')) && self.next().is_none();
        let name = name.strip_prefix(b"'").and_then(|name| name.strip_suffix(b"'"))?;
        let simple = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
        if !session || !ends || !name.iter().all(simple) {
            return None;
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        Some(self.setting(name))
    }

    /// Statements that are read to their end: a function with an effect or INTO TEMP may stand anywhere.
    fn body_effect(&mut self) -> Effect {
        let mut found = Body::default();
        let mut into = false;
        while let Some(token) = self.next() {
            let (Token::Word(word) | Token::QuotedName(word)) = token else { continue };
            if into && token.is_any(&["temp", "temporary"]) {
                found.pins.insert(PinCause::TempTable);
            }
            into = token.is("into");
            match function(word) {
                Function::Other => {}
                Function::SetConfig => {
                    if !self.sets_locally() {
                        found.pins.insert(PinCause::Setting);
                    }
                }
                Function::Pins(cause) => found.pins.insert(cause),
                Function::Unlocks => found.unlocks = true,
                Function::UnlocksAll => found.unlocks_all = true,
            }
        }
        found.effect()
    }

    /// True when the third argument of the `set_config` just read is the word `true`: then it is the transaction's.
    fn sets_locally(&mut self) -> bool {
        let before = self.lexer.clone();
        let mut depth = 0usize;
        let mut commas = 0;
        let mut last = None;
        while let Some(token) = self.next() {
            match token {
                Token::Mark(b'(') => depth += 1,
                Token::Mark(b')') if depth == 1 => break,
                Token::Mark(b')') => depth = depth.saturating_sub(1),
                Token::Mark(b',') if depth == 1 => commas += 1,
                _ => {}
            }
            last = Some(token);
        }
        // The arguments are read again, since they may hold calls of their own.
        self.lexer = before;
        commas == 2 && last.is_some_and(|token| token.is("true"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::glance::statement_name;
    use super::*;
    use proptest::prelude::*;

    fn one(sql: &str) -> Effect {
        let mut all = effects(sql.as_bytes(), true);
        assert_eq!(all.len(), 1, "{sql}: {all:?}");
        all.remove(0)
    }

    fn set(name: &str, statement: &str) -> Effect {
        Effect::Set { name: name.to_owned(), statement: statement.as_bytes().to_vec() }
    }

    #[test]
    fn settings() {
        assert_eq!(one("SET Work_Mem = '1MB';"), set("work_mem", "SET Work_Mem = '1MB'"));
        assert_eq!(
            one("/* x */ set session my.var to 'a;b'"),
            set("my.var", "/* x */ set session my.var to 'a;b'")
        );
        assert_eq!(one("SET TIME ZONE 'UTC'"), set("timezone", "SET TIME ZONE 'UTC'"));
        assert_eq!(one("SET ROLE bob"), set("role", "SET ROLE bob"));
        assert_eq!(
            one("SET SESSION AUTHORIZATION bob"),
            set("session_authorization", "SET SESSION AUTHORIZATION bob")
        );
        assert_eq!(one("SET SESSION AUTHORIZATION DEFAULT"), Effect::Reset("session_authorization".into()));
        assert_eq!(one("set x to default"), Effect::Reset("x".into()));
        assert_eq!(one("SET LOCAL x = 1"), Effect::None);
        assert_eq!(one("SET XML OPTION DOCUMENT"), set("xmloption", "SET XML OPTION DOCUMENT"));
        assert_eq!(one("set transaction_isolation = 'serializable'"), Effect::None);
        assert_eq!(one("set seed to 0.5"), Effect::Pin(PinCause::Seed.into()));
        assert_eq!(one("SET TRANSACTION READ ONLY"), Effect::None);
        assert_eq!(one("RESET work_mem"), Effect::Reset("work_mem".into()));
        assert_eq!(one("RESET ALL"), Effect::ResetAll);
        assert_eq!(one("DISCARD ALL"), Effect::DiscardAll);
    }

    #[test]
    fn characteristics() {
        let isolation = "default_transaction_isolation";
        assert_eq!(
            one(
                "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY NOT DEFERRABLE"
            ),
            Effect::Characteristics(vec![
                (isolation, "SET default_transaction_isolation = 'read committed'"),
                ("default_transaction_read_only", "SET default_transaction_read_only = on"),
                ("default_transaction_deferrable", "SET default_transaction_deferrable = off"),
            ])
        );
        assert_eq!(
            one(
                "set session characteristics as transaction deferrable, isolation level serializable, read write"
            ),
            Effect::Characteristics(vec![
                ("default_transaction_deferrable", "SET default_transaction_deferrable = on"),
                (isolation, "SET default_transaction_isolation = 'serializable'"),
                ("default_transaction_read_only", "SET default_transaction_read_only = off"),
            ])
        );
    }

    #[test]
    fn transactions_and_prepared_statements() {
        assert_eq!(one("BEGIN ISOLATION LEVEL SERIALIZABLE"), Effect::Begin);
        assert_eq!(one("start transaction"), Effect::Begin);
        assert_eq!(one("END"), Effect::Commit);
        assert_eq!(one("PREPARE TRANSACTION 'x'"), Effect::Commit);
        assert_eq!(one("COMMIT PREPARED 'x'"), Effect::Commit);
        assert_eq!(one("ABORT"), Effect::Rollback);
        assert_eq!(one("ROLLBACK AND NO CHAIN"), Effect::Rollback);
        assert_eq!(one("ROLLBACK TRANSACTION AND CHAIN"), Effect::None);
        assert_eq!(one("ROLLBACK WORK TO SAVEPOINT \"A\""), Effect::RollbackTo(b"A".to_vec()));
        assert_eq!(one("ROLLBACK TO a"), Effect::RollbackTo(b"a".to_vec()));
        assert_eq!(one("ROLLBACK PREPARED 'x'"), Effect::None);
        assert_eq!(one("SAVEPOINT S"), Effect::Savepoint(b"s".to_vec()));
        assert_eq!(one("RELEASE SAVEPOINT S"), Effect::Release(b"s".to_vec()));
        assert_eq!(one("release \"S\""), Effect::Release(b"S".to_vec()));
        assert_eq!(
            one("PREPARE Q AS SELECT 1"),
            Effect::Prepare { name: b"q".to_vec(), statement: b"PREPARE Q AS SELECT 1".to_vec() }
        );
        assert_eq!(one("DEALLOCATE PREPARE q"), Effect::Deallocate(b"q".to_vec()));
        assert_eq!(one("deallocate all"), Effect::DeallocateAll);
    }

    #[test]
    fn pins() {
        let pin = |cause: PinCause| Effect::Pin(cause.into());
        assert_eq!(one("LISTEN x"), Effect::Listen(b"x".into()));
        assert_eq!(one("listen \"A \"\"b\""), Effect::Listen(b"A \"b".into()));
        assert_eq!(one("UNLISTEN *"), Effect::Unpin(PinCause::Listen));
        assert_eq!(one("UNLISTEN X"), Effect::Unlisten(b"x".into()));
        assert_eq!(one("create temp table t (a int)"), pin(PinCause::TempTable));
        assert_eq!(one("CREATE UNLOGGED TABLE t (temp int)"), Effect::None);
        assert_eq!(one("create table pg_temp.t (a int)"), pin(PinCause::TempTable));
        assert_eq!(one("create or replace function pg_temp.f(temp int)"), pin(PinCause::TempTable));
        assert_eq!(one("CREATE FUNCTION f(temp int) AS 'SELECT 1'"), Effect::None);
        assert_eq!(one("create index temp on t (a)"), Effect::None);
        assert_eq!(one("create temp table t (a int) ON COMMIT DROP"), Effect::TempInBlock);
        assert_eq!(one("create local temporary table t on commit drop as select 1"), Effect::TempInBlock);
        assert_eq!(one("create temp table t (a int) on commit delete rows"), pin(PinCause::TempTable));
        assert_eq!(one("SELECT 1 INTO TEMPORARY t"), pin(PinCause::TempTable));
        assert_eq!(one("select pg_try_advisory_lock(1)"), pin(PinCause::AdvisoryLock));
        assert_eq!(one("select pg_advisory_xact_lock(1)"), Effect::None);
        assert_eq!(one("select 'pg_advisory_lock'"), Effect::None);
        assert_eq!(one("select pg_advisory_unlock_all()"), Effect::Unpin(PinCause::AdvisoryLock));
        assert_eq!(one("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1"), pin(PinCause::HeldCursor));
        assert_eq!(one("DECLARE c CURSOR FOR SELECT with_hold"), Effect::None);
        assert_eq!(one("insert into t values (nextval('s'))"), pin(PinCause::Sequence));
        assert_eq!(one("select currval('s')"), Effect::None);
        assert_eq!(one("select setseed(0.5)"), pin(PinCause::Seed));
        assert_eq!(one("LOAD 'auto_explain'"), pin(PinCause::Library));
        let mut both = Pins::from(PinCause::AdvisoryLock);
        both.insert(PinCause::Sequence);
        assert_eq!(one("select pg_advisory_lock(nextval('s'))"), Effect::Pin(both));
        assert_eq!(both.iter().collect::<Vec<_>>(), [PinCause::AdvisoryLock, PinCause::Sequence]);
    }

    #[test]
    fn what_may_end_a_pin() {
        assert_eq!(one("select pg_advisory_unlock(1)"), Effect::MayUnpin(PinCause::AdvisoryLock));
        assert_eq!(one("drop table t"), Effect::MayUnpin(PinCause::TempTable));
        assert_eq!(one("close c"), Effect::MayUnpin(PinCause::HeldCursor));
        assert_eq!(one("discard sequences"), Effect::DiscardSequences);
    }

    #[test]
    fn statements_named_by_sql() {
        let name = |sql: &str| {
            statement_name(sql.as_bytes(), true)
                .map(|(name, place)| (String::from_utf8(name).unwrap(), sql[place].to_owned()))
        };
        let found = |name: &str, text: &str| Some((name.to_owned(), text.to_owned()));
        assert_eq!(name("EXECUTE Q(1, ';')"), found("q", "Q"));
        assert_eq!(name("/* x */ execute \"Q\" ;"), found("Q", "\"Q\""));
        assert_eq!(name("deallocate prepare s1"), found("s1", "s1"));
        assert_eq!(name("DEALLOCATE ALL"), None);
        assert_eq!(name("execute a; execute b"), None);
        assert_eq!(name("select 1"), None);
        assert_eq!(name("execute"), None);
    }

    #[test]
    fn set_config() {
        let plain = "SELECT pg_catalog.set_config('search_path', '', false)";
        assert_eq!(one(&format!("{plain};")), set("search_path", plain));
        assert_eq!(one("select set_config('a.b', 'it''s', true)"), Effect::None);
        assert_eq!(
            one("select set_config('a.b', f(1, g(2)), true), set_config('c', $1, true)"),
            Effect::None
        );
        let computed = Effect::Pin(PinCause::Setting.into());
        for text in [
            "select set_config('a', $1, false)",
            "select set_config($1, 'x', false)",
            "select set_config('a', 'x', $1)",
            "select set_config('a', 'x', false), 1",
            "select set_config('a', 'x', false) from t",
            "with x as (select set_config('a', 'x', false)) select * from x",
            "select set_config('a', set_config('b', 'c', false), true)",
        ] {
            assert_eq!(one(text), computed, "{text}");
        }
    }

    #[test]
    fn every_statement_of_a_string_has_its_effect() {
        let all = effects(b";; begin; set a = 1; select ';' ; commit ;", true);
        assert_eq!(all, [Effect::Begin, set("a", "set a = 1"), Effect::None, Effect::Commit]);
        assert!(is_plain(b"select 1; insert into t values (';')", true));
        assert!(!is_plain(b"select 1; listen x", true));
    }

    #[test]
    fn most_statements_are_settled_at_a_glance() {
        for sql in [
            "",
            ";",
            "select 1",
            "INSERT INTO t VALUES ('v')",
            "/* v */ update m set a = 1 ; \n",
            "(select 1)",
        ] {
            assert!(looks_plain(sql.as_bytes()), "{sql}");
        }
        for sql in
            ["select 1; select 2", "-- set\nset a = 1", "select Pg_Advisory_Lock(1)", "select 1 into TEMP t"]
        {
            assert!(!looks_plain(sql.as_bytes()), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn a_glance_sees_no_less_than_a_look(
            words in proptest::collection::vec(
                "(abort|begin|close all|commit|create temp|deallocate q|declare c cursor with hold|discard all|end|listen c|\
                prepare q as|release s|reset a|rollback|savepoint s|set a = 1|start transaction|unlisten \\*|into temporary t|\
                pg_advisory_lock|PG_TRY_ADVISORY_LOCK|select|;|\\(|'x'|/\\* c \\*/|-- c\n)",
                0..4,
            ),
            standard: bool,
        ) {
            let text = words.join(" ");
            let plain = effects(text.as_bytes(), standard).iter().all(|effect| *effect == Effect::None);
            prop_assert!(plain || !looks_plain(text.as_bytes()), "{}", text);
            prop_assert_eq!(is_plain(text.as_bytes(), standard), plain);
        }

        #[test]
        fn any_text_is_survived(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = effects(&text, true);
        }

        #[test]
        fn words_in_any_order_are_survived(words in proptest::collection::vec("(set|reset|to|=|;|begin|rollback|prepare|all|a|'x'|\\.|temp|create)", 0..12)) {
            let text = words.join(" ");
            let statements = text.split(';').filter(|part| !part.trim().is_empty()).count();
            prop_assert_eq!(effects(text.as_bytes(), true).len(), statements);
        }
    }
}
