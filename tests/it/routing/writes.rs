//! What a standby refuses, and what it would do but must not: it all runs on the primary, at once, and no client sees
//! 25006.

use crate::harness::raw::Raw;

use super::stage::{BOTH, Place, Protocol, Stage, stage};

/// Statements that succeed on the primary.
const WRITES: &[&str] = &[
    // Data-modifying WITH.
    "WITH new AS (INSERT INTO log VALUES (1) RETURNING a) SELECT a FROM new",
    "WITH gone AS (DELETE FROM log WHERE a = 0 RETURNING a) SELECT count(*) FROM gone",
    "WITH x AS (SELECT 1), new AS (UPDATE plain SET b = 'x' RETURNING a) TABLE new",
    "WITH one AS (SELECT 1 AS a) INSERT INTO log SELECT a FROM one",
    "COPY (WITH new AS (INSERT INTO log VALUES (1) RETURNING a) SELECT a FROM new) TO STDOUT",
    "COPY (INSERT INTO log VALUES (1) RETURNING a) TO STDOUT",
    "COPY (SELECT writes()) TO STDOUT",
    // Locks on rows, at any depth.
    "SELECT a FROM plain FOR UPDATE",
    "TABLE plain FOR SHARE",
    "SELECT count(*) FROM (SELECT a FROM plain FOR UPDATE) x",
    "SELECT a FROM plain WHERE a IN (SELECT a FROM plain FOR KEY SHARE)",
    "WITH x AS (SELECT a FROM plain FOR NO KEY UPDATE NOWAIT) SELECT * FROM x",
    "SELECT (SELECT a FROM plain LIMIT 1 FOR SHARE SKIP LOCKED)",
    // Functions that take a transaction id, or act.
    "SELECT txid_current()",
    "SELECT pg_current_xact_id()",
    "SELECT pg_catalog.pg_current_xact_id() IS NULL",
    "SELECT count(*) FROM (SELECT txid_current()) x",
    "SELECT nextval('s')",
    "SELECT setval('s', 100)",
    "SELECT lo_create(0) > 0",
    "SELECT pg_notify('channel', 'x')",
    "SELECT pg_export_snapshot() IS NULL",
    "SELECT pg_current_wal_lsn()",
    // A standby takes these, and nobody there holds them.
    "SELECT pg_advisory_xact_lock(1)",
    "SELECT pg_try_advisory_xact_lock_shared(1, 2)",
    // What is about one node is about the primary.
    "SHOW transaction_read_only",
    "SHOW default_transaction_read_only",
    "SHOW in_hot_standby",
    "SELECT current_setting('transaction_read_only')",
    "SELECT pg_backend_pid()",
    "SELECT inet_server_port()",
    "SELECT count(*) FROM pg_replication_slots",
    "SELECT count(*) FROM pg_stat_activity",
    "SELECT count(*) FROM pg_locks",
    // Functions of the database, however they are called.
    "SELECT writes()",
    "SELECT public.writes()",
    "SELECT \"writes\" ()",
    "SELECT * FROM writes()",
    "SELECT * FROM ROWS FROM (writes())",
    "SELECT a FROM plain, LATERAL writes() w",
    "VALUES (writes())",
    "SELECT CASE WHEN a < 0 THEN writes() END FROM plain",
    "SELECT a FROM plain ORDER BY writes()",
    "SELECT a FROM plain LIMIT writes()",
    "SELECT a FROM plain WHERE writes(a)",
    "SELECT with_default()",
    "SELECT other.lower('X')",
    "CALL writing()",
    "DO $$ BEGIN INSERT INTO log VALUES (1); END $$",
    // As attributes.
    "SELECT p.of_row FROM plain p",
    "SELECT (p).of_row FROM plain p",
    "SELECT (plain).of_row FROM plain",
    "SELECT of_row(plain) FROM plain",
    // Behind operators, aggregates, views, policies, types.
    "SELECT 1 ### 2",
    "SELECT 1 OPERATOR(public.###) 2",
    "SELECT bad_sum(a) FROM (VALUES (1), (2)) v (a)",
    "SELECT bad_sum(a) OVER (ORDER BY a) FROM plain",
    "SELECT * FROM bad_view",
    "SELECT * FROM view_of_view",
    "SELECT * FROM next_view",
    "SELECT * FROM xid_view",
    "SELECT * FROM operator_view",
    "COPY (SELECT * FROM view_of_view) TO STDOUT",
    "SELECT * FROM guarded",
    "COPY guarded TO STDOUT",
    "SELECT 1::checked",
    "SELECT CAST('1' AS checked)",
    "SELECT a + 1 FROM with_odd",
    // Tables that standbys do not have.
    "SELECT * FROM quick",
    "SELECT * FROM parent",
    "SELECT count(*) FROM other.twin",
    "COPY quick TO STDOUT",
    // Plans of writes, with and without running them.
    "EXPLAIN INSERT INTO log VALUES (1)",
    "EXPLAIN (VERBOSE, COSTS off) DELETE FROM log WHERE a = 0",
    "EXPLAIN ANALYZE INSERT INTO log VALUES (1)",
    "EXPLAIN (ANALYZE, TIMING off) WITH new AS (INSERT INTO log VALUES (1) RETURNING a) SELECT a FROM new",
    "EXPLAIN ANALYZE SELECT writes()",
    "EXPLAIN ANALYZE SELECT a FROM plain FOR UPDATE",
    "EXPLAIN CREATE TABLE never AS SELECT 1",
    // New tables.
    "SELECT a INTO made FROM plain",
    "DROP TABLE made",
    "CREATE TABLE made AS SELECT a FROM plain",
    "TRUNCATE made",
    "DROP TABLE made",
    "REFRESH MATERIALIZED VIEW kept",
    "ANALYZE plain",
    "COMMENT ON TABLE plain IS 'x'",
    "SELECT pg_create_physical_replication_slot('slot')",
    "SELECT pg_drop_replication_slot('slot')",
];

async fn all_run_on_the_primary(protocol: Protocol) {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    for sql in WRITES {
        stage.settle(&mut raw).await;
        stage.run(&mut raw, protocol, sql).await.ran_on(Place::Primary, sql);
    }
    assert_eq!(stage.reruns().await, 0, "nothing was tried on a standby");
    stage.finish().await;
}

#[tokio::test]
async fn writes_run_on_the_primary_by_the_simple_protocol() {
    all_run_on_the_primary(Protocol::Simple).await;
}

#[tokio::test]
async fn writes_run_on_the_primary_by_the_extended_protocol() {
    all_run_on_the_primary(Protocol::Extended).await;
}

#[tokio::test]
async fn what_is_about_one_node_is_about_the_primary() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    let port = stage.scene.cluster.n(0).port().to_string();
    for (sql, wanted) in [
        ("SHOW transaction_read_only", "off"),
        ("SELECT current_setting('transaction_read_only')", "off"),
        ("SHOW in_hot_standby", "off"),
        ("SELECT inet_server_port()", &port),
        ("SHOW port", &port),
    ] {
        for protocol in BOTH {
            stage.settle(&mut raw).await;
            let outcome = stage.run(&mut raw, protocol, sql).await;
            assert_eq!(outcome.value(), wanted, "{sql}");
        }
    }
    // What it is told at login, and never otherwise: drivers choose among hosts by it.
    assert_eq!(raw.params["in_hot_standby"], "off");
    assert_eq!(raw.params["default_transaction_read_only"], "off");
    stage.finish().await;
}

/// Several statements in one Query: where one of them writes, all of them run on the primary.
#[tokio::test]
async fn texts_with_a_write_among_reads_run_on_the_primary() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    for sql in [
        "SELECT 1; INSERT INTO log VALUES (1)",
        "INSERT INTO log VALUES (1); SELECT count(*) FROM plain",
        "SELECT 1; SELECT writes(); SELECT 2",
        "SELECT 1; SELECT a FROM plain FOR UPDATE",
        "SELECT 1;; ; SELECT nextval('s');",
        "BEGIN; SELECT count(*) FROM plain; COMMIT",
        "SELECT count(*) FROM plain; BEGIN; SELECT 1; COMMIT",
        "BEGIN READ ONLY; SELECT 1; COMMIT; INSERT INTO log VALUES (1)",
        "SET work_mem = '5MB'; SELECT count(*) FROM plain; RESET work_mem",
        "/* ; */ SELECT ';' AS \";\"; INSERT INTO log VALUES (1)",
    ] {
        stage.settle(&mut raw).await;
        stage.query(&mut raw, sql).await.ran_on(Place::Primary, sql);
    }
    stage.finish().await;
}

async fn last(stage: &Stage, raw: &mut Raw) -> String {
    let frames = raw.until(b'Z').await;
    let row = frames.iter().rfind(|frame| frame.tag == b'D');
    let row = row.unwrap_or_else(|| panic!("no row in {frames:?}"));
    assert_eq!(stage.reruns().await, 0);
    row.columns()[0].clone().unwrap()
}

/// Several statements up to one Sync are one transaction: no batch is torn.
#[tokio::test]
async fn batches_with_a_write_among_reads_run_on_the_primary() {
    use crate::harness::raw::{bind, describe, execute, flush, parse, sync};
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    let one = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    let read = "SELECT count(*) FROM log";
    for (batch, rows) in
        [([one("INSERT INTO log VALUES (1)"), one(read)], 1), ([one(read), one("SELECT writes()")], 1)]
    {
        stage.settle(&mut raw).await;
        let before = stage.written().await;
        raw.send(&[batch.concat(), sync()].concat()).await;
        let value = last(&stage, &mut raw).await;
        assert!(value == "1" || value == (before + 1).to_string(), "{value}");
        assert_eq!(stage.written().await, before + rows);
    }
    // What is not all there when it has to be sent may still become a write.
    stage.settle(&mut raw).await;
    let mark = stage.mark();
    raw.send(&[parse("", &mark.on(read)), describe(b'S', ""), flush()].concat()).await;
    raw.until(b'T').await;
    raw.send(&[bind("", "", &[]), execute("", 0), one("INSERT INTO log VALUES (1)"), flush()].concat()).await;
    raw.until(b'C').await;
    raw.until(b'C').await;
    raw.send(&sync()).await;
    raw.until(b'Z').await;
    assert_eq!(stage.places(&mark), [Place::Primary]);
    assert_eq!(stage.written().await, 3);
    stage.finish().await;
}

/// In a statement prepared by name, again and again: what is kept of it is that it writes.
#[tokio::test]
async fn prepared_writes_run_on_the_primary_every_time() {
    use crate::harness::raw::{bind, execute, parse, sync};
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    let mark = stage.mark();
    raw.send(&[parse("w", &mark.on("SELECT writes()")), parse("r", "SELECT a FROM plain"), sync()].concat())
        .await;
    raw.until(b'Z').await;
    for _ in 0..3 {
        stage.settle(&mut raw).await;
        raw.send(&[bind("", "r", &[]), execute("", 0), bind("", "w", &[]), execute("", 0), sync()].concat())
            .await;
        assert_eq!(last(&stage, &mut raw).await, "1");
    }
    assert_eq!(stage.places(&mark), [Place::Primary; 3]);
    assert_eq!(stage.written().await, 3);
    stage.finish().await;
}
