//! Sessions that read back what they have just written, with somebody at the standbys who stops, delays, restarts and
//! promotes them: never a miss, and who has written nothing is served by standbys all the while.
//!
//! The lag limit is out of the way, so that a standby however far behind stays a candidate: what keeps a read from it is
//! what its session has written and seen, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgsteer::demo::node::{Promote, Stop};
use pgsteer::demo::process::{self, Signal};
use tokio::task::JoinHandle;

use crate::harness::cluster::cluster;
use crate::harness::proxy::ProxySpec;
use crate::harness::raw::{Frame, Raw, bind, execute, parse, sync};
use crate::harness::scene::Scene;
use crate::harness::{LIMIT, eventually};

/// Longer than a sample takes to come by itself: what is read after it may be read from a standby.
const THOUGHT: Duration = Duration::from_millis(130);

/// Reads of some sessions.
#[derive(Default)]
struct Reads {
    all: AtomicU64,
    on_standbys: AtomicU64,
}

impl Reads {
    fn count(&self, on_standby: bool) {
        self.all.fetch_add(1, Ordering::Relaxed);
        self.on_standbys.fetch_add(u64::from(on_standby), Ordering::Relaxed);
    }

    /// Waits until standbys have served so many more.
    async fn more_on_standbys(&self, count: u64, what: &str) {
        more(&self.on_standbys, count, &format!("reads of {what} on standbys")).await;
    }
}

/// Waits until a figure has grown by so much.
async fn more(figure: &AtomicU64, count: u64, what: &str) {
    let target = figure.load(Ordering::Relaxed) + count;
    eventually(&format!("{target} {what}"), async || figure.load(Ordering::Relaxed) >= target).await;
}

/// What the sessions have done.
#[derive(Default)]
struct Tally {
    over: AtomicBool,
    /// Writes that were read back at once, and whatever else their sessions did between two.
    writes: AtomicU64,
    own: Reads,
    handed: Reads,
    other: Reads,
}

impl Tally {
    async fn more_writes(&self, count: u64) {
        more(&self.writes, count, "writes").await;
    }
}

/// How a session has its reads sent to standbys.
#[derive(Clone, Copy, Debug)]
enum Way {
    Judged,
    Prepared,
    Hinted,
    Transaction,
    Target,
}

const JUDGED: [Way; 4] = [Way::Judged, Way::Prepared, Way::Hinted, Way::Transaction];
const DECLARED: [Way; 4] = [Way::Transaction, Way::Hinted, Way::Target, Way::Transaction];

/// A session with its question.
struct Session {
    raw: Raw,
    way: Way,
    ask: String,
    /// The primary will be lost: the fate of a statement may be unknown.
    has_losses: bool,
}

impl Session {
    /// Asks for the row of a writer, or for the sum of all rows.
    async fn new(scene: &Scene, way: Way, has_losses: bool, id: Option<usize>) -> Self {
        let ask = match id {
            Some(id) => format!("SELECT n, pg_is_in_recovery() FROM own WHERE id = {id}"),
            None => "SELECT sum(n), pg_is_in_recovery() FROM own".to_owned(),
        };
        let mut raw = scene.raw().await;
        raw.send(&[parse("ask", &ask), sync()].concat()).await;
        raw.expect("1Z").await;
        Self { raw, way, ask, has_losses }
    }

    /// What was found, and whether on a standby. Nothing when the node was lost meanwhile.
    async fn read(&mut self) -> Option<(u64, bool)> {
        match self.way {
            Way::Transaction => {
                self.attempt("BEGIN READ ONLY").await?;
                let found = self.attempt(&self.ask.clone()).await;
                self.attempt("COMMIT").await;
                found
            }
            Way::Target => {
                self.insist("SET pgsteer.target = 'standby'").await;
                let found = self.attempt(&self.ask.clone()).await;
                self.insist("RESET pgsteer.target").await;
                found
            }
            Way::Prepared => {
                self.raw.send(&[bind("", "ask", &[]), execute("", 0), sync()].concat()).await;
                let frames = self.raw.until(b'Z').await;
                self.unless_lost(frames)
            }
            Way::Hinted => self.attempt(&format!("/* pgsteer: standby */ {}", self.ask)).await,
            Way::Judged => self.attempt(&self.ask.clone()).await,
        }
        .map(|frames| row(&frames))
    }

    async fn attempt(&mut self, sql: &str) -> Option<Vec<Frame>> {
        let frames = self.raw.query(sql).await;
        self.unless_lost(frames)
    }

    async fn insist(&mut self, sql: &str) {
        while self.attempt(sql).await.is_none() {}
    }

    fn unless_lost(&self, frames: Vec<Frame>) -> Option<Vec<Frame>> {
        let error = frames.iter().find(|frame| frame.tag == b'E');
        let Some(code) = error.map(Frame::sqlstate) else { return Some(frames) };
        // On a primary nobody knows what a statement is that was not judged.
        assert!(code == "40001" || (code == "08007" && self.has_losses), "{:?}: {frames:?}", self.way);
        None
    }

    /// Counts until it is over, and nothing that it finds ever goes back.
    async fn read_on(mut self, tally: Arc<Tally>) {
        let mut before = 0;
        while !tally.over.load(Ordering::Relaxed) {
            let Some((sum, on_standby)) = self.read().await else { continue };
            assert!(sum >= before, "{sum} after {before}; on a standby: {on_standby}");
            before = sum;
            tally.other.count(on_standby);
        }
    }
}

fn row(frames: &[Frame]) -> (u64, bool) {
    let row = frames.iter().find(|frame| frame.tag == b'D').unwrap_or_else(|| panic!("no row: {frames:?}"));
    let columns: Vec<String> = row.columns().into_iter().map(Option::unwrap).collect();
    (columns[0].parse().unwrap(), columns[1] == "t")
}

/// A session with a row of its own.
struct Writer {
    session: Session,
    id: usize,
    acknowledged: u64,
    tried: u64,
}

impl Writer {
    async fn new(scene: &Scene, way: Way, id: usize, has_losses: bool) -> Self {
        let session = Session::new(scene, way, has_losses, Some(id)).await;
        Self { session, id, acknowledged: 0, tried: 0 }
    }

    /// Reads back what it has written, at once and after a while.
    async fn run(mut self, tally: Arc<Tally>) {
        while !tally.over.load(Ordering::Relaxed) {
            self.write().await;
            for _ in 0..=self.tried % 3 {
                self.read(&tally).await;
            }
            if self.tried.is_multiple_of(16) {
                tokio::time::sleep(THOUGHT).await;
                self.read(&tally).await;
                self.read(&tally).await;
            }
            tally.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Another session reads it back, which is told from where on.
    async fn run_with(mut self, mut reader: Session, tally: Arc<Tally>) {
        while !tally.over.load(Ordering::Relaxed) {
            self.write().await;
            let Some(position) = self.position().await else { continue };
            reader.insist(&format!("SET pgsteer.min_lsn = '{position}'")).await;
            for _ in 0..3 {
                let Some((n, on_standby)) = reader.read().await else { continue };
                self.check(n, on_standby);
                tally.handed.count(on_standby);
            }
        }
    }

    async fn write(&mut self) {
        self.tried += 1;
        let (n, id) = (self.tried, self.id);
        let frames = self.session.raw.query(&format!("UPDATE own SET n = {n} WHERE id = {id}")).await;
        match frames.iter().find(|frame| frame.tag == b'E') {
            None => self.acknowledged = n,
            Some(error) => assert!(self.session.has_losses, "{error}"),
        }
    }

    async fn position(&mut self) -> Option<String> {
        let frames = self.session.raw.query("SHOW pgsteer.lsn").await;
        let found =
            frames.iter().find(|frame| frame.tag == b'D').map(|row| row.columns()[0].clone().unwrap());
        assert!(found.is_some() || self.session.has_losses, "{frames:?}");
        found
    }

    async fn read(&mut self, tally: &Tally) {
        if let Some((n, on_standby)) = self.session.read().await {
            self.check(n, on_standby);
            tally.own.count(on_standby);
        }
    }

    /// The row is what was acknowledged last, or what has failed since.
    fn check(&mut self, n: u64, on_standby: bool) {
        let (least, most) = (self.acknowledged, self.tried);
        assert!((least..=most).contains(&n), "{n} is not from {least} to {most}; on a standby: {on_standby}");
        // Whatever becomes of a write that failed, it is not undone after it was seen.
        self.acknowledged = n;
    }
}

/// What somebody does to a standby.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    Pause,
    Delay,
    /// It comes back with less than it had.
    Restart,
}

/// Sessions at work in front of a cluster.
struct Play {
    scene: Scene,
    tally: Arc<Tally>,
    tasks: Vec<JoinHandle<()>>,
}

impl Play {
    async fn start(split: &str, has_losses: bool) -> Self {
        let ways = if split == "auto" { JUDGED } else { DECLARED };
        let cluster = cluster(2).await;
        // There before the proxy: what it knows of a database it reads again now and then only.
        let mut sql = cluster.n(0).sql_in("app").await.unwrap();
        sql.run("SET ROLE app; CREATE TABLE own (id int PRIMARY KEY, n bigint)").await.unwrap();
        sql.run("INSERT INTO own SELECT id, 0 FROM generate_series(1, 6) id").await.unwrap();
        for index in [1, 2] {
            cluster.wait_caught_up(cluster.n(index), cluster.n(0)).await.unwrap();
        }
        let mut spec = ProxySpec::new(&cluster);
        spec.set("route.split", split).set("cluster.max_lag", "1h").set("cluster.max_lag_bytes", "1GB");
        let proxy = spec.start().await;
        let scene = Scene { proxy, links: Vec::new(), cluster };
        for index in [1, 2] {
            scene.wait_node(index, "reads", "qualified").await;
        }
        let mut first = Session::new(&scene, ways[0], false, None).await;
        eventually("reads on standbys", async || first.read().await.unwrap().1).await;
        let (tally, mut tasks) = (Arc::<Tally>::default(), Vec::new());
        for (id, way) in (1..).zip(ways) {
            let writer = Writer::new(&scene, way, id, has_losses).await;
            tasks.push(tokio::spawn(writer.run(Arc::clone(&tally))));
        }
        for (id, way) in (5..).zip(&ways[..2]) {
            let writer = Writer::new(&scene, *way, id, has_losses).await;
            let reader = Session::new(&scene, *way, has_losses, Some(id)).await;
            tasks.push(tokio::spawn(writer.run_with(reader, Arc::clone(&tally))));
            let reader = Session::new(&scene, *way, has_losses, None).await;
            tasks.push(tokio::spawn(reader.read_on(Arc::clone(&tally))));
        }
        Self { scene, tally, tasks }
    }

    /// Something happens at one standby while sessions go on.
    async fn disturb(&self, index: usize, how: Disturbance) {
        let node = self.scene.cluster.n(index);
        match how {
            Disturbance::Pause => {
                node.pause_replay().await.unwrap();
                self.go_on(150).await;
                node.resume_replay().await.unwrap();
            }
            Disturbance::Delay => {
                let mut sql = node.sql().await.unwrap();
                sql.run("ALTER SYSTEM SET recovery_min_apply_delay = '150ms'").await.unwrap();
                sql.run("SELECT pg_reload_conf()").await.unwrap();
                self.go_on(150).await;
                sql.run("ALTER SYSTEM RESET recovery_min_apply_delay").await.unwrap();
                sql.run("SELECT pg_reload_conf()").await.unwrap();
            }
            Disturbance::Restart => {
                node.stop(Stop::Immediate).await.unwrap();
                node.start().await.unwrap();
            }
        }
        self.go_on(50).await;
    }

    /// So many writes are read back, and standbys serve who has not written.
    async fn go_on(&self, writes: u64) {
        self.tally.more_writes(writes).await;
        self.tally.other.more_on_standbys(20, "sessions that do not write").await;
    }

    /// Standbys serve everybody.
    async fn all_on_standbys(&self) {
        self.tally.own.more_on_standbys(10, "own writes").await;
        self.tally.handed.more_on_standbys(10, "positions handed over").await;
        self.tally.other.more_on_standbys(10, "sessions that do not write").await;
    }

    /// Ends the sessions: all that they asserted has held.
    async fn end(self) {
        self.tally.over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            tokio::time::timeout(LIMIT, task).await.expect("a session hangs").unwrap();
        }
        self.scene.finish().await;
    }
}

async fn disturbed(split: &str) {
    let play = Play::start(split, false).await;
    for how in [Disturbance::Pause, Disturbance::Delay, Disturbance::Restart, Disturbance::Pause] {
        for index in [1, 2] {
            play.disturb(index, how).await;
        }
    }
    play.all_on_standbys().await;
    // Both at once: nobody has it but the primary.
    for index in [1, 2] {
        play.scene.cluster.n(index).pause_replay().await.unwrap();
    }
    play.go_on(200).await;
    for index in [1, 2] {
        play.scene.cluster.n(index).resume_replay().await.unwrap();
    }
    play.all_on_standbys().await;
    play.end().await;
}

#[tokio::test]
async fn own_writes_are_found_whatever_standbys_do() {
    disturbed("auto").await;
}

#[tokio::test]
async fn own_writes_are_found_by_declared_reads_whatever_standbys_do() {
    disturbed("declared").await;
}

/// The primary is killed, one standby takes over, and the other one, far behind, follows it.
async fn promoted(split: &str, to: usize, behind: usize) {
    let play = Play::start(split, true).await;
    let cluster = &play.scene.cluster;
    let (to, behind) = (cluster.n(to), cluster.n(behind));
    // What is acknowledged is on the standby that will be promoted.
    cluster.set_synchronous(cluster.n(0), Some(to.name())).await.unwrap();
    play.go_on(100).await;
    behind.pause_replay().await.unwrap();
    play.go_on(100).await;
    // What it has received must not be more than what the new primary has.
    process::send(Signal::Stop, &behind.processes_called("walreceiver")).unwrap();
    play.go_on(50).await;
    cluster.n(0).kill().unwrap();
    to.promote_and_wait(Promote::PgCtl).await.unwrap();
    play.tally.more_writes(200).await;
    // Only who replays asks for another sender.
    behind.thaw().unwrap();
    behind.resume_replay().await.unwrap();
    cluster.repoint(behind, to).await.unwrap();
    play.all_on_standbys().await;
    play.end().await;
}

#[tokio::test]
async fn own_writes_are_found_across_a_promotion() {
    promoted("auto", 1, 2).await;
}

#[tokio::test]
async fn own_writes_are_found_by_declared_reads_across_a_promotion() {
    promoted("declared", 2, 1).await;
}
