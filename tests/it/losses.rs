//! The table of `docs/failover.md`, row by row, for each way to lose a primary: what a client is told, and that it goes on.

use pgsteer::demo::node::{Promote, Stop};
use pgsteer::demo::process::{Signal, send};

use crate::harness::loss::Loss;
use crate::harness::raw::{self, Raw, bind, copy_data, describe, execute, parse, query, sync};
use crate::harness::scene::{Scene, linked_scene};
use crate::harness::{LIMIT, eventually};

/// How the primary goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    /// It is lost, and a standby promoted.
    For(Loss),
    /// It is stopped so and started again.
    AndComesBack(Stop),
}

impl Goes {
    /// Loses the primary; the index of the node that is to serve then.
    async fn strike(self, scene: &Scene) -> usize {
        match self {
            Self::For(loss) => {
                loss.strike(scene);
                scene.cluster.n(1).promote_and_wait(Promote::PgCtl).await.unwrap();
                // Until then the old one serves, if it lives.
                scene.wait_node(1, "role", "primary").await;
                1
            }
            Self::AndComesBack(how) => {
                let primary = scene.cluster.n(0);
                primary.ask_to_stop(how).unwrap();
                primary.wait_exit().await.unwrap();
                primary.start().await.unwrap();
                0
            }
        }
    }
}

/// What a client does before the primary is lost.
enum Doing {
    /// Nothing more than its preparations.
    Nothing,
    /// This was sent and is not answered.
    Waits(Vec<u8>),
    /// This was sent and the server process does nothing about it.
    Stopped(Vec<u8>),
}

/// A row of the table.
struct Row {
    name: &'static str,
    /// Run before, one by one.
    before: &'static [&'static str],
    doing: Doing,
    /// What the client hears of that.
    hears: &'static str,
    /// What it sends afterwards, and hears, one by one.
    after: Vec<(Vec<u8>, &'static str)>,
}

impl Row {
    fn new(name: &'static str, before: &'static [&'static str]) -> Self {
        Self { name, before, doing: Doing::Nothing, hears: "", after: Vec::new() }
    }

    fn waits(mut self, bytes: Vec<u8>, hears: &'static str) -> Self {
        (self.doing, self.hears) = (Doing::Waits(bytes), hears);
        self
    }

    fn stopped(mut self, bytes: Vec<u8>, hears: &'static str) -> Self {
        (self.doing, self.hears) = (Doing::Stopped(bytes), hears);
        self
    }

    fn then(mut self, bytes: Vec<u8>, hears: &'static str) -> Self {
        self.after.push((bytes, hears));
        self
    }

    fn says(self, sql: &str, hears: &'static str) -> Self {
        self.then(query(sql), hears)
    }
}

/// A batch of the extended protocol.
fn batch(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()].concat()
}

const OPEN: &[&str] = &["BEGIN", "INSERT INTO t VALUES ('lost')"];
/// Waits for a lock that another holds.
const BLOCKED: &str = "INSERT INTO locked VALUES (1)";

/// Nothing is under way, or a transaction that waits for its client.
fn quiet_rows() -> Vec<Row> {
    let told = "E40001 ZE";
    vec![
        Row::new("between transactions", &["SET work_mem = '7MB'", "PREPARE p AS SELECT 1"])
            .says("SHOW work_mem", "T D7MB CSHOW ZI")
            .says("EXECUTE p", "T D1 CSELECT_1 ZI"),
        Row::new("in a transaction", OPEN)
            .says("SELECT 1", told)
            .says("SELECT 1", "E25P02 ZE")
            .says("ROLLBACK TO SAVEPOINT a", "E25P02 ZE")
            .says("ROLLBACK", "CROLLBACK ZI"),
        Row::new("in a transaction, then COMMIT", OPEN).says("COMMIT", "E40001 ZI"),
        Row::new("in a transaction, then ROLLBACK", OPEN).says("ROLLBACK", "CROLLBACK ZI"),
        Row::new("in a transaction, then batches", OPEN)
            .then(batch("SELECT 1"), told)
            .then(batch("SELECT 1"), "E25P02 ZE")
            .then(batch("ROLLBACK"), "1 2 n CROLLBACK ZI"),
        Row::new("in a transaction, then a pipeline", OPEN).then(
            [batch("INSERT INTO t VALUES ('lost')"), batch("SELECT 1"), batch("COMMIT"), batch("SELECT 2")]
                .concat(),
            "E40001 ZE E25P02 ZE 1 2 n CROLLBACK ZI 1 2 T D2 CSELECT_1 ZI",
        ),
        Row::new("in a transaction, then a pipeline that begins with COMMIT", OPEN)
            .then([batch("COMMIT"), batch("SELECT 3")].concat(), "1 2 n E40001 ZI 1 2 T D3 CSELECT_1 ZI"),
        Row::new("in a failed transaction", &["BEGIN", "SELECT 1/0"])
            .says("SELECT 1", told)
            .says("COMMIT", "CROLLBACK ZI"),
    ]
}

/// Something is under way.
fn busy_rows() -> Vec<Row> {
    let told = "E40001 ZE";
    let unknown = "E08007 ZI";
    let copy = [query("COPY t FROM STDIN"), copy_data(b"lost\n")].concat();
    vec![
        Row::new("a write", &[]).waits(query(BLOCKED), unknown),
        Row::new("a write in a batch", &[]).waits(batch(BLOCKED), unknown),
        Row::new("several statements", &[])
            .waits(query("INSERT INTO locked VALUES (1); INSERT INTO t VALUES ('unknown')"), unknown),
        Row::new("a DO", &[]).waits(query("DO $$ BEGIN INSERT INTO locked VALUES (1); END $$"), unknown),
        // No standby has got that far, so the primary is asked.
        Row::new("a read", &["SET pgsteer.min_lsn = '0/FFFFFFF'"])
            .waits(query("SELECT count(*) FROM locked"), "T D0 CSELECT_1 ZI"),
        Row::new("a statement in a transaction", OPEN)
            .waits(query(BLOCKED), told)
            .says("COMMIT", "CROLLBACK ZI"),
        Row::new("a batch in a transaction", OPEN)
            .waits(batch(BLOCKED), told)
            .then(batch("COMMIT"), "1 2 n CROLLBACK ZI"),
        Row::new("a pipeline in a transaction", OPEN)
            .waits([batch(BLOCKED), batch("SELECT 1")].concat(), "E40001 ZE E40001 ZE")
            .says("ROLLBACK", "CROLLBACK ZI"),
        Row::new("a pipeline with its COMMIT", OPEN)
            .waits([batch(BLOCKED), batch("COMMIT")].concat(), "E08007 ZI E08007 ZI"),
        Row::new("a pipeline of a transaction", &[]).waits(
            [batch("BEGIN"), batch(BLOCKED), batch("COMMIT")].concat(),
            "1 2 n CBEGIN ZT E08007 ZI E08007 ZI",
        ),
        Row::new("a pipeline with its ROLLBACK", OPEN)
            .waits([batch(BLOCKED), batch("ROLLBACK")].concat(), "E40001 ZI E40001 ZI"),
        Row::new("half a batch", OPEN)
            .waits([parse("", BLOCKED), bind("", "", &[]), execute("", 0), raw::flush()].concat(), "E40001")
            .then([describe(b'P', ""), sync()].concat(), "ZE")
            .says("ROLLBACK", "CROLLBACK ZI"),
        Row::new("a COPY", &[])
            .waits(copy, "G E40001 ZI")
            .then([copy_data(b"lost\n"), raw::copy_done(), query("SELECT 4")].concat(), "T D4 CSELECT_1 ZI"),
        Row::new("a COMMIT", OPEN).stopped(query("COMMIT"), unknown),
        Row::new("a COMMIT in a batch", OPEN).stopped(batch("COMMIT"), unknown),
        Row::new("COMMIT AND CHAIN", OPEN).stopped(query("COMMIT AND CHAIN"), unknown),
        Row::new("a ROLLBACK", OPEN).stopped(query("ROLLBACK"), "CROLLBACK ZI"),
        Row::new("a ROLLBACK in a batch", OPEN).stopped(batch("ROLLBACK"), "1 2 n CROLLBACK ZI"),
    ]
}

/// What only the server had. In transaction mode these sessions keep their backend.
fn pinned_rows() -> Vec<Row> {
    vec![
        Row::new("an advisory lock", &["SELECT pg_advisory_lock(1)"]).says("SELECT 1", "E40001 ZI"),
        Row::new("a temporary table", &["CREATE TEMP TABLE mine AS SELECT 1 AS a"])
            .says("SELECT 1", "E40001 ZI")
            .says("SELECT a FROM mine", "E42P01 ZI"),
    ]
}

/// Reads as many messages as `wanted` has words; those that only accompany are left out.
async fn hears(raw: &mut Raw, wanted: &str) -> String {
    let mut words = Vec::new();
    while words.len() < wanted.split(' ').filter(|word| !word.is_empty()).count() {
        let Some(frame) = raw.within(LIMIT).await else {
            words.push("nothing".to_owned());
            break;
        };
        let rest = match frame.tag {
            b'S' | b'N' | b'A' => continue,
            b'E' => frame.sqlstate(),
            b'C' => String::from_utf8_lossy(&frame.body[..frame.body.len() - 1]).into_owned(),
            b'Z' => String::from_utf8_lossy(&frame.body).into_owned(),
            b'D' => frame.columns()[0].clone().unwrap_or_default(),
            _ => String::new(),
        };
        // A tag counts as one word.
        words.push(format!("{}{}", frame.tag as char, rest.replace(' ', "_")));
    }
    words.join(" ")
}

/// A session for each row, up to the loss.
async fn prepare(scene: &Scene, rows: &[Row]) -> Vec<Raw> {
    let mut sessions = Vec::new();
    let mut waiting = 0;
    for row in rows {
        let mut raw = scene.raw().await;
        for sql in row.before {
            raw.query(sql).await;
        }
        match &row.doing {
            Doing::Nothing => {}
            Doing::Waits(bytes) => {
                raw.send(bytes).await;
                waiting += usize::from(!row.hears.starts_with('G'));
            }
            Doing::Stopped(bytes) => {
                let pid = raw.backend_pid().await;
                send(Signal::Stop, &[pid as u32]).unwrap();
                raw.send(bytes).await;
            }
        }
        sessions.push(raw);
    }
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    scene.primary_says(blocked, &waiting.to_string()).await;
    sessions
}

/// The client is told what its row says, and goes on at the node of that port.
async fn goes_on(row: &Row, raw: &mut Raw, port: &str) -> Result<(), String> {
    let told = |heard: String, wanted: &str| {
        if heard == wanted { Ok(()) } else { Err(format!("{heard}, not {wanted}")) }
    };
    told(hears(raw, row.hears).await, row.hears)?;
    for (bytes, wanted) in &row.after {
        raw.send(bytes).await;
        told(hears(raw, wanted).await, wanted)?;
    }
    raw.send(&query("/* pgsteer: primary */ SHOW port")).await;
    let wanted = format!("T D{port} CSHOW ZI");
    told(hears(raw, &wanted).await, &wanted)
}

async fn table_holds(goes: Goes) {
    let scene = linked_scene(1, |spec| {
        spec.raw("route.split", "\"auto\"").raw("pool.size", "60").raw("pool.max_pinned", "60");
    })
    .await;
    let mut first = scene.raw().await;
    first.query("CREATE TABLE t (a text); CREATE TABLE locked (a int)").await;
    scene.cluster.wait_caught_up(scene.cluster.n(1), scene.cluster.n(0)).await.unwrap();
    // From then on it is known what only reads.
    let place = "SELECT pg_is_in_recovery(), count(*) FROM locked";
    eventually("reads on a standby", async || first.value(place).await == "t").await;
    let mut locker = scene.raw_direct().await;
    locker.query("BEGIN; LOCK TABLE locked").await;
    let mut rows: Vec<Row> = [quiet_rows(), busy_rows(), pinned_rows()].into_iter().flatten().collect();
    // The server would wait for ever for a process that does nothing.
    rows.retain(|row| goes != Goes::AndComesBack(Stop::Fast) || !matches!(row.doing, Doing::Stopped(_)));
    let mut sessions = prepare(&scene, &rows).await;

    let new = goes.strike(&scene).await;
    let port = scene.cluster.n(new).port().to_string();
    let mut surprises = Vec::new();
    for (row, raw) in rows.iter().zip(&mut sessions) {
        if let Err(surprise) = goes_on(row, raw, &port).await {
            surprises.push(format!("{}: {surprise}", row.name));
        }
    }
    assert!(surprises.is_empty(), "{goes:?}: {surprises:#?}");
    assert_eq!(first.value("SELECT count(*) FROM t WHERE a = 'lost'").await, "0", "{goes:?}");
    drop((sessions, first, locker));
    scene.finish().await;
}

#[tokio::test]
async fn a_primary_is_killed() {
    table_holds(Goes::For(Loss::Kill)).await;
}

#[tokio::test]
async fn a_primary_is_stopped_fast() {
    table_holds(Goes::For(Loss::StopFast)).await;
}

#[tokio::test]
async fn a_primary_is_stopped_at_once() {
    table_holds(Goes::For(Loss::StopImmediate)).await;
}

#[tokio::test]
async fn a_primary_freezes() {
    table_holds(Goes::For(Loss::Freeze)).await;
}

#[tokio::test]
async fn a_primary_is_cut_off() {
    table_holds(Goes::For(Loss::Cut)).await;
}

#[tokio::test]
async fn a_standby_is_promoted_beside_its_primary() {
    table_holds(Goes::For(Loss::Live)).await;
}

#[tokio::test]
async fn a_primary_is_restarted() {
    table_holds(Goes::AndComesBack(Stop::Fast)).await;
}

#[tokio::test]
async fn a_primary_crashes_and_comes_back() {
    table_holds(Goes::AndComesBack(Stop::Immediate)).await;
}
