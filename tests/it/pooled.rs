//! Transaction mode under trouble: readers that stop, cancel requests that come late, a primary that is lost.

use std::time::Duration;

use crate::harness::raw::{self, Raw, bind, execute, parse, query, sync};
use crate::harness::scene::{Scene, scene};
use crate::harness::soon;

/// A cluster with that many standbys, and so many backends for all sessions.
async fn shared(standbys: usize, size: usize) -> Scene {
    scene(standbys, |spec| {
        spec.set("pool.mode", "transaction").raw("pool.size", &size.to_string());
        spec.set("limits.client_write_timeout", "500ms");
    })
    .await
}

#[tokio::test]
async fn a_reader_that_stops_loses_its_backend() {
    let scene = shared(0, 1).await;
    let (mut slow, mut other) = (scene.raw().await, scene.raw().await);
    for bytes in [
        query("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)"),
        query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1000000)) TO STDOUT"),
    ] {
        slow.send(&bytes).await;
        scene
            .primary_says("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'", "1")
            .await;
        assert_eq!(soon("its turn", other.value("SELECT 1")).await, "1");
        assert!(slow.end().await.iter().all(|frame| frame.tag != b'Z'), "it was cut off");
        slow = scene.raw().await;
    }
    // One that takes its time, but takes, keeps it.
    slow.send(&query("SELECT repeat('x', 1000) FROM generate_series(1, 20000)")).await;
    let mut rows = 0;
    while let Some(frame) = slow.next().await {
        rows += u32::from(frame.tag == b'D');
        if frame.tag == b'Z' {
            break;
        }
        if rows % 4000 == 0 {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
    assert_eq!(rows, 20_000);
    drop((slow, other));
    scene.finish().await;
}

#[tokio::test]
async fn a_cancel_hits_nobody_behind_its_transaction() {
    let scene = shared(0, 1).await;
    let address = scene.proxy.address();
    let (mut first, mut second) = (scene.raw().await, scene.raw().await);
    for round in 0..40 {
        first.send(&query("SELECT 1")).await;
        let mut cancel = Raw::tcp(&address).await;
        cancel.send(&raw::cancel_request(first.pid, &first.key)).await;
        // Its own statement may be hit, or not.
        first.until(b'Z').await;
        for _ in 0..3 {
            let frames = second.query("SELECT pg_sleep(0.001)").await;
            assert!(frames.iter().all(|frame| frame.tag != b'E'), "round {round}: {frames:?}");
        }
        assert_eq!(cancel.end().await, []);
    }
    // Between its transactions a session has nothing that could be cancelled, whoever has its last backend.
    second.send(&query("SELECT pg_sleep(60)")).await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    scene.primary_says(sleeping, "1").await;
    first.cancel(&address).await;
    let mut wrong = Raw::tcp(&address).await;
    wrong.send(&raw::cancel_request(second.pid, &first.key)).await;
    assert_eq!(wrong.end().await, []);
    assert_eq!(second.within(Duration::from_millis(200)).await, None, "it sleeps on");
    second.cancel(&address).await;
    let frames = second.expect("TEZ").await;
    assert_eq!(frames[1].sqlstate(), "57014");
    assert_eq!(first.value("SELECT 2").await, "2");
    drop((first, second));
    scene.finish().await;
}

/// What each session has set and prepared is its own number.
async fn says_its_number(raw: &mut Raw, number: usize) {
    raw.send(&[bind("", "mine", &["1"]), execute("", 0), sync()].concat()).await;
    let frames = raw.expect("2DCZ").await;
    assert_eq!(frames[1].columns()[0].as_deref(), Some((number + 1).to_string().as_str()));
    assert_eq!(raw.value("SHOW work_mem").await, format!("{number}MB"));
}

#[tokio::test]
async fn sessions_of_few_backends_go_on_at_the_new_primary() {
    let scene = shared(1, 2).await;
    let mut sessions = Vec::new();
    for number in 1..=6 {
        let mut raw = scene.raw().await;
        raw.query(&format!("SET work_mem = '{number}MB'")).await;
        raw.send(&[parse("mine", &format!("SELECT $1::int + {number}")), sync()].concat()).await;
        raw.expect("1Z").await;
        says_its_number(&mut raw, number).await;
        sessions.push(raw);
    }
    // One is in a transaction, for which the others do not pay.
    let mut open = scene.raw().await;
    open.query("BEGIN").await;
    open.query("SELECT 1").await;
    scene.cluster.n(0).kill().unwrap();
    scene.wait_node_not(0, "health", "up").await;
    // Half of them ask while nobody can answer.
    for raw in &mut sessions[..3] {
        raw.send(&query("SELECT pg_is_in_recovery()")).await;
    }
    assert!(sessions[0].within(Duration::from_millis(50)).await.is_none(), "statements wait");
    scene.promote_best().await;
    for raw in &mut sessions[..3] {
        let frames = raw.expect("TDCZ").await;
        assert_eq!(frames[1].columns()[0].as_deref(), Some("f"));
    }
    for round in 0..2 {
        for (index, raw) in sessions.iter_mut().enumerate() {
            assert_eq!(raw.value("SHOW port").await, scene.cluster.n(1).port().to_string(), "round {round}");
            says_its_number(raw, index + 1).await;
        }
    }
    assert_eq!(open.error("SELECT 1").await, "40001");
    assert_eq!(open.error("SELECT 1").await, "25P02");
    open.query("ROLLBACK").await;
    assert_eq!(open.value("SELECT 1").await, "1");
    drop((sessions, open));
    scene.finish().await;
}
