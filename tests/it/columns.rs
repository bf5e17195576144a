//! Statements whose result gets other columns, in transaction mode: whoever knows the columns never gets others, whoever
//! does not is spared the error, on every backend alike.

use crate::harness::drivers::{connect, sqlstate};
use crate::harness::raw::{Raw, bind, describe, execute, flush, parse, sync};
use crate::harness::scene::{Scene, scene};

const BACKENDS: usize = 3;

async fn shared() -> Scene {
    let scene = scene(0, |spec| {
        spec.set("pool.mode", "transaction");
        spec.raw("pool.size", &BACKENDS.to_string());
    })
    .await;
    let mut node = scene.cluster.n(0).sql_in("app").await.unwrap();
    node.run("CREATE TABLE t (id int, name text); INSERT INTO t VALUES (1, 'x'); GRANT ALL ON t TO app")
        .await
        .unwrap();
    scene
}

async fn alter(scene: &Scene, sql: &str) {
    scene.cluster.n(0).sql_in("app").await.unwrap().run(sql).await.unwrap();
}

/// Sessions that hold all backends: each lets the next statement run on its own.
struct Holders(Vec<Raw>);

impl Holders {
    async fn new(scene: &Scene) -> Self {
        let mut all = Vec::new();
        for _ in 0..BACKENDS {
            let mut holder = scene.raw().await;
            holder.query("BEGIN").await;
            all.push(holder);
        }
        Self(all)
    }

    /// Does something on each backend in turn.
    async fn on_each(&mut self, mut run: impl AsyncFnMut()) {
        for holder in &mut self.0 {
            holder.query("COMMIT").await;
            run().await;
            holder.query("BEGIN").await;
        }
    }
}

#[tokio::test]
async fn a_driver_that_knows_the_columns_never_gets_others() {
    let scene = shared().await;
    let old = connect(&scene.proxy.config()).await.unwrap();
    let statement = old.prepare("SELECT * FROM t").await.unwrap();
    let new = connect(&scene.proxy.config()).await.unwrap();
    let mut holders = Holders::new(&scene).await;
    holders.on_each(async || assert_eq!(old.query(&statement, &[]).await.unwrap()[0].len(), 2)).await;
    alter(&scene, "ALTER TABLE t ADD COLUMN more int").await;
    // Whoever prepares it now knows three, whatever the backends have of before.
    holders.0[0].query("COMMIT").await;
    let fresh = new.prepare("SELECT * FROM t").await.unwrap();
    holders.0[0].query("BEGIN").await;
    holders
        .on_each(async || {
            assert_eq!(sqlstate(old.query(&statement, &[]).await), "0A000");
            assert_eq!(new.query(&fresh, &[]).await.unwrap()[0].len(), 3);
        })
        .await;
    // The old driver prepares it again, and a table that is made again as it was is the same to it.
    holders.0[1].query("COMMIT").await;
    let statement = old.prepare("SELECT * FROM t").await.unwrap();
    holders.0[1].query("BEGIN").await;
    alter(&scene, "DROP TABLE t; CREATE TABLE t (id int, name text, more int); GRANT ALL ON t TO app").await;
    holders
        .on_each(async || {
            assert!(old.query(&statement, &[]).await.unwrap().is_empty());
            assert!(new.query(&fresh, &[]).await.unwrap().is_empty());
        })
        .await;
    scene.finish().await;
}

#[tokio::test]
async fn the_error_is_the_servers() {
    let scene = shared().await;
    let mut answers = Vec::new();
    for mut raw in [scene.raw_direct().await, scene.raw().await] {
        let batch = [parse("s", "SELECT * FROM t"), describe(b'S', "s"), sync()].concat();
        raw.send(&batch).await;
        raw.until(b'Z').await;
        alter(&scene, "ALTER TABLE t ADD COLUMN more int").await;
        let mut told = Vec::new();
        for (in_block, batch) in [
            (false, [bind("", "s", &[]), execute("", 0), sync()].concat()),
            (false, [describe(b'S', "s"), sync()].concat()),
            (true, [parse("", "SELECT 1"), bind("", "s", &[]), execute("", 0), sync()].concat()),
            (false, [bind("", "s", &[]), flush(), sync()].concat()),
        ] {
            if in_block {
                raw.query("BEGIN").await;
            }
            raw.send(&batch).await;
            for frame in raw.until(b'Z').await {
                let error = (frame.tag == b'E')
                    .then(|| "SCMR".chars().map(|c| frame.field(c as u8)).collect::<Vec<_>>());
                told.push((frame.tag as char, error));
            }
            if in_block {
                raw.query("ROLLBACK").await;
            }
        }
        alter(&scene, "ALTER TABLE t DROP COLUMN more").await;
        answers.push(told);
    }
    assert_eq!(answers[1], answers[0]);
    assert!(answers[0].iter().filter(|(tag, _)| *tag == 'E').count() == 4, "{answers:?}");
    scene.finish().await;
}

#[tokio::test]
async fn a_driver_that_does_not_know_the_columns_gets_the_new_ones() {
    let scene = shared().await;
    let mut raw = scene.raw().await;
    raw.send(&[parse("s", "SELECT * FROM t"), sync()].concat()).await;
    raw.until(b'Z').await;
    let run = [bind("", "s", &[]), describe(b'P', ""), execute("", 0), sync()].concat();
    let mut holders = Holders::new(&scene).await;
    for columns in [2, 3, 2] {
        holders
            .on_each(async || {
                raw.send(&run).await;
                let frames = raw.expect("2TDCZ").await;
                assert_eq!(frames[1].fields().len(), columns);
                assert_eq!(frames[2].columns().len(), columns);
            })
            .await;
        let change = if columns == 2 { "ADD COLUMN more int" } else { "DROP COLUMN more" };
        alter(&scene, &format!("ALTER TABLE t {change}")).await;
    }
    // In a transaction the server's word stands.
    holders.0[2].query("COMMIT").await;
    raw.query("BEGIN").await;
    raw.send(&run).await;
    let frames = raw.expect("EZ").await;
    assert_eq!(frames[0].sqlstate(), "0A000");
    scene.finish().await;
}
