//! The main road: log in, work, leave; with the drivers people use.

use std::time::Duration;

use pgsteer::demo::process::Signal;
use pgsteer::demo::wait::until;
use tokio::time::Instant;
use tokio_postgres::Config;

use crate::harness::drivers::{Driver, connect, conninfo, pgbench, psql, sqlstate};
use crate::harness::raw::{self, Raw};
use crate::harness::scene::scene;
use crate::harness::{eventually, shares_backends, soon};

#[tokio::test]
async fn drivers_work() {
    let scene = scene(0, |_| {}).await;
    let driver = connect(&scene.proxy.config()).await.unwrap();
    let row = driver.query_one("SELECT $1::int4 + 1, current_user::text", &[&41]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (42, "app"));
    let big = driver.query("SELECT i, repeat('x', 100) FROM generate_series(1, 100000) i", &[]);
    assert_eq!(soon("large result", big).await.unwrap().len(), 100_000);

    let conninfo = conninfo(&scene.proxy.config());
    let programs = scene.cluster.programs();
    let file = scene.proxy.dir().join("copy");
    let out = format!("\\copy (SELECT i FROM generate_series(1, 50000) i) TO '{}'", file.display());
    let back = format!("\\copy copied FROM '{}'", file.display());
    let steps = ["-c", "CREATE TABLE copied (i int)", "-c", &out, "-c", &back];
    let said =
        psql(programs, &conninfo, &[&steps[..], &["-q", "-c", "SELECT sum(i) FROM copied"]].concat()).await;
    assert_eq!(said.text(), "1250025000");
    scene.finish().await;
}

#[tokio::test]
async fn notices_and_notifications_arrive() {
    let scene = scene(0, |_| {}).await;
    let (mut listener, mut sender) = (scene.raw().await, scene.raw().await);
    listener.query("LISTEN news").await;
    sender.query("NOTIFY news, 'hello'").await;
    let arrived = listener.frame().await;
    assert_eq!(arrived.tag, b'A');
    assert!(arrived.body.ends_with(b"news\0hello\0"), "{arrived}");
    let frames = sender.query("DO $$BEGIN RAISE NOTICE 'look'; END$$").await;
    assert_eq!((frames[0].tag, frames[0].field(b'M').as_deref()), (b'N', Some("look")));
    scene.finish().await;
}

#[tokio::test]
async fn pgbench_has_no_errors_in_any_mode() {
    let scene = scene(0, |spec| {
        spec.raw("pool.size", "70");
    })
    .await;
    let (programs, conninfo) = (scene.cluster.programs(), conninfo(&scene.proxy.config()));
    assert!(pgbench(programs, &conninfo, &["-i", "-q"]).await.ok);
    for mode in ["simple", "extended", "prepared"] {
        for more in [
            &["-S", "-c", "64", "-t", "20"][..],
            &["-c", "8", "-t", "20"],
            &["-S", "-C", "-c", "4", "-t", "5"],
        ] {
            let said = pgbench(programs, &conninfo, &[&["-M", mode, "-n"], more].concat()).await;
            assert!(said.text().contains("number of failed transactions: 0 "), "{said:?}");
            assert!(!said.stderr.contains("ERROR") && !said.stderr.contains("FATAL"), "{said:?}");
        }
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_refused_login_is_told_as_the_server_tells_it() {
    let scene = scene(0, |_| {}).await;
    let direct = scene.cluster.n(0).address();
    for (user, password, database) in [
        ("app", "wrong", "app"),
        ("app", "", "app"),
        ("nobody_there", "x", "app"),
        ("app", "app-secret", "no_such"),
    ] {
        let mut said = Vec::new();
        for address in [&direct, &scene.proxy.address()] {
            let mut raw = Raw::tcp(address).await;
            let frames = raw.start(raw::V3_0, &[("user", user), ("database", database)], password).await;
            said.push(frames.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(raw.end().await, []);
        }
        assert_eq!(said[0], said[1], "{user} {database}");
    }
    scene.finish().await;
}

#[tokio::test]
async fn startup_parameters_are_the_reset_values() {
    let scene = scene(0, |_| {}).await;
    let params = [
        ("user", "app"),
        ("database", "app"),
        ("application_name", "mine"),
        ("DateStyle", "German"),
        ("options", "-c work_mem=5MB --statement_timeout=7s -c search_path=a,\\ b"),
    ];
    let mut raw = Raw::tcp(&scene.proxy.address()).await;
    let frames = raw.start(raw::V3_0, &params, "app-secret").await;
    assert_eq!(frames.last().unwrap().tag, b'Z', "{frames:?}");
    assert_eq!(
        (raw.params["application_name"].as_str(), raw.params["DateStyle"].as_str()),
        ("mine", "German, DMY")
    );
    let each = "RESET work_mem; RESET datestyle; RESET application_name";
    for reset in ["SELECT 1", each, "RESET ALL", "DISCARD ALL"] {
        let dirty = "SET work_mem = '9MB'; SET datestyle = ISO; SET application_name = other";
        if reset != "SELECT 1" {
            raw.query(dirty).await;
        }
        raw.query(reset).await;
        for (name, value) in [
            ("work_mem", "5MB"),
            ("statement_timeout", "7s"),
            ("search_path", "a, b"),
            ("datestyle", "German, DMY"),
            ("application_name", "mine"),
        ] {
            assert_eq!(raw.value(&format!("SHOW {name}")).await, value, "{name} after {reset}");
        }
    }
    let mut refused = Raw::tcp(&scene.proxy.address()).await;
    let bad = [("user", "app"), ("database", "app"), ("no_such_setting", "1")];
    let frames = refused.start(raw::V3_0, &bad, "app-secret").await;
    assert_eq!(frames.last().unwrap().sqlstate(), "42704");
    scene.finish().await;
}

#[tokio::test]
async fn cancel_reaches_the_right_backend_and_no_other() {
    let scene = scene(0, |_| {}).await;
    let address = scene.proxy.address();
    let (mut raw, mut other) = (scene.raw().await, scene.raw().await);
    assert_eq!(raw.backend_pid().await == raw.pid, !shares_backends(), "the server's own pid, if it stays");
    for session in [&mut raw, &mut other] {
        session.send(&raw::query("SELECT pg_sleep(60)")).await;
    }
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    scene.primary_says(sleeping, "2").await;
    // A wrong key first: nothing may happen to anybody.
    let mut wrong = Raw::tcp(&address).await;
    wrong.send(&raw::cancel_request(raw.pid, &[0, 0, 0, 0])).await;
    assert_eq!(wrong.end().await, []);
    raw.cancel(&address).await;
    let frames = raw.until(b'Z').await;
    assert!(frames.iter().any(|frame| frame.tag == b'E' && frame.sqlstate() == "57014"), "{frames:?}");
    assert_eq!(other.within(Duration::from_millis(200)).await, None, "its neighbour sleeps on");
    scene.primary_says(sleeping, "1").await;
    other.cancel(&address).await;
    other.until(b'Z').await;
    assert!(raw.is_alive().await && other.is_alive().await);
    scene.finish().await;
}

#[tokio::test]
async fn a_backend_is_handed_on_clean() {
    let scene = scene(0, |spec| {
        spec.raw("pool.size", "1").raw("pool.warm", "1");
    })
    .await;
    let mut first = scene.raw().await;
    let pid = first.backend_pid().await;
    for dirt in [
        "SET work_mem = '9MB'",
        "SET search_path = nowhere",
        "CREATE TEMP TABLE mine AS SELECT 1 AS a",
        "PREPARE p AS SELECT 1",
        "LISTEN news",
        "SELECT pg_advisory_lock(7)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    ] {
        let frames = first.query(dirt).await;
        assert!(frames.iter().all(|frame| frame.tag != b'E'), "{dirt}: {frames:?}");
    }
    first.send(&raw::terminate()).await;
    assert_eq!(first.end().await, []);
    let mut second = scene.raw().await;
    assert_eq!(second.backend_pid().await, pid, "the backend was kept");
    assert_eq!(second.value("SHOW work_mem").await, "4MB");
    assert_eq!(second.value("SELECT count(*) FROM pg_prepared_statements").await, "0");
    assert_eq!(second.value("SELECT count(*) FROM pg_cursors").await, "0");
    assert_eq!(second.value("SELECT count(*) FROM pg_listening_channels()").await, "0");
    assert_eq!(second.value("SHOW transaction_read_only").await, "off");
    assert_eq!(second.error("SELECT * FROM mine").await, "42P01");
    scene.primary_says("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", "0").await;
    drop(second);
    scene.finish().await;
}

#[tokio::test]
async fn a_vanished_client_frees_its_locks() {
    let scene = scene(0, |_| {}).await;
    scene.raw().await.query("CREATE TABLE t AS SELECT 1 AS a").await;
    let locks = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND pid <> pg_backend_pid()";
    let mut admin = scene.cluster.n(0).sql_in("app").await.unwrap();
    for last_words in ["", "SELECT pg_sleep(60)", "COPY t FROM STDIN", "SELECT 1/0"] {
        let mut raw = scene.raw().await;
        raw.query("BEGIN").await;
        raw.query("LOCK t").await;
        if !last_words.is_empty() {
            raw.send(&raw::query(last_words)).await;
            let state = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE $$%";
            let sql = format!("{state}{last_words}$$ AND pid <> pg_backend_pid()");
            eventually(last_words, async || admin.one(&sql).await.unwrap() != "0").await;
        }
        drop(raw);
        let gone = Instant::now();
        eventually("the locks to go", async || admin.one(locks).await.unwrap() == "0").await;
        let took = gone.elapsed();
        // 100 ms is the promise; the machine is shared with other tests.
        assert!(took < Duration::from_secs(1), "{last_words:?}: {took:?}");
    }
    scene.finish().await;
}

/// Logs in and begins a transaction: by then a client has a backend in either mode of pooling.
async fn begin(config: &Config) -> Result<Driver, tokio_postgres::Error> {
    let driver = connect(config).await?;
    driver.batch_execute("BEGIN").await?;
    Ok(driver)
}

#[tokio::test]
async fn a_client_beyond_the_pool_waits_and_then_is_refused() {
    let scene = scene(0, |spec| {
        spec.raw("pool.size", "1").raw("pool.warm", "1").set("pool.wait_timeout", "600ms");
    })
    .await;
    let first = begin(&scene.proxy.config()).await.unwrap();
    let began = Instant::now();
    let refused = begin(&scene.proxy.config()).await;
    assert_eq!(sqlstate(refused), "53300");
    assert!(began.elapsed() >= Duration::from_millis(550), "it waited");
    let config = scene.proxy.config();
    let waiting = tokio::spawn(async move { begin(&config).await.map(drop) });
    let waiters = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
    scene.primary_says(waiters, "1").await;
    drop(first);
    soon("its turn", waiting).await.unwrap().unwrap();
    scene.finish().await;
}

#[tokio::test]
async fn the_standby_listener_reads_on_standbys() {
    let scene = scene(2, |_| {}).await;
    let mut raw = scene.raw_standby().await;
    assert_eq!(raw.value("SELECT pg_is_in_recovery()").await, "t");
    assert_eq!(raw.params["in_hot_standby"], "on");
    assert_eq!(raw.params["default_transaction_read_only"], "on");
    assert_eq!(raw.error("CREATE TABLE no ()").await, "25006");
    let mut writer = scene.raw().await;
    assert_eq!(writer.value("SELECT pg_is_in_recovery()").await, "f");
    assert_eq!(writer.params["in_hot_standby"], "off");
    // Many sessions spread over both. A standby whose first statements took long, as chance may have it, gets none until
    // that is forgotten: half of it in five seconds.
    let mut ports = std::collections::BTreeSet::new();
    let mut sessions = Vec::new();
    let forgotten = Duration::from_mins(1);
    until("sessions on both standbys", forgotten, async || {
        let mut raw = scene.raw_standby().await;
        ports.insert(raw.value("SHOW port").await);
        sessions.truncate(11);
        sessions.push(raw);
        Ok((ports.len() == 2).then_some(()))
    })
    .await
    .unwrap();
    drop(sessions);
    // libpq asks the server, not us, whom it has reached.
    let programs = scene.cluster.programs();
    for (config, wanted, in_recovery) in [
        (scene.proxy.config(), "read-write", "f"),
        (scene.proxy.config(), "primary", "f"),
        (scene.proxy.standby_config(), "read-only", "t"),
        (scene.proxy.standby_config(), "standby", "t"),
    ] {
        let conninfo = format!("{} target_session_attrs={wanted}", conninfo(&config));
        let said = psql(programs, &conninfo, &["-c", "SELECT pg_is_in_recovery()"]).await;
        assert_eq!(said.text(), in_recovery, "{wanted}");
    }
    let options =
        format!("{} options='-c default_transaction_read_only=on'", conninfo(&scene.proxy.config()));
    let said = psql(programs, &options, &["-c", "SELECT pg_is_in_recovery()"]).await;
    assert_eq!(said.text(), "t", "a session that declares itself read-only");
    scene.finish().await;
}

#[tokio::test]
async fn sigterm_ends_idle_sessions_and_lets_transactions_finish() {
    let scene = scene(0, |_| {}).await;
    let (mut idle, mut busy) = (scene.raw().await, scene.raw().await);
    busy.query("BEGIN").await;
    scene.proxy.signal(Signal::Term).unwrap();
    let frames = idle.end().await;
    assert_eq!(frames[0].sqlstate(), "57P01", "{frames:?}");
    assert_eq!(busy.value("SELECT 1").await, "1", "its transaction goes on");
    assert!(tokio::net::TcpStream::connect(scene.proxy.address()).await.is_err(), "nobody new comes in");
    busy.query("COMMIT").await;
    let frames = busy.end().await;
    assert_eq!(frames[0].sqlstate(), "57P01", "{frames:?}");
    assert!(scene.proxy.wait_exit().await.unwrap().success());
}

#[tokio::test]
async fn two_proxies_share_a_cluster() {
    let scene = scene(1, |_| {}).await;
    let second = crate::harness::proxy::ProxySpec::new(&scene.cluster).start().await;
    let (one, two) =
        (connect(&scene.proxy.config()).await.unwrap(), connect(&second.config()).await.unwrap());
    one.batch_execute("CREATE TABLE seen AS SELECT 7 AS a").await.unwrap();
    assert_eq!(two.value("SELECT a FROM seen").await.unwrap(), "7");
    drop((one, two));
    second.stop().await;
    scene.finish().await;
}
