//! Where a statement would go: EXPLAIN ROUTE in the console and `pgsteer route` on the command line.

use std::collections::BTreeMap;

use pgsteer::cli::route;
use tokio_postgres::SimpleQueryMessage;

use crate::harness::drivers::{Driver, connect};
use crate::harness::eventually;
use crate::harness::scene::{Scene, scene};

const OBJECTS: &str = "
    CREATE TABLE t (a int);
    CREATE FUNCTION reads() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION writes() RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1'";

async fn with_objects() -> Scene {
    let scene = scene(1, |spec| {
        spec.raw("route.write_functions", "[\"lower\"]");
    })
    .await;
    scene.cluster.n(0).sql_in("app").await.unwrap().run(OBJECTS).await.unwrap();
    scene
}

/// The answer, by its items.
async fn explain(console: &Driver, rest: &str) -> BTreeMap<String, String> {
    let messages = console.simple_query(&format!("EXPLAIN ROUTE {rest}")).await.unwrap();
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((row.get(0).unwrap().to_owned(), row.get(1).unwrap().to_owned()))
        }
        _ => None,
    });
    rows.collect()
}

/// The same from the command line.
async fn on_command_line(scene: &Scene, database: &str, sql: &str) -> BTreeMap<String, String> {
    let mut out = Vec::new();
    route::run(Some(scene.proxy.config_file()), Some(database), sql, &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    let pair =
        |line: &str| line.split_once("  ").map(|(item, value)| (item.to_owned(), value.trim().to_owned()));
    text.lines().filter_map(pair).collect()
}

#[tokio::test]
async fn the_console_explains_by_the_catalogue_of_the_database() {
    let scene = with_objects().await;
    let console = connect(&scene.proxy.console_config()).await.unwrap();
    for (sql, reason) in [
        ("SELECT a, reads() FROM t", "not_split"),
        ("SELECT writes()", "volatile_function"),
        ("SELECT lower('X')", "declared_write"),
        ("SELECT * FROM no_such_table", "unknown_relation"),
        ("BEGIN READ WRITE", "read_write_transaction"),
        ("/* pgsteer: primary */ SELECT 1", "hint"),
    ] {
        let lines = explain(&console, &format!("(DATABASE app) {sql}")).await;
        assert_eq!((&*lines["verdict"], &*lines["reason"]), ("primary", reason), "{sql}: {lines:?}");
        assert_eq!(lines["target"], "node1", "{sql}");
    }
    for (sql, reason) in [("BEGIN READ ONLY", "declared"), ("/* pgsteer: standby */ SELECT writes()", "hint")]
    {
        let lines = explain(&console, &format!("(DATABASE app) {sql}")).await;
        assert_eq!((&*lines["verdict"], &*lines["reason"]), ("standby", reason), "{sql}: {lines:?}");
        assert!(lines["target"].starts_with("node2"), "{sql}: {lines:?}");
        assert!(lines["node node2"].contains("100 % of the reads: lag "), "{lines:?}");
    }
    // What is made later is found: nobody waits for the next minute.
    let sql = "CREATE FUNCTION later() RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1'";
    scene.cluster.n(0).sql_in("app").await.unwrap().run(sql).await.unwrap();
    eventually("the function to be known", async || {
        explain(&console, "(DATABASE app) SELECT later()").await["reason"] == "volatile_function"
    })
    .await;
    // The database of the sessions is the default, else that of the monitoring role.
    assert!(explain(&console, "SELECT 1").await["database"].starts_with("postgres"));
    let _session = connect(&scene.proxy.config()).await.unwrap();
    assert_eq!(explain(&console, "SELECT writes()").await["database"], "app");
    // The extended protocol knows the columns before it is run.
    let prepared = console.prepare("EXPLAIN ROUTE SELECT 1").await.unwrap();
    assert_eq!(prepared.columns().len(), 2);
    scene.finish().await;
}

#[tokio::test]
async fn the_command_line_explains_with_and_without_a_proxy() {
    let scene = with_objects().await;
    let reads = on_command_line(&scene, "app", "START TRANSACTION READ ONLY").await;
    assert_eq!((&*reads["verdict"], &*reads["reason"]), ("standby", "declared"), "{reads:?}");
    assert!(reads["target"].starts_with("node2"), "{reads:?}");
    let writes = on_command_line(&scene, "app", "SELECT writes() FROM t").await;
    assert_eq!(writes["because"], "writes is a volatile function");
    assert_eq!(writes["target"], "node1");
    // The harness's own way to stop takes the configuration along.
    let proxy: &pgsteer::demo::proxy::Proxy = &scene.proxy;
    assert!(proxy.stop().await.unwrap().success());
    let alone = on_command_line(&scene, "app", "SELECT writes() FROM t").await;
    assert_eq!(alone["because"], "writes is a volatile function");
    assert!(alone["target"].contains("is pgsteer running"), "{alone:?}");
    // Neither database nor server: what the statement itself says still counts.
    let gone = on_command_line(&scene, "gone", "SELECT nextval('s')").await;
    assert_eq!(gone["reason"], "acting_function");
    assert!(gone["database"].contains("there is no database \"gone\""), "{gone:?}");
}

#[tokio::test]
async fn a_role_that_may_not_connect_is_told_once_with_what_to_grant() {
    let scene = scene(0, |spec| {
        spec.set("pool.mode", "transaction");
    })
    .await;
    let mut superuser = scene.cluster.n(0).sql().await.unwrap();
    superuser
        .run("REVOKE CONNECT ON DATABASE app FROM PUBLIC; GRANT CONNECT ON DATABASE app TO app")
        .await
        .unwrap();
    let console = connect(&scene.proxy.console_config()).await.unwrap();
    for _ in 0..3 {
        let client = connect(&scene.proxy.config()).await.unwrap();
        assert_eq!(client.value("SELECT 1").await.unwrap(), "1");
        let lines = explain(&console, "(DATABASE app) SELECT a FROM t").await;
        assert_eq!(lines["reason"], "unknown_relation");
        assert!(lines["database"].contains("GRANT CONNECT ON DATABASE app TO pgsteer"), "{lines:?}");
    }
    let grant = "GRANT CONNECT ON DATABASE app TO pgsteer;";
    scene.proxy.logged(grant).await;
    assert_eq!(scene.proxy.log_text().matches(grant).count(), 1);
    superuser.run(grant).await.unwrap();
    eventually("the catalogue to be read", async || {
        explain(&console, "(DATABASE app) SELECT 1").await["database"] == "app"
    })
    .await;
    scene.proxy.logged("can be read again").await;
    scene.finish().await;
}
