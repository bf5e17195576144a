//! Functions that change the session of their caller, in transaction mode: what the calling statement does not show stays
//! its owner's all the same.

use tokio_postgres::SimpleQueryMessage;

use crate::harness::drivers::{Driver, connect};
use crate::harness::eventually;
use crate::harness::raw::{bind, execute, parse, sync};
use crate::harness::scene::{Scene, scene};

const FUNCTIONS: &str = "
    CREATE FUNCTION enter(tenant text) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN PERFORM set_config('app.tenant', tenant, false); END $$;
    CREATE FUNCTION enter_by_way(tenant text) RETURNS void LANGUAGE sql AS $$ SELECT enter(tenant) $$;
    CREATE PROCEDURE tune() LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SET work_mem = ' || quote_literal('7MB'); END $$;
    CREATE FUNCTION lock_it(key bigint) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_lock(key); END $$;
    CREATE FUNCTION unlock_it(key bigint) RETURNS bool LANGUAGE sql AS $$ SELECT pg_advisory_unlock(key) $$;
    CREATE FUNCTION note(word text) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN CREATE TEMP TABLE IF NOT EXISTS notes (word text); INSERT INTO notes VALUES (word); END $$;
    CREATE TABLE watched (a int);
    CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM set_config('app.watched', NEW.a::text, false); RETURN NEW; END $$;
    CREATE TRIGGER watch BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION watch();
    CREATE VIEW entered AS SELECT enter('viewer')::text AS one;
    GRANT ALL ON watched, entered TO app";

async fn shared(size: usize) -> Scene {
    let scene = scene(0, |spec| {
        spec.set("pool.mode", "transaction");
        spec.raw("pool.size", &size.to_string()).raw("pool.max_pinned", &size.to_string());
    })
    .await;
    scene.cluster.n(0).sql_in("app").await.unwrap().run(FUNCTIONS).await.unwrap();
    scene
}

/// Why the session with this name keeps its backend.
async fn pins(scene: &Scene, name: &str) -> String {
    let console = connect(&scene.proxy.console_config()).await.unwrap();
    let messages = console.simple_query("SHOW CLIENTS").await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = rows.into_iter().find(|row| row.get("application") == Some(name)).unwrap();
    row.get("pins").unwrap().to_owned()
}

#[tokio::test]
async fn a_setting_made_by_a_function_is_its_callers() {
    let scene = shared(1).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(connect(&scene.proxy.config()).await.unwrap());
    }
    let [first, second, third] = &clients[..] else { unreachable!() };
    let tenant = "SELECT coalesce(nullif(current_setting('app.tenant', true), ''), 'nobody')";
    for (client, call) in [
        (first, "SELECT enter('one')"),
        (second, "SELECT enter_by_way('two')"),
        (first, "CALL tune()"),
        (second, "DO $$ BEGIN PERFORM set_config('lock_timeout', '7s', false); END $$"),
        (first, "INSERT INTO watched VALUES (42)"),
    ] {
        client.batch_execute(call).await.unwrap();
        assert_eq!(third.value(tenant).await.unwrap(), "nobody", "after {call}");
    }
    let told = async |client: &Driver| {
        let mut all = Vec::new();
        for sql in [
            tenant,
            "SHOW work_mem",
            "SHOW lock_timeout",
            "SELECT coalesce(nullif(current_setting('app.watched', true), ''), '-')",
        ] {
            all.push(client.value(sql).await.unwrap());
        }
        all
    };
    for _ in 0..2 {
        assert_eq!(told(first).await, ["one", "7MB", "0", "42"]);
        assert_eq!(told(second).await, ["two", "4MB", "7s", "-"]);
        assert_eq!(told(third).await, ["nobody", "4MB", "0", "-"]);
    }
    // A view is a call as well; what a transaction takes back is not kept; RESET ends it.
    third.value("SELECT one FROM entered").await.unwrap();
    first.batch_execute("BEGIN; SELECT enter('nobody else'); ROLLBACK").await.unwrap();
    second.batch_execute("RESET ALL").await.unwrap();
    let all = [told(first).await, told(second).await, told(third).await].map(|one| one[0].clone());
    assert_eq!(all, ["one", "nobody", "viewer"]);
    scene.finish().await;
}

#[tokio::test]
async fn what_a_function_leaves_on_a_backend_keeps_it() {
    let scene = shared(2).await;
    let mut config = scene.proxy.config();
    let first = connect(config.application_name("first")).await.unwrap();
    let second = connect(config.application_name("second")).await.unwrap();
    first.batch_execute("SELECT lock_it(1)").await.unwrap();
    assert_eq!(second.value("SELECT pg_try_advisory_lock(1)").await.unwrap(), "f");
    eventually("the lock to be seen", async || pins(&scene, "first").await == "advisory lock").await;
    assert_eq!(first.value("SELECT unlock_it(1)").await.unwrap(), "t");
    first.batch_execute("SELECT note('mine')").await.unwrap();
    assert_eq!(first.value("SELECT word FROM notes").await.unwrap(), "mine");
    assert_eq!(second.value("SELECT to_regclass('notes') IS NULL").await.unwrap(), "t");
    first.batch_execute("DROP TABLE notes").await.unwrap();
    // The server is asked behind the client's back.
    eventually("the pin to end", async || pins(&scene, "first").await.is_empty()).await;
    scene.finish().await;
}

#[tokio::test]
async fn functions_made_a_moment_ago_are_known() {
    let scene = shared(1).await;
    let first = connect(&scene.proxy.config()).await.unwrap();
    let second = connect(&scene.proxy.config()).await.unwrap();
    let tenant = "SELECT coalesce(nullif(current_setting('app.made', true), ''), 'nobody')";
    let owner = "CREATE SCHEMA mine AUTHORIZATION app";
    scene.cluster.n(0).sql_in("app").await.unwrap().run(owner).await.unwrap();
    let make = "CREATE FUNCTION mine.made(who text) RETURNS text LANGUAGE sql AS \
        $$ SELECT set_config('app.made', who, false) $$";
    first.batch_execute(make).await.unwrap();
    first.batch_execute("SELECT mine.made('me')").await.unwrap();
    assert_eq!(second.value(tenant).await.unwrap(), "nobody");
    assert_eq!(first.value(tenant).await.unwrap(), "me");
    // In the same transaction as its first call; by a driver's statement, prepared long before it runs.
    first
        .batch_execute(&format!(
            "BEGIN; {}; SELECT mine.again('you'); COMMIT",
            make.replace("made(", "again(")
        ))
        .await
        .unwrap();
    assert_eq!(second.value(tenant).await.unwrap(), "nobody");
    assert_eq!(first.value(tenant).await.unwrap(), "you");
    let mut raw = scene.raw().await;
    raw.send(&[parse("s", "SELECT mine.made('they')"), sync()].concat()).await;
    raw.until(b'Z').await;
    assert_eq!(second.value(tenant).await.unwrap(), "nobody");
    raw.send(&[bind("", "s", &[]), execute("", 0), sync()].concat()).await;
    raw.until(b'Z').await;
    assert_eq!(second.value(tenant).await.unwrap(), "nobody");
    assert_eq!(raw.value(tenant).await, "they");
    scene.finish().await;
}
