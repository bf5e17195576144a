//! Transaction mode: many clients on few backends, and none can tell. The same steps run on connections of their own and
//! through the proxy; every answer must be equal.

mod holds;
mod identity;
mod play;
mod prepared;
mod settings;

use tokio_postgres::{Client, Config, SimpleQueryMessage};

use crate::harness::drivers::connect;
use crate::harness::scene::{Scene, scene};

/// Clients of each program.
const CLIENTS: usize = 3;

async fn shared(size: usize) -> Scene {
    scene(0, |spec| {
        spec.set("pool.mode", "transaction");
        spec.raw("pool.size", &size.to_string()).raw("pool.max_pinned", &size.to_string());
    })
    .await
}

/// What a client is told, in words.
async fn told(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(messages) => {
            let word = |message: &SimpleQueryMessage| match message {
                SimpleQueryMessage::Row(row) => {
                    let values = (0..row.len()).map(|at| row.get(at).unwrap_or("null").to_owned());
                    values.collect::<Vec<_>>().join(",")
                }
                SimpleQueryMessage::CommandComplete(count) => format!("done {count}"),
                _ => String::new(),
            };
            messages.iter().map(word).collect::<Vec<_>>().join(" | ")
        }
        Err(error) => format!("error {}", error.code().map_or("?", |code| code.code())),
    }
}

/// How a client logs in at the primary itself.
fn direct(scene: &Scene) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(scene.cluster.n(0).port()).user("app").password("app-secret").dbname("app");
    config
}

/// Runs the steps, each by one of the clients, on fresh ground.
async fn run(scene: &Scene, config: &Config, steps: &[(usize, &str)]) -> Vec<String> {
    let ground = connect(&direct(scene)).await.unwrap();
    ground
        .batch_execute(
            "DROP TABLE IF EXISTS t; DROP SEQUENCE IF EXISTS s; CREATE SEQUENCE s; CREATE TABLE t (id int);
             DROP TABLE IF EXISTS numbered; CREATE TABLE numbered (id serial);
             DROP SCHEMA IF EXISTS other CASCADE; CREATE SCHEMA other; CREATE TABLE other.t (name text);
             INSERT INTO t VALUES (1); INSERT INTO other.t VALUES ('x')",
        )
        .await
        .unwrap();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect(config).await.unwrap());
    }
    let mut all = Vec::new();
    for (who, sql) in steps {
        all.push(format!("{who}: {sql} -> {}", told(&clients[*who], sql).await));
    }
    all
}

/// The steps give the same answers through a pool of that size as on connections of their own.
async fn same(scene: &Scene, steps: &[(usize, &str)]) {
    let wanted = run(scene, &direct(scene), steps).await;
    let proxied = run(scene, &scene.proxy.config(), steps).await;
    for (proxied, wanted) in proxied.iter().zip(&wanted) {
        assert_eq!(proxied, wanted);
    }
}

#[tokio::test]
async fn settings_are_their_owners() {
    let scene = shared(1).await;
    same(
        &scene,
        &[
            (0, "set work_mem = '5MB'"),
            (1, "show work_mem"),
            (0, "show work_mem"),
            (1, "set search_path = other"),
            (0, "select * from t"),
            (1, "select * from t"),
            (2, "select set_config('my.own', 'two', false)"),
            (0, "select coalesce(current_setting('my.own', true), '')"),
            (2, "select current_setting('my.own', true)"),
            (0, "begin; set work_mem = '6MB'"),
            (0, "rollback"),
            (0, "show work_mem"),
            (1, "show work_mem"),
            (0, "begin; set local work_mem = '7MB'"),
            (0, "commit"),
            (0, "show work_mem"),
            (0, "set timezone = 'UTC'"),
            (1, "set timezone = 'Asia/Tokyo'"),
            (0, "show timezone"),
            (2, "show timezone"),
            (1, "show timezone"),
            (1, "reset all"),
            (1, "show search_path"),
            (0, "discard all"),
            (0, "show work_mem"),
            (2, "set session characteristics as transaction isolation level serializable"),
            (1, "show transaction_isolation"),
            (2, "show transaction_isolation"),
            (1, "set application_name = 'one'"),
            (0, "select current_setting('application_name') = 'one'"),
            (1, "show application_name"),
            (0, "set role pg_read_all_data"),
            (1, "select current_user"),
            (0, "select current_user"),
            (0, "reset role"),
            (0, "select current_user"),
        ],
    )
    .await;
    scene.finish().await;
}

#[tokio::test]
async fn what_a_backend_holds_keeps_it() {
    let scene = shared(2).await;
    same(
        &scene,
        &[
            (0, "create temp table mine (a int)"),
            (1, "select * from mine"),
            (0, "insert into mine values (1)"),
            (0, "select * from mine"),
            (0, "drop table mine"),
            (0, "select * from mine"),
            (1, "select pg_advisory_lock(1)"),
            (0, "select pg_try_advisory_lock(1)"),
            (1, "select pg_advisory_unlock(1)"),
            (0, "select pg_try_advisory_lock(1)"),
            (0, "select pg_advisory_unlock_all()"),
            (0, "prepare q as select 7"),
            (1, "execute q"),
            (0, "execute q"),
            (0, "deallocate q"),
            (0, "execute q"),
            (1, "begin; declare c cursor with hold for select 3"),
            (1, "commit"),
            (0, "fetch c"),
            (1, "fetch c"),
            (1, "close c"),
            (0, "select nextval('s')"),
            (1, "select lastval()"),
            (0, "select lastval()"),
            (2, "insert into numbered default values"),
            (1, "select lastval()"),
            (1, "begin; insert into numbered default values; select lastval(); commit"),
            (0, "select currval('s')"),
            (0, "discard sequences"),
            (2, "select 1"),
        ],
    )
    .await;
    scene.finish().await;
}

#[tokio::test]
async fn prepared_statements_are_shared_and_never_mixed_up() {
    let scene = shared(1).await;
    let config = scene.proxy.config();
    let (a, b) = (connect(&config).await.unwrap(), connect(&config).await.unwrap());
    for _ in 0..3 {
        let one = a.prepare("select $1::int + 1").await.unwrap();
        let two = b.prepare("select $1::text || 'b'").await.unwrap();
        assert_eq!(a.query_one(&one, &[&1i32]).await.unwrap().get::<_, i32>(0), 2);
        assert_eq!(b.query_one(&two, &[&"a"]).await.unwrap().get::<_, String>(0), "ab");
        // The same text, prepared by both.
        let same = b.prepare("select $1::int + 1").await.unwrap();
        assert_eq!(b.query_one(&same, &[&5i32]).await.unwrap().get::<_, i32>(0), 6);
        assert_eq!(a.query_one(&one, &[&2i32]).await.unwrap().get::<_, i32>(0), 3);
    }
    a.batch_execute("discard all").await.unwrap();
    let again = b.prepare("select $1::int + 1").await.unwrap();
    assert_eq!(b.query_one(&again, &[&7i32]).await.unwrap().get::<_, i32>(0), 8);
    scene.finish().await;
}

#[tokio::test]
async fn sessions_that_keep_a_backend_leave_some_for_others() {
    let scene = scene(0, |spec| {
        spec.set("pool.mode", "transaction").raw("pool.size", "2");
    })
    .await;
    let config = scene.proxy.config();
    let (a, b) = (connect(&config).await.unwrap(), connect(&config).await.unwrap());
    assert_eq!(told(&a, "listen x").await, "done 0");
    assert_eq!(told(&b, "listen x").await, "error 53300");
    assert_eq!(told(&b, "select 1").await, " | 1 | done 1");
    assert_eq!(told(&a, "unlisten *").await, "done 0");
    assert_eq!(told(&b, "listen x").await, "done 0");
    scene.finish().await;
}
