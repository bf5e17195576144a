//! What only one backend has: its owner keeps it, nobody else sees it, and when it has ended the backend is everybody's.

use super::play::{Way, stage};
use crate::harness::raw::Frame;

#[tokio::test]
async fn temporary_tables_are_their_owners() {
    let stage = stage(2).await;
    stage
        .same_by(
            &[Way::Simple, Way::Unnamed],
            "a: CREATE TEMP TABLE mine (id int)
             a: INSERT INTO mine VALUES (1)
             b: SELECT * FROM mine
             c: CREATE TABLE mine (name text)
             b: SELECT * FROM mine
             a: SELECT * FROM mine
             a: DROP TABLE mine
             a: SELECT * FROM mine
             b: CREATE TEMPORARY TABLE mine (other int)
             c: SELECT * FROM mine
             a: SELECT * FROM mine
             b: SELECT * FROM mine
             b: DISCARD TEMP
             b: SELECT * FROM mine
             c: CREATE LOCAL TEMP TABLE mine (third int)
             a: SELECT * FROM mine
             c: SELECT * FROM mine
             c: DISCARD ALL
             b: CREATE TABLE pg_temp.mine (fourth int)
             a: SELECT * FROM mine
             b: SELECT * FROM mine
             c: SELECT * FROM pg_temp.mine
             b: DROP TABLE mine
             a: SELECT 1 AS fifth INTO TEMP mine
             b: SELECT * FROM mine
             a: SELECT * FROM mine
             a: DROP TABLE pg_temp.mine
             b: CREATE TEMP TABLE mine AS SELECT 6 AS sixth
             a: SELECT * FROM mine
             c: SELECT * FROM mine
             b: SELECT * FROM mine
             b: DROP TABLE IF EXISTS nothing, mine
             a: SELECT * INTO TEMPORARY TABLE again FROM mine
             b: SELECT * FROM again
             a: SELECT * FROM again
             a: DROP TABLE again
             c: LISTEN x
             b: SELECT * FROM mine
             a: SELECT * FROM mine
             c: UNLISTEN x",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn temporary_tables_follow_their_transaction() {
    let stage = stage(2).await;
    stage
        .same(
            "a: BEGIN
             a: CREATE TEMP TABLE gone (id int) ON COMMIT DROP
             a: INSERT INTO gone VALUES (1)
             a: COMMIT
             b: LISTEN x
             c: SELECT * FROM gone
             a: SELECT * FROM gone
             b: UNLISTEN x
             a: CREATE TEMP TABLE emptied (id int) ON COMMIT DELETE ROWS
             a: INSERT INTO emptied VALUES (1)
             b: SELECT * FROM emptied
             a: SELECT count(*) FROM emptied
             a: BEGIN
             a: INSERT INTO emptied VALUES (1)
             a: SELECT count(*) FROM emptied
             a: COMMIT
             c: SELECT * FROM emptied
             a: SELECT count(*) FROM emptied
             a: DROP TABLE emptied
             a: BEGIN
             a: CREATE TEMP TABLE undone (id int)
             a: ROLLBACK
             b: LISTEN x
             c: SELECT * FROM undone
             a: SELECT * FROM undone
             b: UNLISTEN x
             a: BEGIN
             a: SAVEPOINT s
             a: CREATE TEMP TABLE undone (id int)
             a: ROLLBACK TO s
             a: CREATE TEMP TABLE kept (id int)
             a: COMMIT
             b: SELECT * FROM kept
             c: SELECT * FROM kept
             a: SELECT * FROM kept
             a: BEGIN
             a: DROP TABLE kept
             a: ROLLBACK
             b: SELECT * FROM kept
             c: SELECT * FROM kept
             a: SELECT * FROM kept
             a: DISCARD ALL
             b: LISTEN x
             c: SELECT * FROM kept
             b: UNLISTEN x",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn temporary_views_and_sequences_are_their_owners() {
    let stage = stage(2).await;
    stage
        .same(
            "c: CREATE TEMP VIEW mine AS SELECT 1 AS id
             c: DROP VIEW mine
             a: CREATE TEMP VIEW v AS SELECT 1 AS id
             b: SELECT * FROM v
             c: SELECT * FROM v
             a: SELECT * FROM v
             a: CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 2 AS id
             b: SELECT * FROM v
             a: SELECT * FROM v
             a: DROP VIEW v
             b: CREATE TEMP SEQUENCE s START 7
             a: SELECT nextval('s')
             c: SELECT nextval('s')
             b: SELECT nextval('s')
             b: DISCARD ALL
             a: CREATE TEMP RECURSIVE VIEW r (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM r WHERE n < 3
             b: SELECT * FROM r
             c: SELECT * FROM r
             a: SELECT * FROM r
             a: DROP VIEW r
             a: CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 5'
             b: SELECT pg_temp.f()
             c: SELECT pg_temp.f()
             a: SELECT pg_temp.f()
             a: DROP FUNCTION pg_temp.f()
             a: CREATE TYPE pg_temp.pair AS (a int, b int)
             b: SELECT NULL::pg_temp.pair
             c: SELECT NULL::pg_temp.pair
             a: SELECT (1, 2)::pg_temp.pair::text
             a: DROP TYPE pg_temp.pair
             a: CREATE VIEW v AS SELECT 'everybody' AS who
             b: SELECT * FROM v
             c: SELECT * FROM v",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn session_locks_are_their_owners() {
    let stage = stage(4).await;
    stage
        .same(
            "a: SELECT pg_advisory_lock(1)
             b: SELECT pg_try_advisory_lock(1)
             c: SELECT pg_try_advisory_lock(1)
             b: SELECT pg_advisory_unlock(1)
             c: SELECT pg_try_advisory_lock(1)
             a: SELECT pg_advisory_lock(1)
             a: SELECT pg_advisory_unlock(1)
             b: SELECT pg_try_advisory_lock(1)
             a: SELECT pg_advisory_unlock(1)
             b: SELECT pg_try_advisory_lock(1)
             c: SELECT pg_try_advisory_lock(1)
             b: SELECT pg_advisory_unlock_all()
             c: SELECT pg_try_advisory_lock(1, 2)
             a: SELECT pg_try_advisory_lock(1, 2)
             c: SELECT pg_advisory_unlock(1, 2)
             a: SELECT pg_advisory_lock_shared(5)
             b: SELECT pg_try_advisory_lock_shared(5)
             b: SELECT pg_advisory_unlock_shared(5)
             c: SELECT pg_try_advisory_lock(5)
             b: SELECT pg_try_advisory_lock(5)
             a: SELECT pg_advisory_unlock_shared(5)
             b: SELECT pg_try_advisory_lock(5)
             a: SELECT pg_try_advisory_lock(5)
             b: DISCARD ALL
             a: SELECT pg_try_advisory_lock(5)
             a: BEGIN
             a: SELECT pg_advisory_lock(6)
             a: ROLLBACK
             b: SELECT pg_try_advisory_lock(6)
             c: SELECT pg_try_advisory_lock(6)
             a: SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
             a: \\leave
             b: SELECT pg_advisory_lock(5)
             b: SELECT pg_advisory_unlock(5)",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn locks_of_a_transaction_keep_no_backend() {
    let stage = stage(1).await;
    stage
        .same(
            "a: SELECT pg_advisory_xact_lock(1)
             b: SELECT pg_try_advisory_xact_lock(1)
             a: BEGIN
             a: SELECT pg_advisory_xact_lock_shared(1)
             a: COMMIT
             b: SELECT pg_try_advisory_xact_lock(1)
             a: BEGIN
             a: SELECT pg_try_advisory_xact_lock(2)
             a: ROLLBACK
             b: SELECT pg_try_advisory_xact_lock(2)",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn notifications_reach_who_listens() {
    let stage = stage(2).await;
    stage
        .same(
            "a: LISTEN news
             b: NOTIFY news, 'from b'
             a: \\hear
             c: SELECT pg_notify('news', 'from c')
             a: \\hear
             a: SELECT 'nothing more'
             a: NOTIFY news, 'from itself'
             b: BEGIN
             b: NOTIFY news, 'never'
             b: ROLLBACK
             b: BEGIN
             b: NOTIFY news, 'one'
             b: NOTIFY news, 'two'
             b: COMMIT
             a: \\hear
             a: \\hear
             a: LISTEN \"Other\"
             b: NOTIFY \"Other\"
             a: \\hear
             a: UNLISTEN news
             b: NOTIFY news, 'no more'
             c: NOTIFY \"Other\", 'still'
             a: \\hear
             b: SELECT count(*) FROM pg_listening_channels()
             a: SELECT count(*) FROM pg_listening_channels()
             a: UNLISTEN \"Other\"
             b: LISTEN news
             a: SELECT count(*) FROM pg_listening_channels()
             c: SELECT count(*) FROM pg_listening_channels()
             b: BEGIN
             b: UNLISTEN *
             b: ROLLBACK
             a: NOTIFY news, 'kept'
             b: \\hear
             b: UNLISTEN *
             c: BEGIN
             c: LISTEN news
             c: ROLLBACK
             a: NOTIFY news, 'to nobody'
             b: SELECT count(*) FROM pg_listening_channels()
             c: SELECT count(*) FROM pg_listening_channels()
             c: LISTEN news
             c: DISCARD ALL
             a: NOTIFY news, 'to nobody'
             c: SELECT 1
             b: SELECT 1",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn a_notification_comes_while_nobody_says_anything() {
    let stage = stage(2).await;
    let mut listener = stage.scene.raw().await;
    let mut other = stage.scene.raw().await;
    listener.query("LISTEN news").await;
    for number in 0..3 {
        other.query(&format!("NOTIFY news, 'n{number}'")).await;
        let heard: Frame = listener.frame().await;
        assert_eq!(heard.tag, b'A');
        assert!(heard.body.ends_with(format!("news\0n{number}\0").as_bytes()), "{heard}");
    }
    listener.query("UNLISTEN *").await;
    let (mut pinned, mut again) = (stage.scene.raw().await, stage.scene.raw().await);
    pinned.query("LISTEN other").await;
    assert_eq!(again.value("SELECT 1").await, "1", "the listener's backend is everybody's again");
    stage.finish().await;
}

#[tokio::test]
async fn held_cursors_are_their_owners() {
    let stage = stage(2).await;
    stage
        .same(
            "a: BEGIN
             a: DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 5)
             a: DECLARE plain CURSOR FOR SELECT generate_series(1, 5)
             a: FETCH c
             a: COMMIT
             b: FETCH c
             c: FETCH c
             a: FETCH 2 FROM c
             a: FETCH plain
             b: SELECT name FROM pg_cursors WHERE is_holdable
             a: SELECT name FROM pg_cursors WHERE is_holdable
             a: MOVE BACKWARD 1 FROM c
             b: BEGIN
             b: FETCH c
             b: ROLLBACK
             a: CLOSE c
             a: FETCH c
             b: DECLARE c SCROLL CURSOR WITH HOLD FOR VALUES (7)
             a: FETCH c
             c: FETCH c
             b: FETCH c
             b: DECLARE d BINARY INSENSITIVE CURSOR WITH HOLD FOR SELECT 8
             b: CLOSE c
             a: FETCH FROM d
             c: FETCH FROM d
             b: MOVE d
             b: CLOSE ALL
             a: DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1
             a: BEGIN
             a: DECLARE c CURSOR WITH HOLD FOR SELECT 9
             a: ROLLBACK
             b: LISTEN x
             a: FETCH c
             c: FETCH c
             b: UNLISTEN x
             c: DECLARE c CURSOR WITH HOLD FOR SELECT 10
             c: DISCARD ALL
             c: FETCH c
             b: LISTEN x
             a: FETCH c
             b: UNLISTEN x",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn values_of_sequences_are_their_owners() {
    let stage = stage(4).await;
    stage
        .same(
            "setup: CREATE SEQUENCE s; CREATE SEQUENCE t START 100; GRANT ALL ON s, t TO app
             a: SELECT nextval('s')
             b: SELECT currval('s')
             c: SELECT lastval()
             b: SELECT lastval()
             a: SELECT currval('s')
             a: SELECT lastval()
             b: SELECT nextval('t')
             a: SELECT lastval()
             b: SELECT lastval()
             b: SELECT currval('s')
             a: SELECT currval('t')
             b: DISCARD SEQUENCES
             b: SELECT lastval()
             c: SELECT setval('s', 50)
             b: SELECT currval('s')
             c: SELECT currval('s')
             c: SELECT setval('s', 60, false)
             c: SELECT currval('s')
             a: SELECT currval('s')
             c: DISCARD ALL
             c: SELECT currval('s')
             b: BEGIN
             b: SELECT nextval('s')
             b: ROLLBACK
             a: SELECT currval('s')
             c: SELECT currval('s')
             b: SELECT currval('s')
             b: DISCARD ALL
             c: SELECT lastval()
             a: DISCARD SEQUENCES
             a: SELECT lastval()
             b: SELECT lastval()",
        )
        .await;
    stage
        .same(
            "a: CREATE TABLE numbered (id serial, name text)
             a: BEGIN
             a: INSERT INTO numbered (name) VALUES ('a')
             a: SELECT lastval(), currval('numbered_id_seq')
             a: COMMIT
             b: SELECT 1
             b: BEGIN
             b: SELECT lastval()
             b: ROLLBACK
             c: SELECT lastval()
             b: INSERT INTO numbered (name) VALUES ('b') RETURNING id
             c: SELECT currval('numbered_id_seq')",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn libraries_and_seeds_are_their_owners() {
    let stage = stage(2).await;
    let library = "setup: ALTER ROLE app SUPERUSER
        a: LOAD 'auto_explain'
        b: SELECT current_setting('auto_explain.log_nested_statements', true)
        c: SELECT current_setting('auto_explain.log_nested_statements', true)
        a: SELECT current_setting('auto_explain.log_nested_statements', true)
        a: \\leave
        b: SELECT current_setting('auto_explain.log_nested_statements', true)
        c: SELECT current_setting('auto_explain.log_nested_statements', true)";
    stage.same(library).await;
    let seeds = "a: SELECT setseed(0.25)
        b: SELECT random() BETWEEN 0 AND 1
        a: SELECT random()
        b: SET seed = 0.25
        a: SELECT random()
        b: SELECT random()
        a: \\leave
        b: SELECT random()
        b: \\leave
        c: SELECT random() IN (SELECT 1)";
    stage.same(seeds).await;
    stage.finish().await;
}

#[tokio::test]
async fn statements_prepared_by_sql_are_their_owners() {
    let stage = stage(2).await;
    stage
        .same_by(
            &[Way::Simple],
            "setup: CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2); GRANT ALL ON t TO app
             a: PREPARE q (int) AS SELECT id FROM t WHERE id = $1
             b: EXECUTE q (1)
             c: EXECUTE q (1)
             a: EXECUTE q (2)
             b: PREPARE q AS SELECT 'another'
             a: EXECUTE q (2)
             b: EXECUTE q
             a: PREPARE q AS SELECT 3
             a: EXPLAIN (COSTS off) EXECUTE q (1)
             b: DEALLOCATE q
             b: EXECUTE q
             c: EXECUTE q
             a: EXECUTE q (1)
             a: CREATE TABLE made AS EXECUTE q (2)
             b: SELECT * FROM made
             a: DEALLOCATE PREPARE q
             a: EXECUTE q (1)
             a: BEGIN
             a: PREPARE q AS SELECT 4
             a: ROLLBACK
             b: EXECUTE q
             a: EXECUTE q
             b: PREPARE \"Q\" AS SELECT 5
             b: EXECUTE q
             b: EXECUTE \"Q\"
             a: DEALLOCATE ALL
             a: EXECUTE q
             c: EXECUTE \"Q\"
             b: EXECUTE \"Q\"
             b: DISCARD ALL
             b: EXECUTE \"Q\"
             a: PREPARE long AS SELECT length('XXX')
             b: EXECUTE long
             a: EXECUTE long
             a: DISCARD ALL
             b: LISTEN x
             a: SELECT 1
             c: SELECT 1
             b: UNLISTEN x"
                .replace("XXX", &"x".repeat(70_000))
                .as_str(),
        )
        .await;
    stage
        .same_by(
            &[Way::Unnamed],
            "a: PREPARE q AS SELECT 1
             b: EXECUTE q
             c: EXECUTE q
             a: EXECUTE q
             a: DEALLOCATE q
             b: PREPARE q AS SELECT 2
             a: EXECUTE q
             c: EXECUTE q
             b: EXECUTE q
             b: DEALLOCATE ALL
             b: EXECUTE q
             c: EXECUTE q",
        )
        .await;
    stage.finish().await;
}
