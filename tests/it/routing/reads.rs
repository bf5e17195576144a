//! Plain reads reach a standby: otherwise every other test here would pass with all work on the primary.

use std::collections::BTreeSet;

use crate::harness::raw::{bind, describe, execute, parse, sync};

use super::stage::{Place, Protocol, stage};

const READS: &[&str] = &[
    "SELECT 1",
    "SELECT * FROM plain",
    "TABLE plain",
    "VALUES (1), (2)",
    "(SELECT a FROM plain)",
    "SELECT p.a, p.b, reads() FROM public.plain p WHERE b = 'x'",
    "SELECT * FROM good_view, kept",
    "SELECT good_sum(a) FROM plain",
    "SELECT 1 +++| 2, 1 OPERATOR(public.+++|) 2",
    "SELECT 1::positive, 'x'::pg_catalog.text",
    "WITH x AS MATERIALIZED (SELECT a FROM plain) SELECT count(*) FILTER (WHERE x.a > 0) OVER () FROM x",
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT max(i) FROM n",
    "SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace",
    "SELECT count(*) FROM information_schema.tables",
    "SELECT random() >= 0, now() IS NULL, clock_timestamp() IS NULL, gen_random_uuid() IS NULL, pg_sleep(0)",
    "SELECT txid_current_if_assigned(), pg_is_in_recovery()",
    "SELECT current_setting('search_path'), version()",
    "COPY (SELECT * FROM plain) TO STDOUT",
    "COPY plain TO STDOUT (FORMAT csv)",
    "EXPLAIN SELECT * FROM plain",
    "EXPLAIN (ANALYZE, COSTS off) SELECT * FROM plain",
    "SHOW search_path",
    "SHOW server_version",
    "SELECT 'INSERT INTO log', $$FOR UPDATE$$, \"b\" AS \"writes()\" FROM plain -- nextval('s')\n",
    "/* an /* inner */ comment */ SELECT a FROM plain",
];

async fn all_run_on_a_standby(protocol: Protocol) {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    for sql in READS {
        stage.settle(&mut raw).await;
        // Its last reads need not be on the other standby yet: then the primary has the answer.
        let mut outcome = stage.run(&mut raw, protocol, sql).await;
        for _ in 0..20 {
            if outcome.places == [Place::Standby] {
                break;
            }
            assert_eq!(outcome.error(), None, "{sql}: {outcome:?}");
            outcome = stage.run(&mut raw, protocol, sql).await;
        }
        outcome.ran_on(Place::Standby, sql);
    }
    assert_eq!(stage.reruns().await, 0);
    stage.finish().await;
}

#[tokio::test]
async fn reads_run_on_a_standby_by_the_simple_protocol() {
    all_run_on_a_standby(Protocol::Simple).await;
}

#[tokio::test]
async fn reads_run_on_a_standby_by_the_extended_protocol() {
    all_run_on_a_standby(Protocol::Extended).await;
}

#[tokio::test]
async fn several_reads_of_one_text_or_batch_run_together() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    stage.settle(&mut raw).await;
    let outcome = stage.query(&mut raw, "SELECT 1; SELECT a FROM plain; SHOW search_path").await;
    outcome.ran_on(Place::Standby, "a text of three reads");
    let mark = stage.mark();
    let read = |sql: &str| [parse("", &mark.on(sql)), bind("", "", &[]), execute("", 0)].concat();
    raw.send(&[read("SELECT 1"), read("SELECT a FROM plain"), read("SELECT 3"), sync()].concat()).await;
    let frames = raw.until(b'Z').await;
    assert_eq!(frames.iter().filter(|frame| frame.tag == b'D').count(), 3);
    let nodes: BTreeSet<_> = stage.nodes(&mark).into_iter().collect();
    assert!(nodes.len() == 1 && !nodes.contains(&0), "a batch is not torn: {nodes:?}");
    // A portal that is read in part ends with its Sync.
    stage.settle(&mut raw).await;
    let mark = stage.mark();
    let text = mark.on("SELECT generate_series(1, 10)");
    raw.send(&[parse("", &text), bind("", "", &[]), execute("", 3), execute("", 0), sync()].concat()).await;
    let tags: String = raw.until(b'Z').await.iter().map(|frame| char::from(frame.tag)).collect();
    assert_eq!(tags, "12DDDsDDDDDDDCZ");
    assert!(stage.places(&mark).iter().all(|place| *place == Place::Standby));
    stage.finish().await;
}

#[tokio::test]
async fn prepared_reads_run_on_a_standby_wherever_they_were_prepared() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    let mark = stage.mark();
    // Prepared with a write in the same batch, so on the primary.
    let prepared = parse("r", &mark.on("SELECT b FROM plain WHERE a = $1"));
    let write = [parse("", "INSERT INTO log VALUES (1)"), bind("", "", &[]), execute("", 0)].concat();
    raw.send(&[prepared, describe(b'S', "r"), write, sync()].concat()).await;
    raw.until(b'Z').await;
    for _ in 0..3 {
        stage.settle(&mut raw).await;
        raw.send(&[bind("", "r", &["1"]), execute("", 0), sync()].concat()).await;
        let frames = raw.until(b'Z').await;
        let row = frames.iter().find(|frame| frame.tag == b'D').unwrap_or_else(|| panic!("{frames:?}"));
        assert_eq!(row.columns()[0].as_deref(), Some("x"));
    }
    assert_eq!(stage.places(&mark), [Place::Standby; 3]);
    stage.finish().await;
}

#[tokio::test]
async fn sessions_are_spread_over_all_standbys() {
    let stage = stage(|_| {}).await;
    let mut nodes = BTreeSet::new();
    let mut sessions = Vec::new();
    for _ in 0..12 {
        let mut raw = stage.scene.raw().await;
        stage.settle(&mut raw).await;
        let mark = stage.mark();
        raw.query(&mark.on("SELECT a FROM plain")).await;
        nodes.extend(stage.nodes(&mark));
        sessions.push(raw);
    }
    assert!(nodes.contains(&1) && nodes.contains(&2), "{nodes:?}");
    stage.finish().await;
}

/// Neither the session nor a neighbour on the same backends is told of a standby's own settings.
#[tokio::test]
async fn settings_of_the_session_hold_on_the_standby() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.login(&[("options", "-c extra_float_digits=0")]).await;
    raw.query("SET TimeZone = 'Asia/Tokyo'; SET search_path = other, public; SET app.tenant = 'seven'").await;
    raw.query("BEGIN; SET bytea_output = 'escape'; ROLLBACK").await;
    for (sql, wanted) in [
        ("SHOW TimeZone", "Asia/Tokyo"),
        ("SHOW search_path", "other, public"),
        ("SHOW extra_float_digits", "0"),
        ("SHOW bytea_output", "hex"),
        ("SELECT current_setting('app.tenant')", "seven"),
        ("SELECT '2020-01-01 00:00+00'::timestamptz::text", "2020-01-01 09:00:00+09"),
    ] {
        let what = format!("a standby to answer {sql}");
        crate::harness::eventually(&what, async || {
            let outcome = stage.query(&mut raw, sql).await;
            assert_eq!(outcome.value(), wanted, "{sql}");
            outcome.places == [Place::Standby]
        })
        .await;
    }
    assert_eq!(raw.params["in_hot_standby"], "off");
    stage.finish().await;
}
