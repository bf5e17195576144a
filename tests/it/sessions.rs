//! What a session keeps when its primary is lost, what it is told, and what it may do meanwhile.

use std::time::Duration;

use crate::harness::eventually;
use crate::harness::raw::{Raw, V3_0, bind, describe, execute, parse, query, sync};
use crate::harness::scene::{Scene, linked_scene, scene};

const SQL_LIMIT: Duration = Duration::from_secs(20);

async fn with_options(address: &str, options: &[(&str, &str)]) -> Raw {
    let mut raw = Raw::tcp(address).await;
    let params = [&[("user", "app"), ("database", "app")], options].concat();
    let frames = raw.start(V3_0, &params, "app-secret").await;
    assert_eq!(frames.last().map(|last| last.tag), Some(b'Z'), "{frames:?}");
    raw
}

/// The types of the next messages up to ReadyForQuery with its status, and SQLSTATEs: "1 2 E40001 ZE".
async fn answer(raw: &mut Raw) -> String {
    let frames = raw.until(b'Z').await;
    let words =
        frames.iter().filter(|frame| !matches!(frame.tag, b'S' | b'N')).map(|frame| match frame.tag {
            b'E' => format!("E{}", frame.sqlstate()),
            b'Z' => format!("Z{}", char::from(frame.body[0])),
            tag => char::from(tag).to_string(),
        });
    words.collect::<Vec<_>>().join(" ")
}

async fn ask(raw: &mut Raw, sql: &str) -> String {
    raw.send(&query(sql)).await;
    answer(raw).await
}

async fn batch(raw: &mut Raw, sql: &str) -> String {
    let batch = [parse("", sql), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()];
    raw.send(&batch.concat()).await;
    answer(raw).await
}

/// Waits until that many sessions of `app` stand in this state at the primary.
async fn at_primary(scene: &Scene, condition: &str, count: usize) {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND {condition}");
    scene.cluster.n(0).wait_for(&sql, &count.to_string(), SQL_LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_session_takes_its_settings_and_statements_along() {
    let scene = scene(1, |_| {}).await;
    let (primary, next) = (scene.cluster.n(0), scene.cluster.n(1));
    primary.sql().await.unwrap().run("CREATE ROLE apprentice; GRANT apprentice TO app").await.unwrap();
    let options = [("options", "-c work_mem=3MB"), ("application_name", "first"), ("TimeZone", "Asia/Tokyo")];
    let mut raw = with_options(&scene.proxy.address(), &options).await;
    raw.query("SET lock_timeout = '9s'; SET datestyle = 'German'; SET my.own = 'x''y'").await;
    raw.query("SET application_name = 'second'; SET search_path = \"$user\", pg_temp, public").await;
    raw.query("SET ROLE apprentice").await;
    raw.query("BEGIN; SET statement_timeout = '8s'; SET my.own = 'no'; ROLLBACK").await;
    raw.query("BEGIN; SET LOCAL lock_timeout = '8s'; SET idle_session_timeout = '1h'; COMMIT").await;
    raw.query("PREPARE q(int) AS SELECT 40 + $1").await;
    raw.send(&[parse("named", "SELECT $1::int * 2"), sync()].concat()).await;
    assert_eq!(answer(&mut raw).await, "1 ZI");
    let mut reader = scene.raw_standby().await;
    // The new primary sees them before the old one goes.
    scene.cluster.wait_streaming(next, primary).await.unwrap();
    let caught_up = "SELECT count(*) FROM pg_roles WHERE rolname = 'apprentice'";
    next.wait_for(caught_up, "1", SQL_LIMIT).await.unwrap();

    primary.kill().unwrap();
    scene.wait_node_not(0, "health", "up").await;
    let mut newcomer = with_options(&scene.proxy.address(), &options).await;
    assert_eq!(newcomer.params["TimeZone"], "Asia/Tokyo", "a login without a primary");
    raw.send(&query("SHOW port")).await;
    newcomer.send(&query("SHOW work_mem")).await;
    assert_eq!(reader.value("SELECT pg_is_in_recovery()").await, "t", "reads go on");
    assert!(newcomer.within(Duration::from_millis(100)).await.is_none(), "statements wait");
    scene.promote_best().await;

    assert_eq!(raw.frame().await.tag, b'T');
    assert_eq!(raw.frame().await.columns()[0].as_deref(), Some(next.port().to_string().as_str()));
    raw.until(b'Z').await;
    assert_eq!(newcomer.until(b'Z').await[1].columns()[0].as_deref(), Some("3MB"));
    for (name, value) in [
        ("work_mem", "3MB"),
        ("TimeZone", "Asia/Tokyo"),
        ("application_name", "second"),
        ("lock_timeout", "9s"),
        ("datestyle", "German, DMY"),
        ("my.own", "x'y"),
        ("search_path", "\"$user\", pg_temp, public"),
        ("role", "apprentice"),
        ("statement_timeout", "0"),
        ("idle_session_timeout", "1h"),
        ("in_hot_standby", "off"),
    ] {
        assert_eq!(raw.value(&format!("SHOW {name}")).await, value, "{name}");
    }
    assert_eq!(raw.params["DateStyle"], "German, DMY");
    assert_eq!(raw.value("EXECUTE q(2)").await, "42");
    let again = [bind("", "named", &["21"]), execute("", 0), sync()].concat();
    raw.send(&again).await;
    assert_eq!(raw.until(b'Z').await[1].columns()[0].as_deref(), Some("42"));
    // RESET means the same as before.
    raw.query("RESET work_mem; RESET application_name; RESET ROLE").await;
    assert_eq!(raw.value("SHOW work_mem").await, "3MB");
    assert_eq!(raw.value("SHOW application_name").await, "first");
    assert_eq!(raw.value("SELECT current_user").await, "app");
    drop((raw, newcomer, reader));
    scene.finish().await;
}

#[tokio::test]
async fn a_lost_transaction_is_told_and_its_block_has_failed() {
    let scene = linked_scene(1, |_| {}).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(scene.raw().await);
    }
    let [simple, rolls_back, commits, extended, running, committing] = &mut open[..] else { panic!() };
    let (mut writing, mut batched) = (scene.raw().await, scene.raw().await);
    writing.query("CREATE TABLE t (a int)").await;
    for raw in [&mut *simple, rolls_back, commits, extended, running, committing] {
        assert_eq!(ask(raw, "BEGIN").await, "C ZT");
        assert_eq!(ask(raw, "INSERT INTO t VALUES (1)").await, "C ZT");
    }
    // What commits from now on waits for ever.
    let mut superuser = scene.cluster.n(0).sql().await.unwrap();
    superuser.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    superuser.run("SELECT pg_reload_conf()").await.unwrap();
    scene.primary_says("SHOW synchronous_standby_names", "nobody").await;
    committing.send(&query("COMMIT")).await;
    writing.send(&query("INSERT INTO t VALUES (2)")).await;
    let insert = [parse("", "INSERT INTO t VALUES (3)"), bind("", "", &[]), execute("", 0), sync()];
    batched.send(&insert.concat()).await;
    running.send(&query("SELECT pg_sleep(600)")).await;
    at_primary(&scene, "wait_event IN ('SyncRep', 'PgSleep')", 4).await;
    scene.cluster.n(0).freeze().unwrap();
    scene.promote_best().await;

    // What was under way is told at once, nothing else is said unasked.
    assert_eq!(answer(committing).await, "E08007 ZI");
    assert_eq!(answer(&mut writing).await, "E08007 ZI");
    assert_eq!(answer(&mut batched).await, "E08007 ZI");
    assert_eq!(answer(running).await, "E40001 ZE");
    assert_eq!(ask(running, "ROLLBACK").await, "C ZI");
    assert!(simple.within(Duration::from_millis(50)).await.is_none());
    assert_eq!(ask(simple, "SELECT 1").await, "E40001 ZE");
    assert_eq!(ask(simple, "SELECT 1").await, "E25P02 ZE");
    assert_eq!(ask(simple, "COMMIT").await, "C ZI");
    assert_eq!(ask(rolls_back, "ROLLBACK").await, "C ZI");
    assert_eq!(ask(commits, "COMMIT").await, "E40001 ZI");
    assert_eq!(batch(extended, "SELECT 1").await, "E40001 ZE");
    assert_eq!(batch(extended, "SELECT 1").await, "E25P02 ZE");
    assert_eq!(batch(extended, "ROLLBACK").await, "1 2 n C ZI");
    for raw in open.iter_mut().chain([&mut writing, &mut batched]) {
        assert_eq!(raw.value("SELECT pg_is_in_recovery()").await, "f");
    }
    // What nobody could know had in fact been committed and received.
    assert_eq!(writing.value("SELECT string_agg(a::text, ',' ORDER BY a) FROM t").await, "1,2,3");
    // Thawed and without a fence: nothing of it reaches anybody.
    scene.cluster.n(0).thaw().unwrap();
    scene.wait_node(0, "role", "zombie").await;
    assert_eq!(writing.value("SHOW port").await, scene.cluster.n(1).port().to_string());
    drop((open, writing, batched));
    scene.finish().await;
}

#[tokio::test]
async fn what_only_the_old_server_had_is_named() {
    let scene = linked_scene(1, |_| {}).await;
    let (mut lock, mut temp, mut listener) = (scene.raw().await, scene.raw().await, scene.raw().await);
    lock.query("SELECT pg_advisory_lock(1)").await;
    temp.query("CREATE TEMP TABLE mine AS SELECT 1 AS a").await;
    listener.query("LISTEN news").await;
    scene.links[0].cut();
    scene.wait_node(0, "health", "down").await;
    // Asked while nobody can answer: the statement must not run on the new primary without the lock.
    lock.send(&query("SELECT 1")).await;
    assert!(lock.within(Duration::from_millis(50)).await.is_none());
    scene.promote_best().await;
    let lost = lock.until(b'Z').await;
    assert_eq!(lost[0].sqlstate(), "40001", "{lost:?}");
    assert!(lost[0].field(b'D').unwrap().contains("advisory lock"), "{lost:?}");
    assert!(lock.is_alive().await);
    let lost = temp.query("SELECT 1").await;
    assert_eq!(lost[0].sqlstate(), "40001", "{lost:?}");
    assert!(lost[0].field(b'D').unwrap().contains("temporary table"), "{lost:?}");
    assert_eq!(temp.value("SELECT 1").await, "1");
    let end = listener.end().await;
    assert_eq!((end[0].sqlstate().as_str(), end[0].field(b'S').as_deref()), ("57P01", Some("FATAL")));
    drop((lock, temp));
    scene.finish().await;
}

#[tokio::test]
async fn a_silent_primary_gets_no_new_work() {
    let scene = linked_scene(1, |spec| {
        spec.set("cluster.hold_timeout", "300ms");
    })
    .await;
    let mut raw = scene.raw().await;
    raw.query("CREATE TABLE t (a int)").await;
    scene.cluster.n(0).freeze().unwrap();
    scene.wait_node(0, "health", "down").await;
    for _ in 0..3 {
        assert_eq!(ask(&mut raw, "INSERT INTO t VALUES (1)").await, "E57P03 ZI");
    }
    assert_eq!(batch(&mut raw, "INSERT INTO t VALUES (1)").await, "E57P03 ZI");
    scene.cluster.n(0).thaw().unwrap();
    scene.wait_node(0, "health", "up").await;
    assert_eq!(raw.value("SELECT count(*) FROM t").await, "0", "a statement refused has not run");
    drop(raw);
    scene.finish().await;
}

#[tokio::test]
async fn the_client_that_waits_may_leave() {
    let scene = scene(0, |_| {}).await;
    let mut raw = scene.raw().await;
    scene.cluster.n(0).kill_and_wait().await.unwrap();
    raw.send(&query("SELECT 1")).await;
    let held = async || scene.proxy.metric("pgsteer_sessions_held").await;
    eventually("a held session", async || held().await >= 1.0).await;
    drop(raw);
    eventually("its end", async || held().await < 1.0).await;
    scene.finish().await;
}

/// What the listener is notified of next, as channel and payload.
async fn notified(listener: &mut Raw) -> String {
    loop {
        let frame = listener.frame().await;
        if frame.tag == b'A' {
            return String::from_utf8_lossy(&frame.body[4..]).replace('\0', " ").trim_end().to_owned();
        }
    }
}

/// `retry.listen`: a client that only waits is notified by the new primary, of the channels it has listened to at last.
#[tokio::test]
async fn listeners_listen_again_when_they_are_kept() {
    let scene = linked_scene(1, |spec| {
        spec.raw("retry.listen", "true");
    })
    .await;
    let (mut listener, mut other) = (scene.raw().await, scene.raw().await);
    for sql in [
        "LISTEN news",
        "LISTEN \"Odd \"\"name\"",
        "LISTEN gone",
        "UNLISTEN gone",
        "BEGIN",
        "LISTEN undone",
        "ROLLBACK",
    ] {
        listener.query(sql).await;
    }
    scene.links[0].cut();
    scene.promote_best().await;
    let again = async || scene.proxy.metric("pgsteer_listened_again_total").await >= 1.0;
    eventually("the new primary to listen", again).await;
    let notify = "NOTIFY gone, 'no'; NOTIFY undone, 'no'; NOTIFY news, 'one'; NOTIFY \"Odd \"\"name\", 'two'";
    other.query(notify).await;
    assert_eq!(notified(&mut listener).await, "news one");
    assert_eq!(notified(&mut listener).await, "Odd \"name two");
    assert_eq!(listener.value("SELECT count(*) FROM pg_listening_channels()").await, "2");
    other.query("NOTIFY news, 'three'").await;
    assert_eq!(notified(&mut listener).await, "news three");
    drop((listener, other));
    scene.finish().await;
}

/// What a function has listened to is known to the server alone.
#[tokio::test]
async fn listeners_to_nobody_knows_what_are_closed() {
    let scene = linked_scene(1, |spec| {
        spec.raw("retry.listen", "true").set("pool.mode", "transaction");
    })
    .await;
    let (mut hidden, mut listener) = (scene.raw().await, scene.raw().await);
    hidden.query("LISTEN news; DO $$ BEGIN EXECUTE 'LISTEN secret'; END $$").await;
    listener.query("LISTEN news").await;
    scene.links[0].cut();
    scene.promote_best().await;
    let end = hidden.end().await;
    assert_eq!((end[0].sqlstate().as_str(), end[0].field(b'S').as_deref()), ("57P01", Some("FATAL")));
    assert_eq!(listener.value("SELECT count(*) FROM pg_listening_channels()").await, "1");
    drop(listener);
    scene.finish().await;
}

/// A listener's open transaction is run again by a backend that listens already.
#[tokio::test]
async fn listeners_go_on_with_their_transactions() {
    let scene = linked_scene(1, |spec| {
        spec.raw("retry.listen", "true").raw("retry.transactions", "true").raw("route.split", "\"auto\"");
    })
    .await;
    let (mut listener, mut other) = (scene.raw().await, scene.raw().await);
    listener.query("CREATE TABLE t (a int)").await;
    scene.cluster.wait_caught_up(scene.cluster.n(1), scene.cluster.n(0)).await.unwrap();
    for sql in ["LISTEN news", "BEGIN", "INSERT INTO t VALUES (1)", "LISTEN more"] {
        listener.query(sql).await;
    }
    scene.links[0].cut();
    scene.promote_best().await;
    assert_eq!(listener.value("SELECT count(*) FROM t").await, "1");
    listener.query("COMMIT").await;
    other.query("NOTIFY news, 'one'").await;
    other.query("NOTIFY more, 'two'").await;
    assert_eq!(notified(&mut listener).await, "news one");
    assert_eq!(notified(&mut listener).await, "more two");
    drop((listener, other));
    scene.finish().await;
}

/// Without a primary a listener cannot be kept.
#[tokio::test]
async fn listeners_are_closed_when_nobody_can_listen() {
    let scene = linked_scene(1, |spec| {
        spec.raw("retry.listen", "true").set("cluster.hold_timeout", "300ms");
    })
    .await;
    let mut listener = scene.raw().await;
    listener.query("LISTEN news").await;
    scene.cluster.n(0).kill().unwrap();
    let end = listener.end().await;
    assert_eq!((end[0].sqlstate().as_str(), end[0].field(b'S').as_deref()), ("57P01", Some("FATAL")));
    scene.finish().await;
}
