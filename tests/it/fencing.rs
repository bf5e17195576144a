//! The old primary lives on beside the new one, which nobody has told it: nothing of a client's goes there any more.

use std::time::{Duration, Instant};

use pgsteer::demo::node::{Node, Promote, Stop};

use crate::harness::drivers::connect;
use crate::harness::proxy::ProxySpec;
use crate::harness::raw::query;
use crate::harness::scene::scene;
use crate::harness::{LIMIT, eventually, soon};

/// Promotes a standby while the primary lives; when it was out of recovery.
async fn promote_beside(node: &Node) -> Instant {
    node.promote_and_wait(Promote::PgCtl).await.unwrap().into()
}

/// Server processes of clients at a node.
const CLIENTS: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";

#[tokio::test]
async fn work_at_the_old_primary_is_cut_at_once() {
    let scene = scene(1, |_| {}).await;
    let (mut running, mut open, mut idle) = (scene.raw().await, scene.raw().await, scene.raw().await);
    open.query("CREATE TABLE t (a int)").await;
    open.query("BEGIN").await;
    open.query("LOCK TABLE t; INSERT INTO t VALUES (1)").await;
    running.send(&query("INSERT INTO t SELECT 1 FROM pg_sleep(600)")).await;
    idle.query("SET work_mem = '7MB'").await;
    scene.primary_says("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", "1").await;
    let writable = promote_beside(scene.cluster.n(1)).await;
    // Nobody else would ever end these: the old primary serves them well.
    let frames = running.until(b'Z').await;
    println!("cut {:?} after the new primary took writes", writable.elapsed());
    assert_eq!(frames[0].sqlstate(), "08007", "{frames:?}");
    assert_eq!(open.error("INSERT INTO t VALUES (2)").await, "40001");
    assert_eq!(idle.value("SHOW work_mem").await, "7MB");
    assert_eq!(idle.value("SHOW port").await, scene.cluster.n(1).port().to_string());
    scene.primary_says(CLIENTS, "0").await;
    scene.primary_says("SELECT count(*) FROM pg_locks WHERE relation = to_regclass('t')", "0").await;
    drop((running, open, idle));
    scene.finish().await;
}

#[tokio::test]
async fn the_old_primary_is_never_dialled_for_clients() {
    let scene = scene(1, |_| {}).await;
    let old = scene.cluster.n(0);
    old.one("ALTER SYSTEM SET log_connections = on").await.unwrap();
    old.one("SELECT pg_reload_conf()").await.unwrap();
    // Logins of clients at that node since it was told to log them; the monitor's own are none.
    let logins = || {
        let log = std::fs::read_to_string(old.log()).unwrap();
        let lines = log.lines().filter(|line| line.contains("connection authorized"));
        lines.filter(|line| !line.contains("application_name=pgsteer monitor")).count()
    };
    eventually("a login is logged", async || {
        scene.raw_direct().await;
        logins() > 0
    })
    .await;
    promote_beside(scene.cluster.n(1)).await;
    scene.wait_node(0, "role", "zombie").await;
    scene.primary_says(CLIENTS, "0").await;
    let before = logins();
    for _ in 0..5 {
        let (mut writer, mut reader) = (scene.raw().await, scene.raw_standby().await);
        assert_eq!(writer.value("SHOW port").await, scene.cluster.n(1).port().to_string());
        assert_eq!(reader.value("SHOW port").await, scene.cluster.n(1).port().to_string());
    }
    scene.wait_node(0, "role", "zombie").await;
    let newer: Vec<String> = {
        let log = std::fs::read_to_string(old.log()).unwrap();
        log.lines().filter(|line| line.contains("user=app")).map(str::to_owned).collect()
    };
    assert_eq!(logins(), before, "{newer:#?}");
    scene.finish().await;
}

#[tokio::test]
async fn two_proxies_write_to_one_branch() {
    let scene = scene(1, |_| {}).await;
    let second = ProxySpec::new(&scene.cluster).start().await;
    second.wait_primary("node1").await;
    let drivers = [connect(&scene.proxy.config()).await.unwrap(), connect(&second.config()).await.unwrap()];
    drivers[0].simple_query("CREATE TABLE branch (port text)").await.unwrap();
    let write = "INSERT INTO branch SELECT current_setting('port') RETURNING port";
    for driver in &drivers {
        driver.value(write).await.unwrap();
    }
    promote_beside(scene.cluster.n(1)).await;
    scene.proxy.wait_primary("node2").await;
    second.wait_primary("node2").await;
    let mut old = scene.cluster.n(0).sql_in("app").await.unwrap();
    let before = old.one("SELECT count(*) FROM branch").await.unwrap();
    let port = scene.cluster.n(1).port().to_string();
    for _ in 0..20 {
        for driver in &drivers {
            assert_eq!(driver.value(write).await.unwrap(), port);
        }
    }
    assert_eq!(old.one("SELECT count(*) FROM branch").await.unwrap(), before);
    drop((drivers, old));
    second.stop().await;
    scene.finish().await;
}

/// The new primary is away, the old one is back, and the proxy was restarted: it remembers that there was another.
#[tokio::test]
async fn a_restarted_proxy_remembers_the_highest_timeline() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state").display().to_string();
    let scene = scene(1, |spec| {
        spec.set("cluster.state_file", &state);
    })
    .await;
    let (old, new) = (scene.cluster.n(0), scene.cluster.n(1));
    promote_beside(new).await;
    scene.proxy.wait_primary("node2").await;
    new.freeze().unwrap();
    let mut spec = ProxySpec::new(&scene.cluster);
    spec.set("cluster.state_file", &state);
    spec.set("cluster.start_grace", "1ms").set("cluster.hold_timeout", "1s");
    // It is not ready, which `start` would wait for.
    let second = spec.spawn();
    let fenced = async || second.topology().await.is_ok_and(|view| view["nodes"][0]["role"] == "zombie");
    eventually("the old primary is fenced", fenced).await;
    assert!(second.primary().await.is_null());
    let refused = soon("an answer", second.config().connect(tokio_postgres::NoTls)).await;
    let Err(refused) = refused else { panic!("a login without a primary") };
    assert!(refused.as_db_error().is_some_and(|error| error.code().code() == "57P03"), "{refused:?}");
    assert_eq!(old.one(CLIENTS).await.unwrap(), "0");
    new.thaw().unwrap();
    second.wait_primary("node2").await;
    let driver = connect(&second.config()).await.unwrap();
    assert_eq!(driver.value("SHOW port").await.unwrap(), new.port().to_string());
    drop(driver);
    tokio::time::timeout(LIMIT + Duration::from_secs(20), second.stop()).await.unwrap();
    scene.finish().await;
}

/// Both standbys are promoted, each with a history of its own: nobody can know which is the right one, so nobody gets writes.
#[tokio::test]
async fn two_primaries_of_one_timeline_wait_for_an_operator() {
    let scene = scene(2, |_| {}).await;
    let [old, new, rival] = [0, 1, 2].map(|index| scene.cluster.n(index));
    let mut writer = scene.raw().await;
    writer.query("CREATE TABLE t (a int)").await;
    scene.cluster.wait_caught_up(rival, old).await.unwrap();
    rival.repoint("host=127.0.0.1 port=1").await.unwrap();
    rival.wait_for("SELECT count(*) FROM pg_stat_wal_receiver", "0", LIMIT).await.unwrap();
    writer.query("INSERT INTO t VALUES (1)").await;
    scene.cluster.wait_caught_up(new, old).await.unwrap();
    old.kill_and_wait().await.unwrap();
    let (first, second) =
        tokio::join!(new.promote_and_wait(Promote::PgCtl), rival.promote_and_wait(Promote::PgCtl));
    first.and(second).unwrap();
    let is_contested = async || {
        let topology = scene.proxy.topology().await.unwrap();
        topology["primary"].is_null() && topology["alarms"].to_string().contains("take writes on timeline 2")
    };
    eventually("nobody is the primary", is_contested).await;

    writer.send(&query("INSERT INTO t VALUES (2) RETURNING current_setting('port')")).await;
    let is_held = async || scene.proxy.metric("pgsteer_sessions_held").await >= 1.0;
    eventually("a write waits", is_held).await;
    let console = connect(&scene.proxy.console_config()).await.unwrap();
    for (order, why) in [
        ("ACCEPT node1", "node1 is down"),
        ("ACCEPT node4", "there is no node \"node4\""),
        ("ACCEPT TIMELINE 2", "the cluster is on timeline 2 already"),
        ("ACCEPT TIMELINE 7", "no node that answers is on timeline 7"),
    ] {
        let error = console.simple_query(order).await.unwrap_err();
        assert_eq!(error.as_db_error().unwrap().message(), why, "{order}");
    }
    assert_eq!(console.value("ACCEPT node2").await.unwrap(), "node2");
    let frames = writer.until(b'Z').await;
    let told = frames.iter().find(|frame| frame.tag == b'D').map(|frame| frame.columns()[0].clone());
    assert_eq!(told, Some(Some(new.port().to_string())), "{frames:?}");
    scene.wait_node(2, "role", "zombie").await;
    let rows =
        async |node: &Node| node.sql_in("app").await.unwrap().one("SELECT count(*) FROM t").await.unwrap();
    assert_eq!((rows(new).await, rows(rival).await), ("2".to_owned(), "0".to_owned()));
    rival.stop(Stop::Fast).await.unwrap();
    // pg_rewind takes two histories of one timeline for the same.
    std::fs::remove_dir_all(rival.data()).unwrap();
    scene.cluster.base_backup(rival, new).await.unwrap();
    scene.cluster.join(rival, new).await.unwrap();
    scene.wait_node(2, "reads", "qualified").await;
    drop((writer, console));
    scene.finish().await;
}

/// A standby was promoted by mistake: the operator stops it and says so, and the old primary goes on.
#[tokio::test]
async fn a_promotion_by_mistake_can_be_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state").display().to_string();
    let scene = scene(1, |spec| {
        spec.set("cluster.state_file", &state);
    })
    .await;
    let (right, mistaken) = (scene.cluster.n(0), scene.cluster.n(1));
    let mut writer = scene.raw().await;
    writer.query("CREATE TABLE t (a int)").await;
    scene.cluster.wait_caught_up(mistaken, right).await.unwrap();
    promote_beside(mistaken).await;
    scene.proxy.wait_primary("node2").await;
    let console = connect(&scene.proxy.console_config()).await.unwrap();
    let error = console.simple_query("ACCEPT node1").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.message(), "node1 is on timeline 1, the cluster is on 2");
    assert!(error.detail().unwrap().contains("ACCEPT TIMELINE 1"), "{error:?}");

    mistaken.stop(Stop::Fast).await.unwrap();
    assert_eq!(console.value("ACCEPT TIMELINE 1").await.unwrap(), "node1");
    assert_eq!(scene.proxy.primary().await, "node1");
    assert_eq!(writer.value("SHOW port").await, right.port().to_string());
    writer.query("INSERT INTO t VALUES (1)").await;
    scene.cluster.rejoin(mistaken, right).await.unwrap();
    scene.wait_node(1, "reads", "qualified").await;
    assert_eq!(scene.proxy.primary().await, "node1");

    // The next process must not take the timeline for lost.
    let mut spec = ProxySpec::new(&scene.cluster);
    spec.set("cluster.state_file", &state);
    let second = spec.start().await;
    assert_eq!(second.primary().await, "node1");
    second.stop().await;
    drop((writer, console));
    scene.finish().await;
}
