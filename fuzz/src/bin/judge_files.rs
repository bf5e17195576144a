//! Holds the judge against PostgreSQL's grammar for every statement of the SQL files given: judge_files [--mix N] FILE ...
//!
//! The files are written for psql: its own commands and the data of COPY are passed over. With --mix also for N texts that are
//! put together from pieces of those statements, always the same ones. Ends with 1 when the judge is wrong about a text.
//! `scripts/regress.sh --judge` runs it over PostgreSQL's regression suites.

#[path = "../tree.rs"]
mod tree;

use std::collections::BTreeMap;
use std::process::ExitCode;

use pgsteer::sql::lexer::{Lexer, Token};
use tree::{Outcome, check};

/// The statements of a text for psql.
fn statements(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut lexer = Lexer::new(rest.as_bytes(), true);
        let end = loop {
            match lexer.next() {
                None => break rest.len(),
                Some(Token::Semicolon) => break lexer.position(),
                // A command of psql: it ends the statement, and takes the rest of the line.
                Some(Token::Mark(b'\\')) => break lexer.position() - 1,
                Some(Token::Odd) => break line_end(rest, 0),
                Some(_) => {}
            }
        };
        let statement = rest.get(..end).unwrap_or_default();
        found.push(statement);
        let upper = statement.to_ascii_uppercase();
        let mut next = end;
        if rest.get(end..).is_some_and(|rest| rest.starts_with('\\')) {
            next = line_end(rest, end);
        } else if upper.contains("COPY") && upper.contains("FROM STDIN") {
            next = rest.get(end..).and_then(|data| data.find("\n\\.")).map_or(end, |at| end + at + 3);
        }
        rest = rest.get(next.max(1)..).unwrap_or_default();
    }
    found
}

/// Where the line that `at` is in ends.
fn line_end(text: &str, at: usize) -> usize {
    text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |found| at + found + 1)
}

/// The tokens of a statement, each with the white space before it.
fn pieces(sql: &str) -> Vec<&str> {
    let mut lexer = Lexer::new(sql.as_bytes(), true);
    let (mut found, mut at) = (Vec::new(), 0);
    while lexer.next().is_some() {
        found.extend(sql.get(at..lexer.position()));
        at = lexer.position();
    }
    found
}

/// Small numbers that look random and are the same in every run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// One statement with some of its pieces taken out, doubled, or exchanged for those of others.
fn mix(reads: &[Vec<&str>], statements: &[Vec<&str>], numbers: &mut Numbers) -> String {
    let pick = |numbers: &mut Numbers| &statements[numbers.below(statements.len())];
    // What is far from a read is no question for the judge.
    let mut mixed = reads[numbers.below(reads.len())].clone();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(mixed.len() + 1);
        let other = pick(numbers);
        let from = numbers.below(other.len());
        let some = other[from..].iter().copied().take(1 + numbers.below(4));
        match numbers.below(5) {
            0 if at < mixed.len() => drop(mixed.remove(at)),
            1 if at < mixed.len() => mixed[at] = other[from],
            2 => mixed.truncate(at),
            _ => drop(mixed.splice(at..at, some)),
        }
    }
    // Now and then without white space between them.
    let glue = if numbers.below(3) == 0 { "" } else { " " };
    mixed
        .iter()
        .map(|piece| if glue.is_empty() { piece.trim_start() } else { piece })
        .collect::<Vec<_>>()
        .join(glue)
}

/// What has become of all texts of one kind so far.
#[derive(Default)]
struct Counts {
    outcomes: BTreeMap<String, usize>,
    wrong: usize,
}

impl Counts {
    /// True when both call the text a read.
    fn check(&mut self, sql: &str, place: &str) -> bool {
        let outcome = check(sql);
        let is_read = outcome == Outcome::Read;
        let count = match outcome {
            Outcome::Wrong(why) => {
                println!("{place}: {why}:\n{}\n", sql.trim());
                self.wrong += 1;
                "WRONG".to_owned()
            }
            Outcome::Read => "read".to_owned(),
            Outcome::Refused => "a read that no server would run".to_owned(),
            Outcome::Write(reason) => format!("write: {reason}"),
        };
        *self.outcomes.entry(count).or_default() += 1;
        is_read
    }

    fn print(&self, title: &str) {
        println!("{:9} {title}", self.outcomes.values().sum::<usize>());
        for (what, count) in &self.outcomes {
            println!("{count:17} {what}");
        }
    }
}

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut mixes = 0;
    if args.first().is_some_and(|first| first == "--mix") {
        mixes = args.get(1).and_then(|count| count.parse().ok()).unwrap_or(100_000);
        args.drain(..args.len().min(2));
    }
    let (mut whole, mut mixed) = (Counts::default(), Counts::default());
    let mut texts = Vec::new();
    for path in &args {
        match std::fs::read(path) {
            // What is not UTF-8 is no text that libpg_query can be given.
            Ok(bytes) => texts.push((path, String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::from(2);
            }
        }
    }
    let (mut reads, mut parts) = (Vec::new(), Vec::new());
    for (path, text) in &texts {
        for sql in statements(text).into_iter().filter(|sql| !sql.trim().is_empty() && !sql.contains('\0')) {
            let pieces = pieces(sql);
            if whole.check(sql, path) {
                reads.push(pieces.clone());
            }
            parts.push(pieces);
        }
    }
    parts.retain(|pieces: &Vec<_>| !pieces.is_empty());
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..if reads.is_empty() { 0 } else { mixes } {
        mixed.check(&mix(&reads, &parts, &mut numbers), "mixed");
    }
    whole.print("statements of the files");
    mixed.print("mixed from them");
    if whole.wrong + mixed.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
