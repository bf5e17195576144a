//! Recovery conflicts: a standby that may not wait ends reads that are in the way of what the primary has cleaned up.

use std::time::Duration;

use crate::harness::raw::{Raw, bind, execute, parse, query, sync};

use super::stage::{BOTH, Mark, Place, Protocol, Stage, stage_with};

const LIMIT: Duration = Duration::from_secs(20);

/// How long a read sleeps is in a table: a minute in every snapshot from before the conflict, no time behind it.
async fn conflicting() -> Stage {
    let stage = stage_with(&[("max_standby_streaming_delay", "0"), ("autovacuum", "off")], |_| {}).await;
    stage.on_primary("SET ROLE app; CREATE TABLE nap (seconds int); INSERT INTO nap VALUES (60)").await;
    stage
}

impl Stage {
    async fn send(&self, raw: &mut Raw, protocol: Protocol, sql: &str) -> Mark {
        let mark = self.mark();
        let sql = mark.on(sql);
        let bytes = match protocol {
            Protocol::Simple => query(&sql),
            Protocol::Extended => [parse("", &sql), bind("", "", &[]), execute("", 0), sync()].concat(),
        };
        raw.send(&bytes).await;
        mark
    }

    /// Waits until the statement sleeps, on a standby.
    async fn asleep(&self, mark: &Mark) {
        crate::harness::eventually("the statement to be on a standby", async || {
            assert!(!self.nodes(mark).contains(&0), "it is on the primary");
            !self.nodes(mark).is_empty()
        })
        .await;
        let node = self.scene.cluster.n(self.nodes(mark)[0]);
        let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        node.wait_for(asleep, "1", LIMIT).await.unwrap();
    }

    /// Cleans up what the snapshots of now still see, until the standby has ended what was in the way; `seconds` is the nap
    /// of those to come.
    async fn conflict(&self, mark: &Mark, seconds: u32) {
        let standby = self.scene.cluster.n(self.nodes(mark)[0]);
        let ended = "SELECT confl_snapshot FROM pg_stat_database_conflicts WHERE datname = 'app'";
        let before = standby.one(ended).await.unwrap();
        let mut sql = self.scene.cluster.n(0).sql_in("app").await.unwrap();
        sql.run(&format!("UPDATE nap SET seconds = {seconds}")).await.unwrap();
        crate::harness::eventually("the standby to end what is in the way", async || {
            // It leaves what any other snapshot on the primary may see.
            sql.run("VACUUM nap").await.unwrap();
            standby.one(ended).await.unwrap() != before
        })
        .await;
    }
}

#[tokio::test]
async fn a_read_that_is_cancelled_for_recovery_runs_again_on_the_primary() {
    let stage = conflicting().await;
    let mut raw = stage.scene.raw().await;
    let sql = "SELECT count(*), pg_sleep((SELECT max(seconds) FROM nap)) FROM plain";
    for protocol in BOTH {
        stage.on_primary("UPDATE nap SET seconds = 60").await;
        stage.settle(&mut raw).await;
        let mark = stage.send(&mut raw, protocol, sql).await;
        stage.asleep(&mark).await;
        stage.conflict(&mark, 0).await;
        let frames = raw.until(b'Z').await;
        let row = frames.iter().find(|frame| frame.tag == b'D').unwrap_or_else(|| panic!("{frames:?}"));
        assert_eq!(row.columns()[0].as_deref(), Some("1"));
        assert!(!frames.iter().any(|frame| matches!(frame.tag, b'E' | b'N')), "{frames:?}");
        assert_eq!(stage.places(&mark), [Place::Primary, Place::Standby]);
        // It was no write: the next one is a read as ever.
        stage.settle(&mut raw).await;
        stage.run(&mut raw, protocol, sql).await.ran_on(Place::Standby, sql);
    }
    assert_eq!(stage.reruns().await, 2);
    stage.finish().await;
}

#[tokio::test]
async fn a_read_that_is_cancelled_behind_delivered_rows_fails_with_40001() {
    let stage = conflicting().await;
    let mut raw = stage.scene.raw().await;
    let sql =
        "SELECT repeat('x', 10000), pg_sleep(CASE WHEN n = 100 THEN (SELECT seconds FROM nap) ELSE 0 END)
        FROM generate_series(1, 200) n";
    for protocol in BOTH {
        stage.on_primary("UPDATE nap SET seconds = 60").await;
        stage.settle(&mut raw).await;
        let mark = stage.send(&mut raw, protocol, sql).await;
        raw.until(b'D').await;
        stage.asleep(&mark).await;
        stage.conflict(&mark, 0).await;
        let frames = raw.until(b'Z').await;
        let error = frames.iter().find(|frame| frame.tag == b'E').unwrap_or_else(|| panic!("{frames:?}"));
        assert_eq!(error.sqlstate(), "40001", "{error}");
        assert_eq!(stage.places(&mark), [Place::Standby], "it runs once");
        assert_eq!(raw.value("SELECT count(*) FROM plain").await, "1");
    }
    stage.finish().await;
}

/// The standby ends the whole connection of a transaction that idles on an old snapshot: the client's stays.
#[tokio::test]
async fn a_transaction_that_is_ended_for_recovery_fails_with_40001() {
    let stage = conflicting().await;
    let mut raw = stage.scene.raw().await;
    for protocol in BOTH {
        stage.on_primary("UPDATE nap SET seconds = 60").await;
        stage.settle(&mut raw).await;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        stage.run(&mut raw, protocol, begin).await.ran_on(Place::Standby, begin);
        let mark = stage.send(&mut raw, protocol, "SELECT seconds FROM nap").await;
        raw.until(b'Z').await;
        stage.conflict(&mark, 0).await;
        let outcome = stage.run(&mut raw, protocol, "SELECT seconds FROM nap").await;
        assert_eq!(outcome.error().as_deref(), Some("40001"), "{outcome:?}");
        let refused = stage.run(&mut raw, protocol, "SELECT 1").await;
        assert_eq!(refused.error().as_deref(), Some("25P02"), "{refused:?}");
        let end = raw.query("ROLLBACK").await;
        assert_eq!(end.last().map(ToString::to_string), Some("Z I".to_owned()), "{end:?}");
        stage.run(&mut raw, protocol, "SELECT writes()").await.ran_on(Place::Primary, "the next statement");
    }
    stage.finish().await;
}
