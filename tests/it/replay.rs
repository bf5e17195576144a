//! `retry.transactions`: an open transaction is lost with its server, and goes on on the new primary.

use std::time::Duration;

use pgsteer::demo::node::{Node, Promote};

use crate::harness::loss::Loss;
use crate::harness::proxy::ProxySpec;
use crate::harness::raw::{self, Raw, bind, describe, execute, parse, query, sync};
use crate::harness::scene::{Scene, linked_scene};
use crate::harness::{LIMIT, eventually};
use crate::resolve::{all_committed, commits, conversation, hears, resolving_with, stop_following};

const SLEEPING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";

/// A cluster whose sessions replay their transactions, and a table in it.
async fn replaying(standbys: usize, adapt: impl FnOnce(&mut ProxySpec)) -> Scene {
    let scene = linked_scene(standbys, |spec| {
        spec.raw("retry.transactions", "true");
        adapt(spec);
    })
    .await;
    let mut raw = scene.raw().await;
    raw.query("CREATE TABLE t (a int PRIMARY KEY, b text DEFAULT now()::text)").await;
    raw.query("CREATE FUNCTION mine() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1'").await;
    for standby in scene.cluster.nodes().iter().skip(1) {
        scene.cluster.wait_caught_up(standby, scene.cluster.n(0)).await.unwrap();
    }
    scene
}

fn words(frames: &[raw::Frame]) -> Vec<String> {
    frames.iter().map(ToString::to_string).collect()
}

/// What a session hears of a statement, without descriptions.
async fn says(raw: &mut Raw, sql: &str) -> Vec<String> {
    let frames = raw.query(sql).await;
    words(&frames.into_iter().filter(|frame| frame.tag != b'T').collect::<Vec<_>>())
}

/// One statement by the extended protocol.
fn run(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()].concat()
}

async fn replayed(scene: &Scene, result: &str) -> u64 {
    scene.proxy.metrics().await[&format!("pgsteer_transactions_replayed_total{{result=\"{result}\"}}")] as u64
}

/// Promotes the first standby.
async fn promote(scene: &Scene) -> &Node {
    let standby = scene.cluster.n(1);
    standby.promote_and_wait(Promote::PgCtl).await.unwrap();
    standby
}

/// A session in the middle of a transaction that has all that one may have.
async fn in_transaction(scene: &Scene, row: usize) -> Raw {
    let mut raw = scene.raw().await;
    raw.query("SET work_mem = '7MB'").await;
    raw.send(&[parse("old", "SELECT 'old'"), parse("gone", "SELECT 'gone'"), sync()].concat()).await;
    raw.expect("11Z").await;
    raw.query("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    raw.query(&format!("INSERT INTO t (a) VALUES ({row})")).await;
    let wanted = [&format!("D {row}")[..], "C SELECT 1\\x00", "Z T"];
    assert_eq!(says(&mut raw, &format!("SELECT a FROM t WHERE a = {row}")).await, wanted);
    raw.query("SAVEPOINT s").await;
    assert_eq!(raw.error(&format!("INSERT INTO t (a) VALUES ({row})")).await, "23505");
    raw.query("ROLLBACK TO s").await;
    raw.query("SET LOCAL statement_timeout = '77s'").await;
    raw.query("SET datestyle = 'German'").await;
    let named =
        [parse("new", "SELECT 'new'"), raw::close(b'S', "gone"), bind("", "old", &[]), execute("", 0)];
    raw.send(&[named.concat(), sync()].concat()).await;
    raw.expect("132DCZ").await;
    raw.query("DECLARE c CURSOR FOR SELECT generate_series(1, 10)").await;
    assert_eq!(says(&mut raw, "FETCH 2 FROM c").await, ["D 1", "D 2", "C FETCH 2\\x00", "Z T"]);
    raw
}

/// It goes on as if nothing had happened, and commits.
async fn goes_on(raw: &mut Raw, row: usize, what: &str) {
    assert_eq!(says(raw, "FETCH 1 FROM c").await, ["D 3", "C FETCH 1\\x00", "Z T"], "{what}");
    assert_eq!(raw.value("SHOW transaction_isolation").await, "repeatable read", "{what}");
    assert_eq!(raw.value("SHOW statement_timeout").await, "77s", "{what}");
    assert_eq!(raw.value("SHOW work_mem").await, "7MB", "{what}");
    assert_eq!(raw.params["DateStyle"], "German, DMY", "{what}");
    raw.send(&[bind("", "new", &[]), execute("", 0), bind("", "old", &[]), execute("", 0), sync()].concat())
        .await;
    raw.expect("2DC2DCZ").await;
    assert_eq!(raw.value(&format!("SELECT count(*) FROM t WHERE a = {row}")).await, "1", "{what}");
    assert_eq!(says(raw, "COMMIT").await, ["C COMMIT\\x00", "Z I"], "{what}");
    raw.send(&[bind("", "gone", &[]), sync()].concat()).await;
    let frames = raw.until(b'Z').await;
    assert_eq!(frames[0].sqlstate(), "26000", "{what}: it was closed in the transaction");
}

async fn a_transaction_goes_on(loss: Loss) {
    let scene = replaying(1, |_| {}).await;
    let mut idle = in_transaction(&scene, 1).await;
    let mut busy = in_transaction(&scene, 2).await;
    let sleep = sleeps_on(scene.cluster.n(0));
    busy.send(&run(&format!("INSERT INTO t (a) SELECT 12 FROM {sleep}"))).await;
    let mut pipeline = scene.raw().await;
    let sent = [
        run("BEGIN"),
        run("INSERT INTO t (a) VALUES (3)"),
        run(&format!("SELECT {sleep}")),
        run("SELECT 'end'"),
    ];
    pipeline.send(&sent.concat()).await;
    scene.primary_says(SLEEPING, "2").await;
    pipeline.expect("12nCZ12nCZ").await;
    let what = format!("{loss:?}");

    loss.strike(&scene);
    promote(&scene).await;
    let frames = busy.until(b'Z').await;
    assert_eq!(words(&frames)[3..], ["C INSERT 0 1\\x00", "Z T"], "{what}: {frames:?}");
    pipeline.expect("12TDCZ12TDCZ").await;
    goes_on(&mut idle, 1, &what).await;
    goes_on(&mut busy, 2, &what).await;
    assert_eq!(says(&mut pipeline, "COMMIT").await, ["C COMMIT\\x00", "Z I"], "{what}");
    assert_eq!(idle.value("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t").await, "1 2 3 12", "{what}");
    assert_eq!(replayed(&scene, "replayed").await, 3, "{what}");
    drop((idle, busy, pipeline));
    scene.finish().await;
}

#[tokio::test]
async fn it_goes_on_when_the_primary_is_killed() {
    a_transaction_goes_on(Loss::Kill).await;
}

#[tokio::test]
async fn it_goes_on_when_the_primary_is_stopped_fast() {
    a_transaction_goes_on(Loss::StopFast).await;
}

#[tokio::test]
async fn it_goes_on_when_the_primary_is_stopped_at_once() {
    a_transaction_goes_on(Loss::StopImmediate).await;
}

#[tokio::test]
async fn it_goes_on_when_the_primary_freezes() {
    a_transaction_goes_on(Loss::Freeze).await;
}

#[tokio::test]
async fn it_goes_on_when_the_primary_is_cut_off() {
    a_transaction_goes_on(Loss::Cut).await;
}

#[tokio::test]
async fn it_goes_on_when_a_standby_is_promoted_beside() {
    a_transaction_goes_on(Loss::Live).await;
}

/// What it has seen cannot be seen again: it was rolled back, and its client is told as without all this.
#[tokio::test]
async fn other_results_are_never_shown() {
    let scene = replaying(1, |_| {}).await;
    let seen = [
        "SELECT now()",
        "SELECT random()",
        "INSERT INTO t (a) VALUES (1) RETURNING b",
        "SELECT pg_backend_pid()",
    ];
    let mut sessions = Vec::new();
    for sql in seen {
        let mut raw = scene.raw().await;
        raw.query("BEGIN").await;
        raw.query(sql).await;
        sessions.push(raw);
    }
    let mut busy = scene.raw().await;
    busy.query("BEGIN").await;
    busy.send(&run("SELECT clock_timestamp()")).await;
    busy.expect("12TDCZ").await;
    busy.send(&run("SELECT pg_sleep(600)")).await;
    scene.primary_says(SLEEPING, "1").await;

    Loss::Kill.strike(&scene);
    promote(&scene).await;
    let frames = hears(&mut busy).await;
    assert_eq!((frames[0].sqlstate().as_str(), &frames[1].body[..]), ("40001", &b"E"[..]), "{frames:?}");
    assert_eq!(busy.error("SELECT 1").await, "25P02");
    for (raw, sql) in sessions.iter_mut().zip(seen) {
        assert_eq!(raw.error("SELECT 1").await, "40001", "{sql}");
        assert_eq!(raw.error("SELECT 1").await, "25P02", "{sql}");
        assert_eq!(says(raw, "COMMIT").await, ["C ROLLBACK\\x00", "Z I"], "{sql}");
        assert_eq!(raw.value("SELECT count(*) FROM t").await, "0", "{sql}");
    }
    assert_eq!(replayed(&scene, "differed").await, 5);
    drop((sessions, busy));
    scene.finish().await;
}

/// What is not kept, or must not be run twice, is not.
#[tokio::test]
async fn what_may_not_be_replayed_is_not() {
    let scene = replaying(1, |spec| {
        spec.set("retry.transaction_size", "4kB");
    })
    .await;
    let long = format!("SELECT '{}'", "x".repeat(5000));
    let before = ["SELECT pg_advisory_lock(1)", "CREATE TEMP TABLE x (a int)", ""];
    let inside =
        [&long[..], "SELECT mine()", "DO 'BEGIN END'", "SELECT pg_advisory_lock(2)", "PREPARE p AS SELECT 1"];
    let mut sessions = Vec::new();
    for (first, then) in
        before.iter().map(|sql| (*sql, "SELECT 1")).chain(inside.iter().map(|sql| ("", *sql)))
    {
        let mut raw = scene.raw().await;
        raw.query(first).await;
        raw.query("BEGIN").await;
        raw.query(then).await;
        sessions.push((raw, first, then));
    }
    Loss::Kill.strike(&scene);
    promote(&scene).await;
    for (raw, first, then) in &mut sessions {
        let is_plain = first.is_empty() && *then == "SELECT 1";
        if is_plain {
            assert_eq!(raw.value("SELECT 2").await, "2");
        } else {
            assert_eq!(raw.error("SELECT 2").await, "40001", "{first}, {then}");
        }
    }
    assert_eq!(replayed(&scene, "refused").await, 7);
    drop(sessions);
    scene.finish().await;
}

/// A client has got some rows of many when the server is lost, and gets the others of another server.
#[tokio::test]
async fn a_result_that_was_half_delivered_is_completed() {
    let scene = replaying(1, |_| {}).await;
    let rows = 60_000;
    // Some of them are longer than what is delivered in one piece.
    let sql = format!(
        "SELECT n, repeat('x', CASE WHEN n % 1000 = 0 THEN 20000 ELSE 1000 END) FROM generate_series(1, {rows}) n"
    );
    let (mut inside, mut outside) = (scene.raw().await, scene.raw().await);
    inside.query("BEGIN").await;
    let batch = [parse("", &sql), bind("", "", &[]), execute("", 0), sync()].concat();
    inside.send(&query(&sql)).await;
    inside.expect("TDDD").await;
    outside.query("BEGIN").await;
    outside.send(&batch).await;
    outside.expect("12DDD").await;
    Loss::Kill.strike(&scene);
    promote(&scene).await;
    for raw in [&mut inside, &mut outside] {
        let mut next = 4;
        let end = loop {
            let frame = raw.frame().await;
            if frame.tag != b'D' {
                break frame;
            }
            assert_eq!(frame.columns()[0].as_deref(), Some(&next.to_string()[..]));
            next += 1;
        };
        assert_eq!((end.to_string(), next), (format!("C SELECT {rows}\\x00"), rows + 1));
        assert_eq!(raw.frame().await.to_string(), "Z T");
        assert_eq!(says(raw, "COMMIT").await, ["C COMMIT\\x00", "Z I"]);
    }
    drop((inside, outside));
    scene.finish().await;
}

/// A COPY in the middle: its data are kept.
#[tokio::test]
async fn a_copy_goes_on() {
    let scene = replaying(1, |_| {}).await;
    let mut raw = scene.raw().await;
    raw.query("BEGIN").await;
    raw.send(&query("COPY t (a) FROM STDIN")).await;
    raw.expect("G").await;
    raw.send(&raw::copy_data(b"1\n2\n")).await;
    let mut extended = scene.raw().await;
    extended.query("BEGIN").await;
    extended
        .send(&[parse("", "COPY t (a) FROM STDIN"), bind("", "", &[]), execute("", 0), sync()].concat())
        .await;
    extended.expect("12G").await;
    extended.send(&[raw::copy_data(b"11\n"), raw::copy_done(), sync()].concat()).await;
    extended.expect("CZ").await;
    Loss::Kill.strike(&scene);
    promote(&scene).await;
    raw.send(&[raw::copy_data(b"3\n"), raw::copy_done()].concat()).await;
    assert_eq!(words(&hears(&mut raw).await), ["C COPY 3\\x00", "Z T"]);
    raw.query("COMMIT").await;
    assert_eq!(says(&mut extended, "COMMIT").await, ["C COMMIT\\x00", "Z I"]);
    assert_eq!(raw.value("SELECT count(*) FROM t").await, "4");
    drop((raw, extended));
    scene.finish().await;
}

/// The next primary is lost, too, in the middle of the replay.
#[tokio::test]
async fn a_replay_that_is_lost_begins_again() {
    let scene = replaying(2, |_| {}).await;
    let mut raw = scene.raw().await;
    raw.query("BEGIN").await;
    let (first, second) = (scene.cluster.n(1), scene.cluster.n(2));
    raw.query(&format!("INSERT INTO t (a) SELECT 1 FROM {}", sleeps_on(first))).await;
    raw.query("SAVEPOINT s").await;
    second.repoint(&scene.cluster.conninfo(first, second)).await.unwrap();
    Loss::Kill.strike(&scene);
    first.promote_and_wait(Promote::PgCtl).await.unwrap();
    second.wait_for("SELECT received_tli FROM pg_stat_wal_receiver", "2", LIMIT).await.unwrap();
    first.wait_for(SLEEPING, "1", LIMIT).await.unwrap();
    first.kill().unwrap();
    second.promote_and_wait(Promote::PgCtl).await.unwrap();
    assert_eq!(says(&mut raw, "ROLLBACK TO s").await, ["C ROLLBACK\\x00", "Z T"]);
    assert_eq!(says(&mut raw, "COMMIT").await, ["C COMMIT\\x00", "Z I"]);
    assert_eq!(raw.value("SELECT count(*) FROM t").await, "1");
    assert_eq!(replayed(&scene, "replayed").await, 1);
    drop(raw);
    scene.finish().await;
}

/// Takes for ever on that node, and no time on others.
fn sleeps_on(node: &Node) -> String {
    format!("pg_sleep(CASE current_setting('port') WHEN '{}' THEN 600 ELSE 0 END)", node.port())
}

/// Whoever waits for a replay can give up: by a cancel request, or by leaving.
#[tokio::test]
async fn a_replay_can_be_given_up() {
    let scene = replaying(1, |_| {}).await;
    let (mut raw, mut gone) = (scene.raw().await, scene.raw().await);
    let mut waiting = scene.raw().await;
    for session in [&mut raw, &mut gone] {
        session.query("BEGIN").await;
        session.query(&format!("SELECT 1 FROM {}", sleeps_on(scene.cluster.n(1)))).await;
    }
    waiting.query("BEGIN").await;
    Loss::Kill.strike(&scene);
    scene.wait_node(0, "health", "down").await;
    waiting.cancel(&scene.proxy.address()).await;
    assert_eq!(waiting.error("SELECT 1").await, "40001");
    let standby = promote(&scene).await;
    standby.wait_for(SLEEPING, "2", LIMIT).await.unwrap();
    raw.cancel(&scene.proxy.address()).await;
    assert_eq!(raw.error("SELECT 1").await, "40001");
    drop(gone);
    standby.wait_for(SLEEPING, "0", LIMIT).await.unwrap();
    raw.query("ROLLBACK").await;
    assert!(raw.is_alive().await);
    drop((raw, waiting));
    scene.finish().await;
}

/// No primary comes: the client is told what has become of its transaction, not that it waited.
#[tokio::test]
async fn without_a_primary_it_was_rolled_back() {
    let scene = replaying(0, |spec| {
        spec.set("cluster.hold_timeout", "1s");
    })
    .await;
    let (mut idle, mut busy) = (scene.raw().await, scene.raw().await);
    idle.query("BEGIN").await;
    busy.query("BEGIN").await;
    busy.send(&query("SELECT pg_sleep(600)")).await;
    scene.primary_says(SLEEPING, "1").await;
    Loss::Kill.strike(&scene);
    let frames = hears(&mut busy).await;
    assert_eq!((frames[0].sqlstate().as_str(), &frames[1].body[..]), ("40001", &b"E"[..]), "{frames:?}");
    eventually("the replay to be given up", async || replayed(&scene, "failed").await == 2).await;
    assert_eq!(idle.error("COMMIT").await, "40001");
    drop((idle, busy));
    scene.finish().await;
}

/// A COMMIT that was lost is found not to have happened: it happens on the new primary, and nobody hears of all that.
async fn a_lost_commit_happens_again(loss: Loss) {
    let scene = resolving_with(|spec| {
        spec.raw("retry.transactions", "true");
    })
    .await;
    let mut kept = commits(&scene, 0).await;
    let standby = scene.cluster.n(1);
    let mut rows = standby.sql_in("app").await.unwrap();
    eventually("the rows on the standby", async || rows.one("SELECT count(*) FROM t").await.unwrap() == "4")
        .await;
    stop_following(&scene).await;
    let mut gone = commits(&scene, kept.len()).await;
    loss.strike(&scene);
    standby.promote_and_wait(Promote::PgCtl).await.unwrap();
    all_committed(&mut kept, "kept").await;
    all_committed(&mut gone, "gone").await;
    for raw in kept.iter_mut().chain(&mut gone) {
        assert_eq!(raw.value("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t").await, "0 1 2 3 4 5 6 7");
    }
    assert_eq!(replayed(&scene, "replayed").await, 4);
    drop((kept, gone, rows));
    scene.finish().await;
}

#[tokio::test]
async fn a_commit_lost_with_a_killed_primary_happens_again() {
    a_lost_commit_happens_again(Loss::Kill).await;
}

#[tokio::test]
async fn a_commit_lost_with_a_frozen_primary_happens_again() {
    a_lost_commit_happens_again(Loss::Freeze).await;
}

/// Where the server is as it was, nothing of all this shows.
#[tokio::test]
async fn nobody_notices_that_transactions_are_kept() {
    for resolve in ["false", "true"] {
        let scene = linked_scene(0, |spec| {
            spec.raw("retry.transactions", "true").raw("retry.resolve_commit", resolve);
            spec.set("retry.transaction_size", "1kB");
        })
        .await;
        let mut direct = scene.raw_direct().await;
        let wanted = conversation(&mut direct).await;
        direct.query("DROP TABLE p, c; DROP FUNCTION says").await;
        let mut raw = scene.raw().await;
        assert_eq!(conversation(&mut raw).await, wanted, "resolve_commit = {resolve}");
        drop((direct, raw));
        scene.finish().await;
    }
}

/// A server restarted in its place: as good as another.
#[tokio::test]
async fn it_goes_on_after_a_restart_in_place() {
    let scene = replaying(0, |_| {}).await;
    let mut raw = in_transaction(&scene, 1).await;
    Loss::StopImmediate.strike(&scene);
    scene.cluster.n(0).wait_exit().await.unwrap();
    scene.cluster.n(0).start().await.unwrap();
    goes_on(&mut raw, 1, "restart").await;
    assert_eq!(raw.value("SELECT count(*) FROM t").await, "1");
    drop(raw);
    scene.finish().await;
}

/// The same transaction by drivers and humans that wait a little: rows that others have changed meanwhile are noticed.
#[tokio::test]
async fn what_others_have_done_meanwhile_is_noticed() {
    let scene = replaying(1, |_| {}).await;
    let mut raw = scene.raw().await;
    raw.query("INSERT INTO t (a) VALUES (1)").await;
    scene.cluster.wait_caught_up(scene.cluster.n(1), scene.cluster.n(0)).await.unwrap();
    raw.query("BEGIN").await;
    assert_eq!(raw.value("SELECT count(*) FROM t").await, "1");
    scene.links[1].cut();
    Loss::Kill.strike(&scene);
    let standby = promote(&scene).await;
    standby.sql_in("app").await.unwrap().run("INSERT INTO t (a) VALUES (2)").await.unwrap();
    scene.links[1].mend();
    assert_eq!(raw.error("INSERT INTO t (a) VALUES (3)").await, "40001");
    raw.query("ROLLBACK").await;
    assert_eq!(raw.value("SELECT count(*) FROM t").await, "2");
    drop(raw);
    scene.finish().await;
}

/// One poll more than the cluster needs: a transaction that nobody touches is replayed while it is idle.
#[tokio::test]
async fn an_idle_transaction_is_replayed_at_once() {
    let scene = replaying(1, |_| {}).await;
    let mut raw = scene.raw().await;
    raw.query("BEGIN").await;
    raw.query("LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await;
    Loss::Kill.strike(&scene);
    let standby = promote(&scene).await;
    let locked =
        "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 't'::regclass";
    let mut sql = standby.sql_in("app").await.unwrap();
    eventually("the lock to be taken again", async || sql.one(locked).await.unwrap() == "1").await;
    assert_eq!(says(&mut raw, "COMMIT").await, ["C COMMIT\\x00", "Z I"]);
    assert!(raw.within(Duration::from_millis(1)).await.is_none(), "and nothing else is said");
    drop((raw, sql));
    scene.finish().await;
}
