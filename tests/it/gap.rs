//! How long writes stand still in a failover, and how long a standby that is too old is still read from.
//! `scripts/failover.sh` makes a measurement of both, on a machine that does nothing else; among the other tests it is one
//! run of each kind.

use std::fmt::Write as _;
use std::time::Duration;

use pgsteer::demo::node::Promote;
use pgsteer::demo::process::{Signal, send};
use tokio::time::Instant;

use crate::harness::scene::{Scene, linked_scene, scene};
use crate::harness::{LIMIT, eventually};

/// Clients that write; more than backends are kept warm, so that some have to wait for a login at the new primary.
const WRITERS: usize = 8;
/// Clients that read from standbys all the while.
const READERS: usize = 4;
/// What whoever decides on promotions takes to be sure.
const DECISION: Duration = Duration::from_secs(1);
/// What the median may be, milliseconds: when it is measured, and while other tests share the cores.
const PROMISE_MS: [f64; 2] = [50.0, 2000.0];

/// `cluster.max_lag` of the runs with a standby that gets old.
const MAX_LAG: Duration = Duration::from_millis(500);
/// What that standby may take beyond it, milliseconds, where that is measured. Elsewhere it leaves some time.
const LEAVES_MS: [f64; 2] = [200.0, f64::INFINITY];

#[derive(Debug, Clone, Copy)]
enum Fault {
    Killed,
    Frozen,
    CutOff,
}

/// Milliseconds from the moment at which the new primary accepted writes.
struct Gap {
    first: f64,
    all: f64,
}

fn ms(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1000.0
}

async fn one(fault: Fault) -> Gap {
    let scene: Scene = match fault {
        Fault::CutOff => linked_scene(2, |_| {}).await,
        Fault::Killed | Fault::Frozen => scene(2, |_| {}).await,
    };
    let oracle = scene.oracle(WRITERS, READERS).await;
    oracle.more_writes(500).await;
    match fault {
        Fault::Killed => drop(scene.cluster.n(0).kill().unwrap()),
        Fault::Frozen => scene.cluster.n(0).freeze().unwrap(),
        Fault::CutOff => scene.links[0].cut(),
    }
    tokio::time::sleep(DECISION).await;
    let (new, asked, writable) = scene.promote_best().await;
    let everybody = || oracle.ledger.all_acknowledged_after(asked, WRITERS);
    eventually("a write of everybody on the new primary", async || everybody().is_some()).await;
    let gap = Gap {
        first: ms(writable, oracle.ledger.first_ack_after(asked).unwrap()),
        all: ms(writable, everybody().unwrap()),
    };
    let summary = oracle.judge(scene.cluster.n(new)).await.summary();
    assert_eq!(summary.lost_connections, 0, "{summary:?}");
    scene.finish().await;
    gap
}

/// Least, median and most.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

/// How often, and which of two promises holds.
fn runs(promises: [f64; 2]) -> (usize, f64) {
    let measured = std::env::var("PGSTEER_RUNS").ok().map(|text| text.parse().unwrap());
    measured.map_or((1, promises[1]), |runs| (runs, promises[0]))
}

/// How a standby gets old.
#[derive(Debug, Clone, Copy)]
enum Ageing {
    /// Its replay is paused: it receives everything.
    ReplayPaused,
    /// Its receiver hangs.
    ReceiverHangs,
    /// It has more than the standby that was promoted, and never follows.
    AheadOfTheFork,
}

/// Milliseconds from the moment at which it is too old.
async fn leaves(ageing: Ageing) -> f64 {
    let limit = format!("{}ms", MAX_LAG.as_millis());
    let scene = scene(2, |spec| {
        spec.set("cluster.max_lag", &limit);
    })
    .await;
    let (old, next) = (scene.cluster.n(1), scene.cluster.n(2));
    let mut writer = scene.raw().await;
    writer.query("CREATE TABLE noise (a int)").await;
    let mut too_old = Instant::now() + MAX_LAG;
    match ageing {
        Ageing::ReplayPaused => old.pause_replay().await.unwrap(),
        Ageing::ReceiverHangs => send(Signal::Stop, &old.processes_called("walreceiver")).unwrap(),
        Ageing::AheadOfTheFork => {
            next.repoint("host=127.0.0.1 port=1").await.unwrap();
            next.wait_for("SELECT count(*) FROM pg_stat_wal_receiver", "0", LIMIT).await.unwrap();
            writer.query("INSERT INTO noise VALUES (1)").await;
            scene.cluster.wait_caught_up(old, scene.cluster.n(0)).await.unwrap();
            scene.cluster.n(0).kill().unwrap();
            too_old = next.promote_and_wait(Promote::PgCtl).await.unwrap();
        }
    }
    eventually("the standby is left alone", async || {
        writer.query("INSERT INTO noise VALUES (1)").await;
        scene.node(1).await["reads"] != "qualified"
    })
    .await;
    let late = ms(too_old, Instant::now());
    old.thaw().unwrap();
    drop(writer);
    scene.finish().await;
    late
}

#[tokio::test]
async fn standbys_leave() {
    let (runs, promise) = runs(LEAVES_MS);
    let mut lines = String::from("| standby | left after its limit, ms: median (min to max) |\n|---|---|\n");
    let mut medians = Vec::new();
    for (ageing, name) in [
        (Ageing::ReplayPaused, "its replay is paused"),
        (Ageing::ReceiverHangs, "its receiver hangs"),
        (Ageing::AheadOfTheFork, "it is ahead of the fork"),
    ] {
        let mut late = Vec::new();
        for _ in 0..runs {
            late.push(leaves(ageing).await);
        }
        let [least, median, most] = spread(late);
        writeln!(lines, "| {name} | {median:.1} ({least:.1} to {most:.1}) |").unwrap();
        medians.push(median);
    }
    println!("{lines}");
    assert!(medians.iter().all(|median| *median <= promise), "the promise is {promise} ms");
}

#[tokio::test]
async fn write_gaps() {
    let (runs, promise) = runs(PROMISE_MS);
    let mut lines = String::from(
        "| primary | first write, ms: median (min to max) | every writer, ms: median (min to max) |\n|---|---|---|\n",
    );
    let mut medians = Vec::new();
    for (fault, name) in [(Fault::Killed, "killed"), (Fault::Frozen, "frozen"), (Fault::CutOff, "cut off")] {
        let mut gaps = Vec::new();
        for run in 1..=runs {
            gaps.push(one(fault).await);
            let Gap { first, all } = &gaps[run - 1];
            eprintln!("{name}, run {run}: first write {first:.1} ms, every writer {all:.1} ms");
        }
        let [least, median, most] = spread(gaps.iter().map(|gap| gap.first).collect());
        let all = spread(gaps.iter().map(|gap| gap.all).collect());
        writeln!(
            lines,
            "| {name} | {median:.1} ({least:.1} to {most:.1}) | {:.1} ({:.1} to {:.1}) |",
            all[1], all[0], all[2]
        )
        .unwrap();
        medians.push(median);
    }
    println!("{lines}");
    assert!(medians.iter().all(|median| *median <= promise), "the promise is {promise} ms");
}
