//! What clients declare goes before what the statements look like: hints, `pgsteer.target`, read-only transactions and
//! sessions. A write that is declared a read gets what a standby says to it, and no second try.

use crate::harness::eventually;
use crate::harness::raw::Raw;

use super::stage::{BOTH, Place, Protocol, Stage, stage};

/// Waits until a statement of the session is answered by a standby.
async fn reaches_a_standby(stage: &Stage, raw: &mut Raw, protocol: Protocol, sql: &str) {
    eventually(&format!("{sql} on a standby"), async || {
        let outcome = stage.run(raw, protocol, sql).await;
        assert_eq!(outcome.error(), None, "{sql}: {outcome:?}");
        outcome.places == [Place::Standby]
    })
    .await;
}

#[tokio::test]
async fn hints_decide() {
    for split in ["declared", "auto"] {
        let stage = stage(|spec| {
            spec.set("route.split", split);
        })
        .await;
        let mut raw = stage.scene.raw().await;
        for protocol in BOTH {
            let read = "/* pgsteer: standby */ SELECT a FROM plain";
            reaches_a_standby(&stage, &mut raw, protocol, read).await;
            let primary = "/* pgsteer: primary */ SELECT a FROM plain";
            stage.run(&mut raw, protocol, primary).await.ran_on(Place::Primary, primary);
            for write in ["SELECT writes()", "INSERT INTO log VALUES (1)"] {
                let sql = format!("/* pgsteer: standby */ {write}");
                reaches_a_standby(&stage, &mut raw, protocol, read).await;
                stage.run(&mut raw, protocol, &sql).await.failed_on(Place::Standby, "25006", &sql);
                stage.run(&mut raw, protocol, write).await.ran_on(Place::Primary, write);
            }
            // Behind the first word it is no hint.
            let inner = "INSERT INTO log VALUES (1) /* pgsteer: standby */";
            stage.run(&mut raw, protocol, inner).await.ran_on(Place::Primary, inner);
        }
        assert_eq!(stage.written().await, 6, "{split}");
        assert_eq!(stage.reruns().await, 0);
        stage.finish().await;
    }
}

#[tokio::test]
async fn a_target_of_the_session_decides() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    for (to_primary, to_standby, reset) in [
        ("SET pgsteer.target = 'primary'", "SET pgsteer.target = 'standby'", "RESET pgsteer.target"),
        ("SET pgsteer.target TO 'primary'", "set session pgsteer.target to standby", "RESET ALL"),
        (
            "SELECT set_config('pgsteer.target', 'primary', false)",
            "SELECT set_config('pgsteer.target', 'standby', false)",
            "SET pgsteer.target TO DEFAULT",
        ),
    ] {
        for protocol in BOTH {
            stage.settle(&mut raw).await;
            let set = stage.query(&mut raw, to_primary).await;
            assert_eq!(set.error(), None, "{to_primary}: {set:?}");
            for _ in 0..5 {
                stage.run(&mut raw, protocol, "SELECT a FROM plain").await.ran_on(Place::Primary, to_primary);
            }
            let set = stage.query(&mut raw, to_standby).await;
            assert_eq!(set.error(), None, "{to_standby}: {set:?}");
            reaches_a_standby(&stage, &mut raw, protocol, "SELECT pg_is_in_recovery()").await;
            stage.run(&mut raw, protocol, "SELECT writes()").await.failed_on(
                Place::Standby,
                "25006",
                to_standby,
            );
            let set = stage.query(&mut raw, reset).await;
            assert_eq!(set.error(), None, "{reset}: {set:?}");
            stage.run(&mut raw, protocol, "SELECT writes()").await.ran_on(Place::Primary, reset);
        }
    }
    // What a transaction takes back was never said.
    for (set, place) in [("primary", Place::Standby), ("standby", Place::Primary)] {
        raw.query(&format!("BEGIN; SET pgsteer.target = '{set}'; ROLLBACK")).await;
        stage.settle(&mut raw).await;
        let sql = if place == Place::Primary { "SELECT writes()" } else { "SELECT a FROM plain" };
        stage.query(&mut raw, sql).await.ran_on(place, sql);
    }
    for (target, sql, place) in [
        ("primary", "SELECT a FROM plain", Place::Primary),
        ("standby", "SELECT pg_is_in_recovery()", Place::Standby),
    ] {
        let mut raw = stage.login(&[("options", &format!("-c pgsteer.target={target}"))]).await;
        stage.query(&mut raw, sql).await.ran_on(place, sql);
    }
    stage.finish().await;
}

#[tokio::test]
async fn read_only_transactions_run_on_one_standby() {
    for split in ["declared", "auto"] {
        let stage = stage(|spec| {
            spec.set("route.split", split);
        })
        .await;
        let mut raw = stage.scene.raw().await;
        for begin in [
            "BEGIN READ ONLY",
            "START TRANSACTION READ ONLY",
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        ] {
            for protocol in BOTH {
                reaches_a_standby(&stage, &mut raw, protocol, "/* pgsteer: standby */ SELECT 1").await;
                let mark = stage.mark();
                for sql in
                    [begin, "SELECT a FROM plain", "SELECT pg_is_in_recovery()", "SHOW transaction_read_only"]
                {
                    let outcome = stage.run(&mut raw, protocol, &mark.on(sql)).await;
                    outcome.ran_on(Place::Standby, sql);
                }
                let mut nodes = stage.nodes(&mark);
                nodes.dedup();
                assert_eq!(nodes.len(), 1, "{begin}: {nodes:?}");
                // Declared is declared: the error stands, and so does the failed block.
                stage.run(&mut raw, protocol, "SELECT writes()").await.failed_on(
                    Place::Standby,
                    "25006",
                    begin,
                );
                let refused = stage.run(&mut raw, protocol, "INSERT INTO log VALUES (1)").await;
                assert_eq!(refused.error().as_deref(), Some("25P02"));
                let end = stage.run(&mut raw, protocol, "COMMIT").await;
                assert_eq!(end.frames.last().map(|last| last.body.clone()), Some(b"I".to_vec()), "{end:?}");
                stage
                    .run(&mut raw, protocol, "INSERT INTO log VALUES (1)")
                    .await
                    .ran_on(Place::Primary, "INSERT");
            }
        }
        assert_eq!(stage.written().await, 6, "{split}");
        assert_eq!(stage.reruns().await, 0);
        stage.finish().await;
    }
}

/// One snapshot, whatever is written meanwhile; and a session's own write is seen by its next transaction.
#[tokio::test]
async fn a_read_only_transaction_sees_one_state_and_the_own_writes() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    for number in 1..=20 {
        raw.query("INSERT INTO log VALUES (1)").await;
        raw.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
        assert_eq!(raw.value("SELECT count(*) FROM log").await, number.to_string(), "its own write");
        if number % 10 == 0 {
            stage.on_primary("INSERT INTO log VALUES (2)").await;
            assert_eq!(raw.value("SELECT count(*) FROM log").await, number.to_string(), "one snapshot");
            stage.on_primary("DELETE FROM log WHERE a = 2").await;
        }
        raw.query("COMMIT").await;
    }
    stage.finish().await;
}

#[tokio::test]
async fn read_only_sessions_read_on_standbys_until_they_say_otherwise() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    for (read_only, read_write) in [
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        ),
        ("SET default_transaction_read_only = on", "SET default_transaction_read_only = off"),
        ("SET default_transaction_read_only TO 1", "RESET default_transaction_read_only"),
        ("SELECT set_config('default_transaction_read_only', 'yes', false)", "RESET ALL"),
    ] {
        for protocol in BOTH {
            let set = stage.query(&mut raw, read_only).await;
            assert_eq!(set.error(), None, "{read_only}: {set:?}");
            // Whatever it calls, and blocks that do not say otherwise.
            reaches_a_standby(&stage, &mut raw, protocol, "SELECT pg_is_in_recovery()").await;
            stage.run(&mut raw, protocol, "SELECT writes()").await.failed_on(
                Place::Standby,
                "25006",
                read_only,
            );
            for sql in ["BEGIN", "SELECT a FROM plain", "COMMIT"] {
                stage.run(&mut raw, protocol, sql).await.ran_on(Place::Standby, sql);
            }
            let refused = stage.run(&mut raw, protocol, "INSERT INTO log VALUES (1)").await;
            assert_eq!(refused.error().as_deref(), Some("25006"), "{read_only}: {refused:?}");
            // A block may say otherwise.
            for sql in ["BEGIN READ WRITE", "INSERT INTO log VALUES (1)", "SELECT a FROM plain", "ROLLBACK"] {
                stage.run(&mut raw, protocol, sql).await.ran_on(Place::Primary, sql);
            }
            let set = stage.query(&mut raw, read_write).await;
            assert_eq!(set.error(), None, "{read_write}: {set:?}");
            let shown = stage.query(&mut raw, "SHOW default_transaction_read_only").await;
            assert_eq!(shown.value(), "off", "{read_write}");
            for sql in ["INSERT INTO log VALUES (1)", "BEGIN", "INSERT INTO log VALUES (1)", "COMMIT"] {
                stage.run(&mut raw, protocol, sql).await.ran_on(Place::Primary, read_write);
            }
        }
    }
    assert_eq!(stage.written().await, 16);
    stage.finish().await;
}

/// SET TRANSACTION as the first statement of a block says where the block runs, and what it may do.
#[tokio::test]
async fn set_transaction_holds_for_its_block() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    for set in [
        "SET TRANSACTION READ ONLY",
        "SET transaction_read_only = on",
        "SET LOCAL transaction_read_only TO on",
    ] {
        for protocol in BOTH {
            stage.settle(&mut raw).await;
            let mark = stage.mark();
            stage.query(&mut raw, "BEGIN").await;
            for sql in [set, "SELECT a FROM plain"] {
                let outcome = stage.run(&mut raw, protocol, &mark.on(sql)).await;
                assert_eq!(outcome.error(), None, "{sql}: {outcome:?}");
            }
            let mut nodes = stage.nodes(&mark);
            nodes.dedup();
            assert_eq!(nodes.len(), 1, "one block on one node: {nodes:?}");
            let refused = stage.run(&mut raw, protocol, "INSERT INTO log VALUES (1)").await;
            assert_eq!(refused.error().as_deref(), Some("25006"), "{set}: {refused:?}");
            stage.run(&mut raw, protocol, "ROLLBACK").await;
            let next = "INSERT INTO log VALUES (1)";
            stage.run(&mut raw, protocol, next).await.ran_on(Place::Primary, set);
            // Outside a block it says nothing, and warns.
            stage.query(&mut raw, set).await;
            stage.run(&mut raw, protocol, next).await.ran_on(Place::Primary, set);
        }
    }
    assert_eq!(stage.written().await, 12);
    stage.finish().await;
}

/// Who may not split gets nothing split.
#[tokio::test]
async fn without_splitting_all_runs_on_the_primary() {
    let stage = stage(|spec| {
        spec.set("route.split", "off");
    })
    .await;
    let mut raw = stage.scene.raw().await;
    for sql in
        ["SELECT a FROM plain", "/* pgsteer: standby */ SELECT 1", "BEGIN READ ONLY", "SELECT 1", "COMMIT"]
    {
        for protocol in BOTH {
            stage.run(&mut raw, protocol, sql).await.ran_on(Place::Primary, sql);
        }
    }
    stage.finish().await;
}
