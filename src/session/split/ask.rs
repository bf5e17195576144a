//! What the client's next batch asks for: a standby, the primary, or nothing but reads.
//!
//! In: the messages that wait, what the session has declared before, what is known of the database. Out: an [`Asked`].
//! Sans-IO. Must not know nodes nor how fresh they are.

use crate::config::Split;
use crate::pool::Setting;
use crate::route::Why;
use crate::session::params::Params;
use crate::session::prepared::{Prepared, Statement};
use crate::sql::catalogue::Catalogue;
use crate::sql::judge::{self, Access, Context, Encoding, Hint, Isolation, Scope, Verdict};
use crate::sql::lexer::{Lexer, Token};
use crate::sql::names::NAME_BYTES;
use crate::sql::{Reason, glance};
use crate::wire::frame;
use crate::wire::frontend::{self, Kind};

use super::own::{Own, invalid_setting, value};
use super::shapes::Distrusted;

/// Longest BEGIN that is remembered, bytes.
const LONGEST_BEGIN: usize = 256;
/// The first OID that the database itself gives away.
const FIRST_OWN_OID: u32 = 16384;

/// What a batch asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing that any node could answer otherwise than another.
    Either,
    /// The primary.
    Primary(Why),
    /// A standby, by the client's own word.
    Standby(Why),
    /// Nothing but reads, in so many bytes.
    Read(usize),
    /// Whatever the unnamed statement asks for, which is prepared on one backend only.
    Unnamed,
    /// The position of the session's last write, from us.
    Position,
    /// A setting of ours gets a value that it cannot have.
    Invalid(Own),
}

/// What one text asks for, whatever has been declared before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// No statement is in it.
    Empty,
    /// Only reads.
    Read,
    /// A transaction begins: read only or read write, if said; whether SERIALIZABLE.
    Begin(Option<Access>, bool),
    /// A comment asks for it.
    Hint(Hint),
    /// Anything else: why, and whether it begins as a query does.
    Other(Reason, bool),
}

/// True for SHOW pgsteer.lsn.
pub fn shows_position(sql: &[u8]) -> bool {
    let mut tokens = Lexer::new(sql, true);
    let mut next = |word: &str| tokens.next().is_some_and(|token| token.is(word));
    next("show") && next("pgsteer") && tokens.next() == Some(Token::Mark(b'.')) && {
        tokens.next().is_some_and(|token| token.is("lsn"))
    }
}

/// What a text says of the transaction that runs: whether it only reads.
fn declared(sql: &[u8], context: Context) -> Option<Access> {
    match verdict(sql, context) {
        Verdict::Declare(declared) if declared.scope == Scope::Transaction => declared.access,
        _ => None,
    }
}

fn verdict(sql: &[u8], context: Context) -> Verdict<'_> {
    judge::judge(sql, context, &mut Catalogue::default().seen(None)).verdict
}

fn first_query(messages: &[u8]) -> Option<&[u8]> {
    let (message, _) = frame::split(messages).ok()??;
    if Kind::of(message.tag) == Some(Kind::Query) { frontend::query(message.body) } else { None }
}

/// The text of a Query, the first of these messages, that says nothing but that a transaction begins.
pub fn plain_begin(messages: &[u8], context: Context) -> Option<&[u8]> {
    let sql = first_query(messages).filter(|sql| sql.len() <= LONGEST_BEGIN)?;
    match verdict(sql, context) {
        Verdict::Declare(declared)
            if declared.scope == Scope::Begin
                && declared.access.is_none()
                && declared.isolation != Some(Isolation::Serializable) =>
        {
            Some(sql)
        }
        _ => None,
    }
}

/// What the first of these messages, a Query, says of the transaction that has begun before it: whether it only reads.
pub fn declares_transaction(messages: &[u8], context: Context) -> Option<Access> {
    let sql = first_query(messages).filter(|sql| may_declare(sql))?;
    declared(sql, context)
}

/// True when the first of these messages, or all up to the first Sync, do nothing but SET and RESET.
pub fn only_sets(messages: &[u8], context: Context) -> bool {
    let (mut rest, mut is_first, mut prepares) = (messages, true, false);
    let sets = |sql: &[u8]| glance::is_set(sql, context.standard_strings);
    while let Ok(Some((message, next))) = frame::split(rest) {
        let goes_on = match Kind::of(message.tag) {
            Some(Kind::Query) => return is_first && frontend::query(message.body).is_some_and(sets),
            Some(Kind::Parse) => {
                prepares |= message.body.starts_with(b"\0");
                frontend::parse(message.body).is_some_and(|parse| sets(parse.sql))
            }
            Some(Kind::Bind) => {
                prepares && frontend::bind(message.body).is_some_and(|bind| bind.statement.is_empty())
            }
            Some(Kind::Describe | Kind::Execute | Kind::Close) => true,
            Some(Kind::Sync) => return true,
            _ => false,
        };
        if !goes_on {
            return false;
        }
        (rest, is_first) = (next, false);
    }
    false
}

/// True when the first of these messages is that.
pub fn query_shows_position(messages: &[u8]) -> bool {
    let Ok(Some((message, _))) = frame::split(messages) else { return false };
    let sql = match Kind::of(message.tag) {
        Some(Kind::Query) => frontend::query(message.body),
        Some(Kind::Parse) => frontend::parse(message.body).map(|parse| parse.sql),
        _ => None,
    };
    let begins =
        |sql: &[u8]| sql.trim_ascii_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"show"));
    sql.is_some_and(|sql| begins(sql) && shows_position(sql))
}

/// Where the session wants its work done until it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// By what each statement says.
    #[default]
    Auto,
    /// All on the primary.
    Primary,
    /// All on a standby.
    Standby,
}

/// What the session has declared for all that follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// `pgsteer.target`.
    pub place: Place,
    /// Its transactions only read.
    pub read_only: bool,
    /// Its transactions are SERIALIZABLE.
    pub serializable: bool,
}

impl Standing {
    /// As the session's settings say; `startup` are those it came with.
    pub fn of(params: &Params, startup: impl Fn(&str) -> Option<String>) -> Self {
        let value = |name: &str| match params.setting(name) {
            Some(setting) => value(&setting.statement),
            None => startup(name),
        };
        let place = match value("pgsteer.target").as_deref() {
            Some("primary") => Place::Primary,
            Some("standby") => Place::Standby,
            _ => Place::Auto,
        };
        let read_only = match params.reported("default_transaction_read_only") {
            Some(reported) => reported == "on",
            // Servers before 14 do not tell.
            None => value("default_transaction_read_only").is_some_and(|value| value == "on"),
        };
        let isolation = value("default_transaction_isolation");
        let serializable = isolation.is_some_and(|level| level.eq_ignore_ascii_case("serializable"));
        Self { place, read_only, serializable }
    }

    /// True when each text has to say by itself where it goes.
    fn is_plain(self) -> bool {
        self == Self::default()
    }
}

/// Reads texts for one session.
pub struct Reader<'a> {
    /// How much is left to the proxy.
    pub split: Split,
    /// What the session has declared.
    pub standing: Standing,
    /// How its texts are read.
    pub context: Context,
    /// What is known of its database.
    pub catalogue: &'a Catalogue,
    /// Statements that have proved not to be reads.
    pub distrusted: &'a Distrusted,
    /// Its prepared statements.
    pub prepared: &'a Prepared,
    /// Those prepared by SQL.
    pub by_sql: &'a [Setting],
    /// Kept texts are read as they were when they came.
    pub trusts_kept: bool,
}

/// How the session's texts are read at this moment.
pub fn context(params: &Params) -> Context {
    let encoding = params.reported("client_encoding").map_or(Encoding::Unsafe, Encoding::of);
    Context { standard_strings: params.standard_strings(), encoding }
}

impl Reader<'_> {
    /// What the messages up to the next Sync, or the next Query, ask for.
    pub fn batch(&self, messages: &[u8]) -> Asked {
        let mut rest = messages;
        let (mut reads, mut is_first, mut parses_unnamed) = (false, true, false);
        while let Ok(Some((message, next))) = frame::split(rest) {
            let asked = match Kind::of(message.tag) {
                Some(Kind::Query) if is_first => {
                    let length = messages.len() - next.len();
                    return match self.query(message.body) {
                        Asked::Read(_) => Asked::Read(length),
                        asked => asked,
                    };
                }
                Some(Kind::Parse) => {
                    parses_unnamed |= message.body.starts_with(b"\0");
                    match self.parse(message.body) {
                        // The next statement may say of the transaction that it only reads.
                        Asked::Primary(Why::Transaction) if is_first && self.declares_next(next) => {
                            Asked::Standby(Why::Declared)
                        }
                        asked => asked,
                    }
                }
                Some(Kind::Bind) => self.bind(message.body, parses_unnamed),
                Some(Kind::Describe | Kind::Execute | Kind::Close) => Asked::Either,
                Some(Kind::Sync) if reads => return Asked::Read(messages.len() - next.len()),
                Some(Kind::Sync) => return Asked::Either,
                _ => Asked::Primary(Why::IncompleteBatch),
            };
            match asked {
                Asked::Either => {}
                Asked::Read(_) => reads = true,
                decided => return decided,
            }
            rest = next;
            is_first = false;
        }
        Asked::Primary(Why::IncompleteBatch)
    }

    /// True when the next text among these messages is SET TRANSACTION READ ONLY.
    fn declares_next(&self, mut messages: &[u8]) -> bool {
        while let Ok(Some((message, next))) = frame::split(messages) {
            match Kind::of(message.tag) {
                Some(Kind::Bind | Kind::Describe | Kind::Execute) => messages = next,
                Some(Kind::Parse) => {
                    let sql = frontend::parse(message.body).map(|parse| parse.sql);
                    return sql.and_then(|sql| declared(sql, self.context)) == Some(Access::ReadOnly);
                }
                _ => return false,
            }
        }
        false
    }

    fn query(&self, body: &[u8]) -> Asked {
        frontend::query(body).map_or(Asked::Primary(Why::IncompleteBatch), |sql| self.sql(sql))
    }

    fn parse(&self, body: &[u8]) -> Asked {
        let Some(parse) = frontend::parse(body) else { return Asked::Primary(Why::IncompleteBatch) };
        match self.sql(parse.sql) {
            Asked::Read(_) if self.takes_doubtful_types(body) => {
                Asked::Primary(Why::Write(Reason::UnknownType))
            }
            asked => asked,
        }
    }

    /// True for a Parse whose parameters may be of a type that does more than hold a value.
    fn takes_doubtful_types(&self, body: &[u8]) -> bool {
        if !self.catalogue.doubts_types() {
            return false;
        }
        let types = body.splitn(3, |byte| *byte == 0).nth(2).and_then(|types| types.get(2..));
        let mut oids = types.unwrap_or_default().chunks_exact(4);
        oids.any(|oid| u32::from_be_bytes(oid.try_into().unwrap_or_default()) >= FIRST_OWN_OID)
    }

    fn bind(&self, body: &[u8], parses_unnamed: bool) -> Asked {
        let Some(bind) = frontend::bind(body) else { return Asked::Primary(Why::IncompleteBatch) };
        if bind.statement.is_empty() {
            return match self.prepared.unnamed() {
                _ if parses_unnamed => Asked::Either,
                Some((_, message)) if !message.is_empty() => self.kept(message),
                Some(_) => Asked::Unnamed,
                None => Asked::Either,
            };
        }
        match self.prepared.get(bind.statement) {
            None => match self.prepared_text(bind.statement) {
                Some(text) => self.asked(text),
                // Parsed in this batch, or the server will say that there is none.
                None => Asked::Either,
            },
            Some(statement) if statement.message.is_empty() => {
                Asked::Primary(Why::Write(Reason::UnknownStatement))
            }
            Some(_) if !self.trusts_kept => Asked::Primary(Why::Write(Reason::Encoding)),
            Some(statement) => self.named(statement),
        }
    }

    /// What a statement asks for that was prepared before.
    fn named(&self, statement: &Statement) -> Asked {
        let now = self.knowledge();
        if let Some((known, text)) = statement.judged.get()
            && known == now
        {
            return self.asked(text);
        }
        let Some(sql) = text_of(&statement.message) else { return Asked::Primary(Why::IncompleteBatch) };
        if self.distrusted.has(sql) {
            return Asked::Primary(Why::Distrusted);
        }
        let text = self.text(sql);
        // An EXECUTE is about whatever has that name then.
        if glance::statement_name(sql, self.context.standard_strings).is_none() {
            statement.judged.set(Some((now, text)));
        }
        self.asked(text)
    }

    /// A verdict is good for as long as this stays.
    fn knowledge(&self) -> u64 {
        self.catalogue.generation() << 16 | self.distrusted.version() & 0xFFFF
    }

    fn kept(&self, message: &[u8]) -> Asked {
        if !self.trusts_kept {
            return Asked::Primary(Why::Write(Reason::Encoding));
        }
        text_of(message).map_or(Asked::Primary(Why::IncompleteBatch), |sql| self.sql(sql))
    }

    fn sql(&self, sql: &[u8]) -> Asked {
        if self.split != Split::Auto && self.standing.is_plain() && !may_declare(sql) {
            return Asked::Primary(Why::NotSplit);
        }
        if let [b's' | b'S', b'h' | b'H' | b'e' | b'E', ..] = sql.trim_ascii_start() {
            if shows_position(sql) {
                return Asked::Position;
            }
            if let Some(own) = invalid_setting(sql) {
                return Asked::Invalid(own);
            }
        }
        let text = self.text(sql);
        if text == Text::Read && self.distrusted.has(sql) {
            return Asked::Primary(Why::Distrusted);
        }
        self.asked(text)
    }

    fn text(&self, sql: &[u8]) -> Text {
        let judgement = judge::judge(sql, self.context, &mut self.catalogue.seen(None));
        if let Some(hint) = judgement.hint {
            return Text::Hint(hint);
        }
        match judgement.verdict {
            Verdict::Empty => Text::Empty,
            Verdict::Read => Text::Read,
            Verdict::Declare(declared) if declared.scope == Scope::Begin => {
                let access = declared.access.filter(|access| *access != Access::Default);
                Text::Begin(access, declared.isolation == Some(Isolation::Serializable))
            }
            Verdict::Declare(_) => Text::Other(Reason::Setting, false),
            Verdict::Execute(name) => {
                let text = name.fold(&mut [0; NAME_BYTES]).and_then(|name| self.prepared_text(name));
                text.unwrap_or(Text::Other(Reason::UnknownStatement, false))
            }
            Verdict::Write(stop) => Text::Other(stop.reason, glance::is_query(sql)),
        }
    }

    /// What the statement asks for that was prepared by SQL under this name.
    fn prepared_text(&self, name: &[u8]) -> Option<Text> {
        let prepare = &self.by_sql.iter().rfind(|prepare| prepare.key == name)?.statement;
        if !self.trusts_kept {
            return Some(Text::Other(Reason::Encoding, false));
        }
        Some(match judge::judge_prepared(prepare, self.context, &mut self.catalogue.seen(None)) {
            Verdict::Read if !self.distrusted.has(prepare) => Text::Read,
            Verdict::Write(stop) => Text::Other(stop.reason, false),
            _ => Text::Other(Reason::SessionState, false),
        })
    }

    fn asked(&self, text: Text) -> Asked {
        let Standing { place, read_only, serializable } = self.standing;
        match (text, place) {
            (Text::Hint(Hint::Primary), _) => return Asked::Primary(Why::Hint),
            (Text::Hint(Hint::Standby), _) => return Asked::Standby(Why::Hint),
            (_, Place::Primary) => return Asked::Primary(Why::Target),
            (_, Place::Standby) => return Asked::Standby(Why::Target),
            (_, Place::Auto) => {}
        }
        match text {
            Text::Empty => Asked::Either,
            Text::Begin(_, true) => Asked::Primary(Why::Serializable),
            _ if serializable => Asked::Primary(Why::Serializable),
            Text::Begin(Some(Access::ReadOnly), _) => Asked::Standby(Why::Declared),
            // Whatever else there is in a session that only reads, its own server refuses or allows.
            Text::Begin(None, _) | Text::Read | Text::Other(_, true) if read_only => {
                Asked::Standby(Why::Declared)
            }
            Text::Begin(..) => Asked::Primary(Why::Transaction),
            Text::Read if self.split == Split::Auto => Asked::Read(0),
            Text::Read => Asked::Primary(Why::NotSplit),
            Text::Other(reason, _) => Asked::Primary(Why::Write(reason)),
            Text::Hint(_) => Asked::Either,
        }
    }
}

/// The text in a Parse message that was kept.
fn text_of(message: &[u8]) -> Option<&[u8]> {
    frontend::parse(message.get(frame::HEADER_LEN..)?).map(|parse| parse.sql)
}

/// False for a text that declares nothing; most are settled by their first letter.
fn may_declare(sql: &[u8]) -> bool {
    matches!(
        sql.trim_ascii_start(),
        [b'b' | b'B' | b'/' | b'-', ..]
            | [b's' | b'S', b't' | b'T' | b'h' | b'H', ..]
            | [b's' | b'S', b'e' | b'E', b't' | b'T', ..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::catalogue::Overrides;
    use crate::wire::encode;

    fn asked_in(standing: Standing, split: Split, messages: &[u8]) -> Asked {
        let overrides = Overrides::default();
        let catalogue = Catalogue::unknown(overrides);
        let reader = Reader {
            split,
            standing,
            context: Context { standard_strings: true, encoding: Encoding::Utf8 },
            catalogue: &catalogue,
            distrusted: &Distrusted::default(),
            prepared: &Prepared::new(1000),
            by_sql: &[],
            trusts_kept: true,
        };
        reader.batch(messages)
    }

    fn query(sql: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode::query(&mut out, sql);
        out
    }

    fn batch(sqls: &[&str], end: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for sql in sqls {
            encode::message(&mut out, b'P', |body| {
                body.push(0);
                body.extend_from_slice(sql.as_bytes());
                body.extend_from_slice(&[0, 0, 0]);
            });
            encode::message(&mut out, b'B', |body| body.extend_from_slice(&[0; 8]));
            encode::message(&mut out, b'E', |body| body.extend_from_slice(&[0; 5]));
        }
        for tag in end {
            encode::message(&mut out, *tag, |_| {});
        }
        out
    }

    #[test]
    fn only_a_batch_of_reads_that_is_all_there_is_a_read() {
        let auto = |messages: &[u8]| asked_in(Standing::default(), Split::Auto, messages);
        let whole = batch(&["select 1", "values (2)"], b"S");
        assert_eq!(auto(&whole), Asked::Read(whole.len()));
        let mut two = whole.clone();
        two.extend(batch(&["create table t ()"], b"S"));
        assert_eq!(auto(&two), Asked::Read(whole.len()), "the second batch is another matter");
        assert_eq!(auto(&batch(&["select 1"], b"")), Asked::Primary(Why::IncompleteBatch));
        assert_eq!(auto(&batch(&["select 1"], b"HS")), Asked::Primary(Why::IncompleteBatch));
        let mixed = batch(&["select 1", "create table t ()"], b"S");
        assert_eq!(auto(&mixed), Asked::Primary(Why::Write(Reason::Definition)));
        let text = query("select 1");
        assert_eq!(auto(&text), Asked::Read(text.len()));
        assert_eq!(auto(&query("begin")), Asked::Primary(Why::Transaction));
        assert_eq!(auto(&query(" ; ")), Asked::Either);
        assert_eq!(auto(&batch(&[], b"S")), Asked::Either);
        assert_eq!(auto(&query("/* pgsteer: primary */ select 1")), Asked::Primary(Why::Hint));
        assert_eq!(asked_in(Standing::default(), Split::Declared, &text), Asked::Primary(Why::NotSplit));
    }

    #[test]
    fn batches_that_only_set_are_told_from_others() {
        let context = Context { standard_strings: true, encoding: Encoding::Utf8 };
        let sets = |messages: &[u8]| only_sets(messages, context);
        assert!(sets(&query("set a = 1")) && sets(&batch(&["set a = 1", "reset a"], b"S")));
        assert!(!sets(&query("set a = 1; select f()")) && !sets(&query("select 1")) && !sets(b""));
        assert!(!sets(&batch(&["set a = 1", "select f()"], b"S")) && !sets(&batch(&["set a = 1"], b"")));
        let mut named = Vec::new();
        encode::message(&mut named, b'B', |body| body.extend_from_slice(b"\0x\0\0\0\0\0\0\0"));
        encode::message(&mut named, b'S', |_| {});
        assert!(!sets(&named), "whatever was prepared as x");
    }

    #[test]
    fn what_the_client_declares_counts_in_both_ways_of_splitting() {
        for split in [Split::Declared, Split::Auto] {
            let plain = |sql: &str| asked_in(Standing::default(), split, &query(sql));
            for sql in [
                "begin read only",
                "START TRANSACTION READ ONLY",
                "begin isolation level repeatable read, read only",
            ] {
                assert_eq!(plain(sql), Asked::Standby(Why::Declared), "{sql}");
            }
            assert_eq!(
                plain("begin isolation level serializable read only"),
                Asked::Primary(Why::Serializable)
            );
            assert_eq!(plain("begin read write"), Asked::Primary(Why::Transaction));
            assert_eq!(plain("/* pgsteer: standby */ insert into t values (1)"), Asked::Standby(Why::Hint));
            let begin = batch(&["begin read only", "select f()"], b"");
            assert_eq!(asked_in(Standing::default(), split, &begin), Asked::Standby(Why::Declared));
            let read_only = Standing { read_only: true, ..Standing::default() };
            let declared = |sql: &str| asked_in(read_only, split, &query(sql));
            assert_eq!(declared("select f()"), Asked::Standby(Why::Declared));
            assert_eq!(declared("begin"), Asked::Standby(Why::Declared));
            assert_eq!(declared("begin read write"), Asked::Primary(Why::Transaction));
            assert_eq!(declared("listen x"), Asked::Primary(Why::Write(Reason::SessionState)));
            assert_eq!(
                declared("set default_transaction_read_only = off"),
                Asked::Primary(Why::Write(Reason::Setting))
            );
            let serializable = Standing { serializable: true, ..read_only };
            assert_eq!(asked_in(serializable, split, &query("select 1")), Asked::Primary(Why::Serializable));
            let standby = Standing { place: Place::Standby, ..Standing::default() };
            assert_eq!(asked_in(standby, split, &query("delete from t")), Asked::Standby(Why::Target));
        }
    }

    #[test]
    fn settings_of_ours_are_checked() {
        let auto = |sql: &str| asked_in(Standing::default(), Split::Declared, &query(sql));
        for (sql, own) in [
            ("set pgsteer.target = 'elsewhere'", Own::Target),
            ("SET SESSION pgsteer.min_lsn TO 'x'", Own::MinLsn),
            ("set pgsteer.max_lag = 'soon'", Own::MaxLag),
            ("set pgsteer.lsn = '1:0/0'", Own::Lsn),
            ("set pgsteer.tarket = 'primary'", Own::Unknown),
        ] {
            assert_eq!(auto(sql), Asked::Invalid(own), "{sql}");
        }
        for sql in [
            "set pgsteer.target = 'primary'",
            "set pgsteer.target to default",
            "set pgsteer.min_lsn = '2:0/16B3748'",
            "set pgsteer.max_lag = '5s'",
            "set work_mem = 1",
        ] {
            assert_eq!(auto(sql), Asked::Primary(Why::Write(Reason::Setting)), "{sql}");
        }
        assert_eq!(auto("SHOW pgsteer.lsn;"), Asked::Position);
        assert!(!shows_position(b"show pgsteer.target") && !shows_position(b"select 'show pgsteer.lsn'"));
    }
}
