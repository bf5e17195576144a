//! The harness itself, against PostgreSQL directly: a test that stands on it must fail for its own reasons only.

use std::time::Duration;

use pgsteer::demo::cluster::Rejoin;
use pgsteer::demo::node::{Promote, Stop};
use tokio::time::Instant;
use tokio_postgres::Config;

use crate::harness::cluster::{TestCluster, cluster, stranger};
use crate::harness::drivers::{connect, conninfo, pgbench, psql, sqlstate};
use crate::harness::link::{Link, Mode, Way};
use crate::harness::oracle::Oracle;
use crate::harness::raw::{self, Raw};
use crate::harness::{eventually, soon};

fn direct(cluster: &TestCluster, node: usize) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(cluster.n(node).port()).user("app").dbname("app");
    config.password(&cluster.logins().app);
    config
}

#[tokio::test]
async fn a_cluster_replicates_and_goes_without_a_trace() {
    let cluster = cluster(2).await;
    let primary = cluster.n(0);
    primary.sql().await.unwrap().run("CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
    for standby in [cluster.n(1), cluster.n(2)] {
        cluster.wait_caught_up(standby, primary).await.unwrap();
        assert_eq!(standby.one("SELECT a FROM t").await.unwrap(), "1");
        assert_eq!(standby.one("SELECT pg_is_in_recovery()").await.unwrap(), "t");
    }
    let ids = cluster.nodes().iter().map(|node| node.data().to_path_buf()).collect::<Vec<_>>();
    let path = cluster.path().to_path_buf();
    drop(cluster);
    assert!(!path.exists());
    for data in ids {
        assert_eq!(pgsteer::demo::process::in_folder(&data), Vec::<u32>::new());
    }
}

/// One that was started a moment ago may be anywhere between its program's start and its data folder.
#[tokio::test]
async fn a_node_may_be_killed_while_it_starts() {
    let cluster = cluster(0).await;
    let node = cluster.n(0);
    node.stop(Stop::Fast).await.unwrap();
    for _ in 0..10 {
        node.spawn().await.unwrap();
        node.kill_and_wait().await.unwrap();
    }
    node.start().await.unwrap();
    assert_eq!(node.one("SELECT 1").await.unwrap(), "1");
}

#[tokio::test]
async fn crash_promotion_and_return_by_rewind() {
    let cluster = cluster(2).await;
    let (old, new, other) = (cluster.n(0), cluster.n(1), cluster.n(2));
    let mut open = new.sql().await.unwrap();
    old.kill().unwrap();
    new.promote_and_wait(Promote::PgCtl).await.unwrap();
    open.run("CREATE TABLE after_promotion AS SELECT 1 AS a").await.unwrap();
    cluster.repoint(other, new).await.unwrap();
    cluster.wait_caught_up(other, new).await.unwrap();
    assert_eq!(cluster.rejoin(old, new).await.unwrap(), Rejoin::Rewound);
    cluster.wait_caught_up(old, new).await.unwrap();
    assert_eq!(old.one("SELECT a FROM after_promotion").await.unwrap(), "1");
    assert_eq!(old.one("SELECT received_tli FROM pg_stat_wal_receiver").await.unwrap(), "2");
}

#[tokio::test]
async fn a_frozen_node_is_silent_and_comes_back() {
    let cluster = cluster(1).await;
    let (primary, standby) = (cluster.n(0), cluster.n(1));
    let mut sql = primary.sql().await.unwrap();
    primary.freeze().unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(300), sql.one("SELECT 1")).await;
    assert!(silent.is_err(), "a frozen server answered");
    standby.promote_and_wait(Promote::Function).await.unwrap();
    primary.thaw().unwrap();
    assert_eq!(primary.one("SELECT pg_is_in_recovery()").await.unwrap(), "f", "two primaries now");
    assert_eq!(standby.one("SELECT pg_is_in_recovery()").await.unwrap(), "f");
    primary.stop(Stop::Immediate).await.unwrap();
    assert!(!primary.is_running());
}

#[tokio::test]
async fn a_killed_server_leaves_no_shared_memory() {
    let cluster = cluster(0).await;
    let node = cluster.n(0);
    let file = std::fs::read_to_string(node.data().join("postmaster.pid")).unwrap();
    let id = file.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned();
    let is_there = || {
        let all = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
        all.lines().any(|line| line.split_whitespace().nth(1) == Some(&id))
    };
    assert!(is_there());
    node.kill_and_wait().await.unwrap();
    assert!(is_there(), "its next start would need it");
    drop(cluster);
    assert!(!is_there());
}

#[tokio::test]
async fn a_paused_standby_gets_older() {
    let cluster = cluster(1).await;
    let (primary, standby) = (cluster.n(0), cluster.n(1));
    standby.pause_replay().await.unwrap();
    primary.sql().await.unwrap().run("CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
    assert_eq!(standby.one("SELECT to_regclass('t')::text").await.unwrap(), "");
    standby.resume_replay().await.unwrap();
    cluster.wait_caught_up(standby, primary).await.unwrap();
    assert_eq!(standby.one("SELECT to_regclass('t')::text").await.unwrap(), "t");
}

#[tokio::test]
async fn a_stranger_has_another_identifier() {
    let sql = "SELECT system_identifier FROM pg_control_system()";
    let (ours, stranger) = (cluster(0).await, stranger().await);
    assert_ne!(ours.n(0).one(sql).await.unwrap(), stranger.n(0).one(sql).await.unwrap());
}

#[tokio::test]
async fn synchronous_commits_wait_for_a_standby() {
    let cluster = cluster(1).await;
    let (primary, standby) = (cluster.n(0), cluster.n(1));
    cluster.set_synchronous(primary, Some("ANY 1 (*)")).await.unwrap();
    let mut sql = primary.sql().await.unwrap();
    standby.freeze().unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(300), sql.run("CREATE TABLE t AS SELECT 1")).await;
    assert!(waits.is_err(), "a commit was acknowledged without its standby");
    standby.thaw().unwrap();
    primary.wait_for("SELECT to_regclass('t')::text", "t", Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn the_raw_client_logs_in_and_sees_every_message() {
    let cluster = cluster(0).await;
    let address = cluster.n(0).address();
    let mut raw = Raw::login(&address, "app", "app-secret", "app").await;
    assert!(raw.pid > 0 && raw.key.len() == 4);
    assert_eq!(raw.params["server_encoding"], "UTF8");
    assert_eq!(raw.value("SELECT 'x' || 1").await, "x1");
    assert_eq!(raw.error("SELECT 1/0").await, "22012");
    let batch = [
        raw::parse("s", "SELECT $1::int + 1"),
        raw::describe(b'S', "s"),
        raw::bind("", "s", &["41"]),
        raw::execute("", 0),
        raw::close(b'S', "s"),
        raw::sync(),
    ];
    raw.send(&batch.concat()).await;
    let frames = raw.expect("1tT2DC3Z").await;
    assert_eq!(frames[4].columns(), [Some("42".to_owned())]);
    let mut refused = Raw::tcp(&address).await;
    let answer = refused.start(raw::V3_0, &[("user", "app"), ("database", "app")], "wrong").await;
    assert_eq!(answer[0].sqlstate(), "28P01");
    assert_eq!(refused.end().await, []);
}

#[tokio::test]
async fn the_raw_client_cancels() {
    let cluster = cluster(0).await;
    let address = cluster.n(0).address();
    let mut raw = Raw::login(&address, "app", "app-secret", "app").await;
    raw.send(&raw::query("SELECT pg_sleep(60)")).await;
    let running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    cluster.n(0).wait_for(running, "1", Duration::from_secs(10)).await.unwrap();
    raw.cancel(&address).await;
    let frames = raw.until(b'Z').await;
    assert!(frames.iter().any(|frame| frame.tag == b'E' && frame.sqlstate() == "57014"), "{frames:?}");
    assert!(raw.is_alive().await);
}

#[tokio::test]
async fn the_link_delays_stalls_resets_and_refuses() {
    let cluster = cluster(0).await;
    let mut link = Link::to(cluster.n(0).port()).await;
    let mut raw = Raw::login(&link.address(), "app", "app-secret", "app").await;
    link.set(Way::ToClient, Mode::Delay(Duration::from_millis(50)));
    let began = Instant::now();
    raw.value("SELECT 1").await;
    assert!(began.elapsed() >= Duration::from_millis(50));
    link.cut();
    raw.send(&raw::query("SELECT 2")).await;
    assert_eq!(raw.within(Duration::from_millis(100)).await, None, "nothing passes a cut link");
    link.mend();
    assert_eq!(raw.until(b'Z').await.len(), 4, "what was stalled arrives");
    link.set(Way::ToServer, Mode::Swallow);
    raw.send(&raw::query("SELECT 3")).await;
    assert_eq!(raw.within(Duration::from_millis(100)).await, None);
    link.mend();
    assert!(link.bytes(Way::ToServer) > 0 && link.open() == 1);
    link.reset();
    assert_eq!(raw.next().await, None);
    eventually("no open connection", async || link.open() == 0).await;
    link.refuse().await;
    assert!(tokio::net::TcpStream::connect(link.address()).await.is_err());
    link.accept().await;
    assert!(Raw::login(&link.address(), "app", "app-secret", "app").await.is_alive().await);
    assert_eq!(link.accepted(), 2);
}

#[tokio::test]
async fn drivers_reach_the_server() {
    let cluster = cluster(1).await;
    let config = direct(&cluster, 0);
    let driver = connect(&config).await.unwrap();
    let row = driver.query_one("SELECT $1::int4 + 1", &[&41]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
    let standby = connect(&direct(&cluster, 1)).await.unwrap();
    assert_eq!(sqlstate(standby.simple_query("CREATE TABLE no ()").await), "25006");
    let programs = cluster.programs();
    let said = psql(programs, &conninfo(&config), &["-c", "SELECT current_user"]).await;
    assert_eq!(said.text(), "app");
    assert!(pgbench(programs, &conninfo(&config), &["-i", "-q"]).await.ok);
    let bench = pgbench(programs, &conninfo(&config), &["-M", "prepared", "-c", "2", "-t", "10"]).await;
    assert!(bench.text().contains("number of failed transactions: 0"), "{bench:?}");
}

#[tokio::test]
async fn the_oracle_counts_and_judges() {
    let cluster = cluster(0).await;
    let config = direct(&cluster, 0);
    let oracle = Oracle::start(cluster.n(0), &config, &config, [2, 1]).await;
    oracle.more_writes(20).await;
    oracle.more_reads(5).await;
    let ledger = soon("verdict", oracle.judge(cluster.n(0))).await;
    let mut sql = cluster.n(0).sql_in("app").await.unwrap();
    sql.run("DELETE FROM pgsteer_load WHERE id = 3; INSERT INTO pgsteer_load VALUES (4)").await.unwrap();
    let audit = ledger.audit(&mut sql).await.unwrap();
    assert_eq!((audit.lost, audit.doubled), (1, 1), "a missing and a double row are seen");
}
