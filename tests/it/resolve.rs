//! `retry.resolve_commit`: the answer to a COMMIT is lost with its server, and the client is told what became of it.

use pgsteer::demo::node::{Promote, Stop};
use pgsteer::demo::process::{Signal, send};

use crate::harness::loss::Loss;
use crate::harness::proxy::ProxySpec;
use crate::harness::raw::{self, Frame, Raw, bind, describe, execute, parse, query, sync};
use crate::harness::scene::{Scene, linked_scene};
use crate::harness::{LIMIT, eventually};

/// How a client commits.
const WAYS: usize = 4;

/// A cluster of two whose sessions find out what became of a COMMIT.
async fn resolving() -> Scene {
    resolving_with(|_| {}).await
}

/// The same with other settings, too.
pub async fn resolving_with(adapt: impl FnOnce(&mut ProxySpec)) -> Scene {
    let scene = linked_scene(1, |spec| {
        spec.raw("retry.resolve_commit", "true");
        adapt(spec);
    })
    .await;
    scene.raw().await.query("CREATE TABLE t (a int)").await;
    let standby = scene.cluster.n(1);
    scene.cluster.wait_caught_up(standby, scene.cluster.n(0)).await.unwrap();
    // From now on a COMMIT is done at once on the server, and sent to standbys, but not answered.
    let primary = scene.cluster.n(0);
    scene.cluster.set_synchronous(primary, Some("ANY 1 (*)")).await.unwrap();
    let mut sql = primary.sql().await.unwrap();
    sql.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    sql.run("SELECT pg_reload_conf()").await.unwrap();
    scene.primary_says("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'async'", "1").await;
    scene
}

/// One session for each way to commit, with its COMMIT under way. `first` tells their rows.
pub async fn commits(scene: &Scene, first: usize) -> Vec<Raw> {
    let mut sessions = Vec::new();
    for way in 0..WAYS {
        let mut raw = scene.raw().await;
        let insert = format!("INSERT INTO t VALUES ({})", first + way);
        let batch = |sql: &str| {
            [parse("", sql), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()].concat()
        };
        match way {
            0 => {
                raw.query("BEGIN").await;
                raw.query(&insert).await;
                raw.send(&query("COMMIT")).await;
            }
            1 => {
                raw.query("BEGIN").await;
                raw.query(&insert).await;
                raw.send(&batch("commit")).await;
            }
            2 => raw.send(&query(&insert)).await,
            _ => raw.send(&batch(&insert)).await,
        }
        sessions.push(raw);
    }
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    scene.primary_says(waiting, &(first + WAYS).to_string()).await;
    sessions
}

/// What a session hears until it is ready, without what only accompanies it.
pub async fn hears(raw: &mut Raw) -> Vec<Frame> {
    let frames = raw.until(b'Z').await;
    frames.into_iter().filter(|frame| matches!(frame.tag, b'C' | b'E' | b'Z')).collect()
}

/// All of them were told that they have committed.
pub async fn all_committed(sessions: &mut [Raw], what: &str) {
    for (way, raw) in sessions.iter_mut().enumerate() {
        let frames = hears(raw).await;
        let tag = if way < 2 { "C COMMIT\\x00" } else { "C INSERT 0 1\\x00" };
        let words: Vec<String> = frames.iter().map(ToString::to_string).collect();
        assert_eq!(words, [tag, "Z I"], "{what}, way {way}");
    }
}

async fn all_rolled_back(sessions: &mut [Raw], what: &str) {
    for (way, raw) in sessions.iter_mut().enumerate() {
        let frames = hears(raw).await;
        let [error, ready] = &frames[..] else { panic!("{what}, way {way}: {frames:?}") };
        assert_eq!((error.sqlstate().as_str(), &ready.body[..]), ("40001", &b"I"[..]), "{what}, way {way}");
        assert!(error.field(b'D').is_some(), "{what}: it says why");
    }
}

/// No walreceiver any more: what is committed from now on stays on the primary.
pub async fn stop_following(scene: &Scene) {
    let standby = scene.cluster.n(1);
    standby.repoint("").await.unwrap();
    standby.wait_for("SELECT count(*) FROM pg_stat_wal_receiver", "0", LIMIT).await.unwrap();
}

async fn truth_is_told(loss: Loss) {
    let scene = resolving().await;
    let standby = scene.cluster.n(1);
    let mut kept = commits(&scene, 0).await;
    standby.sql_in("app").await.unwrap();
    let mut rows = standby.sql_in("app").await.unwrap();
    eventually("the rows on the standby", async || rows.one("SELECT count(*) FROM t").await.unwrap() == "4")
        .await;
    stop_following(&scene).await;
    let mut gone = commits(&scene, WAYS).await;

    loss.strike(&scene);
    standby.promote_and_wait(Promote::PgCtl).await.unwrap();
    all_committed(&mut kept, &format!("{loss:?}")).await;
    all_rolled_back(&mut gone, &format!("{loss:?}")).await;
    for raw in kept.iter_mut().chain(&mut gone) {
        assert_eq!(raw.value("SELECT count(*) FROM t").await, "4", "{loss:?}: they go on at the new primary");
    }
    let found = |result: &str| format!("pgsteer_commits_resolved_total{{result=\"{result}\"}}");
    let metrics = scene.proxy.metrics().await;
    assert_eq!((metrics[&found("committed")], metrics[&found("rolled_back")]), (4.0, 4.0));
    drop((kept, gone));
    scene.finish().await;
}

#[tokio::test]
async fn a_primary_is_killed_during_commit() {
    truth_is_told(Loss::Kill).await;
}

#[tokio::test]
async fn a_primary_is_stopped_fast_during_commit() {
    truth_is_told(Loss::StopFast).await;
}

#[tokio::test]
async fn a_primary_is_stopped_at_once_during_commit() {
    truth_is_told(Loss::StopImmediate).await;
}

#[tokio::test]
async fn a_primary_freezes_during_commit() {
    truth_is_told(Loss::Freeze).await;
}

#[tokio::test]
async fn a_primary_is_cut_off_during_commit() {
    truth_is_told(Loss::Cut).await;
}

#[tokio::test]
async fn a_standby_is_promoted_beside_its_primary_during_commit() {
    truth_is_told(Loss::Live).await;
}

/// The server comes back as it was: what it had committed is committed.
async fn restarts(loss: Loss) {
    let scene = resolving().await;
    let primary = scene.cluster.n(0);
    let mut sessions = commits(&scene, 0).await;
    loss.strike(&scene);
    primary.wait_exit().await.unwrap();
    primary.start().await.unwrap();
    all_committed(&mut sessions, &format!("{loss:?} and restart")).await;
    drop(sessions);
    scene.finish().await;
}

#[tokio::test]
async fn a_crash_and_restart_in_place_during_commit() {
    restarts(Loss::StopImmediate).await;
}

#[tokio::test]
async fn a_restart_in_place_during_commit() {
    restarts(Loss::StopFast).await;
}

/// The connection is lost and the server is not: it says itself what became of the transaction.
#[tokio::test]
async fn a_link_is_reset_during_commit() {
    let scene = resolving().await;
    let mut sessions = commits(&scene, 0).await;
    scene.links[0].reset();
    scene.cluster.set_synchronous(scene.cluster.n(0), None).await.unwrap();
    all_committed(&mut sessions, "reset").await;
    drop(sessions);
    scene.finish().await;
}

/// On the new branch the id of a lost transaction is another's, and `pg_xact_status` says that it committed.
#[tokio::test]
async fn an_id_used_again_deceives_nobody() {
    let scene = resolving().await;
    let standby = scene.cluster.n(1);
    stop_following(&scene).await;
    let mut raw = scene.raw().await;
    raw.query("BEGIN").await;
    raw.query("INSERT INTO t VALUES (1)").await;
    let xid = raw.value("SELECT pg_current_xact_id()").await;
    raw.send(&query("COMMIT")).await;
    scene.primary_says("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1").await;
    // The proxy must not see the new primary before the id is used again.
    scene.links[1].cut();
    scene.cluster.n(0).kill().unwrap();
    standby.promote_and_wait(Promote::PgCtl).await.unwrap();
    let mut sql = standby.sql_in("app").await.unwrap();
    eventually("the id to be given again", async || {
        sql.one("SELECT pg_current_xact_id()").await.unwrap().parse::<u64>().unwrap() > xid.parse().unwrap()
    })
    .await;
    assert_eq!(sql.one(&format!("SELECT pg_xact_status('{xid}')")).await.unwrap(), "committed");
    scene.links[1].mend();
    let frames = hears(&mut raw).await;
    assert_eq!(frames[0].sqlstate(), "40001", "{frames:?}");
    assert_eq!(raw.value("SELECT count(*) FROM t").await, "0");
    drop((raw, sql));
    scene.finish().await;
}

/// Two promotions lie between: nobody can say.
#[tokio::test]
async fn what_cannot_be_known_is_not_guessed() {
    let scene = resolving().await;
    let standby = scene.cluster.n(1);
    let mut sessions = commits(&scene, 0).await;
    scene.links[1].cut();
    scene.cluster.n(0).kill().unwrap();
    standby.promote_and_wait(Promote::PgCtl).await.unwrap();
    // It becomes a standby of nobody, and is promoted once more.
    standby.stop(Stop::Fast).await.unwrap();
    standby.write_standby("").unwrap();
    standby.start().await.unwrap();
    standby.promote_and_wait(Promote::PgCtl).await.unwrap();
    scene.links[1].mend();
    for raw in &mut sessions {
        let frames = hears(raw).await;
        assert_eq!(frames[0].sqlstate(), "08007", "{frames:?}");
        assert!(frames[0].field(b'D').is_some(), "it says why");
        assert!(raw.is_alive().await);
    }
    drop(sessions);
    scene.finish().await;
}

/// A client that gives up waiting for the truth is told that nobody knows it.
#[tokio::test]
async fn the_search_for_the_truth_can_be_cancelled() {
    let scene = resolving().await;
    let mut sessions = commits(&scene, 0).await;
    scene.links[0].reset();
    let address = scene.proxy.address();
    for raw in &mut sessions {
        raw.cancel(&address).await;
        let frames = hears(raw).await;
        assert!(["08007", "57014"].contains(&frames[0].sqlstate().as_str()), "{frames:?}");
    }
    scene.cluster.set_synchronous(scene.cluster.n(0), None).await.unwrap();
    for raw in &mut sessions {
        assert!(raw.is_alive().await);
    }
    drop(sessions);
    scene.finish().await;
}

/// The client sends its statement and leaves: it is done, as it would be without us.
#[tokio::test]
async fn a_statement_is_committed_for_a_client_that_leaves() {
    let scene = linked_scene(0, |spec| {
        spec.raw("retry.resolve_commit", "true");
    })
    .await;
    let mut other = scene.raw().await;
    other.query("CREATE TABLE t (a int)").await;
    let mut polite = scene.raw().await;
    polite.send(&[query("INSERT INTO t VALUES (1)"), raw::terminate()].concat()).await;
    let heard = polite.end().await;
    assert_eq!(heard.last().map(|frame| frame.tag), Some(b'Z'), "{heard:?}");
    let mut half = scene.raw().await;
    half.send(&query("INSERT INTO t SELECT 2 FROM pg_sleep(0.2)")).await;
    half.half_close().await;
    assert_eq!(half.until(b'Z').await.last().map(|frame| frame.tag), Some(b'Z'));
    assert_eq!(other.value("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t").await, "1 2");
    // One that is gone without a word takes its work with it, at once.
    let mut gone = scene.raw().await;
    gone.send(&query("INSERT INTO t SELECT 3 FROM pg_sleep(600)")).await;
    scene.primary_says("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1").await;
    drop(gone);
    scene.primary_says("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "0").await;
    drop((polite, half, other));
    scene.finish().await;
}

/// What a client does that commits, or does not, and everything it hears.
pub async fn conversation(raw: &mut Raw) -> Vec<String> {
    let mut heard = Vec::new();
    for sql in [
        "CREATE TABLE p (a int PRIMARY KEY); CREATE TABLE c (a int REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
        "CREATE FUNCTION says() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''late''; RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON p DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION says()",
        "INSERT INTO p VALUES (1), (2) RETURNING a",
        "INSERT INTO p VALUES (1)",
        "INSERT INTO c VALUES (99) RETURNING a",
        "SELECT set_config('work_mem', '7MB', false)",
        "SHOW work_mem",
        "UPDATE p SET a = a + 10",
        "INSERT INTO p VALUES (3); INSERT INTO p VALUES (4)",
        "SELECT 1/0",
        "BEGIN",
        "INSERT INTO c VALUES (98)",
        "COMMIT",
        "BEGIN",
        "SELECT 1/0",
        "COMMIT",
        "BEGIN",
        "INSERT INTO p VALUES (5)",
        "COMMIT AND CHAIN",
        "END",
        "COMMIT",
        "VALUES (1)",
        "SELECT count(*) FROM p",
    ] {
        heard.push(sql.to_owned());
        heard.extend(raw.query(sql).await.iter().map(ToString::to_string));
    }
    let run = |portal: &str, sql: &str, rows| {
        [parse("", sql), bind(portal, "", &[]), execute(portal, rows)].concat()
    };
    for batch in [
        [run("", "INSERT INTO p VALUES (6)", 0), sync()].concat(),
        [run("", "INSERT INTO p VALUES (6)", 0), sync()].concat(),
        [run("x", "SELECT a FROM p ORDER BY a", 1), sync()].concat(),
        [run("x", "SELECT a FROM p ORDER BY a", 0), raw::close(b'P', "x"), sync()].concat(),
        [parse("s", "INSERT INTO p VALUES (7) RETURNING a"), describe(b'S', "s"), sync()].concat(),
        [bind("", "s", &[]), describe(b'P', ""), execute("", 0), sync()].concat(),
        [parse("", "SELECT 8"), sync()].concat(),
        [bind("", "", &[]), execute("", 0), sync()].concat(),
        [bind("", "", &[]), execute("", 0), sync()].concat(),
        [run("", "BEGIN", 0), run("", "INSERT INTO p VALUES (9)", 0), run("", "COMMIT", 0), sync()].concat(),
        [run("", "BEGIN", 0), run("", "INSERT INTO p VALUES (9)", 0), run("", "COMMIT", 0), sync()].concat(),
        [run("", "BEGIN", 0), sync(), run("", "SELECT 1/0", 0), sync(), run("", "COMMIT", 0), sync()]
            .concat(),
        [query("BEGIN"), query("INSERT INTO p VALUES (10)"), query("COMMIT"), query("SELECT 2")].concat(),
        [run("", "DO $$ BEGIN NULL; END $$", 0), raw::flush(), sync()].concat(),
    ] {
        raw.send(&[batch, query("ROLLBACK"), query("SELECT 'that was it'")].concat()).await;
        loop {
            let frame = raw.frame().await;
            let last = frame.tag == b'D' && frame.columns()[0].as_deref() == Some("that was it");
            heard.push(frame.to_string());
            if last {
                break;
            }
        }
        raw.until(b'Z').await;
    }
    heard
}

#[tokio::test]
async fn nobody_notices_that_commits_are_tracked() {
    let scene = linked_scene(0, |spec| {
        spec.raw("retry.resolve_commit", "true");
    })
    .await;
    let mut direct = scene.raw_direct().await;
    let wanted = conversation(&mut direct).await;
    direct.query("DROP TABLE p, c; DROP FUNCTION says").await;
    let mut raw = scene.raw().await;
    assert_eq!(conversation(&mut raw).await, wanted);
    drop((direct, raw));
    scene.finish().await;
}

/// A COPY that has not ended and pipelines with their BEGIN and COMMIT, when the primary is lost: nothing of all that was
/// kept, and no client is in a block.
async fn copy_and_pipelines(loss: Loss) {
    // So that a session keeps the server process that is stopped.
    let scene = linked_scene(1, |spec| {
        spec.raw("retry.resolve_commit", "true").set("pool.mode", "session");
    })
    .await;
    let (mut copy, mut pipeline, mut stopped) = (scene.raw().await, scene.raw().await, scene.raw().await);
    copy.query("CREATE TABLE t (a int)").await;
    let standby = scene.cluster.n(1);
    scene.cluster.wait_caught_up(standby, scene.cluster.n(0)).await.unwrap();
    copy.send(&query("COPY t FROM STDIN")).await;
    copy.expect("G").await;
    copy.send(&raw::copy_data(b"1\n2\n")).await;
    let run = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0), sync()].concat();
    let sent =
        [run("BEGIN"), run("INSERT INTO t VALUES (3)"), run("SELECT pg_sleep(600)"), run("COMMIT")].concat();
    let pid = stopped.backend_pid().await;
    send(Signal::Stop, &[pid as u32]).unwrap();
    stopped.send(&sent).await;
    pipeline.send(&sent).await;
    scene.primary_says("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1").await;
    pipeline.expect("12CZ12CZ").await;

    loss.strike(&scene);
    standby.promote_and_wait(Promote::PgCtl).await.unwrap();
    let frames = hears(&mut copy).await;
    assert_eq!(
        (frames[0].sqlstate().as_str(), &frames[1].body[..]),
        ("40001", &b"I"[..]),
        "{loss:?}: {frames:?}"
    );
    copy.send(&[raw::copy_data(b"4\n"), raw::copy_done()].concat()).await;
    assert_eq!(copy.value("SELECT count(*) FROM t").await, "0", "{loss:?}");
    // Its COMMIT has waited for a statement that never ended.
    for status in [&b"E"[..], b"I"] {
        let frames = hears(&mut pipeline).await;
        assert_eq!(
            (frames[0].sqlstate().as_str(), &frames[1].body[..]),
            ("40001", status),
            "{loss:?}: {frames:?}"
        );
    }
    // Had its BEGIN failed, the INSERT would have committed by itself.
    for status in [&b"E"[..], b"E", b"E", b"I"] {
        let frames = hears(&mut stopped).await;
        assert_eq!(
            (frames[0].sqlstate().as_str(), &frames[1].body[..]),
            ("08007", status),
            "{loss:?}: {frames:?}"
        );
    }
    for raw in [&mut pipeline, &mut stopped] {
        assert_eq!(raw.value("SELECT count(*) FROM t").await, "0", "{loss:?}");
    }
    drop((copy, pipeline, stopped));
    scene.finish().await;
}

#[tokio::test]
async fn a_copy_and_pipelines_under_way_when_the_primary_is_killed() {
    copy_and_pipelines(Loss::Kill).await;
}

#[tokio::test]
async fn a_copy_and_pipelines_under_way_when_a_standby_is_promoted_beside() {
    copy_and_pipelines(Loss::Live).await;
}

/// Statements that a session has prepared before, on backends that may have them already or not.
#[tokio::test]
async fn a_prepared_statement_is_tracked_on_shared_backends() {
    let scene = linked_scene(0, |spec| {
        spec.raw("retry.resolve_commit", "true").set("pool.mode", "transaction").raw("pool.size", "2");
    })
    .await;
    let mut first = scene.raw().await;
    first.query("CREATE TABLE t (a int)").await;
    let mut sessions = vec![first, scene.raw().await, scene.raw().await];
    for raw in &mut sessions {
        for (name, sql) in
            [("w", "INSERT INTO t VALUES ($1::int) RETURNING a"), ("r", "SELECT count(*) FROM t")]
        {
            raw.send(&[parse(name, sql), sync()].concat()).await;
            raw.expect("1Z").await;
        }
    }
    for round in 0..5 {
        for raw in &mut sessions {
            raw.send(&[bind("", "w", &["1"]), describe(b'P', ""), execute("", 0), sync()].concat()).await;
            raw.expect("2TDCZ").await;
            raw.send(&[bind("", "r", &[]), describe(b'P', ""), execute("", 0), sync()].concat()).await;
            raw.expect("2TDCZ").await;
        }
        assert_eq!(sessions[0].value("SELECT count(*) FROM t").await, ((round + 1) * 3).to_string());
    }
    drop(sessions);
    scene.finish().await;
}
