//! Sessions on two kinds of nodes: where their statements run, and what they find there.

use crate::harness::eventually;
use crate::harness::raw::Raw;
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
