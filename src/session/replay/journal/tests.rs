//! The journal between a client and servers that say the same again, or something else.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::wire::encode;
use crate::wire::error::{PgError, SqlState};

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::message(&mut out, tag, |to| to.extend_from_slice(body));
    out
}

fn ready(status: &[u8]) -> Vec<u8> {
    message(b'Z', status)
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

fn journal() -> Journal {
    Journal::new(64 * 1024)
}

fn send_first(journal: &mut Journal, message: &[u8], first: bool) {
    let kind = Kind::of(message[0]).unwrap();
    let sent = Sent { kind, message, whole: true, first, standard_strings: true };
    journal.note_sent(&sent, &Prepared::new(1000), &[]);
}

fn send(journal: &mut Journal, message: &[u8]) {
    send_first(journal, message, false);
}

/// A transaction of these statements, each answered, the first being its BEGIN.
fn transaction(statements: &[&str]) -> Journal {
    let mut journal = journal();
    for (at, sql) in statements.iter().enumerate() {
        send_first(&mut journal, &query(sql), at == 0);
        assert_eq!(journal.hear(&message(b'C', b"X\0"), 0), Heard::Deliver);
        assert_eq!(journal.hear(&ready(b"T"), 0), Heard::Deliver);
    }
    journal
}

/// Sends what the journal hands out; how many messages.
fn hand_out(journal: &mut Journal) -> usize {
    let bytes = match journal.hand_out() {
        Next::Send(bytes) => bytes,
        Next::Flush => return hand_out(journal),
        Next::Wait | Next::Done => return 0,
    };
    let bytes = bytes.to_vec();
    let mut rest = &bytes[..];
    let mut count = 0;
    while let Some((_, next)) = frame::split(rest).unwrap() {
        let one = rest[..rest.len() - next.len()].to_vec();
        send(journal, &one);
        (rest, count) = (next, count + 1);
    }
    assert_eq!(rest, b"", "whole messages only");
    count
}

#[test]
fn each_statement_waits_for_the_same_answer_to_the_one_before() {
    let mut journal = transaction(&["begin", "select 1", "select 2"]);
    journal.begin(&mut Prepared::new(1000));
    for _ in 0..3 {
        assert_eq!(hand_out(&mut journal), 1);
        assert_eq!(journal.hand_out(), Next::Wait);
        assert_eq!(journal.hear(&message(b'C', b"X\0"), 0), Heard::Swallow);
        assert_eq!(journal.hand_out(), Next::Wait);
        assert_eq!(journal.hear(&ready(b"T"), 0), Heard::Swallow);
    }
    assert_eq!(journal.hand_out(), Next::Done);
    journal.finish();
    assert_eq!(journal.hear(&message(b'N', b"later"), 0), Heard::Deliver);
}

#[test]
fn a_begin_that_fails_lets_nothing_follow() {
    let mut journal = transaction(&["begin", "insert into t values (1)"]);
    journal.begin(&mut Prepared::new(1000));
    assert_eq!(hand_out(&mut journal), 1);
    let mut error = Vec::new();
    PgError::error(SqlState::INTERNAL_ERROR, "no").encode(&mut error);
    assert_eq!(journal.hear(&error, 0), Heard::Differs);
}

#[test]
fn an_answer_that_is_shorter_or_longer_is_noticed_at_its_end() {
    for other in [&[b"C" as &[u8], b"Z"][..], &[b"D", b"D", b"C"], &[b"G"], &[b"I", b"Z"]] {
        let mut journal = journal();
        send_first(&mut journal, &query("select a from t"), true);
        for tag in *b"TDC" {
            journal.hear(&message(tag, b""), 1);
        }
        journal.hear(&ready(b"T"), 0);
        journal.begin(&mut Prepared::new(1000));
        hand_out(&mut journal);
        assert_eq!(journal.hear(&message(b'T', b""), 1), Heard::Swallow);
        let differs = other.iter().any(|tag| journal.hear(&message(tag[0], b""), 1) == Heard::Differs);
        assert!(differs, "{other:?}");
    }
}

#[test]
fn a_batch_without_its_end_is_flushed() {
    let mut journal = transaction(&["begin"]);
    let parse = message(b'P', b"\0commit\0\0\0");
    send(&mut journal, &parse);
    // The answer came because of a question of ours.
    journal.hear(&message(b'1', b""), 0);
    journal.begin(&mut Prepared::new(1000));
    hand_out(&mut journal);
    assert_eq!(journal.hand_out(), Next::Wait, "a statement that was answered needs none");
    journal.hear(&message(b'C', b"X\0"), 0);
    journal.hear(&ready(b"T"), 0);
    assert_eq!(journal.hand_out(), Next::Send(&parse));
    send(&mut journal, &parse);
    assert_eq!(journal.hand_out(), Next::Flush);
    assert_eq!(journal.hand_out(), Next::Wait, "once");
    assert_eq!(journal.hear(&message(b'1', b""), 0), Heard::Swallow);
    assert_eq!(journal.hand_out(), Next::Done);
}

#[test]
fn errors_are_equal_wherever_their_source_is() {
    let error = |text: &str, line: &str| {
        message(b'E', format!("SERROR\0VERROR\0C22012\0M{text}\0Fint.c\0L{line}\0Rint4div\0\0").as_bytes())
    };
    for (text, heard) in [("division by zero", Heard::Swallow), ("other", Heard::Differs)] {
        let mut journal = transaction(&["begin"]);
        send(&mut journal, &query("select 1/0"));
        journal.hear(&error("division by zero", "1"), 1);
        journal.hear(&ready(b"E"), 0);
        journal.begin(&mut Prepared::new(1000));
        hand_out(&mut journal);
        journal.hear(&message(b'C', b"X\0"), 0);
        journal.hear(&ready(b"T"), 0);
        hand_out(&mut journal);
        assert_eq!(journal.hear(&error(text, "2"), 1), heard, "{text}");
    }
}

#[test]
fn what_comes_by_itself_is_no_result() {
    let mut journal = transaction(&["begin"]);
    journal.hear(&message(b'N', b"x"), 0);
    journal.hear(&message(b'S', b"a\0b\0"), 0);
    journal.begin(&mut Prepared::new(1000));
    hand_out(&mut journal);
    assert_eq!(journal.hear(&message(b'A', b"mine"), 0), Heard::Deliver);
    assert_eq!(journal.hear(&message(b'S', b"a\0b\0"), 0), Heard::Deliver);
    assert_eq!(journal.hear(&message(b'N', b"once more"), 0), Heard::Swallow);
    assert_eq!(journal.hear(&message(b'C', b"X\0"), 0), Heard::Swallow);
    assert_eq!(journal.hear(&ready(b"T"), 0), Heard::Swallow);
    assert_eq!(journal.hand_out(), Next::Done);
}

#[test]
fn what_is_over_is_forgotten_and_what_was_sent_behind_it_is_kept() {
    let mut journal = journal();
    send_first(&mut journal, &query("insert into t values (1)"), true);
    send(&mut journal, &query("begin"));
    send(&mut journal, &query("select 1"));
    journal.hear(&message(b'C', b"INSERT 0 1\0"), 3);
    journal.hear(&ready(b"I"), 2);
    journal.hear(&message(b'C', b"BEGIN\0"), 2);
    journal.hear(&ready(b"T"), 1);
    journal.begin(&mut Prepared::new(1000));
    assert_eq!(journal.hand_out(), Next::Send(&query("begin")));
    send(&mut journal, &query("begin"));
    journal.hear(&message(b'C', b"BEGIN\0"), 1);
    journal.hear(&ready(b"T"), 0);
    assert_eq!(journal.hand_out(), Next::Send(&query("select 1")), "it was not answered");
    send(&mut journal, &query("select 1"));
    assert_eq!(journal.hear(&message(b'C', b"SELECT 1\0"), 1), Heard::Deliver);
    assert_eq!(journal.hear(&ready(b"I"), 0), Heard::Deliver);
    assert!(!journal.can_replay(), "nothing is left");
}

#[test]
fn what_is_too_long_or_cannot_be_repeated_is_not_kept() {
    let mut journal = Journal::new(1024);
    send_first(&mut journal, &query("begin"), true);
    assert!(journal.can_replay());
    send(&mut journal, &query(&format!("select '{}'", "x".repeat(1000))));
    assert_eq!(journal.stopped(), Some(Stop::Size));
    assert!(!journal.can_replay());
    journal.hear(&ready(b"T"), 1);
    journal.hear(&ready(b"I"), 0);
    assert_eq!(journal.stopped(), None, "the next transaction has its own chance");
    send_first(&mut journal, &query("begin"), true);
    send(&mut journal, &query("select f()"));
    assert_eq!(journal.stopped(), Some(Stop::Text(Why::Function)));
    // Many small messages have a price, too.
    let mut journal = Journal::new(1024);
    (0..100).for_each(|at| send_first(&mut journal, &query(""), at == 0));
    assert_eq!(journal.stopped(), Some(Stop::Size));
}

#[test]
fn prepared_statements_are_known_by_name() {
    let parse = |name: &str, sql: &str| message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes());
    let bind = |name: &str| message(b'B', format!("\0{name}\0\0\0\0\0\0\0").as_bytes());
    let mut journal = journal();
    send_first(&mut journal, &parse("good", "select 1"), true);
    send(&mut journal, &parse("bad", "select f()"));
    for (name, stop) in
        [("good", None), ("bad", Some(Stop::Text(Why::Function))), ("never", Some(Stop::Text(Why::Unknown)))]
    {
        send_first(&mut journal, &bind(name), true);
        assert_eq!(journal.stopped(), stop, "{name}");
    }
    send_first(&mut journal, &bind(""), true);
    assert!(journal.stopped().is_some(), "the unnamed statement is another transaction's");
    send_first(&mut journal, &query("prepare p as select 1"), true);
    send_first(&mut journal, &query("execute p"), true);
    assert_eq!(journal.stopped(), None);
}

#[test]
fn names_mean_again_what_they_meant() {
    let mut prepared = Prepared::new(1000);
    let statement = |text: &[u8]| Statement { message: text.into(), ..Statement::default() };
    prepared.insert(b"old", statement(b"1"));
    let mut journal = journal();
    let note = |journal: &mut Journal, prepared: &Prepared, message: &[u8], first| {
        let kind = Kind::of(message[0]).unwrap();
        let sent = Sent { kind, message, whole: true, first, standard_strings: true };
        journal.note_sent(&sent, prepared, &[]);
    };
    note(&mut journal, &prepared, &query("begin"), true);
    note(&mut journal, &prepared, &message(b'C', b"Sold\0"), false);
    prepared.remove(b"old");
    for name in ["old", "new"] {
        let parse = message(b'P', format!("{name}\0select 2\0\0\0").as_bytes());
        note(&mut journal, &prepared, &parse, false);
        prepared.insert(name.as_bytes(), statement(b"2"));
    }
    journal.begin(&mut prepared);
    assert_eq!(prepared.get(b"old").map(|old| &*old.message), Some(&b"1"[..]));
    assert!(prepared.get(b"new").is_none());
}

/// What a server says to each statement, without the ReadyForQuery at its end.
fn answers() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let row = (0u8..3, 0usize..40).prop_map(|(value, length)| message(b'D', &vec![value; length]));
    let answer = (proptest::collection::vec(row, 0..5), any::<bool>()).prop_map(|(rows, fails)| {
        let mut all = vec![message(b'T', b"a")];
        all.extend(rows);
        all.push(if fails { message(b'E', b"SERROR\0C22012\0Mx\0\0") } else { message(b'C', b"SELECT\0") });
        all
    });
    proptest::collection::vec(answer, 1..6)
}

/// Everything the server will say, by statement.
fn said(answers: &[Vec<Vec<u8>>]) -> Vec<Vec<Vec<u8>>> {
    answers.iter().map(|answer| [&answer[..], &[ready(b"T")]].concat()).collect()
}

/// Lets the client hear a message in pieces, as long rows come.
fn hear(journal: &mut Journal, message: &[u8], owed: usize, cut: usize) -> Heard {
    if message[0] != b'D' || message.len() <= cut + HEADER_LEN {
        return journal.hear(message, owed);
    }
    let (front, rest) = message.split_at(cut + HEADER_LEN);
    let first = journal.hear(front, owed);
    let (middle, end) = rest.split_at(rest.len() / 2);
    let mut heard = first;
    for part in [middle, end].into_iter().filter(|part| !part.is_empty()) {
        heard = journal.hear_rest(part);
    }
    if first == Heard::Deliver { first } else { heard }
}

/// Replays against a server that says this; what the client hears, or `None` when it was something else.
fn replay(journal: &mut Journal, said: &[Vec<Vec<u8>>], owed: usize, cut: usize) -> Option<Vec<Vec<u8>>> {
    let mut server: VecDeque<Vec<u8>> = VecDeque::new();
    let (mut statement, mut delivered, mut open) = (0, Vec::new(), 0);
    for _ in 0..10_000 {
        let count = hand_out(journal);
        for answer in said.iter().skip(statement).take(count) {
            server.extend(answer.iter().cloned());
        }
        (statement, open) = (statement + count, open + count);
        let Some(message) = server.pop_front() else {
            // A server that waits has been told everything.
            assert!(journal.hand_out() == Next::Done && owed == 0, "it stands still");
            return Some(delivered);
        };
        open -= usize::from(message[0] == b'Z');
        match hear(journal, &message, open, cut) {
            Heard::Deliver => delivered.push(message),
            Heard::Swallow => {}
            Heard::Differs => return None,
        }
        if statement == said.len() && server.is_empty() {
            assert_eq!(journal.hand_out(), Next::Done);
            return Some(delivered);
        }
    }
    panic!("it never ends")
}

proptest! {
    /// Wherever the server is lost, the client hears the same as from one that is not; from one that says anything else
    /// than before it hears nothing.
    #[test]
    fn a_replay_is_not_noticed(
        answers in answers(),
        lost_at in 0usize..40,
        ahead in 0usize..3,
        cuts in (0usize..20, 0usize..20),
        change in (0usize..40, 0usize..4),
    ) {
        let mut journal = journal();
        let said = said(&answers);
        let all: Vec<Vec<u8>> = said.concat();
        let lost_at = lost_at.min(all.len());
        let statement = |at: usize| query(&format!("select {at}"));
        // The client sends some statements ahead of the answers, but never beyond what it hears by more.
        let (mut sent, mut answered, mut heard) = (0, 0, Vec::new());
        for at in 0..=lost_at {
            while sent < said.len() && sent <= answered + ahead {
                send_first(&mut journal, &statement(sent), sent == 0);
                sent += 1;
            }
            let Some(message) = all.get(at).filter(|_| at < lost_at) else { break };
            answered += usize::from(message[0] == b'Z');
            prop_assert_eq!(hear(&mut journal, message, sent - answered, cuts.0), Heard::Deliver);
            heard.push(message.clone());
        }
        let asked = &said[..sent];
        let wanted = asked.concat();
        prop_assert!(journal.can_replay());

        // The same server again, and once more because it was lost again.
        for _ in 0..2 {
            let mut again = journal_copy(&journal);
            again.begin(&mut Prepared::new(1000));
            let delivered = replay(&mut again, asked, 0, cuts.1);
            let whole = delivered.map(|rest| [&heard[..], &rest[..]].concat());
            prop_assert_eq!(whole.as_ref(), Some(&wanted));
        }

        // One message is another: heard before, it is noticed.
        let at = change.0 % wanted.len();
        let mut other: Vec<Vec<Vec<u8>>> = asked.to_vec();
        let (mut step, mut place) = (0, at);
        while place >= other[step].len() {
            place -= other[step].len();
            step += 1;
        }
        let is_end = other[step][place][0] == b'Z';
        match change.1 {
            0 if !is_end => drop(other[step].remove(place)),
            1 if !is_end => {
                let twice = other[step][place].clone();
                other[step].insert(place, twice);
            }
            2 if is_end => other[step][place] = ready(b"E"),
            _ => {
                let tag = if is_end { b'Z' } else { other[step][place][0] };
                other[step][place] = message(tag, if is_end { b"I" } else { b"another" });
            }
        }
        journal.begin(&mut Prepared::new(1000));
        let wanted_other = other.concat();
        if at < heard.len() && wanted_other[..heard.len().min(wanted_other.len())] != heard[..] {
            prop_assert_eq!(replay(&mut journal, &other, 0, cuts.1), None);
        }
    }
}

/// The same record, to be replayed more than once.
fn journal_copy(journal: &Journal) -> Journal {
    Journal {
        limit: journal.limit,
        seed: journal.seed.clone(),
        bytes: journal.bytes.clone(),
        messages: journal.messages,
        stop: journal.stop,
        steps: journal.steps.clone(),
        stops: journal.stops.clone(),
        heard: journal.heard.clone(),
        rest: 0,
        rest_tag: None,
        statements: HashMap::new(),
        has_unnamed: false,
        named_before: Vec::new(),
        progress: None,
    }
}
