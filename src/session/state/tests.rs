//! The state machine against scripted conversations.

use super::*;
use crate::wire::encode;
use crate::wire::error::SqlState;
use crate::wire::frame;
use proptest::prelude::*;

fn send(state: &mut State, tag: u8, body: &[u8]) {
    let mut out = Vec::new();
    encode::message(&mut out, tag, |to| to.extend_from_slice(body));
    state.client_message(Kind::of(tag).unwrap(), &out, true);
}

fn query(state: &mut State, sql: &str) {
    send(state, b'Q', format!("{sql}\0").as_bytes());
}

fn reply(state: &mut State, messages: &[(u8, &str)]) {
    for (tag, body) in messages {
        assert!(!state.hides(*tag, body.as_bytes()), "{body}");
        state.server_message(*tag, body.as_bytes());
    }
}

fn run(state: &mut State, sql: &str, tag: &str, status: &str) {
    query(state, sql);
    reply(state, &[(b'C', &format!("{tag}\0")), (b'Z', status)]);
}

fn code(loss: Loss) -> (&'static str, usize, bool, bool) {
    match loss {
        Loss::Answer(answer) => {
            let code = if answer.error.code == SqlState::SERIALIZATION_FAILURE { "40001" } else { "08007" };
            (code, answer.segments, answer.skip_to_sync, answer.block)
        }
        other => panic!("{other:?}"),
    }
}

fn settings(state: &State) -> Vec<String> {
    state.params.replays().map(|replay| String::from_utf8(replay.statement.clone()).unwrap()).collect()
}

#[test]
fn an_idle_session_loses_nothing() {
    let mut state = State::new(1000);
    run(&mut state, "select 1", "SELECT 1", "I");
    assert!(state.is_quiet());
    assert_eq!(state.lose(), Loss::Nothing);
}

#[test]
fn what_was_sent_behind_a_rollback_may_have_committed() {
    for (next, what) in [("insert into t values (1)", "08007"), ("begin", "40001")] {
        let mut state = State::new(1000);
        run(&mut state, "begin", "BEGIN", "T");
        query(&mut state, "rollback");
        query(&mut state, next);
        assert_eq!(code(state.lose()).0, what, "{next}");
    }
}

#[test]
fn an_open_block_was_rolled_back() {
    let mut state = State::new(1000);
    run(&mut state, "begin", "BEGIN", "T");
    assert!(!state.is_quiet());
    assert_eq!(state.lose(), Loss::Block(rolled_back()));
    assert!(state.is_quiet());
}

#[test]
fn a_statement_in_a_block_fails_and_leaves_a_failed_block() {
    let mut state = State::new(1000);
    run(&mut state, "begin", "BEGIN", "T");
    query(&mut state, "insert into t values (1)");
    assert_eq!(code(state.lose()), ("40001", 1, false, true));
}

#[test]
fn a_commit_under_way_is_unknown() {
    for commit in ["commit", "END", "prepare transaction 'x'", "commit and chain", "select 1; commit"] {
        let mut state = State::new(1000);
        run(&mut state, "begin", "BEGIN", "T");
        query(&mut state, commit);
        assert_eq!(code(state.lose()), ("08007", 1, false, false), "{commit}");
    }
}

#[test]
fn a_commit_by_a_prepared_statement_is_unknown_too() {
    let mut state = State::new(1000);
    send(&mut state, b'P', b"c\0commit\0\0\0");
    send(&mut state, b'S', b"");
    reply(&mut state, &[(b'1', ""), (b'Z', "I")]);
    run(&mut state, "begin", "BEGIN", "T");
    send(&mut state, b'B', b"\0c\0\0\0\0\0\0\0");
    send(&mut state, b'E', b"\0\0\0\0\0");
    send(&mut state, b'S', b"");
    assert_eq!(code(state.lose()), ("08007", 1, false, false));
}

/// The tags of what the client is still told, and its transaction status.
fn settled(loss: Loss) -> String {
    let Loss::Settled(answer) = loss else { panic!("{loss:?}") };
    let (mut tags, mut rest) = (String::new(), &answer[..]);
    while let Some((frame, next)) = frame::split(rest).unwrap() {
        tags.push(frame.tag as char);
        rest = next;
    }
    tags + &String::from_utf8_lossy(&answer[answer.len() - 1..])
}

#[test]
fn a_rollback_under_way_has_happened() {
    let mut state = State::new(1000);
    run(&mut state, "begin", "BEGIN", "T");
    query(&mut state, "rollback");
    assert_eq!(settled(state.lose()), "CZI");
    let batch = |state: &mut State| {
        run(state, "begin", "BEGIN", "T");
        send(state, b'P', b"\0rollback\0\0\0");
        send(state, b'B', b"\0\0\0\0\0\0\0\0");
        send(state, b'D', b"P\0");
        send(state, b'E', b"\0\0\0\0\0");
    };
    batch(&mut state);
    send(&mut state, b'S', b"");
    assert_eq!(settled(state.lose()), "12nCZI");
    batch(&mut state);
    send(&mut state, b'S', b"");
    reply(&mut state, &[(b'1', ""), (b'2', ""), (b'n', "")]);
    assert_eq!(settled(state.lose()), "CZI");
    // Not all of it, and more than that.
    batch(&mut state);
    assert_eq!(code(state.lose()), ("40001", 0, true, false));
    batch(&mut state);
    send(&mut state, b'S', b"");
    query(&mut state, "insert into t values (1)");
    assert_eq!(code(state.lose()), ("08007", 2, false, false), "the INSERT is in no block");
}

#[test]
fn what_comes_behind_a_block_in_a_pipeline_may_have_committed() {
    for (sent, wanted) in [
        (vec!["rollback", "insert into t values (1)"], ("08007", 2, false, false)),
        (vec!["rollback; insert into t values (1)"], ("08007", 1, false, false)),
        (vec!["rollback", "begin", "insert into t values (1)"], ("08007", 3, false, true)),
        (vec!["rollback", "set a = 1"], ("40001", 2, false, false)),
        (vec!["insert into t values (1)", "rollback"], ("40001", 2, false, false)),
        (vec!["rollback to s", "insert into t values (1)"], ("40001", 2, false, true)),
    ] {
        let mut state = State::new(1000);
        run(&mut state, "begin", "BEGIN", "T");
        for sql in &sent {
            query(&mut state, sql);
        }
        assert_eq!(code(state.lose()), wanted, "{sent:?}");
    }
}

#[test]
fn a_block_begun_in_a_lost_pipeline_has_failed() {
    let mut state = State::new(1000);
    query(&mut state, "begin");
    query(&mut state, "insert into t values (1)");
    assert_eq!(code(state.lose()), ("08007", 2, false, true));
    query(&mut state, "begin");
    query(&mut state, "insert into t values (1)");
    query(&mut state, "commit");
    assert_eq!(code(state.lose()), ("08007", 3, false, false));
}

#[test]
fn a_statement_outside_a_block_is_unknown() {
    let mut state = State::new(1000);
    query(&mut state, "insert into t values (1)");
    assert_eq!(code(state.lose()), ("08007", 1, false, false));
    query(&mut state, "begin");
    assert_eq!(code(state.lose()), ("40001", 1, false, false));
}

#[test]
fn a_standby_commits_nothing() {
    let mut state = State::new(1000);
    state.server_message(b'S', b"in_hot_standby\0on\0");
    query(&mut state, "select f()");
    assert_eq!(code(state.lose()), ("40001", 1, false, false));
    state.server_message(b'S', b"in_hot_standby\0on\0");
    run(&mut state, "begin", "BEGIN", "T");
    query(&mut state, "commit");
    assert_eq!(code(state.lose()), ("40001", 1, false, false), "no block is left");
}

#[test]
fn an_extended_batch_commits_at_its_sync() {
    let mut state = State::new(1000);
    send(&mut state, b'P', b"\0insert\0\0\0");
    send(&mut state, b'B', b"\0\0\0\0\0\0\0\0");
    send(&mut state, b'E', b"\0\0\0\0\0");
    assert_eq!(code(state.lose()), ("40001", 0, true, false));
    send(&mut state, b'P', b"\0insert\0\0\0");
    send(&mut state, b'S', b"");
    send(&mut state, b'S', b"");
    assert_eq!(code(state.lose()), ("08007", 2, false, false));
}

/// Drivers begin transactions in the extended protocol too: nothing has happened yet.
#[test]
fn a_batch_that_only_begins_commits_nothing() {
    let begin = |state: &mut State| {
        send(state, b'P', b"\0begin\0\0\0");
        send(state, b'B', b"\0\0\0\0\0\0\0\0");
        send(state, b'E', b"\0\0\0\0\0");
    };
    let mut state = State::new(1000);
    begin(&mut state);
    send(&mut state, b'S', b"");
    assert_eq!(code(state.lose()), ("40001", 1, false, false));
    // What was done before it in the same batch, and answered, may be committed.
    send(&mut state, b'P', b"\0insert\0\0\0");
    send(&mut state, b'B', b"\0\0\0\0\0\0\0\0");
    send(&mut state, b'E', b"\0\0\0\0\0");
    begin(&mut state);
    send(&mut state, b'S', b"");
    reply(&mut state, &[(b'1', ""), (b'2', ""), (b'C', "INSERT 0 1\0")]);
    assert_eq!(code(state.lose()), ("08007", 1, false, false));
    // So may what is sent behind it: whether it has begun is not known.
    begin(&mut state);
    send(&mut state, b'S', b"");
    query(&mut state, "insert into t values (1)");
    assert_eq!(code(state.lose()), ("08007", 2, false, true));
}

#[test]
fn a_copy_is_unknown_only_after_its_end() {
    let mut state = State::new(1000);
    query(&mut state, "copy t from stdin");
    reply(&mut state, &[(b'G', "")]);
    assert_eq!(code(state.lose()), ("40001", 1, false, false));
    query(&mut state, "copy t from stdin");
    reply(&mut state, &[(b'G', "")]);
    send(&mut state, b'd', b"1\n");
    send(&mut state, b'c', b"");
    assert_eq!(code(state.lose()), ("08007", 1, false, false));
}

#[test]
fn settings_survive_as_the_server_would_keep_them() {
    let mut state = State::new(1000);
    run(&mut state, "set a = 1", "SET", "I");
    query(&mut state, "set a = 2; select 1/0");
    reply(&mut state, &[(b'C', "SET\0"), (b'E', ""), (b'Z', "I")]);
    assert_eq!(settings(&state), ["set a = 1"]);
    run(&mut state, "begin", "BEGIN", "T");
    run(&mut state, "set a = 3", "SET", "T");
    run(&mut state, "rollback", "ROLLBACK", "I");
    assert_eq!(settings(&state), ["set a = 1"]);
    run(&mut state, "begin", "BEGIN", "T");
    run(&mut state, "set a = 4", "SET", "T");
    query(&mut state, "select 1/0");
    reply(&mut state, &[(b'E', ""), (b'Z', "E")]);
    run(&mut state, "commit", "ROLLBACK", "I");
    assert_eq!(settings(&state), ["set a = 1"]);
    run(&mut state, "begin", "BEGIN", "T");
    run(&mut state, "set a = 5", "SET", "T");
    run(&mut state, "commit", "COMMIT", "I");
    assert_eq!(settings(&state), ["set a = 5"]);
}

#[test]
fn a_setting_by_the_extended_protocol_counts() {
    let mut state = State::new(1000);
    send(&mut state, b'P', b"\0set a = 1\0\0\0");
    send(&mut state, b'B', b"\0\0\0\0\0\0\0\0");
    send(&mut state, b'E', b"\0\0\0\0\0");
    send(&mut state, b'S', b"");
    reply(&mut state, &[(b'1', ""), (b'2', ""), (b'C', "SET\0"), (b'Z', "I")]);
    assert_eq!(settings(&state), ["set a = 1"]);
}

#[test]
fn hot_standby_is_kept_from_the_client() {
    let mut state = State::new(1000);
    assert!(state.hides(b'S', b"in_hot_standby\0off\0"));
    state.server_message(b'S', b"in_hot_standby\0off\0");
    assert_eq!(state.hot_standby, Some(false));
    reply(&mut state, &[(b'S', "TimeZone\0UTC\0")]);
    assert_eq!(state.params.reported("TimeZone"), Some("UTC"));
}

#[test]
fn prepared_statements_are_kept_when_the_server_took_them() {
    let mut state = State::new(1000);
    send(&mut state, b'P', b"s\0select 1\0\0\0");
    send(&mut state, b'P', b"t\0selec 1\0\0\0");
    send(&mut state, b'S', b"");
    reply(&mut state, &[(b'1', ""), (b'E', ""), (b'Z', "I")]);
    let names: Vec<_> = state.prepared.messages().map(|(name, _)| name.to_vec()).collect();
    assert_eq!(names, [b"s".to_vec()]);
    run(&mut state, "deallocate s", "DEALLOCATE", "I");
    assert_eq!(state.prepared.messages().count(), 0);
}

#[test]
fn lost_pins_are_told_once() {
    let mut state = State::new(1000);
    run(&mut state, "create temp table t (a int)", "CREATE TABLE", "I");
    state.lose();
    let error = state.take_lost_pins(false).unwrap();
    assert_eq!(
        (error.code, error.detail.as_deref()),
        (SqlState::SERIALIZATION_FAILURE, Some("Lost: temporary table."))
    );
    assert!(state.take_lost_pins(false).is_none());
    run(&mut state, "listen x", "LISTEN", "I");
    state.lose();
    assert_eq!(state.take_lost_pins(false).unwrap().code, SqlState::ADMIN_SHUTDOWN);
}

proptest! {
    /// Whatever both sides send, nothing panics, and a lost backend leaves a quiet session.
    #[test]
    fn any_conversation_is_survived(messages in proptest::collection::vec((any::<bool>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20)), 0..40)) {
        let mut state = State::new(200);
        for (from_client, tag, body) in messages {
            let mut message = Vec::new();
            encode::message(&mut message, tag, |to| to.extend_from_slice(&body));
            prop_assert!(frame::split(&message).unwrap().is_some());
            match Kind::of(tag) {
                Some(kind) if from_client => state.client_message(kind, &message, true),
                _ => { state.server_message(tag, &body); }
            }
        }
        state.lose();
        prop_assert!(state.is_quiet());
    }
}

#[test]
fn a_reset_of_the_name_returns_to_the_startup_parameter() {
    let mut state = State::new(1000);
    state.params.give_name("app");
    state.params.report_given_name(&crate::pool::Params::default());
    run(&mut state, "begin", "BEGIN", "T");
    query(&mut state, "reset all");
    reply(&mut state, &[(b'C', "RESET\0")]);
    let told = state.instead(b'S', b"application_name\0\0").unwrap();
    assert!(told.ends_with(b"application_name\0app\0"));
    state.server_message(b'S', b"application_name\0\0");
    assert!(!state.wants_name());
    reply(&mut state, &[(b'Z', "E")]);
    assert!(!state.wants_name());
    reply(&mut state, &[(b'Z', "T")]);
    assert!(state.wants_name());
    assert_eq!((state.take_name_reset(), state.wants_name()), (true, false));
    assert_eq!(state.params.reported("application_name"), Some("app"));

    query(&mut state, "reset all; set application_name = 'other'");
    reply(
        &mut state,
        &[(b'C', "RESET\0"), (b'C', "SET\0"), (b'S', "application_name\0other\0"), (b'Z', "T")],
    );
    assert!(!state.wants_name());

    run(&mut state, "reset application_name", "RESET", "T");
    run(&mut state, "rollback", "ROLLBACK", "I");
    assert!(!state.wants_name(), "the rollback has brought the other name back");
    assert!(state.instead(b'S', b"application_name\0other\0").is_none());
    run(&mut state, "reset application_name", "RESET", "I");
    run(&mut state, "begin", "BEGIN", "T");
    run(&mut state, "rollback", "ROLLBACK", "I");
    assert!(state.wants_name());
}

#[test]
fn a_flush_with_a_body_is_an_extended_message_that_fails() {
    let mut state = State::new(1000);
    send(&mut state, b'H', b"");
    assert!(state.is_quiet());
    send(&mut state, b'H', b"what");
    reply(&mut state, &[(b'E', "")]);
    query(&mut state, "select 1");
    assert!(!state.is_quiet(), "passed over up to the Sync");
    send(&mut state, b'S', b"");
    reply(&mut state, &[(b'Z', "I")]);
    assert!(state.is_quiet());
}

#[test]
fn what_a_lost_transaction_reported_is_taken_back() {
    let mut state = State::new(1000);
    reply(&mut state, &[(b'S', "TimeZone\0UTC\0"), (b'S', "DateStyle\0ISO\0")]);
    run(&mut state, "set datestyle = sql", "SET", "I");
    run(&mut state, "begin", "BEGIN", "T");
    for zone in ["CET", "EET"] {
        query(&mut state, "set timezone = ...");
        reply(&mut state, &[(b'C', "SET\0"), (b'S', &format!("TimeZone\0{zone}\0")), (b'Z', "T")]);
    }
    assert_eq!(state.params.reported("TimeZone"), Some("EET"));
    state.lose();
    assert_eq!(state.params.unreport(), [("TimeZone".to_owned(), "UTC".to_owned())]);
    assert_eq!(state.params.reported("TimeZone"), Some("UTC"));
    assert_eq!(state.params.unreport(), []);
    // What has been committed stays.
    query(&mut state, "set timezone = ...");
    reply(&mut state, &[(b'C', "SET\0"), (b'S', "TimeZone\0CET\0"), (b'Z', "I")]);
    state.lose();
    assert_eq!(state.params.unreport(), []);
    assert_eq!(state.params.reported("TimeZone"), Some("CET"));
}
