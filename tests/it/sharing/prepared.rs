//! Prepared statements of the protocol: a name means what its own client has made of it, on whichever backend.

use super::play::{Stage, Way, stage, stage_with};

/// Programs of messages are the same however plain statements are sent.
async fn same(stage: &Stage, program: &str) {
    stage.same_by(&[Way::Simple], program).await;
}

#[tokio::test]
async fn a_name_is_its_clients_own() {
    let stage = stage(1).await;
    let program = "a: @ parse s SELECT 'of a' AS a, $1::int | sync
         b: @ parse s SELECT 'of b' AS b | sync
         a: @ bind s 1 | portal | execute | sync
         b: @ bind s | portal | execute | sync
         c: @ bind s | execute | sync
         c: @ describe s | sync
         c: @ parse s SELECT 'of a' AS a, $1::int | describe s | bind s 3 | execute | sync
         a: @ close s | sync
         a: @ bind s 1 | execute | sync
         c: @ bind s 4 | execute | sync
         b: @ describe s | sync
         b: @ close s | close s | close other | sync
         b: @ describe s | sync
         b: @ parse s SELECT $1 || 'again' | sync
         a: @ describe s | sync
         b: @ describe s | bind s x | execute | sync
         a: @ parse other SELECT 'of b' | bind other | execute | close other | sync
         b: @ bind other | execute | sync";
    same(&stage, program).await;
    stage.finish().await;
}

#[tokio::test]
async fn the_same_text_with_other_types_is_another_statement() {
    let stage = stage(1).await;
    let program = "a: @ parse s(23) SELECT $1, pg_typeof($1) | describe s | sync
         b: @ parse s(25) SELECT $1, pg_typeof($1) | describe s | sync
         c: @ parse s(1700) SELECT $1, pg_typeof($1) | sync
         a: @ bind s 1 | execute | sync
         b: @ bind s x | execute | sync
         c: @ bind s 1.50 | execute | sync
         a: @ bind s x | execute | sync
         c: @ describe s | sync
         b: @ describe s | sync
         a: @ parse t(0,23) SELECT $1::text, $2 | bind t 1 2 | execute | sync
         b: @ parse t(23,0) SELECT $1::text, $2 | sync
         b: @ parse t(23,25) SELECT $1::text, $2 | bind t 1 2 | execute | sync
         a: @ bind t x 2 | execute | sync";
    same(&stage, program).await;
    stage.finish().await;
}

#[tokio::test]
async fn the_same_text_means_what_its_search_path_says() {
    let stage = stage(1).await;
    let program = "setup: CREATE SCHEMA one; CREATE TABLE one.t AS SELECT 1 AS id; GRANT USAGE ON SCHEMA one TO app
         setup: CREATE SCHEMA two; CREATE TABLE two.t AS SELECT 'two' AS name; GRANT USAGE ON SCHEMA two TO app
         setup: GRANT SELECT ON one.t, two.t TO app
         a: SET search_path = one
         b: SET search_path = two
         a: @ parse s SELECT * FROM t | describe s | sync
         b: @ parse s SELECT * FROM t | describe s | sync
         c: @ parse s SELECT * FROM t | describe s | sync
         a: @ bind s | portal | execute | sync
         b: @ bind s | portal | execute | sync
         a: BEGIN
         a: SET LOCAL search_path = two
         a: @ parse t SELECT * FROM t | describe t | bind t | execute | sync
         a: COMMIT
         b: @ bind s | execute | sync
         a: @ bind s | execute | sync
         c: BEGIN
         c: SET search_path = one
         c: @ parse t SELECT * FROM t | describe t | bind t | execute | sync
         c: COMMIT
         b: @ bind s | execute | sync
         c: @ describe t | bind t | execute | sync
         a: RESET search_path
         b: SELECT 1
         a: @ parse v SELECT * FROM t | sync
         b: @ bind s | execute | sync";
    same(&stage, program).await;
    stage.finish().await;
}

#[tokio::test]
async fn the_same_text_means_temporary_tables_to_their_owner_only() {
    let stage = stage(2).await;
    let program = "setup: CREATE TABLE t AS SELECT 1 AS id; GRANT SELECT ON t TO app
         b: @ parse s SELECT * FROM t | bind s | execute | sync
         a: @ parse before SELECT * FROM t | bind before | execute | sync
         a: BEGIN
         a: CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 'mine' AS name
         a: @ parse s SELECT * FROM t | describe s | bind s | execute | sync
         a: COMMIT
         b: @ bind s | execute | sync
         c: @ parse s SELECT * FROM t | bind s | execute | sync
         a: CREATE TEMP TABLE t AS SELECT 'again' AS name
         a: @ parse u SELECT * FROM t | describe u | bind u | execute | sync
         b: @ bind s | execute | sync
         c: @ parse u SELECT * FROM t | bind u | execute | sync
         a: @ bind u | execute | sync
         a: DROP TABLE pg_temp.t
         b: @ bind s | execute | sync";
    same(&stage, program).await;
    stage.finish().await;
}

#[tokio::test]
async fn missing_and_doubled_names_get_the_servers_errors() {
    let stage = stage(1).await;
    let program = "a: @ bind none | execute | sync
         a: @ describe none | sync
         a: @ parse s SELECT 1 | sync
         b: @ bind s | sync
         a: @ parse s SELECT 2 | sync
         b: SELECT 'between'
         a: @ bind s | execute | sync
         a: @ parse s SELECT 1 | bind s | execute | sync
         a: @ parse t SELECT 3 | parse t SELECT 4 | sync
         b: SELECT 'between'
         a: @ bind t | execute | sync
         a: @ parse u SELECT 5 | sync | parse u SELECT 6 | sync | bind u | execute | sync
         a: BEGIN
         a: @ parse s SELECT 7 | sync
         a: @ parse v SELECT 8 | sync
         a: ROLLBACK
         b: SELECT 'between'
         a: @ bind s | execute | sync
         a: @ bind v | execute | sync
         a: BEGIN
         a: @ parse w SELECT 9 | sync
         a: ROLLBACK
         b: SELECT 'between'
         a: @ bind w | execute | sync";
    same(&stage, program).await;
    stage.finish().await;
}

#[tokio::test]
async fn what_failed_to_parse_was_never_there() {
    let stage = stage(1).await;
    let program = "a: @ parse s SELECT nothing | sync
         b: SELECT 'between'
         a: @ bind s | execute | sync
         a: @ parse s SELECT 1 | bind s | execute | sync
         a: @ parse - SELECT 1/0 | bind - | execute | parse skipped SELECT 2 | sync
         b: SELECT 'between'
         a: @ bind skipped | execute | sync
         a: @ parse skipped SELECT 3 | bind skipped | execute | sync
         a: @ parse - SELECT 1/0 | bind - | execute | close s | sync
         b: SELECT 'between'
         a: @ bind s | execute | sync
         a: @ parse kept SELECT 4 | parse - SELECT nothing | sync
         b: SELECT 'between'
         a: @ bind kept | execute | sync
         b: @ parse kept SELECT nothing | sync
         b: @ parse kept SELECT 5 | bind kept | execute | sync
         a: @ bind kept | execute | sync
         a: @ parse x SELECT 1/0 | bind x | execute | sync | parse y SELECT 6 | sync | bind y | execute | sync
         b: SELECT 'between'
         a: @ bind x | execute | sync
         a: @ bind y | execute | sync";
    same(&stage, program).await;
    stage.finish().await;
}

#[tokio::test]
async fn steps_of_a_statement_may_come_in_any_batches() {
    let stage = stage(1).await;
    let program = "a: @ parse s SELECT $1::int AS n | sync
         b: @ parse s SELECT 'b' | sync
         a: @ describe s | sync
         b: @ describe s | sync
         a: @ bind s 1 | execute | sync
         a: @ flush | parse t SELECT $1::text | flush
         a: @ describe t | flush
         a: @ bind t x | flush
         a: @ portal | execute | flush
         a: @ sync
         b: @ bind s | execute | sync
         a: @ describe t | bind t y | execute | sync
         a: @ parse - SELECT generate_series(1, 3) | bind - | execute 2 | flush
         a: @ execute 2 | sync
         b: @ bind s | portal | execute | sync
         a: BEGIN
         a: @ bind s 2 | execute | sync
         a: @ parse inside SELECT $1::int | bind inside 3 | execute | sync
         a: COMMIT
         b: @ bind inside | execute | sync
         a: @ bind inside 4 | execute | sync";
    same(&stage, program).await;
    stage.finish().await;
}

#[tokio::test]
async fn discards_are_ones_own() {
    let stage = stage(1).await;
    let program = "a: @ parse s SELECT 'a' | sync
         b: @ parse s SELECT 'a' | sync
         c: @ parse s SELECT 'c' | sync
         a: DISCARD ALL
         b: @ bind s | execute | sync
         c: @ bind s | execute | sync
         a: @ bind s | execute | sync
         a: @ parse s SELECT 'a' | bind s | execute | sync
         b: DEALLOCATE ALL
         a: @ bind s | execute | sync
         b: @ bind s | execute | sync
         c: @ bind s | execute | sync
         c: @ parse - DISCARD ALL | bind - | execute | sync
         a: @ bind s | execute | sync
         c: @ bind s | execute | sync
         b: @ parse s SELECT 'a' | sync
         b: BEGIN
         b: DISCARD ALL
         b: ROLLBACK
         b: @ bind s | execute | sync
         b: DISCARD PLANS
         b: @ bind s | execute | sync
         a: @ bind s | execute | sync";
    same(&stage, program).await;
    stage.finish().await;
}

#[tokio::test]
async fn sql_finds_statements_of_the_protocol() {
    let stage = stage(1).await;
    let program = "a: @ parse s SELECT $1::int + 1 | sync
         b: @ parse s SELECT $1::int + 1 | sync
         a: EXECUTE s (1)
         b: EXECUTE s (2)
         c: EXECUTE s (3)
         a: DEALLOCATE s
         b: EXECUTE s (2)
         b: @ bind s 3 | execute | sync
         a: @ bind s 3 | execute | sync
         a: EXECUTE s (1)
         a: DEALLOCATE s
         a: @ parse s SELECT $1::int + 2 | bind s 3 | execute | sync
         b: DEALLOCATE PREPARE s
         a: @ bind s 4 | execute | sync
         b: @ bind s 4 | execute | sync
         a: @ parse \"Q\" SELECT 5 | sync
         a: EXECUTE \"\"\"Q\"\"\"
         a: @ parse - EXECUTE s(7) | bind - | execute | sync
         b: @ parse s SELECT 8 | sync
         a: @ parse - DEALLOCATE s | bind - | execute | sync
         a: @ bind s 1 | execute | sync
         b: @ bind s | execute | sync";
    same(&stage, program).await;
    stage.finish().await;
}

#[tokio::test]
async fn the_unnamed_statement_is_its_clients_own() {
    let stage = stage(1).await;
    let program = "a: @ parse - SELECT 'a', $1::int | sync
         b: @ parse - SELECT 'b' | sync
         a: @ bind - 1 | execute | sync
         b: @ bind - | execute | sync
         c: @ bind - | execute | sync
         a: @ describe - | sync
         b: @ describe - | sync
         b: SET work_mem = '5MB'
         b: @ parse - SELECT current_setting('work_mem') | sync
         a: @ parse - SELECT current_setting('work_mem') | sync
         b: @ bind - | execute | sync
         a: @ bind - | execute | sync
         a: SELECT 'dropped by this'
         b: SELECT 'between'
         a: @ bind - 1 | execute | sync
         b: @ bind - | execute | sync
         a: @ parse - SELECT 'a2' | sync
         b: @ parse - SELECT nothing | sync
         b: @ bind - | execute | sync
         a: @ bind - | execute | sync
         a: @ close - | sync
         b: @ parse - SELECT 'b2' | sync
         a: @ bind - | execute | sync
         b: @ bind - | execute | sync
         b: @ parse - SELECT 1/0 | bind - | execute | parse - SELECT 'skipped' | sync
         a: SELECT 'between'
         b: @ bind - | execute | sync
         a: @ parse - BEGIN | bind - | execute | sync
         a: @ parse - SELECT 'in a block' | sync
         a: @ bind - | execute | sync
         a: COMMIT
         b: @ bind - | execute | sync";
    same(&stage, program).await;
    stage.finish().await;
}

#[tokio::test]
async fn long_statements_are_their_owners() {
    let stage = stage(2).await;
    let long = format!("SELECT length('{}')", "x".repeat(70_000));
    let program = "a: @ parse s LONG | sync
         b: @ bind s | execute | sync
         c: @ bind s | execute | sync
         c: @ parse s SELECT 'c' | sync
         a: @ describe s | sync
         a: @ bind s | execute | sync
         a: @ parse - SELECT 1 | bind - | execute | sync
         c: SELECT 1
         a: @ bind s | execute | sync
         a: @ parse s SELECT 2 | sync
         a: @ close s | sync
         a: @ bind s | execute | sync
         b: LISTEN x
         a: SELECT 1
         c: @ bind s | execute | sync
         b: UNLISTEN x
         a: @ parse - LONG | sync
         b: @ bind - | execute | sync
         c: @ bind - | execute | sync
         a: @ bind - | execute | sync
         a: @ parse - SELECT 3 | bind - | execute | sync
         b: LISTEN x
         c: SELECT 1
         a: @ bind - | execute | sync
         b: UNLISTEN x";
    same(&stage, &program.replace("LONG", &long)).await;
    stage.finish().await;
}

/// Each client prepares more statements than a backend keeps, and goes through them again and again.
#[tokio::test]
async fn more_statements_than_a_backend_keeps() {
    let stage = stage_with(1, &[("pool.max_prepared", "3")]).await;
    let each = |step: &dyn Fn(usize) -> String| (0..8).map(step).collect::<Vec<_>>().join("\n");
    let parse =
        each(&|n| format!("a: @ parse s{n} SELECT {n} + $1::int | sync\nb: @ parse s{n} SELECT {n} | sync"));
    let run = each(&|n| format!("a: @ bind s{n} 10 | execute | sync\nb: @ bind s{n} | execute | sync"));
    let pipeline = (0..8).map(|n| format!("bind s{n} 20 | execute | ")).collect::<Vec<_>>().concat();
    let program = format!(
        "{parse}\n{run}\n{run}
         a: @ {pipeline}sync
         a: @ {pipeline}parse - SELECT 1/0 | bind - | execute | bind s1 1 | execute | sync
         a: @ {}
         {run}",
        pipeline.replace("execute |", "execute | sync |").trim_end_matches(" | "),
    );
    same(&stage, &program).await;
    let mut raw = stage.scene.raw().await;
    for n in 0..20 {
        let one = [
            crate::harness::raw::parse(&format!("s{n}"), &format!("SELECT {n}")),
            crate::harness::raw::sync(),
        ];
        raw.send(&one.concat()).await;
        raw.expect("1Z").await;
    }
    let kept = raw.value("SELECT count(*) FROM pg_prepared_statements").await;
    assert!((1..=4).contains(&kept.parse::<u32>().unwrap()), "{kept} statements on the backend");
    stage.finish().await;
}

/// Texts that do not fit bind the session to its backend, until they are closed.
#[tokio::test]
async fn more_text_than_a_session_may_keep() {
    let stage = stage_with(2, &[("limits.max_prepared_bytes", "\"1kB\"")]).await;
    let long = format!("SELECT '{}'", "x".repeat(700));
    let program = "a: @ parse s1 LONG | sync
         a: @ parse s2 LONG AS two | sync
         b: @ bind s2 | execute | sync
         c: @ bind s2 | execute | sync
         a: @ bind s1 | execute | bind s2 | execute | sync
         a: @ close s2 | sync
         b: LISTEN x
         c: SELECT 1
         a: @ bind s1 | execute | sync
         a: @ bind s2 | execute | sync
         b: UNLISTEN x";
    same(&stage, &program.replace("LONG", &long)).await;
    stage.finish().await;
}
