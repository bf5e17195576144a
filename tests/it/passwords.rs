//! Passwords and roles that change while clients are there.

use pgsteer::demo::node::Promote;

use crate::harness::drivers::{connect, sqlstate};
use crate::harness::raw::{Raw, terminate};
use crate::harness::scene::{Scene, scene};
use crate::harness::{LIMIT, eventually, shares_backends};

async fn run(scene: &Scene, sql: &str) {
    scene.cluster.n(0).sql().await.unwrap().run(sql).await.unwrap();
}

async fn raw(scene: &Scene, password: &str) -> Raw {
    Raw::login(&scene.proxy.address(), "changing", password, "app").await
}

#[tokio::test]
async fn a_new_password_counts_at_once_and_the_old_one_no_more() {
    let scene = scene(0, |_| {}).await;
    run(&scene, "CREATE ROLE changing LOGIN PASSWORD 'word 0'").await;
    let login = |number: u32| scene.proxy.login("changing", &format!("word {number}"), "app");
    for number in 0..8 {
        let driver = connect(&login(number)).await.unwrap();
        assert_eq!(driver.value("SELECT current_user").await.unwrap(), "changing");
        run(&scene, &format!("ALTER ROLE changing PASSWORD 'word {}'", number + 1)).await;
        // Either of them is the first to ask for what has changed.
        if number % 2 == 0 {
            assert_eq!(sqlstate(connect(&login(number)).await), "28P01");
        }
        drop(connect(&login(number + 1)).await.unwrap());
        assert_eq!(sqlstate(connect(&login(number)).await), "28P01");
        assert_eq!(driver.value("SELECT 1").await.unwrap(), "1", "who was in stays in");
    }
    run(&scene, "ALTER ROLE changing NOLOGIN").await;
    assert_eq!(sqlstate(connect(&login(8)).await), "28P01");
    run(&scene, "ALTER ROLE changing LOGIN").await;
    drop(connect(&login(8)).await.unwrap());
    scene.finish().await;
}

/// Kills the primary, promotes the standby, and opens there what the sessions need beyond the warm backends.
async fn fail_over(scene: &Scene) {
    scene.cluster.n(0).kill().unwrap();
    scene.cluster.n(1).promote_and_wait(Promote::PgCtl).await.unwrap();
    scene.wait_node(1, "role", "primary").await;
}

#[tokio::test]
async fn sessions_from_before_the_change_outlive_a_failover() {
    let scene = scene(1, |spec| {
        spec.raw("pool.warm", "0");
    })
    .await;
    run(&scene, "CREATE ROLE changing LOGIN PASSWORD 'first'").await;
    let mut old = Vec::new();
    for _ in 0..3 {
        old.push(raw(&scene, "first").await);
    }
    run(&scene, "ALTER ROLE changing PASSWORD 'second'").await;
    // Its login opens a backend, since the others are taken.
    let mut new = raw(&scene, "second").await;
    caught_up(&scene).await;
    fail_over(&scene).await;
    for session in &mut old {
        assert_eq!(session.value("SELECT current_user").await, "changing");
    }
    assert_eq!(new.value("SELECT current_user").await, "changing");
    drop((old, new));
    scene.finish().await;
}

#[tokio::test]
async fn a_session_that_no_secret_opens_a_backend_for_is_told_so() {
    let scene = scene(1, |spec| {
        spec.raw("pool.warm", "0");
    })
    .await;
    run(&scene, "CREATE ROLE changing LOGIN PASSWORD 'first'").await;
    let mut old = raw(&scene, "first").await;
    run(&scene, "ALTER ROLE changing PASSWORD 'second'").await;
    caught_up(&scene).await;
    fail_over(&scene).await;
    for _ in 0..2 {
        let frames = old.query("SELECT 1").await;
        assert_eq!(frames[0].sqlstate(), "28P01", "{frames:?}");
        assert!(frames[0].field(b'H').unwrap().contains("connect again"), "{frames:?}");
        assert_eq!(frames.last().unwrap().tag, b'Z', "the connection stays");
    }
    let mut new = raw(&scene, "second").await;
    assert_eq!(new.value("SELECT 1").await, "1");
    assert_eq!(old.value("SELECT 1").await, "1", "now there is a way in");
    drop((old, new));
    scene.finish().await;
}

#[tokio::test]
async fn the_last_secret_counts_while_nobody_can_be_asked() {
    let scene = scene(0, |spec| {
        spec.set("cluster.hold_timeout", "60s");
    })
    .await;
    drop(scene.raw().await);
    scene.cluster.n(0).kill().unwrap();
    scene.wait_node(0, "health", "down").await;
    // Answered from memory: its first statement would wait for a primary.
    drop(scene.raw().await);
    let wrong = connect(&scene.proxy.login("app", "wrong", "app")).await;
    assert_eq!(sqlstate(wrong), "28P01");
    assert!(scene.proxy.metric("pgsteer_auth_lookups_total").await >= 3.0);
    scene.finish().await;
}

/// The standby has replayed the change of the password.
async fn caught_up(scene: &Scene) {
    let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = 'changing'";
    let wanted = scene.cluster.n(0).one(sql).await.unwrap();
    scene.cluster.n(1).wait_for(sql, &wanted, LIMIT).await.unwrap();
}

/// What a session of that name is to the server.
const WHO: &str = "SELECT session_user || ' ' || (current_user::regrole::oid = session_user::regrole::oid) || ' ' || \
     (SELECT usesysid = 'changing'::regrole::oid FROM pg_stat_activity WHERE pid = pg_backend_pid())";

/// A session in a transaction, so that it has a backend in either mode of pooling, and that backend's process id.
async fn holding(scene: &Scene) -> (Raw, i32) {
    let mut session = raw(scene, "word").await;
    session.query("BEGIN").await;
    assert_eq!(session.value(WHO).await, "changing true true");
    let pid = session.backend_pid().await;
    (session, pid)
}

async fn leave(mut session: Raw) {
    session.query("COMMIT").await;
    session.send(&terminate()).await;
    session.end().await;
}

#[tokio::test]
async fn a_pooled_backend_does_not_outlive_its_role() {
    let scene = scene(0, |spec| {
        spec.tables("[[auth.rule]]\nuser = \"changing\"\nmethod = \"trust\"\n[[auth.rule]]\nmethod = \"scram-sha-256\"")
            .tables("[[auth.user]]\nname = \"changing\"\npassword = \"word\"");
    })
    .await;
    let changes = [
        "ALTER ROLE changing RENAME TO former; CREATE ROLE changing LOGIN PASSWORD 'word'",
        "DROP ROLE changing; CREATE ROLE changing LOGIN PASSWORD 'word'",
    ];
    run(&scene, "CREATE ROLE changing LOGIN PASSWORD 'word'").await;
    for change in changes {
        // Two wait in the pool: the first to be taken tells of both.
        let both = [holding(&scene).await, holding(&scene).await];
        let pids = both.each_ref().map(|(_, pid)| *pid);
        for (session, _) in both {
            leave(session).await;
        }
        let last_words = if shares_backends() { "COMMIT" } else { "DISCARD ALL" };
        let idle = format!(
            "SELECT count(*)::text FROM pg_stat_activity WHERE usename = 'changing' AND state = 'idle' \
             AND query = '{last_words}'"
        );
        scene.primary_says(&idle, "2").await;
        // Nothing has changed yet: they are taken again.
        let (again, pid) = holding(&scene).await;
        assert!(pids.contains(&pid), "an unchanged role keeps its backends");
        leave(again).await;
        scene.primary_says(&idle, "2").await;
        run(&scene, change).await;
        let after = [holding(&scene).await, holding(&scene).await];
        for (session, pid) in after {
            assert!(!pids.contains(&pid));
            leave(session).await;
        }
        eventually("the backends of the former role to be closed", async || {
            scene
                .cluster
                .n(0)
                .one(
                    "SELECT count(*)::text FROM pg_stat_activity WHERE datname = 'app' \
                 AND usename IS DISTINCT FROM 'changing' AND usename IS DISTINCT FROM 'pgsteer' \
                 AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
                )
                .await
                .unwrap()
                == "0"
        })
        .await;
    }
    scene.finish().await;
}
