//! What a function does to the session of whoever calls it: settings, locks, temporary tables that the calling statement
//! does not show.
//!
//! In: the sources of functions, and statements. Out: what may be left when a statement has run. A guess in favour of
//! asking: whoever acts on it must ask the server what is really there. Must not know how sources are fetched.

use std::collections::HashMap;

use super::functions::{Function, function};
use super::lexer::{Lexer, Token};
use super::pins::{PinCause, Pins};

/// How deep texts in texts are read: dynamic SQL in a function, and a function made by that.
const DEPTH: usize = 3;
/// Longest name, bytes (`NAMEDATALEN` - 1).
const NAME_BYTES: usize = 63;

/// What may be left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// State that only the backend has. Sequences are not among it: nearly every function that inserts uses one.
    pub pins: Pins,
    /// Settings, by name.
    pub settings: Vec<String>,
}

impl Hidden {
    /// True when nothing is.
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty() && self.settings.is_empty()
    }

    /// Adds what another may leave.
    pub fn add(&mut self, other: &Self) {
        self.pins = self.pins.union(other.pins);
        for name in &other.settings {
            self.set(name);
        }
    }

    fn set(&mut self, name: &str) {
        let name = name.to_ascii_lowercase();
        if !self.settings.contains(&name) {
            self.settings.push(name);
        }
    }
}

/// A function, or a relation that calls one: a view, a table with a trigger.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name without the schema, as the server keeps it.
    pub name: String,
    /// The text of a function; empty for a relation.
    pub text: String,
    /// The functions it is known to call.
    pub calls: Vec<String>,
}

/// The functions and relations of one database whose use may leave something.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Risks(HashMap<Box<[u8]>, Hidden>);

impl Risks {
    /// Reads the sources. What a function calls counts as its own.
    pub fn new<'a>(sources: impl IntoIterator<Item = &'a Source>) -> Self {
        let mut found: HashMap<&str, (Hidden, Vec<String>)> = HashMap::new();
        for source in sources {
            let scan = Scan::of(source.text.as_bytes());
            let (hidden, calls) = found.entry(&source.name).or_default();
            hidden.add(&scan.hidden);
            calls.extend(scan.calls);
            calls.extend(source.calls.iter().cloned());
        }
        let mut all: HashMap<Box<[u8]>, Hidden> = HashMap::new();
        // Each round adds a call; without a change there is no longer one.
        loop {
            let mut changed = false;
            for (name, (own, calls)) in &found {
                let mut total = own.clone();
                for called in calls.iter().filter_map(|name| all.get(name.as_bytes())) {
                    total.add(called);
                }
                if !total.is_empty() && all.get(name.as_bytes()).is_none_or(|before| grew(before, &total)) {
                    all.insert(name.as_bytes().into(), total);
                    changed = true;
                }
            }
            if !changed {
                return Self(all);
            }
        }
    }

    /// What all of them together may leave.
    pub fn all(&self) -> Hidden {
        let mut all = Hidden::default();
        self.0.values().for_each(|hidden| all.add(hidden));
        all
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(|name| std::str::from_utf8(name).ok())
    }

    /// What a statement may leave by what it calls, or by being a DO.
    pub fn of(&self, sql: &[u8], standard_strings: bool) -> Hidden {
        let mut hidden = Hidden::default();
        if !self.0.is_empty() {
            for token in tokens(sql, standard_strings) {
                if let Some(known) = self.get(token) {
                    hidden.add(known);
                }
            }
        }
        if is_do(sql) {
            let scan = Scan::of(sql);
            hidden.add(&scan.hidden);
            for called in scan.calls.iter().filter_map(|name| self.0.get(name.as_bytes())) {
                hidden.add(called);
            }
        }
        hidden
    }

    fn get(&self, token: Token<'_>) -> Option<&Hidden> {
        match token {
            Token::QuotedName(name) => self.0.get(name),
            Token::Word(word) => {
                let mut lower = [0; NAME_BYTES];
                let lower = lower.get_mut(..word.len())?;
                lower.copy_from_slice(word);
                lower.make_ascii_lowercase();
                self.0.get(&*lower)
            }
            _ => None,
        }
    }
}

fn grew(before: &Hidden, now: &Hidden) -> bool {
    before.pins != now.pins || before.settings.len() != now.settings.len()
}

fn tokens(sql: &[u8], standard_strings: bool) -> impl Iterator<Item = Token<'_>> {
    let mut lexer = Lexer::new(sql, standard_strings);
    std::iter::from_fn(move || lexer.next())
}

/// True for a DO statement, wherever it stands in the text.
fn is_do(sql: &[u8]) -> bool {
    if memchr::memchr(b';', sql).is_none() {
        // Nearly every text: its first word tells.
        return tokens(sql, true).next().is_some_and(|first| first.is("do"));
    }
    let mut begins = true;
    tokens(sql, true).any(|token| {
        let found = begins && token.is("do");
        begins = token == Token::Semicolon;
        found
    })
}

/// What one source shows.
#[derive(Default)]
struct Scan {
    hidden: Hidden,
    calls: Vec<String>,
}

impl Scan {
    fn of(text: &[u8]) -> Self {
        let mut scan = Self::default();
        scan.read(text, DEPTH);
        scan
    }

    fn read(&mut self, text: &[u8], depth: usize) {
        let mut lexer = Lexer::new(text, true);
        let mut begins = true;
        while let Some(token) = lexer.next() {
            match token {
                Token::Text(inner) if depth > 0 => self.read(unquoted(inner), depth - 1),
                Token::Word(word) if begins => self.statement(word, lexer.clone()),
                _ => {}
            }
            match token {
                Token::Word(word) => self.word(word, &word.to_ascii_lowercase(), lexer.clone()),
                Token::QuotedName(name) => self.word(name, name, lexer.clone()),
                _ => {}
            }
            begins = token == Token::Semicolon || token.is_any(&["begin", "then", "else", "loop"]);
        }
    }

    /// The first word of a statement, and what follows it.
    fn statement(&mut self, word: &[u8], rest: Lexer<'_>) {
        if word.eq_ignore_ascii_case(b"set") {
            self.set(rest);
        } else if word.eq_ignore_ascii_case(b"listen") {
            self.hidden.pins.insert(PinCause::Listen);
        } else if word.eq_ignore_ascii_case(b"load") {
            self.hidden.pins.insert(PinCause::Library);
        } else if word.eq_ignore_ascii_case(b"prepare") {
            self.hidden.pins.insert(PinCause::Prepare);
        }
    }

    fn set(&mut self, mut rest: Lexer<'_>) {
        let mut token = rest.next();
        if token.is_some_and(|token| token.is("session")) {
            token = rest.next();
        }
        let mut name = String::new();
        while let Some(Token::Word(part) | Token::QuotedName(part)) = token {
            name.push_str(&String::from_utf8_lossy(part));
            token = rest.next();
            if token != Some(Token::Mark(b'.')) {
                break;
            }
            name.push('.');
            token = rest.next();
        }
        let assigns = token.is_some_and(|token| token == Token::Mark(b'=') || token.is("to"));
        match name.to_ascii_lowercase().as_str() {
            "local" | "transaction" | "constraints" | "" => {}
            "role" => self.hidden.set("role"),
            // Nobody else is told who may have taken its place.
            "authorization" => self.hidden.pins.insert(PinCause::Setting),
            "time" => self.hidden.set("timezone"),
            "characteristics" => {
                for part in ["isolation", "read_only", "deferrable"] {
                    self.hidden.set(&format!("default_transaction_{part}"));
                }
            }
            name if assigns => self.hidden.set(name),
            _ => {}
        }
    }

    /// Any word, the name that it is, and what follows it.
    fn word(&mut self, word: &[u8], name: &[u8], mut rest: Lexer<'_>) {
        if [&b"temp"[..], b"temporary", b"pg_temp"].iter().any(|temp| word.eq_ignore_ascii_case(temp)) {
            self.hidden.pins.insert(PinCause::TempTable);
        } else if word.eq_ignore_ascii_case(b"hold") {
            self.hidden.pins.insert(PinCause::HeldCursor);
        }
        if rest.next() != Some(Token::Mark(b'(')) {
            return;
        }
        match function(word) {
            Function::Pins(PinCause::Sequence) => {}
            Function::Pins(cause) => self.hidden.pins.insert(cause),
            // Whether any is left only the server knows.
            Function::Unlocks | Function::UnlocksAll => self.hidden.pins.insert(PinCause::AdvisoryLock),
            Function::SetConfig => self.set_config(rest),
            Function::Other => self.calls.push(String::from_utf8_lossy(name).into_owned()),
        }
    }

    /// The arguments of `set_config`: name, value, whether it is the transaction's only.
    fn set_config(&mut self, rest: Lexer<'_>) {
        let mut arguments: [Vec<Token<'_>>; 3] = Default::default();
        let (mut depth, mut at) = (0usize, 0);
        for token in rest {
            match token {
                Token::Mark(b')') if depth == 0 => break,
                Token::Mark(b'(') => depth += 1,
                Token::Mark(b')') => depth -= 1,
                Token::Mark(b',') if depth == 0 => {
                    at += 1;
                    continue;
                }
                _ => {}
            }
            if let Some(argument) = arguments.get_mut(at) {
                argument.push(token);
            }
        }
        let [name, _, local] = arguments;
        match (name.as_slice(), local.as_slice()) {
            (_, [local]) if local.is("true") => {}
            ([Token::Text(name)], _) => self.hidden.set(&String::from_utf8_lossy(unquoted(name))),
            _ => self.hidden.pins.insert(PinCause::Setting),
        }
    }
}

/// What stands between the quotes of a string constant of any kind. Doubled quotes stay doubled.
fn unquoted(text: &[u8]) -> &[u8] {
    if text.first() == Some(&b'$') {
        let tag = memchr::memchr(b'$', text.get(1..).unwrap_or_default()).map_or(0, |at| at + 2);
        return text.get(tag..text.len().saturating_sub(tag)).unwrap_or_default();
    }
    let start = memchr::memchr(b'\'', text).map_or(0, |at| at + 1);
    text.get(start..text.len().saturating_sub(1)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.to_owned(), text: text.to_owned(), calls: Vec::new() }
    }

    fn left(text: &str) -> (Vec<PinCause>, Vec<String>) {
        let hidden = Scan::of(text.as_bytes()).hidden;
        (hidden.pins.iter().collect(), hidden.settings)
    }

    fn settings(names: &[&str]) -> (Vec<PinCause>, Vec<String>) {
        (Vec::new(), names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn settings_are_seen_with_their_names() {
        for (text, names) in [
            ("begin perform set_config('app.Tenant', who::text, false); end", &["app.tenant"][..]),
            ("begin perform set_config('app.tenant', f(a, 'x'), true); end", &[]),
            ("begin perform pg_catalog.set_config('a', b, local); end", &["a"]),
            ("begin set work_mem = '1MB'; set local jit = off; set role x; end", &["work_mem", "role"]),
            ("begin if a then set my.\"Var\" to 1; end if; update t set b = 1; end", &["my.var"]),
            ("begin execute 'set search_path to ' || quote_ident(x); end", &["search_path"]),
            ("begin raise notice 'set that aside'; update t set a = 1 where true; end", &[]),
        ] {
            assert_eq!(left(text), settings(names), "{text}");
        }
        for text in [
            "select set_config(name, '1', false)",
            "begin execute format($f$set session authorization %I$f$, x); end",
        ] {
            assert_eq!(left(text), (vec![PinCause::Setting], Vec::new()), "{text}");
        }
    }

    #[test]
    fn what_a_backend_holds_is_seen() {
        for (text, cause) in [
            ("begin perform pg_advisory_lock(1); end", PinCause::AdvisoryLock),
            ("select pg_advisory_unlock(1)", PinCause::AdvisoryLock),
            ("begin create temp table x on commit drop as select 1; end", PinCause::TempTable),
            ("begin execute 'create temporary view v as select 1'; end", PinCause::TempTable),
            ("begin execute 'listen ' || channel; end", PinCause::Listen),
            ("begin execute 'declare c cursor with hold for select 1'; end", PinCause::HeldCursor),
            ("begin execute $$load 'x'$$; end", PinCause::Library),
            ("select setseed(0.5)", PinCause::Seed),
        ] {
            assert_eq!(left(text), (vec![cause], Vec::new()), "{text}");
        }
        for text in [
            "select pg_advisory_xact_lock(1)",
            "insert into t values (nextval('s'))",
            "select 'temp'::text || 'x'",
        ] {
            assert_eq!(left(text).1, Vec::<String>::new(), "{text}");
        }
        assert_eq!(left("select nextval('s'), pg_advisory_xact_lock(1)"), settings(&[]));
    }

    #[test]
    fn what_is_called_counts() {
        let mut risks = vec![
            source("deep", "begin perform set_config('a.b', '1', false); end"),
            source("middle", "begin perform s.deep(); end"),
            source("Top", "select middle() from x"),
            source("again", "begin perform again(); perform middle(); end"),
            source("clean", "begin perform other(); end"),
        ];
        risks.push(Source { name: "v".into(), text: String::new(), calls: vec!["middle".into()] });
        let risks = Risks::new(&risks);
        let mut names: Vec<_> = risks.names().collect();
        names.sort_unstable();
        assert_eq!(names, ["Top", "again", "deep", "middle", "v"]);
        let of = |sql: &str| risks.of(sql.as_bytes(), true).settings;
        for sql in [
            "select MIDDLE()",
            "select \"Top\"()",
            "call again()",
            "table v",
            "do $$begin perform deep(); end$$",
        ] {
            assert_eq!(of(sql), ["a.b"], "{sql}");
        }
        for sql in ["select top()", "select clean()", "select 'deep()'", "select 1"] {
            assert!(of(sql).is_empty(), "{sql}");
        }
        let none = Risks::default();
        assert_eq!(none.of(b"select 1; DO 'begin set a.b = 1; end'", true).settings, ["a.b"]);
        assert!(none.of(b"select do from d", true).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[ -~]{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let risks = Risks::new(&[source("f", &text), source("g", "select f(), set_config(")]);
            let _ = risks.of(&bytes, true);
            let _ = Risks::default().of(format!("do {text}").as_bytes(), false);
        }
    }
}
