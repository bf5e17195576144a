//! Sessions on two kinds of nodes: where their statements run, and what they find there.

use crate::harness::eventually;
use crate::harness::raw::{Frame, Raw, bind, execute, parse, query, sync};
use crate::harness::scene::{Scene, scene};

const WHERE: &str = "SELECT pg_is_in_recovery()";

async fn auto(standbys: usize, mode: &str) -> Scene {
    scene(standbys, |spec| {
        spec.set("route.split", "auto").set("pool.mode", mode);
    })
    .await
}

#[tokio::test]
async fn reads_go_to_standbys_and_all_else_to_the_primary() {
    for mode in ["session", "transaction"] {
        let scene = auto(2, mode).await;
        let mut raw = scene.raw().await;
        assert_eq!(raw.value(WHERE).await, "t", "{mode}");
        raw.query("CREATE TABLE t (a int)").await;
        assert_eq!(raw.value("INSERT INTO t VALUES (1) RETURNING pg_is_in_recovery()").await, "f");
        assert_eq!(raw.value("SELECT count(*) FROM t").await, "1");
        assert_eq!(raw.value("BEGIN; SELECT pg_is_in_recovery()").await, "f");
        assert_eq!(raw.value(WHERE).await, "f", "{mode}: inside a transaction");
        raw.query("COMMIT").await;
        reads_return(&mut raw).await;
        raw.query("SET TimeZone = 'Asia/Tokyo'").await;
        reads_return(&mut raw).await;
        assert_eq!(raw.value("SHOW TimeZone").await, "Asia/Tokyo");
        raw.query("BEGIN READ ONLY").await;
        assert_eq!(raw.value(WHERE).await, "t", "{mode}: declared");
        raw.query("COMMIT").await;
        scene.finish().await;
    }
}

/// Soon reads of the session are answered by a standby again.
async fn reads_return(raw: &mut Raw) {
    eventually("reads to go to a standby again", async || raw.value(WHERE).await == "t").await;
}

#[tokio::test]
async fn a_read_lost_in_the_middle_of_its_answer_is_safe_to_run_again() {
    let scene = scene(0, |spec| {
        spec.set("route.split", "auto");
    })
    .await;
    let mut raw = scene.raw().await;
    raw.send(&query("SELECT repeat('x', 1000), pg_sleep(0.01) FROM generate_series(1, 100000)")).await;
    raw.until(b'D').await;
    scene.cluster.n(0).kill().unwrap();
    let frames = raw.until(b'Z').await;
    let error = frames.iter().find(|frame| frame.tag == b'E').map(Frame::sqlstate);
    assert_eq!(error.as_deref(), Some("40001"), "it has changed nothing");
    scene.finish().await;
}

#[tokio::test]
async fn a_session_finds_its_own_writes() {
    for mode in ["session", "transaction"] {
        let scene = auto(2, mode).await;
        let mut raw = scene.raw().await;
        raw.query("CREATE TABLE t (a int)").await;
        let mut on_standby = 0;
        for number in 0..500 {
            raw.query(&format!("INSERT INTO t VALUES ({number})")).await;
            assert_eq!(raw.value("SELECT max(a) FROM t").await, number.to_string(), "{mode}");
            if number % 20 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(150)).await;
                on_standby += usize::from(raw.value(WHERE).await == "t");
            }
        }
        assert!(on_standby > 0, "{mode}");
        scene.finish().await;
    }
}

#[tokio::test]
async fn a_transaction_may_say_late_that_it_only_reads() {
    for mode in ["session", "transaction"] {
        for split in ["declared", "auto"] {
            let scene = scene(1, |spec| {
                // Nobody samples standbys but for those who wait for it.
                spec.set("route.split", split).set("pool.mode", mode).set("cluster.monitor.interval", "5s");
            })
            .await;
            let mut raw = scene.raw().await;
            raw.query("SET TimeZone = 'Asia/Tokyo'").await;
            // By one statement after the other, and in one batch as pgjdbc sends it.
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
            eventually("the transaction to go to a standby", async || {
                raw.query(begin).await;
                assert_eq!(commands(&raw.query("SET TRANSACTION READ ONLY").await), "SET T");
                assert_eq!(raw.value("SHOW transaction_isolation").await, "repeatable read");
                assert_eq!(raw.value("SHOW TimeZone").await, "Asia/Tokyo");
                let on_standby = raw.value(WHERE).await == "t";
                assert_eq!(commands(&raw.query("COMMIT").await), "COMMIT I");
                on_standby
            })
            .await;
            let batch = [
                [parse("", "BEGIN"), bind("", "", &[]), execute("", 0)].concat(),
                [parse("", "SET TRANSACTION READ ONLY"), bind("", "", &[]), execute("", 0), sync()].concat(),
            ];
            raw.send(&batch.concat()).await;
            raw.expect("12C12CZ").await;
            assert_eq!(raw.value(WHERE).await, "t", "{mode} {split}");
            raw.query("ROLLBACK").await;
            // And the other way round.
            raw.query("SET default_transaction_read_only = on").await;
            reads_return(&mut raw).await;
            raw.query("BEGIN").await;
            assert_eq!(commands(&raw.query("SET TRANSACTION READ WRITE").await), "SET T");
            raw.query("CREATE TABLE late (a int)").await;
            assert_eq!(commands(&raw.query("COMMIT").await), "COMMIT I");
            assert_eq!(raw.error("CREATE TABLE never (a int)").await, "25006");
            raw.query("SET default_transaction_read_only = off").await;
            // What has done something stays where it is.
            raw.query("BEGIN").await;
            raw.query("INSERT INTO late VALUES (1)").await;
            raw.query("SET TRANSACTION READ ONLY").await;
            assert_eq!(raw.value(WHERE).await, "f", "{mode} {split}");
            raw.query("COMMIT").await;
            assert_eq!(raw.value("SELECT count(*) FROM late").await, "1");
            scene.finish().await;
        }
    }
}

/// The command tags and the status behind them.
fn commands(frames: &[Frame]) -> String {
    let word = |frame: &Frame| match frame.tag {
        b'C' => Some(String::from_utf8_lossy(&frame.body[..frame.body.len() - 1]).into_owned()),
        b'E' => Some(frame.sqlstate()),
        b'Z' => Some((frame.body[0] as char).to_string()),
        _ => None,
    };
    frames.iter().filter_map(word).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_position_travels_from_session_to_session() {
    for mode in ["session", "transaction"] {
        let scene = auto(1, mode).await;
        let (mut writer, mut reader) = (scene.raw().await, scene.raw().await);
        writer.query("CREATE TABLE t (a int)").await;
        eventually("the table to be everywhere", async || {
            reader.value("SELECT count(*) FROM t").await == "0"
        })
        .await;
        scene.cluster.n(1).sql().await.unwrap().run("SELECT pg_wal_replay_pause()").await.unwrap();
        writer.query("INSERT INTO t VALUES (1)").await;
        let position = writer.value("SHOW pgsteer.lsn").await;
        assert!(position.starts_with("1:"), "{position}");
        reader.query(&format!("SET pgsteer.min_lsn = '{position}'")).await;
        assert_eq!(reader.value("SELECT count(*) FROM t").await, "1", "{mode}");
        writer.query("BEGIN").await;
        assert!(writer.value("SHOW pgsteer.lsn").await.starts_with("1:"));
        writer.query("COMMIT").await;
        // By the extended protocol it is the server's own answer, too.
        writer
            .send(&[parse("", "SHOW pgsteer.lsn"), bind("", "", &[]), execute("", 0), sync()].concat())
            .await;
        writer.expect("12DCZ").await;
        scene.cluster.n(1).sql().await.unwrap().run("SELECT pg_wal_replay_resume()").await.unwrap();
        reads_return(&mut reader).await;
        assert_eq!(reader.value("SELECT count(*) FROM t").await, "1", "{mode}");
        for (bad, code) in [
            ("SET pgsteer.target = 'elsewhere'", "22023"),
            ("SET pgsteer.min_lsn = 'x'", "22023"),
            ("SET pgsteer.max_lag = 'soon'", "22023"),
            ("SET pgsteer.lsn = '1:0/0'", "55P02"),
            ("SET pgsteer.unknown = 1", "42704"),
        ] {
            assert_eq!(reader.error(bad).await, code, "{bad}");
        }
        reader.query("SET pgsteer.target = 'primary'").await;
        assert_eq!(reader.value(WHERE).await, "f");
        reader.query("RESET pgsteer.target").await;
        reads_return(&mut reader).await;
        assert_eq!(reader.value("/* pgsteer: primary */ SELECT pg_is_in_recovery()").await, "f");
        scene.finish().await;
    }
}
